/* SPDX-License-Identifier: MIT */
#include "exit_find.h"
#include "process_look.h"
#include "process_probe.h"
#include "process_release.h"
#include "sys.h"
#include "sys_process.h"

#include <teardown/process.h>

#define PAUSE_FIRST_NS UINT64_C(20000)
#define PAUSE_MOST_NS UINT64_C(1000000)

unsigned td_process_features(void)
{
	const unsigned pidfds = TDI_PROBE_PIDFD_OPEN | TDI_PROBE_PIDFD_SEND_SIGNAL;
	int there = tdi_process_probe();
	unsigned features = 0;

	if (there < 0)
		return 0;
	if (((unsigned)there & pidfds) == pidfds)
		features |= TD_PROCESS_PIDFD;
	if ((unsigned)there & TDI_PROBE_MRELEASE)
		features |= TD_PROCESS_MRELEASE;
	return features;
}

int tdi_release_once(int pidfd)
{
	int err = tdi_sys_process_mrelease(pidfd, 0);

	switch (err) {
	case 0:
	case -EAGAIN:
	case -EBADF:
	case -EINTR:
	case -EINVAL:
	case -ESRCH:
		return err;
	default:
		return -ENOSYS; /* a filter's word, whatever it is */
	}
}

bool tdi_release_pause(uint64_t *pause_ns, uint64_t deadline_ns)
{
	uint64_t now_ns = tdi_sys_now_ns(), ns;

	if (now_ns >= deadline_ns)
		return false;
	ns = *pause_ns ? *pause_ns : PAUSE_FIRST_NS;
	*pause_ns = ns * 2 < PAUSE_MOST_NS ? ns * 2 : PAUSE_MOST_NS;
	tdi_sys_pause(ns < deadline_ns - now_ns ? ns : deadline_ns - now_ns);
	return true;
}

/* Between two of its flags a thread that ends shows none for a moment. */
static bool is_dying(int pid)
{
	for (unsigned look = 0; look < 5; look++) {
		if (look > 0)
			tdi_sys_pause(1000000);
		if (tdi_look_is_dying(pid))
			return true;
	}
	return false;
}

/* 0: a helper was there, and has ended; 1: there is none; else the answer. */
static int await_helper(int pidfd, int said, uint64_t deadline_ns)
{
	struct tdi_exit_sharers sharers;
	int pid, again, err = tdi_look_pid(pidfd, &pid);

	if (!err)
		err = tdi_exit_find(pid, &sharers);
	if (err || sharers.pidfd < 0)
		return 1;
	if (tdi_look_pid(pidfd, &again) || sharers.others ||
	    (said != -ESRCH && !is_dying(pid))) {
		err = said;
	} else {
		err = tdi_exit_await(sharers.pidfd, deadline_ns);
		if (err == -ETIMEDOUT)
			err = -EAGAIN;
	}
	(void)tdi_sys_close(sharers.pidfd);
	return err;
}

/* The helper has ended: it was the last to have the memory, or the process is. */
static int await_end(int pidfd, uint64_t deadline_ns)
{
	return tdi_exit_await(pidfd, deadline_ns) == 0 ? 0 : -EAGAIN;
}

int td_process_release(int pidfd, unsigned flags, int64_t timeout_ns)
{
	uint64_t deadline_ns = tdi_sys_deadline(timeout_ns), pause_ns = 0;
	bool looked = false, helped = false, may_release;
	int err, helper, there;

	if (flags)
		return -EINVAL;
	err = tdi_sys_pidfd_check(pidfd);
	if (err)
		return err;
	there = tdi_process_probe();
	if (there < 0)
		return there;
	may_release = ((unsigned)there & TDI_PROBE_MRELEASE) != 0;
	for (;;) {
		err = may_release ? tdi_release_once(pidfd) : -ENOSYS;
		if (err == -EAGAIN) {
			if (!tdi_release_pause(&pause_ns, deadline_ns))
				return err;
			continue;
		}
		if (err != -EINVAL && err != -ESRCH && err != -ENOSYS)
			return err;
		if (helped && err != -EINVAL)
			return await_end(pidfd, deadline_ns);
		helper = await_helper(pidfd, err, deadline_ns);
		if (helper < 0)
			return helper;
		if (helper == 0) {
			helped = true;
			continue;
		}
		/* It may have ended between the call and the look: once more. */
		if (err != -EINVAL || looked)
			return err;
		looked = true;
	}
}
