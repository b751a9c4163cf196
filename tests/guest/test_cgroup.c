/* SPDX-License-Identifier: MIT */
/*
 * A8 with cgroups of version 2: an engine's threads in a threaded one, a thread that is
 * attached to a space in another, and which of the two pays.
 */
#include "guest.h"
#include "placed.h"
#include "reaping.h"

#define ARENA (32 * MIB)

static struct guest_cgroup domain, ours, the_engines;

/* False, and the test is skipped. The engine is made, with its threads in their group. */
static bool make_groups(void)
{
	if (!guest_cgroup_make_threaded(&domain, &ours, "td-test-cgroup", NULL)) {
		guest_lacks("no threaded cgroups to be made in %s", guest_cgroup_root());
		return false;
	}
	ck_assert(guest_cgroup_make(&the_engines, &domain, "engine", NULL));
	ck_assert_int_eq(guest_cgroup_set(&the_engines, "cgroup.type", "threaded"), 0);
	ck_assert_int_eq(td_engine_create(TD_ENGINE_OPTS(.name = "placed", .reapers = 2,
							 .cgroup = the_engines.path),
					  &engine),
			 0);
	return true;
}

static uint64_t usage_us(const struct guest_cgroup *group)
{
	long long usage = guest_cgroup_get(group, "cpu.stat", "usage_usec");

	ck_assert_int_ge(usage, 0);
	return (uint64_t)usage;
}

static bool is_in(pid_t tid, const struct guest_cgroup *group)
{
	char text[2048];

	thread_text(tid, "cgroup", text, sizeof(text));
	return strstr(text, group->path + strlen(guest_cgroup_root())) != NULL;
}

START_TEST(the_engines_threads_are_in_the_threaded_group_it_was_given)
{
	pid_t tids[THREADS_MAX];
	unsigned threads;

	if (!make_groups())
		return;
	ck_assert_uint_eq(stats().reapers_unplaced, 0);
	threads = threads_named("placed/", tids);
	ck_assert_uint_eq(threads, 3);
	for (unsigned i = 0; i < threads; i++)
		ck_assert(is_in(tids[i], &the_engines));
	ck_assert(!is_in(gettid(), &the_engines));
	teardown();

	/* A group of another domain: no thread alone can go there. */
	ck_assert_int_eq(td_engine_create(TD_ENGINE_OPTS(.reapers = 1,
							 .cgroup = guest_cgroup_root()),
					  &engine),
			 0);
	ck_assert_uint_eq(stats().unplaced_cgroup, 2);
	teardown();
	guest_cgroup_remove(&domain);
}
END_TEST

/* ---- who pays ---- */

static void enter_ours(void)
{
	ck_assert_int_eq(guest_cgroup_enter_thread(&ours, gettid()), 0);
}

START_TEST(the_attached_reapers_group_pays_and_the_engines_does_not)
{
	struct attacher attacher;
	uint64_t engines, us;
	void *addr;

	if (!make_groups())
		return;
	space = make_space("arena");
	ck_assert_int_eq(td_space_grab(space), 0);
	addr = map(ARENA);
	engines = usage_us(&the_engines);
	attacher_start(&attacher, TD_FOREVER, enter_ours);
	await_attached(1);
	ck_assert_int_eq(td_space_put(space), 0);
	ck_assert_int_eq(attacher_result(&attacher), 0);
	check_reclaimed(addr, ARENA);
	us = usage_us(&ours);
	ck_assert_uint_ge(us, space_stats().cpu_ns / 1000);
	ck_assert_uint_lt(usage_us(&the_engines) - engines, space_stats().cpu_ns / 4000);
	ck_assert_int_eq(td_space_drop(space), 0);

	/* and with nobody attached it is the engine's */
	space = make_space("another");
	ck_assert_int_eq(td_space_grab(space), 0);
	addr = map(ARENA);
	engines = usage_us(&the_engines);
	ck_assert_int_eq(td_space_put(space), 0);
	check_reclaimed(addr, ARENA);
	teardown();
	engine = NULL;
	ck_assert_uint_ge(usage_us(&the_engines) - engines, space_stats().cpu_ns / 1000);
	ck_assert_uint_eq(usage_us(&ours), us);
	ck_assert_int_eq(td_space_drop(space), 0);
	guest_cgroup_remove(&domain);
}
END_TEST

int main(void)
{
	struct tdt *tests = tdt_suite("guest_cgroup");

	tdt_add(tests, the_engines_threads_are_in_the_threaded_group_it_was_given, NULL,
		NULL);
	tdt_add(tests, the_attached_reapers_group_pays_and_the_engines_does_not, NULL,
		NULL);
	return tdt_run(tests);
}
