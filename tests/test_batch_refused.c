/* SPDX-License-Identifier: MIT */
/* td_batch: misuse, and system calls that fail. */
#include "batches.h"
#include "heard.h"

#include <errno.h>
#include <limits.h>
#include <string.h>

/* ---- misuse ---- */

static void create_fails(const struct td_batch_opts *opts, int err)
{
	td_batch *made = (void *)1;

	ck_assert_int_eq(td_batch_create(engine, opts, &made), err);
	ck_assert_ptr_eq(made, (void *)1);
}

START_TEST(nonsense_options_are_refused)
{
	struct {
		struct td_batch_opts opts;
		uint64_t later;
	} newer = {.opts = {.size = sizeof(newer)}};
	td_batch *made;

	create_fails(TD_BATCH_OPTS(.flags = 4), -EINVAL);
	create_fails(TD_BATCH_OPTS(.flags = TD_BATCH_HELP | TD_BATCH_NO_HELP), -EINVAL);
	create_fails(TD_BATCH_OPTS(.threads = 65537), -EINVAL);
	create_fails(TD_BATCH_OPTS(.room = ((size_t)64 << 20) + 1), -EINVAL);
	create_fails(&(struct td_batch_opts){.size = 3}, -EINVAL);
	/* Fields of a later library: as long as they are zero. */
	ck_assert_int_eq(td_batch_create(engine, &newer.opts, &made), 0);
	destroy(made);
	newer.later = 1;
	create_fails(&newer.opts, -E2BIG);
}
END_TEST

START_TEST(nonsense_arguments_change_nothing)
{
	struct object *objects = make_objects(2);
	struct td_batch_list list = {0}, before;
	struct td_batch_stats now;

	td_batch_list_add(&list, &objects[1].node, 0);
	before = list;
	add_node(batch, &objects[0], 0);
	ck_assert_int_eq(td_batch_free(NULL, &objects[1].node, 0), -EINVAL);
	ck_assert_int_eq(td_batch_free(batch, NULL, 0), -EINVAL);
	ck_assert_int_eq(td_batch_free_ptr(NULL, &objects[1], 0), -EINVAL);
	ck_assert_int_eq(td_batch_free_ptr(batch, NULL, 0), -EINVAL);
	ck_assert_int_eq(td_batch_free_list(NULL, &list, 0), -EINVAL);
	ck_assert_int_eq(td_batch_free_list(batch, NULL, 0), -EINVAL);
	ck_assert_int_eq(td_batch_free_list(batch, &list, 2), -EINVAL);
	ck_assert_int_eq(memcmp(&list, &before, sizeof(list)), 0);
	ck_assert_int_eq(td_batch_flush(NULL, 0), -EINVAL);
	ck_assert_int_eq(td_batch_flush(batch, 2), -EINVAL);
	ck_assert_int_eq(td_batch_barrier(NULL, 0), -EINVAL);
	ck_assert_int_eq(td_batch_destroy(batch, 2), -EINVAL);
	ck_assert_int_eq(td_batch_stats(NULL, &now), -EINVAL);
	ck_assert_uint_eq(atomic_load(&tally.calls), 0);
	barrier(batch);
	ck_assert_uint_eq(count_freed(objects, 2), 1);
	free(objects);
}
END_TEST

/* ---- memory ---- */

START_TEST(creation_without_memory_leaves_nothing)
{
	size_t before = tdt_footprint().mappings;

	for (unsigned first = 0; first < 3; first++) {
		tdt_fail(TDI_SYS_mmap, -ENOMEM, first, 1);
		create_fails(TD_BATCH_OPTS(.room = 130000), -ENOMEM);
		tdt_fail_none();
	}
	tdt_check_mappings(before, 0);
}
END_TEST

START_TEST(room_that_cannot_grow_grows_later)
{
	enum { N = 120000 };
	struct object *objects = make_objects(N);
	td_batch *growing = make_batch(.threads = 1, .room = 1);
	uint64_t room = batch_stats(growing).bytes_room;
	size_t half = N / 2;

	tdt_fail(TDI_SYS_mmap, -ENOMEM, 0, UINT_MAX);
	for (size_t i = 0; i < half; i++)
		add_node(growing, &objects[i], 1);
	barrier(growing);
	ck_assert_uint_gt(tdt_calls(TDI_SYS_mmap), 0);
	ck_assert_uint_eq(count_freed(objects, half), half);
	ck_assert_uint_eq(batch_stats(growing).bytes_room, room);
	tdt_fail_none();
	for (size_t i = half; i < N; i++)
		add_node(growing, &objects[i], 1);
	barrier(growing);
	ck_assert_uint_eq(count_freed(objects, N), N);
	ck_assert_uint_gt(batch_stats(growing).bytes_room, room);
	destroy(growing);
	free(objects);
}
END_TEST

