/* SPDX-License-Identifier: MIT */
/* A6, A7: what others do as an attached reaper's time runs out; and wakes that come late.
 */
#include "reap_points.h"

#include <errno.h>

/* ---- the time runs out meanwhile ---- */

static int time_out_with(void (*deed)(void))
{
	sleep_result = -ETIMEDOUT;
	return reap_with(BEFORE_SLEEP, deed);
}

START_TEST(its_time_runs_out_as_the_last_user_leaves)
{
	ck_assert_int_eq(time_out_with(put), 0);
	check_end();
}
END_TEST

START_TEST(its_time_runs_out_as_a_sync_put_leaves)
{
	ck_assert_int_eq(time_out_with(put_sync), -ENXIO);
	check_end();
}
END_TEST

START_TEST(its_time_runs_out_as_it_is_canceled)
{
	ck_assert_int_eq(time_out_with(cancel_and_put), -ECANCELED);
	check_end();
}
END_TEST

START_TEST(its_time_runs_out_as_another_one_takes_its_place)
{
	ck_assert_int_eq(time_out_with(cancel_and_succeed_and_put), -ECANCELED);
	ck_assert_int_eq(other_result(&successor), 0);
	check_end();
}
END_TEST

/* A last put that has taken it out and tells it only when it waits for that. */
static struct other putter = {.call = td_space_put, .point = BEFORE_BEGIN};
static sem_t putter_stopped, sleeper_waits;

static void stop_putter(void)
{
	sem_post(&putter_stopped);
	sem_wait(&sleeper_waits);
}

static void let_putter_go(void)
{
	sem_post(&sleeper_waits);
}

static void put_half_way(void)
{
	putter.at = stop_putter;
	other_start(&putter);
	sem_wait(&putter_stopped);
	at_point[BEFORE_SLEEP] = let_putter_go;
}

START_TEST(its_time_runs_out_when_it_is_taken_out_and_not_told)
{
	sem_init(&putter_stopped, 0, 0);
	sem_init(&sleeper_waits, 0, 0);
	ck_assert_int_eq(time_out_with(put_half_way), 0);
	ck_assert_uint_ge(sleeps, 2);
	ck_assert_int_eq(other_result(&putter), 0);
	check_end();
}
END_TEST

/* ---- the wake comes when nobody is left ---- */

static struct attacher early;

static void stop_teller(void)
{
	sem_post(&putter_stopped);
	sem_wait(&sleeper_waits);
}

static struct other teller = {.at = stop_teller, .point = BEFORE_WAKE};

static void be_told(void)
{
	other_start(&teller);
	sem_wait(&putter_stopped);
}

static void tell_before_it_sleeps(void)
{
	at_point[BEFORE_LOOK] = be_told;
}

/* The thread has ended, with its stack, and so has the space where that can be. */
static void wake_late(int (*call)(td_space *of), int err)
{
	sem_init(&putter_stopped, 0, 0);
	sem_init(&sleeper_waits, 0, 0);
	teller.call = call;
	attacher_start(&early, TD_FOREVER, tell_before_it_sleeps);
	ck_assert_int_eq(attacher_result(&early), err);
	if (!err) {
		check_end();
		ck_assert_int_eq(td_space_drop(space), 0); /* the last */
		space = NULL;
	}
	sem_post(&sleeper_waits);
	ck_assert_int_eq(other_result(&teller), 0);
}

START_TEST(a_last_put_wakes_one_that_has_left)
{
	wake_late(td_space_put, 0);
}
END_TEST

START_TEST(a_cancel_wakes_one_that_has_left)
{
	wake_late(td_space_reap_cancel, -ECANCELED);
	ck_assert_int_eq(td_space_put(space), 0);
	check_end();
}
END_TEST

int main(void)
{
	struct tdt *tests = tdt_suite("reap_late");
	const TTest *all[] = {
		its_time_runs_out_as_the_last_user_leaves,
		its_time_runs_out_as_a_sync_put_leaves,
		its_time_runs_out_as_it_is_canceled,
		its_time_runs_out_as_another_one_takes_its_place,
		its_time_runs_out_when_it_is_taken_out_and_not_told,
		a_last_put_wakes_one_that_has_left,
		a_cancel_wakes_one_that_has_left,
	};

	for (size_t i = 0; i < sizeof(all) / sizeof(*all); i++)
		tdt_add(tests, all[i], setup_race, teardown_space);
	return tdt_run(tests);
}
