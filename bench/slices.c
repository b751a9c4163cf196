/* SPDX-License-Identifier: MIT */
/*
 * How long a slice may last, against what another thread notices of it and how fast
 * memory comes back. The last one is fast mode at the usual target: 20 ms.
 */
#include "kinds.h"
#include "prober.h"

#include <stdio.h>

enum { GIB_PER_S, P50_US, P99_US, WORST_US, CPU_MS, STEAL_MS, NR_VALUES };
_Static_assert(NR_VALUES <= BENCH_VALUES_MAX, "no room for the values");

static const uint64_t targets_us[] = {50, 100, 200, 500, 1000, 2000, 5000, 20000, 0};
#define NR_TARGETS (sizeof(targets_us) / sizeof(targets_us[0]))
#define FAST_US 20000u

static const struct bench_kind *kind; /* of the samples being taken */

static uint64_t cpu_ns(td_engine *engine)
{
	struct td_engine_stats stats;

	bench_must(td_engine_stats(engine, &stats), "td_engine_stats");
	return stats.cpu_ns;
}

static void sample(const struct bench_subject *self, size_t size, double *values)
{
	static struct bench_prober prober;
	const uint64_t *target_us = self->arg;
	struct bench_memory memory;
	uint64_t began, ended, stolen, cpu;
	td_space *space;

	bench_must(td_engine_set_slice(self->engine, *target_us * 1000), "set_slice");
	bench_must(td_engine_set_fast(self->engine, *target_us == 0), "set_fast");
	bench_must(td_space_create(self->engine, NULL, &space), "td_space_create");
	bench_memory_map_region(kind, size, space, &memory);
	bench_memory_touch(&memory);
	bench_must(td_space_grab(space), "td_space_grab");

	bench_prober_start(&prober);
	stolen = bench_stolen_ms();
	cpu = cpu_ns(self->engine);
	began = bench_now_ns();
	bench_prober_begin(&prober, began);
	bench_must(td_space_put(space), "td_space_put");
	ended = bench_await(space);
	bench_prober_stop(&prober, ended);
	bench_drain(self->engine);
	values[GIB_PER_S] =
		(double)size / (double)BENCH_GIB * 1e9 / (double)(ended - began);
	values[P50_US] = bench_percentile_us(&prober.histogram, 500);
	values[P99_US] = bench_percentile_us(&prober.histogram, 990);
	values[WORST_US] = (double)prober.histogram.worst / 1e3;
	values[CPU_MS] = (double)(cpu_ns(self->engine) - cpu) / 1e6;
	values[STEAL_MS] = (double)(bench_stolen_ms() - stolen);
}

static void print(const struct bench_subject *subject, size_t size)
{
	uint64_t target_us = *(const uint64_t *)subject->arg;

	bench_print_line("slices", "td", kind->name, size);
	printf(" target_us=%llu fast=%d",
	       (unsigned long long)(target_us ? target_us : FAST_US), target_us == 0);
	bench_print_range("reclaim_gib_per_s", subject, GIB_PER_S);
	printf(" stall_p50_us=%.2f stall_p99_us=%.2f", bench_median(subject, P50_US),
	       bench_median(subject, P99_US));
	bench_print_range("stall_max_us", subject, WORST_US);
	printf(" cpu_ms=%.1f steal_ms=%.0f repeat=%u\n", bench_median(subject, CPU_MS),
	       bench_median(subject, STEAL_MS), subject->series[GIB_PER_S].n);
}

static void run_kind(const struct bench_kind *of, const struct bench_opts *opts)
{
	static struct bench_subject subjects[NR_TARGETS];
	size_t size = bench_fitting("slices", 4 * BENCH_GIB, opts);
	const char *why = bench_kind_prepare(of, &size);
	td_engine *engine;

	if (why) {
		printf("bench=slices kind=%s skipped reason=\"%s\"\n", of->name, why);
		return;
	}
	kind = of;
	engine = bench_engine(1);
	for (unsigned i = 0; i < NR_TARGETS; i++)
		subjects[i] = (struct bench_subject){
			.name = "td",
			.sample = sample,
			.engine = engine,
			.arg = &targets_us[i],
		};
	bench_rounds(subjects, NR_TARGETS, size, opts->repeat);
	for (unsigned i = 0; i < NR_TARGETS; i++)
		print(&subjects[i], size);
	bench_engine_done(engine);
	bench_kind_done(of);
}

static void run(const struct bench_opts *opts)
{
	puts("# another thread's mmap, touch, munmap of 64 KiB while size is given back "
	     "in "
	     "slices of the target;\n"
	     "# cpu_ms: the reaper's. fast=1: td_engine_set_fast()");
	bench_check_only(opts, (const char *const[]){"anon4k", "thp", NULL});
	if (bench_chosen(opts, "anon4k"))
		run_kind(&bench_kinds[BENCH_ANON4K], opts);
	if (bench_chosen(opts, "thp"))
		run_kind(&bench_kinds[BENCH_THP], opts);
}

const struct bench_scenario bench_slices = {
	.name = "slices",
	.what = "stalls and speed against the slice's target (4 GiB or what fits)",
	.run = run,
};
