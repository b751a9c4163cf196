/* SPDX-License-Identifier: MIT */
/*
 * How long a process full of memory takes to end, and until its memory is back: as the
 * kernel has it, with a helper after QEMU's design, in the real QEMU without and with
 * its own, and with the library's.
 */
#include "exit.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NAP_MS 900.0

/* BEGUN: until the first of the memory was back. */
enum { WAITPID_MS, RECLAIM_MS, SEEN_MS, BEGUN_MS, NR_VALUES };
enum { PLAIN, QEMU_DESIGN, QEMU, QEMU_ASYNC, TD, NR_SUBJECTS };
enum { BY_EXIT, BY_KILL, NR_ENDS };

static const struct exit_subject all[NR_SUBJECTS] = {
	[PLAIN] = {"plain", exit_child_start, exit_child_end, NULL, false},
	[QEMU_DESIGN] = {"qemu_design", exit_child_start, exit_child_end,
			 exit_child_arm_qemu_design, false},
	[QEMU] = {"qemu", exit_qemu_start, exit_qemu_end, NULL, false},
	[QEMU_ASYNC] = {"qemu_async", exit_qemu_start, exit_qemu_end, NULL, true},
	[TD] = {"td", exit_child_start, exit_child_end, exit_child_arm_td, false},
};

static const char *const ends[NR_ENDS] = {"exit", "kill"};
static const enum bench_kind_id kinds[] = {BENCH_ANON4K, BENCH_THP, BENCH_MEMFD};
#define NR_KINDS (sizeof(kinds) / sizeof(kinds[0]))

/* What is being run. */
static struct {
	const struct bench_kind *kind;
	unsigned end;
} now;

static void kill_it(const struct exit_process *process)
{
	bench_must(kill(process->pid, SIGKILL) ? -errno : 0, "kill");
}

static void end_in_time(const struct exit_subject *subject, size_t size,
			const struct exit_process *process, struct exit_times *times)
{
	exit_watch(process, size, now.end == BY_KILL ? kill_it : subject->end, times);
	exit_close(process);
}

static void sample(const struct bench_subject *self, size_t size, double *values)
{
	const struct exit_subject *subject = self->arg;
	struct exit_process process = {0};
	struct exit_times times;
	const char *why = subject->start(subject, now.kind, size, &process);

	if (why) {
		fprintf(stderr, "error: %s: %s\n", subject->name, why);
		exit(EXIT_FAILURE);
	}
	end_in_time(subject, size, &process, &times);
	values[WAITPID_MS] = (double)times.waited / 1e6;
	values[RECLAIM_MS] = (double)times.reclaimed / 1e6;
	values[SEEN_MS] = (double)times.seen / 1e6;
	values[BEGUN_MS] = (double)times.begun / 1e6;
}

/* ---- which of them ---- */

enum { OF_SUBJECTS, OF_KINDS, OF_ENDS };

static const char *name_of(unsigned what, unsigned i)
{
	if (what == OF_SUBJECTS)
		return i < NR_SUBJECTS ? all[i].name : NULL;
	if (what == OF_KINDS)
		return i < NR_KINDS ? bench_kinds[kinds[i]].name : NULL;
	return i < NR_ENDS ? ends[i] : NULL;
}

/* All of the subjects, the kinds, the ends, unless some of them are named. */
static bool chosen(const struct bench_opts *opts, unsigned what, unsigned i)
{
	bool some = false;

	for (unsigned k = 0; opts->only && name_of(what, k); k++)
		some |= bench_chosen(opts, name_of(what, k));
	return !some || bench_chosen(opts, name_of(what, i));
}

static void check_only(const struct bench_opts *opts)
{
	const char *names[NR_SUBJECTS + NR_KINDS + NR_ENDS + 1] = {NULL};
	size_t nr = 0;

	for (unsigned what = OF_SUBJECTS; what <= OF_ENDS; what++) {
		for (unsigned i = 0; name_of(what, i); i++)
			names[nr++] = name_of(what, i);
	}
	bench_check_only(opts, names);
}

/* Those of the subjects that can be had, tried with little memory. */
static unsigned find_subjects(const struct bench_opts *opts,
			      struct bench_subject *subjects)
{
	unsigned nr = 0;

	now.kind = &bench_kinds[BENCH_ANON4K];
	now.end = BY_KILL;
	for (unsigned i = 0; i < NR_SUBJECTS; i++) {
		struct exit_process process = {0};
		size_t size = (size_t)16 << 20;
		struct exit_times times;
		const char *why;

		if (!chosen(opts, OF_SUBJECTS, i))
			continue;
		why = all[i].start(&all[i], now.kind, size, &process);
		if (why) {
			printf("bench=exit subject=%s skipped=\"%s\"\n", all[i].name,
			       why);
			continue;
		}
		end_in_time(&all[i], size, &process, &times);
		if (all[i].start == exit_qemu_start)
			exit_qemu_print_peer(&all[i],
					     opts->size ? opts->size : now.kind->size);
		subjects[nr++] = (struct bench_subject){
			.name = all[i].name, .sample = sample, .arg = &all[i]};
	}
	return nr;
}

/* ---- what came of it ---- */

