/* SPDX-License-Identifier: MIT */
/* Making engines, the default one, and what becomes of both in a forked child; A7. */
#include "job.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#include <urcu/urcu-bp.h>

/* ---- creating ---- */

START_TEST(bad_options_are_refused_and_leave_the_result_alone)
{
	td_engine *made = (void *)1;
	struct td_engine_opts too_small = {.size = 3};
	struct {
		struct td_engine_opts opts;
		int beyond;
	} newer = {{.size = sizeof(newer)}, 1};

	ck_assert_int_eq(td_engine_create(TD_ENGINE_OPTS(.flags = 1u << 31), &made),
			 -EINVAL);
	ck_assert_int_eq(td_engine_create(TD_ENGINE_OPTS(.reapers = 1025), &made),
			 -EINVAL);
	ck_assert_int_eq(td_engine_create(&too_small, &made), -EINVAL);
	ck_assert_int_eq(td_engine_create(&newer.opts, &made), -E2BIG);
	ck_assert_ptr_eq(made, (void *)1);
}
END_TEST

START_TEST(a_thread_that_cannot_start_fails_creation_without_a_trace)
{
	td_engine *made = (void *)1;
	size_t threads;

	setup(); /* a sanitizer may start a thread of its own with the first one */
	teardown();
	threads = tdt_footprint().threads;
	for (unsigned i = 0; i < 4 * 4; i++) {
		static const int errors[] = {-EAGAIN, -EPERM, -EINVAL, -ENOMEM};

		tdt_fail(TDI_SYS_thread_create, errors[i / 4], i % 4, 1);
		ck_assert_int_eq(td_engine_create(TD_ENGINE_OPTS(.reapers = 4), &made),
				 errors[i / 4]);
		ck_assert_ptr_eq(made, (void *)1);
		tdt_await_threads(threads);
	}
}
END_TEST

START_TEST(the_flavor_is_membarrier_unless_given)
{
	td_engine *other;

	ck_assert_ptr_nonnull(td_engine_flavor(engine));
	ck_assert_ptr_ne(td_engine_flavor(engine), &urcu_bp_flavor);
	ck_assert_int_eq(
		td_engine_create(TD_ENGINE_OPTS(.flavor = &urcu_bp_flavor), &other), 0);
	ck_assert_ptr_eq(td_engine_flavor(other), &urcu_bp_flavor);
	ck_assert_int_eq(td_engine_destroy(other, TD_EXIT_DRAIN, 0), 0);
}
END_TEST

START_TEST(without_a_number_there_is_a_reaper_for_each_node)
{
	struct td_engine_stats now;
	td_engine *other;

	ck_assert_int_eq(td_engine_create(NULL, &other), 0);
	ck_assert_int_eq(td_engine_stats(other, &now), 0);
	ck_assert_uint_ge(now.reapers, 1);
	ck_assert_int_eq(td_engine_destroy(other, TD_EXIT_DRAIN, 0), 0);
}
END_TEST

struct looks {
	char name[16];
	int policy;
	sigset_t blocked;
	sem_t done;
};

static int look_slice(struct td_work *work, struct td_slice *slice)
{
	struct looks *looks = *(struct looks **)(work + 1);
	struct sched_param param;

	(void)slice;
	pthread_getname_np(pthread_self(), looks->name, sizeof(looks->name));
	pthread_getschedparam(pthread_self(), &looks->policy, &param);
	pthread_sigmask(SIG_BLOCK, NULL, &looks->blocked);
	sem_post(&looks->done);
	return TD_WORK_DONE;
}

static void look(td_engine *from, struct looks *looks)
{
	static const struct td_work_ops ops = {.slice = look_slice};
	struct {
		struct td_work work;
		struct looks *looks;
	} job = {.looks = looks};

	sem_init(&looks->done, 0, 0);
	td_work_init(&job.work, &ops, 0);
	ck_assert_int_eq(td_engine_submit(from, &job.work), 0);
	sem_wait(&looks->done);
	ck_assert_int_eq(td_engine_drain(from, TD_FOREVER), 0);
}

START_TEST(reapers_are_named_batch_threads_that_take_no_signals)
{
	struct looks looks;
	td_engine *other;

	ck_assert_int_eq(td_engine_create(TD_ENGINE_OPTS(.name = "a-rather-long-name",
							 .reapers = 1),
					  &other),
			 0);
	look(other, &looks);
	ck_assert_str_eq(looks.name, "a-rather-l/0");
	ck_assert_int_eq(looks.policy, SCHED_BATCH);
	ck_assert_int_eq(sigismember(&looks.blocked, SIGTERM), 1);
	ck_assert_int_eq(sigismember(&looks.blocked, SIGALRM), 1);
	ck_assert_int_eq(td_engine_destroy(other, TD_EXIT_DRAIN, 0), 0);
}
END_TEST

START_TEST(a_reaper_that_cannot_be_placed_says_so_and_works)
{
	struct looks looks;

	tdt_fail(TDI_SYS_thread_sched, -EPERM, 0, 1);
	setup();
	look(engine, &looks);
	ck_assert_uint_eq(stats().reapers_unplaced, 1);
	teardown();
	tdt_fail_none();
	tdt_fail(TDI_SYS_thread_name, -EINVAL, 0, 1);
	setup();
	look(engine, &looks);
	ck_assert_uint_eq(stats().reapers_unplaced, 1);
	teardown();
}
END_TEST

