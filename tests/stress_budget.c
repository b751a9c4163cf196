/* SPDX-License-Identifier: MIT */
/*
 * A11: threads that put and unmap as fast as they can, with room for little, while one
 * looks at what is pending and another changes the policy. The bound is never passed, and
 * nothing is lost.
 */
#include "budgeted.h"

#include <stdlib.h>
#include <sys/mman.h>
#include <teardown/region.h>
#include <teardown/space.h>

enum { THREADS = 4, ROUNDS = TDT_SANITIZED ? 80 : 400 };

/* The largest is larger than the budget, and is then alone. */
#define LARGEST (2 * MIB)
#define BUDGET (3 * MIB / 2)

static atomic_bool over;
static atomic_uint refused;
static bool policies_change;

static size_t random_size(unsigned *seed)
{
	return rand_r(seed) % 8 ? page * (1 + (size_t)rand_r(seed) % 128) : LARGEST;
}

static void put_a_space(size_t size)
{
	td_space *space;
	void *addr;
	int err;

	ck_assert_int_eq(td_space_create(engine, NULL, &space), 0);
	ck_assert_int_eq(td_region_map(space, size, NULL, &addr), 0);
	tdt_touch(addr, size);
	while ((err = td_space_put(space)) == -EAGAIN) {
		((volatile char *)addr)[size - 1] = 1; /* it is still ours */
		atomic_fetch_add(&refused, 1);
		sched_yield();
	}
	ck_assert_int_eq(err, 0);
}

static void unmap(size_t size)
{
	char *addr = tdt_map_anon(size);
	int err;

	tdt_touch(addr, size);
	while ((err = td_engine_munmap(engine, addr, size, 0)) == -EAGAIN) {
		((volatile char *)addr)[0] = 1;
		atomic_fetch_add(&refused, 1);
		sched_yield();
	}
	ck_assert_int_eq(err, 0);
}

static void unmap_a_region(td_space *space, size_t size)
{
	void *addr;
	int err;

	ck_assert_int_eq(td_region_map(space, size, NULL, &addr), 0);
	tdt_touch(addr, size);
	while ((err = td_region_unmap(space, addr, size)) == -EAGAIN) {
		((volatile char *)addr)[0] = 1;
		atomic_fetch_add(&refused, 1);
		sched_yield();
	}
	ck_assert_int_eq(err, 0);
}

static void *put_and_unmap(void *arg)
{
	unsigned seed = (unsigned)(uintptr_t)arg;
	td_space *space;

	ck_assert_int_eq(td_space_create(engine, NULL, &space), 0);
	for (unsigned round = 0; round < ROUNDS; round++) {
		size_t size = random_size(&seed);

		switch (rand_r(&seed) % 3) {
		case 0:
			put_a_space(size);
			break;
		case 1:
			unmap(size);
			break;
		default:
			unmap_a_region(space, size);
		}
	}
	while (td_space_put(space) == -EAGAIN)
		sched_yield();
	return NULL;
}

/* The bound, and what is larger than it by itself. */
static void *look(void *arg)
{
	(void)arg;
	while (!atomic_load(&over)) {
		ck_assert_uint_le(pending(), LARGEST);
		sched_yield();
	}
	return NULL;
}

static void *change_policies(void *arg)
{
	unsigned turn = 0;

	(void)arg;
	while (!atomic_load(&over)) {
		if (policies_change)
			set_budget(BUDGET, (enum td_budget_policy)(turn++ % 3));
		sched_yield();
	}
	return NULL;
}

