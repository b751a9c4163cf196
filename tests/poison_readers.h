/* SPDX-License-Identifier: MIT */
/* Readers of poisoned objects, in any flavor of RCU; they are born and die all the time.
 */
#ifndef TDT_POISON_READERS_H
#define TDT_POISON_READERS_H

#include "base.h"
#include "poisoned.h"

#include <sched.h>
#include <urcu/flavor.h>

/* Each flavor's own header declares only its own. */
extern const struct rcu_flavor_struct urcu_memb_flavor, urcu_mb_flavor, urcu_bp_flavor,
	urcu_qsbr_flavor;

enum {
	SLOTS = 64,
	READERS = 3,
	STALLS = TDT_SANITIZED ? 1 : 5, /* readers that hold a grace period up */
	STALL_OBJECTS = 120000,
};

static const struct rcu_flavor_struct *flavor;
static _Atomic(struct object *) slots[SLOTS];
static atomic_uint stalled, stalls; /* now, and so far */
static atomic_bool all_written;

/* So that a grace period can be made that forgets some. */
static atomic_uint inside[READERS];

static void look(const struct object *object)
{
	if (object->magic != GOOD) {
		atomic_fetch_add(&poison_seen, 1);
		atomic_store(&enough, true);
	}
}

static void dwell(unsigned *seed, const struct object *object)
{
	unsigned turns = (unsigned)rand_r(seed) % 64;

	if (rand_r(seed) % 16 == 0)
		sched_yield();
	while (turns-- > 0)
		look(object);
	look(object);
}

/* Stays until so much was added that a pool is empty, or nobody adds any more. */
static void stall(void)
{
	unsigned long until = atomic_load(&added) + STALL_OBJECTS;

	if (atomic_fetch_add(&stalls, 1) >= STALLS)
		return;
	atomic_fetch_add(&stalled, 1);
	while (atomic_load(&added) < until && !atomic_load(&all_written) &&
	       !atomic_load(&enough))
		sched_yield();
	atomic_fetch_sub(&stalled, 1);
}

static void read_once(unsigned *seed, bool may_stall)
{
	for (unsigned i = 0; i < 4; i++) {
		struct object *object = atomic_load_explicit(
			&slots[(unsigned)rand_r(seed) % SLOTS], memory_order_acquire);

		if (!object)
			continue;
		look(object);
		if (object->other)
			look(object->other);
		dwell(seed, object);
		if (may_stall && rand_r(seed) % 1024 == 0)
			stall();
		look(object);
		if (object->other)
			look(object->other);
		atomic_fetch_add_explicit(&reads, 1, memory_order_relaxed);
	}
}

static void *reader_lives(void *arg)
{
	unsigned self = (unsigned)(uintptr_t)arg % READERS;
	unsigned seed = (unsigned)(uintptr_t)arg + 1;
	unsigned turns = 50 + (unsigned)rand_r(&seed) % 2000;

	flavor->register_thread();
	while (turns-- > 0 && !atomic_load_explicit(&enough, memory_order_relaxed)) {
		flavor->read_lock();
		atomic_store_explicit(&inside[self], 1, memory_order_seq_cst);
		read_once(&seed, true);
		tdi_tsan_release((void *)(uintptr_t)flavor);
		atomic_store_explicit(&inside[self], 0, memory_order_release);
		flavor->read_unlock();
		flavor->read_quiescent_state();
		if (rand_r(&seed) % 64 == 0) {
			flavor->thread_offline();
			sched_yield();
			flavor->thread_online();
		}
	}
	flavor->unregister_thread();
	return NULL;
}

/* A reader is born whenever one has died. */
static void *keep_reading(void *arg)
{
	for (uintptr_t life = 0; !atomic_load(&enough); life++) {
		pthread_t thread;

		if (pthread_create(&thread, NULL, reader_lives,
				   (void *)((uintptr_t)arg + life * READERS)) != 0)
			abort();
		pthread_join(thread, NULL);
	}
	return NULL;
}

#endif
