/* SPDX-License-Identifier: MIT */
/*
 * What another thread notices of memory being freed: the latency of its own little
 * mmap, touch, munmap, from the call that frees until the memory is back.
 */
#include "kinds.h"
#include "prober.h"

#include <stdio.h>
#include <time.h>

/* WORST_AT: how far the freeing had come in time when the worst probe ended, in percent
 */
enum {
	PROBES_PER_S,
	P50_US,
	P99_US,
	P999_US,
	WORST_US,
	WORST_AT,
	FREED_MS,
	STEAL_MS,
	PROBES,
	WAIT_P50_US, /* of the curve, as the next ones */
	WAIT_P90_US,
	WAIT_P99_US,
	WAIT_P999_US,
	WAIT_P9999_US,
	HANDED, /* how much of it the reapers freed, in percent */
	NR_VALUES
};
_Static_assert(NR_VALUES <= BENCH_VALUES_MAX, "no room for the values");

enum {
	MUNMAP,
	IDLE,
	THREAD,
	CHUNKS,
	THREAD_CHUNKS,
	TD_MUNMAP,
	TD_SPACE_PUT,
	NR_SUBJECTS
};

/* The points of the curve: all but so many of a million who come wait no longer. */
static const struct {
	const char *name;
	unsigned value, others;
} curve[] = {
	{"p50_us", WAIT_P50_US, 500000},  {"p90_us", WAIT_P90_US, 100000},
	{"p99_us", WAIT_P99_US, 10000},	  {"p999_us", WAIT_P999_US, 1000},
	{"p9999_us", WAIT_P9999_US, 100},
};
#define NR_POINTS (sizeof(curve) / sizeof(curve[0]))

/* ---- the ways to free ---- */

/* Has the memory, and returns what free() then takes. free() returns when it is back. */
struct way {
	void *(*map)(const struct bench_subject *subject, size_t size);
	void (*free)(const struct bench_subject *subject, void *memory);
	void (*after)(void *memory); /* when the probing is over; NULL = nothing */
};

static struct bench_memory plain; /* of the sample being taken */

static void *map_plain(const struct bench_subject *subject, size_t size)
{
	(void)subject;
	bench_memory_map(&bench_kinds[BENCH_ANON4K], size, &plain);
	bench_memory_touch(&plain);
	return &plain;
}

static uint64_t munmap_ns; /* how long the last munmap took: so long does idle last */

static void free_munmap(const struct bench_subject *subject, void *memory)
{
	uint64_t began = bench_now_ns();

	(void)subject;
	bench_memory_unmap(memory);
	munmap_ns = bench_now_ns() - began;
}

static void free_not(const struct bench_subject *subject, void *memory)
{
	struct timespec time = {(time_t)(munmap_ns / 1000000000u),
				(long)(munmap_ns % 1000000000u)};

	(void)subject;
	(void)memory;
	bench_must(-clock_nanosleep(CLOCK_MONOTONIC, 0, &time, NULL), "clock_nanosleep");
}

static void free_thread(const struct bench_subject *subject, void *memory)
{
	bench_freer_hand(subject->freer, bench_memory_unmap, memory);
	(void)bench_freer_await(subject->freer);
}

static void free_chunks(const struct bench_subject *subject, void *memory)
{
	(void)subject;
	bench_memory_unmap_chunks(memory);
}

/* What one does who minds both: the caller goes on, and others wait for a chunk. */
static void free_thread_chunks(const struct bench_subject *subject, void *memory)
{
	bench_freer_hand(subject->freer, bench_memory_unmap_chunks, memory);
	(void)bench_freer_await(subject->freer);
}

static void free_td_munmap(const struct bench_subject *subject, void *memory)
{
	const struct bench_memory *mapped = memory;

	bench_must(td_engine_munmap(subject->engine, mapped->start, mapped->size, 0),
		   "td_engine_munmap");
	bench_drain(subject->engine);
}

static void *map_space(const struct bench_subject *subject, size_t size)
{
	return bench_map_space(subject->engine, size);
}

static void free_td_space(const struct bench_subject *subject, void *memory)
{
	(void)subject;
	bench_must(td_space_put(memory), "td_space_put");
	(void)bench_await(memory);
}

static const struct way ways[NR_SUBJECTS] = {
	[MUNMAP] = {map_plain, free_munmap, NULL},
	[IDLE] = {map_plain, free_not, bench_memory_unmap},
	[THREAD] = {map_plain, free_thread, NULL},
	[CHUNKS] = {map_plain, free_chunks, NULL},
	[THREAD_CHUNKS] = {map_plain, free_thread_chunks, NULL},
	[TD_MUNMAP] = {map_plain, free_td_munmap, NULL},
	[TD_SPACE_PUT] = {map_space, free_td_space, NULL},
};

