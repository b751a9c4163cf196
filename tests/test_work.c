/* SPDX-License-Identifier: MIT */
/* Generic work: submitting, turns, draining; A8, A11 as far as queues and callers go. */
#include "job.h"

#include <errno.h>
#include <sched.h>

/* ---- submitting ---- */

START_TEST(a_work_runs_its_slices_and_is_done_once)
{
	struct job job;

	job_init(&job, 5);
	ck_assert_int_eq(td_engine_submit(engine, &job.work), 0);
	sem_wait(&job.done);
	ck_assert_int_eq(job.status, 0);
	ck_assert_uint_eq(job.slices, 5);
	ck_assert(!pthread_equal(job.ran_on, pthread_self()));
	ck_assert_int_eq(td_engine_drain(engine, TD_FOREVER), 0);
	ck_assert_uint_eq(stats().works_done, 1);
	ck_assert_uint_eq(stats().works_pending, 0);
	ck_assert_uint_eq(stats().bytes_pending, 0);
	ck_assert_uint_eq(stats().bytes_reclaimed, 1000);
	ck_assert_uint_eq(stats().slices, 5);
	/* and again */
	ck_assert_int_eq(td_engine_submit(engine, &job.work), 0);
	sem_wait(&job.done);
	ck_assert_int_eq(sem_trywait(&job.done), -1);
}
END_TEST

START_TEST(a_work_that_is_not_one_is_refused)
{
	struct td_work work;
	struct td_work_ops no_slice = {.done = job_done};

	td_work_init(&work, NULL, 0);
	ck_assert_int_eq(td_engine_submit(engine, NULL), -EINVAL);
	ck_assert_int_eq(td_engine_submit(engine, &work), -EINVAL);
	td_work_init(&work, &no_slice, 0);
	ck_assert_int_eq(td_engine_submit(engine, &work), -EINVAL);
	ck_assert_uint_eq(stats().works_submitted, 0);
}
END_TEST

START_TEST(a_weight_has_a_limit)
{
	struct job job;

	job_init(&job, 1);
	job.work.weight = TDI_WEIGHT_MAX + 1;
	ck_assert_int_eq(td_engine_submit(engine, &job.work), -EINVAL);
	job.work.weight = TDI_WEIGHT_MAX;
	ck_assert_int_eq(td_engine_submit(engine, &job.work), 0);
	sem_wait(&job.done);
}
END_TEST

START_TEST(a_queued_work_is_not_queued_twice)
{
	sem_t entered, may_go;
	struct job job;

	sem_init(&entered, 0, 0);
	sem_init(&may_go, 0, 0);
	job_init(&job, 1);
	job.entered = &entered;
	job.may_go = &may_go;
	ck_assert_int_eq(td_engine_submit(engine, &job.work), 0);
	ck_assert_int_eq(td_engine_submit(engine, &job.work), -EBUSY);
	sem_wait(&entered);
	ck_assert_int_eq(td_engine_submit(engine, &job.work), -EBUSY);
	sem_post(&may_go);
	sem_wait(&job.done);
	ck_assert_uint_eq(job.slices, 1);
}
END_TEST

START_TEST(an_error_ends_a_work_and_is_handed_on)
{
	struct job job;

	job_init(&job, 2);
	job.ends_with = -EIO;
	ck_assert_int_eq(td_engine_submit(engine, &job.work), 0);
	sem_wait(&job.done);
	ck_assert_int_eq(job.status, -EIO);
	ck_assert_int_eq(td_engine_drain(engine, TD_FOREVER), 0);
	ck_assert_uint_eq(stats().works_failed, 1);
	ck_assert_uint_eq(stats().bytes_pending, 0);
}
END_TEST

START_TEST(a_work_may_put_itself_off)
{
	struct job job;

	job_init(&job, 1);
	job.laters = 3;
	ck_assert_int_eq(td_engine_submit(engine, &job.work), 0);
	sem_wait(&job.done);
	ck_assert_int_eq(job.status, 0);
	ck_assert_uint_eq(stats().pauses, 3);
}
END_TEST

/* Small work is never stuck behind a huge one (design promise 5). */
START_TEST(a_small_work_does_not_wait_for_a_huge_one)
{
	sem_t entered, may_go;
	struct job huge, small;

	sem_init(&entered, 0, 0);
	sem_init(&may_go, 0, 0);
	job_init(&huge, 1000000);
	huge.entered = &entered;
	huge.may_go = &may_go;
	job_init(&small, 1);
	ck_assert_int_eq(td_engine_submit(engine, &huge.work), 0);
	sem_wait(&entered);
	ck_assert_int_eq(td_engine_submit(engine, &small.work), 0);
	sem_post(&may_go); /* ends one slice of the huge one, no more */
	sem_wait(&small.done);
	ck_assert_uint_eq(huge.slices, 1);
	huge.want = 2;
	sem_wait(&entered);
	sem_post(&may_go);
	sem_wait(&huge.done);
}
END_TEST

static atomic_uint inside, peak;

static int meet_slice(struct td_work *work, struct td_slice *slice)
{
	sem_t *both = *(sem_t **)(work + 1);
	unsigned now = atomic_fetch_add(&inside, 1) + 1;

	(void)slice;
	if (now == 2) {
		atomic_store(&peak, 2);
		sem_post(both);
	} else {
		sem_wait(both); /* until the other one is in, too */
	}
	return TD_WORK_DONE;
}

