/* SPDX-License-Identifier: MIT */
/*
 * For tests of batches: objects that count how often they are freed, a bulk callback that
 * can be stopped in the middle, and a reader that stays inside its read-side section.
 */
#ifndef TDT_BATCHES_H
#define TDT_BATCHES_H

#include "batch_internal.h"
#include "hold.h"

#include <sched.h>
#include <stdlib.h>
#include <teardown/pressure.h>
#include <urcu/urcu-memb.h>

#define HOUR_NS UINT64_C(3600000000000)
#define MOMENT_NS INT64_C(20000000) /* that nothing happens in */

/* Until it is so, or the test has failed. */
#define until(condition)                                                                 \
	do {                                                                             \
		uint64_t deadline_ = tdi_sys_deadline(INT64_C(30000000000));             \
                                                                                         \
		while (!(condition)) {                                                   \
			ck_assert_msg(tdi_sys_now_ns() < deadline_, "never: %s",         \
				      #condition);                                       \
			sched_yield();                                                   \
		}                                                                        \
	} while (0)

/* ---- objects ---- */

struct object {
	uint64_t before;
	struct td_batch_node node; /* not at the beginning */
	atomic_uint freed;	   /* how often */
	uint64_t after;
};

static inline struct object *make_objects(size_t n)
{
	struct object *objects = calloc(n, sizeof(*objects));

	ck_assert_ptr_nonnull(objects);
	for (size_t i = 0; i < n; i++)
		objects[i].before = objects[i].after = 0x600d600d600d600d;
	return objects;
}

/* How many of them have been freed; none twice, none written to beside its node. (One
 * assertion for all: Check takes microseconds for each.) */
static inline size_t count_freed(struct object *objects, size_t n)
{
	size_t freed = 0, bad = 0;

	for (size_t i = 0; i < n; i++) {
		unsigned times = atomic_load(&objects[i].freed);

		bad += times > 1 || objects[i].before != 0x600d600d600d600d ||
		       objects[i].after != 0x600d600d600d600d;
		freed += times;
	}
	ck_assert_uint_eq(bad, 0);
	return freed;
}

/* ---- the callback ---- */

/* What callbacks of a batch have done. All zero is a fresh one. */
struct tally {
	atomic_size_t freed, calls, largest;
	/* In the callback, before its objects count as freed; n objects. */
	void (*inside)(struct tally *tally, struct object *first, size_t n);
	atomic_bool stops; /* callbacks post `entered` and wait for `may_go` */
	sem_t entered, may_go;
};

static inline void tally_bulk(void **objects, size_t n, void *ctx)
{
	struct tally *tally = ctx;

	if (n == 0)
		abort();
	if (atomic_load(&tally->stops)) {
		sem_post(&tally->entered);
		sem_wait(&tally->may_go);
	}
	if (tally->inside)
		tally->inside(tally, objects[0], n);
	for (size_t i = 0; i < n; i++) {
		atomic_fetch_add(&((struct object *)objects[i])->freed, 1);
		objects[i] = NULL; /* the array may be written to */
	}
	atomic_fetch_add(&tally->calls, 1);
	if (n > atomic_load(&tally->largest))
		atomic_store(&tally->largest, n);
	atomic_fetch_add(&tally->freed, n);
}

static inline void stop_callbacks(struct tally *tally)
{
	sem_init(&tally->entered, 0, 0);
	sem_init(&tally->may_go, 0, 0);
	atomic_store(&tally->stops, true);
}

static inline void let_callbacks_go(struct tally *tally)
{
	atomic_store(&tally->stops, false);
	sem_post(&tally->may_go);
}

/* ---- batches ---- */

static td_batch *batch __attribute__((unused));
static struct tally tally __attribute__((unused));

/* What the test leaves open: objects are tallied, and nothing closes a group by itself.
 */
static inline struct td_batch_opts test_opts(const struct td_batch_opts *given)
{
	struct td_batch_opts opts = *given;

	if (!opts.free_bulk) {
		opts.free_bulk = tally_bulk;
		opts.ctx = &tally;
		opts.node_offset = offsetof(struct object, node);
	}
	opts.close_age_ns = opts.close_age_ns ? opts.close_age_ns : HOUR_NS;
	opts.close_count = opts.close_count ? opts.close_count : SIZE_MAX;
	opts.close_bytes = opts.close_bytes ? opts.close_bytes : UINT64_MAX;
	return opts;
}

static inline td_batch *make_batch_of(td_engine *of, const struct td_batch_opts *given)
{
	struct td_batch_opts opts = test_opts(given);
	td_batch *made = NULL;

	ck_assert_int_eq(td_batch_create(of, &opts, &made), 0);
	ck_assert_ptr_nonnull(made);
	return made;
}

#define make_batch(...) make_batch_of(engine, TD_BATCH_OPTS(__VA_ARGS__))

static inline struct td_batch_stats batch_stats(td_batch *of)
{
	struct td_batch_stats now;

	ck_assert_int_eq(td_batch_stats(of, &now), 0);
	return now;
}

static inline void add_node(td_batch *to, struct object *object, size_t bytes)
{
	ck_assert_int_eq(td_batch_free(to, &object->node, bytes), 0);
}

static inline void add_ptr(td_batch *to, struct object *object, size_t bytes)
{
	ck_assert_int_eq(td_batch_free_ptr(to, object, bytes), 0);
}

static inline void barrier(td_batch *of)
{
	ck_assert_int_eq(td_batch_barrier(of, TD_FOREVER), 0);
}

static inline void destroy(td_batch *of)
{
	ck_assert_int_eq(td_batch_destroy(of, 0), 0);
}

static inline void setup_batch(void)
{
	setup();
	batch = make_batch(.name = "test");
}

static inline void teardown_batch(void)
{
	destroy(batch);
	teardown();
}

/* In groups, in full pages if they are many, linked. */
static inline void add_all_sorts(struct object *objects, size_t n)
{
	struct td_batch_list list = {0};

	for (size_t i = 0; i < n; i++) {
		if (i % 3 == 0)
			add_node(batch, &objects[i], 0);
		else if (i % 3 == 1)
			add_ptr(batch, &objects[i], 0);
		else
			td_batch_list_add(&list, &objects[i].node, 0);
	}
	ck_assert_int_eq(td_batch_free_list(batch, &list, 0), 0);
}

/* ---- readers ---- */

struct reader {
	const struct rcu_flavor_struct *flavor;
	pthread_t thread;
	sem_t inside, leave;
};

static inline void *read_until_told(void *arg)
{
	struct reader *reader = arg;

	reader->flavor->register_thread();
	reader->flavor->read_lock();
	sem_post(&reader->inside);
	while (sem_wait(&reader->leave) != 0)
		continue;
	/* The library takes it over after the grace period. */
	tdi_tsan_release((void *)(uintptr_t)reader->flavor);
	reader->flavor->read_unlock();
	reader->flavor->unregister_thread();
	return NULL;
}

/* Returns when the reader is inside. NULL: of the default flavor. */
static inline void enter_reader(struct reader *reader,
				const struct rcu_flavor_struct *flavor)
{
	reader->flavor = flavor ? flavor : &urcu_memb_flavor;
	sem_init(&reader->inside, 0, 0);
	sem_init(&reader->leave, 0, 0);
	ck_assert_int_eq(pthread_create(&reader->thread, NULL, read_until_told, reader),
			 0);
	while (sem_wait(&reader->inside) != 0)
		continue;
}

static inline void leave_reader(struct reader *reader)
{
	sem_post(&reader->leave);
	pthread_join(reader->thread, NULL);
}

/* Until a pass has taken so many objects in all: it is in its grace period then, or
 * beyond. */
static inline void await_closed(td_batch *of, size_t objects)
{
	until(batch_stats(of).objects_closed >= objects);
}

static inline void flush(td_batch *of)
{
	ck_assert_int_eq(td_batch_flush(of, 0), 0);
}

/* fn(arg) on a thread of its own, until its end. */
static inline void on_thread(void *(*fn)(void *arg), void *arg)
{
	pthread_t thread;

	ck_assert_int_eq(pthread_create(&thread, NULL, fn, arg), 0);
	pthread_join(thread, NULL);
}

#endif