static void sample(const struct bench_subject *self, size_t size, double *values)
{
	static struct bench_prober prober;
	const struct way *way = self->arg;
	void *memory = way->map(self, size);
	uint64_t began, ended, stolen, before = bench_reclaimed(self->engine);

	bench_prober_start(&prober);
	stolen = bench_stolen_ms();
	began = bench_now_ns();
	bench_prober_begin(&prober, began);
	way->free(self, memory);
	ended = bench_now_ns();
	bench_prober_stop(&prober, ended);
	values[STEAL_MS] = (double)(bench_stolen_ms() - stolen);
	values[HANDED] =
		(double)(bench_reclaimed(self->engine) - before) * 100 / (double)size;
	if (way->after)
		way->after(memory);
	values[PROBES_PER_S] =
		(double)prober.histogram.total * 1e9 / (double)(ended - began);
	values[P50_US] = bench_percentile_us(&prober.histogram, 500);
	values[P99_US] = bench_percentile_us(&prober.histogram, 990);
	values[P999_US] = bench_percentile_us(&prober.histogram, 999);
	values[WORST_US] = (double)prober.histogram.worst / 1e3;
	values[WORST_AT] = ((double)prober.histogram.worst_ended - (double)began) * 100 /
			   (double)(ended - began);
	values[FREED_MS] = (double)(ended - began) / 1e6;
	values[PROBES] = (double)prober.histogram.total;
	for (size_t i = 0; i < NR_POINTS; i++)
		values[curve[i].value] =
			bench_wait_us(&prober.histogram, curve[i].others);
}

/* ---- */

static void print_subject(const struct bench_subject *subject, size_t size)
{
	struct bench_summary steal = bench_summarize(&subject->series[STEAL_MS]);

	bench_print_line("stall", subject->name, "anon4k", size);
	printf(" probes_per_s=%.0f p50_us=%.2f p99_us=%.2f p999_us=%.2f",
	       bench_median(subject, PROBES_PER_S), bench_median(subject, P50_US),
	       bench_median(subject, P99_US), bench_median(subject, P999_US));
	bench_print_range("worst_us", subject, WORST_US);
	printf(" worst_at_percent=%.0f freed_ms=%.2f steal_ms=%.0f steal_ms_max=%.0f",
	       bench_median(subject, WORST_AT), bench_median(subject, FREED_MS),
	       steal.median, steal.max);
	if (subject->arg == &ways[TD_MUNMAP] || subject->arg == &ways[TD_SPACE_PUT])
		printf(" handed_percent=%.0f",
		       bench_summarize(&subject->series[HANDED]).min);
	printf(" repeat=%u\n", subject->series[WORST_US].n);
}

static void print_curve(const struct bench_subject *subject, size_t size)
{
	bench_print_line("stall_curve", subject->name, "anon4k", size);
	for (size_t i = 0; i < NR_POINTS; i++)
		printf(" %s=%.2f", curve[i].name, bench_median(subject, curve[i].value));
	printf(" worst_us=%.2f probes=%.0f repeat=%u\n", bench_median(subject, WORST_US),
	       bench_median(subject, PROBES), subject->series[PROBES].n);
}

static double ratio(const struct bench_subject *a, const struct bench_subject *b,
		    unsigned value)
{
	return bench_median(a, value) / bench_median(b, value);
}

static void run(const struct bench_opts *opts)
{
	static struct bench_subject subjects[NR_SUBJECTS] = {
		[MUNMAP] = {.name = "munmap", .sample = sample},
		[IDLE] = {.name = "idle", .sample = sample},
		[THREAD] = {.name = "thread", .sample = sample},
		[CHUNKS] = {.name = "chunks", .sample = sample},
		[THREAD_CHUNKS] = {.name = "thread_chunks", .sample = sample},
		[TD_MUNMAP] = {.name = "td_munmap", .sample = sample},
		[TD_SPACE_PUT] = {.name = "td_space_put", .sample = sample},
	};
	size_t size = bench_fitting("stall", 8 * BENCH_GIB, opts);
	td_engine *engine = bench_engine(1);
	struct bench_freer *freer = bench_freer_start();

	puts("# another thread's mmap, touch, munmap of 64 KiB while size is freed. "
	     "Where "
	     "steal_ms is not 0\n"
	     "# the host took CPUs away, and the worst may be its doing. idle: nothing "
	     "is "
	     "freed, for as long as munmap takes.\n"
	     "# stall_curve: how long one waits who comes at any moment while memory is "
	     "given back: percentiles\n"
	     "# of the time, not of the probes, of which a long stall is but one. "
	     "chunks: MADV_DONTNEED of\n"
	     "# 4 MiB at a time, then munmap; thread_chunks: the same by a thread. "
	     "worst_us: the median of each\n"
	     "# round's worst, worst_us_max the worst of all; handed_percent: what the "
	     "reapers freed, in the worst round");
	for (unsigned i = 0; i < NR_SUBJECTS; i++) {
		subjects[i].engine = engine;
		subjects[i].freer = freer;
		subjects[i].arg = &ways[i];
	}
	bench_rounds(subjects, NR_SUBJECTS, size, opts->repeat);
	for (unsigned i = 0; i < NR_SUBJECTS; i++)
		print_subject(&subjects[i], size);
	for (unsigned i = 0; i < NR_SUBJECTS; i++)
		print_curve(&subjects[i], size);
	printf("summary bench=stall size=%zu worst_munmap_over_td_munmap=%.1f "
	       "worst_munmap_over_td_space_put=%.1f\n",
	       size, ratio(&subjects[MUNMAP], &subjects[TD_MUNMAP], WORST_US),
	       ratio(&subjects[MUNMAP], &subjects[TD_SPACE_PUT], WORST_US));
	printf("summary bench=stall size=%zu", size);
	for (unsigned i = 0; i < NR_SUBJECTS; i++) {
		if (i != IDLE)
			printf(" probes_%s_over_idle=%.3f", subjects[i].name,
			       ratio(&subjects[i], &subjects[IDLE], PROBES_PER_S));
	}
	printf("\n");
	bench_freer_stop(freer);
	bench_engine_done(engine);
}

const struct bench_scenario bench_stall = {
	.name = "stall",
	.what = "what another thread notices of memory being freed (8 GiB or what fits)",
	.run = run,
};
