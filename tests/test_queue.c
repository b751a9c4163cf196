/* SPDX-License-Identifier: MIT */
/* G1-G4 of queue.h. */
#include "harness.h"
#include "queue.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

static struct tdi_queue *queue;

static void setup(void)
{
	queue = aligned_alloc(_Alignof(struct tdi_queue), sizeof(*queue));
	tdi_queue_init(queue);
}

static void teardown(void)
{
	tdi_queue_destroy(queue);
	free(queue);
}

static struct td_work make(unsigned limit)
{
	return (struct td_work){.tdi_limit = limit, .cost = 1 << 30};
}

static bool give(struct tdi_queue *to, struct td_work *work, int result,
		 unsigned parallel, uint64_t overstay)
{
	struct tdi_slice_end end = {
		.parallel = parallel, .overstay = overstay, .home = -1};

	return tdi_queue_give(to, work, result, &end);
}

START_TEST(works_take_turns)
{
	struct td_work a = make(1), b = make(1), c = make(1);

	tdi_queue_push(queue, &a);
	tdi_queue_push(queue, &b);
	for (int round = 0; round < 3; round++) {
		ck_assert_ptr_eq(tdi_queue_take(queue), &a);
		ck_assert(!give(queue, &a, TD_WORK_MORE, 1, 0));
		ck_assert_ptr_eq(tdi_queue_take(queue), &b);
		ck_assert(!give(queue, &b, TD_WORK_MORE, 1, 0));
	}
	tdi_queue_push(queue, &c); /* a newcomer does not wait for those who had some */
	ck_assert_ptr_eq(tdi_queue_take(queue), &c);
	ck_assert(give(queue, &c, TD_WORK_DONE, 1, 0));
	ck_assert_ptr_eq(tdi_queue_take(queue), &a);
	ck_assert(give(queue, &a, TD_WORK_DONE, 1, 0));
	ck_assert_ptr_eq(tdi_queue_take(queue), &b);
	ck_assert(give(queue, &b, -EIO, 1, 0));
	ck_assert_int_eq(b.tdi_status, -EIO);
	ck_assert_ptr_null(tdi_queue_leftover(queue));
}
END_TEST

START_TEST(a_parallel_work_is_taken_several_times_up_to_its_limit)
{
	struct td_work wide = make(2), narrow = make(1);

	tdi_queue_push(queue, &wide);
	tdi_queue_push(queue, &narrow);
	ck_assert_ptr_eq(tdi_queue_take(queue), &wide);
	ck_assert_ptr_eq(tdi_queue_take(queue), &narrow);
	ck_assert_ptr_eq(tdi_queue_take(queue), &wide);
	/* the limit of two is reached: only one may come back */
	ck_assert(!give(queue, &narrow, TD_WORK_MORE, 1, 0));
	ck_assert_ptr_eq(tdi_queue_take(queue), &narrow);
	ck_assert(give(queue, &narrow, TD_WORK_DONE, 1, 0));
	/* exhausted, but finished only when the last slice is back */
	ck_assert(!give(queue, &wide, TD_WORK_DONE, 2, 0));
	ck_assert(give(queue, &wide, TD_WORK_MORE, 2, 0));
	ck_assert_ptr_null(tdi_queue_leftover(queue));
}
END_TEST

START_TEST(a_waiting_work_comes_back_when_another_slice_returns)
{
	struct td_work wide = make(2), other = make(1);

	tdi_queue_push(queue, &wide);
	tdi_queue_push(queue, &other);
	ck_assert_ptr_eq(tdi_queue_take(queue), &wide);
	ck_assert_ptr_eq(tdi_queue_take(queue), &other);
	ck_assert_ptr_eq(tdi_queue_take(queue), &wide);
	ck_assert(!give(queue, &wide, TD_WORK_WAIT, 2, 0));
	/* not handed out meanwhile, though there is room under its limit */
	ck_assert(!give(queue, &other, TD_WORK_MORE, 1, 0));
	ck_assert_ptr_eq(tdi_queue_take(queue), &other);
	ck_assert(!give(queue, &wide, TD_WORK_MORE, 1, 0));
	ck_assert_ptr_eq(tdi_queue_take(queue), &wide);
	/* alone and still waiting: it is not lost */
	ck_assert(!give(queue, &wide, TD_WORK_WAIT, 1, 0));
	ck_assert_ptr_eq(tdi_queue_take(queue), &wide);
	ck_assert(give(queue, &wide, TD_WORK_DONE, 1, 0));
	ck_assert(give(queue, &other, TD_WORK_DONE, 1, 0));
}
END_TEST

