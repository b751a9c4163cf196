/* SPDX-License-Identifier: MIT */
/* A4, A9, E4: the counters under users and count. */
#include "harness.h"
#include "heard.h"
#include "ref.h"

#include <pthread.h>

#define NAMES "thing", "it", "users"

START_TEST(the_last_put_is_told)
{
	struct tdi_ref ref;

	tdi_ref_init(&ref, 1);
	tdi_ref_get(&ref, NAMES);
	ck_assert_uint_eq(tdi_ref_read(&ref), 2);
	ck_assert(!tdi_ref_put(&ref, NAMES));
	ck_assert(tdi_ref_put(&ref, NAMES));
	ck_assert_uint_eq(tdi_ref_read(&ref), 0);
}
END_TEST

START_TEST(get_not_zero_refuses_the_dead)
{
	struct tdi_ref ref;

	tdi_ref_init(&ref, 1);
	ck_assert(tdi_ref_get_not_zero(&ref, NAMES));
	ck_assert(!tdi_ref_put(&ref, NAMES));
	ck_assert(tdi_ref_put(&ref, NAMES));
	ck_assert(!tdi_ref_get_not_zero(&ref, NAMES));
	ck_assert_uint_eq(tdi_ref_read(&ref), 0);
}
END_TEST

static void get_dead(void *arg)
{
	struct tdi_ref ref;

	(void)arg;
	tdi_ref_init(&ref, 0);
	tdi_ref_get(&ref, NAMES);
}

static void put_dead(void *arg)
{
	struct tdi_ref ref;

	(void)arg;
	tdi_ref_init(&ref, 1);
	ck_assert(tdi_ref_put(&ref, NAMES));
	tdi_ref_put(&ref, NAMES);
}

START_TEST(get_on_the_dead_names_the_object_and_aborts)
{
	tdt_expect_death(get_dead, NULL, "thing 'it': get of a dead one (users is 0)");
}
END_TEST

START_TEST(put_below_zero_names_the_object_and_aborts)
{
	tdt_expect_death(put_dead, NULL,
			 "thing 'it': put without a reference (users is 0)");
}
END_TEST

START_TEST(a_full_counter_saturates_and_never_ends)
{
	struct tdi_ref ref;

	tdi_ref_init(&ref, TDI_REF_MAX - 1);
	tdi_ref_get(&ref, NAMES);
	ck_assert_uint_eq(tdi_ref_read(&ref), TDI_REF_MAX);
	tdi_ref_get(&ref, NAMES);
	ck_assert_uint_eq(tdi_ref_read(&ref), TDI_REF_SATURATED);
	for (int i = 0; i < 100; i++)
		ck_assert(!tdi_ref_put(&ref, NAMES));
	ck_assert_uint_eq(tdi_ref_read(&ref), TDI_REF_SATURATED);
	ck_assert(tdi_ref_get_not_zero(&ref, NAMES));
	ck_assert_uint_eq(tdi_ref_read(&ref), TDI_REF_SATURATED);
	tdi_ref_init(&ref, TDI_REF_MAX);
	ck_assert(!tdi_ref_put(&ref, NAMES));
	ck_assert_uint_eq(tdi_ref_read(&ref), TDI_REF_MAX - 1);
	tdi_ref_init(&ref, TDI_REF_MAX);
	ck_assert(tdi_ref_get_not_zero(&ref, NAMES));
	ck_assert_uint_eq(tdi_ref_read(&ref), TDI_REF_SATURATED);
}
END_TEST

/* E4 */
START_TEST(many_come_and_go_at_once)
{
	struct tdi_ref ref;

	tdi_ref_init(&ref, 1);
	tdi_ref_get_many(&ref, 1000, NAMES);
	ck_assert_uint_eq(tdi_ref_read(&ref), 1001);
	ck_assert_uint_eq(tdi_ref_read_acquire(&ref), 1001);
	ck_assert(!tdi_ref_put_many(&ref, 990, NAMES));
	tdi_ref_get_many(&ref, 0, NAMES);
	ck_assert(!tdi_ref_put_many(&ref, 0, NAMES));
	ck_assert_uint_eq(tdi_ref_read(&ref), 11);
	ck_assert(tdi_ref_put_many(&ref, 11, NAMES));
	ck_assert_uint_eq(tdi_ref_read(&ref), 0);
}
END_TEST

