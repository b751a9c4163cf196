/* SPDX-License-Identifier: MIT */
/* Floor 1: what the kernel says is mapped, from /proc/thread-self/maps: the
 * main thread, whose /proc/self/maps is, may have ended. */
#ifndef TDI_VMA_H
#define TDI_VMA_H

#include "base.h"

struct tdi_vma {
	uintptr_t start, end;
	bool shared;
	bool anonymous; /* no file, and not one of the kernel's own ([stack], [heap]...)
			 */
	bool special;	/* one of those */
	bool hugetlb;
	size_t huge_page; /* bytes; 0 where it is not known */
};

#define TDI_VMA_ANON (1u << 0)	  /* private, small or transparent huge pages */
#define TDI_VMA_HUGETLB (1u << 1) /* private, from the pool */
#define TDI_VMA_SHARED (1u << 2)  /* shared: files, memfds, shared anonymous */
#define TDI_VMA_FILE (1u << 3)	  /* private mapping of a file */
#define TDI_VMA_SPECIAL (1u << 4) /* the kernel's own, heap and stack among them */
unsigned tdi_vma_type(const struct tdi_vma *vma); /* one of these */

/* Called in address order for each mapping that overlaps; non-zero ends the walk. */
typedef int tdi_vma_fn(const struct tdi_vma *vma, void *arg);

/*
 * Walks the mappings that overlap [start, end). Returns what fn ended it with, 0 at the
 * end, or the errno of opening or reading the file. Allocates nothing. A mapping may
 * change as soon as it has been reported.
 */
int tdi_vma_walk(uintptr_t start, uintptr_t end, tdi_vma_fn *fn, void *arg);

/*
 * 0 when all of [start, end) is of the given types (TDI_VMA_*); -ENOMEM: there is a hole;
 * -EOPNOTSUPP: some of it is something else; -EINVAL: it is of huge pages of another size
 * than huge_page (unless that is 0).
 */
int tdi_vma_check(uintptr_t start, uintptr_t end, unsigned types, size_t huge_page);

/* ---- what the list of mappings does not tell, by asking about one page ---- */

bool tdi_vma_is_locked(uintptr_t start);

/*
 * Is the page registered with a userfaultfd, of whomever? Asked through one of our own,
 * to be opened and closed around it; negative where there is none to be had, and no page
 * is registered then.
 */
int tdi_vma_userfault_open(void);
bool tdi_vma_is_userfault(int fd, uintptr_t start, size_t page_size);
void tdi_vma_userfault_close(int fd);

/* 0; -EPERM: it is sealed. */
int tdi_vma_check_movable(uintptr_t start);

#endif
