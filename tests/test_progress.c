/* SPDX-License-Identifier: MIT */
/* How far an engine has come: asked for, and told while it goes. A8, A12 */
#include "hold.h"

#include <errno.h>
#include <string.h>
#include <sched.h>
#include <sys/wait.h>
#include <teardown.h>
#include <unistd.h>

static struct td_progress progress(void)
{
	struct td_progress now;

	memset(&now, 99, sizeof(now));
	ck_assert_int_eq(td_engine_progress(engine, &now), 0);
	return now;
}

/* ---- asked for ---- */

START_TEST(what_is_done_and_what_is_left_add_up)
{
	struct job jobs[3];
	struct hold hold;

	ck_assert_uint_eq(progress().bytes_done, 0);
	ck_assert_uint_eq(progress().bytes_to_go, 0);
	ck_assert_uint_eq(progress().works_to_go, 0);
	ck_assert_uint_eq(progress().bytes_per_s, 0);
	ck_assert_uint_eq(progress().ns_left, 0);
	hold_reaper(&hold);
	for (unsigned i = 0; i < 3; i++) {
		job_init(&jobs[i], 2);
		ck_assert_int_eq(td_engine_submit(engine, &jobs[i].work), 0);
	}
	ck_assert_uint_eq(progress().bytes_done, 0);
	ck_assert_uint_eq(progress().bytes_to_go, 3000);
	ck_assert_uint_eq(progress().works_to_go, 4);
	ck_assert_uint_eq(progress().ns_left, UINT64_MAX); /* nothing has moved yet */
	ck_assert(tdi_reaper_help(engine));		   /* half of one */
	ck_assert_uint_eq(progress().bytes_done, 500);
	ck_assert_uint_eq(progress().bytes_to_go, 2500);
	ck_assert_uint_eq(progress().works_to_go, 4);
	let_go(&hold);
	drain();
	ck_assert_uint_eq(progress().bytes_done, 3000);
	ck_assert_uint_eq(progress().bytes_to_go, 0);
	ck_assert_uint_eq(progress().works_to_go, 0);
	ck_assert_uint_eq(progress().ns_left, 0);
}
END_TEST

START_TEST(an_engine_that_is_not_there_has_done_nothing)
{
	struct td_progress now;
	int status;
	pid_t pid;

	ck_assert_int_eq(td_engine_progress(NULL, &now), 0);
	ck_assert_uint_eq(now.bytes_done, 0);
	ck_assert_uint_eq(now.ns_left, 0);
	ck_assert_int_eq(td_engine_on_progress(NULL, NULL, NULL, 0), 0);
	pid = fork();
	ck_assert_int_ge(pid, 0);
	if (pid == 0)
		_exit(td_engine_progress(engine, &now) != -ECHILD ||
		      td_engine_on_progress(engine, NULL, NULL, 0) != -ECHILD);
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert_int_eq(status, 0);
}
END_TEST

/* The clock of the notes is the test's. */
#define MS UINT64_C(1000000)

static void did(uint64_t bytes, uint64_t from_ns, uint64_t until_ns)
{
	atomic_fetch_add(&engine->bytes_reclaimed, bytes);
	if (tdi_progress_is_due(&engine->progress, until_ns))
		tdi_progress_look_in(engine, from_ns, until_ns, bytes);
}

START_TEST(the_rate_is_that_of_the_last_second_while_it_was_at_work)
{
	uint64_t now = tdi_sys_now_ns(), at = now - 60000 * MS;
	uint64_t rate;

	/* slow, a minute ago; then nothing */
	for (unsigned i = 0; i < 100; i++, at += MS)
		did(1000, at, at + MS);
	ck_assert_uint_eq(progress().bytes_per_s, 0);
	atomic_fetch_add(&engine->bytes_pending, 1000);
	ck_assert_uint_eq(progress().ns_left, UINT64_MAX);
	/* fast, until a moment ago: a million bytes a ms */
	now = tdi_sys_now_ns();
	for (at = now - 500 * MS; at < now; at += MS)
		did(1000000, at, at + MS);
	rate = progress().bytes_per_s;
	/* what passes between now and the look only lowers it */
	ck_assert_uint_le(rate, 1100000000);
	ck_assert_uint_gt(rate, 0);
	ck_assert_uint_ge(progress().ns_left, 1000 * 1000000000ull / 1100000000);
	ck_assert_uint_ne(progress().ns_left, UINT64_MAX);
	atomic_fetch_sub(&engine->bytes_pending, 1000);
}
END_TEST

