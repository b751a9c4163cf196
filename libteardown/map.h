/* SPDX-License-Identifier: MIT */
/*
 * Floor 4: an ordered map of address ranges that do not overlap. RCU readers look
 * addresses up while one writer at a time changes it: a reader sees a range whole or not
 * at all (D7), never waits and never writes.
 *
 * Readers hold the flavor's read lock, for as long as they use what they found. Writers
 * need the caller's lock instead; the nodes that they replace are retired to the engine.
 */
#ifndef TDI_MAP_H
#define TDI_MAP_H

#include "base.h"

struct td_engine;

/*
 * One range, embedded in its owner's object, which outlives its time in the map by a
 * grace period. Does not change while it can be found: a range is trimmed by putting
 * another item in the place of this one.
 */
struct tdi_map_item {
	uintptr_t start, end;
};

/* Writers' only, but for the root. */
struct tdi_map {
	_Atomic(void *) root;
	struct td_engine *engine;
	size_t items, nodes;
	unsigned depth; /* of no leaf is it more */
};

/*
 * For ThreadSanitizer: readers release this when they have read, callbacks acquire it
 * before they free. Not the root's address: whoever publishes there would take the place
 * of what readers have released.
 */
static inline void *tdi_map_readers(const struct tdi_map *map)
{
	return (void *)(uintptr_t)&map->engine;
}

/* engine NULL: no readers beside the writer, and nodes are freed at once. */
void tdi_map_init(struct tdi_map *map, struct td_engine *engine);

/* Items may be in it; there are no readers any more. Waits for no grace period (B4). */
void tdi_map_destroy(struct tdi_map *map);

/* -EINVAL: an empty range; -EEXIST: it overlaps another; -ENOMEM. */
int tdi_map_insert(struct tdi_map *map, struct tdi_map_item *item);

/* Allocates nothing. */
void tdi_map_remove(struct tdi_map *map, struct tdi_map_item *item);

/* Trims: trimmed lies within old and takes its place, in one step. Allocates nothing. */
void tdi_map_replace(struct tdi_map *map, struct tdi_map_item *old,
		     struct tdi_map_item *trimmed);

/*
 * left and right, in this order, lie within old and take its place; readers see either
 * old or both. -EINVAL: they do not lie so; -ENOMEM.
 */
int tdi_map_split(struct tdi_map *map, struct tdi_map_item *old,
		  struct tdi_map_item *left, struct tdi_map_item *right);

/* The item that covers addr, or NULL. */
struct tdi_map_item *tdi_map_find(const struct tdi_map *map, uintptr_t addr);

/*
 * The first item that ends after addr, or NULL. Asking again with its end walks the map;
 * beside a writer, such a walk meets every item that is there all the time.
 */
struct tdi_map_item *tdi_map_at_or_after(const struct tdi_map *map, uintptr_t addr);

#endif
