/* SPDX-License-Identifier: MIT */
/*
 * A4, A5, A11, A12: spaces shared, put and waited for by many threads at once. Every
 * user checks the memory that its user keeps; every teardown is seen to its end.
 */
#include "harness.h"
#include "base.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <teardown.h>
#include <unistd.h>

enum { THREADS = 4, SLOTS = 8, ROUNDS = TDT_SANITIZED ? 800 : 4000 };

static td_engine *engine;

struct memory {
	unsigned char *addr;
	size_t length;
	unsigned char mark;
};

/* Where threads leave spaces for each other. The lock protects the pointer; whoever
 * takes a user while holding it may use the space after that. */
static struct slot {
	pthread_mutex_t lock;
	td_space *space;
	struct memory memory;
} slots[SLOTS];

static atomic_uint made, reclaimed, shared, died_here, refused;

static void count(td_space *space, enum td_event event, int status, void *arg)
{
	(void)space;
	(void)event;
	(void)arg;
	ck_assert_int_eq(status, 0);
	atomic_fetch_add(&reclaimed, 1);
}

static td_space *make(unsigned *seed, struct memory *memory)
{
	static const size_t lengths[] = {4 * KIB, 64 * KIB, 256 * KIB, 6 * MIB};
	td_space *space;
	void *addr;

	ck_assert_int_eq(td_space_create(engine, NULL, &space), 0);
	memory->length = lengths[(unsigned)rand_r(seed) % 4];
	memory->mark = (unsigned char)(1 + (unsigned)rand_r(seed) % 255);
	if (rand_r(seed) & 1) {
		ck_assert_int_eq(td_region_map(space, memory->length, NULL, &addr), 0);
	} else {
		addr = tdt_map_anon(memory->length);
		ck_assert_int_eq(td_region_adopt(space, addr, memory->length, NULL), 0);
	}
	memory->addr = addr;
	for (size_t at = 0; at < memory->length; at += 4 * KIB)
		memory->addr[at] = memory->mark;
	ck_assert_int_eq(td_space_on_event(space, TD_EVENT_RECLAIMED, count, NULL), 0);
	atomic_fetch_add(&made, 1);
	return space;
}

static void check(const struct memory *memory)
{
	for (size_t at = 0; at < memory->length; at += 64 * KIB)
		ck_assert_uint_eq(memory->addr[at], memory->mark);
}

/* Takes the space of a slot out and puts its user, in one of several ways. */
static void retire(struct slot *slot, unsigned *seed)
{
	td_space *space;

	pthread_mutex_lock(&slot->lock);
	space = slot->space;
	slot->space = NULL;
	pthread_mutex_unlock(&slot->lock);
	switch ((unsigned)rand_r(seed) % 4) {
	case 0:
		ck_assert_int_eq(td_space_put_sync(space), 0);
		break;
	case 1:
		if (!space)
			break;
		ck_assert_int_eq(td_space_grab(space), 0);
		ck_assert_int_eq(td_space_put(space), 0);
		if (td_space_wait(space, TD_EVENT_GONE, 100000) == 0) {
			ck_assert_int_eq(
				td_space_wait(space, TD_EVENT_RECLAIMED, TD_FOREVER), 0);
			ck_assert(!td_space_get_not_zero(space));
			atomic_fetch_add(&died_here, 1);
		}
		ck_assert_int_eq(td_space_drop(space), 0);
		break;
	default:
		ck_assert_int_eq(td_space_put(space), 0);
		break;
	}
}

static void use(struct slot *slot)
{
	struct memory memory;
	td_space *space;

	pthread_mutex_lock(&slot->lock);
	space = slot->space;
	memory = slot->memory;
	if (space)
		ck_assert_int_eq(td_space_get(space), 0);
	pthread_mutex_unlock(&slot->lock);
	if (!space)
		return;
	check(&memory); /* faults, or differs, if it went under our feet */
	atomic_fetch_add(&shared, 1);
	ck_assert_int_eq(td_space_put(space), 0);
}

static void *live(void *arg)
{
	unsigned seed = (unsigned)(uintptr_t)arg;

	for (int round = 0; round < ROUNDS; round++) {
		struct slot *slot = &slots[(unsigned)rand_r(&seed) % SLOTS];
		struct memory memory;
		td_space *space;

		if (rand_r(&seed) % 4 != 0) {
			use(slot);
			continue;
		}
		retire(slot, &seed);
		space = make(&seed, &memory);
		pthread_mutex_lock(&slot->lock);
		if (!slot->space) {
			slot->space = space;
			slot->memory = memory;
			space = NULL;
		}
		pthread_mutex_unlock(&slot->lock);
		if (space) {
			/* nothing may be given twice, however busy the reapers are */
			if (td_region_adopt(space, memory.addr, memory.length, NULL) ==
			    -EEXIST)
				atomic_fetch_add(&refused, 1);
			ck_assert_int_eq(td_space_put(space), 0);
		}
	}
	return NULL;
}

