/* SPDX-License-Identifier: MIT */
/*
 * A6: what others do while a thread attaches. td_space_reap's steps are called through
 * ours (the linker's --wrap, and the fault hook), which at each of them stop to let
 * others do their worst, in every order that there is.
 */
#include "reaping.h"

#include <errno.h>

/* Where a thread may be stopped, in the order in which an attacher comes there. */
enum point {
	BEFORE_USER,   /* it has not taken its user for a moment */
	BEFORE_ATTACH, /* it has, and nobody knows of it */
	BEFORE_BACK,   /* it is attached, and still a user */
	BEFORE_LOOK,   /* it has given that back, and was not the last */
	BEFORE_SLEEP,  /* it has found that it may sleep */
	BEFORE_BEGIN,  /* (a last put) it has taken the thread out, and not told it yet */
	BEFORE_WAKE,   /* (a last put, a cancel) it has told it, and not woken it yet */
	POINTS
};

/* What is to happen there, once, in this thread. */
static __thread void (*at_point[POINTS])(void);
static __thread unsigned sleeps; /* in the kernel, or almost */
static __thread int sleep_result;

static void reach(enum point point)
{
	void (*action)(void) = at_point[point];

	at_point[point] = NULL;
	if (action)
		action();
}

bool __real_td_space_get_not_zero(td_space *of);
bool __wrap_td_space_get_not_zero(td_space *of);
bool __real_tdi_space_put_user(td_space *of);
bool __wrap_tdi_space_put_user(td_space *of);
void __real_tdi_work_begin(td_engine *of, struct td_work *work, bool admitted);
void __wrap_tdi_work_begin(td_engine *of, struct td_work *work, bool admitted);

bool __wrap_td_space_get_not_zero(td_space *of)
{
	bool got;

	reach(BEFORE_USER);
	got = __real_td_space_get_not_zero(of);
	reach(BEFORE_ATTACH);
	return got;
}

bool __wrap_tdi_space_put_user(td_space *of)
{
	bool last;

	reach(BEFORE_BACK);
	last = __real_tdi_space_put_user(of);
	if (!last)
		reach(BEFORE_LOOK);
	return last;
}

void __wrap_tdi_work_begin(td_engine *of, struct td_work *work, bool admitted)
{
	reach(BEFORE_BEGIN);
	__real_tdi_work_begin(of, work, admitted);
}

static int hook(enum tdi_sys_call call, uintptr_t addr, size_t length, int detail)
{
	int result = 0;

	(void)addr;
	(void)length;
	(void)detail;
	if (call == TDI_SYS_futex_wait) {
		sleeps++;
		reach(BEFORE_SLEEP);
		result = sleep_result;
		sleep_result = 0;
	} else if (call == TDI_SYS_futex_wake) {
		reach(BEFORE_WAKE);
	}
	return result;
}

static char *addr;

static void setup_race(void)
{
	setup_space();
	addr = map(4 * MIB);
	tdi_sys_set_fault(hook);
}

/* ---- what others do: in threads of their own ---- */

struct other {
	int (*call)(td_space *of);
	void (*at)(void); /* at a point of its own */
	enum point point;
	int err;
	pthread_t thread;
};

static void *other_run(void *arg)
{
	struct other *other = arg;

	at_point[other->point] = other->at;
	other->err = other->call(space);
	return NULL;
}

static void other_start(struct other *other)
{
	ck_assert_int_eq(pthread_create(&other->thread, NULL, other_run, other), 0);
}

static int other_result(struct other *other)
{
	ck_assert_int_eq(pthread_join(other->thread, NULL), 0);
	return other->err;
}

static int in_another(int (*call)(td_space *of))
{
	struct other other = {.call = call};

	other_start(&other);
	return other_result(&other);
}

static int reap_forever(td_space *of)
{
	return td_space_reap(of, 0, TD_FOREVER);
}

static void put(void)
{
	ck_assert_int_eq(in_another(td_space_put), 0);
}

static void put_sync(void)
{
	ck_assert_int_eq(in_another(td_space_put_sync), 0);
}

static void cancel(void)
{
	ck_assert_int_eq(in_another(td_space_reap_cancel), 0);
}

static void cancel_none(void)
{
	ck_assert_int_eq(in_another(td_space_reap_cancel), -ENOENT);
	put();
}

static void cancel_and_put(void)
{
	cancel();
	put();
}

static void put_and_cancel(void)
{
	put();
	ck_assert_int_eq(in_another(td_space_reap_cancel), -EALREADY);
}

static void try_to_attach_and_put(void)
{
	ck_assert_int_eq(in_another(reap_forever), -EEXIST);
	put();
}

static struct other successor = {.call = reap_forever};

/* users: how many there are beside the successor's own for a moment */
static void succeed(uint32_t users)
{
	other_start(&successor);
	await_attached(users);
}

static void cancel_and_succeed_and_put(void)
{
	cancel();
	/* ourselves, if we still are one, and the test's */
	succeed(tdi_ref_read(&space->users));
	put();
}

/* ---- every step, every deed ---- */

static int reap_with(enum point point, void (*deed)(void))
{
	at_point[point] = deed;
	sleeps = 0;
	return td_space_reap(space, 0, TD_FOREVER);
}

static void check_end(void)
{
	check_reclaimed(addr, 4 * MIB);
	drain();
	ck_assert_uint_eq(stats().works_pending, 0);
	ck_assert_uint_eq(stats().bytes_pending, 0);
	ck_assert_uint_eq(stats().works_failed, 0);
}

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
