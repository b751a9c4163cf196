/* SPDX-License-Identifier: MIT */
/*
 * Calls of newer kernels, each really made in a child: a filter (seccomp) may not only
 * refuse one but kill who makes it.
 */
#include "common.h"
#include "probe.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <linux/membarrier.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

/* Debian 12's headers lack some of these. */
#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif
#ifndef MADV_DONTNEED_LOCKED
#define MADV_DONTNEED_LOCKED 24
#endif
#ifndef UFFD_USER_MODE_ONLY
#define UFFD_USER_MODE_ONLY 1
#endif
#ifndef SYS_process_mrelease
#define SYS_process_mrelease 448
#endif
#ifndef SYS_close_range
#define SYS_close_range 436
#endif
#define PROBE_KCMP_VM 1 /* <linux/kcmp.h> is not everywhere */
/* 104 bytes; with a size of 0 in it, it is refused with EINVAL where it is known. */
#define PROBE_PROCMAP_QUERY _IOC(_IOC_READ | _IOC_WRITE, 'f', 17, 104)

/* 0 or an errno of what a try came to. */
static int said(long result)
{
	return result < 0 ? errno : 0;
}

static int try_pidfd(void)
{
	int fd = (int)syscall(SYS_pidfd_open, getpid(), 0);

	return fd < 0 ? errno : said(syscall(SYS_pidfd_send_signal, fd, 0, NULL, 0));
}

static int try_exit_helper(void)
{
	int err = td_exit_arm(NULL);

	return err ? -err : -td_exit_disarm();
}

static int try_mrelease(void)
{
	pid_t self = getpid(), pid = fork();
	int pidfd, err;

	if (pid < 0)
		return errno;
	if (pid == 0) {
		/* A filter may end who asks before it has killed this one. */
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		while (getppid() == self)
			pause();
		_exit(0);
	}
	pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
	kill(pid, SIGKILL);
	/* It has ended already, or somebody holds its memory: the call is there. */
	err = said(syscall(SYS_process_mrelease, pidfd, 0));
	waitpid(pid, NULL, 0);
	return err == ESRCH || err == EAGAIN ? 0 : err;
}

static void *map_pages(size_t n)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE);
	void *start = mmap(NULL, n * page, PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (start == MAP_FAILED)
		_exit(errno);
	return start;
}

static int try_dontneed_locked(void)
{
	char *start = map_pages(1);

	*start = 1;
	/* Where nothing may be locked it is tried on a page that is not. */
	(void)!mlock(start, 1);
	if (madvise(start, (size_t)sysconf(_SC_PAGESIZE), MADV_DONTNEED_LOCKED))
		return errno;
	return *start ? EIO : 0;
}

static int try_populate_write(void)
{
	return said(madvise(map_pages(1), (size_t)sysconf(_SC_PAGESIZE),
			    MADV_POPULATE_WRITE));
}

static int try_membarrier(void)
{
	if (syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, 0, 0))
		return errno;
	return said(syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0, 0));
}

static int try_procmap_query(void)
{
	char none[104] = "";
	int fd = open("/proc/self/maps", O_RDONLY | O_CLOEXEC), err;

	if (fd < 0)
		return errno;
	err = said(ioctl(fd, PROBE_PROCMAP_QUERY, none));
	return err == EINVAL ? 0 : err;
}

static int try_mremap_many(void)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE);
	char *from = map_pages(3), *to = map_pages(3);

	if (mprotect(from + page, page, PROT_READ))
		return errno;
	return mremap(from, 3 * page, 3 * page, MREMAP_MAYMOVE | MREMAP_FIXED, to) ==
			       MAP_FAILED
		       ? errno
		       : 0;
}

static int try_userfaultfd(void)
{
	struct uffdio_api api = {.api = UFFD_API};
	int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY);

	return fd < 0 ? errno : said(ioctl(fd, UFFDIO_API, &api));
}

static int try_close_range(void)
{
	return said(syscall(SYS_close_range, 3, ~0u, 0));
}

