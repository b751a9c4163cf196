/* SPDX-License-Identifier: MIT */
/* A11: at the bound, callers who may not wait: on a reaper, in callbacks, without
 * reapers, at full pressure. */
#include "budgeted.h"

#include <teardown/pressure.h>

struct chain {
	struct td_work work;
	unsigned left, deepest;
	int err;
	sem_t over; /* a drain does not wait for what is submitted after it has begun */
};

static int chain_slice(struct td_work *work, struct td_slice *slice)
{
	struct chain *chain = tdi_container_of(work, struct chain, work);
	unsigned depth = tdi_reaping_depth(engine);

	(void)slice;
	chain->deepest = depth > chain->deepest ? depth : chain->deepest;
	return TD_WORK_DONE;
}

static void chain_done(struct td_work *work, int status)
{
	struct chain *chain = tdi_container_of(work, struct chain, work);

	(void)status;
	chain->work.cost = 30;
	if (chain->left-- > 0)
		chain->err |= td_engine_submit(engine, &chain->work);
	else
		sem_post(&chain->over);
}

static const struct td_work_ops chain_ops = {.slice = chain_slice, .done = chain_done};

static int callback_slice(struct td_work *work, struct td_slice *slice)
{
	struct job *own = *(struct job **)(work + 1);

	(void)slice;
	own->status = td_engine_submit(engine, &own->work) ? 77 : own->status;
	return TD_WORK_DONE;
}

START_TEST(on_a_reaper_nobody_waits)
{
	static const struct td_work_ops ops = {.slice = callback_slice};

	for (int policy = TD_BUDGET_HELP; policy <= TD_BUDGET_AGAIN; policy++) {
		struct job own, large;
		struct {
			struct td_work work;
			struct job *own;
		} caller = {.own = &own};

		set_budget(LIMIT, (enum td_budget_policy)policy);
		job_init(&own, 1);
		td_work_init(&caller.work, &ops, 0);
		ck_assert_int_eq(td_engine_submit(engine, &caller.work), 0);
		job_init(&large, 1);
		large.work.cost = LIMIT;
		submit(&large);
		let_go(&holder);
		drain();
		ck_assert_int_eq(own.status, 0);
		ck_assert(pthread_equal(own.ran_on, engine->reapers[0].thread));
		ck_assert_uint_eq(stats().budget_in_place, 1 + (uint64_t)policy);
		hold_reaper(&holder);
	}
	ck_assert_uint_eq(stats().budget_refused, 0);
}
END_TEST

/* A work that is submitted again in its own end does not eat up the stack. */
START_TEST(nested_callbacks_are_queued_in_the_end)
{
	struct chain chain = {.left = 1000};
	static struct job large;

	sem_init(&chain.over, 0, 0);
	td_work_init(&chain.work, &chain_ops, 10);
	ck_assert_int_eq(td_engine_submit(engine, &chain.work), 0);
	job_init(&large, 1);
	large.laters = 3;
	large.work.cost = LIMIT - 10;
	submit(&large);
	set_budget(1, TD_BUDGET_HELP);
	let_go(&holder);
	sem_wait(&chain.over);
	drain();
	ck_assert_int_eq(chain.err, 0);
	ck_assert_uint_gt(chain.deepest, 2);
	ck_assert_uint_le(chain.deepest, 8);
	/* which passes the bound, and is told */
	ck_assert_uint_eq(stats().bytes_pending_peak, LIMIT + 20);
	hold_reaper(&holder);
}
END_TEST

START_TEST(without_reapers_the_caller_frees_at_once)
{
	td_engine *threadless;
	static struct job large;

	tdt_fail(TDI_SYS_thread_create, -EAGAIN, 0, UINT32_MAX);
	ck_assert_int_eq(td_engine_default(&threadless), 0);
	tdt_fail_none();
	for (int policy = TD_BUDGET_HELP; policy <= TD_BUDGET_AGAIN; policy++) {
		ck_assert_int_eq(
			td_engine_set_budget(NULL, LIMIT, (enum td_budget_policy)policy),
			0);
		/* as if others were freeing */
		ck_assert(tdi_budget_try(threadless, LIMIT));
		job_init(&large, 3);
		ck_assert_int_eq(td_engine_submit(NULL, &large.work), 0);
		ck_assert(is_done(&large));
		ck_assert(ran_here(&large));
		tdi_budget_give(threadless, LIMIT);
	}
}
END_TEST

/* All free their own then: one does not wait for what others have in hand, nor is he told
 * to come again. */
START_TEST(at_full_pressure_the_caller_frees_at_once)
{
	for (int policy = TD_BUDGET_HELP; policy <= TD_BUDGET_AGAIN; policy++) {
		struct job jobs[2], own;

		fill_budget(jobs, 1);
		set_budget(LIMIT, (enum td_budget_policy)policy);
		ck_assert_int_eq(td_engine_pressure(engine, TD_PRESSURE_FULL, NULL), 0);
		job_init(&own, 1);
		submit(&own);
		ck_assert(is_done(&own));
		ck_assert(ran_here(&own));
		ck_assert_uint_eq(jobs[0].slices, 0);
		ck_assert_int_eq(td_engine_pressure(engine, TD_PRESSURE_NONE, NULL), 0);
		let_go(&holder);
		drain();
		hold_reaper(&holder);
	}
	ck_assert_uint_eq(stats().budget_in_place, 3);
	ck_assert_uint_eq(stats().budget_helped, 0);
	ck_assert_uint_eq(stats().budget_waited + stats().budget_refused, 0);
}
END_TEST

int main(void)
{
	struct tdt *tests = tdt_suite("budget_at_once");

	tdt_add(tests, on_a_reaper_nobody_waits, setup_held, teardown_held);
	tdt_add(tests, nested_callbacks_are_queued_in_the_end, setup_held, teardown_held);
	tdt_add(tests, at_full_pressure_the_caller_frees_at_once, setup_held,
		teardown_held);
	tdt_add(tests, without_reapers_the_caller_frees_at_once, setup_budget,
		teardown_budget);
	return tdt_run(tests);
}
