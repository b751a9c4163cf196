/* SPDX-License-Identifier: MIT */
/* The library's own objects are freed after a grace period, on a reaper. (B1, B4) */
#include "batch_internal.h"
#include "job.h"
#include "retire.h"

#include <sched.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <teardown.h>
#include <unistd.h>
#include <urcu/urcu-memb.h>

struct object {
	struct tdi_retired retired;
	unsigned releases;
	bool on_reaper;
	struct object *again; /* to be retired by its release */
};

static atomic_uint released;

static void release(struct tdi_retired *retired)
{
	struct object *object = tdi_container_of(retired, struct object, retired);

	object->releases++;
	object->on_reaper = tdi_engine_is_reaper(engine);
	if (object->again)
		tdi_retire(engine, &object->again->retired, release);
	atomic_fetch_add(&released, 1);
}

static void retire(struct object *objects, size_t n)
{
	for (size_t i = 0; i < n; i++)
		tdi_retire(engine, &objects[i].retired, release);
}

static void drain(void)
{
	ck_assert_int_eq(td_engine_drain(engine, TD_FOREVER), 0);
}

/* Threads cannot be started: works and grace periods are their callers'. */
static void setup_without_threads(void)
{
	tdt_fail(TDI_SYS_thread_create, -EAGAIN, 0, UINT32_MAX);
	ck_assert_int_eq(td_engine_default(&engine), 0);
}

/* ---- with threads ---- */

START_TEST(a_retired_object_is_released_once_on_a_reaper)
{
	struct object objects[3] = {{.releases = 0}};

	retire(objects, 3);
	drain();
	for (int i = 0; i < 3; i++) {
		ck_assert_uint_eq(objects[i].releases, 1);
		ck_assert(objects[i].on_reaper);
	}
	drain();
	ck_assert_uint_eq(atomic_load(&released), 3);
}
END_TEST

/* It comes to its end by itself, with nobody who waits for it. */
START_TEST(nobody_has_to_ask_for_it)
{
	struct object object = {.releases = 0};

	retire(&object, 1);
	while (atomic_load(&released) == 0)
		sched_yield();
	drain();
	ck_assert_uint_eq(object.releases, 1);
}
END_TEST

START_TEST(a_reader_holds_a_release_up_and_retiring_does_not_wait_for_him)
{
	struct object object = {.releases = 0};

	urcu_memb_register_thread();
	urcu_memb_read_lock();
	retire(&object, 1);
	ck_assert_int_eq(td_engine_drain(engine, 20000000), -ETIMEDOUT);
	ck_assert_uint_eq(atomic_load(&released), 0);
	urcu_memb_read_unlock();
	drain();
	ck_assert_uint_eq(object.releases, 1);
	urcu_memb_unregister_thread();
}
END_TEST

START_TEST(a_release_may_retire_another_object)
{
	struct object objects[3] = {{.releases = 0}};

	objects[0].again = &objects[1];
	objects[1].again = &objects[2];
	retire(objects, 1);
	/* Each drain waits for what has been retired by then. */
	for (int i = 0; i < 3; i++) {
		drain();
		ck_assert_uint_eq(objects[i].releases, 1);
	}
}
END_TEST

START_TEST(where_a_thread_waits_for_grace_periods_nobody_else_does)
{
	enum { MANY = 1000 };
	struct object *objects = calloc(MANY, sizeof(*objects));

	urcu_memb_register_thread();
	urcu_memb_read_lock();
	retire(objects, MANY);
	urcu_memb_read_unlock();
	tdi_retire_settle(engine);
	drain();
	for (int i = 0; i < MANY; i++)
		ck_assert(objects[i].releases == 1 && objects[i].on_reaper);
	urcu_memb_unregister_thread();
	free(objects);
}
END_TEST

/* ---- the end of the engine ---- */

