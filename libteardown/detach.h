/* SPDX-License-Identifier: MIT */
/*
 * Floor 2: taking a range out of sight in one short step, by moving its page tables to
 * reserved address space, the quarantine, where its pages wait.
 *
 *   D1  All or nothing: afterwards every piece has left its place, moved or unmapped, or
 *       each is where it was, as it was.
 *   D2  Only the given pieces are touched. What lies between them, or comes to lie where
 *       one was moved away, may be somebody else's.
 *   D3  The reservation equals the range modulo 1 GiB where there is room, so that the
 *       kernel moves page tables by the GiB; else modulo 2 MiB, else as it comes.
 *   D4  A fork does not see the quarantine: none runs between the move and the mark that
 *       keeps it out of children. It is kept out of core dumps, too.
 *   D5  Nothing here allocates.
 */
#ifndef TDI_DETACH_H
#define TDI_DETACH_H

#include "base.h"

#define TDI_PIECES_MAX 64u

/* A mapping, or as much of one as lies in the range. */
struct tdi_piece {
	uintptr_t start;
	size_t length;
	bool partial; /* moving it splits a mapping */
	bool stay;    /* not to be moved but to be unmapped, pages and all */
};

struct tdi_quarantine {
	uintptr_t start; /* where the start of the range is now */
	/* The whole reservation: the range with something before and after it. */
	uintptr_t reserved, reserved_end;
	bool exposed; /* it could not be marked as D4 wants: free it soon */
};

/*
 * Moves the pieces of [start, start + length), at most TDI_PIECES_MAX, which are in order
 * and do not overlap, to the same distances in a quarantine. huge_page: the size of their
 * huge pages, or 0. 0, or what the kernel answered, and nothing is changed.
 */
int tdi_detach(uintptr_t start, size_t length, const struct tdi_piece *pieces,
	       unsigned nr_pieces, size_t huge_page, struct tdi_quarantine *ret);

/* Unmaps what was reserved beside a range of this length. True: nothing is left of it. */
bool tdi_detach_trim(struct tdi_quarantine *quarantine, size_t length);

/* How much address space a detached range of this length takes up, at most. */
size_t tdi_detach_room(size_t length, size_t huge_page);

/* Around a fork: D4. */
void tdi_detach_before_fork(void);
void tdi_detach_after_fork(bool in_child);

#endif
