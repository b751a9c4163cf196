/* SPDX-License-Identifier: MIT */
/* A12: two events, each by futex, eventfd and callback. */
#include "events.h"
#include "harness.h"

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

static struct tdi_events events;

static void setup(void)
{
	tdi_events_init(&events);
}

static bool is_readable(int fd)
{
	struct pollfd poller = {.fd = fd, .events = POLLIN};

	return poll(&poller, 1, 0) == 1;
}

START_TEST(the_two_events_are_separate)
{
	ck_assert(!tdi_events_happened(&events, 1));
	tdi_events_raise(&events, 1);
	ck_assert(tdi_events_happened(&events, 1));
	ck_assert(!tdi_events_happened(&events, 2));
	ck_assert_int_eq(tdi_events_wait(&events, 1, 0), 0);
	ck_assert_int_eq(tdi_events_wait(&events, 2, 1), -ETIMEDOUT);
	tdi_events_raise(&events, 2);
	ck_assert_int_eq(tdi_events_wait(&events, 2, UINT64_MAX), 0);
}
END_TEST

static void *wait_for_it(void *arg)
{
	return (void *)(intptr_t)tdi_events_wait(&events, *(uint32_t *)arg, UINT64_MAX);
}

START_TEST(all_waiters_are_woken)
{
	uint32_t event = 2;
	pthread_t threads[8];

	for (int i = 0; i < 8; i++)
		pthread_create(&threads[i], NULL, wait_for_it, &event);
	tdi_events_raise(&events, 1); /* must not wake them for good */
	tdi_events_raise(&events, 2);
	for (int i = 0; i < 8; i++) {
		void *result;

		pthread_join(threads[i], &result);
		ck_assert_ptr_null(result);
	}
	ck_assert_uint_eq(atomic_load(&events.waiters[1]), 0);
}
END_TEST

START_TEST(a_wait_bears_signals_and_spurious_wakes)
{
	uint32_t event = 1;
	pthread_t thread;
	void *result;

	tdt_fail(TDI_SYS_futex_wait, -EINTR, 0, 100);
	pthread_create(&thread, NULL, wait_for_it, &event);
	while (tdt_calls(TDI_SYS_futex_wait) < 100)
		sched_yield();
	tdi_events_raise(&events, 1);
	pthread_join(thread, &result);
	ck_assert_ptr_null(result);
}
END_TEST

START_TEST(an_eventfd_is_readable_after_the_event_and_not_before)
{
	int early = -1, late = -1;

	ck_assert_int_eq(tdi_events_add_fd(&events, 1, &early), 0);
	ck_assert(fcntl(early, F_GETFD) & FD_CLOEXEC);
	ck_assert(fcntl(early, F_GETFL) & O_NONBLOCK);
	ck_assert(!is_readable(early));
	tdi_events_raise(&events, 2);
	ck_assert(!is_readable(early));
	tdi_events_raise(&events, 1);
	ck_assert(is_readable(early));
	ck_assert_int_eq(tdi_events_add_fd(&events, 1, &late), 0);
	ck_assert(is_readable(late));
	close(early);
	close(late);
}
END_TEST

START_TEST(a_descriptor_closed_early_does_no_harm)
{
	size_t before = tdt_footprint().descriptors;
	int fd, other[2];
	char byte;

	ck_assert_int_eq(tdi_events_add_fd(&events, 1, &fd), 0);
	close(fd);
	/* takes the closed number over: nothing may be written to it */
	ck_assert_int_eq(pipe2(other, O_NONBLOCK), 0);
	tdi_events_raise(&events, 1);
	ck_assert_int_eq(read(other[0], &byte, 1), -1);
	close(other[0]);
	close(other[1]);
	ck_assert_uint_eq(tdt_footprint().descriptors, before);
}
END_TEST

START_TEST(an_eventfd_that_cannot_be_made_leaves_nothing_behind)
{
	size_t before = tdt_footprint().descriptors;
	int fd = -7;

	static const int errors[] = {-EMFILE, -ENFILE, -ENOMEM, -ENODEV, -EINVAL, -EBADF};

	for (size_t i = 0; i < sizeof(errors) / sizeof(*errors); i++) {
		tdt_fail(TDI_SYS_eventfd, errors[i], 0, 1);
		ck_assert_int_eq(tdi_events_add_fd(&events, 1, &fd), errors[i]);
		tdt_fail_none();
		tdt_fail(TDI_SYS_dup, errors[i], 0, 1);
		ck_assert_int_eq(tdi_events_add_fd(&events, 1, &fd), errors[i]);
		tdt_fail_none();
	}
	ck_assert_int_eq(fd, -7);
	ck_assert_uint_eq(tdt_footprint().descriptors, before);
	tdi_events_raise(&events, 1);
}
END_TEST

