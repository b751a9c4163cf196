/* SPDX-License-Identifier: MIT */
/*
 * teardown wait: for the memory of processes to be back. That of one with an exit helper
 * is back when the helper has ended, which it does after the process; of others, when
 * they have ended themselves.
 */
#include "common.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <sys/stat.h>

static const char help[] =
	"usage: teardown wait [OPTION]... PID...\n"
	"Waits until processes have ended and their memory is back: then their exit "
	"helpers\n"
	"(teardown run) have ended, too. Of a process that has ended already the helper "
	"is\n"
	"looked for by its name.\n"
	"\n"
	"  --timeout SECONDS  not longer than that; 0: only looks\n"
	"  --quiet            no lines, only errors\n"
	"  --help             this\n"
	"\n"
	"Exit code: 0: all back; 1: neither a process nor a helper of it was found; 124: "
	"the\n"
	"time is over; 125: teardown failed. The first that applies of 1, 124.\n";

enum { OPT_TIMEOUT = TOOL_OPTION_FIRST, OPT_QUIET };

static const struct option options[] = {
	{"timeout", required_argument, NULL, OPT_TIMEOUT},
	{"quiet", no_argument, NULL, OPT_QUIET},
	TOOL_HELP,
	{NULL, 0, NULL, 0},
};

enum state { RUNS, FREES, BACK, NOT_FOUND };

struct target {
	struct tool_process process;
	enum state state;
	int helper;	   /* its pidfd; -1: none known */
	uint64_t ended_ns; /* 0: had ended when we came */
};

static bool quiet;

/* False: a PID there is not one here; where that may not be asked it is believed. */
static bool in_our_namespace(const char *pid)
{
	char path[300], ours[64], its[64];
	ssize_t length, its_length;

	snprintf(path, sizeof(path), "/proc/%s/ns/pid", pid);
	its_length = readlink(path, its, sizeof(its));
	length = readlink("/proc/self/ns/pid", ours, sizeof(ours));
	return length <= 0 || its_length <= 0 ||
	       (length == its_length && !memcmp(ours, its, (size_t)length));
}

/*
 * The helper of a process that is no more, by its name: PID is as that process saw its
 * own: in our PID namespace it is the one that is meant. Anybody can call himself that,
 * so it is to be ours; root's own word is believed for any.
 */
static int find_orphan(pid_t pid)
{
	char wanted[32], path[300], name[32];
	struct dirent *entry;
	int found = -1;
	DIR *proc;

	snprintf(wanted, sizeof(wanted), "td-exit:%d", (int)pid);
	proc = opendir("/proc");
	if (!proc)
		tool_fail("/proc: %s", strerror(errno));
	while (found < 0 && (entry = readdir(proc))) {
		struct tool_process helper = {0, -1};
		struct stat st;

		if (!isdigit((unsigned char)entry->d_name[0]))
			continue;
		snprintf(path, sizeof(path), "/proc/%s/comm", entry->d_name);
		if (tool_read_line(path, name, sizeof(name)) || strcmp(name, wanted))
			continue;
		helper.pid = atoi(entry->d_name);
		if (tool_open(&helper))
			continue;
		/* Again: only now is it certain whose name that was. */
		if (tool_read_line(path, name, sizeof(name)) || strcmp(name, wanted) ||
		    stat(path, &st) || !in_our_namespace(entry->d_name) ||
		    (geteuid() != 0 && st.st_uid != geteuid() && st.st_uid != 0)) {
			close(helper.pidfd);
			continue;
		}
		found = helper.pidfd;
	}
	closedir(proc);
	return found;
}

static void say(const struct target *target, const char *text)
{
	if (quiet)
		return;
	printf("%d: %s\n", (int)target->process.pid, text);
	fflush(stdout); /* there may be others yet to wait for */
}

static void begin(struct target *target)
{
	int err = tool_open(&target->process), helper;

	target->helper = -1;
	if (err == -ESRCH) {
		target->helper = find_orphan(target->process.pid);
		target->state = target->helper >= 0 ? FREES : NOT_FOUND;
		if (target->helper < 0)
			tool_complain("%d: no such process, and no exit helper of it",
				      (int)target->process.pid);
		return;
	}
	if (err == -ENOTSUP) {
		tool_complain("%d: a thread, not a process", (int)target->process.pid);
		target->state = NOT_FOUND;
		return;
	}
	if (err)
		tool_fail("%d: %s", (int)target->process.pid,
			  err == -ENOSYS ? "this kernel has no pidfds (5.4)"
					 : strerror(-err));
	target->state = RUNS;
	/* Now, for it may have been waited for when its end is heard of. */
	if (td_exit_find(target->process.pidfd, &helper) == 0)
		target->helper = helper;
}

