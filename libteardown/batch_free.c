/* SPDX-License-Identifier: MIT */
/*
 * Freeing what is past its grace period, and giving it to the reapers.
 *
 * "Is there more?": whoever makes something ready puts it there, then claims the work;
 * the work gives itself up, then looks whether something is there. Both in this order,
 * and all four seq_cst: so the one claims, or the other sees. (The claim is an exchange,
 * and the work is given up before its done().)
 */
#include "batch_internal.h"
#include "grace.h"
#include "sys.h"

#include <limits.h>
#include <stdlib.h>

/* Linked objects are handed out by so many. */
#define NODES_AT_ONCE 256

/* Ahead in an array of pointers: what free() looks at first lies before the object. */
#define AHEAD 8

void td_free_bulk_malloc(void **objects, size_t n, void *ctx)
{
	(void)ctx;
	for (size_t i = 0; i < n; i++) {
		if (i + AHEAD < n)
			__builtin_prefetch((char *)objects[i + AHEAD] - 16, 1);
		free(objects[i]);
	}
}

static bool has_page(struct td_batch *batch)
{
	return atomic_load_explicit(&batch->ready.page, memory_order_seq_cst) != NULL;
}

/* False: somebody who waits for nobody would have to. */
static bool lock_ready(struct tdi_batch_ready *ready, bool wait)
{
	if (!wait)
		return pthread_mutex_trylock(&ready->lock) == 0;
	pthread_mutex_lock(&ready->lock);
	return true;
}

/* ---- room ---- */

/* No longer than this, once in a call for room and once for the bound. The kernel adds
 * its timer slack, 50 us unless the host has set another: together less than 100 us each.
 */
#define ROOM_WAIT_NS 20000

/* For one who helps: now, without waiting for whoever has the lock. */
static bool can_help(struct td_batch *batch)
{
	struct tdi_batch_ready *ready = &batch->ready;

	if (!batch->helps || !has_page(batch) || !lock_ready(ready, false))
		return false;
	pthread_mutex_unlock(&ready->lock);
	return true;
}

void tdi_batch_await_room(struct td_batch *batch)
{
	uint32_t seq;

	atomic_fetch_add_explicit(&batch->waits, 1, memory_order_relaxed);
	atomic_fetch_add_explicit(&batch->room_waiters, 1, memory_order_seq_cst);
	seq = atomic_load_explicit(&batch->room_seq, memory_order_seq_cst);
	/* What became ready before is not told any more. Where somebody was held up with
	 * the lock he needs the CPU. */
	if (!can_help(batch))
		tdi_sys_futex_wait(&batch->room_seq, seq, tdi_sys_deadline(ROOM_WAIT_NS));
	atomic_fetch_sub_explicit(&batch->room_waiters, 1, memory_order_relaxed);
}

void tdi_batch_tell_room(struct td_batch *batch)
{
	/* seq_cst: pairs with the count-then-look above. A wake that is missed all the
	 * same costs the waiter 20 us. */
	if (atomic_load_explicit(&batch->room_waiters, memory_order_seq_cst) == 0)
		return;
	atomic_fetch_add_explicit(&batch->room_seq, 1, memory_order_seq_cst);
	tdi_sys_futex_wake(&batch->room_seq, INT_MAX);
}

/* ---- pages ---- */

static void freed(struct td_batch *batch, size_t n, uint64_t bytes)
{
	atomic_fetch_add_explicit(&batch->objects_freed, n, memory_order_relaxed);
	atomic_fetch_sub_explicit(&batch->bytes, (int64_t)bytes, memory_order_relaxed);
}

static void recycle(struct td_batch *batch, struct tdi_page *page)
{
	struct tdi_page *none = NULL;

	/* One for whoever gathers, before all others: see page_to_gather(). */
	if (!atomic_load_explicit(&batch->spare, memory_order_relaxed) &&
	    atomic_compare_exchange_strong_explicit(&batch->spare, &none, page,
						    memory_order_release,
						    memory_order_relaxed))
		return;
	tdi_page_put(&batch->pages, page);
}

