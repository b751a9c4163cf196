/* SPDX-License-Identifier: MIT */
#include "base.h"
#include "sys.h"
#include "sys_internal.h"

#include <fcntl.h>
#include <limits.h>
#include <linux/futex.h>
#include <linux/mempolicy.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static _Atomic(tdi_sys_fault_fn *) fault_hook;

void tdi_sys_set_fault(tdi_sys_fault_fn *fault)
{
	atomic_store_explicit(&fault_hook, fault, memory_order_release);
}

TDI_HOT static int fault(enum tdi_sys_call call, const void *addr, size_t length,
			 int detail)
{
	/* Acquire: what the hook looks at was set up before it. */
	tdi_sys_fault_fn *hook = atomic_load_explicit(&fault_hook, memory_order_acquire);

	if (tdi_likely(!hook))
		return 0;
	return hook(call, (uintptr_t)addr, length, detail);
}

int tdi_sys_fault(enum tdi_sys_call call, const void *addr, size_t length, int detail)
{
	return fault(call, addr, length, detail);
}

int tdi_sys_mmap_file(void *addr, size_t length, int prot, int flags, int fd,
		      uint64_t offset, void **ret)
{
	int err = fault(TDI_SYS_mmap, addr, length, flags);
	int saved_errno = errno;
	void *mapped;

	if (err)
		return err;
	mapped = mmap(addr, length, prot, flags, fd, (off_t)offset);
	if (mapped == MAP_FAILED) {
		err = -errno;
		errno = saved_errno;
		return err;
	}
	*ret = mapped;
	return 0;
}

int tdi_sys_mmap(void *addr, size_t length, int prot, int flags, void **ret)
{
	return tdi_sys_mmap_file(addr, length, prot, flags, -1, 0, ret);
}

int tdi_sys_munmap(void *addr, size_t length)
{
	int err = fault(TDI_SYS_munmap, addr, length, 0);

	return err ? err : (int)TDI_ERRNO(munmap(addr, length));
}

int tdi_sys_mremap(void *addr, size_t length, void *to)
{
	int err = fault(TDI_SYS_mremap, addr, length, to == addr);
	int flags = to == addr ? 0 : MREMAP_MAYMOVE | MREMAP_FIXED;
	int saved_errno = errno;

	if (!err && mremap(addr, length, length, flags, to) == MAP_FAILED) {
		err = -errno;
		errno = saved_errno;
	}
	return err;
}

int tdi_sys_mprotect(void *addr, size_t length, int prot)
{
	int err = fault(TDI_SYS_mprotect, addr, length, prot);

	return err ? err : (int)TDI_ERRNO(mprotect(addr, length, prot));
}

int tdi_sys_mlock(void *addr, size_t length)
{
	int err = fault(TDI_SYS_mlock, addr, length, 0);

	return err ? err : (int)TDI_ERRNO(mlock(addr, length));
}

int tdi_sys_msync(void *addr, size_t length, int flags)
{
	int err = fault(TDI_SYS_msync, addr, length, flags);

	return err ? err : (int)TDI_ERRNO(msync(addr, length, flags));
}

int tdi_sys_madvise(void *addr, size_t length, int advice)
{
	int err = fault(TDI_SYS_madvise, addr, length, advice);

	return err ? err : (int)TDI_ERRNO(madvise(addr, length, advice));
}

int tdi_sys_mbind_node(void *addr, size_t length, unsigned node)
{
	enum { BITS = sizeof(unsigned long) * CHAR_BIT, WORDS = 1024 / BITS };
	unsigned long mask[WORDS] = {0};
	int err = fault(TDI_SYS_mbind, addr, length, (int)node);

	if (err)
		return err;
	if (node >= WORDS * BITS)
		return -EINVAL;
	mask[node / BITS] = 1ul << (node % BITS);
	/* The kernel takes one bit less than it is told. */
	return (int)TDI_ERRNO(
		syscall(SYS_mbind, addr, length, MPOL_BIND, mask, WORDS * BITS + 1, 0u));
}

