/* SPDX-License-Identifier: MIT */
/*
 * One loop, of tries and of waiting, until it is known what has become of the memory:
 *
 *   helper      it has the memory, too: process_mrelease(2) is of no use. Its end is
 *               waited for, and the process's. Should it end first (it was killed, or
 *               disarmed), it goes on without.
 *   TRYING      process_mrelease(2), at once after the signal, which has marked the
 *               process as dying by then, whether it has noticed or not.
 *   WAITING     it has done what it can, or cannot: for the process's end, after which
 *               its memory is back.
 */
#include "exit_find.h"
#include "process_look.h"
#include "process_probe.h"
#include "process_progress.h"
#include "process_release.h"
#include "sys.h"
#include "sys_process.h"

#include <teardown/process.h>

#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>

#define TIMEOUT_DEFAULT_NS INT64_C(10000000000)
#define INTERVAL_DEFAULT_NS UINT64_C(50000000)

/* Less is freed in about the time that moving to another CPU may take. */
#define ASIDE_FROM (UINT64_C(256) << 20)
#define CPUS_MAX 4096u
#define CPU_BITS (8 * sizeof(unsigned long))

struct killing {
	int pidfd, pid; /* pid 0: in a namespace of which we see nothing */
	bool may_release, may_move;
	unsigned cpu; /* where it ran last, if that is to be left alone */
	int sent;     /* what sending the signal came to */
	int helper;   /* its pidfd; < 0: none, or it has ended */
	int helper_pid;
	uint64_t deadline_ns;
	struct tdi_process_progress progress;
	struct td_process_report report;

	bool had_ended, was_ending; /* before it was killed */
	bool dumps;		    /* core, or has done so */
	bool released;		    /* process_mrelease(2) has done something */
	bool shared;		    /* as far as is known */
	bool ended;		    /* the process */
	bool waits;		    /* there is nothing to be tried any more */
	unsigned refusals;
	uint64_t pause_ns;
};

const char *td_process_outcome_name(enum td_process_outcome outcome)
{
	switch (outcome) {
	case TD_PROCESS_RELEASED:
		return "released";
	case TD_PROCESS_NOTHING_LEFT:
		return "nothing left to release";
	case TD_PROCESS_SHARED:
		return "shared with a live process";
	case TD_PROCESS_RACED:
		return "freed its memory itself";
	case TD_PROCESS_UNSUPPORTED:
		return "no help from the kernel";
	case TD_PROCESS_PARTLY:
		return "not all back in time";
	}
	return "no outcome";
}

static uint64_t since(const struct killing *killing)
{
	/* 0 says that it has not been. */
	return tdi_max_size(tdi_sys_now_ns() - killing->progress.began_ns, 1);
}

static bool look_for_helper(struct killing *killing)
{
	struct tdi_exit_sharers sharers;

	if (!killing->pid || tdi_exit_find(killing->pid, &sharers))
		return false;
	if (sharers.others)
		killing->shared = true;
	if (sharers.pidfd < 0)
		return false;
	killing->shared = sharers.others;
	killing->helper = sharers.pidfd;
	killing->helper_pid = sharers.pid;
	killing->report.has_helper = true;
	atomic_store_explicit(&killing->progress.helper_pid, sharers.pid,
			      memory_order_relaxed);
	return true;
}

static void drop_helper(struct killing *killing)
{
	atomic_store_explicit(&killing->progress.helper_pid, 0, memory_order_relaxed);
	(void)tdi_sys_close(killing->helper);
	killing->helper = -1;
}

/* Waits until the process ends, or the helper does, or so long. */
static void await(struct killing *killing, uint64_t until_ns)
{
	struct pollfd polled[2] = {
		{.fd = killing->ended ? -1 : killing->pidfd, .events = POLLIN},
		{.fd = killing->helper, .events = POLLIN}};
	uint64_t due_ns = tdi_process_progress_due(&killing->progress);
	int err = tdi_sys_poll(polled, 2, until_ns < due_ns ? until_ns : due_ns);

	if (err < 0 && err != -EINTR) {
		killing->report.error = err;
		(void)tdi_release_pause(&killing->pause_ns, killing->deadline_ns);
		return;
	}
	if (err > 0 && polled[0].revents && !killing->ended) {
		killing->ended = true;
		killing->report.killed_ns = since(killing);
	}
	if (err <= 0 || !polled[1].revents)
		return;
	drop_helper(killing);
	/* It ends after the process, or has done nothing. The process may have ended
	 * after poll(2) had looked at it. */
	if (!killing->ended && tdi_exit_await(killing->pidfd, 0) != 0)
		killing->report.has_helper = false;
}

