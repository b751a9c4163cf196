/* SPDX-License-Identifier: MIT */
#include "batch.h"

#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>

bool batch_counting;
_Alignas(64) _Atomic(int64_t) batch_pending;
_Alignas(64) _Atomic(uint64_t) batch_periods;

/*
 * In the place of liburcu's own: its calls to itself come by here too, those of its
 * call_rcu and defer threads and those through its table of functions.
 */
void urcu_memb_synchronize_rcu(void)
{
	static void (*_Atomic real)(void);
	void (*call)(void) = atomic_load_explicit(&real, memory_order_relaxed);

	if (!call) {
		*(void **)&call = dlsym(RTLD_NEXT, "urcu_memb_synchronize_rcu");
		bench_must(call ? 0 : -ENOENT, "urcu_memb_synchronize_rcu");
		atomic_store_explicit(&real, call, memory_order_relaxed);
	}
	call();
	atomic_fetch_add_explicit(&batch_periods, 1, memory_order_relaxed);
}

static inline void count_freed(size_t n)
{
	if (batch_counting)
		atomic_fetch_sub_explicit(&batch_pending,
					  (int64_t)(n * BATCH_OBJECT_BYTES),
					  memory_order_relaxed);
}

static void free_counted(void *object)
{
	free(object);
	count_freed(1);
}

/* ---- free: no grace period ---- */

static void queue_free(struct batch_adder *adder, struct batch_object *const *objects,
		       size_t n)
{
	(void)adder;
	for (size_t i = 0; i < n; i++)
		free(objects[i]);
	count_freed(n);
}

/* ---- liburcu ---- */

static void register_reader(struct batch_adder *adder)
{
	(void)adder;
	urcu_memb_register_thread();
}

static void unregister_reader(struct batch_adder *adder)
{
	(void)adder;
	urcu_memb_unregister_thread();
}

static void free_rcu(struct rcu_head *head)
{
	free_counted(caa_container_of(head, struct batch_object, rcu));
}

static void queue_call_rcu(struct batch_adder *adder, struct batch_object *const *objects,
			   size_t n)
{
	(void)adder;
	for (size_t i = 0; i < n; i++)
		urcu_memb_call_rcu(&objects[i]->rcu, free_rcu);
}

/* Threads that poll, so that whoever queues need not look whether they sleep. */
static struct call_rcu_data *rt_helpers[BATCH_ADDERS_MAX];

static void begin_rt(td_engine *engine)
{
	(void)engine;
	for (unsigned i = 0; i < BATCH_ADDERS_MAX; i++) {
		rt_helpers[i] = urcu_memb_create_call_rcu_data(URCU_CALL_RCU_RT, -1);
		bench_must(rt_helpers[i] ? 0 : -ENOMEM, "create_call_rcu_data");
	}
}

static void end_rt(void)
{
	for (unsigned i = 0; i < BATCH_ADDERS_MAX; i++)
		urcu_memb_call_rcu_data_free(rt_helpers[i]);
}

static void enter_rt(struct batch_adder *adder)
{
	register_reader(adder);
	urcu_memb_set_thread_call_rcu_data(rt_helpers[adder->index]);
}

static void leave_rt(struct batch_adder *adder)
{
	urcu_memb_set_thread_call_rcu_data(NULL);
	unregister_reader(adder);
}

static void queue_defer_rcu(struct batch_adder *adder,
			    struct batch_object *const *objects, size_t n)
{
	void (*release)(void *) = batch_counting ? free_counted : free;

	(void)adder;
	for (size_t i = 0; i < n; i++)
		urcu_memb_defer_rcu(release, objects[i]);
}

static void enter_defer(struct batch_adder *adder)
{
	register_reader(adder);
	bench_must(urcu_memb_defer_register_thread() ? -ENOMEM : 0,
		   "rcu_defer_register_thread");
}

/* It frees what is left before it returns: a part of the total. */
static void last_defer(struct batch_adder *adder)
{
	(void)adder;
	urcu_memb_defer_barrier_thread();
}

static void leave_defer(struct batch_adder *adder)
{
	urcu_memb_defer_unregister_thread();
	unregister_reader(adder);
}

struct batch_list {
	struct rcu_head rcu;
	struct batch_object *first;
	size_t n;
};

