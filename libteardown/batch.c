/* SPDX-License-Identifier: MIT */
#include "batch_internal.h"
#include "grace.h"
#include "sys.h"

#include <stdlib.h>
#include <string.h>
#include <urcu/urcu-memb.h>

#define OBJECT_BYTES 64u
#define CLOSE_BYTES ((uint64_t)1 << 20)
#define CLOSE_COUNT 4096u
#define CLOSE_AGE_NS UINT64_C(10000000)
#define MAX_BYTES ((uint64_t)256 << 20)
#define THREADS 32u
#define THREADS_MAX 65536u
#define ROOM ((size_t)128 << 10)
#define ROOM_MAX ((size_t)64 << 20)

/* Pointers ahead, in a page that the reapers have been reading: as many as are put in
 * while a cache line comes over from another CPU. */
#define AHEAD 64

/* ---- the bound ---- */

static bool near_bound(const struct td_batch *batch, int64_t bytes)
{
	return bytes > 0 && (uint64_t)bytes >= batch->max_bytes / 2;
}

static bool at_bound(const struct td_batch *batch, int64_t bytes)
{
	return bytes > 0 && (uint64_t)bytes >= batch->max_bytes - batch->max_bytes / 8;
}

/* In the place of a reaper. False: nothing is past its grace period. */
static bool help(struct td_batch *batch)
{
	struct tdi_reaping here;
	size_t n;

	if (!batch->helps)
		return false;
	tdi_reaping_enter(&here, batch->engine);
	n = tdi_batch_free_some(batch, false);
	tdi_reaping_leave(&here);
	atomic_fetch_add_explicit(&batch->objects_helped, n, memory_order_relaxed);
	return n > 0;
}

/*
 * What a thread does that adds while much is pending. A callback goes on: the one that it
 * would wait for is itself.
 */
static TDI_HOT void hold_bound(struct td_batch *batch)
{
	int64_t bytes = atomic_load_explicit(&batch->bytes, memory_order_relaxed);
	bool helped;

	if (tdi_likely(!near_bound(batch, bytes)) || tdi_engine_is_reaper(batch->engine))
		return;
	helped = help(batch);
	/* What is past its grace period waits for a CPU: another one would be no help. */
	if (!helped && !tdi_batch_has_ready(batch))
		tdi_grace_hint(&batch->engine->grace);
	if (!helped && at_bound(batch, bytes) && tdi_grace_runs(&batch->engine->grace)) {
		tdi_batch_await_room(batch);
		(void)help(batch);
	}
	if ((uint64_t)bytes > batch->max_bytes)
		atomic_fetch_add_explicit(&batch->passed_bound, 1, memory_order_relaxed);
}

/* ---- linked objects ---- */

static TDI_HOT void put_nodes(struct td_batch *batch, struct td_batch_node *first,
			      struct td_batch_node *last, size_t n, uint64_t bytes)
{
	atomic_fetch_add_explicit(&batch->bytes, (int64_t)bytes, memory_order_relaxed);
	atomic_fetch_add_explicit(&batch->open_bytes, bytes, memory_order_relaxed);
	if (atomic_fetch_add_explicit(&batch->open_count, n, memory_order_relaxed) + n >=
	    batch->close_count)
		tdi_grace_hint(&batch->engine->grace);
	tdi_chain_put(&batch->open, first, last);
	/* seq_cst: after the exchange in there; pairs with tdi_batch_drowse. */
	if (atomic_load_explicit(&batch->open_asleep, memory_order_seq_cst) &&
	    atomic_exchange_explicit(&batch->open_asleep, 0, memory_order_seq_cst))
		tdi_grace_wake(&batch->engine->grace);
}

static void put_direct(struct td_batch *batch, struct td_batch_list *list, uint64_t bytes)
{
	atomic_fetch_add_explicit(&batch->bytes, (int64_t)bytes, memory_order_relaxed);
	atomic_fetch_add_explicit(&batch->direct_bytes, bytes, memory_order_relaxed);
	atomic_fetch_add_explicit(&batch->direct_count, list->tdi_count,
				  memory_order_relaxed);
	tdi_chain_put(&batch->direct, list->tdi_first, list->tdi_last);
	tdi_batch_submit(batch);
}

