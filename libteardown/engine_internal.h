/* SPDX-License-Identifier: MIT */
/*
 * Floor 3: what the engine is made of, for its own files (engine.c, work.c, reaper.c)
 * and, as far as the functions below go, for the floors above.
 */
#ifndef TDI_ENGINE_INTERNAL_H
#define TDI_ENGINE_INTERNAL_H

#include "account.h"
#include "base.h"
#include "budget.h"
#include "gate.h"
#include "grace.h"
#include "pending.h"
#include "placement.h"
#include "progress.h"
#include "psi_watch.h"
#include "queues.h"
#include "ref.h"
#include "tune.h"

#include <pthread.h>
#include <teardown/engine.h>

#define TDI_ENGINE_NAME_SIZE 11

#define TDI_WEIGHT_MAX 10000u
#define TDI_WEIGHT_DEFAULT 100u

/* The default: see docs/design.md, "From what size on". */
#define TDI_MUNMAP_THRESHOLD ((size_t)64 << 20)

struct tdi_reaper {
	struct td_engine *engine;
	unsigned index;
	pthread_t thread;
	struct tdi_reaper_account account;
};

struct tdi_shrinkers {
	pthread_mutex_t lock;	  /* held while they run */
	_Atomic(uint64_t) holder; /* of the lock: a thread's token */
	struct td_shrinker *first;
};

struct td_engine {
	/* ---- made anew when it is restarted in a child ---- */

	/* One reference each: the creator's right to use it, and every space. */
	struct tdi_ref refs;
	/* Passed through while pushing; closed when the reapers are to go. */
	struct tdi_gate gate;
	struct tdi_pending pending; /* works */
	struct tdi_grace grace;
	struct td_batch *retired; /* the library's own objects: see retire.h */

	/* Counters, relaxed: they order nothing. */
	_Atomic(uint64_t) works_submitted, works_done, works_in_caller, works_failed;
	_Atomic(uint64_t) bytes_reclaimed, slices, pauses, cpu_ns;
	_Atomic(uint64_t) bytes_in_caller, cpu_in_caller_ns; /* by others than reapers */
	_Atomic(uint64_t) slices_stolen, moves_home;
	/* What takes room in the budget; and what does not, since its caller frees it. */
	_Atomic(uint64_t) bytes_pending, bytes_exempt;
	struct tdi_budget budget;
	_Atomic(uint64_t) munmaps_deferred, munmaps_in_caller;
	_Atomic(uint64_t) bytes_quarantined; /* now */
	_Atomic(uint32_t) reapers_settled;
	unsigned nr_reapers;
	_Atomic(bool) stopped; /* or being so: see td_engine_stop */

	/* ---- kept then ---- */
	struct tdi_queues queues; /* but for what is in them */
	struct tdi_tune tune;
	struct tdi_psi_watch psi_watch;
	_Atomic(size_t) munmap_threshold; /* relaxed: it guards nothing */
	struct tdi_shrinkers shrinkers;	  /* but for the lock */
	/* Of the process whose it is: see tdi_engine_check. */
	_Atomic(unsigned) generation;

	/* Constant after creation. */
	unsigned flags; /* enum td_engine_flags */
	char name[TDI_ENGINE_NAME_SIZE];
	const struct rcu_flavor_struct *flavor;
	/* Nearly so, and read by every put. enum td_budget_policy */
	_Atomic(unsigned char) budget_policy;
	unsigned max_reapers;
	struct tdi_progress progress;
	struct tdi_placement placement; /* out of the way of a put */
	struct tdi_reaper reapers[];
};

#define TDI_ENGINE_RESET_SIZE offsetof(struct td_engine, queues)

/* Of this process: the number of forks between it and the first one. */
extern unsigned tdi_fork_generation;

/* 0, or -ECHILD: the engine is the parent's, and has not been restarted here. */
static inline int tdi_engine_check(const struct td_engine *of)
{
	/* Acquire: pairs with the release of whoever restarts it. */
	return tdi_likely(atomic_load_explicit(&of->generation, memory_order_acquire) ==
			  tdi_fork_generation)
		       ? 0
		       : -ECHILD;
}

/* May a call that finds no room in the budget be refused? */
static inline bool tdi_budget_refuses(const struct td_engine *of)
{
	return atomic_load_explicit(&of->budget_policy, memory_order_relaxed) ==
	       TD_BUDGET_AGAIN;
}

/* NULL means the default engine, which is made if need be. 0, -ENOMEM, -ECHILD. */
int tdi_engine_resolve(struct td_engine *given, struct td_engine **ret);

/* The same, but the default engine is not made: NULL when it never was. */
struct td_engine *tdi_engine_made(struct td_engine *given);

/* An object that may outlive the caller's right to use the engine holds a reference. */
void tdi_engine_get(struct td_engine *engine);
void tdi_engine_put(struct td_engine *engine);

