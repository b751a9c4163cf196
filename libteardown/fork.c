/* SPDX-License-Identifier: MIT */
/*
 * Threads do not survive a fork, so the engines of the parent are dead in the child,
 * until one is restarted.
 *
 * A lock is held across the fork only where the child goes on with what it protects. The
 * others are made anew in the child, and what they protect is given up: it is the
 * parent's. Waiting for fewer locks is more than fast: an allocator may unmap memory by
 * the library with a lock of its own held, that its own handler waits for.
 */
#include "fork.h"
#include "cells.h"
#include "detach.h"
#include "group.h"
#include "lazy.h"
#include "procfs.h"
#include "ranges.h"
#include "retire.h"
#include "sys.h"
#include "thread.h"

unsigned tdi_fork_generation; /* written only in a child that has one thread */

static pthread_once_t watch_once = PTHREAD_ONCE_INIT;
static int watch_error;

/* Of those who restart: held while threads start. */
static pthread_mutex_t restart_lock = PTHREAD_MUTEX_INITIALIZER;

/* ---- around a fork ---- */

static void before_fork(void)
{
	/* First, since they may have to wait, for a detach or a grace period. */
	tdi_detach_before_fork();
	tdi_grace_before_fork();
	tdi_groups_before_fork();
	tdi_lazy_before_fork();
}

static void after_fork_in_parent(void)
{
	tdi_lazy_after_fork(false);
	tdi_groups_after_fork(false);
	tdi_grace_after_fork(false);
	tdi_detach_after_fork(false);
}

static void after_fork_in_child(void)
{
	tdi_lazy_after_fork(true);
	tdi_groups_after_fork(true);
	tdi_cells_after_fork_in_child();
	tdi_ranges_after_fork_in_child();
	tdi_engine_after_fork_in_child();
	restart_lock = (pthread_mutex_t)PTHREAD_MUTEX_INITIALIZER;
	tdi_grace_after_fork(true);
	tdi_detach_after_fork(true);
	tdi_fork_generation++;
}

static void watch(void)
{
	watch_error =
		-pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child);
}

int tdi_fork_watch(void)
{
	pthread_once(&watch_once, watch);
	return watch_error;
}

/* ---- liburcu-bp ---- */

/* Where the program is not linked with it, no engine has its flavor. */
extern const struct rcu_flavor_struct urcu_bp_flavor __attribute__((weak));
void urcu_bp_before_fork(void) __attribute__((weak));
void urcu_bp_after_fork_child(void) __attribute__((weak));

static bool is_only_thread(void)
{
	char text[4096];
	uint64_t threads;

	return tdi_procfs_text("/proc/self/status", text, sizeof(text)) &&
	       tdi_procfs_find(text, "Threads:", 10, &threads) && threads == 1;
}

/*
 * Both calls here, in the child, and none around the fork: there they must be made once,
 * and the host may make them, as liburcu asks him to. Here they are no harm if he has:
 * the locks are free, and nothing is left to be forgotten.
 */
void tdi_fork_forget_readers(const struct rcu_flavor_struct *flavor)
{
	static unsigned forgotten; /* generation; under the lock */

	if (tdi_fork_generation == 0 || flavor != &urcu_bp_flavor ||
	    !urcu_bp_before_fork || !urcu_bp_after_fork_child)
		return;
	pthread_mutex_lock(&restart_lock);
	if (forgotten != tdi_fork_generation && !tdi_grace_is_stuck() &&
	    is_only_thread()) {
		urcu_bp_before_fork();
		urcu_bp_after_fork_child();
		forgotten = tdi_fork_generation;
	}
	pthread_mutex_unlock(&restart_lock);
}

/* ---- restarting ---- */

static int restart(struct td_engine *engine)
{
	int err;

	if (!tdi_engine_check(engine))
		return -EALREADY;
	/* Its lock is held by a thread that is not here, for good. */
	if (tdi_grace_is_stuck())
		return -ENOTRECOVERABLE;
	tdi_engine_reset(engine);
	err = tdi_engine_start(engine, engine->max_reapers);
	/* As where it is made: it works without threads, too. */
	if (err && err != -ENOMEM && engine == tdi_engine_made(NULL)) {
		tdi_engine_reset(engine);
		err = tdi_engine_start(engine, 0);
	}
	/* Release: pairs with the acquire in tdi_engine_check. */
	if (!err)
		atomic_store_explicit(&engine->generation, tdi_fork_generation,
				      memory_order_release);
	return err;
}

int td_engine_restart(td_engine *given)
{
	struct td_engine *engine = tdi_engine_made(given);
	int err;

	if (!engine) /* the default one, which the parent has not used */
		return -EALREADY;
	if (tdi_engine_is_reaper(engine) ||
	    atomic_load_explicit(&engine->shrinkers.holder, memory_order_relaxed) ==
		    tdi_thread_token())
		return -EDEADLK;
	tdi_fork_forget_readers(engine->flavor);
	pthread_mutex_lock(&restart_lock);
	err = restart(engine);
	pthread_mutex_unlock(&restart_lock);
	return err;
}
