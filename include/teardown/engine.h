/* SPDX-License-Identifier: MIT */
/*
 * td_engine: reaper threads and the queue of slow work they run in slices. It knows
 * nothing of memory; a host can give it any other slow teardown (a hash table, ten
 * thousand files) through td_engine_submit().
 *
 * Thread safety: every function may be called from any thread at any time, except
 * that td_engine_destroy() ends the caller's right to use the engine.
 *
 * A module that links the library is to be linked with -Wl,-z,nodelete, which pkg-config
 * and meson say by themselves: dlclose(3) then leaves it where it is, with all that
 * engines' threads, ends of threads and forks still call. Without it dlclose() is allowed
 * once every engine has been destroyed with TD_EXIT_DRAIN, if the default engine was
 * never made and no thread is left that has added to a batch or held something lazily.
 */
#ifndef TEARDOWN_ENGINE_H
#define TEARDOWN_ENGINE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
/* C++ sees the same layout; only the library itself touches these fields. */
#define TD_ATOMIC(type) type
#else
#define TD_ATOMIC(type) _Atomic(type)
#endif

/* A timeout that never runs out. Any negative value means the same. */
#define TD_FOREVER INT64_C(-1)

struct rcu_flavor_struct; /* liburcu's, by pointer: see <urcu/flavor.h> */

typedef struct td_engine td_engine;

enum td_engine_flags {
	/* Reapers with nothing to do leave the works of other NUMA nodes alone. */
	TD_ENGINE_NO_STEAL = 1u << 0,

	/* Reapers may run anywhere; otherwise each runs on the CPUs of its NUMA node, as
	   far as `cpus` and what its creator may use allow. */
	TD_ENGINE_UNBOUND = 1u << 1,

	/* Nobody else is there to be held up: see td_engine_set_fast(). */
	TD_ENGINE_FAST = 1u << 2,

	/*
	 * A thread of the engine ("NAME/psi") waits for the kernel to say that memory is
	 * short, and reports it as td_engine_pressure() would. Where the kernel does not,
	 * there is none, and psi_watched is 0 in the stats. It keeps up to four
	 * descriptors. Creating and destroying such an engine takes some 10 ms for each
	 * of them. (row B5)
	 */
	TD_ENGINE_PSI = 1u << 3,
};

/* How reapers are scheduled. Only one that is TD_SCHED_OTHER preempts who wakes it.
 */
enum td_sched {
	TD_SCHED_BATCH = 0,
	/* Only where nobody else wants the CPU, or nearly so: on busy CPUs memory comes
	   back at some MiB a second, and a reaper that loses its CPU in the kernel keeps
	   what locks it has there for as long. */
	TD_SCHED_IDLE,
	TD_SCHED_OTHER, /* as any thread */
};

/* What a caller meets who would pass the engine's budget. */
enum td_budget_policy {
	TD_BUDGET_HELP = 0, /* frees slices of what is pending, oldest first, until there
			       is room */
	TD_BUDGET_WAIT,	    /* sleeps until there is room */
	TD_BUDGET_AGAIN,    /* gets -EAGAIN, and nothing is changed */
};

struct td_engine_opts {
	size_t size;	  /* sizeof(struct td_engine_opts) */
	unsigned flags;	  /* enum td_engine_flags */
	unsigned reapers; /* threads; 0 = one per NUMA node, at most 1024 */

	/* Names the engine in messages and its threads ("NAME/0") in ps and top. Copied,
	 * cut to 10 bytes. NULL = "reaper". */
	const char *name;

	/* Flavor whose readers the engine waits for when it frees RCU-protected objects.
	 * Must outlive the engine. NULL = urcu-memb. */
	const struct rcu_flavor_struct *flavor;

	/* How long one step of a teardown may hold a kernel lock that others want, and so
	 * how long one slice lasts, in nanoseconds. 0 = 500000 (500 us). */
	uint64_t slice_ns;

	/* td_munmap() and td_region_unmap() give ranges of at least so many bytes to
	 * reapers, and free smaller ones in the caller. 0 = 64 MiB: see docs/design.md
	 * for the measurement behind it. SIZE_MAX = none. Device regions are given to
	 * reapers at any size. (row D6) */
	size_t munmap_threshold;

