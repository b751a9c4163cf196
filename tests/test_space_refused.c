/* SPDX-License-Identifier: MIT */
/* A11, A12: teardowns to which the kernel says no, for now or for good. */
#include "base.h"
#include "harness.h"

#include <errno.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <teardown.h>
#include <unistd.h>

static td_engine *engine;
static td_space *space;

static void setup(void)
{
	ck_assert_int_eq(td_engine_create(TD_ENGINE_OPTS(.reapers = 2), &engine), 0);
	ck_assert_int_eq(td_space_create(engine, TD_SPACE_OPTS(.name = "arena"), &space),
			 0);
}

static void teardown(void)
{
	if (engine)
		ck_assert_int_eq(td_engine_destroy(engine, TD_EXIT_DRAIN, 0), 0);
}

static char *map(size_t length)
{
	void *addr;

	ck_assert_int_eq(td_region_map(space, length, NULL, &addr), 0);
	tdt_touch(addr, length);
	return addr;
}

static bool is_readable(int fd, int timeout_ms)
{
	struct pollfd poller = {.fd = fd, .events = POLLIN};

	return poll(&poller, 1, timeout_ms) == 1;
}

START_TEST(pages_that_cannot_be_unmapped_for_now_go_later)
{
	char *addr = map(40 * MIB);
	struct td_space_stats stats;

	ck_assert_int_eq(td_space_grab(space), 0);
	tdt_fail(TDI_SYS_munmap, -ENOMEM, 0, 5);
	ck_assert_int_eq(td_space_put(space), 0);
	ck_assert_int_eq(td_space_wait(space, TD_EVENT_RECLAIMED, TD_FOREVER), 0);
	ck_assert_uint_eq(tdt_mapped(addr, 40 * MIB), 0);
	ck_assert_int_eq(td_space_stats(space, &stats), 0);
	ck_assert_uint_eq(stats.bytes_reclaimed, 40 * MIB);
	ck_assert_int_eq(td_space_drop(space), 0);
}
END_TEST

START_TEST(put_sync_leaves_what_cannot_be_unmapped_to_the_reapers)
{
	char *addr = map(40 * MIB);

	ck_assert_int_eq(td_space_grab(space), 0);
	tdt_fail(TDI_SYS_munmap, -ENOMEM, 0, 12);
	ck_assert_int_eq(td_space_put_sync(space), -EINPROGRESS);
	ck_assert_int_eq(td_space_wait(space, TD_EVENT_RECLAIMED, TD_FOREVER), 0);
	ck_assert_uint_eq(tdt_mapped(addr, 40 * MIB), 0);
	ck_assert_int_eq(td_space_drop(space), 0);
}
END_TEST

START_TEST(a_range_that_is_refused_for_good_is_reported)
{
	char *addr = map(40 * MIB), *other = map(64 * KIB);
	struct td_space_stats stats;

	ck_assert_int_eq(td_space_grab(space), 0);
	tdt_fail(TDI_SYS_munmap, -EPERM, 0, 1);
	ck_assert_int_eq(td_space_put(space), 0);
	ck_assert_int_eq(td_space_wait(space, TD_EVENT_RECLAIMED, TD_FOREVER), -EPERM);
	ck_assert_int_eq(td_space_stats(space, &stats), 0);
	ck_assert_uint_eq(stats.bytes_refused,
			  tdt_mapped(addr, 40 * MIB) + tdt_mapped(other, 64 * KIB));
	ck_assert_uint_gt(stats.bytes_refused, 0);
	ck_assert_int_eq(td_space_drop(space), 0);
}
END_TEST

#ifndef SYS_mseal
#define SYS_mseal 462
#endif

/* Not made to fail: the kernel's own refusal. */
START_TEST(a_sealed_range_is_reported_and_the_rest_goes)
{
	char *sealed = map(64 * KIB), *other = map(8 * MIB);
	struct td_space_stats stats;

	if (syscall(SYS_mseal, sealed, 64 * KIB, 0ul) != 0) {
		ck_assert_int_eq(td_space_put_sync(space), 0);
		tdt_skip("the kernel has no mseal");
		return;
	}
	ck_assert_int_eq(td_space_grab(space), 0);
	ck_assert_int_eq(td_space_put(space), 0);
	ck_assert_int_eq(td_space_wait(space, TD_EVENT_RECLAIMED, TD_FOREVER), -EPERM);
	ck_assert_int_eq(td_space_stats(space, &stats), 0);
	ck_assert_uint_eq(stats.bytes_refused, 64 * KIB);
	ck_assert_uint_eq(stats.bytes_reclaimed, 8 * MIB);
	ck_assert_uint_eq(tdt_mapped(sealed, 64 * KIB), 64 * KIB);
	ck_assert_uint_eq(tdt_mapped(other, 8 * MIB), 0);
	ck_assert_int_eq(td_space_drop(space), 0);
}
END_TEST

enum { MAPPINGS_MAX = 1 << 20 };
static void *mappings[MAPPINGS_MAX];

