/* SPDX-License-Identifier: MIT */
#include "victim.h"

#include <errno.h>
#include <teardown.h>
#include <teardown/process.h>

#define SECONDS(n) (INT64_C(1000000000) * (n))

#define report_new()                                                                     \
	{                                                                                \
		.size = sizeof(struct td_process_report)                                 \
	}

/* C2 */
START_TEST(a_killed_process_is_released_and_its_memory_is_back)
{
	struct victim victim = victim_start((struct victim_plan){.size = VICTIM_SIZE});
	struct td_process_report report = report_new();

	ck_assert_int_eq(td_process_kill(victim.pidfd, NULL, &report), 0);
	ck_assert(victim_has_ended(victim.pidfd, 0));
	/* Or it was faster. */
	ck_assert(report.outcome == TD_PROCESS_RELEASED ||
		  report.outcome == TD_PROCESS_RACED);
	ck_assert_uint_ge(report.tries, 1);
	ck_assert_uint_ge(report.resident, VICTIM_SIZE);
	ck_assert_uint_eq(report.left, 0);
	ck_assert_uint_gt(report.killed_ns, 0);
	ck_assert_uint_ge(report.reclaimed_ns, report.killed_ns);
	ck_assert(!report.has_helper);
	ck_assert_int_eq(WTERMSIG(victim_end(&victim)), SIGKILL);
}
END_TEST

int main(void)
{
	struct tdt *tests = tdt_suite("process_kill");

	tdt_add(tests, a_killed_process_is_released_and_its_memory_is_back, NULL, NULL);
	return tdt_run(tests);
}
