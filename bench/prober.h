/* SPDX-License-Identifier: MIT */
/*
 * Another thread, which maps, touches and unmaps 64 KiB over and over: what it notices of
 * memory being freed beside it.
 */
#ifndef BENCH_PROBER_H
#define BENCH_PROBER_H

#include "common.h"

#include <pthread.h>
#include <stdatomic.h>

/* Latencies, counted by size class: 32 for each power of two. */
#define BENCH_CLASS_BITS 5u
#define BENCH_CLASSES (64u << BENCH_CLASS_BITS)

struct bench_histogram {
	uint32_t count[BENCH_CLASSES];
	uint64_t sum[BENCH_CLASSES]; /* of the latencies, in ns */
	uint64_t total, worst, worst_ended;
};

/* The latency that so many of a thousand probes do not exceed. */
double bench_percentile_us(const struct bench_histogram *histogram, unsigned per_mille);

/*
 * How long those wait at the most who come at any moment, but for so many of a million.
 * The probes follow each other without a gap, so they are the time in which one may come:
 * who comes u into a probe that lasts d waits d - u. A single stall of 600 ms is one
 * probe among thousands, but most who come meanwhile wait for its end.
 */
double bench_wait_us(const struct bench_histogram *histogram, unsigned of_a_million);

struct bench_prober {
	pthread_t thread;
	_Atomic(uint64_t) probes;
	_Atomic(uint64_t) from_ns, until_ns; /* what counts; 0 = not yet known */
	struct bench_histogram histogram;
};

/* Returns when it has settled in. It counts from bench_prober_begin() on. */
void bench_prober_start(struct bench_prober *prober);
void bench_prober_begin(struct bench_prober *prober, uint64_t from_ns);
void bench_prober_stop(struct bench_prober *prober, uint64_t until_ns);

/* In a virtual machine: how long the host has kept our CPUs from us, as it admits. */
uint64_t bench_stolen_ms(void);

#endif
