/* SPDX-License-Identifier: MIT */
/*
 * td_space_release: a helper at one teardown, from outside.
 *
 *   S1  What waits in a queue is taken out of it by whoever helps, and given back as by a
 *       reaper: so it is ended by the last one who had a slice, the helper perhaps.
 *   S2  A space's work that somebody runs already, in a thread of his own perhaps, can
 *       also be run beside him, without the engine's knowledge: the doom shares out what
 *       there is to do. Then it is his to end it. He does not before all those have left,
 *       so that nothing is taken from under their hands.
 *   S3  Each frees only what it has claimed, under the doom's lock. Hence nothing twice.
 */
#include "doomed.h"
#include "space_internal.h"
#include "sys.h"
#include "trace.h"

#include <limits.h>

/* ---- beside those who run it: td_space.beside, a futex ---- */

#define OPEN 1u
#define CLOSED 2u
#define ONE 4u /* the rest of the word counts those inside */

void tdi_space_beside_open(struct td_space *space)
{
	/* Release: pairs with enter(). The work has been begun. */
	if (tdi_unlikely(
		    !(atomic_load_explicit(&space->beside, memory_order_relaxed) & OPEN)))
		atomic_fetch_or_explicit(&space->beside, OPEN, memory_order_release);
}

void tdi_space_beside_close(struct td_space *space)
{
	uint32_t word =
		atomic_fetch_or_explicit(&space->beside, CLOSED, memory_order_acquire) |
		CLOSED;

	while (word >= ONE) {
		tdi_sys_futex_wait(&space->beside, word, UINT64_MAX);
		/* Acquire: pairs with leave(). What they did comes before the end. */
		word = atomic_load_explicit(&space->beside, memory_order_acquire);
	}
}

void tdi_space_beside_wait(struct td_space *space, uint64_t deadline_ns)
{
	/* Acquire: what they did comes before the next look at what is left. */
	uint32_t word = atomic_load_explicit(&space->beside, memory_order_acquire);

	if (word >= ONE)
		tdi_sys_futex_wait(&space->beside, word, deadline_ns);
}

static bool enter(struct td_space *space)
{
	uint32_t word = atomic_load_explicit(&space->beside, memory_order_relaxed);

	do {
		if ((word & (OPEN | CLOSED)) != OPEN)
			return false;
		/* Acquire: pairs with tdi_space_beside_open(). */
	} while (!atomic_compare_exchange_weak_explicit(&space->beside, &word, word + ONE,
							memory_order_acquire,
							memory_order_relaxed));
	return true;
}

static void leave(struct td_space *space)
{
	/* Release: see close and wait. The caller's count keeps the space. */
	atomic_fetch_sub_explicit(&space->beside, ONE, memory_order_release);
	tdi_sys_futex_wake(&space->beside, INT_MAX);
}

static int run_beside(struct td_space *space, unsigned how)
{
	struct tdi_slice_end end;
	struct tdi_reaping here;
	int result;

	if (!enter(space))
		return -ENOENT;
	tdi_reaping_enter(&here, space->engine);
	here.role = TDI_ROLE_HELPER;
	here.how = how | TDI_REAPING_BESIDE;
	tdi_trace_help(space->engine->name, TDI_HELP_SLICE, 1);
	result = tdi_work_slice(space->engine, &space->work, TDI_NODE_UNKNOWN, &end);
	tdi_reaping_leave(&here);
	leave(space);
	return result;
}

/* ---- what waits in a queue ---- */

struct sought {
	struct td_space *space;
	unsigned how;	    /* enum tdi_reaping_how */
	bool after_put_off; /* one has put itself off: try no such again */
	bool stuck;	    /* and so has its own work */
	uint64_t now_ns;    /* for those that are due */
};

static bool may_try(const struct sought *sought, const struct td_work *work)
{
	return !(sought->after_put_off && work->tdi_pause_ns > 0);
}

static bool is_its_work(const struct td_work *work, void *arg)
{
	const struct sought *sought = arg;

	return work == &sought->space->work && may_try(sought, work);
}

/* Of the space, and not its own work: an evicted range, or what lies on another node. */
static bool is_part_of(struct td_space *space, const struct td_work *work,
		       bool *only_shared)
{
	const struct tdi_doomed *doomed = tdi_doomed_of(work);
	struct tdi_doom *doom = doomed ? NULL : tdi_space_nodes_doom(space, work);

	if (doom)
		*only_shared = !tdi_doom_has_unshared(doom);
	else if (doomed)
		*only_shared = tdi_extent_is_shared(&doomed->extent);
	return doom || (doomed && tdi_space_evicted(space, doomed->owner));
}

static bool is_part(const struct td_work *work, void *arg)
{
	const struct sought *sought = arg;
	bool only_shared;

	return is_part_of(sought->space, work, &only_shared) && may_try(sought, work) &&
	       !((sought->how & TDI_REAPING_KEEP_SHARED) && only_shared);
}

static bool is_shared_part(const struct td_work *work, void *arg)
{
	const struct sought *sought = arg;
	bool only_shared;

	return is_part_of(sought->space, work, &only_shared) && only_shared;
}

/* One that has not just put itself off. */
static bool is_due_part(const struct td_work *work, void *arg)
{
	const struct sought *sought = arg;
	bool only_shared;

	return is_part_of(sought->space, work, &only_shared) &&
	       (work->tdi_pause_ns == 0 || work->tdi_due_ns <= sought->now_ns);
}

