/* SPDX-License-Identifier: MIT */
#include "pending.h"
#include "sys.h"

#include <limits.h>

void tdi_pending_end(struct tdi_pending *pending, unsigned epoch, uint32_t n)
{
	/* seq_cst: pairs with the drainer's count-then-look in tdi_pending_drain. */
	if (atomic_fetch_sub_explicit(&pending->n[epoch], n, memory_order_seq_cst) == n &&
	    atomic_load_explicit(&pending->drainers, memory_order_seq_cst) > 0)
		tdi_sys_futex_wake(&pending->n[epoch], INT_MAX);
}

static int wait_for_zero(_Atomic(uint32_t) *word, uint64_t deadline_ns)
{
	int err = 0;

	for (;;) {
		/* seq_cst: pairs with tdi_pending_end */
		uint32_t value = atomic_load_explicit(word, memory_order_seq_cst);

		if (value == 0)
			return 0;
		if (err == -ETIMEDOUT)
			return err;
		err = tdi_sys_futex_wait(word, value, deadline_ns);
	}
}

/* A lock that can be waited for until a deadline. */
static int take_turn(struct tdi_pending *pending, uint64_t deadline_ns)
{
	int err = 0;

	while (atomic_exchange_explicit(&pending->turn, 1, memory_order_acquire) != 0) {
		if (err == -ETIMEDOUT)
			return err;
		err = tdi_sys_futex_wait(&pending->turn, 1, deadline_ns);
	}
	return 0;
}

static void give_turn(struct tdi_pending *pending)
{
	atomic_store_explicit(&pending->turn, 0, memory_order_release);
	tdi_sys_futex_wake(&pending->turn, 1);
}

int tdi_pending_drain(struct tdi_pending *pending, uint64_t deadline_ns)
{
	uint32_t epoch;
	int err;

	err = take_turn(pending, deadline_ns);
	if (err)
		return err;
	atomic_fetch_add_explicit(&pending->drainers, 1, memory_order_seq_cst);
	epoch = atomic_load_explicit(&pending->epoch, memory_order_relaxed);
	err = wait_for_zero(&pending->n[!epoch], deadline_ns);
	if (!err) {
		atomic_store_explicit(&pending->epoch, !epoch, memory_order_seq_cst);
		err = wait_for_zero(&pending->n[epoch], deadline_ns);
	}
	atomic_fetch_sub_explicit(&pending->drainers, 1, memory_order_relaxed);
	give_turn(pending);
	return err;
}
