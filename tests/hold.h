/* SPDX-License-Identifier: MIT */
/* An engine that defers every munmap of a page or more, and its only reaper held up. */
#ifndef TDT_HOLD_H
#define TDT_HOLD_H

#include "job.h"

#include <teardown/munmap.h>

static size_t page __attribute__((unused));

static inline void setup_eager(void)
{
	page = tdi_page_size();
	setup();
	ck_assert_int_eq(td_engine_set_munmap_threshold(engine, page), 0);
}

/* A work that keeps the reaper until it is let go. */
struct hold {
	struct job job;
	sem_t entered, may_go;
};

static inline void hold_reaper(struct hold *hold)
{
	job_init(&hold->job, 1);
	hold->job.work.cost = 0;
	sem_init(&hold->entered, 0, 0);
	sem_init(&hold->may_go, 0, 0);
	hold->job.entered = &hold->entered;
	hold->job.may_go = &hold->may_go;
	ck_assert_int_eq(td_engine_submit(engine, &hold->job.work), 0);
	sem_wait(&hold->entered);
}

static inline void let_go(struct hold *hold)
{
	sem_post(&hold->may_go);
	sem_wait(&hold->job.done);
}

static inline void drain(void)
{
	ck_assert_int_eq(td_engine_drain(engine, TD_FOREVER), 0);
}

#endif
