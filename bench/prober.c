/* SPDX-License-Identifier: MIT */
#include "prober.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* ---- latencies ---- */

static unsigned class_of(uint64_t ns)
{
	unsigned shift;

	if (ns < 1u << BENCH_CLASS_BITS)
		return (unsigned)ns;
	shift = 63u - (unsigned)__builtin_clzll(ns) - BENCH_CLASS_BITS;
	return (shift << BENCH_CLASS_BITS) + (unsigned)(ns >> shift);
}

/* The middle of a class, which is 3 % wide. */
static double value_of(unsigned class)
{
	unsigned shift = class >> BENCH_CLASS_BITS;

	if (shift < 2)
		return class;
	shift--;
	return ((double)(class - (shift << BENCH_CLASS_BITS)) + 0.5) *
	       (double)(1ull << shift);
}

static void histogram_add(struct bench_histogram *histogram, uint64_t began,
			  uint64_t ended)
{
	uint64_t ns = ended - began;

	histogram->count[class_of(ns)]++;
	histogram->sum[class_of(ns)] += ns;
	histogram->total++;
	if (ns > histogram->worst) {
		histogram->worst = ns;
		histogram->worst_ended = ended;
	}
}

double bench_percentile_us(const struct bench_histogram *histogram, unsigned per_mille)
{
	uint64_t rank = (histogram->total * per_mille + 999) / 1000, seen = 0;

	for (unsigned i = 0; i < BENCH_CLASSES; i++) {
		seen += histogram->count[i];
		if (seen > 0 && seen >= rank)
			return value_of(i) / 1e3;
	}
	return 0;
}

/*
 * Longer than w wait those who come in the first d - w of a probe that lasts d: together
 * the time sum - count * w, over the probes that last longer. From the longest class
 * down, until that is as much of all time as it may be.
 */
double bench_wait_us(const struct bench_histogram *histogram, unsigned of_a_million)
{
	double all = 0, sum = 0, count = 0, may;

	for (unsigned i = 0; i < BENCH_CLASSES; i++)
		all += (double)histogram->sum[i];
	may = all * of_a_million / 1e6;
	for (unsigned i = BENCH_CLASSES; i-- > 0;) {
		double shortest;

		if (histogram->count[i] == 0)
			continue;
		/* Between this class and the last one may be where it is reached. */
		shortest = (double)histogram->sum[i] / histogram->count[i];
		if (sum - count * shortest >= may)
			return (sum - may) / count / 1e3;
		sum += (double)histogram->sum[i];
		count += histogram->count[i];
	}
	return count > 0 && sum > may ? (sum - may) / count / 1e3 : 0;
}

/* ---- the other thread ---- */

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
	struct bench_prober *prober = arg;
	uint64_t until = 0, last = bench_now_ns();

	while (!until) {
		/* Where the last one ended: there is no time that belongs to none. */
		uint64_t began = last, ended, from;

		probe();
		last = ended = bench_now_ns();
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

void bench_prober_start(struct bench_prober *prober)
{
	memset(prober, 0, sizeof(*prober)); /* touches the histogram, too */
	bench_must(-pthread_create(&prober->thread, NULL, probe_on, prober),
		   "pthread_create");
	while (atomic_load(&prober->probes) < 1000) /* it has settled in */
		bench_must(usleep(1000) ? -errno : 0, "usleep");
}

void bench_prober_begin(struct bench_prober *prober, uint64_t from_ns)
{
	atomic_store(&prober->from_ns, from_ns);
}

void bench_prober_stop(struct bench_prober *prober, uint64_t until_ns)
{
	atomic_store(&prober->until_ns, until_ns);
	bench_must(-pthread_join(prober->thread, NULL), "pthread_join");
}

/* ---- */

uint64_t bench_stolen_ms(void)
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