/*
 * A futex that fails in any other way than these would leave somebody asleep for ever, or
 * spinning: it is either a bug or a filter that no threaded program survives.
 */
static void futex_check(const char *what, int err)
{
	if (tdi_unlikely(err < 0 && err != -EAGAIN && err != -EINTR && err != -ETIMEDOUT))
		tdi_die("futex %s: %s", what, strerrordesc_np(-err));
}

int tdi_sys_futex_wait_bits(_Atomic(uint32_t) *word, uint32_t expected, uint32_t bits,
			    uint64_t deadline_ns)
{
	int err = fault(TDI_SYS_futex_wait, word, expected, 0);
	struct timespec deadline, *until = NULL;

	if (deadline_ns != UINT64_MAX) {
		deadline.tv_sec = (time_t)(deadline_ns / 1000000000u);
		deadline.tv_nsec = (long)(deadline_ns % 1000000000u);
		until = &deadline;
	}
	if (!err)
		err = (int)TDI_ERRNO(syscall(SYS_futex, word,
					     FUTEX_WAIT_BITSET | FUTEX_PRIVATE_FLAG,
					     expected, until, NULL, bits));
	futex_check("wait", err);
	return err;
}

int tdi_sys_futex_wait(_Atomic(uint32_t) *word, uint32_t expected, uint64_t deadline_ns)
{
	return tdi_sys_futex_wait_bits(word, expected, FUTEX_BITSET_MATCH_ANY,
				       deadline_ns);
}

TDI_HOT void tdi_sys_futex_wake_bits(_Atomic(uint32_t) *word, int threads, uint32_t bits)
{
	int err = fault(TDI_SYS_futex_wake, word, (size_t)threads, 0);

	if (!err)
		err = (int)TDI_ERRNO(syscall(SYS_futex, word,
					     FUTEX_WAKE_BITSET | FUTEX_PRIVATE_FLAG,
					     threads, NULL, NULL, bits));
	/* -EFAULT: the word was freed and unmapped, as its last user may do. */
	if (err != -EFAULT)
		futex_check("wake", err);
}

TDI_HOT void tdi_sys_futex_wake(_Atomic(uint32_t) *word, int threads)
{
	tdi_sys_futex_wake_bits(word, threads, FUTEX_BITSET_MATCH_ANY);
}

void tdi_sys_pause(uint64_t ns)
{
	_Atomic(uint32_t) nobody_wakes = 0;
	uint64_t deadline = tdi_sys_now_ns() + ns;

	while (tdi_sys_futex_wait(&nobody_wakes, 0, deadline) == -EINTR)
		;
}

int tdi_sys_eventfd(int flags)
{
	int err = fault(TDI_SYS_eventfd, NULL, 0, flags);

	return err ? err : (int)TDI_ERRNO(eventfd(0, flags));
}

int tdi_sys_dup_cloexec(int fd)
{
	int err = fault(TDI_SYS_dup, NULL, 0, fd);

	return err ? err : (int)TDI_ERRNO(fcntl(fd, F_DUPFD_CLOEXEC, 0));
}

int tdi_sys_open(const char *path, int flags)
{
	int err = fault(TDI_SYS_open, path, 0, flags);

	return err ? err : (int)TDI_ERRNO(open(path, flags));
}

ssize_t tdi_sys_read(int fd, void *buf, size_t size)
{
	int err = fault(TDI_SYS_read, buf, size, fd);

	return err ? err : TDI_ERRNO(read(fd, buf, size));
}

ssize_t tdi_sys_write(int fd, const void *buf, size_t size)
{
	int err = fault(TDI_SYS_write, buf, size, fd);

	return err ? err : TDI_ERRNO(write(fd, buf, size));
}

int tdi_sys_ioctl(int fd, unsigned long request, void *arg)
{
	int err = fault(TDI_SYS_ioctl, arg, 0, fd);

	return err ? err : (int)TDI_ERRNO(ioctl(fd, request, arg));
}

