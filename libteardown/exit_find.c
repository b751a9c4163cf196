/* SPDX-License-Identifier: MIT */
#include "base.h"

#include <teardown/exit.h>

int td_exit_wait_reclaimed(int pidfd, int64_t timeout_ns)
{
	(void)pidfd;
	(void)timeout_ns;
	return -ENOSYS;
}

int td_exit_find(int pidfd, int *ret)
{
	(void)pidfd;
	(void)ret;
	return -ENOENT;
}
