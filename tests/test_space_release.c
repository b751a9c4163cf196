/* SPDX-License-Identifier: MIT */
/* C3, C4: td_space_release, beside whoever else is at the teardown, or nobody. */
#include "reaping.h"

#include <errno.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

/* ---- somebody who is at it, and stops ---- */

static struct {
	sem_t entered, may_go;
	void (*inside)(void); /* or NULL: what is done there */
	pthread_t ran_on;
	atomic_uint calls;
} stop;

static void stop_here(void)
{
	stop.ran_on = pthread_self();
	if (atomic_fetch_add(&stop.calls, 1) > 0)
		return;
	if (stop.inside)
		stop.inside();
	sem_post(&stop.entered);
	sem_wait(&stop.may_go);
}

static int slow_release(void *arg, size_t offset, size_t length, size_t *released)
{
	(void)arg;
	(void)offset;
	stop_here();
	*released = length;
	return 0;
}

/* The one who comes to it stops there: in its release. */
static char *map_slow(size_t length)
{
	static const struct td_region_ops ops = {.release = slow_release};
	char *addr = tdt_map_anon(length);

	ck_assert_int_eq(
		td_region_adopt(space, addr, length,
				TD_REGION_OPTS(.kind = TD_KIND_DEVICE, .ops = &ops)),
		0);
	return addr;
}

static void on_event(td_space *of, enum td_event event, int status, void *arg)
{
	(void)of;
	(void)event;
	(void)status;
	(void)arg;
	stop_here();
}

static void stop_in_callback(enum td_event event)
{
	ck_assert_int_eq(td_space_on_event(space, event, on_event, NULL), 0);
}

static void setup_release(void)
{
	setup_space();
	sem_init(&stop.entered, 0, 0);
	sem_init(&stop.may_go, 0, 0);
}

static void *put_sync(void *arg)
{
	return (void *)(intptr_t)td_space_put_sync(arg);
}

static void *release_it(void *arg)
{
	return (void *)(intptr_t)td_space_release(arg, 0);
}

static int result_of(pthread_t thread)
{
	void *result;

	ck_assert_int_eq(pthread_join(thread, &result), 0);
	return (int)(intptr_t)result;
}

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
	ck_assert_uint_eq(atomic_load(&stop.calls), 1); /* nothing twice */
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

/* ---- C4 ---- */

static size_t held_by(int fd)
{
	struct stat about;

	ck_assert_int_eq(fstat(fd, &about), 0);
	return (size_t)about.st_blocks * 512;
}

static char *map_shared(size_t length, int *ret_fd)
{
	int fd = memfd_create("shared", MFD_CLOEXEC);
	void *addr;

	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(ftruncate(fd, (off_t)length), 0);
	ck_assert_int_eq(
		td_region_map(space, length,
			      TD_REGION_OPTS(.kind = TD_KIND_SHARED,
					     .flags = TD_REGION_FD | TD_REGION_EXCLUSIVE,
					     .fd = fd),
			      &addr),
		0);
	tdt_touch(addr, length);
	*ret_fd = fd;
	return addr;
}

START_TEST(shared_memory_can_be_left_to_others)
{
	int fd, early_fd;
	char *shared = map_shared(4 * MIB, &fd), *early = map_shared(MIB, &early_fd);
	char *addr = map(40 * MIB), *left = map(2 * MIB);
	struct hold hold;

	hold_reaper(&hold);
	ck_assert_int_eq(td_region_unmap(space, left, 2 * MIB), 0);
	ck_assert_int_eq(td_region_unmap(space, early, MIB), 0);
	ck_assert_int_eq(td_space_put(space), 0);
	for (int i = 0; i < 2; i++) {
		ck_assert_int_eq(td_space_release(space, TD_RELEASE_KEEP_SHARED), 0);
		ck_assert_uint_eq(tdt_mapped(addr, 40 * MIB), 0);
		ck_assert_uint_eq(tdt_resident(shared, 4 * MIB), 4 * MIB);
		ck_assert_uint_eq(held_by(fd), 4 * MIB);
		ck_assert_uint_eq(held_by(early_fd), MIB);
		ck_assert_uint_eq(stats().bytes_quarantined, MIB);
		ck_assert_int_eq(td_space_wait(space, TD_EVENT_RECLAIMED, 0), -ETIMEDOUT);
	}
	let_go(&hold);
	check_reclaimed(shared, 4 * MIB);
	ck_assert_uint_eq(held_by(fd), 0);
	ck_assert_uint_eq(held_by(early_fd), 0);
	close(fd);
	close(early_fd);
}
END_TEST

START_TEST(what_was_left_can_be_released_after_all)
{
	int fd;
	char *shared = map_shared(4 * MIB, &fd);
	struct hold hold;

	hold_reaper(&hold);
	ck_assert_int_eq(td_space_put(space), 0);
	/* before anybody has looked, it cannot be told that there is nothing else */
	ck_assert_int_eq(td_space_release(space, TD_RELEASE_KEEP_SHARED), 0);
	ck_assert_uint_eq(held_by(fd), 4 * MIB);
	ck_assert_int_eq(td_space_release(space, 0), 0);
	ck_assert_uint_eq(held_by(fd), 0);
	check_reclaimed(shared, 4 * MIB);
	let_go(&hold);
	close(fd);
}
END_TEST

