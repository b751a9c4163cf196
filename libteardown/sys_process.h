/* SPDX-License-Identifier: MIT */
/*
 * Floor 0: system calls about processes. As in sys.h each returns a negative errno value
 * on failure and asks the fault hook first, but for those named tdi_bare_*: they are for
 * a process that shares memory of which most is gone, and touch none but their own stack
 * and errno. This file's code is never instrumented by a sanitizer.
 */
#ifndef TDI_SYS_PROCESS_H
#define TDI_SYS_PROCESS_H

#include <poll.h>
#include <pthread.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* ---- for anybody ---- */

int tdi_sys_pidfd_open(pid_t pid); /* close-on-exec */
int tdi_sys_pidfd_send_signal(int pidfd, int signal);
int tdi_sys_process_mrelease(int pidfd, unsigned flags);
pid_t tdi_sys_getpid(void);

/* ---- for who makes the exit helper ---- */

/* A thread with all signals blocked, on that stack. */
int tdi_sys_thread_create_on(void *stack, size_t size, pthread_t *ret,
			     void *(*run)(void *), void *arg);
/* clone(2); stack is its upper end. parent_tid and child_tid: where the flags say so. */
int tdi_sys_clone(int (*run)(void *), void *stack, int flags, void *arg, void *parent_tid,
		  void *child_tid);
int tdi_sys_unshare(int flags);
/* Waits for the end of a child of any kind and forgets it. */
int tdi_sys_wait_child(pid_t pid);
int tdi_sys_pipe(int *ret_read, int *ret_write); /* close-on-exec */
int tdi_sys_is_open(int fd);			 /* 0, -EBADF */
/* Who a descriptor is, so that one of the same number is not taken for it. */
int tdi_sys_inode(int fd, uint64_t *ret);
int tdi_sys_close_range(unsigned first, unsigned last);
/* Writes text to a file that is there. */
int tdi_sys_write_file(const char *path, const char *text);
int tdi_sys_setsid(void);
int tdi_sys_chdir(const char *path);
int tdi_sys_process_name(const char *name);
/* The calling thread gives up all capabilities but those of the mask. */
int tdi_sys_drop_caps(uint64_t but);
/* Of the calling thread: effective ones. */
int tdi_sys_caps(uint64_t *ret);
/* Users and groups (real, effective, saved) of the calling thread. */
int tdi_sys_ids(unsigned ret[6]);
/* Its seccomp mode. */
int tdi_sys_seccomp_mode(void);
/* Blocks all there are, those that the C library keeps for itself, too. */
int tdi_sys_block_signals(void);
/* From a real-time policy to the usual one. */
int tdi_sys_leave_realtime(void);
int tdi_sys_no_core(void);

/* ---- for the helper ---- */

/* For processes, not only for threads, that share the memory. No error is fatal. */
int tdi_bare_futex_wait(_Atomic(uint32_t) *word, uint32_t expected, int timeout_ms);
int tdi_bare_futex_wake(_Atomic(uint32_t) *word);
int tdi_bare_poll(struct pollfd *fds, unsigned nr, int timeout_ms);
void tdi_bare_pause(long ns);
uint64_t tdi_bare_now_ns(void); /* CLOCK_MONOTONIC */
int tdi_bare_clone(int (*run)(void *), void *stack, int flags, void *arg);
int tdi_bare_unshare(int flags);
int tdi_bare_thread_is_there(pid_t process, pid_t thread); /* 0, -ESRCH */
/* 0 or -1. */
int tdi_bare_madvise(uintptr_t addr, size_t length, int advice);
int tdi_bare_munmap(uintptr_t addr, size_t length);
int tdi_bare_open(const char *path, int flags);
ssize_t tdi_bare_read(int fd, void *buf, size_t size);
ssize_t tdi_bare_write(int fd, const void *buf, size_t size);
ssize_t tdi_bare_getdents(int fd, void *buf, size_t size);
int tdi_bare_close(int fd);
void tdi_bare_exit_thread(void) __attribute__((noreturn));
void tdi_bare_exit(int status) __attribute__((noreturn));

#endif
