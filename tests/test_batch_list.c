/* SPDX-License-Identifier: MIT */
/* td_batch: whole lists, and freeing without a grace period. */
#include "batches.h"

#include <string.h>

enum { MANY = 20000 };

static struct td_batch_list list_of(struct object *objects, size_t n, size_t bytes)
{
	struct td_batch_list list = {0};

	for (size_t i = 0; i < n; i++)
		td_batch_list_add(&list, &objects[i].node, bytes);
	return list;
}

static void hand_over(struct object *objects, size_t n, unsigned flags)
{
	struct td_batch_list list = list_of(objects, n, 0), empty = {0};

	ck_assert_int_eq(td_batch_free_list(batch, &list, flags), 0);
	ck_assert_int_eq(memcmp(&list, &empty, sizeof(list)), 0);
}

/* B3 */
START_TEST(one_grace_period_serves_a_whole_list)
{
	struct object *objects = make_objects(MANY);
	uint64_t before = stats().grace_periods;
	struct reader reader;

	enter_reader(&reader, NULL);
	hand_over(objects, MANY, 0);
	ck_assert_uint_eq(batch_stats(batch).bytes_pending, MANY * 64);
	ck_assert_int_eq(td_batch_barrier(batch, MOMENT_NS), -ETIMEDOUT);
	ck_assert_uint_eq(count_freed(objects, MANY), 0);
	leave_reader(&reader);
	barrier(batch);
	ck_assert_uint_eq(count_freed(objects, MANY), MANY);
	ck_assert_uint_eq(stats().grace_periods, before + 1);
	ck_assert_uint_lt(atomic_load(&tally.calls), MANY / 100);
	ck_assert_uint_eq(batch_stats(batch).bytes_pending, 0);
	free(objects);
}
END_TEST

START_TEST(an_empty_list_is_nothing)
{
	struct td_batch_list list = {0};

	ck_assert_int_eq(td_batch_free_list(batch, &list, 0), 0);
	ck_assert_int_eq(td_batch_free_list(batch, &list, TD_BATCH_NO_READERS), 0);
	barrier(batch);
	ck_assert_uint_eq(atomic_load(&tally.calls), 0);
	ck_assert_uint_eq(stats().grace_periods, 0);
}
END_TEST

START_TEST(a_list_counts_its_bytes)
{
	struct object *objects = make_objects(10);
	struct td_batch_list list = list_of(objects, 10, 1000);
	struct reader reader;

	enter_reader(&reader, NULL);
	ck_assert_int_eq(td_batch_free_list(batch, &list, 0), 0);
	ck_assert_uint_eq(batch_stats(batch).bytes_pending, 10000);
	/* A list can be used again. */
	list = list_of(objects + 5, 0, 0);
	ck_assert_int_eq(td_batch_free_list(batch, &list, 0), 0);
	leave_reader(&reader);
	barrier(batch);
	ck_assert_uint_eq(count_freed(objects, 10), 10);
	ck_assert_uint_eq(batch_stats(batch).bytes_pending, 0);
	free(objects);
}
END_TEST

/* B2: linked objects close on their number, and on age, too. */
START_TEST(a_long_list_closes_itself)
{
	struct object *objects = make_objects(100);

	destroy(batch);
	batch = make_batch(.close_count = 100);
	hand_over(objects, 100, 0);
	until(count_freed(objects, 100) == 100);
	free(objects);
}
END_TEST

START_TEST(a_heavy_list_closes_itself)
{
	struct object *objects = make_objects(10);
	struct td_batch_list list = list_of(objects, 10, 1000);

	destroy(batch);
	batch = make_batch(.close_bytes = 10000);
	ck_assert_int_eq(td_batch_free_list(batch, &list, 0), 0);
	until(count_freed(objects, 10) == 10);
	free(objects);
}
END_TEST

START_TEST(a_short_list_ages)
{
	struct object *objects = make_objects(10);

	destroy(batch);
	batch = make_batch(.close_age_ns = 1000000);
	for (size_t i = 0; i < 10; i++) {
		hand_over(&objects[i], 1, 0);
		until(count_freed(&objects[i], 1) == 1);
	}
	free(objects);
}
END_TEST

enum { GIVERS = 3, LISTS = TDT_SANITIZED ? 300 : 2000, IN_LIST = 7 };

