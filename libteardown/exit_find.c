/* SPDX-License-Identifier: MIT */
#include "exit_find.h"
#include "process_look.h"
#include "process_probe.h"
#include "sys.h"
#include "sys_process.h"

#include <teardown/exit.h>

#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>

int tdi_exit_await(int pidfd, uint64_t deadline_ns)
{
	struct pollfd polled = {.fd = pidfd, .events = POLLIN};
	int err;

	for (;;) {
		err = tdi_sys_poll(&polled, 1, deadline_ns);
		if (err > 0)
			return polled.revents & POLLNVAL ? -EBADF : 0;
		if (err < 0 && err != -EINTR)
			return err;
		if (deadline_ns != UINT64_MAX && tdi_sys_now_ns() >= deadline_ns)
			return -ETIMEDOUT;
	}
}

int td_exit_wait_reclaimed(int pidfd, int64_t timeout_ns)
{
	uint64_t deadline_ns = tdi_sys_deadline(timeout_ns);
	/* poll(2) takes any descriptor. */
	int err = tdi_sys_pidfd_check(pidfd);

	return err ? err : tdi_exit_await(pidfd, deadline_ns);
}

struct search {
	int pid, tid; /* tid: one of its threads that has its memory */
	char name[32];
	bool asks; /* kcmp(2), as it may be called and there is memory to compare with */
	struct tdi_look target;
	struct tdi_exit_sharers found;
	bool is_certain; /* the one that was found; else its name speaks for it */
};

/* -1: nobody knows. */
static int has_the_memory(const struct search *search, int pid)
{
	int is = search->asks ? tdi_sys_kcmp_vm(search->tid, pid) : -ENOSYS;

	if (is < 0)
		return -1;
	return is == 0 && tdi_look_resident(pid) > 0;
}

/* By its name alone anybody could be the helper, or could have been that of a process
 * that had the PID before. */
static bool may_be_it(const struct search *search, int pid)
{
	struct tdi_look look;

	return tdi_look_at(pid, &look) == 0 && strcmp(look.name, search->name) == 0 &&
	       look.started >= search->target.started && look.uid == search->target.uid &&
	       look.depth == search->target.depth &&
	       tdi_look_same_pidns(search->pid, pid);
}

/* A pidfd of it; -ENOENT: it is not the one; -EMFILE and the like. */
static int open_it(const struct search *search, int pid, bool *ret_certain)
{
	int pidfd = tdi_sys_pidfd_open(pid), has, still;
	char name[16];

	if (pidfd < 0)
		return pidfd == -ESRCH || pidfd == -EINVAL ? -ENOENT : pidfd;
	/* What is seen is of the process behind the pidfd, if that is there afterwards.
	 */
	has = has_the_memory(search, pid);
	if (tdi_look_name(pid, name, sizeof(name)) || strcmp(name, search->name) != 0)
		has = 0;
	*ret_certain = has > 0;
	if (has != 0 && (has > 0 || may_be_it(search, pid)) &&
	    tdi_exit_await(pidfd, 0) == -ETIMEDOUT && tdi_look_pid(pidfd, &still) == 0)
		return pidfd;
	(void)tdi_sys_close(pidfd);
	return -ENOENT;
}

static int consider(int pid, void *arg)
{
	struct search *search = arg;
	int has, pidfd;
	bool is_certain;
	char name[16];

	if (pid == search->pid)
		return 0;
	/* The name is asked for last: it takes ten times as long. */
	has = has_the_memory(search, pid);
	if (has == 0 || tdi_look_name(pid, name, sizeof(name)))
		return 0;
	if (strcmp(name, search->name) != 0) {
		search->found.others |= has > 0;
		return 0;
	}
	pidfd = open_it(search, pid, &is_certain);
	if (pidfd < 0)
		return pidfd == -ENOENT ? 0 : pidfd;
	if (search->found.pidfd >= 0) {
		int worse =
			is_certain && !search->is_certain ? search->found.pidfd : pidfd;

		(void)tdi_sys_close(worse);
		if (worse == pidfd)
			return 0;
	}
	search->found.pidfd = pidfd;
	search->found.pid = pid;
	search->is_certain = is_certain;
	return 0;
}

int tdi_exit_find(int pid, struct tdi_exit_sharers *ret)
{
	struct search search = {.pid = pid, .found = {.pidfd = -1}};
	int there = tdi_process_probe(), err;
	uint64_t resident;

	if (there < 0)
		return there;
	if (!((unsigned)there & TDI_PROBE_PIDFD_OPEN))
		return -ENOSYS;
	err = tdi_look_at(pid, &search.target);
	if (err)
		return err;
	snprintf(search.name, sizeof(search.name), "td-exit:%" PRIu64,
		 search.target.inner_pid);
	search.asks = ((unsigned)there & TDI_PROBE_KCMP) &&
		      tdi_look_memory(pid, &search.tid, &resident) == 0;
	err = tdi_look_each(consider, &search);
	/* It may have ended meanwhile, and compared unlike everybody. */
	if (!err && search.asks && search.found.pidfd < 0 &&
	    tdi_look_memory(pid, &search.tid, &resident)) {
		search.asks = false;
		err = tdi_look_each(consider, &search);
	}
	if (err && search.found.pidfd >= 0)
		(void)tdi_sys_close(search.found.pidfd);
	if (err)
		return err;
	*ret = search.found;
	return 0;
}

int td_exit_find(int pidfd, int *ret)
{
	struct tdi_exit_sharers sharers;
	int err = tdi_sys_pidfd_check(pidfd), pid, again;

	if (!err)
		err = tdi_look_pid(pidfd, &pid);
	if (err)
		return err;
	err = tdi_exit_find(pid, &sharers);
	/* Was it about this process, or about one that got its PID? */
	again = tdi_look_pid(pidfd, &pid);
	if (again == -ESRCH) {
		if (!err && sharers.pidfd >= 0)
			(void)tdi_sys_close(sharers.pidfd);
		return -ESRCH;
	}
	if (err)
		return err == -ESRCH ? -ENOENT : err; /* it is hidden from us */
	if (sharers.pidfd < 0)
		return -ENOENT;
	*ret = sharers.pidfd;
	return 0;
}
