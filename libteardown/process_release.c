/* SPDX-License-Identifier: MIT */
#include "base.h"

#include <teardown/process.h>

int td_process_release(int pidfd, unsigned flags, int64_t timeout_ns)
{
	(void)pidfd;
	(void)flags;
	(void)timeout_ns;
	return -ENOSYS;
}

unsigned td_process_features(void)
{
	return 0;
}
