/* SPDX-License-Identifier: MIT */
/* E1-E5, E7: lazy references as their users see them, with membarrier and without. */
#include "lazies.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* E1, E3 */
START_TEST(a_hold_keeps_the_object_and_not_the_memory)
{
	void *addr;

	ck_assert_int_eq(td_region_map(space, MIB, NULL, &addr), 0);
	tdt_touch(addr, MIB);
	enter(space);
	ck_assert_ptr_eq(td_lazy_current(), space);
	put(space);
	drain();
	ck_assert_uint_eq(tdt_mapped(addr, MIB), 0);
	ck_assert_uint_eq(spaces(), 1);
	ck_assert_uint_eq(count_of(space), 1); /* ours */
	ck_assert_str_eq(td_space_name(space), "held");
	ck_assert_int_eq(td_space_wait(space, TD_EVENT_RECLAIMED, 0), 0);
	leave();
	ck_assert_ptr_null(td_lazy_current());
	drain();
	ck_assert_uint_eq(spaces(), 0);
}
END_TEST

/* E3 */
START_TEST(a_hold_that_has_ended_keeps_nothing)
{
	enter(space);
	leave();
	put(space);
	drain();
	ck_assert_uint_eq(spaces(), 0);
	ck_assert_uint_eq(tally().tagged, 0);
}
END_TEST

/* E1, E2 */
START_TEST(entering_and_leaving_write_nothing_of_the_space)
{
	char before[sizeof(*space)], now[sizeof(*space)];
	td_space *other = make("other");

	enter(space); /* registered, from here on */
	leave();
	memcpy(before, space, sizeof(before));
	for (int i = 0; i < 3; i++) {
		enter(space);
		memcpy(now, space, sizeof(now));
		ck_assert_int_eq(memcmp(before, now, sizeof(now)), 0);
		ck_assert_int_eq(td_lazy_switch(other), 0);
		ck_assert_int_eq(td_lazy_switch(space), 0);
		leave();
		memcpy(now, space, sizeof(now));
		ck_assert_int_eq(memcmp(before, now, sizeof(now)), 0);
	}
	put(space);
	put(other);
}
END_TEST

START_TEST(holds_nest_and_end_in_order)
{
	td_space *nested[TD_LAZY_DEPTH];

	nested[0] = space;
	for (int i = 1; i < TD_LAZY_DEPTH; i++)
		nested[i] = make("nested");
	for (int i = 0; i < TD_LAZY_DEPTH; i++)
		enter(nested[i]);
	ck_assert_int_eq(td_lazy_enter(space), -EOVERFLOW);
	for (int i = 0; i < TD_LAZY_DEPTH; i++)
		put(nested[i]);
	drain();
	for (int i = TD_LAZY_DEPTH; i-- > 0;) {
		ck_assert_ptr_eq(td_lazy_current(), nested[i]);
		ck_assert_uint_eq(spaces(), (unsigned)i + 1);
		leave();
		drain();
	}
	ck_assert_uint_eq(spaces(), 0);
	ck_assert_int_eq(td_lazy_leave(), -EPERM);
}
END_TEST

START_TEST(the_same_space_may_be_held_twice)
{
	enter(space);
	enter(space); /* by virtue of the first, too */
	put(space);
	drain();
	ck_assert_uint_eq(count_of(space), 2);
	leave();
	ck_assert_ptr_eq(td_lazy_current(), space);
	leave();
	drain();
	ck_assert_uint_eq(spaces(), 0);
}
END_TEST

START_TEST(a_switch_replaces_the_innermost_hold)
{
	td_space *outer = make("outer"), *second = make("second");

	ck_assert_int_eq(td_lazy_switch(outer), 0); /* nothing is held: enters */
	ck_assert_ptr_eq(td_lazy_current(), outer);
	enter(space);
	for (int i = 0; i < 3; i++) {
		ck_assert_int_eq(td_lazy_switch(second), 0);
		ck_assert_ptr_eq(td_lazy_current(), second);
		ck_assert_int_eq(td_lazy_switch(space), 0);
	}
	ck_assert_int_eq(td_lazy_switch(second), 0);
	put(space);
	drain();
	ck_assert_uint_eq(spaces(), 2);
	put(second);
	put(outer);
	drain();
	ck_assert_uint_eq(spaces(), 2);
	leave();
	ck_assert_ptr_eq(td_lazy_current(), outer);
	drain();
	ck_assert_uint_eq(spaces(), 1);
	leave();
}
END_TEST

/* A count comes with the hold that is switched away from. */
START_TEST(a_switch_away_from_the_dead_drops_its_count)
{
	td_space *next = make("next");

	enter(space);
	put(space);
	drain();
	ck_assert_uint_eq(count_of(space), 1);
	ck_assert_int_eq(td_lazy_switch(next), 0);
	drain();
	ck_assert_uint_eq(spaces(), 1);
	ck_assert_uint_eq(tally().dropped, 1);
	leave();
	put(next);
}
END_TEST

