/* SPDX-License-Identifier: MIT */
/*
 * Floor 2: the slots of all threads, in blocks that are never freed: a pass may look at a
 * slot at any time, whosever it is by then.
 */
#ifndef TDI_LAZY_SLOTS_H
#define TDI_LAZY_SLOTS_H

#include "lazy.h"

#define TDI_LAZY_BLOCK_SLOTS 64u

struct tdi_lazy_block {
	_Atomic(uint64_t) taken;     /* bit i: slot i is some thread's */
	uint64_t tagged;	     /* during a pass, by that: slots with a tag of its */
	struct tdi_lazy_block *next; /* constant once there is a next one */
	struct tdi_lazy_slot slots[TDI_LAZY_BLOCK_SLOTS];
};

/*
 * Is there any? If not, whoever registers later knows what the caller did before, such as
 * closing something.
 */
bool tdi_lazy_any_block(void);

/* So many blocks there are, from the first one on. More may come, none goes. */
unsigned tdi_lazy_blocks(struct tdi_lazy_block **first);

/* A slot for the calling thread, all empty; NULL: no memory for one. */
struct tdi_lazy_slot *tdi_lazy_slot_take(void);
void tdi_lazy_slot_give(struct tdi_lazy_slot *slot);

void tdi_lazy_slots_before_fork(void);
void tdi_lazy_slots_after_fork(bool child);

/* Of the pass: the lock that makes passes take turns. */
void tdi_lazy_pass_before_fork(void);
void tdi_lazy_pass_after_fork(void);

/* tally.name += n, from any thread */
enum tdi_lazy_end {
	LAZY_PASSES,
	LAZY_LOOKED_AT,
	LAZY_TAGGED,
	LAZY_TAKEN_BACK,
	LAZY_DROPPED,
	LAZY_AT_EXIT,
	LAZY_REFUSED,
	LAZY_ENDS,
};
void tdi_lazy_count(enum tdi_lazy_end end, uint64_t n);

#endif
