/* SPDX-License-Identifier: MIT */
#include "region_internal.h"
#include "nodes.h"
#include "sys.h"
#include "vma.h"

#include <stdlib.h>
#include <sys/mman.h>

#define KNOWN_FLAGS (TD_REGION_NOACCESS | TD_REGION_NODE | TD_REGION_NORESERVE)
#define KNOWN_PROT (PROT_READ | PROT_WRITE | PROT_EXEC)

/* ---- options ---- */

static int opts_check(const struct td_region_opts *opts)
{
	if ((opts->flags & ~KNOWN_FLAGS) != 0 || (opts->prot & ~KNOWN_PROT) != 0)
		return -EINVAL;
	if ((opts->flags & TD_REGION_NOACCESS) && opts->prot != 0)
		return -EINVAL;
	if ((unsigned)opts->thp > TD_THP_NEVER)
		return -EINVAL;
	if (opts->align != 0 &&
	    (!tdi_is_power_of_two(opts->align) || opts->align < tdi_page_size()))
		return -EINVAL;
	if ((opts->flags & TD_REGION_NODE) && !tdi_numa_has_node(opts->node))
		return -EINVAL;
	return 0;
}

static int opts_protection(const struct td_region_opts *opts)
{
	if (opts->flags & TD_REGION_NOACCESS)
		return PROT_NONE;
	return opts->prot ? opts->prot : PROT_READ | PROT_WRITE;
}

/* ---- mapping ---- */

/*
 * Maps more than is asked for, and unmaps what is before and after the aligned part.
 * Everything is unmapped again when that fails.
 */
static int map_aligned(size_t length, size_t align, int prot, int flags, void **ret)
{
	size_t slack = align - tdi_page_size(), head, tail;
	uintptr_t mapped, start;
	void *addr;
	int err;

	if (length > SIZE_MAX - slack)
		return -ENOMEM;
	err = tdi_sys_mmap(NULL, length + slack, prot, flags, &addr);
	if (err)
		return err;
	mapped = (uintptr_t)addr;
	start = tdi_align_up(mapped, align);
	head = start - mapped;
	tail = slack - head;
	if (head > 0) {
		err = tdi_sys_munmap((void *)mapped, head);
		if (err)
			goto undo;
		mapped = start;
	}
	if (tail > 0) {
		err = tdi_sys_munmap((void *)(start + length), tail);
		if (err)
			goto undo;
	}
	*ret = (void *)start;
	return 0;

undo:
	/* Whole mappings can be unmapped even at the limit on mappings. */
	(void)tdi_sys_munmap((void *)mapped, start - mapped + length + tail);
	return err;
}

static int map_memory(size_t length, const struct td_region_opts *opts, void **ret)
{
	int prot = opts_protection(opts), flags = MAP_PRIVATE | MAP_ANONYMOUS;
	int err;

	if (opts->flags & TD_REGION_NORESERVE)
		flags |= MAP_NORESERVE;
	if (opts->align > tdi_page_size())
		return map_aligned(length, opts->align, prot, flags, ret);
	if (opts->align == 0 && length >= tdi_pud_size()) {
		/* Only a preference: address space may be limited. */
		err = map_aligned(length, tdi_pud_size(), prot, flags, ret);
		if (!err)
			return 0;
	}
	return tdi_sys_mmap(NULL, length, prot, flags, ret);
}

static int advise_thp(void *addr, size_t length, enum td_thp thp)
{
	int err;

	if (thp == TD_THP_DEFAULT)
		return 0;
	err = tdi_sys_madvise(addr, length,
			      thp == TD_THP_ALWAYS ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
	return err == -EINVAL ? 0 : err; /* a kernel without THP */
}

/* ---- the object ---- */

/* Claims [addr, addr + length) and makes the object. -EEXIST, -ENOMEM. */
static int region_new(void *addr, size_t length, struct tdi_region **ret)
{
	struct tdi_region *region = malloc(sizeof(*region));
	int err;

	if (!region)
		return -ENOMEM;
	region->range.start = (uintptr_t)addr;
	region->range.end = (uintptr_t)addr + length;
	tdi_extent_init(&region->extent, &TDI_BACKING_ANON, (uintptr_t)addr, length);
	err = tdi_ranges_claim(&region->range);
	if (err) {
		free(region);
		return err;
	}
	*ret = region;
	return 0;
}

int tdi_region_unmap(struct tdi_region *region, uintptr_t start, size_t length)
{
	return tdi_ranges_unmap(&region->range, start, length);
}

void tdi_region_free(struct tdi_region *region)
{
	if (region->range.end != region->range.start)
		tdi_ranges_release(&region->range);
	free(region);
}

int tdi_region_map(size_t length, const struct td_region_opts *opts,
		   struct tdi_region **ret)
{
	void *addr;
	int err = opts_check(opts);

	if (err)
		return err;
	if (length == 0 || !tdi_is_aligned(length, tdi_page_size()))
		return -EINVAL;
	err = map_memory(length, opts, &addr);
	if (err)
		return err;
	err = advise_thp(addr, length, opts->thp);
	if (!err && (opts->flags & TD_REGION_NODE) && tdi_numa_is_on())
		err = tdi_sys_mbind_node(addr, length, opts->node);
	if (!err)
		err = region_new(addr, length, ret);
	if (err)
		(void)tdi_sys_munmap(addr, length);
	return err;
}

int tdi_region_adopt(void *addr, size_t length, const struct td_region_opts *opts,
		     struct tdi_region **ret)
{
	uintptr_t start = (uintptr_t)addr;
	size_t page = tdi_page_size();
	struct tdi_region *region;
	int err = opts_check(opts);

	if (err)
		return err;
	if (opts->flags != 0 || opts->prot != 0 || opts->align != 0)
		return -EINVAL;
	if (length == 0 || !tdi_is_aligned(length, page) ||
	    !tdi_is_aligned(start, page) || length > UINTPTR_MAX - start)
		return -EINVAL;
	/* First the claim: of two who adopt the same range at once, one gets it. */
	err = region_new(addr, length, &region);
	if (err)
		return err;
	err = tdi_vma_check(start, start + length, TDI_VMA_ANON, 0);
	if (!err)
		err = advise_thp(addr, length, opts->thp);
	if (err) {
		tdi_region_free(region);
		return err;
	}
	*ret = region;
	return 0;
}
