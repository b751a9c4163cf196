/* SPDX-License-Identifier: MIT */
/*
 * mimalloc 2.0: blocks of this size are in segments of many. A segment whose last block
 * is freed goes to a cache for the whole process, and is decommitted 500 ms later at the
 * soonest: when more segments are freed, or by mi_collect(), since there is no thread
 * that would do it. So a program that frees all and is idle keeps its memory. What can be
 * compared is the owner who says that he wants it back: mi_collect(true), after
 * which the cache is unmapped. From 2.1 on there is another design (purge_delay).
 */
#include "allocator.h"

#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>

static struct {
	void *(*malloc)(size_t size);
	void (*free)(void *ptr);
	void (*collect)(bool force);
	int (*version)(void);
} mi;

static const char *load(void)
{
	*(void **)&mi.malloc = dlsym(RTLD_DEFAULT, "mi_malloc");
	*(void **)&mi.free = dlsym(RTLD_DEFAULT, "mi_free");
	*(void **)&mi.collect = dlsym(RTLD_DEFAULT, "mi_collect");
	*(void **)&mi.version = dlsym(RTLD_DEFAULT, "mi_version");
	if (!mi.malloc || !mi.free || !mi.collect || !mi.version)
		return "there is no libmimalloc.so.2";
	return NULL;
}

/* 209: 2.0.9 */
static void version(char *text, size_t size)
{
	int told = mi.version();

	snprintf(text, size, "%d.%d.%d", told / 100, told / 10 % 10, told % 10);
}

static void make(const struct allocator_way *self, struct allocator_blocks *blocks)
{
	(void)self;
	for (size_t i = 0; i < blocks->nr; i++) {
		blocks->block[i] = mi.malloc(ALLOCATOR_BLOCK);
		bench_must(blocks->block[i] ? 0 : -ENOMEM, "mi_malloc");
	}
}

static void give(struct allocator_blocks *blocks)
{
	uint64_t began;

	for (size_t i = 0; i < blocks->nr; i++) {
		began = bench_now_ns();
		mi.free(blocks->block[i]);
		allocator_count(blocks, began);
	}
	blocks->frees_us = blocks->all_us;
	began = bench_now_ns();
	mi.collect(true);
	allocator_count(blocks, began);
}

const struct allocator_way allocator_mimalloc[] = {
	{.name = "mimalloc_collect",
	 .library = "libmimalloc.so.2",
	 .load = load,
	 .version = version,
	 .make = make,
	 .give = give,
	 .at_once = true},
	{.name = NULL},
};