static int try_unshare_vm(void)
{
	return said(unshare(CLONE_VM));
}

static int try_kcmp(void)
{
	return said(syscall(SYS_kcmp, getpid(), getppid(), PROBE_KCMP_VM, 0, 0));
}

/* ---- asking ---- */

static void ask(struct probe_answer *answer, int (*try)(void), const char *with,
		const char *without)
{
	int status;
	pid_t pid = fork();

	if (pid < 0) {
		probe_value(answer, "unknown");
		probe_means(answer, "no child could be made: %s", strerror(errno));
		return;
	}
	if (pid == 0) {
		/* Of a signal that a filter sends, no core. */
		signal(SIGSYS, SIG_DFL);
		_exit(try());
	}
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	probe_means(answer, "%s", without);
	if (WIFSIGNALED(status)) {
		probe_value(answer, "no, who calls it is killed: %s",
			    strsignal(WTERMSIG(status)));
	} else if (WEXITSTATUS(status)) {
		probe_value(answer, "no, %s", strerror(WEXITSTATUS(status)));
	} else {
		probe_value(answer, "yes");
		probe_means(answer, "%s", with);
	}
}

#define CALL(name, with, without)                                                        \
	static void ask_##name(struct probe_answer *answer)                              \
	{                                                                                \
		ask(answer, try_##name, with, without);                                  \
	}

CALL(pidfd, "processes are named beyond doubt",
     "no exit helper; kill and wait do not work; Linux 5.4")
CALL(exit_helper, "one was armed, and disarmed",
     "processes end as they ever did; Linux 5.4")
CALL(mrelease, "who kills frees the memory on its CPU, too",
     "a killed process frees for itself; Linux 5.15")
CALL(unshare_vm, "an exit helper frees on several threads",
     "an exit helper cannot ask whether it is alone, and frees on one thread")
CALL(kcmp, "helpers are found by their address space, too",
     "helpers are found by their names only")
CALL(close_range, "an exit helper closes what it does not keep at once",
     "descriptors are closed one by one; Linux 5.9")
CALL(dontneed_locked, "locked memory is released as it is",
     "locked memory is unlocked first; Linux 5.18")
CALL(populate_write, "memory can be touched by one call",
     "touched by writing; Linux 5.14")
CALL(membarrier, "lazy references cost two plain stores",
     "lazy references cost a full barrier; Linux 4.14")
CALL(procmap_query, "mappings are looked up one by one",
     "all of /proc/self/maps is read; Linux 6.11")
CALL(mremap_many, "several mappings are moved by one call",
     "mappings are moved one by one; Linux 6.17")
CALL(userfaultfd, "memory that is registered with one is recognised",
     "the flags in /proc/self/smaps would have to tell; see "
     "vm.unprivileged_userfaultfd")

static void ask_vma_locks(struct probe_answer *answer)
{
	int there = probe_kernel(6, 4);

	/* Nothing tells of them but speed. */
	probe_value(answer, "%s, by the version", there ? "yes" : "no");
	probe_means(answer, "%s",
		    probe_kernel(6, 17)
			    ? "page faults, and the release of pages, take the "
			      "lock of one mapping"
		    : there ? "page faults take the lock of one mapping; "
			      "releasing pages does from 6.17 on"
			    : "page faults wait for who maps and unmaps; Linux "
			      "6.4");
}

const struct probe probe_calls[] = {
	{"pidfd", ask_pidfd},
	{"exit_helper", ask_exit_helper},
	{"process_mrelease", ask_mrelease},
	{"unshare_vm", ask_unshare_vm},
	{"kcmp", ask_kcmp},
	{"close_range", ask_close_range},
	{"dontneed_locked", ask_dontneed_locked},
	{"populate_write", ask_populate_write},
	{"membarrier", ask_membarrier},
	{"procmap_query", ask_procmap_query},
	{"mremap_many", ask_mremap_many},
	{"userfaultfd", ask_userfaultfd},
	{"vma_locks", ask_vma_locks},
};
const size_t nr_probe_calls = sizeof(probe_calls) / sizeof(probe_calls[0]);
