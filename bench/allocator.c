/* SPDX-License-Identifier: MIT */
/*
 * An allocator gives all of its blocks' memory back: how long its owner is held, when the
 * memory is back, and what another thread notices of it.
 */
#include "allocator.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

enum { CALLER_US, FREES_US, LONGEST_US, RECLAIM_MS, LEFT, STALL_US, STEAL_MS, NR_VALUES };
_Static_assert(NR_VALUES <= BENCH_VALUES_MAX, "no room for the values");

#define SUBJECTS_MAX 16u

/* ---- a child for each sample ---- */

__attribute__((noreturn)) static void run_child(const struct allocator_way *way,
						size_t size, int answer)
{
	char bytes[32], descriptor[16];
	int nowhere = open("/dev/null", O_WRONLY | O_CLOEXEC);

	bench_must(prctl(PR_SET_PDEATHSIG, SIGKILL) ? -errno : 0, "prctl");
	/* 4 KiB pages, whatever the machine has huge pages for. */
	bench_must(prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0) ? -errno : 0,
		   "PR_SET_THP_DISABLE");
	bench_must(setenv("LD_PRELOAD", way->library, 1) ? -errno : 0, "setenv");
	if (way->environment[0])
		bench_must(setenv(way->environment[0], way->environment[1], 1) ? -errno
									       : 0,
			   "setenv");
	/* The linker complains where there is none; that is asked beforehand. */
	if (size == 0 && nowhere >= 0)
		dup2(nowhere, STDERR_FILENO);
	snprintf(bytes, sizeof(bytes), "%zu", size);
	snprintf(descriptor, sizeof(descriptor), "%d", answer);
	execl("/proc/self/exe", "td-bench", ALLOCATOR_CHILD, way->name, bytes, descriptor,
	      (char *)NULL);
	_exit(127);
}

static struct allocator_outcome ask_child(const struct allocator_way *way, size_t size)
{
	struct allocator_outcome outcome = {.why = "its process failed"};
	int answer[2], status;
	ssize_t got;
	pid_t pid;

	bench_must(pipe(answer) || fflush(stdout) ? -errno : 0, "pipe");
	pid = fork();
	bench_must(pid < 0 ? -errno : 0, "fork");
	if (pid == 0)
		run_child(way, size, answer[1]);
	close(answer[1]);
	got = read(answer[0], &outcome, sizeof(outcome));
	close(answer[0]);
	bench_must(waitpid(pid, &status, 0) < 0 ? -errno : 0, "waitpid");
	/* Asked beforehand, this is a reason to do without; later it is an error. */
	if (size > 0)
		bench_must(got == (ssize_t)sizeof(outcome) && status == 0 ? 0 : -EIO,
			   way->name);
	return outcome;
}

static void sample(struct bench_subject *subject, size_t size)
{
	struct allocator_outcome outcome = ask_child(subject->arg, size);
	const double values[NR_VALUES] = {
		[CALLER_US] = outcome.all_us,	   [FREES_US] = outcome.frees_us,
		[LONGEST_US] = outcome.longest_us, [RECLAIM_MS] = outcome.reclaim_ms,
		[LEFT] = outcome.left_percent,	   [STALL_US] = outcome.worst_stall_us,
		[STEAL_MS] = outcome.steal_ms,
	};

	for (unsigned i = 0; i < NR_VALUES; i++)
		subject->series[i].values[subject->series[i].n++] = values[i];
}

/* ---- the subjects ---- */

/* Those that are asked for and can be had. Says of the others why not, and which version
 * the peer has. */
static unsigned find_subjects(const struct allocator_way *ways,
			      const struct bench_opts *opts, const char *peer,
			      const char *settings, struct bench_subject *subjects)
{
	bool told = false;
	unsigned nr = 0;

	for (const struct allocator_way *way = ways; way->name; way++) {
		struct allocator_outcome outcome;

		if (!bench_chosen(opts, way->name))
			continue;
		outcome = ask_child(way, 0);
		if (!outcome.why[0] && !told)
			bench_print_peer(peer, outcome.version, settings);
		told |= !outcome.why[0];
		if (outcome.why[0])
			printf("bench=allocator subject=%s skipped reason=\"%s\"\n",
			       way->name, outcome.why);
		else
			subjects[nr++] =
				(struct bench_subject){.name = way->name, .arg = way};
	}
	return nr;
}

static void print_subject(const struct bench_subject *subject, size_t size)
{
	bench_print_line("allocator", subject->name, "anon4k", size);
	bench_print_range("caller_us", subject, CALLER_US);
	printf(" frees_us=%.2f longest_call_us=%.2f", bench_median(subject, FREES_US),
	       bench_median(subject, LONGEST_US));
	bench_print_range("reclaim_ms", subject, RECLAIM_MS);
	printf(" left_percent=%.0f", bench_median(subject, LEFT));
	bench_print_range("worst_stall_us", subject, STALL_US);
	printf(" steal_ms=%.0f repeat=%u\n", bench_median(subject, STEAL_MS),
	       subject->series[CALLER_US].n);
}

