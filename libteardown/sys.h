/* SPDX-License-Identifier: MIT */
/*
 * Floor 0: every system call that the library makes. Each returns what the kernel
 * returned or a negative errno value, leaves errno alone, and asks the fault hook
 * first, so that a test can make any of them fail.
 */
#ifndef TDI_SYS_H
#define TDI_SYS_H

#include <pthread.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* X(name): one for each system call that can fail */
#define TDI_SYS_CALLS(X)                                                                 \
	X(mmap)                                                                          \
	X(munmap)                                                                        \
	X(mremap)                                                                        \
	X(madvise)                                                                       \
	X(mprotect)                                                                      \
	X(mlock)                                                                         \
	X(msync)                                                                         \
	X(mbind)                                                                         \
	X(futex_wait)                                                                    \
	X(futex_wake)                                                                    \
	X(eventfd)                                                                       \
	X(dup)                                                                           \
	X(open)                                                                          \
	X(read)                                                                          \
	X(write)                                                                         \
	X(ioctl)                                                                         \
	X(fallocate)                                                                     \
	X(pwrite)                                                                        \
	X(lseek)                                                                         \
	X(fstatfs)                                                                       \
	X(getrlimit)                                                                     \
	X(userfaultfd)                                                                   \
	X(close)                                                                         \
	X(thread_create)                                                                 \
	X(thread_name)                                                                   \
	X(thread_sched)                                                                  \
	X(thread_nice)                                                                   \
	X(getaffinity)                                                                   \
	X(setaffinity)                                                                   \
	X(thread_key)                                                                    \
	X(thread_set)                                                                    \
	X(getcpu)                                                                        \
	X(move_pages)                                                                    \
	X(poll)                                                                          \
	X(membarrier)                                                                    \
	/* of processes: sys_process.h */                                                \
	X(clone)                                                                         \
	X(unshare)                                                                       \
	X(waitid)                                                                        \
	X(pidfd_open)                                                                    \
	X(pidfd_send_signal)                                                             \
	X(process_mrelease)                                                              \
	X(close_range)                                                                   \
	X(pipe)                                                                          \
	X(fcntl)                                                                         \
	X(setsid)                                                                        \
	X(chdir)                                                                         \
	X(process_name)                                                                  \
	X(capset)

#define TDI_SYS_ENUM_(name) TDI_SYS_##name,
enum tdi_sys_call { TDI_SYS_CALLS(TDI_SYS_ENUM_) TDI_SYS_COUNT };
#undef TDI_SYS_ENUM_

/*
 * The fault hook: 0 lets the call go to the kernel, a negative errno is returned in its
 * place. addr and length are the call's first two arguments where it has such. Called
 * from any thread.
 */
typedef int tdi_sys_fault_fn(enum tdi_sys_call call, uintptr_t addr, size_t length,
			     int detail);
void tdi_sys_set_fault(tdi_sys_fault_fn *fault);

int tdi_sys_mmap(void *addr, size_t length, int prot, int flags, void **ret);
int tdi_sys_mmap_file(void *addr, size_t length, int prot, int flags, int fd,
		      uint64_t offset, void **ret);
int tdi_sys_munmap(void *addr, size_t length);
/* Moves a mapping over whatever is mapped at `to`; to == addr only asks whether it may
 * be. */
int tdi_sys_mremap(void *addr, size_t length, void *to);
int tdi_sys_msync(void *addr, size_t length, int flags);
int tdi_sys_madvise(void *addr, size_t length, int advice);
int tdi_sys_mprotect(void *addr, size_t length, int prot);
int tdi_sys_mlock(void *addr, size_t length);
int tdi_sys_mbind_node(void *addr, size_t length, unsigned node);

/*
 * Waits while *word == expected. deadline_ns is CLOCK_MONOTONIC, UINT64_MAX for none.
 * 0; -EAGAIN: *word differs; -EINTR; -ETIMEDOUT. Wakes may be spurious. Any other
 * answer ends the process, for waiting as for waking.
 */
