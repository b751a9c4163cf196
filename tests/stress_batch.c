/* SPDX-License-Identifier: MIT */
/*
 * B1, B7: in a flood what is not freed stays below its bound, one grace period serves
 * thousands, and who adds is not held for long.
 */
#include "base.h"
#include "harness.h"

#include <pthread.h>
#include <fcntl.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <teardown.h>
#include <unistd.h>
#include <urcu/flavor.h>

extern const struct rcu_flavor_struct urcu_memb_flavor;

enum {
	ADDERS = 2,
	OBJECTS = TDT_SANITIZED ? 400000 : 4000000, /* of each adder */
	AT_ONCE = 16,				    /* objects counted together */
	POINTERS = 504,				    /* a page of them: see batch.h */
};

static td_engine *engine;
static td_batch *batch;

static struct td_engine_stats engine_stats(void)
{
	struct td_engine_stats stats;

	ck_assert_int_eq(td_engine_stats(engine, &stats), 0);
	return stats;
}

static struct td_batch_stats batch_stats(void)
{
	struct td_batch_stats stats;

	ck_assert_int_eq(td_batch_stats(batch, &stats), 0);
	return stats;
}

/* ---- a flood ---- */

/* Allocated, or about to be, and not freed; and the most that that ever was. */
static _Atomic(int64_t) unfreed, peak;
static atomic_ulong freed;

static void count_more(int64_t bytes)
{
	int64_t now = atomic_fetch_add(&unfreed, bytes) + bytes;
	int64_t most = atomic_load_explicit(&peak, memory_order_relaxed);

	while (now > most && !atomic_compare_exchange_weak(&peak, &most, now))
		continue;
}

struct flood {
	unsigned flags;
	int64_t bound;
	bool plain; /* pointers, without a node */
	bool heap;  /* by malloc; otherwise objects cost nothing, and come faster */
	bool watched;
	size_t object; /* bytes that one counts for */
	bool readers;  /* hold grace periods up for a while */
	bool counts;   /* objects for each grace period */
};

static void free_counted(void **objects, size_t n, void *ctx)
{
	const struct flood *flood = ctx;

	if (flood->heap)
		td_free_bulk_malloc(objects, n, NULL);
	atomic_fetch_sub(&unfreed, (int64_t)(n * flood->object));
	atomic_fetch_add(&freed, n);
}

static unsigned objects_of(const struct flood *flood)
{
	return flood->heap || flood->watched || flood->object > 64 ? OBJECTS / 8
								   : OBJECTS;
}

/*
 * How the time of a call went, ns. Where much is pending it is looked at closely, which
 * takes a while itself: on the CPU, ready but not on it, and asleep.
 */
struct held {
	uint64_t all, cpu, ready, asleep;
};

struct adder {
	pthread_t thread;
	const struct flood *flood;
	struct td_batch_node *nodes;
	int schedstat;
	struct held longest, longest_asleep;
	uint64_t over_100us, asleep_over_100us, longest_cpu;
	unsigned long refused, near;
};

static uint64_t ready_ns(const struct adder *adder)
{
	char text[64] = "";
	unsigned long long cpu, ready = 0;

	if (pread(adder->schedstat, text, sizeof(text) - 1, 0) <= 0 ||
	    sscanf(text, "%llu %llu", &cpu, &ready) != 2)
		return 0;
	return ready;
}

static void note(struct adder *adder, const struct held *held)
{
	if (held->all > adder->longest.all)
		adder->longest = *held;
	if (held->asleep > adder->longest_asleep.asleep)
		adder->longest_asleep = *held;
	if (held->cpu > adder->longest_cpu)
		adder->longest_cpu = held->cpu;
	adder->over_100us += held->all > 100000;
	adder->asleep_over_100us += held->asleep > 100000;
}

static int add(const struct adder *adder, struct td_batch_node *object)
{
	if (adder->flood->plain)
		return td_batch_free_ptr(batch, object, adder->flood->object);
	return td_batch_free(batch, object, adder->flood->object);
}

/* Only near the bound: the clocks would slow the flood down before. */
static int add_watched(struct adder *adder, struct td_batch_node *object)
{
	struct held held;
	int err;

	if (atomic_load_explicit(&unfreed, memory_order_relaxed) <
	    adder->flood->bound - adder->flood->bound / 8)
		return add(adder, object);
	held.ready = ready_ns(adder);
	held.cpu = tdi_sys_cpu_ns();
	held.all = tdi_sys_now_ns();
	err = add(adder, object);
	held.all = tdi_sys_now_ns() - held.all;
	held.cpu = tdi_sys_cpu_ns() - held.cpu;
	held.ready = ready_ns(adder) - held.ready;
	held.asleep =
		held.all > held.cpu + held.ready ? held.all - held.cpu - held.ready : 0;
	adder->near++;
	note(adder, &held);
	return err;
}