/*
 * Another process has the memory: a helper that was armed meanwhile, or one that stays.
 * To be asked again until the process has ended, since it may be on the point of ending,
 * too; that does not take long where there is nothing to be freed.
 */
static void refused(struct killing *killing)
{
	uint64_t until_ns;

	if (look_for_helper(killing))
		return;
	/* Who dumps core is refused, too, and gives that up when killed. */
	killing->dumps |= killing->pid && tdi_look_dumps_core(killing->pid);
	if (!killing->dumps)
		killing->shared = true;
	until_ns = tdi_sys_now_ns() + ((uint64_t)1000000 << killing->refusals);
	if (killing->refusals < 6)
		killing->refusals++;
	await(killing, until_ns < killing->deadline_ns ? until_ns : killing->deadline_ns);
}

static void try_release(struct killing *killing)
{
	struct td_process_report *report = &killing->report;
	int err;

	if (!killing->may_release) {
		report->error = -ENOSYS;
		killing->waits = true;
		return;
	}
	err = tdi_release_once(killing->pidfd);
	report->tries++;
	report->error = err;
	switch (err) {
	case 0:
		killing->released = true;
		killing->shared = false;
		killing->waits = true;
		break;
	case -EAGAIN: /* somebody holds the address space, who may be its end */
		killing->released = true;
		(void)tdi_release_pause(&killing->pause_ns, killing->deadline_ns);
		break;
	case -EINTR:
		break;
	case -EINVAL:
		refused(killing);
		break;
	default: /* -ESRCH: too late */
		killing->waits = true;
		break;
	}
}

static bool is_over(struct killing *killing)
{
	if (!killing->ended || killing->helper >= 0)
		return false;
	/* A helper that had no name yet when it was looked for. */
	return !killing->shared || killing->report.has_helper ||
	       !look_for_helper(killing);
}

static void bring_back(struct killing *killing)
{
	for (;;) {
		if (killing->helper >= 0 || killing->waits)
			await(killing, killing->deadline_ns);
		else
			try_release(killing);
		if (is_over(killing))
			return;
		if (tdi_sys_now_ns() >= killing->deadline_ns) {
			await(killing, 0);
			return;
		}
		if (tdi_sys_now_ns() >= tdi_process_progress_due(&killing->progress))
			tdi_process_progress_tell(&killing->progress);
	}
}

static enum td_process_outcome judge(const struct killing *killing)
{
	if (killing->ended && killing->shared)
		return TD_PROCESS_SHARED;
	if (!killing->ended || killing->helper >= 0)
		return TD_PROCESS_PARTLY;
	if (killing->report.has_helper || killing->released)
		return TD_PROCESS_RELEASED;
	if (killing->had_ended)
		return TD_PROCESS_NOTHING_LEFT;
	if (killing->report.error == -ENOSYS && !killing->was_ending)
		return TD_PROCESS_UNSUPPORTED;
	return TD_PROCESS_RACED;
}

static void finish(struct killing *killing)
{
	struct td_process_report *report = &killing->report;
	bool is_back;

	/* First: whoever reads of a process that ends may be the last to have its memory,
	 * and free it; so its end is not the memory's until this has been waited for. */
	tdi_process_progress_stop(&killing->progress);
	report->outcome = judge(killing);
	is_back = report->outcome != TD_PROCESS_SHARED &&
		  report->outcome != TD_PROCESS_PARTLY;
	if (is_back)
		report->reclaimed_ns = since(killing);
	else if (report->outcome == TD_PROCESS_SHARED)
		report->left = report->resident;
	else
		report->left = tdi_process_progress_left(&killing->progress);
	if (killing->progress.fn)
		killing->progress.fn(killing->progress.arg, report->left,
				     report->resident, since(killing));
	if (killing->helper >= 0)
		drop_helper(killing);
}

/* What there is, before anything changes it. */
static int look_first(struct killing *killing)
{
	int err = tdi_look_pid(killing->pidfd, &killing->pid), again, tid;

	if (err == -ESRCH)
		return err;
	if (err)
		killing->pid = 0;
	(void)look_for_helper(killing);
	if (killing->pid) {
		err = tdi_look_memory(killing->pid, &tid, &killing->report.resident);
		killing->was_ending = err == -ENODATA;
		if (killing->helper >= 0)
			killing->report.resident = tdi_look_resident(killing->helper_pid);
	}
	killing->had_ended = tdi_exit_await(killing->pidfd, 0) == 0;
	killing->dumps = killing->pid && tdi_look_dumps_core(killing->pid);
	err = killing->pid && tdi_look_is_immortal(killing->pid) ? -EPERM : 0;
	/* Was all that about this process, or about one that got its PID? */
	if (killing->pid && tdi_look_pid(killing->pidfd, &again) == -ESRCH)
		return -ESRCH;
	return err;
}

