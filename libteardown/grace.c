/* SPDX-License-Identifier: MIT */
#include "grace.h"
#include "batch_internal.h"
#include "membarrier.h"
#include "sys.h"

#include <limits.h>
#include <stdio.h>
#include <urcu/urcu-memb.h>

#define STOP_NS 20000000

enum { PASS = 1, WAKE = 2, TRIM = 4, STOP = 8 };

/* ---- fork ---- */

#define FORK_WAIT_NS 1000000000
#define FORK_LOCK_INITIALIZER PTHREAD_RWLOCK_WRITER_NONRECURSIVE_INITIALIZER_NP

/* Held for reading in a grace period, for writing by a fork. */
static pthread_rwlock_t fork_lock = FORK_LOCK_INITIALIZER;
static __thread bool fork_locked;
static bool stuck; /* written only in a child that has one thread */

void tdi_grace_before_fork(void)
{
	fork_locked =
		tdi_sys_wrlock_until(&fork_lock, tdi_sys_deadline(FORK_WAIT_NS)) == 0;
}

void tdi_grace_after_fork(bool in_child)
{
	if (in_child) {
		fork_lock = (pthread_rwlock_t)FORK_LOCK_INITIALIZER;
		stuck |= !fork_locked;
	} else if (fork_locked) {
		pthread_rwlock_unlock(&fork_lock);
	}
}

bool tdi_grace_is_stuck(void)
{
	return stuck;
}

static void synchronize(struct td_engine *engine)
{
	pthread_rwlock_rdlock(&fork_lock);
	engine->flavor->update_synchronize_rcu();
	pthread_rwlock_unlock(&fork_lock);
	/* Of what readers released under the flavor's own address. */
	tdi_tsan_acquire((void *)(uintptr_t)engine->flavor);
	atomic_fetch_add_explicit(&engine->grace.periods, 1, memory_order_relaxed);
}

/* ---- the list of batches ---- */

void tdi_grace_init(struct tdi_grace *grace)
{
	*grace = (struct tdi_grace){0};
	pthread_mutex_init(&grace->pass_lock, NULL);
	pthread_mutex_init(&grace->list_lock, NULL);
}

void tdi_grace_destroy(struct tdi_grace *grace)
{
	pthread_mutex_destroy(&grace->pass_lock);
	pthread_mutex_destroy(&grace->list_lock);
}

void tdi_grace_add(struct td_engine *engine, struct td_batch *batch)
{
	struct tdi_grace *grace = &engine->grace;

	pthread_mutex_lock(&grace->list_lock);
	batch->serial = ++grace->last_serial;
	if (grace->last)
		grace->last->next = batch;
	else
		grace->first = batch;
	grace->last = batch;
	pthread_mutex_unlock(&grace->list_lock);
}

void tdi_grace_remove(struct td_engine *engine, struct td_batch *batch)
{
	struct tdi_grace *grace = &engine->grace;
	struct td_batch **link = &grace->first, *before = NULL;

	pthread_mutex_lock(&grace->list_lock);
	for (; *link != batch; link = &before->next)
		before = *link;
	*link = batch->next;
	if (grace->last == batch)
		grace->last = before;
	pthread_mutex_unlock(&grace->list_lock);
}

bool tdi_grace_is_empty(struct td_engine *engine, struct td_batch *batch)
{
	bool empty;

	pthread_mutex_lock(&engine->grace.list_lock);
	empty = tdi_batch_is_empty(batch);
	pthread_mutex_unlock(&engine->grace.list_lock);
	return empty;
}

/* The one after that, with a reference; NULL: no more. */
static struct td_batch *batch_after(struct tdi_grace *grace, uint64_t serial)
{
	struct td_batch *batch;

	pthread_mutex_lock(&grace->list_lock);
	for (batch = grace->first; batch && batch->serial <= serial; batch = batch->next)
		;
	if (batch)
		tdi_batch_get(batch);
	pthread_mutex_unlock(&grace->list_lock);
	return batch;
}

