/* SPDX-License-Identifier: MIT */
#include "process_probe.h"
#include "procfs.h"

/* What was answered, and with how many filters: (filters + 1) << 8 | TDI_PROBE_*. One
 * word, so that the two belong together. 0: not asked yet. */
static _Atomic(uint64_t) known;

#define FILTERS_UNKNOWN UINT32_MAX

/* Of the calling thread: each may have its own. */
static uint64_t count_filters(void)
{
	char text[4096];
	uint64_t mode, filters;

	if (!tdi_procfs_text("/proc/thread-self/status", text, sizeof(text)) ||
	    !tdi_procfs_find(text, "Seccomp:", 10, &mode))
		return FILTERS_UNKNOWN;
	if (mode == 0)
		return 0;
	if (!tdi_procfs_find(text, "Seccomp_filters:", 10, &filters))
		return FILTERS_UNKNOWN; /* before 5.9 */
	return filters;
}

int tdi_process_probe(void)
{
	uint64_t filters = count_filters();
	/* Relaxed: the word says it all. */
	uint64_t word = atomic_load_explicit(&known, memory_order_relaxed);
	int there;

	if (word >> 8 == filters + 1)
		return (int)(word & TDI_PROBE_ALL);
	there = tdi_sys_probe(TDI_PROBE_ALL, filters > 0);
	if (there >= 0)
		atomic_store_explicit(&known, (filters + 1) << 8 | (unsigned)there,
				      memory_order_relaxed);
	return there;
}
