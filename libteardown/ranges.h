/* SPDX-License-Identifier: MIT */
/*
 * Floor 2: which address ranges of this process belong to regions, so that none is
 * given to two of them. Thread-safe: one lock, which unmapping holds as well, so that a
 * range is claimed exactly as long as it is mapped. Whoever waits for it wants to map or
 * unmap, and would wait for the kernel's lock instead.
 */
#ifndef TDI_RANGES_H
#define TDI_RANGES_H

#include "base.h"

struct tdi_range {
	uintptr_t start, end;
};

/* Claims a range, by address of the struct, which the caller keeps until the release.
 * -EEXIST: it overlaps one that is claimed; -ENOMEM. */
int tdi_ranges_claim(struct tdi_range *range);

/* Releases what tdi_ranges_claim() was given. Allocates nothing. */
void tdi_ranges_release(struct tdi_range *range);

/*
 * Unmaps the first `length` bytes of a claimed range and gives them up, in one step as
 * far as others can see. 0: the claim begins that much later now, or is released when
 * nothing is left; or what munmap answered, and nothing has changed. Allocates nothing.
 */
int tdi_ranges_unmap(struct tdi_range *range, uintptr_t start, size_t length);

/* Around a fork. In the child no range is claimed: its regions are the parent's. */
void tdi_ranges_before_fork(void);
void tdi_ranges_after_fork(bool in_child);

#endif
