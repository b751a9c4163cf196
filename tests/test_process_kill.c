/* SPDX-License-Identifier: MIT */
/* C2, C5: killing a process and getting its memory back, whatever it does meanwhile. */
#include "child.h"
#include "filter.h"
#include "victim.h"

#include <errno.h>
#include <teardown.h>

#define SECONDS(n) (INT64_C(1000000000) * (n))

/* A report that is asked for, and filled with what must not be left in it. */
static struct td_process_report asked(void)
{
	struct td_process_report report;

	memset(&report, 0x5a, sizeof(report));
	report.size = sizeof(report);
	return report;
}

static void check_back(const struct td_process_report *report)
{
	ck_assert_uint_eq(report->size, sizeof(*report));
	ck_assert_uint_eq(report->left, 0);
	ck_assert_uint_gt(report->killed_ns, 0);
	ck_assert_uint_ge(report->reclaimed_ns, report->killed_ns);
}

START_TEST(misuse_changes_nothing)
{
	struct victim victim = victim_start((struct victim_plan){.size = MIB});
	struct td_process_kill_opts opts = {.size = 2};
	struct td_process_report report = asked(), before = report;

	ck_assert_int_eq(td_process_kill(-1, NULL, &report), -EBADF);
	ck_assert_int_eq(td_process_kill(STDIN_FILENO, NULL, &report), -EBADF);
	ck_assert_int_eq(td_process_kill(victim.pidfd, &opts, &report), -EINVAL);
	ck_assert_int_eq(
		td_process_kill(victim.pidfd, TD_PROCESS_KILL_OPTS(.flags = 1), &report),
		-EINVAL);
	ck_assert(memcmp(&report, &before, sizeof(report)) == 0);
	report.size = 3;
	ck_assert_int_eq(td_process_kill(victim.pidfd, NULL, &report), -EINVAL);
	ck_assert(!victim_has_ended(victim.pidfd, 0));
	victim_end(&victim);
}
END_TEST

/* Released, or it was faster. */
START_TEST(a_killed_process_has_ended_and_its_memory_is_back)
{
	struct victim victim = victim_start((struct victim_plan){
		.size = VICTIM_SIZE, .nr_threads = TDT_SANITIZED ? 0 : 3});
	struct td_process_report report = asked();

	ck_assert_int_eq(td_process_kill(victim.pidfd, NULL, &report), 0);
	ck_assert(victim_has_ended(victim.pidfd, 0));
	ck_assert(report.outcome == TD_PROCESS_RELEASED ||
		  report.outcome == TD_PROCESS_RACED);
	check_back(&report);
	ck_assert_uint_ge(report.tries, 1);
	ck_assert_uint_ge(report.resident, VICTIM_SIZE);
	ck_assert(!report.has_helper);
	ck_assert_int_eq(WTERMSIG(victim_end(&victim)), SIGKILL);
}
END_TEST

START_TEST(an_address_space_that_is_held_is_tried_again)
{
	struct victim victim = victim_start((struct victim_plan){.size = VICTIM_SIZE});
	struct td_process_report report = asked();

	(void)td_process_features();
	tdt_fail(TDI_SYS_process_mrelease, -EAGAIN, 0, 2);
	ck_assert_int_eq(td_process_kill(victim.pidfd, NULL, &report), 0);
	ck_assert_int_eq(report.outcome, TD_PROCESS_RELEASED);
	ck_assert_uint_ge(report.tries, 3);
	check_back(&report);
	victim_end(&victim);
}
END_TEST

START_TEST(a_zombie_has_nothing_left)
{
	struct victim victim = victim_start((struct victim_plan){.size = MIB});
	struct td_process_report report = asked();

	kill(victim.pid, SIGUSR1);
	ck_assert(victim_has_ended(victim.pidfd, -1));
	ck_assert_int_eq(td_process_kill(victim.pidfd, NULL, &report), 0);
	ck_assert_int_eq(report.outcome, TD_PROCESS_NOTHING_LEFT);
	ck_assert_uint_eq(report.resident, 0);
	check_back(&report);
	/* The status is that of its own end, and has not been taken. */
	ck_assert_int_eq(WTERMSIG(victim_end(&victim)), SIGUSR1);
}
END_TEST

START_TEST(what_has_been_waited_for_is_not_there)
{
	struct victim victim = victim_start((struct victim_plan){.size = MIB});
	struct td_process_report report = asked(), before = report;

	kill(victim.pid, SIGKILL);
	ck_assert_int_eq(waitpid(victim.pid, NULL, 0), victim.pid);
	ck_assert_int_eq(td_process_kill(victim.pidfd, NULL, &report), -ESRCH);
	ck_assert(memcmp(&report, &before, sizeof(report)) == 0);
	close(victim.pidfd);
	close(victim.hold);
}
END_TEST

