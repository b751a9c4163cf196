/* SPDX-License-Identifier: MIT */
/* A11: td_engine_relieve, and what may wait for an engine, from where. */
#include "hold.h"
#include "mapped.h"

#include <sys/wait.h>

static void *relieve(void *result)
{
	*(int *)result = td_engine_relieve(engine);
	return NULL;
}

static void defer_some(unsigned count)
{
	for (unsigned i = 0; i < count; i++) {
		char *addr = tdt_map_anon(MIB);

		tdt_touch(addr, MIB);
		ck_assert_int_eq(td_engine_munmap(engine, addr, MIB, 0), 0);
	}
}

START_TEST(nothing_pending_is_nothing_to_do)
{
	ck_assert_int_eq(td_engine_relieve(engine), 0);
	defer_some(3);
	ck_assert_int_eq(td_engine_relieve(engine), 0);
	ck_assert_uint_eq(stats().bytes_quarantined, 0);
	ck_assert_uint_eq(stats().works_pending, 0);
}
END_TEST

/* It does not wait for the reaper to come to it, only for what that is at. */
START_TEST(the_caller_frees_what_a_busy_reaper_cannot)
{
	struct hold hold;
	pthread_t thread;
	int err = 1;

	hold_reaper(&hold);
	defer_some(20);
	ck_assert_uint_eq(stats().bytes_quarantined, 20 * MIB);
	pthread_create(&thread, NULL, relieve, &err);
	while (stats().works_pending > 1)
		sched_yield();
	ck_assert_uint_eq(stats().bytes_quarantined, 0);
	let_go(&hold);
	pthread_join(thread, NULL);
	ck_assert_int_eq(err, 0);
	ck_assert_uint_eq(stats().works_pending, 0);
}
END_TEST

static void *help_once(void *arg)
{
	(void)arg;
	ck_assert(tdi_reaper_help(engine));
	return NULL;
}

/* The reaper has looked while a helper had the work, and sleeps when it comes back. */
static void help_with(unsigned laters)
{
	struct tdi_queue *queue = engine->queues.first;
	sem_t entered, may_go;
	struct hold hold;
	pthread_t helper;
	struct job job;

	sem_init(&entered, 0, 0);
	sem_init(&may_go, 0, 0);
	hold_reaper(&hold);
	job_init(&job, 2);
	job.laters = laters;
	job.entered = &entered;
	job.may_go = &may_go;
	ck_assert_int_eq(td_engine_submit(engine, &job.work), 0);
	pthread_create(&helper, NULL, help_once, NULL);
	sem_wait(&entered);
	let_go(&hold);
	while (atomic_load(&queue->sleepers) == 0)
		sched_yield();
	for (unsigned i = 0; i < 2 + laters; i++)
		sem_post(&may_go);
	pthread_join(helper, NULL);
	sem_wait(&job.done); /* nobody else pushes anything */
	ck_assert_int_eq(job.status, 0);
	ck_assert(pthread_equal(job.ran_on, engine->reapers[0].thread));
}

START_TEST(what_a_helper_gives_back_is_gone_on_with)
{
	help_with(0);
}
END_TEST

START_TEST(what_puts_itself_off_with_a_helper_is_gone_on_with)
{
	help_with(1);
}
END_TEST

struct putter {
	struct td_work work;
	_Atomic(bool) enough;
	_Atomic(unsigned) slices;
};

static int put_off(struct td_work *work, struct td_slice *slice)
{
	struct putter *putter = tdi_container_of(work, struct putter, work);

	(void)slice;
	atomic_fetch_add(&putter->slices, 1);
	return atomic_load(&putter->enough) ? TD_WORK_DONE : TD_WORK_LATER;
}

static const struct td_work_ops putter_ops = {.slice = put_off};

START_TEST(works_that_cannot_go_on_are_told_and_not_waited_for)
{
	struct putter putters[3] = {{.enough = false}};
	struct hold hold;

	for (unsigned i = 0; i < 3; i++) {
		td_work_init(&putters[i].work, &putter_ops, 0);
		ck_assert_int_eq(td_engine_submit(engine, &putters[i].work), 0);
	}
	hold_reaper(&hold);
	defer_some(3);
	let_go(&hold);
	ck_assert_int_eq(td_engine_relieve(engine), -EAGAIN);
	ck_assert_uint_eq(stats().bytes_quarantined, 0);
	ck_assert_uint_eq(stats().works_pending, 3);
	for (unsigned i = 0; i < 3; i++) {
		ck_assert_uint_gt(atomic_load(&putters[i].slices), 0);
		atomic_store(&putters[i].enough, true);
	}
	/* what put itself off long ago has another try at once */
	ck_assert_int_eq(td_engine_relieve(engine), 0);
	ck_assert_uint_eq(stats().works_pending, 0);
}
END_TEST

/* While others wait for an engine as well, it still ends. */
static void *drain_all(void *arg)
{
	(void)arg;
	ck_assert_int_eq(td_engine_drain(engine, TD_FOREVER), 0);
	return NULL;
}

START_TEST(beside_others_that_drain_it_ends_as_well)
{
	struct putter putter = {.enough = false};
	pthread_t threads[2];

	td_work_init(&putter.work, &putter_ops, 0);
	ck_assert_int_eq(td_engine_submit(engine, &putter.work), 0);
	for (int i = 0; i < 2; i++)
		pthread_create(&threads[i], NULL, drain_all, NULL);
	while (atomic_load(&engine->pending.drainers) == 0)
		sched_yield();
	ck_assert_int_eq(td_engine_relieve(engine), -EAGAIN);
	atomic_store(&putter.enough, true);
	ck_assert_int_eq(td_engine_relieve(engine), 0);
	for (int i = 0; i < 2; i++)
		pthread_join(threads[i], NULL);
}
END_TEST