START_TEST(a_work_put_off_comes_back_after_its_pause_and_not_before)
{
	struct td_work work = make(1);
	uint64_t began;

	tdi_queue_push(queue, &work);
	ck_assert_ptr_eq(tdi_queue_take(queue), &work);
	began = tdi_sys_now_ns();
	ck_assert(!give(queue, &work, TD_WORK_LATER, 1, 0));
	ck_assert_ptr_eq(tdi_queue_take(queue), &work);
	ck_assert_uint_ge(tdi_sys_now_ns() - began, 1000000);
	ck_assert(!give(queue, &work, TD_WORK_LATER, 1, 0));
	ck_assert_uint_eq(work.tdi_pause_ns, 2000000);
	ck_assert_ptr_eq(tdi_queue_take(queue), &work);
	ck_assert(!give(queue, &work, TD_WORK_MORE, 1, 0));
	ck_assert_uint_eq(work.tdi_pause_ns, 0);
	ck_assert_ptr_eq(tdi_queue_take(queue), &work);
	ck_assert(give(queue, &work, TD_WORK_DONE, 1, 0));
}
END_TEST

START_TEST(one_put_off_beside_a_running_slice_waits_for_it)
{
	struct td_work wide = make(2);

	tdi_queue_push(queue, &wide);
	ck_assert_ptr_eq(tdi_queue_take(queue), &wide);
	ck_assert_ptr_eq(tdi_queue_take(queue), &wide);
	ck_assert(!give(queue, &wide, TD_WORK_LATER, 2, 0));
	ck_assert_ptr_null(queue->parked);
	ck_assert(!give(queue, &wide, TD_WORK_WAIT, 2, 0));
	ck_assert_ptr_eq(queue->parked, &wide);
	ck_assert_ptr_eq(tdi_queue_leftover(queue), &wide);
	ck_assert_ptr_null(tdi_queue_leftover(queue));
}
END_TEST

START_TEST(pauses_double_up_to_a_second)
{
	uint64_t pause = 0;

	pause = tdi_queue_next_pause(pause);
	ck_assert_uint_eq(pause, 1000000);
	for (int i = 0; i < 20; i++)
		pause = tdi_queue_next_pause(pause);
	ck_assert_uint_eq(pause, 1000000000);
}
END_TEST

/* D9: one that overstays sits out as many turns; with `overstay` as given back. */
START_TEST(a_work_that_overstays_sits_out_turns)
{
	struct td_work slow = make(1), quick = make(1);

	tdi_queue_push(queue, &slow);
	tdi_queue_push(queue, &quick);
	ck_assert_ptr_eq(tdi_queue_take(queue), &slow);
	ck_assert(!give(queue, &slow, TD_WORK_MORE, 1, 3));
	for (int turn = 0; turn < 4; turn++) { /* its own, and three of the other's */
		ck_assert_ptr_eq(tdi_queue_take(queue), &quick);
		ck_assert(!give(queue, &quick, TD_WORK_MORE, 1, 0));
	}
	ck_assert_ptr_eq(tdi_queue_take(queue), &slow);
	ck_assert(!give(queue, &slow, TD_WORK_MORE, 1, 0));
	/* in time this time: in turn again */
	ck_assert_ptr_eq(tdi_queue_take(queue), &quick);
	ck_assert(!give(queue, &quick, TD_WORK_MORE, 1, 0));
	ck_assert_ptr_eq(tdi_queue_take(queue), &slow);
	ck_assert(give(queue, &slow, TD_WORK_DONE, 1, 0));
	ck_assert_ptr_eq(tdi_queue_take(queue), &quick);
	ck_assert(give(queue, &quick, TD_WORK_DONE, 1, 0));
}
END_TEST

START_TEST(one_that_overstays_sits_out_for_newcomers_too)
{
	struct td_work slow = make(1), news[5];

	tdi_queue_push(queue, &slow);
	ck_assert_ptr_eq(tdi_queue_take(queue), &slow);
	for (int i = 0; i < 5; i++) {
		news[i] = make(1);
		tdi_queue_push(queue, &news[i]);
	}
	ck_assert(!give(queue, &slow, TD_WORK_MORE, 1, UINT64_MAX));
	for (int i = 0; i < 5; i++) {
		ck_assert_ptr_eq(tdi_queue_take(queue), &news[i]);
		ck_assert(give(queue, &news[i], TD_WORK_DONE, 1, 0));
	}
	/* with nobody else to run it does not wait */
	ck_assert_ptr_eq(tdi_queue_take(queue), &slow);
	ck_assert(give(queue, &slow, TD_WORK_DONE, 1, 0));
}
END_TEST

