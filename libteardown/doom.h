/* SPDX-License-Identifier: MIT */
/*
 * Floor 4: doomed extents, ranges that nobody can reach any more, and the cursor by
 * which any number of reapers release them in slices.
 *
 *   Z1  Phase one of an extent releases its pages, part by part, in any order and by
 *       several reapers at once: the range stays mapped, so nobody else can get a part
 *       of it.
 *   Z2  Phase two unmaps the empty shell from its start to its end, by one reaper at a
 *       time, and counts what it has unmapped: an address that has been given back to
 *       the kernel may be somebody else's at once, and is never named again.
 *   Z3  No step is meant to hold a kernel lock for longer than the slice's target.
 *   Z4  Nothing here allocates.
 *   Z5  When the kernel cannot unmap for now (-ENOMEM at its limit on mappings), the
 *       pages are released all the same, and the extent is put aside and tried again
 *       later; a slice that got nowhere says so. When the kernel never will, that is
 *       said, recorded, and the rest still goes.
 */
#ifndef TDI_DOOM_H
#define TDI_DOOM_H

#include "base.h"
#include "kind.h"
#include "pace.h"

#include <pthread.h>
#include <teardown/engine.h>

struct tdi_extent {
	struct tdi_extent *next, *prev; /* circular, in one of the doom's lists */
	const struct tdi_kind *kind;
	uintptr_t start;
	size_t length;

	size_t claimed;	  /* phase one: bytes handed out, from the start on */
	size_t zapped;	  /* phase one: bytes whose turn is over */
	size_t unmapped;  /* phase two: bytes unmapped, from the start on */
	size_t accounted; /* bytes reported as released */
	struct tdi_pace zap_pace, unmap_pace;
	bool unmapping; /* a reaper is in phase two */
	bool whole;	/* its pages go with the unmapping */
	bool no_whole;	/* that, or a zap, was refused: do not try it (again) */
	int status;	/* why a part of it could not be unmapped for good */
};

struct tdi_doom {
	const char *name; /* of the owner, for messages */

	/* Both are called with no lock held. Unmaps a part of an extent, 0 or -errno;
	 * NULL: by munmap. And: the extent is done with, it may be freed. */
	int (*unmap)(struct tdi_extent *extent, uintptr_t start, size_t length);
	void (*extent_done)(struct tdi_doom *doom, struct tdi_extent *extent);

	/* Held for list work, by reapers and by those who add: never across a system
	 * call or another lock. */
	pthread_mutex_t lock;
	struct tdi_extent *live;  /* not done with */
	struct tdi_extent *stuck; /* put aside until later: Z5 */
	unsigned busy;		  /* reapers at work on an extent */
	int status;		  /* the first extent's that failed for good */
	uint64_t refused;	  /* bytes that stay mapped */
};

void tdi_doom_init(struct tdi_doom *doom, const char *name);
void tdi_doom_destroy(struct tdi_doom *doom);

/* Sets up an extent of page-aligned memory. */
void tdi_extent_init(struct tdi_extent *extent, const struct tdi_kind *kind,
		     uintptr_t start, size_t length);

/* While the work has not been submitted; any thread. */
void tdi_doom_add(struct tdi_doom *doom, struct tdi_extent *extent);

/* The work's slice function: enum td_work_result. */
int tdi_doom_slice(struct tdi_doom *doom, struct td_slice *slice);

/* When the work was abandoned: takes the extents out, one by one, NULL at the end. */
struct tdi_extent *tdi_doom_leftover(struct tdi_doom *doom);

#endif
