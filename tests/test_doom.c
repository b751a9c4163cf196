/* SPDX-License-Identifier: MIT */
/* Z1-Z5 of doom.h; D1 (phases two and three), D9, A13 (resuming). */
#include "doom.h"
#include "harness.h"

#include <limits.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

static struct tdi_doom doom;
static atomic_uint unmaps, done_with;
static _Atomic(struct tdi_extent *) last_done;

static int count_unmap(struct tdi_extent *extent, uintptr_t start, size_t length)
{
	ck_assert_uint_eq(start, extent->start + extent->unmapped);
	atomic_fetch_add(&unmaps, 1);
	return tdi_sys_munmap((void *)start, length);
}

static void on_done(struct tdi_doom *of, struct tdi_extent *extent)
{
	ck_assert_ptr_eq(of, &doom);
	last_done = extent;
	done_with++;
}

static void setup(void)
{
	tdi_doom_init(&doom, "test");
	doom.unmap = count_unmap;
	doom.extent_done = on_done;
}

static void teardown(void)
{
	tdi_doom_destroy(&doom);
}

/* One slice that ends after its first step. */
static int slice_until(uint64_t deadline_ns, uint64_t *released, unsigned *parallel)
{
	struct td_slice slice = {
		.deadline_ns = deadline_ns, .target_ns = 500000, .parallel = 1};
	int result = tdi_doom_slice(&doom, &slice);

	if (released)
		*released += slice.released;
	if (parallel)
		*parallel = slice.parallel;
	return result;
}

static int slice_once(uint64_t *released, unsigned *parallel)
{
	return slice_until(0, released, parallel);
}

/* Until it is done, or put off. */
static int run_to_end(uint64_t *released)
{
	int result;

	do {
		result = slice_until(UINT64_MAX, released, NULL);
	} while (result == TD_WORK_MORE);
	return result;
}

START_TEST(nothing_is_done_at_once)
{
	ck_assert_int_eq(slice_once(NULL, NULL), TD_WORK_DONE);
}
END_TEST

START_TEST(a_large_extent_is_zapped_in_steps_and_then_unmapped)
{
	size_t length = 48 * MIB;
	char *addr = tdt_map_anon(length);
	struct tdi_extent extent;
	uint64_t released = 0;
	unsigned steps = 0;

	tdt_touch(addr, length);
	tdi_extent_init(&extent, &TDI_BACKING_ANON, (uintptr_t)addr, length);
	tdi_doom_add(&doom, &extent);
	/* Z1: while pages go, all of the range stays mapped */
	while (extent.zapped < length) {
		ck_assert_int_eq(slice_once(&released, NULL), TD_WORK_MORE);
		ck_assert_uint_eq(tdt_mapped(addr, length), length);
		ck_assert_uint_eq(tdt_resident(addr, extent.zapped), 0);
		ck_assert_uint_eq(released, extent.zapped);
		steps++;
	}
	ck_assert_uint_ge(steps, 2);
	ck_assert_uint_eq(atomic_load(&unmaps), 0);
	ck_assert_int_eq(run_to_end(&released), TD_WORK_DONE);
	ck_assert_uint_eq(tdt_mapped(addr, length), 0);
	ck_assert_uint_eq(released, length);
	ck_assert_uint_ge(atomic_load(&unmaps), 1);
	ck_assert_uint_eq(atomic_load(&done_with), 1);
	ck_assert_ptr_eq(atomic_load(&last_done), &extent);
}
END_TEST

START_TEST(a_small_extent_is_simply_unmapped)
{
	size_t length = 16 * tdi_page_size();
	char *addr = tdt_map_anon(length);
	struct tdi_extent extent;
	uint64_t released = 0;

	tdt_touch(addr, length);
	tdt_fail_none();
	tdi_extent_init(&extent, &TDI_BACKING_ANON, (uintptr_t)addr, length);
	tdi_doom_add(&doom, &extent);
	ck_assert_int_eq(run_to_end(&released), TD_WORK_DONE);
	ck_assert_uint_eq(tdt_calls(TDI_SYS_madvise), 0);
	ck_assert_uint_eq(tdt_calls(TDI_SYS_munmap), 1);
	ck_assert_uint_eq(released, length);
	ck_assert_uint_eq(tdt_mapped(addr, length), 0);
}
END_TEST

