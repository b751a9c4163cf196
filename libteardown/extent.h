/* SPDX-License-Identifier: MIT */
/*
 * Floor 4: an extent, a range that nobody can reach any more: what it is, how far its
 * release has come, and how large the next step is to be. doom.h has the rules.
 */
#ifndef TDI_EXTENT_H
#define TDI_EXTENT_H

#include "base.h"
#include "kind.h"
#include "pace.h"

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

/* Private anonymous memory, from which to make others. */
#define TDI_BACKING_ANON                                                                 \
	((struct tdi_backing){.kind = &tdi_kind_anon, .fd = -1, .uffd = -1})

/* Sets up an extent of page-aligned memory. */
void tdi_extent_init(struct tdi_extent *extent, const struct tdi_backing *backing,
		     uintptr_t start, size_t length);

/* What the host has done for an extent so far, it has done for another in its place. */
void tdi_extent_carry_on(struct tdi_extent *extent, const struct tdi_extent *from);

/* In a circular list, NULL when empty. */
void tdi_extent_list_add(struct tdi_extent **list, struct tdi_extent *extent);
void tdi_extent_list_remove(struct tdi_extent **list, struct tdi_extent *extent);

/* ---- under the lock of its doom ---- */

/* How many bytes come next, from `done` on: so many, or up to a page-table boundary. */
size_t tdi_extent_step(const struct tdi_extent *extent, size_t done, size_t step);

/* Its pages go with the unmapping; or the other way round, after all. */
void tdi_extent_make_whole(struct tdi_extent *extent);
void tdi_extent_make_zapped_first(struct tdi_extent *extent);

/* A slice begins; a step of it took so long. */
void tdi_extent_aim(struct tdi_extent *extent, const struct td_slice *slice);
void tdi_extent_learn(struct tdi_extent *extent, struct tdi_pace *pace, size_t bytes,
		      uint64_t took_ns, const struct td_slice *slice);

/* So many bytes are released: how many of them had not been reported. */
uint64_t tdi_extent_account(struct tdi_extent *extent, size_t released);

static inline bool tdi_extent_is_shared(const struct tdi_extent *extent)
{
	return extent->backing.kind == &tdi_kind_shared;
}

#endif
