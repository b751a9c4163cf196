/* SPDX-License-Identifier: MIT */
/* Floor 6: the exit helper of another process, and who else has its memory. */
#ifndef TDI_EXIT_FIND_H
#define TDI_EXIT_FIND_H

#include "base.h"

struct tdi_exit_sharers {
	int pidfd; /* of the helper, to be closed; -1: there is none */
	int pid;
	bool others; /* have the memory, too, as far as the kernel tells */
};

/* pid: by tdi_look_pid(). Asks about each process there is. -ESRCH; -ENOSYS; -EMFILE and
 * what reading /proc failed with. */
int tdi_exit_find(int pid, struct tdi_exit_sharers *ret);

/* -EBADF, -ETIMEDOUT, 0: the process has ended. */
int tdi_exit_await(int pidfd, uint64_t deadline_ns);

#endif
