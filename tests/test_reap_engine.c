/* SPDX-License-Identifier: MIT */
/*
 * A1, A5, A8: an attached reaper beside what else its engine has: a budget, queues for
 * several nodes, a progress callback, an end. What the library asks about NUMA nodes is
 * answered here (the linker's --wrap).
 */
#include "many_nodes.h"
#include "stopping.h"

#include <errno.h>
#include <teardown/progress.h>

/* ---- a machine of two nodes, if a test wants it ---- */

static _Atomic(uintptr_t) second; /* from here on memory is on the second one */

unsigned __wrap_tdi_numa_here(void)
{
	return 0;
}

int __wrap_tdi_numa_of_range(uintptr_t start, size_t length)
{
	(void)length;
	return start >= atomic_load(&second);
}

/* ---- the budget ---- */

#define LIMIT (4 * MIB)

static void (*while_seeking)(void); /* room, for a put */

int __real_tdi_budget_admit(td_engine *of, uint64_t bytes, bool may_refuse);
int __wrap_tdi_budget_admit(td_engine *of, uint64_t bytes, bool may_refuse);

int __wrap_tdi_budget_admit(td_engine *of, uint64_t bytes, bool may_refuse)
{
	int err = __real_tdi_budget_admit(of, bytes, may_refuse);
	void (*action)(void) = while_seeking;

	while_seeking = NULL;
	if (action)
		action();
	return err;
}

static td_space *use_up_budget(struct hold *hold)
{
	td_space *other;
	void *others;

	ck_assert_int_eq(td_engine_set_budget(engine, LIMIT, TD_BUDGET_AGAIN), 0);
	other = make_space("other");
	ck_assert_int_eq(td_region_map(other, LIMIT, NULL, &others), 0);
	hold_reaper(hold);
	ck_assert_int_eq(td_space_put(other), 0);
	return other;
}

/* What an attached reaper is about to free is left to nobody. */
START_TEST(handing_over_needs_no_room)
{
	char *addr = map(2 * LIMIT);
	struct attacher attacher;
	struct hold hold;

	(void)use_up_budget(&hold);
	ck_assert_int_eq(td_space_put(space), -EAGAIN);
	attach_thread(&attacher);
	ck_assert_int_eq(td_space_put(space), 0);
	ck_assert_int_eq(attacher_result(&attacher), 0);
	check_reclaimed(addr, 2 * LIMIT);
	ck_assert_uint_eq(stats().bytes_pending, LIMIT);
	let_go(&hold);
	drain();
	ck_assert_uint_eq(stats().bytes_pending, 0);
}
END_TEST

static struct attacher late;

static void attach_late(void)
{
	attach_thread(&late);
}

START_TEST(one_who_attaches_while_room_is_sought_gets_the_work)
{
	char *addr = map(LIMIT / 2);
	struct hold hold;

	hold_reaper(&hold);
	ck_assert_int_eq(td_engine_set_budget(engine, LIMIT, TD_BUDGET_AGAIN), 0);
	while_seeking = attach_late;
	ck_assert_int_eq(td_space_put(space), 0);
	ck_assert_int_eq(attacher_result(&late), 0);
	check_reclaimed(addr, LIMIT / 2);
	ck_assert_uint_eq(stats().bytes_pending, 0); /* the room was given back */
	let_go(&hold);
}
END_TEST

/* And where there is none, the put is refused and the reaper stays attached. */
START_TEST(one_who_attaches_while_there_is_no_room_stays)
{
	char *addr = map(MIB);
	struct hold hold;

	(void)use_up_budget(&hold);
	while_seeking = attach_late;
	ck_assert_int_eq(td_space_put(space), -EAGAIN);
	ck_assert_uint_eq(space_stats().users, 1);
	ck_assert_int_eq(td_space_put(space), 0);
	ck_assert_int_eq(attacher_result(&late), 0);
	check_reclaimed(addr, MIB);
	let_go(&hold);
}
END_TEST

/* ---- nodes ---- */

static void setup_nodes(void)
{
	machine_nodes = 2;
	ck_assert_int_eq(td_engine_create(TD_ENGINE_OPTS(.reapers = 2), &engine), 0);
	ck_assert_uint_eq(engine->queues.nr, 2);
	space = make_space("arena");
	ck_assert_int_eq(td_space_grab(space), 0);
}

/* Adopted from one mapping, half of it on each node. */
static char *map_on_both(size_t each)
{
	char *addr = tdt_map_anon(2 * each);

	tdt_touch(addr, 2 * each);
	atomic_store(&second, (uintptr_t)addr + each);
	ck_assert_int_eq(td_region_adopt(space, addr, each, NULL), 0);
	ck_assert_int_eq(td_region_adopt(space, addr + each, each, NULL), 0);
	return addr;
}

