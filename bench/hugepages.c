/* SPDX-License-Identifier: MIT */
/*
 * The system's pool of huge pages, borrowed. It outlives the program, so a child process
 * watches over it: the child sees the end of the program, whatever it was, as the end of
 * a pipe, and writes the former number back.
 */
#include "kinds.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/wait.h>
#include <unistd.h>

static const char pool_path[] = "/proc/sys/vm/nr_hugepages";

static struct keeper {
	pid_t child; /* 0 = none */
	int pipe;
} keeper;

static uint64_t meminfo(const char *key)
{
	FILE *stream = fopen("/proc/meminfo", "re");
	uint64_t value = 0;
	char line[256];

	bench_must(stream ? 0 : -errno, "/proc/meminfo");
	while (fgets(line, sizeof(line), stream)) {
		if (strncmp(line, key, strlen(key)) == 0)
			value = strtoull(line + strlen(key), NULL, 10);
	}
	fclose(stream);
	return value;
}

size_t bench_hugepage_size(void)
{
	return (size_t)meminfo("Hugepagesize:") * 1024;
}

/* In the child of a program with threads: system calls only. */
static void keep(int read_end, const char *former)
{
	int pool;
	char c;

	signal(SIGINT, SIG_IGN);
	signal(SIGTERM, SIG_IGN);
	signal(SIGHUP, SIG_IGN);
	signal(SIGQUIT, SIG_IGN);
	while (read(read_end, &c, 1) < 0 && errno == EINTR)
		;
	pool = open(pool_path, O_WRONLY | O_CLOEXEC);
	if (pool < 0 || write(pool, former, strlen(former)) < 0)
		_exit(EXIT_FAILURE);
	_exit(EXIT_SUCCESS);
}

static void start_keeper(uint64_t former)
{
	char text[32];
	int ends[2];

	snprintf(text, sizeof(text), "%" PRIu64 "\n", former);
	bench_must(pipe2(ends, O_CLOEXEC) ? -errno : 0, "pipe2");
	bench_must(fflush(stdout) ? -errno : 0, "stdout");
	keeper.child = fork();
	bench_must(keeper.child < 0 ? -errno : 0, "fork");
	if (keeper.child == 0) {
		close(ends[1]);
		keep(ends[0], text);
	}
	close(ends[0]);
	keeper.pipe = ends[1];
}

void bench_hugepages_restore(void)
{
	int status;

	if (keeper.child == 0)
		return;
	close(keeper.pipe);
	while (waitpid(keeper.child, &status, 0) < 0)
		bench_must(errno == EINTR ? 0 : -errno, "waitpid");
	keeper.child = 0;
	if (status != 0)
		fprintf(stderr, "error: %s has not been set back\n", pool_path);
}

/* The pool is the machine's: others that change it wait until this program has ended. */
static void take_turn(void)
{
	static int lock = -1;

	if (lock < 0)
		lock = open(pool_path, O_RDONLY | O_CLOEXEC);
	if (lock >= 0)
		bench_must(flock(lock, LOCK_EX) ? -errno : 0, pool_path);
}

const char *bench_hugepages_reserve(size_t bytes)
{
	static char reason[128];
	size_t page = bench_hugepage_size();
	uint64_t nr, had, wanted;
	FILE *pool;

	if (page == 0)
		return "the kernel has no huge pages";
	take_turn();
	nr = meminfo("HugePages_Total:");
	had = meminfo("HugePages_Free:") - meminfo("HugePages_Rsvd:");
	wanted = (bytes + page - 1) / page;
	if (had >= wanted)
		return NULL;
	if ((wanted - had) * page > bench_available() / 10 * 9)
		return "not enough memory for huge pages";
	if (access(pool_path, W_OK)) {
		snprintf(reason, sizeof(reason),
			 "%" PRIu64 " of %" PRIu64 " huge pages are free and %s is not "
			 "ours to write",
			 had, wanted, pool_path);
		return reason;
	}
	start_keeper(nr);
	pool = fopen(pool_path, "we");
	bench_must(pool ? 0 : -errno, pool_path);
	fprintf(pool, "%" PRIu64 "\n", nr + wanted - had);
	bench_must(fclose(pool) ? -errno : 0, pool_path);
	had = meminfo("HugePages_Free:") - meminfo("HugePages_Rsvd:");
	if (had >= wanted)
		return NULL;
	bench_hugepages_restore();
	snprintf(reason, sizeof(reason),
		 "the kernel could make only %" PRIu64 " of %" PRIu64 " huge pages", had,
		 wanted);
	return reason;
}
