/* SPDX-License-Identifier: MIT */
/*
 * Children full of memory: without anything that helps them to end, with a helper after
 * QEMU's design, and with the library's.
 */
#include "cgroup.h"
#include "exit.h"

#include <teardown/exit.h>

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* Beside the main one: what a guest with a few CPUs has. */
#define THREADS 8u
#define STACK_SIZE ((size_t)64 << 10)

/* What a child says when it is ready. */
struct word {
	int err;
	pid_t helper;
};

static struct word word; /* filled in by arm */

/* ---- the library's ---- */

void exit_child_arm_td(void)
{
	struct td_exit_state state = {.size = sizeof(state)};

	word.err = td_exit_arm(NULL);
	if (word.err)
		return;
	bench_must(td_exit_check(&state), "td_exit_check");
	word.helper = state.pid;
}

/* ---- after QEMU's design ---- */

/*
 * A program of our own that behaves as the helper of QEMU 7.2 to 9 does: it shares the
 * memory, closes all descriptors, has a name, and sleeps until PR_SET_PDEATHSIG tells it
 * with SIGHUP that the thread that made it has ended. Then it looks once a second
 * whether its parent is another process by now. It is not as long as another thread of
 * the process is on its way out: so it is up to a second late, or not, as
 * the threads' ends happen to come: with one thread never, with many nearly always.
 */
static pid_t served;

static void on_hangup(int sig)
{
	(void)sig;
	for (; getppid() == served; sleep(1))
		;
	_exit(EXIT_SUCCESS);
}

static int serve(void *arg)
{
	struct sigaction action = {.sa_handler = on_hangup};
	sigset_t hangup;

	(void)arg;
	syscall(SYS_close_range, 0, ~0u, 0);
	prctl(PR_SET_NAME, "bench-qemu");
	sigaction(SIGHUP, &action, NULL);
	sigemptyset(&hangup);
	sigaddset(&hangup, SIGHUP);
	sigprocmask(SIG_UNBLOCK, &hangup, NULL);
	prctl(PR_SET_PDEATHSIG, SIGHUP);
	while (getppid() == served)
		pause();
	return EXIT_SUCCESS;
}

void exit_child_arm_qemu_design(void)
{
	char *stack = mmap(NULL, STACK_SIZE, PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
	sigset_t all, before;

	bench_must(stack == MAP_FAILED ? -errno : 0, "mmap");
	served = getpid();
	sigfillset(&all);
	sigprocmask(SIG_BLOCK, &all, &before);
	word.helper = clone(serve, stack + STACK_SIZE, CLONE_VM, NULL);
	word.err = word.helper < 0 ? -errno : 0;
	sigprocmask(SIG_SETMASK, &before, NULL);
}

/* ---- the child ---- */

static void *idle(void *arg)
{
	for (;;)
		pause();
	return arg;
}

__attribute__((noreturn)) static void run_child(const struct exit_subject *subject,
						const struct bench_kind *kind,
						size_t size, int orders, int answers)
{
	struct bench_memory memory;
	pthread_t threads[THREADS];
	char order;

	for (unsigned i = 0; i < THREADS; i++)
		bench_must(-pthread_create(&threads[i], NULL, idle, NULL),
			   "pthread_create");
	bench_memory_map(kind, size, &memory);
	bench_memory_touch(&memory);
	if (subject->arm)
		subject->arm();
	bench_must(write(answers, &word, sizeof(word)) < 0 ? -errno : 0, "write");
	bench_must(read(orders, &order, 1) < 0 ? -errno : 0, "read");
	exit(EXIT_SUCCESS);
}

const char *exit_child_start(const struct exit_subject *self,
			     const struct bench_kind *kind, size_t size,
			     struct exit_process *ret)
{
	struct word said = {.err = -EPIPE};
	int orders[2], answers[2];

	bench_must(pipe2(orders, O_CLOEXEC) ? -errno : 0, "pipe");
	bench_must(pipe2(answers, O_CLOEXEC) ? -errno : 0, "pipe");
	ret->pid = bench_cgroup_fork();
	if (ret->pid == 0) {
		close(orders[1]);
		close(answers[0]);
		run_child(self, kind, size, orders[0], answers[1]);
	}
	close(orders[0]);
	close(answers[1]);
	ret->order = orders[1];
	ret->answer = answers[0];
	bench_must(read(ret->answer, &said, sizeof(said)) < 0 ? -errno : 0, "read");
	ret->helper = said.helper;
	if (!said.err)
		return NULL;
	exit_close(ret);
	bench_must(waitpid(ret->pid, NULL, 0) < 0 ? -errno : 0, "waitpid");
	bench_cgroup_reaped();
	return strerror(-said.err);
}

void exit_child_end(const struct exit_process *process)
{
	bench_must(write(process->order, "", 1) < 0 ? -errno : 0, "write");
}
