/* SPDX-License-Identifier: MIT */
/*
 * Floor 1: would it show that memory is given back later than the caller thinks? It does
 * where a limit is finite and what is pending makes up much of the room that is left.
 */
#ifndef TDI_HEADROOM_H
#define TDI_HEADROOM_H

#include "base.h"

struct tdi_holding {
	uint64_t address_space; /* bytes that would be pending, with what already is */
	uint64_t memory;	/* of these, bytes that are not mere reservations */
	bool locked;
	size_t huge_page; /* from the pool of huge pages of this size, in bytes; or 0 */
};

/*
 * True when each limit leaves twice as much room, beside what is held: address space
 * (RLIMIT_AS), private memory (RLIMIT_DATA), locked memory (RLIMIT_MEMLOCK, unless
 * privileged), commit charge (in overcommit mode 2) and free huge pages. The number of
 * mappings is not asked for: it would have to be counted, and the kernel refuses to move
 * a mapping near that limit. Where a limit cannot be read, it is taken to be near.
 * Allocates nothing.
 */
bool tdi_limits_are_far(const struct tdi_holding *holding);

#endif
