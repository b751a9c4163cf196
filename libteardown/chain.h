/* SPDX-License-Identifier: MIT */
/*
 * Floor 1: a queue of objects linked through a node of their own. Any thread puts chains
 * of any length in with one exchange; whoever holds the queue's lock takes everything out
 * at once, or one node after the other.
 *
 * A thread that is held up between its exchange and linking what it put in hides what
 * came after: those that take meet a missing link and come back later.
 */
#ifndef TDI_CHAIN_H
#define TDI_CHAIN_H

#include "base.h"

#include <teardown/batch.h>

struct tdi_chain {
	_Alignas(TDI_CACHE_LINE) _Atomic(struct td_batch_node *) tail;
	struct td_batch_node head; /* a dummy: head.tdi_next is the first one */
};

static inline void tdi_chain_init(struct tdi_chain *chain)
{
	atomic_init(&chain->head.tdi_next, NULL);
	atomic_init(&chain->tail, &chain->head);
}

static inline bool tdi_chain_empty(struct tdi_chain *chain)
{
	/* seq_cst: one side of "is there more?", see batch_free.c, grace.c */
	return atomic_load_explicit(&chain->tail, memory_order_seq_cst) == &chain->head;
}

/* Wait-free. first to last are linked. */
static inline void tdi_chain_put(struct tdi_chain *chain, struct td_batch_node *first,
				 struct td_batch_node *last)
{
	struct td_batch_node *before;

	atomic_store_explicit(&last->tdi_next, NULL, memory_order_relaxed);
	/* seq_cst: a release of the chain's own links to the one who links himself to
	 * them, an acquire of those before, and one side of "is there more?" */
	before = atomic_exchange_explicit(&chain->tail, last, memory_order_seq_cst);
	/* Release: pairs with tdi_chain_next. */
	atomic_store_explicit(&before->tdi_next, first, memory_order_release);
}

/* The one after, or NULL: there is none yet that could be seen. */
static inline struct td_batch_node *tdi_chain_next(struct td_batch_node *node)
{
	return atomic_load_explicit(&node->tdi_next, memory_order_acquire);
}

/*
 * Takes out all: first to *last. NULL: nothing, or nothing that could be seen. Links in
 * the middle may still be missing.
 */
static inline struct td_batch_node *tdi_chain_take_all(struct tdi_chain *chain,
						       struct td_batch_node **last)
{
	struct td_batch_node *first = tdi_chain_next(&chain->head);

	if (!first)
		return NULL;
	/* Only those who put in to an empty queue write here, and it is not empty. */
	atomic_store_explicit(&chain->head.tdi_next, NULL, memory_order_relaxed);
	/* acq_rel: pairs with the exchange of those who put in. */
	*last = atomic_exchange_explicit(&chain->tail, &chain->head,
					 memory_order_acq_rel);
	return first;
}

/* Takes out the first. NULL as above. */
struct td_batch_node *tdi_chain_take(struct tdi_chain *chain);

#endif