static void raise_and_abort(void *arg)
{
	int fd;

	tdt_fail(TDI_SYS_write, *(int *)arg, 0, 1);
	tdi_events_init(&events);
	if (tdi_events_add_fd(&events, 1, &fd) == 0)
		tdi_events_raise(&events, 1);
	if (tdi_events_happened(&events, 1))
		abort(); /* for tdt_expect_death: it was said, and the event happened */
}

START_TEST(a_write_that_fails_is_said_and_the_event_happens)
{
	static int errors[] = {-EAGAIN, -EIO, -EBADF, -EPERM};

	for (size_t i = 0; i < sizeof(errors) / sizeof(*errors); i++)
		tdt_expect_death(raise_and_abort, &errors[i], "cannot signal eventfd");
}
END_TEST

START_TEST(a_write_that_is_interrupted_is_repeated)
{
	int fd;

	ck_assert_int_eq(tdi_events_add_fd(&events, 1, &fd), 0);
	tdt_fail(TDI_SYS_write, -EINTR, 0, 3);
	tdi_events_raise(&events, 1);
	ck_assert_uint_eq(tdt_calls(TDI_SYS_write), 4);
	ck_assert(is_readable(fd));
	close(fd);
}
END_TEST

static int order[4], ordered;

static void called(void)
{
}

static void visit(void *owner, void (*call)(void), void *arg)
{
	ck_assert_ptr_eq(owner, &events);
	ck_assert(call == called);
	order[ordered++] = *(int *)arg;
}

START_TEST(callbacks_are_handed_out_once_in_order)
{
	int numbers[] = {1, 2, 3};

	for (int i = 0; i < 3; i++)
		ck_assert_int_eq(tdi_events_add_call(&events, 1, called, &numbers[i]), 0);
	tdi_events_take_calls(&events, 1, visit, &events);
	ck_assert_int_eq(ordered, 3);
	ck_assert(order[0] == 1 && order[1] == 2 && order[2] == 3);
	ck_assert_int_eq(tdi_events_add_call(&events, 1, called, &numbers[0]), -EALREADY);
	tdi_events_take_calls(&events, 1, visit, &events);
	ck_assert_int_eq(ordered, 3);
	ck_assert_int_eq(tdi_events_add_call(&events, 2, called, &numbers[0]), 0);
	tdi_events_take_calls(&events, 2, visit, &events);
	ck_assert_int_eq(ordered, 4);
}
END_TEST

START_TEST(an_empty_list_of_callbacks_can_be_closed)
{
	int number = 1;

	ck_assert(tdi_events_close_calls(&events, 1));
	ck_assert(!tdi_events_close_calls(&events, 1));
	ck_assert_int_eq(tdi_events_add_call(&events, 1, called, &number), -EALREADY);
	ck_assert_int_eq(tdi_events_add_call(&events, 2, called, &number), 0);
	ck_assert(!tdi_events_close_calls(&events, 2));
	tdi_events_take_calls(&events, 2, visit, &events);
	ck_assert_int_eq(ordered, 1);
}
END_TEST

int main(void)
{
	struct tdt *tests = tdt_suite("events");

	tdt_add(tests, the_two_events_are_separate, setup, NULL);
	tdt_add(tests, all_waiters_are_woken, setup, NULL);
	tdt_add(tests, a_wait_bears_signals_and_spurious_wakes, setup, NULL);
	tdt_add(tests, an_eventfd_is_readable_after_the_event_and_not_before, setup,
		NULL);
	tdt_add(tests, a_descriptor_closed_early_does_no_harm, setup, NULL);
	tdt_add(tests, an_eventfd_that_cannot_be_made_leaves_nothing_behind, setup, NULL);
	tdt_add(tests, a_write_that_fails_is_said_and_the_event_happens, NULL, NULL);
	tdt_add(tests, a_write_that_is_interrupted_is_repeated, setup, NULL);
	tdt_add(tests, callbacks_are_handed_out_once_in_order, setup, NULL);
	tdt_add(tests, an_empty_list_of_callbacks_can_be_closed, setup, NULL);
	return tdt_run(tests);
}