START_TEST(a_process_that_shares_the_memory_keeps_it)
{
	struct victim victim = victim_start(
		(struct victim_plan){.size = VICTIM_SIZE, .sharer = STRANGER});
	struct td_process_report report = asked();

	ck_assert_int_eq(td_process_kill(victim.pidfd, NULL, &report), 0);
	ck_assert_int_eq(report.outcome, TD_PROCESS_SHARED);
	ck_assert_uint_gt(report.killed_ns, 0);
	ck_assert_uint_eq(report.reclaimed_ns, 0);
	ck_assert_uint_eq(report.left, report.resident);
	ck_assert_uint_ge(report.left, VICTIM_SIZE);
	ck_assert(victim_has_ended(victim.pidfd, 0));
	ck_assert_int_eq(kill(victim.sharer, 0), 0);
	victim_end(&victim);
}
END_TEST

/* Where it may not be asked who shares what, the kernel's refusal says so. */
START_TEST(a_refusal_says_that_the_memory_is_shared)
{
	struct victim victim = victim_start((struct victim_plan){.size = VICTIM_SIZE});
	struct td_process_report report = asked();

	(void)td_process_features();
	tdt_fail(TDI_SYS_kcmp, -EPERM, 0, UINT32_MAX);
	tdt_fail(TDI_SYS_process_mrelease, -EINVAL, 0, UINT32_MAX);
	ck_assert_int_eq(td_process_kill(victim.pidfd, NULL, &report), 0);
	ck_assert_int_eq(report.outcome, TD_PROCESS_SHARED);
	ck_assert_int_eq(report.error, -EINVAL);
	victim_end(&victim);
}
END_TEST

/* ---- what happens between two steps ---- */

static struct victim meant;
static pid_t to_kill;

/* Ends a process when the other one is about to be killed. */
static int end_before_the_kill(enum tdi_sys_call call, uintptr_t addr, size_t length,
			       int detail)
{
	(void)addr;
	(void)length;
	if (call == TDI_SYS_pidfd_send_signal && detail == SIGKILL && to_kill) {
		int pidfd = (int)syscall(SYS_pidfd_open, to_kill, 0);

		kill(to_kill, SIGUSR1);
		ck_assert(victim_has_ended(pidfd, -1));
		close(pidfd);
		to_kill = 0;
	}
	return 0;
}

START_TEST(a_process_that_ends_by_itself_has_raced)
{
	struct td_process_report report = asked();

	meant = victim_start((struct victim_plan){.size = VICTIM_SIZE});
	to_kill = meant.pid;
	tdi_sys_set_fault(end_before_the_kill);
	ck_assert_int_eq(td_process_kill(meant.pidfd, NULL, &report), 0);
	ck_assert_int_eq(report.outcome, TD_PROCESS_RACED);
	ck_assert_uint_ge(report.resident, VICTIM_SIZE);
	check_back(&report);
	ck_assert_int_eq(WTERMSIG(victim_end(&meant)), SIGUSR1);
}
END_TEST

START_TEST(a_helper_that_ends_before_the_process_is_done_without)
{
	struct td_process_report report = asked();

	meant = victim_start(
		(struct victim_plan){.size = VICTIM_SIZE, .sharer = LONG_HELPER});
	to_kill = meant.sharer;
	tdi_sys_set_fault(end_before_the_kill);
	ck_assert_int_eq(td_process_kill(meant.pidfd, NULL, &report), 0);
	ck_assert(report.outcome == TD_PROCESS_RELEASED ||
		  report.outcome == TD_PROCESS_RACED);
	check_back(&report);
	victim_end(&meant);
}
END_TEST

/* Not seen at first; and ends when it is waited for. */
static int end_when_waited_for(enum tdi_sys_call call, uintptr_t addr, size_t length,
			       int detail)
{
	static unsigned looks, tries;

	(void)addr;
	(void)detail;
	if (call == TDI_SYS_getdents && looks++ == 0)
		return -ENOMEM;
	if (call == TDI_SYS_process_mrelease && tries++ == 0)
		return -EINVAL;
	if (call == TDI_SYS_poll && length == 2 && meant.hold >= 0) {
		ck_assert(victim_has_ended(meant.pidfd, -1));
		close(meant.hold);
		meant.hold = -1;
	}
	return 0;
}

/* As one is that was armed after the look. */
START_TEST(a_helper_that_is_found_late_is_waited_for)
{
	struct td_process_report report = asked();

	meant = victim_start(
		(struct victim_plan){.size = VICTIM_SIZE, .sharer = LONG_HELPER});
	(void)td_process_features();
	tdi_sys_set_fault(end_when_waited_for);
	ck_assert_int_eq(td_process_kill(meant.pidfd, NULL, &report), 0);
	tdt_fail_none();
	ck_assert(report.has_helper);
	ck_assert_int_eq(report.outcome, TD_PROCESS_RELEASED);
	check_back(&report);
	victim_end(&meant);
}
END_TEST

