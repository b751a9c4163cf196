/* SPDX-License-Identifier: MIT */
#include "allocator.h"
#include "prober.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define WARM_BLOCKS 32u
#define PATIENCE_NS UINT64_C(30000000000)
#define LOOK_MIN_NS UINT64_C(50000)
#define LOOK_MAX_NS UINT64_C(10000000)

void allocator_count(struct allocator_blocks *blocks, uint64_t began)
{
	double us = (double)(bench_now_ns() - began) / 1e3;

	blocks->all_us += us;
	if (us > blocks->longest_us)
		blocks->longest_us = us;
}

const struct allocator_way *allocator_find(const char *name)
{
	const struct allocator_way *const lists[] = {allocator_jemalloc,
						     allocator_mimalloc};

	for (unsigned i = 0; i < 2; i++) {
		for (const struct allocator_way *way = lists[i]; way->name; way++) {
			if (strcmp(way->name, name) == 0)
				return way;
		}
	}
	return NULL;
}

/* ---- how much memory there is ---- */

/* Of this process, in pages: no lock that others need, and no malloc. */
static size_t resident(void)
{
	static int statm = -1;
	char text[128] = "";

	if (statm < 0)
		statm = open("/proc/self/statm", O_RDONLY | O_CLOEXEC);
	bench_must(pread(statm, text, sizeof(text) - 1, 0) <= 0 ? -errno : 0,
		   "/proc/self/statm");
	return strtoul(strchr(text, ' '), NULL, 10);
}

static void nap(uint64_t ns)
{
	struct timespec time = {0, (long)ns};

	nanosleep(&time, NULL);
}

/* Looks a hundred times or so, so that it is known to one part of a hundred. */
static void await_back(size_t full, size_t pages, uint64_t began, bool at_once,
		       struct allocator_outcome *ret)
{
	size_t now = resident(), enough = full - pages / 100 * 98;
	uint64_t passed = bench_now_ns() - began;

	while (!at_once && now > enough && passed < PATIENCE_NS) {
		uint64_t ns = passed / 100;

		nap(ns < LOOK_MIN_NS ? LOOK_MIN_NS : ns > LOOK_MAX_NS ? LOOK_MAX_NS : ns);
		now = resident();
		passed = bench_now_ns() - began;
	}
	ret->reclaim_ms = (double)passed / 1e6;
	if (now > enough)
		ret->left_percent = (double)(now + pages - full) * 100 / (double)pages;
}

/* ---- a round ---- */

static struct allocator_blocks make(const struct allocator_way *way, size_t nr)
{
	struct allocator_blocks blocks = {.nr = nr};

	/* Not by malloc, which is what is measured. */
	blocks.block = mmap(NULL, nr * sizeof(blocks.block[0]), PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	bench_must(blocks.block == MAP_FAILED ? -errno : 0, "mmap");
	way->make(way, &blocks);
	for (size_t i = 0; i < nr; i++)
		memset(blocks.block[i], 1, ALLOCATOR_BLOCK);
	return blocks;
}

static void end(const struct allocator_way *way, struct allocator_blocks *blocks)
{
	if (way->after)
		way->after(blocks);
	bench_munmap(blocks->block, blocks->nr * sizeof(blocks->block[0]));
}

/* The same with little memory: filling takes so long that all else goes cold. */
static void warm_up(const struct allocator_way *way, size_t nr)
{
	struct allocator_blocks blocks = make(way, nr < WARM_BLOCKS ? nr : WARM_BLOCKS);

	way->give(&blocks);
	end(way, &blocks);
	nap(LOOK_MAX_NS); /* whoever frees is asleep again */
}

/* prober: the other thread, NULL = there is none. */
static void run_round(const struct allocator_way *way, size_t nr,
		      struct bench_prober *prober, struct allocator_outcome *ret)
{
	struct allocator_blocks blocks = make(way, nr);
	size_t full;
	uint64_t began;

	warm_up(way, nr);
	full = resident();
	if (prober)
		bench_prober_start(prober);
	began = bench_now_ns();
	if (prober)
		bench_prober_begin(prober, began);
	way->give(&blocks);
	await_back(full, nr * (ALLOCATOR_BLOCK / (size_t)sysconf(_SC_PAGESIZE)), began,
		   way->at_once, ret);
	if (prober)
		bench_prober_stop(prober, bench_now_ns());
	ret->all_us = blocks.all_us;
	ret->frees_us = blocks.frees_us;
	ret->longest_us = blocks.longest_us;
	end(way, &blocks);
}

static void measure(const struct allocator_way *way, size_t size,
		    struct allocator_outcome *ret)
{
	static struct bench_prober prober;
	struct allocator_outcome probed = {0};
	uint64_t stolen;

	run_round(way, size / ALLOCATOR_BLOCK, NULL, ret);
	stolen = bench_stolen_ms();
	run_round(way, size / ALLOCATOR_BLOCK, &prober, &probed);
	ret->steal_ms = (double)(bench_stolen_ms() - stolen);
	ret->worst_stall_us = (double)prober.histogram.worst / 1e3;
}

int allocator_child(int argc, char **argv)
{
	const struct allocator_way *way = argc == 5 ? allocator_find(argv[2]) : NULL;
	struct allocator_outcome outcome = {0};
	const char *why;
	size_t size;

	bench_must(way ? 0 : -EINVAL, ALLOCATOR_CHILD);
	size = strtoul(argv[3], NULL, 10);
	why = way->load();
	if (why)
		snprintf(outcome.why, sizeof(outcome.why), "%s", why);
	else
		way->version(outcome.version, sizeof(outcome.version));
	if (!why && size > 0)
		measure(way, size, &outcome);
	bench_must(write(atoi(argv[4]), &outcome, sizeof(outcome)) == sizeof(outcome)
			   ? 0
			   : -EIO,
		   "write");
	return EXIT_SUCCESS;
}