	/*
	 * Where and how reapers run, and the engine's other threads: of these only
	 * `sched` does not hold, since they do little and others wait for it. One that
	 * could not be placed so runs all the same and is counted in reapers_unplaced,
	 * and in the counter of what it did not get. (row A8)
	 */
	const void *cpus; /* a cpu_set_t of cpus_size bytes, as for CPU_ALLOC(3); NULL =
			     the creator's. Copied */
	size_t cpus_size;
	enum td_sched sched;
	int nice;	    /* -20 to 19; 0 = the creator's */
	const char *cgroup; /* directory of a threaded cgroup (v2), or of one of any v1
			       hierarchy; NULL = the creator's. Copied. Its threads file
			       is written to: the creator must be allowed that */

	/* Reapers release no more than so many bytes a second, together. 0 = no limit.
	 * See td_engine_set_rate(). */
	uint64_t bytes_per_s;

	/* At most so many bytes wait to be released: see td_engine_set_budget(). 0 = half
	 * of what the memory cgroup allows, or of physical memory. (row A11) */
	uint64_t budget;
	enum td_budget_policy budget_policy;
};

/* C only; C++ fills a struct of its own: td_engine_opts o = {}; o.size = sizeof o; */
#define TD_ENGINE_OPTS(...)                                                              \
	(&(const struct td_engine_opts){.size = sizeof(struct td_engine_opts),           \
					__VA_ARGS__})

/*
 * Makes an engine and starts its reapers: all signals blocked, SCHED_BATCH unless said
 * otherwise, so that waking one never preempts the thread that woke it, idle on a futex
 * until there is work.
 *
 *   opts  options, or NULL for the defaults
 *   ret   the engine
 *
 * Returns 0; -EINVAL: unknown flag, too many reapers, opts->size too small, a set of no
 * CPUs, or the path of a cgroup that is empty or longer than a path can be; -E2BIG: the
 * options set a field that this library does not know; -ENOMEM; -EAGAIN: a thread
 * could not be started. On failure nothing is left behind.
 * Ownership: the caller's, until td_engine_destroy().
 * Context: may block; allocates. Any thread; no RCU registration needed.
 */
int td_engine_create(const struct td_engine_opts *opts, td_engine **ret);

/*
 * The process-wide engine, made on first use; NULL means it wherever an engine is
 * asked for. Where its threads cannot be started it is made without any, and work
 * given to it runs in the caller: being asynchronous never makes a call fail. It
 * lives as long as the process.
 *
 * Returns 0; -ENOMEM; -ECHILD: it was made in the parent of this process.
 * Context: the first call may block and allocates; later ones do neither.
 */
int td_engine_default(td_engine **ret);

/*
 * Waits until everything submitted before this call has been done, its callbacks
 * included, and all that was added to its batches has been freed. Work submitted
 * meanwhile is not waited for, so a busy engine can be drained.
 *
 *   engine      NULL = the default engine (nothing to do if it was never made)
 *   timeout_ns  nanoseconds; 0 polls; TD_FOREVER
 *
 * Returns 0; -ETIMEDOUT; -EDEADLK: called on one of the engine's reapers, or in a
 * callback in the thread that frees in its place; -ECHILD. Context: blocks; not in a
 * callback, nor inside a read-side critical section.
 */
int td_engine_drain(td_engine *engine, int64_t timeout_ns);

/*
 * Frees all that is pending, now, with the caller's help: for a host whose mmap(2) or
 * mlock(2) was just refused. Memory that has been unmapped but not yet reclaimed counts
 * against address space, locked memory, commit charge, the number of mappings and the
 * pool of huge pages. Open groups of batches are closed, but not waited for. The caller
 * runs slices as a reaper does, and waits for those that are running elsewhere.
 *
 *   engine  NULL = the default engine (nothing to do if it was never made)
 *
 * Returns 0: everything that was pending when the call began is done; -EAGAIN: but for
 * works that could not go on (TD_WORK_LATER); -EDEADLK: as td_engine_drain(); -ECHILD.
 * Context: blocks; works of any owner may run in the caller, their callbacks included;
 * not in a callback. (row A11)
 */
int td_engine_relieve(td_engine *engine);

