/* SPDX-License-Identifier: MIT */
/* A child for a test of forks: it checks for itself, says what was not so, and never
 * hangs for ever. */
#ifndef TDT_CHILD_H
#define TDT_CHILD_H

#include "harness.h"

#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

#define CHILD_SECONDS 30

/* In a child, where Check's own would end the wrong process. */
#define need(what) need_(what, #what, __FILE__, __LINE__)
#define need_eq(got, wanted)                                                             \
	need_eq_((long long)(got), (long long)(wanted), #got, __FILE__, __LINE__)

static inline void need_(bool is, const char *what, const char *file, int line)
{
	if (is)
		return;
	dprintf(STDERR_FILENO, "%s:%d: child: not so: %s\n", file, line, what);
	_exit(1);
}

static inline void need_eq_(long long got, long long wanted, const char *what,
			    const char *file, int line)
{
	if (got == wanted)
		return;
	dprintf(STDERR_FILENO, "%s:%d: child: %s is %lld, not %lld\n", file, line, what,
		got, wanted);
	_exit(1);
}

static inline pid_t child_start(void (*run)(void *arg), void *arg)
{
	pid_t pid = fork();

	if (pid == 0) {
		alarm(CHILD_SECONDS);
		run(arg);
		_exit(0);
	}
	return pid;
}

/* 0: it came to its end, and all was so. */
static inline int child_end(pid_t pid)
{
	int status;

	if (pid < 0 || waitpid(pid, &status, 0) != pid)
		return -1;
	return status;
}

static inline int in_child(void (*run)(void *arg), void *arg)
{
	return child_end(child_start(run, arg));
}

/* gcc's ThreadSanitizer ends a child of several threads that starts one. */
#ifdef __SANITIZE_THREAD__
#define CHILD_HAS_NO_THREADS 1
#else
#define CHILD_HAS_NO_THREADS 0
#endif

static inline bool skip_without_threads(void)
{
	if (CHILD_HAS_NO_THREADS)
		tdt_skip("ThreadSanitizer lets no child of several threads start one");
	return CHILD_HAS_NO_THREADS;
}

#endif
