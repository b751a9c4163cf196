/* SPDX-License-Identifier: MIT */
/* td_batch: the end of batches, of their engines, and of threads that added. */
#include "batches.h"

#include <errno.h>

enum { N = 1500 };

/* ---- a batch's end ---- */

START_TEST(destroying_frees_all_that_was_added)
{
	struct object *objects = make_objects(N);

	add_all_sorts(objects, N);
	destroy(batch);
	ck_assert_uint_eq(count_freed(objects, N), N);
	free(objects);
	ck_assert_int_eq(td_batch_destroy(NULL, 0), 0);
	teardown();
}
END_TEST

static struct object *chained;
static atomic_size_t chain_left, chain_at;

/* Each in another way. */
static void add_one_again(struct tally *of, struct object *first, size_t n)
{
	size_t at = atomic_fetch_add(&chain_at, 1);
	struct td_batch_list list = {0};

	(void)of;
	(void)first;
	(void)n;
	if (atomic_load(&chain_left) == 0)
		return;
	atomic_fetch_sub(&chain_left, 1);
	switch (at % 4) {
	case 0:
		(void)td_batch_free(batch, &chained[at].node, 0);
		break;
	case 1:
		(void)td_batch_free_ptr(batch, &chained[at], 0);
		break;
	default:
		td_batch_list_add(&list, &chained[at].node, 0);
		(void)td_batch_free_list(batch, &list,
					 at % 4 == 2 ? 0 : TD_BATCH_NO_READERS);
	}
}

/* A short age: passes of the grace thread's own are in between, too. */
static void destroy_a_chain(unsigned flags)
{
	enum { LENGTH = 400 };
	struct object *first = make_objects(1);

	chained = make_objects(LENGTH);
	destroy(batch);
	for (int round = 0; round < 5; round++) {
		batch = make_batch(.close_age_ns = 20000, .close_count = 2);
		atomic_store(&first->freed, 0);
		for (size_t i = 0; i < LENGTH; i++)
			atomic_store(&chained[i].freed, 0);
		atomic_store(&chain_at, 0);
		atomic_store(&chain_left, LENGTH);
		tally.inside = add_one_again;
		add_node(batch, first, 0);
		ck_assert_int_eq(td_batch_destroy(batch, flags), 0);
		ck_assert_uint_eq(count_freed(first, 1), 1);
		ck_assert_uint_eq(count_freed(chained, LENGTH), LENGTH);
		tally.inside = NULL;
	}
	free(chained);
	free(first);
	teardown();
}

START_TEST(destroying_frees_what_callbacks_add)
{
	destroy_a_chain(0);
}
END_TEST

START_TEST(and_what_they_add_where_nobody_reads)
{
	destroy_a_chain(TD_BATCH_NO_READERS);
}
END_TEST

static atomic_bool enough;

static void add_itself_again(struct tally *of, struct object *first, size_t n)
{
	(void)of;
	(void)n;
	if (atomic_load(&enough))
		return;
	/* Two by turns: the one that is being freed counts when this returns. */
	atomic_store(&chained[first == chained].freed, 0);
	(void)td_batch_free(batch, &chained[first == chained].node, 0);
}

static void *destroy_it(void *arg)
{
	(void)arg;
	return (void *)(intptr_t)td_batch_destroy(batch, 0);
}

/* A barrier comes to its end beside callbacks without one; destroying when they have. */
START_TEST(callbacks_that_add_without_end_hold_up_no_barrier)
{
	pthread_t thread;
	void *result;

	chained = make_objects(2);
	destroy(batch);
	batch = make_batch(.close_count = 1);
	tally.inside = add_itself_again;
	add_node(batch, &chained[0], 0);
	for (int i = 0; i < 20; i++)
		barrier(batch);
	pthread_create(&thread, NULL, destroy_it, NULL);
	/* It is at it for a while. */
	for (size_t calls = atomic_load(&tally.calls);
	     atomic_load(&tally.calls) < calls + 100;)
		sched_yield();
	atomic_store(&enough, true);
	pthread_join(thread, &result);
	ck_assert_ptr_null(result);
	free(chained);
	teardown();
}
END_TEST

/* Pages are past their grace period all the time: each call makes the next one so. */
static void keep_a_page_ready(struct tally *of, struct object *first, size_t n)
{
	(void)of;
	(void)n;
	if (atomic_load(&enough) || (first != chained && first != chained + 1))
		return;
	add_itself_again(of, first, n);
	(void)td_batch_flush(batch, TD_BATCH_NO_READERS);
}

/* B3: neither do they hold up what is linked. */
START_TEST(pages_without_end_hold_up_no_list)
{
	struct object *objects = make_objects(20);
	struct td_batch_list list = {0};

	chained = make_objects(2);
	tally.inside = keep_a_page_ready;
	add_node(batch, &chained[0], 0);
	ck_assert_int_eq(td_batch_flush(batch, TD_BATCH_NO_READERS), 0);
	for (int i = 0; i < 20; i++) {
		td_batch_list_add(&list, &objects[i].node, 0);
		if (i % 10 == 9)
			ck_assert_int_eq(
				td_batch_free_list(batch, &list,
						   i < 10 ? TD_BATCH_NO_READERS : 0),
				0);
	}
	flush(batch);
	until(count_freed(objects, 20) == 20);
	barrier(batch);
	atomic_store(&enough, true);
	destroy(batch);
	free(chained);
	free(objects);
	teardown();
}
END_TEST

