/* SPDX-License-Identifier: MIT */
/* The end of an engine: drained, at a deadline, abandoned. */
#include "job.h"

#include <errno.h>
#include <linux/futex.h>
#include <sched.h>
#include <sys/syscall.h>
#include <teardown.h>
#include <unistd.h>

/* ---- destroying ---- */

START_TEST(nobody_and_nonsense_can_be_destroyed_safely)
{
	ck_assert_int_eq(td_engine_destroy(NULL, TD_EXIT_DRAIN, 0), 0);
	ck_assert_int_eq(td_engine_destroy(engine, (enum td_exit_mode)9, 0), -EINVAL);
	teardown();
}
END_TEST

START_TEST(destroying_with_drain_finishes_everything)
{
	struct job jobs[20];

	for (int i = 0; i < 20; i++) {
		job_init(&jobs[i], 3);
		jobs[i].laters = i == 0;
		ck_assert_int_eq(td_engine_submit(engine, &jobs[i].work), 0);
	}
	teardown();
	for (int i = 0; i < 20; i++) {
		ck_assert_int_eq(jobs[i].status, 0);
		ck_assert_uint_eq(jobs[i].slices, 3);
	}
}
END_TEST

static void *destroy_at_deadline(void *arg)
{
	return (void *)(intptr_t)td_engine_destroy(arg, TD_EXIT_DEADLINE, 1000000);
}

static void *abandon(void *arg)
{
	return (void *)(intptr_t)td_engine_destroy(arg, TD_EXIT_ABANDON, 0);
}

static void await_stopped(void)
{
	struct tdi_queue *queue = engine->queues.first;
	bool is_stopped = false;

	while (!(atomic_load(&engine->gate.word) & TDI_GATE_CLOSED))
		sched_yield();
	while (!is_stopped) {
		sched_yield();
		pthread_mutex_lock(&queue->lock);
		is_stopped = queue->stopped;
		pthread_mutex_unlock(&queue->lock);
	}
}

static void destroy_while_busy(void *(*destroy)(void *), int expected)
{
	sem_t entered, may_go;
	struct job running, queued, parked;
	pthread_t thread;
	void *result;

	sem_init(&entered, 0, 0);
	sem_init(&may_go, 0, 0);
	job_init(&parked, 1);
	parked.laters = 1000;
	job_init(&running, 2);
	running.entered = &entered;
	running.may_go = &may_go;
	job_init(&queued, 1);
	ck_assert_int_eq(td_engine_submit(engine, &parked.work), 0);
	while (stats().pauses == 0)
		sched_yield();
	ck_assert_int_eq(td_engine_submit(engine, &running.work), 0);
	sem_wait(&entered);
	ck_assert_int_eq(td_engine_submit(engine, &queued.work), 0);
	pthread_create(&thread, NULL, destroy, engine);
	/* the slice being run is let finish, nothing else is begun */
	await_stopped();
	sem_post(&may_go);
	pthread_join(thread, &result);
	ck_assert_int_eq((int)(intptr_t)result, expected);
	ck_assert_int_eq(running.status, -ECANCELED);
	ck_assert_int_eq(queued.status, -ECANCELED);
	ck_assert_int_eq(parked.status, -ECANCELED);
	ck_assert_uint_eq(running.slices, 1);
	ck_assert_uint_eq(queued.slices, 0);
}

START_TEST(destroying_at_a_deadline_abandons_the_rest)
{
	destroy_while_busy(destroy_at_deadline, -ETIMEDOUT);
}
END_TEST

START_TEST(abandoning_cancels_what_has_not_run)
{
	destroy_while_busy(abandon, 0);
}
END_TEST

/* ---- callbacks of what has no reaper ---- */

static int drained, stopped, destroyed_inside, waited;
static td_space *another;

static void try_to_wait(struct td_work *work, int status)
{
	drained = td_engine_drain(engine, 1000000);
	stopped = td_engine_stop(engine, TD_EXIT_ABANDON, 0);
	destroyed_inside = td_engine_destroy(engine, TD_EXIT_ABANDON, 0);
	waited = td_space_wait(another, TD_EVENT_RECLAIMED, 1000000);
	job_done(work, status);
}

static const struct td_work_ops waiting_ops = {.slice = job_slice, .done = try_to_wait};