/* ---- helpers, C5 ---- */

START_TEST(the_helper_frees_the_memory)
{
	struct victim victim =
		victim_start((struct victim_plan){.size = VICTIM_SIZE, .sharer = HELPER});
	int helper = (int)syscall(SYS_pidfd_open, victim.sharer, 0);
	struct td_process_report report = asked();

	ck_assert_int_eq(td_process_kill(victim.pidfd, NULL, &report), 0);
	ck_assert(victim_has_ended(helper, 0));
	ck_assert_int_eq(report.outcome, TD_PROCESS_RELEASED);
	ck_assert(report.has_helper);
	ck_assert_uint_eq(report.tries, 0);
	ck_assert_uint_ge(report.resident, VICTIM_SIZE);
	check_back(&report);
	close(helper);
	victim_end(&victim);
}
END_TEST

START_TEST(a_helper_that_is_left_alone_with_the_memory_is_waited_for)
{
	struct victim victim =
		victim_start((struct victim_plan){.size = MIB, .sharer = LONG_HELPER});
	struct td_process_report report = asked();

	kill(victim.pid, SIGKILL);
	ck_assert(victim_has_ended(victim.pidfd, -1));
	close(victim.hold); /* which it waits for */
	victim.hold = -1;
	ck_assert_int_eq(td_process_kill(victim.pidfd, NULL, &report), 0);
	ck_assert(report.outcome == TD_PROCESS_RELEASED ||
		  report.outcome == TD_PROCESS_NOTHING_LEFT);
	check_back(&report);
	victim_end(&victim);
}
END_TEST

START_TEST(a_stopped_helper_holds_nobody_up)
{
	struct victim victim =
		victim_start((struct victim_plan){.size = VICTIM_SIZE, .sharer = HELPER});
	struct td_process_report report = asked();

	kill(victim.sharer, SIGSTOP);
	ck_assert_int_eq(td_process_kill(victim.pidfd,
					 TD_PROCESS_KILL_OPTS(.timeout_ns = 20000000),
					 &report),
			 0);
	ck_assert_int_eq(report.outcome, TD_PROCESS_PARTLY);
	ck_assert(report.has_helper);
	ck_assert_uint_gt(report.killed_ns, 0);
	ck_assert_uint_eq(report.reclaimed_ns, 0);
	ck_assert_uint_ge(report.left, VICTIM_SIZE);
	/* Later, when it is let go on. */
	kill(victim.sharer, SIGCONT);
	report = asked();
	ck_assert_int_eq(td_process_kill(victim.pidfd, NULL, &report), 0);
	check_back(&report);
	victim_end(&victim);
}
END_TEST

START_TEST(a_third_that_shares_the_memory_keeps_it_after_the_helper)
{
	struct victim victim = victim_start(
		(struct victim_plan){.size = MIB, .sharer = HELPER_AND_STRANGER});
	struct td_process_report report = asked();

	ck_assert_int_eq(td_process_kill(victim.pidfd, NULL, &report), 0);
	ck_assert(report.has_helper);
	ck_assert_int_eq(report.outcome, TD_PROCESS_SHARED);
	ck_assert_uint_eq(report.reclaimed_ns, 0);
	victim_end(&victim);
}
END_TEST

/* ---- what is not there, and what takes too long ---- */

START_TEST(without_the_call_it_frees_for_itself)
{
	struct victim victim = victim_start((struct victim_plan){.size = VICTIM_SIZE});
	struct td_process_report report = asked();

	tdt_fail(TDI_SYS_process_mrelease, -ENOSYS, 0, UINT32_MAX);
	ck_assert_int_eq(td_process_kill(victim.pidfd, NULL, &report), 0);
	ck_assert_int_eq(report.outcome, TD_PROCESS_UNSUPPORTED);
	ck_assert_int_eq(report.error, -ENOSYS);
	ck_assert_uint_eq(report.tries, 0);
	check_back(&report);
	victim_end(&victim);
}
END_TEST

static void kill_filtered(void *arg)
{
	struct td_process_report report = {.size = sizeof(report)};

	need_eq(filter_one(448, SECCOMP_RET_KILL_PROCESS), 0);
	need_eq(td_process_kill(*(int *)arg, NULL, &report), 0);
	need_eq(report.outcome, TD_PROCESS_UNSUPPORTED);
	need(report.reclaimed_ns > 0);
}

START_TEST(a_filter_in_the_way_is_no_reason_to_be_killed)
{
	struct victim victim = victim_start((struct victim_plan){.size = MIB});

	ck_assert_int_eq(in_child(kill_filtered, &victim.pidfd), 0);
	ck_assert(victim_has_ended(victim.pidfd, 0));
	victim_end(&victim);
}
END_TEST

