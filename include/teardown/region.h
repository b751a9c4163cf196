/* SPDX-License-Identifier: MIT */
/*
 * Regions: the mapped ranges of a space. A region belongs to its space until it is
 * unmapped with td_region_unmap() or the space's last user is put; then its memory is
 * released and its range unmapped.
 *
 * Thread safety: any thread that holds a user of the space. Regions may be mapped,
 * unmapped and looked up side by side.
 */
#ifndef TEARDOWN_REGION_H
#define TEARDOWN_REGION_H

#include <teardown/space.h>

#ifdef __cplusplus
extern "C" {
#endif

/* What a region's memory is, and so how it is released (row D5). */
enum td_kind {
	TD_KIND_ANON =
		0, /* private anonymous memory, of small or transparent huge pages */
	TD_KIND_HUGETLB, /* private anonymous memory from the pool of huge pages */
	TD_KIND_SHARED,	 /* shared memory: a memfd (.fd), or shared anonymous */
	TD_KIND_FILE,	 /* a mapping of the file in .fd, shared or private */
	TD_KIND_DEVICE,	 /* released by the host: .ops->release; adopted only */
};

enum td_region_flags {
	TD_REGION_NOACCESS = 1u << 0,  /* map PROT_NONE (prot must be 0) */
	TD_REGION_NODE = 1u << 1,      /* bind the memory to the NUMA node in .node */
	TD_REGION_NORESERVE = 1u << 2, /* MAP_NORESERVE: no commit charge up front */

	/* Shared memory whose pages nobody else uses or will look for: they are punched
	 * out of their file in slices, which needs no lock that mmap wants. Without it a
	 * shared region is only unmapped. (row D5) */
	TD_REGION_EXCLUSIVE = 1u << 3,

	/* Overwrite shared memory with zeros before it is released, since its pages may
	 * outlive us in another process or a descriptor; said on stderr where that cannot
	 * be done. Needs TD_REGION_FD or TD_REGION_EXCLUSIVE. Memory that is kept (not
	 * exclusive, or TD_SPACE_KEEP_SHARED) is overwritten all the same. */
	TD_REGION_SCRUB = 1u << 4,

	TD_REGION_LOCKED = 1u << 5,  /* mlock(2) it when it is mapped */
	TD_REGION_PRIVATE = 1u << 6, /* TD_KIND_FILE: MAP_PRIVATE instead of MAP_SHARED */
	TD_REGION_FD = 1u << 7,	     /* TD_KIND_SHARED: the memory is the memfd in .fd */

	/* Registered with the userfaultfd in .uffd: it is unregistered there, which
	 * wakes those who wait for a page, before anything is released. TD_KIND_ANON. */
	TD_REGION_UFFD = 1u << 8,
};

enum td_thp {
	TD_THP_DEFAULT = 0, /* as the system is set */
	TD_THP_ALWAYS,	    /* ask for transparent huge pages */
	TD_THP_NEVER,	    /* ask for none */
};

/* One step of getting a region ready for its release. */
struct td_region_hook {
	const char *name; /* for messages */

	/*
	 * For instance: drop the KVM slot, unmap the range from VFIO. 0, or -errno: tried
	 * again, see td_region_ops. addr and length are the region's, of which it must
	 * not unmap or adopt anything itself, nor of other regions of the same
	 * td_region_unmap(). Context: as for a slice, see struct td_work_ops; from
	 * td_region_unmap() in its caller, for the range must not be reused while a
	 * device can still reach it.
	 */
	int (*call)(void *arg, void *addr, size_t length);
	void *arg;
};

/* The host's part in the release of a region; must outlive it. (rows A13, D5) */
struct td_region_ops {
	/* Called in this order, each once the one before has returned 0, and all before
	 * anything of the region is released. */
	const struct td_region_hook *prepare;
	unsigned nr_prepare;

	/*
	 * TD_KIND_DEVICE only, and required there: releases [offset, offset + length) of
	 * the region or, from its beginning on, as much as can be done in a slice; how
	 * much is added to *released, which is 0 before. May be slow (10 ms a page): the
	 * lengths asked for follow what earlier ones took, from one page on, and other
	 * works get their share of the time. Returns 0, or -errno, with *released telling
	 * what has been done all the same: tried again from there.
	 * Context: on one reaper at a time; otherwise as for a slice.
	 */
	int (*release)(void *arg, size_t offset, size_t length, size_t *released);

	/*
	 * The region is unmapped (status 0), or has been given up (-errno) and stays as
	 * it is. Called once, last; may be NULL. Context: as for a slice.
	 */
	void (*done)(void *arg, int status);
	void *arg; /* for release and done */

	/* A callback that fails is called again after a pause of 1 ms, doubling to 1 s,
	 * so many times in a row. Then the failure is reported: on stderr, to done(), to
	 * whoever waits for the space, and in its statistics; the region stays mapped, as
	 * something may still be using it, and the rest of the space goes. 0 = 10. */
	unsigned tries;
};

struct td_region_opts {
	size_t size;	 /* sizeof(struct td_region_opts) */
	unsigned flags;	 /* enum td_region_flags */
	int prot;	 /* PROT_* for mmap; 0 = PROT_READ | PROT_WRITE */
	enum td_thp thp; /* advice: a kernel without THP ignores it */

	/* Alignment of the start in bytes, a power of two. 0 = what one page-table page
	 * of the third level maps (1 GiB with 4 KiB pages) when the region is at least
	 * that big and the address space allows it, so that moving it away later moves
	 * page tables and not pages; otherwise one page, or one huge page. */
	size_t align;

	unsigned node; /* with TD_REGION_NODE */

	enum td_kind kind;
	/* TD_KIND_FILE, and TD_KIND_SHARED with TD_REGION_FD: the file. The region keeps
	 * a duplicate until it has been released, where it needs one. */
	int fd;
	uint64_t offset;       /* in the file, a multiple of the (huge) page size */
	size_t huge_page_size; /* TD_KIND_HUGETLB; 0 = the system's default */
	int uffd;	       /* with TD_REGION_UFFD: the userfaultfd; duplicated */
	const struct td_region_ops *ops; /* of any kind; NULL = none */
};

#define TD_REGION_OPTS(...)                                                              \
	(&(const struct td_region_opts){.size = sizeof(struct td_region_opts),           \
					__VA_ARGS__})

/*
 * Maps fresh memory into a space.
 *
 *   space   the caller holds a user of it
 *   length  bytes, a multiple of the page size (hugetlb: of the huge page size)
 *   opts    options, or NULL for private anonymous memory
 *   ret     where the region starts
 *
 * Returns 0; -EINVAL: length or offset zero or misaligned, unknown flag, kind, protection
 * or THP value, alignment not a power of two of at least a page, no such NUMA node, flags
 * or ops that do not go with the kind, TD_KIND_DEVICE; -E2BIG: unknown option set;
 * -ENXIO: the space has no user; -EBADF: no such descriptor; -ENOMEM: no memory, address
 * space, mapping or huge page left; -EEXIST: the kernel gave out a range that a region
 * still claims, which means that somebody unmapped that region behind the library's back;
 * -EAGAIN, -EPERM, -EACCES, -EMFILE, -EIO or what else mmap(2), mlock(2), madvise(2),
 * mbind(2) or fcntl(2) answered; -ECHILD. On failure nothing is mapped.
 * Context: may block; allocates; callbacks included. (rows D1, D5)
 */
int td_region_map(td_space *space, size_t length, const struct td_region_opts *opts,
		  void **ret);

/*
 * Gives an existing mapping, or a part of one, to a space. The range may span several
 * mappings of different protections. From now on only the library may unmap or move it;
 * reading, writing, madvise, mlock and mprotect stay the caller's.
 *
 *   addr    start, page aligned (hugetlb: huge page aligned)
 *   length  bytes, a multiple of the page size (hugetlb: of the huge page size)
 *   opts    only .kind, .thp, .flags without those that only mean something to mmap, .fd
 *           and .offset (shared: what addr maps; file: not looked at), .huge_page_size,
 *           .uffd and .ops are used; NULL = private anonymous memory
 *
 * Returns 0; -EINVAL: misaligned, zero, wrapping, or an option that cannot be applied to
 * memory that exists; -E2BIG; -ENOMEM: part of the range is not mapped, or no memory;
 * -EOPNOTSUPP: part of it is not memory of the given kind (any is, for a device);
 * -EEXIST: part of it is a region already, of this or any other space; -ENXIO: the space
 * has no user; -EBADF, -EMFILE; or what reading /proc/thread-self/maps or madvise(2)
 * answered; -ECHILD. On failure the mapping stays the caller's, unchanged (but that of
 * several mappings the first ones may have got the advice on huge pages). Context: may
 * block; allocates; callbacks included.
 */
int td_region_adopt(td_space *space, void *addr, size_t length,
		    const struct td_region_opts *opts);

/*
 * Unmaps any part of a space: its regions in [addr, addr + length) are split as needed,
 * taken out of the space, and out of sight: when this returns, an access there faults and
 * the addresses may be mapped again. Their memory is given back by reapers when there is
 * enough of it to be worth it (the engine's munmap_threshold), or at once. What is not
 * the space's is not touched.
 *
 *   addr    start, page aligned
 *   length  bytes, a multiple of the page size
 *
 * Returns 0, also when there was nothing; -EINVAL: misaligned, zero or wrapping, or it
 * would cut a huge page in two; -EOPNOTSUPP: it would split a region that has ops;
 * -ENXIO: the space has no user; -ENOMEM: no memory for the descriptor of what is kept,
 * or the limit on mappings forbids to split; -EAGAIN: past the engine's budget, where
 * TD_BUDGET_AGAIN was chosen; -ECHILD: with nothing changed. And, when a
 * region's prepare callbacks failed or the kernel refused for good: that error, with that
 * region still mapped and in the space, and the others unmapped. Context: blocks for
 * other calls on the same space, for prepare callbacks, and where it frees by itself; not
 * inside an RCU read-side critical section; callbacks included. (rows D1, D2, D3, D7, D8)
 */
int td_region_unmap(td_space *space, void *addr, size_t length);

/* What td_region_lookup() and td_region_walk() tell about a region. */
struct td_region_info {
	void *addr;    /* where it starts now, after any trimming */
	size_t length; /* bytes */
	enum td_kind kind;
	unsigned flags; /* enum td_region_flags, as given */
	const struct td_region_ops *ops;
};

/*
 * Finds the region that covers an address.
 *
 *   space  the caller holds a user of it, which a debug build checks as far as it can: a
 *          space without users stops the process (row B4)
 *   ret    the region, as it was at a moment during the call: whole, or not at all (D7)
 *
 * Returns 0; -ENOENT: none; -EINVAL: no space or ret; -ECHILD.
 * Context: inside a read-side critical section of the engine's RCU flavor, and so by a
 * thread that is registered with it. Does not block, takes no lock, writes nothing that
 * is shared.
 */
int td_region_lookup(td_space *space, const void *addr, struct td_region_info *ret);

/*
 * Calls fn for each region that ends after addr, in order of address, until it returns
 * something else than 0. Regions that come or go meanwhile may be seen or not; each that
 * is seen is seen whole, and none overlaps one before it.
 * Returns what fn returned last, 0 when there was none; or as td_region_lookup().
 * Context: as td_region_lookup(); fn runs inside the critical section.
 */
typedef int td_region_fn(const struct td_region_info *region, void *arg);
int td_region_walk(td_space *space, const void *addr, td_region_fn *fn, void *arg);

#ifdef __cplusplus
}
#endif

#endif
