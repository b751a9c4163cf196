/* SPDX-License-Identifier: MIT */
/*
 * teardown kill: each process is killed, and its memory got back, on a thread of its own,
 * so that none waits for another's memory; this one draws.
 */
#include "common.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <sys/ioctl.h>
#include <sys/syscall.h>

#define THREADS_MAX 64
#define TIMEOUT_DEFAULT_NS INT64_C(10000000000)
#define FRAME_NS INT64_C(50000000)
#define REAPED_POLL_MS 5
#define TEXT_MAX 46u /* columns beside the bar */
#define BAR_MAX 40u
#define PF_KTHREAD 0x00200000u

static const char help[] =
	"usage: teardown kill [OPTION]... PID...\n"
	"Kills processes (SIGKILL) and gets their memory back at once, on this "
	"command's\n"
	"CPU, too; says when it is back, a line for each. Where a process has an exit\n"
	"helper, waits for that.\n"
	"\n"
	"  --wait             also waits until the parent has waited for the process\n"
	"  --timeout SECONDS  for all of it; 10 unless told, 0: only looks\n"
	"  --verbose          lines of progress, where no bar can be drawn\n"
	"  --quiet            neither lines nor bar, only errors\n"
	"  --help             this\n"
	"\n"
	"Exit code: 0: all killed, all memory back; 1: a process was not found, or may "
	"not\n"
	"be killed; 2: killed, but memory is not all back; 124: with --wait, a parent "
	"has\n"
	"not waited in time; 125: teardown failed. The first that applies of 1, 2, "
	"124.\n";

enum { OPT_WAIT = TOOL_OPTION_FIRST, OPT_TIMEOUT, OPT_VERBOSE, OPT_QUIET };

static const struct option options[] = {
	{"wait", no_argument, NULL, OPT_WAIT},
	{"timeout", required_argument, NULL, OPT_TIMEOUT},
	{"verbose", no_argument, NULL, OPT_VERBOSE},
	{"quiet", no_argument, NULL, OPT_QUIET},
	TOOL_HELP,
	{NULL, 0, NULL, 0},
};

struct target {
	struct tool_process process;
	int err; /* of td_process_kill() */
	struct td_process_report report;
	_Atomic(uint64_t) at_first, resident;
	atomic_bool done;
};

static struct {
	struct target *targets;
	size_t nr_targets;
	atomic_size_t next, done;
	int64_t timeout_ns;
	uint64_t began_ns, until_ns;
	/* The drawer sleeps on it until all are done, or for a frame. */
	pthread_mutex_t lock;
	pthread_cond_t over;
} work = {
	.lock = PTHREAD_MUTEX_INITIALIZER,
};

static void on_progress(void *arg, uint64_t resident, uint64_t at_first,
			uint64_t elapsed_ns)
{
	struct target *target = arg;

	(void)elapsed_ns;
	atomic_store_explicit(&target->at_first, at_first, memory_order_relaxed);
	atomic_store_explicit(&target->resident, resident, memory_order_relaxed);
}

static void *killer(void *arg)
{
	size_t i;

	(void)arg;
	while ((i = atomic_fetch_add(&work.next, 1)) < work.nr_targets) {
		struct target *target = &work.targets[i];

		uint64_t now_ns = tool_now_ns();

		target->report.size = sizeof(target->report);
		if (!target->err)
			/* What is left for all; zero would be the library's default. */
			target->err = td_process_kill(
				target->process.pidfd,
				TD_PROCESS_KILL_OPTS(
						.timeout_ns =
							now_ns < work.until_ns
								? (int64_t)(work.until_ns -
									    now_ns)
								: 1,
						.progress = on_progress, .arg = target),
				&target->report);
		atomic_store(&target->done, true);
		pthread_mutex_lock(&work.lock);
		if (atomic_fetch_add(&work.done, 1) + 1 == work.nr_targets)
			pthread_cond_signal(&work.over);
		pthread_mutex_unlock(&work.lock);
	}
	return NULL;
}

/* ---- what is seen meanwhile ---- */

static void sum(uint64_t *at_first, uint64_t *resident, size_t *left)
{
	*at_first = *resident = *left = 0;
	for (size_t i = 0; i < work.nr_targets; i++) {
		struct target *target = &work.targets[i];

		*at_first += atomic_load(&target->at_first);
		if (!atomic_load(&target->done))
			++*left;
		*resident += atomic_load(&target->resident);
	}
}

