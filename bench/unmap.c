/* SPDX-License-Identifier: MIT */
/* How long unmapping holds its caller, kind by kind of memory. */
#include "kinds.h"

#include <errno.h>
#include <stdio.h>
#include <unistd.h>

/* HANDED: how much of it the engine says that it has reclaimed, in percent: the
 * least of all rounds is printed, or one that the caller freed himself would not be seen.
 */
enum { CALLER_US, RECLAIM_MS, HANDED, NR_VALUES };
enum { MUNMAP, THREAD, CHUNKS, TD_MUNMAP, TD_REGION, NR_SUBJECTS };

/* What is timed: one of the ways to unmap. */
struct way {
	const struct bench_kind *kind;
	/* Unmaps. Stores the clock when the caller could go on, returns it when all was
	 * over. */
	uint64_t (*unmap)(const struct bench_subject *subject,
			  struct bench_memory *memory, td_space *space,
			  uint64_t *returned);
	bool in_space;
};

static uint64_t by_munmap(const struct bench_subject *subject,
			  struct bench_memory *memory, td_space *space,
			  uint64_t *returned)
{
	(void)subject;
	(void)space;
	bench_memory_unmap(memory);
	*returned = bench_now_ns();
	return *returned;
}

static uint64_t by_chunks(const struct bench_subject *subject,
			  struct bench_memory *memory, td_space *space,
			  uint64_t *returned)
{
	(void)subject;
	(void)space;
	bench_memory_unmap_chunks(memory);
	*returned = bench_now_ns();
	return *returned;
}

/* The range stays in sight until the thread has come to it. */
static uint64_t by_thread(const struct bench_subject *subject,
			  struct bench_memory *memory, td_space *space,
			  uint64_t *returned)
{
	(void)space;
	bench_freer_hand(subject->freer, bench_memory_unmap, memory);
	*returned = bench_now_ns();
	return bench_freer_await(subject->freer);
}

static uint64_t by_td_munmap(const struct bench_subject *subject,
			     struct bench_memory *memory, td_space *space,
			     uint64_t *returned)
{
	(void)space;
	bench_must(td_engine_munmap(subject->engine, memory->start, memory->size,
				    memory->kind->munmap_flags),
		   "td_engine_munmap");
	bench_memory_close(memory);
	*returned = bench_now_ns();
	bench_drain(subject->engine);
	return bench_now_ns();
}

static uint64_t by_td_region(const struct bench_subject *subject,
			     struct bench_memory *memory, td_space *space,
			     uint64_t *returned)
{
	bench_must(td_region_unmap(space, memory->start, memory->size),
		   "td_region_unmap");
	*returned = bench_now_ns();
	bench_drain(subject->engine);
	return bench_now_ns();
}

static void map(const struct way *way, size_t size, td_space *space,
		struct bench_memory *ret)
{
	if (way->in_space)
		bench_memory_map_region(way->kind, size, space, ret);
	else
		bench_memory_map(way->kind, size, ret);
}

/*
 * Filling takes seconds in which code and data go cold, and then costs more than what is
 * measured: see put.c. So a piece of the same kind is unmapped first, in the same way:
 * as big as the library hands on by default, but hardly touched.
 */
static void warm_up(const struct bench_subject *subject, size_t size, td_space *space)
{
	const struct way *way = subject->arg;
	size_t little = (size_t)64 << 20;
	struct bench_memory memory;
	uint64_t returned;

	map(way, little < size ? little : size, space, &memory);
	way->kind->touch(memory.start, 1);
	(void)way->unmap(subject, &memory, space, &returned);
	/* Whoever frees is to be asleep again: waking it is a part of the price. */
	bench_must(usleep(10000) ? -errno : 0, "usleep");
}

static void sample(const struct bench_subject *self, size_t size, double *values)
{
	const struct way *way = self->arg;
	uint64_t began, returned, ended, before;
	struct bench_memory memory;
	td_space *space;

	bench_must(td_space_create(self->engine, TD_SPACE_OPTS(.name = "bench"), &space),
		   "td_space_create");
	map(way, size, space, &memory);
	bench_memory_touch(&memory);
	warm_up(self, size, space);
	before = bench_reclaimed(self->engine);
	began = bench_now_ns();
	ended = way->unmap(self, &memory, space, &returned);
	values[CALLER_US] = (double)(returned - began) / 1e3;
	values[RECLAIM_MS] = (double)(ended - began) / 1e6;
	values[HANDED] =
		(double)(bench_reclaimed(self->engine) - before) * 100 / (double)size;
	bench_must(td_space_put(space), "td_space_put");
	bench_drain(self->engine);
}

static void print_subject(const struct bench_subject *subject,
			  const struct bench_kind *kind, size_t size)
{
	const struct way *way = subject->arg;
	const char *flags = NULL;

	if (way->unmap == by_td_munmap)
		flags = kind->flags_name;
	else if (way->in_space)
		flags = kind->region_flags_name;
	bench_print_line("unmap", subject->name, kind->name, size);
	if (flags)
		printf(" flags=%s", flags);
	if (kind->file_system)
		printf(" fs=%s", kind->file_system());
	bench_print_range("caller_us", subject, CALLER_US);
	printf(" reclaim_ms=%.2f handed_percent=%.0f repeat=%u\n",
	       bench_median(subject, RECLAIM_MS),
	       bench_summarize(&subject->series[HANDED]).min,
	       subject->series[CALLER_US].n);
}

