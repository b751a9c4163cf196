/* SPDX-License-Identifier: MIT */
/* D9: the slice, the rate and fast mode, set when an engine is made and while it runs. */
#include "job.h"

#include <errno.h>
#include <sys/wait.h>
#include <teardown.h>
#include <unistd.h>

static void make(const struct td_engine_opts *opts)
{
	struct td_engine_opts own = *opts;

	if (!own.reapers)
		own.reapers = 1;
	ck_assert_int_eq(td_engine_create(&own, &engine), 0);
}

/* ---- how long a slice is to last ---- */

struct ask {
	struct td_work work;
	uint64_t target_ns, had_ns;
	sem_t done;
};

static int ask_slice(struct td_work *work, struct td_slice *slice)
{
	struct ask *ask = tdi_container_of(work, struct ask, work);

	ask->target_ns = slice->target_ns;
	ask->had_ns = slice->deadline_ns - tdi_sys_now_ns();
	return TD_WORK_DONE;
}

static void ask_done(struct td_work *work, int status)
{
	ck_assert_int_eq(status, 0);
	sem_post(&tdi_container_of(work, struct ask, work)->done);
}

static uint64_t target(void)
{
	static const struct td_work_ops ops = {ask_slice, ask_done};
	struct ask ask = {0};

	td_work_init(&ask.work, &ops, 0);
	sem_init(&ask.done, 0, 0);
	ck_assert_int_eq(td_engine_submit(engine, &ask.work), 0);
	sem_wait(&ask.done);
	if (ask.had_ns < INT64_MAX) /* else the deadline had passed */
		ck_assert_uint_le(ask.had_ns, ask.target_ns);
	ck_assert_int_eq(td_engine_drain(engine, TD_FOREVER), 0);
	return ask.target_ns;
}

START_TEST(a_slice_lasts_as_long_as_it_was_set_to)
{
	make(TD_ENGINE_OPTS(.slice_ns = 100000));
	ck_assert_uint_eq(target(), 100000);
	ck_assert_int_eq(td_engine_set_slice(engine, 7000000), 0);
	ck_assert_uint_eq(target(), 7000000);
	ck_assert_int_eq(td_engine_set_slice(engine, 0), 0);
	ck_assert_uint_eq(target(), TDI_SLICE_NS);
	ck_assert_int_eq(td_engine_set_slice(engine, UINT64_MAX), 0);
	ck_assert_uint_eq(target(), INT64_MAX);
	ck_assert_int_eq(td_engine_set_fast(engine, true), 0);
	ck_assert_uint_eq(target(), INT64_MAX);
	teardown();
}
END_TEST

START_TEST(fast_mode_makes_slices_longer_until_it_ends)
{
	make(TD_ENGINE_OPTS(.flags = TD_ENGINE_FAST));
	ck_assert_uint_eq(target(), TDI_SLICE_NS * TDI_FAST_TIMES);
	ck_assert_int_eq(td_engine_set_fast(engine, false), 0);
	ck_assert_uint_eq(target(), TDI_SLICE_NS);
	ck_assert_int_eq(td_engine_set_slice(engine, 1000), 0);
	ck_assert_int_eq(td_engine_set_fast(engine, true), 0);
	ck_assert_uint_eq(target(), 1000 * TDI_FAST_TIMES);
	teardown();
}
END_TEST

/* ---- the rate ---- */

#define PART 1000u /* bytes a slice of job_init()'s 1000 in one slice */

static void submit(struct job *jobs, unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		job_init(&jobs[i], 1);
		ck_assert_int_eq(td_engine_submit(engine, &jobs[i].work), 0);
	}
}

static double seconds_since(uint64_t began)
{
	return (double)(tdi_sys_now_ns() - began) / 1e9;
}

/* 20 works of 1000 bytes at 50000 a second take 0.4 s, but for the first. */
static void check_rate(unsigned reapers)
{
	uint64_t began = tdi_sys_now_ns();
	struct job jobs[20];

	make(TD_ENGINE_OPTS(.bytes_per_s = 50000, .reapers = reapers));
	submit(jobs, 20);
	ck_assert_int_eq(td_engine_drain(engine, TD_FOREVER), 0);
	ck_assert(seconds_since(began) >= 0.8 * (20 - reapers) * PART / 50000);
	ck_assert_uint_eq(stats().works_in_caller, 0);
	teardown();
}

START_TEST(reapers_keep_to_the_rate)
{
	check_rate(1);
}
END_TEST

START_TEST(reapers_keep_to_the_rate_together)
{
	check_rate(3);
}
END_TEST

START_TEST(memory_comes_back_at_the_rate)
{
	uint64_t began = tdi_sys_now_ns();
	const size_t size = 64 * MIB;
	td_space *space;
	void *memory;

	make(TD_ENGINE_OPTS(.bytes_per_s = 256 * MIB));
	ck_assert_int_eq(td_space_create(engine, NULL, &space), 0);
	ck_assert_int_eq(td_region_map(space, size, NULL, &memory), 0);
	tdt_touch(memory, size);
	ck_assert_int_eq(td_space_grab(space), 0);
	ck_assert_int_eq(td_space_put(space), 0);
	ck_assert_int_eq(td_space_wait(space, TD_EVENT_RECLAIMED, TD_FOREVER), 0);
	/* The last step, which no more waits for, is less than half of it. */
	ck_assert(seconds_since(began) >= 0.8 * 0.125);
	ck_assert_int_eq(td_space_drop(space), 0);
	teardown();
}
END_TEST

