/* SPDX-License-Identifier: MIT */
#include "queue.h"
#include "sys.h"

#include <limits.h>

#define PAUSE_MIN_NS 1000000u
#define PAUSE_MAX_NS 1000000000u

/* A node's reapers are left alone with what they have of its memory up to so much each:
 * what they free in some 10 ms. Taking it from elsewhere costs more than it brings. */
#define STEAL_BYTES ((uint64_t)128 << 20)
#define STEAL_LOOK_AT 64u

/* And for so long after one of them was last seen: what it runs may keep it for good. How
 * often those who have nothing to do look whether that is so. */
#define LEFT_ALONE_NS 100000000u

/* The public struct has a pointer where liburcu's queue wants its node. */
_Static_assert(sizeof(struct cds_wfcq_node) == sizeof(void *), "wfcq node is a pointer");

static struct cds_wfcq_node *node_of(struct td_work *work)
{
	return (struct cds_wfcq_node *)(void *)&work->tdi_inbox;
}

uint64_t tdi_queue_next_pause(uint64_t pause_ns)
{
	if (pause_ns == 0)
		return PAUSE_MIN_NS;
	return pause_ns >= PAUSE_MAX_NS / 2 ? PAUSE_MAX_NS : pause_ns * 2;
}

void tdi_queue_init(struct tdi_queue *queue)
{
	__cds_wfcq_init(&queue->inbox_head, &queue->inbox_tail);
	atomic_init(&queue->signal, 0);
	atomic_init(&queue->sleepers, 0);
	pthread_mutex_init(&queue->lock, NULL);
	tdi_turns_init(&queue->ready);
	atomic_init(&queue->asked, 0);
	atomic_init(&queue->watchers, 0);
	queue->parked = NULL;
	queue->watched_ns = UINT64_MAX;
	queue->seen_ns = 0;
	queue->running = 0;
	queue->stopped = false;
	queue->next = queue;
	queue->node = 0;
	queue->reapers = 0;
	queue->steals = false;
	queue->limit = NULL;
}

void tdi_queue_destroy(struct tdi_queue *queue)
{
	pthread_mutex_destroy(&queue->lock);
}

/* seq_cst twice: pairs with the sleeper's count-then-wait in tdi_queue_take. */
TDI_HOT static void signal_one(struct tdi_queue *queue)
{
	if (atomic_exchange_explicit(&queue->signal, 1, memory_order_seq_cst) == 0 &&
	    atomic_load_explicit(&queue->sleepers, memory_order_seq_cst) > 0)
		tdi_sys_futex_wake(&queue->signal, 1);
}

static bool has_no_home(const struct td_work *work)
{
	return !atomic_load_explicit(&work->tdi_at_home, memory_order_relaxed);
}

/* seq_cst: pairs with the sleeper's count-then-look in tdi_queue_take. */
static bool has_sleepers(struct tdi_queue *queue)
{
	return atomic_load_explicit(&queue->sleepers, memory_order_seq_cst) > 0;
}

/* G5: somebody who sleeps, here or else on the next queue where one does, is to look at
 * all queues. */
static void ask_someone(struct tdi_queue *queue)
{
	struct tdi_queue *at = queue;

	do {
		if (has_sleepers(at)) {
			/* seq_cst: before the signal, so who takes that takes this. */
			atomic_store_explicit(&at->asked, 1, memory_order_seq_cst);
			signal_one(at);
			/* Else it had left before the signal, and saw neither. */
			if (has_sleepers(at))
				return;
		}
		at = at->next;
	} while (at != queue);
}

/* Will somebody look at all queues before long? */
static bool is_watched(struct tdi_queue *queue)
{
	struct tdi_queue *at = queue;

	do {
		/* seq_cst: who leaves asks somebody else after he has counted himself
		 * out. */
		if (atomic_load_explicit(&at->watchers, memory_order_seq_cst) > 0)
			return true;
		at = at->next;
	} while (at != queue);
	return false;
}

/*
 * G3, G5. Where nobody sleeps here, somebody of another queue is told: now, for what
 * everybody may take, or else so that he looks from time to time.
 */
static void wake(struct tdi_queue *queue, bool for_all)
{
	/* First: it is the barrier between what was left and the look for sleepers. */
	signal_one(queue);
	if (queue->steals && !has_sleepers(queue) && (for_all || !is_watched(queue)))
		ask_someone(queue->next);
}

