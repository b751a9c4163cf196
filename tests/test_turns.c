/* SPDX-License-Identifier: MIT */
/* U1-U5 of turns.h. */
#include "harness.h"
#include "turns.h"

#include <stdlib.h>
#include <string.h>

#define US UINT64_C(1000)

static struct tdi_turns turns;

static void setup(void)
{
	tdi_turns_init(&turns);
}

static struct td_work make(unsigned weight)
{
	return (struct td_work){.weight = weight, .cost = GIB};
}

static void charge(struct td_work *work, uint64_t bytes, uint64_t took_ns)
{
	struct tdi_slice_end end = {.bytes = bytes, .took_ns = took_ns, .home = -1};

	tdi_turns_charge(&turns, work, &end);
}

static struct td_work *take(void)
{
	return tdi_turns_next(&turns, NULL);
}

/* A slice of whoever is next: it releases so many bytes a microsecond. */
struct speed {
	struct td_work *work;
	uint64_t bytes_per_us, released, slices;
};

static void run(struct speed *speeds, unsigned works, unsigned slices)
{
	while (slices-- > 0) {
		struct td_work *work = take();
		unsigned i = 0;

		while (i < works && speeds[i].work != work)
			i++;
		ck_assert_uint_lt(i, works);
		speeds[i].slices++;
		speeds[i].released += speeds[i].bytes_per_us * 500;
		charge(work, speeds[i].bytes_per_us * 500, 500 * US);
		tdi_turns_add(&turns, work);
	}
}

/* The ratio of two numbers in percent. */
static unsigned percent(uint64_t a, uint64_t b)
{
	return (unsigned)(a * 100 / b);
}

START_TEST(works_share_by_bytes_and_not_by_slices)
{
	struct td_work small_pages = make(0), huge_pages = make(0);
	struct speed speeds[] = {{.work = &small_pages, .bytes_per_us = 40000},
				 {.work = &huge_pages, .bytes_per_us = 100000}};

	tdi_turns_add(&turns, &small_pages);
	tdi_turns_add(&turns, &huge_pages);
	run(speeds, 2, 3500);
	ck_assert_uint_ge(percent(speeds[0].released, speeds[1].released), 98);
	ck_assert_uint_le(percent(speeds[0].released, speeds[1].released), 102);
	ck_assert_uint_ge(speeds[0].slices, 2 * speeds[1].slices);
}
END_TEST

START_TEST(weights_set_the_shares)
{
	struct td_work light = make(50), usual = make(0), heavy = make(300);
	struct speed speeds[] = {{.work = &light, .bytes_per_us = 40000},
				 {.work = &usual, .bytes_per_us = 40000},
				 {.work = &heavy, .bytes_per_us = 40000}};

	for (unsigned i = 0; i < 3; i++)
		tdi_turns_add(&turns, speeds[i].work);
	run(speeds, 3, 9000);
	ck_assert_uint_ge(percent(speeds[1].released, speeds[0].released), 195);
	ck_assert_uint_le(percent(speeds[1].released, speeds[0].released), 205);
	ck_assert_uint_ge(percent(speeds[2].released, speeds[1].released), 295);
	ck_assert_uint_le(percent(speeds[2].released, speeds[1].released), 305);
}
END_TEST

/* A13: by bytes alone the device would get all of the time. */
START_TEST(a_slow_work_gets_no_more_than_its_time)
{
	struct td_work memory = make(0), device = make(0);
	struct speed speeds[] = {{.work = &memory, .bytes_per_us = 40000},
				 {.work = &device, .bytes_per_us = 10}};

	tdi_turns_add(&turns, &memory);
	tdi_turns_add(&turns, &device);
	run(speeds, 2, 5000);
	/* a quarter of the usual speed is what it is charged for */
	ck_assert_uint_ge(speeds[0].slices, 5000 / 6);
	ck_assert_uint_ge(speeds[1].slices, 5000 / 6);
}
END_TEST