START_TEST(where_all_overstay_all_still_run)
{
	enum { WORKS = 5, ROUNDS = 20 };
	struct td_work works[WORKS];
	unsigned slices[WORKS] = {0}, unfinished = WORKS;

	for (int i = 0; i < WORKS; i++) {
		works[i] = make(1);
		tdi_queue_push(queue, &works[i]);
	}
	while (unfinished > 0) {
		struct td_work *work = tdi_queue_try_take(queue);
		size_t i = (size_t)(work - works);
		bool last;

		ck_assert_ptr_nonnull(work);
		last = ++slices[i] == ROUNDS;
		ck_assert_uint_le(slices[i], ROUNDS);
		if (give(queue, work, last ? TD_WORK_DONE : TD_WORK_MORE, 1,
			 i % 2 ? 1000 : UINT64_MAX))
			unfinished--;
	}
	ck_assert_ptr_null(tdi_queue_try_take(queue));
}
END_TEST

START_TEST(trying_to_take_does_not_wait)
{
	struct td_work work = make(1), other = make(1);

	ck_assert_ptr_null(tdi_queue_try_take(queue));
	tdi_queue_push(queue, &work);
	ck_assert_ptr_eq(tdi_queue_try_take(queue), &work);
	ck_assert_ptr_null(tdi_queue_try_take(queue)); /* it runs, and takes only one */
	ck_assert(!give(queue, &work, TD_WORK_MORE, 1, 100));
	ck_assert_ptr_eq(tdi_queue_try_take(queue), &work);
	ck_assert(!give(queue, &work, TD_WORK_MORE, 1, 0));
	tdi_queue_push(queue, &other);
	ck_assert_ptr_eq(tdi_queue_try_take(queue), &other);
	ck_assert_ptr_eq(tdi_queue_try_take(queue), &work);
	ck_assert(give(queue, &work, TD_WORK_DONE, 1, 0));
	ck_assert(give(queue, &other, TD_WORK_DONE, 1, 0));
}
END_TEST

/* Puts itself off, and then for ever. */
static void park(struct td_work *work)
{
	ck_assert_ptr_eq(tdi_queue_take(queue), work);
	ck_assert(!give(queue, work, TD_WORK_LATER, 1, 0));
	ck_assert_ptr_nonnull(queue->parked);
	ck_assert_ptr_eq(queue->parked->tdi_prev, work);
	work->tdi_due_ns = UINT64_MAX;
}

START_TEST(unparking_ends_all_pauses)
{
	struct td_work works[3];

	for (int i = 0; i < 3; i++) {
		works[i] = make(1);
		tdi_queue_push(queue, &works[i]);
		park(&works[i]);
	}
	ck_assert_ptr_null(tdi_queue_try_take(queue));
	tdi_queue_unpark(queue);
	ck_assert_ptr_null(queue->parked);
	for (int i = 0; i < 3; i++)
		ck_assert_ptr_eq(tdi_queue_try_take(queue), &works[i]);
	for (int i = 0; i < 3; i++)
		ck_assert(give(queue, &works[i], TD_WORK_DONE, 1, 0));
	tdi_queue_unpark(queue); /* and of nothing */
	ck_assert_ptr_null(tdi_queue_try_take(queue));
}
END_TEST

START_TEST(a_queue_is_stuck_when_all_that_is_left_pauses)
{
	struct td_work first = make(1), second = make(1);

	ck_assert(!tdi_queue_is_stuck(queue, 0));
	tdi_queue_push(queue, &first);
	ck_assert(!tdi_queue_is_stuck(queue, 1)); /* it can run */
	park(&first);
	ck_assert(tdi_queue_is_stuck(queue, 1));
	ck_assert(!tdi_queue_is_stuck(queue, 2)); /* another is just being finished */
	tdi_queue_push(queue, &second);
	ck_assert(!tdi_queue_is_stuck(queue, 2));
	ck_assert_ptr_eq(tdi_queue_take(queue), &second);
	ck_assert(!tdi_queue_is_stuck(queue, 2)); /* it runs */
	ck_assert(!give(queue, &second, TD_WORK_LATER, 1, 0));
	ck_assert(tdi_queue_is_stuck(queue, 2));
	tdi_queue_unpark(queue);
	ck_assert(!tdi_queue_is_stuck(queue, 2));
	ck_assert_ptr_eq(tdi_queue_leftover(queue), &first);
	ck_assert_ptr_eq(tdi_queue_leftover(queue), &second);
}
END_TEST

static void *take_one(void *arg)
{
	(void)arg;
	return tdi_queue_take(queue);
}

static void wait_for_sleepers(uint32_t n)
{
	while (atomic_load(&queue->sleepers) < n)
		sched_yield();
}

START_TEST(a_push_wakes_a_sleeper)
{
	struct td_work work = make(1);
	pthread_t thread;
	void *taken;

	pthread_create(&thread, NULL, take_one, NULL);
	wait_for_sleepers(1);
	tdi_queue_push(queue, &work);
	pthread_join(thread, &taken);
	ck_assert_ptr_eq(taken, &work);
}
END_TEST