static void end_with_some_left(enum td_exit_mode mode)
{
	enum { MANY = 600 };
	struct object *objects = calloc(MANY, sizeof(*objects));

	retire(objects, MANY);
	(void)td_engine_destroy(engine, mode, 0);
	engine = NULL;
	for (int i = 0; i < MANY; i++)
		ck_assert_uint_eq(objects[i].releases, 1);
	free(objects);
}

START_TEST(an_engine_that_is_drained_releases_all)
{
	end_with_some_left(TD_EXIT_DRAIN);
}
END_TEST

START_TEST(an_engine_that_is_abandoned_releases_all_too)
{
	end_with_some_left(TD_EXIT_ABANDON);
}
END_TEST

/* A space keeps its engine, without threads: what is retired then goes with the space. */
START_TEST(what_is_retired_after_the_end_goes_with_the_last_space)
{
	struct object objects[3] = {{.releases = 0}};
	td_space *space;

	ck_assert_int_eq(td_space_create(engine, NULL, &space), 0);
	ck_assert_int_eq(td_engine_destroy(engine, TD_EXIT_DRAIN, 0), 0);
	retire(objects, 3);
	ck_assert_uint_eq(atomic_load(&released), 0);
	ck_assert_int_eq(td_space_put(space), 0);
	engine = NULL;
	for (int i = 0; i < 3; i++)
		ck_assert_uint_eq(objects[i].releases, 1);
}
END_TEST

/* ---- without threads ---- */

static void retire_and_settle(struct object *objects, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		retire(&objects[i], 1);
		tdi_retire_settle(engine);
	}
}

START_TEST(without_threads_those_who_retire_wait_now_and_then)
{
	enum { MANY = 1000 };
	struct object *objects = calloc(MANY, sizeof(*objects));
	struct td_engine_stats now;

	retire_and_settle(objects, MANY);
	ck_assert_int_eq(td_engine_stats(engine, &now), 0);
	/* Some, and not one for each. */
	ck_assert_uint_gt(now.grace_periods, 0);
	ck_assert_uint_le(now.grace_periods, MANY / 32);
	ck_assert_uint_gt(atomic_load(&released), MANY / 2);
	drain();
	for (int i = 0; i < MANY; i++)
		ck_assert_uint_eq(objects[i].releases, 1);
	free(objects);
}
END_TEST

START_TEST(without_threads_a_reader_does_not_wait_for_himself)
{
	enum { MANY = 1000 };
	struct object *objects = calloc(MANY, sizeof(*objects));

	urcu_memb_register_thread();
	urcu_memb_read_lock();
	retire_and_settle(objects, MANY);
	ck_assert_uint_eq(atomic_load(&released), 0);
	urcu_memb_read_unlock();
	tdi_retire_settle(engine);
	ck_assert_uint_eq(atomic_load(&released), MANY);
	urcu_memb_unregister_thread();
	free(objects);
}
END_TEST

static struct object *retired_inside;

static void settle_inside(struct tdi_retired *retired)
{
	enum { MANY = 1000 };

	(void)retired;
	retired_inside = calloc(MANY, sizeof(*retired_inside));
	retire_and_settle(retired_inside, MANY);
}

START_TEST(without_threads_a_release_does_not_wait_for_itself)
{
	struct object object;

	tdi_retire(engine, &object.retired, settle_inside);
	drain();
	drain();
	ck_assert_uint_eq(atomic_load(&released), 1000);
	free(retired_inside);
}
END_TEST

START_TEST(in_a_child_the_parents_objects_stay)
{
	struct object object = {.releases = 0};
	int status;
	pid_t pid = fork();

	ck_assert_int_ge(pid, 0);
	if (pid == 0) {
		retire(&object, 1);
		tdi_retire_settle(engine);
		_exit((int)object.releases);
	}
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert_int_eq(status, 0);
	retire(&object, 1);
	drain();
	ck_assert_uint_eq(object.releases, 1);
}
END_TEST

/* ---- many ---- */

