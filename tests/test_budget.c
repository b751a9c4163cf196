/* SPDX-License-Identifier: MIT */
/* A11: pending bytes are bounded. What a caller meets at the bound, with works that tell
 * exactly when and where they run. */
#include "budgeted.h"
#include "memlimit.h"

#include <sys/wait.h>

/* ---- setting it ---- */

/* Design promise 4: it would wait for room in a terabyte. */
START_TEST(a_small_work_is_done_by_who_brings_it_where_there_is_no_room)
{
	static struct job large, small;

	engine->budget.small = 2 * MIB;
	job_init(&large, 1);
	large.work.cost = LIMIT;
	ck_assert_int_eq(td_engine_submit(engine, &large.work), 0);
	job_init(&small, 1);
	small.work.cost = 4096;
	ck_assert_int_eq(td_engine_submit(engine, &small.work), 0);
	ck_assert_int_eq(sem_trywait(&small.done), 0);
	ck_assert(pthread_equal(small.ran_on, pthread_self()));
	ck_assert_uint_eq(stats().budget_in_place, 1);
	ck_assert_uint_eq(stats().budget_helped, 0);
}
END_TEST

START_TEST(the_default_is_half_of_what_there_is)
{
	td_engine *other;

	ck_assert_uint_eq(stats().budget, LIMIT);
	set_budget(0, TD_BUDGET_HELP);
	ck_assert_uint_eq(stats().budget, tdi_memlimit() / 2);
	ck_assert_uint_gt(stats().budget, MIB);
	ck_assert_int_eq(td_engine_create(TD_ENGINE_OPTS(.budget = 77,
							 .budget_policy = TD_BUDGET_WAIT),
					  &other),
			 0);
	ck_assert_uint_eq(atomic_load(&other->budget.limit), 77);
	ck_assert_int_eq(atomic_load(&other->budget_policy), TD_BUDGET_WAIT);
	ck_assert_int_eq(td_engine_destroy(other, TD_EXIT_DRAIN, 0), 0);
	ck_assert_int_eq(td_engine_create(NULL, &other), 0);
	ck_assert_uint_eq(atomic_load(&other->budget.limit), tdi_memlimit() / 2);
	ck_assert_int_eq(td_engine_destroy(other, TD_EXIT_DRAIN, 0), 0);
}
END_TEST

START_TEST(what_is_no_policy_is_refused)
{
	int status;
	pid_t pid;

	ck_assert_int_eq(td_engine_set_budget(engine, 1, (enum td_budget_policy)3),
			 -EINVAL);
	ck_assert_uint_eq(stats().budget, LIMIT);
	pid = fork();
	if (pid == 0)
		_exit(td_engine_set_budget(engine, 1, TD_BUDGET_HELP) == -ECHILD ? 0 : 1);
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert_int_eq(status, 0);
}
END_TEST

START_TEST(the_default_engine_has_one_too)
{
	struct td_engine_stats now;

	ck_assert_int_eq(td_engine_set_budget(NULL, 12345, TD_BUDGET_AGAIN), 0);
	ck_assert_int_eq(td_engine_stats(NULL, &now), 0);
	ck_assert_uint_eq(now.budget, 12345);
}
END_TEST

/* ---- room ---- */

START_TEST(what_fits_is_left_to_reapers)
{
	static struct job jobs[2];

	fill_budget(jobs, 1);
	ck_assert_uint_eq(stats().bytes_pending, 2000);
	ck_assert_uint_eq(stats().bytes_pending_peak, 2000);
	ck_assert_uint_eq(stats().budget_helped, 0);
	ck_assert(!is_done(&jobs[0]));
}
END_TEST

START_TEST(one_larger_than_the_budget_is_taken_when_nothing_is_pending)
{
	static struct job large, small;

	job_init(&large, 2);
	large.work.cost = 10 * LIMIT;
	submit(&large);
	ck_assert_uint_eq(pending(), 10 * LIMIT);
	ck_assert_uint_eq(large.slices, 0);
	/* and nothing beside it */
	job_init(&small, 1);
	submit(&small);
	ck_assert(is_done(&large));
	ck_assert(ran_here(&large));
	ck_assert(!is_done(&small));
	ck_assert_uint_eq(stats().bytes_pending_peak, 10 * LIMIT);
}
END_TEST

