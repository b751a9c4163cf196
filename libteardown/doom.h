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
 *   Z6  The host's callbacks of an extent are made one at a time: those that prepare, in
 *       order, before anything is released; its release, in place of phase one; done,
 * last. One that fails is tried again later, and given up after so many times: then the
 *       range stays mapped, for something may still be using it.
 */
#ifndef TDI_DOOM_H
#define TDI_DOOM_H

#include "extent.h"
#include "nodes.h"

#include <pthread.h>

struct tdi_doom {
	const char *name; /* of the owner, for messages */
	void *owner;	  /* of the callbacks' own */

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

/*
 * For a range that is to leave its place before it is doomed: makes the callbacks that
 * prepare, in the caller, as often as they may be tried. 0, or the error of the last try.
 */
int tdi_extent_prepare(struct tdi_extent *extent, const char *owner);

/* While the work has not been submitted; any thread. */
void tdi_doom_add(struct tdi_doom *doom, struct tdi_extent *extent);
void tdi_doom_remove(struct tdi_doom *doom, struct tdi_extent *extent);

/*
 * The work's slice function: enum td_work_result. keep_shared: this slice leaves shared
 * memory to others; TD_WORK_WAIT when there is nothing else.
 */
int tdi_doom_slice_of(struct tdi_doom *doom, struct td_slice *slice, bool keep_shared);
static inline int tdi_doom_slice(struct tdi_doom *doom, struct td_slice *slice)
{
	return tdi_doom_slice_of(doom, slice, false);
}

/* Is there anything but shared memory that has not been released yet? */
bool tdi_doom_has_unshared(struct tdi_doom *doom);

/* The node that has the pages of the next step; TDI_NODE_UNKNOWN: nobody can tell. */
int tdi_doom_node(struct tdi_doom *doom);

/* When the work was abandoned: takes the extents out, one by one, NULL at the end. */
struct tdi_extent *tdi_doom_leftover(struct tdi_doom *doom);

#endif