START_TEST(steps_end_on_page_table_boundaries)
{
	size_t pmd = tdi_pmd_size(), length = 24 * MIB;
	char *area = tdt_map_anon(length + pmd);
	char *addr = (char *)tdi_align_up((uintptr_t)area, pmd) + tdi_page_size();
	struct tdi_extent extent;

	tdi_extent_init(&extent, &TDI_BACKING_ANON, (uintptr_t)addr,
			length - tdi_page_size());
	tdi_doom_add(&doom, &extent);
	while (extent.zapped < extent.length) {
		ck_assert(extent.zapped == 0 ||
			  tdi_is_aligned(extent.start + extent.zapped, pmd));
		ck_assert_int_eq(slice_once(NULL, NULL), TD_WORK_MORE);
	}
	ck_assert_int_eq(run_to_end(NULL), TD_WORK_DONE);
	munmap(area, length + pmd);
}
END_TEST

/* A13: a kind that takes its time is called with ever smaller parts. */
static size_t slow_largest, slow_last;

static int slow_zap(const struct tdi_extent *extent, uintptr_t start, size_t length)
{
	uint64_t end =
		tdi_sys_now_ns() + length / tdi_page_size() * 2000; /* 2 us a page */

	(void)extent;
	(void)start;
	while (tdi_sys_now_ns() < end)
		;
	slow_last = length;
	if (length > slow_largest)
		slow_largest = length;
	return 0;
}

START_TEST(steps_shrink_where_pages_are_slow)
{
	static const struct tdi_kind slow = {.name = "slow", .zap = slow_zap};
	size_t length = 64 * MIB;
	char *addr = tdt_map_anon(length);
	struct tdi_backing backing = {.kind = &slow, .fd = -1, .uffd = -1};
	struct tdi_extent extent;

	tdi_extent_init(&extent, &backing, (uintptr_t)addr, length);
	tdi_doom_add(&doom, &extent);
	for (int i = 0; i < 8; i++)
		ck_assert_int_eq(slice_once(NULL, NULL), TD_WORK_MORE);
	ck_assert_uint_gt(slow_largest, slow_last);
	ck_assert_uint_eq(slow_last, tdi_pmd_size()); /* 1 ms: as small as it gets */
	munmap(addr, length);
}
END_TEST

START_TEST(locked_memory_is_released_without_unlocking_it)
{
	size_t length = 6 * MIB; /* within the usual limit */
	char *addr = tdt_map_anon(length);
	struct tdi_extent extent;

	if (TDT_SANITIZED) {
		tdt_skip("sanitizers make mlock do nothing");
		return;
	}
	if (mlock(addr, length) != 0) {
		tdt_skip("cannot lock %zu bytes", length);
		return;
	}
	ck_assert_int_eq(tdi_sys_madvise(addr, tdi_page_size(), MADV_DONTNEED), -EINVAL);
	if (tdi_sys_madvise(addr, tdi_page_size(), 24 /* MADV_DONTNEED_LOCKED */) != 0) {
		tdt_skip("the kernel is older than 5.18");
		return;
	}
	ck_assert_uint_eq(tdt_resident(addr, length), length - tdi_page_size());
	tdi_extent_init(&extent, &TDI_BACKING_ANON, (uintptr_t)addr, length);
	tdi_doom_add(&doom, &extent);
	while (extent.zapped < length)
		ck_assert_int_eq(slice_once(NULL, NULL), TD_WORK_MORE);
	ck_assert_uint_eq(tdt_resident(addr, length), 0);
	ck_assert_uint_eq(tdt_mapped(addr, length), length);
	ck_assert_int_eq(run_to_end(NULL), TD_WORK_DONE);
	ck_assert_uint_eq(tdt_mapped(addr, length), 0);
}
END_TEST

/* Whatever madvise answers, the memory goes, in steps, and each address once. */
START_TEST(when_pages_cannot_be_zapped_they_go_with_the_unmapping)
{
	static const int errors[] = {-EAGAIN, -EBADF, -EINVAL, -EIO,
				     -ENOMEM, -EPERM, -EINTR,  -ENOSYS};
	size_t length = 40 * MIB;

	for (size_t i = 0; i < sizeof(errors) / sizeof(*errors); i++) {
		for (unsigned first = 0; first < 2; first++) {
			char *addr = tdt_map_anon(length);
			struct tdi_extent extent;
			uint64_t released = 0;

			tdt_touch(addr, length);
			tdt_fail(TDI_SYS_madvise, errors[i], first, UINT_MAX);
			tdt_fail(TDI_SYS_munmap, 0, 0, 0);
			tdi_extent_init(&extent, &TDI_BACKING_ANON, (uintptr_t)addr,
					length);
			tdi_doom_add(&doom, &extent);
			ck_assert_int_eq(run_to_end(&released), TD_WORK_DONE);
			ck_assert_uint_eq(tdt_mapped(addr, length), 0);
			ck_assert_uint_eq(released, length);
			ck_assert_uint_ge(tdt_calls(TDI_SYS_munmap), 2);
			ck_assert_int_eq(doom.status, 0);
		}
	}
}
END_TEST

