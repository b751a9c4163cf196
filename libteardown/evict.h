/* SPDX-License-Identifier: MIT */
/*
 * Floor 4: takes a range out of sight and leaves it to the reapers, if that is worth it,
 * cannot be noticed, and the kernel plays along.
 */
#ifndef TDI_EVICT_H
#define TDI_EVICT_H

#include "doomed.h"

struct tdi_evict {
	struct td_engine *engine;
	const char *name; /* of the owner, for messages; lives as long as the owner */
	struct tdi_doomed_owner *owner; /* or NULL */

	/*
	 * What lies there, its start and length included. Its kind says how it is
	 * released when the range is known to be a region; for td_munmap it is found out.
	 */
	struct tdi_extent *extent;
	bool known;
	bool any_size; /* worth it below the engine's threshold, too */
	bool shared;   /* not known: take mappings of files along */
	bool admitted; /* room in the budget has been taken; on failure it still is */

	/*
	 * Or NULL: called when the range has left, before it is handed over. Where there
	 * are no reapers it is released there, and callbacks are made: nobody should wait
	 * for that.
	 */
	void (*gone)(struct tdi_evict *evict);

	/* Out: one mapping covers the whole range, and can be unmapped in steps. */
	bool single;
	/* Out: there is no room in the budget, and whoever asked is to be told so. */
	bool refused;
};

/*
 * 0: the range is gone, and its memory will be. Negative: nothing has changed; the caller
 * unmaps by himself. Allocates nothing.
 */
int tdi_evict(struct tdi_evict *evict);

/* The same, but for handing it to the reapers: whatever its size and the limits. */
int tdi_evict_detach(struct tdi_evict *evict, struct tdi_quarantine *ret);

/*
 * Unmaps a range that one mapping covers in steps of a slice each, pages and all, so that
 * others get their turn at the kernel's lock. Where the first step is refused, it is one
 * munmap after all: 0, or what that answered, with nothing changed; -ENOTRECOVERABLE: a
 * part is gone, as tdi_detach() has it.
 */
int tdi_unmap_in_steps(uintptr_t start, size_t length, size_t huge_page,
		       uint64_t target_ns);

#endif