static unsigned columns(void)
{
	struct winsize window;

	if (ioctl(STDERR_FILENO, TIOCGWINSZ, &window) || window.ws_col == 0)
		return 80;
	return window.ws_col;
}

static void draw(bool bar)
{
	uint64_t at_first, resident, back;
	char text[128], filled[BAR_MAX];
	struct tool_text a, b;
	unsigned width, full;
	size_t left;

	sum(&at_first, &resident, &left);
	if (at_first == 0)
		return;
	back = resident < at_first ? at_first - resident : 0;
	a = tool_bytes(back);
	b = tool_bytes(at_first);
	snprintf(text, sizeof(text), "%s of %s back, %s", a.text, b.text,
		 tool_seconds(tool_now_ns() - work.began_ns).text);
	if (!bar) {
		tool_complain("%s; %zu to go", text, left);
		return;
	}
	/* Of one length, whatever the text: that is at most so long. */
	width = columns();
	width = width > TEXT_MAX ? width - TEXT_MAX : 0;
	if (width > BAR_MAX)
		width = BAR_MAX;
	full = (unsigned)((double)back / (double)at_first * width);
	memset(filled, '#', full);
	memset(filled + full, '.', width - full);
	fprintf(stderr, "\r[%.*s] %s\033[K", (int)width, filled, text);
}

/* A bar on a terminal, lines if they are wanted, until all are done. */
static void watch(bool quiet, bool verbose)
{
	bool bar = !quiet && isatty(STDERR_FILENO), drawn = false;
	struct timespec until;

	pthread_mutex_lock(&work.lock);
	while (atomic_load(&work.done) < work.nr_targets) {
		clock_gettime(CLOCK_MONOTONIC, &until);
		until.tv_nsec += FRAME_NS;
		if (until.tv_nsec >= 1000000000) {
			until.tv_nsec -= 1000000000;
			until.tv_sec++;
		}
		pthread_cond_timedwait(&work.over, &work.lock, &until);
		if (bar || verbose) {
			draw(bar);
			drawn = true;
		}
	}
	pthread_mutex_unlock(&work.lock);
	if (bar && drawn)
		fputs("\r\033[K", stderr);
}

/* ---- before, and afterwards ---- */

/* Why it cannot be killed, which the kernel would not say; or NULL. */
static const char *unkillable(pid_t pid)
{
	char path[64], stat[512];
	unsigned long flags;
	const char *p;

	if (pid == 1)
		return "is init, which is not killed from inside";
	if (pid == getpid())
		return "is this command";
	snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
	if (tool_read_line(path, stat, sizeof(stat)))
		return NULL;
	p = strrchr(stat, ')'); /* the name may hold anything */
	if (p && sscanf(p + 1, " %*c %*d %*d %*d %*d %*d %lu", &flags) == 1 &&
	    (flags & PF_KTHREAD))
		return "is a thread of the kernel";
	return NULL;
}

/* Reports it, and returns the exit code that it makes. */
static int finish(const struct target *target, bool quiet)
{
	const struct td_process_report *report = &target->report;
	int pid = (int)target->process.pid;
	struct tool_text size, left;
	bool all;

	if (target->err) {
		tool_complain("%d: %s", pid,
			      target->err == -ESRCH	? "no such process"
			      : target->err == -ENOTSUP ? "a thread, not a process"
							: strerror(-target->err));
		return target->err == -ESRCH || target->err == -EPERM ||
				       target->err == -ENOTSUP
			       ? TOOL_NOT_FOUND
			       : TOOL_FAILED;
	}
	/* What frees itself, unhelped, may well be back by now. */
	all = report->reclaimed_ns && !report->left &&
	      report->outcome != TD_PROCESS_SHARED;
	all = all || report->outcome == TD_PROCESS_RELEASED ||
	      report->outcome == TD_PROCESS_NOTHING_LEFT;
	size = tool_bytes(report->resident);
	left = tool_bytes(report->left);
	if (quiet)
		return all ? TOOL_OK : TOOL_NOT_BACK;
	printf("%d: %s", pid, td_process_outcome_name(report->outcome));
	if (!all)
		printf(", %s of %s not back", left.text, size.text);
	else if (report->resident && report->reclaimed_ns)
		printf(", %s in %s", size.text, tool_seconds(report->reclaimed_ns).text);
	else if (report->resident)
		printf(", %s", size.text);
	puts(report->has_helper ? ", by its exit helper" : "");
	return all ? TOOL_OK : TOOL_NOT_BACK;
}