/* A8: it is on its own account, wherever the pages are. */
START_TEST(what_lies_on_several_nodes_it_frees_itself)
{
	char *addr = map_on_both(8 * MIB);
	struct td_reaper_stats of;
	struct attacher attacher;

	attach_thread(&attacher);
	ck_assert_int_eq(td_space_put(space), 0);
	ck_assert_int_eq(attacher_result(&attacher), 0);
	check_reclaimed(addr, 16 * MIB);
	ck_assert_uint_eq(stats().bytes_in_caller, 16 * MIB);
	for (unsigned i = 0; i < 2; i++) {
		ck_assert_int_eq(td_engine_reaper_stats(engine, i, &of), 0);
		ck_assert_uint_eq(of.slices, 0);
	}
}
END_TEST

/* C3 */
START_TEST(on_several_nodes_it_is_helped_as_on_one)
{
	char *slow = map_slow(MIB), *addr = map_on_both(8 * MIB);
	struct attacher attacher;

	attach_thread(&attacher);
	ck_assert_int_eq(td_space_put(space), 0);
	sem_wait(&stop.entered);
	ck_assert_int_eq(td_space_release(space, 0), -EAGAIN);
	ck_assert_uint_eq(tdt_mapped(addr, 16 * MIB), 0);
	sem_post(&stop.may_go);
	ck_assert_int_eq(attacher_result(&attacher), 0);
	check_reclaimed(slow, MIB);
}
END_TEST

/* ---- the engine's end ---- */

START_TEST(an_engine_that_stops_leaves_it_to_its_work)
{
	char *slow = map_slow(MIB), *addr = map(4 * MIB);
	struct attacher attacher;

	attach_thread(&attacher);
	ck_assert_int_eq(td_space_put(space), 0);
	sem_wait(&stop.entered);
	ck_assert_int_eq(td_engine_stop(engine, TD_EXIT_DEADLINE, 1000000), -ETIMEDOUT);
	ck_assert_int_eq(td_space_wait(space, TD_EVENT_RECLAIMED, 0), -ETIMEDOUT);
	ck_assert_int_eq(td_space_release(space, 0), -EAGAIN);
	ck_assert_uint_eq(tdt_mapped(addr, 4 * MIB), 0);
	sem_post(&stop.may_go);
	ck_assert_int_eq(attacher_result(&attacher), 0);
	check_reclaimed(slow, MIB);
}
END_TEST

START_TEST(on_a_stopped_engine_one_can_sleep_and_be_woken)
{
	char *addr = map(4 * MIB);
	struct attacher attacher;

	attach_thread(&attacher); /* before, and stopping does not wait for it */
	ck_assert_int_eq(td_engine_stop(engine, TD_EXIT_DRAIN, 0), 0);
	ck_assert_int_eq(td_space_reap_cancel(space), 0);
	ck_assert_int_eq(attacher_result(&attacher), -ECANCELED);
	attach_thread(&attacher);
	ck_assert_int_eq(td_space_put(space), 0);
	ck_assert_int_eq(attacher_result(&attacher), 0);
	check_reclaimed(addr, 4 * MIB);
	ck_assert_int_eq(td_space_release(space, 0), 0);
}
END_TEST

/* ---- progress ---- */

static atomic_uint told;
static pthread_t told_on;
static int attach_inside = 99;

static void tell(const struct td_progress *progress, void *arg)
{
	told_on = pthread_self();
	attach_inside = td_space_reap(arg, 0, TD_FOREVER);
	if (progress->works_to_go == 0)
		atomic_fetch_add(&told, 1);
}

START_TEST(it_tells_how_far_it_is)
{
	td_space *other = make_space("other");
	char *addr = map(8 * MIB);
	struct attacher attacher;

	ck_assert_int_eq(td_engine_on_progress(engine, tell, other, 1), 0);
	attach_thread(&attacher);
	ck_assert_int_eq(td_space_put(space), 0);
	ck_assert_int_eq(attacher_result(&attacher), 0);
	check_reclaimed(addr, 8 * MIB);
	ck_assert_uint_eq(atomic_load(&told), 1);
	ck_assert(pthread_equal(told_on, attacher.thread));
	ck_assert_int_eq(attach_inside, -EDEADLK);
	ck_assert_int_eq(td_engine_on_progress(engine, NULL, NULL, 0), 0);
	ck_assert_int_eq(td_space_put(other), 0);
}
END_TEST

int main(void)
{
	struct tdt *tests = tdt_suite("reap_engine");

	machine_nodes = 1; /* if a test does not say otherwise */
	tdt_add(tests, handing_over_needs_no_room, setup_release, teardown_space);
	tdt_add(tests, one_who_attaches_while_room_is_sought_gets_the_work, setup_release,
		teardown_space);
	tdt_add(tests, one_who_attaches_while_there_is_no_room_stays, setup_release,
		teardown_space);
	tdt_add(tests, what_lies_on_several_nodes_it_frees_itself, setup_nodes,
		teardown_space);
	tdt_add(tests, on_several_nodes_it_is_helped_as_on_one, setup_nodes,
		teardown_space);
	tdt_add(tests, an_engine_that_stops_leaves_it_to_its_work, setup_release,
		teardown_space);
	tdt_add(tests, on_a_stopped_engine_one_can_sleep_and_be_woken, setup_release,
		teardown_space);
	tdt_add(tests, it_tells_how_far_it_is, setup_release, teardown_space);
	return tdt_run(tests);
}