static struct tdi_page *take_page(struct td_batch *batch, bool wait)
{
	struct tdi_batch_ready *ready = &batch->ready;
	struct tdi_page *page;

	if (!has_page(batch) || !lock_ready(ready, wait))
		return NULL;
	page = atomic_load_explicit(&ready->page, memory_order_relaxed);
	if (page)
		atomic_store_explicit(&ready->page, tdi_page_next(&batch->pages, page),
				      memory_order_relaxed);
	pthread_mutex_unlock(&ready->lock);
	return page;
}

static void put_pages(struct td_batch *batch, struct tdi_page *first,
		      struct tdi_page *last)
{
	struct tdi_batch_ready *ready = &batch->ready;

	pthread_mutex_lock(&ready->lock);
	if (atomic_load_explicit(&ready->page, memory_order_relaxed))
		tdi_page_link(&batch->pages, ready->page_last, first);
	else
		atomic_store_explicit(&ready->page, first, memory_order_seq_cst);
	ready->page_last = last;
	pthread_mutex_unlock(&ready->lock);
}

static size_t free_page(struct td_batch *batch, bool wait)
{
	struct tdi_page *page = take_page(batch, wait);
	unsigned epoch;
	size_t n;

	if (!page)
		return 0;
	n = (size_t)(page->end - page->start);
	epoch = page->epoch;
	batch->free_bulk(page->start, n, batch->ctx);
	freed(batch, n,
	      atomic_load_explicit(&page->bytes, memory_order_relaxed) -
		      page->bytes_taken);
	recycle(batch, page);
	tdi_batch_tell_room(batch);
	tdi_pending_end(&batch->pending, epoch, 1);
	return n;
}

/* ---- linked objects ---- */

/*
 * The chain's epochs: `pending` counts one for each epoch that has nodes left, and one
 * for each thread that has some in hand. They may come in any order, since what needs no
 * grace period overtakes the rest: so of each epoch only the last node is known, and what
 * is taken before that may be of it.
 */
static void append(struct td_batch *batch, struct td_batch_node *first,
		   struct td_batch_node *last, unsigned epoch)
{
	struct tdi_batch_ready *ready = &batch->ready;

	/* Counted already? Then this is the same. */
	if (ready->node_last[epoch])
		tdi_pending_end(&batch->pending, epoch, 1);
	ready->node_last[epoch] = last;
	tdi_chain_put(&ready->nodes, first, last);
}

bool tdi_batch_take_direct(struct td_batch *batch)
{
	struct td_batch_node *first, *last;
	unsigned epoch;
	bool seen;

	if (tdi_chain_empty(&batch->direct))
		return true;
	pthread_mutex_lock(&batch->ready.lock);
	/* Counted before it is taken: one who waits sees it in one place or the other. */
	epoch = tdi_pending_begin(&batch->pending, 1);
	first = tdi_chain_take_all(&batch->direct, &last);
	if (first) {
		batch->ready.count += atomic_exchange_explicit(&batch->direct_count, 0,
							       memory_order_relaxed);
		batch->ready.bytes += atomic_exchange_explicit(&batch->direct_bytes, 0,
							       memory_order_relaxed);
		append(batch, first, last, epoch);
	} else {
		tdi_pending_end(&batch->pending, epoch, 1);
	}
	seen = first || tdi_chain_empty(&batch->direct);
	pthread_mutex_unlock(&batch->ready.lock);
	return seen;
}

/* Of what the chain counts for, the part of n objects; all with the last one. */
static uint64_t part(struct tdi_batch_ready *ready, size_t n)
{
	bool all = (!ready->node_last[0] && !ready->node_last[1]) || n >= ready->count;
	uint64_t bytes = all ? ready->bytes : ready->bytes / ready->count * n;

	ready->count -= all ? ready->count : n;
	ready->bytes -= bytes;
	return bytes;
}

