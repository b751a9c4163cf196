/* SPDX-License-Identifier: MIT */
/* preload_victim: limits, holes in children, very many blocks, signals. */
#include "preload_victim.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

/* ---- limits and signals ---- */

int test_limit(void)
{
	struct rlimit limit = {.rlim_cur = (rlim_t)large * 40 + ((rlim_t)256 << 20),
			       .rlim_max = RLIM_INFINITY};

	munmap(map(large * 4), large * 4);
	free(malloc(large * 3));
	say("setrlimit", setrlimit(RLIMIT_AS, &limit));
	/* Each is a good part of what there is: it must be back for the next. */
	for (int i = 0; i < 20; i++) {
		size_t size = large * 24;
		char *at = mmap(NULL, size, PROT_READ | PROT_WRITE,
				MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

		must(at != MAP_FAILED, "mmap near the limit");
		fill(at, size, 1);
		must(munmap(at, size) == 0, "munmap near the limit");
		at = malloc(size);
		must(at != NULL, "malloc near the limit");
		fill(at, size, 1);
		free(at);
	}
	SAY_CALL(mmap(NULL, (size_t)1 << 32, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
		      0) == MAP_FAILED);
	return 0;
}

/* A child lacks what MADV_DONTFORK was said of; what it maps may come to be there. */
int test_dontfork(void)
{
	size_t size = large * 200;
	char *whole = malloc(size), *part = malloc(size), *small[40];
	uintptr_t pages = ((uintptr_t)part + 8191) & ~(uintptr_t)4095;
	int status = 0;

	must(whole && part, "malloc");
	SAY_CALL(madvise((void *)(((uintptr_t)whole + 4095) & ~(uintptr_t)4095),
			 size - 4096, MADV_DONTFORK));
	SAY_CALL(madvise((void *)pages, size / 2, MADV_DONTFORK));
	fill(part + size - 8192, 8192, 7);
	if (fork() == 0) {
		for (int i = 0; i < 40; i++) {
			small[i] = malloc(large - 65536);
			must(small[i] != NULL, "malloc in the child");
			fill(small[i], large - 65536, (unsigned char)i);
		}
		for (int i = 0; i < 40; i++) {
			must(is_filled(small[i], large - 65536, (unsigned char)i),
			     "holds");
			free(small[i]);
		}
		signal(SIGSEGV, on_fault);
		say("fault in the child", fault_of((char *)pages));
		must(is_filled(part + size - 8192, 8192, 7), "the other part");
		free(part);
		free(malloc(size));
		_exit(0);
	}
	must(wait(&status) > 0, "wait");
	say("child", status);
	free(whole);
	free(part);
	return 0;
}

static _Atomic(bool) is_limited;
static _Atomic(unsigned) churned;

static void *churn_late(void *arg)
{
	unsigned seed = (unsigned)(uintptr_t)arg;
	char *blocks[4] = {NULL};
	size_t sizes[4] = {0};

	for (int i = 0, late = 0; late < 300; i++) {
		unsigned at = (unsigned)i % 4;
		size_t size;

		seed = seed * 1103515245 + 12345;
		late += atomic_load(&is_limited);
		atomic_fetch_add(&churned, 1);
		size = large / 2 + (seed >> 8) % (large * 3);
		if (seed >> 30) {
			free(blocks[at]);
			blocks[at] = NULL;
			sizes[at] = 0;
		}
		blocks[at] = realloc(blocks[at], size);
		must(blocks[at] != NULL, "realloc, then under a limit");
		must(sizes[at] == 0 ||
			     is_filled(blocks[at], sizes[at] < size ? sizes[at] : size,
				       (unsigned char)at),
		     "what is kept");
		fill(blocks[at], size, (unsigned char)at);
		sizes[at] = size;
	}
	for (int i = 0; i < 4; i++)
		free(blocks[i]);
	return NULL;
}

/* A limit on address space that comes when much is in use: no more counts than that. */
int test_late_limit(void)
{
	struct rlimit limit = {.rlim_cur = (rlim_t)2 << 30, .rlim_max = RLIM_INFINITY};
	char *blocks[8];
	pthread_t threads[2];

	for (unsigned i = 0; i < 8; i++) {
		blocks[i] = malloc(large * 32);
		must(blocks[i] != NULL, "malloc");
		fill(blocks[i], large * 32, (unsigned char)i);
	}
	for (uintptr_t i = 0; i < 2; i++)
		must(!pthread_create(&threads[i], NULL, churn_late, (void *)(i + 1)),
		     "pthread_create");
	while (atomic_load(&churned) < 100)
		sched_yield();
	free(blocks[3]);
	blocks[3] = NULL;
	say("setrlimit", setrlimit(RLIMIT_AS, &limit));
	atomic_store(&is_limited, true);
	for (unsigned i = 0; i < 8; i++) {
		must(!blocks[i] || is_filled(blocks[i], large * 32, (unsigned char)i),
		     "what was there before");
		blocks[i] = realloc(blocks[i], large * (24 + i * 2));
		must(blocks[i] != NULL, "realloc under a limit");
	}
	for (int i = 0; i < 2; i++)
		pthread_join(threads[i], NULL);
	for (int i = 0; i < 8; i++)
		free(blocks[i]);
	SAY_CALL(mmap(NULL, (size_t)1 << 32, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
		      0) == MAP_FAILED);
	return 0;
}

/* More blocks than a process may have mappings, had each two: others need some. */
static void *nothing(void *arg)
{
	return arg;
}

int test_many(void)
{
	enum { COUNT = 34000 };
	static char *blocks[COUNT];
	pthread_t thread;

	for (int i = 0; i < COUNT; i++) {
		size_t size = large + (size_t)(i % 7) * 4096;

		blocks[i] = malloc(size);
		must(blocks[i] != NULL, "malloc of many");
		blocks[i][0] = blocks[i][size - 1] = (char)i;
	}
	SAY_CALL(pthread_create(&thread, NULL, nothing, NULL));
	pthread_join(thread, NULL);
	for (int i = 0; i < COUNT; i++) {
		must(blocks[i][0] == (char)i, "what many hold");
		free(blocks[i]);
	}
	return 0;
}

static _Atomic(unsigned) handled;

static void on_alarm(int signal)
{
	int error = errno;
	char *at = mmap(NULL, large * 2, PROT_READ | PROT_WRITE,
			MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	(void)signal;
	if (at != MAP_FAILED) {
		at[0] = 1;
		munmap(at, large * 2);
	}
	handled++;
	errno = error;
}

int test_signals(void)
{
	const struct itimerval often = {{0, 500}, {0, 500}}, never = {{0, 0}, {0, 0}};
	pthread_t threads[4];

	signal(SIGALRM, on_alarm);
	setitimer(ITIMER_REAL, &often, NULL);
	rounds_left = 300;
	start(threads, 4);
	end(threads, 4);
	while (handled < 50)
		munmap(map(large * 2), large * 2);
	setitimer(ITIMER_REAL, &never, NULL);
	return 4;
}