/* The process has ended. It may have armed a helper, or another, since we looked. */
static void end(struct target *target)
{
	int helper;

	target->ended_ns = tool_now_ns();
	if (td_exit_find(target->process.pidfd, &helper)) {
		helper = target->helper;
		if (helper < 0)
			helper = find_orphan(target->process.pid);
	} else if (target->helper >= 0) {
		close(target->helper);
	}
	target->helper = helper;
	target->state = FREES;
	if (helper < 0) {
		target->state = BACK;
		say(target, "ended; it had no exit helper, and its memory is back");
	}
}

static void is_back(struct target *target)
{
	char text[96];

	target->state = BACK;
	if (target->ended_ns == 0)
		snprintf(text, sizeof(text), "had ended; its memory is back");
	else
		snprintf(text, sizeof(text), "ended; its memory is back %s later",
			 tool_seconds(tool_now_ns() - target->ended_ns).text);
	say(target, text);
}

/* Once for all that is to be heard of; false: the time is over. */
static bool listen(struct target *targets, struct pollfd *polled, size_t n,
		   const uint64_t *until_ns)
{
	int timeout_ms = -1, heard;

	for (size_t i = 0; i < n; i++) {
		const struct target *target = &targets[i];

		/* A negative one is left out. */
		polled[i].fd = target->state == RUNS	? target->process.pidfd
			       : target->state == FREES ? target->helper
							: -1;
		polled[i].events = POLLIN;
		polled[i].revents = 0;
	}
	if (until_ns) {
		uint64_t now = tool_now_ns();
		uint64_t left_ms =
			*until_ns > now ? (*until_ns - now + 999999) / 1000000 : 0;

		timeout_ms = left_ms > INT32_MAX ? INT32_MAX : (int)left_ms;
	}
	heard = poll(polled, n, timeout_ms);
	if (heard < 0 && errno != EINTR)
		tool_fail("poll: %s", strerror(errno));
	for (size_t i = 0; heard > 0 && i < n; i++) {
		if (!polled[i].revents)
			continue;
		if (targets[i].state == RUNS)
			end(&targets[i]);
		else
			is_back(&targets[i]);
	}
	return heard != 0 || (until_ns && tool_now_ns() < *until_ns);
}

static size_t nr_waiting(const struct target *targets, size_t n)
{
	size_t waiting = 0;

	for (size_t i = 0; i < n; i++)
		waiting += targets[i].state == RUNS || targets[i].state == FREES;
	return waiting;
}

static int wait_for_them(int argc, char **argv)
{
	bool in_time = true, found = true, bounded = false;
	struct tool_process *processes;
	struct target *targets;
	struct pollfd *polled;
	uint64_t until_ns = 0;
	int option;
	size_t n;

	while ((option = tool_option(argc, argv, options)) != -1) {
		if (option == OPT_TIMEOUT) {
			until_ns = tool_now_ns() +
				   (uint64_t)tool_nanoseconds("--timeout", optarg);
			bounded = true;
		} else if (option == OPT_QUIET) {
			quiet = true;
		}
	}
	processes = tool_processes(argc - optind, argv + optind, &n);
	targets = calloc(n, sizeof(*targets));
	polled = calloc(n, sizeof(*polled));
	if (!targets || !polled)
		tool_fail("out of memory");
	for (size_t i = 0; i < n; i++) {
		targets[i].process = processes[i];
		begin(&targets[i]);
	}
	while (in_time && nr_waiting(targets, n) > 0)
		in_time = listen(targets, polled, n, bounded ? &until_ns : NULL);

	for (size_t i = 0; i < n; i++) {
		found = found && targets[i].state != NOT_FOUND;
		if (targets[i].state == RUNS || targets[i].state == FREES)
			tool_complain("%d: %s when the time was over",
				      (int)targets[i].process.pid,
				      targets[i].state == RUNS
					      ? "was still running"
					      : "its exit helper was still at work");
	}
	tool_flush();
	in_time = nr_waiting(targets, n) == 0;
	free(polled);
	free(targets);
	free(processes);
	if (!found)
		return TOOL_NOT_FOUND;
	return in_time ? TOOL_OK : TOOL_TIMEOUT;
}

const struct tool_command tool_wait = {
	.name = "wait",
	.what = "waits until the memory of processes is back",
	.help = help,
	.run = wait_for_them,
};
