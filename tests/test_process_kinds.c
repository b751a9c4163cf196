/* SPDX-License-Identifier: MIT */
/* C2: killing processes that are not like most: that dump core, whose first thread has
 * ended, that are large, that cannot be killed. */
#include "child.h"
#include "filter.h"
#include "victim.h"

#include <errno.h>
#include <sys/resource.h>
#include <teardown.h>

/* A report that is asked for, and filled with what must not be left in it. */
static struct td_process_report asked(void)
{
	struct td_process_report report;

	memset(&report, 0x5a, sizeof(report));
	report.size = sizeof(report);
	return report;
}

static void check_back(const struct td_process_report *report)
{
	ck_assert_uint_eq(report->size, sizeof(*report));
	ck_assert_uint_eq(report->left, 0);
	ck_assert_uint_gt(report->killed_ns, 0);
	ck_assert_uint_ge(report->reclaimed_ns, report->killed_ns);
}

static bool is_dumping(pid_t pid)
{
	char path[64], line[128];
	int is = 0;
	FILE *file;

	snprintf(path, sizeof(path), "/proc/%d/status", (int)pid);
	file = fopen(path, "re");
	while (file && fgets(line, sizeof(line), file))
		sscanf(line, "CoreDumping: %d", &is);
	if (file)
		fclose(file);
	return is == 1;
}

static bool cores_are_files(void)
{
	FILE *file = fopen("/proc/sys/kernel/core_pattern", "re");
	int first = file ? getc(file) : EOF;

	if (file)
		fclose(file);
	return first != EOF && first != '|' && first != '/' && first != '\n';
}

static struct victim meant;

static void begin_to_dump(void)
{
	kill(meant.pid, SIGABRT);
	while (!is_dumping(meant.pid) && !victim_has_ended(meant.pidfd, 0))
		sched_yield();
}

static int dump_before_the_kill(enum tdi_sys_call call, uintptr_t addr, size_t length,
				int detail)
{
	(void)addr;
	(void)length;
	if (call == TDI_SYS_pidfd_send_signal && detail == SIGKILL)
		begin_to_dump();
	return 0;
}

/* It is refused as one that shares its memory is, whether it has been seen to dump before
 * the kill or not. */
START_TEST(who_dumps_core_is_not_taken_for_shared)
{
	struct rlimit all = {RLIM_INFINITY, RLIM_INFINITY};
	char dir[] = "/tmp/test_process_kinds.XXXXXX", rm[64];
	struct td_process_report report;

	if (TDT_SANITIZED || !cores_are_files()) {
		tdt_skip("cores are not written to files here");
		return;
	}
	/* A directory of its own, which is left empty. */
	ck_assert_ptr_nonnull(mkdtemp(dir));
	ck_assert_int_eq(chdir(dir), 0);
	(void)setrlimit(RLIMIT_CORE, &all);
	for (unsigned late = 0; late < 2; late++) {
		report = asked();
		meant = victim_start((struct victim_plan){.size = 128 * MIB});
		if (late)
			tdi_sys_set_fault(dump_before_the_kill);
		else
			begin_to_dump();
		ck_assert_int_eq(td_process_kill(meant.pidfd, NULL, &report), 0);
		tdt_fail_none();
		ck_assert(victim_has_ended(meant.pidfd, 0));
		ck_assert_msg(report.outcome == TD_PROCESS_RELEASED ||
				      report.outcome == TD_PROCESS_RACED ||
				      report.outcome == TD_PROCESS_NOTHING_LEFT,
			      "late %u: %s", late,
			      td_process_outcome_name(report.outcome));
		check_back(&report);
		victim_end(&meant);
	}
	snprintf(rm, sizeof(rm), "rm -r %s", dir);
	ck_assert_int_eq(system(rm), 0);
}
END_TEST

static void *live_on(void *arg)
{
	char c = 0;

	/* Its first thread has ended: nothing but the process's own end is to come. */
	if (write(*(int *)arg, &c, 1) != 1)
		_exit(1);
	for (;;)
		pause();
}

/* A process whose first thread has ended. */
static struct victim victim_without_first_thread(void)
{
	struct victim victim = {.hold = -1, .sharer = 0};
	char path[64], stat[512], c;
	int told[2], fd;