/* With no lock held inside the loop; `continue` is fine, `break` is not. */
#define for_each_batch(grace, batch)                                                     \
	for (struct td_batch *batch = batch_after(grace, 0), *next_; batch;              \
	     next_ = batch_after(grace, batch->serial), tdi_batch_put(batch),            \
			     batch = next_)

/* ---- a pass ---- */

static struct td_batch *take(struct tdi_grace *grace, struct td_batch *only, bool *all)
{
	struct td_batch *taken = NULL;

	pthread_mutex_lock(&grace->list_lock);
	for (struct td_batch *batch = grace->first; batch; batch = batch->next) {
		if ((only && batch != only) || !tdi_batch_take(batch, all))
			continue;
		tdi_batch_get(batch);
		batch->next_taken = taken;
		taken = batch;
	}
	pthread_mutex_unlock(&grace->list_lock);
	return taken;
}

static void tell_changes(struct tdi_grace *grace)
{
	atomic_fetch_add_explicit(&grace->changes, 1, memory_order_release);
	tdi_sys_futex_wake(&grace->changes, INT_MAX);
}

/* For all batches, with a grace period; or for one without. False: a part had to stay. */
static bool pass(struct td_engine *engine, struct td_batch *only)
{
	struct tdi_grace *grace = &engine->grace;
	struct td_batch *taken, *next;
	uint32_t wanted;
	bool all = true;

	pthread_mutex_lock(&grace->pass_lock);
	/* Acquire: what was added before it was wanted is taken (P1). */
	wanted = atomic_load_explicit(&grace->wanted, memory_order_acquire);
	taken = take(grace, only, &all);
	if (taken && !only)
		synchronize(engine);
	for (; taken; taken = next) {
		next = taken->next_taken;
		tdi_batch_make_ready(taken);
		tdi_batch_put(taken);
	}
	if (!only && all) /* release: pairs with await_pass */
		atomic_store_explicit(&grace->done, wanted, memory_order_release);
	pthread_mutex_unlock(&grace->pass_lock);
	if (!only && all)
		tell_changes(grace);
	/* Where there are no reapers, callbacks are made here: with no lock held. */
	for_each_batch(grace, batch)
	{
		if (tdi_batch_has_ready(batch))
			tdi_batch_submit(batch);
	}
	return all;
}

/* ---- the thread ---- */

/* When what had to stay is tried again: reapers are about to make room. */
#define AGAIN_NS 1000000

static void raise_signal(struct tdi_grace *grace, uint32_t bit)
{
	/* seq_cst: after whatever the thread is to see. */
	if (atomic_fetch_or_explicit(&grace->signal, bit, memory_order_seq_cst) == 0)
		tdi_sys_futex_wake(&grace->signal, 1);
}

void tdi_grace_request(struct tdi_grace *grace)
{
	raise_signal(grace, PASS);
}

void tdi_grace_hint(struct tdi_grace *grace)
{
	if (!(atomic_load_explicit(&grace->signal, memory_order_relaxed) & PASS))
		raise_signal(grace, PASS);
}

void tdi_grace_wake(struct tdi_grace *grace)
{
	raise_signal(grace, WAKE);
}

void tdi_grace_trim(struct tdi_grace *grace)
{
	raise_signal(grace, PASS | TRIM);
}

static void drowse(struct tdi_grace *grace)
{
	bool any = false;

	if (grace->sleepless)
		return;
	pthread_mutex_lock(&grace->list_lock);
	for (struct td_batch *batch = grace->first; batch; batch = batch->next)
		any |= tdi_batch_drowse(batch);
	/* Without membarrier those who add fence, and this is a fence for us. */
	if (any && tdi_membarrier_works() && tdi_membarrier() != 0)
		grace->sleepless = true;
	for (struct td_batch *batch = grace->first; batch; batch = batch->next)
		tdi_batch_look_again(batch, !grace->sleepless);
	pthread_mutex_unlock(&grace->list_lock);
}

