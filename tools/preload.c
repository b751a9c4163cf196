/* SPDX-License-Identifier: MIT */
#include "preload.h"

#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <teardown.h>
#include <teardown/exit.h>
#include <threads.h>
#include <unistd.h>

#define DEFAULT_THRESHOLD ((size_t)64 << 20) /* td_munmap's */
#define LEAST_THRESHOLD ((size_t)64 << 10)

size_t tdr_threshold = SIZE_MAX;
struct tdr_counts tdr_counts;

/* Copied: a program may write over its environment. */
static uint64_t budget;
static unsigned exit_threads;
static char cgroup[PATH_MAX];
static bool has_cgroup, is_verbose, has_zone;
static struct stat stderr_at_start;

/* Written while the process has one thread, or in the child of a fork. */
static pid_t own_pid;
static bool is_ours; /* malloc is: a process may arm in it */

enum arm_state { ARM_NOT, ARM_LATER, ARM_BEGUN, ARM_DONE };
static _Atomic(int) arm_state;
static _Atomic(pid_t) served_pid; /* whose the engine is */
static _Atomic(bool) is_stopped;
static int exit_error, engine_error;

/* ---- messages ---- */

void tdr_say(const char *format, ...)
{
	char text[512];
	va_list args;
	int n = snprintf(text, sizeof(text), "libteardown-run: ");

	va_start(args, format);
	n += vsnprintf(text + n, sizeof(text) - (size_t)n - 1, format, args);
	va_end(args);
	if ((size_t)n > sizeof(text) - 2)
		n = sizeof(text) - 2;
	text[n++] = '\n';
	if (write(STDERR_FILENO, text, (size_t)n) < 0) {
		/* there is nobody else to be told */
	}
}

void tdr_die(const char *what, const void *pointer)
{
	tdr_say("%p: %s", pointer, what);
	abort();
}

/* ---- calls into the library ---- */

_Static_assert(sizeof(sigset_t) <= sizeof(((struct tdr_calm *)0)->signals),
	       "a signal mask fits");

void tdr_calm(struct tdr_calm *before)
{
	sigset_t all, mask;

	before->error = errno;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &mask);
	memcpy(before->signals, &mask, sizeof(mask));
	pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &before->cancel);
}

void tdr_calm_end(const struct tdr_calm *before)
{
	sigset_t mask;

	memcpy(&mask, before->signals, sizeof(mask));
	pthread_setcancelstate(before->cancel, NULL);
	pthread_sigmask(SIG_SETMASK, &mask, NULL);
	errno = before->error;
}

bool tdr_serves(void)
{
	/* Acquire: pairs with the release in tdr_arm. */
	pid_t pid = atomic_load_explicit(&served_pid, memory_order_acquire);

	/* A child made without fork handlers, or by vfork, has the same variable. */
	return pid && pid == getpid();
}

bool tdr_is_own_memory(void)
{
	return own_pid == getpid();
}

bool tdr_relieve(void)
{
	struct td_engine_stats stats;
	struct tdr_calm before;
	bool relieved = false;

	if (!tdr_serves())
		return false;
	tdr_calm(&before);
	if (td_engine_stats(NULL, &stats) == 0 && stats.bytes_pending > 0) {
		(void)td_engine_relieve(NULL);
		tdr_count(&tdr_counts.retries);
		relieved = true;
	}
	tdr_calm_end(&before);
	return relieved;
}

/* ---- arming ---- */

static size_t usual_limit(void)
{
	return has_zone ? tdr_threshold : SIZE_MAX;
}

bool tdr_is_to_arm(void)
{
	return atomic_load_explicit(&arm_state, memory_order_relaxed) == ARM_LATER &&
	       own_pid == getpid();
}

void tdr_much_is_mapped(void)
{
	int error = errno;

	/* Not here: an allocator may be mapping, with a lock of its own held. Its user
	 * has none in malloc(). */
	if (is_ours && tdr_is_to_arm())
		atomic_store_explicit(&tdr_limit, 0, memory_order_relaxed);
	errno = error;
}

static int engine_make(void)
{
	td_engine *engine;
	int err = td_engine_default(&engine);

	if (err == -ECHILD) /* the parent's */
		err = td_engine_restart(NULL);
	if (!err)
		err = td_engine_set_munmap_threshold(NULL, tdr_threshold);
	if (!err && budget)
		err = td_engine_set_budget(NULL, budget, TD_BUDGET_HELP);
	return err;
}

