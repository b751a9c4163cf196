/* SPDX-License-Identifier: MIT */
/* A work for tests, and the engine that they run it on. */
#ifndef TDT_JOB_H
#define TDT_JOB_H

#include "engine_internal.h"
#include "harness.h"

#include <semaphore.h>
#include <teardown/stats.h>

static td_engine *engine __attribute__((unused));

static inline void setup(void)
{
	ck_assert_int_eq(td_engine_create(TD_ENGINE_OPTS(.reapers = 1), &engine), 0);
}

static inline void setup_two(void)
{
	ck_assert_int_eq(td_engine_create(TD_ENGINE_OPTS(.reapers = 2), &engine), 0);
}

static inline void teardown(void)
{
	ck_assert_int_eq(td_engine_destroy(engine, TD_EXIT_DRAIN, 0), 0);
}
struct job {
	struct td_work work;
	unsigned want, slices;	 /* runs `want` slices */
	int ends_with;		 /* 0 or an errno, from the last slice */
	unsigned laters;	 /* puts itself off so often first */
	sem_t *entered, *may_go; /* each slice stops in between, if set */
	sem_t done;
	int status;
	pthread_t ran_on;
};

static inline int job_slice(struct td_work *work, struct td_slice *slice)
{
	struct job *job = tdi_container_of(work, struct job, work);

	job->ran_on = pthread_self();
	if (job->entered)
		sem_post(job->entered);
	if (job->may_go)
		sem_wait(job->may_go);
	if (job->laters > 0) {
		job->laters--;
		return TD_WORK_LATER;
	}
	slice->released = work->cost / job->want;
	return ++job->slices < job->want ? TD_WORK_MORE : job->ends_with;
}

static inline void job_done(struct td_work *work, int status)
{
	struct job *job = tdi_container_of(work, struct job, work);

	job->status = status;
	sem_post(&job->done);
}

static const struct td_work_ops job_ops
	__attribute__((unused)) = {.slice = job_slice, .done = job_done};

static inline void job_init(struct job *job, unsigned want)
{
	*job = (struct job){.want = want, .status = 99};
	td_work_init(&job->work, &job_ops, 1000);
	sem_init(&job->done, 0, 0);
}

static inline struct td_engine_stats stats(void)
{
	struct td_engine_stats now;

	ck_assert_int_eq(td_engine_stats(engine, &now), 0);
	return now;
}

#endif
