/* SPDX-License-Identifier: MIT */
/*
 * D7: readers look up beside a writer. An address that is always mapped is always found,
 * what is found covers the address and is alive, and an item that is split or trimmed is
 * seen before or after that, never in between.
 */
#include "map_check.h"
#include "retire.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <urcu/urcu-memb.h>

enum {
	READERS = 2,
	BLOCKS = 1000, /* the space: each block of 16 pages of 64 addresses */
	BLOCK = 1024,
	CHANGES = TDT_SANITIZED ? 200000 : 2000000,
	LOOKUPS = TDT_SANITIZED ? 60000 : 600000,
	ALIVE = 0x600d,
	DEAD = 0xdead,
};

/*
 * What the writer does in a block tells what readers may see there:
 *   STAYS   one item, in the map from the beginning to the end
 *   HALVES  all of the block is always mapped: by one item, or by two halves
 *   SHRINKS what begins as the whole block; its middle is always mapped
 *   COMES   anything or nothing, across neighbours of the same kind too
 */
enum kind { STAYS, HALVES, SHRINKS, COMES };

struct object {
	struct tdi_map_item item;
	struct tdi_retired retired;
	unsigned state, block;
	struct object *next; /* writer's: what else is in the block */
};

static td_engine *engine;
static struct tdi_map map;
static struct object *blocks[BLOCKS];
static atomic_bool writer_done;
static atomic_uint freed, splits;

static enum kind kind_of(size_t block)
{
	static const enum kind kinds[] = {STAYS, COMES,	 COMES,	  COMES,
					  COMES, HALVES, SHRINKS, COMES};

	return block / 300 % 2 ? COMES : kinds[block % 8]; /* and long stretches */
}

static size_t random_below(uint64_t *state, size_t n)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return (size_t)(*state >> 11) % n;
}

/* ---- the writer ---- */

static void free_object(struct tdi_retired *retired)
{
	struct object *object = tdi_container_of(retired, struct object, retired);

	tdi_tsan_acquire(tdi_map_readers(&map)); /* from read_some() */
	object->state = DEAD;
	free(object);
	atomic_fetch_add_explicit(&freed, 1, memory_order_relaxed);
}

static void retire(struct object *object)
{
	tdi_retire(engine, &object->retired, free_object);
}

static struct object *make(size_t block, uintptr_t from, uintptr_t to)
{
	struct object *object = calloc(1, sizeof(*object));

	expect(object != NULL);
	object->item = (struct tdi_map_item){block * BLOCK + from, block * BLOCK + to};
	object->block = (unsigned)block;
	object->state = ALIVE;
	return object;
}

static void insert_whole(size_t block)
{
	blocks[block] = make(block, 0, BLOCK);
	expect(tdi_map_insert(&map, &blocks[block]->item) == 0);
}

/* One item into two, of which the larger is split next: mostly far from its middle, so
 * that it lasts for long. */
static void split(size_t block, uint64_t *state)
{
	struct object *whole = blocks[block], *left, *right;
	uintptr_t start = whole->item.start - block * BLOCK;
	uintptr_t end = whole->item.end - block * BLOCK, at;

	if (end - start < 2)
		return;
	at = start + 1 +
	     random_below(state, random_below(state, 64) ? 1 + (end - start) / 64
							 : end - start - 1);
	left = make(block, start, at);
	right = make(block, at, end);
	expect(tdi_map_split(&map, &whole->item, &left->item, &right->item) == 0);
	right->next = whole->next;
	left->next = right;
	if (at - start < end - at) {
		left->next = right->next;
		right->next = left;
		left = right;
	}
	blocks[block] = left;
	retire(whole);
	atomic_fetch_add_explicit(&splits, 1, memory_order_relaxed);
}

static void shrink(size_t block)
{
	struct object *old = blocks[block], *trimmed;
	uintptr_t start = old->item.start - block * BLOCK;
	uintptr_t end = old->item.end - block * BLOCK;

	if (end - start <= BLOCK / 2)
		return;
	trimmed = end == BLOCK || start == BLOCK / 4 ? make(block, start, end - 1)
						     : make(block, start + 1, end);
	tdi_map_replace(&map, &old->item, &trimmed->item);
	blocks[block] = trimmed;
	retire(old);
}

/* Into the next block as well, if that is one of these and empty. */
static void come_or_go(size_t block, uint64_t *state)
{
	struct object *object = blocks[block];
	uintptr_t from = random_below(state, BLOCK / 2);
	uintptr_t to = BLOCK / 2 + 1 + random_below(state, BLOCK / 2);

	if (object) {
		tdi_map_remove(&map, &object->item);
		blocks[block] = NULL;
		retire(object);
		return;
	}
	if (random_below(state, 4) == 0)
		to += BLOCK * random_below(state, 8);
	object = make(block, from, to);
	if (tdi_map_insert(&map, &object->item) == 0)
		blocks[block] = object;
	else
		free(object);
}

static void *write_all(void *arg)
{
	uint64_t state = 0x2545f4914f6cdd1d;
	size_t at = 0;

	(void)arg;
	urcu_memb_register_thread();
	for (int i = 0; i < CHANGES; i++) {
		/* stretches in order, so that leaves become empty and full again */
		size_t block = at++ % BLOCKS;

		if (random_below(&state, 200) == 0)
			at = random_below(&state, BLOCKS);
		switch (kind_of(block)) {
		case STAYS:
			break;
		case HALVES:
			split(block, &state);
			break;
		case SHRINKS:
			shrink(block);
			break;
		case COMES:
			come_or_go(block, &state);
			break;
		}
	}
	atomic_store(&writer_done, true);
	urcu_memb_unregister_thread();
	return NULL;
}

