/* SPDX-License-Identifier: MIT */
/*
 * Floor 3: the queue between those who submit work and the reapers that run it.
 *
 *   G1  tdi_queue_push is wait-free: one exchange on liburcu's wait-free queue, one on
 *       the signal, and a futex wake only when the signal was off and a reaper sleeps.
 *   G2  A pushed work is seen: a taker turns the signal off before it looks at the
 *       inbox, and sleeps only while the signal is off. So either it sees the work, or
 *       the pusher turned the signal on after that, and nobody sleeps on it.
 *   G3  One wake is enough for any number of reapers: a taker that leaves something
 *       behind that another could run turns the signal on itself.
 *   G4  Works take turns: one that has more to do goes to the back. One whose slice took
 *       many times as long as it should sits out as many turns, so that works share the
 *       reapers by time and not by slices.
 */
#ifndef TDI_QUEUE_H
#define TDI_QUEUE_H

#include "base.h"

#include <pthread.h>
#include <teardown/engine.h>
#include <urcu/wfcqueue.h>

struct tdi_queue {
	/* Pushers write these two lines. */
	_Alignas(TDI_CACHE_LINE) struct cds_wfcq_tail inbox_tail;
	_Alignas(
		TDI_CACHE_LINE) _Atomic(uint32_t) signal; /* the reapers' futex: 0 or 1 */
	_Atomic(uint32_t) sleepers;

	/* Reapers only. The lock is held for list work, never across a slice or a wait,
	 * and no other lock is taken inside it. It protects all that follows. */
	_Alignas(TDI_CACHE_LINE) pthread_mutex_t lock;
	struct __cds_wfcq_head inbox_head;
	struct td_work *ready;	/* circular list, first in turn, NULL when empty */
	struct td_work *parked; /* circular list of works that pause */
	unsigned running;	/* slices */
	uint64_t taken_in;	/* works so far, from the inbox */
	bool stopped;
};

void tdi_queue_init(struct tdi_queue *queue);
void tdi_queue_destroy(struct tdi_queue *queue);

/* Any thread. The work's limit, status and so on are set (tdi_work_prepare). */
void tdi_queue_push(struct tdi_queue *queue, struct td_work *work);

/* Reapers: blocks until there is a work to run a slice of; NULL when stopped. */
struct td_work *tdi_queue_take(struct tdi_queue *queue);

/* The same without waiting: NULL when nothing is in turn. */
struct td_work *tdi_queue_try_take(struct tdi_queue *queue);

/*
 * The same, of the work that came in first, as far as one look goes, and of those only
 * that still have bytes to release.
 */
struct td_work *tdi_queue_try_take_oldest(struct tdi_queue *queue);

/* Ends all pauses. */
void tdi_queue_unpark(struct tdi_queue *queue);

/* Are there works, and do they all pause? Of so many that are not finished yet. */
bool tdi_queue_is_stuck(struct tdi_queue *queue, unsigned works);

/*
 * Reapers: gives a work back with what its slice returned and how many reapers could
 * share the rest. overstay: how many times as long as a slice should the last one took.
 * True: the work is finished and the caller's alone.
 */
bool tdi_queue_give(struct tdi_queue *queue, struct td_work *work, int result,
		    unsigned parallel, uint64_t overstay);

/* Makes every tdi_queue_take return NULL, now and from now on. */
void tdi_queue_stop(struct tdi_queue *queue);

/* After the reapers have gone: what is still queued, one at a time, NULL at the end. */
struct td_work *tdi_queue_leftover(struct tdi_queue *queue);

/* How long a work that returned TD_WORK_LATER pauses: 1 ms, doubling to 1 s. */
uint64_t tdi_queue_next_pause(uint64_t pause_ns);

#endif
