/* SPDX-License-Identifier: MIT */
/* Processes to be killed: with memory, with others that share it, in whatever state. */
#ifndef TDT_VICTIM_H
#define TDT_VICTIM_H

#include "harness.h"
#include "base.h"

#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <teardown/exit.h>
#include <unistd.h>

#define VICTIM_SIZE (TDT_SANITIZED ? 16 * MIB : 48 * MIB)

enum victim_sharer {
	NO_SHARER,
	STRANGER,    /* has the memory until the test says so */
	HELPER,	     /* named as an exit helper is, and ends after the process */
	LONG_HELPER, /* the same, but ends when the test says so */
	HELPER_AND_STRANGER,
	ARMED, /* by td_exit_arm() */
};

struct victim {
	pid_t pid, sharer, stranger;
	int pidfd;
	int hold; /* closed: who waits for the test ends */
};

struct victim_plan {
	size_t size;
	enum victim_sharer sharer;
	int nr_threads; /* beside the first */
};

/* What victim and sharer know. */
struct victim_self {
	int hold, parent_pidfd;
	bool ends_with_parent;
	char name[16];
};

#define VICTIM_RAW __attribute__((no_sanitize("thread", "address", "undefined")))

/* It shares memory with the victim: nothing but system calls. */
VICTIM_RAW static int victim_share(void *arg)
{
	const struct victim_self *self = arg;
	char c;

	if (self->name[0])
		syscall(SYS_prctl, PR_SET_NAME, self->name, 0, 0, 0);
	if (self->ends_with_parent) {
		struct pollfd polled = {.fd = self->parent_pidfd, .events = POLLIN};

		syscall(SYS_poll, &polled, 1, -1);
	} else {
		syscall(SYS_read, self->hold, &c, 1);
	}
	syscall(SYS_exit_group, 0);
	return 0;
}

static void *victim_thread(void *arg)
{
	(void)arg;
	for (;;)
		pause();
	return NULL;
}

/* clone() itself: ThreadSanitizer's own takes every clone for a fork. */
int __clone(int (*run)(void *), void *stack, int flags, void *arg, ...);

static pid_t victim_clone(enum victim_sharer kind, int hold)
{
	static char stacks[2][64 * 1024] __attribute__((aligned(64)));
	static struct victim_self selves[2];
	int which = kind == STRANGER;
	struct victim_self *self = &selves[which];

	self->hold = hold;
	self->parent_pidfd = (int)syscall(SYS_pidfd_open, getpid(), 0);
	self->ends_with_parent = kind == HELPER;
	if (kind != STRANGER)
		snprintf(self->name, sizeof(self->name), "td-exit:%d", getpid());
	return __clone(victim_share, stacks[which] + sizeof(stacks[which]), CLONE_VM,
		       self);
}

/* The sharers that there are to be. */
static bool victim_share_with(enum victim_sharer kind, int hold, pid_t *pids)
{
	struct td_exit_state state = {.size = sizeof(state)};
	bool both = kind == HELPER_AND_STRANGER;

	if (kind == NO_SHARER)
		return true;
	if (kind == ARMED) {
		if (td_exit_arm(NULL) || td_exit_check(&state))
			return false;
		pids[0] = state.pid;
		return true;
	}
	pids[0] = victim_clone(both ? HELPER : kind, hold);
	pids[1] = both ? victim_clone(STRANGER, hold) : 0;
	return pids[0] > 0 && pids[1] >= 0;
}

static void victim_live(const struct victim_plan *plan, int hold, int told)
{
	pid_t pids[2] = {0, 0};

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (plan->size) {
		void *addr = mmap(NULL, plan->size, PROT_READ | PROT_WRITE,
				  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

		if (addr == MAP_FAILED)
			_exit(1);
		madvise(addr, plan->size, MADV_NOHUGEPAGE);
		for (size_t at = 0; at < plan->size; at += 4096)
			((volatile char *)addr)[at] = 1;
	}
	for (int i = 0; i < plan->nr_threads; i++) {
		pthread_t thread;

		if (pthread_create(&thread, NULL, victim_thread, NULL))
			_exit(1);
	}
	if (!victim_share_with(plan->sharer, hold, pids) ||
	    write(told, pids, sizeof(pids)) != sizeof(pids))
		_exit(1);
	close(told);
	for (;;)
		pause();
}

/* Who is named so has set its name. */
static inline void victim_await_name(pid_t pid, const char *start)
{
	char path[64], name[32] = "";

	snprintf(path, sizeof(path), "/proc/%d/comm", pid);
	while (strncmp(name, start, strlen(start)) != 0) {
		int fd = open(path, O_RDONLY | O_CLOEXEC);

		ck_assert_int_ge(fd, 0);
		ck_assert_int_gt(read(fd, name, sizeof(name) - 1), 0);
		close(fd);
		sched_yield();
	}
}

/* The test is to be a subreaper, that a sharer may be waited for, too. */
static inline struct victim victim_start(struct victim_plan plan)
{
	struct victim victim = {.sharer = 0};
	int hold[2], told[2];
	pid_t pids[2];

	ck_assert_int_eq(prctl(PR_SET_CHILD_SUBREAPER, 1), 0);
	ck_assert_int_eq(pipe2(hold, O_CLOEXEC), 0);
	ck_assert_int_eq(pipe2(told, O_CLOEXEC), 0);
	victim.pid = fork();
	ck_assert_int_ge(victim.pid, 0);
	if (victim.pid == 0) {
		close(hold[1]);
		close(told[0]);
		victim_live(&plan, hold[0], told[1]);
		_exit(1);
	}
	close(hold[0]);
	close(told[1]);
	victim.hold = hold[1];
	ck_assert_int_eq(read(told[0], pids, sizeof(pids)), sizeof(pids));
	victim.sharer = pids[0];
	victim.stranger = pids[1];
	close(told[0]);
	victim.pidfd = (int)syscall(SYS_pidfd_open, victim.pid, 0);
	ck_assert_int_ge(victim.pidfd, 0);
	if (plan.sharer != NO_SHARER && plan.sharer != STRANGER)
		victim_await_name(victim.sharer, "td-exit:");
	return victim;
}

static inline bool victim_has_ended(int pidfd, int timeout_ms)
{
	struct pollfd polled = {.fd = pidfd, .events = POLLIN};

	return poll(&polled, 1, timeout_ms) == 1;
}

/* Ends what is left, and waits for it. Returns the victim's status. */
static inline int victim_end(struct victim *victim)
{
	int status = -1;

	kill(victim->pid, SIGKILL);
	if (victim->hold >= 0)
		close(victim->hold);
	ck_assert_int_eq(waitpid(victim->pid, &status, 0), victim->pid);
	if (victim->sharer > 0) {
		kill(victim->sharer, SIGCONT);
		ck_assert_int_eq(waitpid(victim->sharer, NULL, __WALL), victim->sharer);
	}
	if (victim->stranger > 0)
		ck_assert_int_eq(waitpid(victim->stranger, NULL, __WALL),
				 victim->stranger);
	close(victim->pidfd);
	return status;
}

#endif
