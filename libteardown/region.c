/* SPDX-License-Identifier: MIT */
/* Where a region's memory comes from: mapped for it, or adopted. */
#include "nodes.h"
#include "procfs.h"
#include "region_internal.h"
#include "sys.h"
#include "vma.h"

#include <linux/magic.h>
#include <stdlib.h>
#include <sys/mman.h>

#ifndef MAP_HUGE_SHIFT
#define MAP_HUGE_SHIFT 26
#endif

#define KNOWN_PROT (PROT_READ | PROT_WRITE | PROT_EXEC)

/* ---- options ---- */

struct rule {
	unsigned flags; /* that go with the kind */
	unsigned types; /* of mappings that may be adopted as such: TDI_VMA_* */
	bool has_fd, thp;
};

#define ALL_TYPES                                                                        \
	(TDI_VMA_ANON | TDI_VMA_HUGETLB | TDI_VMA_SHARED | TDI_VMA_FILE | TDI_VMA_SPECIAL)
#define FRESH_FLAGS (TD_REGION_NOACCESS | TD_REGION_NODE | TD_REGION_NORESERVE)
#define ADOPT_FLAGS                                                                      \
	(TD_REGION_EXCLUSIVE | TD_REGION_SCRUB | TD_REGION_FD | TD_REGION_UFFD)

static const struct rule rules[] = {
	[TD_KIND_ANON] = {FRESH_FLAGS | TD_REGION_LOCKED | TD_REGION_UFFD, TDI_VMA_ANON,
			  false, true},
	[TD_KIND_HUGETLB] = {FRESH_FLAGS, TDI_VMA_HUGETLB, false, false},
	[TD_KIND_SHARED] = {FRESH_FLAGS | TD_REGION_LOCKED | TD_REGION_EXCLUSIVE |
				    TD_REGION_SCRUB | TD_REGION_FD,
			    TDI_VMA_SHARED, false, true},
	[TD_KIND_FILE] = {TD_REGION_NOACCESS | TD_REGION_NORESERVE | TD_REGION_LOCKED |
				  TD_REGION_PRIVATE,
			  TDI_VMA_SHARED | TDI_VMA_FILE, true, false},
	[TD_KIND_DEVICE] = {0, ALL_TYPES, false, false},
};

static bool ops_are_sound(const struct td_region_ops *ops, enum td_kind kind)
{
	bool device = kind == TD_KIND_DEVICE;

	if (!ops)
		return !device;
	if ((ops->release != NULL) != device || (ops->nr_prepare > 0 && !ops->prepare))
		return false;
	for (unsigned i = 0; i < ops->nr_prepare; i++) {
		if (!ops->prepare[i].call)
			return false;
	}
	return true;
}

static bool flags_are_sound(unsigned flags, const struct rule *rule)
{
	if (flags & ~rule->flags)
		return false;
	return !(flags & TD_REGION_SCRUB) ||
	       (flags & (TD_REGION_FD | TD_REGION_EXCLUSIVE));
}

static int opts_check(const struct td_region_opts *opts)
{
	const struct rule *rule;

	if ((unsigned)opts->kind > TD_KIND_DEVICE)
		return -EINVAL;
	rule = &rules[opts->kind];
	if (!flags_are_sound(opts->flags, rule) || (opts->prot & ~KNOWN_PROT) != 0)
		return -EINVAL;
	if ((opts->flags & TD_REGION_NOACCESS) && opts->prot != 0)
		return -EINVAL;
	if ((unsigned)opts->thp > TD_THP_NEVER || (opts->thp && !rule->thp))
		return -EINVAL;
	if (opts->align != 0 &&
	    (!tdi_is_power_of_two(opts->align) || opts->align < tdi_page_size()))
		return -EINVAL;
	if (opts->huge_page_size != 0 && (opts->kind != TD_KIND_HUGETLB ||
					  !tdi_is_power_of_two(opts->huge_page_size) ||
					  opts->huge_page_size <= tdi_page_size()))
		return -EINVAL;
	if (!tdi_is_aligned(opts->offset, tdi_page_size()) ||
	    (opts->offset != 0 && !rule->has_fd && !(opts->flags & TD_REGION_FD)))
		return -EINVAL;
	if ((opts->flags & TD_REGION_NODE) && !tdi_numa_has_node(opts->node))
		return -EINVAL;
	return ops_are_sound(opts->ops, opts->kind) ? 0 : -EINVAL;
}

