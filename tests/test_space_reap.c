/* SPDX-License-Identifier: MIT */
/* A1-A5, A7, A8, A12: td_space_reap and its cancel. What meets while a thread attaches is
 * in test_reap_race.c and test_reap_late.c. */
#include "reaping.h"

#include <errno.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <teardown/lazy.h>
#include <unistd.h>

/* ---- who does the work ---- */

static struct {
	pthread_t gone, reclaimed;
	sem_t entered, may_go;
} seen;

static void on_gone(td_space *of, enum td_event event, int status, void *arg)
{
	(void)of;
	(void)event;
	(void)status;
	(void)arg;
	seen.gone = pthread_self();
	sem_post(&seen.entered);
	sem_wait(&seen.may_go);
}

static void on_reclaimed(td_space *of, enum td_event event, int status, void *arg)
{
	(void)of;
	(void)event;
	(void)arg;
	ck_assert_int_eq(status, 0);
	seen.reclaimed = pthread_self();
}

/* The teardown stops in its first callback, until seen.may_go. */
static void watch_events(void)
{
	sem_init(&seen.entered, 0, 0);
	sem_init(&seen.may_go, 0, 0);
	ck_assert_int_eq(td_space_on_event(space, TD_EVENT_GONE, on_gone, NULL), 0);
	ck_assert_int_eq(td_space_on_event(space, TD_EVENT_RECLAIMED, on_reclaimed, NULL),
			 0);
}

/* A1, A5: though the engine's reaper is busy; A12: gone and reclaimed as ever. */
START_TEST(the_attached_thread_frees_the_memory)
{
	char *addr = map(40 * MIB);
	struct attacher attacher;
	struct hold hold;

	hold_reaper(&hold);
	watch_events();
	attach_thread(&attacher);
	ck_assert_int_eq(td_space_wait(space, TD_EVENT_GONE, 0), -ETIMEDOUT);
	ck_assert_int_eq(td_space_put(space), 0);
	ck_assert_int_eq(td_space_wait(space, TD_EVENT_GONE, 0), 0);
	sem_wait(&seen.entered);
	ck_assert_int_eq(td_space_wait(space, TD_EVENT_RECLAIMED, 0), -ETIMEDOUT);
	ck_assert_uint_eq(tdt_resident(addr, 40 * MIB), 40 * MIB);
	sem_post(&seen.may_go);
	ck_assert_int_eq(attacher_result(&attacher), 0);
	ck_assert_int_eq(td_space_wait(space, TD_EVENT_RECLAIMED, 0), 0);
	check_reclaimed(addr, 40 * MIB);
	ck_assert(pthread_equal(seen.gone, attacher.thread));
	ck_assert(pthread_equal(seen.reclaimed, attacher.thread));
	let_go(&hold);
}
END_TEST

/* A8 */
START_TEST(its_cpu_time_is_the_spaces_and_the_threads)
{
	char *addr = map(64 * MIB);
	struct attacher attacher;
	struct td_space_stats now;

	attach_thread(&attacher);
	ck_assert_int_eq(td_space_put(space), 0);
	ck_assert_int_eq(attacher_result(&attacher), 0);
	check_reclaimed(addr, 64 * MIB);
	now = space_stats();
	ck_assert_uint_gt(now.slices, 0);
	ck_assert_uint_gt(now.cpu_ns, 0);
	ck_assert_uint_ge(attacher.cpu_ns, now.cpu_ns);
	ck_assert_uint_gt(now.put_to_reclaimed_ns, 0);
}
END_TEST

/* A5 */
START_TEST(with_nobody_attached_the_engine_does_it)
{
	char *addr = map(4 * MIB);

	watch_events();
	sem_post(&seen.may_go);
	ck_assert_int_eq(td_space_put(space), 0);
	check_reclaimed(addr, 4 * MIB);
	drain();
	ck_assert(pthread_equal(seen.gone, engine->reapers[0].thread));
	ck_assert(pthread_equal(seen.reclaimed, engine->reapers[0].thread));
}
END_TEST

/* A4 */
START_TEST(asleep_it_keeps_the_object_and_not_the_memory)
{
	char *addr = map(MIB);
	struct attacher attacher;
	uint64_t count = space_stats().count;

	attach_thread(&attacher);
	ck_assert_uint_eq(space_stats().users, 1);
	ck_assert_uint_eq(space_stats().count, count + 1);
	ck_assert_int_eq(td_space_put(space), 0);
	ck_assert(!td_space_get_not_zero(space));
	ck_assert_int_eq(attacher_result(&attacher), 0);
	check_reclaimed(addr, MIB);
}
END_TEST