START_TEST(works_without_a_cost_need_no_room)
{
	static struct job jobs[2], free_of_charge;

	fill_budget(jobs, 1);
	set_budget(LIMIT, TD_BUDGET_AGAIN);
	job_init(&free_of_charge, 1);
	free_of_charge.work.cost = 0;
	submit(&free_of_charge);
	ck_assert_uint_eq(pending(), 2000);
}
END_TEST

START_TEST(an_error_or_a_short_count_leaves_nothing_behind)
{
	static struct job jobs[2];

	for (int i = 0; i < 2; i++) {
		job_init(&jobs[i], 3); /* 333 bytes a slice: one is never told */
		jobs[i].ends_with = i ? -EIO : 0;
		submit(&jobs[i]);
	}
	let_go(&holder);
	drain();
	ck_assert_uint_eq(pending(), 0);
	ck_assert_int_eq(jobs[1].status, -EIO);
	hold_reaper(&holder);
}
END_TEST

START_TEST(what_is_abandoned_gives_its_room_back)
{
	struct td_engine *other;
	struct job job, after;

	ck_assert_int_eq(
		td_engine_create(TD_ENGINE_OPTS(.reapers = 1, .budget = LIMIT), &other),
		0);
	tdi_engine_get(other);
	job_init(&job, 1);
	job.laters = 1000000;
	ck_assert_int_eq(td_engine_submit(other, &job.work), 0);
	ck_assert_int_eq(td_engine_destroy(other, TD_EXIT_ABANDON, 0), 0);
	ck_assert_int_eq(job.status, -ECANCELED);
	ck_assert_uint_eq(atomic_load(&other->bytes_pending), 0);
	/* and what comes after is freed by its caller */
	job_init(&after, 1);
	after.work.cost = 10 * LIMIT;
	ck_assert_int_eq(td_engine_submit(other, &after.work), 0);
	ck_assert(is_done(&after));
	ck_assert(ran_here(&after));
	ck_assert_uint_eq(atomic_load(&other->bytes_pending), 0);
	tdi_engine_put(other);
}
END_TEST

/* ---- helping ---- */

START_TEST(a_caller_runs_slices_until_there_is_room)
{
	static struct job jobs[2], more;

	fill_budget(jobs, 2);
	job_init(&more, 1);
	submit(&more);
	/* one slice of 500 bytes, of the oldest, was enough */
	ck_assert_uint_eq(jobs[0].slices, 1);
	ck_assert(ran_here(&jobs[0]));
	ck_assert_uint_eq(jobs[1].slices, 0);
	ck_assert_uint_eq(more.slices, 0);
	ck_assert_uint_eq(pending(), LIMIT);
	ck_assert_uint_eq(stats().budget_helped, 1);
	ck_assert_uint_eq(stats().budget_in_place, 0);
}
END_TEST

START_TEST(the_oldest_goes_first_whose_turn_it_ever_is)
{
	static struct job jobs[2], more[4];

	fill_budget(jobs, 2);
	for (int i = 0; i < 4; i++) {
		job_init(&more[i], 2);
		submit(&more[i]);
	}
	/* 4000 were to be made room for: of the two first, then of the next */
	ck_assert(is_done(&jobs[0]));
	ck_assert(is_done(&jobs[1]));
	ck_assert(is_done(&more[0]));
	ck_assert_uint_eq(more[1].slices, 1);
	ck_assert_uint_eq(more[2].slices + more[3].slices, 0);
}
END_TEST

START_TEST(works_that_make_no_room_are_left_alone)
{
	static struct job free_of_charge, jobs[2], more;

	job_init(&free_of_charge, 1);
	free_of_charge.work.cost = 0;
	submit(&free_of_charge);
	fill_budget(jobs, 1);
	job_init(&more, 1);
	submit(&more);
	ck_assert_uint_eq(free_of_charge.slices, 0);
	ck_assert_uint_eq(jobs[0].slices, 1);
}
END_TEST

START_TEST(what_another_thread_has_in_hand_is_waited_for)
{
	static struct other other;
	sem_t entered, may_go;
	struct job job;

	sem_init(&entered, 0, 0);
	sem_init(&may_go, 0, 0);
	job_init(&job, 1);
	job.entered = &entered;
	job.may_go = &may_go;
	job.work.cost = LIMIT;
	submit(&job);
	sem_wait(&entered); /* on the reaper */
	other_submits(&other, 1000);
	await_sleepers(1);
	ck_assert(!atomic_load(&other.over));
	sem_post(&may_go);
	other_joined(&other);
	drain();
	ck_assert_uint_eq(stats().budget_in_place, 0);
}
END_TEST

