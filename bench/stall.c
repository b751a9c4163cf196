/* SPDX-License-Identifier: MIT */
/*
 * What another thread notices of memory being freed: the latency of its own little
 * mmap, touch, munmap, from the call that frees until the memory is back.
 */
#include "kinds.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

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
	NR_VALUES
};
_Static_assert(NR_VALUES <= BENCH_VALUES_MAX, "no room for the values");

enum { MUNMAP, IDLE, THREAD, TD_MUNMAP, TD_SPACE_PUT, NR_SUBJECTS };

/* ---- latencies, counted by size class: 32 for each power of two ---- */

#define CLASS_BITS 5u
#define CLASSES (64u << CLASS_BITS)

struct histogram {
	uint32_t count[CLASSES];
	uint64_t total, worst, worst_ended;
};

static unsigned class_of(uint64_t ns)
{
	unsigned shift;

	if (ns < 1u << CLASS_BITS)
		return (unsigned)ns;
	shift = 63u - (unsigned)__builtin_clzll(ns) - CLASS_BITS;
	return (shift << CLASS_BITS) + (unsigned)(ns >> shift);
}

/* The middle of a class, which is 3 % wide. */
static double value_of(unsigned class)
{
	unsigned shift = class >> CLASS_BITS;

	if (shift < 2)
		return class;
	shift--;
	return ((double)(class - (shift << CLASS_BITS)) + 0.5) * (double)(1ull << shift);
}

static void histogram_add(struct histogram *histogram, uint64_t began, uint64_t ended)
{
	uint64_t ns = ended - began;

	histogram->count[class_of(ns)]++;
	histogram->total++;
	if (ns > histogram->worst) {
		histogram->worst = ns;
		histogram->worst_ended = ended;
	}
}

/* The latency that so many of a thousand probes do not exceed. */
static double percentile_us(const struct histogram *histogram, unsigned per_mille)
{
	uint64_t rank = (histogram->total * per_mille + 999) / 1000, seen = 0;

	for (unsigned i = 0; i < CLASSES; i++) {
		seen += histogram->count[i];
		if (seen > 0 && seen >= rank)
			return value_of(i) / 1e3;
	}
	return 0;
}

/* ---- the other thread ---- */

struct prober {
	pthread_t thread;
	_Atomic(uint64_t) probes;
	_Atomic(uint64_t) from_ns, until_ns; /* what counts; 0 = not yet known */
	struct histogram histogram;
};

static void probe(void)
{
	const size_t size = 64 << 10;
	volatile char *start = mmap(NULL, size, PROT_READ | PROT_WRITE,
				    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	bench_must(start == MAP_FAILED ? -errno : 0, "the other thread: mmap");
	start[0] = 1;
	start[size - 1] = 1;
	bench_munmap((void *)start, size);
}

/* A probe counts from when the freeing began, and to its own end if it began before the
 * freeing ended: it may have been held to the last. */
static void *probe_on(void *arg)
{
	struct prober *prober = arg;
	uint64_t until = 0;

	while (!until) {
		uint64_t began = bench_now_ns(), ended, from;

		probe();
		ended = bench_now_ns();
		from = atomic_load(&prober->from_ns);
		until = atomic_load(&prober->until_ns);
		if (began < from)
			began = from;
		if (from && ended > began && (!until || began < until))
			histogram_add(&prober->histogram, began, ended);
		atomic_fetch_add(&prober->probes, 1);
	}
	return NULL;
}

static void prober_start(struct prober *prober)
{
	memset(prober, 0, sizeof(*prober)); /* touches the histogram, too */
	bench_must(-pthread_create(&prober->thread, NULL, probe_on, prober),
		   "pthread_create");
	while (atomic_load(&prober->probes) < 1000) /* it has settled in */
		bench_must(usleep(1000) ? -errno : 0, "usleep");
}

static void prober_stop(struct prober *prober, uint64_t until_ns)
{
	atomic_store(&prober->until_ns, until_ns);
	bench_must(-pthread_join(prober->thread, NULL), "pthread_join");
}

/* In a virtual machine: how long the host has kept our CPUs from us, as it admits. */
static uint64_t stolen_ms(void)
{
	FILE *stat = fopen("/proc/stat", "re");
	uint64_t ticks = 0;

	if (!stat)
		return 0;
	if (fscanf(stat, "cpu %*u %*u %*u %*u %*u %*u %*u %" SCNu64, &ticks) != 1)
		ticks = 0;
	fclose(stat);
	return ticks * 1000 / (uint64_t)sysconf(_SC_CLK_TCK);
}

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
	[TD_MUNMAP] = {map_plain, free_td_munmap, NULL},
	[TD_SPACE_PUT] = {map_space, free_td_space, NULL},
};

static void sample(const struct bench_subject *self, size_t size, double *values)
{
	static struct prober prober;
	const struct way *way = self->arg;
	void *memory = way->map(self, size);
	uint64_t began, ended, stolen;

	prober_start(&prober);
	stolen = stolen_ms();
	began = bench_now_ns();
	atomic_store(&prober.from_ns, began);
	way->free(self, memory);
	ended = bench_now_ns();
	prober_stop(&prober, ended);
	values[STEAL_MS] = (double)(stolen_ms() - stolen);
	if (way->after)
		way->after(memory);
	values[PROBES_PER_S] =
		(double)prober.histogram.total * 1e9 / (double)(ended - began);
	values[P50_US] = percentile_us(&prober.histogram, 500);
	values[P99_US] = percentile_us(&prober.histogram, 990);
	values[P999_US] = percentile_us(&prober.histogram, 999);
	values[WORST_US] = (double)prober.histogram.worst / 1e3;
	values[WORST_AT] = ((double)prober.histogram.worst_ended - (double)began) * 100 /
			   (double)(ended - began);
	values[FREED_MS] = (double)(ended - began) / 1e6;
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
	printf(" worst_at_percent=%.0f freed_ms=%.2f steal_ms=%.0f steal_ms_max=%.0f "
	       "repeat=%u\n",
	       bench_median(subject, WORST_AT), bench_median(subject, FREED_MS),
	       steal.median, steal.max, subject->series[WORST_US].n);
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
	     "freed, for as long as munmap takes");
	for (unsigned i = 0; i < NR_SUBJECTS; i++) {
		subjects[i].engine = engine;
		subjects[i].freer = freer;
		subjects[i].arg = &ways[i];
	}
	bench_rounds(subjects, NR_SUBJECTS, size, opts->repeat);
	for (unsigned i = 0; i < NR_SUBJECTS; i++)
		print_subject(&subjects[i], size);
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
