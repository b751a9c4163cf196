/* SPDX-License-Identifier: MIT */
/*
 * How fast memory comes back by the library's reapers, against the plainest code that
 * does the same with as many threads.
 */
#include "bare.h"

#include <stdio.h>

enum { GIB_PER_S };

#define THREADS_MIN 4u /* up to twice the CPUs, but at least so many */
#define NUMBERS_MAX 7u /* 1, 2, 4 .. BENCH_BARE_MAX */
#define SUBJECTS_MAX (1 + 2 * NUMBERS_MAX)

static void sample_munmap(const struct bench_subject *self, size_t size, double *values)
{
	void *start = bench_map_plain(size);
	uint64_t began = bench_now_ns();

	(void)self;
	bench_munmap(start, size);
	values[GIB_PER_S] = bench_gib_per_s(size, bench_now_ns() - began);
}

static void sample_td(const struct bench_subject *self, size_t size, double *values)
{
	td_space *space = bench_map_space(self->engine, size);
	uint64_t began = bench_now_ns();

	bench_must(td_space_put(space), "td_space_put");
	values[GIB_PER_S] = bench_gib_per_s(size, bench_await(space) - began);
}

static void sample_bare(const struct bench_subject *self, size_t size, double *values)
{
	values[GIB_PER_S] = bench_bare_rate(size, *(const unsigned *)self->arg);
}

/* ---- */

/* As many threads free as this. */
struct number {
	unsigned threads;
	char bare[16], td[16];
};

static unsigned make_numbers(struct number *numbers)
{
	unsigned most = 2 * bench_cpus(), nr = 0;

	if (most < THREADS_MIN)
		most = THREADS_MIN;
	for (unsigned n = 1; n <= most && nr < NUMBERS_MAX; n *= 2, nr++) {
		numbers[nr].threads = n;
		snprintf(numbers[nr].bare, sizeof(numbers[nr].bare), "bare_%u", n);
		snprintf(numbers[nr].td, sizeof(numbers[nr].td), "td_%u", n);
	}
	return nr;
}

static void print_subject(const struct bench_subject *subject, size_t size)
{
	const unsigned *threads = subject->arg;
	struct bench_summary rate = bench_summarize(&subject->series[GIB_PER_S]);

	bench_print_line("reclaim", subject->name, "anon4k", size);
	printf(" threads=%u gib_per_s=%.2f min=%.2f max=%.2f repeat=%u\n", *threads,
	       rate.median, rate.min, rate.max, subject->series[GIB_PER_S].n);
}

static double ratio(const struct bench_subject *a, const struct bench_subject *b)
{
	return bench_median(a, GIB_PER_S) / bench_median(b, GIB_PER_S);
}

static void run(const struct bench_opts *opts)
{
	static struct bench_subject subjects[SUBJECTS_MAX];
	static struct number numbers[NUMBERS_MAX];
	size_t size = opts->size ? opts->size : 4 * BENCH_GIB;
	unsigned nr = make_numbers(numbers);
	struct bench_subject *bare = subjects + 1, *td = bare + nr;

	if (!bench_fits("reclaim", size, opts))
		return;
	subjects[0] = (struct bench_subject){
		.name = "munmap", .sample = sample_munmap, .arg = &numbers[0].threads};
	for (unsigned i = 0; i < nr; i++) {
		bare[i] = (struct bench_subject){.name = numbers[i].bare,
						 .sample = sample_bare,
						 .arg = &numbers[i].threads};
		td[i] = (struct bench_subject){.name = numbers[i].td,
					       .sample = sample_td,
					       .arg = &numbers[i].threads,
					       .engine =
						       bench_engine(numbers[i].threads)};
	}
	bench_rounds(subjects, 1 + 2 * nr, size, opts->repeat);
	for (unsigned i = 0; i < 1 + 2 * nr; i++)
		print_subject(&subjects[i], size);
	printf("summary bench=reclaim size=%zu td_1_over_munmap=%.2f", size,
	       ratio(&td[0], &subjects[0]));
	for (unsigned i = 0; i < nr; i++)
		printf(" %s_over_%s=%.2f", td[i].name, bare[i].name,
		       ratio(&td[i], &bare[i]));
	printf("\n");
	for (unsigned i = 0; i < nr; i++)
		bench_engine_done(td[i].engine);
}

const struct bench_scenario bench_reclaim = {
	.name = "reclaim",
	.what = "how fast memory comes back, by 1, 2, 4.. threads (4 GiB)",
	.run = run,
};
