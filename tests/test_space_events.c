/* SPDX-License-Identifier: MIT */
/* A12: the two events of a space: waited for, by eventfd, and by callback. */
#include "arena.h"
#include "space_internal.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <string.h>
#include <unistd.h>

/* A12 */
START_TEST(gone_comes_with_the_put_and_reclaimed_when_a_reaper_is_through)
{
	struct plug plugs[2];
	char *addr = map(64 * KIB);

	plug_all_reapers(plugs);
	ck_assert_int_eq(td_space_grab(space), 0);
	ck_assert_int_eq(td_space_wait(space, TD_EVENT_GONE, 0), -ETIMEDOUT);
	ck_assert_int_eq(td_space_put(space), 0);
	ck_assert_int_eq(td_space_wait(space, TD_EVENT_GONE, 0), 0);
	ck_assert_int_eq(td_space_wait(space, TD_EVENT_RECLAIMED, 0), -ETIMEDOUT);
	ck_assert_int_eq(td_space_wait(space, TD_EVENT_RECLAIMED, 1000000), -ETIMEDOUT);
	ck_assert_uint_eq(tdt_resident(addr, 64 * KIB), 64 * KIB);
	unplug(plugs);
	ck_assert_int_eq(td_space_wait(space, TD_EVENT_RECLAIMED, 0), 0);
	ck_assert_uint_eq(tdt_mapped(addr, 64 * KIB), 0);
	ck_assert_int_eq(td_space_drop(space), 0);
}
END_TEST

START_TEST(no_such_event)
{
	int fd = -3;

	ck_assert_int_eq(td_space_wait(space, (enum td_event)0, 0), -EINVAL);
	ck_assert_int_eq(td_space_wait(space, (enum td_event)3, 0), -EINVAL);
	ck_assert_int_eq(td_space_eventfd(space, (enum td_event)4, &fd), -EINVAL);
	ck_assert_int_eq(td_space_on_event(space, TD_EVENT_GONE, NULL, NULL), -EINVAL);
	ck_assert_int_eq(td_space_wait(NULL, TD_EVENT_GONE, 0), -EINVAL);
	ck_assert_int_eq(fd, -3);
	ck_assert_int_eq(td_space_put(space), 0);
}
END_TEST

START_TEST(eventfds_tell_the_events_apart)
{
	struct plug plugs[2];
	int gone, reclaimed;

	plug_all_reapers(plugs);
	map(64 * KIB);
	ck_assert_int_eq(td_space_eventfd(space, TD_EVENT_GONE, &gone), 0);
	ck_assert_int_eq(td_space_eventfd(space, TD_EVENT_RECLAIMED, &reclaimed), 0);
	ck_assert(!is_readable(gone, 0));
	ck_assert_int_eq(td_space_put(space), 0);
	ck_assert(is_readable(gone, 0));
	ck_assert(!is_readable(reclaimed, 0));
	unplug(plugs);
	ck_assert(is_readable(reclaimed, 0));
	close(gone);
	close(reclaimed);
}
END_TEST

START_TEST(callbacks_run_on_a_reaper_in_the_order_of_the_events)
{
	sem_init(&called_back, 0, 0);
	map(64 * KIB);
	ck_assert_int_eq(
		td_space_on_event(space, TD_EVENT_RECLAIMED, on_event, &called_back), 0);
	ck_assert_int_eq(td_space_on_event(space, TD_EVENT_GONE, on_event, &called_back),
			 0);
	ck_assert_int_eq(td_space_put(space), 0);
	ck_assert_int_eq(td_engine_drain(engine, TD_FOREVER), 0);
	ck_assert_int_eq(atomic_load(&ncalls), 2);
	ck_assert_int_eq(calls[0].event, TD_EVENT_GONE);
	ck_assert_int_eq(calls[1].event, TD_EVENT_RECLAIMED);
	for (int i = 0; i < 2; i++) {
		ck_assert(calls[i].on_reaper);
		ck_assert_int_eq(calls[i].status, 0);
		ck_assert_uint_eq(calls[i].users, 0);
	}
}
END_TEST

static atomic_bool callback_over;

struct held {
	char *addr;
	size_t length;
};

