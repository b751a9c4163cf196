/* SPDX-License-Identifier: MIT */
/* B1: one can wait for all that began before, however much keeps coming. */
#include "harness.h"
#include "pending.h"

#include <pthread.h>
#include <sched.h>

static struct tdi_pending pending;

static int drain_now(void)
{
	return tdi_pending_drain(&pending, tdi_sys_now_ns());
}

static int drain_for_ever(void)
{
	return tdi_pending_drain(&pending, UINT64_MAX);
}

static void *drain(void *arg)
{
	(void)arg;
	return (void *)(intptr_t)drain_for_ever();
}

static void start_drain(pthread_t *thread)
{
	uint32_t epoch = atomic_load(&pending.epoch);

	pthread_create(thread, NULL, drain, NULL);
	while (atomic_load(&pending.epoch) == epoch)
		sched_yield();
}

static void await_drained(pthread_t thread)
{
	void *result;

	pthread_join(thread, &result);
	ck_assert_ptr_null(result);
}

START_TEST(nothing_is_not_waited_for)
{
	ck_assert_uint_eq(tdi_pending_count(&pending), 0);
	for (int i = 0; i < 5; i++) {
		ck_assert_int_eq(tdi_pending_drain(&pending, 0), 0);
		ck_assert_int_eq(drain_for_ever(), 0);
	}
}
END_TEST

START_TEST(a_drain_times_out_until_all_of_it_has_ended)
{
	unsigned epoch = tdi_pending_begin(&pending, 5);

	ck_assert_uint_eq(tdi_pending_count(&pending), 5);
	for (int i = 0; i < 3; i++)
		ck_assert_int_eq(drain_now(), -ETIMEDOUT);
	tdi_pending_end(&pending, epoch, 2);
	ck_assert_uint_eq(tdi_pending_count(&pending), 3);
	ck_assert_int_eq(tdi_pending_drain(&pending, tdi_sys_now_ns() + 1000000),
			 -ETIMEDOUT);
	tdi_pending_end(&pending, epoch, 3);
	ck_assert_uint_eq(tdi_pending_count(&pending), 0);
	ck_assert_int_eq(drain_now(), 0);
	ck_assert_uint_eq(atomic_load(&pending.drainers), 0);
}
END_TEST

START_TEST(what_comes_meanwhile_is_not_waited_for)
{
	unsigned before = tdi_pending_begin(&pending, 1), after;
	pthread_t thread;

	start_drain(&thread);
	after = tdi_pending_begin(&pending, 1);
	ck_assert_uint_ne(after, before);
	tdi_pending_end(&pending, before, 1);
	await_drained(thread);
	ck_assert_uint_eq(tdi_pending_count(&pending), 1);
	ck_assert_int_eq(drain_now(), -ETIMEDOUT); /* the next one waits for it */
	tdi_pending_end(&pending, after, 1);
	ck_assert_int_eq(drain_now(), 0);
}
END_TEST

/* Those who keep coming while one after the other drains count in turn in each epoch. */
START_TEST(one_that_goes_on_for_ever_holds_up_each_drain_and_no_epoch_is_lost)
{
	unsigned stays = tdi_pending_begin(&pending, 1);

	for (int i = 0; i < 6; i++) {
		unsigned epoch = tdi_pending_begin(&pending, 1);

		ck_assert_int_eq(drain_now(), -ETIMEDOUT);
		tdi_pending_end(&pending, epoch, 1);
	}
	ck_assert_uint_eq(tdi_pending_count(&pending), 1);
	tdi_pending_end(&pending, stays, 1);
	ck_assert_int_eq(drain_now(), 0);
}
END_TEST

/* Held up between reading the epoch and counting there: the drain that came in between
 * does not know of it, and the next one does. */
START_TEST(one_who_read_the_epoch_long_ago_is_waited_for_by_the_next_drain)
{
	unsigned epoch = atomic_load(&pending.epoch);

	ck_assert_int_eq(drain_now(), 0);
	ck_assert_uint_ne(atomic_load(&pending.epoch), epoch);
	atomic_fetch_add(&pending.n[epoch], 1);
	ck_assert_int_eq(drain_now(), -ETIMEDOUT);
	ck_assert_int_eq(drain_now(), -ETIMEDOUT);
	tdi_pending_end(&pending, epoch, 1);
	ck_assert_int_eq(drain_now(), 0);
}
END_TEST

