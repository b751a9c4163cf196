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
 *   G4  Works take turns: turns.h.
 *   G5  An engine has a queue for each NUMA node, in a ring. A taker that finds nothing
 *       on its own looks at the others, and one that leaves something behind asks a
 *       sleeper there to look when there is none here. Who was asked and does not look,
 *       or does and leaves something, asks the next. Works that were found to belong to
 *       a node are left to it as long as its own reapers have not much to do and are
 *       seen now and then: somebody without work watches that. Who gives a stolen work
 *       back wakes those it belongs to: it may be theirs alone from there on.
 *   G6  A work changes queues only between slices: when none of them runs.
 */
#ifndef TDI_QUEUE_H
#define TDI_QUEUE_H

#include "rate.h"
#include "turns.h"

#include <pthread.h>
#include <teardown/engine.h>
#include <urcu/wfcqueue.h>

struct tdi_queue {
	/* Pushers write these two lines. */
	_Alignas(TDI_CACHE_LINE) struct cds_wfcq_tail inbox_tail;
	_Alignas(
		TDI_CACHE_LINE) _Atomic(uint32_t) signal; /* the reapers' futex: 0 or 1 */
	_Atomic(uint32_t) sleepers;
	_Atomic(uint32_t) asked;    /* one of them, to look at all queues */
	_Atomic(uint32_t) watchers; /* those of them who will look at all before long */
	/* Constant once there are reapers. Pushers read them. */
	bool steals;		/* these may take from others */
	struct tdi_queue *next; /* in the ring */

	/* Reapers only. The lock is held for list work, never across a slice or a wait,
	 * and no other lock is taken inside it, but a doom's by a tdi_queue_match. It
	 * protects all that follows. */
	_Alignas(TDI_CACHE_LINE) pthread_mutex_t lock;
	struct __cds_wfcq_head inbox_head;
	struct tdi_turns ready;
	struct td_work *parked; /* circular list of works that pause */
	uint64_t watched_ns;	/* when a sleeper will look here, at the latest */
	uint64_t seen_ns;	/* when one of its own reapers last did */
	unsigned running;	/* slices */
	bool stopped;

	/* Constant once there are reapers. */
	unsigned node, reapers; /* and how many of those take from it first */
	struct tdi_rate *limit; /* of what they release; NULL: none */
};

void tdi_queue_init(struct tdi_queue *queue); /* a ring of its own */
void tdi_queue_destroy(struct tdi_queue *queue);

/* Any thread. The work's limit, status and so on are set (tdi_work_prepare). */
void tdi_queue_push(struct tdi_queue *queue, struct td_work *work);

/* Reapers: blocks until there is a work to run a slice of, here or, in need, on another
 * queue of the ring; NULL when stopped. While the limit is passed, only works that have
 * nothing to release. */
struct td_work *tdi_queue_take(struct tdi_queue *queue);

/* The same without waiting, whatever the queue: NULL when nothing is in turn. */
struct td_work *tdi_queue_try_take(struct tdi_queue *queue);

/* Where a work that was taken is to be given back to. */
static inline struct tdi_queue *tdi_queue_of(const struct td_work *work)
{
	return work->tdi_queue;
}

/*
 * The same, of the work that came in first, as far as one look goes, and of those only
 * that still have bytes to release: here, or on the next queue that has any.
 */
struct td_work *tdi_queue_try_take_oldest(struct tdi_queue *queue);

/* Memory is short, or not: turns.h, U5. Wakes who may wait for the limit. */
void tdi_queue_hurry(struct tdi_queue *queue, bool urgent);

/* Ends all pauses on this queue. */
void tdi_queue_unpark(struct tdi_queue *queue);

/* Are there works, and do they all pause? Of so many that are not finished yet, on all
 * queues of the ring. */
bool tdi_queue_is_stuck(struct tdi_queue *queue, unsigned works);

/*
 * Reapers: gives a work back with what its slice returned and came to. True: the work is
 * finished and the caller's alone.
 */
bool tdi_queue_give(struct tdi_queue *queue, struct td_work *work, int result,
		    const struct tdi_slice_end *end);

/* A work for which match says so, whatever its turn, from any queue of the ring; NULL:
 * none is listed. Match is called under the lock, for each that is. */
typedef bool tdi_queue_match(const struct td_work *work, void *arg);
struct td_work *tdi_queue_take_that(struct tdi_queue *queue, tdi_queue_match *match,
				    void *arg);

/* How many such are listed. */
unsigned tdi_queue_count(struct tdi_queue *queue, tdi_queue_match *match, void *arg);

/* By who gave a work back and takes no other from there: a reaper is to look. */
void tdi_queue_nudge(struct tdi_queue *queue);

/* By a reaper of another queue that gave a work back here: this one's may sleep, having
 * found nothing while its last slice ran, and what is left may be too little to steal. */
void tdi_queue_returned(struct tdi_queue *queue);

/* Makes every tdi_queue_take return NULL, now and from now on. */
void tdi_queue_stop(struct tdi_queue *queue);

/* After the reapers have gone: what is still queued, one at a time, NULL at the end. */
struct td_work *tdi_queue_leftover(struct tdi_queue *queue);

/* How long a work that returned TD_WORK_LATER pauses: 1 ms, doubling to 1 s. */
uint64_t tdi_queue_next_pause(uint64_t pause_ns);

/* ---- between the queue's own files: under the lock ---- */

/* Takes in what has been pushed. */
void tdi_queue_look_in(struct tdi_queue *queue);

/* Of works that are due. Returns when the next one will be, UINT64_MAX for never. */
uint64_t tdi_queue_end_pauses(struct tdi_queue *queue);

/* Hands out one that has been taken from the list, where it is again while more may join.
 */
struct td_work *tdi_queue_hand_out(struct tdi_queue *queue, struct td_work *work);

#endif
