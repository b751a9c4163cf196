/* SPDX-License-Identifier: MIT */
/*
 * td_region_unmap:
 *
 *   1  Under the lock of the map: wait until nothing in the range is leaving already,
 * look whether it may be unmapped, cut what sticks out, mark the rest as leaving.
 * Whatever was seen before a wait is looked at again after it (D8). 2  Without it:
 * prepare the host, take the memory out of sight. Look-ups do not find the regions any
 * more; maps of the same place wait for the claims. 3  Under it again: take them out of
 * the map, or let them stay where the kernel or the host refused. Descriptors are freed a
 * grace period later.
 */
#include "evict.h"
#include "host.h"
#include "space_internal.h"
#include "sys.h"

#include <string.h>
#include <sys/mman.h>

static struct tdi_region *region_at_or_after(struct td_space *space, uintptr_t addr,
					     uintptr_t end)
{
	struct tdi_map_item *item = tdi_map_at_or_after(&space->map, addr);

	return item && item->start < end ? tdi_region_tag_of(item)->region : NULL;
}

/* ---- step one ---- */

static int may_cut(const struct tdi_region *region, uintptr_t start, uintptr_t end)
{
	size_t huge_page = region->extent.backing.huge_page;
	bool head = region->tag->item.start<start, tail = region->tag->item.end> end;

	if (!head && !tail)
		return 0;
	if (region->tag->ops)
		return -EOPNOTSUPP;
	if (huge_page && ((head && !tdi_is_aligned(start, huge_page)) ||
			  (tail && !tdi_is_aligned(end, huge_page))))
		return -EINVAL;
	return 0;
}

static int check(struct td_space *space, uintptr_t start, uintptr_t end)
{
	uintptr_t at = start;
	struct tdi_region *region;

	while ((region = region_at_or_after(space, at, end)) != NULL) {
		int err;

		if (atomic_load_explicit(&region->tag->leaving, memory_order_relaxed)) {
			pthread_cond_wait(&space->settled, &space->map_lock);
			at = start;
			continue;
		}
		err = may_cut(region, start, end);
		if (err)
			return err;
		at = region->tag->item.end;
	}
	return 0;
}

/* Cuts the region that lies across an address, if one does. */
static int cut_at(struct td_space *space, uintptr_t at)
{
	struct tdi_map_item *item = tdi_map_find(&space->map, at);
	struct tdi_region *region, *left, *right;
	int err;

	if (!item || item->start == at)
		return 0;
	region = tdi_region_tag_of(item)->region;
	err = tdi_region_cut(region, at, &left, &right);
	if (err)
		return err;
	err = tdi_map_split(&space->map, &region->tag->item, &left->tag->item,
			    &right->tag->item);
	if (err) {
		tdi_region_uncut(region, left, right);
		return err;
	}
	tdi_doom_remove(&space->doom, &region->extent);
	tdi_doom_add(&space->doom, &left->extent);
	tdi_doom_add(&space->doom, &right->extent);
	atomic_fetch_add_explicit(&space->regions, 1, memory_order_relaxed);
	tdi_region_retire(region, space->engine);
	return 0;
}

/* All that is in the range, in order. */
static struct tdi_region *collect(struct td_space *space, uintptr_t start, uintptr_t end)
{
	struct tdi_region *first = NULL, **last = &first, *region;

	while ((region = region_at_or_after(space, start, end)) != NULL) {
		start = region->tag->item.end;
		/* Relaxed: see td_region_lookup. */
		atomic_store_explicit(&region->tag->leaving, true, memory_order_relaxed);
		tdi_doom_remove(&space->doom, &region->extent);
		tdi_ranges_leave(&region->range);
		region->next = NULL;
		*last = region;
		last = &region->next;
	}
	return first;
}

static size_t threshold(const struct td_space *space)
{
	return atomic_load_explicit(&space->engine->munmap_threshold,
				    memory_order_relaxed);
}

/* Neighbours leave as one, as a rule. */
static uint64_t deferrable_run(struct td_space *space, uint64_t bytes, uint64_t devices)
{
	return bytes >= threshold(space) ? bytes : devices;
}

