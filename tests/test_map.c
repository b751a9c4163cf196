/* SPDX-License-Identifier: MIT */
/* D7: a map of address ranges, by itself. Readers beside a writer: stress_map.c. */
#include "map_check.h"

#include <stdlib.h>

enum { PAGE = 4096, MANY = 65000 };

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

/* n items of a page each, the first at address 0 */
static struct tdi_map_item *pages(size_t n)
{
	struct tdi_map_item *items = calloc(n, sizeof(*items));

	ck_assert_ptr_nonnull(items);
	for (size_t i = 0; i < n; i++)
		items[i] = (struct tdi_map_item){i * PAGE, (i + 1) * PAGE};
	return items;
}

static void insert_all(struct tdi_map_item *items, size_t n)
{
	for (size_t i = 0; i < n; i++)
		expect(tdi_map_insert(&map, &items[i]) == 0);
}

/* The map holds exactly these, in this order. */
static void expect_items(struct tdi_map_item *const *items, size_t n)
{
	uintptr_t at = 0;

	for (size_t i = 0; i < n; i++) {
		uintptr_t start = items[i]->start;

		expect(tdi_map_at_or_after(&map, at) == items[i]);
		expect(start == at || !tdi_map_find(&map, start - 1));
		expect(tdi_map_at_or_after(&map, start) == items[i]);
		expect(tdi_map_find(&map, start) == items[i]);
		at = items[i]->end;
		expect(tdi_map_find(&map, at - 1) == items[i]);
	}
	expect(!tdi_map_at_or_after(&map, at));
	expect(check_shape(&map).items == n);
}

START_TEST(an_empty_map_has_nothing)
{
	expect_items(NULL, 0);
	ck_assert_ptr_null(tdi_map_find(&map, 0));
	ck_assert_ptr_null(tdi_map_find(&map, UINTPTR_MAX));
	ck_assert_ptr_null(tdi_map_at_or_after(&map, UINTPTR_MAX));
}
END_TEST

START_TEST(overlap_is_refused_however_it_lies)
{
	struct tdi_map_item low = {100, 200}, high = {300, 400};
	struct tdi_map_item *both[] = {&low, &high};
	struct tdi_map_item overlapping[] = {
		{100, 200}, {50, 101},	{199, 250}, {120, 130},
		{50, 250},  {100, 101}, {199, 200}, {50, 1000},
		{250, 301}, {399, 500}, {150, 350}, {0, UINTPTR_MAX},
	};
	struct tdi_map_item empty[] = {{250, 250}, {150, 150}, {260, 250}};

	insert_all(&high, 1);
	insert_all(&low, 1);
	for (size_t i = 0; i < sizeof(overlapping) / sizeof(*overlapping); i++) {
		ck_assert_int_eq(tdi_map_insert(&map, &overlapping[i]), -EEXIST);
		expect_items(both, 2);
	}
	for (size_t i = 0; i < sizeof(empty) / sizeof(*empty); i++)
		ck_assert_int_eq(tdi_map_insert(&map, &empty[i]), -EINVAL);
	expect_items(both, 2);
}
END_TEST

START_TEST(neighbours_may_touch)
{
	struct tdi_map_item middle = {200, 300}, before = {100, 200}, after = {300, 301};
	struct tdi_map_item *all[] = {&before, &middle, &after};

	insert_all(&middle, 1);
	insert_all(&before, 1);
	insert_all(&after, 1);
	expect_items(all, 3);
	ck_assert_ptr_null(tdi_map_find(&map, 99));
	ck_assert_ptr_null(tdi_map_find(&map, 301));
}
END_TEST

START_TEST(the_first_and_the_last_address_are_like_others)
{
	struct tdi_map_item first = {0, 1}, last = {UINTPTR_MAX - 1, UINTPTR_MAX};
	struct tdi_map_item all = {0, UINTPTR_MAX}, *ends[] = {&first, &last},
			    *one[] = {&all};

	insert_all(&last, 1);
	insert_all(&first, 1);
	expect_items(ends, 2);
	ck_assert_ptr_null(tdi_map_find(&map, UINTPTR_MAX));
	ck_assert_int_eq(tdi_map_insert(&map, &all), -EEXIST);
	tdi_map_remove(&map, &first);
	tdi_map_remove(&map, &last);
	insert_all(&all, 1);
	expect_items(one, 1);
	ck_assert_ptr_eq(tdi_map_find(&map, PAGE), &all);
}
END_TEST