/*
 * Bounds what is pending, in bytes: what was put, unmapped or submitted with a cost and
 * has not been released yet, touched or not. Memory that callers free by themselves does
 * not count. A call that would pass the bound meets the policy (enum td_budget_policy):
 * it helps, waits or is refused; with nothing pending it never does, however large. So
 * the bound is passed by one such call at most, whatever the number of threads.
 *
 * Nothing depends on deferred work: where all that is pending cannot go on, where nothing
 * moves (for 20 ms while helping, a second while waiting), in callbacks, and where there
 * are no reapers, the caller frees what it brought in slices by itself, at once. In
 * callbacks that are nested eight deep it is queued beyond the bound. Who helps runs
 * slices and callbacks of any owner; but one who brings 2 MiB or less frees just that,
 * which is sooner done.
 *
 *   engine  NULL = the default engine
 *   bytes   0 = the default: half of the least that physical memory and the memory
 *           cgroups of this process allow, as they are now
 *
 * Returns 0; -EINVAL: unknown policy; -ECHILD; -ENOMEM (default engine). On failure
 * nothing is changed. Any time; those who wait look again. Context: does not block; for
 * the default it reads some files. (row A11)
 */
int td_engine_set_budget(td_engine *engine, uint64_t bytes, enum td_budget_policy policy);

/*
 * Makes an engine of the parent usable in a child, in place: new threads, nothing
 * pending, counters from zero. Its options stay, as they are by now, and so do the
 * shrinkers and the progress callback that were added to it. What the parent made with it
 * stays the parent's: spaces and batches answer -ECHILD, and nothing of it is freed; a
 * work of the host's that the parent has submitted is prepared anew by td_work_init()
 * before it is submitted here. The engine is the caller's as if he had created it. It may
 * be one whose threads were busy, that others were using or draining, or that had been
 * stopped when the child was made; not one that td_engine_destroy() had been called for.
 *
 *   engine  NULL = the default engine; where threads cannot be started it goes on
 *           without any
 *
 * Returns 0; -EALREADY: it is not the parent's, or has been restarted, or is the default
 * engine and has never been made; -EDEADLK: the child was made in a callback of the
 * engine, and is in it; -ENOTRECOVERABLE: the fork met a grace period that took more than
 * a second, and liburcu cannot be used here; -ENOMEM, -EAGAIN: as td_engine_create(), and
 * it may be tried again.
 * Thread safety: any thread of the child; of several that call one succeeds. Best before
 * any other is started: see docs/design.md, "Fork", for the flavors of liburcu.
 * Context: may block; allocates. Not in a handler of pthread_atfork(3).
 */
int td_engine_restart(td_engine *engine);

enum td_exit_mode {
	TD_EXIT_DRAIN = 0, /* wait until all is done, however long */
	TD_EXIT_DEADLINE,  /* wait for the timeout, then abandon the rest */
	TD_EXIT_ABANDON,   /* stop after the slices being run: the process is about to end
			    */
};

/*
 * Stops an engine's threads for good, as td_engine_destroy() does, and keeps the engine:
 * it can be used as before, and what it is given runs in its callers. For the end of a
 * process that is to end with the last thread of its host's (its main thread called
 * pthread_exit(3), and nobody calls exit): the engine's own would keep it alive. Not
 * needed before exit(3).
 *
 *   engine  NULL = the default engine (nothing to do if it was never made)
 *   mode, timeout_ns  as for td_engine_destroy(), which may still be called
 *
 * Returns 0; -ETIMEDOUT: stopped, the rest was abandoned at the deadline; and, with
 * nothing done: -EALREADY: stopped before, or somebody is at it; -EINVAL; -EDEADLK;
 * -ECHILD.
 * Context: as td_engine_destroy().
 */
int td_engine_stop(td_engine *engine, enum td_exit_mode mode, int64_t timeout_ns);

/*
 * Stops the reapers and gives the engine up. Abandoned work gets done(work,
 * -ECANCELED); memory of an abandoned space stays mapped until the process ends, and
 * its waiters get -ECANCELED. Spaces of the engine that are still in use stay valid:
 * their last put then frees in the caller, in slices. So do its batches: what is added
 * to them then, and what was abandoned, is freed by td_batch_barrier(), td_batch_flush()
 * or td_batch_destroy() in the caller.
 *
 *   engine      NULL is allowed and does nothing
 *   timeout_ns  for TD_EXIT_DEADLINE only
 *
 * Returns 0; -ETIMEDOUT: the engine is gone, the rest was abandoned at the deadline, but
 * for what other threads run by themselves (td_space_reap(), or after td_engine_stop()),
 * who go on with it; and, with the engine unchanged: -EINVAL: unknown mode; -EPERM: the
 * default engine; -EDEADLK: called on one of its reapers or by a
 * shrinker; -ECHILD. Context: blocks; not
 * in a callback of this engine, nor inside a read-side critical section (but for
 * TD_EXIT_ABANDON).
 */
