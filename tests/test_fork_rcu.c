/* SPDX-License-Identifier: MIT */
/*
 * liburcu across a fork. urcu-bp's readers in other threads of the parent are forgotten
 * when an engine is restarted or made in the child, whether or not the host has told
 * liburcu-bp of the fork by himself; other flavors only know readers of the one thread
 * that is still there.
 */
#include "child.h"
#include "job.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <teardown.h>
#include <urcu/urcu-bp.h>

/* A file can include the header of one. */
extern const struct rcu_flavor_struct urcu_memb_flavor, urcu_mb_flavor, urcu_qsbr_flavor;

static sem_t reading, may_leave;

static void *read_until_told(void *arg)
{
	(void)arg;
	urcu_bp_read_lock();
	sem_post(&reading);
	sem_wait(&may_leave);
	urcu_bp_read_unlock();
	return NULL;
}

static void free_after_readers(td_engine *of)
{
	struct td_batch_stats now;
	td_batch *batch;

	need_eq(td_batch_create(of, NULL, &batch), 0);
	need_eq(td_batch_free_ptr(batch, malloc(50), 50), 0);
	/* a grace period has passed, or this would be the child's end */
	need_eq(td_batch_barrier(batch, TD_FOREVER), 0);
	need_eq(td_batch_stats(batch, &now), 0);
	need_eq(now.objects_freed, 1);
	need_eq(td_batch_destroy(batch, 0), 0);
}

/* The forking thread's own registration is still good. */
static void restart(void *arg)
{
	const struct rcu_flavor_struct *flavor = td_engine_flavor(engine);
	const bool *reads = arg;

	if (*reads)
		flavor->read_unlock();
	need_eq(td_engine_restart(engine), 0);
	free_after_readers(engine);
	if (flavor->thread_online)
		flavor->thread_online();
	flavor->read_lock();
	flavor->read_unlock();
	if (flavor->thread_offline)
		flavor->thread_offline();
	free_after_readers(engine);
}

static void make_another(void *arg)
{
	td_engine *other;

	(void)arg;
	need_eq(td_engine_create(TD_ENGINE_OPTS(.flavor = &urcu_bp_flavor), &other), 0);
	free_after_readers(other);
	need_eq(td_engine_destroy(other, TD_EXIT_DRAIN, 0), 0);
}

static void create(const struct rcu_flavor_struct *flavor)
{
	ck_assert_int_eq(
		td_engine_create(TD_ENGINE_OPTS(.reapers = 1, .flavor = flavor), &engine),
		0);
}

static void fork_beside_a_reader(void (*run)(void *arg))
{
	bool reads = true;
	pthread_t thread;

	sem_init(&reading, 0, 0);
	sem_init(&may_leave, 0, 0);
	pthread_create(&thread, NULL, read_until_told, NULL);
	sem_wait(&reading);
	urcu_bp_read_lock(); /* and in this thread */
	ck_assert_int_eq(in_child(run, &reads), 0);
	urcu_bp_read_unlock();
	sem_post(&may_leave);
	pthread_join(thread, NULL);
	teardown();
}

START_TEST(a_restart_forgets_the_parents_other_readers)
{
	if (skip_without_threads())
		return;
	create(&urcu_bp_flavor);
	fork_beside_a_reader(restart);
}
END_TEST

static void leave_and_make_another(void *arg)
{
	urcu_bp_read_unlock();
	make_another(arg);
}

START_TEST(so_does_a_new_engine_of_the_child)
{
	if (skip_without_threads())
		return;
	create(&urcu_bp_flavor);
	fork_beside_a_reader(leave_and_make_another);
}
END_TEST

/* Before the library's, or after them. */
static void watch_by_host(void)
{
	ck_assert_int_eq(pthread_atfork(urcu_bp_before_fork, urcu_bp_after_fork_parent,
					urcu_bp_after_fork_child),
			 0);
}

START_TEST(a_host_may_have_told_of_the_fork_already)
{
	if (skip_without_threads())
		return;
	watch_by_host();
	create(&urcu_bp_flavor);
	fork_beside_a_reader(restart);
}
END_TEST

START_TEST(and_before_the_library_came_to_know_of_it)
{
	if (skip_without_threads())
		return;
	create(&urcu_bp_flavor);
	watch_by_host();
	fork_beside_a_reader(restart);
}
END_TEST

/* Registered is the forking thread only, as liburcu asks for. */
START_TEST(other_flavors_go_on_with_the_thread_that_forked)
{
	static const struct rcu_flavor_struct *const flavors[] = {
		&urcu_memb_flavor, &urcu_mb_flavor, &urcu_qsbr_flavor};
	bool reads = false;

	if (skip_without_threads())
		return;
	for (size_t i = 0; i < sizeof(flavors) / sizeof(*flavors); i++) {
		create(flavors[i]);
		flavors[i]->register_thread();
		if (flavors[i]->thread_offline)
			flavors[i]->thread_offline();
		ck_assert_int_eq(in_child(restart, &reads), 0);
		if (flavors[i]->thread_online)
			flavors[i]->thread_online();
		flavors[i]->unregister_thread();
		teardown();
	}
}
END_TEST

int main(void)
{
	struct tdt *tests = tdt_suite("fork_rcu");
	const TTest *all[] = {
		a_restart_forgets_the_parents_other_readers,
		so_does_a_new_engine_of_the_child,
		a_host_may_have_told_of_the_fork_already,
		and_before_the_library_came_to_know_of_it,
		other_flavors_go_on_with_the_thread_that_forked,
	};

	for (size_t i = 0; i < sizeof(all) / sizeof(*all); i++)
		tdt_add(tests, all[i], NULL, NULL);
	return tdt_run(tests);
}
