/* SPDX-License-Identifier: MIT */
/*
 * Loops that map, fill and free arenas as fast as they can, in a memory cgroup with room
 * for two of each: throughput, how long freeing one holds a loop, how much waits to be
 * freed, and whether the kernel kills it. Each run is a child of its own.
 *
 * One loop: filling memory costs several times as much as freeing it, so one thread that
 * frees keeps up. Eight loops: together they fill more than one thread frees, on few CPUs
 * since it gets a ninth of their time, on many since it has but one of them.
 */
#include "cgroup.h"
#include "common.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define LOOPS 8u
#define SMALLER 8u /* an arena, where there are so many loops */
#define RUN_NS UINT64_C(600000000)

enum {
	GIB_PER_S,
	WORST_US,
	PEAK,
	OOM,
	AT_BOUND,
	IN_PLACE,
	ARENAS,
	CPU_MS,
	WORST_CPU_US,
	NR_VALUES
};
enum { MUNMAP, THREAD, HELP, BLOCK, AGAIN, NR_SUBJECTS };

/* ---- the cgroup ---- */

static bool has_group(void)
{
	return bench_cgroup_version() != NULL;
}

static void group_make(uint64_t limit)
{
	int err = bench_cgroup_make(limit);

	if (err)
		printf("# no memory cgroup can be made (%s): nothing limits the loops "
		       "but their own budget\n",
		       strerror(-err));
}

/* ---- the ways to free ---- */

/* Shared with the parent, who reads it even when the child was killed. */
struct result {
	_Atomic(uint64_t) arenas, ns, worst_ns, worst_cpu_ns, pending, peak, at_bound,
		in_place;
};

static struct result *result;

static void raise_to(_Atomic(uint64_t) *highest, uint64_t value)
{
	uint64_t old = atomic_load(highest);

	while (value > old && !atomic_compare_exchange_weak(highest, &old, value))
		;
}

/* The bare thread: one that frees what it is handed, however much that is. */
struct handed {
	struct handed *next;
	void *start;
	size_t size;
};

static struct {
	pthread_mutex_t lock;
	pthread_cond_t changed;
	struct handed *first, **last;
} bare = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, NULL, &bare.first};

static void *free_handed(void *arg)
{
	(void)arg;
	bench_thread_batch();
	for (;;) {
		struct handed *handed;

		pthread_mutex_lock(&bare.lock);
		while (!bare.first)
			pthread_cond_wait(&bare.changed, &bare.lock);
		handed = bare.first;
		bare.first = handed->next;
		if (!bare.first)
			bare.last = &bare.first;
		pthread_mutex_unlock(&bare.lock);
		bench_munmap(handed->start, handed->size);
		atomic_fetch_sub(&result->pending, handed->size);
		free(handed);
	}
	return NULL;
}

static void bare_start(void)
{
	pthread_t thread;

	bench_must(-pthread_create(&thread, NULL, free_handed, NULL), "pthread_create");
}

static void hand_over(void *start, size_t size)
{
	struct handed *handed = malloc(sizeof(*handed));

	bench_must(handed ? 0 : -ENOMEM, "malloc");
	*handed = (struct handed){NULL, start, size};
	raise_to(&result->peak, atomic_fetch_add(&result->pending, size) + size);
	pthread_mutex_lock(&bare.lock);
	*bare.last = handed;
	bare.last = &handed->next;
	pthread_cond_signal(&bare.changed);
	pthread_mutex_unlock(&bare.lock);
}

static void free_arena(td_engine *engine, unsigned id, void *start, size_t size)
{
	int err;

	if (id == MUNMAP) {
		bench_munmap(start, size);
	} else if (id == THREAD) {
		hand_over(start, size);
	} else {
		err = td_engine_munmap(engine, start, size, 0);
		if (err == -EAGAIN)
			bench_munmap(start, size);
		else
			bench_must(err, "td_engine_munmap");
	}
}

/* ---- a run ---- */

struct run {
	unsigned id, loops;
	size_t size;
	uint64_t began;
	td_engine *engine;
};

static uint64_t thread_cpu_ns(void)
{
	struct timespec used;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &used);
	return (uint64_t)used.tv_sec * 1000000000u + (uint64_t)used.tv_nsec;
}

