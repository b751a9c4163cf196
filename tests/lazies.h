/* SPDX-License-Identifier: MIT */
/*
 * For tests of lazy references: spaces on an engine with one reaper, with membarrier or
 * without; a thread that does one thing at a time, when it is told; and steps that are
 * taken in the middle of a pass, at its membarriers.
 */
#ifndef TDT_LAZIES_H
#define TDT_LAZIES_H

#include "job.h"
#include "lazy_slots.h"
#include "space_internal.h"

#include <errno.h>
#include <linux/membarrier.h>
#include <pthread.h>
#include <teardown.h>

static td_space *space __attribute__((unused));

static inline td_space *make(const char *name)
{
	td_space *made;

	ck_assert_int_eq(td_space_create(engine, TD_SPACE_OPTS(.name = name), &made), 0);
	return made;
}

static inline void setup_plain(void)
{
	ck_assert_int_eq(td_engine_create(TD_ENGINE_OPTS(.reapers = 1), &engine), 0);
	space = make("held");
}

static inline void setup_exchange(void)
{
	tdt_fail(TDI_SYS_membarrier, -ENOSYS, 0, UINT32_MAX);
	setup_plain();
}

static inline void drain(void)
{
	ck_assert_int_eq(td_engine_drain(engine, TD_FOREVER), 0);
}

static inline void put(td_space *of)
{
	ck_assert_int_eq(td_space_put(of), 0);
}

static inline void enter(td_space *of)
{
	ck_assert_int_eq(td_lazy_enter(of), 0);
}

static inline void leave(void)
{
	ck_assert_int_eq(td_lazy_leave(), 0);
}

static inline uint32_t count_of(const td_space *of)
{
	return tdi_ref_read(&of->count);
}

/* Spaces that are not freed yet: each has a reference to the engine. */
static inline uint32_t spaces(void)
{
	/* the engine's own: of its maker, and of its grace thread */
	return tdi_ref_read(&engine->refs) - 1u - tdi_grace_runs(&engine->grace);
}

static inline void end_engine(void)
{
	drain();
	ck_assert_uint_eq(spaces(), 0);
	ck_assert_int_eq(td_engine_destroy(engine, TD_EXIT_DRAIN, 0), 0);
}

static inline struct tdi_lazy_tally tally(void)
{
	struct tdi_lazy_tally now;

	tdi_lazy_tally(&now);
	return now;
}

/* ---- a thread that is told what to do ---- */

struct actor {
	pthread_t thread;
	sem_t go, done;
	void (*act)(void *arg); /* NULL: ends */
	void *arg;
};

static inline void *act(void *arg)
{
	struct actor *actor = arg;

	for (;;) {
		sem_wait(&actor->go);
		if (!actor->act)
			return NULL;
		actor->act(actor->arg);
		sem_post(&actor->done);
	}
}

static inline void actor_begin(struct actor *actor)
{
	sem_init(&actor->go, 0, 0);
	sem_init(&actor->done, 0, 0);
	ck_assert_int_eq(pthread_create(&actor->thread, NULL, act, actor), 0);
}

/* Returns when that is done. */
static inline void tell(struct actor *actor, void (*fn)(void *), void *arg)
{
	actor->act = fn;
	actor->arg = arg;
	sem_post(&actor->go);
	sem_wait(&actor->done);
}

static inline void actor_end(struct actor *actor)
{
	actor->act = NULL;
	sem_post(&actor->go);
	ck_assert_int_eq(pthread_join(actor->thread, NULL), 0);
}

static inline void do_enter(void *of)
{
	enter(of);
}

static inline void do_switch(void *to)
{
	ck_assert_int_eq(td_lazy_switch(to), 0);
}

static inline void do_leave(void *unused)
{
	(void)unused;
	leave();
}

static inline void do_put(void *of)
{
	put(of);
}

static inline void do_drop(void *of)
{
	ck_assert_int_eq(td_space_drop(of), 0);
}

static inline void be_refused(void *of)
{
	ck_assert_int_eq(td_lazy_enter(of), -ENXIO);
}

/* ---- in the middle of a pass: 0, before it looks; 1, before it looks again ---- */

static struct {
	void (*fn)(void *arg);
	void *arg;
	int err;
	unsigned times; /* that it fails, with err, before it does not */
} at_barrier[2];
static _Atomic(unsigned) barriers;

static inline int barrier_hook(enum tdi_sys_call call, uintptr_t addr, size_t length,
			       int detail)
{
	unsigned n;

	(void)addr;
	(void)length;
	if (call != TDI_SYS_membarrier || detail != MEMBARRIER_CMD_PRIVATE_EXPEDITED)
		return 0;
	n = atomic_load(&barriers);
	if (n > 1)
		return 0;
	if (at_barrier[n].times > 0) {
		at_barrier[n].times--;
		return at_barrier[n].err;
	}
	atomic_store(&barriers, n + 1);
	if (at_barrier[n].fn)
		at_barrier[n].fn(at_barrier[n].arg);
	return 0;
}

/* From now on, for one pass. Not with setup_exchange. */
static inline void watch_barriers(void)
{
	atomic_store(&barriers, 0);
	tdi_sys_set_fault(barrier_hook);
}

#endif
