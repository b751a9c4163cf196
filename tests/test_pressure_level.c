/* SPDX-License-Identifier: MIT */
/* B5, D9, A11: what a level of pressure changes while it holds. */
#include "job.h"
#include "pressure.h"

#include <errno.h>
#include <teardown.h>
#include <teardown/pressure.h>

static void report(enum td_pressure level)
{
	ck_assert_int_eq(td_engine_pressure(engine, level, NULL), 0);
	ck_assert_uint_eq(stats().pressure, (uint64_t)level);
}

static void submit(struct job *job)
{
	ck_assert_int_eq(td_engine_submit(engine, &job->work), 0);
}

static bool ran_here(const struct job *job)
{
	return pthread_equal(job->ran_on, pthread_self());
}

/* ---- fast mode, the rate, and who goes first ---- */

START_TEST(slices_are_long_while_memory_is_short)
{
	ck_assert_uint_eq(tdi_engine_slice_ns(engine), TDI_SLICE_NS);
	report(TD_PRESSURE_SOME);
	ck_assert_uint_eq(tdi_engine_slice_ns(engine), TDI_SLICE_NS * TDI_FAST_TIMES);
	report(TD_PRESSURE_FULL);
	ck_assert_uint_eq(tdi_engine_slice_ns(engine), TDI_SLICE_NS * TDI_FAST_TIMES);
	report(TD_PRESSURE_NONE);
	ck_assert_uint_eq(tdi_engine_slice_ns(engine), TDI_SLICE_NS);
	/* What was asked for meanwhile is there afterwards. */
	report(TD_PRESSURE_SOME);
	ck_assert_int_eq(td_engine_set_fast(engine, true), 0);
	ck_assert_int_eq(td_engine_set_slice(engine, 1000), 0);
	report(TD_PRESSURE_NONE);
	ck_assert_uint_eq(tdi_engine_slice_ns(engine), 1000 * TDI_FAST_TIMES);
	ck_assert_int_eq(td_engine_set_fast(engine, false), 0);
	ck_assert_uint_eq(tdi_engine_slice_ns(engine), 1000);
}
END_TEST

START_TEST(a_rate_holds_nobody_up_while_memory_is_short)
{
	struct job debt, waits[3];

	ck_assert_int_eq(td_engine_set_rate(engine, 1), 0);
	job_init(&debt, 1);
	submit(&debt);
	ck_assert_int_eq(td_engine_drain(engine, TD_FOREVER), 0);
	for (int i = 0; i < 3; i++) {
		job_init(&waits[i], 1);
		submit(&waits[i]);
	}
	ck_assert_int_eq(td_engine_drain(engine, 1000000), -ETIMEDOUT);
	report(TD_PRESSURE_SOME);
	ck_assert_int_eq(td_engine_drain(engine, TD_FOREVER), 0);
	ck_assert(!ran_here(&waits[0]));

	report(TD_PRESSURE_NONE); /* and again it does */
	for (int i = 0; i < 3; i++) {
		job_init(&waits[i], 1);
		submit(&waits[i]);
	}
	ck_assert_int_eq(td_engine_drain(engine, 20000000), -ETIMEDOUT);
	ck_assert_int_eq(td_engine_set_rate(engine, 0), 0);
	ck_assert_int_eq(td_engine_drain(engine, TD_FOREVER), 0);
}
END_TEST

static unsigned clock_of_works;
struct ordered {
	struct td_work work;
	unsigned at;
};

static int ordered_slice(struct td_work *work, struct td_slice *slice)
{
	slice->released = work->cost;
	tdi_container_of(work, struct ordered, work)->at = ++clock_of_works;
	return TD_WORK_DONE;
}

static const struct td_work_ops ordered_ops = {.slice = ordered_slice};

/* One that holds the reaper, two works of the host's, and one that gives memory back. */
static bool memory_goes_first(void)
{
	struct ordered works[3] = {0};
	sem_t entered, may_go;
	struct job holds;

	sem_init(&entered, 0, 0);
	sem_init(&may_go, 0, 0);
	job_init(&holds, 1);
	holds.entered = &entered;
	holds.may_go = &may_go;
	submit(&holds);
	sem_wait(&entered);
	for (int i = 0; i < 3; i++) {
		td_work_init(&works[i].work, &ordered_ops, 64 * MIB);
		works[i].work.tdi_gives_memory = i == 2;
		ck_assert_int_eq(td_engine_submit(engine, &works[i].work), 0);
	}
	sem_post(&may_go);
	ck_assert_int_eq(td_engine_drain(engine, TD_FOREVER), 0);
	return works[2].at < works[0].at && works[2].at < works[1].at;
}

START_TEST(what_gives_memory_back_goes_first_while_it_is_short)
{
	ck_assert(!memory_goes_first());
	report(TD_PRESSURE_SOME);
	ck_assert(memory_goes_first());
	report(TD_PRESSURE_NONE);
	ck_assert(!memory_goes_first());
}
END_TEST

/* ---- full: in the caller ---- */

START_TEST(at_full_pressure_a_work_runs_in_its_submitter)
{
	static const enum td_pressure levels[] = {TD_PRESSURE_NONE, TD_PRESSURE_SOME,
						  TD_PRESSURE_FULL, TD_PRESSURE_SOME};
	struct job job;

	for (unsigned i = 0; i < 4; i++) {
		report(levels[i]);
		job_init(&job, 3);
		submit(&job);
		if (levels[i] == TD_PRESSURE_FULL) /* before the call returns */
			ck_assert_int_eq(sem_trywait(&job.done), 0);
		else
			sem_wait(&job.done);
		ck_assert_int_eq(ran_here(&job), levels[i] == TD_PRESSURE_FULL);
		ck_assert_int_eq(job.status, 0);
	}
	ck_assert_uint_eq(stats().works_in_caller, 1);
}
END_TEST

