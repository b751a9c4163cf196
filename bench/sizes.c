/* SPDX-License-Identifier: MIT */
/*
 * How long giving memory back holds its caller, against its size: from what a program
 * frees all the time to what a virtual machine has. Small sizes are freed many times in a
 * sample, one after the other: each is over before the next, and whoever frees for the
 * caller is asleep again. The bare mremap gives nothing back: it is what any way to move
 * memory out of sight cannot go below.
 */
#include "pieces.h"

#include <errno.h>
#include <stdio.h>
#include <unistd.h>

#define SMALLEST ((size_t)64 << 10)
#define LARGE (4 * BENCH_GIB) /* from here on few rounds, each seconds long */
#define LARGEST (16 * BENCH_GIB)

/* HANDED: how much of it the engine says that it has reclaimed, in percent. */
enum { CALLER_US, RECLAIM_MS, HANDED };
enum { MUNMAP, THREAD, CHUNKS, TD_MUNMAP, TD_REGION, TD_SPACE_PUT, MREMAP, NR_SUBJECTS };

/* What a sample frees. */
struct job {
	struct bench_pieces pieces;
	td_space *space[BENCH_PIECES_MAX];
	struct bench_place place;
};

struct way {
	void (*make)(const struct bench_subject *subject, size_t size, unsigned nr,
		     bool filled, struct job *job);
	void (*give)(const struct bench_subject *subject, struct job *job, unsigned i);
	void (*await)(const struct bench_subject *subject, struct job *job, unsigned i);
	void (*done)(const struct bench_subject *subject, struct job *job);
};

/* ---- without the library ---- */

static void make_plain(const struct bench_subject *subject, size_t size, unsigned nr,
		       bool filled, struct job *job)
{
	(void)subject;
	bench_pieces_map(&bench_kinds[BENCH_ANON4K], size, nr, filled, &job->pieces);
}

static void nothing_left(const struct bench_subject *subject, struct job *job)
{
	(void)subject;
	(void)job;
}

static void is_back(const struct bench_subject *subject, struct job *job, unsigned i)
{
	(void)subject;
	(void)job;
	(void)i;
}

static void by_munmap(const struct bench_subject *subject, struct job *job, unsigned i)
{
	(void)subject;
	bench_memory_unmap(&job->pieces.piece[i]);
}

static void by_chunks(const struct bench_subject *subject, struct job *job, unsigned i)
{
	(void)subject;
	bench_memory_unmap_chunks(&job->pieces.piece[i]);
}

static void by_thread(const struct bench_subject *subject, struct job *job, unsigned i)
{
	bench_freer_hand(subject->freer, bench_memory_unmap, &job->pieces.piece[i]);
}

static void await_thread(const struct bench_subject *subject, struct job *job, unsigned i)
{
	(void)job;
	(void)i;
	(void)bench_freer_await(subject->freer);
}

static void make_place(const struct bench_subject *subject, size_t size, unsigned nr,
		       bool filled, struct job *job)
{
	make_plain(subject, size, nr, filled, job);
	bench_place_reserve(&job->pieces, &job->place);
}

static void by_mremap(const struct bench_subject *subject, struct job *job, unsigned i)
{
	(void)subject;
	bench_place_move(&job->place, &job->pieces, i);
}

static void unmap_place(const struct bench_subject *subject, struct job *job)
{
	(void)subject;
	bench_place_unmap(&job->place);
}

/* ---- with it ---- */

static void by_td_munmap(const struct bench_subject *subject, struct job *job, unsigned i)
{
	const struct bench_memory *piece = &job->pieces.piece[i];

	bench_must(td_engine_munmap(subject->engine, piece->start, piece->size, 0),
		   "td_engine_munmap");
}

static void await_drain(const struct bench_subject *subject, struct job *job, unsigned i)
{
	(void)job;
	(void)i;
	bench_drain(subject->engine);
}

static td_space *make_space(td_engine *engine)
{
	td_space *space;

	bench_must(td_space_create(engine, TD_SPACE_OPTS(.name = "bench"), &space),
		   "td_space_create");
	return space;
}

static void map_piece(td_space *space, size_t size, bool filled, struct bench_memory *ret)
{
	const struct bench_kind *kind = &bench_kinds[BENCH_ANON4K];

	bench_memory_map_region(kind, size, space, ret);
	kind->touch(ret->start, filled ? size : 1);
}

