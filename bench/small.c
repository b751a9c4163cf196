/* SPDX-License-Identifier: MIT */
/* How long a small work waits that comes behind much larger ones. */
#include "common.h"

#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define EXTENTS 64u

enum { SMALL_US, ALL_MS };

/* ---- the small work: it frees a page ---- */

struct small {
	struct td_work work;
	void *page;
	uint64_t done_ns;
	sem_t done;
};

static void free_page(struct small *small)
{
	bench_munmap(small->page, (size_t)sysconf(_SC_PAGESIZE));
	small->done_ns = bench_now_ns();
}

static int small_slice(struct td_work *work, struct td_slice *slice)
{
	slice->released = work->cost;
	free_page((struct small *)work);
	return TD_WORK_DONE;
}

/* Only now: the engine has to do with it after its last slice, too. */
static void small_done(struct td_work *work, int status)
{
	bench_must(status, "the small work");
	sem_post(&((struct small *)work)->done);
}

static const struct td_work_ops small_ops = {.slice = small_slice, .done = small_done};

static void small_init(struct small *small)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE);

	td_work_init(&small->work, &small_ops, page);
	small->page = bench_map_plain(page);
	sem_init(&small->done, 0, 0);
}

/* ---- behind what ---- */

/* A thread that frees in the order in which it is given things to free. */
struct in_order {
	void *starts[EXTENTS];
	size_t each;
	struct small *small;
};

static void free_in_order(void *arg)
{
	struct in_order *all = arg;

	for (unsigned i = 0; i < EXTENTS; i++)
		bench_munmap(all->starts[i], all->each);
	free_page(all->small);
	sem_post(&all->small->done);
}

static void sample_thread(const struct bench_subject *self, size_t size, double *values)
{
	struct small small;
	struct in_order all = {.each = size / EXTENTS, .small = &small};
	uint64_t began;

	for (unsigned i = 0; i < EXTENTS; i++)
		all.starts[i] = bench_map_plain(all.each);
	small_init(&small);
	began = bench_now_ns();
	bench_freer_hand(self->freer, free_in_order, &all);
	values[ALL_MS] = (double)(bench_freer_await(self->freer) - began) / 1e6;
	sem_wait(&small.done);
	values[SMALL_US] = (double)(small.done_ns - began) / 1e3;
}

static void behind(td_engine *engine, td_space *const *spaces, unsigned nr,
		   double *values)
{
	struct small small;
	uint64_t began, submitted;

	small_init(&small);
	began = bench_now_ns();
	for (unsigned i = 0; i < nr; i++)
		bench_must(td_space_put(spaces[i]), "td_space_put");
	submitted = bench_now_ns();
	bench_must(td_engine_submit(engine, &small.work), "td_engine_submit");
	sem_wait(&small.done);
	values[SMALL_US] = (double)(small.done_ns - submitted) / 1e3;
	for (unsigned i = 0; i < nr; i++)
		values[ALL_MS] = (double)(bench_await(spaces[i]) - began) / 1e6;
}

static void sample_spaces(const struct bench_subject *self, size_t size, double *values)
{
	td_space *spaces[EXTENTS];

	for (unsigned i = 0; i < EXTENTS; i++)
		spaces[i] = bench_map_space(self->engine, size / EXTENTS);
	behind(self->engine, spaces, EXTENTS, values);
}

static void sample_space(const struct bench_subject *self, size_t size, double *values)
{
	td_space *space = bench_map_space(self->engine, size);

	behind(self->engine, &space, 1, values);
}

static void run(const struct bench_opts *opts)
{
	static struct bench_subject subjects[] = {
		{.name = "thread", .sample = sample_thread},
		{.name = "td_spaces", .sample = sample_spaces},
		{.name = "td_space", .sample = sample_space},
	};
	const unsigned nr = sizeof(subjects) / sizeof(subjects[0]);
	size_t size = bench_fitting("small", 16 * BENCH_GIB, opts);
	td_engine *engine = bench_engine(1);
	struct bench_freer *freer = bench_freer_start();

	for (unsigned i = 0; i < nr; i++) {
		subjects[i].engine = engine;
		subjects[i].freer = freer;
	}
	bench_rounds(subjects, nr, size, opts->repeat);
	for (unsigned i = 0; i < nr; i++) {
		bench_print_line("small", subjects[i].name, "anon4k", size);
		bench_print_range("small_us", &subjects[i], SMALL_US);
		printf(" all_ms=%.1f repeat=%u\n", bench_median(&subjects[i], ALL_MS),
		       subjects[i].series[SMALL_US].n);
	}
	printf("summary bench=small size=%zu thread_over_td_spaces=%.0f "
	       "thread_over_td_space=%.0f\n",
	       size,
	       bench_median(&subjects[0], SMALL_US) /
		       bench_median(&subjects[1], SMALL_US),
	       bench_median(&subjects[0], SMALL_US) /
		       bench_median(&subjects[2], SMALL_US));
	bench_freer_stop(freer);
	bench_engine_done(engine);
}

const struct bench_scenario bench_small = {
	.name = "small",
	.what = "how long a work of one page waits behind much larger ones (16 GiB)",
	.run = run,
};
