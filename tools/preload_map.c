/* SPDX-License-Identifier: MIT */
/* In place of munmap, mmap, mremap, mlock and setrlimit; and the calls that they, and the
 * library in this object, make instead. */
/* Names as they are: no mmap that means mmap64. */
#undef _FILE_OFFSET_BITS
#include "preload.h"

#include <errno.h>
#include <stdarg.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <teardown.h>
#include <unistd.h>

#if !defined(__LP64__)
#error "mmap's system call is another one here"
#endif

/* ---- system calls ---- */

/* What the linker puts in place of such calls in this object, the library's included. */
int __wrap_munmap(void *addr, size_t length);
void *__wrap_mmap(void *addr, size_t length, int prot, int flags, int fd, off_t offset);
void *__wrap_mmap64(void *addr, size_t length, int prot, int flags, int fd,
		    off64_t offset);
void *__wrap_mremap(void *addr, size_t old, size_t length, int flags, ...);
int __wrap_mlock(const void *addr, size_t length);

int __wrap_munmap(void *addr, size_t length)
{
	return (int)syscall(SYS_munmap, addr, length);
}

void *__wrap_mmap(void *addr, size_t length, int prot, int flags, int fd, off_t offset)
{
	return (void *)syscall(SYS_mmap, addr, length, prot, flags, fd, offset);
}

void *__wrap_mmap64(void *addr, size_t length, int prot, int flags, int fd,
		    off64_t offset)
{
	return __wrap_mmap(addr, length, prot, flags, fd, offset);
}

static void *remap(void *addr, size_t old, size_t length, int flags, void *to)
{
	return (void *)syscall(SYS_mremap, addr, old, length, flags, to);
}

/* The C library passes an address only with this flag, and else 0. */
#define NEW_ADDRESS(flags, last)                                                         \
	({                                                                               \
		void *to_ = NULL;                                                        \
		if ((flags)&MREMAP_FIXED) {                                              \
			va_list rest_;                                                   \
			va_start(rest_, last);                                           \
			to_ = va_arg(rest_, void *);                                     \
			va_end(rest_);                                                   \
		}                                                                        \
		to_;                                                                     \
	})

void *__wrap_mremap(void *addr, size_t old, size_t length, int flags, ...)
{
	return remap(addr, old, length, flags, NEW_ADDRESS(flags, flags));
}

int __wrap_mlock(const void *addr, size_t length)
{
	return (int)syscall(SYS_mlock, addr, length);
}

static int negative(long result)
{
	return result < 0 ? -errno : (int)result;
}

int tdr_sys_munmap(void *addr, size_t length)
{
	return negative(syscall(SYS_munmap, addr, length));
}

void *tdr_sys_mmap_none(void *addr, size_t length, int flags)
{
	void *mapped = (void *)syscall(SYS_mmap, addr, length, PROT_NONE,
				       MAP_PRIVATE | MAP_ANONYMOUS | flags, -1, 0L);

	return mapped == MAP_FAILED ? NULL : mapped;
}

int tdr_sys_mprotect(void *addr, size_t length, int prot)
{
	return negative(syscall(SYS_mprotect, addr, length, prot));
}

int tdr_sys_madvise(void *addr, size_t length, int advice)
{
	return negative(syscall(SYS_madvise, addr, length, advice));
}

bool tdr_sys_is_mapped(const void *addr, size_t length)
{
	/* Looks at the mappings, and does nothing else. */
	return syscall(SYS_msync, addr, length, MS_ASYNC) == 0;
}

/* ---- what programs call ---- */

TDR_EXPORT int munmap(void *addr, size_t length);
TDR_EXPORT void *mmap(void *addr, size_t length, int prot, int flags, int fd,
		      off_t offset);
TDR_EXPORT void *mmap64(void *addr, size_t length, int prot, int flags, int fd,
			off64_t offset);
TDR_EXPORT void *mremap(void *addr, size_t old, size_t length, int flags, ...);
TDR_EXPORT int mlock(const void *addr, size_t length);
TDR_EXPORT int mlock2(const void *addr, size_t length, unsigned flags);
TDR_EXPORT int mlockall(int flags);
TDR_EXPORT int setrlimit(__rlimit_resource_t resource, const struct rlimit *limit);
TDR_EXPORT int setrlimit64(__rlimit_resource_t resource, const struct rlimit64 *limit);
TDR_EXPORT int prlimit(pid_t pid, enum __rlimit_resource resource,
		       const struct rlimit *limit, struct rlimit *old);
