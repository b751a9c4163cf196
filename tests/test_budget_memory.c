/* SPDX-License-Identifier: MIT */
/* A11, A5, D4: the budget where memory is put and unmapped. */
#include "budgeted.h"
#include "mapped.h"

#include <teardown/region.h>
#include <teardown/space.h>

#define ARENA (4 * MIB)

static void setup_memory(void)
{
	setup_held();
	set_budget(2 * ARENA, TD_BUDGET_HELP);
}

static td_space *space_of(size_t size)
{
	td_space *space;
	void *addr;

	ck_assert_int_eq(td_space_create(engine, NULL, &space), 0);
	ck_assert_int_eq(td_space_grab(space), 0);
	if (size > 0) {
		ck_assert_int_eq(td_region_map(space, size, NULL, &addr), 0);
		tdt_touch(addr, size);
	}
	return space;
}

static bool has_happened(td_space *space, enum td_event event)
{
	return td_space_wait(space, event, 0) == 0;
}

static void drop(td_space *space)
{
	ck_assert_int_eq(td_space_wait(space, TD_EVENT_RECLAIMED, TD_FOREVER), 0);
	ck_assert_int_eq(td_space_drop(space), 0);
}

static void unmap_one(size_t size)
{
	char *addr = tdt_map_anon(size);

	tdt_touch(addr, size);
	ck_assert_int_eq(td_engine_munmap(engine, addr, size, 0), 0);
	ck_assert_uint_eq(tdt_mapped(addr, size), 0);
}

/* ---- helping ---- */

START_TEST(a_put_helps_and_goes_through)
{
	td_space *spaces[5];

	for (int i = 0; i < 5; i++)
		spaces[i] = space_of(ARENA);
	for (int i = 0; i < 5; i++) {
		ck_assert_int_eq(td_space_put(spaces[i]), 0);
		ck_assert_uint_le(pending(), 2 * ARENA);
		ck_assert(has_happened(spaces[i], TD_EVENT_GONE));
	}
	ck_assert_uint_eq(stats().bytes_pending_peak, 2 * ARENA);
	ck_assert_uint_eq(stats().budget_helped, 3);
	ck_assert_uint_eq(stats().budget_in_place, 0);
	let_go(&holder);
	for (int i = 0; i < 5; i++)
		drop(spaces[i]);
	hold_reaper(&holder);
}
END_TEST

START_TEST(an_unmapper_helps_and_goes_through)
{
	for (int i = 0; i < 5; i++) {
		unmap_one(ARENA);
		ck_assert_uint_le(pending(), 2 * ARENA);
	}
	ck_assert_uint_eq(stats().munmaps_deferred, 5);
	ck_assert_uint_eq(stats().munmaps_in_caller, 0);
	ck_assert_uint_eq(stats().bytes_pending_peak, 2 * ARENA);
	ck_assert_uint_eq(stats().budget_helped, 3);
}
END_TEST

START_TEST(a_region_unmapper_helps_and_goes_through)
{
	td_space *space = space_of(0);
	void *addr[5];

	for (int i = 0; i < 5; i++)
		ck_assert_int_eq(td_region_map(space, ARENA, NULL, &addr[i]), 0);
	for (int i = 0; i < 5; i++) {
		ck_assert_int_eq(td_region_unmap(space, addr[i], ARENA), 0);
		ck_assert_uint_eq(tdt_mapped(addr[i], ARENA), 0);
		ck_assert_uint_le(pending(), 2 * ARENA);
	}
	ck_assert_uint_eq(stats().budget_helped, 3);
	ck_assert_int_eq(td_space_put(space), 0);
	let_go(&holder);
	drop(space);
	hold_reaper(&holder);
}
END_TEST

