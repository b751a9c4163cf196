/* SPDX-License-Identifier: MIT */
/* B5: memory pressure closes what is open at once, and asks those who hold memory. */
#include "batch_internal.h"
#include "job.h"

#include <sched.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <teardown/pressure.h>
#include <unistd.h>
#include <urcu/urcu-memb.h>

#define HOUR_NS UINT64_C(3600000000000)

/* ---- shrinkers ---- */

struct cache {
	struct td_shrinker shrinker;
	uint64_t bytes; /* what it says that it frees */
	unsigned calls, at;
	enum td_pressure level;
	void (*use_library)(struct cache *cache);
};

static unsigned calls;

static uint64_t shrink(struct td_shrinker *shrinker, enum td_pressure level)
{
	struct cache *cache = tdi_container_of(shrinker, struct cache, shrinker);

	cache->calls++;
	cache->at = ++calls;
	cache->level = level;
	if (cache->use_library)
		cache->use_library(cache);
	return cache->bytes;
}

static struct cache cache_of(uint64_t bytes)
{
	return (struct cache){.shrinker.shrink = shrink, .bytes = bytes};
}

static void add(struct cache *cache)
{
	ck_assert_int_eq(td_engine_add_shrinker(engine, &cache->shrinker), 0);
}

static void take_away(struct cache *cache)
{
	ck_assert_int_eq(td_engine_remove_shrinker(engine, &cache->shrinker), 0);
}

static void check_pressure(enum td_pressure level, uint64_t bytes)
{
	uint64_t said = 77;

	ck_assert_int_eq(td_engine_pressure(engine, level, &said), 0);
	ck_assert_uint_eq(said, bytes);
}

START_TEST(each_shrinker_is_asked_in_turn_and_their_bytes_are_told)
{
	static const enum td_pressure levels[] = {TD_PRESSURE_SOME, TD_PRESSURE_FULL,
						  TD_PRESSURE_NONE};
	struct cache caches[3] = {cache_of(1), cache_of(1000), cache_of(UINT32_MAX)};

	check_pressure(TD_PRESSURE_FULL, 0);
	for (int i = 0; i < 3; i++)
		add(&caches[i]);
	for (unsigned round = 0; round < 3; round++) {
		check_pressure(levels[round], 1001 + (uint64_t)UINT32_MAX);
		for (unsigned i = 0; i < 3; i++) {
			ck_assert_uint_eq(caches[i].calls, round + 1);
			ck_assert_uint_eq(caches[i].at, 3 * round + i + 1);
			ck_assert_int_eq(caches[i].level, levels[round]);
		}
	}
	ck_assert_int_eq(td_engine_pressure(engine, TD_PRESSURE_SOME, NULL), 0);
	for (int i = 0; i < 3; i++)
		take_away(&caches[i]);
}
END_TEST

START_TEST(a_shrinker_that_is_removed_is_not_asked_again)
{
	struct cache caches[4] = {cache_of(1), cache_of(2), cache_of(4), cache_of(8)};

	for (int i = 0; i < 4; i++)
		add(&caches[i]);
	take_away(&caches[1]); /* from the middle, the front, the end */
	check_pressure(TD_PRESSURE_SOME, 13);
	take_away(&caches[0]);
	check_pressure(TD_PRESSURE_SOME, 12);
	take_away(&caches[3]);
	check_pressure(TD_PRESSURE_SOME, 4);
	add(&caches[0]);
	check_pressure(TD_PRESSURE_SOME, 5);
	take_away(&caches[2]);
	take_away(&caches[0]);
	check_pressure(TD_PRESSURE_SOME, 0);
	ck_assert_uint_eq(caches[1].calls, 0);
}
END_TEST

START_TEST(misuse_is_refused_and_changes_nothing)
{
	struct cache cache = cache_of(5), other = cache_of(7);
	struct td_shrinker none = {.shrink = NULL};
	uint64_t said = 77;

	ck_assert_int_eq(td_engine_add_shrinker(engine, NULL), -EINVAL);
	ck_assert_int_eq(td_engine_add_shrinker(engine, &none), -EINVAL);
	ck_assert_int_eq(td_engine_remove_shrinker(engine, NULL), -EINVAL);
	ck_assert_int_eq(td_engine_remove_shrinker(engine, &none), -EINVAL);
	ck_assert_int_eq(td_engine_remove_shrinker(engine, &cache.shrinker), -ENOENT);
	add(&cache);
	ck_assert_int_eq(td_engine_add_shrinker(engine, &cache.shrinker), -EALREADY);
	ck_assert_int_eq(td_engine_remove_shrinker(engine, &other.shrinker), -ENOENT);
	add(&other);
	ck_assert_int_eq(td_engine_add_shrinker(engine, &cache.shrinker), -EALREADY);
	ck_assert_int_eq(td_engine_pressure(engine, TD_PRESSURE_FULL + 1, &said),
			 -EINVAL);
	ck_assert_int_eq(td_engine_pressure(engine, (enum td_pressure) - 1, &said),
			 -EINVAL);
	ck_assert_uint_eq(said, 77);
	ck_assert_uint_eq(calls, 0);
	check_pressure(TD_PRESSURE_SOME, 12);
	take_away(&cache);
	ck_assert_int_eq(td_engine_remove_shrinker(engine, &cache.shrinker), -ENOENT);
	take_away(&other);
}
END_TEST

