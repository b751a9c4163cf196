/* SPDX-License-Identifier: MIT */
/* G5 and G6 of queue.h: queues in a ring, and who is woken for what. */
#include "harness.h"
#include "queue.h"

#include <pthread.h>
#include <sched.h>
#include <semaphore.h>

#define QUEUES 3

static struct tdi_queue queues[QUEUES];

static void setup(void)
{
	for (unsigned i = 0; i < QUEUES; i++) {
		tdi_queue_init(&queues[i]);
		queues[i].node = i;
		queues[i].reapers = 1;
		queues[i].next = &queues[(i + 1) % QUEUES];
		queues[i].steals = true;
	}
}

static void teardown(void)
{
	for (unsigned i = 0; i < QUEUES; i++)
		tdi_queue_destroy(&queues[i]);
}

static struct td_work make(uint64_t left, bool at_home)
{
	return (struct td_work){
		.tdi_limit = 1, .cost = GIB, .tdi_left = left, .tdi_at_home = at_home};
}

static bool give(struct td_work *work, int result, int home, uint64_t bytes)
{
	struct tdi_slice_end end = {.parallel = 1,
				    .home = home,
				    .bytes = bytes,
				    .took_ns = home < 0 ? 1000000 : 0};

	return tdi_queue_give(tdi_queue_of(work), work, result, &end);
}

/* A reaper that takes one work. */
struct taker {
	struct tdi_queue *queue;
	pthread_t thread;
};

static void *take_one(void *arg)
{
	struct taker *taker = arg;

	return tdi_queue_take(taker->queue);
}

/* Asleep, or about to look once more; a while later the former, as a rule. */
static void start(struct taker *taker, struct tdi_queue *queue)
{
	taker->queue = queue;
	pthread_create(&taker->thread, NULL, take_one, taker);
	while (atomic_load(&queue->sleepers) == 0)
		sched_yield();
	for (unsigned i = 0; i < 1000; i++)
		sched_yield();
}

static struct td_work *taken(struct taker *taker)
{
	void *work;

	pthread_join(taker->thread, &work);
	return work;
}

static unsigned index_of(const struct tdi_queue *queue)
{
	return (unsigned)(queue - queues);
}

START_TEST(a_sleeper_of_another_queue_is_woken_for_what_belongs_nowhere)
{
	struct td_work work = make(MIB, false);
	struct taker taker;

	start(&taker, &queues[2]);
	tdi_queue_push(&queues[0], &work);
	ck_assert_ptr_eq(taken(&taker), &work);
	ck_assert_uint_eq(index_of(tdi_queue_of(&work)), 0);
	ck_assert(give(&work, TD_WORK_DONE, -1, 0));
}
END_TEST

/* There is much on the first queue, whose reaper is away: no sleeper is woken for it, the
 * first to come by is to wake the next. */
START_TEST(who_takes_from_elsewhere_and_leaves_something_wakes_the_next)
{
	struct td_work works[3];
	struct taker taker;

	start(&taker, &queues[2]);
	atomic_store(&queues[1].watchers, 1); /* or else it would be told now */
	for (unsigned i = 0; i < 3; i++) {
		works[i] = make(GIB, true);
		tdi_queue_push(&queues[0], &works[i]);
	}
	ck_assert_ptr_eq(tdi_queue_take(&queues[1]), &works[0]);
	ck_assert_ptr_eq(taken(&taker), &works[1]);
}
END_TEST

/* It is woken for one thing and finds another. */
START_TEST(who_was_asked_and_has_work_of_its_own_asks_the_next)
{
	struct td_work foreign = make(MIB, false), own = make(MIB, true);
	struct taker asked, other;

	start(&asked, &queues[0]);
	start(&other, &queues[1]);
	pthread_mutex_lock(&queues[0].lock);
	tdi_queue_push(&queues[2], &foreign); /* whose next is the first */
	tdi_queue_push(&queues[0], &own);
	pthread_mutex_unlock(&queues[0].lock);
	ck_assert_ptr_eq(taken(&asked), &own);
	ck_assert_ptr_eq(taken(&other), &foreign);
}
END_TEST

/* Whatever keeps them, a device perhaps: it may be for good. */
START_TEST(what_belongs_to_reapers_that_stay_away_is_taken_by_others)
{
	struct td_work keeps = make(MIB, true), waits = make(MIB, true);
	struct taker taker;

	tdi_queue_push(&queues[0], &keeps);
	ck_assert_ptr_eq(tdi_queue_take(&queues[0]), &keeps);
	start(&taker, &queues[2]);
	tdi_queue_push(&queues[0], &waits);
	ck_assert_ptr_eq(taken(&taker), &waits);
}
END_TEST

