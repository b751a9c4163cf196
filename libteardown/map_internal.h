/* SPDX-License-Identifier: MIT */
/*
 * Floor 4: the nodes of a map, for its own files and its tests.
 *
 * A tree of nodes of 32 slots. Slot i holds what lies in [key i, key i+1): an item in a
 * leaf, a node elsewhere, or NULL for nothing. What these rules say holds at any moment,
 * between any two stores of a writer:
 *
 *   K1  The keys of a node never decrease. What lies below the first slot's lower bound
 *       is never looked for there, so there is no key 0. Unused slots at the end have
 *       the greatest key there is.
 *   K2  An item lies wholly in its slot's range, and so in the range of each slot on the
 *       way to it. So a search for any address that it covers finds it.
 *   K3  A leaf holds at least one item, any other node at least two nodes. Leaves may
 *       hang at any depth.
 *
 * Keys may therefore be moved in place, across addresses that no item covers: a reader
 * that meets the old key and one that meets the new key both find nothing there. And an
 * item that stays is found whichever mixture of old and new keys the search has met.
 *
 * All else that needs more than one store is done by building new nodes and replacing
 * the old ones by one store. Replaced nodes no longer change and are freed a grace
 * period later; a reader inside one sees the map as it was when it came.
 */
#ifndef TDI_MAP_INTERNAL_H
#define TDI_MAP_INTERNAL_H

#include "map.h"
#include "retire.h"

enum {
	TDI_MAP_SLOTS = 32,
	TDI_MAP_LINE = 4,	/* slots in a cache line, with their keys */
	TDI_MAP_DEPTH_MAX = 10, /* an insert that needs more rebuilds the tree */
};

struct tdi_map_line {
	_Atomic(uintptr_t) keys[TDI_MAP_LINE];
	_Atomic(void *) slots[TDI_MAP_LINE];
};

struct tdi_map_node {
	union {
		struct { /* in the place of key 0 */
			bool leaf;
			uint8_t live; /* slots in use; writers' only */
		};
		struct tdi_map_line lines[TDI_MAP_SLOTS / TDI_MAP_LINE];
	};
	/* of nodes that are out of the map, or about to be */
	struct tdi_map_node *next;
	const struct tdi_map *map; /* only its address */
	struct tdi_retired retired;
};

static inline _Atomic(void *) *tdi_map_slot(const struct tdi_map_node *node,
					    unsigned slot)
{
	const struct tdi_map_line *line = &node->lines[slot / TDI_MAP_LINE];

	return (_Atomic(void *) *)&line->slots[slot % TDI_MAP_LINE];
}

/* Relaxed: whatever a search meets is right, as told above. */
static inline uintptr_t tdi_map_key(const struct tdi_map_node *node, unsigned slot)
{
	const struct tdi_map_line *line = &node->lines[slot / TDI_MAP_LINE];

	return atomic_load_explicit(&line->keys[slot % TDI_MAP_LINE],
				    memory_order_relaxed);
}

static inline void tdi_map_set_key(struct tdi_map_node *node, unsigned slot,
				   uintptr_t key)
{
	struct tdi_map_line *line = &node->lines[slot / TDI_MAP_LINE];

	atomic_store_explicit(&line->keys[slot % TDI_MAP_LINE], key,
			      memory_order_relaxed);
}

/* Acquire: pairs with the release in tdi_map_publish. */
static inline void *tdi_map_load(const _Atomic(void *) *link)
{
	return atomic_load_explicit(link, memory_order_acquire);
}

/* Release: what is published is complete, and keys were moved before. */
static inline void tdi_map_publish(_Atomic(void *) *link, void *content)
{
	atomic_store_explicit(link, content, memory_order_release);
}

/* Keys one after the other: the compiler would make more instructions of it. */
static inline uintptr_t tdi_map_count(uintptr_t n, uintptr_t key, uintptr_t addr)
{
	n += key <= addr;
	__asm__("" : "+r"(n));
	return n;
}

/*
 * The slot whose range addr is in: the number of keys up to addr. The first key of each
 * line tells the line, then the keys of that line tell the slot: without branches, and
 * with loads from memory that do not wait for each other.
 */
static inline _Atomic(void *) *tdi_map_search(const struct tdi_map_node *node,
					      uintptr_t addr)
{
	const struct tdi_map_line *line;
	uintptr_t first = 0, slot = 0;

#pragma GCC unroll 8
	for (unsigned i = TDI_MAP_LINE; i < TDI_MAP_SLOTS; i += TDI_MAP_LINE)
		first = tdi_map_count(first, tdi_map_key(node, i), addr);
	line = &node->lines[first];
#pragma GCC unroll 4
	for (unsigned i = 1; i < TDI_MAP_LINE; i++) {
		uintptr_t key =
			atomic_load_explicit(&line->keys[i], memory_order_relaxed);

		slot = tdi_map_count(slot, key, addr);
	}
	return (_Atomic(void *) *)&line->slots[slot];
}

/* The number of that slot. */
static inline unsigned tdi_map_slot_of(const struct tdi_map_node *node, uintptr_t addr)
{
	size_t at = (size_t)((char *)tdi_map_search(node, addr) - (char *)node);

	return (unsigned)(at / sizeof(struct tdi_map_line) * TDI_MAP_LINE +
			  at / sizeof(void *) % TDI_MAP_LINE);
}

/* Frees the nodes of a chain when no reader is in them any more. */
void tdi_map_retire(struct tdi_map *map, struct tdi_map_node *chain);

/* A chain of all nodes from this one down. */
struct tdi_map_node *tdi_map_chain_all(struct tdi_map_node *node);

#endif
