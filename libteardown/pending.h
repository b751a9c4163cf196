/* SPDX-License-Identifier: MIT */
/*
 * Floor 1: counts what is under way, so that one can wait for all that began before,
 * however much keeps coming.
 *
 * It is counted in two alternating epochs. What begins counts in the current one. A drain
 * waits for the other one, which nobody joins (but for one who read the epoch long ago,
 * and who is no older than this drain); makes that the current one; and waits for those
 * that came before.
 */
#ifndef TDI_PENDING_H
#define TDI_PENDING_H

#include "base.h"

struct tdi_pending {
	_Atomic(uint32_t) n[2];	 /* futexes: 0 when none */
	_Atomic(uint32_t) epoch; /* 0 or 1: where the next ones count */
	_Atomic(uint32_t) drainers;
	_Atomic(uint32_t) turn; /* 1 while somebody drains: one at a time */
};

/* The epoch, for tdi_pending_end. */
static inline unsigned tdi_pending_begin(struct tdi_pending *pending, uint32_t n)
{
	/* Acquire: pairs with the drainer's change of epoch. */
	unsigned epoch = atomic_load_explicit(&pending->epoch, memory_order_acquire);

	atomic_fetch_add_explicit(&pending->n[epoch], n, memory_order_relaxed);
	return epoch;
}

/* More in an epoch in which the caller has something under way. */
static inline void tdi_pending_join(struct tdi_pending *pending, unsigned epoch,
				    uint32_t n)
{
	atomic_fetch_add_explicit(&pending->n[epoch], n, memory_order_relaxed);
}

/* What this counted may be gone, and the counter with it, when it returns. */
void tdi_pending_end(struct tdi_pending *pending, unsigned epoch, uint32_t n);

/*
 * How many are under way: a hint where others begin and end them. Acquire: what those did
 * that have ended (tdi_pending_end) is seen.
 */
static inline uint32_t tdi_pending_count(const struct tdi_pending *pending)
{
	return atomic_load_explicit(&pending->n[0], memory_order_acquire) +
	       atomic_load_explicit(&pending->n[1], memory_order_acquire);
}

/* Blocks until all that began before this call has ended. 0, -ETIMEDOUT. */
int tdi_pending_drain(struct tdi_pending *pending, uint64_t deadline_ns);

#endif
