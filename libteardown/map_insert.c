/* SPDX-License-Identifier: MIT */
/*
 * Putting items into a map. Most find an unused slot where they belong: a new leaf
 * spreads what it holds over its slots. Otherwise the leaf is built anew, and split when
 * it is full.
 */
#include "map_internal.h"

#include <stdlib.h>

/* A leaf with more is split rather than built anew: it would soon be full again. */
enum { LEAF_FILL = 28 };

/* The way to a leaf: each node, where it hangs, and the slot that was taken there. */
struct step {
	_Atomic(void *) *link;
	struct tdi_map_node *node;
	unsigned slot;
};

struct way {
	unsigned depth;
	struct step steps[TDI_MAP_DEPTH_MAX];
};

/* What is in the slots of a node, with up to one more of it. */
struct content {
	unsigned n;
	unsigned first_new, last_new; /* entries that were not in the node */
	struct entry {
		uintptr_t key;
		void *slot;
	} entries[TDI_MAP_SLOTS + 1];
};

struct update {
	struct tdi_map *map;
	struct tdi_map_node *made, *replaced; /* chains */
};

/* Moves the keys after `slot` that are below `end` up to it. No item is in between. */
static void raise_keys(struct tdi_map_node *node, unsigned slot, uintptr_t end)
{
	unsigned i = slot + 1;

	while (i < TDI_MAP_SLOTS && tdi_map_key(node, i) < end)
		i++;
	while (--i > slot) /* the last one first: K1 */
		tdi_map_set_key(node, i, end);
}

/* Moves the keys up to that of `slot` that are above `start` down to it. */
static void lower_keys(struct tdi_map_node *node, unsigned slot, uintptr_t start)
{
	unsigned i = slot + 1;

	while (i > 1 && tdi_map_key(node, i - 1) > start)
		i--;
	for (; i <= slot; i++) /* the first one first: K1 */
		tdi_map_set_key(node, i, start);
}

/* The slot of a node above the leaves to go down by, once all of a free range leads
 * there. */
static unsigned aim(struct tdi_map_node *node, unsigned slot, uintptr_t start,
		    uintptr_t end)
{
	while (slot > 0 && !tdi_map_load(tdi_map_slot(node, slot)))
		slot--;
	if (!tdi_map_load(tdi_map_slot(node, slot))) {
		while (!tdi_map_load(tdi_map_slot(node, slot)))
			slot++;
		lower_keys(node, slot, start);
	}
	raise_keys(node, slot, end);
	return slot;
}

static bool is_free(const struct tdi_map *map, uintptr_t start, uintptr_t end)
{
	const struct tdi_map_item *next = tdi_map_at_or_after(map, start);

	return !next || next->start >= end;
}

/* The same for a range of which nothing leads elsewhere than to this slot of this leaf,
 * and on to the slots after it. */
static bool is_free_in_leaf(const struct tdi_map_node *leaf, unsigned slot,
			    uintptr_t start, uintptr_t end)
{
	const struct tdi_map_item *item = tdi_map_load(tdi_map_slot(leaf, slot));

	if (item && item->start < end && item->end > start)
		return false;
	while (++slot < TDI_MAP_SLOTS && tdi_map_key(leaf, slot) < end) {
		item = tdi_map_load(tdi_map_slot(leaf, slot));
		if (item && item->start < end)
			return false;
	}
	return true;
}

/*
 * Makes the way for a range that is free, unless known to be so already. -EEXIST: it is
 * not. The map is not empty.
 */
static int find_way(struct tdi_map *map, uintptr_t start, uintptr_t end, bool known,
		    struct way *way)
{
	_Atomic(void *) *link = &map->root;

	for (way->depth = 0;;) {
		struct tdi_map_node *node = tdi_map_load(link);
		unsigned slot = tdi_map_slot_of(node, start);
		struct step *step = &way->steps[way->depth++];

		*step = (struct step){.link = link, .node = node, .slot = slot};
		if (node->leaf) {
			known = known || is_free_in_leaf(node, slot, start, end);
			return known ? 0 : -EEXIST;
		}
		link = tdi_map_slot(node, slot);
		if (tdi_map_load(link) &&
		    (slot + 1 == TDI_MAP_SLOTS || tdi_map_key(node, slot + 1) >= end))
			continue;
		/* keys must be moved, which only a free range allows */
		if (!known && !is_free(map, start, end))
			return -EEXIST;
		known = true;
		step->slot = aim(node, slot, start, end);
		link = tdi_map_slot(node, step->slot);
	}
}

