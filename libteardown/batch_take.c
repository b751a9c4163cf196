/* SPDX-License-Identifier: MIT */
/* What a pass does with one batch. */
#include "batch_internal.h"
#include "grace.h"
#include "sys.h"

#include <string.h>

#define CLOSING_LOOKS 200

static void wait_in_line(struct td_batch *batch, struct tdi_page *page)
{
	tdi_page_link(&batch->pages, page, NULL);
	if (batch->waiting)
		tdi_page_link(&batch->pages, batch->waiting_last, page);
	else
		batch->waiting = page;
	batch->waiting_last = page;
	page->epoch = tdi_pending_begin(&batch->pending, 1);
	atomic_fetch_add_explicit(&batch->objects_closed,
				  (uint64_t)(page->end - page->start),
				  memory_order_relaxed);
}

/* ---- full pages ---- */

/*
 * The oldest first: an allocator is better off when its memory comes back from the front
 * than from the end, where it would trim its heap again and again.
 */
static struct tdi_page *closed_in_order(struct td_batch *batch)
{
	struct tdi_page *page = tdi_page_pop_all(&batch->pages, &batch->closed);
	struct tdi_page *first = NULL, *next;

	for (; page; page = next) {
		next = tdi_page_next(&batch->pages, page);
		tdi_page_link(&batch->pages, page, first);
		first = page;
	}
	return first;
}

static void take_closed(struct td_batch *batch)
{
	struct tdi_page *page = closed_in_order(batch), *next;

	for (; page; page = next) {
		next = tdi_page_next(&batch->pages, page);
		page->end = tdi_page_limit(page);
		tdi_pages_touch_ahead(&batch->pages, page);
		if (page->start != page->end) {
			wait_in_line(batch, page);
			continue;
		}
		/* All of it was taken while it was open, and with it all its bytes. */
		tdi_page_put(&batch->pages, page);
	}
}

/* ---- open groups ---- */

/* The last page that there is, or one that has been set aside for this. */
static struct tdi_page *page_to_gather(struct td_batch *batch)
{
	struct tdi_page *page = tdi_page_get(&batch->pages);

	if (!page && tdi_pages_grow(&batch->pages) == 0)
		page = tdi_page_get(&batch->pages);
	if (page)
		return page;
	page = atomic_exchange_explicit(&batch->spare, NULL, memory_order_acquire);
	if (page) /* it comes as recycle() got it */
		tdi_page_clear(page);
	return page;
}

static void gather_ends(struct td_batch *batch)
{
	if (batch->gather && batch->gather->end != batch->gather->start) {
		wait_in_line(batch, batch->gather);
		batch->gather = NULL;
	}
}

/* What a group has published. It takes its owner some nanoseconds to push a page, if he
 * is not held up in between. */
static void **published(struct tdi_group *group)
{
	void **next;

	/* Acquire: pairs with the release of whoever adds. */
	for (unsigned looks = 1;
	     (next = __atomic_load_n(&group->front.next, __ATOMIC_ACQUIRE)) ==
	     TDI_GROUP_CLOSING;
	     looks++) {
		if (looks % CLOSING_LOOKS == 0)
			tdi_sys_pause(TDI_BATCH_LINK_PAUSE_NS);
	}
	return next;
}

/* Copies what a group has published since. False: there is no page to copy to. */
static bool take_open(struct td_batch *batch, struct tdi_group *group)
{
	void **next = published(group);
	struct tdi_page *page = tdi_page_before(next), *gather;
	uint64_t bytes;

	while (next && page->start != next) {
		size_t n = (size_t)(next - page->start);

		if (!batch->gather)
			batch->gather = page_to_gather(batch);
		gather = batch->gather;
		if (!gather)
			return false;
		group->used = true;
		n = tdi_min_size(n, (size_t)(tdi_page_limit(gather) - gather->end));
		memcpy(gather->end, page->start, n * sizeof(void *));
		page->start += n;
		gather->end += n;
		/* A little ahead of the objects, maybe: that evens out. */
		bytes = atomic_load_explicit(&page->bytes, memory_order_relaxed);
		atomic_fetch_add_explicit(&gather->bytes, bytes - page->bytes_taken,
					  memory_order_relaxed);
		page->bytes_taken = bytes;
		if (gather->end == tdi_page_limit(gather))
			gather_ends(batch);
	}
	return true;
}

/* ---- linked objects ---- */