enum { OLD_THREADS = 3, GENERATIONS = 40 };

struct stayer {
	struct object *object;
	sem_t go, added;
	bool ends;
};

static void *add_each_time(void *arg)
{
	struct stayer *stayer = arg;

	for (;;) {
		sem_wait(&stayer->go);
		if (stayer->ends)
			return NULL;
		add_node(batch, stayer->object, 0);
		add_ptr(batch, stayer->object + 1, 0);
		sem_post(&stayer->added);
	}
}

/* The threads remember where they put objects of batches that are gone, and whose memory
 * the next ones may have. */
START_TEST(old_threads_find_their_way_in_new_batches)
{
	struct object *objects = make_objects(2 * OLD_THREADS);
	struct stayer stayers[OLD_THREADS];
	pthread_t threads[OLD_THREADS];

	for (size_t i = 0; i < OLD_THREADS; i++) {
		stayers[i] = (struct stayer){.object = &objects[2 * i]};
		sem_init(&stayers[i].go, 0, 0);
		sem_init(&stayers[i].added, 0, 0);
		pthread_create(&threads[i], NULL, add_each_time, &stayers[i]);
	}
	for (int generation = 0; generation < GENERATIONS; generation++) {
		for (size_t i = 0; i < OLD_THREADS; i++)
			sem_post(&stayers[i].go);
		for (size_t i = 0; i < OLD_THREADS; i++)
			sem_wait(&stayers[i].added);
		destroy(batch);
		ck_assert_uint_eq(count_freed(objects, 2 * OLD_THREADS), 2 * OLD_THREADS);
		for (size_t i = 0; i < 2 * OLD_THREADS; i++)
			atomic_store(&objects[i].freed, 0);
		batch = make_batch(.name = "next");
	}
	for (size_t i = 0; i < OLD_THREADS; i++) {
		stayers[i].ends = true;
		sem_post(&stayers[i].go);
		pthread_join(threads[i], NULL);
	}
	free(objects);
	teardown_batch();
}
END_TEST

/* More batches than a thread remembers, in turns. */
START_TEST(a_thread_adds_to_many_batches)
{
	enum { BATCHES = 2 * TDI_GROUP_CACHE + 1 };
	struct object *objects = make_objects(BATCHES * 10);
	td_batch *many[BATCHES];

	for (size_t i = 0; i < BATCHES; i++)
		many[i] = make_batch(.threads = 1);
	for (size_t i = 0; i < BATCHES * 10; i++)
		add_ptr(many[i % BATCHES], &objects[i], 0);
	for (size_t i = 0; i < BATCHES; i++)
		destroy(many[i]);
	ck_assert_uint_eq(count_freed(objects, BATCHES * 10), BATCHES * 10);
	free(objects);
	teardown_batch();
}
END_TEST

/* ---- threads that end ---- */

static void *add_two(void *arg)
{
	struct object *objects = arg;

	add_ptr(batch, &objects[0], 0);
	add_node(batch, &objects[1], 0);
	return NULL;
}

/* What they left open is freed, and their groups are used again. */
START_TEST(threads_may_end_with_open_groups)
{
	enum { ENDED = 700 };
	struct object *objects = make_objects(2 * ENDED);

	destroy(batch);
	batch = make_batch(.threads = 1);
	for (size_t i = 0; i < ENDED; i++)
		on_thread(add_two, &objects[2 * i]);
	ck_assert_uint_eq(atomic_load(&batch->groups.n), 1);
	ck_assert_uint_eq(atomic_load(&batch->open_count), 0);
	destroy(batch);
	ck_assert_uint_eq(count_freed(objects, 2 * ENDED), 2 * ENDED);
	free(objects);
	teardown();
}
END_TEST

static pthread_key_t late_key;

static void add_late(void *objects)
{
	add_two(objects);
}

static void *end_adding(void *arg)
{
	struct object *objects = arg;

	pthread_setspecific(late_key, objects + 2);
	add_two(objects);
	return NULL;
}

/* Destructors of thread-specific data run in any order: one may add after ours has. */
START_TEST(a_thread_may_add_while_it_ends)
{
	enum { ENDED = 20 };
	struct object *objects = make_objects(4 * ENDED);

	ck_assert_int_eq(pthread_key_create(&late_key, add_late), 0);
	destroy(batch);
	batch = make_batch(.threads = 1);
	for (size_t i = 0; i < ENDED; i++)
		on_thread(end_adding, &objects[4 * i]);
	ck_assert_uint_eq(atomic_load(&batch->groups.n), 1);
	ck_assert_uint_eq(atomic_load(&batch->open_count), 0);
	destroy(batch);
	ck_assert_uint_eq(count_freed(objects, 4 * ENDED), 4 * ENDED);
	free(objects);
	teardown();
}
END_TEST