	ck_assert_int_eq(pipe2(told, O_CLOEXEC), 0);
	victim.pid = fork();
	ck_assert_int_ge(victim.pid, 0);
	if (victim.pid == 0) {
		void *addr = mmap(NULL, VICTIM_SIZE, PROT_READ | PROT_WRITE,
				  MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
		pthread_t thread;

		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (addr == MAP_FAILED ||
		    pthread_create(&thread, NULL, live_on, &told[1]))
			_exit(1);
		syscall(SYS_exit, 0);
	}
	close(told[1]);
	ck_assert_int_eq(read(told[0], &c, 1), 1);
	close(told[0]);
	victim.pidfd = (int)syscall(SYS_pidfd_open, victim.pid, 0);
	snprintf(path, sizeof(path), "/proc/%d/stat", (int)victim.pid);
	do {
		fd = open(path, O_RDONLY | O_CLOEXEC);
		ck_assert_int_ge(fd, 0);
		memset(stat, 0, sizeof(stat));
		ck_assert_int_gt(read(fd, stat, sizeof(stat) - 1), 0);
		close(fd);
	} while (strstr(stat, ") Z ") == NULL);
	return victim;
}

/* What is dead of it is its first thread. */
START_TEST(a_process_outlives_its_first_thread)
{
	struct td_process_report report;
	struct victim victim;

	if (skip_without_threads())
		return;
	(void)td_process_features();
	for (unsigned there = 0; there < 2; there++) {
		report = asked();
		victim = victim_without_first_thread();
		if (!there)
			tdt_fail(TDI_SYS_process_mrelease, -ENOSYS, 0, UINT32_MAX);
		ck_assert_int_eq(td_process_kill(victim.pidfd, NULL, &report), 0);
		tdt_fail_none();
		if (!there)
			ck_assert_int_eq(report.outcome, TD_PROCESS_UNSUPPORTED);
		else
			ck_assert(report.outcome == TD_PROCESS_RELEASED ||
				  report.outcome == TD_PROCESS_RACED);
		ck_assert_uint_ge(report.resident, VICTIM_SIZE);
		check_back(&report);
		ck_assert(victim_has_ended(victim.pidfd, 0));
		ck_assert_int_eq(WTERMSIG(victim_end(&victim)), SIGKILL);
	}
}
END_TEST

static const unsigned large = 300;

static struct victim large_victim(void)
{
	unsigned here;
	cpu_set_t cpus;
	struct victim victim;

	/* It is to have run last where its killer does. */
	ck_assert_int_eq(getcpu(&here, NULL), 0);
	CPU_ZERO(&cpus);
	CPU_SET(here, &cpus);
	ck_assert_int_eq(sched_setaffinity(0, sizeof(cpus), &cpus), 0);
	victim = victim_start((struct victim_plan){.size = large * MIB});
	return victim;
}

static void kill_large_filtered(void *arg)
{
	struct td_process_report report = {.size = sizeof(report)};

	need_eq(filter_one(SYS_sched_setaffinity, SECCOMP_RET_KILL_PROCESS), 0);
	need_eq(td_process_kill(*(int *)arg, NULL, &report), 0);
	need(report.reclaimed_ns > 0);
}

static pthread_t mover;
static unsigned moves;

static int note_move(enum tdi_sys_call call, uintptr_t addr, size_t length, int detail)
{
	(void)addr;
	(void)length;
	(void)detail;
	if (call == TDI_SYS_setaffinity) {
		mover = pthread_self();
		moves++;
	}
	return 0;
}

/* The caller's thread runs where it did, before, meanwhile and afterwards; and no filter
 * minds. */
START_TEST(where_the_caller_may_run_is_not_touched)
{
	struct td_process_report report = asked();
	struct victim victim;
	cpu_set_t before, after;

	if (TDT_SANITIZED) {
		tdt_skip("not another code under a sanitizer, which is slow with that "
			 "much memory");
		return;
	}
	(void)td_process_features();
	ck_assert_int_eq(sched_getaffinity(0, sizeof(before), &before), 0);
	for (unsigned filtered = 0; filtered < 2; filtered++) {
		victim = large_victim();
		ck_assert_int_eq(sched_setaffinity(0, sizeof(before), &before), 0);
		tdi_sys_set_fault(note_move);
		if (filtered)
			ck_assert_int_eq(in_child(kill_large_filtered, &victim.pidfd), 0);
		else
			ck_assert_int_eq(td_process_kill(victim.pidfd, NULL, &report), 0);
		ck_assert(victim_has_ended(victim.pidfd, 0));
		victim_end(&victim);
		ck_assert_int_eq(sched_getaffinity(0, sizeof(after), &after), 0);
		ck_assert(CPU_EQUAL(&before, &after));
		/* Only where a CPU was idle. */
		ck_assert(moves == 0 || !pthread_equal(mover, pthread_self()));
	}
	printf("# moved: %u\n", moves);
	check_back(&report);
}
END_TEST

/* SIGKILL would be sent, and nothing come of it. */
START_TEST(what_cannot_be_killed_is_refused)
{
	struct td_process_report report = {.size = sizeof(report), .tries = 77};

	/* kthreadd, unless this is a PID namespace of its own. */
	for (pid_t pid = 1; pid <= 2; pid++) {
		int pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
		char path[32], target[256];

		snprintf(path, sizeof(path), "/proc/%d/exe", (int)pid);
		if (pidfd < 0 ||
		    (pid == 2 && (readlink(path, target, 256) >= 0 || errno != ENOENT)))
			continue;
		ck_assert_int_eq(td_process_kill(pidfd,
						 TD_PROCESS_KILL_OPTS(.timeout_ns = 1),
						 &report),
				 -EPERM);
		ck_assert_uint_eq(report.tries, 77);
		close(pidfd);
	}
}
END_TEST

int main(void)
{
	struct tdt *tests = tdt_suite("process_kinds");

	tdt_add(tests, who_dumps_core_is_not_taken_for_shared, NULL, NULL);
	tdt_add(tests, a_process_outlives_its_first_thread, NULL, NULL);
	tdt_add(tests, where_the_caller_may_run_is_not_touched, NULL, NULL);
	tdt_add(tests, what_cannot_be_killed_is_refused, NULL, NULL);
	return tdt_run(tests);
}
