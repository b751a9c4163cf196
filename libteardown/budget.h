/* SPDX-License-Identifier: MIT */
/*
 * Floor 3: the bound on what waits to be released. (row A11)
 *
 *   Q1  Whoever leaves memory to the reapers first takes room for it, by one compare-
 *       exchange on the engine's bytes_pending: there is room while the sum stays within
 *       the limit, or when nothing is pending. So it is never passed by more than the
 *       one extent that is larger than all of it, with any number of threads.
 *   Q2  Without room a caller helps, sleeps or is refused, as the policy says. Nobody
 *       depends on what he waits for: where it is stuck, in the hands of threads that do
 *       not come on, or where there is nobody to do it, he frees his own by himself. What
 *       callers free takes no room.
 *   Q3  A sleeper is woken when he may have room: he says below what he wants to be
 *       woken, then looks again; who releases subtracts, then looks at what was said.
 *   Q4  Of those who have no room one is first: others leave him what he wants, so that a
 *       large extent is not passed by small ones for ever.
 */
#ifndef TDI_BUDGET_H
#define TDI_BUDGET_H

#include "base.h"

#include <teardown/engine.h>

/* An answer of tdi_budget_admit(). */
#define TDI_IN_PLACE 1

struct tdi_budget {
	_Atomic(uint64_t) limit;
	_Atomic(uint64_t) first; /* bytes that the first in line wants; 0: nobody */
	_Atomic(uint64_t)
		wake_below;	    /* sleepers want less to be pending; 0: no sleepers */
	_Atomic(uint32_t) word;	    /* their futex: another value with each wake */
	_Atomic(uint32_t) sleepers; /* a hint, for tests */
	_Atomic(uint64_t) peak;	    /* the most that was pending */
	/* Calls that found no room, relaxed: they order nothing. */
	_Atomic(uint64_t) helped, waited, refused, in_place;
	/* How long one sleeps before he looks by himself, and how long nothing may move
	 * before the caller does something else, ns. Constant: tests set them before
	 * there is anybody to wait. */
	uint64_t help_look_ns, help_patience_ns, wait_look_ns, wait_patience_ns;
	uint64_t small; /* bytes that who helps frees himself rather than seek room; also
			   so */
};

/* bytes: 0 = the default. Nobody uses the engine yet. */
void tdi_budget_init(struct td_engine *engine, uint64_t bytes,
		     enum td_budget_policy policy);

/* As it was at first, with that limit: nothing is pending. */
void tdi_budget_reset(struct tdi_budget *budget, uint64_t limit);

/* Takes room. False: there is none, and nothing is taken. */
bool tdi_budget_try(struct td_engine *engine, uint64_t bytes);

/*
 * Takes room for a work of so many bytes, helping or waiting for it. 0: it is taken.
 * TDI_IN_PLACE: it is not; the caller shall free by himself (tdi_engine_run). -EAGAIN:
 * so the policy wants it, and may_refuse says that the caller can say so.
 * Slices of any owner may run in here: no lock is held, nothing is half-way done.
 */
int tdi_budget_admit(struct td_engine *engine, uint64_t bytes, bool may_refuse);

/* Gives room back, when it has been released or is not used after all. */
void tdi_budget_give(struct td_engine *engine, uint64_t bytes);

/* Is there somebody who sleeps, and so has to know that a work cannot go on? */
void tdi_budget_tell_later(struct td_engine *engine);

#endif