/* Z2, Z5: what was unmapped before the refusal is not touched by the retry. */
START_TEST(an_unmapping_refused_for_now_resumes_where_it_stopped)
{
	static const int errors[] = {-ENOMEM, -EAGAIN, -EINTR};
	size_t length = 40 * MIB;

	for (size_t i = 0; i < sizeof(errors) / sizeof(*errors); i++) {
		char *addr = tdt_map_anon(length), *intruder;
		struct tdi_extent extent;
		uint64_t released = 0;

		atomic_store(&unmaps, 0);
		tdt_touch(addr, length);
		/* unmapping in steps, of which the third is refused twice */
		tdt_fail_detail(TDI_SYS_madvise, MADV_DONTNEED, -EIO, 0, 1);
		tdt_fail(TDI_SYS_munmap, errors[i], 2, 2);
		tdi_extent_init(&extent, &TDI_BACKING_ANON, (uintptr_t)addr, length);
		tdi_doom_add(&doom, &extent);
		ck_assert_int_eq(run_to_end(&released), TD_WORK_LATER);
		ck_assert_uint_eq(tdt_mapped(addr, length), length - extent.unmapped);
		ck_assert_uint_gt(extent.unmapped, 0);
		/* the freed part is taken by somebody else at once */
		intruder = mmap(addr, extent.unmapped, PROT_READ | PROT_WRITE,
				MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
		ck_assert_ptr_eq(intruder, addr);
		length = extent.unmapped;
		tdt_touch(intruder, length);
		ck_assert_int_eq(run_to_end(&released), TD_WORK_LATER);
		ck_assert_int_eq(run_to_end(&released), TD_WORK_DONE);
		ck_assert_uint_eq(tdt_resident(intruder, length), length);
		ck_assert_uint_eq(tdt_mapped(addr, 40 * MIB), length);
		ck_assert_uint_eq(released, 40 * MIB);
		ck_assert_int_eq(doom.status, 0);
		munmap(intruder, length);
		length = 40 * MIB;
	}
}
END_TEST

/* Z5: refusing to unmap is no reason to keep pages, however small the extent. */
START_TEST(pages_go_even_while_nothing_can_be_unmapped)
{
	enum { EXTENTS = 3 };
	static const size_t lengths[EXTENTS] = {64 * KIB, 4 * MIB, 24 * MIB};
	struct tdi_extent extents[EXTENTS];
	uint64_t released = 0;
	char *at[EXTENTS];

	tdt_fail(TDI_SYS_munmap, -ENOMEM, 0, UINT_MAX);
	for (int i = 0; i < EXTENTS; i++) {
		at[i] = tdt_map_anon(lengths[i]);
		tdt_touch(at[i], lengths[i]);
		tdi_extent_init(&extents[i], &TDI_BACKING_ANON, (uintptr_t)at[i],
				lengths[i]);
		tdi_doom_add(&doom, &extents[i]);
	}
	for (int i = 0; i < 3; i++)
		ck_assert_int_eq(run_to_end(&released), TD_WORK_LATER);
	for (int i = 0; i < EXTENTS; i++) {
		ck_assert_uint_eq(tdt_resident(at[i], lengths[i]), 0);
		ck_assert_uint_eq(tdt_mapped(at[i], lengths[i]), lengths[i]);
	}
	ck_assert_uint_eq(released, 28 * MIB + 64 * KIB);
	tdt_fail_none();
	ck_assert_int_eq(run_to_end(&released), TD_WORK_DONE);
	ck_assert_uint_eq(released, 28 * MIB + 64 * KIB);
	for (int i = 0; i < EXTENTS; i++)
		ck_assert_uint_eq(tdt_mapped(at[i], lengths[i]), 0);
}
END_TEST

/* However long a refusal takes: a slice that got nowhere must not look like progress. */
START_TEST(a_slice_without_progress_puts_the_work_off)
{
	enum { EXTENTS = 50 };
	static struct tdi_extent extents[EXTENTS];

	tdt_fail(TDI_SYS_munmap, -ENOMEM, 0, UINT_MAX);
	for (int i = 0; i < EXTENTS; i++) {
		tdi_extent_init(&extents[i], &TDI_BACKING_ANON,
				(uintptr_t)tdt_map_anon(64 * KIB), 64 * KIB);
		tdi_doom_add(&doom, &extents[i]);
	}
	ck_assert_int_eq(run_to_end(NULL), TD_WORK_LATER); /* all are zapped now */
	for (int i = 0; i < 2 * EXTENTS; i++)
		ck_assert_int_eq(slice_once(NULL, NULL), TD_WORK_LATER);
	tdt_fail_none();
	ck_assert_int_eq(run_to_end(NULL), TD_WORK_DONE);
}
END_TEST

START_TEST(an_extent_put_aside_does_not_hold_up_the_others)
{
	size_t length = 8 * MIB;
	char *first = tdt_map_anon(length), *second = tdt_map_anon(length);
	struct tdi_extent extents[2];
	uint64_t released = 0;

	tdi_extent_init(&extents[0], &TDI_BACKING_ANON, (uintptr_t)first, length);
	tdi_extent_init(&extents[1], &TDI_BACKING_ANON, (uintptr_t)second, length);
	tdi_doom_add(&doom, &extents[0]);
	tdi_doom_add(&doom, &extents[1]);
	tdt_fail(TDI_SYS_munmap, -ENOMEM, 0, 1);
	ck_assert_int_eq(run_to_end(&released), TD_WORK_LATER);
	ck_assert_uint_eq(atomic_load(&done_with), 1);
	ck_assert_uint_eq(tdt_mapped(second, length) + tdt_mapped(first, length), length);
	ck_assert_int_eq(run_to_end(&released), TD_WORK_DONE);
	ck_assert_uint_eq(released, 2 * length);
}
END_TEST

START_TEST(an_unmapping_refused_for_good_is_said_and_the_rest_goes)
{
	size_t length = 8 * MIB;
	char *first = tdt_map_anon(length), *second = tdt_map_anon(length);
	struct tdi_extent extents[2];
	uint64_t released = 0;

	tdt_touch(first, length);
	tdi_extent_init(&extents[0], &TDI_BACKING_ANON, (uintptr_t)first, length);
	tdi_extent_init(&extents[1], &TDI_BACKING_ANON, (uintptr_t)second, length);
	tdi_doom_add(&doom, &extents[0]);
	tdi_doom_add(&doom, &extents[1]);
	tdt_fail(TDI_SYS_munmap, -EPERM, 0, 1);
	ck_assert_int_eq(run_to_end(&released), TD_WORK_DONE);
	ck_assert_int_eq(doom.status, -EPERM);
	ck_assert_int_eq(extents[0].status, -EPERM);
	ck_assert_uint_eq(doom.refused, length);
	ck_assert_uint_eq(atomic_load(&done_with), 2);
	ck_assert_uint_eq(tdt_mapped(first, length), length);
	ck_assert_uint_eq(tdt_resident(first, length),
			  0); /* its pages went all the same */
	ck_assert_uint_eq(tdt_mapped(second, length), 0);
	munmap(first, length);
}
END_TEST

START_TEST(any_other_answer_of_munmap_is_for_good)
{
	static const int errors[] = {-EINVAL, -EPERM, -EACCES, -ENOSYS};

	for (size_t i = 0; i < sizeof(errors) / sizeof(*errors); i++) {
		char *addr = tdt_map_anon(64 * KIB);
		struct tdi_extent extent;
		uint64_t released = 0;

		doom.status = 0;
		doom.refused = 0;
		tdt_fail(TDI_SYS_munmap, errors[i], 0, 1);
		tdi_extent_init(&extent, &TDI_BACKING_ANON, (uintptr_t)addr, 64 * KIB);
		tdi_doom_add(&doom, &extent);
		ck_assert_int_eq(run_to_end(&released), TD_WORK_DONE);
		ck_assert_int_eq(doom.status, errors[i]);
		ck_assert_uint_eq(doom.refused, 64 * KIB);
		ck_assert_uint_eq(released, 0);
		munmap(addr, 64 * KIB);
	}
}
END_TEST

START_TEST(several_reapers_are_asked_for_only_while_there_is_work_for_them)
{
	size_t length = 16 * MIB;
	char *addr = tdt_map_anon(length);
	struct tdi_extent extent;
	unsigned parallel = 0;

	tdi_extent_init(&extent, &TDI_BACKING_ANON, (uintptr_t)addr, length);
	tdi_doom_add(&doom, &extent);
	slice_once(NULL, &parallel);
	ck_assert_uint_eq(parallel, UINT_MAX);
	while (extent.claimed < length)
		slice_once(NULL, &parallel);
	ck_assert_uint_eq(parallel, 1);
	slice_once(NULL, &parallel);
	ck_assert_uint_eq(parallel, 1);
	ck_assert_int_eq(run_to_end(NULL), TD_WORK_DONE);
}
END_TEST

static void *run_slices(void *arg)
{
	uint64_t *released = arg;
	int result;

	do {
		result = slice_once(released, NULL);
		if (result == TD_WORK_WAIT)
			sched_yield();
	} while (result != TD_WORK_DONE);
	return NULL;
}

START_TEST(reapers_side_by_side_release_each_byte_once)
{
	enum { REAPERS = 4, EXTENTS = 40 };
	static struct tdi_extent extents[EXTENTS];
	uint64_t released[REAPERS] = {0}, total = 0, expected = 0;
	pthread_t threads[REAPERS];
	char *at[EXTENTS];

	for (int i = 0; i < EXTENTS; i++) {
		size_t length = i % 4 == 0 ? 24 * MIB : (size_t)(i + 1) * 64 * KIB;

		at[i] = tdt_map_anon(length);
		tdt_touch(at[i], length);
		expected += length;
		tdi_extent_init(&extents[i], &TDI_BACKING_ANON, (uintptr_t)at[i], length);
		tdi_doom_add(&doom, &extents[i]);
	}
	for (int i = 0; i < REAPERS; i++)
		pthread_create(&threads[i], NULL, run_slices, &released[i]);
	for (int i = 0; i < REAPERS; i++) {
		pthread_join(threads[i], NULL);
		total += released[i];
	}
	ck_assert_uint_eq(total, expected);
	ck_assert_ptr_null(doom.live);
	ck_assert_uint_eq(doom.busy, 0);
}
END_TEST

START_TEST(an_abandoned_teardown_gives_its_extents_back_as_they_are)
{
	size_t length = 8 * MIB;
	char *addr = tdt_map_anon(length);
	struct tdi_extent extents[2];

	tdi_extent_init(&extents[0], &TDI_BACKING_ANON, (uintptr_t)addr, length / 2);
	tdi_extent_init(&extents[1], &TDI_BACKING_ANON, (uintptr_t)addr + length / 2,
			length / 2);
	tdi_doom_add(&doom, &extents[0]);
	tdi_doom_add(&doom, &extents[1]);
	ck_assert_ptr_eq(tdi_doom_leftover(&doom), &extents[0]);
	ck_assert_ptr_eq(tdi_doom_leftover(&doom), &extents[1]);
	ck_assert_ptr_null(tdi_doom_leftover(&doom));
	ck_assert_uint_eq(tdt_mapped(addr, length), length);
	munmap(addr, length);
}
END_TEST

int main(void)
{
	struct tdt *tests = tdt_suite("doom");
	const TTest *all[] = {
		nothing_is_done_at_once,
		a_large_extent_is_zapped_in_steps_and_then_unmapped,
		a_small_extent_is_simply_unmapped,
		steps_end_on_page_table_boundaries,
		steps_shrink_where_pages_are_slow,
		locked_memory_is_released_without_unlocking_it,
		when_pages_cannot_be_zapped_they_go_with_the_unmapping,
		an_unmapping_refused_for_now_resumes_where_it_stopped,
		pages_go_even_while_nothing_can_be_unmapped,
		a_slice_without_progress_puts_the_work_off,
		an_extent_put_aside_does_not_hold_up_the_others,
		an_unmapping_refused_for_good_is_said_and_the_rest_goes,
		any_other_answer_of_munmap_is_for_good,
		several_reapers_are_asked_for_only_while_there_is_work_for_them,
		reapers_side_by_side_release_each_byte_once,
		an_abandoned_teardown_gives_its_extents_back_as_they_are,
	};

	for (size_t i = 0; i < sizeof(all) / sizeof(*all); i++)
		tdt_add(tests, all[i], setup, teardown);
	return tdt_run(tests);
}
