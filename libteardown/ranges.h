/* SPDX-License-Identifier: MIT */
/*
 * Floor 2: which address ranges of this process belong to regions, so that none is
 * given to two of them. Thread-safe: one lock, held for a look-up, never across a system
 * call. A range that is being unmapped is neither here nor there: the kernel may have
 * given its addresses out again already, or may still refuse. Whoever wants to claim some
 * of it waits until that is known, which is as long as the kernel takes.
 */
#ifndef TDI_RANGES_H
#define TDI_RANGES_H

#include "base.h"

struct tdi_range {
	uintptr_t start, end;
	bool leaving; /* being unmapped */
};

/* Claims a range, by address of the struct, which the caller keeps until the release.
 * -EEXIST: it overlaps one that is claimed; -ENOMEM. Waits: see above. */
int tdi_ranges_claim(struct tdi_range *range);

/* Cuts a claim in two: tail gets what begins at `at`. -ENOMEM, and nothing has changed.
 */
int tdi_ranges_split(struct tdi_range *range, uintptr_t at, struct tdi_range *tail);

/* Takes a cut back, in one step: nobody else can claim any of it in between. */
void tdi_ranges_join(struct tdi_range *range, struct tdi_range *tail);

/* heir, which has the same bounds, takes the place of a claim. */
void tdi_ranges_hand_over(struct tdi_range *range, struct tdi_range *heir);

/* Releases what has been claimed. Allocates nothing. */
void tdi_ranges_release(struct tdi_range *range);

/* From here until the release, or until it is known to stay, others wait for it. */
void tdi_ranges_leave(struct tdi_range *range);
void tdi_ranges_stay(struct tdi_range *range);

/*
 * Unmaps the first `length` bytes of a claimed range and gives them up, in one step as
 * far as others can see. 0: the claim begins that much later now, or is released when
 * nothing is left; or what munmap answered, and nothing has changed. Allocates nothing.
 */
int tdi_ranges_unmap(struct tdi_range *range, uintptr_t start, size_t length);

/* Does any claim overlap this that is not leaving? Never waits. */
bool tdi_ranges_overlap(uintptr_t start, uintptr_t end);

/* In a child no range is claimed: its regions are the parent's. */
void tdi_ranges_after_fork_in_child(void);

#endif
