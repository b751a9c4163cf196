/* SPDX-License-Identifier: MIT */
/*
 * The table of the zone's ranges. They lie side by side and cover the zone; a free one
 * has no free neighbour. All of the table is called under the zone's lock, in
 * preload_zone.c and preload_reserve.c.
 */
#ifndef TDR_PRELOAD_RANGES_H
#define TDR_PRELOAD_RANGES_H

#include "preload.h"

#include <teardown.h>
#include <unistd.h>

#define TDR_GRANULE TDR_POOL /* as much as one page of page tables maps */
#define TDR_NONE 0u	     /* no range has this index */

enum tdr_range_state {
	RANGE_FREE,
	RANGE_USED,
	RANGE_DYING,
	RANGE_LOST, /* still mapped */
	RANGE_GONE, /* unmapped: anybody's */
};

struct tdr_range {
	struct td_work work; /* while dying */
	uintptr_t start, end;
	size_t length;	/* bytes that can be used, from the start, whole pages */
	size_t claimed; /* what its owner may open without the lock: whole granules */
	size_t emptied; /* while dying: of these, released */
	size_t covered; /* and of these, made inaccessible */
	size_t step;
	uint32_t next, prev; /* free ones, and unused entries of the table */
	enum tdr_range_state state;
};

extern struct tdr_range *tdr_ranges; /* NULL: before the first allocation */
extern uint32_t tdr_ranges_used;

static inline size_t tdr_round_up(size_t value, size_t to)
{
	return (value + to - 1) & ~(to - 1);
}

static inline size_t tdr_page_size(void)
{
	return (size_t)sysconf(_SC_PAGESIZE);
}

static inline uintptr_t tdr_zone_end(void)
{
	return tdr_zone_start + tdr_zone_size;
}

/* With the first allocation: small processes need none. False: no memory, or no zone. */
bool tdr_range_tables(void);

/* An entry for a range, TDR_NONE: there are no more; and one that is none any more. */
uint32_t tdr_range_entry_get(void);
void tdr_range_entry_put(uint32_t i);

/* It lies there from now on. */
void tdr_range_place(uint32_t i, uintptr_t start, uintptr_t end);

/* It is free from now on, empty and inaccessible: joins its free neighbours. */
void tdr_range_make_free(uint32_t i);
void tdr_range_list_remove(uint32_t i);

/* The free range that begins, or ends, there. */
uint32_t tdr_range_free_from(uintptr_t addr);
uint32_t tdr_range_free_up_to(uintptr_t addr);

/* Cuts so much out of a free one; TDR_NONE: there is none. It is in use. */
uint32_t tdr_range_take(size_t size, size_t align);

bool tdr_range_is_used(const void *pointer);

/* The one in use that begins there, as malloc() returned it; else the process ends. */
uint32_t tdr_range_find(const void *pointer);

/* ---- between preload_zone.c and preload_reserve.c ---- */

/* What it says is for the unlock: not locked anew in a handler of the fork that has it.
 */
bool tdr_zone_lock(void);
void tdr_zone_unlock(bool locked);
extern _Atomic(bool) tdr_zone_is_shed; /* written under the lock */

/* What is inaccessible is in no core of the kernel's, but a debugger's would have it all.
 */
void tdr_not_dumped(uintptr_t start, size_t length);

/* Over what is there: its pages go, and all that was said of it (advice, locks, charge),
 * and there is no moment in which it is not mapped: N1. 0, -ENOMEM. */
int tdr_cover(uintptr_t start, size_t length);

/* Under the lock: what is empty and inaccessible is others', from the zone or, once that
 * is shed, from the kernel. */
void tdr_range_end(uint32_t i);

#endif