static void take_a_while(td_space *of, enum td_event event, int status, void *arg)
{
	uint64_t end = tdi_sys_deadline(20000000);
	struct held *memory = arg;

	(void)of;
	(void)event;
	(void)status;
	/* nothing goes while the callback runs, though the other reaper is free */
	while (tdi_sys_now_ns() < end)
		ck_assert_uint_eq(tdt_resident(memory->addr, memory->length),
				  memory->length);
	atomic_store(&callback_over, true);
}

START_TEST(memory_waits_for_the_callbacks_for_gone)
{
	struct held memory = {map(8 * MIB), 256 * KIB};

	ck_assert_int_eq(td_space_on_event(space, TD_EVENT_GONE, take_a_while, &memory),
			 0);
	put_and_wait();
	ck_assert(atomic_load(&callback_over));
}
END_TEST

static void *wait_reclaimed(void *arg)
{
	return (void *)(intptr_t)td_space_wait(arg, TD_EVENT_RECLAIMED, TD_FOREVER);
}

START_TEST(gone_does_not_wake_those_who_wait_for_reclaimed)
{
	struct plug plugs[2];
	pthread_t thread;
	void *result;

	plug_all_reapers(plugs);
	ck_assert_int_eq(td_space_grab(space), 0);
	pthread_create(&thread, NULL, wait_reclaimed, space);
	while (atomic_load(&space->events.waiters[1]) < 1)
		sched_yield();
	tdt_fail_none();
	ck_assert_int_eq(td_space_put(space), 0);
	ck_assert_uint_eq(tdt_calls(TDI_SYS_futex_wake), 0); /* nobody sleeps for us */
	unplug(plugs);
	pthread_join(thread, &result);
	ck_assert_ptr_null(result);
	ck_assert_int_eq(td_space_drop(space), 0);
}
END_TEST

START_TEST(a_callback_for_what_has_happened_is_refused)
{
	sem_init(&called_back, 0, 0);
	ck_assert_int_eq(td_space_grab(space), 0);
	ck_assert_int_eq(td_space_put(space), 0);
	ck_assert_int_eq(td_space_on_event(space, TD_EVENT_GONE, on_event, &called_back),
			 -EALREADY);
	ck_assert_int_eq(td_space_wait(space, TD_EVENT_RECLAIMED, TD_FOREVER), 0);
	ck_assert_int_eq(
		td_space_on_event(space, TD_EVENT_RECLAIMED, on_event, &called_back),
		-EALREADY);
	ck_assert_int_eq(td_space_drop(space), 0);
	ck_assert_int_eq(atomic_load(&ncalls), 0);
}
END_TEST

static void make_another(td_space *of, enum td_event event, int status, void *arg)
{
	td_space *another;
	void *addr;

	(void)of;
	(void)event;
	(void)status;
	ck_assert_int_eq(td_space_create(engine, NULL, &another), 0);
	ck_assert_int_eq(td_region_map(another, MIB, NULL, &addr), 0);
	tdt_touch(addr, MIB);
	ck_assert_int_eq(td_space_put(another), 0);
	sem_post(arg);
}

START_TEST(a_callback_may_create_and_put_spaces)
{
	sem_init(&called_back, 0, 0);
	ck_assert_int_eq(
		td_space_on_event(space, TD_EVENT_RECLAIMED, make_another, &called_back),
		0);
	ck_assert_int_eq(td_space_put(space), 0);
	sem_wait(&called_back);
	ck_assert_int_eq(td_engine_drain(engine, TD_FOREVER), 0);
}
END_TEST

int main(void)
{
	struct tdt *tests = tdt_suite("space_events");
	const TTest *all[] = {
		gone_comes_with_the_put_and_reclaimed_when_a_reaper_is_through,
		no_such_event,
		eventfds_tell_the_events_apart,
		callbacks_run_on_a_reaper_in_the_order_of_the_events,
		memory_waits_for_the_callbacks_for_gone,
		gone_does_not_wake_those_who_wait_for_reclaimed,
		a_callback_for_what_has_happened_is_refused,
		a_callback_may_create_and_put_spaces,
	};

	for (size_t i = 0; i < sizeof(all) / sizeof(*all); i++)
		tdt_add(tests, all[i], setup, teardown);
	return tdt_run(tests);
}