/* The count that the caller had may go while it sleeps. */
START_TEST(it_holds_a_count_of_its_own)
{
	struct attacher attacher;

	attach_thread(&attacher);
	ck_assert_int_eq(td_space_drop(space), 0);
	ck_assert_int_eq(td_space_put(space), 0); /* the object is its alone now */
	ck_assert_int_eq(attacher_result(&attacher), 0);
	drain();
	space = NULL;
}
END_TEST

static void *reap_held_lazily(void *arg)
{
	struct attacher *attacher = arg;

	ck_assert_int_eq(td_lazy_enter(space), 0);
	attacher->err = td_space_reap(space, 0, TD_FOREVER);
	ck_assert_ptr_eq(td_lazy_current(), space);
	ck_assert_int_eq(td_lazy_leave(), 0);
	return NULL;
}

START_TEST(a_lazy_hold_is_enough_to_attach)
{
	char *addr = map(MIB);
	struct attacher attacher = {.err = 99};

	pthread_create(&attacher.thread, NULL, reap_held_lazily, &attacher);
	await_attached(1);
	ck_assert_int_eq(td_space_put(space), 0);
	ck_assert_int_eq(attacher_result(&attacher), 0);
	check_reclaimed(addr, MIB);
}
END_TEST

/* What left the space before it is waited for, or lent a hand with. */
START_TEST(ranges_that_left_before_are_back_too_when_it_returns)
{
	char *early = map(8 * MIB), *addr = map(MIB);
	struct attacher attacher;
	struct hold hold;

	hold_reaper(&hold);
	ck_assert_int_eq(td_region_unmap(space, early, 8 * MIB), 0);
	attach_thread(&attacher);
	ck_assert_int_eq(td_space_put(space), 0);
	ck_assert_int_eq(attacher_result(&attacher), 0);
	ck_assert_int_eq(td_space_wait(space, TD_EVENT_RECLAIMED, 0), 0);
	check_reclaimed(addr, MIB);
	let_go(&hold);
}
END_TEST

/* Work that somebody has to do is work that a drain waits for. */
START_TEST(a_drain_waits_for_what_was_handed_to_it)
{
	char *addr = map(8 * MIB);
	struct attacher attacher;

	watch_events();
	attach_thread(&attacher);
	ck_assert_int_eq(td_engine_drain(engine, TD_FOREVER), 0); /* asleep: nothing */
	ck_assert_int_eq(td_space_put(space), 0);
	ck_assert_uint_eq(stats().works_pending, 1);
	ck_assert_uint_eq(stats().bytes_pending, 8 * MIB);
	ck_assert_int_eq(td_engine_drain(engine, 0), -ETIMEDOUT);
	sem_wait(&seen.entered);
	ck_assert_int_eq(td_engine_drain(engine, 1000000), -ETIMEDOUT);
	ck_assert_uint_eq(space_stats().bytes_pending, 8 * MIB);
	sem_post(&seen.may_go);
	drain();
	ck_assert_uint_eq(stats().bytes_pending, 0);
	ck_assert_int_eq(attacher_result(&attacher), 0);
	check_reclaimed(addr, 8 * MIB);
}
END_TEST

START_TEST(an_engine_may_end_while_a_thread_is_attached)
{
	char *addr = map(8 * MIB);
	struct attacher attacher;

	attach_thread(&attacher);
	ck_assert_int_eq(td_engine_destroy(engine, TD_EXIT_DRAIN, 0), 0);
	engine = NULL;
	ck_assert_int_eq(td_space_put(space), 0);
	ck_assert_int_eq(attacher_result(&attacher), 0);
	check_reclaimed(addr, 8 * MIB);
}
END_TEST

/* ---- who may not ---- */

/* A2 */
START_TEST(there_is_one_attached_reaper_at_most)
{
	char *addr = map(MIB);
	struct attacher attacher;

	attach_thread(&attacher);
	for (int i = 0; i < 3; i++)
		ck_assert_int_eq(td_space_reap(space, 0, TD_FOREVER), -EEXIST);
	ck_assert_uint_eq(space_stats().users, 1);
	ck_assert_int_eq(td_space_put(space), 0);
	ck_assert_int_eq(attacher_result(&attacher), 0);
	check_reclaimed(addr, MIB);
}
END_TEST

