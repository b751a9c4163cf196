/* SPDX-License-Identifier: MIT */
#include "cgroup.h"

#include "common.h"

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
#include <sys/wait.h>
#include <unistd.h>

#define BUSY_MS 3000u /* so long a cgroup may be busy whose last process has gone */

static const struct version {
	const char *name, *mount, *limit, *usage;
} versions[] = {
	{"v1", "/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes"},
	{"v2", "/sys/fs/cgroup", "memory.max", "memory.current"},
};

static struct {
	const struct version *version; /* NULL: there is no cgroup */
	char dir[PATH_MAX];
	int usage;
	pid_t owner;
	volatile pid_t child; /* 0: none is alive */
} group;

/* ---- its end ---- */

/* Also in a signal handler. */
void bench_cgroup_remove(void)
{
	if (!group.version || group.owner != getpid())
		return;
	close(group.usage);
	/* Its last process has been waited for, and it may be busy for a moment. */
	for (unsigned i = 0; i < BUSY_MS && rmdir(group.dir) && errno == EBUSY; i++)
		(void)poll(NULL, 0, 1);
	group.version = NULL;
}

/* Whatever is alive in it would keep it, and outlive us. */
static void leave(void)
{
	if (group.owner != getpid())
		return;
	if (group.child > 0)
		kill(group.child, SIGKILL);
	while (waitpid(-1, NULL, __WALL) > 0) /* also helpers that we adopt */
		;
	group.child = 0;
	bench_cgroup_remove();
}

static void give_up(int sig)
{
	leave();
	raise(sig); /* with its default action, as soon as this returns */
}

/* SIGPIPE: who reads what we print may have had enough of it. */
static void on_signals(void (*handler)(int sig))
{
	static const int signals[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGPIPE};
	const size_t nr = sizeof(signals) / sizeof(signals[0]);
	struct sigaction action = {.sa_handler = handler, .sa_flags = (int)SA_RESETHAND};

	for (size_t i = 0; i < nr; i++)
		sigaddset(&action.sa_mask, signals[i]);
	for (size_t i = 0; i < nr; i++)
		sigaction(signals[i], &action, NULL);
}

void bench_cgroup_guard(void)
{
	group.owner = getpid();
	bench_must(atexit(leave) ? -ENOMEM : 0, "atexit");
	on_signals(give_up);
}

void bench_cgroup_unguard(void)
{
	on_signals(SIG_DFL);
}

/* ---- its beginning ---- */

static int open_file(const char *file, int flags)
{
	char path[PATH_MAX + 64];
	int fd;

	snprintf(path, sizeof(path), "%s/%s", group.dir, file);
	fd = open(path, flags | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

static int write_file(const char *file, const char *text)
{
	int fd = open_file(file, O_WRONLY), err;

	if (fd < 0)
		return fd;
	err = write(fd, text, strlen(text)) < 0 ? -errno : 0;
	close(fd);
	return err;
}

static int make(const struct version *version, uint64_t limit)
{
	char text[32];
	int err = 0;

	snprintf(group.dir, sizeof(group.dir), "%s/td-bench-%d", version->mount,
		 (int)getpid());
	snprintf(text, sizeof(text), "%" PRIu64, limit);
	group.usage = -1;
	group.version = version; /* before it is there: a signal may come */
	if (mkdir(group.dir, 0755)) {
		err = -errno;
		group.version = NULL;
		return err;
	}
	group.usage = open_file(version->usage, O_RDONLY);
	if (group.usage < 0)
		err = group.usage;
	else if (limit > 0)
		err = write_file(version->limit, text);
	if (err)
		bench_cgroup_remove();
	return err;
}

int bench_cgroup_make(uint64_t limit)
{
	int err = -ENOENT;

	for (size_t i = 0; err && i < sizeof(versions) / sizeof(versions[0]); i++)
		err = make(&versions[i], limit);
	return err;
}

const char *bench_cgroup_version(void)
{
	return group.version ? group.version->name : NULL;
}

int bench_cgroup_usage(void)
{
	return group.usage;
}

/* ---- who is in it ---- */

pid_t bench_cgroup_fork(void)
{
	sigset_t signals, before;
	pid_t pid;

	bench_must(fflush(stdout) ? -errno : 0, "stdout");
	sigfillset(&signals);
	sigprocmask(SIG_BLOCK, &signals, &before);
	pid = fork();
	group.child = pid > 0 ? pid : 0;
	if (pid == 0) {
		on_signals(SIG_DFL);
		prctl(PR_SET_PDEATHSIG, SIGKILL);
	}
	sigprocmask(SIG_SETMASK, &before, NULL);
	bench_must(pid < 0 ? -errno : 0, "fork");
	if (pid == 0 && group.version)
		bench_must(write_file("cgroup.procs", "0"), "joining the cgroup");
	return pid;
}

void bench_cgroup_reaped(void)
{
	group.child = 0;
}