TDR_EXPORT int prlimit64(pid_t pid, enum __rlimit_resource resource,
			 const struct rlimit64 *limit, struct rlimit64 *old);

int munmap(void *addr, size_t length)
{
	struct tdr_calm before;
	int err;

	if (length < tdr_threshold || !tdr_serves())
		return __wrap_munmap(addr, length);
	tdr_calm(&before);
	err = td_munmap(addr, length);
	tdr_calm_end(&before);
	if (err) {
		errno = -err;
		return -1;
	}
	return 0;
}

/* Was it for want of memory, and has some come back? errno stays unless so. */
static bool is_to_try_again(bool failed)
{
	int error = errno;

	return tdr_unlikely(failed) && (error == ENOMEM || error == EAGAIN) &&
	       tdr_relieve();
}

void *mmap(void *addr, size_t length, int prot, int flags, int fd, off_t offset)
{
	int error = errno;
	void *mapped = __wrap_mmap(addr, length, prot, flags, fd, offset);

	if (is_to_try_again(mapped == MAP_FAILED)) {
		errno = error;
		mapped = __wrap_mmap(addr, length, prot, flags, fd, offset);
	}
	if (length >= tdr_threshold && mapped != MAP_FAILED)
		tdr_much_is_mapped();
	return mapped;
}

void *mmap64(void *addr, size_t length, int prot, int flags, int fd, off64_t offset)
{
	return mmap(addr, length, prot, flags, fd, offset);
}

void *mremap(void *addr, size_t old, size_t length, int flags, ...)
{
	void *to = NEW_ADDRESS(flags, flags);
	int error = errno;
	void *mapped = remap(addr, old, length, flags, to);

	if (is_to_try_again(mapped == MAP_FAILED)) {
		errno = error;
		mapped = remap(addr, old, length, flags, to);
	}
	if (length >= tdr_threshold && mapped != MAP_FAILED)
		tdr_much_is_mapped();
	return mapped;
}

static int lock_again(long call, const void *addr, size_t length, unsigned flags)
{
	int error = errno;
	long result = syscall(call, addr, length, flags);

	if (is_to_try_again(result != 0)) {
		errno = error;
		result = syscall(call, addr, length, flags);
	}
	return (int)result;
}

int mlock(const void *addr, size_t length)
{
	return lock_again(SYS_mlock, addr, length, 0);
}

int mlock2(const void *addr, size_t length, unsigned flags)
{
	/* As in the C library: what every kernel has, where it is the same. */
	return lock_again(flags ? SYS_mlock2 : SYS_mlock, addr, length, flags);
}

int mlockall(int flags)
{
	int error = errno;
	long result;

	/* Locked memory is counted by addresses, touched or not. */
	if ((flags & (MCL_CURRENT | MCL_FUTURE)) && tdr_is_own_memory())
		tdr_zone_shed();
	errno = error;
	result = syscall(SYS_mlockall, flags);
	if (is_to_try_again(result != 0)) {
		errno = error;
		result = syscall(SYS_mlockall, flags);
	}
	return (int)result;
}

/* A limit on address space counts what is reserved. */
static void shed_for(pid_t pid, int resource, const struct rlimit64 *limit)
{
	int error = errno;

	if (resource == RLIMIT_AS && limit && limit->rlim_cur != RLIM64_INFINITY &&
	    (pid == 0 || pid == getpid()) && tdr_is_own_memory())
		tdr_zone_shed();
	errno = error;
}

int prlimit64(pid_t pid, enum __rlimit_resource resource, const struct rlimit64 *limit,
	      struct rlimit64 *old)
{
	shed_for(pid, (int)resource, limit);
	return (int)syscall(SYS_prlimit64, pid, resource, limit, old);
}

/* The two structs are the same where long has 64 bits. */
int prlimit(pid_t pid, enum __rlimit_resource resource, const struct rlimit *limit,
	    struct rlimit *old)
{
	return prlimit64(pid, resource, (const struct rlimit64 *)limit,
			 (struct rlimit64 *)old);
}

int setrlimit64(__rlimit_resource_t resource, const struct rlimit64 *limit)
{
	return prlimit64(0, (enum __rlimit_resource)resource, limit, NULL);
}

int setrlimit(__rlimit_resource_t resource, const struct rlimit *limit)
{
	return prlimit64(0, (enum __rlimit_resource)resource,
			 (const struct rlimit64 *)limit, NULL);
}
