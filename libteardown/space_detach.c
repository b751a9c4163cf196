/* SPDX-License-Identifier: MIT */
/* TD_SPACE_DETACH: all of a space leaves its place with the last user. */
#include "evict.h"
#include "space_internal.h"
#include "sys.h"

#include <sys/mman.h>

void tdi_space_detach(struct td_space *space)
{
	struct tdi_extent *extent = space->doom.live, *first = extent;

	/* No lock: there are no users. */
	for (; extent; extent = extent->next == first ? NULL : extent->next) {
		struct tdi_region *region =
			tdi_container_of(extent, struct tdi_region, extent);
		struct tdi_evict evict = {
			.engine = space->engine, .extent = extent, .known = true};
		struct tdi_quarantine quarantine;
		int err;

		if (region->tag->ops || extent->backing.uffd >= 0)
			continue;
		tdi_ranges_leave(&region->range);
		err = tdi_evict_detach(&evict, &quarantine);
		if (err) {
			/* Of very many mappings, or refused: slower, and where it is. */
			if (err != -ENOTRECOVERABLE)
				(void)tdi_sys_mprotect((void *)extent->start,
						       extent->length, PROT_NONE);
			tdi_ranges_stay(&region->range);
			continue;
		}
		extent->start = quarantine.start;
		tdi_region_unclaim(region);
		if (!tdi_detach_trim(&quarantine, extent->length))
			region->room = quarantine; /* again when it is released */
	}
}

void tdi_space_forget_room(struct td_space *space, struct tdi_region *region)
{
	struct tdi_quarantine *room = &region->room;

	if (room->reserved_end != 0 && !tdi_detach_trim(room, region->extent.length))
		tdi_warn("space '%s': address space around %#lx-%#lx stays reserved",
			 space->name, (unsigned long)room->reserved,
			 (unsigned long)room->reserved_end);
}
