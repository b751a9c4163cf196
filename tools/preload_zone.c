/* SPDX-License-Identifier: MIT */
/*
 * The zone: address space that is reserved once and out of which very large allocations
 * are made.
 *
 *   N1  It never has a hole. The kernel would put somebody else's mapping there, and
 *       free() would take that for ours. So memory is given back in place, and the range
 *       is made inaccessible over what was there, in one step, never unmapped. Until the
 *       zone is shed: then it has holes, no more is made in it, and free() asks the
 *       table.
 *   N2  Ranges lie side by side and cover the zone: free, in use, or dying. A free one is
 *       inaccessible, holds no page, and has no free neighbour.
 *   N3  A range that is in use or dying is touched by nobody but its owner: system calls
 *       on it need no lock. The lock is for the table alone.
 *   N4  What cannot be made inaccessible again is lost to the zone, and nothing more.
 */
#include "preload_ranges.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#ifndef MADV_WIPEONFORK
#define MADV_WIPEONFORK 18
#endif

/* So many times what was asked for is set apart while there is plenty: then realloc()
 * finds room behind a block, and seldom moves it. */
#define ROOM 16u

/* ---- giving memory back ---- */

static uint64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

void tdr_not_dumped(uintptr_t start, size_t length)
{
	(void)tdr_sys_madvise((void *)start, length, MADV_DONTDUMP);
}

int tdr_cover(uintptr_t start, size_t length)
{
	if (length == 0)
		return 0;
	if (!tdr_sys_mmap_none((void *)start, length, MAP_FIXED))
		return -ENOMEM;
	tdr_not_dumped(start, length);
	return 0;
}

#define STEP_MIN ((size_t)2 << 20)
#define STEP_MAX ((size_t)256 << 20)
#define COVER_STEP ((size_t)4 << 30) /* of empty page tables */

/* One step of at most so many nanoseconds, about. */
static int step(struct tdr_range *range, uint64_t target_ns, uint64_t *ret_released)
{
	uint64_t began = now_ns(), took;
	size_t size = range->length - range->emptied;
	void *addr = (void *)(range->start + range->emptied);

	*ret_released = 0;
	if (size == 0) {
		size = range->length - range->covered;
		if (size > COVER_STEP)
			size = COVER_STEP;
		if (tdr_cover(range->start + range->covered, size))
			return -ENOMEM;
		range->covered += size;
		return 0;
	}
	if (size > range->step)
		size = range->step;
	/* Locked memory, or what the program has put there: it goes as it is covered. */
	if (tdr_sys_madvise(addr, size, MADV_DONTNEED) &&
	    tdr_cover((uintptr_t)addr, size))
		return -ENOMEM;
	range->emptied += size;
	*ret_released = size;
	took = now_ns() - began;
	if (took > target_ns && range->step > STEP_MIN)
		range->step /= 2;
	else if (took < target_ns / 4 && range->step < STEP_MAX)
		range->step *= 2;
	return 0;
}

static int release_slice(struct td_work *work, struct td_slice *slice)
{
	struct tdr_range *range = (struct tdr_range *)work; /* its first member */

	do {
		uint64_t released;

		/* The kernel's limit on mappings: some will go. */
		if (step(range, slice->target_ns, &released))
			return TD_WORK_LATER;
		slice->released += released;
		if (range->covered == range->length)
			return TD_WORK_DONE;
	} while (now_ns() < slice->deadline_ns);
	return TD_WORK_MORE;
}

void tdr_range_end(uint32_t i)
{
	struct tdr_range *range = &tdr_ranges[i];

	if (!atomic_load_explicit(&tdr_zone_is_shed, memory_order_relaxed)) {
		tdr_range_make_free(i);
		return;
	}
	range->state = RANGE_GONE;
	(void)tdr_sys_munmap((void *)range->start, range->end - range->start);
}