/* How much of the range may be left to reapers: room is taken for so much. */
static uint64_t deferrable(struct td_space *space, uintptr_t start, uintptr_t end)
{
	uint64_t sum = 0, bytes = 0, devices = 0;
	struct tdi_region *region;
	uintptr_t last = start;

	while ((region = region_at_or_after(space, start, end)) != NULL) {
		uintptr_t from = tdi_max_size(start, region->tag->item.start);

		if (from != last) {
			sum += deferrable_run(space, bytes, devices);
			bytes = devices = 0;
		}
		start = region->tag->item.end;
		last = tdi_min_size(end, start);
		bytes += last - from;
		if (region->tag->kind == TD_KIND_DEVICE)
			devices += last - from;
	}
	return sum + deferrable_run(space, bytes, devices);
}

/*
 * Takes it before anything is cut or marked: slices of others may run in here, whose
 * callbacks may want the same regions. Others may add some until it is used: what there
 * is no room for is freed here. 0: *room is taken, which may be none.
 */
static int admit(struct td_space *space, uintptr_t start, uintptr_t end, uint64_t *room)
{
	int err;

	pthread_mutex_lock(&space->map_lock);
	err = check(space, start, end);
	*room = err ? 0 : deferrable(space, start, end);
	pthread_mutex_unlock(&space->map_lock);
	if (!err && *room > 0)
		err = tdi_budget_admit(space->engine, *room, true);
	if (err)
		*room = 0;
	return err == TDI_IN_PLACE ? 0 : err;
}

/* ---- step two: a run of neighbours that are of one kind and leave as one ---- */

struct run {
	struct tdi_region *first, *end; /* regions, end not included */
	struct tdi_extent extent;
	bool alone;	/* one that has something of its own to look after */
	uint64_t *room; /* in the budget, for this run and others */
};

static bool needs_care(const struct tdi_region *region)
{
	return region->tag->kind != TD_KIND_ANON || region->tag->ops || region->files ||
	       region->extent.backing.flags != 0;
}

static void next_run(struct tdi_region *first, struct run *run)
{
	struct tdi_region *last = first;

	run->first = first;
	run->alone = needs_care(first);
	while (!run->alone && last->next &&
	       last->next->tag->item.start == last->tag->item.end &&
	       !needs_care(last->next))
		last = last->next;
	run->end = last->next;
	tdi_extent_init(&run->extent, &first->extent.backing, first->tag->item.start,
			last->tag->item.end - first->tag->item.start);
	tdi_extent_carry_on(&run->extent, &first->extent);
}

static void hold_no_more(struct tdi_region *region)
{
	/* acq_rel: what the other holder did with it comes before it is freed. */
	if (atomic_fetch_sub_explicit(&region->holders, 1, memory_order_acq_rel) == 1)
		tdi_region_retire(region, region->space->engine);
}

/* Step three, when that has worked. */
static void run_has_left(struct td_space *space, const struct run *run)
{
	struct tdi_region *region, *next;

	pthread_mutex_lock(&space->map_lock);
	for (region = run->first; region != run->end; region = region->next) {
		tdi_map_remove(&space->map, &region->tag->item);
		atomic_fetch_sub_explicit(&space->regions, 1, memory_order_relaxed);
	}
	pthread_cond_broadcast(&space->settled);
	pthread_mutex_unlock(&space->map_lock);
	/* Out of the map first: whoever waits for a claim will want to get in there. */
	for (region = run->first; region != run->end; region = next) {
		next = region->next;
		tdi_region_unclaim(region);
		if (run->alone)
			hold_no_more(region);
		else
			tdi_region_retire(region, space->engine);
	}
}

static void region_released(struct tdi_doomed_owner *owner, uint64_t bytes)
{
	struct tdi_region *region = tdi_container_of(owner, struct tdi_region, owner);

	region->space->evicted.released(&region->space->evicted, bytes);
}

static void region_done(struct tdi_doomed_owner *owner, const struct tdi_doomed_end *end)
{
	struct tdi_region *region = tdi_container_of(owner, struct tdi_region, owner);
	struct td_space *space = region->space;

	hold_no_more(region);
	tdi_space_range_ends(space, end);
}

