/* SPDX-License-Identifier: MIT */
/*
 * The table of the zone's ranges. They lie side by side and cover the zone; a free one
 * has no free neighbour. All of this is called under the zone's lock, in preload_zone.c.
 */
#ifndef TDR_PRELOAD_RANGES_H
#define TDR_PRELOAD_RANGES_H

#include "preload.h"

#include <teardown.h>

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

#endif
