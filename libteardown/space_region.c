/* SPDX-License-Identifier: MIT */
/* Regions of a space: mapping, adopting, looking up. */
#include "space_internal.h"

/* ---- mapping and adopting ---- */

static int add(td_space *space, struct tdi_region *region)
{
	int err;

	region->space = space;
	region->map = &space->map;
	if (space->flags & TD_SPACE_KEEP_SHARED)
		region->extent.backing.flags &= ~(unsigned)TDI_EXTENT_EXCLUSIVE;
	pthread_mutex_lock(&space->map_lock);
	/* The claim keeps others away: those who are in the map have a claim, too. */
	err = tdi_map_insert(&space->map, &region->tag->item);
	if (!err) {
		tdi_doom_add(&space->doom, &region->extent);
		atomic_fetch_add_explicit(&space->regions, 1, memory_order_relaxed);
		atomic_fetch_add_explicit(&space->bytes_mapped, region->extent.length,
					  memory_order_relaxed);
	}
	/* From here on somebody else may unmap it, and it is freed. */
	pthread_mutex_unlock(&space->map_lock);
	return err;
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
	uintptr_t start;
	int err = enter(space, given, &opts);

	if (!err)
		err = tdi_region_map(length, &opts, &region);
	if (err)
		return err;
	start = region->tag->item.start;
	err = add(space, region);
	if (err) {
		(void)tdi_region_unmap(region, start, length);
		tdi_region_free(region);
		return err;
	}
	*ret = (void *)start;
	return 0;
}

int td_region_adopt(td_space *space, void *addr, size_t length,
		    const struct td_region_opts *given)
{
	struct td_region_opts opts = {0};
	struct tdi_region *region;
	int err = enter(space, given, &opts);

	if (!err)
		err = tdi_region_adopt(addr, length, &opts, &region);
	if (err)
		return err;
	err = add(space, region);
	if (err)
		tdi_region_free(region);
	return err;
}

/* ---- looking up ---- */

/* The space's nodes are freed without a grace period once users are 0. (B4) */
static inline void check_user(const struct td_space *space)
{
#ifdef TDI_DEBUG
	if (tdi_ref_read(&((struct td_space *)(uintptr_t)space)->users) == 0)
		tdi_die("space '%s': looked up by a caller without a user", space->name);
#else
	(void)space;
#endif
}

/* False: it is being unmapped. */
static bool describe(const struct td_space *space, const struct tdi_region_tag *tag,
		     struct td_region_info *ret)
{
	/* Relaxed: those who see it early miss nothing that was theirs to see. */
	bool here = !atomic_load_explicit(&tag->leaving, memory_order_relaxed);

	if (tdi_likely(here))
		tdi_region_describe(tag, ret);
	tdi_tsan_release(tdi_map_readers(&space->map));
	return here;
}

int td_region_lookup(td_space *space, const void *addr, struct td_region_info *ret)
{
	struct tdi_map_item *item;
	int err = ret ? tdi_space_check(space) : -EINVAL;

	if (tdi_unlikely(err))
		return err;
	check_user(space);
	item = tdi_map_find(&space->map, (uintptr_t)addr);
	return item && describe(space, tdi_region_tag_of(item), ret) ? 0 : -ENOENT;
}

int td_region_walk(td_space *space, const void *addr, td_region_fn *fn, void *arg)
{
	struct tdi_map_item *item;
	uintptr_t from = (uintptr_t)addr, told = 0;
	int err = fn ? tdi_space_check(space) : -EINVAL;

	if (err)
		return err;
	check_user(space);
	while (!err && (item = tdi_map_at_or_after(&space->map, from)) != NULL) {
		struct td_region_info info;

		from = item->end;
		/* One that came meanwhile, where one that has been told of was, is left
		 * out: else the walk would go back. */
		if (item->start < told ||
		    !describe(space, tdi_region_tag_of(item), &info))
			continue;
		told = from;
		err = fn(&info, arg);
	}
	return err;
}