/* Regions of one space. */
static void make_regions(const struct bench_subject *subject, size_t size, unsigned nr,
			 bool filled, struct job *job)
{
	job->pieces.nr = nr;
	job->space[0] = make_space(subject->engine);
	for (unsigned i = 0; i < nr; i++)
		map_piece(job->space[0], size, filled, &job->pieces.piece[i]);
}

static void by_td_region(const struct bench_subject *subject, struct job *job, unsigned i)
{
	const struct bench_memory *piece = &job->pieces.piece[i];

	(void)subject;
	bench_must(td_region_unmap(job->space[0], piece->start, piece->size),
		   "td_region_unmap");
}

static void put_space(const struct bench_subject *subject, struct job *job)
{
	bench_must(td_space_put(job->space[0]), "td_space_put");
	bench_drain(subject->engine);
}

/* A space each. */
static void make_spaces(const struct bench_subject *subject, size_t size, unsigned nr,
			bool filled, struct job *job)
{
	job->pieces.nr = nr;
	for (unsigned i = 0; i < nr; i++) {
		job->space[i] = make_space(subject->engine);
		bench_must(td_space_grab(job->space[i]), "td_space_grab");
		map_piece(job->space[i], size, filled, &job->pieces.piece[i]);
	}
}

static void by_td_space_put(const struct bench_subject *subject, struct job *job,
			    unsigned i)
{
	(void)subject;
	bench_must(td_space_put(job->space[i]), "td_space_put");
}

static void await_space(const struct bench_subject *subject, struct job *job, unsigned i)
{
	(void)subject;
	(void)bench_await(job->space[i]);
}

static const struct way ways[NR_SUBJECTS] = {
	[MUNMAP] = {make_plain, by_munmap, is_back, nothing_left},
	[THREAD] = {make_plain, by_thread, await_thread, nothing_left},
	[CHUNKS] = {make_plain, by_chunks, is_back, nothing_left},
	[TD_MUNMAP] = {make_plain, by_td_munmap, await_drain, nothing_left},
	[TD_REGION] = {make_regions, by_td_region, await_drain, put_space},
	[TD_SPACE_PUT] = {make_spaces, by_td_space_put, await_space, nothing_left},
	[MREMAP] = {make_place, by_mremap, is_back, unmap_place},
};

/* ---- measuring ---- */

/*
 * Whoever frees is to be asleep: waking it is a part of the price. Right after the last
 * of its work it may be awake still, or have been pushed aside before it could sleep, as
 * it happens; then it costs a tenth. All ways pause alike.
 */
static void fall_asleep(useconds_t us)
{
	bench_must(usleep(us) ? -errno : 0, "usleep");
}

/* See put.c and unmap.c: one that is as big, but hardly filled, goes the same way. */
static void warm_up(const struct bench_subject *subject, size_t size)
{
	const struct way *way = subject->arg;
	size_t most = (size_t)64 << 20;
	static struct job job;

	way->make(subject, size < most ? size : most, 1, false, &job);
	way->give(subject, &job, 0);
	way->await(subject, &job, 0);
	way->done(subject, &job);
	fall_asleep(10000);
}

static void sample(const struct bench_subject *self, size_t size, double *values)
{
	const struct way *way = self->arg;
	unsigned nr = bench_pieces_for(size);
	uint64_t held_ns = 0, back_ns = 0, before;
	static struct job job;

	way->make(self, size, nr, true, &job);
	warm_up(self, size);
	before = bench_reclaimed(self->engine);
	for (unsigned i = 0; i < nr; i++) {
		uint64_t began;

		if (i > 0)
			fall_asleep(100);
		began = bench_now_ns();
		way->give(self, &job, i);
		held_ns += bench_now_ns() - began;
		way->await(self, &job, i);
		back_ns += bench_now_ns() - began;
	}
	values[HANDED] = (double)(bench_reclaimed(self->engine) - before) * 100 /
			 ((double)size * nr);
	way->done(self, &job);
	values[CALLER_US] = (double)held_ns / 1e3 / nr;
	values[RECLAIM_MS] = (double)back_ns / 1e6 / nr;
}

/* ---- */

