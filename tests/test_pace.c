/* SPDX-License-Identifier: MIT */
/* D9: steps follow a time target. */
#include "harness.h"
#include "pace.h"

#define TARGET 500000u

/* A machine that releases a byte in so many picoseconds. */
static void converge(struct tdi_pace *pace, uint64_t ps_per_byte, unsigned steps)
{
	for (unsigned i = 0; i < steps; i++)
		tdi_pace_learn(pace, pace->step, pace->step * ps_per_byte / 1000, TARGET);
}

START_TEST(steps_approach_the_target_from_both_sides)
{
	struct tdi_pace pace;

	tdi_pace_init(&pace, 4 * MIB, 2 * MIB, 64 * MIB);
	converge(&pace, 20, 10); /* 500 us are 25 MB */
	ck_assert_uint_ge(pace.step, 22 * MIB);
	ck_assert_uint_le(pace.step, 25 * MIB);
	converge(&pace, 100, 10); /* 500 us are 5 MB */
	ck_assert_uint_ge(pace.step, 3 * MIB);
	ck_assert_uint_le(pace.step, 5 * MIB);
}
END_TEST

START_TEST(steps_stay_within_their_bounds)
{
	struct tdi_pace pace;

	tdi_pace_init(&pace, 4 * MIB, 2 * MIB, 64 * MIB);
	converge(&pace, 0, 20); /* nothing was there */
	ck_assert_uint_eq(pace.step, 64 * MIB);
	converge(&pace, 1000000, 20);
	ck_assert_uint_eq(pace.step, 2 * MIB);
}
END_TEST

START_TEST(one_odd_measurement_moves_a_step_by_two_at_most)
{
	struct tdi_pace pace;

	tdi_pace_init(&pace, 16 * MIB, 2 * MIB, 64 * MIB);
	tdi_pace_learn(&pace, 16 * MIB, TARGET * 1000, TARGET);
	ck_assert_uint_eq(pace.step, 8 * MIB);
	tdi_pace_learn(&pace, 8 * MIB, 1, TARGET);
	ck_assert_uint_eq(pace.step, 16 * MIB);
}
END_TEST

START_TEST(a_short_last_step_does_not_shrink_the_next)
{
	struct tdi_pace pace;

	tdi_pace_init(&pace, 16 * MIB, 2 * MIB, 64 * MIB);
	tdi_pace_learn(&pace, 4096, 1000, TARGET);
	ck_assert_uint_eq(pace.step, 16 * MIB);
}
END_TEST

START_TEST(a_slow_short_step_is_heeded)
{
	struct tdi_pace pace;

	tdi_pace_init(&pace, 16 * MIB, 2 * MIB, 64 * MIB);
	tdi_pace_learn(&pace, 8 * MIB, TARGET * 4, TARGET);
	ck_assert_uint_eq(pace.step, 4 * MIB);
}
END_TEST

START_TEST(another_target_changes_the_next_step_in_proportion)
{
	struct tdi_pace pace;

	tdi_pace_init(&pace, 8 * MIB, 2 * MIB, 64 * MIB);
	tdi_pace_aim(&pace, TARGET); /* the usual one: no change */
	ck_assert_uint_eq(pace.step, 8 * MIB);
	tdi_pace_aim(&pace, TARGET * 5);
	ck_assert_uint_eq(pace.step, 40 * MIB);
	tdi_pace_aim(&pace, TARGET);
	ck_assert_uint_eq(pace.step, 8 * MIB);
	tdi_pace_aim(&pace, TARGET / 10);
	ck_assert_uint_eq(pace.step, 2 * MIB);
	tdi_pace_aim(&pace, INT64_MAX);
	ck_assert_uint_eq(pace.step, 64 * MIB);
}
END_TEST

START_TEST(what_a_slice_of_before_learns_is_for_its_own_target)
{
	struct tdi_pace pace;

	tdi_pace_init(&pace, 4 * MIB, 2 * MIB, 64 * MIB);
	tdi_pace_aim(&pace, TARGET); /* by another reaper, while a long step ran */
	tdi_pace_learn(&pace, 64 * MIB, TARGET * 8, TARGET * 8);
	tdi_pace_aim(&pace, TARGET);
	ck_assert_uint_eq(pace.step, 8 * MIB);
}
END_TEST

START_TEST(what_was_learnt_of_a_kind_only_lowers_the_first_guess)
{
	struct tdi_pace_hints hints = {0};
	struct tdi_pace first, next;

	tdi_pace_init(&next, 4 * MIB, 2 * MIB, 64 * MIB);
	tdi_pace_take(&next, &hints, 0); /* nothing yet */
	tdi_pace_take(&next, NULL, 0);
	ck_assert_uint_eq(next.step, 4 * MIB);

	tdi_pace_init(&first, 4 * MIB, 2 * MIB, 64 * MIB);
	tdi_pace_aim(&first, TARGET * 2);
	converge(&first, 1000, 20); /* slow: 2 MiB, for twice the time */
	tdi_pace_tell(&first, &hints, 1);
	tdi_pace_take(&next, &hints, 0); /* another kind's */
	ck_assert_uint_eq(next.step, 4 * MIB);
	tdi_pace_take(&next, &hints, 1);
	ck_assert_uint_eq(next.step, 2 * MIB);

	converge(&first, 0, 20); /* and now fast */
	tdi_pace_tell(&first, &hints, 1);
	tdi_pace_init(&next, 4 * MIB, 2 * MIB, 64 * MIB);
	tdi_pace_take(&next, &hints, 1);
	ck_assert_uint_eq(next.step, 4 * MIB);
}
END_TEST

int main(void)
{
	struct tdt *tests = tdt_suite("pace");

	tdt_add(tests, steps_approach_the_target_from_both_sides, NULL, NULL);
	tdt_add(tests, steps_stay_within_their_bounds, NULL, NULL);
	tdt_add(tests, one_odd_measurement_moves_a_step_by_two_at_most, NULL, NULL);
	tdt_add(tests, a_short_last_step_does_not_shrink_the_next, NULL, NULL);
	tdt_add(tests, a_slow_short_step_is_heeded, NULL, NULL);
	tdt_add(tests, another_target_changes_the_next_step_in_proportion, NULL, NULL);
	tdt_add(tests, what_a_slice_of_before_learns_is_for_its_own_target, NULL, NULL);
	tdt_add(tests, what_was_learnt_of_a_kind_only_lowers_the_first_guess, NULL, NULL);
	return tdt_run(tests);
}