START_TEST(works_without_bytes_take_turns)
{
	struct td_work a = make(0), b = make(0);
	struct speed speeds[] = {{.work = &a}, {.work = &b}};

	tdi_turns_add(&turns, &a);
	tdi_turns_add(&turns, &b);
	run(speeds, 2, 1000);
	ck_assert_uint_eq(speeds[0].slices, 500);
}
END_TEST

START_TEST(who_comes_back_after_a_while_does_not_catch_up)
{
	struct td_work busy = make(0), away = make(0);
	struct speed speeds[] = {{.work = &busy, .bytes_per_us = 40000},
				 {.work = &away, .bytes_per_us = 40000}};

	tdi_turns_add(&turns, &busy);
	run(speeds, 1, 1000);
	tdi_turns_add(&turns, &away);
	speeds[0].slices = 0;
	run(speeds, 2, 100);
	ck_assert_uint_ge(speeds[0].slices, 49);
	ck_assert_uint_le(speeds[0].slices, 51);
}
END_TEST

/* Design promise 4: small work is never stuck behind large. */
START_TEST(a_small_work_goes_before_any_number_of_large_ones)
{
	static struct td_work large[1000];
	struct td_work small = {.cost = 4096};

	for (unsigned i = 0; i < 1000; i++) {
		large[i] = make(0);
		tdi_turns_add(&turns, &large[i]);
	}
	tdi_turns_add(&turns, &small);
	ck_assert_ptr_eq(take(), &small);
}
END_TEST

START_TEST(many_small_works_leave_every_other_turn)
{
	static struct td_work small[100];
	struct td_work large = make(0);
	unsigned turns_of_large = 0;

	tdi_turns_add(&turns, &large);
	for (unsigned i = 0; i < 100; i++)
		tdi_turns_add(&turns, &small[i]);
	for (unsigned turn = 0; turn < 100; turn++) {
		struct td_work *work = take();

		if (work != &large)
			continue;
		turns_of_large++;
		charge(work, MIB, 500 * US);
		tdi_turns_add(&turns, work);
	}
	ck_assert_uint_eq(turns_of_large, 50);
}
END_TEST

START_TEST(one_that_was_small_and_goes_on_is_as_any_other)
{
	struct td_work large = make(0), small = {.cost = 4096};

	tdi_turns_add(&turns, &large);
	tdi_turns_add(&turns, &small);
	ck_assert_ptr_eq(take(), &small);
	charge(&small, 4096, 500 * US);
	tdi_turns_add(&turns, &small);
	ck_assert_ptr_eq(take(), &large);
}
END_TEST

/* More than are looked at for one turn. */
START_TEST(nobody_starves_among_many)
{
	static struct td_work works[2000];
	static unsigned ran[2000];

	for (unsigned i = 0; i < 2000; i++) {
		works[i] = make(i % 2 ? 0 : 10000);
		tdi_turns_add(&turns, &works[i]);
	}
	for (unsigned turn = 0; turn < 100000; turn++) {
		struct td_work *work = take();

		ran[work - works]++;
		charge(work, MIB, 500 * US);
		tdi_turns_add(&turns, work);
	}
	for (unsigned i = 0; i < 2000; i++)
		ck_assert_uint_ge(ran[i], 1);
}
END_TEST

/* Each of them is done with its first slice, and there is always another one. */
START_TEST(newcomers_without_end_leave_the_others_their_share)
{
	static struct td_work news[1000];
	struct td_work old = make(0);
	unsigned came = 2, turns_of_old = 0;

	for (unsigned i = 0; i < 1000; i++)
		news[i] = make(0);
	tdi_turns_add(&turns, &old);
	ck_assert_ptr_eq(take(), &old);
	charge(&old, 8 * MIB, 500 * US);
	tdi_turns_add(&turns, &old);
	tdi_turns_add(&turns, &news[0]);
	tdi_turns_add(&turns, &news[1]);
	while (came < 1000) {
		struct td_work *work = take();

		charge(work, 8 * MIB, 500 * US);
		turns_of_old += work == &old;
		tdi_turns_add(&turns, work == &old ? &old : &news[came++]);
	}
	/* one of three that wait, and the only one that has had something already */
	ck_assert_uint_ge(turns_of_old, 200);
	ck_assert_uint_le(turns_of_old, 600);
}
END_TEST