/* The rounds in which nothing happened for so long that its helper must have slept on. */
static struct bench_series naps(const struct bench_subject *subject)
{
	struct bench_series napped = {.n = 0};

	for (unsigned i = 0; i < subject->series[BEGUN_MS].n; i++) {
		if (subject->series[BEGUN_MS].values[i] >= NAP_MS)
			napped.values[napped.n++] = subject->series[RECLAIM_MS].values[i];
	}
	return napped;
}

static void print_subject(const struct bench_subject *subject, size_t size)
{
	struct bench_series napped = naps(subject);

	bench_print_line("exit", subject->name, now.kind->name, size);
	printf(" end=%s", ends[now.end]);
	bench_print_range("waitpid_ms", subject, WAITPID_MS);
	bench_print_range("reclaim_ms", subject, RECLAIM_MS);
	printf(" seen_ms=%.1f begun_ms=%.1f naps=%u", bench_median(subject, SEEN_MS),
	       bench_median(subject, BEGUN_MS), napped.n);
	if (napped.n > 0)
		printf(" napped_ms=%.1f", bench_summarize(&napped).median);
	printf(" seen_by=%s repeat=%u\n", exit_watch_by(), subject->series[0].n);
}

static const struct bench_subject *find(const struct bench_subject *subjects, unsigned nr,
					unsigned id)
{
	for (unsigned i = 0; i < nr; i++) {
		if (subjects[i].arg == &all[id])
			return &subjects[i];
	}
	return NULL;
}

/* How much sooner the memory is back than by that one: in the median, and if it naps. */
static void print_sooner(const struct bench_subject *subjects, unsigned nr, unsigned id)
{
	const struct bench_subject *other = find(subjects, nr, id);
	double td = bench_median(find(subjects, nr, TD), RECLAIM_MS);
	struct bench_series napped;

	if (!other)
		return;
	napped = naps(other);
	printf(" %s_minus_td_ms=%.0f %s_naps=%u", other->name,
	       bench_median(other, RECLAIM_MS) - td, other->name, napped.n);
	if (napped.n > 0)
		printf(" %s_napped_minus_td_ms=%.0f", other->name,
		       bench_summarize(&napped).median - td);
}

static void print_summary(const struct bench_subject *subjects, unsigned nr, size_t size)
{
	const struct bench_subject *td = find(subjects, nr, TD),
				   *plain = find(subjects, nr, PLAIN),
				   *qemu = find(subjects, nr, QEMU);

	if (!td)
		return;
	printf("summary bench=exit kind=%s size=%zu end=%s", now.kind->name, size,
	       ends[now.end]);
	if (plain)
		printf(" plain_waitpid_over_td=%.1f td_reclaim_over_plain=%.3f",
		       bench_median(plain, WAITPID_MS) / bench_median(td, WAITPID_MS),
		       bench_median(td, RECLAIM_MS) / bench_median(plain, RECLAIM_MS));
	print_sooner(subjects, nr, QEMU_DESIGN);
	if (qemu)
		printf(" qemu_waitpid_over_td=%.1f",
		       bench_median(qemu, WAITPID_MS) / bench_median(td, WAITPID_MS));
	print_sooner(subjects, nr, QEMU_ASYNC);
	putchar('\n');
}

static void run(const struct bench_opts *opts)
{
	static struct bench_subject subjects[NR_SUBJECTS];
	unsigned nr;

	puts("# processes full of memory that exit, or are killed by SIGKILL\n"
	     "# waitpid_ms: until waitpid(2) returns; reclaim_ms: until nobody is left "
	     "who shares the memory\n"
	     "# (pidfd); begun_ms, seen_ms: until 10, and 98, of 100 bytes are back by "
	     "the kernel's count,\n"
	     "# looked at every 5 ms; naps: rounds in which nothing came back for 900 "
	     "ms, "
	     "since the helper slept\n"
	     "# for a second; napped_ms: reclaim_ms of these alone");
	check_only(opts);
	exit_watch_start();
	nr = find_subjects(opts, subjects);
	for (unsigned k = 0; nr > 0 && k < NR_KINDS; k++) {
		size_t size = opts->size ? opts->size : bench_kinds[kinds[k]].size;
		const char *why;

		if (!chosen(opts, OF_KINDS, k))
			continue;
		now.kind = &bench_kinds[kinds[k]];
		size = bench_fitting("exit", size, opts);
		why = bench_kind_prepare(now.kind, &size);
		if (why) {
			printf("# skipped bench=exit kind=%s: %s\n", now.kind->name, why);
			continue;
		}
		for (now.end = 0; now.end < NR_ENDS; now.end++) {
			if (!chosen(opts, OF_ENDS, now.end))
				continue;
			bench_rounds(subjects, nr, size, opts->repeat);
			for (unsigned i = 0; i < nr; i++)
				print_subject(&subjects[i], size);
			print_summary(subjects, nr, size);
		}
		bench_kind_done(now.kind);
	}
	exit_watch_stop();
}

const struct bench_scenario bench_exit = {
	.name = "exit",
	.what = "a process full of memory ends, and its memory comes back (4 GiB)",
	.run = run,
};