static void check_none_waited(void)
{
	ck_assert_int_eq(drained, -EDEADLK);
	ck_assert_int_eq(stopped, -EDEADLK);
	ck_assert_int_eq(destroyed_inside, -EDEADLK);
	ck_assert_int_eq(waited, -EDEADLK);
	ck_assert_int_eq(td_space_put(another), 0);
}

START_TEST(what_is_told_of_being_abandoned_cannot_wait_for_the_engine)
{
	sem_t entered, may_go;
	struct job running, queued;
	pthread_t thread;
	void *result;

	ck_assert_int_eq(td_space_create(engine, NULL, &another), 0);
	sem_init(&entered, 0, 0);
	sem_init(&may_go, 0, 0);
	job_init(&running, 1);
	running.entered = &entered;
	running.may_go = &may_go;
	job_init(&queued, 1);
	queued.work.ops = &waiting_ops;
	ck_assert_int_eq(td_engine_submit(engine, &running.work), 0);
	sem_wait(&entered);
	ck_assert_int_eq(td_engine_submit(engine, &queued.work), 0);
	pthread_create(&thread, NULL, abandon, engine);
	await_stopped();
	sem_post(&may_go);
	pthread_join(thread, &result);
	ck_assert_ptr_null(result);
	ck_assert_int_eq(queued.status, -ECANCELED);
	check_none_waited();
}
END_TEST

START_TEST(nor_can_what_its_submitter_gave_up)
{
	struct job job;

	ck_assert_int_eq(td_space_create(engine, NULL, &another), 0);
	ck_assert_int_eq(td_engine_stop(engine, TD_EXIT_DRAIN, 0), 0);
	job_init(&job, 1);
	job.work.ops = &waiting_ops;
	job.laters = UINT32_MAX;
	ck_assert_int_eq(td_engine_submit(engine, &job.work), 0);
	ck_assert_int_eq(job.status, -EAGAIN);
	check_none_waited();
	teardown();
}
END_TEST

static uint64_t end_inside(struct td_shrinker *shrinker, enum td_pressure level)
{
	(void)shrinker;
	(void)level;
	stopped = td_engine_stop(engine, TD_EXIT_ABANDON, 0);
	destroyed_inside = td_engine_destroy(engine, TD_EXIT_ABANDON, 0);
	return 0;
}

/* It may be called by the thread that watches the kernel's pressure, and has to end. */
START_TEST(a_shrinker_cannot_end_its_engine)
{
	struct td_shrinker shrinker = {.shrink = end_inside};

	ck_assert_int_eq(td_engine_add_shrinker(engine, &shrinker), 0);
	ck_assert_int_eq(td_engine_pressure(engine, TD_PRESSURE_SOME, NULL), 0);
	ck_assert_int_eq(stopped, -EDEADLK);
	ck_assert_int_eq(destroyed_inside, -EDEADLK);
	ck_assert_int_eq(td_engine_remove_shrinker(engine, &shrinker), 0);
	teardown();
}
END_TEST

START_TEST(many_engines_come_and_go_without_a_trace)
{
	struct tdt_footprint before, after;
	int cycles = TDT_SANITIZED ? 300 : 3000;

	for (int i = 0; i < cycles; i++) {
		setup_two();
		teardown();
		if (i == 20)
			before = tdt_footprint();
	}
	after = tdt_footprint();
	tdt_await_threads(before.threads);
	ck_assert_uint_eq(after.descriptors, before.descriptors);
	tdt_check_mappings(before.mappings, 4);
}
END_TEST

static sem_t in_wake, leave_wake;
static uintptr_t signal_word; /* the engine is not there any more when the gate wakes */
static atomic_bool destroyed, stopped_one;

static int stop_in_wake(enum tdi_sys_call call, uintptr_t addr, size_t length, int detail)
{
	(void)length;
	(void)detail;
	if (call == TDI_SYS_futex_wake && addr == signal_word &&
	    !atomic_exchange(&stopped_one, true)) {
		/* the wake itself is made: only its maker is kept from returning */
		syscall(SYS_futex, addr, FUTEX_WAKE | FUTEX_PRIVATE_FLAG, 1);
		sem_post(&in_wake);
		sem_wait(&leave_wake);
	}
	return 0;
}

static void *submit_one(void *arg)
{
	return (void *)(intptr_t)td_engine_submit(engine, arg);
}

