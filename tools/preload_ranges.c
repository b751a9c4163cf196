/* SPDX-License-Identifier: MIT */
#include "preload_ranges.h"

#include <sys/mman.h>

/* A block is two mappings, itself and the room behind it, and a process may have 65530:
 * most of these stay the program's. */
#define RANGES_MAX 8192u

struct tdr_range *tdr_ranges;
uint32_t tdr_ranges_used;

/* Of each granule that is the first or the last of a range, that range; any other value
 * is old. */
static uint32_t *range_at;
static uint32_t free_first, unused_first;

static uint32_t *index_of(uintptr_t addr)
{
	return &range_at[(addr - tdr_zone_start) / TDR_GRANULE];
}

uint32_t tdr_range_entry_get(void)
{
	uint32_t i = unused_first;

	if (i != TDR_NONE)
		unused_first = tdr_ranges[i].next;
	else if (tdr_ranges_used < RANGES_MAX)
		i = tdr_ranges_used++;
	return i;
}

void tdr_range_entry_put(uint32_t i)
{
	tdr_ranges[i].start = tdr_ranges[i].end = 0;
	tdr_ranges[i].next = unused_first;
	unused_first = i;
}

void tdr_range_place(uint32_t i, uintptr_t start, uintptr_t end)
{
	tdr_ranges[i].start = start;
	tdr_ranges[i].end = end;
	*index_of(start) = i;
	*index_of(end - 1) = i;
}

static void tdr_range_list_add(uint32_t i)
{
	tdr_ranges[i].state = RANGE_FREE;
	tdr_ranges[i].prev = TDR_NONE;
	tdr_ranges[i].next = free_first;
	tdr_ranges[free_first].prev = i; /* that of TDR_NONE is nobody's */
	free_first = i;
}

void tdr_range_list_remove(uint32_t i)
{
	struct tdr_range *range = &tdr_ranges[i];

	if (range->prev != TDR_NONE)
		tdr_ranges[range->prev].next = range->next;
	else
		free_first = range->next;
	tdr_ranges[range->next].prev = range->prev;
}

/* The free range that begins, or ends, there. */
uint32_t tdr_range_free_from(uintptr_t addr)
{
	uint32_t i = addr < tdr_zone_end() ? *index_of(addr) : TDR_NONE;

	return i != TDR_NONE && tdr_ranges[i].state == RANGE_FREE &&
			       tdr_ranges[i].start == addr
		       ? i
		       : TDR_NONE;
}

uint32_t tdr_range_free_up_to(uintptr_t addr)
{
	uint32_t i = addr > tdr_zone_start + TDR_POOL ? *index_of(addr - 1)
						      : (uint32_t)TDR_NONE;

	return i != TDR_NONE && tdr_ranges[i].state == RANGE_FREE &&
			       tdr_ranges[i].end == addr
		       ? i
		       : TDR_NONE;
}

/* It is empty and inaccessible: N2. */
void tdr_range_make_free(uint32_t i)
{
	uint32_t before = tdr_range_free_up_to(tdr_ranges[i].start),
		 after = tdr_range_free_from(tdr_ranges[i].end);

	if (before != TDR_NONE) {
		tdr_range_list_remove(before);
		tdr_range_place(i, tdr_ranges[before].start, tdr_ranges[i].end);
		tdr_range_entry_put(before);
	}
	if (after != TDR_NONE) {
		tdr_range_list_remove(after);
		tdr_range_place(i, tdr_ranges[i].start, tdr_ranges[after].end);
		tdr_range_entry_put(after);
	}
	tdr_range_list_add(i);
}

/* Cuts [start, start + size) out of a free range, which keeps the rest. */
static uint32_t cut(uint32_t from, uintptr_t start, size_t size)
{
	struct tdr_range *range = &tdr_ranges[from];
	uint32_t i = tdr_range_entry_get(), front = TDR_NONE;

	if (i == TDR_NONE)
		return TDR_NONE;
	if (start > range->start) {
		front = tdr_range_entry_get();
		if (front == TDR_NONE) {
			tdr_range_entry_put(i);
			return TDR_NONE;
		}
		tdr_range_place(front, range->start, start);
		tdr_range_list_add(front);
	}
	if (start + size < range->end) {
		tdr_range_place(from, start + size, range->end);
	} else {
		tdr_range_list_remove(from);
		tdr_range_entry_put(from);
	}
	tdr_range_place(i, start, start + size);
	tdr_ranges[i].state = RANGE_USED;
	tdr_ranges[i].length = 0;
	tdr_ranges[i].claimed = 0;
	return i;
}

uint32_t tdr_range_take(size_t size, size_t align)
{
	for (uint32_t i = free_first; i != TDR_NONE; i = tdr_ranges[i].next) {
		uintptr_t start = tdr_round_up(tdr_ranges[i].start, align);

		if (start >= tdr_ranges[i].start && start < tdr_ranges[i].end &&
		    tdr_ranges[i].end - start >= size)
			return cut(i, start, size);
	}
	return TDR_NONE;
}

bool tdr_range_is_used(const void *pointer)
{
	uint32_t i = range_at ? *index_of((uintptr_t)pointer) : TDR_NONE;

	return i != TDR_NONE && i < tdr_ranges_used &&
	       tdr_ranges[i].start == (uintptr_t)pointer &&
	       tdr_ranges[i].state == RANGE_USED;
}

/* The range of a pointer that malloc() gave. */
uint32_t tdr_range_find(const void *pointer)
{
	if (!tdr_range_is_used(pointer))
		tdr_die("not what malloc() returned, or freed already", pointer);
	return *index_of((uintptr_t)pointer);
}

static void *table(size_t size)
{
	void *made = tdr_sys_mmap_none(NULL, size, MAP_NORESERVE);

	if (made && tdr_sys_mprotect(made, size, PROT_READ | PROT_WRITE)) {
		(void)tdr_sys_munmap(made, size);
		made = NULL;
	}
	return made;
}

bool tdr_range_tables(void)
{
	struct tdr_range *made;

	if (tdr_ranges)
		return true;
	if (tdr_zone_size <= TDR_POOL)
		return false;
	range_at = table(tdr_zone_size / TDR_GRANULE * sizeof(range_at[0]));
	made = range_at ? table(RANGES_MAX * sizeof(made[0])) : NULL;
	if (!made) {
		if (range_at)
			(void)tdr_sys_munmap(range_at, tdr_zone_size / TDR_GRANULE *
							       sizeof(range_at[0]));
		return false;
	}
	tdr_ranges = made;
	tdr_ranges_used = 2; /* TDR_NONE, and the first */
	tdr_range_place(1, tdr_zone_start + TDR_POOL, tdr_zone_end());
	tdr_range_list_add(1);
	return true;
}