/* Nothing of a range smaller than the threshold is left to reapers. */
START_TEST(room_that_is_not_used_is_given_back)
{
	td_space *space = space_of(0);
	char *window = (char *)TDT_FAR;

	ck_assert_int_eq(td_engine_set_munmap_threshold(engine, ARENA), 0);
	for (int i = 0; i < 3; i++) {
		char *addr =
			map_at(window + i * 4 * MIB, 2 * MIB, PROT_READ | PROT_WRITE);

		ck_assert_int_eq(td_region_adopt(space, addr, 2 * MIB, NULL), 0);
	}
	/* three runs, each too small */
	ck_assert_int_eq(td_region_unmap(space, window, 16 * MIB), 0);
	ck_assert_uint_eq(pending(), 0);
	ck_assert_uint_eq(stats().bytes_pending_peak, 0);
	/* and where handing over does not work out */
	tdt_fail(TDI_SYS_mremap, -ENOMEM, 0, UINT32_MAX);
	ck_assert_int_eq(
		td_region_adopt(space, map_at(window, ARENA, PROT_READ), ARENA, NULL), 0);
	ck_assert_int_eq(td_region_unmap(space, window, ARENA), 0);
	ck_assert_uint_eq(pending(), 0);
	unmap_one(ARENA);
	ck_assert_uint_eq(pending(), 0);
	ck_assert_uint_eq(stats().munmaps_in_caller, 1);
	tdt_fail_none();
	ck_assert_int_eq(td_space_put(space), 0);
	let_go(&holder);
	drop(space);
	hold_reaper(&holder);
}
END_TEST

/* A range that a fork could inherit is freed at once, and takes no room. */
START_TEST(what_must_not_wait_takes_no_room)
{
	tdt_fail(TDI_SYS_madvise, -EINVAL, 0, 1);
	unmap_one(ARENA);
	tdt_fail_none();
	ck_assert_uint_eq(pending(), 0);
	ck_assert_uint_eq(atomic_load(&engine->bytes_exempt), 0);
	ck_assert_uint_eq(stats().works_in_caller, 1);
}
END_TEST

START_TEST(what_is_freed_in_the_caller_takes_no_room)
{
	td_space *first = space_of(2 * ARENA), *space = space_of(ARENA);

	ck_assert_int_eq(td_space_put(first), 0);
	ck_assert_int_eq(td_space_put_sync(space), 0);
	drop(space);
	ck_assert_uint_eq(pending(), 2 * ARENA);
	ck_assert_uint_eq(stats().bytes_pending_peak, 2 * ARENA);
	ck_assert_uint_eq(stats().budget_helped, 0);
	let_go(&holder);
	drop(first);
	hold_reaper(&holder);
}
END_TEST

/* ---- stuck ---- */

START_TEST(when_all_is_stuck_memory_is_freed_in_the_caller)
{
	struct job stuck;
	td_space *space = space_of(ARENA), *regions = space_of(0);
	void *addr;

	ck_assert_int_eq(td_region_map(regions, ARENA, NULL, &addr), 0);
	let_go(&holder);
	job_init(&stuck, 1);
	stuck.work.cost = 2 * ARENA;
	stuck.laters = 13;
	submit(&stuck);
	unmap_one(ARENA);
	ck_assert_uint_eq(stats().munmaps_in_caller, 1);
	ck_assert_int_eq(td_region_unmap(regions, addr, ARENA), 0);
	ck_assert_uint_eq(tdt_mapped(addr, ARENA), 0);
	ck_assert_int_eq(td_space_put(space), 0);
	ck_assert(has_happened(space, TD_EVENT_RECLAIMED));
	ck_assert_int_eq(td_space_put(regions), 0);
	ck_assert_uint_eq(stats().budget_in_place, 3);
	ck_assert_uint_eq(stats().bytes_pending_peak, 2 * ARENA);
	while (td_engine_relieve(engine) == -EAGAIN)
		;
	drop(space);
	drop(regions);
	hold_reaper(&holder);
}
END_TEST

/* ---- waiting ---- */

static void *put_in_thread(void *space)
{
	ck_assert_int_eq(td_space_put(space), 0);
	return NULL;
}

