/* SPDX-License-Identifier: MIT */
/* A12, C5: finding the exit helper of another process, and waiting for the memory. */
#include "child.h"
#include "victim.h"

#include <errno.h>
#include <sys/eventfd.h>
#include <sys/mount.h>
#include <teardown.h>

enum { CANNOT = 77 };

static int pidfd_of(pid_t pid)
{
	int pidfd = (int)syscall(SYS_pidfd_open, pid, 0);

	ck_assert_int_ge(pidfd, 0);
	return pidfd;
}

static pid_t pid_of(int pidfd)
{
	char path[64], line[128];
	int pid = -1;
	FILE *file;

	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", pidfd);
	file = fopen(path, "re");
	ck_assert_ptr_nonnull(file);
	while (fgets(line, sizeof(line), file))
		sscanf(line, "Pid: %d", &pid);
	fclose(file);
	return pid;
}

/* A12: the end of any process will do. */
START_TEST(a_process_that_has_ended_is_reclaimed)
{
	struct victim victim = victim_start((struct victim_plan){.size = MIB});

	ck_assert_int_eq(td_exit_wait_reclaimed(victim.pidfd, 0), -ETIMEDOUT);
	ck_assert_int_eq(td_exit_wait_reclaimed(victim.pidfd, 1000000), -ETIMEDOUT);
	kill(victim.pid, SIGKILL);
	ck_assert_int_eq(td_exit_wait_reclaimed(victim.pidfd, TD_FOREVER), 0);
	ck_assert_int_eq(td_exit_wait_reclaimed(victim.pidfd, 0), 0);
	ck_assert_int_eq(waitpid(victim.pid, NULL, 0), victim.pid);
	ck_assert_int_eq(td_exit_wait_reclaimed(victim.pidfd, 0), 0);
	close(victim.pidfd);
	close(victim.hold);
}
END_TEST

START_TEST(what_is_no_pidfd_is_refused)
{
	int event = eventfd(1, 0), proc = open("/proc/self", O_RDONLY | O_DIRECTORY);
	int file = open("/dev/null", O_RDONLY), found = -7;
	int fds[] = {-1, 9999, event, proc, file};

	for (size_t i = 0; i < sizeof(fds) / sizeof(*fds); i++) {
		ck_assert_int_eq(td_exit_wait_reclaimed(fds[i], TD_FOREVER), -EBADF);
		ck_assert_int_eq(td_exit_find(fds[i], &found), -EBADF);
	}
	ck_assert_int_eq(found, -7);
}
END_TEST

#ifndef PIDFD_THREAD
#define PIDFD_THREAD O_EXCL
#endif

/* Its end is not the process's. */
START_TEST(the_pidfd_of_a_thread_is_refused)
{
	int pidfd = (int)syscall(SYS_pidfd_open, getpid(), PIDFD_THREAD);

	if (pidfd < 0) {
		tdt_skip("no pidfds of threads: %s", strerror(errno));
		return;
	}
	ck_assert_int_eq(td_exit_wait_reclaimed(pidfd, 0), -EBADF);
	close(pidfd);
}
END_TEST

START_TEST(a_failing_poll_is_told_and_a_signal_is_not)
{
	int pidfd = pidfd_of(getpid());

	tdt_fail(TDI_SYS_poll, -ENOMEM, 0, 1);
	ck_assert_int_eq(td_exit_wait_reclaimed(pidfd, 0), -ENOMEM);
	tdt_fail(TDI_SYS_poll, -EINTR, 0, 1);
	ck_assert_int_eq(td_exit_wait_reclaimed(pidfd, 1000000), -ETIMEDOUT);
	tdt_fail(TDI_SYS_waitid, -EBADF, 0, 1);
	ck_assert_int_eq(td_exit_wait_reclaimed(pidfd, 0), -EBADF);
	close(pidfd);
}
END_TEST

START_TEST(without_a_helper_there_is_none)
{
	struct victim victim = victim_start((struct victim_plan){.sharer = STRANGER});
	int found = -7;

	ck_assert_int_eq(td_exit_find(victim.pidfd, &found), -ENOENT);
	kill(victim.pid, SIGKILL);
	ck_assert(victim_has_ended(victim.pidfd, -1));
	ck_assert_int_eq(td_exit_find(victim.pidfd, &found), -ENOENT);
	ck_assert_int_eq(waitpid(victim.pid, NULL, 0), victim.pid);
	ck_assert_int_eq(td_exit_find(victim.pidfd, &found), -ESRCH);
	ck_assert_int_eq(found, -7);
	close(victim.hold);
	ck_assert_int_eq(waitpid(victim.sharer, NULL, __WALL), victim.sharer);
	close(victim.pidfd);
}
END_TEST

/* C5: while the process lives, and when it has ended. */
START_TEST(a_helper_is_found_and_ends_after_the_process)
{
	struct victim victim =
		victim_start((struct victim_plan){.sharer = LONG_HELPER, .size = MIB});
	int found = -1;

	ck_assert_int_eq(td_exit_find(victim.pidfd, &found), 0);
	ck_assert_int_eq(pid_of(found), victim.sharer);
	ck_assert(fcntl(found, F_GETFD) & FD_CLOEXEC);
	close(found);
	kill(victim.pid, SIGKILL);
	ck_assert_int_eq(td_exit_wait_reclaimed(victim.pidfd, TD_FOREVER), 0);
	ck_assert_int_eq(td_exit_find(victim.pidfd, &found), 0);
	ck_assert_int_eq(pid_of(found), victim.sharer);
	ck_assert_int_eq(td_exit_wait_reclaimed(found, 0), -ETIMEDOUT);
	victim_end(&victim);
	ck_assert_int_eq(td_exit_wait_reclaimed(found, TD_FOREVER), 0);
	close(found);
}
END_TEST