/* ---- from a callback ---- */

struct asker {
	struct td_work work;
	td_engine *of;
	int results[4]; /* of two calls in a slice, and two in done */
	pthread_t ran_on;
	sem_t done;
};

static int ask(struct td_work *work, struct td_slice *slice)
{
	struct asker *asker = tdi_container_of(work, struct asker, work);

	(void)slice;
	asker->ran_on = pthread_self();
	asker->results[0] = td_engine_relieve(asker->of);
	asker->results[1] = td_engine_drain(asker->of, TD_FOREVER);
	return TD_WORK_DONE;
}

static void asked(struct td_work *work, int status)
{
	struct asker *asker = tdi_container_of(work, struct asker, work);

	(void)status;
	asker->results[2] = td_engine_relieve(asker->of);
	asker->results[3] = td_engine_drain(asker->of, TD_FOREVER);
	sem_post(&asker->done);
}

static const struct td_work_ops asker_ops = {.slice = ask, .done = asked};

static void asker_init(struct asker *asker, td_engine *of)
{
	*asker = (struct asker){.of = of};
	td_work_init(&asker->work, &asker_ops, 0);
	sem_init(&asker->done, 0, 0);
}

static void check_refused(struct asker *asker)
{
	sem_wait(&asker->done);
	for (int i = 0; i < 4; i++)
		ck_assert_int_eq(asker->results[i], -EDEADLK);
}

START_TEST(on_a_reaper_it_is_refused)
{
	struct asker asker;

	asker_init(&asker, engine);
	ck_assert_int_eq(td_engine_submit(engine, &asker.work), 0);
	check_refused(&asker);
}
END_TEST

START_TEST(in_a_callback_that_it_runs_itself_it_is_refused)
{
	struct asker asker;
	struct hold hold;
	pthread_t thread;
	int err = 1;

	asker_init(&asker, engine);
	hold_reaper(&hold);
	ck_assert_int_eq(td_engine_submit(engine, &asker.work), 0);
	pthread_create(&thread, NULL, relieve, &err);
	check_refused(&asker);
	ck_assert(pthread_equal(asker.ran_on, thread));
	let_go(&hold);
	pthread_join(thread, NULL);
	ck_assert_int_eq(err, 0);
	/* and not any longer afterwards */
	ck_assert_int_eq(td_engine_relieve(engine), 0);
}
END_TEST

/* Frees in its caller: it would wait for itself. */
static td_engine *make_threadless(void)
{
	td_engine *made;

	tdt_fail(TDI_SYS_thread_create, -EAGAIN, 0, UINT32_MAX);
	ck_assert_int_eq(td_engine_default(&made), 0);
	tdt_fail_none();
	return made;
}

START_TEST(in_a_callback_without_reapers_it_is_refused)
{
	td_engine *threadless = make_threadless();
	struct asker asker;

	asker_init(&asker, threadless);
	ck_assert_int_eq(td_engine_submit(NULL, &asker.work), 0);
	check_refused(&asker);
	ck_assert(pthread_equal(asker.ran_on, pthread_self()));
	ck_assert_int_eq(td_engine_relieve(NULL), 0);
}
END_TEST

static td_engine *inner;
static struct asker of_outer;

static int submit_to_inner(struct td_work *work, struct td_slice *slice)
{
	(void)work;
	(void)slice;
	(void)td_engine_submit(inner, &of_outer.work);
	return TD_WORK_DONE;
}

/* A reaper of one engine that runs a callback of another is still a reaper of the one. */
START_TEST(within_a_callback_of_another_engine_it_is_refused)
{
	static const struct td_work_ops ops = {.slice = submit_to_inner};
	struct td_work outer;

	inner = make_threadless();
	asker_init(&of_outer, engine);
	td_work_init(&outer, &ops, 0);
	ck_assert_int_eq(td_engine_submit(engine, &outer), 0);
	check_refused(&of_outer);
	drain();
}
END_TEST

/* ---- no engine ---- */

START_TEST(without_a_default_engine_there_is_nothing_to_do)
{
	size_t threads = tdt_footprint().threads;

	ck_assert_int_eq(td_engine_relieve(NULL), 0);
	ck_assert_int_eq(td_engine_drain(NULL, 0), 0);
	ck_assert_uint_eq(tdt_footprint().threads, threads); /* and none was made */
}
END_TEST

START_TEST(in_a_child_it_is_refused)
{
	int status;
	pid_t pid = fork();

	if (pid == 0)
		_exit(td_engine_relieve(engine) == -ECHILD ? 0 : 1);
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert_int_eq(status, 0);
}
END_TEST

int main(void)
{
	struct tdt *tests = tdt_suite("relieve");
	const TTest *all[] = {
		nothing_pending_is_nothing_to_do,
		the_caller_frees_what_a_busy_reaper_cannot,
		what_a_helper_gives_back_is_gone_on_with,
		what_puts_itself_off_with_a_helper_is_gone_on_with,
		works_that_cannot_go_on_are_told_and_not_waited_for,
		beside_others_that_drain_it_ends_as_well,
		on_a_reaper_it_is_refused,
		in_a_callback_that_it_runs_itself_it_is_refused,
		in_a_callback_without_reapers_it_is_refused,
		within_a_callback_of_another_engine_it_is_refused,
		without_a_default_engine_there_is_nothing_to_do,
		in_a_child_it_is_refused,
	};

	for (size_t i = 0; i < sizeof(all) / sizeof(*all); i++)
		tdt_add(tests, all[i], setup_eager, teardown);
	return tdt_run(tests);
}