TDI_HOT void tdi_queue_push(struct tdi_queue *queue, struct td_work *work)
{
	bool steals = queue->steals, for_all = steals && has_no_home(work);
	struct cds_wfcq_node *node = node_of(work);

	work->tdi_queue = queue;
	cds_wfcq_node_init(node);
	tdi_tsan_release(queue);
	cds_wfcq_enqueue(&queue->inbox_head, &queue->inbox_tail, node);
	/* The work may be finished and freed from here on. */
	if (tdi_likely(!steals))
		signal_one(queue);
	else
		wake(queue, for_all);
}

static _Atomic(uint64_t) serials; /* of works, in the order in which they are seen */

/* A pusher that is half-way is left alone: it has yet to signal (G2). */
void tdi_queue_look_in(struct tdi_queue *queue)
{
	for (;;) {
		struct td_work *work;
		struct cds_wfcq_node *node = __cds_wfcq_dequeue_nonblocking(
			&queue->inbox_head, &queue->inbox_tail);

		if (!node || node == CDS_WFCQ_WOULDBLOCK)
			return;
		tdi_tsan_acquire(queue);
		work = tdi_container_of(node, struct td_work, tdi_inbox);
		if (work->tdi_serial == 0) /* else it comes from another queue */
			work->tdi_serial = atomic_fetch_add_explicit(
						   &serials, 1, memory_order_relaxed) +
					   1;
		/* So far it is how much more it had than others, there: 0 for most. */
		work->tdi_share += queue->ready.clock;
		tdi_turns_add(&queue->ready, work);
	}
}

uint64_t tdi_queue_end_pauses(struct tdi_queue *queue)
{
	uint64_t now = queue->parked ? tdi_sys_now_ns() : 0, next_due = UINT64_MAX;
	struct td_work *work = queue->parked, *last = work ? work->tdi_prev : NULL;

	while (work) {
		struct td_work *next = work == last ? NULL : work->tdi_next;

		if (work->tdi_due_ns <= now) {
			tdi_work_list_remove(&queue->parked, work);
			tdi_turns_add(&queue->ready, work);
		} else if (work->tdi_due_ns < next_due) {
			next_due = work->tdi_due_ns;
		}
		work = next;
	}
	return next_due;
}

struct td_work *tdi_queue_hand_out(struct tdi_queue *queue, struct td_work *work)
{
	work->tdi_running++;
	queue->running++;
	if (work->tdi_running < work->tdi_limit)
		tdi_turns_add(&queue->ready, work);
	return work;
}

/* Under the lock: the next in turn. */
static struct td_work *pop_ready(struct tdi_queue *queue, tdi_turns_filter *may_go)
{
	struct td_work *work = tdi_turns_next(&queue->ready, may_go);

	return work ? tdi_queue_hand_out(queue, work) : NULL;
}

static bool is_free(const struct td_work *work)
{
	return atomic_load_explicit(&work->tdi_left, memory_order_relaxed) == 0;
}

/* When what costs may be taken: 0 = now. */
static uint64_t limited_until(const struct tdi_queue *queue)
{
	if (!queue->limit || !tdi_rate_is_limited(queue->limit))
		return 0;
	return tdi_rate_due(queue->limit, tdi_sys_now_ns());
}

/* Under the lock: more than its own reapers will soon have done. */
static bool has_much(const struct tdi_queue *queue)
{
	unsigned reapers = queue->reapers > 0 ? queue->reapers : 1;

	return tdi_turns_bytes(&queue->ready, STEAL_LOOK_AT) > STEAL_BYTES * reapers;
}

/* Under the lock: its reapers all run something, and have for long. */
static bool is_deserted(struct tdi_queue *queue, uint64_t now)
{
	return !has_sleepers(queue) && now > queue->seen_ns &&
	       now - queue->seen_ns > LEFT_ALONE_NS;
}

/* Under the lock: would others of the ring find something here to help with? */
static bool has_for_others(const struct tdi_queue *queue)
{
	return queue->steals && queue->next != queue &&
	       (has_much(queue) || tdi_turns_has(&queue->ready, has_no_home));
}

/* What a look at other queues came to. */
struct look {
	bool left_something; /* that others could take, too */
	uint64_t again_ns;   /* when to look again at the latest */
};

/* Of another queue, what its own reapers would be long in coming to. */
static struct td_work *take_from(struct tdi_queue *other, bool limited, struct look *look)
{
	uint64_t now = tdi_sys_now_ns(), due;
	struct td_work *work;

