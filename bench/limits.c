/* SPDX-License-Identifier: MIT */
/*
 * What the machine allows, whatever a library does: how fast bare threads give memory
 * back, what moving it costs, a store, a count that threads share, waking a thread, and a
 * grace period. The other scenarios are to be read beside it.
 */
#include "bare.h"
#include "pieces.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

#include <urcu/urcu-memb.h>

enum { VALUE, WOKEN_US };

#define THREADS_MAX 64u

static unsigned all_cpus(void)
{
	unsigned cpus = bench_cpus();

	return cpus < THREADS_MAX ? cpus : THREADS_MAX;
}

/* ---- memory ---- */

static void sample_madvise(const struct bench_subject *self, size_t size, double *values)
{
	values[VALUE] = bench_bare_rate(size, *(const unsigned *)self->arg);
}

static void sample_mremap(const struct bench_subject *self, size_t size, double *values)
{
	static struct bench_pieces pieces;
	struct bench_place place;
	uint64_t began;

	(void)self;
	/* Filling takes long: a call just before it has the way warm, as elsewhere. */
	for (unsigned filled = 0; filled < 2; filled++) {
		bench_pieces_map(&bench_kinds[BENCH_ANON4K], size, 1, filled, &pieces);
		bench_place_reserve(&pieces, &place);
		if (filled)
			break;
		bench_place_move(&place, &pieces, 0);
		bench_place_unmap(&place);
	}
	began = bench_now_ns();
	bench_place_move(&place, &pieces, 0);
	values[VALUE] = (double)(bench_now_ns() - began) / 1e3;
	bench_place_unmap(&place);
}

/* ---- stores and counts: pairs of them, as taking and giving back a reference ---- */

#define STORE_PAIRS 50000000u
#define ATOMIC_PAIRS 5000000u

static struct {
	_Alignas(128) _Atomic(uint32_t) count;
	_Alignas(128) char end;
} shared;

struct counter {
	pthread_t thread;
	pthread_barrier_t *begin;
	unsigned number;
	uint64_t took_ns;
};

static uint64_t thread_ns(void)
{
	struct timespec time;

	bench_must(clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time) ? -errno : 0,
		   "clock_gettime");
	return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

static void sample_store(const struct bench_subject *self, size_t size, double *values)
{
	static _Alignas(128) _Atomic(const void *) own;
	uint64_t began = thread_ns();

	(void)size;
	for (unsigned i = 0; i < STORE_PAIRS; i++) {
		atomic_store_explicit(&own, self, memory_order_relaxed);
		__asm__ volatile("" ::: "memory");
		atomic_store_explicit(&own, NULL, memory_order_relaxed);
		__asm__ volatile("" ::: "memory");
	}
	values[VALUE] = (double)(thread_ns() - began) / STORE_PAIRS;
}

/* On a CPU of its own: two on one would not compete. */
static void stay_on(unsigned number)
{
	cpu_set_t ours, one;
	unsigned cpu = 0;

	bench_must(sched_getaffinity(0, sizeof(ours), &ours) ? -errno : 0,
		   "sched_getaffinity");
	for (; !CPU_ISSET(cpu, &ours) || number > 0; cpu++)
		number -= CPU_ISSET(cpu, &ours) != 0;
	CPU_ZERO(&one);
	CPU_SET(cpu, &one);
	bench_must(sched_setaffinity(0, sizeof(one), &one) ? -errno : 0,
		   "sched_setaffinity");
}

static void *count_on(void *arg)
{
	struct counter *counter = arg;
	uint64_t began;

	stay_on(counter->number);
	pthread_barrier_wait(counter->begin);
	began = thread_ns();
	for (unsigned i = 0; i < ATOMIC_PAIRS; i++) {
		atomic_fetch_add_explicit(&shared.count, 1, memory_order_relaxed);
		atomic_fetch_sub_explicit(&shared.count, 1, memory_order_release);
	}
	counter->took_ns = thread_ns() - began;
	return NULL;
}

static void sample_atomic(const struct bench_subject *self, size_t size, double *values)
{
	unsigned threads = *(const unsigned *)self->arg;
	struct counter counters[THREADS_MAX];
	pthread_barrier_t begin;
	double sum = 0;

	(void)size;
	bench_must(-pthread_barrier_init(&begin, NULL, threads), "pthread_barrier_init");
	for (unsigned i = 0; i < threads; i++) {
		counters[i] = (struct counter){.begin = &begin, .number = i};
		bench_must(-pthread_create(&counters[i].thread, NULL, count_on,
					   &counters[i]),
			   "pthread_create");
	}
	for (unsigned i = 0; i < threads; i++) {
		bench_must(-pthread_join(counters[i].thread, NULL), "pthread_join");
		sum += (double)counters[i].took_ns;
	}
	bench_must(-pthread_barrier_destroy(&begin), "pthread_barrier_destroy");
	values[VALUE] = sum / threads / ATOMIC_PAIRS;
}

/* ---- other threads ---- */

#define TIMES 100u /* in a sample; the median counts */
#define ASLEEP_US 1000u