/* True: the item is in the leaf now, in a slot that was unused. */
static bool place(struct tdi_map_node *leaf, unsigned slot, struct tdi_map_item *item)
{
	const struct tdi_map_item *near = tdi_map_load(tdi_map_slot(leaf, slot));
	unsigned first = slot, last = slot;

	/* The unused slots between the two items that it belongs between. */
	if (near && near->start < item->start)
		first = last = slot + 1;
	else if (near && slot == 0)
		return false;
	else if (near)
		first = last = slot - 1;
	if (first == TDI_MAP_SLOTS || tdi_map_load(tdi_map_slot(leaf, first)))
		return false;
	while (first > 0 && !tdi_map_load(tdi_map_slot(leaf, first - 1)))
		first--;
	while (last + 1 < TDI_MAP_SLOTS && !tdi_map_load(tdi_map_slot(leaf, last + 1)))
		last++;

	/* The next one may well belong between the same two, or beyond the outermost. */
	if (first == 0)
		slot = last;
	else if (last + 1 == TDI_MAP_SLOTS)
		slot = first;
	else
		slot = first + (last - first) / 2;
	lower_keys(leaf, slot, item->start);
	raise_keys(leaf, slot, item->end);
	leaf->live++;
	tdi_map_publish(tdi_map_slot(leaf, slot), item);
	return true;
}

/* ---- new nodes in the place of old ones ---- */

static void add(struct content *content, uintptr_t key, void *slot)
{
	content->entries[content->n++] = (struct entry){key, slot};
}

/* Starts with what the node has before the slot. */
static void take_before(struct content *content, const struct tdi_map_node *node,
			unsigned slot)
{
	content->n = 0;
	for (unsigned i = 0; i < slot; i++) {
		void *in = tdi_map_load(tdi_map_slot(node, i));

		if (in)
			add(content, i ? tdi_map_key(node, i) : 0, in);
	}
	content->first_new = content->n;
}

/* What was added since is new; goes on with what the node has from the slot on. */
static void take_from(struct content *content, const struct tdi_map_node *node,
		      unsigned slot)
{
	content->last_new = content->n - 1;
	for (; slot < TDI_MAP_SLOTS; slot++) {
		void *in = tdi_map_load(tdi_map_slot(node, slot));

		if (in)
			add(content, slot ? tdi_map_key(node, slot) : 0, in);
	}
}

/* Two in the place of the one in the slot; `between` is the second one's key. */
static void take_with_two(struct content *content, const struct tdi_map_node *node,
			  unsigned slot, void *left, uintptr_t between, void *right)
{
	take_before(content, node, slot);
	add(content, slot ? tdi_map_key(node, slot) : 0, left);
	add(content, between, right);
	take_from(content, node, slot + 1);
}

/* A node of the entries [from, to), or NULL. */
static struct tdi_map_node *make(struct update *update, bool leaf,
				 const struct content *content, unsigned from,
				 unsigned to)
{
	struct tdi_map_node *node = aligned_alloc(
		TDI_CACHE_LINE, tdi_align_up(sizeof(*node), TDI_CACHE_LINE));
	unsigned n = to - from, first = 0, over = TDI_MAP_SLOTS, next = 0;

	if (!node)
		return NULL;
	node->next = update->made;
	update->made = node;
	update->map->nodes++;
	node->leaf = leaf;
	node->live = (uint8_t)n;

	/* Insertions that go on in one direction find all the room there. */
	if (content->last_new == to - 1) {
		over = n;
	} else if (content->first_new == from) {
		first = TDI_MAP_SLOTS - n;
		over = n;
	}
	for (unsigned i = 0; i < n; i++) {
		const struct entry *entry = &content->entries[from + i];
		unsigned slot = first + i * over / n;

		for (; next <= slot; next++) {
			if (next > 0)
				tdi_map_set_key(node, next, entry->key);
			atomic_init(tdi_map_slot(node, next),
				    next == slot ? entry->slot : NULL);
		}
	}
	for (; next < TDI_MAP_SLOTS; next++) {
		tdi_map_set_key(node, next, UINTPTR_MAX);
		atomic_init(tdi_map_slot(node, next), NULL);
	}
	return node;
}

static void unmake(struct update *update)
{
	while (update->made) {
		struct tdi_map_node *node = update->made;

		update->made = node->next;
		update->map->nodes--;
		free(node);
	}
}

/* Is there nothing in the map before, or after, the node at this level of the way? */
static bool is_outermost(const struct way *way, unsigned level, bool after)
{
	while (level-- > 0) {
		const struct step *step = &way->steps[level];
		unsigned first = after ? step->slot + 1 : 0;
		unsigned end = after ? TDI_MAP_SLOTS : step->slot;

		for (unsigned i = first; i < end; i++) {
			if (tdi_map_load(tdi_map_slot(step->node, i)))
				return false;
		}
	}
	return true;
}

/* How many of the entries stay in the first of two nodes. A map that only grows at one
 * end gets full nodes. */
static unsigned cut_of(const struct content *content, const struct way *way,
		       unsigned level, bool leaf)
{
	unsigned least = leaf ? 1 : 2;

	if (content->last_new == content->n - 1 && is_outermost(way, level, true))
		return content->n - least;
	if (content->first_new == 0 && is_outermost(way, level, false))
		return least;
	return content->n / 2;
}

/* Puts the content in the place of the leaf at the end of the way, in one step. -ENOMEM;
 * -ELOOP: the tree would become too deep. Nothing has changed then. */