START_TEST(spaces_live_and_die_in_many_hands)
{
	struct tdt_footprint before, after;
	pthread_t threads[THREADS];
	unsigned seed = 1;

	ck_assert_int_eq(td_engine_create(TD_ENGINE_OPTS(.reapers = 2), &engine), 0);
	before = tdt_footprint();
	for (int i = 0; i < SLOTS; i++)
		pthread_mutex_init(&slots[i].lock, NULL);
	for (int i = 0; i < THREADS; i++)
		pthread_create(&threads[i], NULL, live, (void *)(uintptr_t)(i + 1));
	for (int i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	for (int i = 0; i < SLOTS; i++)
		retire(&slots[i], &seed);
	ck_assert_int_eq(td_engine_drain(engine, TD_FOREVER), 0);
	ck_assert_uint_eq(atomic_load(&reclaimed), atomic_load(&made));
	ck_assert_uint_gt(atomic_load(&shared), 0);
	printf("# made %u shared %u waited for %u refused twice %u\n", atomic_load(&made),
	       atomic_load(&shared), atomic_load(&died_here), atomic_load(&refused));
	after = tdt_footprint();
	tdt_await_threads(before.threads);
	ck_assert_uint_eq(after.descriptors, before.descriptors);
	ck_assert_int_eq(td_engine_destroy(engine, TD_EXIT_DRAIN, 0), 0);
}
END_TEST

static void *put_at_the_end(void *arg)
{
	ck_assert_int_eq(td_space_put(arg), 0);
	return NULL;
}

/* Engines that end while other threads still put: nothing hangs, nothing is lost. */
static void end_while_putting(enum td_exit_mode mode)
{
	for (int round = 0; round < (TDT_SANITIZED ? 25 : 80); round++) {
		pthread_t threads[THREADS];
		struct memory memories[THREADS];
		td_space *spaces[THREADS];
		unsigned seed = (unsigned)round;
		int err;

		ck_assert_int_eq(td_engine_create(TD_ENGINE_OPTS(.reapers = 2), &engine),
				 0);
		for (int i = 0; i < THREADS; i++) {
			ck_assert_int_eq(td_space_create(engine, NULL, &spaces[i]), 0);
			memories[i].length = 256 * KIB;
			memories[i].addr = tdt_map_anon(256 * KIB);
			ck_assert_int_eq(td_region_adopt(spaces[i], memories[i].addr,
							 256 * KIB, NULL),
					 0);
			ck_assert_int_eq(td_space_grab(spaces[i]), 0);
		}
		for (int i = 0; i < THREADS; i++)
			pthread_create(&threads[i], NULL, put_at_the_end, spaces[i]);
		if (rand_r(&seed) & 1)
			sched_yield();
		err = td_engine_destroy(engine, mode, rand_r(&seed) % 200000);
		if (err) /* a deadline that came too soon */
			ck_assert(mode == TD_EXIT_DEADLINE && err == -ETIMEDOUT);
		for (int i = 0; i < THREADS; i++) {
			pthread_join(threads[i], NULL);
			err = td_space_wait(spaces[i], TD_EVENT_RECLAIMED, TD_FOREVER);
			if (err)
				ck_assert_int_eq(err, -ECANCELED);
			if (err && mode == TD_EXIT_DRAIN)
				ck_abort_msg("abandoned though it was to be drained");
			if (err)
				munmap(memories[i].addr, memories[i].length);
			ck_assert_int_eq(td_space_drop(spaces[i]), 0);
		}
	}
}

START_TEST(an_engine_drains_while_others_put)
{
	end_while_putting(TD_EXIT_DRAIN);
}
END_TEST

START_TEST(an_engine_ends_at_its_deadline_while_others_put)
{
	end_while_putting(TD_EXIT_DEADLINE);
}
END_TEST

START_TEST(an_engine_is_abandoned_while_others_put)
{
	end_while_putting(TD_EXIT_ABANDON);
}
END_TEST

static atomic_bool enough;

static void *map_and_put(void *arg)
{
	(void)arg;
	while (!atomic_load(&enough)) {
		td_space *space;
		void *addr;

		ck_assert_int_eq(td_space_create(engine, NULL, &space), 0);
		ck_assert_int_eq(td_region_map(space, 64 * KIB, NULL, &addr), 0);
		ck_assert_int_eq(td_space_put(space), 0);
	}
	return NULL;
}

/* What a child does with an engine of its own, beside what it has of its parent. */
static int live_on(char *adopted)
{
	td_space *space;
	void *addr;
	int err;

	err = td_space_create(NULL, NULL, &space);
	if (!err)
		err = td_region_map(space, 64 * KIB, NULL, &addr);
	if (!err) /* a region in the parent, plain memory here */
		err = td_region_adopt(space, adopted, 64 * KIB, NULL);
	if (!err)
		err = td_space_put_sync(space);
	return err;
}

START_TEST(children_forked_at_any_moment_live_on)
{
	pthread_t threads[2];
	td_space *space;
	char *adopted = tdt_map_anon(64 * KIB);

	if (TDT_SANITIZED) {
		tdt_skip("a sanitizer's own locks do not survive a fork of threads");
		return;
	}
	ck_assert_int_eq(td_engine_create(TD_ENGINE_OPTS(.reapers = 2), &engine), 0);
	ck_assert_int_eq(td_space_create(engine, NULL, &space), 0);
	ck_assert_int_eq(td_region_adopt(space, adopted, 64 * KIB, NULL), 0);
	for (int i = 0; i < 2; i++)
		pthread_create(&threads[i], NULL, map_and_put, NULL);
	for (int i = 0; i < 100; i++) {
		int status;
		pid_t pid = fork();

		if (pid == 0) /* without Check, whose lock another thread may have held */
			_exit(-live_on(adopted));
		ck_assert_int_gt(pid, 0);
		ck_assert_int_eq(waitpid(pid, &status, 0), pid);
		ck_assert_msg(WIFEXITED(status) && WEXITSTATUS(status) == 0,
			      "child %d: status %#x", i, (unsigned)status);
	}
	atomic_store(&enough, true);
	for (int i = 0; i < 2; i++)
		pthread_join(threads[i], NULL);
	ck_assert_int_eq(td_space_put(space), 0);
	ck_assert_int_eq(td_engine_destroy(engine, TD_EXIT_DRAIN, 0), 0);
}
END_TEST

/* RSS, mappings, threads and descriptors come back to where they were. */
START_TEST(ten_thousand_cycles_leave_nothing)
{
	struct tdt_footprint before = {0}, after;

	ck_assert_int_eq(td_engine_create(TD_ENGINE_OPTS(.reapers = 2), &engine), 0);
	for (int cycle = 0; cycle < 10000; cycle++) {
		td_space *space;
		void *addr;
		int fd;

		if (cycle == 100) {
			ck_assert_int_eq(td_engine_drain(engine, TD_FOREVER), 0);
			before = tdt_footprint();
		}
		ck_assert_int_eq(td_space_create(engine, NULL, &space), 0);
		for (int i = 0; i < 3; i++) {
			ck_assert_int_eq(td_region_map(space, 16 * KIB, NULL, &addr), 0);
			tdt_touch(addr, 16 * KIB);
		}
		ck_assert_int_eq(td_space_eventfd(space, TD_EVENT_RECLAIMED, &fd), 0);
		ck_assert_int_eq(td_space_put(space), 0);
		close(fd);
	}
	ck_assert_int_eq(td_engine_drain(engine, TD_FOREVER), 0);
	after = tdt_footprint();
	printf("# before: rss %zu KiB, %zu mappings, %zu threads, %zu descriptors\n",
	       before.rss_kib, before.mappings, before.threads, before.descriptors);
	printf("# after:  rss %zu KiB, %zu mappings, %zu threads, %zu descriptors\n",
	       after.rss_kib, after.mappings, after.threads, after.descriptors);
	tdt_await_threads(before.threads);
	ck_assert_uint_eq(after.descriptors, before.descriptors);
	tdt_check_mappings(before.mappings, 4);
	if (!TDT_SANITIZED) /* whose own memory grows as it likes */
		ck_assert_uint_le(after.rss_kib, before.rss_kib + 2048);
	ck_assert_int_eq(td_engine_destroy(engine, TD_EXIT_DRAIN, 0), 0);
}
END_TEST

int main(void)
{
	struct tdt *tests = tdt_suite("stress_space");

	tdt_add(tests, spaces_live_and_die_in_many_hands, NULL, NULL);
	tdt_add(tests, an_engine_drains_while_others_put, NULL, NULL);
	tdt_add(tests, an_engine_ends_at_its_deadline_while_others_put, NULL, NULL);
	tdt_add(tests, an_engine_is_abandoned_while_others_put, NULL, NULL);
	tdt_add(tests, children_forked_at_any_moment_live_on, NULL, NULL);
	tdt_add(tests, ten_thousand_cycles_leave_nothing, NULL, NULL);
	return tdt_run(tests);
}
