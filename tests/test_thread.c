/* SPDX-License-Identifier: MIT */
/* E8: what the library knows of threads: who they are, and when they end. */
#include "harness.h"
#include "thread.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>

static atomic_int batch_ends, lazy_ends;

static void batch_thread_ends(void)
{
	atomic_fetch_add(&batch_ends, 1);
}

static void lazy_thread_ends(void)
{
	atomic_fetch_add(&lazy_ends, 1);
}

static void *do_nothing(void *arg)
{
	return arg;
}

static void *watch(void *arg)
{
	for (int i = 0; i < 3; i++) /* it is told once all the same */
		ck_assert_int_eq(tdi_thread_watch(), 0);
	return arg;
}

static void run(void *(*fn)(void *), void *arg)
{
	pthread_t thread;

	ck_assert_int_eq(pthread_create(&thread, NULL, fn, arg), 0);
	ck_assert_int_eq(pthread_join(thread, NULL), 0);
}

START_TEST(all_users_are_told_once_of_a_watched_thread)
{
	tdi_thread_on_exit(TDI_THREAD_BATCH, batch_thread_ends);
	tdi_thread_on_exit(TDI_THREAD_LAZY, lazy_thread_ends);
	tdi_thread_on_exit(TDI_THREAD_LAZY, lazy_thread_ends);
	run(watch, NULL);
	ck_assert_int_eq(atomic_load(&batch_ends), 1);
	ck_assert_int_eq(atomic_load(&lazy_ends), 1);
	run(watch, NULL);
	ck_assert_int_eq(atomic_load(&lazy_ends), 2);
}
END_TEST

START_TEST(of_others_nobody_is_told)
{
	tdi_thread_on_exit(TDI_THREAD_LAZY, lazy_thread_ends);
	run(do_nothing, NULL);
	ck_assert_int_eq(atomic_load(&lazy_ends), 0);
}
END_TEST

START_TEST(whoever_does_not_ask_is_not_told)
{
	run(watch, NULL); /* before anybody asked */
	tdi_thread_on_exit(TDI_THREAD_LAZY, lazy_thread_ends);
	run(watch, NULL);
	ck_assert_int_eq(atomic_load(&batch_ends), 0);
	ck_assert_int_eq(atomic_load(&lazy_ends), 1);
}
END_TEST

static void watch_anew_once(void)
{
	if (atomic_fetch_add(&lazy_ends, 1) == 0)
		ck_assert_int_eq(tdi_thread_watch(), 0);
}

START_TEST(a_thread_that_is_watched_anew_is_told_anew)
{
	tdi_thread_on_exit(TDI_THREAD_LAZY, watch_anew_once);
	run(watch, NULL);
	ck_assert_int_eq(atomic_load(&lazy_ends), 2);
}
END_TEST

static pthread_key_t host_key;

static void host_destructor(void *value)
{
	(void)value;
	ck_assert_int_eq(tdi_thread_watch(), 0);
}

static void *use_host_key(void *arg)
{
	pthread_setspecific(host_key, &host_key);
	return arg;
}

START_TEST(a_destructor_of_the_host_may_begin_to_be_watched)
{
	tdi_thread_on_exit(TDI_THREAD_LAZY, lazy_thread_ends);
	ck_assert_int_eq(pthread_key_create(&host_key, host_destructor), 0);
	run(use_host_key, NULL);
	ck_assert_int_eq(atomic_load(&lazy_ends), 1);
}
END_TEST

static void *watch_in_vain(void *err)
{
	ck_assert_int_eq(tdi_thread_watch(), *(int *)err);
	return NULL;
}

START_TEST(without_a_key_nothing_is_watched)
{
	int err = -EAGAIN;

	tdt_fail(TDI_SYS_thread_key, -EAGAIN, 0, 1);
	tdi_thread_on_exit(TDI_THREAD_LAZY, lazy_thread_ends);
	run(watch_in_vain, &err);
	run(watch_in_vain, &err); /* for good */
	ck_assert_int_eq(atomic_load(&lazy_ends), 0);
}
END_TEST

START_TEST(a_thread_for_which_there_is_no_memory_is_not_watched)
{
	int err = -ENOMEM;

	tdi_thread_on_exit(TDI_THREAD_LAZY, lazy_thread_ends);
	tdt_fail(TDI_SYS_thread_set, -ENOMEM, 0, 1);
	run(watch_in_vain, &err);
	ck_assert_int_eq(atomic_load(&lazy_ends), 0);
	run(watch, NULL);
	ck_assert_int_eq(atomic_load(&lazy_ends), 1);
}
END_TEST

static void *keep_token(void *arg)
{
	uint64_t *token = arg;

	*token = tdi_thread_token();
	ck_assert_uint_eq(tdi_thread_token(), *token);
	return NULL;
}

START_TEST(tokens_are_never_used_again)
{
	enum { THREADS = 50 };
	uint64_t tokens[THREADS + 1];

	keep_token(&tokens[THREADS]);
	for (int i = 0; i < THREADS; i++)
		run(keep_token, &tokens[i]);
	for (int i = 0; i <= THREADS; i++) {
		ck_assert_uint_ne(tokens[i], 0);
		for (int j = 0; j < i; j++)
			ck_assert_uint_ne(tokens[i], tokens[j]);
	}
}
END_TEST

int main(void)
{
	struct tdt *tests = tdt_suite("thread");

	tdt_add(tests, all_users_are_told_once_of_a_watched_thread, NULL, NULL);
	tdt_add(tests, of_others_nobody_is_told, NULL, NULL);
	tdt_add(tests, whoever_does_not_ask_is_not_told, NULL, NULL);
	tdt_add(tests, a_thread_that_is_watched_anew_is_told_anew, NULL, NULL);
	tdt_add(tests, a_destructor_of_the_host_may_begin_to_be_watched, NULL, NULL);
	tdt_add(tests, without_a_key_nothing_is_watched, NULL, NULL);
	tdt_add(tests, a_thread_for_which_there_is_no_memory_is_not_watched, NULL, NULL);
	tdt_add(tests, tokens_are_never_used_again, NULL, NULL);
	return tdt_run(tests);
}