/* Nothing depends on somebody else to come on. */
START_TEST(when_nothing_moves_the_caller_frees_his_own)
{
	for (int policy = TD_BUDGET_HELP; policy <= TD_BUDGET_WAIT; policy++) {
		sem_t entered, may_go;
		struct job job, own;

		engine->budget.help_patience_ns = 1000;
		engine->budget.wait_patience_ns = 1000;
		engine->budget.wait_look_ns = 1000;
		set_budget(LIMIT, (enum td_budget_policy)policy);
		sem_init(&entered, 0, 0);
		sem_init(&may_go, 0, 0);
		job_init(&job, 1);
		job.entered = &entered;
		job.may_go = &may_go;
		job.work.cost = LIMIT;
		submit(&job);
		sem_wait(&entered);
		job_init(&own, 1);
		submit(&own);
		ck_assert(is_done(&own));
		ck_assert(ran_here(&own));
		ck_assert_uint_eq(pending(), LIMIT);
		sem_post(&may_go);
		drain();
	}
	ck_assert_uint_eq(stats().budget_in_place, 2);
	ck_assert_uint_eq(stats().bytes_pending_peak, LIMIT);
}
END_TEST

START_TEST(when_all_is_stuck_the_caller_frees_his_own)
{
	for (int policy = TD_BUDGET_HELP; policy <= TD_BUDGET_WAIT; policy++) {
		struct job stuck, own;

		/* The work before this may not have been counted out yet. */
		engine->budget.wait_look_ns = 1000000;
		set_budget(LIMIT, (enum td_budget_policy)policy);
		job_init(&stuck, 1);
		stuck.work.cost = LIMIT;
		stuck.laters = 12; /* seconds */
		submit(&stuck);
		job_init(&own, 1);
		submit(&own);
		ck_assert(is_done(&own));
		ck_assert(ran_here(&own));
		ck_assert_uint_eq(stats().budget_in_place, 1 + (uint64_t)policy);
		while (td_engine_relieve(engine) == -EAGAIN)
			;
	}
}
END_TEST

/* ---- waiting ---- */

START_TEST(a_waiter_sleeps_until_there_is_room)
{
	static struct job jobs[2];
	static struct other other;

	fill_budget(jobs, 1);
	set_budget(LIMIT, TD_BUDGET_WAIT);
	other_submits(&other, 1000);
	await_sleepers(1);
	ck_assert(!atomic_load(&other.over));
	ck_assert_uint_eq(jobs[0].slices, 0);
	let_go(&holder);
	other_joined(&other);
	drain();
	ck_assert(!pthread_equal(jobs[0].ran_on, other.thread));
	ck_assert_uint_eq(stats().budget_waited, 1);
	ck_assert_uint_eq(stats().budget_helped, 0);
	ck_assert_uint_le(stats().bytes_pending_peak, LIMIT);
	hold_reaper(&holder);
}
END_TEST

START_TEST(all_waiters_get_their_room)
{
	static struct other others[8];
	static struct job jobs[2];

	fill_budget(jobs, 1);
	set_budget(LIMIT, TD_BUDGET_WAIT);
	/* The first in line is a large one: else a small one would still find room. */
	for (unsigned i = 0; i < 8; i++) {
		other_submits(&others[i], i % 2 ? 300 : 2 * LIMIT);
		await_sleepers(i + 1);
	}
	let_go(&holder);
	for (int i = 0; i < 8; i++)
		other_joined(&others[i]);
	drain();
	ck_assert_uint_eq(stats().works_done, 11);
	ck_assert_uint_eq(stats().budget_in_place, 0);
	ck_assert_uint_eq(stats().bytes_pending_peak, 2 * LIMIT);
	hold_reaper(&holder);
}
END_TEST

/* Small ones that keep coming do not pass by a large one for ever. */
START_TEST(others_leave_room_for_the_first_in_line)
{
	static struct job jobs[2];
	static struct other other;

	fill_budget(jobs, 1);
	set_budget(LIMIT, TD_BUDGET_WAIT);
	ck_assert(tdi_budget_try(engine, 100));
	tdi_budget_give(engine, 100);
	other_submits(&other, 2000);
	await_sleepers(1);
	ck_assert(!tdi_budget_try(engine, 100));
	let_go(&holder);
	other_joined(&other);
	drain();
	ck_assert(tdi_budget_try(engine, 100));
	tdi_budget_give(engine, 100);
	hold_reaper(&holder);
}
END_TEST

