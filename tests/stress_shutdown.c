/* SPDX-License-Identifier: MIT */
/*
 * An engine is stopped, in each mode, while other threads put spaces, unmap, submit works
 * and add to batches. Each thing that began comes to its one end, and nothing is left but
 * what was abandoned, which is told.
 */
#include "base.h"
#include "harness.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <teardown.h>

/* No more under way than so many: a host that asks for more than its machine can do only
 * shows how long a queue takes. */
enum { ROUNDS = TDT_SANITIZED ? 6 : 30, SPACES_AT_ONCE = 40, WORKS_AT_ONCE = 200 };

static td_engine *engine;
static td_batch *batch;
static _Atomic(bool) enough;
static atomic_uint put, told, abandoned, submitted, ended, canceled, adds;
static atomic_ullong left_mapped;

#define SPACE_LENGTH (3 * MIB)

static void tell(td_space *space, enum td_event event, int status, void *arg)
{
	struct td_space_stats now;

	(void)event;
	(void)arg;
	ck_assert(status == 0 || status == -ECANCELED);
	if (status) {
		ck_assert_int_eq(td_space_stats(space, &now), 0);
		ck_assert_uint_le(now.bytes_reclaimed, SPACE_LENGTH);
		atomic_fetch_add(&left_mapped, SPACE_LENGTH - now.bytes_reclaimed);
		atomic_fetch_add(&abandoned, 1);
	}
	atomic_fetch_add(&told, 1);
}

static void *put_spaces(void *arg)
{
	bool sync = false;

	(void)arg;
	/* Made by whoever has the engine; put as late as may be. */
	while (!atomic_load(&enough)) {
		td_space *space;
		void *addr;

		if (atomic_load(&put) - atomic_load(&told) > SPACES_AT_ONCE) {
			sched_yield();
			continue;
		}
		ck_assert_int_eq(td_space_create(engine, NULL, &space), 0);
		ck_assert_int_eq(td_region_map(space, SPACE_LENGTH, NULL, &addr), 0);
		tdt_touch(addr, 256 * KIB);
		ck_assert_int_eq(td_space_on_event(space, TD_EVENT_RECLAIMED, tell, NULL),
				 0);
		atomic_fetch_add(&put, 1);
		ck_assert_int_eq(sync ? td_space_put_sync(space) : td_space_put(space),
				 0);
		sync = !sync;
	}
	return NULL;
}

struct job {
	struct td_work work;
	unsigned slices;
};

static int job_slice(struct td_work *work, struct td_slice *slice)
{
	struct job *job = tdi_container_of(work, struct job, work);

	(void)slice;
	return ++job->slices < 3 ? TD_WORK_MORE : TD_WORK_DONE;
}

static void job_done(struct td_work *work, int status)
{
	ck_assert(status == 0 || status == -ECANCELED);
	atomic_fetch_add(status ? &canceled : &ended, 1);
	free(tdi_container_of(work, struct job, work));
}

static const struct td_work_ops job_ops = {.slice = job_slice, .done = job_done};

static void *submit_works(void *arg)
{
	(void)arg;
	while (!atomic_load(&enough)) {
		struct job *job;

		if (atomic_load(&submitted) - atomic_load(&ended) -
			    atomic_load(&canceled) >
		    WORKS_AT_ONCE) {
			sched_yield();
			continue;
		}
		job = calloc(1, sizeof(*job));
		td_work_init(&job->work, &job_ops, 0);
		atomic_fetch_add(&submitted, 1);
		ck_assert_int_eq(td_engine_submit(engine, &job->work), 0);
	}
	return NULL;
}

static void *add_and_unmap(void *arg)
{
	(void)arg;
	while (!atomic_load(&enough)) {
		void *addr = tdt_map_anon(2 * MIB), *object = malloc(64);

		tdt_touch(addr, 64 * KIB);
		ck_assert_int_eq(td_engine_munmap(engine, addr, 2 * MIB, 0), 0);
		if (td_batch_free_ptr(batch, object, 64))
			free(object);
		else
			atomic_fetch_add(&adds, 1);
	}
	return NULL;
}

static void *(*const doings[])(void *) = {put_spaces, put_spaces, submit_works,
					  add_and_unmap};
