/* SPDX-License-Identifier: MIT */
/* D7: a map of address ranges, against a sorted array. */
#include "map_check.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct tdi_map map;

static void setup(void)
{
	tdi_map_init(&map, NULL);
}

/* The items may be gone by now. */
static void teardown(void)
{
	tdi_map_destroy(&map);
	ck_assert_uint_eq(map.nodes, 0);
}

static uint64_t random_state = 0x9e3779b97f4a7c15;

static size_t random_below(size_t n)
{
	random_state ^= random_state << 13;
	random_state ^= random_state >> 7;
	random_state ^= random_state << 17;
	return (size_t)(random_state >> 11) % n;
}

/* ---- random changes against a sorted array ---- */

enum {
	MODEL_MAX = 6000,
	STEPS = TDT_SANITIZED ? 150000 : 1500000,
};

static struct {
	struct tdi_map_item *items[MODEL_MAX + 1];
	size_t n;
} model;

/* The first that ends after addr: its place. */
static size_t model_at_or_after(uintptr_t addr)
{
	size_t low = 0, high = model.n;

	while (low < high) {
		size_t middle = (low + high) / 2;

		if (model.items[middle]->end > addr)
			high = middle;
		else
			low = middle + 1;
	}
	return low;
}

static void model_insert(size_t at, struct tdi_map_item *item)
{
	memmove(&model.items[at + 1], &model.items[at],
		(model.n - at) * sizeof(*model.items));
	model.items[at] = item;
	model.n++;
}

static void model_remove(size_t at)
{
	model.n--;
	memmove(&model.items[at], &model.items[at + 1],
		(model.n - at) * sizeof(*model.items));
}

static struct tdi_map_item *new_item(uintptr_t start, uintptr_t end)
{
	struct tdi_map_item *item = malloc(sizeof(*item));

	expect(item != NULL);
	*item = (struct tdi_map_item){start, end};
	return item;
}

static void try_insert(uintptr_t start, uintptr_t end)
{
	size_t at = model_at_or_after(start);
	bool fits = at == model.n || model.items[at]->start >= end;
	struct tdi_map_item *item = new_item(start, end);

	expect(tdi_map_insert(&map, item) == (fits ? 0 : -EEXIST));
	if (fits)
		model_insert(at, item);
	else
		free(item);
}

static void remove_one(size_t at)
{
	struct tdi_map_item *item = model.items[at];

	tdi_map_remove(&map, item);
	expect(!tdi_map_find(&map, item->start));
	expect(!tdi_map_find(&map, item->end - 1));
	model_remove(at);
	free(item);
}

/* Two different places in the item's range, in order. */
static bool two_places(const struct tdi_map_item *item, uintptr_t *low, uintptr_t *high)
{
	size_t length = item->end - item->start;

	*low = item->start + random_below(length + 1);
	*high = item->start + random_below(length + 1);
	if (*low > *high) {
		uintptr_t swap = *low;

		*low = *high;
		*high = swap;
	}
	return *low < *high;
}

static void trim_one(size_t at)
{
	struct tdi_map_item *old = model.items[at], *trimmed;
	uintptr_t low, high;

	if (!two_places(old, &low, &high))
		return;
	trimmed = new_item(low, high);
	tdi_map_replace(&map, old, trimmed);
	model.items[at] = trimmed;
	free(old);
}

static void split_one(size_t at)
{
	struct tdi_map_item *old = model.items[at], *left, *right;
	uintptr_t low, high;

	if (!two_places(old, &low, &high) || low == old->start || high == old->end)
		return;
	left = new_item(old->start, low);
	right = new_item(high, old->end);
	expect(tdi_map_split(&map, old, left, right) == 0);
	model.items[at] = left;
	model_insert(at + 1, right);
	free(old);
}

static void look_up(uintptr_t addr)
{
	size_t at = model_at_or_after(addr);
	struct tdi_map_item *expected = at < model.n ? model.items[at] : NULL;

	expect(tdi_map_at_or_after(&map, addr) == expected);
	if (expected && expected->start > addr)
		expected = NULL;
	expect(tdi_map_find(&map, addr) == expected);
}

static void compare_all(void)
{
	uintptr_t at = 0;

	check_shape(&map);
	ck_assert_uint_eq(map.items, model.n);
	for (size_t i = 0; i < model.n; i++) {
		struct tdi_map_item *item = model.items[i];

		expect(tdi_map_at_or_after(&map, at) == item);
		expect(tdi_map_find(&map, item->start) == item);
		expect(tdi_map_find(&map, item->end - 1) == item);
		at = item->end;
	}
	expect(!tdi_map_at_or_after(&map, at));
}

/* Sizes from a byte to a part of the space, so that items span what is left of others. */
static void one_step(uintptr_t space, size_t longest, unsigned inserts)
{
	size_t at = model.n ? random_below(model.n) : 0;
	unsigned what = (unsigned)random_below(100);

	if (what < inserts && model.n + 2 < MODEL_MAX) {
		uintptr_t start = random_below(space);
		size_t length = 1 + random_below(random_below(16) ? longest : space / 20);

		try_insert(start, start + length);
	} else if (what < 80 && model.n > 0) {
		remove_one(at);
	} else if (what < 85 && model.n > 0) {
		trim_one(at);
	} else if (what < 90 && model.n > 0 && model.n + 2 < MODEL_MAX) {
		split_one(at);
	} else if (what == 90 && random_below(100) == 0) { /* a stretch of them */
		for (size_t n = random_below(300); n > 0 && at < model.n; n--)
			remove_one(at);
	}
	look_up(random_below(space + space / 8));
}

START_TEST(random_changes_agree_with_a_sorted_array)
{
	size_t most = 0;

	printf("# seed %#llx\n", (unsigned long long)random_state);
	for (int step = 0; step < STEPS; step++) {
		/* grows and shrinks in turn, crowded and sparse */
		unsigned inserts = step / 20000 % 2 ? 20 : 60;
		uintptr_t space = step / 60000 % 2 ? 5000 : 5000000;

		one_step(space, step / 40000 % 2 ? 8 : 300, inserts);
		if (most < model.n)
			most = model.n;
		if (step % 1000 == 0)
			compare_all();
	}
	printf("# %d steps, at most %zu items\n", STEPS, most);
	ck_assert_uint_gt(most, 2000);
	while (model.n > 0)
		remove_one(random_below(model.n));
	ck_assert_uint_eq(map.nodes, 0);
}
END_TEST

int main(void)
{
	struct tdt *tests = tdt_suite("map_random");

	tdt_add(tests, random_changes_agree_with_a_sorted_array, setup, teardown);
	return tdt_run(tests);
}