/* When the next pass is due for what is open, and was added since (P3). */
static uint64_t next_due(struct tdi_grace *grace, uint64_t since_ns)
{
	uint64_t age = UINT64_MAX;

	pthread_mutex_lock(&grace->list_lock);
	for (struct td_batch *batch = grace->first; batch; batch = batch->next) {
		if (batch->close_age_ns < age && tdi_batch_awake(batch))
			age = batch->close_age_ns;
	}
	pthread_mutex_unlock(&grace->list_lock);
	return age > UINT64_MAX - since_ns ? UINT64_MAX : since_ns + age;
}

static void trim(struct tdi_grace *grace)
{
	for_each_batch(grace, batch)
	{
		if (!batch->private)
			tdi_pages_trim(&batch->pages);
	}
}

static uint32_t await_signal(struct tdi_grace *grace, uint64_t due_ns)
{
	int err = 0;

	while (err != -ETIMEDOUT &&
	       atomic_load_explicit(&grace->signal, memory_order_relaxed) == 0)
		err = tdi_sys_futex_wait(&grace->signal, 0, due_ns);
	/* seq_cst: before the look at what was added. */
	return atomic_fetch_and_explicit(&grace->signal, STOP, memory_order_seq_cst);
}

static void run_passes(struct td_engine *engine)
{
	struct tdi_grace *grace = &engine->grace;
	uint64_t due_ns = UINT64_MAX, woken_due_ns, now_ns;
	uint32_t signal;
	bool all;

	for (;;) {
		signal = await_signal(grace, due_ns);
		if (signal & STOP)
			return;
		now_ns = tdi_sys_now_ns();
		if (signal == WAKE && now_ns < due_ns) {
			woken_due_ns = next_due(grace, now_ns);
			if (woken_due_ns < due_ns)
				due_ns = woken_due_ns;
			continue;
		}
		all = pass(engine, NULL);
		if (now_ns >= grace->drowse_ns) {
			drowse(grace);
			grace->drowse_ns = next_due(grace, now_ns);
			/* All asleep: whatever is woken up next can be put to sleep. */
			if (grace->drowse_ns == UINT64_MAX)
				grace->drowse_ns = 0;
		}
		if (signal & TRIM)
			trim(grace);
		/* The age counts from the pass's begin: it took no more than was there.
		 */
		due_ns = all ? next_due(grace, now_ns) : tdi_sys_deadline(AGAIN_NS);
	}
}

static void *grace_thread(void *arg)
{
	struct td_engine *engine = arg;
	struct tdi_grace *grace = &engine->grace;
	char name[16];

	snprintf(name, sizeof(name), "%s/gp", engine->name);
	/* It has next to nothing to do, and all memory of the batches waits for it: where
	 * reapers only get what CPU time is left over it is not to wait as they do. */
	tdi_place(&engine->placement, name, NULL, TDI_PLACE_KEEP_POLICY);
	atomic_store_explicit(&grace->settled, true, memory_order_release);
	tell_changes(grace);
	run_passes(engine);
	/* Release: pairs with await_pass and tdi_grace_stop. */
	atomic_store_explicit(&grace->running, false, memory_order_release);
	tell_changes(grace);
	tdi_engine_put(engine);
	return NULL;
}

/* As reapers are waited for: a fork right afterwards does not meet it half-way into
 * being, with locks of the C library's or a sanitizer's in its hands. */
static void await_settled(struct tdi_grace *grace)
{
	uint32_t changes;

	for (;;) {
		changes = atomic_load_explicit(&grace->changes, memory_order_acquire);
		if (atomic_load_explicit(&grace->settled, memory_order_acquire))
			return;
		tdi_sys_futex_wait(&grace->changes, changes, UINT64_MAX);
	}
}

int tdi_grace_start(struct td_engine *engine)
{
	struct tdi_grace *grace = &engine->grace;
	int err = 0;

	pthread_mutex_lock(&grace->list_lock);
	if (!grace->stopped && !tdi_grace_runs(grace)) {
		tdi_engine_get(engine);
		atomic_store_explicit(&grace->running, true, memory_order_relaxed);
		err = tdi_sys_thread_create(&grace->thread, grace_thread, engine);
		if (!err)
			await_settled(grace);
		if (err) {
			atomic_store_explicit(&grace->running, false,
					      memory_order_relaxed);
			tdi_engine_put(engine);
		}
	}
	pthread_mutex_unlock(&grace->list_lock);
	return err;
}

