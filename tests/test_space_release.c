/* SPDX-License-Identifier: MIT */
/* C3, C4: td_space_release, beside whoever else is at the teardown, or nobody. */
#include "stopping.h"

#include <errno.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

/* ---- who may ---- */

START_TEST(only_a_dying_space_is_released)
{
	char *addr = map(MIB);

	ck_assert_int_eq(td_space_release(NULL, 0), -EINVAL);
	ck_assert_int_eq(td_space_release(space, 0), -EINVAL);
	ck_assert_int_eq(td_space_release(space, TD_RELEASE_KEEP_SHARED), -EINVAL);
	ck_assert_uint_eq(tdt_resident(addr, MIB), MIB);
	ck_assert_int_eq(td_space_put(space), 0);
	ck_assert_int_eq(td_space_release(space, 2), -EINVAL);
	ck_assert_int_eq(td_space_release(space, 1u << 31), -EINVAL);
	check_reclaimed(addr, MIB);
	/* and when it is over there is nothing to do */
	ck_assert_int_eq(td_space_release(space, 0), 0);
	ck_assert_int_eq(td_space_release(space, TD_RELEASE_KEEP_SHARED), 0);
	ck_assert_int_eq(td_space_release(space, 2), -EINVAL);
}
END_TEST

START_TEST(in_a_forked_child_it_is_refused)
{
	int status;
	pid_t pid;

	ck_assert_int_eq(td_space_put(space), 0);
	pid = fork();
	ck_assert_int_ge(pid, 0);
	if (pid == 0)
		_exit(td_space_release(space, 0) != -ECHILD);
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert_int_eq(status, 0);
}
END_TEST

/* ---- beside whom ---- */

/* C3: all of it, callbacks included, though the engine has no reaper to spare. */
START_TEST(the_caller_frees_what_a_busy_engine_cannot)
{
	char *addr = map(40 * MIB);
	struct hold hold;

	hold_reaper(&hold);
	stop_in_callback(TD_EVENT_RECLAIMED);
	sem_post(&stop.may_go);
	ck_assert_int_eq(td_space_put(space), 0);
	ck_assert_uint_eq(tdt_resident(addr, 40 * MIB), 40 * MIB);
	ck_assert_int_eq(td_space_release(space, 0), 0);
	ck_assert_int_eq(td_space_wait(space, TD_EVENT_RECLAIMED, 0), 0);
	check_reclaimed(addr, 40 * MIB);
	ck_assert(pthread_equal(stop.ran_on, pthread_self()));
	ck_assert_uint_eq(stats().works_pending, 1); /* the hold */
	ck_assert_uint_eq(stats().bytes_pending, 0);
	let_go(&hold);
}
END_TEST

START_TEST(ranges_that_left_before_are_released_too)
{
	char *early = map(8 * MIB), *other = map(4 * MIB), *addr = map(MIB);
	struct hold hold;

	hold_reaper(&hold);
	ck_assert_int_eq(td_region_unmap(space, early, 8 * MIB), 0);
	ck_assert_int_eq(td_region_unmap(space, other, 4 * MIB), 0);
	ck_assert_uint_eq(stats().bytes_quarantined, 12 * MIB);
	ck_assert_int_eq(td_space_put(space), 0);
	ck_assert_int_eq(td_space_release(space, 0), 0);
	ck_assert_uint_eq(stats().bytes_quarantined, 0);
	check_reclaimed(addr, MIB);
	let_go(&hold);
}
END_TEST

/* Nobody else's is touched. */
START_TEST(other_spaces_are_left_alone)
{
	td_space *other = make_space("other");
	char *addr = map(4 * MIB);
	void *others;
	struct hold hold;

	ck_assert_int_eq(td_region_map(other, 4 * MIB, NULL, &others), 0);
	tdt_touch(others, 4 * MIB);
	hold_reaper(&hold);
	ck_assert_int_eq(td_space_put(other), 0);
	ck_assert_int_eq(td_space_put(space), 0);
	ck_assert_int_eq(td_space_release(space, 0), 0);
	check_reclaimed(addr, 4 * MIB);
	ck_assert_uint_eq(tdt_resident(others, 4 * MIB), 4 * MIB);
	let_go(&hold);
	drain();
	ck_assert_uint_eq(tdt_mapped(others, 4 * MIB), 0);
}
END_TEST