/* That it has ended is never seen. */
START_TEST(what_is_not_over_in_time_is_told)
{
	struct victim victim = victim_start((struct victim_plan){.size = MIB});
	struct td_process_report report = asked();

	tdt_fail(TDI_SYS_poll, -EINTR, 0, UINT32_MAX);
	ck_assert_int_eq(td_process_kill(victim.pidfd,
					 TD_PROCESS_KILL_OPTS(.timeout_ns = 1), &report),
			 0);
	ck_assert_int_eq(report.outcome, TD_PROCESS_PARTLY);
	ck_assert_uint_eq(report.killed_ns, 0);
	ck_assert_uint_eq(report.reclaimed_ns, 0);
	ck_assert_uint_gt(report.left, 0);
	victim_end(&victim);
}
END_TEST

static void kill_as_nobody(void *arg)
{
	struct td_process_report report = {.size = sizeof(report), .tries = 77};

	need_eq(setresuid(65534, 65534, 65534), 0);
	need_eq(td_process_kill(*(int *)arg, NULL, &report), -EPERM);
	need_eq(report.tries, 77);
}

START_TEST(who_may_not_kill_it_is_told)
{
	struct victim victim;

	if (getuid() != 0) {
		tdt_skip("only root can become somebody who may not");
		return;
	}
	victim = victim_start((struct victim_plan){.size = MIB});
	ck_assert_int_eq(in_child(kill_as_nobody, &victim.pidfd), 0);
	ck_assert(!victim_has_ended(victim.pidfd, 0));
	victim_end(&victim);
}
END_TEST

START_TEST(reports_of_other_sizes_are_filled_as_far_as_they_go)
{
	struct victim victim = victim_start((struct victim_plan){.size = MIB});
	struct {
		struct td_process_report report;
		uint64_t later[2];
	} larger = {.report = {.size = sizeof(larger)}, .later = {1, 2}};
	struct td_process_report smaller = asked();

	ck_assert_int_eq(td_process_kill(victim.pidfd, NULL, &larger.report), 0);
	ck_assert_uint_eq(larger.report.size, sizeof(larger));
	ck_assert_uint_gt(larger.report.reclaimed_ns, 0);
	ck_assert_uint_eq(larger.later[0] | larger.later[1], 0);
	smaller.size = offsetof(struct td_process_report, resident);
	smaller.left = 77;
	ck_assert_int_eq(td_process_kill(victim.pidfd, NULL, &smaller), 0);
	ck_assert_int_eq(smaller.outcome, TD_PROCESS_NOTHING_LEFT);
	ck_assert_uint_eq(smaller.left, 77);
	ck_assert_int_eq(td_process_kill(victim.pidfd, NULL, NULL), 0);
	victim_end(&victim);
}
END_TEST

int main(void)
{
	struct tdt *tests = tdt_suite("process_kill");

	tdt_add(tests, misuse_changes_nothing, NULL, NULL);
	tdt_add(tests, a_killed_process_has_ended_and_its_memory_is_back, NULL, NULL);
	tdt_add(tests, an_address_space_that_is_held_is_tried_again, NULL, NULL);
	tdt_add(tests, a_zombie_has_nothing_left, NULL, NULL);
	tdt_add(tests, what_has_been_waited_for_is_not_there, NULL, NULL);
	tdt_add(tests, a_process_that_shares_the_memory_keeps_it, NULL, NULL);
	tdt_add(tests, a_refusal_says_that_the_memory_is_shared, NULL, NULL);
	tdt_add(tests, a_process_that_ends_by_itself_has_raced, NULL, NULL);
	tdt_add(tests, a_helper_that_ends_before_the_process_is_done_without, NULL, NULL);
	tdt_add(tests, a_helper_that_is_found_late_is_waited_for, NULL, NULL);
	tdt_add(tests, the_helper_frees_the_memory, NULL, NULL);
	tdt_add(tests, a_helper_that_is_left_alone_with_the_memory_is_waited_for, NULL,
		NULL);
	tdt_add(tests, a_stopped_helper_holds_nobody_up, NULL, NULL);
	tdt_add(tests, a_third_that_shares_the_memory_keeps_it_after_the_helper, NULL,
		NULL);
	tdt_add(tests, without_the_call_it_frees_for_itself, NULL, NULL);
	tdt_add(tests, a_filter_in_the_way_is_no_reason_to_be_killed, NULL, NULL);
	tdt_add(tests, what_is_not_over_in_time_is_told, NULL, NULL);
	tdt_add(tests, who_may_not_kill_it_is_told, NULL, NULL);
	tdt_add(tests, reports_of_other_sizes_are_filled_as_far_as_they_go, NULL, NULL);
	return tdt_run(tests);
}
