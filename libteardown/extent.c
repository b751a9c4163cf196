/* SPDX-License-Identifier: MIT */
#include "extent.h"

/*
 * Where measuring begins and between what bounds it moves, in pages. A step is never
 * less than one page-table page's worth, or a huge page would be split instead of freed.
 * Above 16384 pages (64 MiB) a system call's fixed cost is lost in that of even the
 * cheapest pages, so that larger steps could only be wrong for longer.
 */
#define ZAP_FIRST_PAGES 1024u
#define ZAP_MAX_PAGES 16384u

/* What is left of an emptied range is page tables, 1/512 of its pages and fewer. */
#define SHELL_FIRST_PUDS 1u
#define SHELL_MAX_PUDS 16u

void tdi_extent_list_add(struct tdi_extent **list, struct tdi_extent *extent)
{
	struct tdi_extent *first = *list;

	if (!first) {
		extent->next = extent->prev = extent;
		*list = extent;
		return;
	}
	extent->next = first;
	extent->prev = first->prev;
	first->prev->next = extent;
	first->prev = extent;
}

void tdi_extent_list_remove(struct tdi_extent **list, struct tdi_extent *extent)
{
	if (extent->next == extent) {
		*list = NULL;
	} else {
		extent->prev->next = extent->next;
		extent->next->prev = extent->prev;
		if (*list == extent)
			*list = extent->next;
	}
	extent->next = extent->prev = NULL;
}

/* No step cuts a page-table page's worth, or a huge page, in two. */
static size_t granule(const struct tdi_extent *extent)
{
	return tdi_max_size(tdi_pmd_size(), extent->backing.huge_page);
}

static struct tdi_pace shell_pace(const struct tdi_extent *extent)
{
	size_t pud = tdi_pud_size(), least = granule(extent);
	struct tdi_pace pace;

	tdi_pace_init(&pace, tdi_max_size(SHELL_FIRST_PUDS * pud, least), least,
		      tdi_max_size(SHELL_MAX_PUDS * pud, least));
	return pace;
}

void tdi_extent_init(struct tdi_extent *extent, const struct tdi_backing *backing,
		     uintptr_t start, size_t length)
{
	size_t page = tdi_page_size(), least, first;

	*extent = (struct tdi_extent){
		.backing = *backing, .start = start, .length = length};
	least = granule(extent);
	first = tdi_max_size(least, ZAP_FIRST_PAGES * page);
	if (backing->kind->release) /* a page may take a slice or more */
		first = least = page;
	tdi_pace_init(&extent->zap_pace, first, least,
		      tdi_max_size(least, ZAP_MAX_PAGES * page));
	extent->unmap_pace = shell_pace(extent);
}

void tdi_extent_carry_on(struct tdi_extent *extent, const struct tdi_extent *from)
{
	extent->prepared = from->prepared;
	if (from->backing.kind->release)
		extent->claimed = extent->zapped = from->zapped;
}

/* From `done` on, a step that ends on a page-table boundary if it can. */
size_t tdi_extent_step(const struct tdi_extent *extent, size_t done, size_t step)
{
	size_t left = extent->length - done;
	uintptr_t from = extent->start + done, to;

	if (left <= step)
		return left;
	to = tdi_align_down(from + step, granule(extent));
	return to > from ? to - from : step;
}

/* Pages go with the unmapping, in steps that are paced as those of a zap. */
void tdi_extent_make_whole(struct tdi_extent *extent)
{
	extent->whole = true;
	extent->unmap_pace = extent->zap_pace;
}

/* The other way round: what is still mapped is to be zapped first after all. */
void tdi_extent_make_zapped_first(struct tdi_extent *extent)
{
	extent->whole = false;
	extent->no_whole = true;
	extent->claimed = extent->zapped = extent->unmapped;
	extent->unmap_pace = shell_pace(extent);
}

/* How long steps may take changes while an extent is at it: fast mode, and pressure. */
void tdi_extent_aim(struct tdi_extent *extent, const struct td_slice *slice)
{
	const struct tdi_kind *kind = extent->backing.kind;

	if (!extent->begun && !kind->release)
		tdi_pace_take(&extent->zap_pace, slice->tdi_hints, kind->pace);
	extent->begun = true;
	if (slice->target_ns > 0) {
		tdi_pace_aim(&extent->zap_pace, slice->target_ns);
		tdi_pace_aim(&extent->unmap_pace, slice->target_ns);
	}
}

uint64_t tdi_extent_account(struct tdi_extent *extent, size_t released)
{
	size_t part = tdi_min_size(released, extent->length - extent->accounted);

	extent->accounted += part;
	return part;
}

/* For this extent; and, but from an empty shell, for those like it that are to begin. */
void tdi_extent_learn(struct tdi_extent *extent, struct tdi_pace *pace, size_t bytes,
		      uint64_t took_ns, const struct td_slice *slice)
{
	tdi_pace_learn(pace, bytes, took_ns, slice->target_ns);
	if (pace == &extent->zap_pace || extent->whole)
		tdi_pace_tell(pace, slice->tdi_hints, extent->backing.kind->pace);
}