void tdi_grace_stop(struct td_engine *engine, uint64_t deadline_ns)
{
	/* So much it may have, to end as a thread should when it only sleeps. */
	uint64_t soonest = tdi_sys_deadline(STOP_NS);
	struct tdi_grace *grace = &engine->grace;
	uint32_t changes;
	int err = 0;

	pthread_mutex_lock(&grace->list_lock);
	grace->stopped = true;
	pthread_mutex_unlock(&grace->list_lock);
	if (!tdi_grace_runs(grace))
		return;
	if (deadline_ns < soonest)
		deadline_ns = soonest;
	raise_signal(grace, STOP);
	for (;;) {
		changes = atomic_load_explicit(&grace->changes, memory_order_acquire);
		if (!tdi_grace_runs(grace)) {
			tdi_sys_thread_join(grace->thread);
			return;
		}
		if (err == -ETIMEDOUT) {
			/* It has a reference to the engine. */
			pthread_detach(grace->thread);
			return;
		}
		err = tdi_sys_futex_wait(&grace->changes, changes, deadline_ns);
	}
}

/* ---- waiting ---- */

static int await_pass(struct td_engine *engine, uint64_t deadline_ns)
{
	struct tdi_grace *grace = &engine->grace;
	uint32_t ticket =
		atomic_fetch_add_explicit(&grace->wanted, 1, memory_order_seq_cst) + 1;
	int err = 0;

	/* Once: a pass that had to leave something is followed by another by itself. */
	tdi_grace_request(grace);
	for (;;) {
		uint32_t changes =
			atomic_load_explicit(&grace->changes, memory_order_acquire);
		uint32_t done = atomic_load_explicit(&grace->done, memory_order_acquire);

		if ((int32_t)(done - ticket) >= 0)
			return 0;
		if (err == -ETIMEDOUT)
			return err;
		if (!tdi_grace_runs(grace)) {
			if (!pass(engine, NULL))
				tdi_sys_pause(AGAIN_NS);
			continue;
		}
		err = tdi_sys_futex_wait(&grace->changes, changes, deadline_ns);
	}
}

/* Past its grace period: until it is freed. */
static int await_freed(struct td_batch *batch, uint64_t deadline_ns)
{
	/* Behind one that cannot be seen yet there may be what was added before. */
	while (!tdi_batch_take_direct(batch)) {
		if (tdi_sys_now_ns() >= deadline_ns)
			return -ETIMEDOUT;
		tdi_sys_pause(TDI_BATCH_LINK_PAUSE_NS);
	}
	/* Left over where an engine abandoned its works. */
	if (tdi_batch_has_ready(batch))
		tdi_batch_submit(batch);
	return tdi_pending_drain(&batch->pending, deadline_ns);
}

int tdi_grace_barrier(struct td_engine *engine, struct td_batch *batch,
		      uint64_t deadline_ns)
{
	int err;

	/* No pass for nothing: it would wait for the readers of other batches. */
	if (tdi_grace_is_empty(engine, batch))
		return 0;
	err = await_pass(engine, deadline_ns);
	return err ? err : await_freed(batch, deadline_ns);
}

static bool all_empty(struct tdi_grace *grace)
{
	bool empty = true;

	pthread_mutex_lock(&grace->list_lock);
	for (struct td_batch *batch = grace->first; batch && empty; batch = batch->next)
		empty = tdi_batch_is_empty(batch);
	pthread_mutex_unlock(&grace->list_lock);
	return empty;
}

int tdi_grace_drain(struct td_engine *engine, uint64_t deadline_ns)
{
	int err;

	if (all_empty(&engine->grace))
		return 0;
	err = await_pass(engine, deadline_ns);
	for_each_batch(&engine->grace, batch)
	{
		if (!err)
			err = await_freed(batch, deadline_ns);
	}
	return err;
}

void tdi_grace_skip(struct td_engine *engine, struct td_batch *batch)
{
	(void)pass(engine, batch);
}
