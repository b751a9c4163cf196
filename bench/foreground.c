/* SPDX-License-Identifier: MIT */
/*
 * What a program loses that computes on every CPU while memory is freed: its work from
 * the call that frees until the memory is back, relative to what it does just before.
 */
#include "common.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

enum { WORK_PERCENT, BACK_MS, HELD_US, NR_VALUES };
_Static_assert(NR_VALUES <= BENCH_VALUES_MAX, "no room for the values");

enum { NOTHING, THREAD, TD_OTHER, TD_BATCH, TD_IDLE, NR_SUBJECTS };

#define WORKERS_MAX 1024u
#define BEFORE_NS UINT64_C(1000000000)
#define TRIAL_SIZE ((size_t)16 << 20) /* below, nothing is measured but that it works */

/* ---- the foreground: a thread on each CPU that we may use ---- */

static struct worker {
	_Alignas(64) _Atomic(uint64_t) done;
	pthread_t thread;
	unsigned cpu;
} workers[WORKERS_MAX];
static unsigned nr_workers;
static _Atomic(bool) stop;

static void *compute(void *arg)
{
	struct worker *worker = arg;
	uint64_t value = worker->cpu + 1, done = 0;
	cpu_set_t here;

	CPU_ZERO(&here);
	CPU_SET(worker->cpu, &here);
	bench_must(-pthread_setaffinity_np(pthread_self(), sizeof(here), &here),
		   "pthread_setaffinity_np");
	while (!atomic_load_explicit(&stop, memory_order_relaxed)) {
		for (unsigned i = 0; i < 1000; i++) {
			value ^= value << 13;
			value ^= value >> 7;
			value ^= value << 17;
		}
		/* Never 0; but the compiler does not know. */
		done += value != 0;
		atomic_store_explicit(&worker->done, done, memory_order_relaxed);
	}
	return NULL;
}

static void start_workers(void)
{
	cpu_set_t ours;

	bench_must(sched_getaffinity(0, sizeof(ours), &ours) ? -1 : 0,
		   "sched_getaffinity");
	nr_workers = 0;
	atomic_store(&stop, false);
	for (unsigned cpu = 0; cpu < CPU_SETSIZE && nr_workers < WORKERS_MAX; cpu++) {
		struct worker *worker = &workers[nr_workers];

		if (!CPU_ISSET(cpu, &ours))
			continue;
		nr_workers++;
		worker->cpu = cpu;
		atomic_store(&worker->done, 0);
		bench_must(-pthread_create(&worker->thread, NULL, compute, worker),
			   "pthread_create");
	}
}

static void stop_workers(void)
{
	atomic_store(&stop, true);
	for (unsigned i = 0; i < nr_workers; i++)
		bench_must(-pthread_join(workers[i].thread, NULL), "pthread_join");
}

static uint64_t work_done(void)
{
	uint64_t done = 0;

	for (unsigned i = 0; i < nr_workers; i++)
		done += atomic_load_explicit(&workers[i].done, memory_order_relaxed);
	return done;
}

static void pause_for(uint64_t ns)
{
	struct timespec time = {(time_t)(ns / 1000000000u), (long)(ns % 1000000000u)};

	bench_must(-clock_nanosleep(CLOCK_MONOTONIC, 0, &time, NULL), "clock_nanosleep");
}

/* ---- */

struct plain {
	void *start;
	size_t size;
};

static void free_plain(void *arg)
{
	struct plain *plain = arg;

	bench_munmap(plain->start, plain->size);
}

/* Work per second, since then. */
static double rate(uint64_t since_ns, uint64_t done_then)
{
	uint64_t done = work_done() - done_then;

	return (double)done * 1e9 / (double)(bench_now_ns() - since_ns);
}

static void sample(const struct bench_subject *self, size_t size, double *values)
{
	uint64_t began, done, held = 0;
	struct plain plain = {.size = size};
	td_space *space = NULL;
	uint64_t window = size < TRIAL_SIZE ? BEFORE_NS / 20 : BEFORE_NS;
	double before;

	if (self->engine)
		space = bench_map_space(self->engine, size);
	else if (self->freer)
		plain.start = bench_map_plain(size);
	start_workers();
	pause_for(window / 5);
	began = bench_now_ns();
	done = work_done();
	pause_for(window);
	before = rate(began, done);

	began = bench_now_ns();
	done = work_done();
	if (space)
		bench_must(td_space_put(space), "td_space_put");
	else if (plain.start)
		bench_freer_hand(self->freer, free_plain, &plain);
	held = bench_now_ns() - began;
	if (space)
		(void)bench_await(space);
	else if (plain.start)
		(void)bench_freer_await(self->freer);
	else
		pause_for(window);
	values[WORK_PERCENT] = rate(began, done) * 100 / before;
	values[BACK_MS] = (double)(bench_now_ns() - began) / 1e6;
	values[HELD_US] = (double)held / 1e3;
	stop_workers();
}

static td_engine *engine_with(enum td_sched sched)
{
	td_engine *engine;

	bench_must(td_engine_create(
			   TD_ENGINE_OPTS(.reapers = 1, .sched = sched, .name = "bench"),
			   &engine),
		   "td_engine_create");
	return engine;
}

static void run(const struct bench_opts *opts)
{
	static struct bench_subject subjects[NR_SUBJECTS] = {
		[NOTHING] = {.name = "nothing", .sample = sample},
		[THREAD] = {.name = "thread", .sample = sample},
		[TD_OTHER] = {.name = "td-other", .sample = sample},
		[TD_BATCH] = {.name = "td-batch", .sample = sample},
		[TD_IDLE] = {.name = "td-idle", .sample = sample},
	};
	size_t size = bench_fitting("foreground", BENCH_GIB, opts);

	puts("# a thread computes on each CPU while size is freed by one thread more; "
	     "work_percent: of\n"
	     "# what it does in the second before. nothing: nothing is freed, for a "
	     "second. thread: one\n"
	     "# that calls munmap");
	subjects[THREAD].freer = bench_freer_start();
	subjects[TD_OTHER].engine = engine_with(TD_SCHED_OTHER);
	subjects[TD_BATCH].engine = engine_with(TD_SCHED_BATCH);
	subjects[TD_IDLE].engine = engine_with(TD_SCHED_IDLE);
	/* Each is preceded by a second of computing: nothing is left to warm up. */
	bench_rounds_warm(subjects, NR_SUBJECTS, size, opts->repeat);
	for (unsigned i = 0; i < NR_SUBJECTS; i++) {
		bench_print_line("foreground", subjects[i].name, "anon4k", size);
		bench_print_range("work_percent", &subjects[i], WORK_PERCENT);
		bench_print_range("back_ms", &subjects[i], BACK_MS);
		printf(" held_us=%.1f cpus=%u repeat=%u\n",
		       bench_median(&subjects[i], HELD_US), nr_workers,
		       subjects[i].series[WORK_PERCENT].n);
		if (subjects[i].engine)
			bench_engine_done(subjects[i].engine);
	}
	printf("summary bench=foreground size=%zu lost_percent_with_td_idle=%.2f\n", size,
	       bench_median(&subjects[NOTHING], WORK_PERCENT) -
		       bench_median(&subjects[TD_IDLE], WORK_PERCENT));
	bench_freer_stop(subjects[THREAD].freer);
}

const struct bench_scenario bench_foreground = {
	.name = "foreground",
	.what = "what a program that computes on every CPU loses meanwhile (1 GiB)",
	.run = run,
};