static int rewrite(struct tdi_map *map, struct way *way, struct content *content)
{
	struct update update = {.map = map};
	struct step *step = &way->steps[way->depth - 1];
	struct tdi_map_node *left, *right;
	bool leaf = true, deeper = false;
	int err = -ENOMEM;

	for (;; leaf = false) {
		unsigned level = (unsigned)(step - way->steps);
		unsigned cut = content->n;

		if (cut > (leaf ? LEAF_FILL : TDI_MAP_SLOTS))
			cut = cut_of(content, way, level, leaf);
		left = make(&update, leaf, content, 0, cut);
		right = cut < content->n ? make(&update, leaf, content, cut, content->n)
					 : NULL;
		if (!left || (cut < content->n && !right))
			goto failed;
		step->node->next = update.replaced;
		update.replaced = step->node;
		if (!right)
			break;
		if (level == 0 && map->depth == TDI_MAP_DEPTH_MAX) {
			err = -ELOOP;
			goto failed;
		}
		if (level == 0) {
			deeper = true;
			content->n = 0;
			add(content, 0, left);
			add(content, content->entries[cut].key, right);
			left = make(&update, false, content, 0, 2);
			if (!left)
				goto failed;
			break;
		}
		step--;
		take_with_two(content, step->node, step->slot, left,
			      content->entries[cut].key, right);
	}
	map->depth += deeper;
	map->items++;
	tdi_map_publish(step->link, left);
	tdi_map_retire(map, update.replaced);
	return 0;

failed:
	unmake(&update);
	return err;
}

static int start_with(struct tdi_map *map, struct tdi_map_item *item)
{
	struct update update = {.map = map};
	struct content content = {.n = 0};
	struct tdi_map_node *root;

	add(&content, item->start, item);
	root = make(&update, true, &content, 0, 1);
	if (!root)
		return -ENOMEM;
	tdi_map_publish(&map->root, root);
	map->depth = 1;
	map->items++;
	return 0;
}

/*
 * Nodes are not merged, and a leaf high up grows into a tree of its own. Who insists can
 * make the tree deeper with a thousand changes or so each time; here it is built anew.
 */
static int rebuild(struct tdi_map *map)
{
	struct tdi_map fresh;
	struct tdi_map_item *item;
	struct tdi_map_node *old = tdi_map_load(&map->root);
	uintptr_t at = 0;

	tdi_map_init(&fresh, NULL);
	while ((item = tdi_map_at_or_after(map, at))) {
		int err = tdi_map_insert(&fresh, item);

		if (err) {
			tdi_map_destroy(&fresh);
			return err;
		}
		at = item->end;
	}
	map->nodes += fresh.nodes;
	map->depth = fresh.depth;
	tdi_map_publish(&map->root, tdi_map_load(&fresh.root));
	tdi_map_retire(map, tdi_map_chain_all(old));
	return 0;
}

static int insert(struct tdi_map *map, struct tdi_map_item *item)
{
	const struct tdi_map_item *near;
	struct content content;
	struct step *last;
	struct way way;
	int err;

	if (!tdi_map_load(&map->root))
		return start_with(map, item);
	err = find_way(map, item->start, item->end, false, &way);
	if (err)
		return err;
	last = &way.steps[way.depth - 1];
	if (place(last->node, last->slot, item)) {
		map->items++;
		return 0;
	}

	near = tdi_map_load(tdi_map_slot(last->node, last->slot));
	if (near->start < item->start)
		last->slot++;
	take_before(&content, last->node, last->slot);
	add(&content, item->start, item);
	take_from(&content, last->node, last->slot);
	if (content.last_new + 1 < content.n) {
		struct entry *after = &content.entries[content.last_new + 1];

		after->key = tdi_max_size(after->key, item->end); /* K2 */
	}
	return rewrite(map, &way, &content);
}

int tdi_map_insert(struct tdi_map *map, struct tdi_map_item *item)
{
	int err;

	if (item->start >= item->end)
		return -EINVAL;
	err = insert(map, item);
	if (err != -ELOOP)
		return err;
	err = rebuild(map);
	return err ? err : insert(map, item);
}

static int split(struct tdi_map *map, struct tdi_map_item *old, struct tdi_map_item *left,
		 struct tdi_map_item *right)
{
	struct content content;
	const struct step *last;
	struct way way;

	find_way(map, old->start, old->end, true,
		 &way); /* the old one's: moves nothing */
	last = &way.steps[way.depth - 1];
	take_with_two(&content, last->node, last->slot, left, right->start, right);
	return rewrite(map, &way, &content);
}

int tdi_map_split(struct tdi_map *map, struct tdi_map_item *old,
		  struct tdi_map_item *left, struct tdi_map_item *right)
{
	int err;

	if (left->start < old->start || left->start >= left->end ||
	    left->end > right->start || right->start >= right->end ||
	    right->end > old->end)
		return -EINVAL;
	if (tdi_map_find(map, old->start) != old)
		tdi_die("map: item %#lx-%#lx is not in it", (unsigned long)old->start,
			(unsigned long)old->end);
	err = split(map, old, left, right);
	if (err != -ELOOP)
		return err;
	err = rebuild(map);
	return err ? err : split(map, old, left, right);
}