static void free_list(struct rcu_head *head)
{
	struct batch_list *list = caa_container_of(head, struct batch_list, rcu);
	struct batch_object *object, *next;

	for (object = list->first; object; object = next) {
		next = object->next;
		free(object);
	}
	count_freed(list->n);
	free(list);
}

static void last_list(struct batch_adder *adder)
{
	if (adder->list)
		urcu_memb_call_rcu(&adder->list->rcu, free_list);
	adder->list = NULL;
}

static void queue_list(struct batch_adder *adder, struct batch_object *const *objects,
		       size_t n)
{
	for (size_t i = 0; i < n; i++) {
		struct batch_list *list = adder->list;

		if (!list) {
			list = adder->list = calloc(1, sizeof(*list));
			bench_must(list ? 0 : -ENOMEM, "calloc");
		}
		objects[i]->next = list->first;
		list->first = objects[i];
		if (++list->n == BATCH_BURST)
			last_list(adder);
	}
}

/* ---- Concurrency Kit ---- */

#ifdef BENCH_CK
static ck_epoch_t ck_epoch;
static ck_epoch_record_t ck_records[BATCH_ADDERS_MAX]; /* never to be freed */

static void begin_ck(td_engine *engine)
{
	static bool begun;

	(void)engine;
	if (begun)
		return;
	begun = true;
	ck_epoch_init(&ck_epoch);
	for (unsigned i = 0; i < BATCH_ADDERS_MAX; i++)
		ck_epoch_register(&ck_epoch, &ck_records[i], NULL);
}

static void free_ck(ck_epoch_entry_t *entry)
{
	free_counted(caa_container_of(entry, struct batch_object, ck));
}

static void queue_ck(struct batch_adder *adder, struct batch_object *const *objects,
		     size_t n)
{
	ck_epoch_record_t *record = &ck_records[adder->index];

	for (size_t i = 0; i < n; i++)
		ck_epoch_call(record, &objects[i]->ck, free_ck);
}

/* Callbacks are made here and nowhere else, in the adder's own thread. */
static void poll_ck(struct batch_adder *adder)
{
	if (ck_epoch_poll(&ck_records[adder->index]))
		atomic_fetch_add_explicit(&batch_periods, 1, memory_order_relaxed);
}

/* As the example of ck_epoch_call(3) has it: each call is followed by a poll. */
static void queue_ck_polled(struct batch_adder *adder,
			    struct batch_object *const *objects, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		queue_ck(adder, &objects[i], 1);
		poll_ck(adder);
	}
}

static void last_ck(struct batch_adder *adder)
{
	ck_epoch_barrier(&ck_records[adder->index]);
}
#endif

/* ---- td_batch ---- */

static td_batch *batch;

static void make_batch(td_engine *engine, const struct td_batch_opts *opts)
{
	bench_must(td_batch_create(engine, opts, &batch), "td_batch_create");
}

/* The default callback, and so is this where it is not counted. */
static void free_bulk(void **objects, size_t n, void *ctx)
{
	td_free_bulk_malloc(objects, n, ctx);
	count_freed(n);
}

#define BATCH_OPTS(...)                                                                  \
	TD_BATCH_OPTS(.name = "bench", .free_bulk = batch_counting ? free_bulk : NULL,   \
		      .flags = TD_BATCH_HELP, .object_bytes = BATCH_OBJECT_BYTES,        \
		      __VA_ARGS__)

static void begin_td(td_engine *engine)
{
	make_batch(engine, BATCH_OPTS(.max_bytes = TD_BATCH_UNBOUNDED));
}

static void begin_bounded(td_engine *engine)
{
	make_batch(engine, BATCH_OPTS(.max_bytes = BATCH_BOUND));
}

/*
 * Room never grows beyond an eighth of the bound, here the least that there is: 64,008
 * pointers. Objects count for so little that the bound itself is never met.
 */
static void begin_no_room(td_engine *engine)
{
	make_batch(engine, BATCH_OPTS(.max_bytes = (uint64_t)2 << 20, .room = 1));
}

static void end_td(void)
{
	bench_must(td_batch_destroy(batch, 0), "td_batch_destroy");
}

static void barrier_td(void)
{
	bench_must(td_batch_barrier(batch, TD_FOREVER), "td_batch_barrier");
}

static uint64_t room_td(void)
{
	struct td_batch_stats stats;

	bench_must(td_batch_stats(batch, &stats), "td_batch_stats");
	return stats.bytes_room;
}

