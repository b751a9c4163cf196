/* SPDX-License-Identifier: MIT */
/*
 * Private: what batch.h inlines, since a function call takes longer than this does: a
 * pointer that is put into the group of a thread that has one, with place in it. All else
 * is in the archive, and this too, as functions.
 */
#ifndef TEARDOWN_BATCH_INLINE_H
#define TEARDOWN_BATCH_INLINE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct td_batch;
struct td_batch_node;

#define TDI_BATCH_PAGE 4096 /* of pointers: its size, and where it begins */
/* Pointers ahead, in a page that the reapers have been reading: as many as are put in
 * while a cache line comes over from another CPU. */
#define TDI_BATCH_AHEAD 64

/* At the head of a batch. Constant. */
struct tdi_batch_front {
	/* Of its groups: a multiple of the size of a cache's entry, never another's. Or
	 * TDI_BATCH_NO_GROUPS, which no entry ever has. */
	uint64_t id;
	size_t node_offset, object_bytes;
};

#define TDI_BATCH_NO_GROUPS 1u

/* At the head of a thread's group. */
struct tdi_batch_group {
	/*
	 * Where the next pointer goes; NULL without a page. A release publishes what is
	 * before it, back to the start of its page: the closer's acquire. While a full
	 * page is pushed this is TDI_GROUP_CLOSING: it is neither here nor, for all that
	 * a closer can know, there.
	 */
	void **next;
	void **stop;	     /* where it stops, for one reason or another */
	uint64_t bytes_stop; /* and at how many bytes in the page */
	uint32_t flags;	     /* enum tdi_group_flags: others write */
};

/*
 * What a thread used last, by set of groups. An id is never 0. Initial-exec: without it
 * whoever is built as a part of a shared object would call a function to find its own
 * variable. It takes 128 of the bytes that the C library keeps for objects that are
 * loaded later.
 */
#define TDI_GROUP_CACHE 8
struct tdi_group_entry {
	uint64_t id;
	struct tdi_batch_group *group;
};
extern __thread struct tdi_group_entry tdi_group_cache[TDI_GROUP_CACHE]
	__attribute__((tls_model("initial-exec")));

/* All that the others do not do; NULL, too. */
int tdi_batch_free_slow(struct td_batch *batch, struct td_batch_node *node, size_t bytes);
int tdi_batch_free_ptr_slow(struct td_batch *batch, void *object, size_t bytes);
/* What is to be done now and then when a pointer is in. 0. */
int tdi_batch_after(struct td_batch *batch, struct tdi_batch_group *group);

#define TDI_BATCH_INLINE inline __attribute__((always_inline))
#define tdi_batch_rarely(x) __builtin_expect(!!(x), 0)

/* Where the set would be in the calling thread's cache. */
TDI_BATCH_INLINE struct tdi_group_entry *tdi_group_entry_of(uint64_t id)
{
	/* By bytes, as an id is made: nothing has to be shifted. */
	return (struct tdi_group_entry *)(void *)((char *)tdi_group_cache +
						  (id & (sizeof(tdi_group_cache) -
							 sizeof(tdi_group_cache[0]))));
}

/*
 * Asks for a cache line that will be written to. Compilers take a read for it unless they
 * are told of a CPU that has better; all x86-64 ones take this, some as no-op.
 */
TDI_BATCH_INLINE void tdi_batch_prefetch(const void *addr)
{
#ifdef __x86_64__
	__asm__ volatile("prefetchw %0" : : "m"(*(const char *)addr));
#else
	__builtin_prefetch(addr, 1);
#endif
}

/*
 * Puts a pointer where place has been made, which is what next says. True: something is
 * left to be done, by tdi_batch_after().
 */
TDI_BATCH_INLINE int tdi_batch_put_in(struct tdi_batch_group *group, void **next,
				      void *object, uint64_t bytes)
{
	/* What the page counts is its first word. */
	uint64_t *in_page =
		(uint64_t *)((uintptr_t)next & ~(uintptr_t)(TDI_BATCH_PAGE - 1));

	tdi_batch_prefetch(next + TDI_BATCH_AHEAD);
	*next = object;
	/* A plain addition: nobody else writes. */
	bytes += __atomic_load_n(in_page, __ATOMIC_RELAXED);
	__atomic_store_n(in_page, bytes, __ATOMIC_RELAXED);
	/* Release: pairs with the acquire in take_open(). What made the object
	 * unreachable comes before it. */
	__atomic_store_n(&group->next, next + 1, __ATOMIC_RELEASE);
	/* Only the compiler has to keep the order: tdi_batch_drowse is followed by a
	 * barrier on all threads, or TDI_GROUP_FENCE is set. */
	__atomic_signal_fence(__ATOMIC_SEQ_CST);
	return bytes >= group->bytes_stop ||
	       __atomic_load_n(&group->flags, __ATOMIC_RELAXED) != 0;
}

/* The calling thread's group, if there is place for another pointer, and where; or NULL.
 */
TDI_BATCH_INLINE struct tdi_batch_group *tdi_batch_group_of(
	const struct tdi_batch_front *front, void ***next)
{
	const struct tdi_group_entry *entry = tdi_group_entry_of(front->id);
	struct tdi_batch_group *group;

	if (tdi_batch_rarely(entry->id != front->id))
		return (struct tdi_batch_group *)0;
	group = entry->group;
	*next = __atomic_load_n(&group->next, __ATOMIC_RELAXED);
	return tdi_batch_rarely(*next == group->stop) ? (struct tdi_batch_group *)0
						      : group;
}

TDI_BATCH_INLINE int tdi_batch_free(struct td_batch *batch, struct td_batch_node *node,
				    size_t bytes)
{
	const struct tdi_batch_front *front =
		(const struct tdi_batch_front *)(const void *)batch;
	struct tdi_batch_group *group;
	void **next;

	if (tdi_batch_rarely(!batch || !node))
		return tdi_batch_free_slow(batch, node, bytes);
	group = tdi_batch_group_of(front, &next);
	if (tdi_batch_rarely(!group))
		return tdi_batch_free_slow(batch, node, bytes);
	if (tdi_batch_rarely(tdi_batch_put_in(group, next,
					      (char *)(void *)node - front->node_offset,
					      bytes ? bytes : front->object_bytes)))
		return tdi_batch_after(batch, group);
	return 0;
}

TDI_BATCH_INLINE int tdi_batch_free_ptr(struct td_batch *batch, void *object,
					size_t bytes)
{
	const struct tdi_batch_front *front =
		(const struct tdi_batch_front *)(const void *)batch;
	struct tdi_batch_group *group;
	void **next;

	if (tdi_batch_rarely(!batch || !object))
		return tdi_batch_free_ptr_slow(batch, object, bytes);
	group = tdi_batch_group_of(front, &next);
	if (tdi_batch_rarely(!group))
		return tdi_batch_free_ptr_slow(batch, object, bytes);
	if (tdi_batch_rarely(tdi_batch_put_in(group, next, object,
					      bytes ? bytes : front->object_bytes)))
		return tdi_batch_after(batch, group);
	return 0;
}

#undef tdi_batch_rarely

#ifdef __cplusplus
}
#endif

#endif
