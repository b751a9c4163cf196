/* SPDX-License-Identifier: MIT */
/* C1, C5: freeing the memory of a process that has been sent SIGKILL. */
#include "victim.h"
#include "filter.h"
#include "child.h"

#include <errno.h>
#include <teardown.h>

#define SECONDS(n) (INT64_C(1000000000) * (n))

START_TEST(misuse_is_refused)
{
	struct victim victim = victim_start((struct victim_plan){.size = MIB});

	ck_assert_int_eq(td_process_release(-1, 0, 0), -EBADF);
	ck_assert_int_eq(td_process_release(STDIN_FILENO, 0, TD_FOREVER), -EBADF);
	ck_assert_int_eq(td_process_release(victim.pidfd, 1, 0), -EINVAL);
	/* It is not dying. */
	ck_assert_int_eq(td_process_release(victim.pidfd, 0, TD_FOREVER), -EINVAL);
	ck_assert_int_eq(kill(victim.pid, 0), 0);
	victim_end(&victim);
}
END_TEST

/* What it says of one that was killed depends on who was faster. */
START_TEST(a_killed_process_is_released_or_has_nothing_left)
{
	struct victim victim = victim_start((struct victim_plan){.size = VICTIM_SIZE});
	int err;

	kill(victim.pid, SIGKILL);
	err = td_process_release(victim.pidfd, 0, TD_FOREVER);
	ck_assert(err == 0 || err == -ESRCH);
	ck_assert(victim_has_ended(victim.pidfd, -1));
	ck_assert_int_eq(td_process_release(victim.pidfd, 0, TD_FOREVER), -ESRCH);
	ck_assert_int_eq(waitpid(victim.pid, NULL, 0), victim.pid);
	ck_assert_int_eq(td_process_release(victim.pidfd, 0, TD_FOREVER), -ESRCH);
	close(victim.hold);
	close(victim.pidfd);
}
END_TEST

START_TEST(another_process_that_shares_the_memory_is_in_the_way)
{
	struct victim victim =
		victim_start((struct victim_plan){.size = MIB, .sharer = STRANGER});
	int err;

	kill(victim.pid, SIGKILL);
	err = td_process_release(victim.pidfd, 0, TD_FOREVER);
	ck_assert(err == -EINVAL || err == -ESRCH);
	ck_assert_int_eq(kill(victim.sharer, 0), 0);
	victim_end(&victim);
}
END_TEST

START_TEST(who_gives_way_is_tried_again_within_the_time)
{
	struct victim victim = victim_start((struct victim_plan){.size = MIB});

	(void)td_process_features();
	tdt_fail(TDI_SYS_process_mrelease, -EAGAIN, 0, UINT32_MAX);
	ck_assert_int_eq(td_process_release(victim.pidfd, 0, 0), -EAGAIN);
	ck_assert_uint_eq(tdt_calls(TDI_SYS_process_mrelease), 1);
	ck_assert_int_eq(td_process_release(victim.pidfd, 0, 2000000), -EAGAIN);
	ck_assert_uint_gt(tdt_calls(TDI_SYS_process_mrelease), 2);
	/* Which is where it ends. */
	tdt_fail(TDI_SYS_process_mrelease, -EAGAIN, 0, 5);
	ck_assert_int_eq(td_process_release(victim.pidfd, 0, TD_FOREVER), -EINVAL);
	ck_assert_uint_ge(tdt_calls(TDI_SYS_process_mrelease), 6);
	victim_end(&victim);
}
END_TEST

START_TEST(what_the_kernel_says_is_passed_on)
{
	struct victim victim = victim_start((struct victim_plan){.size = MIB});

	(void)td_process_features();
	tdt_fail(TDI_SYS_process_mrelease, -EINTR, 0, 1);
	ck_assert_int_eq(td_process_release(victim.pidfd, 0, 0), -EINTR);
	tdt_fail(TDI_SYS_process_mrelease, -ESRCH, 0, 1);
	ck_assert_int_eq(td_process_release(victim.pidfd, 0, 0), -ESRCH);
	tdt_fail(TDI_SYS_process_mrelease, -EPERM, 0, 1);
	ck_assert_int_eq(td_process_release(victim.pidfd, 0, 0), -ENOSYS);
	tdt_fail(TDI_SYS_process_mrelease, -ENOSYS, 0, 1);
	ck_assert_int_eq(td_process_release(victim.pidfd, 0, 0), -ENOSYS);
	victim_end(&victim);
}
END_TEST

START_TEST(what_there_is_is_asked_once)
{
	struct victim victim = victim_start((struct victim_plan){.size = MIB});

	tdt_fail(TDI_SYS_process_mrelease, -ENOSYS, 0, UINT32_MAX);
	ck_assert_uint_eq(td_process_features(), TD_PROCESS_PIDFD);
	ck_assert_int_eq(td_process_release(victim.pidfd, 0, 0), -ENOSYS);
	ck_assert_int_eq(td_process_release(victim.pidfd, 0, 0), -ENOSYS);
	ck_assert_uint_eq(tdt_calls(TDI_SYS_process_mrelease), 1);
	victim_end(&victim);
}
END_TEST

START_TEST(this_kernel_has_all_of_it)
{
	unsigned all = TD_PROCESS_PIDFD | TD_PROCESS_MRELEASE;

	if (syscall(448, -1, 0) == -1 && errno != EBADF) {
		tdt_skip("no process_mrelease(2): %s", strerror(errno));
		return;
	}
	ck_assert_uint_eq(td_process_features(), all);
	ck_assert_uint_eq(td_process_features(), all);
}
END_TEST