enum { WRITERS = 2, READERS = 2, ROUNDS = TDT_SANITIZED ? 20000 : 200000 };

struct cell {
	struct tdi_retired retired;
	unsigned alive;
};

static _Atomic(struct cell *) cells[8];
static atomic_bool writers_done;
static atomic_uint wrong, freed;

static void free_cell(struct tdi_retired *retired)
{
	struct cell *cell = tdi_container_of(retired, struct cell, retired);

	tdi_tsan_acquire(&cells);
	if (cell->alive != 0x600d)
		atomic_fetch_add(&wrong, 1);
	cell->alive = 0xdead;
	free(cell);
	atomic_fetch_add(&freed, 1);
}

static void *replace_cells(void *arg)
{
	unsigned seed = (unsigned)(uintptr_t)arg;

	for (int i = 0; i < ROUNDS; i++) {
		struct cell *cell = malloc(sizeof(*cell));

		cell->alive = 0x600d;
		cell = atomic_exchange(&cells[rand_r(&seed) % 8], cell);
		if (cell)
			tdi_retire(engine, &cell->retired, free_cell);
	}
	return NULL;
}

static void *read_cells(void *arg)
{
	unsigned seed = (unsigned)(uintptr_t)arg;

	urcu_memb_register_thread();
	while (!atomic_load(&writers_done)) {
		struct cell *cell;

		urcu_memb_read_lock();
		cell = atomic_load(&cells[rand_r(&seed) % 8]);
		for (int i = 0; cell && i < 20; i++) {
			if (*(volatile unsigned *)&cell->alive != 0x600d)
				atomic_fetch_add(&wrong, 1);
		}
		tdi_tsan_release(&cells);
		urcu_memb_read_unlock();
	}
	urcu_memb_unregister_thread();
	return NULL;
}

START_TEST(readers_never_see_what_was_released)
{
	pthread_t writers[WRITERS], readers[READERS];

	for (uintptr_t i = 0; i < READERS; i++)
		pthread_create(&readers[i], NULL, read_cells, (void *)(i + 1));
	for (uintptr_t i = 0; i < WRITERS; i++)
		pthread_create(&writers[i], NULL, replace_cells, (void *)(i + 9));
	for (int i = 0; i < WRITERS; i++)
		pthread_join(writers[i], NULL);
	atomic_store(&writers_done, true);
	for (int i = 0; i < READERS; i++)
		pthread_join(readers[i], NULL);
	drain();
	for (int i = 0; i < 8; i++)
		free(atomic_load(&cells[i]));
	ck_assert_uint_eq(atomic_load(&wrong), 0);
	ck_assert_uint_eq(atomic_load(&freed), WRITERS * ROUNDS - 8);
}
END_TEST

int main(void)
{
	struct tdt *tests = tdt_suite("retire");
	const TTest *all[] = {
		a_retired_object_is_released_once_on_a_reaper,
		nobody_has_to_ask_for_it,
		a_reader_holds_a_release_up_and_retiring_does_not_wait_for_him,
		a_release_may_retire_another_object,
		where_a_thread_waits_for_grace_periods_nobody_else_does,
		an_engine_that_is_drained_releases_all,
		an_engine_that_is_abandoned_releases_all_too,
		what_is_retired_after_the_end_goes_with_the_last_space,
		in_a_child_the_parents_objects_stay,
		readers_never_see_what_was_released,
	};
	const TTest *without_threads[] = {
		without_threads_those_who_retire_wait_now_and_then,
		without_threads_a_reader_does_not_wait_for_himself,
		without_threads_a_release_does_not_wait_for_itself,
	};

	for (size_t i = 0; i < sizeof(all) / sizeof(*all); i++)
		tdt_add(tests, all[i], setup, teardown);
	for (size_t i = 0; i < sizeof(without_threads) / sizeof(TTest *); i++)
		tdt_add(tests, without_threads[i], setup_without_threads, NULL);
	return tdt_run(tests);
}