#define DOINGS (sizeof(doings) / sizeof(*doings))

static int stop_amid_all(enum td_exit_mode mode, int64_t timeout_ns)
{
	struct td_engine_stats now;
	pthread_t threads[DOINGS];
	unsigned before;
	int err;

	ck_assert_int_eq(
		td_engine_create(TD_ENGINE_OPTS(.reapers = 2, .munmap_threshold = MIB),
				 &engine),
		0);
	ck_assert_int_eq(td_batch_create(engine, NULL, &batch), 0);
	atomic_store(&enough, false);
	atomic_store(&adds, 0);
	before = atomic_load(&put);
	for (unsigned i = 0; i < DOINGS; i++)
		pthread_create(&threads[i], NULL, doings[i], NULL);
	while (atomic_load(&put) < before + 8)
		sched_yield();
	err = td_engine_stop(engine, mode, timeout_ns);
	ck_assert_int_eq(td_engine_stop(engine, mode, timeout_ns), -EALREADY);
	/* They go on: now all of it is done where it is asked for. */
	before = atomic_load(&put);
	while (atomic_load(&put) < before + 4)
		sched_yield();
	atomic_store(&enough, true);
	for (unsigned i = 0; i < DOINGS; i++)
		pthread_join(threads[i], NULL);
	ck_assert_int_eq(td_batch_destroy(batch, 0), 0);
	ck_assert_int_eq(td_engine_drain(engine, TD_FOREVER), 0);
	ck_assert_int_eq(td_engine_stats(engine, &now), 0);
	ck_assert_uint_eq(now.reapers, 0);
	ck_assert_uint_eq(now.works_pending, 0);
	ck_assert_uint_eq(now.works_done, now.works_submitted);
	ck_assert_uint_eq(now.bytes_pending, 0);
	ck_assert_uint_eq(now.bytes_quarantined, 0);
	ck_assert_int_eq(td_engine_destroy(engine, TD_EXIT_DRAIN, 0), 0);
	ck_assert_uint_eq(atomic_load(&told), atomic_load(&put));
	ck_assert_uint_eq(atomic_load(&ended) + atomic_load(&canceled),
			  atomic_load(&submitted));
	return err;
}

START_TEST(stopping_by_drain_loses_nothing)
{
	struct tdt_footprint before, after;

	for (unsigned i = 0; i < ROUNDS; i++) {
		ck_assert_int_eq(stop_amid_all(TD_EXIT_DRAIN, 0), 0);
		if (i == 0)
			before = tdt_footprint();
	}
	ck_assert_uint_eq(atomic_load(&canceled), 0);
	ck_assert_uint_eq(atomic_load(&abandoned), 0);
	tdt_await_threads(before.threads);
	after = tdt_footprint();
	ck_assert_uint_eq(after.descriptors, before.descriptors);
	tdt_check_mappings(before.mappings, 40);
}
END_TEST

/* What stays mapped is what was abandoned. */
static void abandon_amid_all(enum td_exit_mode mode, int64_t timeout_ns)
{
	struct tdt_footprint before, after;

	for (unsigned i = 0; i < ROUNDS; i++) {
		int err = stop_amid_all(mode, timeout_ns);

		ck_assert(err == 0 || err == -ETIMEDOUT);
		if (i == 0)
			before = tdt_footprint();
	}
	tdt_await_threads(before.threads);
	after = tdt_footprint();
	ck_assert_uint_eq(after.descriptors, before.descriptors);
}

START_TEST(stopping_by_abandoning_ends_everything_once)
{
	abandon_amid_all(TD_EXIT_ABANDON, 0);
}
END_TEST

START_TEST(stopping_at_a_deadline_ends_everything_once)
{
	abandon_amid_all(TD_EXIT_DEADLINE, 100000);
}
END_TEST

int main(void)
{
	struct tdt *tests = tdt_suite("stress_shutdown");

	tdt_add(tests, stopping_by_drain_loses_nothing, NULL, NULL);
	tdt_add(tests, stopping_by_abandoning_ends_everything_once, NULL, NULL);
	tdt_add(tests, stopping_at_a_deadline_ends_everything_once, NULL, NULL);
	return tdt_run(tests);
}