static size_t fill_up_with_mappings(void)
{
	size_t page = tdi_page_size(), made = 0;

	/* neighbours of different protections are not merged */
	while (made < MAPPINGS_MAX &&
	       (mappings[made] = mmap(NULL, page, made % 2 ? PROT_READ : PROT_NONE,
				      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)) != MAP_FAILED)
		made++;
	return made;
}

/* The real limit on mappings: pieces out of a mapping cannot be unmapped. */
START_TEST(at_the_limit_on_mappings_pages_go_and_ranges_follow)
{
	enum { PIECES = 2000 };
	size_t page = tdi_page_size(), resident, made;
	char *area;
	int err;

	if (TDT_SANITIZED) {
		ck_assert_int_eq(td_space_put(space), 0);
		tdt_skip("a sanitizer needs mappings of its own");
		return;
	}
	area = tdt_map_anon(2 * PIECES * page);
	tdt_touch(area, 2 * PIECES * page);
	for (size_t i = 0; i < PIECES; i++)
		ck_assert_int_eq(td_region_adopt(space, area + 2 * i * page, page, NULL),
				 0);
	ck_assert_int_eq(td_space_grab(space), 0);
	made = fill_up_with_mappings();
	ck_assert_uint_gt(made, 0);
	ck_assert_uint_lt(made, MAPPINGS_MAX);
	err = td_space_put_sync(space);
	resident = 0;
	for (size_t i = 0; i < PIECES; i++)
		resident += tdt_resident(area + 2 * i * page, page);
	ck_assert_int_eq(err, -EINPROGRESS);
	ck_assert_uint_eq(resident, 0);
	ck_assert_int_eq(td_region_adopt(space, area, page, NULL), -ENXIO);
	/* room again: the reapers get through */
	while (made > 0)
		ck_assert_int_eq(munmap(mappings[--made], page), 0);
	ck_assert_int_eq(td_space_wait(space, TD_EVENT_RECLAIMED, TD_FOREVER), 0);
	ck_assert_uint_eq(tdt_mapped(area, 2 * PIECES * page), PIECES * page);
	ck_assert_int_eq(td_space_drop(space), 0);
}
END_TEST

/* Every call that a put and its teardown make, failing at every place it is made. */
START_TEST(whatever_fails_everything_goes_and_is_told)
{
	static const struct {
		enum tdi_sys_call call;
		int err;
	} faults[] = {
		{TDI_SYS_madvise, -EAGAIN},    {TDI_SYS_madvise, -EINVAL},
		{TDI_SYS_madvise, -ENOMEM},    {TDI_SYS_madvise, -EPERM},
		{TDI_SYS_madvise, -EBADF},     {TDI_SYS_munmap, -ENOMEM},
		{TDI_SYS_munmap, -EAGAIN},     {TDI_SYS_futex_wait, -EINTR},
		{TDI_SYS_futex_wait, -EAGAIN}, {TDI_SYS_write, -EINTR},
		{TDI_SYS_close, -EINTR},       {TDI_SYS_close, -EIO},
	};

	for (size_t i = 0; i < sizeof(faults) / sizeof(*faults); i++) {
		for (unsigned first = 0; first < 4; first++) {
			size_t descriptors = tdt_footprint().descriptors;
			char *large, *small;
			int fd;

			large = map(24 * MIB);
			small = map(64 * KIB);
			ck_assert_int_eq(td_space_grab(space), 0);
			ck_assert_int_eq(td_space_eventfd(space, TD_EVENT_GONE, &fd), 0);
			tdt_fail(faults[i].call, faults[i].err, first, 2);
			ck_assert_int_eq(td_space_put(space), 0);
			ck_assert_int_eq(
				td_space_wait(space, TD_EVENT_RECLAIMED, TD_FOREVER), 0);
			ck_assert_int_eq(td_engine_drain(engine, TD_FOREVER), 0);
			ck_assert(is_readable(fd, 0));
			ck_assert_uint_eq(tdt_mapped(large, 24 * MIB), 0);
			ck_assert_uint_eq(tdt_mapped(small, 64 * KIB), 0);
			ck_assert_int_eq(td_space_drop(space), 0);
			close(fd);
			ck_assert_int_eq(td_space_create(engine, NULL, &space), 0);
			/* a close that was made to fail was not made at all */
			if (faults[i].call != TDI_SYS_close)
				ck_assert_uint_eq(tdt_footprint().descriptors,
						  descriptors);
		}
	}
	tdt_fail_none();
	ck_assert_int_eq(td_space_put(space), 0);
}
END_TEST

int main(void)
{
	struct tdt *tests = tdt_suite("space_refused");

	tdt_add(tests, pages_that_cannot_be_unmapped_for_now_go_later, setup, teardown);
	tdt_add(tests, put_sync_leaves_what_cannot_be_unmapped_to_the_reapers, setup,
		teardown);
	tdt_add(tests, a_range_that_is_refused_for_good_is_reported, setup, teardown);
	tdt_add(tests, a_sealed_range_is_reported_and_the_rest_goes, setup, teardown);
	tdt_add(tests, at_the_limit_on_mappings_pages_go_and_ranges_follow, setup,
		teardown);
	tdt_add(tests, whatever_fails_everything_goes_and_is_told, setup, teardown);
	return tdt_run(tests);
}
