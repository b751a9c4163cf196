/* SPDX-License-Identifier: MIT */
/*
 * A process that arms an exit helper, seen by the test, which is a subreaper: helpers
 * whose process has ended are its children, so that it can wait for them.
 */
#ifndef TDT_EXITS_H
#define TDT_EXITS_H

#include "child.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <teardown/exit.h>

#ifdef __SANITIZE_THREAD__
/* Else each process sleeps for a second as it exits. */
const char *__tsan_default_options(void);
const char *__tsan_default_options(void)
{
	return "atexit_sleep_ms=0";
}
#endif

struct served {
	pid_t process, helper;
};

static inline void own_orphans(void)
{
	ck_assert_int_eq(prctl(PR_SET_CHILD_SUBREAPER, 1), 0);
}

/* Also of what a test that failed has left. */
static inline void end_orphans(void)
{
	char path[64];
	FILE *children;
	int pid;

	snprintf(path, sizeof(path), "/proc/self/task/%d/children", (int)getpid());
	children = fopen(path, "re");
	while (children && fscanf(children, "%d", &pid) == 1)
		kill(pid, SIGKILL);
	if (children)
		fclose(children);
	while (waitpid(-1, NULL, __WALL) > 0)
		;
}

static inline int helper_of_this(void)
{
	struct td_exit_state state = {.size = sizeof(state)};

	need_eq(td_exit_check(&state), 0);
	return state.pid;
}

/* A process that arms with those and then goes on with run. */
static inline struct served start_served(const struct td_exit_opts *opts,
					 void (*run)(void *arg), void *arg)
{
	struct served served = {0};
	int out[2];

	ck_assert_int_eq(pipe(out), 0);
	served.process = fork();
	ck_assert_int_ge(served.process, 0);
	if (served.process == 0) {
		alarm(CHILD_SECONDS);
		close(out[0]);
		need_eq(td_exit_arm(opts), 0);
		served.helper = helper_of_this();
		need_eq(write(out[1], &served.helper, sizeof(served.helper)),
			sizeof(served.helper));
		close(out[1]);
		run(arg);
		_exit(0);
	}
	close(out[1]);
	ck_assert_int_eq(read(out[0], &served.helper, sizeof(served.helper)),
			 sizeof(served.helper));
	close(out[0]);
	return served;
}

static inline void wait_for_signals(void *arg)
{
	(void)arg;
	for (;;)
		pause();
}

static inline int status_of(pid_t pid)
{
	int status = -1;

	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	return status;
}

/* It has come to its end by itself: nothing ended it, nothing went wrong. */
static inline void check_helper_ended(const struct served *served)
{
	ck_assert_int_eq(status_of(served->helper), 0);
}

static inline void kill_and_check(const struct served *served)
{
	ck_assert_int_eq(kill(served->process, SIGKILL), 0);
	ck_assert_int_eq(status_of(served->process), SIGKILL);
	check_helper_ended(served);
}

/* A file of /proc, of one line or several, as a string. */
static inline void read_proc(pid_t pid, const char *name, char *ret, size_t size)
{
	char path[128];
	ssize_t got;
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/%s", (int)pid, name);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	ck_assert_int_ge(fd, 0);
	got = read(fd, ret, size - 1);
	ck_assert_int_ge(got, 0);
	ret[got] = '\0';
	close(fd);
}

#endif
