/* SPDX-License-Identifier: MIT */
#include "budget.h"
#include "engine_internal.h"
#include "memlimit.h"
#include "sys.h"

#include <limits.h>

/* For somebody who helps: until another slice may have returned, and until he rather
 * frees his own. For somebody who waits: how often he looks whether that makes sense,
 * and when it does not any more. */
#define HELP_LOOK_NS 1000000u
#define HELP_PATIENCE_NS 20000000u
#define WAIT_LOOK_NS 50000000u
#define WAIT_PATIENCE_NS 1000000000u

/* Works that are run in the middle of one another's callbacks, before one is queued all
 * the same: a stack has an end. */
#define NESTED_MAX 8u

void tdi_budget_reset(struct tdi_budget *budget, uint64_t limit)
{
	*budget = (struct tdi_budget){
		.help_look_ns = HELP_LOOK_NS,
		.help_patience_ns = HELP_PATIENCE_NS,
		.wait_look_ns = WAIT_LOOK_NS,
		.wait_patience_ns = WAIT_PATIENCE_NS,
		.small = TDI_SMALL_BYTES, /* sooner done than room is found */
	};
	atomic_init(&budget->limit, limit);
}

void tdi_budget_init(struct td_engine *engine, uint64_t bytes,
		     enum td_budget_policy policy)
{
	tdi_budget_reset(&engine->budget, bytes ? bytes : tdi_memlimit() / 2);
	atomic_init(&engine->budget_policy, (unsigned char)policy);
}

static enum td_budget_policy policy_of(const struct td_engine *engine)
{
	return atomic_load_explicit(&engine->budget_policy, memory_order_relaxed);
}

/* ---- room ---- */

/* How much may be pending so that there is room beside what the first in line wants.
 * UINT64_MAX: there is none at all, unless nothing is pending. */
static uint64_t most_pending(uint64_t limit, uint64_t bytes, uint64_t ahead)
{
	if (bytes > limit || ahead > limit - bytes)
		return UINT64_MAX;
	return limit - bytes - ahead;
}

static void note_peak(struct tdi_budget *budget, uint64_t pending)
{
	uint64_t peak = atomic_load_explicit(&budget->peak, memory_order_relaxed);

	while (pending > peak && !atomic_compare_exchange_weak_explicit(
					 &budget->peak, &peak, pending,
					 memory_order_relaxed, memory_order_relaxed))
		;
}

TDI_HOT static bool take(struct td_engine *engine, uint64_t bytes, uint64_t ahead)
{
	struct tdi_budget *budget = &engine->budget;
	/* seq_cst twice: pairs with td_engine_set_budget and tdi_budget_give, see
	 * sleep_for_room. */
	uint64_t limit = atomic_load_explicit(&budget->limit, memory_order_seq_cst);
	uint64_t most = most_pending(limit, bytes, ahead);
	uint64_t now;
	uint64_t pending =
		atomic_load_explicit(&engine->bytes_pending, memory_order_seq_cst);

	do {
		bool alone = pending == 0 && ahead == 0;

		if (!alone && (most == UINT64_MAX || pending > most))
			return false;
		now = pending + bytes;
	} while (!atomic_compare_exchange_weak_explicit(&engine->bytes_pending, &pending,
							now, memory_order_seq_cst,
							memory_order_seq_cst));
	note_peak(budget, now);
	return true;
}

TDI_HOT bool tdi_budget_try(struct td_engine *engine, uint64_t bytes)
{
	/* Relaxed: who comes a moment too early does no harm, he only goes first. */
	uint64_t ahead =
		atomic_load_explicit(&engine->budget.first, memory_order_relaxed);

	return bytes == 0 || take(engine, bytes, ahead);
}

static void wake(struct tdi_budget *budget)
{
	/* They all look, and say anew what they want. */
	atomic_store_explicit(&budget->wake_below, 0, memory_order_seq_cst);
	/* Release: pairs with the acquire in sleep_for_room. */
	atomic_fetch_add_explicit(&budget->word, 1, memory_order_release);
	tdi_sys_futex_wake(&budget->word, INT_MAX);
}

void tdi_budget_give(struct td_engine *engine, uint64_t bytes)
{
	struct tdi_budget *budget = &engine->budget;
	/* seq_cst twice: pairs with sleep_for_room. */
	uint64_t left = atomic_fetch_sub_explicit(&engine->bytes_pending, bytes,
						  memory_order_seq_cst) -
			bytes;

	if (tdi_unlikely(left <
			 atomic_load_explicit(&budget->wake_below, memory_order_seq_cst)))
		wake(budget);
}

