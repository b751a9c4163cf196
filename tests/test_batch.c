/* SPDX-License-Identifier: MIT */
/* td_batch: what is added, when its groups are closed, and waiting for it. */
#include "batches.h"

#include <string.h>

/* B1: objects are freed after a grace period, in whichever form they were added. */
START_TEST(a_reader_keeps_objects_until_it_leaves)
{
	struct object *objects = make_objects(2);
	struct reader reader;

	enter_reader(&reader, NULL);
	add_node(batch, &objects[0], 0);
	add_ptr(batch, &objects[1], 0);
	ck_assert_int_eq(td_batch_barrier(batch, MOMENT_NS), -ETIMEDOUT);
	ck_assert_uint_eq(count_freed(objects, 2), 0);
	ck_assert_uint_eq(batch_stats(batch).bytes_pending, 128);
	leave_reader(&reader);
	barrier(batch);
	ck_assert_uint_eq(count_freed(objects, 2), 2);
	ck_assert_uint_eq(batch_stats(batch).bytes_pending, 0);
	free(objects);
}
END_TEST

enum { THREADS = 4, EACH = 2000 };

struct adder {
	td_batch *to[2];
	struct object *objects;
	bool nodes_only; /* no room for pointers may be left */
};

static void *add_to_both(void *arg)
{
	struct adder *adder = arg;

	for (int i = 0; i < EACH; i++) {
		if (i % 3 || adder->nodes_only)
			add_node(adder->to[i % 2], &adder->objects[i], 100);
		else
			add_ptr(adder->to[i % 2], &adder->objects[i], 0);
	}
	return NULL;
}

