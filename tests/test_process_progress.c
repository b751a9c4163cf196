/* SPDX-License-Identifier: MIT */
/* C2, C5: how far it has come, helpers that were armed, and calls that fail. */
#include "child.h"
#include "victim.h"

#include <errno.h>
#include <teardown.h>

struct told {
	unsigned calls;
	uint64_t last, at_first, last_ns;
	bool grew, went_back, other_first, from_another;
	pthread_t caller;
};

static void tell(void *arg, uint64_t resident, uint64_t at_first, uint64_t elapsed_ns)
{
	struct told *told = arg;

	if (told->calls++ == 0) {
		told->at_first = at_first;
		told->last = resident;
	}
	told->grew |= resident > told->last;
	told->other_first |= at_first != told->at_first;
	told->went_back |= elapsed_ns < told->last_ns;
	told->from_another |= !pthread_equal(told->caller, pthread_self());
	told->last = resident;
	told->last_ns = elapsed_ns;
}

static void check_told(const struct told *told, const struct td_process_report *report)
{
	ck_assert_uint_ge(told->calls, 2);
	ck_assert(!told->grew && !told->went_back && !told->other_first);
	ck_assert_uint_eq(told->at_first, report->resident);
	ck_assert_uint_eq(told->last, report->left);
}

START_TEST(progress_never_grows_and_ends_with_the_report)
{
	struct victim victim = victim_start((struct victim_plan){.size = VICTIM_SIZE});
	struct td_process_report report = {.size = sizeof(report)};
	struct told told = {.caller = pthread_self()};

	ck_assert_int_eq(
		td_process_kill(victim.pidfd,
				TD_PROCESS_KILL_OPTS(.progress = tell, .arg = &told,
						     .interval_ns = 500000),
				&report),
		0);
	check_told(&told, &report);
	ck_assert_uint_eq(told.last, 0);
	ck_assert_uint_ge(told.at_first, VICTIM_SIZE);
	victim_end(&victim);
}
END_TEST

/* As long as the memory is there it is told of, by a thread or without. */
static void be_told_in_vain(bool threads)
{
	struct victim victim = victim_start(
		(struct victim_plan){.size = VICTIM_SIZE, .sharer = LONG_HELPER});
	struct td_process_report report = {.size = sizeof(report)};
	struct told told = {.caller = pthread_self()};

	if (!threads)
		tdt_fail(TDI_SYS_thread_create, -EAGAIN, 0, UINT32_MAX);
	ck_assert_int_eq(
		td_process_kill(victim.pidfd,
				TD_PROCESS_KILL_OPTS(.timeout_ns = 60000000,
						     .progress = tell, .arg = &told,
						     .interval_ns = 1000000),
				&report),
		0);
	ck_assert_int_eq(report.outcome, TD_PROCESS_PARTLY);
	check_told(&told, &report);
	ck_assert_uint_ge(told.calls, 3);
	ck_assert_uint_ge(told.last, VICTIM_SIZE);
	ck_assert(told.from_another == threads);
	victim_end(&victim);
}

START_TEST(a_thread_tells_of_progress)
{
	be_told_in_vain(true);
}
END_TEST

START_TEST(without_a_thread_the_caller_is_told_by_itself)
{
	be_told_in_vain(false);
}
END_TEST

START_TEST(an_interval_without_end_is_told_of_twice)
{
	struct victim victim =
		victim_start((struct victim_plan){.size = MIB, .sharer = LONG_HELPER});
	struct td_process_report report = {.size = sizeof(report)};
	struct told told = {.caller = pthread_self()};

	ck_assert_int_eq(
		td_process_kill(victim.pidfd,
				TD_PROCESS_KILL_OPTS(.timeout_ns = 5000000,
						     .progress = tell, .arg = &told,
						     .interval_ns = UINT64_MAX),
				&report),
		0);
	check_told(&told, &report);
	ck_assert_uint_eq(told.calls, 2);
	victim_end(&victim);
}
END_TEST

