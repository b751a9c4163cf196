/* SPDX-License-Identifier: MIT */
/*
 * A thousand forks while ranges, spaces and batches are torn down by all the threads that
 * there are. A child has nothing of what was in quarantine, gets -ECHILD from every call,
 * and may restart the engine; the parent gets all its memory back.
 */
#include "base.h"
#include "child.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <teardown.h>

enum { FORKS = TDT_SANITIZED ? 60 : 1000, RESTARTS = 10, AT_ONCE = 3 };

static td_engine *engine;
static td_space *in_use;
static td_batch *batch;
static _Atomic(bool) enough;
static atomic_ullong unmapped, put, told, added;

/* ---- what is going on in the parent ---- */

static size_t length_of(unsigned *seed)
{
	static const size_t lengths[] = {64 * KIB, 2 * MIB, 5 * MIB, 9 * MIB};

	return lengths[(unsigned)rand_r(seed) % 4];
}

static void *unmap_ranges(void *arg)
{
	unsigned seed = 1;

	(void)arg;
	while (!atomic_load(&enough)) {
		size_t length = length_of(&seed);
		char *addr = tdt_map_anon(length);

		tdt_touch(addr, tdi_min_size(length, MIB));
		ck_assert_int_eq(td_engine_munmap(engine, addr, length, 0), 0);
		atomic_fetch_add(&unmapped, 1);
	}
	return NULL;
}

static void tell(td_space *space, enum td_event event, int status, void *arg)
{
	(void)space;
	(void)event;
	(void)arg;
	ck_assert_int_eq(status, 0);
	atomic_fetch_add(&told, 1);
}

static void *put_spaces(void *arg)
{
	unsigned seed = 2;

	(void)arg;
	while (!atomic_load(&enough)) {
		unsigned flags = rand_r(&seed) & 1 ? TD_SPACE_DETACH : 0;
		td_space *space;

		ck_assert_int_eq(
			td_space_create(engine, TD_SPACE_OPTS(.flags = flags), &space),
			0);
		for (unsigned i = 0; i < 3; i++) {
			size_t length = length_of(&seed);
			void *addr;

			ck_assert_int_eq(td_region_map(space, length, NULL, &addr), 0);
			tdt_touch(addr, tdi_min_size(length, MIB));
			if (i == 0)
				ck_assert_int_eq(td_region_unmap(space, addr, length), 0);
		}
		ck_assert_int_eq(td_space_on_event(space, TD_EVENT_RECLAIMED, tell, NULL),
				 0);
		ck_assert_int_eq(td_space_put(space), 0);
		atomic_fetch_add(&put, 1);
	}
	return NULL;
}

static void *add_objects(void *arg)
{
	(void)arg;
	while (!atomic_load(&enough)) {
		for (unsigned i = 0; i < 500; i++) {
			void *object = malloc(64);

			if (td_batch_free_ptr(batch, object, 64))
				free(object);
			else
				atomic_fetch_add(&added, 1);
		}
		ck_assert_int_eq(td_batch_flush(batch, 0), 0);
		ck_assert_int_eq(td_space_get(in_use), 0);
		ck_assert_int_eq(td_space_put(in_use), 0);
	}
	return NULL;
}

/* ---- what a child looks at ---- */

/* Where the library puts its quarantine (detach.c), and nobody else anything. */
static void quarantine_zone(uintptr_t *start, uintptr_t *end)
{
	uintptr_t stack = (uintptr_t)__builtin_frame_address(0);

	*end = (uintptr_t)1 << (62 - __builtin_clzll(stack));
	*start = *end / 2;
}

/* How many mappings lie there. Allocates nothing, and takes no lock of the library's. */
static unsigned quarantined(void)
{
	int file = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
	uintptr_t start, end, at = 0;
	unsigned found = 0;
	bool in_address = true;
	char text[4096];
	ssize_t got;

	need(file >= 0);
	quarantine_zone(&start, &end);
	while ((got = read(file, text, sizeof(text))) > 0) {
		for (ssize_t i = 0; i < got; i++) {
			char c = text[i];

			if (c == '\n') {
				in_address = true;
				at = 0;
			} else if (c == '-' && in_address) {
				in_address = false;
				found += at >= start && at < end;
			} else if (in_address) {
				at = at * 16 +
				     (uintptr_t)(c <= '9' ? c - '0' : c - 'a' + 10);
			}
		}
	}
	close(file);
	return found;
}

static void be_clean(void *arg)
{
	struct td_engine_stats now;
	td_space *space;

	(void)arg;
	if (!TDT_SANITIZED) /* which has mappings of its own there */
		need_eq(quarantined(), 0);
	need_eq(td_engine_stats(engine, &now), -ECHILD);
	need_eq(td_engine_drain(engine, TD_FOREVER), -ECHILD);
	need_eq(td_space_create(engine, NULL, &space), -ECHILD);
	need_eq(td_space_get(in_use), -ECHILD);
	need_eq(td_space_put(in_use), -ECHILD);
	need_eq(td_batch_free_ptr(batch, &now, 0), -ECHILD);
	need_eq(td_batch_barrier(batch, TD_FOREVER), -ECHILD);
	need_eq(td_engine_destroy(engine, TD_EXIT_DRAIN, 0), -ECHILD);
}