static td_engine *other_engine;
static int results[5];
static struct cache another;

static void come_back(struct cache *cache)
{
	uint64_t said = 77;

	results[0] = td_engine_add_shrinker(engine, &another.shrinker);
	results[1] = td_engine_remove_shrinker(engine, &cache->shrinker);
	results[2] = td_engine_pressure(engine, TD_PRESSURE_SOME, &said);
	results[3] = said == 77;
	results[4] = td_engine_pressure(other_engine, TD_PRESSURE_SOME, NULL);
}

START_TEST(a_shrinker_cannot_come_back_to_its_engine_but_to_another)
{
	struct cache cache = cache_of(3), elsewhere = cache_of(0);

	another = cache_of(0);
	cache.use_library = come_back;
	ck_assert_int_eq(td_engine_create(NULL, &other_engine), 0);
	ck_assert_int_eq(td_engine_add_shrinker(other_engine, &elsewhere.shrinker), 0);
	add(&cache);
	check_pressure(TD_PRESSURE_FULL, 3);
	for (int i = 0; i < 3; i++)
		ck_assert_int_eq(results[i], -EDEADLK);
	ck_assert_int_eq(results[3], 1);
	ck_assert_int_eq(results[4], 0);
	ck_assert_uint_eq(cache.calls, 1);
	ck_assert_uint_eq(elsewhere.calls, 1);
	ck_assert_uint_eq(another.calls, 0);
	take_away(&cache);
	ck_assert_int_eq(td_engine_remove_shrinker(other_engine, &elsewhere.shrinker), 0);
	ck_assert_int_eq(td_engine_destroy(other_engine, TD_EXIT_DRAIN, 0), 0);
}
END_TEST

/* ---- the default engine ---- */

START_TEST(the_default_engine_is_not_made_to_be_told_of_pressure)
{
	struct cache cache = cache_of(9);
	uint64_t said = 77;

	ck_assert_int_eq(td_engine_pressure(NULL, TD_PRESSURE_FULL, &said), 0);
	ck_assert_uint_eq(said, 0);
	ck_assert_int_eq(td_engine_pressure(NULL, TD_PRESSURE_FULL, NULL), 0);
	ck_assert_int_eq(td_engine_pressure(NULL, TD_PRESSURE_FULL + 1, NULL), -EINVAL);
	ck_assert_int_eq(td_engine_remove_shrinker(NULL, &cache.shrinker), -ENOENT);
	ck_assert_ptr_null(tdi_engine_made(NULL));
	ck_assert_int_eq(td_engine_add_shrinker(NULL, &cache.shrinker), 0);
	ck_assert_ptr_nonnull(tdi_engine_made(NULL));
	check_pressure(TD_PRESSURE_SOME, 9);
	take_away(&cache);
}
END_TEST

START_TEST(an_engine_without_threads_asks_its_shrinkers_too)
{
	struct cache cache = cache_of(9);

	tdt_fail(TDI_SYS_thread_create, -EAGAIN, 0, UINT32_MAX);
	add(&cache);
	ck_assert_uint_eq(stats().reapers, 0);
	check_pressure(TD_PRESSURE_SOME, 9);
	take_away(&cache);
}
END_TEST

START_TEST(in_a_child_every_call_says_so)
{
	struct cache cache = cache_of(0);
	int status;
	pid_t pid;

	add(&cache);
	pid = fork();
	ck_assert_int_ge(pid, 0);
	if (pid == 0) {
		struct cache own = cache_of(0);
		int bad = 0;

		bad |= td_engine_add_shrinker(engine, &own.shrinker) != -ECHILD;
		bad |= td_engine_remove_shrinker(engine, &cache.shrinker) != -ECHILD;
		bad |= td_engine_pressure(engine, TD_PRESSURE_SOME, NULL) != -ECHILD;
		_exit(bad + (int)cache.calls);
	}
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert_int_eq(status, 0);
	take_away(&cache);
}
END_TEST

/* ---- batches ---- */

static atomic_uint freed;

static void count_freed(void **objects, size_t n, void *ctx)
{
	for (size_t i = 0; i < n; i++)
		free(objects[i]);
	atomic_fetch_add((atomic_uint *)ctx, (unsigned)n);
}

