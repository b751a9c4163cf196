/* SPDX-License-Identifier: MIT */
#include "common.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <pthread.h>
#include <sched.h>
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

/* ---- what is to be measured ---- */

#define EXIT_USAGE 2

/* Is the word, which so many characters are, one of a list with commas between them? */
static bool has_word(const char *list, const char *word, size_t length)
{
	for (const char *at = list; at; at = strchr(at, ',')) {
		at += *at == ',' && at > list;
		if (strcspn(at, ",") == length && strncmp(at, word, length) == 0)
			return true;
	}
	return false;
}

bool bench_chosen(const struct bench_opts *opts, const char *name)
{
	return !opts->only || has_word(opts->only, name, strlen(name));
}

void bench_check_only(const struct bench_opts *opts, const char *const *names)
{
	for (const char *at = opts->only; at; at = strchr(at, ',')) {
		size_t length, i = 0;

		at += *at == ',' && at > opts->only;
		length = strcspn(at, ",");
		while (names[i] &&
		       (strlen(names[i]) != length || strncmp(names[i], at, length) != 0))
			i++;
		if (names[i])
			continue;
		fprintf(stderr, "error: --only: not known to this scenario: '%.*s'\n",
			(int)length, at);
		exit(EXIT_USAGE);
	}
}

/* ---- measuring ---- */

unsigned bench_cpus(void)
{
	cpu_set_t ours;

	bench_must(sched_getaffinity(0, sizeof(ours), &ours) ? -errno : 0,
		   "sched_getaffinity");
	return (unsigned)CPU_COUNT(&ours);
}

uint64_t bench_now_ns(void)
{
	struct timespec time;

	bench_must(clock_gettime(CLOCK_MONOTONIC, &time) ? -errno : 0, "clock_gettime");
	return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

static void run_round(struct bench_subject *subjects, unsigned nr_subjects, size_t size,
		      bool counts)
{
	for (unsigned i = 0; i < nr_subjects; i++) {
		struct bench_subject *subject = &subjects[i];
		double values[BENCH_VALUES_MAX] = {0};

		subject->sample(subject, size, values);
		for (unsigned k = 0; counts && k < BENCH_VALUES_MAX; k++) {
			struct bench_series *series = &subject->series[k];

			series->values[series->n++] = values[k];
		}
	}
}

void bench_rounds_warm(struct bench_subject *subjects, unsigned nr_subjects, size_t size,
		       unsigned repeat)
{
	for (unsigned i = 0; i < nr_subjects; i++) {
		for (unsigned k = 0; k < BENCH_VALUES_MAX; k++)
			subjects[i].series[k].n = 0;
	}
	for (unsigned round = 0; round < repeat; round++)
		run_round(subjects, nr_subjects, size, true);
}

void bench_rounds(struct bench_subject *subjects, unsigned nr_subjects, size_t size,
		  unsigned repeat)
{
	run_round(subjects, nr_subjects, size, false);
	bench_rounds_warm(subjects, nr_subjects, size, repeat);
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

/* ---- engines ---- */

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

uint64_t bench_reclaimed(td_engine *engine)
{
	struct td_engine_stats stats;

	bench_must(td_engine_stats(engine, &stats), "td_engine_stats");
	return stats.bytes_reclaimed - stats.bytes_in_caller;
}

/* ---- the thread that frees ---- */

struct bench_freer {
	pthread_t thread;
	sem_t work, done;
	void (*free)(void *arg); /* NULL = stop */
	void *arg;
	uint64_t ended;
};

void bench_thread_batch(void)
{
	const struct sched_param none = {0};

	bench_must(-pthread_setschedparam(pthread_self(), SCHED_BATCH, &none),
		   "SCHED_BATCH");
}

static void freer_wait(sem_t *sem)
{
	while (sem_wait(sem))
		bench_must(errno == EINTR ? 0 : -errno, "sem_wait");
}

static void *freer_thread(void *arg)
{
	struct bench_freer *freer = arg;

	bench_thread_batch();
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
	printf("# memory is filled by %s, by a thread for each of %u CPUs, before "
	       "anything is timed\n",
	       bench_fill_name(), bench_cpus());
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