START_TEST(a_trimmed_item_leaves_room_for_others)
{
	struct tdi_map_item old = {1000, 2000}, head = {1100, 2000}, tail = {1100, 1500};
	struct tdi_map_item before = {900, 1100}, after = {1500, 2500};
	struct tdi_map_item *trimmed[] = {&tail}, *all[] = {&before, &tail, &after};

	insert_all(&old, 1);
	tdi_map_replace(&map, &old, &head);
	ck_assert_ptr_null(tdi_map_find(&map, 1099));
	tdi_map_replace(&map, &head, &tail);
	expect_items(trimmed, 1);
	insert_all(&before, 1);
	insert_all(&after, 1);
	expect_items(all, 3);
}
END_TEST

START_TEST(a_split_item_becomes_two)
{
	struct tdi_map_item *items = pages(100), halves[200], *all[200];

	insert_all(items, 100);
	for (size_t i = 0; i < 100; i++) {
		uintptr_t start = items[i].start;

		halves[2 * i] = (struct tdi_map_item){start, start + 100};
		halves[2 * i + 1] =
			(struct tdi_map_item){start + 100 + i % 2, start + 500};
		expect(tdi_map_split(&map, &items[i], &halves[2 * i],
				     &halves[2 * i + 1]) == 0);
	}
	for (size_t i = 0; i < 200; i++)
		all[i] = &halves[i];
	expect_items(all, 200);
	free(items);
}
END_TEST

START_TEST(parts_that_do_not_lie_so_are_refused)
{
	struct tdi_map_item old = {100, 200}, *one[] = {&old};
	struct tdi_map_item left[] = {
		{99, 150}, {100, 150}, {100, 150}, {150, 200}, {100, 100}};
	struct tdi_map_item right[] = {
		{150, 200}, {149, 200}, {150, 201}, {100, 150}, {100, 200}};

	insert_all(&old, 1);
	for (size_t i = 0; i < 5; i++)
		ck_assert_int_eq(tdi_map_split(&map, &old, &left[i], &right[i]), -EINVAL);
	expect_items(one, 1);
}
END_TEST

static struct tdi_map_item strange = {0x1000, 0x2000}, held = {0x3000, 0x4000};

static void remove_strange(void *arg)
{
	(void)arg;
	tdi_map_remove(&map, &strange);
}

static void trim_to_strange(void *arg)
{
	(void)arg;
	tdi_map_replace(&map, &held, &strange);
}

static void split_strange(void *arg)
{
	struct tdi_map_item left = {0x1000, 0x1800}, right = {0x1800, 0x2000};

	(void)arg;
	tdi_map_split(&map, &strange, &left, &right);
}

START_TEST(what_is_not_in_the_map_aborts)
{
	tdt_expect_death(remove_strange, NULL, "item 0x1000-0x2000 is not in it");
	insert_all(&held, 1);
	tdt_expect_death(remove_strange, NULL, "item 0x1000-0x2000 is not in it");
	tdt_expect_death(split_strange, NULL, "item 0x1000-0x2000 is not in it");
	tdt_expect_death(trim_to_strange, NULL,
			 "item 0x3000-0x4000 cannot be trimmed to 0x1000-0x2000");
}
END_TEST

/* Emptied leaves and unused slots, at whatever places, are no border to a new item. */
START_TEST(an_item_may_lie_where_many_have_been)
{
	enum { N = 3000 };
	struct tdi_map_item *items = pages(N);

	insert_all(items, N);
	for (size_t from = 0; from < N; from += 61) {
		for (size_t n = 1; from + n <= N; n = n * 2 + 1) {
			struct tdi_map_item over = {items[from].start + n % 3,
						    items[from + n - 1].end - n % 5};

			for (size_t i = 0; i < n; i++)
				tdi_map_remove(&map, &items[from + i]);
			expect(tdi_map_insert(&map, &over) == 0);
			for (size_t i = 0; i < n; i++) {
				uintptr_t addr = items[from + i].start + PAGE / 2;

				expect(tdi_map_find(&map, addr) == &over);
				expect(tdi_map_at_or_after(&map, addr) == &over);
				expect(tdi_map_insert(&map, &items[from + i]) == -EEXIST);
			}
			expect(from == 0 || tdi_map_find(&map, items[from].start - 1) ==
						    &items[from - 1]);
			expect(from + n == N ||
			       tdi_map_at_or_after(&map, over.end) == &items[from + n]);
			tdi_map_remove(&map, &over);
			for (size_t i = 0; i < n; i++) {
				size_t at = from + (n % 2 ? i : n - 1 - i);

				expect(tdi_map_insert(&map, &items[at]) == 0);
			}
			check_shape(&map);
		}
	}
	free(items);
}
END_TEST

