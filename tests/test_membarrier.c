/* SPDX-License-Identifier: MIT */
/* E9: membarrier, and that the library knows when it cannot have it. */
#include "harness.h"
#include "membarrier.h"

#include <errno.h>
#include <linux/membarrier.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static bool kernel_has_it(void)
{
	long commands = syscall(SYS_membarrier, MEMBARRIER_CMD_QUERY, 0, 0);

	return commands > 0 && (commands & MEMBARRIER_CMD_PRIVATE_EXPEDITED);
}

START_TEST(it_works_where_the_kernel_has_it)
{
	ck_assert_int_eq(tdi_membarrier_works(), kernel_has_it());
	if (kernel_has_it())
		ck_assert_int_eq(tdi_membarrier(), 0);
	else
		tdt_skip("this kernel has no expedited membarrier");
}
END_TEST

START_TEST(it_does_not_work_where_it_cannot_be_registered)
{
	tdt_fail_detail(TDI_SYS_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED,
			-EINVAL, 0, 1);
	ck_assert(!tdi_membarrier_works());
	tdt_fail_none();
	ck_assert(!tdi_membarrier_works()); /* for good: others rely on it */
}
END_TEST

START_TEST(nor_where_a_filter_forbids_the_call_itself)
{
	tdt_fail_detail(TDI_SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED, -EPERM, 0,
			1);
	ck_assert(!tdi_membarrier_works());
}
END_TEST

START_TEST(it_is_asked_for_once)
{
	tdt_fail(TDI_SYS_membarrier, 0, 0, 0);
	for (int i = 0; i < 3; i++)
		(void)tdi_membarrier_works();
	ck_assert_uint_le(tdt_calls(TDI_SYS_membarrier), 2);
}
END_TEST

START_TEST(a_refusal_that_comes_later_is_told)
{
	if (!tdi_membarrier_works()) {
		tdt_skip("this kernel has no expedited membarrier");
		return;
	}
	tdt_fail(TDI_SYS_membarrier, -EPERM, 0, 1);
	ck_assert_int_eq(tdi_membarrier(), -EPERM);
	ck_assert_int_eq(tdi_membarrier(), 0);
}
END_TEST

START_TEST(a_child_has_it_too)
{
	int status;
	pid_t pid;

	if (!tdi_membarrier_works()) {
		tdt_skip("this kernel has no expedited membarrier");
		return;
	}
	pid = fork();
	if (pid == 0)
		_exit(tdi_membarrier_works() && tdi_membarrier() == 0 ? 0 : 1);
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert_int_eq(status, 0);
}
END_TEST

enum { ROUNDS = TDT_SANITIZED ? 300 : 3000 };

static _Alignas(64) atomic_int frequent, rare;
static _Alignas(64) int saw_rare;
static pthread_barrier_t round_begins, round_ends;

static void *frequent_side(void *unused)
{
	(void)unused;
	for (int i = 0; i < ROUNDS; i++) {
		pthread_barrier_wait(&round_begins);
		atomic_store_explicit(&frequent, 1, memory_order_relaxed);
		atomic_signal_fence(memory_order_seq_cst);
		saw_rare = atomic_load_explicit(&rare, memory_order_relaxed);
		pthread_barrier_wait(&round_ends);
	}
	return NULL;
}

/* Each writes, then reads what the other wrote: never do both miss it. */
START_TEST(of_two_that_write_and_look_one_sees_the_other)
{
	pthread_t thread;

	if (!tdi_membarrier_works()) {
		tdt_skip("this kernel has no expedited membarrier");
		return;
	}
	pthread_barrier_init(&round_begins, NULL, 2);
	pthread_barrier_init(&round_ends, NULL, 2);
	pthread_create(&thread, NULL, frequent_side, NULL);
	for (int i = 0; i < ROUNDS; i++) {
		int saw_frequent;

		atomic_store(&frequent, 0);
		atomic_store(&rare, 0);
		pthread_barrier_wait(&round_begins);
		for (volatile int spin = 0; spin < i % 64; spin++)
			;
		atomic_store_explicit(&rare, 1, memory_order_relaxed);
		ck_assert_int_eq(tdi_membarrier(), 0);
		saw_frequent = atomic_load_explicit(&frequent, memory_order_relaxed);
		pthread_barrier_wait(&round_ends);
		ck_assert_msg(saw_frequent || saw_rare, "round %d: both missed it", i);
	}
	pthread_join(thread, NULL);
}
END_TEST

int main(void)
{
	struct tdt *tests = tdt_suite("membarrier");

	tdt_add(tests, it_works_where_the_kernel_has_it, NULL, NULL);
	tdt_add(tests, it_does_not_work_where_it_cannot_be_registered, NULL, NULL);
	tdt_add(tests, nor_where_a_filter_forbids_the_call_itself, NULL, NULL);
	tdt_add(tests, it_is_asked_for_once, NULL, NULL);
	tdt_add(tests, a_refusal_that_comes_later_is_told, NULL, NULL);
	tdt_add(tests, a_child_has_it_too, NULL, NULL);
	tdt_add(tests, of_two_that_write_and_look_one_sees_the_other, NULL, NULL);
	return tdt_run(tests);
}
