/* SPDX-License-Identifier: MIT */
/*
 * D7: each change of a map is one step for readers. The writer is stopped after each of
 * its instructions, and a reader looks at the map as it is then: it has to look as before
 * the change, up to some instruction, and as after the change from there on.
 */
#include "map_check.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

#if TDT_SANITIZED || !defined(__x86_64__)

START_TEST(each_change_is_one_step)
{
	tdt_skip("needs a processor and signals that stop after each instruction");
}
END_TEST

static void add_tests(struct tdt *tests)
{
	tdt_add(tests, each_change_is_one_step, NULL, NULL);
}

#else

enum { ITEMS = 600, CHANGES = 300, PROBES = 16, SPACE = 8000, TRAP_FLAG = 0x100 };

static struct tdi_map map;
static struct tdi_map_item items[ITEMS];
static bool used[ITEMS];
static unsigned seed = 1;

struct view {
	struct tdi_map_item *found[PROBES], *next[PROBES];
};

static uintptr_t probes[PROBES];
static struct view view;
static unsigned long steps, changes;
static volatile sig_atomic_t tracing;

static size_t random_below(size_t n)
{
	return (size_t)rand_r(&seed) % n;
}

static struct view look(void)
{
	struct view now;

	for (int i = 0; i < PROBES; i++) {
		now.found[i] = tdi_map_find(&map, probes[i]);
		now.next[i] = tdi_map_at_or_after(&map, probes[i]);
	}
	return now;
}

static void on_step(int signal, siginfo_t *info, void *context)
{
	ucontext_t *at = context;
	struct view now = look();

	(void)signal;
	(void)info;
	steps++;
	if (memcmp(&now, &view, sizeof(now)) != 0) {
		changes++;
		view = now;
	}
	if (!tracing)
		at->uc_mcontext.gregs[REG_EFL] &= ~TRAP_FLAG;
}

static void start_steps(void)
{
	view = look();
	changes = 0;
	tracing = 1;
	/* beyond what a function may keep below its stack pointer */
	__asm__ volatile("lea -128(%%rsp), %%rsp\n\t"
			 "pushfq\n\t"
			 "orq %0, (%%rsp)\n\t"
			 "popfq\n\t"
			 "lea 128(%%rsp), %%rsp"
			 :
			 : "i"(TRAP_FLAG)
			 : "memory", "cc");
}

/* How often the map has looked different since. */
static unsigned long stop_steps(void)
{
	tracing = 0;
	__asm__ volatile("" : : : "memory");
	return changes;
}

static struct tdi_map_item *unused(void)
{
	size_t i;

	do
		i = random_below(ITEMS);
	while (used[i]);
	used[i] = true;
	return &items[i];
}

static void drop(struct tdi_map_item *item)
{
	used[item - items] = false;
}

/* Looks at both ends of a range and around, and here and there. */
static void aim_at(uintptr_t start, uintptr_t end)
{
	const uintptr_t near[] = {start, end, start - 1, end - 1, (start + end) / 2};

	for (size_t i = 0; i < PROBES; i++) {
		if (i < 5)
			probes[i] = near[i];
		else if (i < 11)
			probes[i] = start + random_below(end - start);
		else
			probes[i] = random_below(SPACE);
	}
}

static void insert_one(bool watched)
{
	struct tdi_map_item *item = unused();
	size_t length = 1 + random_below(random_below(16) ? 12 : SPACE / 8);
	unsigned long seen;
	int err;

	item->start = 1 + random_below(SPACE);
	item->end = item->start + length;
	aim_at(item->start, item->end);
	if (watched)
		start_steps();
	err = tdi_map_insert(&map, item);
	seen = stop_steps();
	expect(!watched || seen == (err == 0));
	expect(err == 0 || err == -EEXIST);
	if (err)
		drop(item);
}

static void remove_one(struct tdi_map_item *item, bool watched)
{
	unsigned long seen;

	aim_at(item->start, item->end);
	if (watched)
		start_steps();
	tdi_map_remove(&map, item);
	seen = stop_steps();
	expect(!watched || seen == 1);
	drop(item);
}

static void trim_one(struct tdi_map_item *item)
{
	struct tdi_map_item *trimmed = unused();
	size_t length = item->end - item->start;
	unsigned long seen;

	trimmed->start = item->start + random_below(length);
	trimmed->end = trimmed->start + 1 + random_below(item->end - trimmed->start);
	aim_at(item->start, item->end);
	start_steps();
	tdi_map_replace(&map, item, trimmed);
	seen = stop_steps();
	expect(seen == 1);
	drop(item);
}

static void split_one(struct tdi_map_item *item)
{
	struct tdi_map_item *left, *right;
	size_t length = item->end - item->start;
	unsigned long seen;
	int err;

	if (length < 2)
		return;
	left = unused();
	right = unused();
	*left = (struct tdi_map_item){item->start,
				      item->start + 1 + random_below(length - 1)};
	*right = (struct tdi_map_item){left->end, item->end};
	aim_at(item->start, item->end);
	start_steps();
	err = tdi_map_split(&map, item, left, right);
	seen = stop_steps();
	expect(err == 0);
	expect(seen == 1);
	drop(item);
}

static void setup(void)
{
	struct sigaction action = {.sa_sigaction = on_step, .sa_flags = SA_SIGINFO};

	ck_assert_int_eq(sigaction(SIGTRAP, &action, NULL), 0);
	tdi_map_init(&map, NULL);
}

static void teardown(void)
{
	tdi_map_destroy(&map);
	printf("# %lu instructions\n", steps);
	ck_assert_uint_gt(steps, CHANGES);
}

START_TEST(each_change_is_one_step)
{
	for (int i = 0; i < CHANGES; i++) {
		struct tdi_map_item *item =
			tdi_map_at_or_after(&map, random_below(SPACE));

		for (int n = 0; i % 50 == 0 && n < ITEMS / 2 && map.items < ITEMS / 2;
		     n++)
			insert_one(false);
		switch (item && map.items < ITEMS - 10 ? random_below(8) : 7) {
		case 0:
			trim_one(item);
			break;
		case 1:
			split_one(item);
			break;
		case 2: /* a stretch, so that leaves go */
			for (size_t n = random_below(40); item && n > 0; n--) {
				uintptr_t end = item->end;

				remove_one(item, n < 3);
				item = tdi_map_at_or_after(&map, end);
			}
			break;
		case 3:
			remove_one(item, true);
			break;
		default:
			insert_one(true);
			break;
		}
		check_shape(&map);
	}
}
END_TEST

/* Leaves and the nodes above them go with their last item; nobody waits for that. */
START_TEST(nor_is_the_end_of_a_leaf_more_than_one_step)
{
	enum { N = 200 };

	for (uintptr_t i = 0; i < N; i++) {
		struct tdi_map_item *item = unused();

		*item = (struct tdi_map_item){i * 40 + 1, i * 40 + 30};
		expect(tdi_map_insert(&map, item) == 0);
	}
	for (uintptr_t i = 0; i < N; i++)
		remove_one(tdi_map_find(&map, i * 73 % N * 40 + 10), i > N / 2);
	ck_assert_uint_eq(map.nodes, 0);
}
END_TEST

static void add_tests(struct tdt *tests)
{
	tdt_add(tests, each_change_is_one_step, setup, teardown);
	tdt_add(tests, nor_is_the_end_of_a_leaf_more_than_one_step, setup, teardown);
}

#endif

int main(void)
{
	struct tdt *tests = tdt_suite("map_steps");

	add_tests(tests);
	return tdt_run(tests);
}
