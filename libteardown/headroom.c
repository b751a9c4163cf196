/* SPDX-License-Identifier: MIT */
#include "headroom.h"
#include "procfs.h"
#include "sys.h"

#include <linux/capability.h>
#include <string.h>
#include <sys/resource.h>

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
	return tdi_procfs_number("/proc/thread-self/statm", &pages) &&
	       has_room(limit, pages * tdi_page_size(), holding->address_space);
}

/* Private memory that may be written to counts, from Linux 4.7 on. */
static bool data_is_far(const struct tdi_holding *holding)
{
	uint64_t limit, used_kib;
	char text[4096];

	if (tdi_sys_getrlimit(RLIMIT_DATA, &limit))
		return false;
	if (limit == UINT64_MAX)
		return true;
	return tdi_procfs_text("/proc/thread-self/status", text, sizeof(text)) &&
	       tdi_procfs_find(text, "VmData:", 10, &used_kib) &&
	       has_room(limit, used_kib * 1024, holding->memory);
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
	if (!tdi_procfs_text("/proc/thread-self/status", text, sizeof(text)) ||
	    !tdi_procfs_find(text, "VmLck:", 10, &locked_kib) ||
	    !tdi_procfs_find(text, "CapEff:", 16, &capabilities))
		return false;
	if (capabilities & (UINT64_C(1) << CAP_IPC_LOCK))
		return true;
	return has_room(limit, locked_kib * 1024, holding->memory);
}

static bool commit_charge_is_far(const struct tdi_holding *holding)
{
	uint64_t mode, limit_kib, used_kib;
	char text[4096];

	if (!tdi_procfs_number("/proc/sys/vm/overcommit_memory", &mode))
		return false;
	if (mode != 2)
		return true;
	return tdi_procfs_text("/proc/meminfo", text, sizeof(text)) &&
	       tdi_procfs_find(text, "CommitLimit:", 10, &limit_kib) &&
	       tdi_procfs_find(text, "Committed_AS:", 10, &used_kib) &&
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
	return tdi_procfs_number(path, ret);
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
	return address_space_is_far(holding) && data_is_far(holding) &&
	       locked_memory_is_far(holding) && commit_charge_is_far(holding) &&
	       huge_pages_are_far(holding);
}
