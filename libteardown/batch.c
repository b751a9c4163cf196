/* SPDX-License-Identifier: MIT */
/* Adding to a batch, and its bound. */
#include "batch_internal.h"
#include "grace.h"
#include "sys.h"
#include "trace.h"

#include <string.h>

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
	if (n > 0)
		tdi_trace_help(batch->engine->name, TDI_HELP_OBJECTS, n);
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
	bool closes;

	atomic_fetch_add_explicit(&batch->bytes, (int64_t)bytes, memory_order_relaxed);
	closes = atomic_fetch_add_explicit(&batch->open_bytes, bytes,
					   memory_order_relaxed) +
			 bytes >=
		 batch->close_bytes;
	closes |= atomic_fetch_add_explicit(&batch->open_count, n, memory_order_relaxed) +
			  n >=
		  batch->close_count;
	tdi_chain_put(&batch->open, first, last);
	if (closes) /* not before there is something to be found */
		tdi_grace_request(&batch->engine->grace);
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
 * all write to; and when it is enough to close it. At the bound each time, so that each
 * time hold_bound() is asked.
 */
static uint64_t until_report(const struct td_batch *batch, const struct tdi_group *group,
			     int64_t bytes)
{
	uint64_t until_close = batch->close_bytes - group->since_close;

	if (tdi_unlikely(at_bound(batch, bytes)))
		return 1;
	return until_close < batch->report_bytes ? until_close : batch->report_bytes;
}

static void report(struct td_batch *batch, struct tdi_group *group, uint64_t in_page)
{
	uint64_t more =
		in_page - atomic_load_explicit(&group->reported, memory_order_relaxed);
	int64_t bytes =
		(int64_t)more + atomic_fetch_add_explicit(&batch->bytes, (int64_t)more,
							  memory_order_relaxed);

	atomic_store_explicit(&group->reported, in_page, memory_order_relaxed);
	group->since_close += more;
	if (group->since_close >= batch->close_bytes) {
		group->since_close = 0;
		tdi_grace_request(&batch->engine->grace);
	}
	group->front.bytes_stop = in_page + until_report(batch, group, bytes);
}

static void close_page(struct td_batch *batch, struct tdi_group *group,
		       struct tdi_page *page)
{
	report(batch, group, atomic_load_explicit(&page->bytes, memory_order_relaxed));
	atomic_store_explicit(&group->reported, 0, memory_order_relaxed);
	group->front.stop = NULL;
	/* Around the push: see group.h. */
	__atomic_store_n(&group->front.next, TDI_GROUP_CLOSING, __ATOMIC_RELEASE);
	tdi_page_push(&batch->pages, &batch->closed, page);
	/* Release: who sees this sees the page where it was pushed to. */
	__atomic_store_n(&group->front.next, NULL, __ATOMIC_RELEASE);
}

/* Makes place for a pointer: false: there is no page. */
static bool open_group(struct td_batch *batch, struct tdi_group *group)
{
	void **next = group->front.next;
	struct tdi_page *page = tdi_page_before(next);

	if (next && next != tdi_page_limit(page))
		return true;
	if (next)
		close_page(batch, group, page);
	page = tdi_page_get(&batch->pages);
	if (!page) {
		tdi_grace_hint(&batch->engine->grace); /* for more */
		return false;
	}
	group->front.bytes_stop = until_report(
		batch, group, atomic_load_explicit(&batch->bytes, memory_order_relaxed));
	/* Release: the page is as its closer wants it. */
	__atomic_store_n(&group->front.next, page->objects, __ATOMIC_RELEASE);
	return true;
}

/*
 * A pointer has been put in. Sets the next stop: the end of the page, or one object less
 * than closes the group, so that the last one, too, comes by here.
 */
static void go_on(struct td_batch *batch, struct tdi_group *group)
{
	void **next = group->front.next;
	size_t n = (size_t)(tdi_page_limit(tdi_page_before(next)) - next);

	if (group->until_close == 0) /* the first one ever */
		group->until_close = batch->close_count;
	if (--group->until_close == 0) {
		group->until_close = batch->close_count;
		tdi_grace_request(&batch->engine->grace);
	}
	n = tdi_min_size(n, group->until_close - 1);
	group->until_close -= n;
	group->front.stop = next + n;
}

