/* SPDX-License-Identifier: MIT */
/*
 * From which size on it pays to hand memory to a reaper: for choosing the engine's
 * munmap_threshold. Everything is handed on here, also what the default would not.
 */
#include "pieces.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

enum { CALLER_US, CPU_US };
enum { MUNMAP, TD_MUNMAP, TD_BURST, NR_SUBJECTS };

/* What a subject measures: its arg. */
struct way {
	const struct bench_kind *kind;
	int how; /* MUNMAP, TD_MUNMAP, TD_BURST */
};

static const char *kind_name(const struct bench_subject *subject)
{
	return ((const struct way *)subject->arg)->kind->name;
}

#define HUGE_SIZE ((size_t)2 << 20)

/* ---- measuring ---- */

static double cpu_us(void)
{
	struct rusage usage;

	bench_must(getrusage(RUSAGE_SELF, &usage) ? -errno : 0, "getrusage");
	return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * 1e6 +
	       (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec);
}

static void td_unmap(td_engine *engine, void *start, size_t size)
{
	bench_must(td_engine_munmap(engine, start, size, 0), "td_engine_munmap");
}

/* The way is warm: see put.c. */
static void warm_up(td_engine *engine)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE);

	td_unmap(engine, bench_map_plain(page), page);
	bench_drain(engine);
	bench_must(usleep(1000) ? -errno : 0, "usleep");
}

/* The reaper has fallen asleep. What that costs is not the call's. */
static double pause_for_sleep(double since)
{
	double used = cpu_us() - since;

	bench_must(usleep(100) ? -errno : 0, "usleep");
	return used;
}

/*
 * TD_MUNMAP: the memory of each call is back before the next, and the reaper asleep, so
 * that each has to wake it, and CPU time includes waiting for it. TD_BURST: one call
 * after the other, which the reaper works through meanwhile.
 */
static void sample(const struct bench_subject *self, size_t size, double *values)
{
	static struct bench_pieces pieces;
	const struct way *way = self->arg;
	uint64_t held_ns = 0;
	double cpu, used = 0;

	bench_pieces_map(way->kind, size, bench_pieces_for(size), true, &pieces);
	warm_up(self->engine);
	cpu = cpu_us();
	for (unsigned i = 0; i < pieces.nr; i++) {
		uint64_t began = bench_now_ns();

		if (way->how == MUNMAP)
			bench_munmap(pieces.piece[i].start, size);
		else
			td_unmap(self->engine, pieces.piece[i].start, size);
		held_ns += bench_now_ns() - began;
		if (way->how == TD_MUNMAP) {
			bench_drain(self->engine);
			used += pause_for_sleep(cpu);
			cpu = cpu_us();
		}
	}
	bench_drain(self->engine);
	values[CPU_US] = (used + cpu_us() - cpu) / pieces.nr;
	values[CALLER_US] = (double)held_ns / 1e3 / pieces.nr;
}

/* ---- */

static void print_subject(const struct bench_subject *subject, size_t size)
{
	bench_print_line("threshold", subject->name, kind_name(subject), size);
	bench_print_range("caller_us", subject, CALLER_US);
	bench_print_range("cpu_us", subject, CPU_US);
	printf(" calls=%u repeat=%u\n", bench_pieces_for(size),
	       subject->series[CALLER_US].n);
}

/* The smallest size measured from which on the library's caller is held for less. */
struct even {
	size_t spaced, burst; /* 0 = none */
};

static void note(size_t *even, size_t size, double plain_us, double td_us)
{
	if (td_us >= plain_us)
		*even = 0;
	else if (*even == 0)
		*even = size;
}

static void run_size(struct bench_subject *subjects, size_t size, unsigned repeat,
		     struct even *even)
{
	double plain_us, plain_cpu;

	bench_rounds(subjects, NR_SUBJECTS, size, repeat);
	for (unsigned i = 0; i < NR_SUBJECTS; i++)
		print_subject(&subjects[i], size);
	plain_us = bench_median(&subjects[MUNMAP], CALLER_US);
	plain_cpu = bench_median(&subjects[MUNMAP], CPU_US);
	printf("summary bench=threshold kind=%s size=%zu caller_ratio=%.2f "
	       "caller_ratio_burst=%.2f cpu_more_us=%.2f cpu_more_us_burst=%.2f\n",
	       kind_name(&subjects[0]), size,
	       plain_us / bench_median(&subjects[TD_MUNMAP], CALLER_US),
	       plain_us / bench_median(&subjects[TD_BURST], CALLER_US),
	       bench_median(&subjects[TD_MUNMAP], CPU_US) - plain_cpu,
	       bench_median(&subjects[TD_BURST], CPU_US) - plain_cpu);
	note(&even->spaced, size, plain_us,
	     bench_median(&subjects[TD_MUNMAP], CALLER_US));
	note(&even->burst, size, plain_us, bench_median(&subjects[TD_BURST], CALLER_US));
}

static void run_kind(struct bench_subject *subjects, enum bench_kind_id id,
		     const struct bench_opts *opts)
{
	const struct bench_kind *kind = &bench_kinds[id];
	size_t size = (size_t)64 << 10;
	size_t last = opts->size ? opts->size : BENCH_GIB;
	const char *reason = bench_kind_prepare(kind, &size);
	struct way ways[NR_SUBJECTS];
	struct even even = {0, 0};
	char name[2][32];

	if (reason) {
		printf("bench=threshold kind=%s skipped reason=\"%s\"\n", kind->name,
		       reason);
		return;
	}
	for (unsigned i = 0; i < NR_SUBJECTS; i++) {
		ways[i] = (struct way){kind, (int)i};
		subjects[i].arg = &ways[i];
	}
	for (; size <= last; size *= 4) {
		if (id == BENCH_THP && size < HUGE_SIZE)
			continue; /* it would not be of huge pages */
		if (bench_fits("threshold", size * bench_pieces_for(size),
			       &(struct bench_opts){0}))
			run_size(subjects, size, opts->repeat, &even);
	}
	printf("summary bench=threshold kind=%s from_size=%s from_size_burst=%s\n",
	       kind->name,
	       even.spaced ? bench_size_name(even.spaced, name[0], sizeof(name[0]))
			   : "none",
	       even.burst ? bench_size_name(even.burst, name[1], sizeof(name[1]))
			  : "none");
	bench_kind_done(kind);
}

static void run(const struct bench_opts *opts)
{
	static struct bench_subject subjects[NR_SUBJECTS] = {
		[MUNMAP] = {.name = "munmap", .sample = sample},
		[TD_MUNMAP] = {.name = "td_munmap", .sample = sample},
		[TD_BURST] = {.name = "td_munmap_burst", .sample = sample},
	};
	td_engine *engine = bench_engine(1);

	bench_must(td_engine_set_munmap_threshold(engine, 1),
		   "td_engine_set_munmap_threshold");
	puts("# caller_us, cpu_us: of one call; cpu_us with the reaper's. "
	     "td_munmap: each call is waited for, td_munmap_burst: only the last");
	for (unsigned i = 0; i < NR_SUBJECTS; i++)
		subjects[i].engine = engine;
	bench_check_only(opts, (const char *const[]){"anon4k", "thp", NULL});
	if (bench_chosen(opts, "anon4k"))
		run_kind(subjects, BENCH_ANON4K, opts);
	if (bench_chosen(opts, "thp"))
		run_kind(subjects, BENCH_THP, opts);
	bench_engine_done(engine);
}

const struct bench_scenario bench_threshold = {
	.name = "threshold",
	.what = "from which size on it pays to hand memory on (64 KiB to 1 GiB, or SIZE)",
	.run = run,
};