static void take_nodes(struct td_batch *batch)
{
	if (batch->waiting_node || tdi_chain_empty(&batch->open))
		return;
	/* Somebody is between his exchange and his link: others who have returned
	 * already may be behind him, and they count on this pass. */
	while (!(batch->waiting_node =
			 tdi_chain_take_all(&batch->open, &batch->waiting_node_last)))
		tdi_sys_pause(TDI_BATCH_LINK_PAUSE_NS);
	batch->open_used = true;
	batch->waiting_epoch = tdi_pending_begin(&batch->pending, 1);
	batch->waiting_count =
		atomic_exchange_explicit(&batch->open_count, 0, memory_order_relaxed);
	batch->waiting_bytes =
		atomic_exchange_explicit(&batch->open_bytes, 0, memory_order_relaxed);
	atomic_fetch_add_explicit(&batch->objects_closed, batch->waiting_count,
				  memory_order_relaxed);
}

/* ---- room ---- */

static bool is_short(const struct tdi_pages *pages)
{
	uint32_t n = atomic_load_explicit(&pages->nr_pages, memory_order_relaxed);

	return atomic_load_explicit(&pages->nr_free, memory_order_relaxed) < n / 2;
}

/* What cannot be had now is asked for again at the next pass. */
static void make_room(struct td_batch *batch)
{
	uint32_t n = atomic_load_explicit(&batch->pages.nr_pages, memory_order_relaxed);
	/* Pointers take at most an eighth of what they point to. */
	bool may = (uint64_t)n * TDI_PAGE_SIZE < batch->max_bytes / 8;

	while (may && is_short(&batch->pages) && tdi_pages_grow(&batch->pages) == 0)
		;
	if (atomic_load_explicit(&batch->groups.short_of, memory_order_relaxed))
		(void)tdi_groups_grow(&batch->groups);
}

/* ---- a pass ---- */

bool tdi_batch_take(struct td_batch *batch, bool *all)
{
	if (!batch->private) {
		take_closed(batch);
		tdi_groups_for_each(&batch->groups, block, group)
		{
			if (!take_open(batch, group))
				*all = false;
		}
		gather_ends(batch);
		/* A page that was in a group before the pass may have left it before it
		 * was looked at there: it is here then. */
		take_closed(batch);
		make_room(batch);
	}
	take_nodes(batch);
	return batch->waiting || batch->waiting_node;
}

/* ---- sleep ---- */

static bool is_awake(struct tdi_group *group)
{
	return !(__atomic_load_n(&group->front.flags, __ATOMIC_RELAXED) &
		 TDI_GROUP_ASLEEP);
}

static bool has_more(struct tdi_group *group)
{
	void **next = __atomic_load_n(&group->front.next, __ATOMIC_ACQUIRE);

	return next == TDI_GROUP_CLOSING ||
	       (next && tdi_page_before(next)->start != next);
}

bool tdi_batch_drowse(struct td_batch *batch)
{
	bool any = false;

	if (!batch->open_used) /* seq_cst: pairs with put_nodes() in batch.c */
		atomic_store_explicit(&batch->open_asleep, 1, memory_order_seq_cst);
	batch->open_used = false;
	tdi_groups_for_each(&batch->groups, block, group)
	{
		group->tried = is_awake(group) && !group->used && !has_more(group);
		group->used = false;
		if (group->tried)
			__atomic_fetch_or(&group->front.flags, TDI_GROUP_ASLEEP,
					  __ATOMIC_SEQ_CST);
		any |= group->tried;
	}
	return any;
}

/* If whoever adds has seen the flag in the meantime, then he has woken the thread, too.
 */
void tdi_batch_look_again(struct td_batch *batch, bool barrier)
{
	if (!tdi_chain_empty(&batch->open))
		atomic_store_explicit(&batch->open_asleep, 0, memory_order_relaxed);
	tdi_groups_for_each(&batch->groups, block, group)
	{
		if (group->tried && (!barrier || has_more(group)))
			__atomic_fetch_and(&group->front.flags,
					   ~(uint32_t)TDI_GROUP_ASLEEP, __ATOMIC_RELAXED);
		group->tried = false;
	}
}

bool tdi_batch_awake(struct td_batch *batch)
{
	if (!atomic_load_explicit(&batch->open_asleep, memory_order_relaxed))
		return true;
	tdi_groups_for_each(&batch->groups, block, group)
	{
		if (is_awake(group))
			return true;
	}
	return false;
}

bool tdi_batch_is_empty(struct td_batch *batch)
{
	bool empty;

	/* In the order in which an object goes on while the list is locked, so that it
	 * is not missed between two places. What is in hand first: a callback may add,
	 * but only before it is counted out. Nothing becomes ready meanwhile. Groups
	 * before pages and linked objects: their owners may close them right now. */
	pthread_mutex_lock(&batch->ready.lock);
	empty = tdi_pending_count(&batch->pending) == 0 && !tdi_batch_has_ready(batch);
	tdi_groups_for_each(&batch->groups, block, group) empty =
		empty && !has_more(group);
	empty = empty && tdi_page_stack_empty(&batch->closed) &&
		tdi_chain_empty(&batch->open);
	pthread_mutex_unlock(&batch->ready.lock);
	return empty;
}