int tdi_sys_close(int fd)
{
	int err = fault(TDI_SYS_close, NULL, 0, fd);

	/* Even a close that fails has released the descriptor on Linux. */
	return err ? err : (int)TDI_ERRNO(close(fd));
}

int tdi_sys_punch_hole(int fd, uint64_t offset, uint64_t length)
{
	int err = fault(TDI_SYS_fallocate, NULL, (size_t)length, fd);

	return err ? err
		   : (int)TDI_ERRNO(fallocate(fd,
					      FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
					      (off_t)offset, (off_t)length));
}

ssize_t tdi_sys_pwrite(int fd, const void *buf, size_t size, uint64_t offset)
{
	int err = fault(TDI_SYS_pwrite, buf, size, fd);

	return err ? err : TDI_ERRNO(pwrite(fd, buf, size, (off_t)offset));
}

int64_t tdi_sys_lseek(int fd, uint64_t offset, int whence)
{
	int err = fault(TDI_SYS_lseek, NULL, (size_t)offset, whence);

	return err ? err : TDI_ERRNO(lseek(fd, (off_t)offset, whence));
}

int tdi_sys_fstatfs(int fd, long *ret_type, size_t *ret_block)
{
	struct statfs about;
	int err = fault(TDI_SYS_fstatfs, NULL, 0, fd);

	if (!err)
		err = (int)TDI_ERRNO(fstatfs(fd, &about));
	if (!err) {
		*ret_type = (long)about.f_type;
		*ret_block = (size_t)about.f_bsize;
	}
	return err;
}

int tdi_sys_getrlimit(int resource, uint64_t *ret)
{
	struct rlimit limit;
	int err = fault(TDI_SYS_getrlimit, NULL, 0, resource);

	if (!err)
		err = (int)TDI_ERRNO(getrlimit((__rlimit_resource_t)resource, &limit));
	if (!err)
		*ret = limit.rlim_cur == RLIM_INFINITY ? UINT64_MAX : limit.rlim_cur;
	return err;
}

int tdi_sys_userfaultfd(int flags)
{
	int err = fault(TDI_SYS_userfaultfd, NULL, 0, flags);

	return err ? err : (int)TDI_ERRNO(syscall(SYS_userfaultfd, flags));
}

int tdi_sys_thread_create(pthread_t *ret, void *(*run)(void *), void *arg)
{
	int err = fault(TDI_SYS_thread_create, arg, 0, 0);
	sigset_t all, before;

	if (err)
		return err;
	/* The new thread inherits the mask: it never runs with a signal open. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	err = -pthread_create(ret, NULL, run, arg);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return err;
}

int tdi_sys_thread_name(const char *name)
{
	int err = fault(TDI_SYS_thread_name, name, 0, 0);

	return err ? err : -pthread_setname_np(pthread_self(), name);
}

int tdi_sys_thread_sched(int policy)
{
	struct sched_param param = {.sched_priority = 0};
	int err = fault(TDI_SYS_thread_sched, NULL, 0, policy);

	return err ? err : -pthread_setschedparam(pthread_self(), policy, &param);
}

int tdi_sys_thread_nice(int nice)
{
	int err = fault(TDI_SYS_thread_nice, NULL, 0, nice);

	/* Of one thread on Linux, whatever the name of the call. */
	return err ? err : (int)TDI_ERRNO(setpriority(PRIO_PROCESS, 0, nice));
}

int tdi_sys_getaffinity(unsigned long *cpus, size_t size)
{
	int err = fault(TDI_SYS_getaffinity, cpus, size, 0);

	/* Clears what the kernel does not write. */
	return err ? err : (int)TDI_ERRNO(sched_getaffinity(0, size, (cpu_set_t *)cpus));
}