int tdi_sys_futex_wait(_Atomic(uint32_t) *word, uint32_t expected, uint64_t deadline_ns);
/* Those who wait with other bits sleep on: one word for several events. */
int tdi_sys_futex_wait_bits(_Atomic(uint32_t) *word, uint32_t expected, uint32_t bits,
			    uint64_t deadline_ns);
/* word may have been freed meanwhile: the kernel only looks at the address. */
void tdi_sys_futex_wake(_Atomic(uint32_t) *word, int threads);
void tdi_sys_futex_wake_bits(_Atomic(uint32_t) *word, int threads, uint32_t bits);

void tdi_sys_pause(uint64_t ns);

int tdi_sys_eventfd(int flags);
int tdi_sys_dup_cloexec(int fd);
int tdi_sys_open(const char *path, int flags);
ssize_t tdi_sys_read(int fd, void *buf, size_t size);
ssize_t tdi_sys_write(int fd, const void *buf, size_t size);
int tdi_sys_ioctl(int fd, unsigned long request, void *arg);
int tdi_sys_close(int fd);
int tdi_sys_punch_hole(int fd, uint64_t offset, uint64_t length);
ssize_t tdi_sys_pwrite(int fd, const void *buf, size_t size, uint64_t offset);
int64_t tdi_sys_lseek(int fd, uint64_t offset, int whence);
/* The file system's magic number, and its block size. */
int tdi_sys_fstatfs(int fd, long *ret_type, size_t *ret_block);
int tdi_sys_getrlimit(int resource, uint64_t *ret); /* UINT64_MAX for none */
int tdi_sys_userfaultfd(int flags);

/* A thread with all signals blocked. */
int tdi_sys_thread_create(pthread_t *ret, void *(*run)(void *), void *arg);
int tdi_sys_thread_name(const char *name); /* the calling thread */
int tdi_sys_thread_sched(int policy);	   /* the calling thread, priority 0 */
int tdi_sys_thread_nice(int nice);	   /* the calling thread */
/* CPUs of the calling thread, as a cpu_set_t of so many bytes; what the kernel has not
 * are 0. */
int tdi_sys_getaffinity(unsigned long *cpus, size_t size);
int tdi_sys_setaffinity(const unsigned long *cpus, size_t size);
void tdi_sys_thread_join(pthread_t thread);
/* A key of thread-specific data, and the calling thread's value under it, not NULL. */
int tdi_sys_thread_key(pthread_key_t *ret, void (*destructor)(void *value));
int tdi_sys_thread_set(pthread_key_t key, void *value);

/* 0, -ETIMEDOUT, -EDEADLK. */
int tdi_sys_rdlock_until(pthread_rwlock_t *lock, uint64_t deadline_ns);
int tdi_sys_wrlock_until(pthread_rwlock_t *lock, uint64_t deadline_ns);

/* How many are ready; 0: none until the deadline (CLOCK_MONOTONIC, UINT64_MAX for none),
 * or after days. */
struct pollfd;
int tdi_sys_poll(struct pollfd *fds, unsigned nr, uint64_t deadline_ns);

int tdi_sys_membarrier(int command);

uint32_t tdi_sys_gettid(void);
/* Where the calling thread runs, for this moment; no system call on most machines. */
int tdi_sys_getcpu(unsigned *ret_cpu, unsigned *ret_node);
/* Of each page the node that holds it, or a negative errno: -ENOENT, not resident. */
int tdi_sys_page_nodes(unsigned pages, void **addrs, int *ret);

uint64_t tdi_sys_now_ns(void); /* CLOCK_MONOTONIC */
uint64_t tdi_sys_cpu_ns(void); /* CPU time of the calling thread */

/* now + timeout, UINT64_MAX for a negative (endless) timeout or past the end of time */
uint64_t tdi_sys_deadline(int64_t timeout_ns);

#endif
