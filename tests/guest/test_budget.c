/* SPDX-License-Identifier: MIT */
/*
 * A11 in a memory cgroup of version 2: what is pending is bounded by half of it, so that
 * who frees arenas by munmap and put as fast as he can is not killed for memory that he
 * has given back.
 */
#include "budgeted.h"
#include "guest.h"
#include "memlimit.h"

#include <sys/mman.h>
#include <teardown/region.h>
#include <teardown/space.h>

#define ARENA (18 * MIB)
/* Two arenas, their page tables, and the process itself. */
#define GROUP (2 * ARENA + 8 * MIB)

enum { ARENAS = 12, LOOPS = 3 }; /* it is slow there */

static struct guest_cgroup group;

/* False, and the test is skipped. */
static bool enter_group(void)
{
	if (!guest_cgroup_make(&group, NULL, "td-test-budget", "+memory")) {
		guest_lacks("no memory cgroup to be made in %s", guest_cgroup_root());
		return false;
	}
	ck_assert_int_eq(guest_cgroup_set(&group, "memory.max", "%zu", (size_t)GROUP), 0);
	/* What cannot be swapped has to fit. */
	(void)guest_cgroup_set(&group, "memory.swap.max", "0");
	ck_assert_int_eq(guest_cgroup_enter(&group, 0), 0);
	return true;
}

static void leave_group(void)
{
	ck_assert_int_eq(guest_cgroup_get(&group, "memory.events", "oom_kill"), 0);
	ck_assert_int_le(guest_cgroup_get(&group, "memory.peak", NULL), GROUP);
	guest_cgroup_remove(&group);
}

START_TEST(the_default_is_half_of_the_memory_cgroup)
{
	struct guest_cgroup below;

	if (!enter_group())
		return;
	setup();
	ck_assert_uint_eq(tdi_memlimit(), GROUP);
	ck_assert_uint_eq(stats().budget, GROUP / 2);
	teardown();

	/* and of the least above it, whatever its own says */
	ck_assert_int_eq(guest_cgroup_enter(NULL, 0), 0);
	ck_assert(guest_cgroup_make(&below, &group, "below", "+memory"));
	ck_assert_int_eq(guest_cgroup_enter(&below, 0), 0);
	ck_assert_int_eq(guest_cgroup_set(&below, "memory.max", "%zu", 2 * (size_t)GROUP),
			 0);
	setup();
	ck_assert_uint_eq(stats().budget, GROUP / 2);
	ck_assert_int_eq(guest_cgroup_set(&below, "memory.max", "%zu", (size_t)GROUP / 4),
			 0);
	set_budget(0, TD_BUDGET_HELP); /* looks again */
	ck_assert_uint_eq(stats().budget, GROUP / 8);
	teardown();
	leave_group();
}
END_TEST

/* ---- the loop ---- */

static void fill(char *addr, size_t size)
{
	/* 4 KiB pages: as long to free as it gets. */
	(void)madvise(addr, size, MADV_NOHUGEPAGE);
	tdt_touch(addr, size);
}

static void unmap(size_t size)
{
	char *addr = tdt_map_anon(size);
	int err;

	fill(addr, size);
	while ((err = td_engine_munmap(engine, addr, size, 0)) == -EAGAIN)
		sched_yield();
	ck_assert_int_eq(err, 0);
}

static void put(size_t size)
{
	td_space *space;
	void *addr;
	int err;

	ck_assert_int_eq(td_space_create(engine, NULL, &space), 0);
	ck_assert_int_eq(td_region_map(space, size, NULL, &addr), 0);
	fill(addr, size);
	while ((err = td_space_put(space)) == -EAGAIN)
		sched_yield();
	ck_assert_int_eq(err, 0);
}

struct loop {
	pthread_t thread;
	unsigned arenas;
	size_t size;
};

static void *run_loop(void *arg)
{
	struct loop *loop = arg;

	for (unsigned i = 0; i < loop->arenas; i++) {
		if (i % 2)
			unmap(loop->size);
		else
			put(loop->size);
	}
	return NULL;
}

/* So many loops, which together have as much in use as one with one arena. */
static void run(enum td_budget_policy policy, unsigned loops)
{
	struct loop all[LOOPS];

	if (!enter_group())
		return;
	setup_eager();
	engine->budget.wait_patience_ns = UINT64_MAX;
	ck_assert_int_eq(td_engine_set_budget(engine, 0, policy), 0);
	for (unsigned i = 0; i < loops; i++) {
		all[i].size = tdi_align_down(ARENA / loops, 2 * MIB);
		all[i].arenas = ARENAS;
		ck_assert_int_eq(pthread_create(&all[i].thread, NULL, run_loop, &all[i]),
				 0);
	}
	for (unsigned i = 0; i < loops; i++)
		pthread_join(all[i].thread, NULL);
	drain();
	ck_assert_uint_le(stats().bytes_pending_peak, GROUP / 2);
	ck_assert_uint_ge(stats().bytes_pending_peak, all[0].size);
	teardown();
	leave_group();
}

START_TEST(a_loop_that_helps_is_not_killed)
{
	run(TD_BUDGET_HELP, 1);
}
END_TEST

START_TEST(loops_that_help_are_not_killed)
{
	run(TD_BUDGET_HELP, LOOPS);
}
END_TEST

START_TEST(loops_that_wait_are_not_killed)
{
	run(TD_BUDGET_WAIT, LOOPS);
}
END_TEST

START_TEST(loops_that_are_refused_are_not_killed)
{
	run(TD_BUDGET_AGAIN, LOOPS);
}
END_TEST

/* The bound is what does it: who has nothing else to free, and no reaper that comes on,
 * helps. */
START_TEST(while_the_reaper_is_held_up_the_loop_frees_by_itself)
{
	if (!enter_group())
		return;
	setup_eager();
	hold_reaper(&holder);
	for (unsigned i = 0; i < 5; i++)
		unmap(ARENA);
	ck_assert_uint_ge(stats().budget_helped, 3);
	ck_assert_uint_le(stats().bytes_pending_peak, GROUP / 2);
	let_go(&holder);
	drain();
	teardown();
	leave_group();
}
END_TEST

int main(void)
{
	struct tdt *tests = tdt_suite("guest_budget");

	tdt_add(tests, the_default_is_half_of_the_memory_cgroup, NULL, NULL);
	tdt_add(tests, a_loop_that_helps_is_not_killed, NULL, NULL);
	tdt_add(tests, loops_that_help_are_not_killed, NULL, NULL);
	tdt_add(tests, loops_that_wait_are_not_killed, NULL, NULL);
	tdt_add(tests, loops_that_are_refused_are_not_killed, NULL, NULL);
	tdt_add(tests, while_the_reaper_is_held_up_the_loop_frees_by_itself, NULL, NULL);
	return tdt_run(tests);
}
