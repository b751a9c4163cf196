/* SPDX-License-Identifier: MIT */
/*
 * Floor 1: how much memory this process may have: the least of physical memory and what
 * its memory cgroups, and those above them, allow. Nothing here allocates.
 */
#ifndef TDI_MEMLIMIT_H
#define TDI_MEMLIMIT_H

#include "base.h"

/* The kernel's, or a test's. */
struct tdi_memlimit_files {
	const char *meminfo, *cgroup, *mountinfo;
};

/* What cannot be read does not limit. UINT64_MAX: nothing does. */
uint64_t tdi_memlimit_of(const struct tdi_memlimit_files *files);
uint64_t tdi_memlimit(void);

#endif