static void *add_all(void *arg)
{
	struct adder *adder = arg;
	const struct flood *flood = adder->flood;

	adder->schedstat = open("/proc/thread-self/schedstat", O_RDONLY | O_CLOEXEC);
	for (unsigned i = 0; i < objects_of(flood); i++) {
		void *object = flood->heap ? malloc(flood->object) : &adder->nodes[i];
		int err;

		if (i % AT_ONCE == 0)
			count_more((int64_t)(AT_ONCE * flood->object));
		err = flood->watched ? add_watched(adder, object) : add(adder, object);
		if (err == -EAGAIN && flood->plain) {
			adder->refused++;
			free_counted(&object, 1, (void *)(uintptr_t)flood);
		} else if (err) { /* asked each time, Check would cost more */
			ck_abort_msg("not added: %d", err);
		}
	}
	close(adder->schedstat);
	return NULL;
}

static void report(const struct adder *adder)
{
	const struct held *held = &adder->longest, *asleep = &adder->longest_asleep;

	printf("#   longest call %lu us (cpu %lu, ready %lu, asleep %lu); longest asleep "
	       "%lu us of %lu; longest on the CPU %lu us; over 100 us: %lu calls, asleep "
	       "%lu; near the bound %lu; refused %lu\n",
	       held->all / 1000, held->cpu / 1000, held->ready / 1000,
	       held->asleep / 1000, asleep->asleep / 1000, asleep->all / 1000,
	       adder->longest_cpu / 1000, adder->over_100us, adder->asleep_over_100us,
	       adder->near, adder->refused);
}

/* A page of pointers, or 1/64 of the bound, for each adder: as batch.h says. */
static int64_t allowed(const struct flood *flood)
{
	int64_t object = (int64_t)flood->object;
	int64_t part = flood->bound / 64, page = POINTERS * object;

	return flood->bound + ADDERS * (part < page ? part : page) +
	       ADDERS * AT_ONCE * object;
}

static atomic_bool enough;

static void *hold_up(void *arg)
{
	urcu_memb_flavor.register_thread();
	while (!atomic_load(&enough)) {
		uint64_t until = tdi_sys_now_ns() + 1000000;

		urcu_memb_flavor.read_lock();
		while (tdi_sys_now_ns() < until)
			sched_yield();
		urcu_memb_flavor.read_unlock();
	}
	urcu_memb_flavor.unregister_thread();
	return arg;
}

static void run_adders(struct adder *adders, const struct flood *flood)
{
	pthread_t reader;

	if (flood->readers)
		ck_assert_int_eq(pthread_create(&reader, NULL, hold_up, NULL), 0);
	for (int i = 0; i < ADDERS; i++) {
		adders[i] = (struct adder){.flood = flood};
		if (!flood->heap)
			adders[i].nodes = calloc(OBJECTS, sizeof(struct td_batch_node));
	}
	for (int i = 0; i < ADDERS; i++)
		ck_assert_int_eq(
			pthread_create(&adders[i].thread, NULL, add_all, &adders[i]), 0);
	for (int i = 0; i < ADDERS; i++)
		pthread_join(adders[i].thread, NULL);
	atomic_store(&enough, true);
	if (flood->readers)
		pthread_join(reader, NULL);
}

static void keeps_bound(const struct flood *flood)
{
	unsigned long added = (unsigned long)ADDERS * objects_of(flood), served;
	struct adder adders[ADDERS];
	struct td_batch_stats stats;
	uint64_t start, periods;
	int64_t most;

	ck_assert_int_eq(
		td_batch_create(engine,
				TD_BATCH_OPTS(.flags = flood->flags,
					      .max_bytes = (uint64_t)flood->bound,
					      .free_bulk = free_counted,
					      .ctx = (void *)(uintptr_t)flood),
				&batch),
		0);
	periods = engine_stats().grace_periods;
	start = tdi_sys_now_ns();
	run_adders(adders, flood);
	start = tdi_sys_now_ns() - start;
	ck_assert_int_eq(td_batch_barrier(batch, TD_FOREVER), 0);
	served = added / (engine_stats().grace_periods - periods);
	stats = batch_stats();
	printf("# bound %ld KiB, peak %ld KiB; %lu ns an object; %lu objects a grace "
	       "period; %lu helped, %lu waits, past the bound %lu\n",
	       flood->bound / 1024, atomic_load(&peak) / 1024, start / objects_of(flood),
	       served, stats.objects_helped, stats.waits, stats.passed_bound);
	for (int i = 0; i < ADDERS; i++) {
		if (flood->watched)
			report(&adders[i]);
		free(adders[i].nodes);
	}
	fflush(stdout);
	most = atomic_load(&peak);
	ck_assert_int_eq(atomic_load(&unfreed), 0);
	ck_assert_uint_eq(atomic_load(&freed), added);
	ck_assert_int_le(most, allowed(flood));
	/* Where nothing but adding and freeing goes on, at full speed. */
	if (flood->counts && !TDT_SANITIZED)
		ck_assert_uint_ge(served, 1000);
	ck_assert_int_eq(td_batch_destroy(batch, 0), 0);
}

