/* SPDX-License-Identifier: MIT */
#include "engine_internal.h"
#include "sys.h"
#include "trace.h"

#include <stdio.h>
#include <stdlib.h>

static __thread struct tdi_reaping *reaping;

void tdi_reaping_enter(struct tdi_reaping *here, const struct td_engine *engine)
{
	*here = (struct tdi_reaping){.engine = engine, .outer = reaping};
	reaping = here;
}

unsigned tdi_reaping_how(void)
{
	return reaping ? reaping->how : 0;
}

void tdi_reaping_leave(struct tdi_reaping *here)
{
	reaping = here->outer;
}

const struct tdi_reaping *tdi_reaping_now(void)
{
	return reaping;
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

void tdi_reaper_warm_up(void)
{
	void *volatile first = malloc(1);

	free(first);
}

static void settle_in(struct tdi_reaper *reaper)
{
	struct td_engine *engine = reaper->engine;
	struct tdi_queue *queue = tdi_queues_of_reaper(&engine->queues, reaper->index);
	bool bound = engine->queues.nr > 1 && !(engine->flags & TD_ENGINE_UNBOUND);
	struct tdi_cpus near;
	char name[16];

	tdi_reaper_warm_up();
	snprintf(name, sizeof(name), "%s/%u", engine->name, reaper->index % 10000);
	/*
	 * A batch thread never preempts the one that wakes it, so a put is not held up by
	 * the work that it starts even where all CPUs are busy.
	 */
	bound = bound && tdi_numa_cpus(queue->node, near.words, sizeof(near.words));
	tdi_place(&engine->placement, name, bound ? &near : NULL, 0);
	tdi_account_reaper(&reaper->account);
	/* Release: pairs with the acquire in tdi_reapers_start. */
	atomic_fetch_add_explicit(&engine->reapers_settled, 1, memory_order_release);
	tdi_sys_futex_wake(&engine->reapers_settled, 1);
}

/* What belongs to another node says so, unless it was taken from there on purpose. */
static int node_to_tell(const struct td_engine *engine, const struct td_work *work,
			const struct tdi_queue *queue)
{
	if (engine->queues.nr == 1 ||
	    (tdi_queue_of(work) != queue &&
	     atomic_load_explicit(&work->tdi_at_home, memory_order_relaxed)))
		return TDI_NODE_UNKNOWN;
	return (int)queue->node;
}

/* queue: of the reaper that runs it; NULL: in the place of one. What the slice returned.
 */
static int run_slice(struct td_engine *engine, struct td_work *work,
		     struct tdi_queue *queue)
{
	struct tdi_queue *from = tdi_queue_of(work);
	int node = node_to_tell(engine, work,
				queue ? queue : tdi_queues_here(&engine->queues));
	struct tdi_slice_end end;
	int result = tdi_work_slice(engine, work, node, &end);

	if (queue) /* whoever helps is not held up */
		tdi_rate_pay(&engine->tune.rate, end.bytes, tdi_sys_now_ns());
	if (queue && from != queue)
		atomic_fetch_add_explicit(&engine->slices_stolen, 1,
					  memory_order_relaxed);
	if (tdi_queue_give(from, work, result, &end))
		tdi_work_finish(engine, work, work->tdi_status);
	else if (!queue) /* a reaper may have looked meanwhile, and sleep */
		tdi_queue_nudge(from);
	else if (from != queue) /* so may those there, and we may be done there: G5 */
		tdi_queue_returned(from);
	if (result == TD_WORK_LATER)
		tdi_budget_tell_later(engine);
	return result;
}

static void *reap(void *arg)
{
	struct tdi_reaper *reaper = arg;
	struct td_engine *engine = reaper->engine;
	struct tdi_queue *queue = tdi_queues_of_reaper(&engine->queues, reaper->index);
	struct tdi_queue *from = queue;
	struct tdi_reaping here;
	struct td_work *work;

	tdi_reaping_enter(&here, engine);
	here.role = TDI_ROLE_REAPER;
	here.reaper = reaper;
	settle_in(reaper);
	while ((work = tdi_queue_take(queue)) != NULL) {
		/* What was taken elsewhere and given back there is left to others. */
		if (from != queue && from != tdi_queue_of(work))
			tdi_queue_nudge(from);
		from = tdi_queue_of(work);
		(void)run_slice(engine, work, queue);
	}
	tdi_reaping_leave(&here);
	return NULL;
}

static int run_one(struct td_engine *engine, struct td_work *work, unsigned how)
{
	struct tdi_reaping here;
	int result;

	tdi_reaping_enter(&here, engine);
	here.role = TDI_ROLE_HELPER;
	here.how = how;
	tdi_trace_help(engine->name, TDI_HELP_SLICE, 1);
	result = run_slice(engine, work, NULL);
	tdi_reaping_leave(&here);
	return result < 0 ? TD_WORK_DONE : result;
}

int tdi_reaper_join(struct td_engine *engine, tdi_queue_match *match, void *arg,
		    unsigned how)
{
	struct td_work *work;
	int result = -ENOENT;

	/* Inside the gate the reapers stay, to whom the work is given back. */
	if (!tdi_gate_enter(&engine->gate))
		return -ENOENT;
	work = tdi_queue_take_that(tdi_queues_here(&engine->queues), match, arg);
	if (work)
		result = run_one(engine, work, how);
	tdi_gate_leave(&engine->gate);
	return result;
}

unsigned tdi_reaper_count(struct td_engine *engine, tdi_queue_match *match, void *arg)
{
	unsigned matching;

	if (!tdi_gate_enter(&engine->gate))
		return 0;
	matching = tdi_queue_count(tdi_queues_here(&engine->queues), match, arg);
	tdi_gate_leave(&engine->gate);
	return matching;
}

static bool help(struct td_engine *engine, struct td_work *(*take)(struct tdi_queue *))
{
	struct td_work *work;

	if (!tdi_gate_enter(&engine->gate))
		return false;
	work = take(tdi_queues_here(&engine->queues));
	if (work)
		(void)run_one(engine, work, 0);
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
	tdi_queues_stop(&engine->queues);
	for (unsigned i = 0; i < engine->nr_reapers; i++)
		tdi_sys_thread_join(engine->reapers[i].thread);
}