/* C3: what another one has in hand is left to him. */
START_TEST(a_part_in_a_reapers_hands_is_left_to_it)
{
	char *slow = map_slow(MIB), *addr;

	addr = map(40 * MIB);
	ck_assert_int_eq(td_space_put(space), 0);
	sem_wait(&stop.entered);
	ck_assert_int_eq(td_space_release(space, 0), -EAGAIN);
	ck_assert_uint_eq(tdt_mapped(addr, 40 * MIB), 0);
	ck_assert_uint_eq(tdt_mapped(slow, MIB), MIB);
	sem_post(&stop.may_go);
	ck_assert_int_eq(td_space_wait(space, TD_EVENT_RECLAIMED, TD_FOREVER), 0);
	ck_assert_int_eq(td_space_release(space, 0), 0);
	check_reclaimed(slow, MIB);
}
END_TEST

START_TEST(a_sync_put_is_helped)
{
	char *slow = map_slow(MIB), *addr = map(40 * MIB);
	pthread_t putter;

	pthread_create(&putter, NULL, put_sync, space);
	sem_wait(&stop.entered);
	ck_assert_int_eq(td_space_release(space, 0), -EAGAIN);
	ck_assert_uint_eq(tdt_mapped(addr, 40 * MIB), 0);
	ck_assert_uint_eq(stats().bytes_pending, MIB);
	sem_post(&stop.may_go);
	ck_assert_int_eq(result_of(putter), 0);
	check_reclaimed(slow, MIB);
	ck_assert_uint_eq(stats().bytes_pending, 0);
}
END_TEST

START_TEST(an_attached_reaper_at_work_is_helped)
{
	char *slow = map_slow(MIB), *addr = map(40 * MIB);
	struct attacher attacher;

	attach_thread(&attacher);
	ck_assert_int_eq(td_space_put(space), 0);
	sem_wait(&stop.entered);
	ck_assert_int_eq(td_space_release(space, 0), -EAGAIN);
	ck_assert_uint_eq(tdt_mapped(addr, 40 * MIB), 0);
	sem_post(&stop.may_go);
	ck_assert_int_eq(attacher_result(&attacher), 0);
	check_reclaimed(slow, MIB);
}
END_TEST

/* Kept from running: about to sleep, and the work is its own by then. */
static __thread bool is_attacher;
static sem_t attacher_stopped, attacher_may_go;
static atomic_bool waits_for_helpers;

static void be_attacher(void)
{
	is_attacher = true;
}

static int stop_attacher(enum tdi_sys_call call, uintptr_t addr, size_t length,
			 int detail)
{
	(void)length;
	(void)detail;
	if (call != TDI_SYS_futex_wait || !is_attacher)
		return 0;
	if (addr == (uintptr_t)&space->beside) {
		atomic_store(&waits_for_helpers, true);
		return 0;
	}
	sem_post(&attacher_stopped);
	sem_wait(&attacher_may_go);
	return 0;
}

static void attach_and_stop(struct attacher *attacher)
{
	sem_init(&attacher_stopped, 0, 0);
	sem_init(&attacher_may_go, 0, 0);
	tdi_sys_set_fault(stop_attacher);
	attacher_start(attacher, TD_FOREVER, be_attacher);
	sem_wait(&attacher_stopped);
	ck_assert_int_eq(td_space_put(space), 0);
}

START_TEST(an_attached_reaper_that_does_not_get_to_run_is_no_obstacle)
{
	char *addr = map(40 * MIB);
	struct attacher attacher;

	attach_and_stop(&attacher);
	ck_assert_int_eq(td_space_release(space, 0), -EAGAIN);
	ck_assert_uint_eq(tdt_mapped(addr, 40 * MIB), 0);
	ck_assert_uint_eq(space_stats().bytes_reclaimed, 40 * MIB);
	ck_assert_uint_eq(stats().bytes_pending, 0);
	ck_assert_int_eq(td_space_wait(space, TD_EVENT_RECLAIMED, 0), -ETIMEDOUT);
	sem_post(&attacher_may_go);
	ck_assert_int_eq(attacher_result(&attacher), 0);
	check_reclaimed(addr, 40 * MIB);
}
END_TEST

/* ---- who frees his own, and waits for what had left before ---- */

static __thread bool is_putter;
static sem_t putter_waits;
static pthread_t others_ran_on;
static atomic_uint others_calls;

static int tell_waits(enum tdi_sys_call call, uintptr_t addr, size_t length, int detail)
{
	(void)addr;
	(void)length;
	(void)detail;
	if (call == TDI_SYS_futex_wait && is_putter) {
		is_putter = false;
		sem_post(&putter_waits);
	}
	return 0;
}

