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
	int pid;
	char name[32];
	bool asks; /* kcmp(2) may be called */
	struct tdi_look target;
	int guess, guess_pid; /* nothing but its name speaks for it */
	struct tdi_exit_helper found;
};

enum proof { NOT_IT, PERHAPS, CERTAIN };

/* By its name alone anybody could be the helper, or could have been that of a process
 * that had the PID before. */
static enum proof judge(const struct search *search, int pid)
{
	struct tdi_look look;
	int is;

	if (tdi_look_at(pid, &look) || strcmp(look.name, search->name) != 0 ||
	    look.started < search->target.started)
		return NOT_IT;
	is = search->asks ? tdi_sys_kcmp_vm(search->pid, pid) : -ENOSYS;
	if (is == 0)
		return CERTAIN;
	/* Its memory was there to be compared with, if it still is. */
	if (is > 0 && tdi_look_resident(search->pid) > 0)
		return NOT_IT;
	if (look.uid != search->target.uid || look.depth != search->target.depth ||
	    !tdi_look_same_pidns(search->pid, pid))
		return NOT_IT;
	return PERHAPS;
}

static int consider(int pid, void *arg)
{
	struct search *search = arg;
	enum proof proof;
	char name[16];
	int pidfd, still;

	if (pid == search->pid || tdi_look_name(pid, name, sizeof(name)) ||
	    strcmp(name, search->name) != 0)
		return 0;
	pidfd = tdi_sys_pidfd_open(pid);
	if (pidfd < 0)
		return pidfd == -ESRCH || pidfd == -EINVAL ? 0 : pidfd;
	proof = judge(search, pid);
	/* What was seen is of the process behind the pidfd if that has not ended by now:
	 * its PID was nobody else's meanwhile. */
	if (proof != NOT_IT && tdi_exit_await(pidfd, 0) != -ETIMEDOUT)
		proof = NOT_IT;
	still = proof != NOT_IT ? tdi_look_pid(pidfd, &pid) : -ESRCH;
	if (still || proof == NOT_IT || (proof == PERHAPS && search->guess >= 0)) {
		(void)tdi_sys_close(pidfd);
		return 0;
	}
	if (proof == PERHAPS) {
		search->guess = pidfd;
		search->guess_pid = pid;
		return 0;
	}
	search->found = (struct tdi_exit_helper){.pidfd = pidfd, .pid = pid};
	return 1;
}

int tdi_exit_find(int pid, struct tdi_exit_helper *ret)
{
	struct search search = {.pid = pid, .guess = -1};
	unsigned there = tdi_process_probe();
	int err;

	if (!(there & TDI_PROBE_PIDFD_OPEN))
		return -ENOSYS;
	search.asks = (there & TDI_PROBE_KCMP) != 0;
	err = tdi_look_at(pid, &search.target);
	if (err)
		return err;
	snprintf(search.name, sizeof(search.name), "td-exit:%" PRIu64,
		 search.target.inner_pid);
	err = tdi_look_each(consider, &search);
	if (err > 0) {
		*ret = search.found;
		err = 0;
	} else if (err == 0 && search.guess >= 0) {
		*ret = (struct tdi_exit_helper){.pidfd = search.guess,
						.pid = search.guess_pid};
		return 0;
	} else if (err == 0) {
		err = -ENOENT;
	}
	if (search.guess >= 0)
		(void)tdi_sys_close(search.guess);
	return err;
}

int td_exit_find(int pidfd, int *ret)
{
	struct tdi_exit_helper helper;
	int err = tdi_sys_pidfd_check(pidfd), pid, again;

	if (!err)
		err = tdi_look_pid(pidfd, &pid);
	if (err)
		return err;
	err = tdi_exit_find(pid, &helper);
	/* Was it about this process, or about one that got its PID? */
	again = tdi_look_pid(pidfd, &pid);
	if (again == -ESRCH) {
		if (!err)
			(void)tdi_sys_close(helper.pidfd);
		return -ESRCH;
	}
	if (!err)
		*ret = helper.pidfd;
	return err;
}

struct others {
	int pid, helper_pid;
};

static int is_other(int pid, void *arg)
{
	const struct others *others = arg;

	return pid != others->pid && pid != others->helper_pid &&
	       tdi_sys_kcmp_vm(others->pid, pid) == 0 &&
	       tdi_look_resident(pid) > 0; /* two that have none are alike, too */
}

bool tdi_exit_is_shared(int pid, int helper_pid)
{
	struct others others = {.pid = pid, .helper_pid = helper_pid};

	return (tdi_process_probe() & TDI_PROBE_KCMP) &&
	       tdi_look_each(is_other, &others) > 0;
}
