/* SPDX-License-Identifier: MIT */
/*
 * When has a process ended, and when is its memory back? The first is waitpid(2)'s to
 * say. The second is told by the end of the last process that shares the memory, its
 * pidfd, and is checked against what the kernel counts: a memory cgroup in which the
 * processes are, or, where none can be made, the free memory of the whole machine.
 */
#include "cgroup.h"
#include "exit.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define SAMPLE_NS UINT64_C(5000000)  /* one costs some 20 us: less than 1 of 100 CPUs */
#define LATE_NS UINT64_C(1000000000) /* for the memory to be seen after the end */

static int usage = -1; /* the cgroup's, or /proc/meminfo */

void exit_watch_start(void)
{
	/* Helpers outlive their parents, and are then ours to wait for. */
	bench_must(prctl(PR_SET_CHILD_SUBREAPER, 1) ? -errno : 0,
		   "PR_SET_CHILD_SUBREAPER");
	bench_cgroup_guard();
	if (bench_cgroup_make(0) == 0)
		usage = bench_cgroup_usage();
	else
		usage = open("/proc/meminfo", O_RDONLY | O_CLOEXEC);
	bench_must(usage < 0 ? -errno : 0, "/proc/meminfo");
}

void exit_watch_stop(void)
{
	if (bench_cgroup_version())
		bench_cgroup_remove();
	else
		close(usage);
	bench_cgroup_unguard();
}

const char *exit_watch_by(void)
{
	static char name[32] = "MemFree";

	if (bench_cgroup_version())
		snprintf(name, sizeof(name), "cgroup_%s", bench_cgroup_version());
	return name;
}

/* ---- the memory ---- */

/* Bytes in use, counted from anywhere. */
static uint64_t used_bytes(void)
{
	char text[256], *free;
	ssize_t got = pread(usage, text, sizeof(text) - 1, 0);

	bench_must(got <= 0 ? -errno : 0, "reading how much memory is in use");
	text[got] = '\0';
	if (bench_cgroup_version())
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
	bench_cgroup_reaped();
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
