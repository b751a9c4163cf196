/* SPDX-License-Identifier: MIT */
/* Regions of a space: the public calls. */
#include "region_internal.h"
#include "space_internal.h"

static int add(td_space *space, struct tdi_region *region)
{
	atomic_fetch_add_explicit(&space->regions, 1, memory_order_relaxed);
	atomic_fetch_add_explicit(&space->bytes_mapped, region->extent.length,
				  memory_order_relaxed);
	tdi_doom_add(&space->doom, &region->extent);
	return 0;
}

/* The guards that both calls open with. */
static int enter(td_space *space, const struct td_region_opts *given,
		 struct td_region_opts *opts)
{
	int err = tdi_opts_take(opts, sizeof(*opts), given);

	if (!err)
		err = tdi_space_check(space);
	if (!err && tdi_ref_read(&space->users) == 0)
		err = -ENXIO;
	return err;
}

int td_region_map(td_space *space, size_t length, const struct td_region_opts *given,
		  void **ret)
{
	struct td_region_opts opts = {0};
	struct tdi_region *region;
	int err = enter(space, given, &opts);

	if (!err)
		err = tdi_region_map(length, &opts, &region);
	if (err)
		return err;
	*ret = (void *)region->extent.start;
	return add(space, region);
}

int td_region_adopt(td_space *space, void *addr, size_t length,
		    const struct td_region_opts *given)
{
	struct td_region_opts opts = {0};
	struct tdi_region *region;
	int err = enter(space, given, &opts);

	if (!err)
		err = tdi_region_adopt(addr, length, &opts, &region);
	return err ? err : add(space, region);
}