START_TEST(a_parallel_work_is_run_by_two_reapers_at_once)
{
	static const struct td_work_ops ops = {.slice = meet_slice};
	sem_t both;
	struct {
		struct td_work work;
		sem_t *both;
	} job = {.both = &both};

	sem_init(&both, 0, 0);
	td_work_init(&job.work, &ops, 0);
	job.work.parallel = 2;
	ck_assert_int_eq(td_engine_submit(engine, &job.work), 0);
	ck_assert_int_eq(td_engine_drain(engine, TD_FOREVER), 0);
	ck_assert_uint_eq(atomic_load(&peak), 2);
}
END_TEST

/* ---- draining ---- */

START_TEST(a_drain_times_out_and_can_be_repeated)
{
	sem_t may_go;
	struct job job;

	sem_init(&may_go, 0, 0);
	job_init(&job, 1);
	job.may_go = &may_go;
	ck_assert_int_eq(td_engine_submit(engine, &job.work), 0);
	for (int i = 0; i < 3; i++)
		ck_assert_int_eq(td_engine_drain(engine, i * 1000000), -ETIMEDOUT);
	sem_post(&may_go);
	ck_assert_int_eq(td_engine_drain(engine, TD_FOREVER), 0);
	ck_assert_int_eq(job.status, 0);
	ck_assert_int_eq(td_engine_drain(engine, 0), 0);
}
END_TEST

static void *drain_forever(void *arg)
{
	return (void *)(intptr_t)td_engine_drain(arg, TD_FOREVER);
}

START_TEST(a_drain_does_not_wait_for_what_comes_after_it)
{
	sem_t may_go[2];
	struct job before, after;
	pthread_t thread;
	void *result;

	sem_init(&may_go[0], 0, 0);
	sem_init(&may_go[1], 0, 0);
	job_init(&before, 1);
	job_init(&after, 1);
	before.may_go = &may_go[0];
	after.may_go = &may_go[1];
	ck_assert_int_eq(td_engine_submit(engine, &before.work), 0);
	pthread_create(&thread, NULL, drain_forever, engine);
	while (atomic_load(&engine->pending.epoch) == 0)
		sched_yield();
	ck_assert_int_eq(td_engine_submit(engine, &after.work), 0);
	sem_post(&may_go[0]);
	pthread_join(thread, &result);
	ck_assert_ptr_null(result);
	ck_assert_int_eq(before.status, 0);
	ck_assert_int_eq(after.status, 99);
	ck_assert_int_eq(td_engine_drain(engine, 1000000), -ETIMEDOUT);
	sem_post(&may_go[1]);
	ck_assert_int_eq(td_engine_drain(engine, TD_FOREVER), 0);
	ck_assert_int_eq(after.status, 0);
}
END_TEST

static int results[3];

static int call_in_slice(struct td_work *work, struct td_slice *slice)
{
	(void)work;
	(void)slice;
	results[0] = td_engine_drain(engine, TD_FOREVER);
	results[1] = td_engine_destroy(engine, TD_EXIT_DRAIN, 0);
	return TD_WORK_DONE;
}

START_TEST(waiting_for_oneself_on_a_reaper_is_refused)
{
	static const struct td_work_ops ops = {.slice = call_in_slice};
	struct td_work work;

	td_work_init(&work, &ops, 0);
	ck_assert_int_eq(td_engine_submit(engine, &work), 0);
	ck_assert_int_eq(td_engine_drain(engine, TD_FOREVER), 0);
	ck_assert_int_eq(results[0], -EDEADLK);
	ck_assert_int_eq(results[1], -EDEADLK);
}
END_TEST

/* ---- system calls failing ---- */

START_TEST(failing_futexes_lose_no_work)
{
	struct job jobs[50];

	tdt_fail(TDI_SYS_futex_wait, -EINTR, 0, 500);
	for (int i = 0; i < 50; i++) {
		job_init(&jobs[i], 2);
		jobs[i].laters = i % 7 == 0;
		ck_assert_int_eq(td_engine_submit(engine, &jobs[i].work), 0);
	}
	ck_assert_int_eq(td_engine_drain(engine, TD_FOREVER), 0);
	for (int i = 0; i < 50; i++)
		ck_assert_int_eq(jobs[i].status, 0);
}
END_TEST

int main(void)
{
	struct tdt *tests = tdt_suite("work");

	tdt_add(tests, a_work_runs_its_slices_and_is_done_once, setup, teardown);
	tdt_add(tests, a_work_that_is_not_one_is_refused, setup, teardown);
	tdt_add(tests, a_weight_has_a_limit, setup, teardown);
	tdt_add(tests, a_queued_work_is_not_queued_twice, setup, teardown);
	tdt_add(tests, an_error_ends_a_work_and_is_handed_on, setup, teardown);
	tdt_add(tests, a_work_may_put_itself_off, setup, teardown);
	tdt_add(tests, a_small_work_does_not_wait_for_a_huge_one, setup, teardown);
	tdt_add(tests, a_parallel_work_is_run_by_two_reapers_at_once, setup_two,
		teardown);
	tdt_add(tests, a_drain_times_out_and_can_be_repeated, setup, teardown);
	tdt_add(tests, a_drain_does_not_wait_for_what_comes_after_it, setup, teardown);
	tdt_add(tests, waiting_for_oneself_on_a_reaper_is_refused, setup, teardown);
	tdt_add(tests, failing_futexes_lose_no_work, setup, teardown);
	return tdt_run(tests);
}
