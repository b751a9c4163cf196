/* SPDX-License-Identifier: MIT */
#include "base.h"
#include "sys_internal.h"
#include "sys_probe.h"

#include <fcntl.h>
#include <linux/kcmp.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef SYS_process_mrelease
#define SYS_process_mrelease 448
#endif
#ifndef P_PIDFD
#define P_PIDFD 3
#endif

/*
 * Who has no such child is told so, whoever's pidfd it is; nobody is waited for. That a
 * pidfd is one thread's shows in a flag.
 */
int tdi_sys_pidfd_check(int pidfd)
{
	int err = tdi_sys_fault(TDI_SYS_waitid, NULL, 0, pidfd), flags;

	if (!err)
		err = (int)TDI_ERRNO(syscall(SYS_waitid, P_PIDFD, pidfd, NULL,
					     WEXITED | WNOHANG | WNOWAIT, NULL));
	if (err == -EBADF || err == -EINVAL)
		return -EBADF;
	flags = tdi_sys_fault(TDI_SYS_fcntl, NULL, 0, pidfd);
	if (!flags)
		flags = (int)TDI_ERRNO(fcntl(pidfd, F_GETFL));
	return flags < 0 || (flags & O_EXCL) ? -EBADF : 0;
}

int tdi_sys_kcmp_vm(int pid, int other)
{
	int err = tdi_sys_fault(TDI_SYS_kcmp, NULL, 0, other);

	if (!err)
		err = (int)TDI_ERRNO(syscall(SYS_kcmp, pid, other, KCMP_VM, 0ul, 0ul));
	return err > 0 ? 1 : err;
}

ssize_t tdi_sys_getdents(int fd, void *buf, size_t size)
{
	int err = tdi_sys_fault(TDI_SYS_getdents, buf, size, fd);

	return err ? err : TDI_ERRNO(syscall(SYS_getdents64, fd, buf, size));
}

ssize_t tdi_sys_readlink(const char *path, char *buf, size_t size)
{
	int err = tdi_sys_fault(TDI_SYS_readlink, buf, size, 0);

	return err ? err : TDI_ERRNO(readlink(path, buf, size));
}

/* ---- what is there ---- */

static bool is_there(unsigned call)
{
	switch (call) {
	case TDI_PROBE_PIDFD_OPEN:
		return TDI_ERRNO(syscall(SYS_pidfd_open, -1, 0)) == -EINVAL;
	case TDI_PROBE_PIDFD_SEND_SIGNAL:
		return TDI_ERRNO(syscall(SYS_pidfd_send_signal, -1, 0, NULL, 0)) ==
		       -EBADF;
	case TDI_PROBE_MRELEASE:
		return TDI_ERRNO(syscall(SYS_process_mrelease, -1, 0)) == -EBADF;
	case TDI_PROBE_AFFINITY:
		return TDI_ERRNO(syscall(SYS_sched_setaffinity, 0, sizeof(long), NULL)) ==
			       -EFAULT &&
		       TDI_ERRNO(syscall(SYS_sched_getaffinity, 0, 0ul, NULL)) == -EINVAL;
	default:
		return TDI_ERRNO(syscall(SYS_kcmp, getpid(), getpid(), KCMP_VM, 0ul,
					 0ul)) == 0;
	}
}

static unsigned ask(unsigned calls)
{
	unsigned there = 0;

	for (unsigned call = 1; call <= calls; call <<= 1) {
		if ((calls & call) && is_there(call))
			there |= call;
	}
	return there;
}

/*
 * In a child with memory of its own (a core dump of one that shared ours would be of
 * ours) that sends no signal and shows up in nobody's wait(), unless with __WALL. With
 * all signals blocked a filter's SIGSYS ends it without calling the host's handler.
 * -ESHUTDOWN: it was ended; else a negative errno: it could not be asked.
 */
__attribute__((no_sanitize("thread", "address"))) static int ask_in_child(unsigned calls)
{
	sigset_t all, before;
	int status = 0;
	long pid, err = tdi_sys_fault(TDI_SYS_clone, NULL, 0, 0);

	if (err)
		return (int)err;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	pid = TDI_ERRNO(syscall(SYS_clone, 0ul, NULL, NULL, NULL, 0ul));
	if (pid == 0) {
		syscall(SYS_prctl, PR_SET_DUMPABLE, 0, 0, 0, 0);
		syscall(SYS_exit_group, (int)ask(calls));
	}
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (pid < 0)
		return (int)pid;
	do
		err = TDI_ERRNO(syscall(SYS_wait4, (int)pid, &status, __WALL, NULL));
	while (err == -EINTR);
	if (err != pid)
		return err < 0 ? (int)err : -ECHILD;
	return WIFEXITED(status) ? WEXITSTATUS(status) : -ESHUTDOWN;
}

int tdi_sys_probe(unsigned calls, int in_child)
{
	static const enum tdi_sys_call hooks[] = {
		TDI_SYS_pidfd_open, TDI_SYS_pidfd_send_signal, TDI_SYS_process_mrelease,
		TDI_SYS_kcmp, TDI_SYS_setaffinity};
	unsigned there = 0;
	int said;

	for (unsigned i = 0; i < sizeof(hooks) / sizeof(*hooks); i++) {
		if (tdi_sys_fault(hooks[i], NULL, 0, -1))
			calls &= ~(1u << i);
	}
	if (!in_child)
		return (int)ask(calls);
	said = ask_in_child(calls);
	if (said != -ESHUTDOWN)
		return said;
	for (unsigned call = 1; call <= calls; call <<= 1) {
		said = calls & call ? ask_in_child(call) : 0;
		if (said < 0 && said != -ESHUTDOWN)
			return said;
		if (said > 0)
			there |= call;
	}
	return (int)there;
}
