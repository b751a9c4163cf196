/* SPDX-License-Identifier: MIT */
/*
 * Processes that are killed at random moments, while they arm, run, disarm or end, or
 * their helpers while those give back: the wait status is the true one, and nothing is
 * left: no helper, no zombie, no address space.
 */
#include "exits.h"

#include <sched.h>
#include <sys/ipc.h>
#include <sys/shm.h>

/* The sanitizers' own start and end of a process takes them longer. */
#define ROUNDS (TDT_SANITIZED ? 100 : 1000)
#define FILLED (8 * MIB)

enum moment { ARMING, RUNNING, DISARMING, EXITING, RECLAIMING, MOMENTS };

static int segment;

static uint32_t random_below(uint64_t *state, uint32_t below)
{
	*state = *state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
	return (uint32_t)(*state >> 33) % below;
}

static void pass(uint64_t ns)
{
	uint64_t until = tdi_sys_now_ns() + ns;

	while (tdi_sys_now_ns() < until)
		sched_yield();
}

static void tell(int out, int what)
{
	need_eq(write(out, &what, sizeof(what)), sizeof(what));
}

static void live(enum moment moment, int out)
{
	char *memory;

	alarm(CHILD_SECONDS);
	need(shmat(segment, NULL, 0) != (void *)-1);
	memory = mmap(NULL, FILLED, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
		      -1, 0);
	need(memory != MAP_FAILED);
	memset(memory, 1, FILLED);
	if (moment == ARMING)
		tell(out, 0);
	need_eq(td_exit_arm(NULL), 0);
	if (moment != ARMING)
		tell(out, helper_of_this());
	while (moment == DISARMING) {
		need_eq(td_exit_disarm(), 0);
		need_eq(td_exit_arm(NULL), 0);
	}
	if (moment == EXITING)
		exit(42);
	for (;;)
		pause();
}

static void one_round(enum moment moment, uint64_t *seed)
{
	int out[2], helper = 0, status;
	pid_t pid;

	ck_assert_int_eq(pipe(out), 0);
	pid = fork();
	ck_assert_int_ge(pid, 0);
	if (pid == 0) {
		close(out[0]);
		live(moment, out[1]);
	}
	close(out[1]);
	ck_assert_int_eq(read(out[0], &helper, sizeof(helper)), sizeof(helper));
	close(out[0]);
	pass(random_below(seed, moment == RUNNING ? 100000 : 1500000));
	kill(pid, SIGKILL);
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	/* A sanitizer has its own to do as a program ends, and its own word for it. */
	ck_assert_msg(status == SIGKILL || (moment == EXITING && status == 42 << 8),
		      "moment %d: status %#x", (int)moment, (unsigned)status);
	if (moment == RECLAIMING) {
		pass(random_below(seed, 500000));
		kill(helper, SIGKILL); /* our child, or our zombie */
	}
}

START_TEST(killed_at_any_moment_nothing_is_left) /* A10 */
{
	uint64_t seed = tdi_sys_now_ns();
	struct shmid_ds about;
	int status;

	segment = shmget(IPC_PRIVATE, 4096, 0600);
	ck_assert_int_ge(segment, 0);
	printf("# seed %llu\n", (unsigned long long)seed);
	fflush(stdout);
	for (int i = 0; i < ROUNDS; i++) {
		one_round((enum moment)(i % MOMENTS), &seed);
		while (waitpid(-1, &status, WNOHANG) > 0)
			ck_assert_msg(status == 0 || status == SIGKILL,
				      "a helper ended with %#x", (unsigned)status);
	}
	/* All whose parents are gone come to us; ECHILD says that there are no more. A
	 * helper that did not end would be the test's, too, by its time. */
	while (waitpid(-1, &status, __WALL) > 0)
		ck_assert_msg(status == 0 || status == SIGKILL, "a helper ended with %#x",
			      (unsigned)status);
	ck_assert_int_eq(errno, ECHILD);
	ck_assert_int_eq(shmctl(segment, IPC_STAT, &about), 0);
	ck_assert_uint_eq(about.shm_nattch, 0); /* no address space */
	shmctl(segment, IPC_RMID, NULL);
}
END_TEST

int main(void)
{
	struct tdt *tests = tdt_suite("stress_exit");

	tdt_add(tests, killed_at_any_moment_nothing_is_left, own_orphans, end_orphans);
	return tdt_run(tests);
}
