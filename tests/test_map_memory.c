/* SPDX-License-Identifier: MIT */
/* A11, D7: a map without memory: what needs none goes on, what needs some changes
 * nothing. */
#include "map_check.h"

#include <stdlib.h>

#if TDT_SANITIZED

START_TEST(a_map_lives_without_memory)
{
	tdt_skip("the sanitizer owns malloc");
}
END_TEST

static void add_tests(struct tdt *tests)
{
	tdt_add(tests, a_map_lives_without_memory, NULL, NULL);
}

#else

/* glibc's own, under the names that are left when the function is replaced. */
void *__libc_memalign(size_t align, size_t size);
void *__libc_malloc(size_t size);

static unsigned asked, allowed = UINT32_MAX;

static bool refuse(void)
{
	return asked++ >= allowed;
}

void *aligned_alloc(size_t align, size_t size)
{
	return refuse() ? NULL : __libc_memalign(align, size);
}

void *malloc(size_t size)
{
	return refuse() ? NULL : __libc_malloc(size);
}

/* So many allocations, then none. */
static void allow(unsigned n)
{
	asked = 0;
	allowed = n;
}

enum { N = 20000 };

static struct tdi_map map;
static struct tdi_map_item items[N], halves[2 * N];
static size_t refusals;

static void setup(void)
{
	tdi_map_init(&map, NULL);
	for (size_t i = 0; i < N; i++)
		items[i] = (struct tdi_map_item){i * 1000, i * 1000 + 900};
}

static void teardown(void)
{
	tdi_map_destroy(&map);
}

/* Says what it said with one allocation more each time, until it has enough. */
static int with_one_more_each_time(int (*change)(size_t at), size_t at)
{
	size_t n = map.items, nodes = map.nodes;
	int err;

	for (unsigned grant = 0;; grant++) {
		allow(grant);
		err = change(at);
		allow(UINT32_MAX);
		if (err != -ENOMEM)
			return err;
		refusals++;
		expect(map.items == n);
		expect(map.nodes == nodes);
	}
}

static int insert(size_t at)
{
	return tdi_map_insert(&map, &items[at]);
}

static int split(size_t at)
{
	return tdi_map_split(&map, &items[at], &halves[2 * at], &halves[2 * at + 1]);
}

/* True: all are there, up to the first `split_ones` in halves. */
static bool are_there(size_t n, size_t split_ones)
{
	for (size_t i = 0; i < n; i++) {
		uintptr_t addr = items[i].start + 800;
		struct tdi_map_item *item =
			i < split_ones ? &halves[2 * i + 1] : &items[i];

		if (tdi_map_find(&map, addr) != item)
			return false;
		if (i < split_ones && tdi_map_find(&map, addr - 800) != item - 1)
			return false;
	}
	return true;
}

START_TEST(an_insert_without_memory_changes_nothing)
{
	for (size_t i = 0; i < N; i++) {
		size_t before = refusals;

		expect(with_one_more_each_time(insert, i) == 0);
		if (i % 1000 == 0 || refusals > before + 2) {
			check_shape(&map);
			expect(are_there(i + 1, 0));
		}
	}
	ck_assert_uint_gt(refusals, N / 32);
	expect(are_there(N, 0));
}
END_TEST

START_TEST(a_split_without_memory_changes_nothing)
{
	enum { SPLIT = 3000 };

	for (size_t i = 0; i < SPLIT; i++)
		expect(insert(i) == 0);
	for (size_t i = 0; i < SPLIT; i++) {
		size_t before = refusals;

		halves[2 * i] =
			(struct tdi_map_item){items[i].start, items[i].start + 400};
		halves[2 * i + 1] =
			(struct tdi_map_item){halves[2 * i].end, items[i].end};
		expect(with_one_more_each_time(split, i) == 0);
		expect(refusals > before);
		if (i % 100 == 0) {
			check_shape(&map);
			expect(are_there(SPLIT, i + 1));
		}
	}
}
END_TEST

/* The insert that would make the tree too deep builds it anew, or leaves it as it is. */
START_TEST(a_deep_tree_stays_when_there_is_no_memory_for_another)
{
	unsigned depth = 0, refused = 0, rebuilt = 0;
	size_t last = 0;

	for (size_t i = 0; i < N && rebuilt == 0; last = i++) {
		size_t before = refusals, n = map.items;
		size_t shown = check_shape(&map).items;

		expect(shown == n);
		expect(with_one_more_each_time(insert, i) == 0);
		rebuilt += map.depth < depth;
		if (rebuilt)
			refused = (unsigned)(refusals - before);
		if (!rebuilt && map.depth > depth && depth > 0) {
			for (size_t k = i - 100; i > 200 && k < i; k++)
				tdi_map_remove(&map, &items[k]);
		}
		depth = map.depth;
	}
	ck_assert_uint_gt(rebuilt, 0);
	ck_assert_uint_gt(refused, 20);
	ck_assert_ptr_eq(tdi_map_find(&map, items[last].start), &items[last]);
	check_shape(&map);
}
END_TEST

START_TEST(removing_and_trimming_need_no_memory)
{
	for (size_t i = 0; i < N; i++)
		expect(insert(i) == 0);
	allow(0);
	for (size_t i = 0; i < N; i++) {
		size_t at = i * 7919 % N;

		halves[at] =
			(struct tdi_map_item){items[at].start + 1, items[at].end - 1};
		tdi_map_replace(&map, &items[at], &halves[at]);
		if (i % 3 == 0)
			tdi_map_remove(&map, &halves[at]);
	}
	for (size_t i = 0; i < N; i++) {
		struct tdi_map_item *found = tdi_map_find(&map, halves[i].start);

		if (found)
			tdi_map_remove(&map, found);
	}
	allow(UINT32_MAX);
	ck_assert_uint_eq(map.items, 0);
	ck_assert_uint_eq(map.nodes, 0);
}
END_TEST

/* It finds its place unused. */
START_TEST(what_is_put_back_needs_no_memory)
{
	for (size_t i = 0; i < N; i++)
		expect(insert(i) == 0);
	allow(0);
	for (size_t i = 0; i < N; i++) {
		tdi_map_remove(&map, &items[i]);
		expect(insert(i) == 0);
	}
	expect(asked == 0);
	allow(UINT32_MAX);
	expect(are_there(N, 0));
}
END_TEST

static void add_tests(struct tdt *tests)
{
	tdt_add(tests, an_insert_without_memory_changes_nothing, setup, teardown);
	tdt_add(tests, a_split_without_memory_changes_nothing, setup, teardown);
	tdt_add(tests, a_deep_tree_stays_when_there_is_no_memory_for_another, setup,
		teardown);
	tdt_add(tests, removing_and_trimming_need_no_memory, setup, teardown);
	tdt_add(tests, what_is_put_back_needs_no_memory, setup, teardown);
}

#endif

int main(void)
{
	struct tdt *tests = tdt_suite("map_memory");

	add_tests(tests);
	return tdt_run(tests);
}