/* ---- a thread's group ---- */

/*
 * What a group holds is counted in the batch's bytes now and then, for it is a line that
 * all write to. At the bound each time, so that each time hold_bound() is asked.
 */
static uint64_t until_report(const struct td_batch *batch, int64_t bytes)
{
	return tdi_unlikely(at_bound(batch, bytes)) ? 1 : batch->report_bytes;
}

static void report(struct td_batch *batch, struct tdi_group *group, uint64_t in_page)
{
	uint64_t more =
		in_page - atomic_load_explicit(&group->reported, memory_order_relaxed);
	int64_t bytes =
		(int64_t)more + atomic_fetch_add_explicit(&batch->bytes, (int64_t)more,
							  memory_order_relaxed);

	atomic_store_explicit(&group->reported, in_page, memory_order_relaxed);
	group->bytes_stop = in_page + until_report(batch, bytes);
	group->since_close += more;
	if (group->since_close >= batch->close_bytes) {
		group->since_close = 0;
		tdi_grace_hint(&batch->engine->grace);
	}
}

static void close_page(struct td_batch *batch, struct tdi_group *group,
		       struct tdi_page *page)
{
	report(batch, group, atomic_load_explicit(&page->bytes, memory_order_relaxed));
	atomic_store_explicit(&group->reported, 0, memory_order_relaxed);
	group->stop = NULL;
	/* Before the push: see group.h. */
	atomic_store_explicit(&group->next, NULL, memory_order_release);
	tdi_page_push(&batch->pages, &batch->closed, page);
}

/* Sets the next stop: the end of the page, or enough objects for a group. */
static void go_on(struct td_batch *batch, struct tdi_group *group, struct tdi_page *page,
		  void **next)
{
	size_t n = (size_t)(tdi_page_limit(page) - next);

	if (group->until_close == 0) {
		group->until_close = batch->close_count;
		tdi_grace_hint(&batch->engine->grace);
	}
	n = tdi_min_size(n, group->until_close);
	group->until_close -= n;
	group->stop = next + n;
}

/* Makes place for a pointer: false: there is no page. */
static bool open_group(struct td_batch *batch, struct tdi_group *group)
{
	void **next = atomic_load_explicit(&group->next, memory_order_relaxed);
	struct tdi_page *page = tdi_page_before(next);

	if (next && next != group->stop)
		return true;
	if (next && next == tdi_page_limit(page)) {
		close_page(batch, group, page);
		next = NULL;
	}
	if (!next) {
		page = tdi_page_get(&batch->pages);
		if (!page) {
			tdi_grace_hint(&batch->engine->grace); /* for more */
			return false;
		}
		next = page->objects;
		group->bytes_stop = until_report(
			batch, atomic_load_explicit(&batch->bytes, memory_order_relaxed));
		/* Release: the page is as its closer wants it. */
		atomic_store_explicit(&group->next, next, memory_order_release);
		if (group->until_close == 0)
			group->until_close = batch->close_count;
	}
	go_on(batch, group, page, next);
	return true;
}

/*
 * Puts a pointer where place has been made. What is left to be done now and then, by
 * after(), is asked for in *more.
 */
static inline void put_in(struct tdi_group *group, void **next, void *object,
			  uint64_t bytes, bool *more)
{
	struct tdi_page *page = tdi_page_before(next + 1);

	tdi_prefetch_to_write(next + AHEAD);
	*next = object;
	/* A plain addition: nobody else writes. */
	bytes += atomic_load_explicit(&page->bytes, memory_order_relaxed);
	atomic_store_explicit(&page->bytes, bytes, memory_order_relaxed);
	/* Release: pairs with the acquire in take_open(). What made the object
	 * unreachable comes before it. */
	atomic_store_explicit(&group->next, next + 1, memory_order_release);
	/* Only the compiler has to keep the order: tdi_batch_drowse is followed by a
	 * barrier on all threads, or TDI_GROUP_FENCE is set. */
	atomic_signal_fence(memory_order_seq_cst);
	*more = bytes >= group->bytes_stop ||
		atomic_load_explicit(&group->flags, memory_order_relaxed) != 0;
}

