/* SPDX-License-Identifier: MIT */
/*
 * How soon the memory of a process that is killed is back: its pidfd says so, as it ends
 * when its memory is freed. The caller's CPU time is what it spends on helping.
 */
#include "kinds.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <teardown/process.h>
#include <time.h>
#include <unistd.h>

#ifndef SYS_process_mrelease
#define SYS_process_mrelease 448
#endif

enum { RECLAIM_MS, CALLER_CPU_MS, HELPED };
enum { SIGKILL_ONLY, MRELEASE, TD, NR_SUBJECTS };

struct victim {
	pid_t pid;
	int pidfd;
};

static void victim_live(size_t size, int advice, int told)
{
	char *start = bench_map(size, MAP_PRIVATE | MAP_ANONYMOUS, -1);

	bench_must(prctl(PR_SET_PDEATHSIG, SIGKILL) ? -errno : 0, "prctl");
	if (madvise(start, size, advice) && errno != EINVAL)
		bench_must(-errno, "madvise");
	bench_write(start, size);
	bench_must(write(told, "", 1) == 1 ? 0 : -EIO, "write");
	for (;;)
		pause();
}

static struct victim victim_start(size_t size, int advice)
{
	struct victim victim;
	int told[2];
	char c;

	bench_must(pipe(told) ? -errno : 0, "pipe");
	victim.pid = fork();
	bench_must(victim.pid < 0 ? -errno : 0, "fork");
	if (victim.pid == 0)
		victim_live(size, advice, told[1]);
	close(told[1]);
	bench_must(read(told[0], &c, 1) == 1 ? 0 : -EIO, "the process to be killed");
	close(told[0]);
	victim.pidfd = (int)syscall(SYS_pidfd_open, victim.pid, 0);
	bench_must(victim.pidfd < 0 ? -errno : 0, "pidfd_open");
	return victim;
}

static void send_kill(int pidfd)
{
	bench_must(syscall(SYS_pidfd_send_signal, pidfd, SIGKILL, NULL, 0) ? -errno : 0,
		   "pidfd_send_signal");
}

static void await_end(int pidfd)
{
	struct pollfd polled = {.fd = pidfd, .events = POLLIN};

	bench_must(poll(&polled, 1, -1) < 0 ? -errno : 0, "poll");
}

/* Each returns whether the caller has helped. */
static bool kill_only(int pidfd)
{
	send_kill(pidfd);
	await_end(pidfd);
	return false;
}

static bool kill_and_mrelease(int pidfd)
{
	long err;

	send_kill(pidfd);
	do
		err = syscall(SYS_process_mrelease, pidfd, 0) ? -errno : 0;
	while (err == -EAGAIN);
	if (err != -ESRCH)
		bench_must((int)err, "process_mrelease");
	await_end(pidfd);
	return err == 0;
}

static bool td_kill(int pidfd)
{
	struct td_process_report report = {.size = sizeof(report)};

	bench_must(td_process_kill(pidfd, TD_PROCESS_KILL_OPTS(.timeout_ns = TD_FOREVER),
				   &report),
		   "td_process_kill");
	return report.outcome == TD_PROCESS_RELEASED;
}

static double cpu_ms(void)
{
	struct timespec time;

	bench_must(clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time) ? -errno : 0,
		   "clock_gettime");
	return (double)time.tv_sec * 1e3 + (double)time.tv_nsec / 1e6;
}

struct way {
	bool (*kill)(int pidfd);
	int advice; /* for the memory */
};

static void sample(const struct bench_subject *self, size_t size, double *values)
{
	const struct way *way = self->arg;
	struct victim victim = victim_start(size, way->advice);
	double cpu = cpu_ms();
	uint64_t began = bench_now_ns();

	values[HELPED] = way->kill(victim.pidfd);
	values[RECLAIM_MS] = (double)(bench_now_ns() - began) / 1e6;
	values[CALLER_CPU_MS] = cpu_ms() - cpu;
	bench_must(waitpid(victim.pid, NULL, 0) < 0 ? -errno : 0, "waitpid");
	close(victim.pidfd);
}

static void run_kind(const struct bench_kind *of, size_t size, unsigned repeat)
{
	const char *kind = of->name, *why = bench_kind_prepare(of, &size);
	int advice = of->advice;
	const struct way ways[NR_SUBJECTS] = {
		{kill_only, advice}, {kill_and_mrelease, advice}, {td_kill, advice}};
	static struct bench_subject subjects[NR_SUBJECTS] = {
		{.name = "sigkill", .sample = sample},
		{.name = "mrelease", .sample = sample},
		{.name = "td", .sample = sample},
	};
	double helped;

	if (why) {
		printf("bench=kill kind=%s skipped reason=\"%s\"\n", kind, why);
		return;
	}
	for (unsigned i = 0; i < NR_SUBJECTS; i++)
		subjects[i].arg = &ways[i];
	bench_rounds(subjects, NR_SUBJECTS, size, repeat);
	for (unsigned i = 0; i < NR_SUBJECTS; i++) {
		helped = 0;
		for (unsigned k = 0; k < repeat; k++)
			helped += subjects[i].series[HELPED].values[k];
		bench_print_line("kill", subjects[i].name, kind, size);
		bench_print_range("reclaim_ms", &subjects[i], RECLAIM_MS);
		bench_print_range("caller_cpu_ms", &subjects[i], CALLER_CPU_MS);
		printf(" helped=%.0f repeat=%u\n", helped, repeat);
	}
	bench_kind_done(of);
	printf("summary bench=kill kind=%s td_over_sigkill=%.2f td_over_mrelease=%.2f\n",
	       kind,
	       bench_median(&subjects[TD], RECLAIM_MS) /
		       bench_median(&subjects[SIGKILL_ONLY], RECLAIM_MS),
	       bench_median(&subjects[TD], RECLAIM_MS) /
		       bench_median(&subjects[MRELEASE], RECLAIM_MS));
}

static void run(const struct bench_opts *opts)
{
	size_t size =
		bench_fitting("kill", opts->size ? opts->size : 4 * BENCH_GIB, opts);

	if (!(td_process_features() & TD_PROCESS_MRELEASE)) {
		puts("bench=kill skipped reason=\"the kernel has no process_mrelease\"");
		return;
	}
	bench_check_only(opts, (const char *const[]){"anon4k", "thp", NULL});
	if (bench_chosen(opts, "anon4k"))
		run_kind(&bench_kinds[BENCH_ANON4K], size, opts->repeat);
	if (bench_chosen(opts, "thp"))
		run_kind(&bench_kinds[BENCH_THP], size, opts->repeat);
}

const struct bench_scenario bench_kill = {
	.name = "kill",
	.what = "how soon the memory of a killed process is back (4 GiB)",
	.run = run,
};
