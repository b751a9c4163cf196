/* SPDX-License-Identifier: MIT */
#include "base.h"

#include <teardown/process.h>

const char *td_process_outcome_name(enum td_process_outcome outcome)
{
	(void)outcome;
	return "";
}

int td_process_kill(int pidfd, const struct td_process_kill_opts *opts,
		    struct td_process_report *report)
{
	(void)pidfd;
	(void)opts;
	(void)report;
	return -ENOSYS;
}
