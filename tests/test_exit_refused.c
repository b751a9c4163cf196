/* SPDX-License-Identifier: MIT */
/*
 * Arming where a system call fails: the error comes back, and nothing is left: no
 * process, thread, descriptor or mapping. And serving where a filter forbids the calls
 * that it can do without.
 */
#include "exits.h"

#include <sched.h>

/* ThreadSanitizer has threads in the background. */
#ifdef __SANITIZE_THREAD__
#define COUNTS_THREADS_OF_OTHERS 1
#else
#define COUNTS_THREADS_OF_OTHERS 0
#endif

struct fault {
	enum tdi_sys_call call;
	int err;
	unsigned number;
};

static bool reached;

static void arm_with_a_fault(const struct fault *fault)
{
	struct tdt_footprint before = tdt_footprint(), after;
	int err;

	tdt_fail(fault->call, fault->err, fault->number, 1);
	err = td_exit_arm(NULL);
	reached = tdt_calls(fault->call) > fault->number;
	tdt_fail_none();
	if (err == 0) { /* it could do without, or came before */
		need_eq(td_exit_disarm(), 0);
	} else {
		need_eq(err, fault->err);
	}
	need_eq(td_exit_disarm(), -ENOENT);
	/* a thread that was joined is seen for a moment more */
	for (int i = 0; i < 5000 && tdt_footprint().threads > 1; i++) {
		if (COUNTS_THREADS_OF_OTHERS)
			break;
		usleep(1000);
	}
	after = tdt_footprint();
	if (!COUNTS_THREADS_OF_OTHERS)
		need_eq(after.threads, 1);
	need_eq(after.descriptors, before.descriptors);
	if (!TDT_SANITIZED)
		need(after.mappings <= before.mappings + 1);
	need_eq(waitpid(-1, NULL, __WALL | WNOHANG), -1);
	need_eq(errno, ECHILD);
}

static const enum tdi_sys_call calls[] = {
	TDI_SYS_mmap,	     TDI_SYS_mprotect,	   TDI_SYS_madvise, TDI_SYS_thread_create,
	TDI_SYS_thread_name, TDI_SYS_unshare,	   TDI_SYS_clone,   TDI_SYS_pidfd_open,
	TDI_SYS_pipe,	     TDI_SYS_fcntl,	   TDI_SYS_setsid,  TDI_SYS_close_range,
	TDI_SYS_chdir,	     TDI_SYS_process_name, TDI_SYS_capset,  TDI_SYS_getaffinity,
};

static void arm_with_faults(void *arg)
{
	int err = *(int *)arg;

	/* a subreaper finds every process that is left */
	need_eq(prctl(PR_SET_CHILD_SUBREAPER, 1), 0);
	need_eq(td_exit_arm(NULL), 0); /* what is made once */
	need_eq(td_exit_disarm(), 0);
	for (size_t i = 0; i < sizeof(calls) / sizeof(calls[0]); i++) {
		struct fault fault = {.call = calls[i], .err = err};

		do
			arm_with_a_fault(&fault);
		while (reached && ++fault.number < 10);
	}
}

START_TEST(any_call_that_fails_leaves_nothing_behind) /* A10 */
{
	static const int errors[] = {-EPERM, -ENOMEM, -ENOSYS};

#ifdef __SANITIZE_THREAD__
	/* It has one state for the keeper and the helper, which has nothing of its own
	 * that is instrumented but this test's hook; now and then it dies of that. */
	tdt_skip("the hook would run in the helper, on ThreadSanitizer's state of the "
		 "keeper");
	return;
#endif
	for (size_t i = 0; i < sizeof(errors) / sizeof(errors[0]); i++)
		ck_assert_int_eq(in_child(arm_with_faults, (void *)&errors[i]), 0);
}
END_TEST

/* Neither a table of its own for the keeper, nor the question whether it is alone. */
static void forbid_unshare(void)
{
	tdt_fail(TDI_SYS_unshare, -EPERM, 0, UINT32_MAX);
}

static void serve_forbidden(void *arg)
{
	struct td_exit_state state = {.size = sizeof(state)};

	(void)arg;
	need_eq(td_exit_check(&state), 0);
	need(!(state.flags & TD_EXIT_PARALLEL));
	_exit(3);
}

static void close_all(void *arg)
{
	(void)arg;
	for (int fd = 3; fd < 50; fd++)
		close(fd);
	need_eq(kill(getpid(), SIGSTOP), 0);
	need_eq(td_exit_check(NULL), 0);
	need_eq(td_exit_disarm(), 0); /* it has nothing but the signal for that */
}

static void become_sh(void *arg)
{
	(void)arg;
	execl("/bin/sh", "sh", "-c", "kill -STOP $$", (char *)NULL);
}

static void await_stop(pid_t pid)
{
	int status;

	ck_assert_int_eq(waitpid(pid, &status, WUNTRACED), pid);
	ck_assert(WIFSTOPPED(status));
}

