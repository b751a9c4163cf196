/* SPDX-License-Identifier: MIT */
/*
 * When has a process ended, and when is its memory back? The first is waitpid(2)'s to
 * say. The second is told by the end of the last process that shares the memory, its
 * pidfd, and is checked against what the kernel counts: a memory cgroup in which the
 * processes are, or, where none can be made, the free memory of the whole machine.
 */
#include "exit.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define SAMPLE_NS UINT64_C(5000000) /* one costs some 20 us: less than 1 of 100 CPUs */
#define LATE_NS                                                                          \
	UINT64_C(1000000000) /* so long for the memory to be seen after the end          \
			      */

static const struct version {
	const char *name, *mount, *usage;
} versions[] = {
	{"cgroup_v1", "/sys/fs/cgroup/memory", "memory.usage_in_bytes"},
	{"cgroup_v2", "/sys/fs/cgroup", "memory.current"},
};

static struct {
	const struct version *version; /* NULL: there is no cgroup */
	char dir[PATH_MAX];
	int usage; /* its usage, or /proc/meminfo */
	pid_t owner;
	volatile pid_t child; /* 0: none is alive */
} watch = {.usage = -1};

/* ---- the cgroup ---- */

/* Also in a signal handler. */
static void remove_group(void)
{
	if (!watch.version || watch.owner != getpid())
		return;
	/* Its last process has been waited for, and it may be busy for a moment. */
	for (unsigned i = 0; i < 3000 && rmdir(watch.dir) && errno == EBUSY; i++)
		(void)poll(NULL, 0, 1);
	watch.version = NULL;
}

static void give_up(int sig)
{
	if (watch.owner == getpid()) {
		if (watch.child > 0)
			kill(watch.child, SIGKILL);
		while (waitpid(-1, NULL, __WALL) > 0) /* its helper too: we adopt it */
			;
		remove_group();
	}
	raise(sig); /* with its default action, as soon as this returns */
}

static void on_signals(void (*handler)(int sig))
{
	struct sigaction action = {.sa_handler = handler, .sa_flags = (int)SA_RESETHAND};

	sigaddset(&action.sa_mask, SIGINT);
	sigaddset(&action.sa_mask, SIGTERM);
	sigaddset(&action.sa_mask, SIGHUP);
	sigaction(SIGINT, &action, NULL);
	sigaction(SIGTERM, &action, NULL);
	sigaction(SIGHUP, &action, NULL);
}

static bool make_group(const struct version *version)
{
	char path[PATH_MAX + 64];

	snprintf(watch.dir, sizeof(watch.dir), "%s/td-bench-exit-%d", version->mount,
		 (int)getpid());
	watch.version = version; /* before it is there: a signal may come */
	if (mkdir(watch.dir, 0755) == 0) {
		snprintf(path, sizeof(path), "%s/%s", watch.dir, version->usage);
		watch.usage = open(path, O_RDONLY | O_CLOEXEC);
		if (watch.usage >= 0)
			return true;
		rmdir(watch.dir);
	}
	watch.version = NULL;
	return false;
}

static void join_group(void)
{
	char path[PATH_MAX + 64];
	int fd;

	if (!watch.version)
		return;
	snprintf(path, sizeof(path), "%s/cgroup.procs", watch.dir);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	bench_must(fd < 0 || write(fd, "0", 1) < 0 ? -errno : 0, "joining the cgroup");
	close(fd);
}

void exit_watch_start(void)
{
	/* Helpers outlive their parents, and are then ours to wait for. */
	bench_must(prctl(PR_SET_CHILD_SUBREAPER, 1) ? -errno : 0,
		   "PR_SET_CHILD_SUBREAPER");
	watch.owner = getpid();
	bench_must(atexit(remove_group) ? -ENOMEM : 0, "atexit");
	on_signals(give_up);
	for (size_t i = 0; i < sizeof(versions) / sizeof(versions[0]); i++) {
		if (make_group(&versions[i]))
			return;
	}
	watch.usage = open("/proc/meminfo", O_RDONLY | O_CLOEXEC);
	bench_must(watch.usage < 0 ? -errno : 0, "/proc/meminfo");
}

void exit_watch_stop(void)
{
	close(watch.usage);
	remove_group();
	on_signals(SIG_DFL);
}

const char *exit_watch_by(void)
{
	return watch.version ? watch.version->name : "MemFree";
}