static bool has_fd(const struct td_region_opts *opts)
{
	return opts->kind == TD_KIND_FILE || (opts->flags & TD_REGION_FD);
}

/* Fills in the size of huge pages that the system would take. */
static int opts_complete(struct td_region_opts *opts)
{
	if (opts->kind == TD_KIND_HUGETLB && opts->huge_page_size == 0) {
		opts->huge_page_size = tdi_procfs_huge_page();
		return opts->huge_page_size ? 0 : -EOPNOTSUPP;
	}
	return 0;
}

/*
 * A file may be of huge pages, too, which no option says. mmap(2) rounds the length up to
 * them, over whatever comes next where it is told the address.
 */
static int find_file_huge_page(struct td_region_opts *opts)
{
	long type;
	size_t block;
	int err;

	if (!has_fd(opts))
		return 0;
	err = tdi_sys_fstatfs(opts->fd, &type, &block);
	if (!err && type == HUGETLBFS_MAGIC)
		opts->huge_page_size = block;
	return err;
}

static size_t unit(const struct td_region_opts *opts)
{
	return tdi_max_size(tdi_page_size(), opts->huge_page_size);
}

/* ---- mapping ---- */

static int opts_protection(const struct td_region_opts *opts)
{
	if (opts->flags & TD_REGION_NOACCESS)
		return PROT_NONE;
	return opts->prot ? opts->prot : PROT_READ | PROT_WRITE;
}

static int opts_mmap_flags(const struct td_region_opts *opts)
{
	int flags = opts->flags & TD_REGION_NORESERVE ? MAP_NORESERVE : 0;

	switch (opts->kind) {
	case TD_KIND_SHARED:
		flags |= MAP_SHARED;
		return opts->flags & TD_REGION_FD ? flags : flags | MAP_ANONYMOUS;
	case TD_KIND_FILE:
		return flags |
		       (opts->flags & TD_REGION_PRIVATE ? MAP_PRIVATE : MAP_SHARED);
	case TD_KIND_HUGETLB:
		flags |= MAP_HUGETLB | __builtin_ctzl(opts->huge_page_size)
					       << MAP_HUGE_SHIFT;
		break;
	default:
		break;
	}
	return flags | MAP_PRIVATE | MAP_ANONYMOUS;
}

static int map_at(void *addr, size_t length, const struct td_region_opts *opts, int fixed,
		  void **ret)
{
	return tdi_sys_mmap_file(
		addr, length, opts_protection(opts), opts_mmap_flags(opts) | fixed,
		has_fd(opts) ? opts->fd : -1, has_fd(opts) ? opts->offset : 0, ret);
}

/*
 * Reserves more address space than is asked for, gives back what is before and after the
 * aligned part, and maps that. Everything is unmapped again when one of these fails.
 */
static int map_aligned(size_t length, size_t align, const struct td_region_opts *opts,
		       void **ret)
{
	size_t slack = align - tdi_page_size(), head, tail;
	uintptr_t reserved, start;
	void *addr;
	int err;

	if (length > SIZE_MAX - slack)
		return -ENOMEM;
	err = tdi_sys_mmap(NULL, length + slack, PROT_NONE,
			   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, &addr);
	if (err)
		return err;
	reserved = (uintptr_t)addr;
	start = tdi_align_up(reserved, align);
	head = start - reserved;
	tail = slack - head;
	if (head > 0) {
		err = tdi_sys_munmap((void *)reserved, head);
		if (err)
			goto undo;
		reserved = start;
	}
	if (tail > 0) {
		err = tdi_sys_munmap((void *)(start + length), tail);
		if (err)
			goto undo;
		tail = 0;
	}
	err = map_at((void *)start, length, opts, MAP_FIXED, ret);
	if (!err)
		return 0;
undo:
	/* Whole mappings can be unmapped even at the limit on mappings. */
	(void)tdi_sys_munmap((void *)reserved, start - reserved + length + tail);
	return err;
}

