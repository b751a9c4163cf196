/* SPDX-License-Identifier: MIT */
/* The zone as a whole: its reservation, its lock, its end, and what a fork makes of it.
 */
#include "preload_ranges.h"

#include <errno.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/resource.h>

#ifndef MAP_FIXED_NOREPLACE
#define MAP_FIXED_NOREPLACE 0x100000
#endif

uintptr_t tdr_zone_start;
size_t tdr_zone_size;
_Atomic(bool) tdr_zone_is_shed;

static pthread_mutex_t zone_lock = PTHREAD_MUTEX_INITIALIZER;
/* Who forks has the lock, and other handlers of his may come here. */
static _Atomic(bool) is_forking;
static pthread_t forker;

bool tdr_zone_lock(void)
{
	if (atomic_load_explicit(&is_forking, memory_order_acquire) &&
	    pthread_equal(forker, pthread_self()))
		return false;
	pthread_mutex_lock(&zone_lock);
	return true;
}

void tdr_zone_unlock(bool locked)
{
	if (locked)
		pthread_mutex_unlock(&zone_lock);
}

/* ---- beginning and end ---- */

void tdr_zone_reserve(void)
{
	static char pool[TDR_POOL] __attribute__((aligned(4096)));
	struct rlimit limit;
	void *start = NULL;
	size_t size = (size_t)16 << 40;

	if (tdr_zone_size)
		return;
	/* It would be counted there. */
	if (getrlimit(RLIMIT_AS, &limit) || limit.rlim_cur != RLIM_INFINITY)
		size = 0;
	for (; size >= (size_t)64 << 30 && !start; size /= 4) {
		start = tdr_sys_mmap_none(NULL, size + TDR_GRANULE, 0);
		if (start)
			break;
	}
	if (start) {
		/* Aligned; the pieces before and behind go back. */
		uintptr_t at = tdr_round_up((uintptr_t)start, TDR_GRANULE);

		if (at > (uintptr_t)start)
			(void)tdr_sys_munmap(start, at - (uintptr_t)start);
		if ((uintptr_t)start + TDR_GRANULE > at)
			(void)tdr_sys_munmap((void *)(at + size),
					     (uintptr_t)start + TDR_GRANULE - at);
		if (!tdr_sys_mprotect((void *)at, TDR_POOL, PROT_READ | PROT_WRITE)) {
			tdr_not_dumped(at + TDR_POOL, size - TDR_POOL);
			tdr_zone_start = at;
			tdr_zone_size = size;
			return;
		}
		(void)tdr_sys_munmap((void *)at, size);
	}
	tdr_zone_start = (uintptr_t)pool;
	tdr_zone_size = TDR_POOL;
}

void tdr_zone_give_up(void)
{
	size_t size = tdr_zone_size;

	if (size > TDR_POOL)
		tdr_zone_size = TDR_POOL;
	if (size > TDR_POOL)
		(void)tdr_sys_munmap((void *)(tdr_zone_start + TDR_POOL),
				     size - TDR_POOL);
}

/* The room behind it becomes a range of its own. */
static void give_up_room(uint32_t i)
{
	struct tdr_range *range = &tdr_ranges[i];
	uint32_t rest = TDR_NONE;

	if (range->end - range->start > range->claimed)
		rest = tdr_range_entry_get();
	if (rest == TDR_NONE)
		return;
	tdr_range_place(rest, range->start + range->claimed, range->end);
	tdr_range_place(i, range->start, range->start + range->claimed);
	tdr_range_end(rest);
}

void tdr_zone_shed(void)
{
	bool locked = tdr_zone_lock();

	if (!tdr_ranges) {
		tdr_zone_give_up();
		tdr_zone_unlock(locked);
		return;
	}
	/* First: from here on free() takes nobody's mapping for ours. */
	atomic_store(&tdr_zone_is_shed, true);
	for (uint32_t i = 1, used = tdr_ranges_used; i < used; i++) {
		if (tdr_ranges[i].start == 0)
			continue;
		if (tdr_ranges[i].state == RANGE_USED) {
			give_up_room(i);
		} else if (tdr_ranges[i].state == RANGE_FREE) {
			tdr_range_list_remove(i);
			tdr_range_end(i);
		}
	}
	tdr_zone_unlock(locked);
}

bool tdr_zone_gave(const void *pointer)
{
	bool gave, locked;

	if (!atomic_load(&tdr_zone_is_shed))
		return true;
	locked = tdr_zone_lock();
	gave = tdr_range_is_used(pointer);
	tdr_zone_unlock(locked);
	return gave;
}

/* ---- fork ---- */

void tdr_zone_before_fork(void)
{
	pthread_mutex_lock(&zone_lock);
	forker = pthread_self();
	atomic_store_explicit(&is_forking, true, memory_order_release);
}

/* Where a mapping is missing, an inaccessible one. */
static void fill(uintptr_t start, size_t length)
{
	size_t half = tdr_round_up(length / 2, tdr_page_size());
	void *made;

	if (length == 0 || tdr_sys_is_mapped((void *)start, length))
		return;
	made = tdr_sys_mmap_none((void *)start, length, MAP_FIXED_NOREPLACE);
	if (made == (void *)start) {
		tdr_not_dumped(start, length);
		return;
	}
	if (made) /* a kernel that does not know the flag */
		(void)tdr_sys_munmap(made, length);
	if (length <= tdr_page_size())
		return;
	fill(start, half);
	fill(start + half, length - half);
}

/* A child has a hole where the program has said MADV_DONTFORK: N1. */
static void fill_all(void)
{
	if (!tdr_ranges ||
	    (!atomic_load_explicit(&tdr_zone_is_shed, memory_order_relaxed) &&
	     tdr_sys_is_mapped((void *)tdr_zone_start, tdr_zone_size)))
		return;
	for (uint32_t i = 1; i < tdr_ranges_used; i++)
		if (tdr_ranges[i].start && (tdr_ranges[i].state == RANGE_USED ||
					    tdr_ranges[i].state == RANGE_LOST)) {
			fill(tdr_ranges[i].start, tdr_ranges[i].length);
			fill(tdr_ranges[i].start,
			     tdr_ranges[i].end - tdr_ranges[i].start);
		}
}

void tdr_zone_after_fork(bool in_child)
{
	int error = errno;

	if (in_child)
		fill_all();
	/* What is dying is the parent's to release; the child has its place, empty. */
	for (uint32_t i = 1; in_child && i < tdr_ranges_used; i++) {
		if (tdr_ranges[i].start == 0 || tdr_ranges[i].state != RANGE_DYING)
			continue;
		if (tdr_cover(tdr_ranges[i].start, tdr_ranges[i].length))
			tdr_ranges[i].state = RANGE_LOST;
		else
			tdr_range_end(i);
	}
	errno = error;
	atomic_store_explicit(&is_forking, false, memory_order_relaxed);
	if (in_child)
		zone_lock = (pthread_mutex_t)PTHREAD_MUTEX_INITIALIZER;
	else
		pthread_mutex_unlock(&zone_lock);
}
