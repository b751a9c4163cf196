/* SPDX-License-Identifier: MIT */
#include "procfs.h"
#include "sys.h"

#include <fcntl.h>
#include <string.h>

int tdi_procfs_read(const char *path, char *text, size_t size)
{
	int fd = tdi_sys_open(path, O_RDONLY | O_CLOEXEC);
	size_t length = 0;
	ssize_t got = 0;

	if (fd < 0)
		return fd;
	while (length < size - 1) {
		got = tdi_sys_read(fd, text + length, size - 1 - length);
		if (got == -EINTR)
			continue;
		if (got <= 0)
			break;
		length += (size_t)got;
	}
	text[length] = '\0';
	(void)tdi_sys_close(fd);
	return got < 0 ? (int)got : 0;
}

bool tdi_procfs_text(const char *path, char *text, size_t size)
{
	return tdi_procfs_read(path, text, size) == 0 && text[0] != '\0';
}

/* The number at the start of text, after blanks. False: there is none. */
static bool parse(const char *text, unsigned base, uint64_t *ret)
{
	uint64_t value = 0;
	const char *at = text + strspn(text, " \t"), *first = at;

	for (;; at++) {
		unsigned digit = (unsigned)(*at - '0');

		if (base == 16 && *at >= 'a' && *at <= 'f')
			digit = (unsigned)(*at - 'a') + 10;
		if (digit >= base || (digit > 9 && base == 10))
			break;
		value = value * base + digit;
	}
	*ret = value;
	return at > first;
}

bool tdi_procfs_find(const char *text, const char *name, unsigned base, uint64_t *ret)
{
	size_t length = strlen(name);
	const char *line = text;

	while (line && strncmp(line, name, length) != 0) {
		line = strchr(line, '\n');
		line = line ? line + 1 : NULL;
	}
	return line && parse(line + length, base, ret);
}

bool tdi_procfs_number(const char *path, uint64_t *ret)
{
	char text[32];

	return tdi_procfs_text(path, text, sizeof(text)) && parse(text, 10, ret);
}

size_t tdi_procfs_huge_page(void)
{
	char text[4096];
	uint64_t kib;

	if (!tdi_procfs_text("/proc/meminfo", text, sizeof(text)) ||
	    !tdi_procfs_find(text, "Hugepagesize:", 10, &kib))
		return 0;
	return (size_t)kib * 1024;
}
