/* SPDX-License-Identifier: MIT */
/* The life of a region's descriptor: made, cut, freed. */
#include "cells.h"
#include "region_internal.h"
#include "sys.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>

/* ---- descriptors ---- */

static void files_put(struct tdi_region_files *files)
{
	/* acq_rel: whoever closes has the others' use behind him. */
	if (!files ||
	    atomic_fetch_sub_explicit(&files->regions, 1, memory_order_acq_rel) > 1)
		return;
	if (files->fd >= 0)
		(void)tdi_sys_close(files->fd);
	if (files->uffd >= 0)
		(void)tdi_sys_close(files->uffd);
	free(files);
}

/* own_position: looking for data moves it, which must not show at the host's descriptor.
 */
static int duplicate(int fd, bool own_position, int *ret)
{
	char path[64];
	int copy = -EINVAL;

	if (own_position) {
		snprintf(path, sizeof(path), "/proc/thread-self/fd/%d", fd);
		copy = tdi_sys_open(path, O_RDWR | O_CLOEXEC);
	}
	if (copy < 0)
		copy = tdi_sys_dup_cloexec(fd);
	if (copy < 0)
		return copy;
	*ret = copy;
	return 0;
}

/* Does the release need the file, when it is unmapped by and by? */
static bool needs_fd(const struct td_region_opts *opts)
{
	return (opts->flags & TD_REGION_FD) &&
	       (opts->flags & (TD_REGION_EXCLUSIVE | TD_REGION_SCRUB));
}

static int files_new(const struct td_region_opts *opts, struct tdi_region_files **ret)
{
	struct tdi_region_files *files;
	int err = 0;

	if (!needs_fd(opts) && !(opts->flags & TD_REGION_UFFD)) {
		*ret = NULL;
		return 0;
	}
	files = malloc(sizeof(*files));
	if (!files)
		return -ENOMEM;
	*files = (struct tdi_region_files){.regions = 1, .fd = -1, .uffd = -1};
	if (needs_fd(opts))
		err = duplicate(opts->fd, opts->flags & TD_REGION_SCRUB, &files->fd);
	if (!err && (opts->flags & TD_REGION_UFFD))
		err = duplicate(opts->uffd, false, &files->uffd);
	if (err) {
		files_put(files);
		return err;
	}
	*ret = files;
	return 0;
}

/* ---- what it is made of ---- */

static const struct tdi_kind *kind_of(enum td_kind kind)
{
	switch (kind) {
	case TD_KIND_ANON:
		break;
	case TD_KIND_HUGETLB:
		return &tdi_kind_hugetlb;
	case TD_KIND_SHARED:
		return &tdi_kind_shared;
	case TD_KIND_FILE:
		return &tdi_kind_file;
	case TD_KIND_DEVICE:
		return &tdi_kind_device;
	}
	return &tdi_kind_anon;
}

static struct tdi_backing backing_of(const struct td_region_opts *opts,
				     const struct tdi_region_files *files)
{
	struct tdi_backing backing = {
		.kind = kind_of(opts->kind),
		.ops = opts->ops,
		.fd = files ? files->fd : -1,
		.uffd = files ? files->uffd : -1,
		.offset = opts->offset,
		.huge_page = opts->huge_page_size,
	};

	if (opts->flags & TD_REGION_LOCKED)
		backing.flags |= TDI_EXTENT_LOCKED;
	if (opts->flags & TD_REGION_EXCLUSIVE)
		backing.flags |= TDI_EXTENT_EXCLUSIVE;
	if (opts->flags & TD_REGION_SCRUB)
		backing.flags |= TDI_EXTENT_SCRUB;
	return backing;
}

static void set_up(struct tdi_region *region, uintptr_t start, uintptr_t end,
		   const struct tdi_backing *backing)
{
	region->tag->item = (struct tdi_map_item){start, end};
	region->tag->region = region;
	region->range = (struct tdi_range){start, end, false};
	tdi_extent_init(&region->extent, backing, start, end - start);
}

_Static_assert(sizeof(struct tdi_region_tag) <= TDI_CELL_SIZE, "a tag fits into a cell");

static void region_dealloc(struct tdi_region *region)
{
	if (region)
		tdi_cells_free(region->tag);
	free(region);
}