static void queue_td(struct batch_adder *adder, struct batch_object *const *objects,
		     size_t n)
{
	for (size_t i = 0; i < n; i++) {
		int err;

		/* No room left: more is on its way. */
		while ((err = td_batch_free_ptr(batch, objects[i], BATCH_OBJECT_BYTES))) {
			bench_must(err == -EAGAIN ? 0 : err, "td_batch_free_ptr");
			adder->refused++;
		}
	}
}

static void queue_node(struct batch_adder *adder, struct batch_object *const *objects,
		       size_t n)
{
	int bad = 0;

	(void)adder;
	for (size_t i = 0; i < n; i++)
		bad |= td_batch_free(batch, &objects[i]->node, BATCH_OBJECT_BYTES);
	bench_must(bad, "td_batch_free");
}

static void last_td_list(struct batch_adder *adder)
{
	bench_must(td_batch_free_list(batch, &adder->td_list, 0), "td_batch_free_list");
}

static void queue_td_list(struct batch_adder *adder, struct batch_object *const *objects,
			  size_t n)
{
	for (size_t i = 0; i < n; i++) {
		td_batch_list_add(&adder->td_list, &objects[i]->node, BATCH_OBJECT_BYTES);
		if (adder->td_list.tdi_count == BATCH_BURST)
			last_td_list(adder);
	}
}

/* ---- */

#define LIBURCU .enter = register_reader, .leave = unregister_reader
#ifdef BENCH_CK
#define CK(...)                                                                          \
	LIBURCU, .begin = begin_ck, .last = last_ck,                                     \
		 .embedded_bytes = sizeof(ck_epoch_entry_t), __VA_ARGS__
#else
#define CK(...) .skipped = "built-without-libck-dev"
#endif
#define TD LIBURCU, .end = end_td, .barrier = barrier_td, .room = room_td

const struct batch_way batch_ways[NR_WAYS] = {
	[WAY_FREE] = {.name = "free", LIBURCU, .queue = queue_free},
	[WAY_CALL_RCU] = {.name = "call_rcu",
			  LIBURCU,
			  .queue = queue_call_rcu,
			  .barrier = urcu_memb_barrier,
			  .embedded_bytes = sizeof(struct rcu_head)},
	[WAY_CALL_RCU_RT] = {.name = "call_rcu_rt",
			     .begin = begin_rt,
			     .end = end_rt,
			     .enter = enter_rt,
			     .leave = leave_rt,
			     .queue = queue_call_rcu,
			     .barrier = urcu_memb_barrier,
			     .embedded_bytes = sizeof(struct rcu_head)},
	[WAY_DEFER_RCU] = {.name = "defer_rcu",
			   .enter = enter_defer,
			   .queue = queue_defer_rcu,
			   .last = last_defer,
			   .leave = leave_defer},
	[WAY_CALL_RCU_LIST] = {.name = "call_rcu_list",
			       LIBURCU,
			       .queue = queue_list,
			       .last = last_list,
			       .barrier = urcu_memb_barrier,
			       .embedded_bytes =
				       sizeof(void *) +
				       (double)sizeof(struct batch_list) / BATCH_BURST},
	[WAY_CK_EPOCH] = {.name = "ck_epoch", CK(.queue = queue_ck_polled)},
	[WAY_CK_CALL] = {.name = "ck_epoch_call",
			 CK(.queue = queue_ck, .relax = poll_ck)},
	[WAY_TD] = {.name = "td_batch", TD, .begin = begin_td, .queue = queue_td},
	[WAY_TD_NODE] = {.name = "td_batch_node",
			 TD,
			 .begin = begin_td,
			 .queue = queue_node,
			 .embedded_bytes = sizeof(struct td_batch_node)},
	[WAY_TD_LIST] = {.name = "td_batch_list",
			 TD,
			 .begin = begin_td,
			 .queue = queue_td_list,
			 .last = last_td_list,
			 .embedded_bytes = sizeof(struct td_batch_node)},
	[WAY_TD_BOUNDED] = {.name = "td_batch_bounded",
			    TD,
			    .begin = begin_bounded,
			    .queue = queue_td},
	[WAY_TD_NO_ROOM] = {.name = "td_batch_no_room",
			    TD,
			    .begin = begin_no_room,
			    .queue = queue_td},
};