/* 0, for those that end with it. */
static __attribute__((noinline)) int after(struct td_batch *batch,
					   struct tdi_group *group)
{
	void **next = atomic_load_explicit(&group->next, memory_order_relaxed);
	uint64_t bytes =
		atomic_load_explicit(&tdi_page_before(next)->bytes, memory_order_relaxed);
	uint32_t flags;

	/* An exchange is the fence, too, that TDI_GROUP_FENCE stands for. seq_cst:
	 * pairs with tdi_batch_drowse. */
	if (atomic_load_explicit(&group->flags, memory_order_relaxed) != 0) {
		flags = atomic_fetch_and_explicit(
			&group->flags, ~(uint32_t)TDI_GROUP_ASLEEP, memory_order_seq_cst);
		if (flags & TDI_GROUP_ASLEEP)
			tdi_grace_wake(&batch->engine->grace);
	}
	if (bytes >= group->bytes_stop)
		report(batch, group, bytes);
	hold_bound(batch);
	return 0;
}

/* ---- adding ---- */

/* How often a plain pointer's owner waits for room. */
#define ROOM_WAITS 2

static bool put_pointer(struct td_batch *batch, void *object, size_t bytes)
{
	struct tdi_group *group = tdi_group_find(&batch->groups);
	bool more;

	if (!group) {
		tdi_grace_hint(&batch->engine->grace); /* for more of them */
		return false;
	}
	if (!open_group(batch, group))
		return false;
	put_in(group, atomic_load_explicit(&group->next, memory_order_relaxed), object,
	       bytes, &more);
	(void)after(batch, group);
	return true;
}

static __attribute__((noinline)) int add_slow(struct td_batch *batch, void *object,
					      struct td_batch_node *node, size_t bytes)
{
	int err = tdi_engine_check(batch->engine);

	if (err)
		return err;
	if (bytes == 0)
		bytes = batch->object_bytes;
	for (unsigned waited = 0;; waited++) {
		if (!batch->private && put_pointer(batch, object, bytes))
			return 0;
		if (node) {
			put_nodes(batch, node, node, 1, bytes);
			hold_bound(batch);
			return 0;
		}
		if (waited == ROOM_WAITS || tdi_engine_is_reaper(batch->engine) ||
		    (!help(batch) && !tdi_grace_runs(&batch->engine->grace)))
			break;
		tdi_batch_await_room(batch);
	}
	atomic_fetch_add_explicit(&batch->refused, 1, memory_order_relaxed);
	return -EAGAIN;
}

/* Nothing but jumps to elsewhere: no register has to be saved on the way. */
static inline __attribute__((always_inline)) int add(struct td_batch *batch, void *object,
						     struct td_batch_node *node,
						     size_t bytes)
{
	struct tdi_group *group = tdi_group_cached(batch->groups.id);
	void **next;
	bool more;

	if (tdi_unlikely(!group))
		return add_slow(batch, object, node, bytes);
	next = atomic_load_explicit(&group->next, memory_order_relaxed);
	if (tdi_unlikely(next == group->stop))
		return add_slow(batch, object, node, bytes);
	put_in(group, next, object, bytes ? bytes : batch->object_bytes, &more);
	return tdi_unlikely(more) ? after(batch, group) : 0;
}

TDI_HOT int td_batch_free(td_batch *batch, struct td_batch_node *node, size_t bytes)
{
	if (tdi_unlikely(!batch || !node))
		return -EINVAL;
	return add(batch, (char *)node - batch->node_offset, node, bytes);
}

TDI_HOT int td_batch_free_ptr(td_batch *batch, void *object, size_t bytes)
{
	if (tdi_unlikely(!batch || !object))
		return -EINVAL;
	return add(batch, object, NULL, bytes);
}

