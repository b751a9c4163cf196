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

#include "base.h"
#include "kind.h"
#include "nodes.h"
#include "pace.h"

#include <pthread.h>
#include <teardown/region.h>

enum tdi_extent_flags {
	TDI_EXTENT_LOCKED = 1u << 0,	/* known to be locked: spares a call */
	TDI_EXTENT_EXCLUSIVE = 1u << 1, /* shared memory that nobody else uses */
	TDI_EXTENT_SCRUB = 1u << 2,	/* overwritten before it is released */
	TDI_EXTENT_NO_FORK = 1u << 3,	/* known to be marked so: no child has it */
};

/* What an extent's memory is: set up once, and passed on when the range is cut or moved.
 */
struct tdi_backing {
	const struct tdi_kind *kind;
	const struct td_region_ops *ops; /* the host's part, or NULL */
	unsigned flags;			 /* enum tdi_extent_flags */
	int fd, uffd;			 /* -1: none. Not the extent's to close */
	uint64_t offset;		 /* in fd, of the extent's start */
	size_t huge_page;		 /* bytes, or 0 */
};

struct tdi_extent {
	struct tdi_extent *next, *prev; /* circular, in one of the doom's lists */
	struct tdi_backing backing;
	uintptr_t start;
	size_t length;

	unsigned prepared; /* the host's callbacks that have been made: Z6 */
	unsigned failures; /* of them, in a row */
	bool hosting;	   /* one is being made */

	size_t claimed;	  /* phase one: bytes handed out, from the start on */
	size_t zapped;	  /* phase one: bytes whose turn is over */
	size_t unmapped;  /* phase two: bytes unmapped, from the start on */
	size_t accounted; /* bytes reported as released */
	struct tdi_pace zap_pace, unmap_pace;
	bool begun;	/* its pace is more than a guess */
	bool unmapping; /* a reaper is in phase two */
	bool whole;	/* its pages go with the unmapping */
	bool no_whole;	/* that, or a zap, was refused: do not try it (again) */
	int status;	/* why a part of it could not be unmapped for good */
};

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

/* Private anonymous memory, from which to make others. */
#define TDI_BACKING_ANON                                                                 \
	((struct tdi_backing){.kind = &tdi_kind_anon, .fd = -1, .uffd = -1})

/* Sets up an extent of page-aligned memory. */
void tdi_extent_init(struct tdi_extent *extent, const struct tdi_backing *backing,
		     uintptr_t start, size_t length);

/* What the host has done for an extent so far, it has done for another in its place. */
void tdi_extent_carry_on(struct tdi_extent *extent, const struct tdi_extent *from);

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

static inline bool tdi_extent_is_shared(const struct tdi_extent *extent)
{
	return extent->backing.kind == &tdi_kind_shared;
}

/* The node that has the pages of the next step; TDI_NODE_UNKNOWN: nobody can tell. */
int tdi_doom_node(struct tdi_doom *doom);

/* When the work was abandoned: takes the extents out, one by one, NULL at the end. */
struct tdi_extent *tdi_doom_leftover(struct tdi_doom *doom);

#endif
