/* SPDX-License-Identifier: MIT */
#include "common.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

void bench_must(int err, const char *what)
{
	if (err >= 0)
		return;
	fprintf(stderr, "error: %s: %s\n", what, strerror(-err));
	exit(EXIT_FAILURE);
}

/* ---- measuring ---- */

uint64_t bench_now_ns(void)
{
	struct timespec time;

	bench_must(clock_gettime(CLOCK_MONOTONIC, &time) ? -errno : 0, "clock_gettime");
	return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

void bench_rounds(struct bench_subject *subjects, unsigned nr_subjects, size_t size,
		  unsigned repeat)
{
	for (unsigned i = 0; i < nr_subjects; i++) {
		for (unsigned k = 0; k < BENCH_VALUES_MAX; k++)
			subjects[i].series[k].n = 0;
	}
	for (unsigned round = 0; round <= repeat; round++) {
		for (unsigned i = 0; i < nr_subjects; i++) {
			struct bench_subject *subject = &subjects[i];
			double values[BENCH_VALUES_MAX] = {0};

			subject->sample(subject, size, values);
			if (round == 0)
				continue;
			for (unsigned k = 0; k < BENCH_VALUES_MAX; k++) {
				struct bench_series *series = &subject->series[k];

				series->values[series->n++] = values[k];
			}
		}
	}
}

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

struct bench_summary bench_summarize(const struct bench_series *series)
{
	struct bench_series sorted = *series;
	unsigned n = sorted.n;

	qsort(sorted.values, n, sizeof(sorted.values[0]), compare);
	return (struct bench_summary){
		.median = (sorted.values[(n - 1) / 2] + sorted.values[n / 2]) / 2,
		.min = sorted.values[0],
		.max = sorted.values[n - 1],
	};
}

double bench_median(const struct bench_subject *subject, unsigned value)
{
	return bench_summarize(&subject->series[value]).median;
}

/* ---- memory ---- */

void bench_write(void *start, size_t size)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE);

	for (size_t i = 0; i < size; i += page)
		((volatile char *)start)[i] = 1;
}

void bench_read(const void *start, size_t size)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE);

	for (size_t i = 0; i < size; i += page)
		(void)((const volatile char *)start)[i];
}

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

void *bench_map_plain(size_t size)
{
	void *start = bench_map(size, MAP_PRIVATE | MAP_ANONYMOUS, -1);

	if (madvise(start, size, MADV_NOHUGEPAGE) && errno != EINVAL)
		bench_must(-errno, "madvise"); /* EINVAL: a kernel without huge pages */
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

td_engine *bench_engine(unsigned reapers)
{
	td_engine *engine;

	bench_must(td_engine_create(TD_ENGINE_OPTS(.reapers = reapers, .name = "bench"),
				    &engine),
		   "td_engine_create");
	return engine;
}

void bench_engine_done(td_engine *engine)
{
	bench_must(td_engine_destroy(engine, TD_EXIT_DRAIN, TD_FOREVER),
		   "td_engine_destroy");
}

void bench_drain(td_engine *engine)
{
	bench_must(td_engine_drain(engine, TD_FOREVER), "td_engine_drain");
}

/* ---- the thread that frees ---- */

struct bench_freer {
	pthread_t thread;
	sem_t work, done;
	void (*free)(void *arg); /* NULL = stop */
	void *arg;
	uint64_t ended;
};

static void freer_wait(sem_t *sem)
{
	while (sem_wait(sem))
		bench_must(errno == EINTR ? 0 : -errno, "sem_wait");
}

static void *freer_thread(void *arg)
{
	struct bench_freer *freer = arg;

	for (;;) {
		freer_wait(&freer->work);
		if (!freer->free)
			return NULL;
		freer->free(freer->arg);
		freer->ended = bench_now_ns();
		bench_must(sem_post(&freer->done) ? -errno : 0, "sem_post");
	}
}

struct bench_freer *bench_freer_start(void)
{
	struct bench_freer *freer = calloc(1, sizeof(*freer));

	bench_must(freer ? 0 : -ENOMEM, "calloc");
	bench_must(sem_init(&freer->work, 0, 0) ? -errno : 0, "sem_init");
	bench_must(sem_init(&freer->done, 0, 0) ? -errno : 0, "sem_init");
	bench_must(-pthread_create(&freer->thread, NULL, freer_thread, freer),
		   "pthread_create");
	return freer;
}

void bench_freer_hand(struct bench_freer *freer, void (*free)(void *arg), void *arg)
{
	freer->free = free;
	freer->arg = arg;
	bench_must(sem_post(&freer->work) ? -errno : 0, "sem_post");
}

uint64_t bench_freer_await(struct bench_freer *freer)
{
	freer_wait(&freer->done);
	return freer->ended;
}

void bench_freer_stop(struct bench_freer *freer)
{
	bench_freer_hand(freer, NULL, NULL);
	bench_must(-pthread_join(freer->thread, NULL), "pthread_join");
	bench_must(sem_destroy(&freer->work) ? -errno : 0, "sem_destroy");
	bench_must(sem_destroy(&freer->done) ? -errno : 0, "sem_destroy");
	free(freer);
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

/* ---- text ---- */

bool bench_parse_size(const char *text, size_t *ret)
{
	static const char units[] = "KMG";
	size_t page = (size_t)sysconf(_SC_PAGESIZE), size = 0;
	const char *unit;

	if (*text < '0' || *text > '9')
		return false;
	for (; *text >= '0' && *text <= '9'; text++) {
		if (__builtin_mul_overflow(size, 10, &size) ||
		    __builtin_add_overflow(size, *text - '0', &size))
			return false;
	}
	unit = *text ? strchr(units, *text) : NULL;
	if (unit) {
		if (__builtin_mul_overflow(size, (size_t)1024 << 10 * (unit - units),
					   &size))
			return false;
		text++;
	}
	if (*text || size == 0 || __builtin_add_overflow(size, page - 1, &size))
		return false;
	*ret = size / page * page;
	return true;
}

const char *bench_size_name(size_t size, char *buf, size_t buf_size)
{
	if (size % BENCH_GIB == 0)
		snprintf(buf, buf_size, "%zug", size >> 30);
	else if (size % ((size_t)1 << 20) == 0)
		snprintf(buf, buf_size, "%zum", size >> 20);
	else
		snprintf(buf, buf_size, "%zu", size);
	return buf;
}

void bench_print_header(void)
{
	struct utsname system;

	bench_must(uname(&system) ? -errno : 0, "uname");
	printf("# td-bench version=%s kernel=%s cpus=%ld page=%ld\n", td_version(),
	       system.release, sysconf(_SC_NPROCESSORS_ONLN), sysconf(_SC_PAGESIZE));
}

void bench_print_line(const char *scenario, const char *subject, const char *kind,
		      size_t size)
{
	printf("bench=%s subject=%s kind=%s size=%zu", scenario, subject, kind, size);
}

void bench_print_range(const char *name, const struct bench_subject *subject,
		       unsigned value)
{
	struct bench_summary range = bench_summarize(&subject->series[value]);

	printf(" %s=%.2f %s_min=%.2f %s_max=%.2f", name, range.median, name, range.min,
	       name, range.max);
}
