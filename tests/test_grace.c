/* SPDX-License-Identifier: MIT */
/* B1, B3, B4: whoever waits for what he added waits for all of it, whatever state it is
 * in. */
#include "batch_internal.h"
#include "hold.h"

#include <sched.h>
#include <stdlib.h>
#include <urcu/urcu-memb.h>

struct object {
	struct td_batch_node node;
	atomic_uint *frees;
};

static td_batch *batch;

static void count_freed(void **objects, size_t n, void *ctx)
{
	(void)ctx;
	for (size_t i = 0; i < n; i++) {
		struct object *object = objects[i];

		atomic_fetch_add(object->frees, 1);
		free(object);
	}
}

static void create(size_t room)
{
	const struct td_batch_opts opts = {.size = sizeof(opts),
					   .flags = TD_BATCH_NO_HELP,
					   .free_bulk = count_freed,
					   .room = room,
					   .max_bytes = TD_BATCH_UNBOUNDED};

	ck_assert_int_eq(td_batch_create(engine, &opts, &batch), 0);
}

static void begin(void)
{
	setup();
	create(0);
}

static void end(void)
{
	tdt_fail_none();
	ck_assert_int_eq(td_batch_destroy(batch, 0), 0);
	teardown();
}

static struct object *make(atomic_uint *frees)
{
	struct object *object = calloc(1, sizeof(*object));

	object->frees = frees;
	return object;
}

static void free_list(atomic_uint *frees, unsigned n, unsigned flags)
{
	struct td_batch_list list = {0};

	for (unsigned i = 0; i < n; i++)
		td_batch_list_add(&list, &make(frees)->node, 0);
	ck_assert_int_eq(td_batch_free_list(batch, &list, flags), 0);
}

static void check_barrier(void)
{
	/* Not for ever, so that one that hangs says where. */
	ck_assert_int_eq(td_batch_barrier(batch, INT64_C(20000000000)), 0);
}

/* ---- a reader who stays ---- */

static sem_t reads, may_leave;

static void *read_long_time(void *arg)
{
	(void)arg;
	urcu_memb_register_thread();
	urcu_memb_read_lock();
	sem_post(&reads);
	sem_wait(&may_leave);
	tdi_tsan_release((void *)(uintptr_t)&urcu_memb_flavor);
	urcu_memb_read_unlock();
	urcu_memb_unregister_thread();
	return NULL;
}

static pthread_t begin_reading(void)
{
	pthread_t thread;

	sem_init(&reads, 0, 0);
	sem_init(&may_leave, 0, 0);
	pthread_create(&thread, NULL, read_long_time, NULL);
	sem_wait(&reads);
	return thread;
}

static void end_reading(pthread_t thread)
{
	sem_post(&may_leave);
	pthread_join(thread, NULL);
}

/* ---- linked objects ---- */

static uint64_t count_ready(void)
{
	uint64_t count;

	pthread_mutex_lock(&batch->ready.lock);
	count = batch->ready.count;
	pthread_mutex_unlock(&batch->ready.lock);
	return count;
}

/*
 * What needs no grace period overtakes what waits for one, and comes behind it, too: with
 * a drain in between, which changes epochs.
 */
START_TEST(lists_that_overtake_each_other_are_all_waited_for)
{
	atomic_uint frees[3] = {0};
	struct hold hold;
	pthread_t reader = begin_reading();

	hold_reaper(&hold);
	free_list(&frees[0], 5, 0);
	ck_assert_int_eq(td_batch_flush(batch, 0), 0);
	while (tdi_pending_count(&batch->pending) == 0)
		sched_yield();
	/* As a barrier does whose own pass was over before. */
	ck_assert_int_eq(tdi_pending_drain(&batch->pending, 0), -ETIMEDOUT);
	free_list(&frees[1], 5, TD_BATCH_NO_READERS);
	tdi_batch_take_direct(batch);
	end_reading(reader);
	while (count_ready() < 10)
		sched_yield();
	free_list(&frees[2], 5, TD_BATCH_NO_READERS);
	tdi_batch_take_direct(batch);
	let_go(&hold);
	check_barrier();
	for (int i = 0; i < 3; i++)
		ck_assert_uint_eq(atomic_load(&frees[i]), 5);
	ck_assert_uint_eq(tdi_pending_count(&batch->pending), 0);
}
END_TEST