START_TEST(a_slice_only_looks_in_when_it_is_time)
{
	uint64_t now = tdi_sys_now_ns();

	did(1, now - MS, now);
	ck_assert_uint_eq(engine->progress.nr_notes, 2);
	for (uint64_t at = now; at < now + 49 * MS; at += MS)
		did(1, at, at + MS);
	ck_assert_uint_eq(engine->progress.nr_notes, 2);
	did(1, now, now + 50 * MS);
	ck_assert_uint_eq(engine->progress.nr_notes, 3);
}
END_TEST

/* ---- told ---- */

struct told {
	_Atomic(unsigned) calls, ends;
	struct td_progress last;
	int drained, removed;
	sem_t *entered, *may_go; /* each call stops in between, if set */
	struct job *submits;	 /* once, in a call */
};

static void tell(const struct td_progress *now, void *arg)
{
	struct told *told = arg;
	struct job *job = told->submits;

	told->last = *now;
	told->drained = td_engine_drain(engine, TD_FOREVER);
	told->removed = td_engine_on_progress(engine, NULL, NULL, 0);
	told->submits = NULL;
	if (job)
		ck_assert_int_eq(td_engine_submit(engine, &job->work), 0);
	atomic_fetch_add(&told->calls, 1);
	if (now->works_to_go == 0)
		atomic_fetch_add(&told->ends, 1);
	if (told->entered)
		sem_post(told->entered);
	if (told->may_go)
		sem_wait(told->may_go);
}

#define EVERY_SLICE 1
#define HOURS (UINT64_C(10000) * 1000000000)

START_TEST(the_host_is_told_while_it_goes_and_when_it_is_over)
{
	struct told told = {0};
	struct job job;

	ck_assert_int_eq(td_engine_on_progress(engine, tell, &told, EVERY_SLICE), 0);
	job_init(&job, 4);
	ck_assert_int_eq(td_engine_submit(engine, &job.work), 0);
	drain(); /* waits for the calls, too */
	ck_assert_uint_eq(told.calls, 5);
	ck_assert_uint_eq(told.ends, 1);
	ck_assert_uint_eq(told.last.bytes_done, 1000);
	ck_assert_uint_eq(told.last.bytes_to_go, 0);
	ck_assert_uint_eq(told.last.ns_left, 0);
	/* it would have waited for itself */
	ck_assert_int_eq(told.drained, -EDEADLK);
	ck_assert_int_eq(told.removed, -EDEADLK);
	ck_assert_int_eq(td_engine_on_progress(engine, NULL, NULL, 0), 0);
	job_init(&job, 4);
	ck_assert_int_eq(td_engine_submit(engine, &job.work), 0);
	drain();
	ck_assert_uint_eq(told.calls, 5);
}
END_TEST

START_TEST(it_is_told_no_more_than_once_an_interval_and_once_of_the_end)
{
	struct told told = {0};
	struct job jobs[20];

	ck_assert_int_eq(td_engine_on_progress(engine, tell, &told, HOURS), 0);
	for (unsigned i = 0; i < 20; i++) {
		job_init(&jobs[i], 3);
		ck_assert_int_eq(td_engine_submit(engine, &jobs[i].work), 0);
		drain();
	}
	ck_assert_uint_eq(told.calls, 2); /* of the first one, and its end */
	ck_assert_uint_eq(told.ends, 1);
	/* anew: set again */
	ck_assert_int_eq(td_engine_on_progress(engine, tell, &told, UINT64_MAX), 0);
	job_init(&jobs[0], 3);
	ck_assert_int_eq(td_engine_submit(engine, &jobs[0].work), 0);
	drain();
	ck_assert_uint_eq(told.calls, 4);
	ck_assert_uint_eq(told.ends, 2);
}
END_TEST