static void *destroy_it(void *arg)
{
	(void)arg;
	ck_assert_int_eq(td_engine_destroy(engine, TD_EXIT_DRAIN, 0), 0);
	atomic_store(&destroyed, true);
	return NULL;
}

/* What it was given since runs in its callers, and is waited for as ever. */
START_TEST(destroying_waits_for_what_callers_run_since_it_was_stopped)
{
	sem_t entered, may_go;
	pthread_t submitter;
	struct job job;

	sem_init(&entered, 0, 0);
	sem_init(&may_go, 0, 0);
	job_init(&job, 1);
	job.entered = &entered;
	job.may_go = &may_go;
	ck_assert_int_eq(td_engine_stop(engine, TD_EXIT_ABANDON, 0), 0);
	pthread_create(&submitter, NULL, submit_one, &job.work);
	sem_wait(&entered);
	ck_assert_int_eq(td_engine_destroy(engine, TD_EXIT_DEADLINE, 1000000),
			 -ETIMEDOUT);
	sem_post(&may_go); /* it has the engine still */
	pthread_join(submitter, NULL);
	ck_assert_int_eq(job.status, 0);
}
END_TEST

/* The work is long done and the engine on its way out while its submitter still is at the
 * futex: destroying waits at the gate. */
START_TEST(destroying_waits_for_a_submitter_on_his_way_out)
{
	uint64_t until;
	pthread_t submitter, destroyer;
	struct job job;

	sem_init(&in_wake, 0, 0);
	sem_init(&leave_wake, 0, 0);
	job_init(&job, 1);
	while (atomic_load(&engine->queues.first->sleepers) < 1)
		sched_yield();
	signal_word = (uintptr_t)&engine->queues.first->signal;
	tdi_sys_set_fault(stop_in_wake);
	pthread_create(&submitter, NULL, submit_one, &job.work);
	sem_wait(&in_wake);
	pthread_create(&destroyer, NULL, destroy_it, NULL);
	while (!(atomic_load(&engine->gate.word) & TDI_GATE_CLOSED))
		sched_yield();
	until = tdi_sys_deadline(20000000);
	while (tdi_sys_now_ns() < until)
		ck_assert(!atomic_load(&destroyed));
	sem_post(&leave_wake);
	pthread_join(submitter, NULL);
	pthread_join(destroyer, NULL);
	ck_assert_int_eq(job.status, 0);
}
END_TEST

START_TEST(an_endless_slice_target_does_not_wrap)
{
	td_engine *other;
	struct job job;

	ck_assert_int_eq(
		td_engine_create(TD_ENGINE_OPTS(.reapers = 1, .slice_ns = UINT64_MAX),
				 &other),
		0);
	ck_assert_uint_le(tdi_engine_slice_ns(other), INT64_MAX);
	job_init(&job, 3);
	ck_assert_int_eq(td_engine_submit(other, &job.work), 0);
	ck_assert_int_eq(td_engine_destroy(other, TD_EXIT_DRAIN, 0), 0);
	ck_assert_int_eq(job.status, 0);
}
END_TEST

int main(void)
{
	struct tdt *tests = tdt_suite("engine_end");

	tdt_add(tests, nobody_and_nonsense_can_be_destroyed_safely, setup, NULL);
	tdt_add(tests, destroying_with_drain_finishes_everything, setup_two, NULL);
	tdt_add(tests, destroying_at_a_deadline_abandons_the_rest, setup, NULL);
	tdt_add(tests, abandoning_cancels_what_has_not_run, setup, NULL);
	tdt_add(tests, what_is_told_of_being_abandoned_cannot_wait_for_the_engine, setup,
		NULL);
	tdt_add(tests, nor_can_what_its_submitter_gave_up, setup, NULL);
	tdt_add(tests, a_shrinker_cannot_end_its_engine, setup, NULL);
	tdt_add(tests, many_engines_come_and_go_without_a_trace, NULL, NULL);
	tdt_add(tests, destroying_waits_for_a_submitter_on_his_way_out, setup, NULL);
	tdt_add(tests, destroying_waits_for_what_callers_run_since_it_was_stopped, setup,
		NULL);
	tdt_add(tests, an_endless_slice_target_does_not_wrap, NULL, NULL);
	return tdt_run(tests);
}
