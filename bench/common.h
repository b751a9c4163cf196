/* SPDX-License-Identifier: MIT */
/* What the scenarios of td-bench share. Single-threaded, but for bench_now_ns(). */
#ifndef BENCH_COMMON_H
#define BENCH_COMMON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <teardown.h>

#define BENCH_GIB ((size_t)1 << 30)
#define BENCH_REPEAT_MAX 1000u
#define BENCH_VALUES_MAX 4u

/* ---- scenarios: one file each, named in main.c's table ---- */

struct bench_opts {
	size_t size;	 /* 0 = what the scenario takes by default */
	unsigned repeat; /* rounds that count */
};

struct bench_scenario {
	const char *name, *what;
	void (*run)(const struct bench_opts *opts);
};

extern const struct bench_scenario bench_put, bench_reclaim;

/* ---- measuring ---- */

struct bench_series {
	double values[BENCH_REPEAT_MAX];
	unsigned n;
};

struct bench_summary {
	double median, min, max;
};

/* One of the peers of a comparison. A sample stores a value of each series. */
struct bench_subject {
	const char *name;
	void (*sample)(td_engine *engine, size_t size, double *values);
	td_engine *engine; /* handed to sample */
	struct bench_series series[BENCH_VALUES_MAX];
};

/* Samples the subjects in turn: a round that does not count, then `repeat` that do. */
void bench_rounds(struct bench_subject *subjects, unsigned nr_subjects, size_t size,
		  unsigned repeat);

struct bench_summary bench_summarize(const struct bench_series *series);

uint64_t bench_now_ns(void); /* CLOCK_MONOTONIC */

/* ---- memory ---- */

/*
 * Private anonymous memory in 4 KiB pages, every page written to. The two differ in
 * nothing but who is to free them: the caller, or the space, which then has one user
 * and a count to wait with.
 */
void *bench_map_plain(size_t size);
td_space *bench_map_space(td_engine *engine, size_t size);

void bench_munmap(void *start, size_t size);

/* Waits until the space's memory is back; the clock then. Gives the count up. */
uint64_t bench_await(td_space *space);

td_engine *bench_engine(unsigned reapers);
void bench_engine_done(td_engine *engine);

/*
 * Does so much fit into memory, with some to spare? When not, ends the program if the
 * user asked for this size, and else prints a line that says it is skipped.
 */
bool bench_fits(const char *scenario, size_t size, const struct bench_opts *opts);

/* ---- text ---- */

/* "4G", "512M", "64K" or bytes, rounded up to whole pages. False: none of these. */
bool bench_parse_size(const char *text, size_t *ret);

/* "8g", "512m" or bytes, for names. */
const char *bench_size_name(size_t size, char *buf, size_t buf_size);

void bench_print_header(void);

/* "bench=put subject=munmap kind=anon4k size=4294967296", without a newline */
void bench_print_line(const char *scenario, const char *subject, size_t size);

/* Ends the program when err is a negative errno value. */
void bench_must(int err, const char *what);

#endif
