/* SPDX-License-Identifier: MIT */
/*
 * Floor 2: references to an object that a thread marks in a slot of its own, by a plain
 * store, in place of counting them; and the pass that turns those that are left into
 * counts when the object is about to go. The fast paths are in a public header, what a
 * thread does else in lazy.c; lazy_slots.c has the slots, lazy_pass.c the pass.
 * docs/memory-ordering.md has the proof, and names the steps (e1, l1 ..) that comments
 * refer to.
 *
 * Nothing here knows spaces: any object may be held that has a struct tdi_lazy for its
 * head, and a tdi_ref that counts references to it.
 */
#ifndef TDI_LAZY_H
#define TDI_LAZY_H

#include "base.h"
#include "ref.h"

#include <teardown/lazy_inline.h>

/*
 * Not in use yet, or by one thread only.
 *
 *   count  keeps the object; name: for messages. Both live as long as it does.
 *   drop   drops a count. Context: a thread that leaves: must not free, nor block.
 */
void tdi_lazy_init(struct tdi_lazy *object, struct tdi_ref *count,
		   void (*drop)(struct tdi_lazy *object), const char *name);

/* No hold begins any more. By whoever has ended the last of what allows to enter. */
void tdi_lazy_close(struct tdi_lazy *object);

/*
 * Each hold that there still is gets a count, which its thread drops. Once, after
 * tdi_lazy_close, by a caller with a count that he keeps until then. 0; or -errno: the
 * kernel refused, and nobody knows who holds it: the object must never be freed.
 */
int tdi_lazy_pass(struct tdi_lazy *object);

/* Is a word of it anywhere? For checks, when nobody can enter or leave it. */
bool tdi_lazy_is_held(const struct tdi_lazy *object);

/* Around a fork. */
void tdi_lazy_before_fork(void);
void tdi_lazy_after_fork(bool child);

/* What became of holds, but for those that left by themselves before the pass. */
struct tdi_lazy_tally {
	uint64_t passes;     /* but for those in a process without slots */
	uint64_t looked_at;  /* slots, by passes */
	uint64_t tagged;     /* found by a pass, and given a count */
	uint64_t taken_back; /* ... which had left meanwhile, and it was unused */
	uint64_t dropped;    /* ... which dropped it, when leaving */
	uint64_t at_exit;    /* ended with their thread, tagged or not */
	uint64_t refused;    /* entered too late */
};
void tdi_lazy_tally(struct tdi_lazy_tally *ret);

#endif