static void wake_all(struct tdi_budget *budget)
{
	if (atomic_load_explicit(&budget->wake_below, memory_order_seq_cst) > 0)
		wake(budget);
}

void tdi_budget_tell_later(struct td_engine *engine)
{
	wake_all(&engine->budget);
}

/* ---- without room ---- */

struct caller {
	struct td_engine *engine;
	uint64_t bytes;
	bool first; /* in line */
	bool helped, waited;
	bool impatient;	    /* to wait does not make sense any more */
	uint64_t reclaimed; /* by the engine, when that last moved */
	uint64_t moved_ns;  /* when something last went on */
};

/* What the others are to leave room for. */
static uint64_t ahead_of(const struct caller *caller)
{
	if (caller->first)
		return 0;
	return atomic_load_explicit(&caller->engine->budget.first, memory_order_seq_cst);
}

static bool has_room(struct caller *caller)
{
	struct tdi_budget *budget = &caller->engine->budget;
	uint64_t nobody = 0;

	/* seq_cst, also when it fails: pairs with the store in admit, see
	 * sleep_for_room. */
	if (!caller->first)
		caller->first = atomic_compare_exchange_strong_explicit(
			&budget->first, &nobody, caller->bytes, memory_order_seq_cst,
			memory_order_seq_cst);
	return take(caller->engine, caller->bytes, ahead_of(caller));
}

/*
 * Sleeps until there may be room, or somebody else should look. True: there is, and it is
 * taken.
 *
 * No wake is lost. Either tdi_budget_give has seen what is said here; then the word
 * changes after it was read here, and nobody sleeps on it. Or it has not: then it looked
 * before that was said, so its subtraction came before, and has_room sees it. The same
 * for who was first in line, and for a new limit. Also where another sleeper has said it
 * already: that is read by seq_cst, too, and so comes after he did.
 */
static bool sleep_for_room(struct caller *caller, uint64_t look_ns)
{
	struct tdi_budget *budget = &caller->engine->budget;
	uint32_t word = atomic_load_explicit(&budget->word, memory_order_acquire);
	uint64_t limit = atomic_load_explicit(&budget->limit, memory_order_seq_cst);
	uint64_t most = most_pending(limit, caller->bytes, ahead_of(caller));
	uint64_t want = most == UINT64_MAX ? 1 : most + 1;
	uint64_t said = atomic_load_explicit(&budget->wake_below, memory_order_seq_cst);
	uint64_t now = tdi_sys_now_ns();
	bool room;

	while (said < want && !atomic_compare_exchange_weak_explicit(
				      &budget->wake_below, &said, want,
				      memory_order_seq_cst, memory_order_seq_cst))
		;
	room = has_room(caller);
	if (room)
		return true;
	atomic_fetch_add_explicit(&budget->sleepers, 1, memory_order_relaxed);
	(void)tdi_sys_futex_wait(&budget->word, word,
				 look_ns > UINT64_MAX - now ? UINT64_MAX : now + look_ns);
	atomic_fetch_sub_explicit(&budget->sleepers, 1, memory_order_relaxed);
	return false;
}

/* Everything that is pending has put itself off. */
static bool is_stuck(struct td_engine *engine)
{
	bool stuck;

	/* Inside the gate nobody takes the queue apart. */
	if (!tdi_gate_enter(&engine->gate))
		return true;
	stuck = tdi_queue_is_stuck(engine->queues.first,
				   tdi_pending_count(&engine->pending));
	tdi_gate_leave(&engine->gate);
	return stuck;
}

/* Has the engine released anything since the last look? */
static bool goes_on(struct caller *caller)
{
	uint64_t reclaimed = atomic_load_explicit(&caller->engine->bytes_reclaimed,
						  memory_order_relaxed);

	if (reclaimed == caller->reclaimed)
		return false;
	caller->reclaimed = reclaimed;
	return true;
}