/* Submits without checks: the work is set up and not queued. See td_engine_submit. */
void tdi_engine_queue(struct td_engine *engine, struct td_work *work);

/* The same, when room for its cost has been taken: see tdi_budget_admit. */
void tdi_engine_queue_admitted(struct td_engine *engine, struct td_work *work);

/* And for a part of a work that is being run, whose cost it takes over. Queued at the
 * given place, as one that belongs there. */
void tdi_engine_queue_part(struct td_engine *engine, struct td_work *part,
			   struct td_work *whole, struct tdi_queue *queue);

/*
 * Runs the whole work in the caller instead. 0, or -EINPROGRESS: it had to pause for
 * long, and has been left to the reapers.
 */
int tdi_engine_run(struct td_engine *engine, struct td_work *work);

/* The same for a work that tdi_work_begin() has counted in already, in another thread
 * for instance. */
int tdi_engine_run_begun(struct td_engine *engine, struct td_work *work,
			 enum tdi_role role);

/* Does the calling thread run a work of the engine, as a reaper or in the place of one?
 * Then it must not wait for the engine: it would wait for itself. */
bool tdi_engine_is_reaper(const struct td_engine *engine);
/* How many of them, one in a callback of another. */
unsigned tdi_reaping_depth(const struct td_engine *engine);

/* ---- between the engine's own files ---- */

/* Marks a work as queued and counts it in. False: it was queued already. */
bool tdi_work_claim(struct td_work *work);
/* Takes that back, when the work has not begun. */
void tdi_work_unclaim(struct td_work *work);
/* admitted: its cost has been counted; else it is exempt from the budget. */
void tdi_work_begin(struct td_engine *engine, struct td_work *work, bool admitted);
void tdi_work_begin_part(struct td_engine *engine, struct td_work *part,
			 struct td_work *whole);

/*
 * Runs one slice and counts it. node: whose reaper runs it, for a work that belongs
 * elsewhere to say so; TDI_NODE_UNKNOWN: it is run here in any case. What the slice
 * returned.
 */
int tdi_work_slice(struct td_engine *engine, struct td_work *work, int node,
		   struct tdi_slice_end *end);

/* Calls done() and counts the work out. The work may be gone when this returns. */
void tdi_work_finish(struct td_engine *engine, struct td_work *work, int status);

/* Around slices: on a thread's stack, one within another where a callback of one engine
 * frees for another one. */
struct tdi_reaping {
	const struct td_engine *engine;
	struct tdi_reaping *outer;
	enum tdi_role role;	   /* the caller's unless set after entering */
	struct tdi_reaper *reaper; /* or NULL */
	unsigned how;		   /* enum tdi_reaping_how */
};

/* For the work that runs: in what way the innermost of them does. */
enum tdi_reaping_how {
	TDI_REAPING_BESIDE = 1u << 0,	   /* whoever runs the work, who ends it */
	TDI_REAPING_KEEP_SHARED = 1u << 1, /* shared memory is left to others */
};
unsigned tdi_reaping_how(void);
void tdi_reaping_enter(struct tdi_reaping *here, const struct td_engine *engine);
void tdi_reaping_leave(struct tdi_reaping *here);
const struct tdi_reaping *tdi_reaping_now(void); /* the innermost; NULL: none */

/* Runs slices in the caller. True: finished; false: still pausing after a second. */
bool tdi_work_run_here(struct td_engine *engine, struct td_work *work,
		       enum tdi_role role);

/* Waits for what was submitted or added to a batch before. 0, -ETIMEDOUT. */
int tdi_engine_drain(struct td_engine *engine, uint64_t deadline_ns);

/* Runs one slice of whatever is in turn, in the caller. False: nothing is. */
bool tdi_reaper_help(struct td_engine *engine);
/* The same of the work that was queued first, of those that have bytes to release. */
bool tdi_reaper_help_oldest(struct td_engine *engine);

/* The same of a work that waits and for which match says so. What its slice returned, or
 * -ENOENT: none does. And how many there are. */
unsigned tdi_reaper_count(struct td_engine *engine, tdi_queue_match *match, void *arg);
int tdi_reaper_join(struct td_engine *engine, tdi_queue_match *match, void *arg,
		    unsigned how);

/*
 * All of an engine's state, as of one that has no threads, no works, no batches; and its
 * threads, with all that they need: 0, or -errno and none of that is left.
 */
void tdi_engine_reset(struct td_engine *engine);
int tdi_engine_start(struct td_engine *engine, unsigned reapers);

/* See fork.c. */
void tdi_engine_after_fork_in_child(void);

/* In a thread that is to run a teardown: it will not be the first to use the allocator,
 * which sets itself up in a thread by allocating, even when that only frees. */
void tdi_reaper_warm_up(void);

/* Returns when all of them are ready for work, or with -errno and some running. */
int tdi_reapers_start(struct td_engine *engine, unsigned reapers);
void tdi_reapers_stop(struct td_engine *engine);

#endif