/* caller_us of each subject */
struct cost {
	size_t size; /* 0 = not measured */
	double us[NR_SUBJECTS];
};

/* Of the subjects from `first` on. */
static struct cost run_kind(struct bench_subject *subjects, unsigned first,
			    enum bench_kind_id id, size_t size, unsigned repeat)
{
	const struct bench_kind *kind = &bench_kinds[id];
	struct way ways[NR_SUBJECTS] = {
		[MUNMAP] = {kind, by_munmap, false},
		[THREAD] = {kind, by_thread, false},
		[CHUNKS] = {kind, by_chunks, false},
		[TD_MUNMAP] = {kind, by_td_munmap, false},
		[TD_REGION] = {kind, by_td_region, true},
	};
	const char *reason = bench_kind_prepare(kind, &size);
	struct cost cost = {0};

	if (reason) {
		printf("bench=unmap kind=%s skipped reason=\"%s\"\n", kind->name, reason);
		return cost;
	}
	for (unsigned i = 0; i < NR_SUBJECTS; i++)
		subjects[i].arg = &ways[i];
	bench_rounds(subjects + first, NR_SUBJECTS - first, size, repeat);
	cost.size = size;
	for (unsigned i = first; i < NR_SUBJECTS; i++) {
		print_subject(&subjects[i], kind, size);
		cost.us[i] = bench_median(&subjects[i], CALLER_US);
	}
	bench_kind_done(kind);
	if (first > MUNMAP)
		return cost;
	printf("summary bench=unmap kind=%s size=%zu munmap_over_td_munmap=%.1f "
	       "munmap_over_td_region=%.1f munmap_over_thread=%.1f "
	       "munmap_over_chunks=%.2f\n",
	       kind->name, size, cost.us[MUNMAP] / cost.us[TD_MUNMAP],
	       cost.us[MUNMAP] / cost.us[TD_REGION], cost.us[MUNMAP] / cost.us[THREAD],
	       cost.us[MUNMAP] / cost.us[CHUNKS]);
	return cost;
}

static void print_growth(const struct bench_subject *subjects, const struct cost *from,
			 const struct cost *to)
{
	char name[2][32];

	printf("summary bench=unmap kind=anon4k from=%s to=%s",
	       bench_size_name(from->size, name[0], sizeof(name[0])),
	       bench_size_name(to->size, name[1], sizeof(name[1])));
	for (unsigned i = TD_MUNMAP; i < NR_SUBJECTS; i++)
		printf(" growth_%s=%.2f", subjects[i].name, to->us[i] / from->us[i]);
	printf("\n");
}

static void run(const struct bench_opts *opts)
{
	static struct bench_subject subjects[NR_SUBJECTS] = {
		[MUNMAP] = {.name = "munmap", .sample = sample},
		[THREAD] = {.name = "thread", .sample = sample},
		[CHUNKS] = {.name = "chunks", .sample = sample},
		[TD_MUNMAP] = {.name = "td_munmap", .sample = sample},
		[TD_REGION] = {.name = "td_region", .sample = sample},
	};
	const size_t big = 16 * BENCH_GIB;
	td_engine *engine = bench_engine(1);
	struct bench_freer *freer = bench_freer_start();
	const char *names[BENCH_KINDS + 2] = {[BENCH_KINDS] = "16g"};
	struct cost usual = {0}, most;

	puts("# caller_us: how long the call held its caller; ratios above 1 are in the "
	     "library's favour\n"
	     "# thread: munmap by a thread that waits for it, woken by a semaphore; the "
	     "range stays in sight meanwhile\n"
	     "# chunks: MADV_DONTNEED (shared memory: MADV_REMOVE) of 4 MiB at a time, "
	     "then "
	     "munmap, by the caller");
	for (unsigned i = 0; i < NR_SUBJECTS; i++) {
		subjects[i].engine = engine;
		subjects[i].freer = freer;
	}
	for (unsigned id = 0; id < BENCH_KINDS; id++)
		names[id] = bench_kinds[id].name;
	bench_check_only(opts, names);
	for (unsigned id = 0; id < BENCH_KINDS; id++) {
		size_t size = opts->size ? opts->size : bench_kinds[id].size;
		struct cost cost;

		if (!bench_chosen(opts, names[id]) || !bench_fits("unmap", size, opts))
			continue;
		cost = run_kind(subjects, 0, id, size, opts->repeat);
		if (id == BENCH_ANON4K)
			usual = cost;
	}
	if (opts->size == 0 && usual.size > 0 && bench_chosen(opts, "16g") &&
	    bench_fits("unmap", big, opts)) {
		/* Only the library's, and few rounds: filling may take half a minute. */
		most = run_kind(subjects, TD_MUNMAP, BENCH_ANON4K, big,
				opts->repeat < 3 ? opts->repeat : 3);
		print_growth(subjects, &usual, &most);
	}
	bench_freer_stop(freer);
	bench_engine_done(engine);
}

const struct bench_scenario bench_unmap = {
	.name = "unmap",
	.what = "how long unmapping holds its caller, kind by kind (1 or 4 GiB; one 16)",
	.run = run,
};