/* How often a thread has gone to sleep of its own accord. */
static unsigned long naps(pid_t tid)
{
	unsigned long count = 0;
	char path[64], line[128];
	FILE *file;

	snprintf(path, sizeof(path), "/proc/self/task/%d/status", tid);
	file = fopen(path, "re");
	ck_assert_ptr_nonnull(file);
	while (fgets(line, sizeof(line), file)) {
		if (sscanf(line, "voluntary_ctxt_switches: %lu", &count) == 1)
			break;
	}
	fclose(file);
	return count;
}

static pid_t reaper_tid;

static int tell_tid(struct td_work *work, struct td_slice *slice)
{
	(void)work;
	(void)slice;
	reaper_tid = gettid();
	return TD_WORK_DONE;
}

/* A7 */
START_TEST(an_idle_reaper_does_not_wake)
{
	static const struct td_work_ops ops = {.slice = tell_tid};
	uint64_t end = tdi_sys_deadline(100000000); /* 100 ms in which nothing happens */
	struct td_work work;
	unsigned long before;

	td_work_init(&work, &ops, 0);
	ck_assert_int_eq(td_engine_submit(engine, &work), 0);
	ck_assert_int_eq(td_engine_drain(engine, TD_FOREVER), 0);
	while (atomic_load(&engine->queues.first->sleepers) < 1)
		sched_yield();
	while ((before = naps(reaper_tid)) == 0)
		sched_yield();
	while (tdi_sys_now_ns() < end)
		sched_yield();
	ck_assert_uint_le(naps(reaper_tid), before + 1); /* it may just have dozed off */
}
END_TEST

/* ---- the default engine ---- */

static void *get_default(void *arg)
{
	td_engine *got = NULL;

	(void)arg;
	ck_assert_int_eq(td_engine_default(&got), 0);
	return got;
}

START_TEST(the_default_engine_is_one_for_all_threads)
{
	pthread_t threads[8];
	void *first, *got;

	ck_assert_int_eq(td_engine_drain(NULL, 0), 0); /* not made yet */
	for (int i = 0; i < 8; i++)
		pthread_create(&threads[i], NULL, get_default, NULL);
	pthread_join(threads[0], &first);
	for (int i = 1; i < 8; i++) {
		pthread_join(threads[i], &got);
		ck_assert_ptr_eq(got, first);
	}
	ck_assert_int_eq(td_engine_destroy(first, TD_EXIT_DRAIN, 0), -EPERM);
	ck_assert_int_eq(td_engine_drain(NULL, TD_FOREVER), 0);
}
END_TEST

START_TEST(without_threads_the_default_engine_works_in_its_callers)
{
	struct job job;

	tdt_fail(TDI_SYS_thread_create, -EAGAIN, 0, UINT32_MAX);
	job_init(&job, 3);
	ck_assert_int_eq(td_engine_submit(NULL, &job.work), 0);
	ck_assert_int_eq(job.status, 0);
	ck_assert_uint_eq(job.slices, 3);
	ck_assert(pthread_equal(job.ran_on, pthread_self()));
	engine = NULL;
	ck_assert_uint_eq(stats().reapers, 0);
	ck_assert_uint_eq(stats().works_in_caller, 1);
	ck_assert_int_eq(td_engine_drain(NULL, TD_FOREVER), 0);
}
END_TEST

/* ---- fork ---- */

START_TEST(in_a_forked_child_every_call_says_so_and_nothing_hangs)
{
	struct td_engine_stats now;
	struct job job;
	int status;
	pid_t pid;

	job_init(&job, 1);
	pid = fork();
	ck_assert_int_ge(pid, 0);
	if (pid == 0) {
		td_engine *got = NULL;
		int bad = 0;

		bad |= td_engine_submit(engine, &job.work) != -ECHILD;
		bad |= (td_engine_drain(engine, TD_FOREVER) != -ECHILD) << 1;
		bad |= (td_engine_destroy(engine, TD_EXIT_DRAIN, 0) != -ECHILD) << 2;
		bad |= (td_engine_stats(engine, &now) != -ECHILD) << 3;
#ifndef __SANITIZE_THREAD__ /* which does not let a forked child start threads */
		bad |= (td_engine_default(&got) != 0) << 4; /* its own */
#endif
		(void)got;
		_exit(bad);
	}
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert(WIFEXITED(status));
	ck_assert_int_eq(WEXITSTATUS(status), 0);
	/* and the parent's goes on */
	ck_assert_int_eq(td_engine_submit(engine, &job.work), 0);
	sem_wait(&job.done);
}
END_TEST

int main(void)
{
	struct tdt *tests = tdt_suite("engine");

	tdt_add(tests, bad_options_are_refused_and_leave_the_result_alone, NULL, NULL);
	tdt_add(tests, a_thread_that_cannot_start_fails_creation_without_a_trace, NULL,
		NULL);
	tdt_add(tests, the_flavor_is_membarrier_unless_given, setup, teardown);
	tdt_add(tests, without_a_number_there_is_a_reaper_for_each_node, NULL, NULL);
	tdt_add(tests, reapers_are_named_batch_threads_that_take_no_signals, NULL, NULL);
	tdt_add(tests, a_reaper_that_cannot_be_placed_says_so_and_works, NULL, NULL);
	tdt_add(tests, an_idle_reaper_does_not_wake, setup, teardown);
	tdt_add(tests, the_default_engine_is_one_for_all_threads, NULL, NULL);
	tdt_add(tests, without_threads_the_default_engine_works_in_its_callers, NULL,
		NULL);
	tdt_add(tests, in_a_forked_child_every_call_says_so_and_nothing_hangs, setup,
		teardown);
	return tdt_run(tests);
}
