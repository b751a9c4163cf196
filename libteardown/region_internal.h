/* SPDX-License-Identifier: MIT */
/* Floor 4: the region object: where memory comes from and whose it is. */
#ifndef TDI_REGION_INTERNAL_H
#define TDI_REGION_INTERNAL_H

#include "doom.h"
#include "doomed.h"
#include "map.h"
#include "ranges.h"
#include "retire.h"

/* Descriptors that a region holds, shared by the parts it is cut into. */
struct tdi_region_files {
	_Atomic(uint32_t) regions;
	int fd, uffd; /* -1: none */
};

/*
 * What look-ups read, apart from all the rest: tags of thousands of regions lie close
 * together, so that finding one costs few cache lines. Constant once it can be found, but
 * for leaving.
 */
struct tdi_region_tag {
	struct tdi_map_item item;
	const struct td_region_ops *ops;
	struct tdi_region *region;
	enum td_kind kind;
	unsigned flags;
	/* It is being unmapped: look-ups do not find it any more, and its place is taken
	 * until the kernel has decided. Written under the space's lock. */
	_Atomic(bool) leaving;
};

struct tdi_region {
	struct tdi_region_tag *tag;
	struct tdi_extent extent;
	struct tdi_range range; /* claimed as far as it is mapped; empty when it is not */
	struct tdi_region_files *files; /* or NULL */
	struct tdi_region *next;	/* among those that leave together */
	struct tdi_quarantine room; /* what is still reserved beside it, if anything */
	struct td_space *space;	    /* set when it is added */
	struct tdi_map *map;	    /* that it is looked up in */
	/* When it has been evicted by itself: whoever unmaps it, and the reapers, hold
	 * it. */
	struct tdi_doomed_owner owner;
	_Atomic(uint32_t) holders;
	struct tdi_retired retired;
};

/* Is [addr, addr + length) a range of whole pages? */
bool tdi_region_range_is_sound(uintptr_t start, size_t length);

/* See td_region_map and td_region_adopt. On failure nothing is mapped or changed. */
int tdi_region_map(size_t length, const struct td_region_opts *opts,
		   struct tdi_region **ret);
int tdi_region_adopt(void *addr, size_t length, const struct td_region_opts *opts,
		     struct tdi_region **ret);

/* Claims [start, start + length) and makes the object. -EEXIST, -ENOMEM, -EMFILE... */
int tdi_region_new(uintptr_t start, size_t length, const struct td_region_opts *opts,
		   struct tdi_region **ret);

/*
 * Two objects for the parts of one, cut at an address inside it; its claim and its files
 * pass on to them. The old one is then only good for tdi_region_retire(). -ENOMEM, and
 * nothing is changed.
 */
int tdi_region_cut(struct tdi_region *region, uintptr_t at, struct tdi_region **left,
		   struct tdi_region **right);

/* Takes that back: the parts have not been published. */
void tdi_region_uncut(struct tdi_region *region, struct tdi_region *left,
		      struct tdi_region *right);

/* Unmaps a part, from the front on, and gives the claim on it up. 0 or -errno. */
int tdi_region_unmap(struct tdi_region *region, uintptr_t start, size_t length);

/* Gives up what is left of the claim. */
void tdi_region_unclaim(struct tdi_region *region);

/* Frees the descriptor, not the memory; releases what is left of the claim. */
void tdi_region_free(struct tdi_region *region);

/* The same, a grace period later, when look-ups may still be at it. */
void tdi_region_retire(struct tdi_region *region, struct td_engine *engine);

/* Fills in what look-ups tell. */
void tdi_region_describe(const struct tdi_region_tag *tag, struct td_region_info *ret);

static inline struct tdi_region_tag *tdi_region_tag_of(struct tdi_map_item *item)
{
	return tdi_container_of(item, struct tdi_region_tag, item);
}

#endif
