/* SPDX-License-Identifier: MIT */
/*
 * Floor 4: how the memory of one kind of mapping is released. One backend a file behind
 * a const table; doom.c drives them and knows no kind by name.
 */
#ifndef TDI_KIND_H
#define TDI_KIND_H

#include "base.h"

struct tdi_kind {
	const char *name;

	/*
	 * Releases the pages of a part of a mapping and leaves the empty range mapped.
	 * Several may run side by side on different parts. Other threads' mmap, munmap
	 * and page faults go on meanwhile, as far as the kernel can. 0, or -errno: this
	 * kind of memory cannot be released so; unmapping it in small steps will do.
	 */
	int (*zap)(uintptr_t start, size_t length);
};

extern const struct tdi_kind tdi_kind_anon; /* private anonymous, locked or not */

#endif