START_TEST(beside_a_sync_put_shared_memory_is_left_to_that)
{
	char *slow = map_slow(MIB), *addr = map(4 * MIB), *shared;
	pthread_t putter;
	int fd;

	shared = map_shared(4 * MIB, &fd);
	pthread_create(&putter, NULL, put_sync, space);
	sem_wait(&stop.entered);
	ck_assert_int_eq(td_space_release(space, TD_RELEASE_KEEP_SHARED), -EAGAIN);
	ck_assert_uint_eq(tdt_mapped(addr, 4 * MIB), 0);
	ck_assert_uint_eq(held_by(fd), 4 * MIB);
	sem_post(&stop.may_go);
	ck_assert_int_eq(result_of(putter), 0);
	check_reclaimed(shared, 4 * MIB);
	ck_assert_uint_eq(tdt_mapped(slow, MIB), 0);
	ck_assert_uint_eq(held_by(fd), 0);
	close(fd);
}
END_TEST

/* ---- when the kernel says no ---- */

START_TEST(what_cannot_be_unmapped_for_now_is_told_and_left)
{
	char *addr = map(40 * MIB);
	struct hold hold;

	hold_reaper(&hold);
	ck_assert_int_eq(td_space_put(space), 0);
	tdt_fail(TDI_SYS_munmap, -ENOMEM, 0, 1000);
	ck_assert_int_eq(td_space_release(space, 0), -EAGAIN);
	/* tried, and not over and over */
	ck_assert_uint_le(tdt_calls(TDI_SYS_munmap), 10);
	ck_assert_uint_eq(tdt_resident(addr, 40 * MIB), 0);
	tdt_fail_none();
	ck_assert_int_eq(td_space_release(space, 0), 0);
	check_reclaimed(addr, 40 * MIB);
	let_go(&hold);
}
END_TEST

/* Every call that it makes, failing at every place. */
START_TEST(whatever_fails_everything_goes)
{
	static const struct {
		enum tdi_sys_call call;
		int err;
	} faults[] = {
		{TDI_SYS_madvise, -EAGAIN},   {TDI_SYS_madvise, -EINVAL},
		{TDI_SYS_munmap, -ENOMEM},    {TDI_SYS_munmap, -EAGAIN},
		{TDI_SYS_futex_wait, -EINTR}, {TDI_SYS_futex_wait, -EAGAIN},
		{TDI_SYS_fallocate, -ENODEV}, {TDI_SYS_fallocate, -EPERM},
	};

	for (size_t i = 0; i < sizeof(faults) / sizeof(*faults); i++) {
		for (unsigned first = 0; first < 4; first++) {
			char *addr = map(24 * MIB), *early = map(4 * MIB);
			int fd, err;

			map_shared(MIB, &fd);
			ck_assert_int_eq(td_region_unmap(space, early, 4 * MIB), 0);
			ck_assert_int_eq(td_space_put(space), 0);
			tdt_fail(faults[i].call, faults[i].err, first, 2);
			err = td_space_release(space, 0);
			ck_assert(err == 0 || err == -EAGAIN);
			check_reclaimed(addr, 24 * MIB);
			tdt_fail_none();
			ck_assert_int_eq(td_space_drop(space), 0);
			space = make_space("arena");
			ck_assert_int_eq(td_space_grab(space), 0);
			close(fd);
		}
	}
	ck_assert_int_eq(td_space_put(space), 0);
}
END_TEST

START_TEST(without_threads_it_helps_the_one_who_put)
{
	char *slow, *addr;
	pthread_t putter;

	ck_assert_int_eq(td_space_put(space), 0);
	ck_assert_int_eq(td_space_drop(space), 0);
	tdt_fail(TDI_SYS_thread_create, -EAGAIN, 0, UINT32_MAX);
	ck_assert_int_eq(td_space_create(NULL, NULL, &space), 0);
	ck_assert_int_eq(td_space_grab(space), 0);
	slow = map_slow(MIB);
	addr = map(8 * MIB);
	pthread_create(&putter, NULL, put_sync, space);
	sem_wait(&stop.entered);
	ck_assert_int_eq(td_space_release(space, 0), -EAGAIN);
	ck_assert_uint_eq(tdt_mapped(addr, 8 * MIB), 0);
	sem_post(&stop.may_go);
	ck_assert_int_eq(result_of(putter), 0);
	check_reclaimed(slow, MIB);
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
		shared_memory_can_be_left_to_others,
		what_was_left_can_be_released_after_all,
		beside_a_sync_put_shared_memory_is_left_to_that,
		what_cannot_be_unmapped_for_now_is_told_and_left,
		whatever_fails_everything_goes,
		without_threads_it_helps_the_one_who_put,
	};

	for (size_t i = 0; i < sizeof(all) / sizeof(*all); i++)
		tdt_add(tests, all[i], setup_release, teardown_space);
	return tdt_run(tests);
}