static int helper_arm(void)
{
	return td_exit_arm(TD_EXIT_OPTS(.threads = exit_threads,
					.cgroup = has_cgroup ? cgroup : NULL));
}

/* One that changes its user all the time would wait for a helper each time. */
#define REARMED_MOST 8

void tdr_user_changed(void)
{
	static _Atomic(unsigned) rearmed;
	struct tdr_calm before;

	if (!tdr_serves())
		return;
	tdr_calm(&before);
	if (td_exit_check(NULL) == -ESTALE && td_exit_disarm() == 0)
		exit_error = atomic_fetch_add(&rearmed, 1) < REARMED_MOST ? helper_arm()
									  : -EBUSY;
	tdr_calm_end(&before);
}

void tdr_arm(void)
{
	int expected = ARM_LATER;
	struct tdr_calm before;

	if (own_pid != getpid())
		return;
	if (!atomic_compare_exchange_strong(&arm_state, &expected, ARM_BEGUN)) {
		/* Asked for by one who did not see that somebody has been at it. */
		if (expected == ARM_DONE)
			atomic_store_explicit(&tdr_limit, usual_limit(),
					      memory_order_relaxed);
		return;
	}
	/* What the library allocates meanwhile takes the usual way. */
	atomic_store_explicit(&tdr_limit, usual_limit(), memory_order_relaxed);
	tdr_calm(&before);
	engine_error = engine_make();
	exit_error = helper_arm();
	if (!engine_error)
		atomic_store_explicit(&served_pid, own_pid, memory_order_release);
	atomic_store_explicit(&arm_state, ARM_DONE, memory_order_relaxed);
	tdr_calm_end(&before);
}

/* ---- fork ---- */

static void before_fork(void)
{
	tdr_zone_before_fork();
}

static void after_fork_in_parent(void)
{
	tdr_zone_after_fork(false);
}

static void after_fork_in_child(void)
{
	own_pid = getpid();
	atomic_store_explicit(&served_pid, 0, memory_order_relaxed);
	if (atomic_load_explicit(&arm_state, memory_order_relaxed) != ARM_NOT)
		atomic_store_explicit(&arm_state, ARM_LATER, memory_order_relaxed);
	atomic_store_explicit(&is_stopped, false, memory_order_relaxed);
	atomic_store_explicit(&tdr_limit, usual_limit(), memory_order_relaxed);
	memset(&tdr_counts, 0, sizeof(tdr_counts));
	tdr_zone_after_fork(true);
}

/* ---- settings ---- */

/* True: it is set, and is a number from least to most. */
static bool setting(const char *name, uint64_t least, uint64_t most, bool loud,
		    uint64_t *ret)
{
	const char *text = getenv(name);
	char *end;
	unsigned long long value;

	if (!text || !*text)
		return false;
	errno = 0;
	value = strtoull(text, &end, 10);
	if (errno || *end || *text < '0' || *text > '9' || value < least ||
	    value > most) {
		if (loud)
			tdr_say("%s=%s: not a number from %llu to %llu, ignored", name,
				text, (unsigned long long)least,
				(unsigned long long)most);
		return false;
	}
	*ret = value;
	return true;
}

static void settings_read(pid_t *ret_pid, bool *ret_zone)
{
	const char *path = getenv("TEARDOWN_CGROUP");
	uint64_t value;
	bool loud;

	/* Children say nothing: it has been said. */
	*ret_pid = 0;
	if (setting("TEARDOWN_PID", 1, INT_MAX, true, &value))
		*ret_pid = (pid_t)value;
	loud = *ret_pid == 0 || *ret_pid == getpid();
	is_verbose = setting("TEARDOWN_VERBOSE", 0, 1, loud, &value) && value;
	*ret_zone = !setting("TEARDOWN_ZONE", 0, 1, loud, &value) || value;
	setting("TEARDOWN_BUDGET", 1, UINT64_MAX, loud, &budget);
	if (setting("TEARDOWN_THREADS", 1, 1024, loud, &value))
		exit_threads = (unsigned)value;
	tdr_threshold = DEFAULT_THRESHOLD;
	if (setting("TEARDOWN_THRESHOLD", LEAST_THRESHOLD, PTRDIFF_MAX, loud, &value))
		tdr_threshold = (size_t)value;
	if (path && *path) {
		has_cgroup = strlen(path) < sizeof(cgroup);
		if (has_cgroup)
			strcpy(cgroup, path);
		else if (loud)
			tdr_say("TEARDOWN_CGROUP: longer than a path can be, ignored");
	}
}

