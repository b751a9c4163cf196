/* SPDX-License-Identifier: MIT */
/* The memory that is freed: had, filled, waited for; and how much of it there is. */
#include "common.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* ---- filling ---- */

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

#define FILLERS_MAX 64u
#define FILL_ALIGN ((size_t)2 << 20)
#define FILL_ALONE ((size_t)32 << 20) /* less than twice that is not worth a thread */

struct part {
	pthread_t thread;
	char *start;
	size_t size;
};

void bench_touch(void *start, size_t size)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE);

	for (size_t i = 0; i < size; i += page)
		((volatile char *)start)[i] = 1;
}

/* A kernel before 5.14 refuses; and touching also says best what else may be wrong. */
static void *fill(void *arg)
{
	const struct part *part = arg;

	if (madvise(part->start, part->size, MADV_POPULATE_WRITE))
		bench_touch(part->start, part->size);
	return NULL;
}

const char *bench_fill_name(void)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE);
	void *start = bench_map(page, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	bool refused = madvise(start, page, MADV_POPULATE_WRITE);

	bench_munmap(start, page);
	return refused ? "touching" : "MADV_POPULATE_WRITE";
}

static unsigned nr_fillers(size_t size)
{
	unsigned cpus = bench_cpus();
	size_t nr = size / FILL_ALONE;

	if (nr > cpus)
		nr = cpus;
	return nr > FILLERS_MAX ? FILLERS_MAX : nr > 0 ? (unsigned)nr : 1;
}

/*
 * The kernel fills faster when it is asked to than when each page is touched, and faster
 * still by several threads (on two CPUs 2.0, 3.8 and 1.4 GiB a second). They have gone
 * when this returns: none is there beside what is measured.
 */
void bench_write(void *start, size_t size)
{
	struct part parts[FILLERS_MAX];
	unsigned nr = nr_fillers(size);
	size_t each = size / nr / FILL_ALIGN * FILL_ALIGN;

	for (unsigned i = 0; i < nr; i++) {
		parts[i].start = (char *)start + i * each;
		parts[i].size = i + 1 < nr ? each : size - i * each;
		if (i > 0)
			bench_must(
				-pthread_create(&parts[i].thread, NULL, fill, &parts[i]),
				"pthread_create");
	}
	(void)fill(&parts[0]);
	for (unsigned i = 1; i < nr; i++)
		bench_must(-pthread_join(parts[i].thread, NULL), "pthread_join");
}

void bench_read(const void *start, size_t size)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE);

	for (size_t i = 0; i < size; i += page)
		(void)((const volatile char *)start)[i];
}

/* ---- mapping ---- */

void bench_munmap(void *start, size_t size)
{
	bench_must(munmap(start, size) ? -errno : 0, "munmap");
}

