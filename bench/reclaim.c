/* SPDX-License-Identifier: MIT */
/* How fast memory comes back, against the plainest code that does the same. */
#include "common.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/mman.h>

enum { GIB_PER_S };
enum { MUNMAP, TD_1, TD_2, BARE_2, NR_SUBJECTS };

static double gib_per_s(size_t size, uint64_t took_ns)
{
	return (double)size / (double)BENCH_GIB / ((double)took_ns / 1e9);
}

static void sample_munmap(const struct bench_subject *self, size_t size, double *values)
{
	void *start = bench_map_plain(size);
	uint64_t began = bench_now_ns();

	(void)self;
	bench_munmap(start, size);
	values[GIB_PER_S] = gib_per_s(size, bench_now_ns() - began);
}

static void sample_td(const struct bench_subject *self, size_t size, double *values)
{
	td_space *space = bench_map_space(self->engine, size);
	uint64_t began = bench_now_ns();

	bench_must(td_space_put(space), "td_space_put");
	values[GIB_PER_S] = gib_per_s(size, bench_await(space) - began);
}

/* ---- bare_2: no queue, no pacing, no events ---- */

#define BARE_THREADS 2u
#define BARE_CHUNK ((size_t)16 << 20)

struct bare {
	char *start;
	size_t size;
	_Atomic(size_t) cursor;
	pthread_barrier_t release, finish;
};

static void *bare_thread(void *arg)
{
	struct bare *bare = arg;
	size_t at;

	pthread_barrier_wait(&bare->release);
	while ((at = atomic_fetch_add(&bare->cursor, BARE_CHUNK)) < bare->size) {
		size_t left = bare->size - at;

		bench_must(madvise(bare->start + at,
				   left < BARE_CHUNK ? left : BARE_CHUNK, MADV_DONTNEED)
				   ? -errno
				   : 0,
			   "madvise");
	}
	pthread_barrier_wait(&bare->finish);
	return NULL;
}

/* Returns the time that freeing took; the threads exist by then. */
static uint64_t bare_free(struct bare *bare)
{
	uint64_t began = bench_now_ns();

	pthread_barrier_wait(&bare->release);
	pthread_barrier_wait(&bare->finish);
	bench_munmap(bare->start, bare->size);
	return bench_now_ns() - began;
}

static void sample_bare(const struct bench_subject *self, size_t size, double *values)
{
	struct bare bare = {.size = size};
	pthread_t threads[BARE_THREADS];

	(void)self;
	bench_must(-pthread_barrier_init(&bare.release, NULL, BARE_THREADS + 1),
		   "pthread_barrier_init");
	bench_must(-pthread_barrier_init(&bare.finish, NULL, BARE_THREADS + 1),
		   "pthread_barrier_init");
	for (unsigned i = 0; i < BARE_THREADS; i++)
		bench_must(-pthread_create(&threads[i], NULL, bare_thread, &bare),
			   "pthread_create");
	/* They wait asleep while this fills, as reapers do. */
	bare.start = bench_map_plain(size);
	values[GIB_PER_S] = gib_per_s(size, bare_free(&bare));
	for (unsigned i = 0; i < BARE_THREADS; i++)
		bench_must(-pthread_join(threads[i], NULL), "pthread_join");
	bench_must(-pthread_barrier_destroy(&bare.release), "pthread_barrier_destroy");
	bench_must(-pthread_barrier_destroy(&bare.finish), "pthread_barrier_destroy");
}

/* ---- */

static void print_subject(const struct bench_subject *subject, size_t size)
{
	struct bench_summary rate = bench_summarize(&subject->series[GIB_PER_S]);

	bench_print_line("reclaim", subject->name, "anon4k", size);
	printf(" gib_per_s=%.2f min=%.2f max=%.2f repeat=%u\n", rate.median, rate.min,
	       rate.max, subject->series[GIB_PER_S].n);
}

static double ratio(const struct bench_subject *a, const struct bench_subject *b)
{
	return bench_median(a, GIB_PER_S) / bench_median(b, GIB_PER_S);
}

static void run(const struct bench_opts *opts)
{
	static struct bench_subject subjects[NR_SUBJECTS] = {
		[MUNMAP] = {.name = "munmap", .sample = sample_munmap},
		[TD_1] = {.name = "td_1", .sample = sample_td},
		[TD_2] = {.name = "td_2", .sample = sample_td},
		[BARE_2] = {.name = "bare_2", .sample = sample_bare},
	};
	size_t size = opts->size ? opts->size : 4 * BENCH_GIB;

	if (!bench_fits("reclaim", size, opts))
		return;
	subjects[TD_1].engine = bench_engine(1);
	subjects[TD_2].engine = bench_engine(2);
	bench_rounds(subjects, NR_SUBJECTS, size, opts->repeat);
	for (unsigned i = 0; i < NR_SUBJECTS; i++)
		print_subject(&subjects[i], size);
	printf("summary bench=reclaim td_1_over_munmap=%.2f td_2_over_bare_2=%.2f\n",
	       ratio(&subjects[TD_1], &subjects[MUNMAP]),
	       ratio(&subjects[TD_2], &subjects[BARE_2]));
	bench_engine_done(subjects[TD_1].engine);
	bench_engine_done(subjects[TD_2].engine);
}

const struct bench_scenario bench_reclaim = {
	.name = "reclaim",
	.what = "how fast memory comes back, by one thread and by two (4 GiB)",
	.run = run,
};
