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
};

/* Called in address order for each mapping that overlaps; non-zero ends the walk. */
typedef int tdi_vma_fn(const struct tdi_vma *vma, void *arg);

/*
 * Walks the mappings that overlap [start, end). Returns what fn ended it with, 0 at the
 * end, or the errno of opening or reading the file. Allocates nothing. A mapping may
 * change as soon as it has been reported.
 */
int tdi_vma_walk(uintptr_t start, uintptr_t end, tdi_vma_fn *fn, void *arg);

/*
 * 0 when all of [start, end) is private anonymous memory; -ENOMEM: there is a hole;
 * -EOPNOTSUPP: some of it is something else.
 */
int tdi_vma_check_private_anon(uintptr_t start, uintptr_t end);

#endif
