/* SPDX-License-Identifier: MIT */
/* What is handed over: objects to a batch, works to reapers, a space by its last user. */
#include "count.h"
#include "engine_internal.h"
#include "group.h"

#include <errno.h>
#include <sched.h>
#include <semaphore.h>
#include <stdlib.h>

#include <teardown.h>
#include <urcu/urcu-memb.h>

#define NR_ELEMENTS(array) ((unsigned)(sizeof(array) / sizeof((array)[0])))
#define CALLS 32
#define OBJECT_BYTES 200
#define REGION_BYTES ((size_t)64 << 10)

/* ---- objects that readers may see ---- */

struct object {
	struct td_batch_node node;
	struct rcu_head rcu;
};

static sem_t rcu_is_busy, rcu_may_go_on;

static void block_rcu(struct rcu_head *head)
{
	(void)head;
	sem_post(&rcu_is_busy);
	while (sem_wait(&rcu_may_go_on))
		;
}

static void free_later(struct rcu_head *head)
{
	(void)head;
}

static void free_none(void **objects, size_t n, void *ctx)
{
	(void)objects;
	(void)n;
	(void)ctx;
}

static inline int call_rcu_of(struct object *object)
{
	urcu_memb_call_rcu(&object->rcu, free_later);
	return 0;
}

COUNTED(batch_pointer, td_batch_free_ptr(a, b, OBJECT_BYTES))
COUNTED(batch_node, td_batch_free(a, &((struct object *)b)->node, OBJECT_BYTES))
COUNTED(batch_pointer_page, td_batch_free_ptr(a, b, OBJECT_BYTES))
COUNTED(call_rcu, call_rcu_of(b))

enum { POINTER, NODE, PAGE, CALL_RCU };
static struct counted adds[] = {
	[POINTER] = COUNTED_PATH(batch_pointer),
	[NODE] = COUNTED_PATH(batch_node),
	[PAGE] = COUNTED_PATH(batch_pointer_page),
	[CALL_RCU] = COUNTED_PEER(call_rcu),
};

/* The thread that makes its calls has one to make that lasts: it is not to be woken. */
static void count_call_rcu(struct object *objects)
{
	static struct rcu_head first;

	count_must(sem_init(&rcu_is_busy, 0, 0) || sem_init(&rcu_may_go_on, 0, 0) ? -errno
										  : 0,
		   "sem_init");
	urcu_memb_register_thread();
	urcu_memb_call_rcu(&first, block_rcu);
	while (sem_wait(&rcu_is_busy))
		;
	for (unsigned i = 0; i < CALLS; i++)
		count_perform(&adds[CALL_RCU], NULL, &objects[i], NULL);
	sem_post(&rcu_may_go_on);
	urcu_memb_barrier();
	urcu_memb_unregister_thread();
}

static void **place_of(td_batch *batch)
{
	const struct tdi_batch_front *front = (const void *)batch;

	return tdi_group_entry_of(front->id)->group->next;
}

/* Until a page is full: the next one takes it away and gets another. */
static void fill_page(td_batch *batch, struct object *object)
{
	do {
		count_must(td_batch_free_ptr(batch, object, OBJECT_BYTES),
			   "td_batch_free_ptr");
	} while ((uintptr_t)place_of(batch) % TDI_BATCH_PAGE != 0);
}

void count_batches(void)
{
	/* Nothing is closed by itself: the grace thread, once woken, lets groups be. */
	const uint64_t never = (uint64_t)3600 * 1000000000u;
	static struct object objects[CALLS];
	td_engine *engine;
	td_batch *batch;

	count_must(td_engine_create(TD_ENGINE_OPTS(.reapers = 1), &engine),
		   "td_engine_create");
	count_must(td_batch_create(
			   engine,
			   TD_BATCH_OPTS(.free_bulk = free_none,
					 .node_offset = offsetof(struct object, node),
					 .close_bytes = (uint64_t)1 << 30,
					 .max_bytes = TD_BATCH_UNBOUNDED,
					 .close_count = (size_t)1 << 30,
					 .close_age_ns = never),
			   &batch),
		   "td_batch_create");
	fill_page(batch, objects);
	for (unsigned i = 0; i < CALLS; i++) {
		count_perform(&adds[PAGE], batch, &objects[i], NULL);
		count_perform(&adds[POINTER], batch, &objects[i], NULL);
		count_perform(&adds[NODE], batch, &objects[i], NULL);
		fill_page(batch, objects);
	}
	count_must(td_batch_destroy(batch, 0), "td_batch_destroy");
	count_must(td_engine_destroy(engine, TD_EXIT_DRAIN, TD_FOREVER),
		   "td_engine_destroy");
	count_call_rcu(objects);
	count_tell(adds, NR_ELEMENTS(adds));
}