int td_engine_destroy(td_engine *engine, enum td_exit_mode mode, int64_t timeout_ns);

/* The RCU flavor of the engine: never NULL. Context: anywhere, does not block. */
const struct rcu_flavor_struct *td_engine_flavor(const td_engine *engine);

/* ---- generic work ---- */

struct td_work;

/* What one slice is told, and what it reports. */
struct td_slice {
	uint64_t deadline_ns; /* CLOCK_MONOTONIC: return soon after this */
	uint64_t target_ns;   /* longest time to hold a lock that others want */
	uint64_t released;    /* out: bytes of the work's cost released by this slice */
	unsigned parallel;    /* in/out: reapers that could run the rest side by side */
	int tdi_node, tdi_home;
	struct tdi_pace_hints *tdi_hints;
};

/* What a slice returns. A negative errno ends the work with that status. */
enum td_work_result {
	TD_WORK_DONE = 0, /* nothing is left to hand out */
	TD_WORK_MORE,	  /* more to do */
	TD_WORK_WAIT,  /* (parallel works) no more until another running slice returns */
	TD_WORK_LATER, /* cannot go on now: again after a pause of 1 ms, doubling to 1 s
			*/
};

struct td_work_ops {
	/*
	 * Does a part of the work and returns an enum td_work_result or -errno. Works get
	 * slices in turn; one that overstays sits out as many turns as it took time.
	 * Works with parallel > 1 must be prepared to run on several reapers at once.
	 * Context: on a reaper, or in the thread that frees in its place; no library lock
	 * held, not registered with RCU; may block; may call the library.
	 */
	int (*slice)(struct td_work *work, struct td_slice *slice);

	/*
	 * Called once, after the last slice has returned. status: 0; the errno a slice
	 * returned; -ECANCELED when the engine abandoned the work; -EAGAIN when it ran in
	 * its submitter and only ever put itself off for a second. The engine does not
	 * touch the work again: it may be freed or submitted anew here. May be NULL.
	 */
	void (*done)(struct td_work *work, int status);
};

/* Embedded in the host's object, set up by td_work_init(). tdi_ fields are private. */
struct td_work {
	const struct td_work_ops *ops;
	uint64_t cost;	   /* bytes that the work holds until it is done */
	unsigned parallel; /* how many reapers may run it at once; 0 = 1 */

	/* Its share beside other works that wait: of what they release. 1 to 10000;
	 * 0 = 100. */
	unsigned weight;

	unsigned tdi_limit, tdi_running, tdi_sit_out;
	void *tdi_inbox;
	struct tdi_queue *tdi_queue;
	struct td_work *tdi_next, *tdi_prev;
	uint64_t tdi_due_ns, tdi_pause_ns, tdi_share, tdi_serial;
	int tdi_status, tdi_home;
	unsigned char tdi_epoch, tdi_exhausted, tdi_later, tdi_leaves;
	unsigned char tdi_is_small, tdi_had_slice, tdi_gives_memory, tdi_exempt;
	TD_ATOMIC(uint32_t) tdi_state;
	TD_ATOMIC(uint32_t) tdi_slices, tdi_at_home;
	TD_ATOMIC(uint64_t) tdi_left, tdi_cpu_ns;
};

/* Prepares a work for td_engine_submit(). ops must outlive the work. */
void td_work_init(struct td_work *work, const struct td_work_ops *ops, uint64_t cost);

/*
 * Queues a work: wait-free, takes no lock, allocates nothing; at most one futex wake.
 * Where there is nobody to run it (an engine without threads or being destroyed) it
 * runs to its end in the caller before the call returns. A work with a cost that is past
 * the engine's budget meets its policy: see td_engine_set_budget().
 *
 *   engine  NULL = the default engine
 *   work    stays the caller's and must not be touched until done() is called
 *
 * Returns 0; -EINVAL: no work, ops or slice function, or a weight beyond 10000; -EBUSY:
 * the work is queued already; -EAGAIN: past the budget, TD_BUDGET_AGAIN; -ECHILD; and
 * -ENOMEM when the default engine could not be made. On failure the work is unchanged.
 * Context: any thread, callbacks included; no RCU registration needed.
 */
int td_engine_submit(td_engine *engine, struct td_work *work);

#ifdef __cplusplus
}
#endif

#endif
