/* SPDX-License-Identifier: MIT */
/*
 * A1-A7, C3: threads that attach, time out, are detached, put, put synchronously, release
 * and look on, all at the same spaces. Each space is reclaimed once, with all that it
 * had, and by whoever was to do it.
 */
#include "base.h"
#include "harness.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <teardown.h>
#include <teardown/munmap.h>

enum { THREADS = 6, SLOTS = 3, ROUNDS = TDT_SANITIZED ? 800 : 4000 };

static td_engine *engine;

/* Where threads find spaces. The lock protects the pointer; each slot has a user. */
static struct slot {
	pthread_mutex_t lock;
	td_space *space;
} slots[SLOTS];

/* What td_space_reap returned. */
enum outcome { DONE, LATE, TIMED_OUT, SENT_AWAY, NOT_FIRST, OUTCOMES };
static atomic_uint outcomes[OUTCOMES];
static atomic_uint made, reclaimed, canceled, released, part_released;
static atomic_ullong bytes_made, bytes_back;

static void count(td_space *space, enum td_event event, int status, void *arg)
{
	struct td_space_stats stats;

	(void)event;
	(void)arg;
	ck_assert_int_eq(status, 0);
	ck_assert_int_eq(td_space_stats(space, &stats), 0);
	ck_assert_uint_eq(stats.users, 0);
	ck_assert_uint_eq(stats.regions, 0);
	ck_assert_uint_eq(stats.bytes_reclaimed, stats.bytes_mapped);
	atomic_fetch_add(&bytes_back, stats.bytes_reclaimed);
	atomic_fetch_add(&reclaimed, 1);
}

static td_space *make(unsigned *seed)
{
	static const size_t lengths[] = {4 * KIB, 64 * KIB, 256 * KIB, 3 * MIB};
	size_t length = lengths[(unsigned)rand_r(seed) % 4];
	td_space *space;
	void *addr;

	ck_assert_int_eq(td_space_create(engine, NULL, &space), 0);
	ck_assert_int_eq(td_region_map(space, length, NULL, &addr), 0);
	tdt_touch(addr, length);
	atomic_fetch_add(&bytes_made, length);
	if (rand_r(seed) % 4 == 0) { /* and shared memory, which may be left */
		ck_assert_int_eq(td_region_map(space, 64 * KIB,
					       TD_REGION_OPTS(.kind = TD_KIND_SHARED),
					       &addr),
				 0);
		tdt_touch(addr, 64 * KIB);
		atomic_fetch_add(&bytes_made, 64 * KIB);
	}
	if (rand_r(seed) % 4 == 0) { /* and one that leaves by itself */
		ck_assert_int_eq(td_region_map(space, 64 * KIB, NULL, &addr), 0);
		tdt_touch(addr, 64 * KIB);
		ck_assert_int_eq(td_region_unmap(space, addr, 64 * KIB), 0);
		atomic_fetch_add(&bytes_made, 64 * KIB);
	}
	ck_assert_int_eq(td_space_on_event(space, TD_EVENT_RECLAIMED, count, NULL), 0);
	atomic_fetch_add(&made, 1);
	return space;
}

static void release(td_space *space, unsigned *seed)
{
	bool keep = rand_r(seed) % 4 == 0;
	int err = td_space_release(space, keep ? TD_RELEASE_KEEP_SHARED : 0);

	switch (err) {
	case 0:
		if (!keep)
			ck_assert_int_eq(td_space_wait(space, TD_EVENT_RECLAIMED, 0), 0);
		atomic_fetch_add(&released, 1);
		break;
	case -EAGAIN:
		atomic_fetch_add(&part_released, 1);
		break;
	default:
		ck_assert_int_eq(err, -EINVAL);
		break;
	}
}

static void put_and_release(td_space *space, unsigned *seed)
{
	ck_assert_int_eq(td_space_grab(space), 0);
	ck_assert_int_eq(td_space_put(space), 0);
	release(space, seed);
	ck_assert_int_eq(td_space_drop(space), 0);
}

/* Puts what is in a slot, and something new there. */
static void renew(struct slot *slot, unsigned *seed, bool again)
{
	td_space *space = again ? make(seed) : NULL, *old;

	pthread_mutex_lock(&slot->lock);
	old = slot->space;
	slot->space = space;
	pthread_mutex_unlock(&slot->lock);
	if (rand_r(seed) % 4 == 0)
		ck_assert_int_eq(td_space_put_sync(old), 0);
	else if (old && rand_r(seed) % 2 == 0)
		put_and_release(old, seed);
	else
		ck_assert_int_eq(td_space_put(old), 0);
}

/* The space of a slot, with a count. */
static td_space *grab(struct slot *slot)
{
	td_space *space;

	pthread_mutex_lock(&slot->lock);
	space = slot->space;
	if (space)
		ck_assert_int_eq(td_space_grab(space), 0);
	pthread_mutex_unlock(&slot->lock);
	return space;
}

