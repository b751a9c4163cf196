/* SPDX-License-Identifier: MIT */
/*
 * D5: memory that is registered with a userfaultfd. Nobody reads its events here: a
 * teardown that did not unregister it first would wait for that for ever.
 */
#include "memory.h"

#include <errno.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>

#define LENGTH (8 * MIB)

/* -1, and the test is skipped: there is none to be had. */
static int make_userfaultfd(void)
{
	struct uffdio_api api = {.api = UFFD_API,
				 .features = UFFD_FEATURE_EVENT_REMAP |
					     UFFD_FEATURE_EVENT_REMOVE |
					     UFFD_FEATURE_EVENT_UNMAP};
	int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);

	if (fd >= 0 && ioctl(fd, UFFDIO_API, &api) != 0) {
		close(fd);
		fd = -1;
	}
	if (fd < 0)
		tdt_skip("no userfaultfd with events: %s", strerror(errno));
	return fd;
}

static void enlist(int fd, char *addr, size_t length)
{
	struct uffdio_register range = {.range = {(uintptr_t)addr, length},
					.mode = UFFDIO_REGISTER_MODE_MISSING};

	ck_assert_int_eq(ioctl(fd, UFFDIO_REGISTER, &range), 0);
}

static void fill_page(int fd, char *addr)
{
	static char page[64 * KIB];
	struct uffdio_copy copy = {
		.dst = (uintptr_t)addr, .src = (uintptr_t)page, .len = tdi_page_size()};

	ck_assert_int_eq(ioctl(fd, UFFDIO_COPY, &copy), 0);
}

/* Enlisted, with some pages there and most missing. */
static char *make(td_space *space, int fd, bool adopt)
{
	const struct td_region_opts *opts =
		TD_REGION_OPTS(.flags = TD_REGION_UFFD, .uffd = fd);
	void *addr;

	if (adopt) {
		addr = tdt_map_anon(LENGTH);
		enlist(fd, addr, LENGTH);
		ck_assert_int_eq(td_region_adopt(space, addr, LENGTH, opts), 0);
	} else {
		ck_assert_int_eq(td_region_map(space, LENGTH, opts, &addr), 0);
		enlist(fd, addr, LENGTH);
	}
	for (size_t at = 0; at < LENGTH / 2; at += 64 * KIB)
		fill_page(fd, (char *)addr + at);
	return addr;
}

START_TEST(memory_with_a_userfaultfd_is_not_held_up_by_its_events)
{
	int fd = make_userfaultfd();
	struct pollfd unread = {.fd = fd, .events = POLLIN};
	size_t before;

	if (fd < 0)
		return;
	before = tdt_footprint().descriptors;
	for (unsigned i = 0; i < 2 * WAYS; i++) {
		td_space *space = make_space(0);
		char *addr = make(space, fd, i % 2 == 1);

		give_back(space, addr, LENGTH, (enum way)(i / 2));
		ck_assert_int_eq(poll(&unread, 1, 0), 0);
		ck_assert_int_eq(td_engine_drain(engine, TD_FOREVER), 0);
		ck_assert_uint_eq(tdt_footprint().descriptors, before);
	}
	close(fd);
}
END_TEST

/* Moving it would be an event, too: it stays until a reaper has left the userfaultfd. */
START_TEST(a_space_that_leaves_at_once_does_not_move_it)
{
	int fd = make_userfaultfd();
	td_space *space;

	if (fd < 0)
		return;
	for (unsigned i = 0; i < 4; i++) {
		char *addr;

		space = make_space(TD_SPACE_DETACH);
		addr = make(space, fd, i % 2 == 1);
		give_back(space, addr, LENGTH, i < 2 ? PUT : PUT_SYNC);
	}
	close(fd);
}
END_TEST

START_TEST(a_part_of_it_can_be_unmapped_and_the_rest_stays_enlisted)
{
	int fd = make_userfaultfd();

	if (fd < 0)
		return;
	for (unsigned way = UNMAP_HERE; way <= UNMAP_LATER; way++) {
		td_space *space = make_space(0);
		char *addr = make(space, fd, false);

		unmap_region(space, addr + 2 * MIB, 2 * MIB, (enum way)way);
		fill_page(fd, addr + LENGTH - MIB);
		fill_page(fd, addr + MIB + tdi_page_size());
		ck_assert_uint_eq(stats_of(space).regions, 2);
		ck_assert_int_eq(td_space_put_sync(space), 0);
		ck_assert_uint_eq(tdt_mapped(addr, LENGTH), 0);
	}
	close(fd);
}
END_TEST