static struct tdi_region *region_alloc(void)
{
	struct tdi_region *region = calloc(1, sizeof(*region));

	if (region)
		region->tag = tdi_cells_alloc();
	if (region && region->tag)
		return region;
	region_dealloc(region);
	return NULL;
}

int tdi_region_new(uintptr_t start, size_t length, const struct td_region_opts *opts,
		   struct tdi_region **ret)
{
	struct tdi_region *region = region_alloc();
	struct tdi_backing backing;
	int err = region ? files_new(opts, &region->files) : -ENOMEM;

	if (!err) {
		backing = backing_of(opts, region->files);
		set_up(region, start, start + length, &backing);
		region->tag->kind = opts->kind;
		region->tag->flags = opts->flags;
		region->tag->ops = opts->ops;
		err = tdi_ranges_claim(&region->range);
		if (err)
			files_put(region->files);
	}
	if (err) {
		region_dealloc(region);
		return err;
	}
	*ret = region;
	return 0;
}

/* ---- cutting ---- */

static struct tdi_region *part(const struct tdi_region *region, uintptr_t start,
			       uintptr_t end)
{
	struct tdi_region *made = region_alloc();
	struct tdi_backing backing = region->extent.backing;

	if (!made)
		return NULL;
	made->files = region->files;
	made->space = region->space;
	made->map = region->map;
	*made->tag = *region->tag;
	backing.offset += start - region->tag->item.start;
	set_up(made, start, end, &backing);
	return made;
}

int tdi_region_cut(struct tdi_region *region, uintptr_t at, struct tdi_region **left,
		   struct tdi_region **right)
{
	struct tdi_region *first = part(region, region->tag->item.start, at);
	struct tdi_region *second = part(region, at, region->tag->item.end);
	int err = first && second ? 0 : -ENOMEM;

	if (!err)
		err = tdi_ranges_split(&region->range, at, &second->range);
	if (err) {
		region_dealloc(first);
		region_dealloc(second);
		return err;
	}
	tdi_ranges_hand_over(&region->range, &first->range);
	if (region->files) /* two parts in place of one */
		atomic_fetch_add_explicit(&region->files->regions, 1,
					  memory_order_relaxed);
	region->files = NULL;
	*left = first;
	*right = second;
	return 0;
}

void tdi_region_uncut(struct tdi_region *region, struct tdi_region *left,
		      struct tdi_region *right)
{
	tdi_ranges_join(&left->range, &right->range);
	region->range =
		(struct tdi_range){region->tag->item.start, region->tag->item.end, false};
	tdi_ranges_hand_over(&left->range, &region->range);
	region->files = left->files;
	if (region->files)
		atomic_fetch_sub_explicit(&region->files->regions, 1,
					  memory_order_relaxed);
	region_dealloc(left);
	region_dealloc(right);
}

/* ---- the end ---- */

int tdi_region_unmap(struct tdi_region *region, uintptr_t start, size_t length)
{
	/* Moved away: nobody claims its place in quarantine. */
	if (region->range.end == region->range.start)
		return tdi_sys_munmap((void *)start, length);
	return tdi_ranges_unmap(&region->range, start, length);
}

void tdi_region_unclaim(struct tdi_region *region)
{
	if (region->range.end != region->range.start)
		tdi_ranges_release(&region->range);
}

void tdi_region_free(struct tdi_region *region)
{
	tdi_region_unclaim(region);
	files_put(region->files);
	region_dealloc(region);
}

static void free_retired(struct tdi_retired *retired)
{
	struct tdi_region *region = tdi_container_of(retired, struct tdi_region, retired);

	tdi_tsan_acquire(tdi_map_readers(region->map));
	region_dealloc(region);
}

void tdi_region_retire(struct tdi_region *region, struct td_engine *engine)
{
	tdi_region_unclaim(region);
	files_put(region->files);
	tdi_retire(engine, &region->retired, free_retired);
}

void tdi_region_describe(const struct tdi_region_tag *tag, struct td_region_info *ret)
{
	*ret = (struct td_region_info){
		.addr = (void *)tag->item.start,
		.length = tag->item.end - tag->item.start,
		.kind = tag->kind,
		.flags = tag->flags,
		.ops = tag->ops,
	};
}