START_TEST(it_serves_under_a_filter_that_forbids_unshare) /* A10 */
{
	struct served served;
	int status;

	forbid_unshare();
	served = start_served(NULL, serve_forbidden, NULL);
	ck_assert_int_eq(status_of(served.process), 3 << 8);
	check_helper_ended(&served);
	for (int i = 0; i < 20; i++) {
		served = start_served(NULL, wait_for_signals, NULL);
		kill_and_check(&served);
	}
	/* exec */
	served = start_served(NULL, become_sh, NULL);
	await_stop(served.process);
	check_helper_ended(&served);
	kill(served.process, SIGCONT);
	ck_assert_int_eq(status_of(served.process), 0);
	/* its descriptor is closed by somebody */
	served = start_served(NULL, close_all, NULL);
	await_stop(served.process);
	kill(served.process, SIGCONT);
	ck_assert_int_eq(status_of(served.process), 0);
	status = status_of(served.helper);
	ck_assert(status == 0 || status == SIGKILL);
}
END_TEST

static void fork_and_disarm(void *arg)
{
	pid_t pid;
	int fds[2];

	(void)arg;
	need_eq(pipe(fds), 0);
	pid = fork();
	if (pid == 0) {
		char byte;

		need_eq(td_exit_check(NULL), -ECHILD);
		close(fds[1]);
		_exit((int)read(fds[0], &byte, 1));
	}
	need_eq(td_exit_disarm(), 0); /* also while a child holds what it inherited */
	close(fds[1]);
	need_eq(child_end(pid), 0);
}

START_TEST(a_child_that_holds_the_pipe_does_not_hold_it_up) /* A10 */
{
	struct served served;

	forbid_unshare();
	served = start_served(NULL, fork_and_disarm, NULL);
	ck_assert_int_eq(status_of(served.process), 0);
	check_helper_ended(&served);
}
END_TEST

START_TEST(it_closes_one_by_one_without_close_range) /* A10 */
{
	int many[32], count = 0;
	struct served served;
	char path[64];

	for (int i = 0; i < 32; i++)
		many[i] = open("/dev/null", O_RDONLY);
	tdt_fail(TDI_SYS_close_range, -ENOSYS, 0, UINT32_MAX);
	served = start_served(NULL, wait_for_signals, NULL);
	for (int fd = 0; fd < 200; fd++) {
		snprintf(path, sizeof(path), "/proc/%d/fd/%d", (int)served.helper, fd);
		count += access(path, F_OK) == 0 ||
			 faccessat(AT_FDCWD, path, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
	}
	ck_assert_int_eq(count, 2);
	kill_and_check(&served);
	for (int i = 0; i < 32; i++)
		close(many[i]);
}
END_TEST

static void change_user_unseen(void *arg)
{
	struct td_exit_state state = {.size = sizeof(state)};

	(void)arg;
	tdt_fail(TDI_SYS_open, -ENOENT, 0, UINT32_MAX);
	need_eq(td_exit_arm(NULL), 0);
	need_eq(td_exit_check(NULL), 0);
	need_eq(setgid(65534), 0);
	need_eq(td_exit_check(&state), -ESTALE);
	need_eq(setuid(65534), 0);
	need_eq(td_exit_check(&state), -ESTALE);
	need(state.flags & TD_EXIT_OLD_CREDENTIALS);
	need_eq(td_exit_disarm(), 0);
	need_eq(td_exit_arm(NULL), 0);
	need_eq(td_exit_check(NULL), 0);
	need_eq(td_exit_disarm(), 0);
}

START_TEST(other_credentials_are_noticed_without_proc) /* A10 */
{
	if (getuid() != 0) {
		tdt_skip("only root changes its user");
		return;
	}
	ck_assert_int_eq(in_child(change_user_unseen, NULL), 0);
}
END_TEST

static void live_in_namespace(void *arg)
{
	pid_t pid;

	(void)arg;
	need_eq(getpid(), 1);
	need_eq(td_exit_arm(NULL), -EOPNOTSUPP);
	pid = fork();
	if (pid == 0) {
		need_eq(td_exit_arm(NULL), 0);
		need(helper_of_this() > getpid());
		_exit(9);
	}
	need_eq(child_end(pid), 9 << 8);
	/* its helper is this one's child now, as any orphan */
	need(waitpid(-1, NULL, 0) > 0);
	need_eq(waitpid(-1, NULL, 0), -1);
}

static void enter_namespace(void *arg)
{
	(void)arg;
	need_eq(unshare(CLONE_NEWPID), 0);
	need_eq(in_child(live_in_namespace, NULL), 0);
}

START_TEST(the_first_of_a_pid_namespace_is_told_that_it_is_of_no_use) /* A10 */
{
	if (getuid() != 0) {
		tdt_skip("only root makes a PID namespace");
		return;
	}
	ck_assert_int_eq(in_child(enter_namespace, NULL), 0);
}
END_TEST

int main(void)
{
	struct tdt *tests = tdt_suite("exit_refused");

	tdt_add(tests, any_call_that_fails_leaves_nothing_behind, own_orphans,
		end_orphans);
	tdt_add(tests, it_serves_under_a_filter_that_forbids_unshare, own_orphans,
		end_orphans);
	tdt_add(tests, a_child_that_holds_the_pipe_does_not_hold_it_up, own_orphans,
		end_orphans);
	tdt_add(tests, it_closes_one_by_one_without_close_range, own_orphans,
		end_orphans);
	tdt_add(tests, other_credentials_are_noticed_without_proc, own_orphans,
		end_orphans);
	tdt_add(tests, the_first_of_a_pid_namespace_is_told_that_it_is_of_no_use,
		own_orphans, end_orphans);
	return tdt_run(tests);
}