START_TEST(a_larger_budget_wakes_those_who_wait)
{
	static struct job jobs[2];
	static struct other other;

	fill_budget(jobs, 1);
	set_budget(LIMIT, TD_BUDGET_WAIT);
	other_submits(&other, 1000);
	await_sleepers(1);
	set_budget(2 * LIMIT, TD_BUDGET_WAIT);
	other_joined(&other);
	ck_assert_uint_eq(jobs[0].slices, 0);
	ck_assert_uint_eq(pending(), 3000);
}
END_TEST

START_TEST(another_policy_goes_for_those_who_wait)
{
	static struct job jobs[2];
	static struct other other;

	fill_budget(jobs, 1);
	set_budget(LIMIT, TD_BUDGET_WAIT);
	other_submits(&other, 1000);
	await_sleepers(1);
	set_budget(LIMIT, TD_BUDGET_HELP);
	other_joined(&other);
	ck_assert(is_done(&jobs[0]));
	ck_assert(pthread_equal(jobs[0].ran_on, other.thread));
	ck_assert_uint_eq(stats().budget_helped, 1);
	ck_assert_uint_eq(stats().budget_waited, 1);
}
END_TEST

/* ---- being refused ---- */

START_TEST(a_work_that_is_refused_is_unchanged)
{
	static struct job jobs[2], more;

	fill_budget(jobs, 1);
	set_budget(LIMIT, TD_BUDGET_AGAIN);
	job_init(&more, 1);
	for (int i = 0; i < 3; i++)
		ck_assert_int_eq(td_engine_submit(engine, &more.work), -EAGAIN);
	ck_assert_uint_eq(pending(), 2000);
	ck_assert_uint_eq(stats().budget_refused, 3);
	ck_assert_uint_eq(stats().works_submitted, 3);
	let_go(&holder);
	drain();
	submit(&more);
	sem_wait(&more.done);
	ck_assert_int_eq(more.status, 0);
	hold_reaper(&holder);
}
END_TEST

/* ---- system calls failing ---- */

START_TEST(failing_futexes_lose_no_waiter)
{
	static struct other others[4];
	static struct job jobs[2];

	fill_budget(jobs, 1);
	set_budget(LIMIT, TD_BUDGET_WAIT);
	tdt_fail(TDI_SYS_futex_wait, -EINTR, 0, 1000);
	for (int i = 0; i < 4; i++)
		other_submits(&others[i], 1000);
	while (tdt_calls(TDI_SYS_futex_wait) < 100)
		sched_yield();
	let_go(&holder);
	for (int i = 0; i < 4; i++)
		other_joined(&others[i]);
	drain();
	hold_reaper(&holder);
}
END_TEST

int main(void)
{
	struct tdt *tests = tdt_suite("budget");
	const TTest *held[] = {
		a_small_work_is_done_by_who_brings_it_where_there_is_no_room,
		what_fits_is_left_to_reapers,
		one_larger_than_the_budget_is_taken_when_nothing_is_pending,
		works_without_a_cost_need_no_room,
		an_error_or_a_short_count_leaves_nothing_behind,
		a_caller_runs_slices_until_there_is_room,
		the_oldest_goes_first_whose_turn_it_ever_is,
		works_that_make_no_room_are_left_alone,
		a_waiter_sleeps_until_there_is_room,
		all_waiters_get_their_room,
		others_leave_room_for_the_first_in_line,
		a_larger_budget_wakes_those_who_wait,
		another_policy_goes_for_those_who_wait,
		a_work_that_is_refused_is_unchanged,
		failing_futexes_lose_no_waiter,
	};
	const TTest *idle[] = {
		the_default_is_half_of_what_there_is,
		what_is_no_policy_is_refused,
		the_default_engine_has_one_too,
		what_is_abandoned_gives_its_room_back,
		what_another_thread_has_in_hand_is_waited_for,
		when_nothing_moves_the_caller_frees_his_own,
		when_all_is_stuck_the_caller_frees_his_own,
	};

	for (size_t i = 0; i < sizeof(held) / sizeof(*held); i++)
		tdt_add(tests, held[i], setup_held, teardown_held);
	for (size_t i = 0; i < sizeof(idle) / sizeof(*idle); i++)
		tdt_add(tests, idle[i], setup_budget, teardown_budget);
	return tdt_run(tests);
}