static void note_time(void *arg)
{
	*(uint64_t *)arg = bench_now_ns();
}

/* What any hand-over to a thread that sleeps costs at the least: a wake by futex(2). */
static void sample_wake(const struct bench_subject *self, size_t size, double *values)
{
	static struct bench_series caller, woken;

	(void)size;
	for (caller.n = woken.n = 0; caller.n < TIMES;) {
		uint64_t began, returned, ran;

		bench_must(usleep(ASLEEP_US) ? -errno : 0, "usleep");
		began = bench_now_ns();
		bench_freer_hand(self->freer, note_time, &ran);
		returned = bench_now_ns();
		(void)bench_freer_await(self->freer);
		caller.values[caller.n++] = (double)(returned - began) / 1e3;
		woken.values[woken.n++] = (double)(ran - began) / 1e3;
	}
	values[VALUE] = bench_summarize(&caller).median;
	values[WOKEN_US] = bench_summarize(&woken).median;
}

/* Nobody reads: else it takes as long as they do. One thread is registered, or there
 * would be nothing to wait for. */
static void sample_grace(const struct bench_subject *self, size_t size, double *values)
{
	static struct bench_series periods;

	(void)self;
	(void)size;
	urcu_memb_register_thread();
	for (periods.n = 0; periods.n < TIMES;) {
		uint64_t began = bench_now_ns();

		urcu_memb_synchronize_rcu();
		periods.values[periods.n++] = (double)(bench_now_ns() - began) / 1e3;
	}
	urcu_memb_unregister_thread();
	values[VALUE] = bench_summarize(&periods).median;
}

/* ---- */

static void run_memory(const struct bench_opts *opts, unsigned cpus)
{
	static struct bench_subject madvise = {.sample = sample_madvise},
				    mremap = {.name = "mremap", .sample = sample_mremap};
	size_t size = bench_fitting("limits", 4 * BENCH_GIB, opts);
	char name[32];

	snprintf(name, sizeof(name), "madvise_%u", cpus);
	madvise.name = name;
	madvise.arg = &cpus;
	bench_rounds(&madvise, 1, size, opts->repeat);
	bench_print_line("limits", name, "anon4k", size);
	printf(" threads=%u", cpus);
	bench_print_range("gib_per_s", &madvise, VALUE);
	printf(" repeat=%u\n", opts->repeat);
	for (size_t moved = BENCH_GIB; moved <= size; moved *= 4) {
		bench_rounds(&mremap, 1, moved, opts->repeat);
		bench_print_line("limits", "mremap", "anon4k", moved);
		bench_print_range("caller_us", &mremap, VALUE);
		printf(" repeat=%u\n", opts->repeat);
	}
}

enum { STORE, ATOMIC_1, ATOMIC_ALL, WAKE, GRACE, NR_SUBJECTS };

static void run_threads(const struct bench_opts *opts, unsigned cpus)
{
	static struct bench_subject subjects[NR_SUBJECTS] = {
		[STORE] = {.name = "store", .sample = sample_store},
		[ATOMIC_1] = {.name = "atomic", .sample = sample_atomic},
		[ATOMIC_ALL] = {.name = "atomic", .sample = sample_atomic},
		[WAKE] = {.name = "wake", .sample = sample_wake},
		[GRACE] = {.name = "grace_period", .sample = sample_grace},
	};
	static const char *const units[NR_SUBJECTS] = {
		"pair_ns", "pair_ns", "pair_ns", "caller_us", "period_us",
	};
	const unsigned threads[NR_SUBJECTS] = {1, 1, cpus, 1, 1};
	struct bench_freer *freer = bench_freer_start();

	for (unsigned i = 0; i < NR_SUBJECTS; i++) {
		subjects[i].arg = &threads[i];
		subjects[i].freer = freer;
	}
	bench_rounds(subjects, NR_SUBJECTS, 0, opts->repeat);
	for (unsigned i = 0; i < NR_SUBJECTS; i++) {
		printf("bench=limits subject=%s threads=%u", subjects[i].name,
		       threads[i]);
		bench_print_range(units[i], &subjects[i], VALUE);
		if (i == WAKE)
			bench_print_range("woken_us", &subjects[i], WOKEN_US);
		printf(" repeat=%u\n", opts->repeat);
	}
	bench_freer_stop(freer);
}

static void run(const struct bench_opts *opts)
{
	unsigned cpus = all_cpus();

	puts("# madvise: bare threads with MADV_DONTNEED, then munmap; mremap: one bare "
	     "call, to a place reserved\n"
	     "# beforehand; store, atomic: two, as taking and giving back a reference; "
	     "wake: of a thread that sleeps,\n"
	     "# woken_us: until it runs; grace_period: liburcu-memb's, without readers");
	run_threads(opts, cpus);
	run_memory(opts, cpus);
}

const struct bench_scenario bench_limits = {
	.name = "limits",
	.what = "what the machine allows: bare madvise, mremap, store, wake (4 GiB)",
	.run = run,
};
