/* SPDX-License-Identifier: MIT */
/*
 * Floor 2: whose turn it is, among works that wait for a slice.
 *
 *   U1  Works share the reapers by the bytes that they release, each by its weight. One
 *       that releases less than a quarter of what is usual in the time it takes is
 *       charged for that time instead: a slow device must not get all the reapers' time
 *       for its share of bytes.
 *   U2  A small work that has not had a slice yet goes before large ones, every other
 *       turn: it is never stuck behind a terabyte, and many of them do not stop that one.
 *   U3  One whose slice took many times as long as it should sits out as many turns.
 *   U4  Nobody waits for good: who waits saves nothing up, and each that is picked goes
 *       to the back. Newcomers have had nothing yet, and go before those who had some;
 *       but what their first slices come to is taken as time for all, or those would
 *       wait for as long as new ones come.
 *   U5  Where memory is short, works that give memory back go before others.
 */
#ifndef TDI_TURNS_H
#define TDI_TURNS_H

#include "base.h"

#include <teardown/engine.h>

/* What is small: one step of a teardown releases as much, so it needs no second slice. */
#define TDI_SMALL_BYTES ((uint64_t)2 << 20)

/* All fields are under the lock of the queue that it belongs to. */
struct tdi_turns {
	struct td_work *large; /* circular lists, NULL when empty */
	struct td_work *small;
	uint64_t clock;	  /* the share of who was picked last, at least */
	uint64_t weights; /* of those that are listed */
	bool small_went_last;
	bool urgent;	    /* U5 */
	double usual_speed; /* bytes a nanosecond, of late: U1 */
};

/* What a slice came to. */
struct tdi_slice_end {
	unsigned parallel; /* how many reapers could share the rest */
	uint64_t overstay; /* how many slices' time it took beyond its own */
	uint64_t bytes;	   /* released */
	uint64_t took_ns;
	int home; /* the node on whose queue the rest belongs; or -1, where it is */
};

void tdi_turns_init(struct tdi_turns *turns);

/* A work that is not listed. To the back of those like it. */
void tdi_turns_add(struct tdi_turns *turns, struct td_work *work);
void tdi_turns_remove(struct tdi_turns *turns, struct td_work *work);
/* The same to have a slice, though it need not be its turn. */
void tdi_turns_took(struct tdi_turns *turns, struct td_work *work);

/* Takes out the next in turn for which may_go says so (NULL: any). NULL: none. */
typedef bool tdi_turns_filter(const struct td_work *work);
struct td_work *tdi_turns_next(struct tdi_turns *turns, tdi_turns_filter *may_go);

/* Takes a work's slice into account; it need not be listed. */
void tdi_turns_charge(struct tdi_turns *turns, struct td_work *work,
		      const struct tdi_slice_end *end);

/* Is there one that waits for which the filter says so? */
bool tdi_turns_has(const struct tdi_turns *turns, tdi_turns_filter *filter);

/* What the first `most` of the works that wait have left, in bytes. */
uint64_t tdi_turns_bytes(const struct tdi_turns *turns, unsigned most);

static inline bool tdi_turns_is_empty(const struct tdi_turns *turns)
{
	return !turns->large && !turns->small;
}

static inline bool tdi_work_is_listed(const struct td_work *work)
{
	return work->tdi_next != NULL;
}

void tdi_work_list_add(struct td_work **list, struct td_work *work);
void tdi_work_list_remove(struct td_work **list, struct td_work *work);

#endif
