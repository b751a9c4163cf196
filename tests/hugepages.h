/* SPDX-License-Identifier: MIT */
/* The kernel's pool of huge pages, which belongs to the whole machine. */
#ifndef TDT_HUGEPAGES_H
#define TDT_HUGEPAGES_H

#include "harness.h"
#include "procfs.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/file.h>

static inline long read_long(const char *path)
{
	FILE *file = fopen(path, "re");
	long value = -1;

	if (file && fscanf(file, "%ld", &value) != 1)
		value = -1;
	if (file)
		fclose(file);
	return value;
}

#define POOL "/proc/sys/vm/nr_hugepages"
#define HUGE_PAGE (2 * MIB)

static inline bool pool_set(long pages)
{
	FILE *file = fopen(POOL, "we");
	bool done = file && fprintf(file, "%ld\n", pages) > 0;

	if (file)
		done = fclose(file) == 0 && done;
	return done;
}

/*
 * Grows the pool by so many pages, or shrinks it again. For main(): a test that fails
 * does not come back to undo it. Other tests that want huge pages wait until this program
 * has ended. False: no.
 */
static inline bool pool_add(long pages)
{
	static int lock = -1;
	long before;

	if (tdi_procfs_huge_page() != HUGE_PAGE)
		return false;
	if (lock < 0)
		lock = open(POOL, O_RDONLY | O_CLOEXEC);
	if (lock < 0 || flock(lock, LOCK_EX) != 0)
		return false;
	before = read_long(POOL);
	if (before < 0 || !pool_set(before + pages))
		return false;
	if (pages < 0 || read_long(POOL) >= before + pages)
		return true;
	(void)pool_set(before); /* not as many as asked for */
	return false;
}

#endif