static void *loop(void *arg)
{
	const struct run *run = arg;

	while (bench_now_ns() < run->began + RUN_NS) {
		void *start = bench_map_unfilled(run->size);
		uint64_t freed, cpu;

		bench_touch(start, run->size); /* by the loop alone, as programs do */
		freed = bench_now_ns();
		cpu = thread_cpu_ns();
		free_arena(run->engine, run->id, start, run->size);
		raise_to(&result->worst_ns, bench_now_ns() - freed);
		raise_to(&result->worst_cpu_ns, thread_cpu_ns() - cpu);
		atomic_fetch_add(&result->arenas, 1);
		raise_to(&result->ns, bench_now_ns() - run->began);
	}
	return NULL;
}

/* Until all has been freed: that belongs to it. */
static void finish(struct run *run)
{
	struct td_engine_stats stats;

	while (atomic_load(&result->pending) > 0)
		usleep(100);
	bench_drain(run->engine);
	raise_to(&result->ns, bench_now_ns() - run->began);
	bench_must(td_engine_stats(run->engine, &stats), "td_engine_stats");
	raise_to(&result->peak, stats.bytes_pending_peak);
	atomic_store(&result->at_bound,
		     stats.budget_helped + stats.budget_waited + stats.budget_refused);
	atomic_store(&result->in_place, stats.budget_in_place);
	bench_engine_done(run->engine);
}

static void run_loops(struct run *run)
{
	static const enum td_budget_policy policies[NR_SUBJECTS] = {
		[BLOCK] = TD_BUDGET_WAIT, [AGAIN] = TD_BUDGET_AGAIN};
	pthread_t threads[LOOPS];

	/* What it may leave pending is half of the cgroup's limit, by default. */
	bench_must(td_engine_create(
			   TD_ENGINE_OPTS(.reapers = 1, .name = "bench",
					  .munmap_threshold = run->size,
					  .budget_policy = policies[run->id],
					  .budget = has_group() ? 0
								: run->loops * run->size),
			   &run->engine),
		   "td_engine_create");
	bare_start();
	run->began = bench_now_ns();
	for (unsigned i = 0; i < run->loops; i++)
		bench_must(-pthread_create(&threads[i], NULL, loop, run),
			   "pthread_create");
	for (unsigned i = 0; i < run->loops; i++)
		pthread_join(threads[i], NULL);
	finish(run);
}

static unsigned nr_loops;

static pid_t start_child(struct run *run)
{
	pid_t pid = bench_cgroup_fork();

	if (pid > 0)
		return pid;
	run_loops(run);
	_exit(EXIT_SUCCESS);
}

static double cpu_ms(const struct rusage *used)
{
	return (double)(used->ru_utime.tv_sec + used->ru_stime.tv_sec) * 1e3 +
	       (double)(used->ru_utime.tv_usec + used->ru_stime.tv_usec) / 1e3;
}

static void sample(const struct bench_subject *self, size_t size, double *values)
{
	struct run run = {
		.id = *(const unsigned *)self->arg, .loops = nr_loops, .size = size};
	struct rusage used;
	uint64_t ns;
	int status;

	memset(result, 0, sizeof(*result));
	bench_must(wait4(start_child(&run), &status, 0, &used) < 0 ? -errno : 0, "wait4");
	bench_cgroup_reaped();
	if (WIFEXITED(status) && WEXITSTATUS(status) != EXIT_SUCCESS)
		exit(EXIT_FAILURE); /* it has said why */
	ns = atomic_load(&result->ns);
	values[OOM] = WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL;
	values[GIB_PER_S] = ns == 0 ? 0
				    : (double)(atomic_load(&result->arenas) * size) /
					      (double)BENCH_GIB * 1e9 / (double)ns;
	values[WORST_US] = (double)atomic_load(&result->worst_ns) / 1e3;
	values[WORST_CPU_US] = (double)atomic_load(&result->worst_cpu_ns) / 1e3;
	values[PEAK] = (double)atomic_load(&result->peak);
	values[AT_BOUND] = (double)atomic_load(&result->at_bound);
	values[IN_PLACE] = (double)atomic_load(&result->in_place);
	values[ARENAS] = (double)atomic_load(&result->arenas);
	if (values[ARENAS] > 0)
		values[CPU_MS] =
			cpu_ms(&used) / values[ARENAS] * (double)BENCH_GIB / (double)size;
}

static double sum(const struct bench_subject *subject, unsigned value)
{
	double sum = 0;

	for (unsigned i = 0; i < subject->series[value].n; i++)
		sum += subject->series[value].values[i];
	return sum;
}

