/* SPDX-License-Identifier: MIT */
/*
 * Floor 3: grace periods for all batches of an engine.
 *
 * A *pass* takes what has been added to the batches so far, waits for one grace period
 * for all of it, and gives it to the reapers. Passes run one at a time: on the engine's
 * grace thread, or, where it has none, in whoever needs one and may block.
 *
 *   P1  What was added before a request is in a pass that begins after the request, or in
 *       an earlier one. Where there is no page to gather it in, a part may stay: then
 *       that pass does not count, and another one follows.
 *   P2  The thread sleeps without a timeout only while nothing is open. A group or chain
 *       that nothing was added to between two passes is put to sleep: its flag is set,
 *       then every thread passes a barrier (membarrier, or a fence of its own each time
 *       it adds), then it is looked at again. So whoever adds sees the flag and wakes the
 *       thread, or the thread sees what he added.
 *   P3  Otherwise it runs a pass whenever the shortest of the batches' ages has passed.
 */
#ifndef TDI_GRACE_H
#define TDI_GRACE_H

#include "base.h"

#include <pthread.h>
#include <teardown/batch.h>

struct tdi_grace {
	_Atomic(uint32_t) signal;	/* enum in grace.c; the thread's futex */
	_Atomic(uint32_t) wanted, done; /* passes that somebody waits for */
	_Atomic(uint32_t) changes;	/* a futex: of done, running and settled */
	_Atomic(uint32_t) running;	/* there is a thread */
	_Atomic(uint32_t) settled;	/* and it has begun to look */
	_Atomic(uint64_t) periods;
	uint64_t drowse_ns; /* when to look what may sleep; the thread's */
	bool stopped;	    /* for good; under list_lock */
	bool sleepless;	    /* the kernel refuses membarrier by now: P2 does not hold */
	pthread_t thread;
	pthread_mutex_t pass_lock; /* held across a grace period; outermost */
	pthread_mutex_t list_lock; /* of the batches; no callback is called inside */
	struct td_batch *first, *last;
	uint64_t last_serial;
};

void tdi_grace_init(struct tdi_grace *grace);
void tdi_grace_destroy(struct tdi_grace *grace);

/* If it does not run yet, and has not been stopped. 0, or what thread_create said. */
int tdi_grace_start(struct td_engine *engine);

/*
 * Ends the thread, waiting for the grace period it may be in until the deadline at most:
 * after that it ends by itself, later.
 */
void tdi_grace_stop(struct td_engine *engine, uint64_t deadline_ns);

static inline bool tdi_grace_runs(const struct tdi_grace *grace)
{
	return atomic_load_explicit(&grace->running, memory_order_relaxed);
}

void tdi_grace_add(struct td_engine *engine, struct td_batch *batch);
void tdi_grace_remove(struct td_engine *engine, struct td_batch *batch);

/* Is there nothing in this batch, in no state? Callbacks of its own may add meanwhile. */
bool tdi_grace_is_empty(struct td_engine *engine, struct td_batch *batch);

/* ---- telling the thread, if there is one; none of these blocks ---- */

void tdi_grace_request(struct tdi_grace *grace); /* a pass that begins after this */
void tdi_grace_hint(struct tdi_grace *grace);	 /* one that may have begun */
void tdi_grace_wake(struct tdi_grace *grace);	 /* something has been woken up */
void tdi_grace_trim(struct tdi_grace *grace);	 /* a pass, and give back unused room */

/* ---- waiting; without a thread the pass runs in the caller ---- */

/* Until all that was added before is freed. 0, -ETIMEDOUT. */
int tdi_grace_barrier(struct td_engine *engine, struct td_batch *batch,
		      uint64_t deadline_ns);

/* The same for all batches of the engine. */
int tdi_grace_drain(struct td_engine *engine, uint64_t deadline_ns);

/* A pass in the caller for one batch, without a grace period. */
void tdi_grace_skip(struct td_engine *engine, struct td_batch *batch);

/* A fork waits for grace periods that are under way, for a second at most: liburcu's
 * locks are held in them, and a child could not use it. */
void tdi_grace_before_fork(void);
void tdi_grace_after_fork(bool in_child);

/* In a child: the fork has not waited any longer, and liburcu's locks stay held. */
bool tdi_grace_is_stuck(void);

#endif
