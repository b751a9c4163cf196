/* SPDX-License-Identifier: MIT */
/* The queues of an engine as those see them who run slices in the place of reapers. */
#include "queue.h"
#include "sys.h"

struct td_work *tdi_queue_try_take(struct tdi_queue *queue)
{
	struct tdi_queue *at = queue;
	struct td_work *work;

	do {
		pthread_mutex_lock(&at->lock);
		tdi_queue_look_in(at);
		(void)tdi_queue_end_pauses(at);
		work = tdi_turns_next(&at->ready, NULL);
		if (work)
			work = tdi_queue_hand_out(at, work);
		pthread_mutex_unlock(&at->lock);
		at = at->next;
	} while (!work && at != queue);
	return work;
}

void tdi_queue_unpark(struct tdi_queue *queue)
{
	struct td_work *work;

	pthread_mutex_lock(&queue->lock);
	while ((work = queue->parked) != NULL) {
		tdi_work_list_remove(&queue->parked, work);
		tdi_turns_add(&queue->ready, work);
	}
	pthread_mutex_unlock(&queue->lock);
}

/* Under the lock: how many works pause. */
static unsigned parked(const struct tdi_queue *queue)
{
	const struct td_work *work = queue->parked;
	unsigned works = 0;

	while (work) {
		works++;
		work = work->tdi_next == queue->parked ? NULL : work->tdi_next;
	}
	return works;
}

bool tdi_queue_is_stuck(struct tdi_queue *queue, unsigned works)
{
	struct tdi_queue *at = queue;
	unsigned pausing = 0;

	do {
		pthread_mutex_lock(&at->lock);
		pausing += parked(at);
		pthread_mutex_unlock(&at->lock);
		at = at->next;
	} while (at != queue);
	return pausing > 0 && pausing == works;
}

static struct td_work *find(struct td_work *list, tdi_queue_match *match, void *arg)
{
	struct td_work *work = list;

	while (work && !match(work, arg))
		work = work->tdi_next == list ? NULL : work->tdi_next;
	return work;
}

/* Under the lock: as if it were its turn, or its pause had ended. */
static struct td_work *pop_that(struct tdi_queue *queue, tdi_queue_match *match,
				void *arg)
{
	struct td_work *work = find(queue->ready.small, match, arg);

	if (!work)
		work = find(queue->ready.large, match, arg);
	if (work) {
		tdi_turns_remove(&queue->ready, work);
		work->tdi_had_slice = true;
	} else {
		work = find(queue->parked, match, arg);
		if (!work)
			return NULL;
		tdi_work_list_remove(&queue->parked, work);
	}
	return tdi_queue_hand_out(queue, work);
}

struct td_work *tdi_queue_take_that(struct tdi_queue *queue, tdi_queue_match *match,
				    void *arg)
{
	struct tdi_queue *at = queue;
	struct td_work *work;

	do {
		pthread_mutex_lock(&at->lock);
		tdi_queue_look_in(at);
		work = pop_that(at, match, arg);
		pthread_mutex_unlock(&at->lock);
		at = at->next;
	} while (!work && at != queue);
	return work;
}

static unsigned count(struct td_work *list, tdi_queue_match *match, void *arg)
{
	struct td_work *work = list;
	unsigned matching = 0;

	while (work) {
		matching += match(work, arg);
		work = work->tdi_next == list ? NULL : work->tdi_next;
	}
	return matching;
}

unsigned tdi_queue_count(struct tdi_queue *queue, tdi_queue_match *match, void *arg)
{
	struct tdi_queue *at = queue;
	unsigned matching = 0;

	do {
		pthread_mutex_lock(&at->lock);
		tdi_queue_look_in(at);
		matching += count(at->ready.small, match, arg) +
			    count(at->ready.large, match, arg) +
			    count(at->parked, match, arg);
		pthread_mutex_unlock(&at->lock);
		at = at->next;
	} while (at != queue);
	return matching;
}

/* ---- for those who help because there is too much ---- */

/* So many are looked at for the oldest. */
#define LOOKED_AT_MAX 256u

static bool has_bytes(const struct td_work *work)
{
	return atomic_load_explicit(&work->tdi_left, memory_order_relaxed) > 0;
}

static struct td_work *oldest_of(struct td_work *list, struct td_work *oldest)
{
	struct td_work *work = list;

	for (unsigned looked = 0; work && looked < LOOKED_AT_MAX; looked++) {
		if (has_bytes(work) && (!oldest || work->tdi_serial < oldest->tdi_serial))
			oldest = work;
		work = work->tdi_next == list ? NULL : work->tdi_next;
	}
	return oldest;
}

struct td_work *tdi_queue_try_take_oldest(struct tdi_queue *queue)
{
	struct tdi_queue *at = queue;
	struct td_work *work;

	do {
		pthread_mutex_lock(&at->lock);
		tdi_queue_look_in(at);
		(void)tdi_queue_end_pauses(at);
		work = oldest_of(at->ready.large, oldest_of(at->ready.small, NULL));
		if (work) {
			tdi_turns_remove(&at->ready, work);
			work->tdi_had_slice = true;
			work = tdi_queue_hand_out(at, work);
		}
		pthread_mutex_unlock(&at->lock);
		at = at->next;
	} while (!work && at != queue);
	return work;
}
