/* SPDX-License-Identifier: MIT */
/*
 * jemalloc: an arena of its own, all of whose memory is given back. By its own means, as
 * TUNING.md advises, that is left to background threads, or done by the owner at a time
 * of his choice; or it is handed on by the extent hooks of examples/jemalloc_hooks.c.
 */
#include "allocator.h"

#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/types.h>

#ifdef BENCH_JEMALLOC_HOOKS
#include "../examples/jemalloc_hooks.h"
static struct hooked hooked;
#define HOOKS &hooked
#else
static const char hooked[1];
#define HOOKS hooked
#endif

/* As jemalloc(3) has them. */
#ifndef MALLOCX_TCACHE_NONE
#define MALLOCX_TCACHE_NONE (1 << 8)
#define MALLOCX_ARENA(arena) ((int)((arena) + 1) << 20)
#endif

static struct {
	void *(*mallocx)(size_t size, int flags);
	void (*dallocx)(void *ptr, int flags);
	int (*mallctl)(const char *name, void *old, size_t *old_size, void *new,
		       size_t new_size);
} je;

/* A negative errno value is what bench_must takes. */
static int ctl(const char *name, void *old, size_t old_size, void *new, size_t new_size)
{
	return -je.mallctl(name, old, old ? &old_size : NULL, new, new_size);
}

static void arena_ctl(unsigned arena, const char *what, void *new, size_t new_size)
{
	char name[64];

	snprintf(name, sizeof(name), "arena.%u.%s", arena, what);
	bench_must(ctl(name, NULL, 0, new, new_size), name);
}

static const char *load(void)
{
	*(void **)&je.mallocx = dlsym(RTLD_DEFAULT, "mallocx");
	*(void **)&je.dallocx = dlsym(RTLD_DEFAULT, "dallocx");
	*(void **)&je.mallctl = dlsym(RTLD_DEFAULT, "mallctl");
	return je.mallocx && je.dallocx && je.mallctl ? NULL
						      : "there is no libjemalloc.so.2";
}

/* As asked for? A jemalloc may be built without threads of its own. */
static const char *load_background(void)
{
	const char *why = load();
	bool there = false;

	if (!why && (ctl("background_thread", &there, sizeof(there), NULL, 0) || !there))
		why = "this libjemalloc.so.2 has no background threads";
	return why;
}

#ifdef BENCH_JEMALLOC_HOOKS
static const char *load_hooks(void)
{
	const char *why = load_background();
	extent_hooks_t *own;

	if (why)
		return why;
	bench_must(ctl("arena.0.extent_hooks", &own, sizeof(own), NULL, 0),
		   "extent_hooks");
	hooked_init(&hooked, own);
	return NULL;
}

/* An arena that did without them would be measured as if it had them. */
static void wait_for_hooks(void)
{
	bench_must(atomic_load(&hooked.extents) > 0 ? 0 : -EIO,
		   "jemalloc gave nothing to the hooks");
	hooked_wait(&hooked);
}
#else
static const char *load_hooks(void)
{
	return "built without libjemalloc-dev";
}

static void wait_for_hooks(void)
{
}
#endif

static void version(char *text, size_t size)
{
	const char *told;

	bench_must(ctl("version", &told, sizeof(told), NULL, 0), "mallctl version");
	snprintf(text, size, "%s", told);
}

static void make(const struct allocator_way *self, struct allocator_blocks *blocks)
{
	const void *hooks = self->hooks;
	ssize_t decay_ms = self->decay_ms;

	bench_must(ctl("arenas.create", &blocks->arena, sizeof(blocks->arena),
		       hooks ? &hooks : NULL, hooks ? sizeof(hooks) : 0),
		   "arenas.create");
	if (decay_ms >= 0)
		arena_ctl(blocks->arena, "dirty_decay_ms", &decay_ms, sizeof(decay_ms));
	for (size_t i = 0; i < blocks->nr; i++) {
		blocks->block[i] =
			je.mallocx(ALLOCATOR_BLOCK,
				   MALLOCX_ARENA(blocks->arena) | MALLOCX_TCACHE_NONE);
		bench_must(blocks->block[i] ? 0 : -ENOMEM, "mallocx");
	}
}

static void give_blocks(struct allocator_blocks *blocks)
{
	for (size_t i = 0; i < blocks->nr; i++) {
		uint64_t began = bench_now_ns();

		je.dallocx(blocks->block[i], MALLOCX_TCACHE_NONE);
		allocator_count(blocks, began);
	}
	blocks->frees_us = blocks->all_us;
}

static void give_and_purge(struct allocator_blocks *blocks)
{
	uint64_t began;

	give_blocks(blocks);
	began = bench_now_ns();
	arena_ctl(blocks->arena, "purge", NULL, 0);
	allocator_count(blocks, began);
}

static void give_arena(struct allocator_blocks *blocks)
{
	uint64_t began = bench_now_ns();

	arena_ctl(blocks->arena, "destroy", NULL, 0);
	allocator_count(blocks, began);
}

static void destroy(struct allocator_blocks *blocks)
{
	arena_ctl(blocks->arena, "destroy", NULL, 0);
}

static void destroy_hooked(struct allocator_blocks *blocks)
{
	destroy(blocks);
	wait_for_hooks();
}

static void settle(struct allocator_blocks *blocks)
{
	(void)blocks;
	wait_for_hooks();
}

#define CONF "abort_conf:true,background_thread:true"
#define JEMALLOC(conf)                                                                   \
	.library = "libjemalloc.so.2", .environment = {"MALLOC_CONF", conf},             \
	.version = version, .make = make
#define OWN(conf) JEMALLOC(conf), .load = load_background
#define HOOKED JEMALLOC(CONF), .load = load_hooks, .hooks = HOOKS

const struct allocator_way allocator_jemalloc[] = {
	/* The default decay takes 10 s and more, and two rounds of that make a sample. */
	{OWN(CONF), .name = "jemalloc_background", .give = give_blocks, .after = destroy,
	 .decay_ms = -1, .rounds = 2},
	/* By default, free extents that are joined to 8 MiB are purged at once, by the
	 * caller, background threads or not. */
	{OWN(CONF ",dirty_decay_ms:1000,oversize_threshold:0"),
	 .name = "jemalloc_decay_1s", .give = give_blocks, .after = destroy,
	 .decay_ms = -1},
	{OWN(CONF), .name = "jemalloc_decay_0", .give = give_blocks, .after = destroy,
	 .decay_ms = 0},
	{OWN(CONF), .name = "jemalloc_purge", .give = give_and_purge, .after = destroy,
	 .decay_ms = -1},
	{OWN(CONF), .name = "jemalloc_destroy", .give = give_arena, .decay_ms = -1},
	{HOOKED, .name = "td_hooks_free", .give = give_blocks, .after = destroy_hooked,
	 .decay_ms = 0},
	{HOOKED, .name = "td_hooks_destroy", .give = give_arena, .after = settle,
	 .decay_ms = -1},
	{.name = NULL},
};