START_TEST(works_without_a_cost_stay_in_the_background)
{
	struct job job;

	report(TD_PRESSURE_FULL);
	job_init(&job, 1);
	job.work.cost = 0;
	submit(&job);
	sem_wait(&job.done);
	ck_assert(!ran_here(&job));
	report(TD_PRESSURE_NONE);
}
END_TEST

/* What can do nothing is left to the reapers, after a second. */
START_TEST(a_work_that_pauses_for_long_is_not_lost_at_full_pressure)
{
	struct job job;

	report(TD_PRESSURE_FULL);
	job_init(&job, 1);
	job.laters = 12;
	submit(&job);
	sem_wait(&job.done);
	ck_assert(!ran_here(&job));
	ck_assert_int_eq(job.status, 0);
	report(TD_PRESSURE_NONE);
}
END_TEST

static struct job again;
static unsigned rounds;

static void again_done(struct td_work *work, int status)
{
	if (++rounds < 10000) {
		again.slices = 0;
		ck_assert_int_eq(td_engine_submit(engine, work), 0);
	} else {
		job_done(work, status);
	}
}

/* In a callback that would be a recursion without end. */
START_TEST(a_callback_that_submits_is_not_made_to_run_it)
{
	static const struct td_work_ops ops = {job_slice, again_done};

	job_init(&again, 1);
	again.work.ops = &ops;
	report(TD_PRESSURE_FULL);
	submit(&again);
	sem_wait(&again.done);
	ck_assert_uint_eq(rounds, 10000);
	report(TD_PRESSURE_NONE);
}
END_TEST

START_TEST(at_full_pressure_memory_is_back_when_put_and_munmap_return)
{
	const size_t size = 96 * MIB;
	char *plain = tdt_map_anon(size);
	td_space *space;
	void *memory;

	ck_assert_int_eq(td_space_create(engine, NULL, &space), 0);
	ck_assert_int_eq(td_region_map(space, size, NULL, &memory), 0);
	tdt_touch(memory, size);
	tdt_touch(plain, size);
	report(TD_PRESSURE_FULL);
	ck_assert_int_eq(td_space_grab(space), 0);
	ck_assert_int_eq(td_space_put(space), 0);
	ck_assert_int_eq(td_space_wait(space, TD_EVENT_RECLAIMED, 0), 0);
	ck_assert_uint_eq(tdt_mapped(memory, size), 0);
	ck_assert_int_eq(td_space_drop(space), 0);
	ck_assert_int_eq(td_engine_munmap(engine, plain, size, 0), 0);
	ck_assert_uint_eq(stats().bytes_pending, 0);
	ck_assert_uint_eq(stats().bytes_quarantined, 0);
	ck_assert_uint_eq(tdt_mapped(plain, size), 0);
	report(TD_PRESSURE_NONE);
}
END_TEST

/* ---- shrinkers ---- */

static enum td_pressure shrunk_at;

static uint64_t shrink(struct td_shrinker *shrinker, enum td_pressure level)
{
	(void)shrinker;
	/* What holds is in force before anybody is asked. */
	ck_assert_uint_eq(stats().pressure, (uint64_t)level);
	shrunk_at = level;
	return 5;
}

START_TEST(the_larger_of_the_hosts_level_and_the_kernels_holds)
{
	struct td_shrinker shrinker = {.shrink = shrink};

	ck_assert_int_eq(td_engine_add_shrinker(engine, &shrinker), 0);
	tdi_pressure_tell(engine, TD_PRESSURE_SOME); /* as the kernel */
	ck_assert_int_eq(shrunk_at, TD_PRESSURE_SOME);
	report(TD_PRESSURE_FULL);
	tdi_pressure_tell(engine, TD_PRESSURE_NONE);
	ck_assert_int_eq(shrunk_at, TD_PRESSURE_FULL);
	tdi_pressure_tell(engine, TD_PRESSURE_SOME);
	ck_assert_int_eq(td_engine_pressure(engine, TD_PRESSURE_NONE, NULL), 0);
	ck_assert_int_eq(shrunk_at, TD_PRESSURE_SOME);
	ck_assert_uint_eq(stats().pressure, TD_PRESSURE_SOME);
	tdi_pressure_tell(engine, TD_PRESSURE_NONE);
	ck_assert_int_eq(shrunk_at, TD_PRESSURE_NONE);
	ck_assert_int_eq(td_engine_remove_shrinker(engine, &shrinker), 0);
}
END_TEST

int main(void)
{
	struct tdt *tests = tdt_suite("pressure_level");
	const TTest *all[] = {
		slices_are_long_while_memory_is_short,
		a_rate_holds_nobody_up_while_memory_is_short,
		what_gives_memory_back_goes_first_while_it_is_short,
		at_full_pressure_a_work_runs_in_its_submitter,
		works_without_a_cost_stay_in_the_background,
		a_work_that_pauses_for_long_is_not_lost_at_full_pressure,
		a_callback_that_submits_is_not_made_to_run_it,
		at_full_pressure_memory_is_back_when_put_and_munmap_return,
		the_larger_of_the_hosts_level_and_the_kernels_holds,
	};

	for (size_t i = 0; i < sizeof(all) / sizeof(*all); i++)
		tdt_add(tests, all[i], setup, teardown);
	return tdt_run(tests);
}