static void reap(td_space *space, unsigned *seed)
{
	static const int64_t timeouts[] = {0, 1000, 50000, 1000000, TD_FOREVER};
	enum outcome outcome;

	switch (td_space_reap(space, 0, timeouts[(unsigned)rand_r(seed) % 5])) {
	case 0:
		ck_assert_int_eq(td_space_wait(space, TD_EVENT_RECLAIMED, 0), 0);
		outcome = DONE;
		break;
	case -ENXIO:
		ck_assert_int_eq(td_space_wait(space, TD_EVENT_GONE, TD_FOREVER), 0);
		outcome = LATE;
		break;
	case -ETIMEDOUT:
		outcome = TIMED_OUT;
		break;
	case -ECANCELED:
		outcome = SENT_AWAY;
		break;
	default:
		outcome = NOT_FIRST;
		break;
	}
	atomic_fetch_add(&outcomes[outcome], 1);
}

static void live_once(struct slot *slot, unsigned *seed)
{
	unsigned deed = (unsigned)rand_r(seed) % 8;
	td_space *space;

	if (deed == 0) {
		renew(slot, seed, true);
		return;
	}
	space = grab(slot);
	if (!space)
		return;
	if (deed <= 3) {
		reap(space, seed);
		if (rand_r(seed) % 2 == 0)
			release(space, seed);
	} else if (deed <= 5) {
		int err = td_space_reap_cancel(space);

		ck_assert(err == 0 || err == -ENOENT || err == -EALREADY);
		if (!err)
			atomic_fetch_add(&canceled, 1);
	} else if (td_space_get_not_zero(space)) {
		ck_assert_int_eq(td_space_wait(space, TD_EVENT_GONE, 0), -ETIMEDOUT);
		ck_assert_int_eq(td_space_put(space), 0);
	}
	ck_assert_int_eq(td_space_drop(space), 0);
}

static atomic_uint living;

static void *live(void *arg)
{
	unsigned seed = (unsigned)(uintptr_t)arg;

	for (int round = 0; round < ROUNDS; round++)
		live_once(&slots[(unsigned)rand_r(&seed) % SLOTS], &seed);
	atomic_fetch_sub(&living, 1);
	return NULL;
}

/* Those who sleep without a limit are let go, as long as there is one. */
static void *let_go(void *arg)
{
	unsigned seed = 77;

	(void)arg;
	while (atomic_load(&living) > 0) {
		renew(&slots[(unsigned)rand_r(&seed) % SLOTS], &seed, true);
		sched_yield();
	}
	return NULL;
}

START_TEST(attached_reapers_come_and_go)
{
	struct tdt_footprint before, after;
	pthread_t threads[THREADS], last;
	struct td_engine_stats stats;
	unsigned seed = 1;

	ck_assert_int_eq(td_engine_create(TD_ENGINE_OPTS(.reapers = 2), &engine), 0);
	ck_assert_int_eq(td_engine_set_munmap_threshold(engine, 4 * KIB), 0);
	before = tdt_footprint();
	for (int i = 0; i < SLOTS; i++)
		pthread_mutex_init(&slots[i].lock, NULL);
	atomic_store(&living, THREADS);
	for (int i = 0; i < THREADS; i++)
		pthread_create(&threads[i], NULL, live, (void *)(uintptr_t)(i + 1));
	pthread_create(&last, NULL, let_go, NULL);
	for (int i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	pthread_join(last, NULL);
	for (int i = 0; i < SLOTS; i++)
		renew(&slots[i], &seed, false);
	ck_assert_int_eq(td_engine_drain(engine, TD_FOREVER), 0);
	printf("# made %u; reaped %u, late %u, timed out %u, canceled %u, not first %u\n",
	       atomic_load(&made), atomic_load(&outcomes[DONE]),
	       atomic_load(&outcomes[LATE]), atomic_load(&outcomes[TIMED_OUT]),
	       atomic_load(&outcomes[SENT_AWAY]), atomic_load(&outcomes[NOT_FIRST]));
	printf("# released %u, in part %u\n", atomic_load(&released),
	       atomic_load(&part_released));
	ck_assert_uint_gt(atomic_load(&released), 0);
	ck_assert_uint_eq(atomic_load(&reclaimed), atomic_load(&made));
	ck_assert_uint_eq(atomic_load(&bytes_back), atomic_load(&bytes_made));
	/* each cancel has sent one away, and nobody else was */
	ck_assert_uint_eq(atomic_load(&outcomes[SENT_AWAY]), atomic_load(&canceled));
	for (int i = 0; i < OUTCOMES; i++)
		ck_assert_uint_gt(atomic_load(&outcomes[i]), 0);
	ck_assert_int_eq(td_engine_stats(engine, &stats), 0);
	ck_assert_uint_eq(stats.works_pending, 0);
	ck_assert_uint_eq(stats.bytes_pending, 0);
	ck_assert_uint_eq(stats.bytes_quarantined, 0);
	after = tdt_footprint();
	tdt_await_threads(before.threads);
	ck_assert_uint_eq(after.descriptors, before.descriptors);
	ck_assert_int_eq(td_engine_destroy(engine, TD_EXIT_DRAIN, 0), 0);
}
END_TEST

int main(void)
{
	struct tdt *tests = tdt_suite("stress_reap");

	tdt_add(tests, attached_reapers_come_and_go, NULL, NULL);
	return tdt_run(tests);
}
