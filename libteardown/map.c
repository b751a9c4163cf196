/* SPDX-License-Identifier: MIT */
#include "map_internal.h"

#include <stdlib.h>

void tdi_map_init(struct tdi_map *map, struct td_engine *engine)
{
	atomic_init(&map->root, NULL);
	map->engine = engine;
	map->items = map->nodes = 0;
	map->depth = 0;
}

/* ---- nodes that are no longer needed ---- */

static void free_chain(struct tdi_map_node *chain)
{
	while (chain) {
		struct tdi_map_node *next = chain->next;

		free(chain);
		chain = next;
	}
}

static void free_retired(struct tdi_retired *retired)
{
	struct tdi_map_node *chain =
		tdi_container_of(retired, struct tdi_map_node, retired);

	tdi_tsan_acquire(tdi_map_readers(chain->map));
	free_chain(chain);
}

void tdi_map_retire(struct tdi_map *map, struct tdi_map_node *chain)
{
	if (!chain)
		return;
	for (const struct tdi_map_node *node = chain; node; node = node->next)
		map->nodes--;
	chain->map = map;
	if (map->engine)
		tdi_retire(map->engine, &chain->retired, free_retired);
	else
		free_chain(chain);
}

/* Breadth first: the chain is the list of what is yet to be visited as well. */
struct tdi_map_node *tdi_map_chain_all(struct tdi_map_node *node)
{
	struct tdi_map_node *chain = node, *last = node;

	if (node)
		node->next = NULL;
	for (; node; node = node->next) {
		for (unsigned i = 0; !node->leaf && i < TDI_MAP_SLOTS; i++) {
			struct tdi_map_node *child = tdi_map_load(tdi_map_slot(node, i));

			if (!child)
				continue;
			child->next = NULL;
			last->next = child;
			last = child;
		}
	}
	return chain;
}

void tdi_map_destroy(struct tdi_map *map)
{
	tdi_tsan_acquire(tdi_map_readers(map));
	free_chain(tdi_map_chain_all(tdi_map_load(&map->root)));
	tdi_map_init(map, map->engine);
}

/* ---- looking up ---- */

/* A reader has read what it wanted of the nodes. (Of items the owners know.) */
static inline void done_reading(const struct tdi_map *map)
{
	tdi_tsan_release(tdi_map_readers(map));
}

struct tdi_map_item *tdi_map_find(const struct tdi_map *map, uintptr_t addr)
{
	const struct tdi_map_node *node = tdi_map_load(&map->root);
	struct tdi_map_item *item = NULL;

	while (node && !node->leaf)
		node = tdi_map_load(tdi_map_search(node, addr));
	if (tdi_likely(node))
		item = tdi_map_load(tdi_map_search(node, addr));
	if (item && addr - item->start >= item->end - item->start)
		item = NULL;
	done_reading(map);
	return item;
}

/* The content of the first slot in use from this one on, or NULL. */
static void *first_from(const struct tdi_map_node *node, unsigned slot)
{
	void *content = NULL;

	for (; slot < TDI_MAP_SLOTS && !content; slot++)
		content = tdi_map_load(tdi_map_slot(node, slot));
	return content;
}

/*
 * Goes down to addr, or to the beginning of what comes next, and looks at what follows
 * there. *after: where else to look when that is nothing.
 */
static struct tdi_map_item *first_below(const struct tdi_map_node *node, uintptr_t addr,
					const struct tdi_map_node **after)
{
	*after = NULL;
	while (!node->leaf) {
		unsigned slot = tdi_map_slot_of(node, addr);
		const struct tdi_map_node *child = tdi_map_load(tdi_map_slot(node, slot));
		const struct tdi_map_node *next = first_from(node, slot + 1);

		if (child && next)
			*after = next;
		node = child ? child : next;
		if (!node)
			return NULL;
	}
	for (unsigned i = tdi_map_slot_of(node, addr); i < TDI_MAP_SLOTS; i++) {
		struct tdi_map_item *item = tdi_map_load(tdi_map_slot(node, i));

		if (item && item->end > addr)
			return item;
	}
	return NULL;
}

struct tdi_map_item *tdi_map_at_or_after(const struct tdi_map *map, uintptr_t addr)
{
	const struct tdi_map_node *node, *after;
	struct tdi_map_item *item = NULL;

	while (!item && (node = tdi_map_load(&map->root))) {
		item = first_below(node, addr, &after);
		if (item || !after)
			break;
		/* No node that a reader can reach is ever empty. If that one seems so,
		 * then because items were put in behind us and taken out before us: a
		 * writer has got on meanwhile, and we look again. */
		item = first_below(after, addr, &after);
	}
	done_reading(map);
	return item;
}

/* ---- removing and trimming: no memory needed ---- */

struct place {
	_Atomic(void *) *slot;		     /* holds the item */
	struct tdi_map_node *leaf, *parent;  /* parent NULL: the leaf is the root */
	_Atomic(void *) *link, *parent_link; /* these hold the leaf and the parent */
};

static void locate(struct tdi_map *map, struct tdi_map_item *item, struct place *place)
{
	struct tdi_map_node *node = tdi_map_load(&map->root);

	*place = (struct place){.slot = &map->root};
	while (node) {
		place->parent = place->leaf;
		place->parent_link = place->link;
		place->leaf = node;
		place->link = place->slot;
		place->slot = tdi_map_search(node, item->start);
		node = node->leaf ? NULL : tdi_map_load(place->slot);
	}
	if (!place->leaf || tdi_map_load(place->slot) != item)
		tdi_die("map: item %#lx-%#lx is not in it", (unsigned long)item->start,
			(unsigned long)item->end);
}

/*
 * Takes out a leaf together with its last item, which stays in it, and the leaf's parent
 * if that has only one other node: that node takes its place.
 */
static void unhook(struct tdi_map *map, struct place *place)
{
	struct tdi_map_node *leaf = place->leaf, *parent = place->parent;

	leaf->next = NULL;
	tdi_map_publish(place->link, NULL);
	if (!parent)
		map->depth = 0;
	if (parent && --parent->live == 1) {
		map->depth -= place->parent_link == &map->root;
		tdi_map_publish(place->parent_link, first_from(parent, 0));
		parent->next = NULL;
		leaf->next = parent;
	}
	tdi_map_retire(map, leaf);
}

void tdi_map_remove(struct tdi_map *map, struct tdi_map_item *item)
{
	struct place place;

	locate(map, item, &place);
	map->items--;
	if (--place.leaf->live > 0)
		tdi_map_publish(place.slot, NULL);
	else
		unhook(map, &place);
}

void tdi_map_replace(struct tdi_map *map, struct tdi_map_item *old,
		     struct tdi_map_item *trimmed)
{
	struct place place;

	locate(map, old, &place);
	if (trimmed->start < old->start || trimmed->end > old->end ||
	    trimmed->start >= trimmed->end)
		tdi_die("map: item %#lx-%#lx cannot be trimmed to %#lx-%#lx",
			(unsigned long)old->start, (unsigned long)old->end,
			(unsigned long)trimmed->start, (unsigned long)trimmed->end);
	tdi_map_publish(place.slot, trimmed);
}
