/* SPDX-License-Identifier: MIT */
/*
 * usage: holder MIB [arm|share|child]
 * Holds so much memory until a SIGTERM comes, then exits with 7. Says "ready", its PID
 * and 0. With arm it has an exit helper. With share there is a process that shares the
 * memory and outlives it, and with child a parent that does not wait for it: the PID of
 * that in place of 0.
 */
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <sys/mman.h>

#include <teardown.h>

static char stack[65536] __attribute__((aligned(16)));

static void end(int signal)
{
	(void)signal;
	_exit(7);
}

__attribute__((noreturn)) static int other(void *arg)
{
	(void)arg;
	for (;;)
		pause();
}

int main(int argc, char **argv)
{
	size_t size = (argc > 1 ? strtoul(argv[1], NULL, 10) : 0) << 20;
	const char *mode = argc > 2 ? argv[2] : "";
	int other_pid = 0, parent, err;
	void *memory;

	if (!strcmp(mode, "child")) {
		parent = getpid();
		other_pid = fork();
		if (other_pid < 0)
			return 1;
		if (other_pid > 0)
			other(NULL);
		other_pid = parent;
	}
	signal(SIGTERM, end);
	memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
		      0);
	if (memory == MAP_FAILED)
		return 1;
	memset(memory, 1, size);
	if (!strcmp(mode, "arm")) {
		err = td_exit_arm(NULL);
		if (err) {
			printf("not armed: %s\n", strerror(-err));
			return 1;
		}
	} else if (!strcmp(mode, "share")) {
		other_pid = clone(other, stack + sizeof(stack), CLONE_VM | SIGCHLD, NULL);
		if (other_pid < 0)
			return 1;
	}
	printf("ready %d %d\n", (int)getpid(), other_pid);
	fflush(stdout);
	for (;;)
		pause();
}