START_TEST(what_pauses_where_reapers_stay_away_goes_on_elsewhere)
{
	struct td_work keeps = make(MIB, true), pauses = make(MIB, false);
	struct taker taker;

	tdi_queue_push(&queues[0], &pauses);
	ck_assert_ptr_eq(tdi_queue_take(&queues[0]), &pauses);
	start(&taker, &queues[2]);
	ck_assert(!give(&pauses, TD_WORK_LATER, -1, 0));
	tdi_queue_push(&queues[0], &keeps);
	ck_assert_ptr_eq(tdi_queue_take(&queues[0]), &keeps);
	ck_assert_ptr_eq(taken(&taker), &pauses);
}
END_TEST

/* One queue: who slept before it was put off does not know of it. */
START_TEST(a_sleeper_is_told_when_a_pause_ends_that_its_reaper_may_miss)
{
	struct td_work keeps = make(MIB, true), pauses = make(MIB, false);
	struct taker taker;

	queues[0].next = &queues[0];
	queues[0].steals = false;
	tdi_queue_push(&queues[0], &pauses);
	ck_assert_ptr_eq(tdi_queue_take(&queues[0]), &pauses);
	start(&taker, &queues[0]);
	ck_assert(!give(&pauses, TD_WORK_LATER, -1, 0));
	pthread_mutex_lock(&queues[0].lock); /* so that it is ours */
	tdi_queue_push(&queues[0], &keeps);
	atomic_store(&queues[0].signal, 0);
	pthread_mutex_unlock(&queues[0].lock);
	if (tdi_queue_take(&queues[0]) == &keeps)
		ck_assert_ptr_eq(taken(&taker), &pauses);
	else
		ck_assert_ptr_eq(taken(&taker), &keeps);
}
END_TEST

/* U4: a clock that is far ahead says nothing about another queue. */
START_TEST(a_work_that_moves_takes_no_debts_with_it)
{
	struct td_work moves = make(GIB, false), stays = make(GIB, true);

	tdi_queue_push(&queues[0], &moves);
	for (unsigned i = 0; i < 1000; i++) {
		ck_assert_ptr_eq(tdi_queue_try_take(&queues[0]), &moves);
		ck_assert(!give(&moves, TD_WORK_MORE, -1, 8 * MIB));
	}
	tdi_queue_push(&queues[1], &stays);
	ck_assert_ptr_eq(tdi_queue_try_take(&queues[0]), &moves);
	ck_assert(!give(&moves, TD_WORK_MORE, 1, 0)); /* it is there now */
	ck_assert_uint_eq(index_of(tdi_queue_of(&moves)), 1);
	for (unsigned i = 0; i < 4; i++) {
		struct td_work *next = tdi_queue_try_take(&queues[1]);

		if (next == &moves)
			return;
		ck_assert_ptr_eq(next, &stays);
		ck_assert(!give(&stays, TD_WORK_MORE, -1, 8 * MIB));
	}
	ck_abort_msg("it waits for what others had on its former queue");
}
END_TEST

START_TEST(a_work_moves_when_its_last_slice_is_back)
{
	struct td_work wide = make(GIB, false);

	wide.tdi_limit = 2;
	tdi_queue_push(&queues[0], &wide);
	ck_assert_ptr_eq(tdi_queue_try_take(&queues[0]), &wide);
	ck_assert_ptr_eq(tdi_queue_try_take(&queues[0]), &wide);
	ck_assert(!give(&wide, TD_WORK_MORE, 2, 0));
	ck_assert_ptr_null(tdi_queue_try_take(&queues[0]));
	ck_assert(!give(&wide, TD_WORK_WAIT, -1, 0));
	ck_assert_uint_eq(index_of(tdi_queue_of(&wide)), 2);
	ck_assert_ptr_eq(tdi_queue_try_take(&queues[0]), &wide);
	ck_assert(give(&wide, TD_WORK_DONE, -1, 0));
}
END_TEST

int main(void)
{
	struct tdt *tests = tdt_suite("queue_ring");
	const TTest *all[] = {
		a_sleeper_of_another_queue_is_woken_for_what_belongs_nowhere,
		who_takes_from_elsewhere_and_leaves_something_wakes_the_next,
		who_was_asked_and_has_work_of_its_own_asks_the_next,
		what_belongs_to_reapers_that_stay_away_is_taken_by_others,
		what_pauses_where_reapers_stay_away_goes_on_elsewhere,
		a_sleeper_is_told_when_a_pause_ends_that_its_reaper_may_miss,
		a_work_that_moves_takes_no_debts_with_it,
		a_work_moves_when_its_last_slice_is_back,
	};

	for (size_t i = 0; i < sizeof(all) / sizeof(*all); i++)
		tdt_add(tests, all[i], setup, teardown);
	return tdt_run(tests);
}
