/* SPDX-License-Identifier: MIT */
/* How long the caller of td_space_put is held, as the memory grows. */
#include "common.h"

#include <errno.h>
#include <stdio.h>
#include <unistd.h>

enum { CALLER_US, RECLAIM_MS };

/*
 * Filling takes seconds, in which what a put uses goes cold: code, the engine, the space,
 * the kernel's own. In a virtual machine the first touch of any page may then cost tens
 * of microseconds, whatever is put. The plain subjects show that; the _warm one is put
 * right after another space, of one page, as in a program that does so all the time.
 */
static void warm_up(td_engine *engine)
{
	td_space *space = bench_map_space(engine, (size_t)sysconf(_SC_PAGESIZE));

	bench_must(td_space_put(space), "td_space_put");
	(void)bench_await(space);
	/* The reaper is to be asleep again: waking it is a part of the put. */
	bench_must(usleep(10000) ? -errno : 0, "usleep");
}

static void sample_munmap(const struct bench_subject *self, size_t size, double *values)
{
	void *start = bench_map_plain(size);
	uint64_t began, ended;

	(void)self;
	began = bench_now_ns();
	bench_munmap(start, size);
	ended = bench_now_ns();
	values[CALLER_US] = (double)(ended - began) / 1e3;
	values[RECLAIM_MS] = (double)(ended - began) / 1e6;
}

static void put_and_time(td_space *space, double *values)
{
	uint64_t began, returned;

	began = bench_now_ns();
	bench_must(td_space_put(space), "td_space_put");
	returned = bench_now_ns();
	values[CALLER_US] = (double)(returned - began) / 1e3;
	values[RECLAIM_MS] = (double)(bench_await(space) - began) / 1e6;
}

static void sample_put(const struct bench_subject *self, size_t size, double *values)
{
	put_and_time(bench_map_space(self->engine, size), values);
}

static void sample_put_warm(const struct bench_subject *self, size_t size, double *values)
{
	td_space *space = bench_map_space(self->engine, size);

	warm_up(self->engine);
	put_and_time(space, values);
}

static void print_subject(const struct bench_subject *subject, size_t size)
{
	bench_print_line("put", subject->name, "anon4k", size);
	bench_print_range("caller_us", subject, CALLER_US);
	printf(" reclaim_ms=%.2f repeat=%u\n", bench_median(subject, RECLAIM_MS),
	       subject->series[CALLER_US].n);
}

enum { MUNMAP, PUT, PUT_WARM, SUBJECTS };

/* caller_us of the two puts, for the growth from the smallest size to the largest. */
struct cost {
	size_t size;
	double cold, warm;
};

static struct cost run_size(td_engine *engine, size_t size, unsigned repeat)
{
	static struct bench_subject subjects[SUBJECTS] = {
		[MUNMAP] = {.name = "munmap", .sample = sample_munmap},
		[PUT] = {.name = "td_space_put", .sample = sample_put},
		[PUT_WARM] = {.name = "td_space_put_warm", .sample = sample_put_warm},
	};
	double munmap_us, munmap_ms;

	for (unsigned i = 0; i < SUBJECTS; i++)
		subjects[i].engine = engine;
	bench_rounds(subjects, SUBJECTS, size, repeat);
	for (unsigned i = 0; i < SUBJECTS; i++)
		print_subject(&subjects[i], size);
	munmap_us = bench_median(&subjects[MUNMAP], CALLER_US);
	munmap_ms = bench_median(&subjects[MUNMAP], RECLAIM_MS);
	printf("summary bench=put size=%zu caller_ratio=%.1f caller_ratio_warm=%.1f "
	       "reclaim_ratio=%.2f\n",
	       size, munmap_us / bench_median(&subjects[PUT], CALLER_US),
	       munmap_us / bench_median(&subjects[PUT_WARM], CALLER_US),
	       munmap_ms / bench_median(&subjects[PUT], RECLAIM_MS));
	return (struct cost){size, bench_median(&subjects[PUT], CALLER_US),
			     bench_median(&subjects[PUT_WARM], CALLER_US)};
}

static void run(const struct bench_opts *opts)
{
	static const size_t defaults[] = {BENCH_GIB, 2 * BENCH_GIB, 4 * BENCH_GIB,
					  8 * BENCH_GIB};
	const size_t *sizes = opts->size ? &opts->size : defaults;
	unsigned nr_sizes = opts->size ? 1 : sizeof(defaults) / sizeof(defaults[0]);
	td_engine *engine = bench_engine(1);
	struct cost first = {0, 0, 0}, last = {0, 0, 0};
	char name[2][32];

	puts("# ratios: munmap over td_space_put, above 1 is in the library's favour");
	for (unsigned i = 0; i < nr_sizes; i++) {
		if (!bench_fits("put", sizes[i], opts))
			continue;
		last = run_size(engine, sizes[i], opts->repeat);
		if (first.size == 0)
			first = last;
	}
	if (last.size > first.size)
		printf("summary bench=put from=%s to=%s growth=%.2f growth_warm=%.2f\n",
		       bench_size_name(first.size, name[0], sizeof(name[0])),
		       bench_size_name(last.size, name[1], sizeof(name[1])),
		       last.cold / first.cold, last.warm / first.warm);
	bench_engine_done(engine);
}

const struct bench_scenario bench_put = {
	.name = "put",
	.what = "how long the last user's put holds its caller (1, 2, 4, 8 GiB)",
	.run = run,
};
