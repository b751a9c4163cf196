/* SPDX-License-Identifier: MIT */
/*
 * A loop that maps, fills and frees arenas as fast as it can, in a memory cgroup with
 * room for two of them: throughput, how long freeing one holds the loop, and whether the
 * kernel kills it. Each run is a child of its own.
 */
#include "common.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define ARENAS 12u
#define WARM_UP 2u

enum { GIB_PER_S, WORST_US, PEAK, OOM, HELPED, NR_VALUES };
enum { MUNMAP, THREAD, HELP, BLOCK, AGAIN, NR_SUBJECTS };

/* ---- the cgroup ---- */

static const struct version {
	const char *name, *mount, *limit;
} versions[] = {
	{"v1", "/sys/fs/cgroup/memory", "memory.limit_in_bytes"},
	{"v2", "/sys/fs/cgroup", "memory.max"},
};

static struct {
	const char *name; /* "none" where there is none */
	char dir[PATH_MAX];
} group = {.name = "none"};

static int write_file(const char *dir, const char *file, const char *text)
{
	char path[PATH_MAX + 64];
	int fd, err;

	snprintf(path, sizeof(path), "%s/%s", dir, file);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	err = write(fd, text, strlen(text)) < 0 ? -errno : 0;
	close(fd);
	return err;
}

static int group_try(const struct version *version, uint64_t limit)
{
	char text[32];
	int err;

	snprintf(group.dir, sizeof(group.dir), "%s/td-bench-%d", version->mount,
		 (int)getpid());
	if (mkdir(group.dir, 0755))
		return -errno;
	snprintf(text, sizeof(text), "%" PRIu64, limit);
	err = write_file(group.dir, version->limit, text);
	if (!err)
		group.name = version->name;
	else
		rmdir(group.dir);
	return err;
}

static void group_make(uint64_t limit)
{
	int err = -ENOENT;

	for (size_t i = 0; err && i < sizeof(versions) / sizeof(versions[0]); i++)
		err = group_try(&versions[i], limit);
	if (err)
		printf("# no memory cgroup can be made (%s): nothing limits the loop but "
		       "its own budget\n",
		       strerror(-err));
}

static void group_remove(void)
{
	if (strcmp(group.name, "none") == 0)
		return;
	/* The last child has been waited for, and its group may be busy for a moment. */
	while (rmdir(group.dir) && errno == EBUSY)
		usleep(1000);
}

/* ---- the ways to free ---- */

/* Shared with the parent, who reads it even when the child was killed. */
struct result {
	_Atomic(uint64_t) arenas, ns, worst_ns, pending, peak, helped;
};

static struct result *result;

static void raise_to(_Atomic(uint64_t) *highest, uint64_t value)
{
	uint64_t old = atomic_load(highest);

	while (value > old && !atomic_compare_exchange_weak(highest, &old, value))
		;
}

struct handed {
	void *start;
	size_t size;
};

static void *free_handed(void *arg)
{
	struct handed *handed = arg;

	bench_munmap(handed->start, handed->size);
	atomic_fetch_sub(&result->pending, handed->size);
	free(handed);
	return NULL;
}

static void free_by_thread(void *start, size_t size)
{
	struct handed *handed = malloc(sizeof(*handed));
	pthread_attr_t detached;
	pthread_t thread;

	bench_must(handed ? 0 : -ENOMEM, "malloc");
	*handed = (struct handed){start, size};
	raise_to(&result->peak, atomic_fetch_add(&result->pending, size) + size);
	pthread_attr_init(&detached);
	pthread_attr_setdetachstate(&detached, PTHREAD_CREATE_DETACHED);
	bench_must(-pthread_create(&thread, &detached, free_handed, handed),
		   "pthread_create");
	pthread_attr_destroy(&detached);
}

static void free_arena(td_engine *engine, unsigned id, void *start, size_t size)
{
	int err;

	if (id == MUNMAP) {
		bench_munmap(start, size);
	} else if (id == THREAD) {
		free_by_thread(start, size);
	} else {
		err = td_engine_munmap(engine, start, size, 0);
		if (err == -EAGAIN)
			bench_munmap(start, size);
		else
			bench_must(err, "td_engine_munmap");
	}
}

static void finish(td_engine *engine)
{
	struct td_engine_stats stats;

	while (atomic_load(&result->pending) > 0)
		usleep(1000);
	bench_drain(engine);
	bench_must(td_engine_stats(engine, &stats), "td_engine_stats");
	raise_to(&result->peak, stats.bytes_pending_peak);
	atomic_store(&result->helped,
		     stats.budget_helped + stats.budget_waited + stats.budget_refused);
}

