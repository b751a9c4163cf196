/* SPDX-License-Identifier: MIT */
/* The exit helper of a process whose threads arm, disarm and fork at the same time. */
#include "exits.h"

#include <pthread.h>

#define ROUNDS 150

static _Atomic(bool) is_over;

static void *arm_and_disarm(void *arg)
{
	(void)arg;
	for (int i = 0; i < ROUNDS; i++) {
		int err = td_exit_arm(NULL);

		need(err == 0 || err == -EALREADY);
		err = td_exit_disarm();
		need(err == 0 || err == -ENOENT);
	}
	return NULL;
}

static void in_forked(void *arg)
{
	int err = td_exit_check(NULL);

	(void)arg;
	need(err == -ENOENT || err == -ECHILD);
	need_eq(td_exit_arm(NULL), 0);
	need_eq(td_exit_check(NULL), 0);
	need_eq(td_exit_disarm(), 0);
}

static void *fork_and_wait(void *arg)
{
	(void)arg;
	while (!is_over)
		need_eq(in_child(in_forked, NULL), 0);
	return NULL;
}

static void arm_and_fork(void *arg)
{
	pthread_t arming[2], forking[2];

	(void)arg;
	for (int i = 0; i < 2; i++) {
		need_eq(pthread_create(&arming[i], NULL, arm_and_disarm, NULL), 0);
		need_eq(pthread_create(&forking[i], NULL, fork_and_wait, NULL), 0);
	}
	for (int i = 0; i < 2; i++)
		pthread_join(arming[i], NULL);
	is_over = true;
	for (int i = 0; i < 2; i++)
		pthread_join(forking[i], NULL);
	need_eq(td_exit_check(NULL), -ENOENT);
}

/* A child has neither a lock that nobody unlocks nor a block that was just freed. */
START_TEST(threads_fork_while_others_arm) /* A10 */
{
	int status;

	if (TDT_SANITIZED) {
		tdt_skip("a sanitizer's own locks do not survive a fork of threads");
		return;
	}
	ck_assert_int_eq(in_child(arm_and_fork, NULL), 0);
	while (waitpid(-1, &status, __WALL) > 0)
		ck_assert(status == 0 || status == SIGKILL); /* it was slow */
	ck_assert_int_eq(errno, ECHILD);
}
END_TEST

/* A thread waits for any child all the time, and takes the process in between. */
static void *wait_for_any(void *arg)
{
	(void)arg;
	while (!is_over)
		waitpid(-1, NULL, __WALL | WNOHANG);
	return NULL;
}

static void arm_beside_a_reaper(void *arg)
{
	struct td_exit_state state = {.size = sizeof(state)};
	pthread_t thread;

	(void)arg;
	need_eq(pthread_create(&thread, NULL, wait_for_any, NULL), 0);
	for (int i = 0; i < ROUNDS; i++) {
		need_eq(td_exit_arm(NULL), 0);
		need_eq(td_exit_check(&state), 0);
		need_eq(td_exit_disarm(), 0);
	}
	is_over = true;
	pthread_join(thread, NULL);
	signal(SIGCHLD, SIG_IGN);
	need_eq(td_exit_arm(NULL), 0);
	need_eq(td_exit_disarm(), 0);
}

START_TEST(somebody_else_waits_for_all_children) /* A10 */
{
	ck_assert_int_eq(in_child(arm_beside_a_reaper, NULL), 0);
}
END_TEST

int main(void)
{
	struct tdt *tests = tdt_suite("exit_threads");

	tdt_add(tests, threads_fork_while_others_arm, own_orphans, end_orphans);
	tdt_add(tests, somebody_else_waits_for_all_children, own_orphans, end_orphans);
	return tdt_run(tests);
}