/* ---- readers: without Check while they are in a critical section ---- */

struct reader {
	pthread_t thread;
	uint64_t state;
	size_t found, missed, walked;
	const char *wrong;
};

static const struct object *object_of(const struct tdi_map_item *item)
{
	return item ? tdi_container_of(item, struct object, item) : NULL;
}

static void find_one(struct reader *reader, uintptr_t addr)
{
	size_t block = addr / BLOCK;
	const struct object *object = object_of(tdi_map_find(&map, addr));
	enum kind kind = kind_of(block);
	bool always = kind == STAYS || kind == HALVES ||
		      (kind == SHRINKS && addr % BLOCK >= BLOCK / 4 &&
		       addr % BLOCK < BLOCK / 4 * 3);

	if (!object) {
		if (always)
			reader->wrong = "an address that is always mapped was not found";
		reader->missed++;
		return;
	}
	reader->found++;
	if (object->state != ALIVE)
		reader->wrong = "found a dead item";
	if (object->item.start > addr || object->item.end <= addr)
		reader->wrong = "found an item that does not cover the address";
	if (kind != COMES && object->block != block)
		reader->wrong = "found an item of another block";
}

/* In order, and all that stays; halves that follow each other leave no gap. */
static void walk_some(struct reader *reader, uintptr_t addr)
{
	uintptr_t at = addr;
	size_t next = addr / BLOCK + 1;

	for (int i = 0; i < 40; i++) {
		const struct object *object = object_of(tdi_map_at_or_after(&map, at));
		uintptr_t start = object ? object->item.start : (uintptr_t)BLOCKS * BLOCK;

		if (object && object->item.end <= at)
			reader->wrong = "a walk went back";
		if (object && object->state != ALIVE)
			reader->wrong = "a walk met a dead item";
		for (; next * BLOCK < start; next++) {
			enum kind kind = kind_of(next);
			uintptr_t inside = next * BLOCK + BLOCK / 2;

			if (kind != COMES && inside < start && inside >= at)
				reader->wrong = "a walk missed what stays";
		}
		if (at % BLOCK && kind_of(at / BLOCK) == HALVES && start > at)
			reader->wrong = "a walk met a gap between halves";
		if (!object)
			return;
		reader->walked++;
		at = object->item.end;
		next = at / BLOCK + (at % BLOCK != 0);
	}
}

static void *read_some(void *arg)
{
	struct reader *reader = arg;

	urcu_memb_register_thread();
	for (size_t i = 0; (i < LOOKUPS || !atomic_load(&writer_done)) && !reader->wrong;
	     i++) {
		uintptr_t addr = random_below(&reader->state, (size_t)BLOCKS * BLOCK);

		urcu_memb_read_lock();
		if (i % 64 == 0)
			walk_some(reader, addr);
		else
			find_one(reader, addr);
		tdi_tsan_release(tdi_map_readers(&map));
		urcu_memb_read_unlock();
	}
	urcu_memb_unregister_thread();
	return NULL;
}

static void free_all(void)
{
	for (size_t i = 0; i < BLOCKS; i++) {
		while (blocks[i]) {
			struct object *object = blocks[i];

			blocks[i] = object->next;
			tdi_map_remove(&map, &object->item);
			retire(object);
		}
	}
}

START_TEST(readers_see_ranges_whole_or_not_at_all)
{
	struct reader readers[READERS] = {{.state = 1}, {.state = 0x9e3779b97f4a7c15}};
	pthread_t writer;

	urcu_memb_register_thread();
	ck_assert_int_eq(td_engine_create(TD_ENGINE_OPTS(.reapers = 1), &engine), 0);
	tdi_map_init(&map, engine);
	for (size_t i = 0; i < BLOCKS; i++) {
		if (kind_of(i) != COMES)
			insert_whole(i);
	}
	for (int i = 0; i < READERS; i++)
		pthread_create(&readers[i].thread, NULL, read_some, &readers[i]);
	pthread_create(&writer, NULL, write_all, NULL);
	pthread_join(writer, NULL);
	for (int i = 0; i < READERS; i++)
		pthread_join(readers[i].thread, NULL);

	check_shape(&map);
	for (int i = 0; i < READERS; i++) {
		ck_assert_msg(!readers[i].wrong, "reader %d: %s", i, readers[i].wrong);
		ck_assert_uint_gt(readers[i].found, 0);
		ck_assert_uint_gt(readers[i].missed, 0);
		ck_assert_uint_gt(readers[i].walked, 0);
		printf("# reader %d: found %zu missed %zu walked %zu\n", i,
		       readers[i].found, readers[i].missed, readers[i].walked);
	}
	ck_assert_uint_gt(atomic_load(&splits), 1000);
	free_all();
	ck_assert_int_eq(td_engine_drain(engine, TD_FOREVER), 0);
	printf("# %u items freed, %u splits\n", atomic_load(&freed),
	       atomic_load(&splits));
	ck_assert_uint_eq(map.nodes, 0);
	tdi_map_destroy(&map);
	ck_assert_int_eq(td_engine_destroy(engine, TD_EXIT_DRAIN, 0), 0);
	urcu_memb_unregister_thread();
}
END_TEST

int main(void)
{
	struct tdt *tests = tdt_suite("stress_map");

	tdt_add(tests, readers_see_ranges_whole_or_not_at_all, NULL, NULL);
	return tdt_run(tests);
}
