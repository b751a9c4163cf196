/* SPDX-License-Identifier: MIT */
/*
 * usage: filtered NUMBER ERRNO|kill CMD...
 * Runs a command under a seccomp filter: a system call fails so, or kills who makes it.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../filter.h"

int main(int argc, char **argv)
{
	unsigned action;
	int err;

	if (argc < 4)
		return 125;
	action = strcmp(argv[2], "kill") ? SECCOMP_RET_ERRNO | (unsigned)atoi(argv[2])
					 : SECCOMP_RET_KILL_PROCESS;
	err = filter_one((unsigned)atoi(argv[1]), action);
	if (err) {
		fprintf(stderr, "filtered: %s\n", strerror(-err));
		return 125;
	}
	execvp(argv[3], argv + 3);
	perror(argv[3]);
	return 126;
}