static void *put_sync_and_tell(void *arg)
{
	is_putter = true;
	return put_sync(arg);
}

static void on_others(td_space *of, enum td_event event, int status, void *arg)
{
	(void)of;
	(void)event;
	(void)status;
	(void)arg;
	others_ran_on = pthread_self();
	atomic_fetch_add(&others_calls, 1);
}

START_TEST(a_sync_put_runs_nothing_but_its_own)
{
	char *early = map_slow(MIB), *later = map(8 * MIB), *addr = map(4 * MIB);
	td_space *other = make_space("other");
	pthread_t putter;

	sem_init(&putter_waits, 0, 0);
	ck_assert_int_eq(td_region_unmap(space, early, MIB), 0);
	sem_wait(&stop.entered); /* the only reaper, in its release */
	ck_assert_int_eq(td_region_unmap(space, later, 8 * MIB), 0);
	ck_assert_int_eq(td_space_on_event(other, TD_EVENT_GONE, on_others, NULL), 0);
	ck_assert_int_eq(td_space_put(other), 0);
	tdi_sys_set_fault(tell_waits);
	pthread_create(&putter, NULL, put_sync_and_tell, space);
	sem_wait(&putter_waits);
	ck_assert_uint_eq(tdt_mapped(addr, 4 * MIB), 0);
	ck_assert_uint_eq(stats().bytes_quarantined, MIB); /* the later is its own */
	ck_assert_uint_eq(atomic_load(&others_calls), 0);
	sem_post(&stop.may_go);
	ck_assert_int_eq(result_of(putter), 0);
	check_reclaimed(addr, 4 * MIB);
	drain();
	ck_assert(pthread_equal(others_ran_on, engine->reapers[0].thread));
}
END_TEST

static int quick_release(void *arg, size_t offset, size_t length, size_t *released)
{
	(void)arg;
	(void)offset;
	*released = length;
	return 0;
}

static void slow_done(void *arg, int status)
{
	(void)arg;
	ck_assert_int_eq(status, 0);
	stop_here();
	ck_assert_uint_eq(atomic_load(&stop.calls), 1); /* not twice */
}

/* He who runs the teardown waits for the helper before he ends it. */
static void helper_stops_in(const struct td_region_ops *ops)
{
	char *slow = tdt_map_anon(MIB), *addr = map(4 * MIB);
	struct attacher attacher;
	pthread_t helper;

	ck_assert_int_eq(
		td_region_adopt(space, slow, MIB,
				TD_REGION_OPTS(.kind = TD_KIND_DEVICE, .ops = ops)),
		0);
	attach_and_stop(&attacher);
	pthread_create(&helper, NULL, release_it, space);
	sem_wait(&stop.entered);
	ck_assert(pthread_equal(stop.ran_on, helper));
	sem_post(&attacher_may_go);
	while (!atomic_load(&waits_for_helpers))
		ck_assert_int_eq(td_space_wait(space, TD_EVENT_RECLAIMED, 1000000),
				 -ETIMEDOUT);
	ck_assert_int_eq(td_space_wait(space, TD_EVENT_RECLAIMED, 0), -ETIMEDOUT);
	sem_post(&stop.may_go);
	ck_assert_int_eq(attacher_result(&attacher), 0);
	(void)result_of(helper);
	check_reclaimed(slow, MIB);
	ck_assert_uint_eq(tdt_mapped(addr, 4 * MIB), 0);
}

START_TEST(what_a_helper_has_in_hand_is_waited_for_asleep)
{
	static const struct td_region_ops ops = {.release = slow_release};

	helper_stops_in(&ops);
}
END_TEST

START_TEST(nobody_ends_it_while_a_helper_is_at_it)
{
	static const struct td_region_ops ops = {.release = quick_release,
						 .done = slow_done};

	helper_stops_in(&ops);
}
END_TEST

START_TEST(where_nobody_has_come_to_it_callbacks_come_first)
{
	char *addr = map(4 * MIB);
	pthread_t putter;

	stop_in_callback(TD_EVENT_GONE);
	pthread_create(&putter, NULL, put_sync, space);
	sem_wait(&stop.entered);
	ck_assert_int_eq(td_space_release(space, 0), -EAGAIN);
	ck_assert_uint_eq(tdt_resident(addr, 4 * MIB), 4 * MIB);
	sem_post(&stop.may_go);
	ck_assert_int_eq(result_of(putter), 0);
	check_reclaimed(addr, 4 * MIB);
}
END_TEST