static void *give_lists(void *arg)
{
	struct object *objects = arg;

	for (size_t i = 0; i < LISTS; i++) {
		struct td_batch_list list = list_of(objects + i * IN_LIST, IN_LIST, 0);

		(void)td_batch_free_list(batch, &list, i % 3 ? 0 : TD_BATCH_NO_READERS);
		if (i % 50 == 0)
			(void)td_batch_flush(batch, 0);
	}
	return NULL;
}

START_TEST(lists_of_several_threads_are_freed_once)
{
	const size_t each = LISTS * IN_LIST;
	struct object *objects = make_objects(GIVERS * each);
	pthread_t threads[GIVERS];

	for (size_t i = 0; i < GIVERS; i++)
		pthread_create(&threads[i], NULL, give_lists, objects + i * each);
	for (size_t i = 0; i < GIVERS; i++) {
		barrier(batch);
		pthread_join(threads[i], NULL);
	}
	barrier(batch);
	ck_assert_uint_eq(count_freed(objects, GIVERS * each), GIVERS * each);
	ck_assert_uint_eq(batch_stats(batch).objects_freed, GIVERS * each);
	ck_assert_uint_eq(batch_stats(batch).bytes_pending, 0);
	free(objects);
}
END_TEST

/* ---- B4: no readers ---- */

START_TEST(a_list_without_readers_waits_for_none)
{
	struct object *objects = make_objects(MANY + 1);
	struct reader reader;

	enter_reader(&reader, NULL);
	/* Nor for a grace period that is under way. */
	add_node(batch, &objects[MANY], 0);
	flush(batch);
	await_closed(batch, 1);
	hand_over(objects, MANY, TD_BATCH_NO_READERS);
	until(count_freed(objects, MANY) == MANY);
	ck_assert_uint_eq(count_freed(&objects[MANY], 1), 0);
	ck_assert_uint_eq(stats().grace_periods, 0);
	leave_reader(&reader);
	barrier(batch);
	ck_assert_uint_eq(count_freed(&objects[MANY], 1), 1);
	free(objects);
}
END_TEST

static void *add_some(void *arg)
{
	struct object *objects = arg;

	for (size_t i = 0; i < 600; i++) {
		if (i % 2)
			add_node(batch, &objects[i], 0);
		else
			add_ptr(batch, &objects[i], 0);
	}
	return NULL;
}

START_TEST(flushing_without_readers_waits_for_none)
{
	struct object *objects = make_objects(1300);
	struct reader reader;

	enter_reader(&reader, NULL);
	add_some(objects);
	on_thread(add_some, objects + 600);
	hand_over(objects + 1200, 100, 0);
	ck_assert_int_eq(td_batch_flush(batch, TD_BATCH_NO_READERS), 0);
	until(count_freed(objects, 1300) == 1300);
	ck_assert_uint_eq(stats().grace_periods, 0);
	leave_reader(&reader);
	free(objects);
}
END_TEST

START_TEST(destroying_without_readers_waits_for_none)
{
	struct object *objects = make_objects(600);
	td_batch *other = make_batch(.name = "other");
	struct reader reader;

	add_some(objects);
	ck_assert_int_eq(td_batch_flush(batch, TD_BATCH_NO_READERS), 0);
	barrier(batch);
	enter_reader(&reader, NULL);
	for (size_t i = 0; i < 600; i++) {
		atomic_store(&objects[i].freed, 0);
		add_node(other, &objects[i], 0);
	}
	ck_assert_int_eq(td_batch_destroy(other, TD_BATCH_NO_READERS), 0);
	ck_assert_uint_eq(count_freed(objects, 600), 600);
	ck_assert_uint_eq(stats().grace_periods, 0);
	leave_reader(&reader);
	free(objects);
}
END_TEST

START_TEST(a_barrier_waits_for_what_needs_no_grace_period)
{
	struct object *objects = make_objects(1000);

	for (size_t i = 0; i < 1000; i += 10) {
		hand_over(objects + i, 10, TD_BATCH_NO_READERS);
		barrier(batch);
		ck_assert_uint_eq(count_freed(objects, i + 10), i + 10);
	}
	free(objects);
}
END_TEST

/*
 * Chains of both epochs that a barrier tells apart: rest of A | what needs no grace
 * period | more of A's epoch, which comes last since its grace period took so long.
 */
