/* SPDX-License-Identifier: MIT */
/*
 * Frees a big arena twice: by munmap, and by putting a td_space. Meanwhile another
 * thread maps and unmaps a little memory all the time, and tells how long it was held.
 */
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <limits.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <teardown.h>

#define MIB (UINT64_C(1) << 20)

/* Ends the program when err is a negative errno value, as the library returns. */
static void must(int err, const char *what)
{
	if (err >= 0)
		return;
	fprintf(stderr, "error: %s: %s\n", what, strerror(-err));
	exit(EXIT_FAILURE);
}

static uint64_t now_ns(void)
{
	struct timespec time;

	must(clock_gettime(CLOCK_MONOTONIC, &time) ? -errno : 0, "clock_gettime");
	return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

/* ---- two ways to have an arena ---- */

struct arena {
	size_t size;
	char *start;
	td_space *space; /* of the second way */
};

struct way {
	const char *name;
	void (*map)(struct arena *arena);
	/* Returns when the memory is back. *held_ns: how long the caller had to wait. */
	void (*free)(struct arena *arena, uint64_t *held_ns);
};

/* Both ways use 4 KiB pages, the kind that takes long to free. */
static void map_plain(struct arena *arena)
{
	void *start = mmap(NULL, arena->size, PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	must(start == MAP_FAILED ? -errno : 0, "mmap");
	if (madvise(start, arena->size, MADV_NOHUGEPAGE) && errno != EINVAL)
		must(-errno, "madvise"); /* EINVAL: a kernel without huge pages */
	arena->start = start;
}

static void free_plain(struct arena *arena, uint64_t *held_ns)
{
	uint64_t began = now_ns();

	must(munmap(arena->start, arena->size) ? -errno : 0, "munmap");
	*held_ns = now_ns() - began;
}

static void map_space(struct arena *arena)
{
	void *start;

	/* NULL: the engine of the process, made here on its first use. */
	must(td_space_create(NULL, TD_SPACE_OPTS(.name = "arena"), &arena->space),
	     "td_space_create");
	must(td_region_map(arena->space, arena->size, TD_REGION_OPTS(.thp = TD_THP_NEVER),
			   &start),
	     "td_region_map");
	arena->start = start;
}

static void free_space(struct arena *arena, uint64_t *held_ns)
{
	uint64_t began;

	/* A count, so that the space can be waited for when its last user is gone. */
	must(td_space_grab(arena->space), "td_space_grab");
	began = now_ns();
	must(td_space_put(arena->space), "td_space_put");
	*held_ns = now_ns() - began;
	/* Only to measure: a program would go on with its own things. */
	must(td_space_wait(arena->space, TD_EVENT_RECLAIMED, TD_FOREVER),
	     "td_space_wait");
	must(td_space_drop(arena->space), "td_space_drop");
}

static const struct way ways[] = {
	{"munmap", map_plain, free_plain},
	{"td_space_put", map_space, free_space},
};

/* ---- the other thread ---- */

struct prober {
	pthread_t thread;
	_Atomic(uint64_t) probes;
	_Atomic(uint64_t) from_ns; /* when the freeing began, 0 before */
	_Atomic(bool) stop;
	uint64_t worst_ns; /* of the probes since from_ns */
};

static void probe(void)
{
	const size_t size = 64 << 10;
	volatile char *start = mmap(NULL, size, PROT_READ | PROT_WRITE,
				    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	must(start == MAP_FAILED ? -errno : 0, "the other thread: mmap");
	start[0] = 1;
	start[size - 1] = 1;
	must(munmap((void *)start, size) ? -errno : 0, "the other thread: munmap");
}

static void *probe_on(void *arg)
{
	struct prober *prober = arg;

	while (!atomic_load(&prober->stop)) {
		uint64_t began = now_ns(), ended, from;

		probe();
		ended = now_ns();
		from = atomic_load(&prober->from_ns);
		if (began < from)
			began = from;
		if (from && ended > began && ended - began > prober->worst_ns)
			prober->worst_ns = ended - began;
		atomic_fetch_add(&prober->probes, 1);
	}
	return NULL;
}

static void prober_start(struct prober *prober)
{
	must(-pthread_create(&prober->thread, NULL, probe_on, prober), "pthread_create");
	while (atomic_load(&prober->probes) < 1000) /* it has settled in */
		must(usleep(1000) ? -errno : 0, "usleep");
}

static void prober_stop(struct prober *prober)
{
	atomic_store(&prober->stop, true);
	must(-pthread_join(prober->thread, NULL), "pthread_join");
}

/* ---- one run ---- */

static void show_progress(const char *name, unsigned percent)
{
	if (isatty(STDERR_FILENO))
		fprintf(stderr, "\rfilling memory for %s: %u%%%s", name, percent,
			percent == 100 ? "\n" : "");
	else if (percent % 50 == 0)
		fprintf(stderr, "filling memory for %s: %u%%\n", name, percent);
}

static void fill(const struct arena *arena, const char *name)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE), pages = arena->size / page;
	volatile char *start = arena->start;
	unsigned shown = 0;

	show_progress(name, 0);
	for (size_t i = 0; i < pages; i++) {
		unsigned percent = (unsigned)((i + 1) * 100 / pages);

		start[i * page] = 1;
		for (; shown < percent; shown++)
			show_progress(name, shown + 1);
	}
}

struct result {
	uint64_t held_ns, stall_ns, back_ns, stolen_ms;
};

/* In a virtual machine: how long the host has kept our CPUs from us, as it admits. */
static uint64_t stolen_ms(void)
{
	FILE *stat = fopen("/proc/stat", "re");
	uint64_t ticks = 0;

	if (!stat)
		return 0;
	if (fscanf(stat, "cpu %*u %*u %*u %*u %*u %*u %*u %" SCNu64, &ticks) != 1)
		ticks = 0;
	fclose(stat);
	return ticks * 1000 / (uint64_t)sysconf(_SC_CLK_TCK);
}

static struct result run(const struct way *way, size_t size)
{
	struct arena arena = {.size = size};
	struct prober prober = {0};
	struct result result;
	uint64_t began;

	way->map(&arena);
	fill(&arena, way->name);
	prober_start(&prober);
	result.stolen_ms = stolen_ms();
	began = now_ns();
	atomic_store(&prober.from_ns, began);
	way->free(&arena, &result.held_ns);
	result.back_ns = now_ns() - began;
	prober_stop(&prober);
	result.stolen_ms = stolen_ms() - result.stolen_ms;
	result.stall_ns = prober.worst_ns;
	return result;
}

static void report(size_t size, const struct result *plain, const struct result *td)
{
	const struct result *results[] = {plain, td};

	printf("%-14s %15s %28s %18s\n", "microseconds", "caller held",
	       "worst stall, other thread", "memory back");
	for (int i = 0; i < 2; i++)
		printf("%-14s %15.1f %28.1f %18.1f\n", ways[i].name,
		       (double)results[i]->held_ns / 1e3,
		       (double)results[i]->stall_ns / 1e3,
		       (double)results[i]->back_ns / 1e3);
	for (int i = 0; i < 2; i++) {
		if (results[i]->stolen_ms > 0)
			printf("note: the host took CPUs away for %" PRIu64
			       " ms during %s: the stall may be its doing\n",
			       results[i]->stolen_ms, ways[i].name);
	}
	printf("demo: size=%zu munmap_caller_us=%.1f td_caller_us=%.1f caller_ratio=%.1f "
	       "munmap_worst_stall_us=%.1f td_worst_stall_us=%.1f stall_ratio=%.1f\n",
	       size, (double)plain->held_ns / 1e3, (double)td->held_ns / 1e3,
	       (double)plain->held_ns / (double)td->held_ns,
	       (double)plain->stall_ns / 1e3, (double)td->stall_ns / 1e3,
	       (double)plain->stall_ns / (double)td->stall_ns);
	must(fflush(stdout) ? -errno : 0, "stdout");
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

/* What MemAvailable says, or less where a cgroup of ours or one above it has less. */
static uint64_t memory_available(void)
{
	char line[PATH_MAX], dir[PATH_MAX + 64];
	uint64_t available;
	FILE *stream;

	if (!read_number("/proc", "meminfo", "MemAvailable:", &available))
		must(-ENODATA, "MemAvailable in /proc/meminfo");
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

/* ---- arguments ---- */

/* "4G", "512M", "64K" or bytes, rounded up to whole pages. False: it is none of these. */
static bool parse_size(const char *text, size_t *ret)
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

static size_t default_size(uint64_t available)
{
	uint64_t size = available / 4 / (64 * MIB) * (64 * MIB);

	if (size > 4096 * MIB)
		size = 4096 * MIB;
	return (size_t)(size < 64 * MIB ? 64 * MIB : size);
}

static const char usage[] =
	"usage: arena [--size SIZE]\n"
	"Fills an arena of SIZE bytes (K, M, G: KiB, MiB, GiB) twice; frees it first by\n"
	"munmap, then by td_space_put, and shows how long that held the caller and a\n"
	"thread that maps and unmaps 64 KiB all the time.\n"
	"Default: a quarter of the memory that is available, at most 4 GiB.\n";

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{"size", required_argument, NULL, 's'},
		{"help", no_argument, NULL, 'h'},
		{NULL, 0, NULL, 0},
	};
	uint64_t available = memory_available();
	size_t size = default_size(available);
	struct result plain, td;
	int option;

	while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
		if (option == 'h')
			return fputs(usage, stdout) < 0 || fflush(stdout) != 0;
		if (option != 's')
			return 2; /* getopt_long has said why */
		if (!parse_size(optarg, &size)) {
			fprintf(stderr, "error: not a size: '%s' (try 512M or 4G)\n",
				optarg);
			return EXIT_FAILURE;
		}
	}
	if (optind < argc) {
		fprintf(stderr, "error: unexpected argument '%s'\n", argv[optind]);
		return 2;
	}
	if (size > available / 10 * 9) {
		fprintf(stderr,
			"error: %" PRIu64 " MiB do not fit: %" PRIu64
			" MiB of memory are available, and a tenth is kept free\n",
			size / MIB + (size % MIB != 0), available / MIB);
		return EXIT_FAILURE;
	}
	plain = run(&ways[0], size);
	td = run(&ways[1], size);
	report(size, &plain, &td);
	return EXIT_SUCCESS;
}
