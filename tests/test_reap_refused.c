/* SPDX-License-Identifier: MIT */
/* A1, A11: td_space_reap where the kernel says no. */
#include "reaping.h"

#include <errno.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>

START_TEST(what_cannot_be_unmapped_for_now_is_left_to_the_engine)
{
	struct attacher attacher;
	char *addr = map(40 * MIB);

	attach_thread(&attacher);
	tdt_fail(TDI_SYS_munmap, -ENOMEM, 0, 12);
	ck_assert_int_eq(td_space_put(space), 0);
	ck_assert_int_eq(attacher_result(&attacher), -EINPROGRESS);
	check_reclaimed(addr, 40 * MIB);
}
END_TEST

START_TEST(what_is_refused_for_good_is_told_to_those_who_wait)
{
	struct attacher attacher;
	char *addr = map(40 * MIB);
	struct td_space_stats now;

	attach_thread(&attacher);
	tdt_fail(TDI_SYS_munmap, -EPERM, 0, 1);
	ck_assert_int_eq(td_space_put(space), 0);
	ck_assert_int_eq(attacher_result(&attacher), 0);
	ck_assert_int_eq(td_space_wait(space, TD_EVENT_RECLAIMED, 0), -EPERM);
	now = space_stats();
	ck_assert_uint_gt(now.bytes_refused, 0);
	ck_assert_uint_eq(now.bytes_refused, tdt_mapped(addr, 40 * MIB));
}
END_TEST

/* Every call that it makes, failing at every place. */
START_TEST(whatever_fails_everything_goes)
{
	static const struct {
		enum tdi_sys_call call;
		int err;
	} faults[] = {
		{TDI_SYS_futex_wait, -EINTR}, {TDI_SYS_futex_wait, -EAGAIN},
		{TDI_SYS_madvise, -EAGAIN},   {TDI_SYS_madvise, -EINVAL},
		{TDI_SYS_munmap, -ENOMEM},    {TDI_SYS_munmap, -EAGAIN},
	};

	for (size_t i = 0; i < sizeof(faults) / sizeof(*faults); i++) {
		for (unsigned first = 0; first < 4; first++) {
			struct attacher attacher;
			char *addr = map(24 * MIB);

			tdt_fail(faults[i].call, faults[i].err, first, 2);
			attach_thread(&attacher);
			ck_assert_int_eq(td_space_put(space), 0);
			ck_assert_int_eq(attacher_result(&attacher), 0);
			tdt_fail_none();
			check_reclaimed(addr, 24 * MIB);
			ck_assert_int_eq(td_space_drop(space), 0);
			space = make_space("arena");
			ck_assert_int_eq(td_space_grab(space), 0);
		}
	}
	ck_assert_int_eq(td_space_put(space), 0);
}
END_TEST

/* Without a thread of the engine it is the same. */
START_TEST(an_engine_without_threads_needs_none)
{
	struct attacher attacher;
	char *addr;

	ck_assert_int_eq(td_space_put(space), 0);
	ck_assert_int_eq(td_space_drop(space), 0);
	tdt_fail(TDI_SYS_thread_create, -EAGAIN, 0, UINT32_MAX);
	ck_assert_int_eq(td_space_create(NULL, NULL, &space), 0);
	ck_assert_int_eq(td_space_grab(space), 0);
	addr = map(8 * MIB);
	attach_thread(&attacher);
	ck_assert_int_eq(td_space_put(space), 0);
	ck_assert_int_eq(attacher_result(&attacher), 0);
	check_reclaimed(addr, 8 * MIB);
}
END_TEST

static unsigned heaps(void)
{
	char *text = NULL;
	size_t size;
	FILE *file = open_memstream(&text, &size);
	unsigned found = 0;

	ck_assert_ptr_nonnull(file);
	ck_assert_int_eq(malloc_info(0, file), 0);
	ck_assert_int_eq(fclose(file), 0);
	for (const char *at = text; (at = strstr(at, "<heap nr=")) != NULL; at++)
		found++;
	free(text);
	return found;
}

/* A11: its first free would have the allocator map a heap for the thread, in the middle
 * of the teardown, and as a rule where the memory has just been. */
START_TEST(the_allocator_is_ready_before_it_sleeps)
{
	char *addr = map(8 * MIB);
	struct attacher attacher;
	unsigned before;

	if (TDT_SANITIZED) {
		tdt_skip("a sanitizer's allocator has no heaps to count");
		ck_assert_int_eq(td_space_put(space), 0);
		return;
	}
	attach_thread(&attacher);
	before = heaps();
	ck_assert_uint_gt(before, 1);
	ck_assert_int_eq(td_space_put(space), 0);
	ck_assert_int_eq(attacher_result(&attacher), 0);
	ck_assert_uint_eq(heaps(), before);
	check_reclaimed(addr, 8 * MIB);
}
END_TEST

int main(void)
{
	struct tdt *tests = tdt_suite("reap_refused");
	const TTest *all[] = {
		the_allocator_is_ready_before_it_sleeps,
		what_cannot_be_unmapped_for_now_is_left_to_the_engine,
		what_is_refused_for_good_is_told_to_those_who_wait,
		whatever_fails_everything_goes,
		an_engine_without_threads_needs_none,
	};

	for (size_t i = 0; i < sizeof(all) / sizeof(*all); i++)
		tdt_add(tests, all[i], setup_space, teardown_space);
	return tdt_run(tests);
}
