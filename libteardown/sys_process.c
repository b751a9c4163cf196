/* SPDX-License-Identifier: MIT */
/*
 * By syscall() where the C library has a function, too: its own may be a point of
 * cancellation, and a sanitizer may have put one of its own in front.
 */
#include "sys_process.h"
#include "sys_internal.h"

#include <fcntl.h>
#include <linux/capability.h>
#include <linux/futex.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* ThreadSanitizer's own takes every clone for a fork. */
#ifdef __GLIBC__
int __clone(int (*run)(void *), void *stack, int flags, void *arg, ...);
#define clone __clone
#endif

/* Numbers that older headers lack; the same on all architectures but alpha. */
#ifndef SYS_process_mrelease
#define SYS_process_mrelease 448
#endif

/*
 * Like TDI_ERRNO, but a call that succeeds does not touch errno: who shares it sleeps, or
 * is about to.
 */
#undef TDI_ERRNO
#define TDI_ERRNO(expression)                                                            \
	({                                                                               \
		long result_ = (long)(expression);                                       \
		result_ == -1 ? -errno : result_;                                        \
	})

#define ASK(call, addr, length, detail)                                                  \
	do {                                                                             \
		int fault_ = tdi_sys_fault(TDI_SYS_##call, addr, length, detail);        \
		if (fault_)                                                              \
			return fault_;                                                   \
	} while (0)

/* ---- for anybody ---- */

int tdi_sys_pidfd_open(pid_t pid)
{
	ASK(pidfd_open, NULL, 0, (int)pid);
	return (int)TDI_ERRNO(syscall(SYS_pidfd_open, pid, 0));
}

int tdi_sys_pidfd_send_signal(int pidfd, int signal)
{
	ASK(pidfd_send_signal, NULL, 0, signal);
	return (int)TDI_ERRNO(syscall(SYS_pidfd_send_signal, pidfd, signal, NULL, 0));
}

int tdi_sys_process_mrelease(int pidfd, unsigned flags)
{
	ASK(process_mrelease, NULL, 0, pidfd);
	return (int)TDI_ERRNO(syscall(SYS_process_mrelease, pidfd, flags));
}

pid_t tdi_sys_getpid(void)
{
	return getpid();
}

/* ---- for who makes the exit helper ---- */

int tdi_sys_thread_create_on(void *stack, size_t size, pthread_t *ret,
			     void *(*run)(void *), void *arg)
{
	sigset_t all, before;
	pthread_attr_t attr;
	int err;

	ASK(thread_create, arg, 0, 0);
	err = -pthread_attr_init(&attr);
	if (err)
		return err;
	err = -pthread_attr_setstack(&attr, stack, size);
	if (!err) {
		sigfillset(&all);
		pthread_sigmask(SIG_SETMASK, &all, &before);
		err = -pthread_create(ret, &attr, run, arg);
		pthread_sigmask(SIG_SETMASK, &before, NULL);
	}
	pthread_attr_destroy(&attr);
	return err;
}

int tdi_bare_clone(int (*run)(void *), void *stack, int flags, void *arg)
{
	return (int)TDI_ERRNO(clone(run, stack, flags, arg));
}

int tdi_sys_clone(int (*run)(void *), void *stack, int flags, void *arg, void *parent_tid,
		  void *child_tid)
{
	ASK(clone, stack, 0, flags);
	return (int)TDI_ERRNO(clone(run, stack, flags, arg, parent_tid, NULL, child_tid));
}

int tdi_bare_unshare(int flags)
{
	return (int)TDI_ERRNO(syscall(SYS_unshare, flags));
}

int tdi_sys_unshare(int flags)
{
	ASK(unshare, NULL, 0, flags);
	return tdi_bare_unshare(flags);
}

int tdi_sys_wait_child(pid_t pid)
{
	int err;

	ASK(waitid, NULL, 0, (int)pid);
	do {
		err = (int)TDI_ERRNO(
			syscall(SYS_waitid, P_PID, pid, NULL, WEXITED | __WALL, NULL));
	} while (err == -EINTR);
	return err;
}

int tdi_sys_pipe(int *ret_read, int *ret_write)
{
	int fds[2], err;

	ASK(pipe, NULL, 0, 0);
	err = (int)TDI_ERRNO(syscall(SYS_pipe2, fds, O_CLOEXEC));
	if (!err) {
		*ret_read = fds[0];
		*ret_write = fds[1];
	}
	return err;
}

int tdi_sys_is_open(int fd)
{
	int got;

	ASK(fcntl, NULL, 0, fd);
	got = (int)TDI_ERRNO(syscall(SYS_fcntl, fd, F_GETFD));
	return got < 0 ? got : 0;
}

int tdi_sys_inode(int fd, uint64_t *ret)
{
	struct stat about;
	int err;

	ASK(fcntl, NULL, 0, fd);
	err = (int)TDI_ERRNO(fstat(fd, &about));
	if (!err)
		*ret = about.st_ino;
	return err;
}

int tdi_sys_close_range(unsigned first, unsigned last)
{
	ASK(close_range, NULL, first, (int)last);
#ifdef SYS_close_range
	return (int)TDI_ERRNO(syscall(SYS_close_range, first, last, 0u));
#else
	return -ENOSYS;
#endif
}

int tdi_sys_write_file(const char *path, const char *text)
{
	size_t length = 0;
	ssize_t written;
	int fd;

	ASK(open, path, 0, O_WRONLY);
	fd = tdi_bare_open(path, O_WRONLY);
	if (fd < 0)
		return fd;
	while (text[length])
		length++;
	written = tdi_sys_fault(TDI_SYS_write, text, length, fd);
	if (!written)
		written = tdi_bare_write(fd, text, length);
	(void)tdi_bare_close(fd);
	if (written < 0)
		return (int)written;
	return (size_t)written == length ? 0 : -EIO;
}

int tdi_sys_setsid(void)
{
	int got;

	ASK(setsid, NULL, 0, 0);
	got = (int)TDI_ERRNO(syscall(SYS_setsid));
	return got < 0 ? got : 0;
}

int tdi_sys_chdir(const char *path)
{
	ASK(chdir, path, 0, 0);
	return (int)TDI_ERRNO(syscall(SYS_chdir, path));
}

int tdi_sys_process_name(const char *name)
{
	ASK(process_name, name, 0, 0);
	return (int)TDI_ERRNO(syscall(SYS_prctl, PR_SET_NAME, name, 0, 0, 0));
}

static struct __user_cap_header_struct caps_header(void)
{
	return (struct __user_cap_header_struct){.version = _LINUX_CAPABILITY_VERSION_3};
}

int tdi_sys_caps(uint64_t *ret)
{
	struct __user_cap_header_struct header = caps_header();
	struct __user_cap_data_struct data[2];
	int err = (int)TDI_ERRNO(syscall(SYS_capget, &header, data));

	if (!err)
		*ret = data[0].effective | (uint64_t)data[1].effective << 32;
	return err;
}

int tdi_sys_drop_caps(uint64_t but)
{
	struct __user_cap_header_struct header = caps_header();
	struct __user_cap_data_struct data[2];
	int err;

	ASK(capset, NULL, 0, 0);
	err = (int)TDI_ERRNO(syscall(SYS_capget, &header, data));
	for (int i = 0; i < 2; i++) {
		uint32_t keep = (uint32_t)(but >> (32 * i));

		data[i].effective &= keep;
		data[i].permitted &= keep;
		data[i].inheritable = 0;
	}
	return err ? err : (int)TDI_ERRNO(syscall(SYS_capset, &header, data));
}

int tdi_sys_ids(unsigned ret[6])
{
	int err = (int)TDI_ERRNO(syscall(SYS_getresuid, ret, ret + 1, ret + 2));

	return err ? err
		   : (int)TDI_ERRNO(syscall(SYS_getresgid, ret + 3, ret + 4, ret + 5));
}

int tdi_sys_seccomp_mode(void)
{
	return (int)TDI_ERRNO(syscall(SYS_prctl, PR_GET_SECCOMP, 0, 0, 0, 0));
}

int tdi_sys_block_signals(void)
{
	uint64_t all = UINT64_MAX;

	return (int)TDI_ERRNO(syscall(SYS_rt_sigprocmask, SIG_SETMASK, &all, NULL,
				      (size_t)(_NSIG / 8)));
}

int tdi_sys_leave_realtime(void)
{
	struct sched_param param = {.sched_priority = 0};
	int policy = (int)TDI_ERRNO(syscall(SYS_sched_getscheduler, 0));

	if (policy < 0)
		return policy;
	policy &= ~SCHED_RESET_ON_FORK;
	if (policy == SCHED_OTHER || policy == SCHED_BATCH || policy == SCHED_IDLE)
		return 0;
	return (int)TDI_ERRNO(syscall(SYS_sched_setscheduler, 0, SCHED_OTHER, &param));
}

int tdi_sys_no_core(void)
{
	/* To the kernel, 1 forbids to start a program that takes the dump, too. */
	struct rlimit none = {1, 1};

	if (setrlimit(RLIMIT_CORE, &none) == 0)
		return 0;
	none.rlim_cur = none.rlim_max = 0;
	return (int)TDI_ERRNO(setrlimit(RLIMIT_CORE, &none));
}

/* ---- for the helper ---- */

int tdi_bare_futex_wait(_Atomic(uint32_t) *word, uint32_t expected, int timeout_ms)
{
	struct timespec time = {.tv_sec = timeout_ms / 1000,
				.tv_nsec = (long)(timeout_ms % 1000) * 1000000};

	return (int)TDI_ERRNO(syscall(SYS_futex, word, FUTEX_WAIT, expected,
				      timeout_ms < 0 ? NULL : &time, NULL, 0));
}

int tdi_bare_futex_wake(_Atomic(uint32_t) *word)
{
	return (int)TDI_ERRNO(
		syscall(SYS_futex, word, FUTEX_WAKE, 1 << 30, NULL, NULL, 0));
}

int tdi_bare_poll(struct pollfd *fds, unsigned nr, int timeout_ms)
{
	struct timespec time = {.tv_sec = timeout_ms / 1000,
				.tv_nsec = (long)(timeout_ms % 1000) * 1000000};

	return (int)TDI_ERRNO(syscall(SYS_ppoll, fds, nr, timeout_ms < 0 ? NULL : &time,
				      NULL, (size_t)(_NSIG / 8)));
}

/* Not by the C library: it looks for a faster way in its own memory. */
uint64_t tdi_bare_now_ns(void)
{
	struct timespec now = {0};

	(void)TDI_ERRNO(syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &now));
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

void tdi_bare_pause(long ns)
{
	struct timespec time = {.tv_nsec = ns};

	(void)TDI_ERRNO(syscall(SYS_ppoll, NULL, 0, &time, NULL, (size_t)(_NSIG / 8)));
}

int tdi_bare_thread_is_there(pid_t process, pid_t thread)
{
	int err = (int)TDI_ERRNO(syscall(SYS_tgkill, process, thread, 0));

	return err == -ESRCH ? err : 0;
}

int tdi_bare_madvise(uintptr_t addr, size_t length, int advice)
{
	/* Not -errno: the helper's threads have one errno for all of them. */
	return syscall(SYS_madvise, addr, length, advice) == 0 ? 0 : -1;
}

int tdi_bare_munmap(uintptr_t addr, size_t length)
{
	return (int)TDI_ERRNO(syscall(SYS_munmap, addr, length));
}

int tdi_bare_open(const char *path, int flags)
{
	return (int)TDI_ERRNO(syscall(SYS_openat, AT_FDCWD, path, flags | O_CLOEXEC));
}

ssize_t tdi_bare_read(int fd, void *buf, size_t size)
{
	return TDI_ERRNO(syscall(SYS_read, fd, buf, size));
}

ssize_t tdi_bare_write(int fd, const void *buf, size_t size)
{
	return TDI_ERRNO(syscall(SYS_write, fd, buf, size));
}

ssize_t tdi_bare_getdents(int fd, void *buf, size_t size)
{
	return TDI_ERRNO(syscall(SYS_getdents64, fd, buf, size));
}

int tdi_bare_close(int fd)
{
	return (int)TDI_ERRNO(syscall(SYS_close, fd));
}

void tdi_bare_exit_thread(void)
{
	for (;;)
		syscall(SYS_exit, 0);
}

void tdi_bare_exit(int status)
{
	for (;;)
		syscall(SYS_exit_group, status);
}
