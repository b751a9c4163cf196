/* SPDX-License-Identifier: MIT */
/* D4 of detach.h: the quarantine is kept out of children and core dumps. */
#include "pieces.h"

#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <sys/wait.h>
#include <teardown/engine.h>

/* Do all mappings in the range have this flag in smaps? */
static bool all_have(uintptr_t start, size_t length, const char *flag)
{
	FILE *smaps = fopen("/proc/self/smaps", "re");
	unsigned long first = 0, last = 0;
	char line[512];
	size_t covered = 0;

	ck_assert_ptr_nonnull(smaps);
	while (fgets(line, sizeof(line), smaps)) {
		unsigned long a, b;

		if (sscanf(line, "%lx-%lx ", &a, &b) == 2) {
			first = tdi_max_size(a, start);
			last = tdi_min_size(b, start + length);
		} else if (strncmp(line, "VmFlags:", 8) == 0 && first < last &&
			   strstr(line, flag)) {
			covered += last - first;
		}
	}
	fclose(smaps);
	return covered == length;
}

START_TEST(the_quarantine_is_kept_out_of_children_and_dumps)
{
	struct tdi_piece pieces[] = {piece(4, 8), piece(20, 8), piece(40, 8)};
	struct tdi_quarantine quarantine;
	int status;
	pid_t pid;

	build_three();
	ck_assert_int_eq(detach(pieces, 3, &quarantine), 0);
	ck_assert(all_have(quarantine.start, AREA * page, " dc"));
	ck_assert(all_have(quarantine.start, AREA * page, " dd"));
	pid = fork();
	if (pid == 0) {
		size_t seen = 0;
		unsigned char in;

		for (size_t i = 0; i < AREA; i++)
			seen += mincore(quarantined(&quarantine) + i * page, page, &in) ==
				0;
		_exit((int)seen);
	}
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert_int_eq(status, 0);
	release(&quarantine);
}
END_TEST

START_TEST(a_quarantine_that_cannot_be_marked_says_so)
{
	struct tdi_piece whole = piece(0, AREA);
	struct tdi_quarantine quarantine;

	for (unsigned i = 0; i < 2; i++) {
		number_pages(map_at(base, AREA * page, PROT_READ | PROT_WRITE),
			     AREA * page, 1);
		tdt_fail_detail(TDI_SYS_madvise, i ? MADV_DONTDUMP : MADV_DONTFORK,
				-ENOMEM, 0, 1);
		ck_assert_int_eq(detach(&whole, 1, &quarantine), 0);
		tdt_fail_none();
		ck_assert(quarantine.exposed);
		ck_assert_uint_eq(tdt_mapped(base, AREA * page), 0);
		check_numbers(quarantined(&quarantine), AREA * page, 1);
		release(&quarantine);
	}
}
END_TEST

static _Atomic(pid_t) forker;
static sem_t may_fork;

static void *fork_when_told(void *arg)
{
	int *status = arg;
	pid_t pid;

	atomic_store(&forker, (pid_t)syscall(SYS_gettid));
	sem_wait(&may_fork);
	pid = fork();
	if (pid == 0)
		_exit(find_first() ? 1 : 0);
	if (waitpid(pid, status, 0) != pid)
		*status = -1;
	return NULL;
}

/* Does the thread sleep? */
static bool is_asleep(pid_t tid)
{
	char path[64], line[256] = "";
	FILE *file;

	snprintf(path, sizeof(path), "/proc/self/task/%d/stat", (int)tid);
	file = fopen(path, "re");
	if (file && !fgets(line, sizeof(line), file))
		line[0] = '\0';
	if (file)
		fclose(file);
	return strstr(line, ") S ") != NULL;
}

/* Between the move and the mark: lets another thread fork, until that has to wait. */
static int fork_before_mark(enum tdi_sys_call call, uintptr_t addr, size_t length,
			    int detail)
{
	(void)addr;
	(void)length;
	if (call == TDI_SYS_madvise && detail == MADV_DONTFORK) {
		sem_post(&may_fork);
		while (is_asleep(atomic_load(&forker)) == false)
			sched_yield();
	}
	return 0;
}

START_TEST(a_fork_waits_for_the_mark)
{
	struct tdi_piece pieces[] = {piece(4, 8), piece(20, 8), piece(40, 8)};
	struct tdi_quarantine quarantine;
	td_engine *engine;
	pthread_t thread;
	int status = -1;

	if (TDT_SANITIZED) {
		tdt_skip("a sanitizer's own locks do not survive a fork of threads");
		return;
	}
	/* it watches for forks */
	ck_assert_int_eq(td_engine_create(TD_ENGINE_OPTS(.reapers = 1), &engine), 0);
	build_three();
	sem_init(&may_fork, 0, 0);
	pthread_create(&thread, NULL, fork_when_told, &status);
	while (atomic_load(&forker) == 0)
		sched_yield();
	tdi_sys_set_fault(fork_before_mark);
	ck_assert_int_eq(detach(pieces, 3, &quarantine), 0);
	tdt_fail_none();
	pthread_join(thread, NULL);
	ck_assert_int_eq(status, 0);
	ck_assert_ptr_nonnull(find_first()); /* it would have been found */
	release(&quarantine);
	ck_assert_int_eq(td_engine_destroy(engine, TD_EXIT_DRAIN, 0), 0);
}
END_TEST

static int detach_in_child(void)
{
	struct tdi_piece whole = piece(0, AREA);
	struct tdi_quarantine quarantine;
	int status;
	pid_t pid;

	if (mmap(base, AREA * page, PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0) != base)
		return 1;
	if (detach(&whole, 1, &quarantine))
		return 2;
	/* and its own children find the lock as it should be */
	pid = fork();
	if (pid == 0) {
		if (mmap(base, AREA * page, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1,
			 0) != base)
			_exit(3);
		_exit(detach(&whole, 1, &quarantine) ? 4 : 0);
	}
	if (waitpid(pid, &status, 0) != pid || !WIFEXITED(status))
		return 5;
	return WEXITSTATUS(status);
}

/* The lock that a fork takes is the parent's thread's; the child's is another thread. */
START_TEST(children_and_their_children_detach_as_well)
{
	td_engine *engine;
	int status;
	pid_t pid;

	/* it watches for forks */
	ck_assert_int_eq(td_engine_create(TD_ENGINE_OPTS(.reapers = 1), &engine), 0);
	pid = fork();
	if (pid == 0) {
		alarm(20); /* rather than hang */
		_exit(detach_in_child());
	}
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert_int_eq(status, 0);
	ck_assert_int_eq(td_engine_destroy(engine, TD_EXIT_DRAIN, 0), 0);
}
END_TEST

int main(void)
{
	struct tdt *tests = tdt_suite("detach_fork");
	const TTest *all[] = {
		the_quarantine_is_kept_out_of_children_and_dumps,
		a_quarantine_that_cannot_be_marked_says_so,
		a_fork_waits_for_the_mark,
		children_and_their_children_detach_as_well,
	};

	for (size_t i = 0; i < sizeof(all) / sizeof(*all); i++)
		tdt_add(tests, all[i], setup, NULL);
	return tdt_run(tests);
}