/* ---- beginning and end ---- */

__attribute__((constructor)) static void begin(void)
{
	bool is_glibc, wants_zone;
	int error = errno;
	pid_t pid;

	own_pid = getpid();
	settings_read(&pid, &wants_zone);
	if (is_verbose && fstat(STDERR_FILENO, &stderr_at_start))
		is_verbose = false;
	tdr_malloc_init(&is_glibc, &is_ours);
	/* Not before: a sanitizer wants its addresses, and has a malloc of its own. */
	if (wants_zone && is_glibc && is_ours)
		tdr_zone_reserve();
	else
		tdr_zone_give_up();
	has_zone = tdr_zone_size > TDR_POOL;
	if (pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child)) {
		/* Nothing can be told from a child: all passes through. */
		tdr_say("no memory for a fork handler: nothing is done");
		tdr_threshold = SIZE_MAX;
		has_zone = false;
		tdr_zone_give_up();
		return;
	}
	atomic_store_explicit(&tdr_limit, usual_limit(), memory_order_relaxed);
	atomic_store_explicit(&arm_state, ARM_LATER, memory_order_relaxed);
	if (pid == own_pid)
		tdr_arm();
	errno = error;
}

/* Did the program close it, or put something else in its place? */
static bool is_stderr_the_same(void)
{
	struct stat now;

	return fstat(STDERR_FILENO, &now) == 0 && now.st_dev == stderr_at_start.st_dev &&
	       now.st_ino == stderr_at_start.st_ino;
}

static unsigned long long count_of(_Atomic(uint64_t) *counter)
{
	return atomic_load_explicit(counter, memory_order_relaxed);
}

__attribute__((destructor)) static void end(void)
{
	struct td_engine_stats stats = {0};
	struct tdr_calm before;

	if (!is_verbose || own_pid != getpid() ||
	    atomic_load_explicit(&arm_state, memory_order_relaxed) != ARM_DONE ||
	    !is_stderr_the_same())
		return;
	tdr_calm(&before);
	if (tdr_serves())
		(void)td_engine_stats(NULL, &stats);
	tdr_say("pid %d: exit helper %s%s, engine %s%s; %llu munmaps later, %llu by the "
		"caller; zone %s, %llu allocations, %llu frees later, %llu by the "
		"caller; "
		"%llu calls tried again",
		(int)own_pid,
		atomic_load(&is_stopped) ? "ended"
		: exit_error		 ? "not armed: "
					 : "armed",
		exit_error ? strerrordesc_np(-exit_error) : "",
		engine_error ? "not made: " : "made",
		engine_error ? strerrordesc_np(-engine_error) : "",
		(unsigned long long)stats.munmaps_deferred,
		(unsigned long long)stats.munmaps_in_caller,
		has_zone ? "used" : "not used", count_of(&tdr_counts.zone_gave),
		count_of(&tdr_counts.zone_later), count_of(&tdr_counts.zone_here),
		count_of(&tdr_counts.retries));
	tdr_calm_end(&before);
}

/*
 * A process whose main thread leaves ends with the last thread of its own: ours must not
 * keep it.
 */
static void stop(void)
{
	struct tdr_calm before;

	if (!tdr_serves() || gettid() != own_pid ||
	    atomic_exchange_explicit(&is_stopped, true, memory_order_relaxed))
		return;
	tdr_calm(&before);
	(void)td_exit_disarm();
	(void)td_engine_stop(NULL, TD_EXIT_DRAIN, 0);
	tdr_calm_end(&before);
}

TDR_EXPORT void pthread_exit(void *result) __attribute__((noreturn));
TDR_EXPORT void thrd_exit(int result) __attribute__((noreturn));

void pthread_exit(void *result)
{
	void (*next)(void *) = (void (*)(void *))dlsym(RTLD_NEXT, "pthread_exit");

	stop();
	if (next)
		next(result);
	tdr_die("there is no pthread_exit to be found", NULL);
}

void thrd_exit(int result)
{
	pthread_exit((void *)(intptr_t)result);
}