START_TEST(an_engine_is_abandoned_under_the_helpers_hands)
{
	char *slow = map_slow(MIB);
	struct hold hold;
	pthread_t helper;
	int err;

	hold_reaper(&hold);
	ck_assert_int_eq(td_space_put(space), 0);
	pthread_create(&helper, NULL, release_it, space);
	sem_wait(&stop.entered);
	let_go(&hold);
	sem_post(&stop.may_go);
	ck_assert_int_eq(td_engine_destroy(engine, TD_EXIT_ABANDON, 0), 0);
	engine = NULL;
	err = result_of(helper);
	ck_assert(err == 0 || err == -EAGAIN);
	err = td_space_wait(space, TD_EVENT_RECLAIMED, TD_FOREVER);
	ck_assert(err == 0 || err == -ECANCELED);
	/* abandoned before the helper's slice came to the end of it, or after */
	if (!err)
		ck_assert_uint_eq(tdt_mapped(slow, MIB), 0);
}
END_TEST

/* ---- from callbacks: it does not wait there ---- */

static int inside_result = 99;

static void release_inside(void)
{
	inside_result = td_space_release(space, 0);
}

START_TEST(in_the_callback_for_gone_there_is_nothing_to_do_yet)
{
	char *addr = map(4 * MIB);

	stop.inside = release_inside;
	stop_in_callback(TD_EVENT_GONE);
	sem_post(&stop.may_go);
	ck_assert_int_eq(td_space_put(space), 0);
	check_reclaimed(addr, 4 * MIB);
	ck_assert_int_eq(inside_result, -EAGAIN);
}
END_TEST

START_TEST(in_the_callback_for_reclaimed_it_is_over)
{
	char *addr = map(4 * MIB);

	stop.inside = release_inside;
	stop_in_callback(TD_EVENT_RECLAIMED);
	sem_post(&stop.may_go);
	ck_assert_int_eq(td_space_put(space), 0);
	check_reclaimed(addr, 4 * MIB);
	drain();
	ck_assert_int_eq(inside_result, 0);
}
END_TEST

START_TEST(in_a_release_callback_the_rest_can_be_freed)
{
	char *slow = map_slow(MIB), *addr = map(4 * MIB);

	stop.inside = release_inside;
	sem_post(&stop.may_go);
	ck_assert_int_eq(td_space_put(space), 0);
	check_reclaimed(addr, 4 * MIB);
	ck_assert_uint_eq(tdt_mapped(slow, MIB), 0);
	ck_assert_int_eq(inside_result, -EAGAIN);
}
END_TEST

static void release_on_reaper(td_space *of, enum td_event event, int status, void *arg)
{
	(void)of;
	(void)event;
	(void)status;
	ck_assert_int_eq(td_space_put(arg), 0);
	inside_result = td_space_release(arg, 0);
}

START_TEST(the_only_reaper_can_release_another_space)
{
	td_space *other = make_space("other");
	char *addr = map(4 * MIB);

	ck_assert_int_eq(
		td_space_on_event(other, TD_EVENT_GONE, release_on_reaper, space), 0);
	ck_assert_int_eq(td_space_put(other), 0);
	drain();
	ck_assert_int_eq(inside_result, 0);
	check_reclaimed(addr, 4 * MIB);
}
END_TEST

int main(void)
{
	struct tdt *tests = tdt_suite("space_release");
	const TTest *all[] = {
		only_a_dying_space_is_released,
		in_a_forked_child_it_is_refused,
		the_caller_frees_what_a_busy_engine_cannot,
		ranges_that_left_before_are_released_too,
		other_spaces_are_left_alone,
		a_part_in_a_reapers_hands_is_left_to_it,
		a_sync_put_is_helped,
		a_sync_put_runs_nothing_but_its_own,
		an_attached_reaper_at_work_is_helped,
		an_attached_reaper_that_does_not_get_to_run_is_no_obstacle,
		what_a_helper_has_in_hand_is_waited_for_asleep,
		nobody_ends_it_while_a_helper_is_at_it,
		where_nobody_has_come_to_it_callbacks_come_first,
		an_engine_is_abandoned_under_the_helpers_hands,
		in_the_callback_for_gone_there_is_nothing_to_do_yet,
		in_the_callback_for_reclaimed_it_is_over,
		in_a_release_callback_the_rest_can_be_freed,
		the_only_reaper_can_release_another_space,
	};

	for (size_t i = 0; i < sizeof(all) / sizeof(*all); i++)
		tdt_add(tests, all[i], setup_release, teardown_space);
	return tdt_run(tests);
}
