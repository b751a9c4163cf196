/* SPDX-License-Identifier: MIT */
/* td_batch: short of memory, of threads, of what the kernel offers. */
#include "batches.h"

#include <errno.h>

#define MOST_THREADS 65536u
#define MOST_ROOM ((size_t)64 << 20)

static int create(const struct td_batch_opts *opts)
{
	td_batch *made = NULL;
	int err = td_batch_create(engine, opts, &made);

	ck_assert((err == 0) == (made != NULL));
	ck_assert_int_eq(td_batch_destroy(made, 0), 0);
	return err;
}

/* ---- bad input ---- */

START_TEST(options_are_checked)
{
	struct td_batch_opts too_small = {.size = 1};
	struct {
		struct td_batch_opts opts;
		int beyond;
	} newer = {{.size = sizeof(newer)}, 1};

	ck_assert_int_eq(create(TD_BATCH_OPTS(.flags = 4)), -EINVAL);
	ck_assert_int_eq(create(TD_BATCH_OPTS(.flags = TD_BATCH_HELP | TD_BATCH_NO_HELP)),
			 -EINVAL);
	ck_assert_int_eq(create(TD_BATCH_OPTS(.threads = MOST_THREADS + 1)), -EINVAL);
	ck_assert_int_eq(create(TD_BATCH_OPTS(.room = MOST_ROOM + 1)), -EINVAL);
	ck_assert_int_eq(create(&too_small), -EINVAL);
	ck_assert_int_eq(create(&newer.opts), -E2BIG);
}
END_TEST

START_TEST(as_much_as_options_allow_can_be_had)
{
	ck_assert_int_eq(create(TD_BATCH_OPTS(.threads = MOST_THREADS)), 0);
	ck_assert_int_eq(create(TD_BATCH_OPTS(.room = MOST_ROOM)), 0);
}
END_TEST

START_TEST(bad_arguments_change_nothing)
{
	struct object *object = make_objects(1);
	struct td_batch_list list = {0};
	struct td_batch_stats unused;

	td_batch_list_add(&list, &object->node, 0);
	ck_assert_int_eq(td_batch_free(NULL, &object->node, 0), -EINVAL);
	ck_assert_int_eq(td_batch_free(batch, NULL, 0), -EINVAL);
	ck_assert_int_eq(td_batch_free_ptr(NULL, object, 0), -EINVAL);
	ck_assert_int_eq(td_batch_free_ptr(batch, NULL, 0), -EINVAL);
	ck_assert_int_eq(td_batch_free_list(NULL, &list, 0), -EINVAL);
	ck_assert_int_eq(td_batch_free_list(batch, NULL, 0), -EINVAL);
	ck_assert_int_eq(td_batch_free_list(batch, &list, 2), -EINVAL);
	ck_assert_int_eq(td_batch_flush(NULL, 0), -EINVAL);
	ck_assert_int_eq(td_batch_flush(batch, 2), -EINVAL);
	ck_assert_int_eq(td_batch_barrier(NULL, TD_FOREVER), -EINVAL);
	ck_assert_int_eq(td_batch_destroy(batch, 2), -EINVAL);
	ck_assert_int_eq(td_batch_stats(NULL, &unused), -EINVAL);
	barrier(batch);
	ck_assert_uint_eq(count_freed(object, 1), 0);
	/* The list is still whole. */
	ck_assert_int_eq(td_batch_free_list(batch, &list, 0), 0);
	barrier(batch);
	ck_assert_uint_eq(count_freed(object, 1), 1);
	free(object);
}
END_TEST

/* ---- what the kernel refuses ---- */

START_TEST(without_memory_there_is_no_batch_and_nothing_is_left)
{
	const size_t two_chunks = 200u * 504u;

	tdt_fail(TDI_SYS_mmap, -ENOMEM, 0, 1);
	ck_assert_int_eq(create(TD_BATCH_OPTS(.room = two_chunks)), -ENOMEM);
	tdt_fail(TDI_SYS_munmap, 0, 0, 0);
	tdt_fail(TDI_SYS_mmap, -ENOMEM, 1, 1);
	ck_assert_int_eq(create(TD_BATCH_OPTS(.room = two_chunks)), -ENOMEM);
	ck_assert_uint_eq(tdt_calls(TDI_SYS_munmap), 1);
	tdt_fail_none();
	ck_assert_int_eq(create(TD_BATCH_OPTS(.room = two_chunks)), 0);
}
END_TEST

