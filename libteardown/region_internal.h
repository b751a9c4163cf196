/* SPDX-License-Identifier: MIT */
/* Floor 4: the region object: where memory comes from and whose it is. */
#ifndef TDI_REGION_INTERNAL_H
#define TDI_REGION_INTERNAL_H

#include "doom.h"
#include "ranges.h"

#include <teardown/region.h>

struct tdi_region {
	struct tdi_extent extent;
	struct tdi_range range; /* claimed as far as it is mapped; empty when it is not */
};

/* See td_region_map and td_region_adopt. On failure nothing is mapped or changed. */
int tdi_region_map(size_t length, const struct td_region_opts *opts,
		   struct tdi_region **ret);
int tdi_region_adopt(void *addr, size_t length, const struct td_region_opts *opts,
		     struct tdi_region **ret);

/* Unmaps a part, from the front on, and gives the claim on it up. 0 or -errno. */
int tdi_region_unmap(struct tdi_region *region, uintptr_t start, size_t length);

/* Frees the descriptor, not the memory; releases what is left of the claim. */
void tdi_region_free(struct tdi_region *region);

#endif