/* ---- an engine's end ---- */

static int results[2];

static void flush_inside(struct tally *of, struct object *first, size_t n)
{
	(void)of;
	(void)first;
	(void)n;
	results[0] = td_batch_flush(batch, 0);
	results[1] = td_batch_barrier(batch, TD_FOREVER);
}

/* Each call that frees does so in its caller, when there is nobody else any more. */
static void goes_on_alone(void)
{
	struct object *objects = make_objects(4 * N);
	struct reader reader;

	add_all_sorts(objects, N);
	barrier(batch);
	ck_assert_uint_eq(count_freed(objects, N), N);
	add_all_sorts(objects + N, N);
	flush(batch);
	ck_assert_uint_eq(count_freed(objects + N, N), N);
	enter_reader(&reader, NULL);
	add_all_sorts(objects + 2 * N, N);
	ck_assert_int_eq(td_batch_flush(batch, TD_BATCH_NO_READERS), 0);
	ck_assert_uint_eq(count_freed(objects + 2 * N, N), N);
	leave_reader(&reader);
	tally.inside = flush_inside;
	add_all_sorts(objects + 3 * N, N);
	barrier(batch);
	ck_assert_int_eq(results[0], 0);
	ck_assert_int_eq(results[1], -EDEADLK);
	for (size_t i = 0; i < 4 * N; i++)
		atomic_store(&objects[i].freed, 0);
	tally.inside = NULL;
	add_all_sorts(objects, N);
	destroy(batch);
	ck_assert_uint_eq(count_freed(objects, N), N);
	free(objects);
}

START_TEST(draining_an_engine_frees_what_is_open)
{
	struct object *objects = make_objects(N);

	add_all_sorts(objects, N);
	teardown();
	ck_assert_uint_eq(count_freed(objects, N), N);
	goes_on_alone();
	free(objects);
}
END_TEST

static bool is_stopping(void)
{
	bool stopped;

	pthread_mutex_lock(&engine->queues.first->lock);
	stopped = engine->queues.first->stopped;
	pthread_mutex_unlock(&engine->queues.first->lock);
	return stopped;
}

static void *abandon_it(void *arg)
{
	enum td_exit_mode mode = *(enum td_exit_mode *)arg;

	return (void *)(intptr_t)td_engine_destroy(engine, mode, 1000000);
}

/* What the engine has abandoned at whatever stage is freed by the batch. */
static void abandon_with_groups(enum td_exit_mode mode, int expected)
{
	struct object *objects = make_objects(3 * N);
	struct reader reader;
	struct hold hold;
	pthread_t thread;
	void *result;

	hold_reaper(&hold);
	add_all_sorts(objects, N);
	flush(batch);
	until((tdi_batch_has_ready(batch)));
	await_closed(batch, N);
	enter_reader(&reader, NULL);
	add_all_sorts(objects + N, N); /* in a grace period */
	flush(batch);
	await_closed(batch, 2 * N);
	add_all_sorts(objects + 2 * N, N); /* open */
	pthread_create(&thread, NULL, abandon_it, &mode);
	until(is_stopping());
	let_go(&hold);
	pthread_join(thread, &result);
	ck_assert_int_eq((int)(intptr_t)result, expected);
	ck_assert_uint_eq(count_freed(objects + N, 2 * N), 0);
	leave_reader(&reader);
	destroy(batch);
	ck_assert_uint_eq(count_freed(objects, 3 * N), 3 * N);
	free(objects);
}

START_TEST(a_batch_outlives_an_abandoned_engine)
{
	abandon_with_groups(TD_EXIT_ABANDON, 0);
}
END_TEST

START_TEST(a_batch_outlives_an_engine_that_is_out_of_time)
{
	abandon_with_groups(TD_EXIT_DEADLINE, -ETIMEDOUT);
}
END_TEST

START_TEST(a_batch_goes_on_without_its_abandoned_engine)
{
	ck_assert_int_eq(td_engine_destroy(engine, TD_EXIT_ABANDON, 0), 0);
	goes_on_alone();
}
END_TEST

int main(void)
{
	struct tdt *tests = tdt_suite("batch_end");

#define ADD(name) tdt_add(tests, name, setup_batch, NULL)
	ADD(destroying_frees_all_that_was_added);
	ADD(destroying_frees_what_callbacks_add);
	ADD(and_what_they_add_where_nobody_reads);
	ADD(callbacks_that_add_without_end_hold_up_no_barrier);
	ADD(pages_without_end_hold_up_no_list);
	ADD(old_threads_find_their_way_in_new_batches);
	ADD(a_thread_adds_to_many_batches);
	ADD(threads_may_end_with_open_groups);
	ADD(a_thread_may_add_while_it_ends);
	ADD(draining_an_engine_frees_what_is_open);
	ADD(a_batch_outlives_an_abandoned_engine);
	ADD(a_batch_outlives_an_engine_that_is_out_of_time);
	ADD(a_batch_goes_on_without_its_abandoned_engine);
	return tdt_run(tests);
}