/* The caller's word that nobody reads is not kept where he reads himself. */
static void check_readers(const struct td_batch *batch, unsigned flags)
{
#ifdef TDI_DEBUG
	if ((flags & TD_BATCH_NO_READERS) && batch->engine->flavor->read_ongoing())
		tdi_die("batch '%s': freed without a grace period inside a read-side "
			"critical section",
			batch->name);
#else
	(void)batch;
	(void)flags;
#endif
}

static int check(const struct td_batch *batch, unsigned flags)
{
	int err;

	if (!batch || (flags & ~(unsigned)TD_BATCH_NO_READERS) != 0)
		return -EINVAL;
	err = tdi_engine_check(batch->engine);
	if (!err)
		check_readers(batch, flags);
	return err;
}

int td_batch_free_list(td_batch *batch, struct td_batch_list *list, unsigned flags)
{
	int err = list ? check(batch, flags) : -EINVAL;
	uint64_t bytes;

	if (err || !list->tdi_first)
		return err;
	bytes = list->tdi_bytes ? list->tdi_bytes : list->tdi_count * batch->object_bytes;
	if (flags & TD_BATCH_NO_READERS)
		put_direct(batch, list, bytes);
	else
		put_nodes(batch, list->tdi_first, list->tdi_last, list->tdi_count, bytes);
	memset(list, 0, sizeof(*list));
	hold_bound(batch);
	return 0;
}

/* ---- closing and waiting ---- */

int td_batch_flush(td_batch *batch, unsigned flags)
{
	int err = check(batch, flags);

	if (err)
		return err;
	if (flags & TD_BATCH_NO_READERS)
		tdi_grace_skip(batch->engine, batch);
	else if (tdi_grace_runs(&batch->engine->grace))
		tdi_grace_request(&batch->engine->grace);
	else
		(void)tdi_grace_barrier(batch->engine, batch, UINT64_MAX);
	return 0;
}

int td_batch_barrier(td_batch *batch, int64_t timeout_ns)
{
	int err = check(batch, 0);

	if (err)
		return err;
	if (tdi_engine_is_reaper(batch->engine))
		return -EDEADLK;
	return tdi_grace_barrier(batch->engine, batch, tdi_sys_deadline(timeout_ns));
}

/* ---- creating and destroying ---- */

static void batch_free(struct td_batch *batch)
{
	struct td_engine *engine = batch->engine;
	bool private = batch->private;

	if (!private) {
		tdi_groups_destroy(&batch->groups);
		tdi_pages_destroy(&batch->pages);
	}
	pthread_mutex_destroy(&batch->ready.lock);
	free(batch);
	if (!private)
		tdi_engine_put(engine);
}

void tdi_batch_get(struct td_batch *batch)
{
	tdi_ref_get(&batch->refs, "batch", batch->name, "references");
}

void tdi_batch_put(struct td_batch *batch)
{
	if (tdi_ref_put(&batch->refs, "batch", batch->name, "references"))
		batch_free(batch);
}

static int options_check(const struct td_batch_opts *opts)
{
	const unsigned both = TD_BATCH_HELP | TD_BATCH_NO_HELP;

	if ((opts->flags & ~both) != 0 || (opts->flags & both) == both)
		return -EINVAL;
	return opts->threads > THREADS_MAX || opts->room > ROOM_MAX ? -EINVAL : 0;
}

static uint64_t or_default(uint64_t value, uint64_t otherwise)
{
	return value ? value : otherwise;
}