static void print_subject(const struct bench_subject *subject, size_t size)
{
	bench_print_line("budget", subject->name, "anon4k", size);
	printf(" loops=%u", nr_loops);
	bench_print_range("gib_per_s", subject, GIB_PER_S);
	printf(" cpu_ms_per_gib=%.0f worst_hold_us=%.0f worst_hold_us_median=%.0f "
	       "worst_hold_cpu_us=%.0f peak_pending=%.0f arenas=%.0f at_bound=%.0f "
	       "in_place=%.0f",
	       bench_median(subject, CPU_MS),
	       bench_summarize(&subject->series[WORST_US]).max,
	       bench_median(subject, WORST_US),
	       bench_summarize(&subject->series[WORST_CPU_US]).max,
	       bench_summarize(&subject->series[PEAK]).max, sum(subject, ARENAS),
	       sum(subject, AT_BOUND), sum(subject, IN_PLACE));
	/* Where nothing limits them, that none was killed says nothing. */
	if (has_group())
		printf(" oom=%.0f", sum(subject, OOM));
	printf(" cgroup=%s repeat=%u\n", has_group() ? bench_cgroup_version() : "none",
	       subject->series[OOM].n);
}

static void run_with(unsigned loops, size_t size, const struct bench_opts *opts)
{
	static const unsigned ids[NR_SUBJECTS] = {MUNMAP, THREAD, HELP, BLOCK, AGAIN};
	static struct bench_subject subjects[NR_SUBJECTS] = {
		[MUNMAP] = {.name = "munmap", .sample = sample},
		[THREAD] = {.name = "thread", .sample = sample},
		[HELP] = {.name = "help", .sample = sample},
		[BLOCK] = {.name = "block", .sample = sample},
		[AGAIN] = {.name = "again", .sample = sample},
	};
	size_t filled = loops * size;

	if (!bench_fits("budget", 2 * filled + filled / 2, opts))
		return;
	nr_loops = loops;
	for (unsigned i = 0; i < NR_SUBJECTS; i++)
		subjects[i].arg = &ids[i];
	group_make(2 * filled + filled / 32 + ((size_t)8 << 20));
	bench_rounds(subjects, NR_SUBJECTS, size, opts->repeat);
	for (unsigned i = 0; i < NR_SUBJECTS; i++)
		print_subject(&subjects[i], size);
	printf("summary bench=budget size=%zu loops=%u help_over_munmap=%.2f "
	       "help_cpu_over_munmap_cpu=%.2f munmap_hold_over_help_hold=%.1f\n",
	       size, loops,
	       bench_median(&subjects[HELP], GIB_PER_S) /
		       bench_median(&subjects[MUNMAP], GIB_PER_S),
	       bench_median(&subjects[HELP], CPU_MS) /
		       bench_median(&subjects[MUNMAP], CPU_MS),
	       bench_summarize(&subjects[MUNMAP].series[WORST_US]).max /
		       bench_summarize(&subjects[HELP].series[WORST_US]).max);
	bench_cgroup_remove();
}

static void run(const struct bench_opts *opts)
{
	size_t size = opts->size ? opts->size : (size_t)128 << 20;
	size_t smaller = size / SMALLER / ((size_t)2 << 20) * ((size_t)2 << 20);

	puts("# arenas mapped, filled and freed in loops, which touch their pages "
	     "themselves; room for two of each\n"
	     "# loop, and a little for page tables\n"
	     "# thread: a thread munmaps what it is handed, however much that is; again: "
	     "munmap where the library says -EAGAIN\n"
	     "# cpu_ms_per_gib: of all threads, for filling and freeing\n"
	     "# worst_hold_us: the longest that freeing held a loop; worst_hold_cpu_us: "
	     "the same without waiting\n"
	     "# for a CPU or a lock; at_bound, in_place: of so many arenas those that "
	     "found "
	     "no room, and that were\n"
	     "# then freed by the loop itself; oom: runs that were killed");
	result = mmap(NULL, sizeof(*result), PROT_READ | PROT_WRITE,
		      MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	bench_must(result == MAP_FAILED ? -errno : 0, "mmap");
	bench_cgroup_guard();
	run_with(1, size, opts);
	run_with(LOOPS, smaller > 0 ? smaller : size, opts);
	bench_cgroup_unguard();
	bench_munmap(result, sizeof(*result));
}

const struct bench_scenario bench_budget = {
	.name = "budget",
	.what = "arenas freed in a loop with memory for two of them (128 MiB)",
	.run = run,
};
