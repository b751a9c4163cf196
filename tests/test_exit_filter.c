/* SPDX-License-Identifier: MIT */
/*
 * Arming under real seccomp filters: each forbids one call, in one of two ways. Either
 * the helper serves, or arming fails; it never hangs, and no process is left.
 */
#include "exits.h"

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/syscall.h>

static void forbid(int call, int err)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)call, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (unsigned)err),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = {sizeof(code) / sizeof(code[0]), code};

	need_eq(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
	need_eq(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program), 0);
}

static const struct {
	int call;
	bool does_without;
} calls[] = {
	{SYS_unshare, true},	 {SYS_close_range, true}, {SYS_clone, false},
	{SYS_pidfd_open, false}, {SYS_pipe2, false},	  {SYS_waitid, false},
	{SYS_setsid, false},	 {SYS_chdir, false},	  {SYS_capset, false},
	{SYS_prctl, false},	 {SYS_ppoll, false},
};

struct forbidden {
	int call, err;
	bool does_without;
};

static void arm_forbidden(void *arg)
{
	const struct forbidden *forbidden = arg;
	int err;

	alarm(CHILD_SECONDS);
	forbid(forbidden->call, forbidden->err);
	err = td_exit_arm(NULL);
	need_eq(err, forbidden->does_without ? 0 : -forbidden->err);
	need_eq(td_exit_check(NULL), err ? -ENOENT : 0);
	if (err)
		return;
	need_eq(td_exit_disarm(), 0);
	need_eq(td_exit_arm(NULL), 0);
	kill(getpid(), SIGKILL);
}

/* All that is left comes to the test. */
static void check_orphans(void)
{
	int status;

	while (waitpid(-1, &status, __WALL) > 0)
		ck_assert(status == 0 || status == SIGKILL); /* it was slow */
	ck_assert_int_eq(errno, ECHILD);
}

static void check_forbidden(int err)
{
	for (size_t i = 0; i < sizeof(calls) / sizeof(calls[0]); i++) {
		struct forbidden forbidden = {calls[i].call, err, calls[i].does_without};

		ck_assert_int_eq(in_child(arm_forbidden, &forbidden),
				 calls[i].does_without ? SIGKILL : 0);
		check_orphans();
	}
}

START_TEST(it_serves_or_is_refused_where_a_call_is_not_permitted) /* A10 */
{
	check_forbidden(EPERM);
}
END_TEST

START_TEST(it_serves_or_is_refused_where_a_call_is_unknown) /* A10 */
{
	check_forbidden(ENOSYS);
}
END_TEST

int main(void)
{
	struct tdt *tests = tdt_suite("exit_filter");

	tdt_add(tests, it_serves_or_is_refused_where_a_call_is_not_permitted, own_orphans,
		end_orphans);
	tdt_add(tests, it_serves_or_is_refused_where_a_call_is_unknown, own_orphans,
		end_orphans);
	return tdt_run(tests);
}