enum { OPEN = 400, OTHERS = 2, FULL = (TDI_CHUNK_PAGES - 2 - OTHERS) * TDI_PAGE_OBJECTS };

struct opener {
	struct object *objects;
	sem_t added, may_end;
};

static void *open_and_stay(void *arg)
{
	struct opener *opener = arg;

	for (size_t i = 0; i < OPEN; i++)
		add_ptr(batch, &opener->objects[i], 1);
	sem_post(&opener->added);
	sem_wait(&opener->may_end);
	return NULL;
}

/* No page is left to gather in what three groups hold, but for the one set aside: a
 * barrier takes several passes, and is right all the same. */
START_TEST(a_barrier_is_right_without_memory)
{
	enum { N = FULL + OPEN * (1 + OTHERS) };
	struct object *objects = make_objects(N);
	struct opener openers[OTHERS];
	pthread_t threads[OTHERS];

	destroy(batch);
	batch = make_batch(.threads = 3, .room = 1);
	for (size_t i = 0; i < OTHERS; i++) {
		openers[i].objects = objects + i * OPEN;
		sem_init(&openers[i].added, 0, 0);
		sem_init(&openers[i].may_end, 0, 0);
		pthread_create(&threads[i], NULL, open_and_stay, &openers[i]);
		sem_wait(&openers[i].added);
	}
	tdt_fail(TDI_SYS_mmap, -ENOMEM, 0, UINT_MAX);
	for (size_t i = OTHERS * OPEN; i < N; i++)
		add_ptr(batch, &objects[i], 1);
	stop_callbacks(&tally); /* no page comes back for now */
	ck_assert_int_eq(td_batch_barrier(batch, MOMENT_NS), -ETIMEDOUT);
	/* The rest is known to be left, and not counted as taken. */
	ck_assert_uint_lt(batch_stats(batch).objects_closed, N);
	ck_assert_int_lt((int32_t)(atomic_load(&engine->grace.done) -
				   atomic_load(&engine->grace.wanted)),
			 0);
	let_callbacks_go(&tally);
	barrier(batch);
	ck_assert_uint_eq(count_freed(objects, N), N);
	for (size_t i = 0; i < OTHERS; i++) {
		sem_post(&openers[i].may_end);
		pthread_join(threads[i], NULL);
	}
	free(objects);
}
END_TEST

START_TEST(memory_that_the_kernel_does_not_take_back_is_told)
{
	td_batch *other = make_batch(.room = 1);
	struct hearing hearing;

	hear(&hearing);
	tdt_fail(TDI_SYS_munmap, -ENOMEM, 0, 1);
	destroy(other);
	tdt_fail_none();
	ck_assert_uint_eq(times(heard(&hearing), "a chunk could not be unmapped"), 1);
}
END_TEST

START_TEST(room_that_is_not_given_back_is_used_again)
{
	struct object *objects = make_objects(2000);

	tdt_fail(TDI_SYS_madvise, -EINVAL, 0, UINT_MAX);
	for (size_t i = 0; i < 2000; i++) {
		add_ptr(batch, &objects[i], 0);
		if (i % 100 == 0)
			ck_assert_int_eq(
				td_engine_pressure(engine, TD_PRESSURE_FULL, NULL), 0);
	}
	barrier(batch);
	ck_assert_uint_eq(count_freed(objects, 2000), 2000);
	free(objects);
}
END_TEST

/* ---- threads ---- */

START_TEST(an_engine_without_a_grace_thread_is_none)
{
	struct tdt_footprint before;
	td_engine *made;

	/* A sanitizer's own threads, two of them after a fork, come with the first one.
	 */
	ck_assert_int_eq(td_engine_create(NULL, &made), 0);
	ck_assert_int_eq(td_engine_destroy(made, TD_EXIT_DRAIN, 0), 0);
	tdt_await_threads(1 + 2 * TDT_SANITIZED);
	before = tdt_footprint();
	made = (void *)1;
	for (unsigned first = 0; first < 2; first++) {
		tdt_fail(TDI_SYS_thread_create, -EAGAIN, first, 1);
		ck_assert_int_eq(td_engine_create(TD_ENGINE_OPTS(.reapers = 1), &made),
				 -EAGAIN);
	}
	ck_assert_ptr_eq(made, (void *)1);
	tdt_fail_none();
	tdt_await_threads(before.threads);
}
END_TEST

/* The default engine is made without threads; a batch needs one, and asks again. */
START_TEST(the_default_engine_gets_its_grace_thread_later)
{
	struct object *objects = make_objects(1000);
	struct td_batch_opts opts = test_opts(TD_BATCH_OPTS(.name = "default"));
	td_batch *made = (void *)1;

	tdt_fail(TDI_SYS_thread_create, -EAGAIN, 0, UINT_MAX);
	ck_assert_int_eq(td_batch_create(NULL, &opts, &made), -EAGAIN);
	ck_assert_ptr_eq(made, (void *)1);
	tdt_fail_none();
	ck_assert_int_eq(td_batch_create(NULL, &opts, &made), 0);
	for (size_t i = 0; i < 1000; i++)
		add_node(made, &objects[i], 0);
	ck_assert_int_eq(td_batch_flush(made, 0), 0);
	until(count_freed(objects, 1000) == 1000);
	destroy(made);
	free(objects);
}
END_TEST