/* A process that merely has such a name. */
static pid_t start_impostor(pid_t of)
{
	int told[2];
	pid_t pid;
	char c;

	ck_assert_int_eq(pipe(told), 0);
	pid = fork();
	if (pid == 0) {
		char name[16];

		prctl(PR_SET_PDEATHSIG, SIGKILL);
		snprintf(name, sizeof(name), "td-exit:%d", (int)of);
		prctl(PR_SET_NAME, name);
		if (write(told[1], "", 1) != 1)
			_exit(1);
		for (;;)
			pause();
	}
	ck_assert_int_gt(pid, 0);
	ck_assert_int_eq(read(told[0], &c, 1), 1);
	close(told[0]);
	close(told[1]);
	return pid;
}

static void end_impostor(pid_t pid)
{
	kill(pid, SIGKILL);
	ck_assert_int_eq(waitpid(pid, NULL, 0), pid);
}

START_TEST(who_merely_has_the_name_is_not_believed)
{
	struct victim victim = victim_start((struct victim_plan){.size = MIB});
	pid_t impostor = start_impostor(victim.pid);
	int found = -7;

	ck_assert_int_eq(td_exit_find(victim.pidfd, &found), -ENOENT);
	ck_assert_int_eq(found, -7);
	/* Where the kernel does not compare, the name has to do. */
	tdt_fail(TDI_SYS_kcmp, -EPERM, 0, UINT32_MAX);
	ck_assert_int_eq(td_exit_find(victim.pidfd, &found), 0);
	ck_assert_int_eq(pid_of(found), impostor);
	close(found);
	end_impostor(impostor);
	victim_end(&victim);
}
END_TEST

START_TEST(the_true_one_is_found_among_others_of_its_name)
{
	struct victim victim =
		victim_start((struct victim_plan){.sharer = LONG_HELPER, .size = MIB});
	pid_t impostor = start_impostor(victim.pid);
	int found = -1;

	ck_assert_int_eq(td_exit_find(victim.pidfd, &found), 0);
	ck_assert_int_eq(pid_of(found), victim.sharer);
	close(found);
	end_impostor(impostor);
	victim_end(&victim);
}
END_TEST

START_TEST(calls_that_fail_are_told_and_nothing_is_left)
{
	static const struct {
		enum tdi_sys_call call;
		int err;
	} failing[] = {
		{TDI_SYS_open, -EMFILE},       {TDI_SYS_open, -ENFILE},
		{TDI_SYS_read, -EIO},	       {TDI_SYS_getdents, -ENOMEM},
		{TDI_SYS_pidfd_open, -EMFILE}, {TDI_SYS_kcmp, -EPERM},
		{TDI_SYS_readlink, -EACCES},   {TDI_SYS_poll, -ENOMEM},
	};
	struct victim victim =
		victim_start((struct victim_plan){.sharer = LONG_HELPER, .size = MIB});
	size_t before;
	int found = -1, err;

	ck_assert_int_eq(td_exit_find(victim.pidfd, &found), 0);
	close(found);
	before = tdt_footprint().descriptors;
	for (size_t i = 0; i < sizeof(failing) / sizeof(*failing); i++) {
		for (unsigned number = 0; number < 40; number++) {
			tdt_fail_none();
			tdt_fail(failing[i].call, failing[i].err, number, 1);
			found = -7;
			err = td_exit_find(victim.pidfd, &found);
			if (err == 0)
				close(found);
			else
				ck_assert_int_eq(found, -7);
			ck_assert(err == 0 || err == failing[i].err || err == -ENOENT ||
				  err == -EBADF || err == -ESRCH || err == -ENODATA);
		}
	}
	tdt_fail_none();
	ck_assert_uint_eq(tdt_footprint().descriptors, before);
	victim_end(&victim);
}
END_TEST

static void find_hidden(void *arg)
{
	int found = -7;

	if (unshare(CLONE_NEWNS) || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) ||
	    mount("proc", "/proc", "proc", 0, "hidepid=2"))
		_exit(CANNOT);
	need_eq(setresuid(65534, 65534, 65534), 0);
	need_eq(td_exit_find(*(int *)arg, &found), -ENOENT);
	need_eq(found, -7);
}

/* That it is not seen does not say that it has been waited for. */
START_TEST(a_hidden_process_has_not_gone)
{
	struct victim victim = victim_start((struct victim_plan){.size = MIB});
	int status = in_child(find_hidden, &victim.pidfd);

	if (WIFEXITED(status) && WEXITSTATUS(status) == CANNOT)
		tdt_skip("no /proc can be mounted that hides processes");
	else
		ck_assert_int_eq(status, 0);
	victim_end(&victim);
}
END_TEST

int main(void)
{
	struct tdt *tests = tdt_suite("exit_find");

	tdt_add(tests, a_process_that_has_ended_is_reclaimed, NULL, NULL);
	tdt_add(tests, what_is_no_pidfd_is_refused, NULL, NULL);
	tdt_add(tests, the_pidfd_of_a_thread_is_refused, NULL, NULL);
	tdt_add(tests, a_failing_poll_is_told_and_a_signal_is_not, NULL, NULL);
	tdt_add(tests, without_a_helper_there_is_none, NULL, NULL);
	tdt_add(tests, a_helper_is_found_and_ends_after_the_process, NULL, NULL);
	tdt_add(tests, who_merely_has_the_name_is_not_believed, NULL, NULL);
	tdt_add(tests, the_true_one_is_found_among_others_of_its_name, NULL, NULL);
	tdt_add(tests, calls_that_fail_are_told_and_nothing_is_left, NULL, NULL);
	tdt_add(tests, a_hidden_process_has_not_gone, NULL, NULL);
	return tdt_run(tests);
}