START_TEST(a_caller_that_frees_itself_tells_too)
{
	struct told told = {0};
	td_space *space;
	void *addr;

	ck_assert_int_eq(td_engine_on_progress(engine, tell, &told, EVERY_SLICE), 0);
	ck_assert_int_eq(td_space_create(engine, NULL, &space), 0);
	ck_assert_int_eq(td_region_map(space, MIB, NULL, &addr), 0);
	ck_assert_int_eq(td_space_put_sync(space), 0);
	ck_assert_uint_ge(told.calls, 2);
	ck_assert_uint_eq(told.ends, 1);
	ck_assert_uint_eq(told.last.bytes_done, MIB);
}
END_TEST

START_TEST(works_of_a_call_itself_are_told_of)
{
	struct told told = {0};
	struct job job, more;

	job_init(&more, 1);
	told.submits = &more;
	ck_assert_int_eq(td_engine_on_progress(engine, tell, &told, HOURS), 0);
	job_init(&job, 1);
	ck_assert_int_eq(td_engine_submit(engine, &job.work), 0);
	sem_wait(&job.done);
	sem_wait(&more.done);
	drain();
	ck_assert_uint_eq(told.ends, 1);
	ck_assert_uint_eq(told.last.bytes_done, 2000);
}
END_TEST

/* Two reapers: one is in the call when the other one ends the last work. */
START_TEST(an_end_beside_a_call_is_told_by_the_same_thread)
{
	struct job slow, last;
	sem_t entered, may_go;
	struct told told = {.entered = &entered, .may_go = &may_go};

	sem_init(&entered, 0, 0);
	sem_init(&may_go, 0, 0);
	ck_assert_int_eq(td_engine_on_progress(engine, tell, &told, HOURS), 0);
	job_init(&slow, 1);
	ck_assert_int_eq(td_engine_submit(engine, &slow.work), 0);
	sem_wait(&entered); /* its slice has ended, it has not */
	sem_post(&may_go);
	sem_wait(&slow.done);
	sem_wait(&entered); /* in the call that tells the end */
	ck_assert_uint_eq(told.last.works_to_go, 0);
	/* no work is told of now: nor is the end of this one */
	job_init(&last, 1);
	ck_assert_int_eq(td_engine_submit(engine, &last.work), 0);
	sem_wait(&last.done);
	sem_post(&may_go);
	drain();
	ck_assert_uint_eq(told.calls, 2);
	ck_assert_uint_eq(told.ends, 1);

	/* but one that was told of while that goes on is */
	ck_assert_int_eq(td_engine_on_progress(engine, tell, &told, EVERY_SLICE), 0);
	job_init(&slow, 1);
	job_init(&last, 2);
	ck_assert_int_eq(td_engine_submit(engine, &slow.work), 0);
	sem_wait(&entered);
	ck_assert_int_eq(td_engine_submit(engine, &last.work), 0);
	sem_wait(&last.done); /* on the other reaper */
	sem_post(&may_go);
	sem_wait(&entered);
	ck_assert_uint_eq(told.last.works_to_go, 0);
	sem_post(&may_go);
	drain();
	ck_assert_uint_eq(told.ends, 2);
}
END_TEST

static void *remove_it(void *arg)
{
	_Atomic(unsigned) *removed = arg;

	ck_assert_int_eq(td_engine_on_progress(engine, NULL, NULL, 0), 0);
	atomic_store(removed, 1);
	return NULL;
}

