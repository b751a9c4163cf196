/* SPDX-License-Identifier: MIT */
#include "base.h"
#include "sys.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

size_t tdi_page_size(void)
{
	return (size_t)sysconf(_SC_PAGESIZE);
}

/* A page-table page holds one 8-byte entry for each page or table that it maps. */
size_t tdi_pmd_size(void)
{
	return tdi_page_size() * (tdi_page_size() / 8);
}

size_t tdi_pud_size(void)
{
	return tdi_pmd_size() * (tdi_page_size() / 8);
}

int tdi_opts_take(void *ours, size_t ours_size, const void *given)
{
	const unsigned char *bytes = given;
	size_t given_size;

	if (!given)
		return 0;
	memcpy(&given_size, given, sizeof(given_size));
	if (given_size < sizeof(size_t))
		return -EINVAL;
	for (size_t i = ours_size; i < given_size; i++) {
		if (bytes[i] != 0)
			return -E2BIG;
	}
	memcpy(ours, given, tdi_min_size(ours_size, given_size));
	return 0;
}

static void say(const char *format, va_list args)
{
	static const char prefix[] = "libteardown: ";
	char line[256];
	size_t start = sizeof(prefix) - 1, length;

	memcpy(line, prefix, start);
	vsnprintf(line + start, sizeof(line) - start - 1, format, args);
	length = strlen(line);
	line[length++] = '\n';
	/* Nowhere left to report that stderr is closed. */
	(void)tdi_sys_write(STDERR_FILENO, line, length);
}

void tdi_warn(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	say(format, args);
	va_end(args);
}

void tdi_die(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	say(format, args);
	va_end(args);
	abort();
}
