/* SPDX-License-Identifier: MIT */
/* For tests: a map's nodes, held to their rules while no writer is at work. */
#ifndef TDT_MAP_CHECK_H
#define TDT_MAP_CHECK_H

#include "harness.h"
#include "map_internal.h"

/* As ck_assert, which talks to Check's process each time it is met, does when it fails.
 */
#define expect(what)                                                                     \
	do {                                                                             \
		if (!(what))                                                             \
			ck_abort_msg("not so: %s", #what);                               \
	} while (0)

struct map_shape {
	size_t nodes, items, depth;
};

/* K1 to K3 of map_internal.h, from this node down, whose range is [from, to). */
static inline void check_node(const struct tdi_map_node *node, uintptr_t from,
			      uintptr_t to, size_t depth, struct map_shape *shape)
{
	uintptr_t key = from;
	unsigned live = 0;

	shape->nodes++;
	if (shape->depth < depth)
		shape->depth = depth;
	for (unsigned i = 0; i < TDI_MAP_SLOTS; i++) {
		uintptr_t next = UINTPTR_MAX;
		void *in = tdi_map_load(tdi_map_slot(node, i));

		if (i + 1 < TDI_MAP_SLOTS)
			next = tdi_map_key(node, i + 1);
		if (i > 0)
			expect(tdi_map_key(node, i) <= next); /* K1 */
		if (i > 0 && tdi_map_key(node, i) > from)
			key = tdi_map_key(node, i);
		if (next > to)
			next = to;
		if (!in)
			continue;
		live++;
		if (node->leaf) {
			const struct tdi_map_item *item = in;

			shape->items++;
			expect(key <= item->start); /* K2 */
			expect(item->start < item->end);
			expect(item->end <= next);
		} else {
			check_node(in, key, next, depth + 1, shape);
		}
	}
	expect(live == node->live);
	expect(live >= (node->leaf ? 1 : 2)); /* K3 */
}

static inline struct map_shape check_shape(const struct tdi_map *map)
{
	const struct tdi_map_node *root = tdi_map_load(&map->root);
	struct map_shape shape = {0};

	if (root)
		check_node(root, 0, UINTPTR_MAX, 1, &shape);
	ck_assert_uint_eq(shape.items, map->items);
	ck_assert_uint_eq(shape.nodes, map->nodes);
	ck_assert_uint_le(shape.depth, map->depth);
	ck_assert_uint_le(map->depth, TDI_MAP_DEPTH_MAX);
	return shape;
}

#endif
