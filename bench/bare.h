/* SPDX-License-Identifier: MIT */
/* How fast bare threads give memory back: no queue, no pacing, no events. */
#ifndef BENCH_BARE_H
#define BENCH_BARE_H

#include "common.h"

#define BENCH_BARE_MAX 64u /* threads */

/*
 * Fills so much private memory in 4 KiB pages, and has so many threads, which exist
 * beforehand, take chunks of it for MADV_DONTNEED; then unmaps what is empty. GiB a
 * second, from their wake to the end of that.
 */
double bench_bare_rate(size_t size, unsigned threads);

double bench_gib_per_s(size_t size, uint64_t took_ns);

#endif