static void loop(unsigned id, size_t size)
{
	static const enum td_budget_policy policies[NR_SUBJECTS] = {
		[BLOCK] = TD_BUDGET_WAIT, [AGAIN] = TD_BUDGET_AGAIN};
	uint64_t began = bench_now_ns(), freed;
	td_engine *engine;

	/* What it may leave pending is half of the cgroup's limit, by default. */
	bench_must(
		td_engine_create(
			TD_ENGINE_OPTS(.reapers = 1, .name = "bench",
				       .budget_policy = policies[id],
				       .budget = strcmp(group.name, "none") ? 0 : size),
			&engine),
		"td_engine_create");
	for (unsigned i = 0; i < WARM_UP + ARENAS; i++) {
		void *start;

		if (i == WARM_UP) {
			finish(engine);
			began = bench_now_ns();
		}
		start = bench_map_plain(size);
		freed = bench_now_ns();
		free_arena(engine, id, start, size);
		if (i < WARM_UP)
			continue;
		raise_to(&result->worst_ns, bench_now_ns() - freed);
		atomic_fetch_add(&result->arenas, 1);
		atomic_store(&result->ns, bench_now_ns() - began);
	}
	finish(engine);
	atomic_store(&result->ns, bench_now_ns() - began);
	bench_engine_done(engine);
}

static void sample(const struct bench_subject *self, size_t size, double *values)
{
	unsigned id = *(const unsigned *)self->arg;
	uint64_t ns;
	int status;
	pid_t pid;

	memset(result, 0, sizeof(*result));
	bench_must(fflush(stdout) ? -errno : 0, "stdout");
	pid = fork();
	bench_must(pid < 0 ? -errno : 0, "fork");
	if (pid == 0) {
		if (strcmp(group.name, "none") != 0)
			bench_must(write_file(group.dir, "cgroup.procs", "0"),
				   "joining the cgroup");
		loop(id, size);
		_exit(EXIT_SUCCESS);
	}
	bench_must(waitpid(pid, &status, 0) < 0 ? -errno : 0, "waitpid");
	if (WIFEXITED(status) && WEXITSTATUS(status) != EXIT_SUCCESS)
		exit(EXIT_FAILURE); /* it has said why */
	ns = atomic_load(&result->ns);
	values[OOM] = WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL;
	values[GIB_PER_S] = ns == 0 ? 0
				    : (double)(atomic_load(&result->arenas) * size) /
					      (double)BENCH_GIB * 1e9 / (double)ns;
	values[WORST_US] = (double)atomic_load(&result->worst_ns) / 1e3;
	values[PEAK] = (double)atomic_load(&result->peak);
	values[HELPED] = (double)atomic_load(&result->helped);
}

static void print_subject(const struct bench_subject *subject, size_t size)
{
	bench_print_line("budget", subject->name, "anon4k", size);
	bench_print_range("gib_per_s", subject, GIB_PER_S);
	printf(" worst_hold_us=%.0f worst_hold_us_median=%.0f peak_pending=%.0f "
	       "at_bound=%.0f oom=%d cgroup=%s repeat=%u\n",
	       bench_summarize(&subject->series[WORST_US]).max,
	       bench_median(subject, WORST_US),
	       bench_summarize(&subject->series[PEAK]).max,
	       bench_summarize(&subject->series[HELPED]).max,
	       bench_summarize(&subject->series[OOM]).max > 0, group.name,
	       subject->series[OOM].n);
}

static void run(const struct bench_opts *opts)
{
	static const unsigned ids[NR_SUBJECTS] = {MUNMAP, THREAD, HELP, BLOCK, AGAIN};
	static struct bench_subject subjects[NR_SUBJECTS] = {
		[MUNMAP] = {.name = "munmap", .sample = sample},
		[THREAD] = {.name = "thread", .sample = sample},
		[HELP] = {.name = "help", .sample = sample},
		[BLOCK] = {.name = "block", .sample = sample},
		[AGAIN] = {.name = "again", .sample = sample},
	};
	size_t size = opts->size ? opts->size : (size_t)512 << 20;

	if (!bench_fits("budget", 3 * size, opts))
		return;
	puts("# arenas mapped, filled and freed in a loop; room for two, and a little "
	     "for "
	     "page tables\n"
	     "# thread: a new thread for each munmap, as many as there are; again: "
	     "munmap "
	     "where the library says -EAGAIN\n"
	     "# worst_hold_us: the longest that freeing held the loop; at_bound: calls "
	     "in "
	     "a run that found no room");
	result = mmap(NULL, sizeof(*result), PROT_READ | PROT_WRITE,
		      MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	bench_must(result == MAP_FAILED ? -errno : 0, "mmap");
	for (unsigned i = 0; i < NR_SUBJECTS; i++)
		subjects[i].arg = &ids[i];
	group_make(2 * size + size / 32 + ((size_t)16 << 20));
	bench_rounds(subjects, NR_SUBJECTS, size, opts->repeat);
	group_remove();
	for (unsigned i = 0; i < NR_SUBJECTS; i++)
		print_subject(&subjects[i], size);
	printf("summary bench=budget size=%zu help_over_munmap=%.2f "
	       "munmap_hold_over_help_hold=%.1f\n",
	       size,
	       bench_median(&subjects[HELP], GIB_PER_S) /
		       bench_median(&subjects[MUNMAP], GIB_PER_S),
	       bench_summarize(&subjects[MUNMAP].series[WORST_US]).max /
		       bench_summarize(&subjects[HELP].series[WORST_US]).max);
	bench_munmap(result, sizeof(*result));
}

const struct bench_scenario bench_budget = {
	.name = "budget",
	.what = "arenas freed in a loop with memory for two of them (512 MiB)",
	.run = run,
};