static void configure(struct td_batch *batch, const struct td_batch_opts *opts)
{
	strncpy(batch->name, opts->name ? opts->name : "batch", sizeof(batch->name) - 1);
	batch->flags = opts->flags;
	batch->free_bulk = opts->free_bulk ? opts->free_bulk : td_free_bulk_malloc;
	batch->ctx = opts->ctx;
	batch->helps = !(opts->flags & TD_BATCH_NO_HELP) &&
		       ((opts->flags & TD_BATCH_HELP) ||
			batch->free_bulk == td_free_bulk_malloc);
	batch->node_offset = opts->node_offset;
	batch->object_bytes = or_default(opts->object_bytes, OBJECT_BYTES);
	batch->close_bytes = or_default(opts->close_bytes, CLOSE_BYTES);
	batch->close_count = or_default(opts->close_count, CLOSE_COUNT);
	batch->close_age_ns = or_default(opts->close_age_ns, CLOSE_AGE_NS);
	batch->max_bytes = or_default(opts->max_bytes, MAX_BYTES);
	batch->report_bytes = batch->max_bytes / 64 < batch->close_bytes
				      ? or_default(batch->max_bytes / 64, 1)
				      : batch->close_bytes;
}

static struct td_batch *batch_alloc(struct td_engine *engine)
{
	struct td_batch *batch = aligned_alloc(_Alignof(struct td_batch), sizeof(*batch));

	if (!batch)
		return NULL;
	memset(batch, 0, sizeof(*batch));
	batch->engine = engine;
	tdi_chain_init(&batch->open);
	tdi_chain_init(&batch->direct);
	tdi_chain_init(&batch->ready.nodes);
	pthread_mutex_init(&batch->ready.lock, NULL);
	atomic_init(&batch->open_asleep, 1);
	td_work_init(&batch->work, &tdi_batch_work_ops, 0);
	tdi_ref_init(&batch->refs, 1);
	return batch;
}

int tdi_batch_create_private(struct td_engine *engine, const char *name,
			     td_free_bulk_fn *free_bulk, struct td_batch **ret)
{
	struct td_batch_opts opts = {
		.name = name, .free_bulk = free_bulk, .max_bytes = TD_BATCH_UNBOUNDED};
	struct td_batch *batch = batch_alloc(engine);

	if (!batch)
		return -ENOMEM;
	configure(batch, &opts);
	batch->private = true;
	tdi_grace_add(engine, batch);
	*ret = batch;
	return 0;
}

int td_batch_create(td_engine *given, const struct td_batch_opts *given_opts,
		    td_batch **ret)
{
	struct td_batch_opts opts = {0};
	struct td_engine *engine;
	struct td_batch *batch;
	size_t room;
	int err = tdi_opts_take(&opts, sizeof(opts), given_opts);

	if (!err)
		err = options_check(&opts);
	if (!err)
		err = tdi_engine_resolve(given, &engine);
	if (!err)
		err = tdi_grace_start(engine);
	if (err)
		return err;
	batch = batch_alloc(engine);
	if (!batch)
		return -ENOMEM;
	configure(batch, &opts);
	room = opts.room ? opts.room : ROOM;
	err = tdi_groups_init(&batch->groups, opts.threads ? opts.threads : THREADS);
	if (!err) {
		err = tdi_pages_init(&batch->pages, room / TDI_PAGE_OBJECTS + 1);
		if (err)
			tdi_groups_destroy(&batch->groups);
	}
	if (err) {
		pthread_mutex_destroy(&batch->ready.lock);
		free(batch);
		return err;
	}
	atomic_init(&batch->spare, tdi_page_get(&batch->pages));
	tdi_engine_get(engine);
	tdi_grace_add(engine, batch);
	*ret = batch;
	return 0;
}

int td_batch_destroy(td_batch *batch, unsigned flags)
{
	int err;

	if (!batch)
		return 0;
	err = check(batch, flags);
	if (err)
		return err;
	if (tdi_engine_is_reaper(batch->engine))
		return -EDEADLK;
	/* Callbacks may add again, and again. */
	do {
		if (flags & TD_BATCH_NO_READERS)
			tdi_grace_skip(batch->engine, batch);
		(void)tdi_grace_barrier(batch->engine, batch, UINT64_MAX);
	} while (!tdi_grace_is_empty(batch->engine, batch));
	tdi_grace_remove(batch->engine, batch);
	tdi_batch_put(batch);
	return 0;
}