static void *where;

static void note_thread(struct tally *of, struct object *first, size_t n)
{
	(void)of;
	(void)first;
	(void)n;
	where = (void *)(uintptr_t)pthread_self();
}

START_TEST(without_a_grace_thread_there_is_no_batch_but_later_there_may_be)
{
	struct object *object = make_objects(1);
	struct td_batch_list list = {0};
	td_engine *none;

	tdt_fail(TDI_SYS_thread_create, -EAGAIN, 0, UINT32_MAX);
	ck_assert_int_eq(td_engine_default(&none), 0);
	engine = none;
	ck_assert_int_eq(create(NULL), -EAGAIN);
	tdt_fail_none();
	batch = make_batch(.name = "test", .close_age_ns = 1000000);
	tally.inside = note_thread;
	add_node(batch, object, 0);
	until(count_freed(object, 1) == 1);
	/* There are no reapers: the grace thread stood in for them. */
	ck_assert_uint_eq(stats().reapers, 0);
	ck_assert_ptr_ne(where, (void *)(uintptr_t)pthread_self());
	/* What waits for no grace period: in whichever of the two comes first. */
	atomic_store(&object->freed, 0);
	td_batch_list_add(&list, &object->node, 0);
	ck_assert_int_eq(td_batch_free_list(batch, &list, TD_BATCH_NO_READERS), 0);
	until(count_freed(object, 1) == 1);
	destroy(batch);
	free(object);
}
END_TEST

/* B7: the page that is set aside for gathering comes back each time, as good as new. */
START_TEST(without_memory_for_more_pages_each_object_is_freed_once)
{
	struct object *objects = make_objects(50);
	struct tdi_page *spare;
	size_t taken = 0;

	add_ptr(batch, &objects[0], 0); /* its group has a page from here on */
	while ((spare = tdi_page_get(&batch->pages)) != NULL)
		taken++;
	ck_assert_uint_gt(taken, 0);
	tdt_fail(TDI_SYS_mmap, -ENOMEM, 0, UINT32_MAX);
	for (size_t i = 1; i < 50; i++) {
		add_ptr(batch, &objects[i], 0);
		barrier(batch);
		ck_assert_uint_eq(count_freed(objects, 50), i + 1);
		ck_assert_uint_eq(batch_stats(batch).bytes_pending, 0);
	}
	tdt_fail_none();
	free(objects);
}
END_TEST

/* A filter that comes later: then nothing is put to sleep any more. (B2) */
START_TEST(ages_hold_when_the_kernel_refuses_membarrier_by_now)
{
	struct object *objects = make_objects(100);
	td_batch *aging = make_batch(.close_age_ns = 1000000);

	tdt_fail(TDI_SYS_membarrier, -EPERM, 0, UINT32_MAX);
	for (size_t i = 0; i < 100; i++) {
		add_node(aging, &objects[i], 0);
		until(count_freed(objects, i + 1) == i + 1);
	}
	tdt_fail_none();
	destroy(aging);
	free(objects);
}
END_TEST

int main(void)
{
	struct tdt *tests = tdt_suite("batch_short");

	tdt_add(tests, options_are_checked, setup, teardown);
	tdt_add(tests, as_much_as_options_allow_can_be_had, setup, teardown);
	tdt_add(tests, bad_arguments_change_nothing, setup_batch, teardown_batch);
	tdt_add(tests, without_memory_there_is_no_batch_and_nothing_is_left, setup,
		teardown);
	tdt_add(tests, without_a_grace_thread_there_is_no_batch_but_later_there_may_be,
		NULL, NULL);
	tdt_add(tests, without_memory_for_more_pages_each_object_is_freed_once,
		setup_batch, teardown_batch);
	tdt_add(tests, ages_hold_when_the_kernel_refuses_membarrier_by_now, setup,
		teardown);
	return tdt_run(tests);
}