/* B1: one grace period serves what several threads have added to several batches. */
START_TEST(one_grace_period_serves_all_batches_and_threads)
{
	struct object *objects = make_objects(THREADS * EACH), *first = make_objects(1);
	td_batch *other = make_batch(.name = "other", .threads = 1);
	uint64_t before = stats().grace_periods;
	struct adder adders[THREADS];
	pthread_t threads[THREADS];
	struct reader reader;

	enter_reader(&reader, NULL);
	add_node(batch, first, 0);
	flush(batch);
	await_closed(batch, 1);
	/* That one is under way: the next is for all that comes now. */
	for (int i = 0; i < THREADS; i++) {
		adders[i] = (struct adder){{batch, other}, objects + i * EACH, true};
		pthread_create(&threads[i], NULL, add_to_both, &adders[i]);
	}
	for (int i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	flush(other);
	leave_reader(&reader);
	barrier(batch);
	barrier(other);
	ck_assert_uint_eq(count_freed(objects, THREADS * EACH), THREADS * EACH);
	ck_assert_uint_eq(stats().grace_periods, before + 2);
	destroy(other);
	free(objects);
	free(first);
}
END_TEST

/* B6: an array of objects at a time. */
START_TEST(the_callback_gets_arrays_and_each_object_once)
{
	struct object *objects = make_objects(EACH);

	add_to_both(&(struct adder){{batch, batch}, objects, false});
	barrier(batch);
	ck_assert_uint_eq(count_freed(objects, EACH), EACH);
	ck_assert_uint_gt(atomic_load(&tally.largest), 100);
	ck_assert_uint_lt(atomic_load(&tally.calls), EACH / 100);
	ck_assert_uint_eq(batch_stats(batch).objects_freed, EACH);
	ck_assert_uint_eq(batch_stats(batch).objects_closed, EACH);
	ck_assert_uint_eq(batch_stats(batch).bytes_pending, 0);
	free(objects);
}
END_TEST

/* B6: free(3) is the default. (A sanitizer would see a leak.) */
START_TEST(without_a_callback_objects_are_given_to_free)
{
	td_batch *plain;

	ck_assert_int_eq(td_batch_create(engine, NULL, &plain), 0);

	for (int i = 0; i < EACH; i++)
		ck_assert_int_eq(td_batch_free_ptr(plain, malloc(40), 40), 0);
	for (int i = 0; i < EACH; i++)
		ck_assert_int_eq(td_batch_free(plain, malloc(40), 40), 0);
	barrier(plain);
	ck_assert_uint_eq(batch_stats(plain).objects_freed, 2 * EACH);
	destroy(plain);
}
END_TEST

/* ---- B2: when groups are closed ---- */

static void closes_itself_at(const struct td_batch_opts *opts, int n, size_t bytes)
{
	struct object *objects = make_objects((size_t)n);
	td_batch *closing = make_batch_of(engine, opts);

	for (int round = 0; round < 2; round++) {
		for (int i = 0; i < n; i++) {
			ck_assert_uint_eq(batch_stats(closing).objects_closed,
					  (size_t)(round * n));
			atomic_store(&objects[i].freed, 0);
			add_node(closing, &objects[i], bytes);
		}
		until(atomic_load(&tally.freed) == (size_t)((round + 1) * n));
	}
	destroy(closing);
	ck_assert_uint_eq(count_freed(objects, (size_t)n), (size_t)n);
	free(objects);
}

START_TEST(a_group_closes_on_count)
{
	closes_itself_at(TD_BATCH_OPTS(.close_count = 10), 10, 1 << 20);
}
END_TEST

START_TEST(a_count_beyond_a_page_closes_too)
{
	closes_itself_at(TD_BATCH_OPTS(.close_count = 1200), 1200, 0);
}
END_TEST

START_TEST(a_group_closes_on_bytes)
{
	closes_itself_at(TD_BATCH_OPTS(.close_bytes = 10000), 10, 1000);
}
END_TEST

/* However its bytes are spread over pages: 504 objects in each. */
START_TEST(bytes_beyond_a_page_close_too)
{
	closes_itself_at(TD_BATCH_OPTS(.close_bytes = 700000), 700, 1000);
}
END_TEST

START_TEST(objects_count_as_many_bytes_as_the_batch_was_told)
{
	closes_itself_at(TD_BATCH_OPTS(.close_bytes = 10000, .object_bytes = 1000), 10,
			 0);
}
END_TEST

static void freed_by_age(td_batch *of, struct object *object)
{
	atomic_store(&object->freed, 0);
	add_node(of, object, 0);
	until(atomic_load(&object->freed) == 1);
}

START_TEST(a_group_closes_on_age)
{
	struct object *object = make_objects(1);
	td_batch *aging = make_batch(.close_age_ns = 1000000);

	for (int i = 0; i < 20; i++)
		freed_by_age(aging, object);
	destroy(aging);
	free(object);
}
END_TEST

/* The shortest age counts, though longer ones are being waited for. */
START_TEST(a_short_age_overtakes_a_long_one)
{
	struct object *objects = make_objects(2);
	td_batch *aging = make_batch(.close_age_ns = 1000000);

	add_node(batch, &objects[0], 0);
	freed_by_age(aging, &objects[1]);
	destroy(aging);
	free(objects);
}
END_TEST

static bool asleep(td_batch *of)
{
	return !tdi_batch_awake(of);
}

static void *linked_by_age(void *arg)
{
	struct object *object = arg;

	freed_by_age(batch, object);
	return NULL;
}

/* The grace thread runs no passes while nothing is added, however often it has. */
static void falls_asleep_again(void)
{
	struct object *objects = make_objects(2);

	destroy(batch);
	batch = make_batch(.close_age_ns = 1000000, .threads = 1);
	for (int i = 0; i < 4; i++) {
		/* Where this thread has the only group, the other one's is linked. */
		freed_by_age(batch, &objects[0]);
		on_thread(linked_by_age, &objects[1]);
		until(asleep(batch));
	}
	free(objects);
}

START_TEST(what_nothing_is_added_to_falls_asleep_each_time)
{
	falls_asleep_again();
}
END_TEST

/* ---- B5: flush and barrier ---- */

struct helper {
	struct object *objects;
	sem_t added, may_end;
};

static void *add_and_stay(void *arg)
{
	struct helper *helper = arg;

	add_node(batch, &helper->objects[0], 0);
	add_ptr(batch, &helper->objects[1], 0);
	sem_post(&helper->added);
	sem_wait(&helper->may_end);
	return NULL;
}

static void with_another_adder(int (*call)(void))
{
	struct helper helper = {.objects = make_objects(2)};
	pthread_t thread;

	sem_init(&helper.added, 0, 0);
	sem_init(&helper.may_end, 0, 0);
	pthread_create(&thread, NULL, add_and_stay, &helper);
	sem_wait(&helper.added);
	ck_assert_int_eq(call(), 0);
	until(count_freed(helper.objects, 2) == 2);
	sem_post(&helper.may_end);
	pthread_join(thread, NULL);
	free(helper.objects);
}

static int call_flush(void)
{
	return td_batch_flush(batch, 0);
}

static int call_barrier(void)
{
	return td_batch_barrier(batch, TD_FOREVER);
}

static int call_drain(void)
{
	return td_engine_drain(engine, TD_FOREVER);
}

static int call_pressure(void)
{
	return td_engine_pressure(engine, TD_PRESSURE_SOME, NULL);
}

START_TEST(flush_closes_other_threads_groups)
{
	with_another_adder(call_flush);
}
END_TEST

START_TEST(a_barrier_closes_other_threads_groups)
{
	with_another_adder(call_barrier);
	with_another_adder(call_drain);
}
END_TEST

START_TEST(pressure_closes_other_threads_groups)
{
	with_another_adder(call_pressure);
}
END_TEST

START_TEST(a_barrier_waits_no_longer_than_it_is_told)
{
	struct object *objects = make_objects(2);
	struct reader reader;

	enter_reader(&reader, NULL);
	add_node(batch, &objects[0], 0);
	ck_assert_int_eq(td_batch_barrier(batch, 0), -ETIMEDOUT);
	ck_assert_int_eq(td_batch_barrier(batch, 1000000), -ETIMEDOUT);
	ck_assert_int_eq(td_engine_drain(engine, 1000000), -ETIMEDOUT);
	leave_reader(&reader);
	barrier(batch);
	/* The callback counts, too. */
	stop_callbacks(&tally);
	add_node(batch, &objects[1], 0);
	flush(batch);
	sem_wait(&tally.entered);
	ck_assert_int_eq(td_batch_barrier(batch, 1000000), -ETIMEDOUT);
	let_callbacks_go(&tally);
	barrier(batch);
	ck_assert_uint_eq(count_freed(objects, 2), 2);
	free(objects);
}
END_TEST

static struct reader late_reader;
static struct object *late_object;

static void add_behind_a_reader(struct tally *of, struct object *first, size_t n)
{
	(void)first;
	(void)n;
	of->inside = NULL;
	enter_reader(&late_reader, NULL);
	add_node(batch, late_object, 0);
}

START_TEST(a_barrier_does_not_wait_for_what_is_added_meanwhile)
{
	struct object *object = make_objects(1);

	late_object = make_objects(1);
	tally.inside = add_behind_a_reader;
	add_node(batch, object, 0);
	barrier(batch);
	ck_assert_uint_eq(count_freed(object, 1), 1);
	ck_assert_uint_eq(count_freed(late_object, 1), 0);
	leave_reader(&late_reader);
	barrier(batch);
	ck_assert_uint_eq(count_freed(late_object, 1), 1);
	free(object);
	free(late_object);
}
END_TEST

enum { FLOOD = 40000, ROUNDS = TDT_SANITIZED ? 10 : 40 };

static atomic_size_t flood_added;

static void *flood(void *arg)
{
	struct object *objects = arg;

	for (size_t i = 0; i < FLOOD; i++) {
		(void)td_batch_free(batch, &objects[i].node, 0);
		atomic_store(&flood_added, i + 1);
	}
	return NULL;
}

/* All that was added before the call, by a thread that goes on adding. */
static void wait_beside_flood(int (*call)(void))
{
	struct object *objects = make_objects(FLOOD);

	for (int round = 0; round < ROUNDS; round++) {
		size_t added, checked = 0;
		pthread_t thread;

		atomic_store(&flood_added, 0);
		pthread_create(&thread, NULL, flood, objects);
		do {
			added = atomic_load(&flood_added);
			ck_assert_int_eq(call(), 0);
			ck_assert_uint_eq(count_freed(objects + checked, added - checked),
					  added - checked);
			checked = added;
		} while (added < FLOOD);
		pthread_join(thread, NULL);
		for (size_t i = 0; i < FLOOD; i++)
			atomic_store(&objects[i].freed, 0);
	}
	free(objects);
}

START_TEST(a_barrier_is_right_about_threads_that_go_on)
{
	wait_beside_flood(call_barrier);
}
END_TEST

START_TEST(draining_is_right_about_threads_that_go_on)
{
	wait_beside_flood(call_drain);
}
END_TEST

static int results[4];

static void call_what_waits(struct tally *of, struct object *first, size_t n)
{
	(void)of;
	(void)first;
	(void)n;
	results[0] = td_batch_barrier(batch, TD_FOREVER);
	results[1] = td_batch_destroy(batch, 0);
	results[2] = td_engine_drain(engine, TD_FOREVER);
	results[3] = td_batch_flush(batch, 0);
}

START_TEST(what_would_wait_for_itself_is_refused)
{
	struct object *object = make_objects(1);

	tally.inside = call_what_waits;
	add_node(batch, object, 0);
	barrier(batch);
	for (int i = 0; i < 3; i++)
		ck_assert_int_eq(results[i], -EDEADLK);
	ck_assert_int_eq(results[3], 0);
	tally.inside = NULL;
	free(object);
}
END_TEST

int main(void)
{
	struct tdt *tests = tdt_suite("batch");

#define ADD(name) tdt_add(tests, name, setup_batch, teardown_batch)
	ADD(a_reader_keeps_objects_until_it_leaves);
	ADD(one_grace_period_serves_all_batches_and_threads);
	ADD(the_callback_gets_arrays_and_each_object_once);
	ADD(without_a_callback_objects_are_given_to_free);
	ADD(a_group_closes_on_count);
	ADD(a_count_beyond_a_page_closes_too);
	ADD(a_group_closes_on_bytes);
	ADD(bytes_beyond_a_page_close_too);
	ADD(objects_count_as_many_bytes_as_the_batch_was_told);
	ADD(a_group_closes_on_age);
	ADD(a_short_age_overtakes_a_long_one);
	ADD(what_nothing_is_added_to_falls_asleep_each_time);
	ADD(flush_closes_other_threads_groups);
	ADD(a_barrier_closes_other_threads_groups);
	ADD(pressure_closes_other_threads_groups);
	ADD(a_barrier_waits_no_longer_than_it_is_told);
	ADD(a_barrier_does_not_wait_for_what_is_added_meanwhile);
	ADD(a_barrier_is_right_about_threads_that_go_on);
	ADD(draining_is_right_about_threads_that_go_on);
	ADD(what_would_wait_for_itself_is_refused);
	return tdt_run(tests);
}