/* Held up between his exchange and his link, another one hides what was added since. */
static void check_behind_a_missing_link(struct tdi_chain *chain, unsigned flags)
{
	atomic_uint frees = 0, held_frees = 0;
	struct object *held = make(&held_frees);
	struct td_batch_node *before;

	before = atomic_exchange(&chain->tail, &held->node);
	free_list(&frees, 5, flags);
	ck_assert_int_eq(td_batch_barrier(batch, 20000000), -ETIMEDOUT);
	ck_assert_uint_eq(atomic_load(&frees), 0);
	atomic_store(&before->tdi_next, &held->node);
	check_barrier();
	ck_assert_uint_eq(atomic_load(&frees), 5);
	ck_assert_uint_eq(atomic_load(&held_frees), 1);
}

START_TEST(what_is_behind_a_missing_link_is_waited_for)
{
	check_behind_a_missing_link(&batch->open, 0);
}
END_TEST

START_TEST(what_needs_no_grace_period_and_is_behind_a_missing_link_is_waited_for)
{
	check_behind_a_missing_link(&batch->direct, TD_BATCH_NO_READERS);
}
END_TEST

/* ---- no page is left to gather in ---- */

/* Adds one, for its page; and many more, when all other pages are in use. */
struct adder {
	pthread_t thread;
	atomic_uint frees;
	sem_t has_added, may_go_on;
};

enum { ADDED = 400 };

static void *add_some(void *arg)
{
	struct adder *adder = arg;

	for (int i = 0; i < ADDED; i++) {
		ck_assert(td_batch_free_ptr(batch, make(&adder->frees), 0) == 0);
		if (i == 0 || i == ADDED - 1) {
			sem_post(&adder->has_added);
			sem_wait(&adder->may_go_on);
		}
	}
	return NULL;
}

static void begin_adding(struct adder *adder)
{
	atomic_init(&adder->frees, 0);
	sem_init(&adder->has_added, 0, 0);
	sem_init(&adder->may_go_on, 0, 0);
	pthread_create(&adder->thread, NULL, add_some, adder);
	sem_wait(&adder->has_added);
}

static void *wait_for_all(void *arg)
{
	(void)arg;
	return (void *)(intptr_t)td_batch_barrier(batch, TD_FOREVER);
}

/*
 * Every page is in use, and there is no memory for more: what open groups hold, but for a
 * page of it, stays where it is until a page is free again.
 */
START_TEST(what_cannot_be_gathered_yet_is_waited_for)
{
	struct adder adders[3];
	atomic_uint many = 0;
	struct object *object;
	struct hold hold;
	pthread_t reader, waiter;
	uint32_t wanted;
	unsigned n = 0;
	void *result;

	ck_assert_int_eq(td_batch_destroy(batch, 0), 0);
	create(1);
	wanted = atomic_load(&engine->grace.wanted);
	tdt_fail(TDI_SYS_mmap, -ENOMEM, 0, UINT32_MAX);
	hold_reaper(&hold);
	for (int i = 0; i < 3; i++)
		begin_adding(&adders[i]);
	while (object = make(&many), td_batch_free_ptr(batch, object, 0) == 0)
		n++;
	free(object);
	reader = begin_reading();
	for (int i = 0; i < 3; i++) {
		sem_post(&adders[i].may_go_on);
		sem_wait(&adders[i].has_added);
	}
	end_reading(reader);
	pthread_create(&waiter, NULL, wait_for_all, NULL);
	/* He has at least asked by then; at worst he is past what a pass could take. */
	while (atomic_load(&engine->grace.wanted) == wanted)
		sched_yield();
	for (int i = 0; i < 1000; i++)
		sched_yield();
	sem_post(&hold.may_go);
	pthread_join(waiter, &result);
	ck_assert_ptr_null(result);
	for (int i = 0; i < 3; i++) {
		ck_assert_uint_eq(atomic_load(&adders[i].frees), ADDED);
		sem_post(&adders[i].may_go_on);
		pthread_join(adders[i].thread, NULL);
	}
	ck_assert_uint_eq(atomic_load(&many), n);
	sem_wait(&hold.job.done);
}
END_TEST

/* ---- is there anything at all? ---- */

enum { THREADS = 3, ROUNDS = TDT_SANITIZED ? 1000 : 10000 };

static atomic_bool enough;
static atomic_uint wrong;

static void *add_and_drain(void *arg)
{
	unsigned kind = (unsigned)(uintptr_t)arg;

	for (unsigned i = 0; i < ROUNDS; i++) {
		atomic_uint frees = 0;
		struct td_batch_list list = {0};
		struct object *object = make(&frees);

		if (kind == 0 && td_batch_free_ptr(batch, object, 0) != 0) {
			free(object);
			continue;
		}
		if (kind > 0) {
			td_batch_list_add(&list, &object->node, 0);
			(void)td_batch_free_list(batch, &list,
						 kind == 1 ? 0 : TD_BATCH_NO_READERS);
		}
		if (td_engine_drain(engine, TD_FOREVER) != 0 || atomic_load(&frees) != 1)
			atomic_fetch_add(&wrong, 1);
	}
	return NULL;
}

