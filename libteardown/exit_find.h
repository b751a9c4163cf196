/* SPDX-License-Identifier: MIT */
/* Floor 6: the exit helper of another process, and who else has its memory. */
#ifndef TDI_EXIT_FIND_H
#define TDI_EXIT_FIND_H

#include "base.h"

struct tdi_exit_helper {
	int pidfd; /* to be closed */
	int pid;
};

/* As td_exit_find(); pid: the process's, by tdi_look_pid(). */
int tdi_exit_find(int pid, struct tdi_exit_helper *ret);

/*
 * Does a process beside the two have the memory of `pid`? False, too, where the kernel
 * does not tell. Asks about each process there is.
 */
bool tdi_exit_is_shared(int pid, int helper_pid);

/* -EBADF, -ETIMEDOUT, 0: the process has ended. */
int tdi_exit_await(int pidfd, uint64_t deadline_ns);

#endif
