/* SPDX-License-Identifier: MIT */
#include "lazy_slots.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

/* Held for list work only: by threads that register or end, never by a pass. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct tdi_lazy_block *first_block, *last_block;
static _Atomic(unsigned) nr_blocks; /* written under the lock */

bool tdi_lazy_any_block(void)
{
	/* p0. An RMW that changes nothing: r1 in append comes before it, and is seen; or
	 * it comes after it, and acquires what the caller did before. */
	return atomic_fetch_add_explicit(&nr_blocks, 0, memory_order_acq_rel) != 0;
}

unsigned tdi_lazy_blocks(struct tdi_lazy_block **first)
{
	/* seq_cst: pairs with r1 in append where there is no membarrier. */
	unsigned blocks = atomic_load_explicit(&nr_blocks, memory_order_seq_cst);

	*first = blocks > 0 ? first_block : NULL;
	return blocks;
}

static struct tdi_lazy_slot *take_from_block(struct tdi_lazy_block *block)
{
	uint64_t taken = atomic_load_explicit(&block->taken, memory_order_relaxed);
	unsigned free_slot;

	if (taken == UINT64_MAX)
		return NULL;
	free_slot = (unsigned)__builtin_ctzll(~taken);
	/* r1. seq_cst: a pass that sees what the thread enters sees the bit. Acquire:
	 * pairs with tdi_lazy_slot_give. */
	atomic_fetch_or_explicit(&block->taken, UINT64_C(1) << free_slot,
				 memory_order_seq_cst);
	return &block->slots[free_slot];
}

/* The first that is free: what passes look at stays together. */
static struct tdi_lazy_slot *take_any(void)
{
	struct tdi_lazy_slot *slot = NULL;

	for (struct tdi_lazy_block *block = first_block; block && !slot;
	     block = block->next)
		slot = take_from_block(block);
	return slot;
}

static void append(struct tdi_lazy_block *block)
{
	if (last_block)
		last_block->next = block;
	else
		first_block = block;
	last_block = block;
	/* r1. seq_cst; release of the block and the link to it; acquire: see p0. */
	atomic_fetch_add_explicit(&nr_blocks, 1, memory_order_seq_cst);
}

struct tdi_lazy_slot *tdi_lazy_slot_take(void)
{
	struct tdi_lazy_block *spare;
	struct tdi_lazy_slot *slot;

	pthread_mutex_lock(&lock);
	slot = take_any();
	pthread_mutex_unlock(&lock);
	if (slot)
		return slot;

	/* Without the lock: it is malloc, whoever that is. */
	spare = aligned_alloc(_Alignof(struct tdi_lazy_block), sizeof(*spare));
	if (!spare)
		return NULL;
	memset(spare, 0, sizeof(*spare));
	pthread_mutex_lock(&lock);
	slot = take_any();
	if (!slot) {
		append(spare);
		slot = take_from_block(spare);
		spare = NULL;
	}
	pthread_mutex_unlock(&lock);
	free(spare);
	return slot;
}

void tdi_lazy_slot_give(struct tdi_lazy_slot *slot)
{
	struct tdi_lazy_block *block = first_block;

	pthread_mutex_lock(&lock);
	while (slot < block->slots || slot >= block->slots + TDI_LAZY_BLOCK_SLOTS)
		block = block->next;
	/* Release: what was held here is over. Not needed by passes: the words say so. */
	atomic_fetch_and_explicit(&block->taken, ~(UINT64_C(1) << (slot - block->slots)),
				  memory_order_seq_cst);
	pthread_mutex_unlock(&lock);
}

/* ---- fork ---- */

void tdi_lazy_slots_before_fork(void)
{
	pthread_mutex_lock(&lock);
}

/* The threads of the parent are not there, and what they held is not the child's. */
static void clear(struct tdi_lazy_block *block)
{
	block->tagged = 0;
	for (unsigned i = 0; i < TDI_LAZY_BLOCK_SLOTS; i++) {
		for (unsigned w = 0; w < TDI_LAZY_WORDS; w++) {
			block->slots[i].words[w] = NULL;
			block->slots[i].tags[w] = NULL;
		}
	}
	atomic_store_explicit(&block->taken, 0, memory_order_relaxed);
}

void tdi_lazy_slots_after_fork(bool child)
{
	struct tdi_lazy_block *block = first_block;

	for (; child && block; block = block->next)
		clear(block);
	pthread_mutex_unlock(&lock);
}