START_TEST(removing_waits_for_the_call_that_is_running)
{
	static _Atomic(unsigned) removed;
	sem_t entered, may_go;
	struct told told = {.entered = &entered, .may_go = &may_go};
	pthread_t thread;
	struct job job;

	sem_init(&entered, 0, 0);
	sem_init(&may_go, 0, 0);
	ck_assert_int_eq(td_engine_on_progress(engine, tell, &told, EVERY_SLICE), 0);
	job_init(&job, 3);
	ck_assert_int_eq(td_engine_submit(engine, &job.work), 0);
	sem_wait(&entered);
	tdt_fail_none();
	ck_assert_int_eq(pthread_create(&thread, NULL, remove_it, &removed), 0);
	while (tdt_calls(TDI_SYS_futex_wait) < 1)
		sched_yield();
	ck_assert_uint_eq(atomic_load(&removed), 0);
	sem_post(&may_go);
	ck_assert_int_eq(pthread_join(thread, NULL), 0);
	drain();
	ck_assert_uint_eq(told.calls, 1); /* not even of the end */
}
END_TEST

START_TEST(calls_end_with_the_engine)
{
	struct told told = {0};
	td_space *space;
	void *addr;

	ck_assert_int_eq(td_engine_on_progress(engine, tell, &told, EVERY_SLICE), 0);
	ck_assert_int_eq(td_space_create(engine, NULL, &space), 0);
	ck_assert_int_eq(td_region_map(space, MIB, NULL, &addr), 0);
	teardown();
	ck_assert_int_eq(td_space_put(space), 0); /* in the caller */
	ck_assert_uint_eq(told.calls, 0);
}
END_TEST

/* Many short works, told of at every slice: of each end that was to be told, once. */
START_TEST(no_end_is_missed)
{
	enum { ROUNDS = 2000, JOBS = 4 };
	static struct job jobs[JOBS];
	struct told told = {0};

	ck_assert_int_eq(td_engine_on_progress(engine, tell, &told, EVERY_SLICE), 0);
	for (unsigned round = 1; round <= ROUNDS; round++) {
		for (unsigned i = 0; i < JOBS; i++) {
			job_init(&jobs[i], 1);
			ck_assert_int_eq(td_engine_submit(engine, &jobs[i].work), 0);
		}
		drain();
		ck_assert_uint_eq(told.last.works_to_go, 0);
		/* What came and went while it was told that nothing is left need not be
		 * told of. */
		ck_assert_uint_le(told.last.bytes_done, round * JOBS * 1000);
		ck_assert_uint_gt(told.last.bytes_done, (round - 1) * JOBS * 1000);
	}
}
END_TEST

int main(void)
{
	struct tdt *tests = tdt_suite("progress");

	tdt_add(tests, what_is_done_and_what_is_left_add_up, setup, teardown);
	tdt_add(tests, an_engine_that_is_not_there_has_done_nothing, setup, teardown);
	tdt_add(tests, the_rate_is_that_of_the_last_second_while_it_was_at_work, setup,
		teardown);
	tdt_add(tests, a_slice_only_looks_in_when_it_is_time, setup, teardown);
	tdt_add(tests, the_host_is_told_while_it_goes_and_when_it_is_over, setup,
		teardown);
	tdt_add(tests, it_is_told_no_more_than_once_an_interval_and_once_of_the_end,
		setup, teardown);
	tdt_add(tests, a_caller_that_frees_itself_tells_too, setup, teardown);
	tdt_add(tests, works_of_a_call_itself_are_told_of, setup, teardown);
	tdt_add(tests, an_end_beside_a_call_is_told_by_the_same_thread, setup_two,
		teardown);
	tdt_add(tests, removing_waits_for_the_call_that_is_running, setup, teardown);
	tdt_add(tests, calls_end_with_the_engine, setup, NULL);
	tdt_add(tests, no_end_is_missed, setup_two, teardown);
	return tdt_run(tests);
}
