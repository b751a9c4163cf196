/* SPDX-License-Identifier: MIT */
/* preload_victim: ranges, and what malloc makes of them. */
#include "preload_victim.h"

#include <malloc.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>

/* ---- ranges ---- */

char *map(size_t size)
{
	char *at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
			-1, 0);

	must(at != MAP_FAILED, "mmap");
	fill(at, size, 3);
	return at;
}

int test_munmap(void)
{
	size_t size = large * 8;
	char *at = map(size), *again;

	signal(SIGSEGV, on_fault);
	errno = 77;
	say("munmap", munmap(at, size));
	say("errno is kept", errno);
	say("the start faults", fault_of(at));
	say("the end faults", fault_of(at + size - 1));
	again = mmap(at, size, PROT_READ | PROT_WRITE,
		     MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
	say("it can be mapped again", again == at && is_zero(at, size));
	fill(at, size, 4);
	/* A part from the middle. */
	say("middle", munmap(at + size / 4, size / 2));
	say("before it", is_filled(at, size / 4, 4));
	say("in it", fault_of(at + size / 2));
	say("behind it", at[size - 509] != 0 || at[size - 1] == 0);
	say("with a hole", munmap(at, size));
	say("once more", munmap(at, size));
	SAY_CALL(munmap((void *)(uintptr_t)4097, large));
	SAY_CALL(munmap((void *)(uintptr_t)4096, 0));
	SAY_CALL(munmap((void *)(uintptr_t)4096, SIZE_MAX - 8192));
	SAY_CALL(munmap((void *)(UINTPTR_MAX - 4095), large));
	SAY_CALL(mmap(NULL, 0, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) ==
		 MAP_FAILED);
	SAY_CALL(mmap(NULL, large, PROT_READ, MAP_PRIVATE, -1, 0) == MAP_FAILED);
	SAY_CALL(mremap((void *)(uintptr_t)4096, 4096, large, 0) == MAP_FAILED);
	SAY_CALL(mlock((void *)(uintptr_t)4096, large));

	at = map(size);
	again = mremap(at, size, size * 2, MREMAP_MAYMOVE);
	must(again != MAP_FAILED, "mremap");
	say("moved", is_filled(again, size, 3));
	at = mmap(NULL, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	say("to an address",
	    mremap(again, size, size, MREMAP_MAYMOVE | MREMAP_FIXED, at) == at);
	say("is there", is_filled(at, size, 3));
	munmap(at, size);
	munmap(again + size, size);

	at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	fill(at, size, 5);
	say("shared", munmap(at, size));
	at = map(size);
	say("mlock", mlock(at, size));
	say("locked", munmap(at, size));
	return 12;
}

/* ---- malloc ---- */

void around(size_t size)
{
	unsigned char *at = malloc(size);
	size_t usable;

	must(at != NULL, "malloc");
#ifdef OWN_MALLOC
	usable = size;
#else
	usable = malloc_usable_size(at);
#endif
	must(usable >= size, "usable size");
	fill(at, usable, 1);
	must(is_filled(at, usable, 1), "malloc's memory");
	free(at);
	at = calloc(size / 16, 16);
	must(at && is_zero(at, size / 16 * 16), "calloc's memory");
	fill(at, size / 16 * 16, 2);
	free(at);
	at = calloc(1, size);
	must(at && is_zero(at, size), "calloc's memory, used before");
	free(at);
}

static void change(size_t from, size_t to)
{
	unsigned char *at = malloc(from), *then;
	size_t least = from < to ? from : to;

	must(at != NULL, "malloc");
	fill(at, from, 7);
	then = realloc(at, to);
	must(then && malloc_usable_size(then) >= to, "realloc");
	must(is_filled(then, least, 7), "realloc's memory");
	fill(then, to, 8);
	/* And back. */
	at = reallocarray(then, 1, from);
	must(at && is_filled(at, least, 8), "realloc's memory, back");
	free(at);
}

int test_malloc(void)
{
	const size_t sizes[] = {
		16,	   large / 2,	  large - 1,  large,	     large + 1,
		large * 2, large * 3 + 7, large * 16, large * 40 + 1};
	const size_t n = sizeof(sizes) / sizeof(sizes[0]);
	unsigned char *at, *blocks[64];
	void *aligned = (void *)1;
	volatile size_t most = SIZE_MAX;

	for (size_t i = 0; i < n; i++) {
		around(sizes[i]);
		for (size_t k = 0; k < n; k++)
			change(sizes[i], sizes[k]);
	}
	/* Grows by little, with others in its way. */
	at = NULL;
	for (size_t size = large / 2; size < large * 20; size += large / 3) {
		unsigned char *grown = realloc(at, size), *other = malloc(large);

		must(grown && other, "growing");
		must(!at || is_filled(grown, size - large / 3, 9), "growing memory");
		fill(grown, size, 9);
		at = grown;
		free(other);
	}
	free(at);
	for (unsigned i = 0; i < 64; i++) {
		blocks[i] = malloc(large + i * 4096);
		must(blocks[i] != NULL, "many");
		fill(blocks[i], large, i);
	}
	for (unsigned i = 0; i < 64; i += 2)
		free(blocks[i]);
	for (unsigned i = 1; i < 64; i += 2) {
		must(is_filled(blocks[i], large, i), "one between freed ones");
		blocks[i] = realloc(blocks[i], large * 4);
		must(is_filled(blocks[i], large, i), "one that grew between freed ones");
	}
	for (unsigned i = 1; i < 64; i += 2)
		free(blocks[i]);

	for (size_t align = 16; align <= (size_t)64 << 20; align *= 4) {
		at = aligned_alloc(align, align > large ? align : large);
		must(at && (uintptr_t)at % align == 0, "aligned_alloc");
		fill(at, large, 6);
		must(!posix_memalign(&aligned, align, large + 3) &&
			     (uintptr_t)aligned % align == 0,
		     "posix_memalign");
		free(at);
		must(is_zero(aligned, 1) || true, "readable");
		free(aligned);
		aligned = memalign(align, large * 2);
		must(aligned && (uintptr_t)aligned % align == 0, "memalign");
		free(aligned);
	}
	aligned = (void *)1;
	say("posix_memalign of 24", posix_memalign(&aligned, 24, large));
	say("posix_memalign of 4", posix_memalign(&aligned, 4, large));
	say("untouched", aligned == (void *)1);
	at = valloc(large + 5);
	say("valloc", at && (uintptr_t)at % 4096 == 0);
	free(at);
	at = pvalloc(large + 5);
	say("pvalloc", at && malloc_usable_size(at) >= large + 4096);
	free(at);

	SAY_CALL(malloc(most / 2 + 2) == NULL);
	SAY_CALL(malloc(most) == NULL);
	SAY_CALL(malloc(most / 4) == NULL);
	SAY_CALL(calloc(most / 2, 3) == NULL);
	at = malloc(large * 2);
	fill(at, large * 2, 1);
	SAY_CALL(realloc(at, most / 2 + 2) == NULL);
	SAY_CALL(realloc(at, most / 4) == NULL);
	SAY_CALL(reallocarray(at, most / 2, 3) == NULL);
	say("kept", is_filled(at, large * 2, 1));
	errno = 77;
	free(at);
	say("errno is kept", errno);
	free(NULL);
	say("usable size of nothing", (long)malloc_usable_size(NULL));
	at = realloc(NULL, large);
	say("realloc of nothing", at != NULL);
	SAY_CALL(realloc(at, 0) == NULL);
	return 0;
}