/* There and back in orders that have nothing to do with the addresses. */
START_TEST(sixty_five_thousand_items_come_and_go)
{
	struct tdi_map_item *items = pages(MANY);

	for (size_t round = 0; round < 2; round++) {
		for (size_t i = 0; i < MANY; i++)
			expect(tdi_map_insert(&map, &items[i * 7919 % MANY]) == 0);
		ck_assert_uint_lt(check_shape(&map).nodes, MANY / 10);
		for (size_t i = 0; i < MANY; i++)
			expect(tdi_map_find(&map, items[i].end - 1) == &items[i]);
		for (size_t i = 0; i < MANY; i++)
			tdi_map_remove(&map, &items[i * 104729 % MANY]);
		expect_items(NULL, 0);
		ck_assert_uint_eq(map.nodes, 0);
	}
	free(items);
}
END_TEST

/* Addresses that move on for ever, up or down, with some that stay behind for a while. */
START_TEST(a_moving_window_needs_no_more_memory)
{
	enum { WINDOW = 2000, MOVES = TDT_SANITIZED ? 100000 : 1000000 };
	struct tdi_map_item *ring = calloc(WINDOW, sizeof(*ring));
	uintptr_t middle = UINTPTR_MAX / 2;

	ck_assert_ptr_nonnull(ring);
	for (int up = 0; up < 2; up++) {
		for (size_t i = 0; i < MOVES; i++) {
			/* every 40th stays ten times as long */
			size_t at = i % 40 ? i % (WINDOW / 10) : i / 40 % (WINDOW / 20);
			struct tdi_map_item *item = &ring[i % 40 ? at : WINDOW / 2 + at];
			uintptr_t start = up ? middle + i * PAGE : middle - i * PAGE;

			if (item->end)
				tdi_map_remove(&map, item);
			*item = (struct tdi_map_item){start, start + PAGE};
			expect(tdi_map_insert(&map, item) == 0);
			expect(map.nodes <= WINDOW / 4);
			if (i % 50000 == 0)
				check_shape(&map);
		}
		for (size_t i = 0; i < WINDOW; i++) {
			if (ring[i].end)
				tdi_map_remove(&map, &ring[i]);
			ring[i].end = 0;
		}
		ck_assert_uint_eq(map.nodes, 0);
	}
	free(ring);
}
END_TEST

/* Who leaves one item of each full tree and goes on beside it makes the tree deeper. */
START_TEST(a_tree_never_becomes_too_deep)
{
	enum { N = 100000 };
	struct tdi_map_item *items = pages(N);
	unsigned depth = 0, rebuilt = 0;
	size_t gone = 0;

	for (size_t i = 0; i < N; i++) {
		expect(tdi_map_insert(&map, &items[i]) == 0);
		rebuilt += map.depth < depth;
		if (map.depth > depth && depth > 0) {
			check_shape(&map);
			for (size_t k = i - 100; i > 200 && k < i; k++, gone++)
				tdi_map_remove(&map, &items[k]);
		}
		depth = map.depth;
	}
	ck_assert_uint_gt(rebuilt, 0);
	ck_assert_uint_eq(map.items, N - gone);
	for (size_t i = 0; i < N; i++) {
		struct tdi_map_item *found = tdi_map_find(&map, items[i].start);

		gone -= found == NULL;
		expect(!found || found == &items[i]);
	}
	ck_assert_uint_eq(gone, 0);
	check_shape(&map);
	free(items);
}
END_TEST

int main(void)
{
	struct tdt *tests = tdt_suite("map");

	tdt_add(tests, an_empty_map_has_nothing, setup, teardown);
	tdt_add(tests, overlap_is_refused_however_it_lies, setup, teardown);
	tdt_add(tests, neighbours_may_touch, setup, teardown);
	tdt_add(tests, the_first_and_the_last_address_are_like_others, setup, teardown);
	tdt_add(tests, a_trimmed_item_leaves_room_for_others, setup, teardown);
	tdt_add(tests, a_split_item_becomes_two, setup, teardown);
	tdt_add(tests, parts_that_do_not_lie_so_are_refused, setup, teardown);
	tdt_add(tests, what_is_not_in_the_map_aborts, setup, teardown);
	tdt_add(tests, an_item_may_lie_where_many_have_been, setup, teardown);
	tdt_add(tests, sixty_five_thousand_items_come_and_go, setup, teardown);
	tdt_add(tests, a_moving_window_needs_no_more_memory, setup, teardown);
	tdt_add(tests, a_tree_never_becomes_too_deep, setup, teardown);
	return tdt_run(tests);
}
