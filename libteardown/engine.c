/* SPDX-License-Identifier: MIT */
#include "engine_internal.h"
#include "fork.h"
#include "nodes.h"
#include "retire.h"
#include "sys.h"
#include "thread.h"

#include <stdlib.h>
#include <string.h>
#include <teardown/version.h>
#include <urcu/urcu-memb.h>

#define REAPERS_MAX 1024u
#define KNOWN_FLAGS                                                                      \
	(TD_ENGINE_NO_STEAL | TD_ENGINE_UNBOUND | TD_ENGINE_FAST | TD_ENGINE_PSI)

/* ---- lifecycle ---- */

static void engine_free(struct td_engine *engine)
{
	tdi_retire_destroy(engine);
	tdi_placement_destroy(&engine->placement);
	tdi_progress_destroy(&engine->progress);
	tdi_grace_destroy(&engine->grace);
	tdi_tune_destroy(engine);
	pthread_mutex_destroy(&engine->shrinkers.lock);
	tdi_queues_free(&engine->queues);
	free(engine);
}

void tdi_engine_get(struct td_engine *engine)
{
	tdi_ref_get(&engine->refs, "engine", engine->name, "references");
}

void tdi_engine_put(struct td_engine *engine)
{
	if (tdi_ref_put(&engine->refs, "engine", engine->name, "references"))
		engine_free(engine);
}

static int options_check(const struct td_engine_opts *opts)
{
	if ((opts->flags & ~KNOWN_FLAGS) != 0 || opts->reapers > REAPERS_MAX ||
	    (unsigned)opts->sched > TD_SCHED_OTHER || opts->nice < -20 ||
	    opts->nice > 19 || !opts->cpus != !opts->cpus_size ||
	    (unsigned)opts->budget_policy > TD_BUDGET_AGAIN)
		return -EINVAL;
	return 0;
}

void tdi_engine_reset(struct td_engine *engine)
{
	uint64_t limit =
		atomic_load_explicit(&engine->budget.limit, memory_order_relaxed);

	/* Only where the engine was the parent's: its locks are nobody's, and what it
	 * has in its lists stays where it is. */
	memset(engine, 0, TDI_ENGINE_RESET_SIZE);
	tdi_budget_reset(&engine->budget, limit);
	tdi_progress_reset(&engine->progress);
	memset(engine->reapers, 0, engine->max_reapers * sizeof(engine->reapers[0]));
	tdi_placement_reset(&engine->placement);
	tdi_queues_reset(&engine->queues);
	tdi_psi_watch_reset(engine);
	tdi_tune_reset(engine);
	tdi_ref_init(&engine->refs, 1);
	tdi_gate_init(&engine->gate);
	tdi_grace_init(&engine->grace);
	pthread_mutex_init(&engine->shrinkers.lock, NULL);
	atomic_init(&engine->shrinkers.holder, 0);
}

int tdi_engine_start(struct td_engine *engine, unsigned reapers)
{
	int err = tdi_retire_init(engine);

	if (!err)
		err = tdi_reapers_start(engine, reapers);
	if (!err && reapers > 0)
		err = tdi_grace_start(engine);
	if (err) {
		tdi_reapers_stop(engine);
		tdi_retire_destroy(engine);
	} else if (reapers > 0) {
		tdi_psi_watch_start(engine);
	}
	return err;
}

/* reapers is taken as it is: 0 makes an engine whose works run in their callers. */
static int engine_new(const struct td_engine_opts *opts, unsigned reapers,
		      struct td_engine **ret)
{
	struct td_engine *engine;
	size_t size = sizeof(*engine) + reapers * sizeof(engine->reapers[0]);
	int err = tdi_fork_watch();

	if (err)
		return err;
	engine = aligned_alloc(_Alignof(struct td_engine),
			       tdi_align_up(size, _Alignof(struct td_engine)));
	if (!engine)
		return -ENOMEM;
	memset(engine, 0, size);
	err = tdi_queues_make(&engine->queues, reapers,
			      !(opts->flags & TD_ENGINE_NO_STEAL));
	if (err) {
		free(engine);
		return err;
	}
	tdi_engine_reset(engine);
	strncpy(engine->name, opts->name ? opts->name : "reaper",
		sizeof(engine->name) - 1);
	engine->flavor = opts->flavor ? opts->flavor : &urcu_memb_flavor;
	tdi_tune_init(engine, opts);
	atomic_init(&engine->munmap_threshold, opts->munmap_threshold
						       ? opts->munmap_threshold
						       : TDI_MUNMAP_THRESHOLD);
	atomic_init(&engine->generation, tdi_fork_generation);
	engine->flags = opts->flags;
	tdi_budget_init(engine, opts->budget, opts->budget_policy);
	engine->max_reapers = reapers;

	tdi_fork_forget_readers(engine->flavor);
	err = tdi_placement_init(&engine->placement, opts);
	if (!err)
		err = tdi_engine_start(engine, reapers);
	if (err) {
		engine_free(engine);
		return err;
	}
	*ret = engine;
	return 0;
}

