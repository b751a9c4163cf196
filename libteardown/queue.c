/* SPDX-License-Identifier: MIT */
#include "queue.h"
#include "sys.h"

#include <limits.h>

#define PAUSE_MIN_NS 1000000u
#define PAUSE_MAX_NS 1000000000u

/* How long a work can be made to wait, in slices: half an hour at 500 us. And how many
 * are looked at for one that need not, before the first gets its turn all the same. */
#define SIT_OUT_MAX 4000000u
#define PASSED_OVER_MAX 256u

/* The public struct has a pointer where liburcu's queue wants its node. */
_Static_assert(sizeof(struct cds_wfcq_node) == sizeof(void *), "wfcq node is a pointer");

static struct cds_wfcq_node *node_of(struct td_work *work)
{
	return (struct cds_wfcq_node *)(void *)&work->tdi_inbox;
}

static void list_add_tail(struct td_work **list, struct td_work *work)
{
	struct td_work *first = *list;

	if (!first) {
		work->tdi_next = work->tdi_prev = work;
		*list = work;
		return;
	}
	work->tdi_next = first;
	work->tdi_prev = first->tdi_prev;
	first->tdi_prev->tdi_next = work;
	first->tdi_prev = work;
}

static void list_remove(struct td_work **list, struct td_work *work)
{
	if (work->tdi_next == work) {
		*list = NULL;
	} else {
		work->tdi_prev->tdi_next = work->tdi_next;
		work->tdi_next->tdi_prev = work->tdi_prev;
		if (*list == work)
			*list = work->tdi_next;
	}
	work->tdi_next = work->tdi_prev = NULL;
}