/* The host may be done with it before the memory is. */
START_TEST(the_host_may_close_its_userfaultfd)
{
	for (unsigned way = 0; way < WAYS; way++) {
		size_t before = tdt_footprint().descriptors;
		int fd = make_userfaultfd();
		td_space *space;
		char *addr;

		if (fd < 0)
			return;
		space = make_space(0);
		addr = make(space, fd, false);
		close(fd);
		give_back(space, addr, LENGTH, (enum way)way);
		ck_assert_int_eq(td_engine_drain(engine, TD_FOREVER), 0);
		ck_assert_uint_eq(tdt_footprint().descriptors, before);
	}
}
END_TEST

/* Waits for a page that nobody brings; a fault is as good an end as any. */
static void *wait_for_page(void *arg)
{
	if (sigsetjmp(out_of_fault, 1) == 0)
		(void)*(const volatile char *)arg;
	return NULL;
}

START_TEST(those_who_wait_for_a_page_are_woken)
{
	struct sigaction action = {.sa_handler = on_fault};

	ck_assert_int_eq(sigaction(SIGSEGV, &action, NULL), 0);
	for (unsigned way = 0; way < WAYS; way++) {
		struct pollfd waits = {.fd = make_userfaultfd(), .events = POLLIN};
		pthread_t thread;
		td_space *space;
		char *addr;

		if (waits.fd < 0)
			return;
		space = make_space(0);
		addr = make(space, waits.fd, false);
		pthread_create(&thread, NULL, wait_for_page, addr + LENGTH - 1);
		ck_assert_int_eq(poll(&waits, 1, -1), 1);
		ck_assert_int_eq(waits.revents, POLLIN);
		ck_assert_int_eq(
			td_engine_set_munmap_threshold(
				engine, way == UNMAP_LATER ? tdi_page_size() : SIZE_MAX),
			0);
		ck_assert_int_eq(td_space_grab(space), 0);
		if (way == UNMAP_HERE || way == UNMAP_LATER)
			ck_assert_int_eq(td_region_unmap(space, addr, LENGTH), 0);
		if (way == PUT_SYNC)
			ck_assert_int_eq(td_space_put_sync(space), 0);
		else
			ck_assert_int_eq(td_space_put(space), 0);
		ck_assert_int_eq(pthread_join(thread, NULL), 0);
		ck_assert_int_eq(td_space_wait(space, TD_EVENT_RECLAIMED, TD_FOREVER), 0);
		ck_assert_uint_eq(tdt_mapped(addr, LENGTH), 0);
		ck_assert_int_eq(td_space_drop(space), 0);
		close(waits.fd);
	}
}
END_TEST

START_TEST(a_userfaultfd_that_cannot_be_left_does_not_stop_the_teardown)
{
	int fd = make_userfaultfd();
	td_space *space;
	void *mapped;

	if (fd < 0)
		return;
	space = make_space(0);
	ck_assert_int_eq(
		td_region_map(space, LENGTH,
			      TD_REGION_OPTS(.flags = TD_REGION_UFFD, .uffd = fd),
			      &mapped),
		0);
	fill(mapped, 'x', LENGTH); /* never enlisted: there are no events to wait for */
	tdt_fail(TDI_SYS_ioctl, -EINVAL, 0, 1);
	give_back(space, mapped, LENGTH, PUT);
	close(fd);
}
END_TEST

START_TEST(what_is_no_descriptor_is_refused)
{
	size_t before = tdt_footprint().mappings;
	td_space *space = make_space(0);
	char *addr = tdt_map_anon(LENGTH);
	void *mapped = (void *)1;

	ck_assert_int_eq(
		td_region_map(space, LENGTH,
			      TD_REGION_OPTS(.flags = TD_REGION_UFFD, .uffd = -1),
			      &mapped),
		-EBADF);
	ck_assert_ptr_eq(mapped, (void *)1);
	ck_assert_int_eq(
		td_region_adopt(space, addr, LENGTH,
				TD_REGION_OPTS(.flags = TD_REGION_UFFD, .uffd = 9999)),
		-EBADF);
	ck_assert_uint_eq(tdt_mapped(addr, LENGTH), LENGTH);
	ck_assert_uint_eq(stats_of(space).regions, 0);
	munmap(addr, LENGTH);
	tdt_check_mappings(before, 0);
	ck_assert_int_eq(td_space_put(space), 0);
}
END_TEST

int main(void)
{
	struct tdt *tests = tdt_suite("userfault");
	const TTest *all[] = {
		memory_with_a_userfaultfd_is_not_held_up_by_its_events,
		a_space_that_leaves_at_once_does_not_move_it,
		a_part_of_it_can_be_unmapped_and_the_rest_stays_enlisted,
		the_host_may_close_its_userfaultfd,
		those_who_wait_for_a_page_are_woken,
		a_userfaultfd_that_cannot_be_left_does_not_stop_the_teardown,
		what_is_no_descriptor_is_refused,
	};

	for (size_t i = 0; i < sizeof(all) / sizeof(*all); i++)
		tdt_add(tests, all[i], setup, teardown);
	return tdt_run(tests);
}