static void live_filtered(void *arg)
{
	unsigned action = *(unsigned *)arg;

	/* Seen before there was a filter, and seen again. */
	need(td_process_features() & TD_PROCESS_MRELEASE);
	need_eq(filter_one(448, action), 0);
	need_eq(td_process_features(), TD_PROCESS_PIDFD);
	need_eq(td_process_release(STDIN_FILENO, 0, 0), -EBADF);
	need_eq(filter_one(SYS_pidfd_send_signal, action), 0);
	need_eq(td_process_features(), 0);
}

/* C2: whatever the filter does, the process that asks lives on. */
START_TEST(a_filter_is_noticed_and_nobody_ends_by_it)
{
	unsigned actions[] = {SECCOMP_RET_ERRNO | EPERM, SECCOMP_RET_ERRNO | ENOSYS,
			      SECCOMP_RET_TRAP, SECCOMP_RET_KILL_THREAD,
			      SECCOMP_RET_KILL_PROCESS};

	if (!(td_process_features() & TD_PROCESS_MRELEASE)) {
		tdt_skip("no process_mrelease(2)");
		return;
	}
	for (size_t i = 0; i < sizeof(actions) / sizeof(*actions); i++)
		ck_assert_msg(in_child(live_filtered, &actions[i]) == 0, "action %#x",
			      actions[i]);
	ck_assert_int_eq(waitpid(-1, NULL, __WALL), -1);
}
END_TEST

static void ask_without_a_child(void *arg)
{
	struct td_process_report report = {.size = sizeof(report), .tries = 77};
	int pidfd = *(int *)arg, found = -7;

	need_eq(filter_one(SYS_acct, SECCOMP_RET_ERRNO | EPERM), 0);
	tdt_fail(TDI_SYS_clone, -EAGAIN, 0, UINT32_MAX);
	need_eq(td_process_features(), 0);
	need_eq(td_process_release(pidfd, 0, 0), -EAGAIN);
	need_eq(td_exit_find(pidfd, &found), -EAGAIN);
	need_eq(td_process_kill(pidfd, NULL, &report), -EAGAIN);
	need_eq(report.tries, 77);
	tdt_fail_none();
	need_eq(td_process_features(), TD_PROCESS_PIDFD | TD_PROCESS_MRELEASE);
}

/* Under a filter it takes a child to ask: that there was no room for it is not kept. */
START_TEST(what_could_not_be_asked_is_asked_again)
{
	struct victim victim;

	if (!(td_process_features() & TD_PROCESS_MRELEASE)) {
		tdt_skip("no process_mrelease(2)");
		return;
	}
	victim = victim_start((struct victim_plan){.size = MIB});
	ck_assert_int_eq(in_child(ask_without_a_child, &victim.pidfd), 0);
	ck_assert(!victim_has_ended(victim.pidfd, 0));
	victim_end(&victim);
}
END_TEST

/* C5 */
START_TEST(a_helper_is_waited_for)
{
	struct victim victim =
		victim_start((struct victim_plan){.size = VICTIM_SIZE, .sharer = HELPER});
	int helper = (int)syscall(SYS_pidfd_open, victim.sharer, 0), err;

	/* A living process is not. */
	ck_assert_int_eq(td_process_release(victim.pidfd, 0, TD_FOREVER), -EINVAL);
	kill(victim.pid, SIGKILL);
	err = td_process_release(victim.pidfd, 0, SECONDS(20));
	/* Or it had ended before it was looked for. */
	ck_assert(err == 0 || err == -ESRCH);
	ck_assert(victim_has_ended(helper, 0));
	ck_assert(victim_has_ended(victim.pidfd, 0));
	close(helper);
	victim_end(&victim);
}
END_TEST

START_TEST(a_helper_that_takes_longer_is_not_waited_for)
{
	struct victim victim =
		victim_start((struct victim_plan){.size = MIB, .sharer = LONG_HELPER});

	kill(victim.pid, SIGKILL);
	ck_assert_int_eq(td_process_release(victim.pidfd, 0, 0), -EAGAIN);
	ck_assert_int_eq(td_process_release(victim.pidfd, 0, 2000000), -EAGAIN);
	ck_assert(victim_has_ended(victim.pidfd, -1));
	ck_assert_int_eq(td_process_release(victim.pidfd, 0, 2000000), -EAGAIN);
	ck_assert_int_eq(kill(victim.sharer, 0), 0);
	victim_end(&victim);
}
END_TEST

int main(void)
{
	struct tdt *tests = tdt_suite("process_release");

	tdt_add(tests, misuse_is_refused, NULL, NULL);
	tdt_add(tests, a_killed_process_is_released_or_has_nothing_left, NULL, NULL);
	tdt_add(tests, another_process_that_shares_the_memory_is_in_the_way, NULL, NULL);
	tdt_add(tests, who_gives_way_is_tried_again_within_the_time, NULL, NULL);
	tdt_add(tests, what_the_kernel_says_is_passed_on, NULL, NULL);
	tdt_add(tests, what_there_is_is_asked_once, NULL, NULL);
	tdt_add(tests, this_kernel_has_all_of_it, NULL, NULL);
	tdt_add(tests, a_filter_is_noticed_and_nobody_ends_by_it, NULL, NULL);
	tdt_add(tests, what_could_not_be_asked_is_asked_again, NULL, NULL);
	tdt_add(tests, a_helper_is_waited_for, NULL, NULL);
	tdt_add(tests, a_helper_that_takes_longer_is_not_waited_for, NULL, NULL);
	return tdt_run(tests);
}