bool tdi_space_help_parts(struct td_space *space)
{
	struct sought sought = {.space = space, .now_ns = tdi_sys_now_ns()};

	return tdi_reaper_join(space->engine, is_due_part, &sought, 0) != -ENOENT;
}

/* ---- all of it ---- */

/* How long to wait for slices that others run, and how often to look again meanwhile. */
#define OTHERS_WAIT_NS 10000000u
#define OTHERS_LOOK_NS 500000u

static bool is_reclaimed(struct td_space *space)
{
	return tdi_events_happened(&space->events, TD_EVENT_RECLAIMED);
}

/* Nothing is left that was to be freed, as far as can be told. */
static bool is_over(struct sought *sought)
{
	struct td_space *space = sought->space;
	uint32_t parts, others;
	bool over;

	if (is_reclaimed(space))
		return true;
	if (!(sought->how & TDI_REAPING_KEEP_SHARED) || !enter(space))
		return false;
	over = tdi_space_nodes_are_sorted(space); /* before its parts are counted */
	/* Acquire: pairs with tdi_space_part_ends(). Others than its work only as far as
	 * they are shared memory that waits. */
	parts = atomic_load_explicit(&space->parts, memory_order_acquire);
	others = parts - 1;
	if (others > 0)
		others -= tdi_reaper_count(space->engine, is_shared_part, sought);
	/* Inside: or somebody ends it, and takes the doom apart. */
	over = over && others == 0 && !tdi_doom_has_unshared(&space->doom);
	/* None has come that was counted in the queue and not before. */
	over = over && atomic_load_explicit(&space->parts, memory_order_relaxed) == parts;
	leave(space);
	return over;
}

static int run_queued(struct sought *sought, tdi_queue_match *match)
{
	int result = tdi_reaper_join(sought->space->engine, match, sought, sought->how);

	if (result == TD_WORK_LATER)
		sought->after_put_off = true;
	return result;
}

/* A slice of anything that is the space's. False: there is nothing to do, for now. */
static bool run_one(struct sought *sought)
{
	int result = run_queued(sought, is_part);

	/* What is left of that, if anything, is in others' hands. */
	if (result != -ENOENT && result != TD_WORK_WAIT)
		return true;
	result = run_queued(sought, is_its_work);
	if (result == -ENOENT && !sought->stuck)
		result = run_beside(sought->space, sought->how);
	else if (result == TD_WORK_DONE)
		result = TD_WORK_MORE; /* it is ended, or will be by another one */
	if (result == TD_WORK_LATER)
		sought->stuck = true;
	return result == TD_WORK_MORE;
}

static int release(struct sought *sought)
{
	struct td_space *space = sought->space;
	bool waits = !tdi_engine_is_reaper(space->engine);
	uint64_t now = 0, until = 0;

	while (!is_over(sought)) {
		if (run_one(sought)) {
			until = 0;
			continue;
		}
		now = tdi_sys_now_ns();
		if (until == 0)
			until = now + OTHERS_WAIT_NS;
		if (!waits || now >= until)
			return is_over(sought) ? 0 : -EAGAIN;
		(void)tdi_events_wait(&space->events, TD_EVENT_RECLAIMED,
				      now + OTHERS_LOOK_NS);
	}
	return 0;
}

int td_space_release(td_space *space, unsigned flags)
{
	struct sought sought = {.space = space};
	int err = tdi_space_check(space);

	if (err)
		return err;
	/* Acquire: what the users did comes before it is freed. */
	if ((flags & ~(unsigned)TD_RELEASE_KEEP_SHARED) ||
	    tdi_ref_read_acquire(&space->users) > 0)
		return -EINVAL;
	if (flags & TD_RELEASE_KEEP_SHARED)
		sought.how = TDI_REAPING_KEEP_SHARED;
	/* The caller's may be dropped by another thread meanwhile. */
	(void)td_space_grab(space);
	err = release(&sought);
	(void)td_space_drop(space);
	return err;
}

/* ---- by the last user himself, or by one who is attached ---- */

/* How long to wait for a reaper that has a part of the space in hand, and how often to
 * look whether there is something to lend a hand with. */
#define PARTS_WAIT_NS 1000000000u
#define PARTS_LOOK_NS 1000000u

/* Ranges that left before are with the reapers, who may want help: with these only, since
 * others' callbacks are not to run in one who frees his own. */
static int finish_parts(struct td_space *space)
{
	uint64_t now = tdi_sys_now_ns(), until = now + PARTS_WAIT_NS;

	while (!tdi_events_happened(&space->events, TD_EVENT_RECLAIMED)) {
		if (now >= until || tdi_engine_is_reaper(space->engine))
			return -EINPROGRESS;
		if (tdi_space_help_parts(space)) {
			until = tdi_sys_now_ns() + PARTS_WAIT_NS;
			continue;
		}
		(void)tdi_events_wait(&space->events, TD_EVENT_RECLAIMED,
				      now + PARTS_LOOK_NS);
		now = tdi_sys_now_ns();
	}
	return 0;
}

int tdi_space_tear_down(struct td_space *space, enum tdi_role role)
{
	int err = tdi_engine_run_begun(space->engine, &space->work, role);

	return err ? err : finish_parts(space);
}
