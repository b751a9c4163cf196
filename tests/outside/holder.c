/* SPDX-License-Identifier: MIT */
/*
 * usage: holder MIB [arm|share]
 * Holds so much memory until a SIGTERM comes, then exits with 7. Says "ready", its PID
 * and, with share, that of a process that shares the memory and outlives it, else 0; with
 * arm it has an exit helper.
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
	int pid = 0, err;
	void *memory;

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
		pid = clone(other, stack + sizeof(stack), CLONE_VM | SIGCHLD, NULL);
		if (pid < 0)
			return 1;
	}
	printf("ready %d %d\n", (int)getpid(), pid);
	fflush(stdout);
	for (;;)
		pause();
}