/* As much of it as the caller knows of. */
static void hand_over(struct td_process_report *report, const struct killing *killing)
{
	size_t size = report->size;

	memcpy(report, &killing->report, tdi_min_size(size, sizeof(*report)));
	report->size = size;
	if (size > sizeof(*report))
		memset(report + 1, 0, size - sizeof(*report));
}

static void send_it(struct killing *killing)
{
	killing->sent = tdi_sys_pidfd_send_signal(killing->pidfd, SIGKILL);
	if (!killing->sent && killing->helper < 0)
		try_release(killing);
}

/*
 * A process that is killed wakes up where it ran last. If that is here, it runs instead
 * of us, and has let go of its memory before we can take part in freeing it.
 */
static bool would_run_here(struct killing *killing)
{
	unsigned long cpus[CPUS_MAX / CPU_BITS];
	unsigned node, allowed = 0;
	int cpu = -1;

	if (killing->report.resident >= ASIDE_FROM && killing->may_release &&
	    killing->may_move)
		cpu = tdi_look_cpu(killing->pid);
	if (cpu < 0 || (unsigned)cpu >= CPUS_MAX ||
	    tdi_sys_getcpu(&killing->cpu, &node) || (unsigned)cpu != killing->cpu ||
	    tdi_sys_getaffinity(cpus, sizeof(cpus)))
		return false;
	for (unsigned i = 0; i < CPUS_MAX / CPU_BITS; i++)
		allowed += (unsigned)__builtin_popcountl(cpus[i]);
	/* With none idle one would have to wait elsewhere, and have nothing of it. */
	return allowed > 1 && tdi_look_running() < allowed;
}

static void *send_elsewhere(void *arg)
{
	struct killing *killing = arg;
	unsigned long cpus[CPUS_MAX / CPU_BITS];

	(void)tdi_sys_thread_name("td-kill");
	if (tdi_sys_getaffinity(cpus, sizeof(cpus)) == 0) {
		cpus[killing->cpu / CPU_BITS] &= ~(1ul << (killing->cpu % CPU_BITS));
		(void)tdi_sys_setaffinity(cpus, sizeof(cpus));
	}
	send_it(killing);
	return NULL;
}

/* By a thread of its own, since where the caller's may run is the caller's: it could not
 * be set back as it was, which the kernel tells only as far as it applies now. */
static int send(struct killing *killing)
{
	pthread_t thread;

	if (would_run_here(killing) &&
	    tdi_sys_thread_create(&thread, send_elsewhere, killing) == 0)
		tdi_sys_thread_join(thread);
	else
		send_it(killing);
	return killing->sent;
}

static int kill_it(struct killing *killing, int64_t timeout_ns)
{
	int err = look_first(killing);

	if (err)
		goto out;
	killing->progress.at_first = killing->report.resident;
	err = tdi_sys_pidfd_send_signal(killing->pidfd, 0); /* may it be killed? */
	if (err)
		goto out;
	tdi_process_progress_start(&killing->progress);
	killing->deadline_ns = tdi_sys_deadline(timeout_ns);
	err = send(killing);
	if (err) {
		tdi_process_progress_stop(&killing->progress);
		goto out;
	}
	bring_back(killing);
	finish(killing);
	return 0;
out:
	if (killing->helper >= 0)
		drop_helper(killing);
	return err;
}

int td_process_kill(int pidfd, const struct td_process_kill_opts *opts,
		    struct td_process_report *report)
{
	struct td_process_kill_opts ours = {.size = sizeof(ours)};
	struct killing killing = {.pidfd = pidfd, .helper = -1};
	int there, err = tdi_opts_take(&ours, sizeof(ours), opts);

	if (err)
		return err;
	if (ours.flags || (report && report->size < sizeof(report->size)))
		return -EINVAL;
	err = tdi_sys_pidfd_check(pidfd);
	if (err)
		return err;
	there = tdi_process_probe();
	if (there < 0)
		return there;
	if (!((unsigned)there & TDI_PROBE_PIDFD_SEND_SIGNAL))
		return -ENOSYS;
	killing.may_release = ((unsigned)there & TDI_PROBE_MRELEASE) != 0;
	killing.may_move = ((unsigned)there & TDI_PROBE_AFFINITY) != 0;
	killing.progress.fn = ours.progress;
	killing.progress.arg = ours.arg;
	killing.progress.interval_ns =
		ours.interval_ns ? ours.interval_ns : INTERVAL_DEFAULT_NS;
	err = kill_it(&killing, ours.timeout_ns ? ours.timeout_ns : TIMEOUT_DEFAULT_NS);
	if (!err && report)
		hand_over(report, &killing);
	return err;
}