int td_engine_create(const struct td_engine_opts *given, td_engine **ret)
{
	struct td_engine_opts opts = {0};
	int err = tdi_opts_take(&opts, sizeof(opts), given);

	if (!err)
		err = options_check(&opts);
	if (err)
		return err;
	return engine_new(&opts, opts.reapers ? opts.reapers : tdi_numa_nodes(), ret);
}

static _Atomic(struct td_engine *) default_engine;
static pthread_mutex_t default_lock = PTHREAD_MUTEX_INITIALIZER;
static __thread bool making_default; /* by malloc, whose owner may come here again */

static int default_make(struct td_engine **ret)
{
	static const struct td_engine_opts opts = {.name = "td-default"};
	int err;

	making_default = true;
	err = engine_new(&opts, tdi_numa_nodes(), ret);
	/* Whatever keeps threads from starting (limits, a filter), none are needed. */
	if (err && err != -ENOMEM)
		err = engine_new(&opts, 0, ret);
	making_default = false;
	return err;
}

int td_engine_default(td_engine **ret)
{
	/* Acquire: pairs with the release below; the engine is complete. */
	struct td_engine *engine =
		atomic_load_explicit(&default_engine, memory_order_acquire);
	int err = 0;

	if (tdi_unlikely(!engine)) {
		if (making_default)
			return -ENOMEM;
		pthread_mutex_lock(&default_lock);
		engine = atomic_load_explicit(&default_engine, memory_order_relaxed);
		if (!engine) {
			err = default_make(&engine);
			if (!err)
				atomic_store_explicit(&default_engine, engine,
						      memory_order_release);
		}
		pthread_mutex_unlock(&default_lock);
	}
	if (!err)
		err = tdi_engine_check(engine);
	if (!err)
		*ret = engine;
	return err;
}

struct td_engine *tdi_engine_made(struct td_engine *given)
{
	/* Acquire: as in td_engine_default. */
	return given ? given
		     : atomic_load_explicit(&default_engine, memory_order_acquire);
}

int tdi_engine_resolve(struct td_engine *given, struct td_engine **ret)
{
	int err;

	if (!given)
		return td_engine_default(ret);
	err = tdi_engine_check(given);
	if (!err)
		*ret = given;
	return err;
}

void tdi_engine_after_fork_in_child(void)
{
	/* Of one that was being made nobody knows. */
	default_lock = (pthread_mutex_t)PTHREAD_MUTEX_INITIALIZER;
}

const struct rcu_flavor_struct *td_engine_flavor(const td_engine *engine)
{
	return engine->flavor;
}

const char *td_version(void)
{
	return TD_VERSION_STRING;
}

/* ---- submitting ---- */

/* False: there are no reapers to push it to. */
TDI_HOT static bool push(struct td_engine *engine, struct td_work *work,
			 struct tdi_queue *queue)
{
	/* Inside the gate the engine outlives the work: the reapers may finish it, and
	 * its owner destroy the engine, before tdi_queue_push returns. */
	if (engine->nr_reapers == 0 || !tdi_gate_enter(&engine->gate))
		return false;
	tdi_queue_push(queue, work);
	tdi_gate_leave(&engine->gate);
	return true;
}

/* Its callbacks run here, in the place of a reaper: they must not wait for the engine. */
static void finish_here(struct td_engine *engine, struct td_work *work, int status)
{
	struct tdi_reaping here;

	tdi_reaping_enter(&here, engine);
	tdi_work_finish(engine, work, status);
	tdi_reaping_leave(&here);
}

static void run_instead(struct td_engine *engine, struct td_work *work)
{
	/* The work's owner may hold the last reference, and drop it in done(). */
	tdi_engine_get(engine);
	if (!tdi_work_run_here(engine, work, TDI_ROLE_CALLER))
		finish_here(engine, work, -EAGAIN);
	tdi_engine_put(engine);
}

/*
 * At full pressure who gives memory back does so himself, and can take no more meanwhile.
 * Not who is freeing: a callback that puts one space after another would never return.
 */
static bool is_for_caller(struct td_engine *engine, const struct td_work *work)
{
	return tdi_unlikely(tdi_engine_pressure_now(engine) == TD_PRESSURE_FULL) &&
	       work->cost > 0 && !tdi_engine_is_reaper(engine);
}

TDI_HOT static void queue(struct td_engine *engine, struct td_work *work, bool admitted)
{
	tdi_work_begin(engine, work, admitted);
	if (is_for_caller(engine, work))
		(void)tdi_engine_run_begun(engine, work, TDI_ROLE_CALLER);
	else if (!push(engine, work, tdi_queues_here(&engine->queues)))
		run_instead(engine, work);
}

void tdi_engine_queue_part(struct td_engine *engine, struct td_work *part,
			   struct td_work *whole, struct tdi_queue *to)
{
	tdi_work_begin_part(engine, part, whole);
	atomic_store_explicit(&part->tdi_at_home, 1, memory_order_relaxed);
	if (!push(engine, part, to))
		run_instead(engine, part);
}