bool tdi_space_evicted(const struct td_space *space, const struct tdi_doomed_owner *owner)
{
	if (owner == &space->evicted)
		return true;
	return owner && owner->done == region_done &&
	       ((const struct tdi_region *)((const char *)owner -
					    offsetof(struct tdi_region, owner)))
			       ->space == space;
}

struct run_evict {
	struct tdi_evict evict;
	struct td_space *space;
	const struct run *run;
};

static void run_is_gone(struct tdi_evict *evict)
{
	struct run_evict *it = tdi_container_of(evict, struct run_evict, evict);

	run_has_left(it->space, it->run);
}

/* 0: it has left, and may be freed already. */
static int evict_run(struct td_space *space, struct run *run, bool *single)
{
	struct tdi_region *first = run->first;
	struct run_evict it = {
		.evict = {.engine = space->engine,
			  .name = space->name,
			  .owner = run->alone ? &first->owner : &space->evicted,
			  .extent = &run->extent,
			  .known = true,
			  .admitted = true,
			  .any_size = first->tag->kind == TD_KIND_DEVICE,
			  .gone = run_is_gone},
		.space = space,
		.run = run,
	};
	uint64_t length = run->extent.length;
	int err;

	first->owner = (struct tdi_doomed_owner){region_released, region_done};
	/* Relaxed: the reapers get to see it by the queue. */
	atomic_store_explicit(&first->holders, run->alone ? 2 : 1, memory_order_relaxed);
	tdi_space_part_begins(space);
	*run->room -= length;
	err = tdi_evict(&it.evict);
	if (!err)
		return 0;
	*run->room += length;
	/* Not the last part: the space has users. */
	atomic_fetch_sub_explicit(&space->parts, 1, memory_order_relaxed);
	atomic_store_explicit(&first->holders, 1, memory_order_relaxed);
	*single = it.evict.single;
	return err;
}

/*
 * The device's own way, from the beginning to the end, in the caller. Should the region
 * stay, then its release goes on later from where it stopped; done() is for its end.
 */
static int release_device(struct td_space *space, struct run *run)
{
	struct td_region_ops not_done = *run->extent.backing.ops;
	struct tdi_extent *extent = &run->extent, *left;
	uint64_t pause_ns = 0;
	struct tdi_doom doom;
	int err, result;

	not_done.done = NULL;
	extent->backing.ops = &not_done;
	tdi_doom_init(&doom, space->name);
	tdi_doom_add(&doom, extent);
	do {
		uint64_t target = tdi_engine_slice_ns(space->engine);
		struct td_slice slice = {
			.deadline_ns = tdi_sys_deadline((int64_t)target),
			.target_ns = target,
		};

		result = tdi_doom_slice(&doom, &slice);
		if (result != TD_WORK_LATER) {
			pause_ns = 0;
			continue;
		}
		pause_ns = tdi_queue_next_pause(pause_ns);
		/* The device has all its tries, the kernel a second to unmap it. */
		if (pause_ns >= 1000000000u && extent->zapped == extent->length)
			break;
		tdi_sys_pause(pause_ns);
	} while (result != TD_WORK_DONE);
	left = tdi_doom_leftover(&doom);
	err = left ? -ENOMEM : doom.status;
	tdi_doom_destroy(&doom);
	extent->backing.ops = run->first->extent.backing.ops;
	if (err)
		tdi_extent_carry_on(&run->first->extent, extent);
	return err;
}

static int unmap_run(struct td_space *space, struct run *run, bool single)
{
	const struct tdi_extent *extent = &run->extent;
	const struct tdi_backing *backing = &extent->backing;
	int err;

	if (backing->kind->release)
		return release_device(space, run);
	/* The old contents are to be gone whatever happens then. */
	if (backing->flags & TDI_EXTENT_SCRUB)
		(void)backing->kind->zap(extent, extent->start, extent->length);
	if (single)
		err = tdi_unmap_in_steps(extent->start, extent->length,
					 backing->huge_page,
					 tdi_engine_slice_ns(space->engine));
	else
		err = tdi_sys_munmap((void *)extent->start, extent->length);
	/* Sealed memory cannot be punched; it goes with its last descriptor. */
	if (!err && (backing->flags & TDI_EXTENT_EXCLUSIVE) && backing->fd >= 0)
		(void)tdi_shared_punch(backing, extent->length);
	return err;
}