/* One sleep at most. True: room is taken. */
static bool wait_a_while(struct caller *caller)
{
	uint64_t now = tdi_sys_now_ns();

	caller->waited = true;
	if (goes_on(caller))
		caller->moved_ns = now;
	if (is_stuck(caller->engine) ||
	    now - caller->moved_ns >= caller->engine->budget.wait_patience_ns) {
		caller->impatient = true;
		caller->moved_ns = now;
		return false;
	}
	return sleep_for_room(caller, caller->engine->budget.wait_look_ns);
}

/* One slice at most, or a short sleep. 0: room is taken, -EAGAIN: not yet. */
static int help_a_while(struct caller *caller)
{
	struct td_engine *engine = caller->engine;
	uint64_t now;

	if (tdi_reaper_help_oldest(engine)) {
		caller->helped = true;
		caller->moved_ns = tdi_sys_now_ns();
		return -EAGAIN;
	}
	now = tdi_sys_now_ns();
	if (is_stuck(engine) || now - caller->moved_ns >= engine->budget.help_patience_ns)
		return TDI_IN_PLACE;
	return sleep_for_room(caller, engine->budget.help_look_ns) ? 0 : -EAGAIN;
}

static int get_room(struct caller *caller)
{
	struct td_engine *engine = caller->engine;
	int err = -EAGAIN;

	while (err == -EAGAIN) {
		if (has_room(caller))
			err = 0;
		else if (policy_of(engine) != TD_BUDGET_WAIT || caller->impatient)
			err = help_a_while(caller);
		else if (wait_a_while(caller))
			err = 0;
	}
	return err;
}

static void count(_Atomic(uint64_t) *counter, bool is_so)
{
	if (is_so)
		atomic_fetch_add_explicit(counter, 1, memory_order_relaxed);
}

static int admit(struct td_engine *engine, uint64_t bytes)
{
	struct tdi_budget *budget = &engine->budget;
	struct caller caller = {
		.engine = engine, .bytes = bytes, .moved_ns = tdi_sys_now_ns()};
	int err;

	(void)goes_on(&caller);
	err = get_room(&caller);
	if (caller.first) {
		atomic_store_explicit(&budget->first, 0, memory_order_seq_cst);
		/* There may be room for others beside what he has taken. */
		wake_all(budget);
	}
	count(&budget->helped, caller.helped);
	count(&budget->waited, caller.waited);
	return err;
}

/* Where nobody may wait: a reaper, and who frees in the place of one. */
static int admit_nested(struct td_engine *engine, uint64_t bytes)
{
	if (tdi_reaping_depth(engine) < NESTED_MAX)
		return TDI_IN_PLACE;
	note_peak(&engine->budget,
		  atomic_fetch_add_explicit(&engine->bytes_pending, bytes,
					    memory_order_relaxed) +
			  bytes);
	return 0;
}

TDI_HOT int tdi_budget_admit(struct td_engine *engine, uint64_t bytes, bool may_refuse)
{
	struct tdi_budget *budget = &engine->budget;
	int err;

	if (tdi_likely(tdi_budget_try(engine, bytes)))
		return 0;
	if (tdi_engine_is_reaper(engine)) {
		err = admit_nested(engine, bytes);
	} else if (engine->nr_reapers == 0 ||
		   atomic_load_explicit(&engine->stopped, memory_order_relaxed) ||
		   tdi_engine_pressure_now(engine) == TD_PRESSURE_FULL) {
		/* Nor does anybody wait for others where all free their own. */
		err = TDI_IN_PLACE;
	} else if (may_refuse && policy_of(engine) == TD_BUDGET_AGAIN) {
		count(&budget->refused, true);
		return -EAGAIN;
	} else if (policy_of(engine) == TD_BUDGET_HELP && bytes <= budget->small) {
		err = TDI_IN_PLACE;
	} else {
		err = admit(engine, bytes);
	}
	count(&budget->in_place, err == TDI_IN_PLACE);
	return err;
}

/* ---- setting ---- */

int td_engine_set_budget(td_engine *given, uint64_t bytes, enum td_budget_policy policy)
{
	struct td_engine *engine;
	int err = (unsigned)policy > TD_BUDGET_AGAIN ? -EINVAL
						     : tdi_engine_resolve(given, &engine);

	if (err)
		return err;
	atomic_store_explicit(&engine->budget.limit, bytes ? bytes : tdi_memlimit() / 2,
			      memory_order_seq_cst);
	atomic_store_explicit(&engine->budget_policy, (unsigned char)policy,
			      memory_order_seq_cst);
	wake_all(&engine->budget);
	return 0;
}
