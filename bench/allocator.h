/* SPDX-License-Identifier: MIT */
/*
 * What `td-bench allocator` is made of. Each sample is taken in a process of its own:
 * this program once more, with the allocator preloaded. allocator.c starts it,
 * allocator_child.c is what it does; allocator_jemalloc.c and allocator_mimalloc.c are
 * the ways to give memory back, which call the allocator as dlsym finds it.
 */
#ifndef BENCH_ALLOCATOR_H
#define BENCH_ALLOCATOR_H

#include "common.h"

#define ALLOCATOR_BLOCK ((size_t)2 << 20)

/* ---- in the child ---- */

struct allocator_blocks {
	char **block;
	size_t nr;
	unsigned arena;
	double all_us, frees_us, longest_us; /* of all calls; one a block; of one call */
};

struct allocator_way {
	const char *name, *library;
	const char *environment[2]; /* a variable and its value; NULL = none */
	const char *(*load)(void);  /* NULL, or why it cannot be had */
	void (*version)(char *text, size_t size);
	void (*make)(const struct allocator_way *self, struct allocator_blocks *blocks);
	/* Gives all of them back; each call is counted. */
	void (*give)(struct allocator_blocks *blocks);
	void (*after)(struct allocator_blocks *blocks); /* the arena's end; NULL = none */
	const void *hooks; /* jemalloc: whose; NULL = its own */
	long decay_ms;	   /* jemalloc: of the arena; -1 = as by default */
	unsigned rounds;   /* at most; 0 = as many as of the others */
	bool at_once;	   /* what is not back after the calls will not come back */
};

/* A call that gives something back, since then. */
void allocator_count(struct allocator_blocks *blocks, uint64_t began);

/* ---- the ways, to a NULL name ---- */

extern const struct allocator_way allocator_jemalloc[], allocator_mimalloc[];

/* ---- between the two ---- */

/* What a child says. size 0: nothing is measured but whether it can be. */
struct allocator_outcome {
	double all_us, frees_us, longest_us; /* without the other thread */
	double reclaim_ms;		     /* until 98 of 100 bytes were back */
	double left_percent;		     /* when that was waited for no longer */
	double worst_stall_us, steal_ms;     /* in a second round, with it */
	char version[128], why[128];	     /* why it cannot be had, "" = it can */
};

/* The program, when argv[1] is this: a way's name, a size, a descriptor to write to. */
#define ALLOCATOR_CHILD "--allocator-child"
int allocator_child(int argc, char **argv);

const struct allocator_way *allocator_find(const char *name);

#endif