/*
 * Until its parent has waited for it. No event tells of that, so it is asked for, of the
 * pidfd: its PID may be another's by then.
 */
static bool await_reaped(const struct target *target, uint64_t until_ns)
{
	while (syscall(SYS_pidfd_send_signal, target->process.pidfd, 0, NULL, 0) == 0 ||
	       errno != ESRCH) {
		if (tool_now_ns() >= until_ns)
			return false;
		poll(NULL, 0, REAPED_POLL_MS);
	}
	return true;
}

static void start(void)
{
	size_t n = work.nr_targets < THREADS_MAX ? work.nr_targets : THREADS_MAX;
	pthread_condattr_t attr;
	pthread_t thread;
	size_t started;

	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&work.over, &attr);
	for (started = 0; started < n; started++) {
		if (pthread_create(&thread, NULL, killer, NULL))
			break;
		pthread_detach(thread);
	}
	if (started == 0)
		killer(NULL); /* nothing is seen meanwhile, but it is done */
}

static int kill_them(int argc, char **argv)
{
	bool wait = false, verbose = false, quiet = false, in_time = true;
	struct tool_process *processes;
	bool failed = false, not_found = false, not_back = false;
	int option;

	work.timeout_ns = TIMEOUT_DEFAULT_NS;
	while ((option = tool_option(argc, argv, options)) != -1) {
		switch (option) {
		case OPT_WAIT:
			wait = true;
			break;
		case OPT_TIMEOUT:
			work.timeout_ns = tool_nanoseconds("--timeout", optarg);
			break;
		case OPT_VERBOSE:
			verbose = true;
			break;
		case OPT_QUIET:
			quiet = true;
			break;
		}
	}
	processes = tool_processes(argc - optind, argv + optind, &work.nr_targets);
	work.targets = calloc(work.nr_targets, sizeof(*work.targets));
	if (!work.targets)
		tool_fail("out of memory");

	/* All pidfds first: nobody's PID is used again between this and his kill. */
	for (size_t i = 0; i < work.nr_targets; i++) {
		struct target *target = &work.targets[i];
		const char *why = unkillable(processes[i].pid);

		target->process = processes[i];
		target->err = why ? -EPERM : tool_open(&target->process);
		if (target->err == -ENOSYS)
			tool_fail("this kernel has no pidfds (5.4)");
		if (why)
			tool_complain("%d: %s", (int)processes[i].pid, why);
	}
	work.began_ns = tool_now_ns();
	work.until_ns = work.began_ns + (uint64_t)work.timeout_ns;
	start();
	watch(quiet, verbose);

	for (size_t i = 0; i < work.nr_targets; i++) {
		const struct target *target = &work.targets[i];
		int code = target->err && unkillable(target->process.pid)
				   ? TOOL_NOT_FOUND
				   : finish(target, quiet);

		failed = failed || code == TOOL_FAILED;
		not_found = not_found || code == TOOL_NOT_FOUND;
		not_back = not_back || code == TOOL_NOT_BACK;
	}
	for (size_t i = 0; wait && i < work.nr_targets; i++) {
		const struct target *target = &work.targets[i];

		if (target->err || await_reaped(target, work.until_ns))
			continue;
		tool_complain("%d: its parent has not waited for it",
			      (int)target->process.pid);
		in_time = false;
	}
	tool_flush();
	free(work.targets); /* the threads look at it no more, even if they still run */
	free(processes);
	if (failed)
		return TOOL_FAILED;
	if (not_found)
		return TOOL_NOT_FOUND;
	if (not_back)
		return TOOL_NOT_BACK;
	return in_time ? TOOL_OK : TOOL_TIMEOUT;
}

const struct tool_command tool_kill = {
	.name = "kill",
	.what = "kills processes, and says when their memory is back",
	.help = help,
	.run = kill_them,
};
