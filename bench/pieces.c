/* SPDX-License-Identifier: MIT */
#include "pieces.h"

#include <errno.h>
#include <sys/mman.h>
#include <unistd.h>

#define HUGE_SIZE ((size_t)2 << 20)
#define SAMPLE_BYTES ((size_t)64 << 20)

unsigned bench_pieces_for(size_t size)
{
	size_t nr = SAMPLE_BYTES / size;

	return nr == 0 ? 1 : nr > BENCH_PIECES_MAX ? BENCH_PIECES_MAX : (unsigned)nr;
}

void bench_pieces_map(const struct bench_kind *kind, size_t size, unsigned nr,
		      bool filled, struct bench_pieces *ret)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE);
	size_t gap = size >= HUGE_SIZE ? HUGE_SIZE + -size % HUGE_SIZE : page;
	char *at = bench_map(nr * (size + gap), kind->map_flags, -1);

	for (unsigned i = 0; i < nr; i++, at += size + gap) {
		ret->piece[i] = (struct bench_memory){kind, at, size, -1};
		bench_munmap(at + size, gap);
		if (kind->advice && madvise(at, size, kind->advice) && errno != EINVAL)
			bench_must(-errno, "madvise");
		kind->touch(at, filled ? size : page);
	}
	ret->nr = nr;
	ret->size = size;
}

void bench_place_reserve(const struct bench_pieces *pieces, struct bench_place *ret)
{
	uintptr_t from = (uintptr_t)pieces->piece[0].start;
	uintptr_t until = (uintptr_t)pieces->piece[pieces->nr - 1].start + pieces->size;

	ret->size = until - from + BENCH_GIB;
	ret->reserved = mmap(NULL, ret->size, PROT_NONE,
			     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	bench_must(ret->reserved == MAP_FAILED ? -errno : 0, "mmap");
	ret->to = ret->reserved + (from - (uintptr_t)ret->reserved) % BENCH_GIB;
}

void bench_place_move(const struct bench_place *place, const struct bench_pieces *pieces,
		      unsigned i)
{
	char *from = pieces->piece[i].start;
	void *moved =
		mremap(from, pieces->size, pieces->size, MREMAP_MAYMOVE | MREMAP_FIXED,
		       place->to + (from - pieces->piece[0].start));

	bench_must(moved == MAP_FAILED ? -errno : 0, "mremap");
}

void bench_place_unmap(const struct bench_place *place)
{
	bench_munmap(place->reserved, place->size);
}
