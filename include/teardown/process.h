/* SPDX-License-Identifier: MIT */
/*
 * The memory of other processes: killing one so that its memory comes back at once, on
 * the caller's CPU too, and with an answer as to what became of it.
 *
 * Thread safety: all calls, any thread.
 */
#ifndef TEARDOWN_PROCESS_H
#define TEARDOWN_PROCESS_H

#include <teardown/engine.h>

#include <stdbool.h>

#ifdef __cplusplus
extern "C" {
#endif

/*
 * Frees the memory of a process that has been sent SIGKILL, in the caller: what
 * process_mrelease(2) does, until there is nothing left to do. Where the process has
 * armed an exit helper (td_exit_arm()), with which process_mrelease(2) fails, it waits
 * for that, which frees it. (rows C1, C5)
 *
 *   pidfd       opened before the kill, or nobody can say whose it is
 *   flags       0
 *   timeout_ns  nanoseconds, for all tries together: process_mrelease(2) gives way to who
 *               holds the address space (EAGAIN) and is called again; 0 tries once;
 *               TD_FOREVER. A call that is at work in the kernel is not interrupted.
 *
 * Returns 0: what could be freed is, or the memory is shared with nothing but a helper
 * that has freed it; and as process_mrelease(2) says: -EBADF: not a pidfd; -EAGAIN: not
 * all of it within the time; -EINTR: a signal came; -EINVAL: flags, the process is not
 * dying, or a live process other than its helper shares its memory; -ENOSYS: the kernel
 * (before 5.15) has no such call, or a filter forbids it: that is asked once, and again
 * when a filter has come; -ESRCH: the process has let go of its memory, or has been
 * waited for: the usual answer for one that ends by itself. It may still be freeing it:
 * td_exit_wait_reclaimed().
 * Context: blocks; not from a signal handler.
 */
int td_process_release(int pidfd, unsigned flags, int64_t timeout_ns);

enum td_process_outcome {
	TD_PROCESS_RELEASED =
		1, /* all of it is back, by this call's help or its helper's */
	TD_PROCESS_NOTHING_LEFT, /* it had no memory when this began: it had ended */
	TD_PROCESS_SHARED, /* killed; a live process shares its memory and keeps it */
	TD_PROCESS_RACED,  /* killed, or ended before that, it freed its memory itself,
			    * faster than it could be helped; all is back */
	TD_PROCESS_UNSUPPORTED, /* killed; no process_mrelease(2): it freed for itself */
	TD_PROCESS_PARTLY, /* killed; the time is over, the rest comes back by itself */
};

/* In a few words. */
const char *td_process_outcome_name(enum td_process_outcome outcome);

struct td_process_report {
	size_t size; /* of this struct, set by the caller */
	enum td_process_outcome outcome;
	int error;	    /* what the kernel last said, as a negative errno; or 0 */
	unsigned tries;	    /* of process_mrelease(2) */
	uint64_t resident;  /* bytes that it had when this began */
	uint64_t left;	    /* bytes that are not back; an estimate, without a helper */
	uint64_t killed_ns; /* until it could be waited for; 0: not yet */
	uint64_t reclaimed_ns; /* until its memory was back; 0: not yet */
	bool has_helper;       /* an exit helper freed it, or is about to */
};

/*
 * How far it has come: bytes that are resident, of so many at the start, and the time
 * since then in nanoseconds. The kernel does not tell for a process that ends: where it
 * has no exit helper, it is an estimate by what the system has free (which other
 * processes disturb), that never grows and is 0 only when it is over. Called in order,
 * one at a time, from a thread of its own or from the caller; the last call says what the
 * report says. It must not call td_process_kill() for the same process.
 */
typedef void td_process_progress_fn(void *arg, uint64_t resident, uint64_t at_first,
				    uint64_t elapsed_ns);

struct td_process_kill_opts {
	size_t size; /* of this struct; TD_PROCESS_KILL_OPTS() sets it */
	unsigned flags;
	int64_t timeout_ns; /* for the memory to come back; 0: 10 s; TD_FOREVER */

	td_process_progress_fn *progress; /* NULL: none */
	void *arg;
	uint64_t interval_ns; /* between two calls of it; 0: 50 ms */
};

#define TD_PROCESS_KILL_OPTS(...)                                                        \
	(&(const struct td_process_kill_opts){                                           \
		.size = sizeof(struct td_process_kill_opts), __VA_ARGS__})

/*
 * Sends SIGKILL to the process and gets its memory back: first looks for its exit helper,
 * then kills, then releases in the caller beside what the dying process does, or waits
 * for the helper, then waits until the memory is really back. (rows C2, C5)
 *
 *   opts    NULL: all defaults
 *   report  may be NULL; filled in whenever the signal was sent, also on failure
 *
 * Returns 0: the outcome is in the report; before anything is done: -EBADF: not a pidfd,
 * or one of a thread; -EINVAL, -E2BIG: size or flag, or a process of
 * a PID namespace that is not ours or within it; -ESRCH: it has been waited for
 * already; -EPERM: not ours to kill, or not to be
 * killed: PID 1 and threads of the kernel; -ENOSYS: signals cannot be sent by pidfd;
 * -EAGAIN, -ENOMEM: no room for a process by which to ask what a filter allows. What
 * frees a large one may be a thread that this starts, on another CPU than that of the
 * dying process. Context: blocks, at most about timeout_ns beyond what one call in the
 * kernel takes; does not wait for the child in the caller's place; not from a signal
 * handler.
 */
int td_process_kill(int pidfd, const struct td_process_kill_opts *opts,
		    struct td_process_report *report);

/* What this kernel offers, asked once; where there is a seccomp filter by a child, as it
 * may end who asks: no wait() but one with __WALL sees that, and there is no SIGCHLD.
 * 0, and it is asked again the next time, where none can be made. */
enum td_process_features {
	TD_PROCESS_PIDFD = 1u << 0,    /* pidfd_open(2), pidfd_send_signal(2) */
	TD_PROCESS_MRELEASE = 1u << 1, /* process_mrelease(2), and no filter in its way */
};
unsigned td_process_features(void);

#ifdef __cplusplus
}
#endif

#endif
