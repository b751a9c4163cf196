/* SPDX-License-Identifier: MIT */
#include "headroom.h"
#include "sys.h"

#include <fcntl.h>
#include <linux/capability.h>
#include <string.h>
#include <sys/resource.h>

/* Reads the beginning of a file as a string. False: it cannot be read. */
static bool read_text(const char *path, char *text, size_t size)
{
	int fd = tdi_sys_open(path, O_RDONLY | O_CLOEXEC);
	size_t length = 0;
	ssize_t got = 0;

	if (fd < 0)
		return false;
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
	return got >= 0 && length > 0;
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

/* The number after a name such as "VmLck:", at the start of a line. */
static bool find(const char *text, const char *name, unsigned base, uint64_t *ret)
{
	size_t length = strlen(name);
	const char *line = text;

	while (line && strncmp(line, name, length) != 0) {
		line = strchr(line, '\n');
		line = line ? line + 1 : NULL;
	}
	return line && parse(line + length, base, ret);
}

static bool read_number(const char *path, uint64_t *ret)
{
	char text[32];

	return read_text(path, text, sizeof(text)) && parse(text, 10, ret);
}

static bool has_room(uint64_t limit, uint64_t used, uint64_t held)
{
	return used <= limit && (limit - used) / 2 >= held;
}

static bool address_space_is_far(const struct tdi_holding *holding)
{
	uint64_t limit, pages;

	if (tdi_sys_getrlimit(RLIMIT_AS, &limit))
		return false;
	if (limit == UINT64_MAX)
		return true;
	return read_number("/proc/thread-self/statm", &pages) &&
	       has_room(limit, pages * tdi_page_size(), holding->address_space);
}

static bool locked_memory_is_far(const struct tdi_holding *holding)
{
	uint64_t limit, locked_kib, capabilities;
	char text[4096];

	if (!holding->locked)
		return true;
	if (tdi_sys_getrlimit(RLIMIT_MEMLOCK, &limit))
		return false;
	if (limit == UINT64_MAX)
		return true;
	if (!read_text("/proc/thread-self/status", text, sizeof(text)) ||
	    !find(text, "VmLck:", 10, &locked_kib) ||
	    !find(text, "CapEff:", 16, &capabilities))
		return false;
	if (capabilities & (UINT64_C(1) << CAP_IPC_LOCK))
		return true;
	return has_room(limit, locked_kib * 1024, holding->memory);
}

static bool commit_charge_is_far(const struct tdi_holding *holding)
{
	uint64_t mode, limit_kib, used_kib;
	char text[4096];

	if (!read_number("/proc/sys/vm/overcommit_memory", &mode))
		return false;
	if (mode != 2)
		return true;
	return read_text("/proc/meminfo", text, sizeof(text)) &&
	       find(text, "CommitLimit:", 10, &limit_kib) &&
	       find(text, "Committed_AS:", 10, &used_kib) &&
	       has_room(limit_kib * 1024, used_kib * 1024, holding->memory);
}

/* "/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages" and its like */
static bool read_pool(size_t huge_page, const char *what, uint64_t *ret)
{
	char path[96] = "/sys/kernel/mm/hugepages/hugepages-", digits[24];
	size_t kib = huge_page / 1024, at = sizeof(digits);

	digits[--at] = '\0';
	do {
		digits[--at] = (char)('0' + kib % 10);
		kib /= 10;
	} while (kib > 0);
	strcat(path, digits + at);
	strcat(path, "kB/");
	strcat(path, what);
	return read_number(path, ret);
}

static bool huge_pages_are_far(const struct tdi_holding *holding)
{
	uint64_t free, promised;

	if (holding->huge_page == 0)
		return true;
	return read_pool(holding->huge_page, "free_hugepages", &free) &&
	       read_pool(holding->huge_page, "resv_hugepages", &promised) &&
	       has_room(free, promised, holding->memory / holding->huge_page);
}

bool tdi_limits_are_far(const struct tdi_holding *holding)
{
	return address_space_is_far(holding) && locked_memory_is_far(holding) &&
	       commit_charge_is_far(holding) && huge_pages_are_far(holding);
}
