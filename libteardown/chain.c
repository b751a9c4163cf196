/* SPDX-License-Identifier: MIT */
#include "chain.h"

struct td_batch_node *tdi_chain_take(struct tdi_chain *chain)
{
	struct td_batch_node *first = tdi_chain_next(&chain->head), *next, *tail = first;

	if (!first)
		return NULL;
	next = tdi_chain_next(first);
	if (next) {
		atomic_store_explicit(&chain->head.tdi_next, next, memory_order_relaxed);
		return first;
	}
	/* It seems to be the last: then the queue is empty from here on. */
	atomic_store_explicit(&chain->head.tdi_next, NULL, memory_order_relaxed);
	/* acq_rel: pairs with the exchange of those who put in. */
	if (atomic_compare_exchange_strong_explicit(&chain->tail, &tail, &chain->head,
						    memory_order_acq_rel,
						    memory_order_relaxed))
		return first;
	/* Somebody has put in behind it, and links himself to it in a moment. */
	next = tdi_chain_next(first);
	if (next) {
		atomic_store_explicit(&chain->head.tdi_next, next, memory_order_relaxed);
		return first;
	}
	atomic_store_explicit(&chain->head.tdi_next, first, memory_order_relaxed);
	return NULL;
}
