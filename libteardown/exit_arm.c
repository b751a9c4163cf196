/* SPDX-License-Identifier: MIT */
#include "base.h"

#include <teardown/exit.h>

int td_exit_arm(const struct td_exit_opts *opts)
{
	(void)opts;
	return -ENOSYS;
}

int td_exit_disarm(void)
{
	return -ENOENT;
}

int td_exit_check(struct td_exit_state *state)
{
	(void)state;
	return -ENOENT;
}

int td_exit_pidfd(int *ret)
{
	(void)ret;
	return -ENOENT;
}