pid_t exit_fork(void)
{
	sigset_t signals, before;
	pid_t pid;

	bench_must(fflush(stdout) ? -errno : 0, "stdout");
	sigfillset(&signals);
	sigprocmask(SIG_BLOCK, &signals, &before);
	pid = fork();
	watch.child = pid > 0 ? pid : 0;
	if (pid == 0) {
		on_signals(SIG_DFL);
		prctl(PR_SET_PDEATHSIG, SIGKILL);
	}
	sigprocmask(SIG_SETMASK, &before, NULL);
	bench_must(pid < 0 ? -errno : 0, "fork");
	if (pid == 0)
		join_group();
	return pid;
}

/* ---- the memory ---- */

/* Bytes in use, counted from anywhere. */
static uint64_t used_bytes(void)
{
	char text[256], *free;
	ssize_t got = pread(watch.usage, text, sizeof(text) - 1, 0);

	bench_must(got <= 0 ? -errno : 0, "reading how much memory is in use");
	text[got] = '\0';
	if (watch.version)
		return strtoull(text, NULL, 10);
	free = strstr(text, "MemFree:");
	bench_must(free ? 0 : -ENODATA, "MemFree in /proc/meminfo");
	return -(strtoull(free + strlen("MemFree:"), NULL, 10) * 1024);
}

static void look_at_memory(uint64_t full, size_t size, uint64_t start,
			   struct exit_times *times)
{
	int64_t back = (int64_t)(full - used_bytes()), hundredth = (int64_t)size / 100;
	uint64_t now = bench_now_ns() - start;

	if (times->begun == 0 && back >= 10 * hundredth)
		times->begun = now;
	if (times->seen == 0 && back >= 98 * hundredth)
		times->seen = now;
}

/* ---- the ends ---- */

static int open_pidfd(pid_t pid)
{
	int fd = (int)syscall(SYS_pidfd_open, pid, 0);

	bench_must(fd < 0 ? -errno : 0, "pidfd_open");
	return fd;
}

static void wait_for(pid_t pid)
{
	bench_must(waitpid(pid, NULL, 0) < 0 ? -errno : 0, "waitpid");
	watch.child = 0;
}

/* Waits for the next sample's time at most. */
static void wait_for_any(struct pollfd *ends, nfds_t nr, uint64_t start, uint64_t *next)
{
	uint64_t now = bench_now_ns() - start;
	struct timespec time = {0, 0};

	if (now < *next)
		time.tv_nsec = (long)(*next - now);
	if (ppoll(ends, nr, &time, NULL) < 0)
		bench_must(errno == EINTR ? 0 : -errno, "ppoll");
}

void exit_watch(const struct exit_process *process, size_t size,
		void (*end)(const struct exit_process *process), struct exit_times *ret)
{
	struct pollfd ends[] = {
		{.fd = open_pidfd(process->pid), .events = POLLIN},
		{.fd = process->helper ? open_pidfd(process->helper) : -1,
		 .events = POLLIN},
	};
	int fds[] = {ends[0].fd, ends[1].fd};
	unsigned left = process->helper ? 2 : 1;
	uint64_t full = used_bytes(), start = bench_now_ns(), next = SAMPLE_NS, now = 0;
	struct exit_times times = {0};

	end(process);
	while (left > 0 || (times.seen == 0 && now < times.reclaimed + LATE_NS)) {
		wait_for_any(ends, 2, start, &next);
		for (unsigned i = 0; i < 2; i++) {
			if (ends[i].fd < 0 || !(ends[i].revents & POLLIN))
				continue;
			if (i == 0)
				wait_for(process->pid);
			now = bench_now_ns() - start;
			if (i == 0)
				times.waited = now;
			times.reclaimed = now;
			ends[i].fd = -1;
			left--;
			next = now; /* and have a look at once */
		}
		now = bench_now_ns() - start;
		if (now >= next) {
			look_at_memory(full, size, start, &times);
			next = now + SAMPLE_NS;
		}
	}
	while (waitpid(-1, NULL, WNOHANG | __WALL) > 0) /* the helper */
		;
	for (unsigned i = 0; i < 2; i++) {
		if (fds[i] >= 0)
			close(fds[i]);
	}
	*ret = times;
}

void exit_close(const struct exit_process *process)
{
	close(process->order);
	close(process->answer);
}