START_TEST(those_who_drain_take_turns_and_may_give_up_waiting_for_theirs)
{
	unsigned epoch = tdi_pending_begin(&pending, 1);
	pthread_t threads[3];

	start_drain(&threads[0]);
	ck_assert_uint_eq(atomic_load(&pending.turn), 1);
	ck_assert_int_eq(drain_now(), -ETIMEDOUT);
	ck_assert_uint_eq(atomic_load(&pending.turn), 1); /* not the one's that gave up */
	for (int i = 1; i < 3; i++)
		pthread_create(&threads[i], NULL, drain, NULL);
	tdi_pending_end(&pending, epoch, 1);
	for (int i = 0; i < 3; i++)
		await_drained(threads[i]);
	ck_assert_uint_eq(atomic_load(&pending.turn), 0);
	ck_assert_int_eq(drain_now(), 0);
}
END_TEST

START_TEST(interrupted_waits_go_on)
{
	unsigned epoch = tdi_pending_begin(&pending, 1);
	pthread_t thread;

	tdt_fail(TDI_SYS_futex_wait, -EINTR, 0, 50);
	start_drain(&thread);
	while (tdt_calls(TDI_SYS_futex_wait) < 20)
		sched_yield();
	tdi_pending_end(&pending, epoch, 1);
	await_drained(thread);
	tdt_fail_none();
	ck_assert_int_eq(drain_now(), 0);
}
END_TEST

/* ---- many ---- */

enum { THREADS = 3, ROUNDS = TDT_SANITIZED ? 3000 : 30000 };

/* What one begins another one ends: result is plain, so that it is seen whether the drain
 * is what orders it. */
struct task {
	unsigned epoch, result;
};

static _Atomic(struct task *) inbox[THREADS];
static atomic_bool enough;
static atomic_uint wrong;

static void *end_tasks(void *arg)
{
	(void)arg;
	while (!atomic_load(&enough)) {
		for (unsigned i = 0; i < THREADS; i++) {
			struct task *task = atomic_exchange(&inbox[i], NULL);
			unsigned epoch;

			if (!task)
				continue;
			epoch = task->epoch;
			task->result++;
			tdi_pending_end(&pending, epoch, 1);
		}
		sched_yield();
	}
	return NULL;
}

static void *begin_and_drain(void *arg)
{
	unsigned self = (unsigned)(uintptr_t)arg;

	for (unsigned i = 0; i < ROUNDS; i++) {
		struct task task = {.result = 0};

		task.epoch = tdi_pending_begin(&pending, 1);
		atomic_store(&inbox[self], &task);
		if (drain_for_ever() != 0 || task.result != 1)
			atomic_fetch_add(&wrong, 1);
	}
	return NULL;
}

START_TEST(whoever_drains_finds_what_he_began_ended)
{
	pthread_t threads[THREADS], enders[2];

	for (int i = 0; i < 2; i++)
		pthread_create(&enders[i], NULL, end_tasks, NULL);
	for (uintptr_t i = 0; i < THREADS; i++)
		pthread_create(&threads[i], NULL, begin_and_drain, (void *)i);
	for (int i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	atomic_store(&enough, true);
	for (int i = 0; i < 2; i++)
		pthread_join(enders[i], NULL);
	ck_assert_uint_eq(atomic_load(&wrong), 0);
	ck_assert_uint_eq(tdi_pending_count(&pending), 0);
}
END_TEST

static void *come_and_go(void *arg)
{
	(void)arg;
	while (!atomic_load(&enough)) {
		unsigned first = tdi_pending_begin(&pending, 1), next;

		/* One is always under way: the count is never 0 for long. */
		for (int i = 0; i < 100; i++) {
			next = tdi_pending_begin(&pending, 1);
			tdi_pending_end(&pending, first, 1);
			first = next;
		}
		tdi_pending_end(&pending, first, 1);
	}
	return NULL;
}

START_TEST(a_drain_comes_to_its_end_however_much_keeps_coming)
{
	pthread_t threads[THREADS];

	for (int i = 0; i < THREADS; i++)
		pthread_create(&threads[i], NULL, come_and_go, NULL);
	for (int i = 0; i < ROUNDS / 100; i++)
		ck_assert_int_eq(drain_for_ever(), 0);
	atomic_store(&enough, true);
	for (int i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	ck_assert_uint_eq(tdi_pending_count(&pending), 0);
}
END_TEST

int main(void)
{
	struct tdt *tests = tdt_suite("pending");
	const TTest *all[] = {
		nothing_is_not_waited_for,
		a_drain_times_out_until_all_of_it_has_ended,
		what_comes_meanwhile_is_not_waited_for,
		one_that_goes_on_for_ever_holds_up_each_drain_and_no_epoch_is_lost,
		one_who_read_the_epoch_long_ago_is_waited_for_by_the_next_drain,
		those_who_drain_take_turns_and_may_give_up_waiting_for_theirs,
		interrupted_waits_go_on,
		whoever_drains_finds_what_he_began_ended,
		a_drain_comes_to_its_end_however_much_keeps_coming,
	};

	for (size_t i = 0; i < sizeof(all) / sizeof(*all); i++)
		tdt_add(tests, all[i], NULL, NULL);
	return tdt_run(tests);
}
