/* SPDX-License-Identifier: MIT */
#include "base.h"
#include "harness.h"

#include <sys/mman.h>

struct known {
	size_t size;
	unsigned flags;
	uint64_t value;
};

struct newer {
	struct known known;
	uint64_t unknown;
};

START_TEST(options_default_to_zero)
{
	struct known ours = {0};

	ck_assert_int_eq(tdi_opts_take(&ours, sizeof(ours), NULL), 0);
	ck_assert_uint_eq(ours.flags, 0);
}
END_TEST

START_TEST(options_of_an_older_caller_are_taken_as_far_as_they_go)
{
	struct known given = {offsetof(struct known, value), 7, 99}, ours = {0};

	ck_assert_int_eq(tdi_opts_take(&ours, sizeof(ours), &given), 0);
	ck_assert_uint_eq(ours.flags, 7);
	ck_assert_uint_eq(ours.value, 0);
}
END_TEST

START_TEST(options_of_a_newer_caller_are_refused_when_they_ask_for_more)
{
	struct newer given = {{sizeof(given), 7, 9}, 0};
	struct known ours = {0};

	ck_assert_int_eq(tdi_opts_take(&ours, sizeof(ours), &given), 0);
	ck_assert_uint_eq(ours.value, 9);
	given.unknown = 1;
	ours = (struct known){0};
	ck_assert_int_eq(tdi_opts_take(&ours, sizeof(ours), &given), -E2BIG);
	ck_assert_uint_eq(ours.value, 0);
}
END_TEST

START_TEST(options_without_a_size_are_refused)
{
	struct known given = {0}, ours = {0};

	ck_assert_int_eq(tdi_opts_take(&ours, sizeof(ours), &given), -EINVAL);
	given.size = 7;
	ck_assert_int_eq(tdi_opts_take(&ours, sizeof(ours), &given), -EINVAL);
}
END_TEST

START_TEST(alignment_arithmetic)
{
	ck_assert_uint_eq(tdi_align_up(1, 4096), 4096);
	ck_assert_uint_eq(tdi_align_up(4096, 4096), 4096);
	ck_assert_uint_eq(tdi_align_down(8191, 4096), 4096);
	ck_assert(tdi_is_power_of_two(1));
	ck_assert(!tdi_is_power_of_two(0));
	ck_assert(!tdi_is_power_of_two(12));
	ck_assert_uint_eq(tdi_pmd_size(), tdi_page_size() * tdi_page_size() / 8);
}
END_TEST

static void die(void *arg)
{
	tdi_die("%s %d", (const char *)arg, 42);
}

START_TEST(a_broken_invariant_is_one_line_and_an_abort)
{
	tdt_expect_death(die, (char *)"object", "libteardown: object 42\n");
}
END_TEST

static _Atomic(uint32_t) word;

static void wait_fails(void *arg)
{
	tdt_fail(TDI_SYS_futex_wait, *(int *)arg, 0, 1);
	tdi_sys_futex_wait(&word, 0, 0);
}

static void wake_fails(void *arg)
{
	tdt_fail(TDI_SYS_futex_wake, *(int *)arg, 0, 1);
	tdi_sys_futex_wake(&word, 1);
}

START_TEST(a_futex_that_cannot_work_ends_the_process)
{
	static int errors[] = {-EINVAL, -ENOSYS, -EPERM, -EACCES, -ENOMEM};

	for (size_t i = 0; i < sizeof(errors) / sizeof(*errors); i++) {
		tdt_expect_death(wait_fails, &errors[i], "libteardown: futex wait: ");
		tdt_expect_death(wake_fails, &errors[i], "libteardown: futex wake: ");
	}
}
END_TEST

START_TEST(a_call_leaves_errno_alone)
{
	void *mapped = (void *)1;

	errno = 77;
	ck_assert_int_eq(tdi_sys_munmap((void *)1, 4096), -EINVAL);
	ck_assert_int_eq(tdi_sys_madvise((void *)1, 4096, 4), -EINVAL);
	ck_assert_int_eq(tdi_sys_mmap(NULL, 0, 0, MAP_PRIVATE | MAP_ANONYMOUS, &mapped),
			 -EINVAL);
	ck_assert_int_eq(tdi_sys_close(-1), -EBADF);
	ck_assert_int_eq((int)tdi_sys_write(-1, "", 1), -EBADF);
	ck_assert_int_eq(tdi_sys_futex_wait(&word, 1, UINT64_MAX), -EAGAIN);
	ck_assert_int_eq(tdi_sys_futex_wait(&word, 0, tdi_sys_deadline(1000)),
			 -ETIMEDOUT);
	ck_assert_ptr_eq(mapped, (void *)1);
	ck_assert_int_eq(errno, 77);
}
END_TEST

START_TEST(deadlines_do_not_wrap)
{
	uint64_t now = tdi_sys_now_ns();

	ck_assert_uint_eq(tdi_sys_deadline(-1), UINT64_MAX);
	ck_assert_uint_eq(tdi_sys_deadline(INT64_MIN), UINT64_MAX);
	ck_assert_uint_ge(tdi_sys_deadline(0), now);
	ck_assert_uint_ge(tdi_sys_deadline(INT64_MAX), (uint64_t)INT64_MAX);
}
END_TEST

int main(void)
{
	struct tdt *tests = tdt_suite("base");

	tdt_add(tests, options_default_to_zero, NULL, NULL);
	tdt_add(tests, options_of_an_older_caller_are_taken_as_far_as_they_go, NULL,
		NULL);
	tdt_add(tests, options_of_a_newer_caller_are_refused_when_they_ask_for_more, NULL,
		NULL);
	tdt_add(tests, options_without_a_size_are_refused, NULL, NULL);
	tdt_add(tests, alignment_arithmetic, NULL, NULL);
	tdt_add(tests, a_broken_invariant_is_one_line_and_an_abort, NULL, NULL);
	tdt_add(tests, a_futex_that_cannot_work_ends_the_process, NULL, NULL);
	tdt_add(tests, a_call_leaves_errno_alone, NULL, NULL);
	tdt_add(tests, deadlines_do_not_wrap, NULL, NULL);
	return tdt_run(tests);
}