static void *map(size_t length)
{
	char *addr = mmap(NULL, length, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	need(addr != MAP_FAILED);
	memset(addr, 1, length);
	return addr;
}

static void restart_and_use(void *arg)
{
	struct td_engine_stats now;
	td_batch *objects;
	td_space *space;
	void *addr;

	be_clean(arg);
	need_eq(td_engine_restart(engine), 0);
	need_eq(td_engine_munmap(engine, map(3 * MIB), 3 * MIB, 0), 0);
	need_eq(td_space_create(engine, NULL, &space), 0);
	need_eq(td_region_map(space, 5 * MIB, NULL, &addr), 0);
	memset(addr, 1, 5 * MIB);
	need_eq(td_space_put(space), 0);
	need_eq(td_batch_create(engine, NULL, &objects), 0);
	for (unsigned i = 0; i < 100; i++)
		need_eq(td_batch_free_ptr(objects, malloc(50), 50), 0);
	need_eq(td_batch_destroy(objects, 0), 0);
	need_eq(td_engine_drain(engine, TD_FOREVER), 0);
	need_eq(td_engine_stats(engine, &now), 0);
	need_eq(now.bytes_pending, 0);
	need_eq(now.bytes_quarantined, 0);
	need_eq(now.munmaps_deferred, 1);
	need_eq(quarantined(), 0);
	need_eq(td_space_get(in_use), -ECHILD);
	need_eq(td_engine_destroy(engine, TD_EXIT_DRAIN, 0), 0);
}

/* ---- all together ---- */

static void fork_often(void)
{
	pid_t children[AT_ONCE] = {0};

	for (unsigned i = 0; i < FORKS + AT_ONCE; i++) {
		pid_t *child = &children[i % AT_ONCE];

		if (*child > 0)
			ck_assert_int_eq(child_end(*child), 0);
		*child = 0;
		if (i < FORKS)
			*child = child_start(!TDT_SANITIZED && i % RESTARTS == 0
						     ? restart_and_use
						     : be_clean,
					     NULL);
	}
}

START_TEST(forks_amid_teardown)
{
	static void *(*const doings[])(void *) = {unmap_ranges, put_spaces, add_objects};
	enum { DOINGS = sizeof(doings) / sizeof(*doings) };
	struct tdt_footprint before, after;
	struct td_engine_stats now;
	struct td_batch_stats counts;
	pthread_t threads[DOINGS];

	before = tdt_footprint();
	ck_assert_int_eq(td_engine_create(TD_ENGINE_OPTS(.reapers = 2,
							 .munmap_threshold = 64 * KIB),
					  &engine),
			 0);
	ck_assert_int_eq(td_space_create(engine, NULL, &in_use), 0);
	ck_assert_int_eq(td_batch_create(engine, NULL, &batch), 0);
	for (unsigned i = 0; i < DOINGS; i++)
		pthread_create(&threads[i], NULL, doings[i], NULL);
	fork_often();
	atomic_store(&enough, true);
	for (unsigned i = 0; i < DOINGS; i++)
		pthread_join(threads[i], NULL);
	ck_assert_int_eq(td_engine_drain(engine, TD_FOREVER), 0);
	ck_assert_uint_eq(atomic_load(&told), atomic_load(&put));
	ck_assert_uint_gt(atomic_load(&unmapped), 0);
	ck_assert_uint_gt(atomic_load(&put), 0);
	ck_assert_int_eq(td_batch_stats(batch, &counts), 0);
	ck_assert_uint_eq(counts.objects_freed, atomic_load(&added));
	ck_assert_int_eq(td_engine_stats(engine, &now), 0);
	ck_assert_uint_eq(now.works_failed, 0);
	ck_assert_uint_eq(now.bytes_pending, 0);
	ck_assert_uint_eq(now.bytes_quarantined, 0);
	if (!TDT_SANITIZED)
		ck_assert_uint_eq(quarantined(), 0);
	ck_assert_int_eq(td_batch_destroy(batch, 0), 0);
	ck_assert_int_eq(td_space_put(in_use), 0);
	ck_assert_int_eq(td_engine_destroy(engine, TD_EXIT_DRAIN, 0), 0);
	tdt_await_threads(before.threads + (TDT_SANITIZED ? 1 : 0));
	after = tdt_footprint();
	ck_assert_uint_eq(after.descriptors, before.descriptors);
	/* stacks and arenas that the C library keeps */
	tdt_check_mappings(before.mappings, 40);
}
END_TEST

int main(void)
{
	struct tdt *tests = tdt_suite("stress_fork");

	tdt_add(tests, forks_amid_teardown, NULL, NULL);
	return tdt_run(tests);
}