static const struct bench_subject *find(const struct bench_subject *subjects, unsigned nr,
					const char *name)
{
	for (unsigned i = 0; i < nr; i++) {
		if (strcmp(subjects[i].name, name) == 0)
			return &subjects[i];
	}
	return NULL;
}

static void print_ratios(const struct bench_subject *subjects, unsigned nr,
			 const char *name, const char *over, const char *td_name)
{
	const struct bench_subject *peer = find(subjects, nr, name),
				   *td = find(subjects, nr, td_name);

	if (peer && td)
		printf(" %s_over_td=%.2f %s_stall_over_td=%.2f td_reclaim_over_%s=%.3f",
		       over, bench_median(peer, CALLER_US) / bench_median(td, CALLER_US),
		       over, bench_median(peer, STALL_US) / bench_median(td, STALL_US),
		       over,
		       bench_median(td, RECLAIM_MS) / bench_median(peer, RECLAIM_MS));
}

static void check_only(const struct bench_opts *opts)
{
	const char *names[SUBJECTS_MAX + 1] = {NULL};
	size_t nr = 0;

	for (const struct allocator_way *way = allocator_jemalloc; way->name; way++)
		names[nr++] = way->name;
	for (const struct allocator_way *way = allocator_mimalloc; way->name; way++)
		names[nr++] = way->name;
	bench_check_only(opts, names);
}

static void run(const struct bench_opts *opts)
{
	static struct bench_subject subjects[SUBJECTS_MAX];
	size_t size = bench_fitting("allocator", BENCH_GIB, opts);
	unsigned nr;

	check_only(opts);
	size = (size + ALLOCATOR_BLOCK - 1) / ALLOCATOR_BLOCK * ALLOCATOR_BLOCK;
	puts("# all blocks of an allocator, 2 MiB each, each filled by its owner, given "
	     "back. Each sample "
	     "is "
	     "a process of its own\n"
	     "# caller_us: the owner is held, in all calls together (frees_us: in those "
	     "for "
	     "one block each);\n"
	     "# reclaim_ms: until 98 of 100 bytes are back, by the process's own count; "
	     "left_percent: that\n"
	     "# has not come back in 30 s, of mimalloc at the end of the calls, which is "
	     "then its reclaim_ms; worst_stall_us: of another thread's mmap, "
	     "touch, munmap, in a second round");
	nr = find_subjects(
		allocator_jemalloc, opts, "jemalloc",
		"LD_PRELOAD MALLOC_CONF=abort_conf:true,background_thread:true; an "
		"explicit "
		"arena, mallocx and dallocx with MALLOCX_TCACHE_NONE; dirty_decay_ms as "
		"by "
		"default (10000) but for decay_1s (1000), decay_0 and td_hooks_free (0), "
		"muzzy_decay_ms as by default (0); decay_1s also oversize_threshold:0, "
		"since "
		"free memory joined to 8 MiB is by default purged by who frees it, "
		"background threads or not; purge and destroy: by the owner",
		subjects);
	nr += find_subjects(
		allocator_mimalloc, opts, "mimalloc",
		"LD_PRELOAD; options as by default: decommit_delay 25 ms, "
		"segment_decommit_delay 500 ms; mi_free, then mi_collect(true), without "
		"which an idle program's memory stays; 2.1 and later (purge_delay) "
		"differ",
		subjects + nr);
	for (unsigned round = 0; round < opts->repeat; round++) {
		for (unsigned i = 0; i < nr; i++) {
			const struct allocator_way *way = subjects[i].arg;

			if (way->rounds == 0 || round < way->rounds)
				sample(&subjects[i], size);
		}
	}
	for (unsigned i = 0; i < nr; i++)
		print_subject(&subjects[i], size);
	if (nr == 0)
		return;
	printf("summary bench=allocator size=%zu", size);
	print_ratios(subjects, nr, "jemalloc_destroy", "destroy", "td_hooks_destroy");
	print_ratios(subjects, nr, "jemalloc_purge", "purge", "td_hooks_free");
	print_ratios(subjects, nr, "jemalloc_decay_0", "decay_0", "td_hooks_free");
	print_ratios(subjects, nr, "jemalloc_decay_1s", "decay_1s", "td_hooks_free");
	print_ratios(subjects, nr, "jemalloc_background", "background", "td_hooks_free");
	print_ratios(subjects, nr, "mimalloc_collect", "mimalloc", "td_hooks_free");
	putchar('\n');
}

const struct bench_scenario bench_allocator = {
	.name = "allocator",
	.what = "an allocator gives its memory back: jemalloc, mimalloc (1 GiB)",
	.run = run,
};