/* Nothing closes its groups by itself: not for an hour. */
static td_batch *patient_batch(atomic_uint *count, size_t room)
{
	const struct td_batch_opts opts = {.size = sizeof(opts),
					   .flags = TD_BATCH_NO_HELP,
					   .free_bulk = count_freed,
					   .ctx = count,
					   .close_bytes = UINT64_MAX,
					   .close_count = SIZE_MAX,
					   .close_age_ns = HOUR_NS,
					   .max_bytes = TD_BATCH_UNBOUNDED,
					   .room = room};
	td_batch *batch;

	ck_assert_int_eq(td_batch_create(engine, &opts, &batch), 0);
	return batch;
}

static void fill(td_batch *batch, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		ck_assert(td_batch_free_ptr(batch, malloc(8), 100) == 0);
}

static uint64_t bytes_pending(td_batch *batch)
{
	struct td_batch_stats now;

	ck_assert_int_eq(td_batch_stats(batch, &now), 0);
	return now.bytes_pending;
}

static void *fill_some(void *batch)
{
	fill(batch, 300);
	return NULL;
}

/* Of all batches, whoever's they are: also those of threads that are gone. */
START_TEST(pressure_closes_all_open_groups_at_once)
{
	for (enum td_pressure level = TD_PRESSURE_SOME; level <= TD_PRESSURE_FULL;
	     level++) {
		atomic_uint counts[3] = {0};
		td_batch *batches[3];
		pthread_t thread;

		for (unsigned i = 0; i < 3; i++) {
			batches[i] = patient_batch(&counts[i], 0);
			fill(batches[i], 1 + 100 * i);
			pthread_create(&thread, NULL, fill_some, batches[i]);
			pthread_join(thread, NULL);
			ck_assert_uint_eq(bytes_pending(batches[i]),
					  (301 + 100 * i) * 100);
		}
		check_pressure(level, 0);
		for (unsigned i = 0; i < 3; i++) {
			while (bytes_pending(batches[i]) > 0)
				sched_yield();
			ck_assert_uint_eq(atomic_load(&counts[i]), 301 + 100 * i);
			ck_assert_int_eq(td_batch_destroy(batches[i], 0), 0);
		}
	}
}
END_TEST

/* The grace thread is held up by a reader, so that what it is told is still there. */
START_TEST(pressure_waits_for_no_grace_period_and_its_end_asks_for_nothing)
{
	struct tdi_grace *grace = &engine->grace;
	td_batch *batch = patient_batch(&freed, 0);

	urcu_memb_register_thread();
	urcu_memb_read_lock();
	fill(batch, 1);
	ck_assert_int_eq(td_batch_flush(batch, 0), 0);
	while (atomic_load(&batch->objects_closed) == 0)
		sched_yield();
	fill(batch, 1);
	check_pressure(TD_PRESSURE_NONE, 0);
	ck_assert_uint_eq(atomic_load(&grace->signal), 0);
	check_pressure(TD_PRESSURE_SOME, 0);
	ck_assert_uint_ne(atomic_load(&grace->signal), 0);
	ck_assert_uint_eq(atomic_load(&freed), 0);
	urcu_memb_read_unlock();
	while (bytes_pending(batch) > 0)
		sched_yield();
	ck_assert_uint_eq(atomic_load(&freed), 2);
	ck_assert_int_eq(td_batch_destroy(batch, 0), 0);
	urcu_memb_unregister_thread();
}
END_TEST

/* ---- room ---- */

static size_t resident_room(td_batch *batch)
{
	size_t sum = 0;

	for (unsigned i = 0; i < TDI_CHUNKS_MAX && batch->pages.chunks[i]; i++)
		sum += tdt_resident(batch->pages.chunks[i],
				    (TDI_CHUNK_PAGES + 1) * (size_t)TDI_PAGE_SIZE);
	return sum;
}

enum { SETTLING = 3 };

/* The passes that end one after the other come after whatever was asked for before. */
static void settle(td_batch *batch)
{
	for (int i = 0; i < SETTLING; i++) {
		fill(batch, 1); /* or a barrier needs no pass */
		ck_assert_int_eq(td_batch_barrier(batch, TD_FOREVER), 0);
	}
}

