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

enum tdi_group_flags {
	TDI_GROUP_ASLEEP = 1, /* nobody looks at it until its owner says that he added */
	TDI_GROUP_FENCE = 2,  /* no membarrier: the owner fences before he looks here */
};

struct tdi_group {
	/*
	 * Where the next pointer goes; NULL without a page. A release publishes what is
	 * before it, back to the start of its page: the closer's acquire. While a full
	 * page is pushed this is TDI_GROUP_CLOSING: it is neither here nor, for all that
	 * a closer can know, there.
	 */
	_Alignas(TDI_CACHE_LINE) _Atomic(void **) next;
	void **stop;		    /* where it stops, for one reason or another */
	uint64_t bytes_stop;	    /* and at how many bytes in the page */
	_Atomic(uint64_t) reported; /* of the page's bytes: counted in the batch's */
	uint64_t since_close;	    /* bytes, reported ones */
	size_t until_close;	    /* objects beyond stop, at least 1; 0 at first */
	_Atomic(uint32_t) flags;    /* enum tdi_group_flags */

	_Alignas(TDI_CACHE_LINE) _Atomic(uint64_t) owner; /* its token; 0: nobody */
	/* The closer's: something was in it since it last looked; it was put to sleep. */
	bool used, tried;
};

#define TDI_GROUP_CLOSING ((void **)1)

/* For those who look from elsewhere: the page that it is about to leave is not seen. */
static inline void **tdi_group_next(struct tdi_group *group)
{
	void **next = atomic_load_explicit(&group->next, memory_order_acquire);

	return next == TDI_GROUP_CLOSING ? NULL : next;
}

struct tdi_group_block {
	struct tdi_group_block *next; /* constant once published */
	unsigned n;
	struct tdi_group group[];
};

struct tdi_groups {
	uint64_t id;	/* of this set, and never another's */
	uint32_t flags; /* that a group begins with */
	_Atomic(unsigned) n;
	_Atomic(struct tdi_group_block *) blocks;
	_Atomic(uint32_t) short_of; /* somebody found none */
	struct tdi_groups *next_live, *prev_live;
};

/*
 * What a thread used last, by set. Initial-exec: without it whoever is built as a part of
 * a shared object would call a function to find its own variable. It takes 128 of the
 * bytes that the C library keeps for objects that are loaded later.
 */
enum { TDI_GROUP_CACHE = 8 };
struct tdi_group_entry {
	uint64_t id;
	struct tdi_group *group;
};
extern __thread struct tdi_group_entry tdi_group_cache[TDI_GROUP_CACHE]
	__attribute__((tls_model("initial-exec")));

/* The calling thread's, if it used it not long ago. */
static inline struct tdi_group *tdi_group_cached(uint64_t id)
{
	const struct tdi_group_entry *entry = &tdi_group_cache[id % TDI_GROUP_CACHE];

	return tdi_likely(entry->id == id) ? entry->group : NULL;
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