/* A3 */
START_TEST(the_dead_and_unknown_flags_are_refused)
{
	uint64_t count = space_stats().count;

	ck_assert_int_eq(td_space_reap(NULL, 0, 0), -EINVAL);
	ck_assert_int_eq(td_space_reap(space, 1, 0), -EINVAL);
	ck_assert_int_eq(td_space_reap(space, 1u << 31, TD_FOREVER), -EINVAL);
	ck_assert_uint_eq(space_stats().count, count);
	ck_assert_ptr_null(atomic_load(&space->attached));
	ck_assert_int_eq(td_space_put(space), 0);
	ck_assert_int_eq(td_space_reap(space, 0, TD_FOREVER), -ENXIO);
	check_reclaimed(NULL, 0);
	ck_assert_int_eq(td_space_reap(space, 0, 0), -ENXIO);
	ck_assert_int_eq(td_space_reap(space, 2, 0), -EINVAL);
}
END_TEST

static int in_callback = 99;

static void reap_in_callback(td_space *of, enum td_event event, int status, void *arg)
{
	(void)of;
	(void)event;
	(void)status;
	in_callback = td_space_reap(arg, 0, TD_FOREVER);
}

START_TEST(a_reaper_cannot_attach_to_a_space_of_its_engine)
{
	td_space *other = make_space("other");

	ck_assert_int_eq(td_space_on_event(other, TD_EVENT_GONE, reap_in_callback, space),
			 0);
	ck_assert_int_eq(td_space_put(other), 0);
	drain();
	ck_assert_int_eq(in_callback, -EDEADLK);
	ck_assert_int_eq(td_space_put(space), 0);
}
END_TEST

START_TEST(in_a_forked_child_it_is_the_parents)
{
	struct attacher attacher;
	char *addr = map(MIB);
	int status;
	pid_t pid;

	attach_thread(&attacher);
	pid = fork();
	ck_assert_int_ge(pid, 0);
	if (pid == 0) {
		int bad = td_space_reap(space, 0, TD_FOREVER) != -ECHILD;

		bad |= (td_space_reap_cancel(space) != -ECHILD) << 1;
		bad |= (td_space_put(space) != -ECHILD) << 2;
		_exit(bad);
	}
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert(WIFEXITED(status));
	ck_assert_int_eq(WEXITSTATUS(status), 0);
	ck_assert_int_eq(td_space_put(space), 0);
	ck_assert_int_eq(attacher_result(&attacher), 0);
	check_reclaimed(addr, MIB);
}
END_TEST

/* ---- waiting, and its ends ---- */

static __thread unsigned waits;

static int count_waits(enum tdi_sys_call call, uintptr_t addr, size_t length, int detail)
{
	(void)addr;
	(void)length;
	(void)detail;
	if (call == TDI_SYS_futex_wait)
		waits++;
	return 0;
}

/* A7: one wait, whatever its length; and next to no CPU. */
START_TEST(asleep_it_does_nothing)
{
	struct rusage before, after;
	uint64_t cpu;

	tdi_sys_set_fault(count_waits);
	cpu = tdi_sys_cpu_ns();
	ck_assert_int_eq(getrusage(RUSAGE_THREAD, &before), 0);
	ck_assert_int_eq(td_space_reap(space, 0, 300000000), -ETIMEDOUT);
	ck_assert_int_eq(getrusage(RUSAGE_THREAD, &after), 0);
	cpu = tdi_sys_cpu_ns() - cpu;
	ck_assert_uint_eq(waits, 1);
	/* A lock of a sanitizer's may be in the way; nobody who polls needs so few. */
	ck_assert_int_le(after.ru_nvcsw - before.ru_nvcsw, 5);
	ck_assert_uint_lt(cpu, 100000000);
	ck_assert_int_eq(td_space_put(space), 0);
}
END_TEST

START_TEST(its_time_runs_out_while_there_are_users)
{
	char *addr = map(MIB);

	/* each leaves things as they were */
	ck_assert_int_eq(td_space_reap(space, 0, 0), -ETIMEDOUT);
	ck_assert_int_eq(td_space_reap(space, 0, 1000), -ETIMEDOUT);
	ck_assert_int_eq(td_space_reap(space, 0, 1000000), -ETIMEDOUT);
	ck_assert_ptr_null(atomic_load(&space->attached));
	ck_assert_uint_eq(space_stats().users, 1);
	ck_assert_uint_eq(tdt_resident(addr, MIB), MIB);
	watch_events();
	sem_post(&seen.may_go);
	ck_assert_int_eq(td_space_put(space), 0);
	check_reclaimed(addr, MIB);
	drain();
	ck_assert(pthread_equal(seen.gone, engine->reapers[0].thread)); /* A5 */
}
END_TEST