START_TEST(pressure_gives_room_back_that_is_not_in_use)
{
	enum { CHUNKS = 8, MANY = CHUNKS * TDI_CHUNK_PAGES * TDI_PAGE_OBJECTS / 2 };
	const size_t chunk = (TDI_CHUNK_PAGES + 1) * (size_t)TDI_PAGE_SIZE;
	td_batch *batch =
		patient_batch(&freed, CHUNKS * TDI_CHUNK_PAGES * TDI_PAGE_OBJECTS - 1);

	fill(batch, MANY);
	ck_assert_uint_ge(resident_room(batch), CHUNKS / 2 * chunk - chunk);
	settle(batch);
	ck_assert_uint_eq(bytes_pending(batch), 0);
	ck_assert_uint_ge(resident_room(batch), CHUNKS / 2 * chunk - chunk);

	tdt_fail(TDI_SYS_madvise, -ENOMEM, 0, UINT32_MAX);
	check_pressure(TD_PRESSURE_FULL, 0);
	settle(batch);
	ck_assert_uint_gt(tdt_calls(TDI_SYS_madvise), 0);
	ck_assert_uint_ge(resident_room(batch), CHUNKS / 2 * chunk - chunk);
	tdt_fail_none();

	/* Kept: the chunks of an open page, of one that gathers, and of a spare one. */
	check_pressure(TD_PRESSURE_FULL, 0);
	settle(batch);
	ck_assert_uint_le(resident_room(batch), 3 * chunk + CHUNKS * TDI_PAGE_SIZE);
	fill(batch, MANY);
	settle(batch);
	ck_assert_uint_eq(atomic_load(&freed), 2 * MANY + 4 * SETTLING);
	ck_assert_int_eq(td_batch_destroy(batch, 0), 0);
}
END_TEST

/* ---- many ---- */

enum { THREADS = 2, ROUNDS = TDT_SANITIZED ? 1500 : 10000, HELD = 64 };

static atomic_uint running, wrong;

/* Not asked once it is gone: a sanitizer would see that it races with the write, and that
 * it is on a stack that has been left. */
static void *come_and_go(void *arg)
{
	(void)arg;
	for (int i = 0; i < ROUNDS; i++) {
		struct cache cache = cache_of(1);

		if (td_engine_add_shrinker(engine, &cache.shrinker) != 0)
			atomic_fetch_add(&wrong, 1);
		if (i % 8 == 0)
			sched_yield();
		if (td_engine_remove_shrinker(engine, &cache.shrinker) != 0)
			atomic_fetch_add(&wrong, 1);
		*(volatile unsigned *)&cache.calls = 0;
	}
	atomic_fetch_sub(&running, 1);
	return NULL;
}

static void *keep_adding(void *batch)
{
	for (int i = 0; i < ROUNDS; i++) {
		for (int j = 0; j < HELD; j++) {
			void *object = malloc(8);

			while (td_batch_free_ptr(batch, object, 100) == -EAGAIN)
				sched_yield();
		}
	}
	atomic_fetch_sub(&running, 1);
	return NULL;
}

START_TEST(pressure_comes_while_others_add_and_shrinkers_come_and_go)
{
	pthread_t threads[2 * THREADS];
	td_batch *batch = patient_batch(&freed, 0);

	atomic_store(&running, 2 * THREADS);
	for (int i = 0; i < THREADS; i++) {
		pthread_create(&threads[i], NULL, come_and_go, NULL);
		pthread_create(&threads[THREADS + i], NULL, keep_adding, batch);
	}
	while (atomic_load(&running) > 0) {
		uint64_t said;

		ck_assert_int_eq(td_engine_pressure(engine, TD_PRESSURE_FULL, &said), 0);
		ck_assert_uint_le(said, THREADS);
		sched_yield();
	}
	for (int i = 0; i < 2 * THREADS; i++)
		pthread_join(threads[i], NULL);
	ck_assert_uint_eq(atomic_load(&wrong), 0);
	ck_assert_int_eq(td_batch_destroy(batch, 0), 0);
	ck_assert_uint_eq(atomic_load(&freed), THREADS * ROUNDS * HELD);
}
END_TEST

static void setup_none(void)
{
	engine = NULL;
}

int main(void)
{
	struct tdt *tests = tdt_suite("pressure");
	const TTest *all[] = {
		each_shrinker_is_asked_in_turn_and_their_bytes_are_told,
		a_shrinker_that_is_removed_is_not_asked_again,
		misuse_is_refused_and_changes_nothing,
		a_shrinker_cannot_come_back_to_its_engine_but_to_another,
		in_a_child_every_call_says_so,
		pressure_closes_all_open_groups_at_once,
		pressure_waits_for_no_grace_period_and_its_end_asks_for_nothing,
		pressure_gives_room_back_that_is_not_in_use,
		pressure_comes_while_others_add_and_shrinkers_come_and_go,
	};

	for (size_t i = 0; i < sizeof(all) / sizeof(*all); i++)
		tdt_add(tests, all[i], setup, teardown);
	tdt_add(tests, the_default_engine_is_not_made_to_be_told_of_pressure, setup_none,
		NULL);
	tdt_add(tests, an_engine_without_threads_asks_its_shrinkers_too, setup_none,
		NULL);
	return tdt_run(tests);
}