/* How many; and of which epochs they may be: counted in those. */
static size_t take_some(struct td_batch *batch, void **objects, bool of[2],
			uint64_t *bytes)
{
	struct tdi_batch_ready *ready = &batch->ready;
	struct td_batch_node *node;
	size_t n = 0;

	for (unsigned epoch = 0; epoch < 2; epoch++)
		of[epoch] = ready->node_last[epoch] != NULL;
	while (n < NODES_AT_ONCE && (node = tdi_chain_take(&ready->nodes)) != NULL) {
		objects[n++] = (char *)node - batch->front.node_offset;
		for (unsigned epoch = 0; epoch < 2; epoch++) {
			if (node == ready->node_last[epoch])
				ready->node_last[epoch] = NULL;
		}
	}
	if (n == 0)
		return 0;
	for (unsigned epoch = 0; epoch < 2; epoch++) {
		/* Of one that has none left, what the chain was counted for is ours. */
		if (of[epoch] && ready->node_last[epoch])
			tdi_pending_join(&batch->pending, epoch, 1);
	}
	*bytes = part(ready, n);
	return n;
}

static size_t free_nodes(struct td_batch *batch, bool wait)
{
	struct tdi_batch_ready *ready = &batch->ready;
	void *objects[NODES_AT_ONCE];
	uint64_t bytes = 0;
	bool of[2];
	size_t n;

	if (tdi_chain_empty(&ready->nodes) || !lock_ready(ready, wait))
		return 0;
	n = take_some(batch, objects, of, &bytes);
	pthread_mutex_unlock(&ready->lock);
	if (n == 0)
		return 0;
	batch->free_bulk(objects, n, batch->ctx);
	freed(batch, n, bytes);
	tdi_batch_tell_room(batch);
	for (unsigned epoch = 0; epoch < 2; epoch++) {
		if (of[epoch])
			tdi_pending_end(&batch->pending, epoch, 1);
	}
	return n;
}

size_t tdi_batch_free_some(struct td_batch *batch, bool wait)
{
	/* Both each time: while there is always a page, what is linked would never come,
	 * nor would those who wait for it get on. */
	size_t n = free_page(batch, wait);

	return n + free_nodes(batch, wait);
}

bool tdi_batch_has_ready(struct td_batch *batch)
{
	return has_page(batch) || !tdi_chain_empty(&batch->ready.nodes) ||
	       !tdi_chain_empty(&batch->direct);
}

/* ---- the work ---- */

void tdi_batch_make_ready(struct td_batch *batch)
{
	if (batch->waiting) {
		put_pages(batch, batch->waiting, batch->waiting_last);
		batch->waiting = batch->waiting_last = NULL;
	}
	if (batch->waiting_node) {
		pthread_mutex_lock(&batch->ready.lock);
		batch->ready.count += batch->waiting_count;
		batch->ready.bytes += batch->waiting_bytes;
		append(batch, batch->waiting_node, batch->waiting_node_last,
		       batch->waiting_epoch);
		pthread_mutex_unlock(&batch->ready.lock);
		batch->waiting_node = NULL;
	}
	tdi_batch_tell_room(batch);
}

void tdi_batch_submit(struct td_batch *batch)
{
	if (!tdi_work_claim(&batch->work))
		return;
	tdi_batch_get(batch);
	tdi_engine_queue(batch->engine, &batch->work);
}

static int slice(struct td_work *work, struct td_slice *slice)
{
	struct td_batch *batch = tdi_container_of(work, struct td_batch, work);

	(void)tdi_batch_take_direct(batch);
	while (tdi_batch_free_some(batch, true) > 0) {
		if (tdi_sys_now_ns() >= slice->deadline_ns)
			return TD_WORK_MORE;
	}
	if (has_page(batch) || !tdi_chain_empty(&batch->direct))
		return TD_WORK_MORE;
	/* Linked objects behind a link that is still missing, or with somebody else. */
	return tdi_batch_has_ready(batch) ? TD_WORK_LATER : TD_WORK_DONE;
}

static void done(struct td_work *work, int status)
{
	struct td_batch *batch = tdi_container_of(work, struct td_batch, work);

	/* What an engine abandons is freed by whoever waits for it, or by the end of the
	 * batch. */
	if (status == 0 && tdi_batch_has_ready(batch))
		tdi_batch_submit(batch);
	tdi_batch_put(batch);
}

const struct td_work_ops tdi_batch_work_ops = {
	.slice = slice,
	.done = done,
};