int tdi_batch_after(struct td_batch *batch, struct tdi_batch_group *front)
{
	struct tdi_group *group = tdi_group_of(front);
	void **next = front->next;
	uint64_t bytes =
		atomic_load_explicit(&tdi_page_before(next)->bytes, memory_order_relaxed);
	uint32_t flags;

	/* An exchange is the fence, too, that TDI_GROUP_FENCE stands for. seq_cst:
	 * pairs with tdi_batch_drowse. */
	if (__atomic_load_n(&front->flags, __ATOMIC_RELAXED) != 0) {
		flags = __atomic_fetch_and(&front->flags, ~(uint32_t)TDI_GROUP_ASLEEP,
					   __ATOMIC_SEQ_CST);
		if (flags & TDI_GROUP_ASLEEP)
			tdi_grace_wake(&batch->engine->grace);
	}
	if (bytes >= front->bytes_stop)
		report(batch, group, bytes);
	hold_bound(batch);
	return 0;
}

/* ---- adding ---- */

/* How often a plain pointer's owner waits for room: with a timer's slack, 100 us. */
#define ROOM_WAITS 1

static bool put_pointer(struct td_batch *batch, void *object, size_t bytes)
{
	struct tdi_group *group = tdi_group_find(&batch->groups);

	if (!group) {
		tdi_grace_hint(&batch->engine->grace); /* for more of them */
		return false;
	}
	if (!open_group(batch, group))
		return false;
	(void)tdi_batch_put_in(&group->front, group->front.next, object, bytes);
	go_on(batch, group);
	(void)tdi_batch_after(batch, &group->front);
	return true;
}

static int add_slow(struct td_batch *batch, void *object, struct td_batch_node *node,
		    size_t bytes)
{
	int err = tdi_batch_check_process(batch);

	if (err)
		return err;
	if (bytes == 0)
		bytes = batch->front.object_bytes;
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

int tdi_batch_free_slow(struct td_batch *batch, struct td_batch_node *node, size_t bytes)
{
	if (!batch || !node)
		return -EINVAL;
	return add_slow(batch, (char *)node - batch->front.node_offset, node, bytes);
}

int tdi_batch_free_ptr_slow(struct td_batch *batch, void *object, size_t bytes)
{
	if (!batch || !object)
		return -EINVAL;
	return add_slow(batch, object, NULL, bytes);
}

int td_batch_free_list(td_batch *batch, struct td_batch_list *list, unsigned flags)
{
	int err = list ? tdi_batch_check(batch, flags) : -EINVAL;
	uint64_t bytes;

	if (err || !list->tdi_first)
		return err;
	bytes = list->tdi_bytes ? list->tdi_bytes
				: list->tdi_count * batch->front.object_bytes;
	if (flags & TD_BATCH_NO_READERS)
		put_direct(batch, list, bytes);
	else
		put_nodes(batch, list->tdi_first, list->tdi_last, list->tdi_count, bytes);
	memset(list, 0, sizeof(*list));
	hold_bound(batch);
	return 0;
}

/* ---- what is inlined, for those who cannot ---- */

extern inline void tdi_batch_prefetch(const void *addr);
extern inline int tdi_batch_put_in(struct tdi_batch_group *group, void **next,
				   void *object, uint64_t bytes);
extern inline struct tdi_batch_group *tdi_batch_group_of(
	const struct tdi_batch_front *front, void ***next);
extern inline int tdi_batch_free(struct td_batch *batch, struct td_batch_node *node,
				 size_t bytes);
extern inline int tdi_batch_free_ptr(struct td_batch *batch, void *object, size_t bytes);
extern inline int td_batch_free(td_batch *batch, struct td_batch_node *node,
				size_t bytes);
extern inline int td_batch_free_ptr(td_batch *batch, void *object, size_t bytes);