/* E5 */
START_TEST(nobody_enters_once_users_are_0)
{
	td_space *other = make("other");

	ck_assert_int_eq(td_space_grab(space), 0);
	enter(other);
	enter(space);
	leave();
	put(space);
	ck_assert_int_eq(td_lazy_enter(space), -ENXIO);
	drain();
	ck_assert_int_eq(td_lazy_enter(space), -ENXIO);
	ck_assert_int_eq(td_lazy_switch(space), -ENXIO);
	ck_assert_ptr_eq(td_lazy_current(), other); /* nothing has changed */
	ck_assert_uint_eq(count_of(space), 1);
	ck_assert_uint_eq(tally().refused, 3);
	ck_assert_int_eq(td_space_drop(space), 0);
	put(other);
	drain();
	ck_assert_uint_eq(spaces(), 1);
	leave();
}
END_TEST

/* E5: not even one who holds it lazily, and he may have a count instead. */
START_TEST(a_hold_may_become_a_count)
{
	enter(space);
	put(space);
	drain();
	ck_assert_int_eq(td_lazy_enter(space), -ENXIO);
	ck_assert(!td_space_get_not_zero(space));
	ck_assert_int_eq(td_space_grab(space), 0);
	leave();
	drain();
	ck_assert_uint_eq(spaces(), 1);
	ck_assert_uint_eq(count_of(space), 1);
	ck_assert_int_eq(td_space_drop(space), 0);
	ck_assert_uint_eq(spaces(), 0);
}
END_TEST

START_TEST(a_hold_may_become_a_user)
{
	enter(space);
	ck_assert(td_space_get_not_zero(space));
	put(space);
	leave();
	put(space);
}
END_TEST

START_TEST(one_who_has_a_count_only_may_enter)
{
	struct actor actor;

	actor_begin(&actor);
	ck_assert_int_eq(td_space_grab(space), 0);
	tell(&actor, do_enter, space);
	tell(&actor, do_drop, space);
	put(space);
	drain();
	ck_assert_uint_eq(count_of(space), 1);
	tell(&actor, do_leave, NULL);
	drain();
	ck_assert_uint_eq(spaces(), 0);
	actor_end(&actor);
}
END_TEST

START_TEST(misuse_is_told)
{
	ck_assert_int_eq(td_lazy_leave(), -EPERM);
	ck_assert_int_eq(td_lazy_enter(NULL), -EINVAL);
	ck_assert_int_eq(td_lazy_switch(NULL), -EINVAL);
	ck_assert_ptr_null(td_lazy_current());
	enter(space);
	ck_assert_int_eq(td_lazy_switch(NULL), -EINVAL);
	ck_assert_ptr_eq(td_lazy_current(), space);
	leave();
	ck_assert_int_eq(td_lazy_leave(), -EPERM);
	put(space);
}
END_TEST

/* Those who cannot inline them have them as functions. */
START_TEST(there_are_functions_of_the_same_name)
{
	int (*volatile enter_fn)(td_space *) = td_lazy_enter;
	int (*volatile switch_fn)(td_space *) = td_lazy_switch;
	int (*volatile leave_fn)(void) = td_lazy_leave;
	td_space *(*volatile current_fn)(void) = td_lazy_current;

	ck_assert_int_eq(enter_fn(space), 0);
	ck_assert_int_eq(switch_fn(space), 0);
	ck_assert_ptr_eq(current_fn(), space);
	ck_assert_int_eq(leave_fn(), 0);
	put(space);
}
END_TEST

static struct job job;
static sem_t entered, may_go;

/* E7 */
START_TEST(the_final_free_is_a_reapers)
{
	enter(space);
	put(space);
	drain();
	sem_init(&entered, 0, 0);
	sem_init(&may_go, 0, 0);
	job_init(&job, 1);
	job.entered = &entered;
	job.may_go = &may_go;
	ck_assert_int_eq(td_engine_submit(engine, &job.work), 0);
	sem_wait(&entered); /* the only reaper is busy */
	leave();
	ck_assert_uint_eq(spaces(), 1);
	ck_assert_uint_eq(count_of(space), 0);
	sem_post(&may_go);
	drain();
	ck_assert_uint_eq(spaces(), 0);
}
END_TEST

static void *hold_one_of_many(void *arg)
{
	td_space **all = arg;

	for (int i = 0; i < 4; i++) {
		enter(all[i]);
		put(all[i]);
	}
	for (int i = 0; i < 4; i++)
		leave();
	return NULL;
}

START_TEST(several_spaces_die_at_once)
{
	enum { THREADS = 4, ROUNDS = 200 };

	for (int round = 0; round < ROUNDS; round++) {
		td_space *all[THREADS][4];
		pthread_t threads[THREADS];

		for (int i = 0; i < THREADS * 4; i++)
			all[i / 4][i % 4] = make("one of many");
		for (int i = 0; i < THREADS; i++)
			ck_assert_int_eq(pthread_create(&threads[i], NULL,
							hold_one_of_many, all[i]),
					 0);
		for (int i = 0; i < THREADS; i++)
			pthread_join(threads[i], NULL);
	}
	put(space);
}
END_TEST