static bool is_listed(const struct td_work *work)
{
	return work->tdi_next != NULL;
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
	queue->ready = NULL;
	queue->parked = NULL;
	queue->running = 0;
	queue->taken_in = 0;
	queue->stopped = false;
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

TDI_HOT void tdi_queue_push(struct tdi_queue *queue, struct td_work *work)
{
	struct cds_wfcq_node *node = node_of(work);

	cds_wfcq_node_init(node);
	tdi_tsan_release(queue);
	cds_wfcq_enqueue(&queue->inbox_head, &queue->inbox_tail, node);
	/* The work may be finished and freed from here on. */
	signal_one(queue);
}

/* Under the lock. A pusher that is half-way is left alone: it has yet to signal (G2). */
static void empty_inbox(struct tdi_queue *queue)
{
	for (;;) {
		struct cds_wfcq_node *node = __cds_wfcq_dequeue_nonblocking(
			&queue->inbox_head, &queue->inbox_tail);

		if (!node || node == CDS_WFCQ_WOULDBLOCK)
			return;
		tdi_tsan_acquire(queue);
		list_add_tail(&queue->ready,
			      tdi_container_of(node, struct td_work, tdi_inbox));
		queue->ready->tdi_prev->tdi_serial = ++queue->taken_in;
	}
}

/* Under the lock. Returns when the next parked work is due, UINT64_MAX for never. */
static uint64_t unpark(struct tdi_queue *queue)
{
	uint64_t now = queue->parked ? tdi_sys_now_ns() : 0, next_due = UINT64_MAX;
	struct td_work *work = queue->parked, *last = work ? work->tdi_prev : NULL;

	while (work) {
		struct td_work *next = work == last ? NULL : work->tdi_next;

		if (work->tdi_due_ns <= now) {
			list_remove(&queue->parked, work);
			list_add_tail(&queue->ready, work);
		} else if (work->tdi_due_ns < next_due) {
			next_due = work->tdi_due_ns;
		}
		work = next;
	}
	return next_due;
}

/* Under the lock: passes over those that have to sit out, within reason (G4). */
static struct td_work *next_in_turn(struct tdi_queue *queue)
{
	struct td_work *first = queue->ready;

	for (unsigned passed = 0; first && passed < PASSED_OVER_MAX; passed++) {
		if (first->tdi_sit_out == 0 || first->tdi_next == first)
			break;
		first->tdi_sit_out--;
		first = queue->ready = first->tdi_next;
	}
	return first;
}

/* Under the lock: the next in turn. Stays listed while more reapers may join it. */
static struct td_work *pop_ready(struct tdi_queue *queue)
{
	struct td_work *work = next_in_turn(queue);

	if (!work)
		return NULL;
	list_remove(&queue->ready, work);
	work->tdi_running++;
	queue->running++;
	if (work->tdi_running < work->tdi_limit)
		list_add_tail(&queue->ready, work);
	return work;
}

struct td_work *tdi_queue_take(struct tdi_queue *queue)
{
	struct td_work *work = NULL;
	uint64_t due;

	pthread_mutex_lock(&queue->lock);
	for (;;) {
		/* Off before looking: G2. */
		atomic_exchange_explicit(&queue->signal, 0, memory_order_seq_cst);
		empty_inbox(queue);
		due = unpark(queue);
		if (queue->stopped)
			break;
		work = pop_ready(queue);
		if (work)
			break;
		/* seq_cst: see signal_one */
		atomic_fetch_add_explicit(&queue->sleepers, 1, memory_order_seq_cst);
		pthread_mutex_unlock(&queue->lock);
		tdi_sys_futex_wait(&queue->signal, 0, due);
		atomic_fetch_sub_explicit(&queue->sleepers, 1, memory_order_relaxed);
		pthread_mutex_lock(&queue->lock);
	}
	/* G3. When stopped, each reaper wakes the next. */
	if (queue->stopped || queue->ready)
		signal_one(queue);
	pthread_mutex_unlock(&queue->lock);
	return work;
}

struct td_work *tdi_queue_try_take(struct tdi_queue *queue)
{
	struct td_work *work;

	pthread_mutex_lock(&queue->lock);
	empty_inbox(queue);
	(void)unpark(queue);
	work = pop_ready(queue);
	pthread_mutex_unlock(&queue->lock);
	return work;
}

void tdi_queue_unpark(struct tdi_queue *queue)
{
	struct td_work *work;

	pthread_mutex_lock(&queue->lock);
	while ((work = queue->parked) != NULL) {
		list_remove(&queue->parked, work);
		list_add_tail(&queue->ready, work);
	}
	pthread_mutex_unlock(&queue->lock);
}

bool tdi_queue_is_stuck(struct tdi_queue *queue, unsigned works)
{
	struct td_work *first, *work;

	pthread_mutex_lock(&queue->lock);
	first = work = queue->parked;
	while (work && works > 0) {
		works--;
		work = work->tdi_next == first ? NULL : work->tdi_next;
	}
	pthread_mutex_unlock(&queue->lock);
	return first && !work && works == 0;
}

bool tdi_queue_give(struct tdi_queue *queue, struct td_work *work, int result,
		    unsigned parallel, uint64_t overstay)
{
	bool finished;

	pthread_mutex_lock(&queue->lock);
	/* What came in during the slice has its turn before the work's next one: G4. */
	empty_inbox(queue);
	work->tdi_running--;
	queue->running--;
	work->tdi_sit_out = (unsigned)(overstay < SIT_OUT_MAX ? overstay : SIT_OUT_MAX);
	work->tdi_limit = parallel > 0 ? parallel : 1;
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
	if (is_listed(work) && (work->tdi_exhausted || result != TD_WORK_MORE ||
				work->tdi_running >= work->tdi_limit))
		list_remove(&queue->ready, work);

	finished = work->tdi_exhausted && work->tdi_running == 0;
	if (!work->tdi_exhausted && !is_listed(work)) {
		if (work->tdi_running == 0 && work->tdi_later) {
			work->tdi_later = false;
			work->tdi_pause_ns = tdi_queue_next_pause(work->tdi_pause_ns);
			work->tdi_due_ns = tdi_sys_now_ns() + work->tdi_pause_ns;
			list_add_tail(&queue->parked, work);
		} else if (work->tdi_running == 0 ||
			   (result == TD_WORK_MORE &&
			    work->tdi_running < work->tdi_limit)) {
			list_add_tail(&queue->ready, work);
		}
	}
	pthread_mutex_unlock(&queue->lock);
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

	/* No lock: nobody else is left. Parked works come back whatever their time. */
	empty_inbox(queue);
	work = queue->ready;
	if (work) {
		list_remove(&queue->ready, work);
		return work;
	}
	work = queue->parked;
	if (work)
		list_remove(&queue->parked, work);
	return work;
}

/* ---- for those who help because there is too much ---- */

/* So many are looked at for the oldest. */
#define LOOKED_AT_MAX 256u

static bool has_bytes(const struct td_work *work)
{
	return atomic_load_explicit(&work->tdi_left, memory_order_relaxed) > 0;
}

struct td_work *tdi_queue_try_take_oldest(struct tdi_queue *queue)
{
	struct td_work *oldest = NULL, *work;

	pthread_mutex_lock(&queue->lock);
	empty_inbox(queue);
	(void)unpark(queue);
	work = queue->ready;
	for (unsigned i = 0; work && i < LOOKED_AT_MAX; i++) {
		if (has_bytes(work) && (!oldest || work->tdi_serial < oldest->tdi_serial))
			oldest = work;
		work = work->tdi_next == queue->ready ? NULL : work->tdi_next;
	}
	if (oldest) {
		/* As its turn would be: pop_ready. */
		list_remove(&queue->ready, oldest);
		oldest->tdi_running++;
		queue->running++;
		if (oldest->tdi_running < oldest->tdi_limit)
			list_add_tail(&queue->ready, oldest);
	}
	pthread_mutex_unlock(&queue->lock);
	return oldest;
}