int tdi_sys_setaffinity(const unsigned long *cpus, size_t size)
{
	int err = fault(TDI_SYS_setaffinity, cpus, size, 0);

	return err ? err
		   : (int)TDI_ERRNO(sched_setaffinity(0, size, (const cpu_set_t *)cpus));
}

void tdi_sys_thread_join(pthread_t thread)
{
	int err = pthread_join(thread, NULL);

	if (err)
		tdi_die("cannot join a thread: %s", strerror(err));
}

int tdi_sys_thread_key(pthread_key_t *ret, void (*destructor)(void *value))
{
	int err = fault(TDI_SYS_thread_key, NULL, 0, 0);

	return err ? err : -pthread_key_create(ret, destructor);
}

int tdi_sys_thread_set(pthread_key_t key, void *value)
{
	int err = fault(TDI_SYS_thread_set, value, 0, 0);

	return err ? err : -pthread_setspecific(key, value);
}

static struct timespec timespec_of(uint64_t ns)
{
	return (struct timespec){.tv_sec = (time_t)(ns / 1000000000u),
				 .tv_nsec = (long)(ns % 1000000000u)};
}

int tdi_sys_rdlock_until(pthread_rwlock_t *lock, uint64_t deadline_ns)
{
	struct timespec until = timespec_of(deadline_ns);

	return -pthread_rwlock_clockrdlock(lock, CLOCK_MONOTONIC, &until);
}

int tdi_sys_wrlock_until(pthread_rwlock_t *lock, uint64_t deadline_ns)
{
	struct timespec until = timespec_of(deadline_ns);

	return -pthread_rwlock_clockwrlock(lock, CLOCK_MONOTONIC, &until);
}

int tdi_sys_getcpu(unsigned *ret_cpu, unsigned *ret_node)
{
	int err = fault(TDI_SYS_getcpu, NULL, 0, 0);

	return err ? err : (int)TDI_ERRNO(getcpu(ret_cpu, ret_node));
}

int tdi_sys_page_nodes(unsigned pages, void **addrs, int *ret)
{
	int err = fault(TDI_SYS_move_pages, addrs[0], pages, 0);

	return err ? err
		   : (int)TDI_ERRNO(syscall(SYS_move_pages, 0, (unsigned long)pages,
					    addrs, NULL, ret, 0));
}

int tdi_sys_poll(struct pollfd *fds, unsigned nr, uint64_t deadline_ns)
{
	int err = fault(TDI_SYS_poll, fds, nr, 0), timeout_ms = -1;

	if (deadline_ns != UINT64_MAX) {
		uint64_t now = tdi_sys_now_ns();
		uint64_t left = deadline_ns > now ? deadline_ns - now : 0;

		/* Up: it would be woken for nothing. */
		left = left / 1000000 + (left % 1000000 > 0);
		timeout_ms = left < INT_MAX ? (int)left : INT_MAX;
	}
	return err ? err : (int)TDI_ERRNO(poll(fds, nr, timeout_ms));
}

int tdi_sys_membarrier(int command)
{
	int err = fault(TDI_SYS_membarrier, NULL, 0, command);

	return err ? err : (int)TDI_ERRNO(syscall(SYS_membarrier, command, 0, 0));
}

uint32_t tdi_sys_gettid(void)
{
	return (uint32_t)gettid();
}

TDI_HOT static uint64_t clock_ns(clockid_t clock)
{
	struct timespec time;

	clock_gettime(clock, &time);
	return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

TDI_HOT uint64_t tdi_sys_now_ns(void)
{
	return clock_ns(CLOCK_MONOTONIC);
}

uint64_t tdi_sys_cpu_ns(void)
{
	return clock_ns(CLOCK_THREAD_CPUTIME_ID);
}

uint64_t tdi_sys_deadline(int64_t timeout_ns)
{
	uint64_t now;

	if (timeout_ns < 0)
		return UINT64_MAX;
	now = tdi_sys_now_ns();
	return (uint64_t)timeout_ns > UINT64_MAX - now ? UINT64_MAX
						       : now + (uint64_t)timeout_ns;
}