	pthread_mutex_lock(&other->lock);
	tdi_queue_look_in(other);
	due = tdi_queue_end_pauses(other);
	work = pop_ready(other, limited ? is_free
				: has_much(other) || is_deserted(other, now)
					? NULL
					: has_no_home);
	if (work)
		look->left_something = has_for_others(other);
	else if (!tdi_turns_is_empty(&other->ready) || due != UINT64_MAX)
		look->again_ns = now + LEFT_ALONE_NS;
	pthread_mutex_unlock(&other->lock);
	if (!work && due < look->again_ns)
		look->again_ns = due;
	return work;
}

static struct td_work *steal(struct tdi_queue *queue, bool limited, struct look *look)
{
	struct td_work *work = NULL;

	*look = (struct look){.again_ns = UINT64_MAX};
	if (!queue->steals)
		return NULL;
	for (struct tdi_queue *at = queue->next; at != queue && !work; at = at->next)
		work = take_from(at, limited, look);
	return work;
}

/*
 * Under the lock, but for while it looks elsewhere and waits: a work of another queue, or
 * NULL when there may be something here. asks: somebody else is to look elsewhere if
 * the caller does not.
 */
static struct td_work *wait_here(struct tdi_queue *queue, uint64_t due, uint64_t limited,
				 bool *asks)
{
	struct td_work *work;
	struct look look;
	bool watches, holds_back = !tdi_turns_is_empty(&queue->ready);

	if (due < queue->watched_ns)
		queue->watched_ns = due;
	/* seq_cst: see signal_one. Counted before looking elsewhere, so that who leaves
	 * something behind there sees it. */
	atomic_fetch_add_explicit(&queue->sleepers, 1, memory_order_seq_cst);
	pthread_mutex_unlock(&queue->lock);
	work = steal(queue, limited > 0, &look);
	watches = !work && look.again_ns != UINT64_MAX;
	if (limited && (holds_back || watches) && limited < look.again_ns)
		look.again_ns = limited;
	if (watches)
		atomic_fetch_add_explicit(&queue->watchers, 1, memory_order_seq_cst);
	if (!work)
		tdi_sys_futex_wait(&queue->signal, 0,
				   due < look.again_ns ? due : look.again_ns);
	if (watches)
		atomic_fetch_sub_explicit(&queue->watchers, 1, memory_order_seq_cst);
	pthread_mutex_lock(&queue->lock);
	if (queue->watched_ns == due)
		queue->watched_ns = UINT64_MAX;
	if (queue->steals)
		queue->seen_ns = tdi_sys_now_ns();
	/* seq_cst: what is left from here on is told to somebody else, see ask_someone;
	 * and the signal says whether there was something before. */
	atomic_fetch_sub_explicit(&queue->sleepers, 1, memory_order_seq_cst);
	if (work)
		*asks |= look.left_something ||
			 atomic_load_explicit(&queue->signal, memory_order_seq_cst);
	else
		*asks = watches;
	return work;
}

struct td_work *tdi_queue_take(struct tdi_queue *queue)
{
	bool left_something, for_all, asks = false;
	struct td_work *work = NULL;
	uint64_t due, limited;

	pthread_mutex_lock(&queue->lock);
	if (queue->steals)
		queue->seen_ns = tdi_sys_now_ns();
	while (!work) {
		/* Off before looking: G2. */
		atomic_exchange_explicit(&queue->signal, 0, memory_order_seq_cst);
		if (queue->steals)
			asks |= atomic_exchange_explicit(&queue->asked, 0,
							 memory_order_seq_cst);
		tdi_queue_look_in(queue);
		due = tdi_queue_end_pauses(queue);
		if (queue->stopped)
			break;
		/* After the signal: who changes the limit turns that on afterwards. */
		limited = limited_until(queue);
		work = pop_ready(queue, limited ? is_free : NULL);
		if (!work)
			work = wait_here(queue, due, limited, &asks);
	}
	/* When stopped, each reaper wakes the next. And somebody is to know when what is
	 * parked is due. */
	left_something = queue->stopped || !tdi_turns_is_empty(&queue->ready) ||
			 due < queue->watched_ns;
	for_all = !queue->stopped && left_something && has_for_others(queue);
	pthread_mutex_unlock(&queue->lock);
	if (left_something)
		wake(queue, for_all);
	if (asks)
		ask_someone(queue);
	return work;
}

void tdi_queue_hurry(struct tdi_queue *queue, bool urgent)
{
	pthread_mutex_lock(&queue->lock);
	queue->ready.urgent = urgent;
	pthread_mutex_unlock(&queue->lock);
	signal_one(queue);
}

