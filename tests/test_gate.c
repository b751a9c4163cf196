/* SPDX-License-Identifier: MIT */
#include "gate.h"
#include "harness.h"

#include <pthread.h>
#include <stdlib.h>

START_TEST(a_closed_gate_lets_nobody_in)
{
	struct tdi_gate gate;

	tdi_gate_init(&gate);
	ck_assert(tdi_gate_enter(&gate));
	ck_assert(tdi_gate_enter(&gate));
	tdi_gate_leave(&gate);
	tdi_gate_leave(&gate);
	tdi_gate_close(&gate);
	ck_assert(!tdi_gate_enter(&gate));
	ck_assert(!tdi_gate_enter(&gate));
}
END_TEST

enum { THREADS = 3 };

struct shared {
	struct tdi_gate *gate;
	int *protected;
};

static void *pass(void *arg)
{
	struct shared *shared = arg;
	size_t passes = 0;

	while (tdi_gate_enter(shared->gate)) {
		ck_assert_int_eq(*shared->protected, 7);
		tdi_gate_leave(shared->gate);
		passes++;
	}
	return (void *)passes;
}

/* What the gate protects is freed as soon as it is closed: sanitizers tell. */
START_TEST(closing_waits_for_all_who_are_inside)
{
	for (int round = 0; round < 200; round++) {
		pthread_t threads[THREADS];
		struct tdi_gate gate;
		struct shared shared = {&gate, malloc(sizeof(int))};

		*shared.protected = 7;
		tdi_gate_init(&gate);
		for (int i = 0; i < THREADS; i++)
			ck_assert_int_eq(pthread_create(&threads[i], NULL, pass, &shared),
					 0);
		tdi_gate_close(&gate);
		*shared.protected = 0;
		free(shared.protected);
		for (int i = 0; i < THREADS; i++)
			pthread_join(threads[i], NULL);
	}
}
END_TEST

START_TEST(closing_bears_spurious_and_failing_waits)
{
	pthread_t thread;
	struct tdi_gate gate;
	int value = 7;
	struct shared shared = {&gate, &value};

	tdt_fail(TDI_SYS_futex_wait, -EINTR, 0, 1000);
	tdi_gate_init(&gate);
	ck_assert_int_eq(pthread_create(&thread, NULL, pass, &shared), 0);
	tdi_gate_close(&gate);
	pthread_join(thread, NULL);
	ck_assert_uint_eq(atomic_load(&gate.word), TDI_GATE_CLOSED);
}
END_TEST

int main(void)
{
	struct tdt *tests = tdt_suite("gate");

	tdt_add(tests, a_closed_gate_lets_nobody_in, NULL, NULL);
	tdt_add(tests, closing_waits_for_all_who_are_inside, NULL, NULL);
	tdt_add(tests, closing_bears_spurious_and_failing_waits, NULL, NULL);
	return tdt_run(tests);
}