static atomic_bool over;
static td_space *shared[4];
static pthread_mutex_t shared_lock[4] = {
	PTHREAD_MUTEX_INITIALIZER, PTHREAD_MUTEX_INITIALIZER, PTHREAD_MUTEX_INITIALIZER,
	PTHREAD_MUTEX_INITIALIZER};

/* The lock keeps a user of whatever is there. */
static void enter_or_switch(unsigned i, bool may_switch)
{
	pthread_mutex_lock(&shared_lock[i]);
	if (may_switch)
		ck_assert_int_eq(td_lazy_switch(shared[i]), 0);
	else
		enter(shared[i]);
	pthread_mutex_unlock(&shared_lock[i]);
	ck_assert_str_eq(td_space_name(td_lazy_current()), "shared");
}

static void *come_and_go(void *arg)
{
	unsigned seed = (unsigned)(uintptr_t)arg;

	while (!atomic_load(&over)) {
		enter_or_switch((unsigned)rand_r(&seed) % 4, false);
		if (rand_r(&seed) & 1)
			enter_or_switch((unsigned)rand_r(&seed) % 4, true);
		if (rand_r(&seed) & 1) {
			enter_or_switch((unsigned)rand_r(&seed) % 4, false);
			leave();
		}
		ck_assert_str_eq(td_space_name(td_lazy_current()), "shared");
		leave();
	}
	return NULL;
}

START_TEST(threads_come_and_go_while_spaces_die)
{
	enum { THREADS = 3, ROUNDS = TDT_SANITIZED ? 2000 : 10000 };
	pthread_t threads[THREADS];

	for (int i = 0; i < 4; i++)
		shared[i] = make("shared");
	for (int i = 0; i < THREADS; i++)
		pthread_create(&threads[i], NULL, come_and_go,
			       (void *)(uintptr_t)(i + 1));
	for (unsigned round = 0; round < ROUNDS; round++) {
		td_space *next = make("shared"), *last;

		pthread_mutex_lock(&shared_lock[round % 4]);
		last = shared[round % 4];
		shared[round % 4] = next;
		pthread_mutex_unlock(&shared_lock[round % 4]);
		put(last);
	}
	atomic_store(&over, true);
	for (int i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	for (int i = 0; i < 4; i++)
		put(shared[i]);
	put(space);
	drain();
	printf("# tagged %llu taken back %llu dropped %llu\n",
	       (unsigned long long)tally().tagged, (unsigned long long)tally().taken_back,
	       (unsigned long long)tally().dropped);
	ck_assert_uint_eq(tally().tagged, tally().taken_back + tally().dropped);
}
END_TEST

static void enter_without_anything(void *arg)
{
	struct tdi_ref count;
	struct tdi_lazy object;

	(void)arg;
	tdi_ref_init(&count, 0);
	tdi_lazy_init(&object, &count, NULL, "nobody's");
	tdi_lazy_close(&object);
	(void)tdi_lazy_enter(&object);
}

/* A9 */
START_TEST(entering_the_dead_without_a_reference_is_caught)
{
	tdt_expect_death(enter_without_anything, NULL,
			 "'nobody's': entered by a caller without a user or a count");
	put(space);
}
END_TEST

int main(void)
{
	const TTest *const all[] = {
		a_hold_keeps_the_object_and_not_the_memory,
		a_hold_that_has_ended_keeps_nothing,
		entering_and_leaving_write_nothing_of_the_space,
		holds_nest_and_end_in_order,
		the_same_space_may_be_held_twice,
		a_switch_replaces_the_innermost_hold,
		a_switch_away_from_the_dead_drops_its_count,
		nobody_enters_once_users_are_0,
		a_hold_may_become_a_count,
		a_hold_may_become_a_user,
		one_who_has_a_count_only_may_enter,
		misuse_is_told,
		there_are_functions_of_the_same_name,
		the_final_free_is_a_reapers,
		several_spaces_die_at_once,
		threads_come_and_go_while_spaces_die,
		entering_the_dead_without_a_reference_is_caught,
	};
	enum { ALL = sizeof(all) / sizeof(all[0]) };
	static TTest twins[ALL];
	static char names[ALL][96];
	struct tdt *tests = tdt_suite("lazy");

	for (unsigned i = 0; i < ALL; i++) {
		/* The same without membarrier. */
		twins[i] = *all[i];
		snprintf(names[i], sizeof(names[i]), "%s_by_exchange", all[i]->name);
		twins[i].name = names[i];
		tdt_add(tests, all[i], setup_plain, end_engine);
		tdt_add(tests, &twins[i], setup_exchange, end_engine);
	}
	return tdt_run(tests);
}