START_TEST(a_put_that_waits_has_told_that_the_space_is_gone)
{
	td_space *first = space_of(2 * ARENA), *second = space_of(ARENA);
	pthread_t thread;

	set_budget(2 * ARENA, TD_BUDGET_WAIT);
	ck_assert_int_eq(td_space_put(first), 0);
	pthread_create(&thread, NULL, put_in_thread, second);
	await_sleepers(1);
	ck_assert(has_happened(second, TD_EVENT_GONE));
	ck_assert(!has_happened(first, TD_EVENT_RECLAIMED));
	let_go(&holder);
	pthread_join(thread, NULL);
	drop(first);
	drop(second);
	ck_assert_uint_le(stats().bytes_pending_peak, 2 * ARENA);
	hold_reaper(&holder);
}
END_TEST

/* ---- being refused ---- */

START_TEST(a_put_that_is_refused_keeps_the_user)
{
	td_space *first = space_of(2 * ARENA), *space = space_of(ARENA);
	struct td_space_stats now;

	set_budget(2 * ARENA, TD_BUDGET_AGAIN);
	ck_assert_int_eq(td_space_put(first), 0);
	ck_assert_int_eq(td_space_get(space), 0);
	/* not the last one: nothing is to be freed */
	ck_assert_int_eq(td_space_put(space), 0);
	for (int i = 0; i < 3; i++)
		ck_assert_int_eq(td_space_put(space), -EAGAIN);
	ck_assert_int_eq(td_space_stats(space, &now), 0);
	ck_assert_uint_eq(now.users, 1);
	ck_assert(!has_happened(space, TD_EVENT_GONE));
	ck_assert(td_space_get_not_zero(space));
	ck_assert_int_eq(td_space_put(space), 0);
	ck_assert_uint_eq(stats().budget_refused, 3);
	ck_assert_uint_eq(pending(), 2 * ARENA);
	let_go(&holder);
	drop(first);
	ck_assert_int_eq(td_space_put(space), 0);
	drop(space);
	hold_reaper(&holder);
}
END_TEST

START_TEST(an_empty_space_is_never_refused)
{
	td_space *first = space_of(2 * ARENA), *space = space_of(0);

	set_budget(2 * ARENA, TD_BUDGET_AGAIN);
	ck_assert_int_eq(td_space_put(first), 0);
	ck_assert_int_eq(td_space_put(space), 0);
	let_go(&holder);
	drop(first);
	drop(space);
	hold_reaper(&holder);
}
END_TEST

START_TEST(an_unmapping_that_is_refused_changes_nothing)
{
	td_space *first = space_of(2 * ARENA), *space = space_of(0);
	char *plain = tdt_map_anon(ARENA);
	struct td_space_stats now;
	void *region;

	ck_assert_int_eq(td_region_map(space, ARENA, NULL, &region), 0);
	number_pages(plain, ARENA, 1);
	number_pages(region, ARENA, 2);
	set_budget(2 * ARENA, TD_BUDGET_AGAIN);
	ck_assert_int_eq(td_space_put(first), 0);
	ck_assert_int_eq(td_engine_munmap(engine, plain, ARENA, 0), -EAGAIN);
	ck_assert_int_eq(td_region_unmap(space, region, ARENA), -EAGAIN);
	/* nor is it cut */
	ck_assert_int_eq(td_region_unmap(space, region, ARENA / 2), -EAGAIN);
	check_numbers(plain, ARENA, 1);
	check_numbers(region, ARENA, 2);
	ck_assert_int_eq(td_space_stats(space, &now), 0);
	ck_assert_uint_eq(now.regions, 1);
	ck_assert_uint_eq(stats().budget_refused, 3);
	ck_assert_uint_eq(stats().munmaps_in_caller, 0);
	/* smaller than the threshold is munmap itself */
	ck_assert_int_eq(td_engine_set_munmap_threshold(engine, 2 * ARENA), 0);
	ck_assert_int_eq(td_engine_munmap(engine, plain, ARENA, 0), 0);
	ck_assert_int_eq(td_region_unmap(space, region, ARENA), 0);
	let_go(&holder);
	drop(first);
	ck_assert_int_eq(td_space_put(space), 0);
	drop(space);
	hold_reaper(&holder);
}
END_TEST

