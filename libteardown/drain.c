/* SPDX-License-Identifier: MIT */
/* Waiting for an engine's works, with or without lending a hand. */
#include "engine_internal.h"
#include "sys.h"

static int wait_for_zero(_Atomic(uint32_t) *word, uint64_t deadline_ns)
{
	int err = 0;

	for (;;) {
		/* seq_cst: pairs with tdi_work_finish */
		uint32_t value = atomic_load_explicit(word, memory_order_seq_cst);

		if (value == 0)
			return 0;
		if (err == -ETIMEDOUT)
			return err;
		err = tdi_sys_futex_wait(word, value, deadline_ns);
	}
}

/* A lock that can be waited for until a deadline. */
static int take_turn(struct tdi_pending *pending, uint64_t deadline_ns)
{
	int err = 0;

	while (atomic_exchange_explicit(&pending->turn, 1, memory_order_acquire) != 0) {
		if (err == -ETIMEDOUT)
			return err;
		err = tdi_sys_futex_wait(&pending->turn, 1, deadline_ns);
	}
	return 0;
}

static void give_turn(struct tdi_pending *pending)
{
	atomic_store_explicit(&pending->turn, 0, memory_order_release);
	tdi_sys_futex_wake(&pending->turn, 1);
}

/*
 * New works count in the current epoch. First wait for the other one, which nobody
 * joins (but for a submitter that read the epoch long ago, whose work is no older than
 * this drain); then make that the current one, and wait for those that came before.
 */
int tdi_engine_drain(struct td_engine *engine, uint64_t deadline_ns)
{
	struct tdi_pending *pending = &engine->pending;
	uint32_t epoch;
	int err;

	err = take_turn(pending, deadline_ns);
	if (err)
		return err;
	atomic_fetch_add_explicit(&pending->drainers, 1, memory_order_seq_cst);
	epoch = atomic_load_explicit(&pending->epoch, memory_order_relaxed);
	err = wait_for_zero(&pending->works[!epoch], deadline_ns);
	if (!err) {
		atomic_store_explicit(&pending->epoch, !epoch, memory_order_seq_cst);
		err = wait_for_zero(&pending->works[epoch], deadline_ns);
	}
	atomic_fetch_sub_explicit(&pending->drainers, 1, memory_order_relaxed);
	give_turn(pending);
	return err;
}

/* What both calls open with. 1: go on. */
static int enter(struct td_engine *engine)
{
	int err;

	if (!engine)
		return 0;
	err = tdi_engine_check(engine);
	if (err)
		return err;
	return tdi_engine_is_reaper(engine) ? -EDEADLK : 1;
}

int td_engine_drain(td_engine *given, int64_t timeout_ns)
{
	struct td_engine *engine = tdi_engine_made(given);
	int err = enter(engine);

	return err == 1 ? tdi_engine_drain(engine, tdi_sys_deadline(timeout_ns)) : err;
}

/* How often to look whether there is something to lend a hand with, while others work. */
#define RELIEVE_ROUND_SLICES 64u
#define RELIEVE_ROUND_NS 1000000

/* Counted, since one whose last slice has returned is not queued, nor is it done. */
static bool is_stuck(struct td_engine *engine)
{
	struct tdi_pending *pending = &engine->pending;
	uint32_t works = 0;

	for (unsigned epoch = 0; epoch < 2; epoch++)
		works += atomic_load_explicit(&pending->works[epoch],
					      memory_order_relaxed);
	return tdi_queue_is_stuck(&engine->queue, works);
}

int td_engine_relieve(td_engine *given)
{
	struct td_engine *engine = tdi_engine_made(given);
	int err = enter(engine);

	if (err != 1)
		return err;
	/* What put itself off may be possible by now. */
	tdi_queue_unpark(&engine->queue);
	do {
		for (unsigned i = 0; i < RELIEVE_ROUND_SLICES; i++) {
			if (!tdi_reaper_help(engine))
				break;
		}
		err = tdi_engine_drain(engine, tdi_sys_deadline(RELIEVE_ROUND_NS));
	} while (err && !is_stuck(engine));
	return err ? -EAGAIN : 0;
}