/* A7 */
START_TEST(it_can_be_detached_and_another_attached)
{
	struct attacher first, second;
	char *addr = map(MIB);

	ck_assert_int_eq(td_space_reap_cancel(space), -ENOENT);
	attach_thread(&first);
	ck_assert_int_eq(td_space_reap_cancel(space), 0);
	/* at once, whether or not the first one has noticed */
	ck_assert_int_eq(td_space_reap_cancel(space), -ENOENT);
	attach_thread(&second);
	ck_assert_int_eq(attacher_result(&first), -ECANCELED);
	ck_assert_uint_eq(tdt_resident(addr, MIB), MIB);
	ck_assert_int_eq(td_space_put(space), 0);
	ck_assert_int_eq(attacher_result(&second), 0);
	check_reclaimed(addr, MIB);
}
END_TEST

START_TEST(after_a_cancel_the_engine_does_it)
{
	struct attacher attacher;
	char *addr = map(MIB);

	attach_thread(&attacher);
	ck_assert_int_eq(td_space_reap_cancel(space), 0);
	ck_assert_int_eq(attacher_result(&attacher), -ECANCELED);
	watch_events();
	sem_post(&seen.may_go);
	ck_assert_int_eq(td_space_put(space), 0);
	check_reclaimed(addr, MIB);
	drain();
	ck_assert(pthread_equal(seen.gone, engine->reapers[0].thread));
}
END_TEST

START_TEST(what_has_begun_cannot_be_canceled)
{
	struct attacher attacher;
	char *addr = map(MIB);

	ck_assert_int_eq(td_space_reap_cancel(NULL), -EINVAL);
	watch_events();
	attach_thread(&attacher);
	ck_assert_int_eq(td_space_put(space), 0);
	ck_assert_int_eq(td_space_reap_cancel(space), -EALREADY);
	sem_wait(&seen.entered);
	ck_assert_int_eq(td_space_reap_cancel(space), -EALREADY);
	sem_post(&seen.may_go);
	ck_assert_int_eq(attacher_result(&attacher), 0);
	ck_assert_int_eq(td_space_reap_cancel(space), -EALREADY);
	check_reclaimed(addr, MIB);
}
END_TEST

/* A5: put_sync frees in its caller all the same. */
START_TEST(put_sync_does_it_itself_and_sends_it_away)
{
	struct attacher attacher;
	char *addr = map(8 * MIB);

	watch_events();
	sem_post(&seen.may_go);
	attach_thread(&attacher);
	ck_assert_int_eq(td_space_put_sync(space), 0);
	ck_assert_int_eq(td_space_wait(space, TD_EVENT_RECLAIMED, 0), 0);
	ck_assert(pthread_equal(seen.gone, pthread_self()));
	ck_assert_int_eq(attacher_result(&attacher), -ENXIO);
	check_reclaimed(addr, 8 * MIB);
}
END_TEST

START_TEST(put_sync_of_one_user_among_others_leaves_it_asleep)
{
	struct attacher attacher;
	char *addr = map(MIB);

	attach_thread(&attacher);
	ck_assert_int_eq(td_space_get(space), 0);
	ck_assert_int_eq(td_space_put_sync(space), 0);
	ck_assert_ptr_nonnull(atomic_load(&space->attached));
	ck_assert_int_eq(td_space_put(space), 0);
	ck_assert_int_eq(attacher_result(&attacher), 0);
	check_reclaimed(addr, MIB);
}
END_TEST

int main(void)
{
	struct tdt *tests = tdt_suite("space_reap");
	const TTest *all[] = {
		the_attached_thread_frees_the_memory,
		its_cpu_time_is_the_spaces_and_the_threads,
		with_nobody_attached_the_engine_does_it,
		asleep_it_keeps_the_object_and_not_the_memory,
		it_holds_a_count_of_its_own,
		a_lazy_hold_is_enough_to_attach,
		ranges_that_left_before_are_back_too_when_it_returns,
		a_drain_waits_for_what_was_handed_to_it,
		an_engine_may_end_while_a_thread_is_attached,
		there_is_one_attached_reaper_at_most,
		the_dead_and_unknown_flags_are_refused,
		a_reaper_cannot_attach_to_a_space_of_its_engine,
		in_a_forked_child_it_is_the_parents,
		asleep_it_does_nothing,
		its_time_runs_out_while_there_are_users,
		it_can_be_detached_and_another_attached,
		after_a_cancel_the_engine_does_it,
		what_has_begun_cannot_be_canceled,
		put_sync_does_it_itself_and_sends_it_away,
		put_sync_of_one_user_among_others_leaves_it_asleep,
	};

	for (size_t i = 0; i < sizeof(all) / sizeof(*all); i++)
		tdt_add(tests, all[i], setup_space, teardown_space);
	return tdt_run(tests);
}
