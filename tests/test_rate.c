/* SPDX-License-Identifier: MIT */
/* D9: a limit in bytes a second, by a clock of the test's own. */
#include "harness.h"
#include "rate.h"

#define S UINT64_C(1000000000)

START_TEST(without_a_limit_nobody_waits)
{
	struct tdi_rate rate = {0};

	tdi_rate_pay(&rate, UINT64_MAX, S);
	ck_assert_uint_eq(tdi_rate_due(&rate, S), 0);
	ck_assert(!tdi_rate_is_limited(&rate));
}
END_TEST

START_TEST(what_was_released_is_waited_for)
{
	struct tdi_rate rate = {0};

	tdi_rate_set(&rate, 100 * MIB, 4 * S);
	ck_assert_uint_eq(tdi_rate_due(&rate, 5 * S), 0);
	tdi_rate_pay(&rate, 100 * MIB, 5 * S);
	/* Time that nobody used before was good for 10 ms. */
	ck_assert_uint_eq(tdi_rate_due(&rate, 5 * S), 6 * S - TDI_RATE_BURST_NS);
	ck_assert_uint_eq(tdi_rate_due(&rate, 6 * S), 0);
	tdi_rate_pay(&rate, 0, 5 * S);
	ck_assert_uint_eq(tdi_rate_due(&rate, 6 * S), 0);
}
END_TEST

START_TEST(over_a_long_time_it_comes_to_the_rate)
{
	struct tdi_rate rate = {0};
	uint64_t now = S, bytes = 0, due;

	tdi_rate_set(&rate, 10 * MIB, now);
	for (unsigned i = 0; i < 10000; i++) {
		uint64_t part = (i * 7919) % (3 * MIB);

		due = tdi_rate_due(&rate, now);
		if (due > now)
			now = due;
		tdi_rate_pay(&rate, part, now);
		bytes += part;
	}
	now = tdi_rate_due(&rate, now);
	/* the first burst, and rounding down to nanoseconds */
	ck_assert_uint_ge((now - S + TDI_RATE_BURST_NS + 10000) / 1000 * (10 * MIB),
			  bytes * 1000000);
	ck_assert_uint_le((now - S) / 1000 * (10 * MIB), bytes * 1000000);
}
END_TEST

START_TEST(time_that_nobody_used_is_not_saved_up)
{
	struct tdi_rate rate = {0};

	tdi_rate_set(&rate, MIB, S);
	tdi_rate_pay(&rate, MIB, 1000 * S);
	ck_assert_uint_eq(tdi_rate_due(&rate, 1000 * S), 1001 * S - TDI_RATE_BURST_NS);
}
END_TEST

START_TEST(another_rate_keeps_the_debt_in_bytes)
{
	struct tdi_rate rate = {0};
	uint64_t due;

	tdi_rate_set(&rate, MIB, S);
	tdi_rate_pay(&rate, 4 * MIB, S);
	tdi_rate_set(&rate, MIB, S); /* the same */
	tdi_rate_set(&rate, 4 * MIB, S);
	due = tdi_rate_due(&rate, S);
	ck_assert_uint_ge(due, 2 * S - TDI_RATE_BURST_NS);
	ck_assert_uint_le(due, 2 * S);
	tdi_rate_set(&rate, 0, S);
	ck_assert_uint_eq(tdi_rate_due(&rate, S), 0);
	tdi_rate_set(&rate, MIB, S);
	ck_assert_uint_eq(tdi_rate_due(&rate, S), 0);
}
END_TEST

START_TEST(enormous_debts_do_not_wrap_around)
{
	struct tdi_rate rate = {0};

	tdi_rate_set(&rate, 1, S);
	for (unsigned i = 0; i < 20; i++) {
		tdi_rate_pay(&rate, UINT64_MAX, S);
		ck_assert_uint_gt(tdi_rate_due(&rate, S), UINT64_C(2) << 60);
	}
	tdi_rate_set(&rate, UINT64_MAX, S);
	ck_assert_uint_le(tdi_rate_due(&rate, S), 3 * S);
}
END_TEST

int main(void)
{
	struct tdt *tests = tdt_suite("rate");

	tdt_add(tests, without_a_limit_nobody_waits, NULL, NULL);
	tdt_add(tests, what_was_released_is_waited_for, NULL, NULL);
	tdt_add(tests, over_a_long_time_it_comes_to_the_rate, NULL, NULL);
	tdt_add(tests, time_that_nobody_used_is_not_saved_up, NULL, NULL);
	tdt_add(tests, another_rate_keeps_the_debt_in_bytes, NULL, NULL);
	tdt_add(tests, enormous_debts_do_not_wrap_around, NULL, NULL);
	return tdt_run(tests);
}
