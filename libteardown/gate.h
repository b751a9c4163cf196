/* SPDX-License-Identifier: MIT */
/*
 * Floor 1: a gate that many threads pass through briefly and one closes for good.
 *
 * Whoever enters may use what the gate protects until he leaves, however soon others
 * are done with it; whoever closes knows, once tdi_gate_close() returns, that nobody is
 * inside and nobody will be.
 */
#ifndef TDI_GATE_H
#define TDI_GATE_H

#include "base.h"
#include "sys.h"

#include <limits.h>

#define TDI_GATE_CLOSED 1u /* the rest of the word counts those inside, by twos */

struct tdi_gate {
	_Atomic(uint32_t) word;
};

static inline void tdi_gate_init(struct tdi_gate *gate)
{
	atomic_init(&gate->word, 0);
}

/* False: closed, and the caller is not inside. */
static inline bool tdi_gate_enter(struct tdi_gate *gate);

static inline void tdi_gate_leave(struct tdi_gate *gate)
{
	/* Release: pairs with the acquire in tdi_gate_close. */
	uint32_t old = atomic_fetch_sub_explicit(&gate->word, 2, memory_order_release);

	/* The gate may be freed from here on: only its address is used. */
	if (tdi_unlikely(old == (2 | TDI_GATE_CLOSED)))
		tdi_sys_futex_wake(&gate->word, INT_MAX);
}

static inline bool tdi_gate_enter(struct tdi_gate *gate)
{
	/* Acquire: a thread that sees the gate closed sees why. */
	uint32_t old = atomic_fetch_add_explicit(&gate->word, 2, memory_order_acquire);

	if (tdi_likely(!(old & TDI_GATE_CLOSED)))
		return true;
	tdi_gate_leave(gate);
	return false;
}

/* Blocks until nobody is inside. Once only. */
static inline void tdi_gate_close(struct tdi_gate *gate)
{
	uint32_t word = atomic_fetch_or_explicit(&gate->word, TDI_GATE_CLOSED,
						 memory_order_acq_rel) |
			TDI_GATE_CLOSED;

	while (word != TDI_GATE_CLOSED) {
		tdi_sys_futex_wait(&gate->word, word, UINT64_MAX);
		word = atomic_load_explicit(&gate->word, memory_order_acquire);
	}
}

#endif
