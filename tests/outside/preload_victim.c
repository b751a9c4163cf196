/* SPDX-License-Identifier: MIT */
/*
 * usage: preload_victim WHAT [THRESHOLD]
 * A program that knows nothing of the library. It says what it sees, which must be the
 * same with libteardown-run.so and without: preload.py runs it both ways. THRESHOLD: from
 * what size on the preloaded object does otherwise than usual; sizes are chosen around
 * it.
 */
#include "preload_victim.h"

#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

size_t large = (size_t)1 << 20;
static sigjmp_buf out_of_fault;

void say(const char *what, long value)
{
	printf("%s: %ld\n", what, value);
	fflush(stdout);
}

void on_fault(int signal)
{
	siglongjmp(out_of_fault, signal);
}

int fault_of(volatile char *at)
{
	int signal = sigsetjmp(out_of_fault, 1);

	if (signal == 0)
		(void)*at;
	return signal;
}

void fill(void *at, size_t size, unsigned seed)
{
	for (size_t i = 0; i < size; i += 509)
		((unsigned char *)at)[i] = (unsigned char)(i * 31 + seed + 1);
}

bool is_filled(const void *at, size_t size, unsigned seed)
{
	for (size_t i = 0; i < size; i += 509)
		if (((const unsigned char *)at)[i] != (unsigned char)(i * 31 + seed + 1))
			return false;
	return true;
}

bool is_zero(const void *at, size_t size)
{
	const unsigned char *bytes = at;

	return bytes[0] == 0 && memcmp(bytes, bytes + 1, size - 1) == 0;
}

void must(bool is, const char *what)
{
	if (is)
		return;
	printf("WRONG: %s\n", what);
	fflush(stdout);
	_exit(99);
}

/* ---- ends ---- */

static void *late(void *arg)
{
	/* Until the main thread has gone. */
	pthread_join(*(pthread_t *)arg, NULL);
	around(large * 2);
	munmap(map(large * 2), large * 2);
	say("the last thread", 1);
	return NULL;
}

static void leave(void)
{
	around(large * 2);
	munmap(map(large * 2), large * 2);
	say("in an exit handler", 1);
}

static int end_by(const char *how)
{
	static pthread_t self, other;

	munmap(map(large * 8), large * 8);
	free(malloc(large * 8));
	if (!strcmp(how, "main-leaves")) {
		self = pthread_self();
		must(!pthread_create(&other, NULL, late, &self), "pthread_create");
		pthread_exit(NULL);
	} else if (!strcmp(how, "handler")) {
		atexit(leave);
		exit(21);
	} else if (!strcmp(how, "_exit")) {
		_exit(22);
	} else if (!strcmp(how, "quick_exit")) {
		quick_exit(23);
	} else if (!strcmp(how, "abort")) {
		abort();
	} else if (!strcmp(how, "kill")) {
		raise(SIGKILL);
	} else if (!strcmp(how, "fault")) {
		volatile uintptr_t nowhere = 8;

		*(volatile int *)nowhere = 1;
	} else if (!strcmp(how, "bad-free")) {
		free((char *)malloc(large * 2) + 4096);
	} else if (!strcmp(how, "exec")) {
		execl("/bin/sh", "sh", "-c", "exit 24", (char *)NULL);
	}
	return 98;
}

int main(int argc, char **argv)
{
	const char *what = argc > 1 ? argv[1] : "";

	setvbuf(stdout, NULL, _IONBF, 0);
	if (argc > 2)
		large = strtoul(argv[2], NULL, 10);
	if (!strcmp(what, "munmap"))
		return test_munmap();
	if (!strcmp(what, "malloc"))
		return test_malloc();
	if (!strcmp(what, "threads"))
		return test_threads();
	if (!strcmp(what, "fork"))
		return test_fork();
	if (!strcmp(what, "vfork"))
		return test_vfork();
	if (!strcmp(what, "limit"))
		return test_limit();
	if (!strcmp(what, "dontfork"))
		return test_dontfork();
	if (!strcmp(what, "late-limit"))
		return test_late_limit();
	if (!strcmp(what, "many"))
		return test_many();
	if (!strcmp(what, "signals"))
		return test_signals();
	return end_by(what);
}