static void *add_one(void *arg)
{
	add_node(batch, arg, 0);
	return NULL;
}

/* Ends that are not told cost groups, and no object. */
START_TEST(threads_whose_end_is_not_told_lose_nothing)
{
	enum { ENDED = 100 };
	struct object *objects = make_objects(ENDED);

	destroy(batch);
	batch = make_batch(.threads = 1);
	tdt_fail(TDI_SYS_thread_set, -ENOMEM, 0, UINT_MAX);
	for (size_t i = 0; i < ENDED; i++)
		on_thread(add_one, &objects[i]);
	barrier(batch);
	tdt_fail_none();
	ck_assert_uint_eq(count_freed(objects, ENDED), ENDED);
	free(objects);
}
END_TEST

/* ---- membarrier, futex ---- */

static void add_and_await(td_batch *to, struct object *object)
{
	atomic_store(&object->freed, 0);
	add_node(to, object, 0);
	until(atomic_load(&object->freed) == 1);
}

/* Those who add fence: what is asleep is woken up all the same. */
START_TEST(without_membarrier_those_who_add_fence)
{
	struct object *object = make_objects(1);
	td_batch *aging;

	tdt_fail(TDI_SYS_membarrier, -ENOSYS, 0, UINT_MAX);
	setup();
	aging = make_batch(.close_age_ns = 1000000);
	ck_assert(aging->groups.flags & TDI_GROUP_FENCE);
	for (int i = 0; i < 5; i++) {
		add_and_await(aging, object);
		until(!tdi_batch_awake(aging));
	}
	ck_assert_uint_eq(tdt_calls(TDI_SYS_membarrier), 1);
	destroy(aging);
	tdt_fail_none();
	free(object);
	teardown();
}
END_TEST

/* A filter that came later: the thread does not rely on it any more, nor on sleep. */
START_TEST(a_membarrier_that_fails_later_keeps_the_thread_awake)
{
	struct object *object = make_objects(1);
	td_batch *aging = make_batch(.close_age_ns = 1000000);

	tdt_fail(TDI_SYS_membarrier, -EPERM, 0, UINT_MAX);
	for (int i = 0; tdt_calls(TDI_SYS_membarrier) == 0; i++)
		add_and_await(aging, object), sched_yield();
	for (int i = 0; i < 20; i++)
		add_and_await(aging, object);
	ck_assert(tdi_batch_awake(aging));
	/* It was asked once: there is no more drowsing. */
	ck_assert_uint_eq(tdt_calls(TDI_SYS_membarrier), 1);
	destroy(aging);
	tdt_fail_none();
	free(object);
}
END_TEST

static void spurious(int err)
{
	struct object *objects = make_objects(100);
	struct reader reader;

	tdt_fail(TDI_SYS_futex_wait, err, 0, 2000);
	for (size_t i = 0; i < 100; i++) {
		add_node(batch, &objects[i], 0);
		if (i % 10 == 0)
			enter_reader(&reader, NULL);
		if (i % 10 == 0)
			ck_assert_int_eq(td_batch_barrier(batch, 1000000), -ETIMEDOUT);
		if (i % 10 == 0)
			leave_reader(&reader);
		barrier(batch);
		ck_assert_uint_eq(count_freed(objects, 100), i + 1);
	}
	tdt_fail_none();
	free(objects);
}

START_TEST(wakes_may_be_spurious)
{
	spurious(-EINTR);
	spurious(-EAGAIN);
}
END_TEST

int main(void)
{
	struct tdt *tests = tdt_suite("batch_refused");

#define ADD(name) tdt_add(tests, name, setup_batch, teardown_batch)
	ADD(nonsense_options_are_refused);
	ADD(nonsense_arguments_change_nothing);
	ADD(creation_without_memory_leaves_nothing);
	ADD(room_that_cannot_grow_grows_later);
	ADD(a_barrier_is_right_without_memory);
	ADD(memory_that_the_kernel_does_not_take_back_is_told);
	ADD(room_that_is_not_given_back_is_used_again);
	tdt_add(tests, an_engine_without_a_grace_thread_is_none, NULL, NULL);
	tdt_add(tests, the_default_engine_gets_its_grace_thread_later, NULL, NULL);
	ADD(threads_whose_end_is_not_told_lose_nothing);
	tdt_add(tests, without_membarrier_those_who_add_fence, NULL, NULL);
	ADD(a_membarrier_that_fails_later_keeps_the_thread_awake);
	ADD(wakes_may_be_spurious);
	return tdt_run(tests);
}
