/* SPDX-License-Identifier: MIT */
/* td_batch: after a fork the parent's batches are the parent's. */
#include "batches.h"

#include <errno.h>
#include <sys/wait.h>
#include <unistd.h>

enum { N = 1500 };

static int in_child(struct object *object, bool uses_rcu)
{
	struct td_batch_list list = {0};
	struct td_batch_stats now;
	td_batch *made = NULL;
	td_engine *own;

	td_batch_list_add(&list, &object->node, 0);
	if (td_batch_free(batch, &object->node, 0) != -ECHILD ||
	    td_batch_free_ptr(batch, object, 0) != -ECHILD ||
	    td_batch_free_list(batch, &list, 0) != -ECHILD ||
	    td_batch_free_list(batch, &list, TD_BATCH_NO_READERS) != -ECHILD)
		return 1;
	if (td_batch_flush(batch, 0) != -ECHILD ||
	    td_batch_flush(batch, TD_BATCH_NO_READERS) != -ECHILD ||
	    td_batch_barrier(batch, TD_FOREVER) != -ECHILD ||
	    td_batch_destroy(batch, 0) != -ECHILD ||
	    td_batch_stats(batch, &now) != -ECHILD)
		return 2;
	if (td_batch_create(engine, NULL, &made) != -ECHILD || made)
		return 3;
	if (atomic_load(&tally.freed) != 0 || list.tdi_count != 1)
		return 4;
	if (!uses_rcu || TDT_SANITIZED) /* which does not like threads in a child */
		return 0;
	/* One of its own works. */
	if (td_engine_create(NULL, &own) != 0 || td_batch_create(own, NULL, &made) != 0 ||
	    td_batch_free_ptr(made, malloc(50), 50) != 0 ||
	    td_batch_destroy(made, 0) != 0 ||
	    td_engine_destroy(own, TD_EXIT_DRAIN, 0) != 0)
		return 5;
	return 0;
}

static void fork_now(struct object *spare, bool uses_rcu)
{
	pid_t pid = fork();
	int status;

	ck_assert_int_ge(pid, 0);
	if (pid == 0)
		_exit(in_child(spare, uses_rcu));
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert_int_eq(status, 0);
}

START_TEST(a_child_leaves_its_parents_batches_alone)
{
	struct object *objects = make_objects(N + 1);

	add_all_sorts(objects, N);
	fork_now(&objects[N], true);
	barrier(batch);
	ck_assert_uint_eq(count_freed(objects, N), N);
	free(objects);
	teardown_batch();
}
END_TEST

/* The fork waits for the grace period a second, not for ever: then the child cannot use
 * liburcu. */
START_TEST(a_fork_may_come_in_the_middle_of_a_pass)
{
	struct object *objects = make_objects(2 * N + 1);
	struct reader reader;

	enter_reader(&reader, NULL);
	add_all_sorts(objects, N);
	flush(batch);
	await_closed(batch, N);
	add_all_sorts(objects + N, N);
	fork_now(&objects[2 * N], false);
	leave_reader(&reader);
	barrier(batch);
	ck_assert_uint_eq(count_freed(objects, 2 * N), 2 * N);
	free(objects);
	teardown_batch();
}
END_TEST

int main(void)
{
	struct tdt *tests = tdt_suite("batch_fork");

	tdt_add(tests, a_child_leaves_its_parents_batches_alone, setup_batch, NULL);
	tdt_add(tests, a_fork_may_come_in_the_middle_of_a_pass, setup_batch, NULL);
	return tdt_run(tests);
}