START_TEST(many_may_be_as_many_as_fit)
{
	struct tdi_ref ref;

	tdi_ref_init(&ref, TDI_REF_MAX - 1000);
	tdi_ref_get_many(&ref, 1000, NAMES);
	ck_assert_uint_eq(tdi_ref_read(&ref), TDI_REF_MAX);
	ck_assert(!tdi_ref_put_many(&ref, 1000, NAMES));
	ck_assert_uint_eq(tdi_ref_read(&ref), TDI_REF_MAX - 1000);
	tdi_ref_init(&ref, TDI_REF_MANY_MAX);
	ck_assert(tdi_ref_put_many(&ref, TDI_REF_MANY_MAX, NAMES));
}
END_TEST

START_TEST(one_too_many_saturates_and_that_is_said_once)
{
	struct hearing hearing;
	struct tdi_ref ref;

	hear(&hearing);
	tdi_ref_init(&ref, TDI_REF_MAX - 1000);
	tdi_ref_get_many(&ref, 1001, NAMES);
	for (int i = 0; i < 10; i++) {
		tdi_ref_get_many(&ref, TDI_REF_MANY_MAX, NAMES);
		ck_assert(!tdi_ref_put_many(&ref, TDI_REF_MANY_MAX, NAMES));
	}
	ck_assert_uint_eq(tdi_ref_read(&ref), TDI_REF_SATURATED);
	ck_assert_uint_eq(times(heard(&hearing), "it will never be freed"), 1);
}
END_TEST

static void get_many_dead(void *arg)
{
	struct tdi_ref ref;

	(void)arg;
	tdi_ref_init(&ref, 0);
	tdi_ref_get_many(&ref, 10, NAMES);
}

static void put_too_many(void *arg)
{
	struct tdi_ref ref;

	(void)arg;
	tdi_ref_init(&ref, 9);
	tdi_ref_put_many(&ref, 10, NAMES);
}

START_TEST(many_are_checked_as_one_is)
{
	tdt_expect_death(get_many_dead, NULL,
			 "thing 'it': get of a dead one (users is 0)");
	tdt_expect_death(put_too_many, NULL,
			 "thing 'it': put without a reference (users is 9)");
}
END_TEST

enum { THREADS = 4, ROUNDS = 20000 };

struct shared {
	struct tdi_ref ref;
	int value; /* written under a reference, read after the last put */
	atomic_int ended;
};

static void *churn(void *arg)
{
	struct shared *shared = arg;

	for (int i = 0; i < ROUNDS; i++) {
		ck_assert(tdi_ref_get_not_zero(&shared->ref, NAMES));
		tdi_ref_get(&shared->ref, NAMES);
		ck_assert(!tdi_ref_put(&shared->ref, NAMES));
		tdi_ref_get_many(&shared->ref, 7, NAMES);
		ck_assert(!tdi_ref_put_many(&shared->ref, 8, NAMES));
	}
	if (tdi_ref_put(&shared->ref, NAMES))
		atomic_fetch_add(&shared->ended, 1 + shared->value);
	return NULL;
}

START_TEST(of_many_putters_exactly_one_is_last_and_sees_all)
{
	pthread_t threads[THREADS];
	struct shared shared = {.value = 0};

	tdi_ref_init(&shared.ref, THREADS + 1);
	for (int i = 0; i < THREADS; i++)
		ck_assert_int_eq(pthread_create(&threads[i], NULL, churn, &shared), 0);
	shared.value = 41; /* ordered before the end by our own put: TSan checks it */
	if (tdi_ref_put(&shared.ref, NAMES))
		atomic_fetch_add(&shared.ended, 42);
	for (int i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	ck_assert_int_eq(atomic_load(&shared.ended), 42);
	ck_assert_uint_eq(tdi_ref_read(&shared.ref), 0);
}
END_TEST

int main(void)
{
	struct tdt *tests = tdt_suite("ref");

	tdt_add(tests, the_last_put_is_told, NULL, NULL);
	tdt_add(tests, get_not_zero_refuses_the_dead, NULL, NULL);
	tdt_add(tests, get_on_the_dead_names_the_object_and_aborts, NULL, NULL);
	tdt_add(tests, put_below_zero_names_the_object_and_aborts, NULL, NULL);
	tdt_add(tests, a_full_counter_saturates_and_never_ends, NULL, NULL);
	tdt_add(tests, many_come_and_go_at_once, NULL, NULL);
	tdt_add(tests, many_may_be_as_many_as_fit, NULL, NULL);
	tdt_add(tests, one_too_many_saturates_and_that_is_said_once, NULL, NULL);
	tdt_add(tests, many_are_checked_as_one_is, NULL, NULL);
	tdt_add(tests, of_many_putters_exactly_one_is_last_and_sees_all, NULL, NULL);
	return tdt_run(tests);
}