void *bench_map(size_t size, int flags, int fd)
{
	size_t align = size >= BENCH_GIB ? BENCH_GIB : (size_t)2 << 20, head;
	char *start = mmap(NULL, size + align, PROT_NONE,
			   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	void *mapped;

	bench_must(start == MAP_FAILED ? -errno : 0, "mmap");
	head = -(uintptr_t)start % align;
	if (head > 0)
		bench_munmap(start, head);
	start += head;
	bench_munmap(start + size, align - head);
	mapped = mmap(start, size, PROT_READ | PROT_WRITE, flags | MAP_FIXED, fd, 0);
	bench_must(mapped == MAP_FAILED ? -errno : 0, "mmap");
	return mapped;
}

void *bench_map_unfilled(size_t size)
{
	void *start = bench_map(size, MAP_PRIVATE | MAP_ANONYMOUS, -1);

	if (madvise(start, size, MADV_NOHUGEPAGE) && errno != EINVAL)
		bench_must(-errno, "madvise"); /* EINVAL: a kernel without huge pages */
	return start;
}

void *bench_map_plain(size_t size)
{
	void *start = bench_map_unfilled(size);

	bench_write(start, size);
	return start;
}

td_space *bench_map_space(td_engine *engine, size_t size)
{
	td_space *space;
	void *start;

	bench_must(td_space_create(engine, TD_SPACE_OPTS(.name = "bench"), &space),
		   "td_space_create");
	bench_must(
		td_region_map(space, size, TD_REGION_OPTS(.thp = TD_THP_NEVER), &start),
		"td_region_map");
	bench_must(td_space_grab(space), "td_space_grab");
	bench_write(start, size);
	return space;
}

uint64_t bench_await(td_space *space)
{
	uint64_t ended;

	bench_must(td_space_wait(space, TD_EVENT_RECLAIMED, TD_FOREVER), "td_space_wait");
	ended = bench_now_ns();
	bench_must(td_space_drop(space), "td_space_drop");
	return ended;
}

/* ---- how much memory there is ---- */

/* The number that follows key at the start of a line. False: there is none. */
static bool read_number(const char *dir, const char *file, const char *key, uint64_t *ret)
{
	char path[PATH_MAX + 64], line[256];
	bool found = false;
	FILE *stream;

	snprintf(path, sizeof(path), "%s/%s", dir, file);
	stream = fopen(path, "re");
	if (!stream)
		return false;
	while (!found && fgets(line, sizeof(line), stream))
		found = strncmp(line, key, strlen(key)) == 0 &&
			sscanf(line + strlen(key), "%" SCNu64, ret) == 1;
	fclose(stream);
	return found;
}

static const struct cgroup_version {
	const char *mount, *limit, *usage, *cache; /* cache: what is easily given up */
} cgroup_v1 = {"/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes",
	       "total_inactive_file "},
  cgroup_v2 = {"/sys/fs/cgroup", "memory.max", "memory.current", "inactive_file "};

static uint64_t cgroup_left(const struct cgroup_version *version, const char *dir)
{
	uint64_t limit, used = 0, cache = 0;

	if (!read_number(dir, version->limit, "", &limit)) /* "max" is none either */
		return UINT64_MAX;
	read_number(dir, version->usage, "", &used);
	read_number(dir, "memory.stat", version->cache, &cache);
	used -= cache < used ? cache : used;
	return used < limit ? limit - used : 0;
}

uint64_t bench_available(void)
{
	char line[PATH_MAX], dir[PATH_MAX + 64];
	uint64_t available;
	FILE *stream;

	if (!read_number("/proc", "meminfo", "MemAvailable:", &available))
		bench_must(-ENODATA, "MemAvailable in /proc/meminfo");
	available *= 1024;
	stream = fopen("/proc/self/cgroup", "re"); /* id:controllers:path */
	while (stream && fgets(line, sizeof(line), stream)) {
		const struct cgroup_version *version = &cgroup_v1;
		char *rest = line, *controllers, *path;

		strsep(&rest, ":");
		controllers = strsep(&rest, ":");
		path = strsep(&rest, "\n");
		if (!path)
			continue;
		if (*controllers == '\0')
			version = &cgroup_v2;
		else if (!strstr(controllers, "memory"))
			continue;
		snprintf(dir, sizeof(dir), "%s%s", version->mount, path);
		/* A limit further up binds as well. */
		while (strlen(dir) >= strlen(version->mount)) {
			uint64_t left = cgroup_left(version, dir);

			if (left < available)
				available = left;
			*strrchr(dir, '/') = '\0';
		}
	}
	if (stream)
		fclose(stream);
	return available;
}

bool bench_fits(const char *scenario, size_t size, const struct bench_opts *opts)
{
	uint64_t available = bench_available(), mib = 1 << 20;

	if (size <= available / 10 * 9)
		return true;
	if (opts->size > 0) {
		fprintf(stderr,
			"error: %" PRIu64 " MiB do not fit: %" PRIu64
			" MiB of memory are available, and a tenth is kept free\n",
			size / mib + (size % mib != 0), available / mib);
		exit(EXIT_FAILURE);
	}
	printf("# skipped bench=%s size=%zu: does not fit, %" PRIu64
	       " MiB of memory are available\n",
	       scenario, size, available / mib);
	return false;
}

size_t bench_fitting(const char *scenario, size_t size, const struct bench_opts *opts)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE);

	if (opts->size > 0)
		size = opts->size;
	while (!bench_fits(scenario, size, opts) && size > page)
		size = size / 2 / page * page;
	return size;
}