static void *flush_always(void *arg)
{
	(void)arg;
	while (!atomic_load(&enough)) {
		(void)td_batch_flush(batch, 0);
		sched_yield();
	}
	return NULL;
}

START_TEST(an_engine_is_not_drained_while_anything_is_on_its_way)
{
	pthread_t threads[THREADS], flusher;

	for (uintptr_t i = 0; i < THREADS; i++)
		pthread_create(&threads[i], NULL, add_and_drain, (void *)i);
	pthread_create(&flusher, NULL, flush_always, NULL);
	for (int i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	atomic_store(&enough, true);
	pthread_join(flusher, NULL);
	ck_assert_uint_eq(atomic_load(&wrong), 0);
}
END_TEST

/* ---- batches whose callbacks add ---- */

enum { STEPS = 200 };

static td_batch *chained;
static atomic_uint steps;

/* One after the other, through pages, lists, and lists that need no grace period. */
static void add_next(void **objects, size_t n, void *ctx)
{
	(void)ctx;
	for (size_t i = 0; i < n; i++) {
		struct object *object = objects[i];
		unsigned step = atomic_fetch_add(&steps, 1);
		struct td_batch_list list = {0};

		if (step % (STEPS + 1) == STEPS) {
			free(object);
		} else if (step % 3 == 0) {
			(void)td_batch_free(chained, &object->node, 0);
		} else {
			td_batch_list_add(&list, &object->node, 0);
			(void)td_batch_free_list(chained, &list,
						 step % 3 == 1 ? TD_BATCH_NO_READERS : 0);
		}
	}
}

START_TEST(a_batch_ends_when_its_callbacks_have_stopped_adding)
{
	for (unsigned round = 0; round < (TDT_SANITIZED ? 5 : 30); round++) {
		struct object *object = make(NULL);

		ck_assert_int_eq(td_batch_create(engine,
						 TD_BATCH_OPTS(.free_bulk = add_next),
						 &chained),
				 0);
		ck_assert_int_eq(td_batch_free(chained, &object->node, 0), 0);
		ck_assert_int_eq(td_batch_destroy(chained, 0), 0);
		ck_assert_uint_eq(atomic_load(&steps), (round + 1) * (STEPS + 1));
	}
}
END_TEST

/* ---- after the engine's end ---- */

static int flushed;

static void flush_and_free(void **objects, size_t n, void *ctx)
{
	flushed = td_batch_flush(*(td_batch **)ctx, 0);
	for (size_t i = 0; i < n; i++)
		free(objects[i]);
}

START_TEST(without_a_thread_a_callback_that_flushes_does_not_wait_for_itself)
{
	td_batch *late;

	flushed = 99;
	ck_assert_int_eq(
		td_batch_create(engine,
				TD_BATCH_OPTS(.free_bulk = flush_and_free, .ctx = &late),
				&late),
		0);
	ck_assert_int_eq(td_batch_destroy(batch, 0), 0);
	ck_assert_int_eq(td_engine_destroy(engine, TD_EXIT_DRAIN, 0), 0);
	ck_assert_int_eq(td_batch_free_ptr(late, make(NULL), 0), 0);
	/* Nor does a reader. */
	urcu_memb_register_thread();
	urcu_memb_read_lock();
	ck_assert_int_eq(td_batch_flush(late, 0), 0);
	urcu_memb_read_unlock();
	urcu_memb_unregister_thread();
	ck_assert_int_eq(flushed, 99);
	ck_assert_int_eq(td_batch_flush(late, 0), 0);
	ck_assert_int_eq(flushed, 0);
	ck_assert_int_eq(td_batch_destroy(late, 0), 0);
}
END_TEST

int main(void)
{
	struct tdt *tests = tdt_suite("grace");
	const TTest *all[] = {
		lists_that_overtake_each_other_are_all_waited_for,
		what_is_behind_a_missing_link_is_waited_for,
		what_needs_no_grace_period_and_is_behind_a_missing_link_is_waited_for,
		what_cannot_be_gathered_yet_is_waited_for,
		an_engine_is_not_drained_while_anything_is_on_its_way,
		a_batch_ends_when_its_callbacks_have_stopped_adding,
	};

	for (size_t i = 0; i < sizeof(all) / sizeof(*all); i++)
		tdt_add(tests, all[i], begin, end);
	tdt_add(tests, without_a_thread_a_callback_that_flushes_does_not_wait_for_itself,
		begin, NULL);
	return tdt_run(tests);
}
