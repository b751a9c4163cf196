/* SPDX-License-Identifier: MIT */
/*
 * A6: what others do while a thread attaches, at each step of it, in every order that
 * there is.
 */
#include "reap_points.h"

#include <errno.h>

/* ---- every step, every deed ---- */

/* Returns what it should, having slept no more than that, and the memory is back. */
static void check_race(enum point point, void (*deed)(void), int err, unsigned at_most)
{
	ck_assert_int_eq(reap_with(point, deed), err);
	ck_assert_uint_le(sleeps, at_most);
	if (!err) /* before it returned */
		ck_assert_int_eq(td_space_wait(space, TD_EVENT_RECLAIMED, 0), 0);
	check_end();
}

START_TEST(the_last_user_leaves_before_it_is_one)
{
	check_race(BEFORE_USER, put, -ENXIO, 0);
}
END_TEST

START_TEST(the_last_user_leaves_before_it_is_attached)
{
	check_race(BEFORE_ATTACH, put, 0, 0);
}
END_TEST

START_TEST(the_last_other_user_leaves_while_it_still_is_one)
{
	check_race(BEFORE_BACK, put, 0, 0);
}
END_TEST

START_TEST(the_last_user_leaves_before_it_looks)
{
	check_race(BEFORE_LOOK, put, 0, 0);
}
END_TEST

START_TEST(the_last_user_leaves_before_it_sleeps)
{
	check_race(BEFORE_SLEEP, put, 0, 1);
}
END_TEST

START_TEST(a_sync_put_comes_before_it_is_a_user)
{
	check_race(BEFORE_USER, put_sync, -ENXIO, 0);
}
END_TEST

/* Then that was not the last put. */
START_TEST(a_sync_put_comes_before_it_is_attached)
{
	check_race(BEFORE_ATTACH, put_sync, 0, 0);
}
END_TEST

START_TEST(a_sync_put_comes_while_it_still_is_a_user)
{
	check_race(BEFORE_BACK, put_sync, 0, 0);
}
END_TEST

START_TEST(a_sync_put_comes_before_it_looks)
{
	check_race(BEFORE_LOOK, put_sync, -ENXIO, 0);
}
END_TEST

START_TEST(a_sync_put_comes_before_it_sleeps)
{
	check_race(BEFORE_SLEEP, put_sync, -ENXIO, 1);
}
END_TEST

START_TEST(a_cancel_comes_before_it_is_attached)
{
	check_race(BEFORE_ATTACH, cancel_none, 0, 0);
}
END_TEST

START_TEST(a_cancel_and_the_last_put_come_while_it_still_is_a_user)
{
	check_race(BEFORE_BACK, cancel_and_put, -ECANCELED, 0);
}
END_TEST

START_TEST(a_cancel_and_the_last_put_come_before_it_looks)
{
	check_race(BEFORE_LOOK, cancel_and_put, -ECANCELED, 0);
}
END_TEST

START_TEST(a_cancel_and_the_last_put_come_before_it_sleeps)
{
	check_race(BEFORE_SLEEP, cancel_and_put, -ECANCELED, 1);
}
END_TEST

START_TEST(the_last_put_and_a_cancel_come_before_it_looks)
{
	check_race(BEFORE_LOOK, put_and_cancel, 0, 0);
}
END_TEST

START_TEST(the_last_put_and_a_cancel_come_before_it_sleeps)
{
	check_race(BEFORE_SLEEP, put_and_cancel, 0, 1);
}
END_TEST

/* A2 */
START_TEST(another_one_tries_while_it_still_is_a_user)
{
	check_race(BEFORE_BACK, try_to_attach_and_put, 0, 0);
}
END_TEST

START_TEST(another_one_tries_before_it_sleeps)
{
	check_race(BEFORE_SLEEP, try_to_attach_and_put, 0, 1);
}
END_TEST

/* Its own put is the last one, and the work is that of another one by now. */
START_TEST(another_one_takes_its_place_while_it_still_is_a_user)
{
	check_race(BEFORE_BACK, cancel_and_succeed_and_put, -ECANCELED, 0);
	ck_assert_int_eq(other_result(&successor), 0);
}
END_TEST

START_TEST(another_one_takes_its_place_before_it_sleeps)
{
	check_race(BEFORE_SLEEP, cancel_and_succeed_and_put, -ECANCELED, 1);
	ck_assert_int_eq(other_result(&successor), 0);
}
END_TEST

/* Nobody may lose the last put of one that comes too late to attach. */
START_TEST(the_last_put_is_by_one_that_cannot_attach)
{
	succeed(1);
	ck_assert_int_eq(reap_with(BEFORE_ATTACH, put), -EEXIST);
	ck_assert_int_eq(other_result(&successor), 0);
	check_end();
}
END_TEST

int main(void)
{
	struct tdt *tests = tdt_suite("reap_race");
	const TTest *all[] = {
		the_last_user_leaves_before_it_is_one,
		the_last_user_leaves_before_it_is_attached,
		the_last_other_user_leaves_while_it_still_is_one,
		the_last_user_leaves_before_it_looks,
		the_last_user_leaves_before_it_sleeps,
		a_sync_put_comes_before_it_is_a_user,
		a_sync_put_comes_before_it_is_attached,
		a_sync_put_comes_while_it_still_is_a_user,
		a_sync_put_comes_before_it_looks,
		a_sync_put_comes_before_it_sleeps,
		a_cancel_comes_before_it_is_attached,
		a_cancel_and_the_last_put_come_while_it_still_is_a_user,
		a_cancel_and_the_last_put_come_before_it_looks,
		a_cancel_and_the_last_put_come_before_it_sleeps,
		the_last_put_and_a_cancel_come_before_it_looks,
		the_last_put_and_a_cancel_come_before_it_sleeps,
		another_one_tries_while_it_still_is_a_user,
		another_one_tries_before_it_sleeps,
		another_one_takes_its_place_while_it_still_is_a_user,
		another_one_takes_its_place_before_it_sleeps,
		the_last_put_is_by_one_that_cannot_attach,
	};

	for (size_t i = 0; i < sizeof(all) / sizeof(*all); i++)
		tdt_add(tests, all[i], setup_race, teardown_space);
	return tdt_run(tests);
}