START_TEST(one_push_of_a_parallel_work_wakes_several_in_turn)
{
	struct td_work work = make(3);
	pthread_t threads[3];

	for (int i = 0; i < 3; i++)
		pthread_create(&threads[i], NULL, take_one, NULL);
	wait_for_sleepers(3);
	tdi_queue_push(queue, &work);
	for (int i = 0; i < 3; i++) {
		void *taken;

		pthread_join(threads[i], &taken);
		ck_assert_ptr_eq(taken, &work);
	}
	ck_assert_uint_eq(work.tdi_running, 3);
}
END_TEST

START_TEST(no_wake_is_paid_for_when_nobody_sleeps)
{
	struct td_work works[10];

	tdt_fail_none();
	for (int i = 0; i < 10; i++) {
		works[i] = make(1);
		tdi_queue_push(queue, &works[i]);
	}
	ck_assert_uint_eq(tdt_calls(TDI_SYS_futex_wake), 0);
}
END_TEST

START_TEST(stopping_ends_every_take_and_leaves_the_works)
{
	struct td_work work = make(1);
	pthread_t threads[4];

	for (int i = 0; i < 4; i++)
		pthread_create(&threads[i], NULL, take_one, NULL);
	wait_for_sleepers(4);
	tdi_queue_stop(queue);
	for (int i = 0; i < 4; i++) {
		void *taken;

		pthread_join(threads[i], &taken);
		ck_assert_ptr_null(taken);
	}
	tdi_queue_push(queue, &work);
	ck_assert_ptr_null(tdi_queue_take(queue));
	ck_assert_ptr_eq(tdi_queue_leftover(queue), &work);
}
END_TEST

enum { PUSHERS = 3, TAKERS = 2, EACH = 2000, SLICES = 3 };

struct counted {
	struct td_work work;
	unsigned slices; /* plain: the queue must order them */
};

static atomic_uint finished;

static void *push_many(void *arg)
{
	struct counted *mine = arg;

	for (int i = 0; i < EACH; i++) {
		mine[i].work = make(1);
		tdi_queue_push(queue, &mine[i].work);
	}
	return NULL;
}

static void *take_many(void *arg)
{
	struct td_work *work;

	(void)arg;
	while ((work = tdi_queue_take(queue)) != NULL) {
		struct counted *counted = tdi_container_of(work, struct counted, work);
		bool last = ++counted->slices == SLICES;

		if (give(queue, work, last ? TD_WORK_DONE : TD_WORK_MORE, 1, 0) &&
		    atomic_fetch_add(&finished, 1) + 1 == PUSHERS * EACH)
			tdi_queue_stop(queue);
	}
	return NULL;
}

START_TEST(every_pushed_work_gets_each_of_its_slices)
{
	struct counted *works = calloc(PUSHERS * EACH, sizeof(*works));
	pthread_t pushers[PUSHERS], takers[TAKERS];

	for (int i = 0; i < TAKERS; i++)
		pthread_create(&takers[i], NULL, take_many, NULL);
	for (int i = 0; i < PUSHERS; i++)
		pthread_create(&pushers[i], NULL, push_many, works + (size_t)i * EACH);
	for (int i = 0; i < PUSHERS; i++)
		pthread_join(pushers[i], NULL);
	for (int i = 0; i < TAKERS; i++)
		pthread_join(takers[i], NULL);
	for (int i = 0; i < PUSHERS * EACH; i++)
		ck_assert_uint_eq(works[i].slices, SLICES);
	free(works);
}
END_TEST

int main(void)
{
	struct tdt *tests = tdt_suite("queue");
	const TTest *all[] = {works_take_turns,
			      a_parallel_work_is_taken_several_times_up_to_its_limit,
			      a_waiting_work_comes_back_when_another_slice_returns,
			      a_work_put_off_comes_back_after_its_pause_and_not_before,
			      one_put_off_beside_a_running_slice_waits_for_it,
			      pauses_double_up_to_a_second,
			      a_push_wakes_a_sleeper,
			      one_push_of_a_parallel_work_wakes_several_in_turn,
			      no_wake_is_paid_for_when_nobody_sleeps,
			      stopping_ends_every_take_and_leaves_the_works,
			      every_pushed_work_gets_each_of_its_slices,
			      a_work_that_overstays_sits_out_turns,
			      one_that_overstays_sits_out_for_newcomers_too,
			      where_all_overstay_all_still_run,
			      trying_to_take_does_not_wait,
			      unparking_ends_all_pauses,
			      a_queue_is_stuck_when_all_that_is_left_pauses};

	for (size_t i = 0; i < sizeof(all) / sizeof(*all); i++)
		tdt_add(tests, all[i], setup, teardown);
	return tdt_run(tests);
}
