/* SPDX-License-Identifier: MIT */
/*
 * Memory in so many pieces that unmapping one of them can be timed, however small it is;
 * and the place to which the kernel moves memory the cheapest.
 */
#ifndef BENCH_PIECES_H
#define BENCH_PIECES_H

#include "kinds.h"

#define BENCH_PIECES_MAX 256u

/* How many of a size belong to a sample: 64 MiB together, and at least one. */
unsigned bench_pieces_for(size_t size);

/*
 * Apart from each other, for adjacent ones would be one mapping, which each call would
 * have to split. Those of huge pages' size and more are aligned, as mmap does it.
 */
struct bench_pieces {
	struct bench_memory piece[BENCH_PIECES_MAX];
	unsigned nr;
	size_t size; /* of each */
};

/* Of a kind that mmap alone gives; filled, or only the first page of each. */
void bench_pieces_map(const struct bench_kind *kind, size_t size, unsigned nr,
		      bool filled, struct bench_pieces *ret);

/* Room for pieces, each as far from a multiple of 1 GiB as it is now: whole page tables
 * can change hands. */
struct bench_place {
	char *reserved, *to; /* to: for the first */
	size_t size;	     /* reserved */
};

void bench_place_reserve(const struct bench_pieces *pieces, struct bench_place *ret);
/* One mremap(2), and no more. */
void bench_place_move(const struct bench_place *place, const struct bench_pieces *pieces,
		      unsigned i);
/* Unmaps it, with all that was moved there. */
void bench_place_unmap(const struct bench_place *place);

#endif
