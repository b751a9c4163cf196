/* SPDX-License-Identifier: MIT */
/*
 * What the event "reclaimed" is for: a pool of huge pages that has room for one process
 * only. The next one may start when the helper has ended, and not when the process has.
 */
#include "exits.h"
#include "hugepages.h"

#include <poll.h>
#include <sys/syscall.h>

enum { PAGES = 8 };

static bool has_pool;

static void *map_pages(void)
{
	return mmap(NULL, PAGES * HUGE_PAGE, PROT_READ | PROT_WRITE,
		    MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | MAP_POPULATE, -1, 0);
}

/* All that are free. */
static void use_the_pool(void *arg)
{
	(void)arg;
	need_eq(map_pages() != MAP_FAILED, true);
	need_eq(raise(SIGSTOP), 0); /* tells the test */
	wait_for_signals(NULL);
}

START_TEST(a_successor_finds_the_pool_full_until_it_is_reclaimed) /* A12 A10 */
{
	struct pollfd fd = {.events = POLLIN};
	struct served served;
	int status, process;
	void *memory;

	if (!has_pool) {
		tdt_skip("no %d huge pages to be had", PAGES);
		return;
	}
	served = start_served(NULL, use_the_pool, NULL);
	ck_assert_int_eq(waitpid(served.process, &status, WUNTRACED), served.process);
	ck_assert(WIFSTOPPED(status));
	process = (int)syscall(SYS_pidfd_open, served.process, 0);
	ck_assert_int_ge(process, 0);
	ck_assert_int_eq(td_exit_find(process, &fd.fd), 0);

	/* The process is gone, and its helper cannot begin. */
	ck_assert_int_eq(kill(served.helper, SIGSTOP), 0);
	ck_assert_int_eq(kill(served.process, SIGKILL), 0);
	ck_assert_int_eq(status_of(served.process), SIGKILL);
	ck_assert_int_eq(td_exit_wait_reclaimed(fd.fd, 0), -ETIMEDOUT);
	ck_assert_ptr_eq(map_pages(), MAP_FAILED);

	ck_assert_int_eq(kill(served.helper, SIGCONT), 0);
	ck_assert_int_eq(td_exit_wait_reclaimed(fd.fd, TD_FOREVER), 0);
	memory = map_pages();
	ck_assert_ptr_ne(memory, MAP_FAILED);
	munmap(memory, PAGES * HUGE_PAGE);
	check_helper_ended(&served);
	close(process);
	close(fd.fd);
}
END_TEST

int main(void)
{
	struct tdt *tests = tdt_suite("exit_pool");
	int failed;

	has_pool = pool_add(PAGES);
	if (has_pool && read_long(POOL) != PAGES) { /* it cannot be filled */
		(void)pool_add(-PAGES);
		has_pool = false;
	}
	tdt_add(tests, a_successor_finds_the_pool_full_until_it_is_reclaimed, own_orphans,
		end_orphans);
	failed = tdt_run(tests);
	if (has_pool)
		(void)pool_add(-PAGES);
	return failed;
}