static void run(enum td_budget_policy policy)
{
	pthread_t threads[THREADS], looker, changer;

	set_budget(BUDGET, policy);
	pthread_create(&looker, NULL, look, NULL);
	pthread_create(&changer, NULL, change_policies, NULL);
	for (uintptr_t i = 0; i < THREADS; i++)
		pthread_create(&threads[i], NULL, put_and_unmap, (void *)(i + 1));
	for (int i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	atomic_store(&over, true);
	pthread_join(looker, NULL);
	pthread_join(changer, NULL);
	drain();
	ck_assert_uint_le(stats().bytes_pending_peak, LARGEST);
	ck_assert_uint_gt(stats().bytes_pending_peak, MIB);
	ck_assert_uint_eq(stats().bytes_quarantined, 0);
}

START_TEST(those_who_help_do_not_pass_the_bound)
{
	run(TD_BUDGET_HELP);
	ck_assert_uint_eq(stats().budget_refused, 0);
	ck_assert_uint_eq(stats().budget_waited, 0);
}
END_TEST

START_TEST(those_who_wait_do_not_pass_the_bound)
{
	run(TD_BUDGET_WAIT);
	ck_assert_uint_eq(stats().budget_refused, 0);
}
END_TEST

START_TEST(those_who_are_refused_do_not_pass_the_bound)
{
	run(TD_BUDGET_AGAIN);
	ck_assert_uint_eq(stats().budget_refused, atomic_load(&refused));
	ck_assert_uint_eq(stats().budget_waited + stats().budget_helped, 0);
}
END_TEST

START_TEST(nor_do_they_when_policies_change)
{
	policies_change = true;
	run(TD_BUDGET_HELP);
}
END_TEST

static void setup_stress(void)
{
	page = tdi_page_size();
	setup_two();
	/* Nobody looks by himself: a wake that is lost is seen. */
	engine->budget.wait_look_ns = UINT64_MAX;
	engine->budget.small = 0;
	ck_assert_int_eq(td_engine_set_munmap_threshold(engine, page), 0);
}

/* The engine goes away while others still put. */
static void *put_spaces(void *arg)
{
	td_space **spaces = arg;

	for (unsigned i = 0; spaces[i]; i++) {
		while (td_space_put(spaces[i]) == -EAGAIN)
			sched_yield();
	}
	return NULL;
}

START_TEST(an_engine_may_go_while_others_are_at_the_bound)
{
	enum { SPACES = 40 };

	for (int round = 0; round < 9; round++) {
		td_space *spaces[THREADS][SPACES + 1] = {{NULL}};
		pthread_t threads[THREADS];
		void *addr;

		setup_stress();
		set_budget(MIB, (enum td_budget_policy)(round % 3));
		for (int i = 0; i < THREADS * SPACES; i++) {
			td_space **space = &spaces[i / SPACES][i % SPACES];

			ck_assert_int_eq(td_space_create(engine, NULL, space), 0);
			ck_assert_int_eq(td_region_map(*space, MIB / 2, NULL, &addr), 0);
			tdt_touch(addr, MIB / 2);
		}
		for (int i = 0; i < THREADS; i++)
			pthread_create(&threads[i], NULL, put_spaces, spaces[i]);
		while (stats().works_done < (unsigned)round * 10)
			sched_yield();
		ck_assert_int_eq(
			td_engine_destroy(engine,
					  round % 2 ? TD_EXIT_ABANDON : TD_EXIT_DRAIN, 0),
			0);
		for (int i = 0; i < THREADS; i++)
			pthread_join(threads[i], NULL);
	}
}
END_TEST

int main(void)
{
	struct tdt *tests = tdt_suite("stress_budget");

	tdt_add(tests, those_who_help_do_not_pass_the_bound, setup_stress,
		teardown_budget);
	tdt_add(tests, those_who_wait_do_not_pass_the_bound, setup_stress,
		teardown_budget);
	tdt_add(tests, those_who_are_refused_do_not_pass_the_bound, setup_stress,
		teardown_budget);
	tdt_add(tests, nor_do_they_when_policies_change, setup_stress, teardown_budget);
	tdt_add(tests, an_engine_may_go_while_others_are_at_the_bound, NULL, NULL);
	return tdt_run(tests);
}