START_TEST(outcomes_have_names)
{
	for (int i = TD_PROCESS_RELEASED; i <= TD_PROCESS_PARTLY; i++) {
		const char *name = td_process_outcome_name((enum td_process_outcome)i);

		ck_assert_uint_gt(strlen(name), 4);
		for (int k = TD_PROCESS_RELEASED; k < i; k++)
			ck_assert_str_ne(name, td_process_outcome_name(
						       (enum td_process_outcome)k));
	}
	ck_assert_ptr_nonnull(td_process_outcome_name((enum td_process_outcome)99));
}
END_TEST

/* C5 */
START_TEST(a_process_with_an_armed_helper_is_killed_and_reclaimed)
{
	struct victim victim;
	struct td_process_report report = {.size = sizeof(report)};
	struct told told = {.caller = pthread_self()};
	int helper = -1;

	if (skip_without_threads())
		return;
	victim = victim_start((struct victim_plan){.size = VICTIM_SIZE, .sharer = ARMED});
	ck_assert_int_eq(td_exit_find(victim.pidfd, &helper), 0);
	ck_assert_int_eq(
		td_process_kill(victim.pidfd,
				TD_PROCESS_KILL_OPTS(.progress = tell, .arg = &told,
						     .interval_ns = 500000),
				&report),
		0);
	ck_assert_int_eq(report.outcome, TD_PROCESS_RELEASED);
	ck_assert(report.has_helper);
	ck_assert_uint_ge(report.reclaimed_ns, report.killed_ns);
	ck_assert_int_eq(td_exit_wait_reclaimed(helper, 0), 0);
	check_told(&told, &report);
	close(helper);
	victim_end(&victim);
}
END_TEST

/* C1, C5 */
START_TEST(a_process_with_an_armed_helper_is_released)
{
	struct victim victim;
	int helper = -1, err;

	if (skip_without_threads())
		return;
	victim = victim_start((struct victim_plan){.size = VICTIM_SIZE, .sharer = ARMED});
	ck_assert_int_eq(td_process_release(victim.pidfd, 0, TD_FOREVER), -EINVAL);
	ck_assert_int_eq(td_exit_find(victim.pidfd, &helper), 0);
	kill(victim.pid, SIGKILL);
	err = td_process_release(victim.pidfd, 0, TD_FOREVER);
	/* -ESRCH: the helper was done before it was looked for. */
	ck_assert_msg(err == 0 || err == -ESRCH, "%d", err);
	ck_assert_int_eq(td_exit_wait_reclaimed(helper, 0), 0);
	close(helper);
	victim_end(&victim);
}
END_TEST

/* Whatever fails: it is killed, or nothing is done; what is said is true; nothing stays.
 */
START_TEST(any_call_may_fail)
{
	static const enum tdi_sys_call calls[] = {TDI_SYS_open,
						  TDI_SYS_read,
						  TDI_SYS_getdents,
						  TDI_SYS_readlink,
						  TDI_SYS_poll,
						  TDI_SYS_pidfd_open,
						  TDI_SYS_kcmp,
						  TDI_SYS_waitid,
						  TDI_SYS_pidfd_send_signal,
						  TDI_SYS_fcntl,
						  TDI_SYS_getcpu,
						  TDI_SYS_getaffinity,
						  TDI_SYS_setaffinity,
						  TDI_SYS_process_mrelease};
	size_t before = tdt_footprint().descriptors;

	for (size_t i = 0; i < 2 * sizeof(calls) / sizeof(*calls); i++) {
		for (unsigned number = 0; number < 3; number++) {
			struct victim victim = victim_start((struct victim_plan){
				.size = MIB, .sharer = i % 2 ? HELPER : NO_SHARER});
			struct td_process_report report = {.size = sizeof(report)};
			int err;

			tdt_fail(calls[i / 2], -ENOMEM, number, 1);
			err = td_process_kill(
				victim.pidfd,
				TD_PROCESS_KILL_OPTS(.timeout_ns = 2000000000), &report);
			tdt_fail_none();
			if (err)
				ck_assert(!victim_has_ended(victim.pidfd, 0));
			else if (report.outcome != TD_PROCESS_PARTLY)
				ck_assert(victim_has_ended(victim.pidfd, 0));
			ck_assert_msg(
				err || (report.reclaimed_ns > 0 && report.left == 0) ||
					report.outcome == TD_PROCESS_SHARED,
				"call %zu number %u: outcome %d error %d", i, number,
				(int)report.outcome, report.error);
			victim_end(&victim);
		}
	}
	ck_assert_uint_eq(tdt_footprint().descriptors, before);
}
END_TEST