static void release_done(struct td_work *work, int status)
{
	struct tdr_range *range = (struct tdr_range *)work;
	bool locked = tdr_zone_lock();

	if (range->covered == range->length)
		tdr_range_end((uint32_t)(range - tdr_ranges));
	else
		range->state = RANGE_LOST;
	tdr_zone_unlock(locked);
	(void)status;
}

static const struct td_work_ops release_ops = {
	.slice = release_slice,
	.done = release_done,
};

static void release_here(struct tdr_range *range)
{
	uint64_t released;

	for (unsigned tries = 0; range->covered < range->length && tries < 10;)
		if (step(range, 500000, &released)) {
			tries++;
			nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
		}
	release_done(&range->work, 0);
}

/* Of a range that is marked as dying. */
static void release(struct tdr_range *range)
{
	struct tdr_calm before;

	range->emptied = range->covered = 0;
	range->step = STEP_MIN * 2;
	tdr_calm(&before);
	if (range->length >= tdr_threshold && tdr_serves()) {
		/* A child gets it empty, and covers it. */
		(void)tdr_sys_madvise((void *)range->start, range->length,
				      MADV_WIPEONFORK);
		td_work_init(&range->work, &release_ops, range->length);
		if (td_engine_submit(NULL, &range->work) == 0) {
			tdr_count(&tdr_counts.zone_later);
			tdr_calm_end(&before);
			return;
		}
	}
	tdr_count(&tdr_counts.zone_here);
	release_here(range);
	tdr_calm_end(&before);
}

/* ---- what malloc() asks for ---- */

static bool open_up(uintptr_t start, size_t length)
{
	int err = tdr_sys_mprotect((void *)start, length, PROT_READ | PROT_WRITE);

	if (err && tdr_relieve())
		err = tdr_sys_mprotect((void *)start, length, PROT_READ | PROT_WRITE);
	if (!err)
		(void)tdr_sys_madvise((void *)start, length, MADV_DODUMP);
	return !err;
}

void *tdr_zone_alloc(size_t size, size_t align)
{
	size_t length = tdr_round_up(size, tdr_page_size()),
	       room = tdr_round_up(size, TDR_GRANULE);
	uint32_t i = TDR_NONE;
	bool locked;

	if (room < size || room > tdr_zone_size)
		return NULL;
	if (align < TDR_GRANULE)
		align = TDR_GRANULE;
	locked = tdr_zone_lock();
	if (tdr_range_tables()) {
		if (room <= tdr_zone_size / 8 / ROOM)
			i = tdr_range_take(room * ROOM, align);
		if (i == TDR_NONE)
			i = tdr_range_take(room, align);
	}
	if (i != TDR_NONE) {
		tdr_ranges[i].length = length;
		tdr_ranges[i].claimed = room;
	}
	tdr_zone_unlock(locked);
	if (i == TDR_NONE)
		return NULL;
	if (!open_up(tdr_ranges[i].start, length)) {
		/* It may have opened a part. */
		tdr_ranges[i].state = RANGE_DYING;
		tdr_ranges[i].emptied = tdr_ranges[i].covered = 0;
		tdr_ranges[i].step = STEP_MAX;
		release_here(&tdr_ranges[i]);
		return NULL;
	}
	tdr_count(&tdr_counts.zone_gave);
	return (void *)tdr_ranges[i].start;
}

void tdr_zone_free(void *pointer)
{
	bool locked = tdr_zone_lock();
	struct tdr_range *range = &tdr_ranges[tdr_range_find(pointer)];

	range->state = RANGE_DYING;
	tdr_zone_unlock(locked);
	release(range);
}

size_t tdr_zone_usable(const void *pointer)
{
	bool locked = tdr_zone_lock();
	size_t length = tdr_ranges[tdr_range_find(pointer)].length;

	tdr_zone_unlock(locked);
	return length;
}