static void print_subject(const struct bench_subject *subject, size_t size)
{
	bench_print_line("sizes", subject->name, "anon4k", size);
	bench_print_range("caller_us", subject, CALLER_US);
	if (subject->arg != &ways[MREMAP])
		printf(" reclaim_ms=%.4f", bench_median(subject, RECLAIM_MS));
	if (subject->arg >= (const void *)&ways[TD_MUNMAP] &&
	    subject->arg < (const void *)&ways[MREMAP])
		printf(" handed_percent=%.0f",
		       bench_summarize(&subject->series[HANDED]).min);
	printf(" calls=%u repeat=%u\n", bench_pieces_for(size),
	       subject->series[CALLER_US].n);
}

static double ratio(const struct bench_subject *subjects, unsigned a, unsigned b)
{
	return bench_median(&subjects[a], CALLER_US) /
	       bench_median(&subjects[b], CALLER_US);
}

static unsigned rounds_for(size_t size, unsigned repeat)
{
	if (size >= LARGEST)
		repeat = repeat / 3 > 0 ? repeat / 3 : 1;
	return size >= LARGE && repeat > 3 ? 3 : repeat;
}

/* caller_us of each subject */
struct cost {
	size_t size; /* 0 = not measured */
	double us[NR_SUBJECTS];
};

static struct cost run_size(struct bench_subject *subjects, size_t size, unsigned repeat)
{
	struct cost cost = {.size = size};

	if (size < LARGE)
		bench_rounds(subjects, NR_SUBJECTS, size, repeat);
	else
		bench_rounds_warm(subjects, NR_SUBJECTS, size, rounds_for(size, repeat));
	for (unsigned i = 0; i < NR_SUBJECTS; i++)
		print_subject(&subjects[i], size);
	printf("summary bench=sizes size=%zu", size);
	for (unsigned i = THREAD; i <= TD_SPACE_PUT; i++)
		printf(" munmap_over_%s=%.2f", subjects[i].name,
		       ratio(subjects, MUNMAP, i));
	printf(" td_munmap_over_mremap=%.2f\n", ratio(subjects, TD_MUNMAP, MREMAP));
	for (unsigned i = 0; i < NR_SUBJECTS; i++)
		cost.us[i] = bench_median(&subjects[i], CALLER_US);
	return cost;
}

/* How many times more the largest size costs the caller than the one before. */
static void print_growth(const struct bench_subject *subjects, const struct cost *from,
			 const struct cost *to)
{
	char name[2][32];

	printf("summary bench=sizes from=%s to=%s",
	       bench_size_name(from->size, name[0], sizeof(name[0])),
	       bench_size_name(to->size, name[1], sizeof(name[1])));
	for (unsigned i = 0; i < NR_SUBJECTS; i++)
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
		[TD_SPACE_PUT] = {.name = "td_space_put", .sample = sample},
		[MREMAP] = {.name = "mremap", .sample = sample},
	};
	size_t last = opts->size ? opts->size : LARGEST;
	struct cost before = {0}, most = {0};
	td_engine *engine = bench_engine(1);
	struct bench_freer *freer = bench_freer_start();

	puts("# caller_us: how long each call held its caller; reclaim_ms: until the "
	     "memory was back; handed_percent: of it, in\n"
	     "# the worst round, what the caller left to the reapers\n"
	     "# chunks: MADV_DONTNEED of 4 MiB at a time, then munmap, by the caller; "
	     "mremap: one bare call, to a\n"
	     "# place reserved beforehand; td_munmap, td_region: below 64 MiB they are "
	     "munmap, by default\n"
	     "# whoever frees for the caller is asleep when a call begins; at 4 GiB and "
	     "more each round counts, 3 at most");
	for (unsigned i = 0; i < NR_SUBJECTS; i++) {
		subjects[i].engine = engine;
		subjects[i].freer = freer;
		subjects[i].arg = &ways[i];
	}
	for (size_t size = SMALLEST; size <= last; size *= 4) {
		if (!bench_fits("sizes", size, &(struct bench_opts){0}))
			continue;
		before = most;
		most = run_size(subjects, size, opts->repeat);
	}
	if (before.size > 0)
		print_growth(subjects, &before, &most);
	bench_freer_stop(freer);
	bench_engine_done(engine);
}

const struct bench_scenario bench_sizes = {
	.name = "sizes",
	.what = "how long giving back holds its caller, from 64 KiB to 16 GiB (or SIZE)",
	.run = run,
};
