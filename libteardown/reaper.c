/* SPDX-License-Identifier: MIT */
#include "engine_internal.h"
#include "sys.h"

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>

static __thread struct tdi_reaping *reaping;

void tdi_reaping_enter(struct tdi_reaping *here, const struct td_engine *engine)
{
	*here = (struct tdi_reaping){engine, reaping};
	reaping = here;
}

void tdi_reaping_leave(struct tdi_reaping *here)
{
	reaping = here->outer;
}

unsigned tdi_reaping_depth(const struct td_engine *engine)
{
	unsigned depth = 0;

	for (const struct tdi_reaping *at = reaping; at; at = at->outer)
		depth += at->engine == engine;
	return depth;
}

bool tdi_engine_is_reaper(const struct td_engine *engine)
{
	return tdi_reaping_depth(engine) > 0;
}

static void settle_in(struct tdi_reaper *reaper)
{
	struct td_engine *engine = reaper->engine;
	void *volatile first;
	char name[16];
	int err;

	/* The allocator sets itself up in a thread when first used there, even by a free:
	 * have that happen now and not in the middle of a teardown. */
	first = malloc(1);
	free(first);
	snprintf(name, sizeof(name), "%s/%u", engine->name, reaper->index % 10000);
	err = tdi_sys_thread_name(name);
	/*
	 * A batch thread never preempts the one that wakes it, so a put is not held up by
	 * the work that it starts even where all CPUs are busy.
	 */
	if (tdi_sys_thread_sched(SCHED_BATCH) < 0 || err < 0)
		atomic_fetch_add_explicit(&engine->reapers_unplaced, 1,
					  memory_order_relaxed);
	/* Release: pairs with the acquire in tdi_reapers_start. */
	atomic_fetch_add_explicit(&engine->reapers_settled, 1, memory_order_release);
	tdi_sys_futex_wake(&engine->reapers_settled, 1);
}

static void run_slice(struct td_engine *engine, struct td_work *work)
{
	struct tdi_slice_end end;
	int result = tdi_work_slice(engine, work, &end);

	if (tdi_queue_give(&engine->queue, work, result, end.parallel, end.overstay))
		tdi_work_finish(engine, work, work->tdi_status);
	else if (result == TD_WORK_LATER)
		tdi_budget_tell_later(engine);
}

static void *reap(void *arg)
{
	struct tdi_reaper *reaper = arg;
	struct td_engine *engine = reaper->engine;
	struct tdi_reaping here;
	struct td_work *work;

	tdi_reaping_enter(&here, engine);
	settle_in(reaper);
	while ((work = tdi_queue_take(&engine->queue)) != NULL)
		run_slice(engine, work);
	tdi_reaping_leave(&here);
	return NULL;
}

static bool help(struct td_engine *engine,
		 struct td_work *(*take)(struct tdi_queue *queue))
{
	struct tdi_reaping here;
	struct td_work *work;

	/* Inside the gate nobody takes the queue apart. */
	if (!tdi_gate_enter(&engine->gate))
		return false;
	work = take(&engine->queue);
	if (work) {
		tdi_reaping_enter(&here, engine);
		run_slice(engine, work);
		tdi_reaping_leave(&here);
	}
	tdi_gate_leave(&engine->gate);
	return work != NULL;
}

bool tdi_reaper_help(struct td_engine *engine)
{
	return help(engine, tdi_queue_try_take);
}

bool tdi_reaper_help_oldest(struct td_engine *engine)
{
	return help(engine, tdi_queue_try_take_oldest);
}

int tdi_reapers_start(struct td_engine *engine, unsigned reapers)
{
	uint32_t settled;

	for (unsigned i = 0; i < reapers; i++) {
		struct tdi_reaper *reaper = &engine->reapers[i];
		int err;

		reaper->engine = engine;
		reaper->index = i;
		err = tdi_sys_thread_create(&reaper->thread, reap, reaper);
		if (err)
			return err;
		engine->nr_reapers = i + 1;
	}
	while ((settled = atomic_load_explicit(&engine->reapers_settled,
					       memory_order_acquire)) < reapers)
		tdi_sys_futex_wait(&engine->reapers_settled, settled, UINT64_MAX);
	return 0;
}

void tdi_reapers_stop(struct td_engine *engine)
{
	tdi_queue_stop(&engine->queue);
	for (unsigned i = 0; i < engine->nr_reapers; i++)
		tdi_sys_thread_join(engine->reapers[i].thread);
}