/* The queue of another node that the work belongs to, or this one. */
static struct tdi_queue *home_of(struct tdi_queue *queue, int node)
{
	struct tdi_queue *at = queue;

	do {
		if ((int)at->node == node)
			return at;
		at = at->next;
	} while (at != queue);
	return queue;
}

/* Under the lock: the work is not listed, it is to be run on. True: not from here. */
static bool list_again(struct tdi_queue *queue, struct td_work *work, int result)
{
	if (work->tdi_running == 0 && work->tdi_later) {
		work->tdi_later = false;
		work->tdi_pause_ns = tdi_queue_next_pause(work->tdi_pause_ns);
		work->tdi_due_ns = tdi_sys_now_ns() + work->tdi_pause_ns;
		tdi_work_list_add(&queue->parked, work);
	} else if (work->tdi_running == 0 && work->tdi_leaves) {
		work->tdi_leaves = false;
		/* Queues' clocks have nothing to do with each other: U4. */
		work->tdi_share -= queue->ready.clock < work->tdi_share
					   ? queue->ready.clock
					   : work->tdi_share;
		return true;
	} else if (work->tdi_running == 0 ||
		   (result == TD_WORK_MORE && work->tdi_running < work->tdi_limit &&
		    !work->tdi_leaves)) {
		tdi_turns_add(&queue->ready, work);
	}
	return false;
}

bool tdi_queue_give(struct tdi_queue *queue, struct td_work *work, int result,
		    const struct tdi_slice_end *end)
{
	struct tdi_queue *home = queue;
	bool finished, leaves = false;

	pthread_mutex_lock(&queue->lock);
	/* What came in during the slice is there when the next is picked. */
	tdi_queue_look_in(queue);
	work->tdi_running--;
	queue->running--;
	tdi_turns_charge(&queue->ready, work, end);
	work->tdi_limit = end->parallel > 0 ? end->parallel : 1;
	if (end->home >= 0) {
		home = home_of(queue, end->home);
		atomic_store_explicit(&work->tdi_at_home, 1, memory_order_relaxed);
		work->tdi_leaves = home != queue;
		work->tdi_home = end->home;
	}
	if (result == TD_WORK_MORE) {
		work->tdi_pause_ns = 0;
		work->tdi_later = false;
	} else if (result == TD_WORK_LATER) {
		work->tdi_later = true;
	} else if (result != TD_WORK_WAIT) {
		work->tdi_exhausted = true;
		if (result < 0 && work->tdi_status == 0)
			work->tdi_status = result;
	}
	/* Off the list where nothing can be handed out until another slice returns. */
	if (tdi_work_is_listed(work) &&
	    (work->tdi_exhausted || work->tdi_leaves || result != TD_WORK_MORE ||
	     work->tdi_running >= work->tdi_limit))
		tdi_turns_remove(&queue->ready, work);

	finished = work->tdi_exhausted && work->tdi_running == 0;
	if (!work->tdi_exhausted && !tdi_work_is_listed(work))
		leaves = list_again(queue, work, result);
	if (leaves) /* G6; maybe it was another slice that said where to */
		home = home_of(queue, work->tdi_home);
	pthread_mutex_unlock(&queue->lock);
	if (leaves)
		tdi_queue_push(home, work);
	return finished;
}

void tdi_queue_stop(struct tdi_queue *queue)
{
	pthread_mutex_lock(&queue->lock);
	queue->stopped = true;
	pthread_mutex_unlock(&queue->lock);
	atomic_store_explicit(&queue->signal, 1, memory_order_seq_cst);
	tdi_sys_futex_wake(&queue->signal, INT_MAX);
}

struct td_work *tdi_queue_leftover(struct tdi_queue *queue)
{
	struct td_work *work;

	/* Threads that help may still be looking (tdi_queue_try_take). Parked works come
	 * back whatever their time. */
	pthread_mutex_lock(&queue->lock);
	tdi_queue_look_in(queue);
	work = tdi_turns_next(&queue->ready, NULL);
	if (!work && queue->parked) {
		work = queue->parked;
		tdi_work_list_remove(&queue->parked, work);
	}
	pthread_mutex_unlock(&queue->lock);
	return work;
}

void tdi_queue_nudge(struct tdi_queue *queue)
{
	wake(queue, true);
}

void tdi_queue_returned(struct tdi_queue *queue)
{
	signal_one(queue);
}