/* One that has been paid for long since, so that the next ones have to wait for hours. */
static void run_into_debt(struct job *job)
{
	job_init(job, 1);
	job->work.cost = UINT64_C(1) << 40;
	ck_assert_int_eq(td_engine_submit(engine, &job->work), 0);
	sem_wait(&job->done);
	ck_assert_int_eq(td_engine_drain(engine, TD_FOREVER), 0);
}

START_TEST(works_without_a_cost_are_not_held_up)
{
	struct job debt, waits, free;

	make(TD_ENGINE_OPTS(.bytes_per_s = 1));
	run_into_debt(&debt);
	submit(&waits, 1);
	job_init(&free, 3);
	free.work.cost = 0;
	ck_assert_int_eq(td_engine_submit(engine, &free.work), 0);
	sem_wait(&free.done);
	ck_assert_int_eq(sem_trywait(&waits.done), -1);
	ck_assert_int_eq(td_engine_set_rate(engine, 0), 0);
	sem_wait(&waits.done);
	teardown();
}
END_TEST

START_TEST(a_caller_that_helps_is_not_held_up)
{
	struct job debt, waits[3];

	make(TD_ENGINE_OPTS(.bytes_per_s = 1));
	run_into_debt(&debt);
	submit(waits, 3);
	ck_assert_int_eq(td_engine_relieve(engine), 0);
	for (unsigned i = 0; i < 3; i++) {
		sem_wait(&waits[i].done);
		ck_assert(pthread_equal(waits[i].ran_on, pthread_self()));
	}
	teardown();
}
END_TEST

/* A reaper that sleeps until next week, or is about to. */
START_TEST(no_change_of_the_rate_is_slept_through)
{
	struct job debt, waits[4];

	make(TD_ENGINE_OPTS(.reapers = 2));
	for (unsigned round = 0; round < 200; round++) {
		ck_assert_int_eq(td_engine_set_rate(engine, 1), 0);
		run_into_debt(&debt);
		submit(waits, 4);
		if (round % 2) /* of the debt nothing to speak of is left */
			ck_assert_int_eq(td_engine_set_rate(engine, UINT64_MAX), 0);
		else
			ck_assert_int_eq(td_engine_set_rate(engine, 0), 0);
		for (unsigned i = 0; i < 4; i++)
			sem_wait(&waits[i].done);
	}
	teardown();
}
END_TEST

START_TEST(an_engine_is_abandoned_whatever_the_rate)
{
	struct job debt, waits;

	make(TD_ENGINE_OPTS(.bytes_per_s = 1, .reapers = 2));
	run_into_debt(&debt);
	submit(&waits, 1);
	ck_assert_int_eq(td_engine_drain(engine, 1000000), -ETIMEDOUT);
	ck_assert_int_eq(td_engine_destroy(engine, TD_EXIT_ABANDON, 0), 0);
	sem_wait(&waits.done);
	ck_assert_int_eq(waits.status, -ECANCELED);
}
END_TEST

START_TEST(fast_mode_leaves_the_rate_in_force)
{
	struct job debt, waits;

	make(TD_ENGINE_OPTS(.bytes_per_s = 1, .flags = TD_ENGINE_FAST));
	run_into_debt(&debt);
	submit(&waits, 1);
	ck_assert_int_eq(td_engine_drain(engine, 20000000), -ETIMEDOUT);
	ck_assert_int_eq(td_engine_destroy(engine, TD_EXIT_ABANDON, 0), 0);
	sem_wait(&waits.done);
}
END_TEST

START_TEST(a_child_cannot_set_its_parents)
{
	pid_t child;
	int status;

	make(TD_ENGINE_OPTS());
	child = fork();
	if (child == 0)
		_exit(td_engine_set_slice(engine, 1) != -ECHILD ||
		      td_engine_set_rate(engine, 1) != -ECHILD ||
		      td_engine_set_fast(engine, true) != -ECHILD);
	ck_assert_int_eq(waitpid(child, &status, 0), child);
	ck_assert_int_eq(status, 0);
	teardown();
}
END_TEST

int main(void)
{
	struct tdt *tests = tdt_suite("tune");

	tdt_add(tests, a_slice_lasts_as_long_as_it_was_set_to, NULL, NULL);
	tdt_add(tests, fast_mode_makes_slices_longer_until_it_ends, NULL, NULL);
	tdt_add(tests, reapers_keep_to_the_rate, NULL, NULL);
	tdt_add(tests, reapers_keep_to_the_rate_together, NULL, NULL);
	tdt_add(tests, memory_comes_back_at_the_rate, NULL, NULL);
	tdt_add(tests, works_without_a_cost_are_not_held_up, NULL, NULL);
	tdt_add(tests, a_caller_that_helps_is_not_held_up, NULL, NULL);
	tdt_add(tests, no_change_of_the_rate_is_slept_through, NULL, NULL);
	tdt_add(tests, an_engine_is_abandoned_whatever_the_rate, NULL, NULL);
	tdt_add(tests, fast_mode_leaves_the_rate_in_force, NULL, NULL);
	tdt_add(tests, a_child_cannot_set_its_parents, NULL, NULL);
	return tdt_run(tests);
}
