/* SPDX-License-Identifier: MIT */
#include "group.h"
#include "membarrier.h"
#include "sys.h"
#include "thread.h"

#include <stdlib.h>
#include <string.h>

__thread struct tdi_group_entry tdi_group_cache[TDI_GROUP_CACHE];

/* All sets there are, for threads that end. */
static pthread_mutex_t live_lock = PTHREAD_MUTEX_INITIALIZER;
static struct tdi_groups *live;

static void forget_cached(void)
{
	memset(tdi_group_cache, 0, sizeof(tdi_group_cache));
}

static void leave(struct tdi_groups *groups, uint64_t token)
{
	tdi_groups_for_each(groups, block, at)
	{
		/* Release: pairs with the acquire in own(). */
		if (atomic_load_explicit(&at->owner, memory_order_relaxed) == token)
			atomic_store_explicit(&at->owner, 0, memory_order_release);
	}
}

static void thread_ends(void)
{
	forget_cached();
	pthread_mutex_lock(&live_lock);
	for (struct tdi_groups *groups = live; groups; groups = groups->next_live)
		leave(groups, tdi_thread_token());
	pthread_mutex_unlock(&live_lock);
}

void tdi_groups_before_fork(void)
{
	pthread_mutex_lock(&live_lock);
}

void tdi_groups_after_fork(bool in_child)
{
	pthread_mutex_unlock(&live_lock);
	/* The parent's batches are not to be added to here. */
	if (in_child)
		forget_cached();
}

static int add_block(struct tdi_groups *groups, unsigned n)
{
	size_t size = tdi_align_up(sizeof(struct tdi_group_block) +
					   n * sizeof(struct tdi_group),
				   _Alignof(struct tdi_group_block));
	struct tdi_group_block *block =
		aligned_alloc(_Alignof(struct tdi_group_block), size);

	if (!block)
		return -ENOMEM;
	memset(block, 0, size);
	block->n = n;
	for (unsigned i = 0; i < n; i++)
		block->group[i].front.flags = groups->flags;
	block->next = atomic_load_explicit(&groups->blocks, memory_order_relaxed);
	/* Release: pairs with tdi_groups_for_each. */
	atomic_store_explicit(&groups->blocks, block, memory_order_release);
	groups->n += n;
	return 0;
}

int tdi_groups_init(struct tdi_groups *groups, unsigned n)
{
	static uint64_t last_id; /* under live_lock */
	int err;

	memset(groups, 0, sizeof(*groups));
	groups->flags = TDI_GROUP_ASLEEP | (tdi_membarrier_works() ? 0 : TDI_GROUP_FENCE);
	err = add_block(groups, n);
	if (err)
		return err;
	tdi_thread_on_exit(TDI_THREAD_BATCH, thread_ends);
	pthread_mutex_lock(&live_lock);
	last_id += sizeof(struct tdi_group_entry);
	groups->id = last_id;
	groups->next_live = live;
	if (live)
		live->prev_live = groups;
	live = groups;
	pthread_mutex_unlock(&live_lock);
	return 0;
}

void tdi_groups_destroy(struct tdi_groups *groups)
{
	struct tdi_group_block *block =
		atomic_load_explicit(&groups->blocks, memory_order_relaxed);

	pthread_mutex_lock(&live_lock);
	if (groups->next_live)
		groups->next_live->prev_live = groups->prev_live;
	if (groups->prev_live)
		groups->prev_live->next_live = groups->next_live;
	else
		live = groups->next_live;
	pthread_mutex_unlock(&live_lock);
	while (block) {
		struct tdi_group_block *next = block->next;

		free(block);
		block = next;
	}
}

int tdi_groups_grow(struct tdi_groups *groups)
{
	atomic_store_explicit(&groups->short_of, false, memory_order_relaxed);
	return add_block(groups, groups->n);
}

static struct tdi_group *own(struct tdi_groups *groups, uint64_t token)
{
	tdi_groups_for_each(groups, block, at)
	{
		uint64_t nobody = 0;

		if (atomic_load_explicit(&at->owner, memory_order_relaxed) == 0 &&
		    atomic_compare_exchange_strong_explicit(&at->owner, &nobody, token,
							    memory_order_acquire,
							    memory_order_relaxed))
			return at;
	}
	return NULL;
}

struct tdi_group *tdi_group_find(struct tdi_groups *groups)
{
	struct tdi_group_entry *entry = tdi_group_entry_of(groups->id);
	struct tdi_group *group = tdi_group_cached(groups->id);
	uint64_t token = tdi_thread_token();

	if (group)
		return group;
	/* Another set may have taken its place in the cache. */
	tdi_groups_for_each(groups, block, at)
	{
		if (atomic_load_explicit(&at->owner, memory_order_relaxed) == token)
			group = at;
	}
	if (!group) {
		/* If its end cannot be told, the group is used by no other thread after
		 * it: a little is lost, and no object. */
		(void)tdi_thread_watch();
		group = own(groups, token);
	}
	if (group)
		*entry = (struct tdi_group_entry){groups->id, &group->front};
	else
		atomic_store_explicit(&groups->short_of, true, memory_order_relaxed);
	return group;
}

/* ---- what is inlined, for those who cannot ---- */

extern inline struct tdi_group_entry *tdi_group_entry_of(uint64_t id);
