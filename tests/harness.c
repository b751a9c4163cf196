/* SPDX-License-Identifier: MIT */
#include "harness.h"
#include "base.h"
#include "vma.h"

#include <dirent.h>
#include <sched.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define TESTS_MAX 64
#define REASON_SIZE 160
#define TIMEOUT_S (TDT_SANITIZED ? 100 : 60)

struct tdt {
	Suite *suite;
	const char *names[TESTS_MAX];
	unsigned count;
};

/* One for each test, shared with the forked tests. */
static char (*skip_reasons)[REASON_SIZE];
static struct tdt all;

struct tdt *tdt_suite(const char *name)
{
	all.suite = suite_create(name);
	skip_reasons = mmap(NULL, sizeof(*skip_reasons) * TESTS_MAX,
			    PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (skip_reasons == MAP_FAILED)
		abort();
	return &all;
}

void tdt_add(struct tdt *tests, const TTest *test, void (*setup)(void),
	     void (*teardown)(void))
{
	/* A case for each test: the case's name comes back with the result. */
	TCase *tcase = tcase_create(test->name);

	if (tests->count == TESTS_MAX)
		abort();
	tests->names[tests->count++] = test->name;
	tcase_set_timeout(tcase, TIMEOUT_S);
	tcase_add_checked_fixture(tcase, setup, teardown);
	tcase_add_test(tcase, test);
	suite_add_tcase(tests->suite, tcase);
}

static char *reason_of(const char *name)
{
	for (unsigned i = 0; i < all.count; i++) {
		if (strcmp(all.names[i], name) == 0)
			return skip_reasons[i];
	}
	abort();
}

void tdt_skip(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vsnprintf(reason_of(tcase_name()), REASON_SIZE, format, args);
	va_end(args);
}

static void print_failure(int number, const char *name, TestResult *result)
{
	printf("not ok %d - %s\n# %s:%d: ", number, name, tr_lfile(result),
	       tr_lno(result));
	for (const char *c = tr_msg(result); *c; c++) {
		putchar(*c);
		if (*c == '\n') /* no line of a message may look like a result */
			fputs("# ", stdout);
	}
	putchar('\n');
}

int tdt_run(struct tdt *tests)
{
	SRunner *runner = srunner_create(tests->suite);
	const char *in_process = getenv("TDT_NOFORK"); /* for debuggers */
	TestResult **results;
	int failed, ran;

	srunner_set_fork_status(runner, in_process ? CK_NOFORK : CK_FORK);
	srunner_run_all(runner, CK_SILENT);
	failed = srunner_ntests_failed(runner);
	ran = srunner_ntests_run(runner);
	results = srunner_results(runner);
	printf("1..%d\n", ran);
	for (int i = 0; i < ran; i++) {
		const char *name = tr_tcname(results[i]);
		const char *reason = reason_of(name);

		if (tr_rtype(results[i]) != CK_PASS)
			print_failure(i + 1, name, results[i]);
		else if (reason[0])
			printf("ok %d - %s # SKIP %s\n", i + 1, name, reason);
		else
			printf("ok %d - %s\n", i + 1, name);
	}
	free(results);
	srunner_free(runner);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}

void tdt_expect_death(void (*fn)(void *arg), void *arg, const char *words)
{
	char said[4096];
	size_t length = 0;
	int out[2], status;
	ssize_t got;
	pid_t pid;

	ck_assert_int_eq(pipe(out), 0);
	pid = fork();
	ck_assert_int_ge(pid, 0);
	if (pid == 0) {
		dup2(out[1], STDERR_FILENO);
		close(out[0]);
		close(out[1]);
		fn(arg);
		_exit(0);
	}
	close(out[1]);
	while (length < sizeof(said) - 1 &&
	       (got = read(out[0], said + length, sizeof(said) - 1 - length)) > 0)
		length += (size_t)got;
	said[length] = '\0';
	close(out[0]);
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert_msg(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT,
		      "did not abort (status %#x), said: %s", (unsigned)status, said);
	ck_assert_msg(strstr(said, words) != NULL, "expected '%s', said: %s", words,
		      said);
}

/* ---- faults ---- */

static struct rule {
	int err, detail;
	bool any_detail;
	unsigned first, count, calls;
} rules[TDI_SYS_COUNT];
static pthread_mutex_t rules_lock = PTHREAD_MUTEX_INITIALIZER;

static int hook(enum tdi_sys_call call, uintptr_t addr, size_t length, int detail)
{
	struct rule *rule = &rules[call];
	int err = 0;

	(void)addr;
	(void)length;
	pthread_mutex_lock(&rules_lock);
	if (rule->any_detail || rule->detail == detail) {
		unsigned number = rule->calls++;

		if (number >= rule->first && number - rule->first < rule->count)
			err = rule->err;
	}
	pthread_mutex_unlock(&rules_lock);
	return err;
}

static void set_rule(enum tdi_sys_call call, bool any, int detail, int err,
		     unsigned first, unsigned count)
{
	pthread_mutex_lock(&rules_lock);
	rules[call] = (struct rule){
		.err = err,
		.any_detail = any,
		.detail = detail,
		.first = first,
		.count = count,
	};
	pthread_mutex_unlock(&rules_lock);
	tdi_sys_set_fault(hook);
}

void tdt_fail(enum tdi_sys_call call, int err, unsigned first, unsigned count)
{
	set_rule(call, true, 0, err, first, count);
}

void tdt_fail_detail(enum tdi_sys_call call, int detail, int err, unsigned first,
		     unsigned count)
{
	set_rule(call, false, detail, err, first, count);
}

void tdt_fail_none(void)
{
	for (unsigned i = 0; i < TDI_SYS_COUNT; i++)
		set_rule((enum tdi_sys_call)i, true, 0, 0, 0, 0);
}

unsigned tdt_calls(enum tdi_sys_call call)
{
	unsigned calls;

	pthread_mutex_lock(&rules_lock);
	calls = rules[call].calls;
	pthread_mutex_unlock(&rules_lock);
	return calls;
}

/* ---- a look at the process ---- */

struct span {
	uintptr_t start, end;
	size_t bytes;
};

static int add_span(const struct tdi_vma *vma, void *arg)
{
	struct span *span = arg;
	uintptr_t start = vma->start > span->start ? vma->start : span->start;
	uintptr_t end = vma->end < span->end ? vma->end : span->end;

	span->bytes += end - start;
	return 0;
}

size_t tdt_mapped(const void *addr, size_t length)
{
	struct span span = {(uintptr_t)addr, (uintptr_t)addr + length, 0};

	ck_assert_int_eq(tdi_vma_walk(span.start, span.end, add_span, &span), 0);
	return span.bytes;
}

size_t tdt_resident(const void *addr, size_t length)
{
	size_t page = tdi_page_size(), resident = 0;
	unsigned char in;

	for (size_t at = 0; at < length; at += page) {
		if (mincore((char *)(uintptr_t)addr + at, page, &in) == 0 && (in & 1))
			resident += page;
	}
	return resident;
}

void *tdt_map_anon(size_t length)
{
	void *addr = mmap(NULL, length, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	ck_assert_ptr_ne(addr, MAP_FAILED);
	return addr;
}

void tdt_touch(void *addr, size_t length)
{
	size_t page = tdi_page_size();

	for (size_t at = 0; at < length; at += page)
		((volatile char *)addr)[at] = 1;
}

static size_t count_lines(const char *path)
{
	FILE *file = fopen(path, "re");
	size_t lines = 0;
	int c;

	ck_assert_ptr_nonnull(file);
	while ((c = getc(file)) != EOF)
		lines += c == '\n';
	fclose(file);
	return lines;
}

static size_t count_entries(const char *path)
{
	DIR *dir = opendir(path);
	size_t entries = 0;

	ck_assert_ptr_nonnull(dir);
	while (readdir(dir))
		entries++;
	closedir(dir);
	return entries;
}

static size_t rss_kib(void)
{
	FILE *file = fopen("/proc/self/status", "re");
	char line[256];
	size_t kib = 0;

	ck_assert_ptr_nonnull(file);
	while (fgets(line, sizeof(line), file)) {
		if (sscanf(line, "VmRSS: %zu kB", &kib) == 1)
			break;
	}
	fclose(file);
	return kib;
}

struct tdt_footprint tdt_footprint(void)
{
	return (struct tdt_footprint){
		.rss_kib = rss_kib(),
		.mappings = count_lines("/proc/self/maps"),
		.threads = count_entries("/proc/self/task") - 2, /* . and .. */
		.descriptors = count_entries("/proc/self/fd"),
	};
}

void tdt_await_threads(size_t threads)
{
	uint64_t deadline = tdi_sys_deadline(INT64_C(20000000000));

	while (count_entries("/proc/self/task") - 2 > threads) { /* . and .. */
		ck_assert_msg(tdi_sys_now_ns() < deadline,
			      "%zu threads are more than %zu",
			      count_entries("/proc/self/task") - 2, threads);
		sched_yield();
	}
}

void tdt_check_mappings(size_t before, size_t slack)
{
	if (!TDT_SANITIZED)
		ck_assert_uint_le(count_lines("/proc/self/maps"), before + slack);
}