TDI_HOT void tdi_engine_queue(struct td_engine *engine, struct td_work *work)
{
	queue(engine, work, false);
}

TDI_HOT void tdi_engine_queue_admitted(struct td_engine *engine, struct td_work *work)
{
	queue(engine, work, true);
}

int tdi_engine_run(struct td_engine *engine, struct td_work *work)
{
	tdi_work_begin(engine, work, false);
	return tdi_engine_run_begun(engine, work, TDI_ROLE_CALLER);
}

int tdi_engine_run_begun(struct td_engine *engine, struct td_work *work,
			 enum tdi_role role)
{
	int err = 0;

	tdi_engine_get(engine);
	if (!tdi_work_run_here(engine, work, role)) {
		if (push(engine, work, tdi_queues_here(&engine->queues)))
			err = -EINPROGRESS;
		else
			finish_here(engine, work, -EAGAIN);
	}
	tdi_engine_put(engine);
	return err;
}

int td_engine_submit(td_engine *given, struct td_work *work)
{
	struct td_engine *engine;
	int err;

	if (!work || !work->ops || !work->ops->slice || work->weight > TDI_WEIGHT_MAX)
		return -EINVAL;
	err = tdi_engine_resolve(given, &engine);
	if (err)
		return err;
	if (!tdi_work_claim(work))
		return -EBUSY;
	err = tdi_budget_admit(engine, work->cost, true);
	if (err == -EAGAIN)
		tdi_work_unclaim(work);
	else if (err == TDI_IN_PLACE)
		(void)tdi_engine_run(engine, work);
	else
		tdi_engine_queue_admitted(engine, work);
	return err == -EAGAIN ? err : 0;
}

/* ---- destroying ---- */

#define BULK_NS 1000000000

static void abandon_leftovers(struct td_engine *engine)
{
	struct td_work *work;

	while ((work = tdi_queues_leftover(&engine->queues)) != NULL)
		finish_here(engine, work, -ECANCELED);
}

/* What both calls open with. */
static int may_end(struct td_engine *engine, enum td_exit_mode mode)
{
	int err = tdi_engine_check(engine);

	if (err)
		return err;
	if ((unsigned)mode > TD_EXIT_ABANDON)
		return -EINVAL;
	/* A shrinker may run in a thread that is to be joined. */
	return tdi_engine_is_reaper(engine) ||
			       atomic_load_explicit(&engine->shrinkers.holder,
						    memory_order_relaxed) ==
				       tdi_thread_token()
		       ? -EDEADLK
		       : 0;
}

static uint64_t deadline_of(enum td_exit_mode mode, int64_t timeout_ns)
{
	return mode == TD_EXIT_DRAIN ? UINT64_MAX : tdi_sys_deadline(timeout_ns);
}

static int stop(struct td_engine *engine, enum td_exit_mode mode, int64_t timeout_ns)
{
	uint64_t deadline_ns = deadline_of(mode, timeout_ns);
	uint64_t bulk_ns = tdi_sys_deadline(BULK_NS);
	int err = 0;

	if (atomic_exchange_explicit(&engine->stopped, true, memory_order_relaxed))
		return -EALREADY;
	tdi_psi_watch_stop(engine);
	/* The bulk while submitters still find reapers, but not for ever: they may be
	 * faster. Then, with the gate closed, the rest: from here on new work runs in its
	 * caller. */
	if (mode != TD_EXIT_ABANDON)
		(void)tdi_engine_drain(engine,
				       deadline_ns < bulk_ns ? deadline_ns : bulk_ns);
	tdi_gate_close(&engine->gate);
	if (mode != TD_EXIT_ABANDON)
		err = tdi_engine_drain(engine, deadline_ns);
	tdi_grace_stop(engine, mode == TD_EXIT_ABANDON ? 0 : deadline_ns);
	tdi_reapers_stop(engine);
	abandon_leftovers(engine);
	return err;
}

int td_engine_stop(td_engine *given, enum td_exit_mode mode, int64_t timeout_ns)
{
	struct td_engine *engine = tdi_engine_made(given);
	int err = engine ? may_end(engine, mode) : 0;

	return engine && !err ? stop(engine, mode, timeout_ns) : err;
}

int td_engine_destroy(td_engine *engine, enum td_exit_mode mode, int64_t timeout_ns)
{
	int err;

	if (!engine)
		return 0;
	err = may_end(engine, mode);
	if (err)
		return err;
	if (engine == atomic_load_explicit(&default_engine, memory_order_relaxed))
		return -EPERM;
	err = stop(engine, mode, timeout_ns);
	if (err == -EALREADY) { /* but what its callers run may be under way */
		err = 0;
		if (mode != TD_EXIT_ABANDON)
			err = tdi_engine_drain(engine, deadline_of(mode, timeout_ns));
	}
	tdi_progress_stop(engine);
	tdi_engine_put(engine);
	return err;
}
