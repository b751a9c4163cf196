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
#define BENCH_VALUES_MAX 16u

/* ---- scenarios: one file each, named in main.c's table ---- */

struct bench_opts {
	size_t size;	  /* 0 = what the scenario takes by default */
	size_t objects;	  /* the same, where objects are counted */
	unsigned repeat;  /* rounds that count */
	const char *only; /* NULL = all: what is to be measured, commas between them */
};

struct bench_scenario {
	const char *name, *what;
	void (*run)(const struct bench_opts *opts);
};

extern const struct bench_scenario bench_put, bench_reclaim, bench_unmap, bench_threshold,
	bench_lookup, bench_stall, bench_slices, bench_batch, bench_refs, bench_small,
	bench_budget, bench_foreground, bench_kill, bench_exit, bench_sizes, bench_limits,
	bench_allocator;

/* Is it named by --only, or is there none? */
bool bench_chosen(const struct bench_opts *opts, const char *name);
/* Ends the program where --only names what is not one of these. NULL ends them. */
void bench_check_only(const struct bench_opts *opts, const char *const *names);

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
	void (*sample)(const struct bench_subject *self, size_t size, double *values);
	td_engine *engine; /* for sample, as are the next two */
	struct bench_freer *freer;
	const void *arg;
	struct bench_series series[BENCH_VALUES_MAX];
};

/* Samples the subjects in turn: a round that does not count, then `repeat` that do. */
void bench_rounds(struct bench_subject *subjects, unsigned nr_subjects, size_t size,
		  unsigned repeat);

/* Without the one that does not count: for long samples that warm up by themselves. */
void bench_rounds_warm(struct bench_subject *subjects, unsigned nr_subjects, size_t size,
		       unsigned repeat);

struct bench_summary bench_summarize(const struct bench_series *series);
double bench_median(const struct bench_subject *subject, unsigned value);

uint64_t bench_now_ns(void); /* CLOCK_MONOTONIC */
unsigned bench_cpus(void);   /* that we may use */

/* ---- memory ---- */

/*
 * Private anonymous memory in 4 KiB pages, every page written to. The two differ in
 * nothing but who is to free them: the caller, or the space, which then has one user
 * and a count to wait with.
 */
void *bench_map_plain(size_t size);
td_space *bench_map_space(td_engine *engine, size_t size);
void *bench_map_unfilled(size_t size); /* as bench_map_plain, but no page is there */

void bench_munmap(void *start, size_t size);

/*
 * mmap(2) of so much from the start of fd, if any, at a multiple of 1 GiB when it is as
 * big as that and else of 2 MiB: as td_region_map aligns by default, so that the page
 * tables are the same.
 */
void *bench_map(size_t size, int flags, int fd);

/*
 * Has every page there, written to: by MADV_POPULATE_WRITE in a thread for each CPU where
 * there is much of it. The threads have ended when it returns.
 */
void bench_write(void *start, size_t size);
const char *bench_fill_name(
	void); /* "MADV_POPULATE_WRITE"; "touching" where it refuses */
/* Writes to, or reads from, every page, by the caller alone. */
void bench_touch(void *start, size_t size);
void bench_read(const void *start, size_t size);

/* Waits until the space's memory is back; the clock then. Gives the count up. */
uint64_t bench_await(td_space *space);

td_engine *bench_engine(unsigned reapers);
void bench_engine_done(td_engine *engine);
void bench_drain(td_engine *engine);
uint64_t bench_reclaimed(td_engine *engine); /* bytes, by its reapers, so far */

/* What MemAvailable says, or less where a cgroup of ours or one above it has less. */
uint64_t bench_available(void);

/*
 * Does so much fit into memory, with some to spare? When not, ends the program if the
 * user asked for this size, and else prints a line that says it is skipped.
 */
bool bench_fits(const char *scenario, size_t size, const struct bench_opts *opts);

/* The size that the user asked for, or `size`, halved until it fits. */
size_t bench_fitting(const char *scenario, size_t size, const struct bench_opts *opts);

/* ---- what a program does that has no library: a thread of its own that frees ---- */

/*
 * It exists beforehand and sleeps on a semaphore, so that the caller pays for a futex
 * wake and no more; and is SCHED_BATCH, as reapers are by default, or it would preempt
 * who wakes it, who then waits for all of the munmap: the strongest of its kind.
 */
struct bench_freer;
struct bench_freer *bench_freer_start(void);
/* Has it call free(arg), and returns at once. One at a time. */
void bench_freer_hand(struct bench_freer *freer, void (*free)(void *arg), void *arg);
uint64_t bench_freer_await(struct bench_freer *freer); /* the clock when it was done */
void bench_freer_stop(struct bench_freer *freer);

/* The calling thread preempts nobody from here on by being woken. */
void bench_thread_batch(void);

/* ---- text ---- */

/* "4G", "512M", "64K" or bytes, rounded up to whole pages. False: none of these. */
bool bench_parse_size(const char *text, size_t *ret);

/* "8g", "512m" or bytes, for names. */
const char *bench_size_name(size_t size, char *buf, size_t buf_size);

void bench_print_header(void);

/* "peer=NAME version=V settings="..."": what is compared with, and how it is used. */
void bench_print_peer(const char *name, const char *version, const char *settings);
void bench_print_peers(const char *scenario); /* those of a scenario that are known */

/* "bench=put subject=munmap kind=anon4k size=4294967296", without a newline */
void bench_print_line(const char *scenario, const char *subject, const char *kind,
		      size_t size);
/* " NAME=MEDIAN NAME_min=MIN NAME_max=MAX" */
void bench_print_range(const char *name, const struct bench_subject *subject,
		       unsigned value);

/* Ends the program when err is a negative errno value. */
void bench_must(int err, const char *what);

#endif
