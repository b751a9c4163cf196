/* SPDX-License-Identifier: MIT */
/*
 * The exit helper: a process that shares the address space and outlives this one. However
 * the process ends, by exit(), by SIGKILL or by a crash, who waits for it is told at
 * once; the helper gives the memory back, on several CPUs, and ends.
 *
 *   the process's own end           waitpid(), its pidfd
 *   the end of its memory           the helper's pidfd: td_exit_pidfd(),
 *                                   td_exit_wait_reclaimed()
 *
 * A supervisor that starts the next process when the first of them comes finds the memory
 * of both in use for a while; where that matters, as with a pool of huge pages, it waits
 * for the second.
 *
 * One helper serves the whole process. What it costs while the process lives: a thread
 * and a process that sleep, and some 200 KiB; no descriptor of this process, unless a
 * filter forbids unshare(2): then one. What it cannot speed up: files that are closed as
 * the process ends, those of KVM and VFIO among them, are closed before it is over.
 *
 * docs/exit.md says how all this goes with signals, sessions, credentials, seccomp,
 * cgroups, PID namespaces, core dumps, fork and exec.
 *
 * Thread safety: all calls, any thread.
 */
#ifndef TEARDOWN_EXIT_H
#define TEARDOWN_EXIT_H

#include <teardown/engine.h>

#ifdef __cplusplus
extern "C" {
#endif

struct td_exit_opts {
	size_t size;	/* of this struct; TD_EXIT_OPTS() sets it */
	unsigned flags; /* enum td_exit_flags */

	/* On how many threads the helper gives memory back, it being one of them. 0: as
	 * many as the process has CPUs, at most 8. */
	unsigned threads;

	/* Descriptors that the helper holds open until the memory is back, beside its own
	 * two. All others it closes before td_exit_arm() returns: it keeps no pipe of a
	 * log, no lock and no socket. Copied. */
	const int *keep_fds;
	unsigned nr_keep_fds;

	/* The directory of a cgroup that the helper is moved into (v2, or one hierarchy
	 * of v1), so that it survives when the service's own is killed. NULL: it stays
	 * with the process. */
	const char *cgroup;

	/* With TD_EXIT_OOM_SCORE_ADJ: -1000 to 1000, from the end of the process on: as
	 * long as it shares its memory with the helper the kernel has one for both. */
	int oom_score_adj;
};

#define TD_EXIT_OPTS(...)                                                                \
	(&(const struct td_exit_opts){.size = sizeof(struct td_exit_opts), __VA_ARGS__})

enum td_exit_flags {
	TD_EXIT_OOM_SCORE_ADJ = 1u << 0, /* else the process's is inherited */
	TD_EXIT_KEEP_CAPS = 1u << 1,	 /* else the helper drops all capabilities */
};

/*
 * Starts the helper; when this returns it is ready, has closed what it does not keep and
 * has left the session. Late is best: after daemonizing, dropping privileges and
 * installing seccomp filters, all of which the helper then has, too. (row A10)
 *
 *   opts  NULL: all defaults
 *
 * Returns 0; -EALREADY: this process has a helper (td_exit_check() says whether it still
 * serves; td_exit_disarm() first); -EINVAL: size, unknown flag, oom_score_adj out of
 * range, or no thread can be started, since the process's children are to be in another
 * PID namespace; -EBADF: one of keep_fds is not open; -ENOMEM, -EAGAIN, -EMFILE, -ENFILE:
 * no room for memory, processes or descriptors; -ENOSYS, -EPERM: the kernel has no
 * pidfds, or a filter forbids a step; -EOPNOTSUPP: the process is the first of its PID
 * namespace, at whose end the kernel kills the others and waits for them; -EACCES: the
 * score is lower and the process may not lower it; what writing the cgroup's file failed
 * with. On failure nothing is changed, and no process is left.
 *
 * Context: blocks for a millisecond or so; not from a signal handler; allocates.
 */
int td_exit_arm(const struct td_exit_opts *opts);

/*
 * Ends the helper; the process then ends as it would have without. Returns 0; -ENOENT:
 * there is none. Works whatever the credentials are by now.
 * Context: blocks until the helper has gone, a millisecond or so; where somebody has
 * stopped it, a second, or, if the process may not signal it, until it goes on.
 */
int td_exit_disarm(void);

enum td_exit_state_flags {
	/* Once alone with the memory it can use several threads. Else a filter forbids it
	 * to ask whether it is, and it only ends, which frees on one. */
	TD_EXIT_PARALLEL = 1u << 0,
	/* User, group, capabilities or seccomp mode of the process are others than when
	 * it was armed. The helper shares memory that can be written with who has the new
	 * ones: disarm, and arm again. */
	TD_EXIT_OLD_CREDENTIALS = 1u << 1,
};

struct td_exit_state {
	size_t size;	/* of this struct, set by the caller */
	unsigned flags; /* enum td_exit_state_flags */
	int pid;	/* of the helper, in this process's PID namespace */
};

/*
 * Does the helper serve this process as it now is?
 *
 *   state  filled in on success and on -ESTALE; may be NULL
 *
 * Returns 0; -ENOENT: none was armed; -ESTALE: TD_EXIT_OLD_CREDENTIALS; -ESRCH: it was
 * killed; -ECHILD: it was armed by the parent, and serves that one's memory (a forked
 * child arms its own); -EINVAL: size.
 * Context: reads a few files of /proc; never blocks.
 */
int td_exit_check(struct td_exit_state *state);

/*
 * A descriptor of the helper's pidfd, for somebody who outlives the process: sent over a
 * socket, or inherited. The caller's to close; close-on-exec. It polls readable when the
 * memory is back (row A12), or when the helper was ended before.
 * Returns 0; -ENOENT; -ECHILD; -ESRCH: it was killed; -EMFILE, -ENFILE; -EPERM: a filter
 * forbids pidfd_open(2) by now.
 */
int td_exit_pidfd(int *ret);

/*
 * Waits until the helper behind that pidfd has ended: the memory is back, but for what
 * other processes share. Works for any pidfd, since a process's memory is back when it
 * has ended and has no helper: then it waits for that.
 *
 *   timeout_ns  nanoseconds; 0 polls; TD_FOREVER
 *
 * Returns 0; -ETIMEDOUT; -EBADF: not a pidfd, or one of a thread. Context: may block.
 */
int td_exit_wait_reclaimed(int pidfd, int64_t timeout_ns);

/*
 * A descriptor of the pidfd of the helper that the process behind a pidfd has armed, for
 * a supervisor to which nobody has sent it. It is found by its name, "td-exit:PID", PID
 * as the process sees its own, its user, and, where the kernel allows to ask, by its
 * address space. Works while the process lives, and afterwards until it is waited for or
 * its PID is used again. Returns 0; -ENOENT: none was found, or the
 * process is hidden from us; -EBADF: not a pidfd; -ESRCH:
 * the process has been waited for; -ENOSYS: no pidfds; -EMFILE, -ENFILE; what reading
 * /proc failed with. Context: asks about each process; waits for one that is changing
 * its memory by exec at that moment.
 */
int td_exit_find(int pidfd, int *ret);

#ifdef __cplusplus
}
#endif

#endif