START_TEST(a_flood_stays_below_its_bound_with_help)
{
	keeps_bound(&(struct flood){
		.flags = TD_BATCH_HELP, .bound = 16 * MIB, .object = 64, .counts = true});
}
END_TEST

START_TEST(a_flood_stays_below_its_bound_without_help)
{
	keeps_bound(&(struct flood){.flags = TD_BATCH_NO_HELP,
				    .bound = 16 * MIB,
				    .object = 64,
				    .counts = true});
}
END_TEST

START_TEST(a_flood_stays_below_its_bound_beside_readers)
{
	keeps_bound(&(struct flood){.flags = TD_BATCH_HELP,
				    .bound = 16 * MIB,
				    .readers = true,
				    .object = 64});
}
END_TEST

START_TEST(a_flood_stays_below_its_bound_beside_readers_without_help)
{
	keeps_bound(&(struct flood){.flags = TD_BATCH_NO_HELP,
				    .bound = 16 * MIB,
				    .readers = true,
				    .object = 64});
}
END_TEST

START_TEST(a_flood_of_plain_pointers_stays_below_its_bound)
{
	keeps_bound(&(struct flood){
		.flags = TD_BATCH_HELP, .bound = 16 * MIB, .plain = true, .object = 64});
}
END_TEST

START_TEST(a_flood_from_the_heap_stays_below_its_bound)
{
	keeps_bound(&(struct flood){
		.flags = TD_BATCH_HELP, .bound = 16 * MIB, .heap = true, .object = 64});
}
END_TEST

START_TEST(a_flood_of_large_objects_stays_below_its_bound)
{
	keeps_bound(&(struct flood){
		.flags = TD_BATCH_HELP, .bound = 16 * MIB, .object = 4096});
}
END_TEST

START_TEST(a_flood_stays_below_a_small_bound)
{
	keeps_bound(
		&(struct flood){.flags = TD_BATCH_HELP, .bound = 1 * MIB, .object = 64});
}
END_TEST

START_TEST(a_flood_holds_nobody_for_long_with_help)
{
	keeps_bound(&(struct flood){.flags = TD_BATCH_HELP,
				    .bound = 16 * MIB,
				    .readers = true,
				    .watched = true,
				    .object = 64});
}
END_TEST

START_TEST(a_flood_holds_nobody_for_long_without_help)
{
	keeps_bound(&(struct flood){.flags = TD_BATCH_NO_HELP,
				    .bound = 16 * MIB,
				    .readers = true,
				    .watched = true,
				    .object = 64});
}
END_TEST

static void setup(void)
{
	ck_assert_int_eq(td_engine_create(TD_ENGINE_OPTS(.reapers = 1), &engine), 0);
}

static void teardown(void)
{
	ck_assert_int_eq(td_engine_destroy(engine, TD_EXIT_DRAIN, 0), 0);
}

int main(void)
{
	struct tdt *tests = tdt_suite("stress_batch");

	tdt_add(tests, a_flood_stays_below_its_bound_with_help, setup, teardown);
	tdt_add(tests, a_flood_stays_below_its_bound_without_help, setup, teardown);
	tdt_add(tests, a_flood_stays_below_its_bound_beside_readers, setup, teardown);
	tdt_add(tests, a_flood_stays_below_its_bound_beside_readers_without_help, setup,
		teardown);
	tdt_add(tests, a_flood_of_plain_pointers_stays_below_its_bound, setup, teardown);
	tdt_add(tests, a_flood_from_the_heap_stays_below_its_bound, setup, teardown);
	tdt_add(tests, a_flood_of_large_objects_stays_below_its_bound, setup, teardown);
	tdt_add(tests, a_flood_stays_below_a_small_bound, setup, teardown);
	tdt_add(tests, a_flood_holds_nobody_for_long_with_help, setup, teardown);
	tdt_add(tests, a_flood_holds_nobody_for_long_without_help, setup, teardown);
	return tdt_run(tests);
}