enum { ROUNDS = TDT_SANITIZED ? 50 : 200 };

static void end_soon(unsigned seed)
{
	volatile char *addr = mmap(NULL, MIB, PROT_READ | PROT_WRITE,
				   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (addr == MAP_FAILED)
		_exit(1);
	for (unsigned i = 0; i < seed % 512; i++)
		addr[(size_t)i % 256 * 4096] = 1;
	syscall(SYS_exit_group, 7);
}

/* Processes that end by themselves at any moment of it. */
START_TEST(outcomes_are_true_whenever_it_ends)
{
	unsigned outcomes[TD_PROCESS_PARTLY + 1] = {0}, killed = 0, seed = 1;
	size_t before = tdt_footprint().descriptors;

	for (unsigned round = 0; round < ROUNDS; round++) {
		struct td_process_report report = {.size = sizeof(report)};
		int pidfd, status;
		pid_t pid = fork();

		if (pid == 0)
			end_soon((unsigned)rand_r(&seed) * round);
		ck_assert_int_gt(pid, 0);
		pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
		for (int i = rand_r(&seed) % 2000; i > 0; i--)
			(void)getppid();
		ck_assert_int_eq(td_process_kill(pidfd, NULL, &report), 0);
		ck_assert(victim_has_ended(pidfd, 0));
		ck_assert_uint_gt(report.reclaimed_ns, 0);
		ck_assert(report.outcome == TD_PROCESS_RELEASED ||
			  report.outcome == TD_PROCESS_RACED ||
			  report.outcome == TD_PROCESS_NOTHING_LEFT);
		outcomes[report.outcome]++;
		ck_assert_int_eq(waitpid(pid, &status, 0), pid);
		if (WIFSIGNALED(status)) {
			/* So it was there when it was killed. */
			killed++;
			ck_assert_int_eq(WTERMSIG(status), SIGKILL);
			ck_assert_int_ne(report.outcome, TD_PROCESS_NOTHING_LEFT);
		} else {
			ck_assert_int_eq(WEXITSTATUS(status), 7);
		}
		close(pidfd);
	}
	printf("# released %u, nothing left %u, raced %u; killed %u of %d\n",
	       outcomes[TD_PROCESS_RELEASED], outcomes[TD_PROCESS_NOTHING_LEFT],
	       outcomes[TD_PROCESS_RACED], killed, ROUNDS);
	ck_assert_uint_eq(tdt_footprint().descriptors, before);
	ck_assert_int_eq(waitpid(-1, NULL, __WALL), -1);
}
END_TEST

int main(void)
{
	struct tdt *tests = tdt_suite("process_progress");

	tdt_add(tests, progress_never_grows_and_ends_with_the_report, NULL, NULL);
	tdt_add(tests, an_interval_without_end_is_told_of_twice, NULL, NULL);
	tdt_add(tests, outcomes_have_names, NULL, NULL);
	tdt_add(tests, a_thread_tells_of_progress, NULL, NULL);
	tdt_add(tests, without_a_thread_the_caller_is_told_by_itself, NULL, NULL);
	tdt_add(tests, a_process_with_an_armed_helper_is_killed_and_reclaimed, NULL,
		NULL);
	tdt_add(tests, a_process_with_an_armed_helper_is_released, NULL, NULL);
	tdt_add(tests, any_call_may_fail, NULL, NULL);
	tdt_add(tests, outcomes_are_true_whenever_it_ends, NULL, NULL);
	return tdt_run(tests);
}