static void *drain_pending(void *arg)
{
	(void)arg;
	(void)tdi_pending_drain(&batch->pending, UINT64_MAX);
	return NULL;
}

static uint64_t count_ready(void)
{
	uint64_t count;

	pthread_mutex_lock(&batch->ready.lock);
	count = batch->ready.count;
	pthread_mutex_unlock(&batch->ready.lock);
	return count;
}

START_TEST(what_needs_no_grace_period_may_overtake_the_rest)
{
	enum { A = 1000, C = 10 };
	struct object *objects = make_objects(A + 2 * C);
	struct reader reader;
	struct hold hold;
	pthread_t drainer;
	uint32_t epoch;

	hold_reaper(&hold);
	epoch = atomic_load(&batch->pending.epoch);
	hand_over(objects, A, 0);
	flush(batch);
	until(tdi_batch_has_ready(batch));
	enter_reader(&reader, NULL);
	hand_over(objects + A, C, 0);
	flush(batch);
	await_closed(batch, A + C);
	/* A barrier whose pass was the first one. */
	pthread_create(&drainer, NULL, drain_pending, NULL);
	until(atomic_load(&batch->pending.epoch) != epoch);
	hand_over(objects + A + C, C, TD_BATCH_NO_READERS);
	(void)tdi_batch_take_direct(batch); /* as the reaper between two slices */
	leave_reader(&reader);
	until(count_ready() == A + 2 * C);
	let_go(&hold);
	pthread_join(drainer, NULL);
	ck_assert_int_eq(td_batch_barrier(batch, INT64_C(20000000000)), 0);
	ck_assert_uint_eq(count_freed(objects, A + 2 * C), A + 2 * C);
	hand_over(objects, 0, 0);
	barrier(batch);
	free(objects);
}
END_TEST

/* ---- the caller's word ---- */

static void free_while_reading(void *arg)
{
	struct td_batch_list list = list_of(arg, 1, 0);

	urcu_memb_register_thread();
	urcu_memb_read_lock();
	td_batch_free_list(batch, &list, TD_BATCH_NO_READERS);
}

static void flush_while_reading(void *arg)
{
	(void)arg;
	urcu_memb_register_thread();
	urcu_memb_read_lock();
	td_batch_flush(batch, TD_BATCH_NO_READERS);
}

static void destroy_while_reading(void *arg)
{
	(void)arg;
	urcu_memb_register_thread();
	urcu_memb_read_lock();
	td_batch_destroy(batch, TD_BATCH_NO_READERS);
}

#ifdef TDI_DEBUG
/* In a process that has not forked from the one that made the batch. */
struct death {
	void (*fn)(void *arg);
	struct object object;
};

static void die_in(void *arg)
{
	struct death *death = arg;

	memset(&tally, 0, sizeof(tally));
	setup_batch();
	death->fn(&death->object);
}
#endif

START_TEST(a_reader_that_denies_itself_is_caught)
{
#ifdef TDI_DEBUG
	static void (*const all[])(void *arg) = {free_while_reading, flush_while_reading,
						 destroy_while_reading};

	for (size_t i = 0; i < 3; i++)
		tdt_expect_death(die_in, &(struct death){.fn = all[i]},
				 "batch 'test': freed without a grace period inside");
#else
	(void)free_while_reading;
	(void)flush_while_reading;
	(void)destroy_while_reading;
	tdt_skip("a debug build checks this");
#endif
}
END_TEST

int main(void)
{
	struct tdt *tests = tdt_suite("batch_list");

#define ADD(name) tdt_add(tests, name, setup_batch, teardown_batch)
	ADD(one_grace_period_serves_a_whole_list);
	ADD(an_empty_list_is_nothing);
	ADD(a_list_counts_its_bytes);
	ADD(a_long_list_closes_itself);
	ADD(a_heavy_list_closes_itself);
	ADD(a_short_list_ages);
	ADD(lists_of_several_threads_are_freed_once);
	ADD(a_list_without_readers_waits_for_none);
	ADD(flushing_without_readers_waits_for_none);
	ADD(destroying_without_readers_waits_for_none);
	ADD(a_barrier_waits_for_what_needs_no_grace_period);
	ADD(what_needs_no_grace_period_may_overtake_the_rest);
	tdt_add(tests, a_reader_that_denies_itself_is_caught, NULL, NULL);
	return tdt_run(tests);
}