/* Address space that was never touched is released as fast as it can be named. */
START_TEST(one_slice_that_released_very_much_is_not_waited_for)
{
	struct td_work sparse = make(0), usual = make(0), slow = make(0);
	unsigned turn = 0;

	tdi_turns_add(&turns, &sparse);
	tdi_turns_add(&turns, &slow);
	tdi_turns_add(&turns, &usual);
	ck_assert_ptr_eq(take(), &sparse);
	charge(&sparse, UINT64_MAX, 500 * US); /* a host may say so */
	tdi_turns_add(&turns, &sparse);
	/* nor is it by one who was charged for his time at that speed */
	ck_assert_ptr_eq(take(), &slow);
	charge(&slow, 0, 500 * US);
	tdi_turns_add(&turns, &slow);
	for (unsigned ran = 0; ran != 3; turn++) {
		struct td_work *work = take();

		ck_assert_uint_lt(turn, 1000); /* half a second */
		ran |= work == &sparse ? 1u : work == &slow ? 2u : 0u;
		charge(work, 8 * MIB, 500 * US);
		tdi_turns_add(&turns, work);
	}
}
END_TEST

/* B5 */
START_TEST(what_gives_memory_back_goes_first_in_need)
{
	struct td_work other = make(0), memory = make(0);

	memory.tdi_gives_memory = true;
	tdi_turns_add(&turns, &other);
	tdi_turns_add(&turns, &memory);
	ck_assert_ptr_eq(take(), &other);
	tdi_turns_add(&turns, &other);
	turns.urgent = true;
	for (unsigned turn = 0; turn < 10; turn++) {
		ck_assert_ptr_eq(take(), &memory);
		charge(&memory, GIB, 500 * US);
		tdi_turns_add(&turns, &memory);
	}
	turns.urgent = false;
	ck_assert_ptr_eq(take(), &other);
}
END_TEST

static bool is_light(const struct td_work *work)
{
	return work->weight == 1;
}

START_TEST(a_filter_leaves_the_others_where_they_are)
{
	struct td_work light = make(1), usual = make(0);

	tdi_turns_add(&turns, &usual);
	ck_assert(!tdi_turns_has(&turns, is_light));
	ck_assert_ptr_null(tdi_turns_next(&turns, is_light));
	tdi_turns_add(&turns, &light);
	ck_assert(tdi_turns_has(&turns, is_light));
	ck_assert_ptr_eq(tdi_turns_next(&turns, is_light), &light);
	ck_assert_ptr_eq(take(), &usual);
	ck_assert(tdi_turns_is_empty(&turns));
}
END_TEST

int main(void)
{
	struct tdt *tests = tdt_suite("turns");
	const TTest *all[] = {
		works_share_by_bytes_and_not_by_slices,
		weights_set_the_shares,
		a_slow_work_gets_no_more_than_its_time,
		works_without_bytes_take_turns,
		who_comes_back_after_a_while_does_not_catch_up,
		a_small_work_goes_before_any_number_of_large_ones,
		many_small_works_leave_every_other_turn,
		one_that_was_small_and_goes_on_is_as_any_other,
		nobody_starves_among_many,
		newcomers_without_end_leave_the_others_their_share,
		one_slice_that_released_very_much_is_not_waited_for,
		what_gives_memory_back_goes_first_in_need,
		a_filter_leaves_the_others_where_they_are,
	};

	for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++)
		tdt_add(tests, all[i], setup, NULL);
	return tdt_run(tests);
}
