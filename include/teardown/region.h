/* SPDX-License-Identifier: MIT */
/*
 * Regions: the mapped ranges of a space. A region belongs to its space until the
 * space's last user is put; then its memory is released and its range unmapped.
 *
 * Thread safety: any thread that holds a user of the space.
 */
#ifndef TEARDOWN_REGION_H
#define TEARDOWN_REGION_H

#include <teardown/space.h>

#ifdef __cplusplus
extern "C" {
#endif

enum td_region_flags {
	TD_REGION_NOACCESS = 1u << 0, /* map PROT_NONE (prot must be 0) */
	TD_REGION_NODE = 1u << 1,     /* bind the memory to the NUMA node in .node */
	TD_REGION_NORESERVE = 1u << 2 /* MAP_NORESERVE: no commit charge up front */
};

enum td_thp {
	TD_THP_DEFAULT = 0, /* as the system is set */
	TD_THP_ALWAYS,	    /* ask for transparent huge pages */
	TD_THP_NEVER,	    /* ask for none */
};

struct td_region_opts {
	size_t size;	 /* sizeof(struct td_region_opts) */
	unsigned flags;	 /* enum td_region_flags */
	int prot;	 /* PROT_* for mmap; 0 = PROT_READ | PROT_WRITE */
	enum td_thp thp; /* advice: a kernel without THP ignores it */

	/* Alignment of the start in bytes, a power of two. 0 = what one page-table page
	 * of the third level maps (1 GiB with 4 KiB pages) when the region is at least
	 * that big and the address space allows it, so that moving it away later moves
	 * page tables and not pages; otherwise one page. */
	size_t align;

	unsigned node; /* with TD_REGION_NODE */
};

#define TD_REGION_OPTS(...)                                                              \
	(&(const struct td_region_opts){.size = sizeof(struct td_region_opts),           \
					__VA_ARGS__})

/*
 * Maps fresh private anonymous memory into a space.
 *
 *   space   the caller holds a user of it
 *   length  bytes, a multiple of the page size
 *   opts    options, or NULL for the defaults
 *   ret     where the region starts
 *
 * Returns 0; -EINVAL: length zero or not a multiple of the page size, unknown flag,
 * protection or THP value, alignment not a power of two of at least a page, no such
 * NUMA node; -E2BIG: unknown option set; -ENXIO: the space has no user; -ENOMEM: no
 * memory, address space or mapping left; -EEXIST: the kernel gave out a range that a
 * region still claims, which means that somebody unmapped that region behind the
 * library's back; -EAGAIN, -EPERM, -EIO or what else mmap(2), madvise(2) or mbind(2)
 * answered; -ECHILD. On failure nothing is mapped.
 * Context: may block; allocates; callbacks included. (row D1)
 */
int td_region_map(td_space *space, size_t length, const struct td_region_opts *opts,
		  void **ret);

/*
 * Gives an existing private anonymous mapping, or a part of one, to a space. The range
 * may span several mappings of different protections. From now on only the library may
 * unmap or move it; reading, writing, madvise, mlock and mprotect stay the caller's.
 *
 *   addr    start, page aligned
 *   length  bytes, a multiple of the page size
 *   opts    only .thp is used; NULL = nothing to change
 *
 * Returns 0; -EINVAL: misaligned, zero, wrapping, or an option that cannot be applied
 * to memory that exists; -E2BIG; -ENOMEM: part of the range is not mapped, or no
 * memory; -EOPNOTSUPP: part of it is not private anonymous memory; -EEXIST: part of it
 * is a region already, of this or any other space; -ENXIO: the space has no user; or
 * what reading /proc/thread-self/maps or madvise(2) answered; -ECHILD. On failure the
 * mapping stays the caller's, unchanged (but that of several mappings the first ones may
 * have got the advice on huge pages).
 * Context: may block; allocates; callbacks included.
 */
int td_region_adopt(td_space *space, void *addr, size_t length,
		    const struct td_region_opts *opts);

#ifdef __cplusplus
}
#endif

#endif