static int map_memory(size_t length, const struct td_region_opts *opts, void **ret)
{
	if (opts->align > unit(opts))
		return map_aligned(length, opts->align, opts, ret);
	if (opts->align == 0 && length >= tdi_pud_size()) {
		void *addr;
		/* Only a preference: address space may be limited. */
		int err = map_aligned(length, tdi_pud_size(), opts, &addr);

		if (!err) {
			*ret = addr;
			return 0;
		}
	}
	return map_at(NULL, length, opts, 0, ret);
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

int tdi_region_map(size_t length, const struct td_region_opts *given,
		   struct tdi_region **ret)
{
	struct td_region_opts opts = *given;
	struct tdi_region *region;
	void *addr;
	int err = opts_check(&opts);

	if (!err && opts.kind == TD_KIND_DEVICE)
		err = -EINVAL;
	if (!err)
		err = opts_complete(&opts);
	if (!err)
		err = find_file_huge_page(&opts);
	if (err)
		return err;
	if (length == 0 || !tdi_is_aligned(length, unit(&opts)))
		return -EINVAL;
	err = map_memory(length, &opts, &addr);
	if (err)
		return err;
	err = advise_thp(addr, length, opts.thp);
	if (!err && (opts.flags & TD_REGION_NODE) && tdi_numa_is_on())
		err = tdi_sys_mbind_node(addr, length, opts.node);
	if (!err && (opts.flags & TD_REGION_LOCKED))
		err = tdi_sys_mlock(addr, length);
	if (!err)
		err = tdi_region_new((uintptr_t)addr, length, &opts, &region);
	if (err) {
		(void)tdi_sys_munmap(addr, length);
		return err;
	}
	*ret = region;
	return 0;
}

/* ---- adopting ---- */

static int find_huge_page(const struct tdi_vma *vma, void *arg)
{
	size_t *huge_page = arg;

	*huge_page = tdi_max_size(*huge_page, vma->huge_page);
	return 0;
}

/* Shared memory without a file that we know may be of huge pages, too; Linux 6.11. */
static int set_huge_page(struct tdi_region *region)
{
	uintptr_t start = region->tag->item.start, end = region->tag->item.end;
	struct tdi_backing backing = region->extent.backing;
	int err;

	if (region->tag->kind != TD_KIND_SHARED && region->tag->kind != TD_KIND_FILE)
		return 0;
	err = tdi_vma_walk(start, end, find_huge_page, &backing.huge_page);
	if (err)
		return err;
	if (backing.huge_page && !tdi_is_aligned(start | end, backing.huge_page))
		return -EINVAL;
	tdi_extent_init(&region->extent, &backing, start, end - start);
	return 0;
}

bool tdi_region_range_is_sound(uintptr_t start, size_t length)
{
	return length != 0 && tdi_is_aligned(length | start, tdi_page_size()) &&
	       length <= UINTPTR_MAX - start;
}

int tdi_region_adopt(void *addr, size_t length, const struct td_region_opts *given,
		     struct tdi_region **ret)
{
	uintptr_t start = (uintptr_t)addr;
	struct td_region_opts opts = *given;
	struct tdi_region *region;
	int err = opts_check(&opts);

	if (!err &&
	    ((opts.flags & ~ADOPT_FLAGS) != 0 || opts.prot != 0 || opts.align != 0))
		err = -EINVAL;
	if (!err)
		err = opts_complete(&opts);
	if (!err)
		err = find_file_huge_page(&opts);
	if (!err && (!tdi_region_range_is_sound(start, length) ||
		     !tdi_is_aligned(start | length, unit(&opts))))
		err = -EINVAL;
	if (err)
		return err;
	/* First the claim: of two who adopt the same range at once, one gets it. */
	err = tdi_region_new(start, length, &opts, &region);
	if (err)
		return err;
	err = tdi_vma_check(start, start + length, rules[opts.kind].types,
			    opts.huge_page_size);
	if (!err)
		err = set_huge_page(region);
	if (!err)
		err = advise_thp(addr, length, opts.thp);
	if (err) {
		tdi_region_free(region);
		return err;
	}
	*ret = region;
	return 0;
}