/* ---- works, and the last user ---- */

COUNTED(submit, td_engine_submit(a, b))
COUNTED(submit_wake, td_engine_submit(a, b))
COUNTED(put_last, td_space_put(a))
COUNTED(put_last_wake, td_space_put(a))

enum { SUBMIT, SUBMIT_WAKE, PUT, PUT_WAKE };
static struct counted hand_overs[] = {
	[SUBMIT] = COUNTED_PATH(submit),
	[SUBMIT_WAKE] = COUNTED_PATH(submit_wake),
	[PUT] = COUNTED_PATH(put_last),
	[PUT_WAKE] = COUNTED_PATH(put_last_wake),
};

static sem_t reaper_is_busy, reaper_may_go_on;

static int block_reaper(struct td_work *work, struct td_slice *slice)
{
	(void)work;
	(void)slice;
	sem_post(&reaper_is_busy);
	while (sem_wait(&reaper_may_go_on))
		;
	return TD_WORK_DONE;
}

static int do_nothing(struct td_work *work, struct td_slice *slice)
{
	(void)work;
	(void)slice;
	return TD_WORK_DONE;
}

static const struct td_work_ops blocking = {.slice = block_reaper};
static const struct td_work_ops short_one = {.slice = do_nothing};

/* The only reaper sleeps, or is about to: who comes now has to wake it. */
static void await_sleep(td_engine *engine)
{
	struct tdi_queue *queue = engine->queues.first;

	while (atomic_load(&queue->sleepers) == 0 || atomic_load(&queue->signal) != 0)
		sched_yield();
}

static void drain(td_engine *engine)
{
	count_must(td_engine_drain(engine, TD_FOREVER), "td_engine_drain");
}

static void make(td_engine *engine, struct td_work *work, td_space **space)
{
	void *memory;

	td_work_init(work, &short_one, REGION_BYTES);
	count_must(td_space_create(engine, NULL, space), "td_space_create");
	count_must(td_region_map(*space, REGION_BYTES, NULL, &memory), "td_region_map");
}

/* No counter of what was the most so far has a new one to keep. */
static void have_a_peak(td_engine *engine)
{
	struct td_work large;

	td_work_init(&large, &short_one, (uint64_t)1 << 30);
	count_must(td_engine_submit(engine, &large), "td_engine_submit");
	drain(engine);
}

void count_works(void)
{
	static struct td_work works[CALLS];
	td_space *spaces[CALLS];
	struct td_work busy, first;
	td_engine *engine;

	count_must(sem_init(&reaper_is_busy, 0, 0) || sem_init(&reaper_may_go_on, 0, 0)
			   ? -errno
			   : 0,
		   "sem_init");
	count_must(td_engine_create(TD_ENGINE_OPTS(.reapers = 1), &engine),
		   "td_engine_create");
	have_a_peak(engine);
	for (unsigned i = 0; i < CALLS; i++) {
		make(engine, &works[i], &spaces[i]);
		await_sleep(engine);
		count_perform(&hand_overs[SUBMIT_WAKE], engine, &works[i], NULL);
		drain(engine);
		await_sleep(engine);
		count_perform(&hand_overs[PUT_WAKE], spaces[i], NULL, NULL);
		drain(engine);
	}
	td_work_init(&busy, &blocking, REGION_BYTES);
	count_must(td_engine_submit(engine, &busy), "td_engine_submit");
	while (sem_wait(&reaper_is_busy))
		;
	/* The first to come signals, to nobody; and others find something pending. */
	td_work_init(&first, &short_one, 0);
	count_must(td_engine_submit(engine, &first), "td_engine_submit");
	for (unsigned i = 0; i < CALLS; i++) {
		make(engine, &works[i], &spaces[i]);
		count_perform(&hand_overs[SUBMIT], engine, &works[i], NULL);
		count_perform(&hand_overs[PUT], spaces[i], NULL, NULL);
	}
	sem_post(&reaper_may_go_on);
	count_tell(hand_overs, NR_ELEMENTS(hand_overs));
	count_must(td_engine_destroy(engine, TD_EXIT_DRAIN, TD_FOREVER),
		   "td_engine_destroy");
}
