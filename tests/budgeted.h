/* SPDX-License-Identifier: MIT */
/* For tests of the budget: an engine whose reaper is held up, works with a cost, and
 * threads that meet the bound. */
#ifndef TDT_BUDGETED_H
#define TDT_BUDGETED_H

#include "hold.h"

#include <errno.h>
#include <sched.h>

#define LIMIT 2500 /* two works of 1000 fit, three do not */

static struct hold holder __attribute__((unused));

static inline void set_budget(uint64_t bytes, enum td_budget_policy policy)
{
	ck_assert_int_eq(td_engine_set_budget(engine, bytes, policy), 0);
}

/* Nobody gets impatient, unless a test wants to see that; and who waits does not look by
 * himself: a wake that is lost is seen. */
static inline void setup_budget(void)
{
	setup_eager();
	engine->budget.wait_look_ns = UINT64_MAX;
	engine->budget.small = 0;
	engine->budget.help_patience_ns = UINT64_MAX;
	engine->budget.wait_patience_ns = UINT64_MAX;
	set_budget(LIMIT, TD_BUDGET_HELP);
}

static inline void setup_held(void)
{
	setup_budget();
	hold_reaper(&holder);
}

/* Whatever happened, all has been counted out. */
static inline void teardown_budget(void)
{
	drain();
	ck_assert_uint_eq(atomic_load(&engine->bytes_pending), 0);
	ck_assert_uint_eq(atomic_load(&engine->bytes_exempt), 0);
	ck_assert_uint_eq(atomic_load(&engine->budget.first), 0);
	ck_assert_uint_eq(atomic_load(&engine->budget.sleepers), 0);
	teardown();
}

static inline void teardown_held(void)
{
	let_go(&holder);
	teardown_budget();
}

static inline uint64_t pending(void)
{
	return atomic_load(&engine->bytes_pending);
}

static inline void submit(struct job *job)
{
	ck_assert_int_eq(td_engine_submit(engine, &job->work), 0);
}

/* Works of 1000 each that fill the budget, of so many slices. */
static inline void fill_budget(struct job jobs[2], unsigned slices)
{
	for (int i = 0; i < 2; i++) {
		job_init(&jobs[i], slices);
		submit(&jobs[i]);
	}
	ck_assert_uint_eq(pending(), 2000);
}

static inline bool is_done(struct job *job)
{
	return sem_trywait(&job->done) == 0;
}

static inline bool ran_here(const struct job *job)
{
	return pthread_equal(job->ran_on, pthread_self());
}

/* ---- a call of another thread's, which may take long ---- */

struct other {
	struct job job;
	pthread_t thread;
	atomic_bool over;
	int err;
};

static inline void *submit_in_thread(void *arg)
{
	struct other *other = arg;

	other->err = td_engine_submit(engine, &other->job.work);
	atomic_store(&other->over, true);
	return NULL;
}

static inline void other_submits(struct other *other, uint64_t cost)
{
	*other = (struct other){.err = 1};
	job_init(&other->job, 1);
	other->job.work.cost = cost;
	ck_assert_int_eq(pthread_create(&other->thread, NULL, submit_in_thread, other),
			 0);
}

static inline void other_joined(struct other *other)
{
	pthread_join(other->thread, NULL);
	ck_assert_int_eq(other->err, 0);
}

static inline void await_sleepers(uint32_t sleepers)
{
	while (atomic_load(&engine->budget.sleepers) != sleepers)
		sched_yield();
}

#endif