/* Takes so many bytes of the free range behind it. */
static bool extend(uint32_t i, size_t room)
{
	size_t more = room - (tdr_ranges[i].end - tdr_ranges[i].start);
	uint32_t behind = tdr_range_free_from(tdr_ranges[i].end);

	if (behind == TDR_NONE ||
	    tdr_ranges[behind].end - tdr_ranges[behind].start < more)
		return false;
	if (tdr_ranges[behind].end - tdr_ranges[behind].start > more) {
		tdr_range_place(behind, tdr_ranges[behind].start + more,
				tdr_ranges[behind].end);
	} else {
		tdr_range_list_remove(behind);
		tdr_range_entry_put(behind);
	}
	tdr_range_place(i, tdr_ranges[i].start, tdr_ranges[i].end + more);
	return true;
}

static bool grow(uint32_t i, size_t length)
{
	struct tdr_range *range = &tdr_ranges[i];
	size_t room = tdr_round_up(length, TDR_GRANULE);
	bool locked, fits;

	if (room < length)
		return false;
	locked = tdr_zone_lock();
	fits = range->end - range->start >= room || extend(i, room);
	if (fits && range->claimed < room)
		range->claimed = room;
	tdr_zone_unlock(locked);
	if (!fits)
		return false;
	if (!open_up(range->start + range->length, length - range->length)) {
		/* As it was, were a part of it open; else what is behind stays the next
		 * growth's, which can use it as it is. */
		(void)tdr_cover(range->start + range->length, length - range->length);
		return false;
	}
	range->length = length;
	return true;
}

/* The end of it becomes a range of its own, which dies. */
static void shrink(uint32_t i, size_t length)
{
	struct tdr_range *range = &tdr_ranges[i], *tail = NULL;
	size_t keep = tdr_round_up(length, TDR_GRANULE), old = range->length;

	if (keep < old) {
		bool locked = tdr_zone_lock();
		uint32_t rest = tdr_range_entry_get();

		if (rest != TDR_NONE) {
			tail = &tdr_ranges[rest];
			tdr_range_place(rest, range->start + keep, range->end);
			tdr_range_place(i, range->start, range->start + keep);
			tail->length = old - keep;
			tail->state = RANGE_DYING;
			range->length = range->claimed = keep;
		}
		tdr_zone_unlock(locked);
	}
	/* What is not a granule, or all of it for want of an entry. Refused, it stays. */
	if (range->length > length &&
	    !tdr_cover(range->start + length, range->length - length))
		range->length = length;
	if (tail)
		release(tail);
}

bool tdr_zone_resize(void *pointer, size_t size)
{
	size_t length = tdr_round_up(size, tdr_page_size());
	bool locked = tdr_zone_lock();
	uint32_t i = tdr_range_find(pointer);

	tdr_zone_unlock(locked);
	if (length < size)
		return false;
	if (length > tdr_ranges[i].length)
		return grow(i, length);
	if (length < tdr_ranges[i].length)
		shrink(i, length);
	return true;
}

static bool is_zero(const unsigned char *bytes, size_t size)
{
	return size == 0 || (bytes[0] == 0 && memcmp(bytes, bytes + 1, size - 1) == 0);
}

void tdr_copy(void *to, const void *from, size_t size)
{
	const size_t page = tdr_page_size();

	for (size_t done = 0; done < size; done += page) {
		size_t part = size - done < page ? size - done : page;

		if (!is_zero((const unsigned char *)from + done, part))
			memcpy((char *)to + done, (const char *)from + done, part);
	}
}

void *tdr_zone_move(void *pointer, size_t size)
{
	void *to = tdr_zone_alloc(size, 0);
	size_t length;

	if (!to)
		return NULL;
	length = tdr_zone_usable(pointer);
	/* What has been copied goes at once: nobody needs memory for both. */
	for (size_t done = 0; done < length; done += STEP_MIN * 4) {
		size_t part = length - done < STEP_MIN * 4 ? length - done : STEP_MIN * 4;

		tdr_copy((char *)to + done, (char *)pointer + done, part);
		(void)tdr_sys_madvise((char *)pointer + done, part, MADV_DONTNEED);
	}
	tdr_zone_free(pointer);
	return to;
}
