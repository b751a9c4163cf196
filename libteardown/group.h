/* SPDX-License-Identifier: MIT */
/*
 * Floor 2: groups, one for each thread that adds to a batch: where it puts pointers, with
 * plain stores, and where whoever closes groups finds them at any moment.
 *
 * A group belongs to one thread until that ends; the next one then goes on in it, where
 * the last one stopped. Groups live as long as their set.
 */
#ifndef TDI_GROUP_H
#define TDI_GROUP_H

#include "base.h"
#include "pages.h"

#include <teardown/batch_inline.h>

enum tdi_group_flags {
	TDI_GROUP_ASLEEP = 1, /* nobody looks at it until its owner says that he added */
	TDI_GROUP_FENCE = 2,  /* no membarrier: the owner fences before he looks here */
};

struct tdi_group {
	/* What those who add look at each time. */
	_Alignas(TDI_CACHE_LINE) struct tdi_batch_group front;
	_Atomic(uint64_t) reported; /* of the page's bytes: counted in the batch's */
	uint64_t since_close;	    /* bytes, reported ones */
	size_t until_close;	    /* objects beyond stop, at least 1; 0 at first */

	_Alignas(TDI_CACHE_LINE) _Atomic(uint64_t) owner; /* its token; 0: nobody */
	/* The closer's: something was in it since it last looked; it was put to sleep. */
	bool used, tried;
};

_Static_assert(offsetof(struct tdi_group, front) == 0, "a front is its group");
_Static_assert(TDI_BATCH_PAGE == TDI_PAGE_SIZE && offsetof(struct tdi_page, bytes) == 0,
	       "a page is as those who put pointers in know it");

#define TDI_GROUP_CLOSING ((void **)1)

static inline struct tdi_group *tdi_group_of(struct tdi_batch_group *front)
{
	return (struct tdi_group *)front;
}

/* For those who look from elsewhere: the page that it is about to leave is not seen. */
static inline void **tdi_group_next(struct tdi_group *group)
{
	void **next = __atomic_load_n(&group->front.next, __ATOMIC_ACQUIRE);

	return next == TDI_GROUP_CLOSING ? NULL : next;
}

struct tdi_group_block {
	struct tdi_group_block *next; /* constant once published */
	unsigned n;
	struct tdi_group group[];
};

struct tdi_groups {
	uint64_t id;	/* of this set, and never another's: see batch_inline.h */
	uint32_t flags; /* that a group begins with */
	_Atomic(unsigned) n;
	_Atomic(struct tdi_group_block *) blocks;
	_Atomic(uint32_t) short_of; /* somebody found none */
	struct tdi_groups *next_live, *prev_live;
};

/* The calling thread's, if it used it not long ago. */
static inline struct tdi_group *tdi_group_cached(uint64_t id)
{
	const struct tdi_group_entry *entry = tdi_group_entry_of(id);

	return tdi_likely(entry->id == id) ? tdi_group_of(entry->group) : NULL;
}

/* 0, -ENOMEM. */
int tdi_groups_init(struct tdi_groups *groups, unsigned n);
void tdi_groups_destroy(struct tdi_groups *groups);

/* As many again. One caller at a time. 0, -ENOMEM. */
int tdi_groups_grow(struct tdi_groups *groups);

/* What they take. */
static inline size_t tdi_groups_bytes(const struct tdi_groups *groups)
{
	return groups->n * sizeof(struct tdi_group);
}

/* The calling thread's group: found, or made its own from now on. NULL: none is free. */
struct tdi_group *tdi_group_find(struct tdi_groups *groups);

#define tdi_groups_for_each(groups, block, at)                                           \
	for (struct tdi_group_block *block =                                             \
		     atomic_load_explicit(&(groups)->blocks, memory_order_acquire);      \
	     block; block = block->next)                                                 \
		for (struct tdi_group *at = block->group; at < block->group + block->n;  \
		     at++)

void tdi_groups_before_fork(void);
void tdi_groups_after_fork(bool in_child);

#endif