/* A device's memory is left to reapers at any size, and its callbacks are not made before
 * there is room. */
static int made;

static int count_call(void *arg, void *addr, size_t length)
{
	(void)arg;
	(void)addr;
	(void)length;
	made++;
	return 0;
}

static int release_all(void *arg, size_t offset, size_t length, size_t *released)
{
	(void)arg;
	(void)offset;
	*released = length;
	return 0;
}

START_TEST(a_device_is_not_prepared_for_an_unmapping_that_is_refused)
{
	static const struct td_region_hook hook = {.name = "stop", .call = count_call};
	static const struct td_region_ops ops = {
		.prepare = &hook, .nr_prepare = 1, .release = release_all};
	td_space *first = space_of(2 * ARENA), *space = space_of(0);
	void *addr = tdt_map_anon(page);

	ck_assert_int_eq(
		td_region_adopt(space, addr, page,
				TD_REGION_OPTS(.kind = TD_KIND_DEVICE, .ops = &ops)),
		0);
	set_budget(2 * ARENA, TD_BUDGET_AGAIN);
	ck_assert_int_eq(td_space_put(first), 0);
	ck_assert_int_eq(td_region_unmap(space, addr, page), -EAGAIN);
	ck_assert_int_eq(made, 0);
	let_go(&holder);
	drop(first);
	ck_assert_int_eq(td_region_unmap(space, addr, page), 0);
	ck_assert_int_eq(made, 1);
	ck_assert_int_eq(td_space_put(space), 0);
	drop(space);
	hold_reaper(&holder);
}
END_TEST

/* ---- in a callback ---- */

static void unmap_in_callback(td_space *space, enum td_event event, int status,
			      void *addr)
{
	(void)space;
	(void)event;
	(void)status;
	if (td_engine_munmap(engine, addr, ARENA, 0) == 0)
		made++;
}

START_TEST(a_callback_that_unmaps_frees_by_itself)
{
	td_space *first = space_of(ARENA), *second = space_of(ARENA);
	char *addr = tdt_map_anon(ARENA);

	tdt_touch(addr, ARENA);
	ck_assert_int_eq(td_space_on_event(first, TD_EVENT_GONE, unmap_in_callback, addr),
			 0);
	ck_assert_int_eq(td_space_put(first), 0);
	ck_assert_int_eq(td_space_put(second), 0);
	let_go(&holder);
	drop(first);
	drop(second);
	ck_assert_int_eq(made, 1);
	ck_assert_uint_eq(tdt_mapped(addr, ARENA), 0);
	ck_assert_uint_eq(stats().munmaps_in_caller, 1);
	ck_assert_uint_eq(stats().bytes_pending_peak, 2 * ARENA);
	hold_reaper(&holder);
}
END_TEST

int main(void)
{
	struct tdt *tests = tdt_suite("budget_memory");
	const TTest *all[] = {
		a_put_helps_and_goes_through,
		an_unmapper_helps_and_goes_through,
		a_region_unmapper_helps_and_goes_through,
		room_that_is_not_used_is_given_back,
		what_must_not_wait_takes_no_room,
		what_is_freed_in_the_caller_takes_no_room,
		when_all_is_stuck_memory_is_freed_in_the_caller,
		a_put_that_waits_has_told_that_the_space_is_gone,
		a_put_that_is_refused_keeps_the_user,
		an_empty_space_is_never_refused,
		an_unmapping_that_is_refused_changes_nothing,
		a_device_is_not_prepared_for_an_unmapping_that_is_refused,
		a_callback_that_unmaps_frees_by_itself,
	};

	for (size_t i = 0; i < sizeof(all) / sizeof(*all); i++)
		tdt_add(tests, all[i], setup_memory, teardown_held);
	return tdt_run(tests);
}