/*
 * 0: the run has left. *reclaimed: bytes that are back already. -ENOTRECOVERABLE: it has,
 * too, as nobody may touch it any more, but a part is still mapped.
 */
static int take_away(struct td_space *space, struct run *run, uint64_t *reclaimed)
{
	struct tdi_region *first = run->first;
	bool single = false;
	int err = 0;

	*reclaimed = 0;
	atomic_store_explicit(&first->holders, 1, memory_order_relaxed);
	if (run->alone) {
		/* How far that gets is kept, should the region stay. */
		err = tdi_extent_prepare(&first->extent, space->name);
		first->extent.failures = 0;
		run->extent.prepared = first->extent.prepared;
		if (err)
			return err;
	}
	if (run->extent.length <= *run->room &&
	    (first->tag->kind == TD_KIND_DEVICE ||
	     run->extent.length >= threshold(space))) {
		err = evict_run(space, run, &single);
		if (!err)
			return 0;
	}
	if (err != -ENOTRECOVERABLE)
		err = unmap_run(space, run, single);
	if (err && err != -ENOTRECOVERABLE)
		return err;
	if (!err)
		*reclaimed = run->extent.length;
	/* In this order: the callback may map something there, which waits for the claim.
	 */
	run_has_left(space, run);
	tdi_host_done(&run->extent, err ? -ENOMEM : 0);
	return err;
}

/* ---- step three, when it has not ---- */

static void run_stays(struct td_space *space, const struct run *run)
{
	pthread_mutex_lock(&space->map_lock);
	for (struct tdi_region *region = run->first; region != run->end;
	     region = region->next) {
		tdi_doom_add(&space->doom, &region->extent);
		atomic_store_explicit(&region->tag->leaving, false, memory_order_relaxed);
		tdi_ranges_stay(&region->range);
	}
	pthread_cond_broadcast(&space->settled);
	pthread_mutex_unlock(&space->map_lock);
}

int td_region_unmap(td_space *space, void *addr, size_t length)
{
	uintptr_t start = (uintptr_t)addr, end = start + length;
	struct tdi_region *region;
	uint64_t room = 0;
	int err = tdi_space_check(space), first_error = 0;

	if (!err && !tdi_region_range_is_sound(start, length))
		err = -EINVAL;
	if (!err && tdi_ref_read(&space->users) == 0)
		err = -ENXIO;
	if (!err)
		err = admit(space, start, end, &room);
	if (err)
		return err;

	pthread_mutex_lock(&space->map_lock);
	err = check(space, start, end);
	if (!err)
		err = cut_at(space, start);
	if (!err)
		err = cut_at(space, end);
	region = err ? NULL : collect(space, start, end);
	pthread_mutex_unlock(&space->map_lock);

	while (region) {
		uint64_t bytes, reclaimed;
		struct run run;

		next_run(region, &run);
		run.room = &room;
		bytes = run.extent.length;
		region = run.end;
		err = take_away(space, &run, &reclaimed);
		if (err == -ENOTRECOVERABLE) {
			atomic_fetch_add_explicit(&space->refused, bytes,
						  memory_order_relaxed);
			first_error = first_error ? first_error : -ENOMEM;
			err = 0;
		}
		if (err) {
			run_stays(space, &run);
			first_error = first_error ? first_error : err;
			err = 0;
			continue;
		}
		atomic_fetch_add_explicit(&space->bytes_unmapped, bytes,
					  memory_order_relaxed);
		atomic_fetch_add_explicit(&space->bytes_reclaimed, reclaimed,
					  memory_order_relaxed);
	}
	if (room > 0)
		tdi_budget_give(space->engine, room);
	tdi_retire_settle(space->engine);
	return err ? err : first_error;
}
