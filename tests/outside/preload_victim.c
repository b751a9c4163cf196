/* SPDX-License-Identifier: MIT */
/*
 * usage: preload_victim WHAT [THRESHOLD]
 * A program that knows nothing of the library. It says what it sees, which must be the
 * same with libteardown-run.so and without: preload.py runs it both ways. THRESHOLD: from
 * what size on the preloaded object does otherwise than usual; sizes are chosen around
 * it.
 */
#include <errno.h>
#include <limits.h>
#include <malloc.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <spawn.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

static size_t large = (size_t)1 << 20;
static sigjmp_buf out_of_fault;

extern char **environ;

static void say(const char *what, long value)
{
	printf("%s: %ld\n", what, value);
	fflush(stdout);
}

/* What the call returned, and errno where that was -1. */
#define SAY_CALL(call)                                                                   \
	do {                                                                             \
		errno = 0;                                                               \
		long result_ = (long)(call);                                             \
		printf("%s: %ld %s\n", #call, result_, strerrorname_np(errno));          \
		fflush(stdout);                                                          \
	} while (0)

static void on_fault(int signal)
{
	siglongjmp(out_of_fault, signal);
}

static int fault_of(volatile char *at)
{
	int signal = sigsetjmp(out_of_fault, 1);

	if (signal == 0)
		(void)*at;
	return signal;
}

static void fill(void *at, size_t size, unsigned seed)
{
	for (size_t i = 0; i < size; i += 509)
		((unsigned char *)at)[i] = (unsigned char)(i * 31 + seed + 1);
}

static bool is_filled(const void *at, size_t size, unsigned seed)
{
	for (size_t i = 0; i < size; i += 509)
		if (((const unsigned char *)at)[i] != (unsigned char)(i * 31 + seed + 1))
			return false;
	return true;
}

static bool is_zero(const void *at, size_t size)
{
	const unsigned char *bytes = at;

	return bytes[0] == 0 && memcmp(bytes, bytes + 1, size - 1) == 0;
}

static void must(bool is, const char *what)
{
	if (is)
		return;
	printf("WRONG: %s\n", what);
	fflush(stdout);
	_exit(99);
}

/* ---- ranges ---- */

static char *map(size_t size)
{
	char *at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
			-1, 0);

	must(at != MAP_FAILED, "mmap");
	fill(at, size, 3);
	return at;
}

static int test_munmap(void)
{
	size_t size = large * 8;
	char *at = map(size), *again;

	signal(SIGSEGV, on_fault);
	errno = 77;
	say("munmap", munmap(at, size));
	say("errno is kept", errno);
	say("the start faults", fault_of(at));
	say("the end faults", fault_of(at + size - 1));
	again = mmap(at, size, PROT_READ | PROT_WRITE,
		     MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
	say("it can be mapped again", again == at && is_zero(at, size));
	fill(at, size, 4);
	/* A part from the middle. */
	say("middle", munmap(at + size / 4, size / 2));
	say("before it", is_filled(at, size / 4, 4));
	say("in it", fault_of(at + size / 2));
	say("behind it", at[size - 509] != 0 || at[size - 1] == 0);
	say("with a hole", munmap(at, size));
	say("once more", munmap(at, size));
	SAY_CALL(munmap((void *)(uintptr_t)4097, large));
	SAY_CALL(munmap((void *)(uintptr_t)4096, 0));
	SAY_CALL(munmap((void *)(uintptr_t)4096, SIZE_MAX - 8192));
	SAY_CALL(munmap((void *)(UINTPTR_MAX - 4095), large));
	SAY_CALL(mmap(NULL, 0, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) ==
		 MAP_FAILED);
	SAY_CALL(mmap(NULL, large, PROT_READ, MAP_PRIVATE, -1, 0) == MAP_FAILED);
	SAY_CALL(mremap((void *)(uintptr_t)4096, 4096, large, 0) == MAP_FAILED);
	SAY_CALL(mlock((void *)(uintptr_t)4096, large));

	at = map(size);
	again = mremap(at, size, size * 2, MREMAP_MAYMOVE);
	must(again != MAP_FAILED, "mremap");
	say("moved", is_filled(again, size, 3));
	at = mmap(NULL, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	say("to an address",
	    mremap(again, size, size, MREMAP_MAYMOVE | MREMAP_FIXED, at) == at);
	say("is there", is_filled(at, size, 3));
	munmap(at, size);
	munmap(again + size, size);

	at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	fill(at, size, 5);
	say("shared", munmap(at, size));
	at = map(size);
	say("mlock", mlock(at, size));
	say("locked", munmap(at, size));
	return 12;
}

/* ---- malloc ---- */

static void around(size_t size)
{
	unsigned char *at = malloc(size);
	size_t usable;

	must(at != NULL, "malloc");
#ifdef OWN_MALLOC
	usable = size;
#else
	usable = malloc_usable_size(at);
#endif
	must(usable >= size, "usable size");
	fill(at, usable, 1);
	must(is_filled(at, usable, 1), "malloc's memory");
	free(at);
	at = calloc(size / 16, 16);
	must(at && is_zero(at, size / 16 * 16), "calloc's memory");
	fill(at, size / 16 * 16, 2);
	free(at);
	at = calloc(1, size);
	must(at && is_zero(at, size), "calloc's memory, used before");
	free(at);
}

static void change(size_t from, size_t to)
{
	unsigned char *at = malloc(from), *then;
	size_t least = from < to ? from : to;

	must(at != NULL, "malloc");
	fill(at, from, 7);
	then = realloc(at, to);
	must(then && malloc_usable_size(then) >= to, "realloc");
	must(is_filled(then, least, 7), "realloc's memory");
	fill(then, to, 8);
	/* And back. */
	at = reallocarray(then, 1, from);
	must(at && is_filled(at, least, 8), "realloc's memory, back");
	free(at);
}

static int test_malloc(void)
{
	const size_t sizes[] = {
		16,	   large / 2,	  large - 1,  large,	     large + 1,
		large * 2, large * 3 + 7, large * 16, large * 40 + 1};
	const size_t n = sizeof(sizes) / sizeof(sizes[0]);
	unsigned char *at, *blocks[64];
	void *aligned = (void *)1;
	volatile size_t most = SIZE_MAX;

	for (size_t i = 0; i < n; i++) {
		around(sizes[i]);
		for (size_t k = 0; k < n; k++)
			change(sizes[i], sizes[k]);
	}
	/* Grows by little, with others in its way. */
	at = NULL;
	for (size_t size = large / 2; size < large * 20; size += large / 3) {
		unsigned char *grown = realloc(at, size), *other = malloc(large);

		must(grown && other, "growing");
		must(!at || is_filled(grown, size - large / 3, 9), "growing memory");
		fill(grown, size, 9);
		at = grown;
		free(other);
	}
	free(at);
	for (unsigned i = 0; i < 64; i++) {
		blocks[i] = malloc(large + i * 4096);
		must(blocks[i] != NULL, "many");
		fill(blocks[i], large, i);
	}
	for (unsigned i = 0; i < 64; i += 2)
		free(blocks[i]);
	for (unsigned i = 1; i < 64; i += 2) {
		must(is_filled(blocks[i], large, i), "one between freed ones");
		blocks[i] = realloc(blocks[i], large * 4);
		must(is_filled(blocks[i], large, i), "one that grew between freed ones");
	}
	for (unsigned i = 1; i < 64; i += 2)
		free(blocks[i]);

	for (size_t align = 16; align <= (size_t)64 << 20; align *= 4) {
		at = aligned_alloc(align, align > large ? align : large);
		must(at && (uintptr_t)at % align == 0, "aligned_alloc");
		fill(at, large, 6);
		must(!posix_memalign(&aligned, align, large + 3) &&
			     (uintptr_t)aligned % align == 0,
		     "posix_memalign");
		free(at);
		must(is_zero(aligned, 1) || true, "readable");
		free(aligned);
		aligned = memalign(align, large * 2);
		must(aligned && (uintptr_t)aligned % align == 0, "memalign");
		free(aligned);
	}
	aligned = (void *)1;
	say("posix_memalign of 24", posix_memalign(&aligned, 24, large));
	say("posix_memalign of 4", posix_memalign(&aligned, 4, large));
	say("untouched", aligned == (void *)1);
	at = valloc(large + 5);
	say("valloc", at && (uintptr_t)at % 4096 == 0);
	free(at);
	at = pvalloc(large + 5);
	say("pvalloc", at && malloc_usable_size(at) >= large + 4096);
	free(at);

	SAY_CALL(malloc(most / 2 + 2) == NULL);
	SAY_CALL(malloc(most) == NULL);
	SAY_CALL(malloc(most / 4) == NULL);
	SAY_CALL(calloc(most / 2, 3) == NULL);
	at = malloc(large * 2);
	fill(at, large * 2, 1);
	SAY_CALL(realloc(at, most / 2 + 2) == NULL);
	SAY_CALL(realloc(at, most / 4) == NULL);
	SAY_CALL(reallocarray(at, most / 2, 3) == NULL);
	say("kept", is_filled(at, large * 2, 1));
	errno = 77;
	free(at);
	say("errno is kept", errno);
	free(NULL);
	say("usable size of nothing", (long)malloc_usable_size(NULL));
	at = realloc(NULL, large);
	say("realloc of nothing", at != NULL);
	SAY_CALL(realloc(at, 0) == NULL);
	return 0;
}

/* ---- threads ---- */

#define SLOTS 24

struct block {
	size_t size;
	unsigned seed;
};
static _Atomic(struct block *) slots[SLOTS];
static _Atomic(bool) is_over;
static _Atomic(unsigned) rounds_left;

static unsigned next_random(unsigned *state)
{
	*state = *state * 1103515245u + 12345;
	return *state >> 8;
}

static void check_block(struct block *block)
{
	must(is_filled(block + 1, block->size, block->seed), "a block of a thread");
}

/* Takes what others have put into a slot, checks it, changes it or frees it. */
static void *churn(void *arg)
{
	unsigned state = (unsigned)(uintptr_t)arg;

	while (!is_over && rounds_left-- - 1 < UINT_MAX / 2) {
		unsigned at = next_random(&state) % SLOTS, seed = next_random(&state);
		size_t size = large / 4 + next_random(&state) % (large * 3);
		struct block *block = atomic_exchange(&slots[at], NULL);

		if (block) {
			check_block(block);
			if (next_random(&state) % 2) {
				size_t old = block->size;

				block = realloc(block, sizeof(*block) + size);
				must(block &&
					     is_filled(block + 1, old < size ? old : size,
						       block->seed),
				     "a block that was changed");
			} else {
				free(block);
				block = NULL;
			}
		}
		if (!block)
			block = next_random(&state) % 2 ? calloc(1, sizeof(*block) + size)
							: malloc(sizeof(*block) + size);
		must(block != NULL, "malloc");
		*block = (struct block){.size = size, .seed = seed};
		fill(block + 1, size, seed);
		free(atomic_exchange(&slots[at], block));
		if (next_random(&state) % 8 == 0) {
			char *range = map(large * 2);

			must(is_filled(range, large * 2, 3), "a range");
			must(munmap(range, large * 2) == 0, "munmap");
		}
	}
	return NULL;
}

static void start(pthread_t *threads, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		must(!pthread_create(&threads[i], NULL, churn,
				     (void *)(uintptr_t)(i + 1)),
		     "pthread_create");
}

static void end(pthread_t *threads, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		pthread_join(threads[i], NULL);
	for (unsigned i = 0; i < SLOTS; i++) {
		struct block *block = slots[i];

		if (block)
			check_block(block);
		free(block);
		slots[i] = NULL;
	}
}

static int test_threads(void)
{
	pthread_t threads[8];

	rounds_left = 800;
	start(threads, 8);
	end(threads, 8);
	return 3;
}

/* ---- children ---- */

static int status_of(pid_t pid)
{
	int status;

	must(waitpid(pid, &status, 0) == pid, "waitpid");
	return status;
}

static void child_works(unsigned char *kept, unsigned char *other)
{
	unsigned char *more;

	must(is_filled(kept, large * 4, 1) && is_filled(other, large * 4, 2),
	     "what a child inherits");
	free(kept);
	more = calloc(1, large * 6);
	must(more && is_zero(more, large * 6), "a child's own");
	fill(more, large * 6, 3);
	other = realloc(other, large * 9);
	must(is_filled(other, large * 4, 2) && is_filled(more, large * 6, 3),
	     "what a child changes");
	munmap(map(large * 4), large * 4);
	free(other);
	free(more);
}

static int test_fork(void)
{
	pthread_t threads[3];

	rounds_left = UINT_MAX / 2 - 1;
	start(threads, 3);
	for (int i = 0; i < 10; i++) {
		unsigned char *kept = malloc(large * 4), *other = malloc(large * 4);
		pid_t pid;

		fill(kept, large * 4, 1);
		fill(other, large * 4, 2);
		pid = fork();
		if (pid == 0) {
			child_works(kept, other);
			pid = fork();
			if (pid == 0) {
				around(large * 3);
				_exit(5);
			}
			must(status_of(pid) == 5 << 8, "a grandchild");
			if (i % 2)
				_exit(i);
			exit(i);
		}
		free(other);
		must(status_of(pid) == i << 8, "a child");
		must(is_filled(kept, large * 4, 1), "what a child freed, in the parent");
		free(kept);
	}
	is_over = true;
	end(threads, 3);
	say("children", 10);
	return 0;
}

static int test_vfork(void)
{
	char *const args[] = {(char *)"true", NULL};
	char *at = map(large * 8);
	pid_t pid;

	pid = vfork();
	if (pid == 0) {
		execv("/bin/true", args);
		_exit(127);
	}
	say("vfork, exec", status_of(pid));
	pid = vfork();
	if (pid == 0) {
		munmap(at, large * 8);
		_exit(9);
	}
	say("vfork, munmap", status_of(pid));
	signal(SIGSEGV, on_fault);
	say("it is the parent's that went", fault_of(at));
	must(!posix_spawn(&pid, "/bin/true", NULL, NULL, args, environ), "posix_spawn");
	say("posix_spawn", status_of(pid));
	say("system", system("exit 6"));
	around(large * 2);
	return 0;
}

/* ---- limits and signals ---- */

static int test_limit(void)
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
static int test_dontfork(void)
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
static int test_late_limit(void)
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

static int test_many(void)
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

static int test_signals(void)
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

#ifdef OWN_MALLOC
/* Which takes the place of anything preloaded: never frees. */
static char heap[(size_t)192 << 20] __attribute__((aligned(64)));
static _Atomic(size_t) heap_used;

void *malloc(size_t size)
{
	size_t room = ((size + 63) & ~(size_t)63) + 64, at;

	if (size > sizeof(heap))
		return NULL;
	at = atomic_fetch_add(&heap_used, room);
	if (at + room > sizeof(heap))
		return NULL;
	memcpy(heap + at, &size, sizeof(size));
	return heap + at + 64;
}

void free(void *pointer)
{
	if (pointer && ((char *)pointer < heap || (char *)pointer >= heap + sizeof(heap)))
		_exit(97);
}

void *calloc(size_t n, size_t size)
{
	return malloc(n * size);
}

void *realloc(void *pointer, size_t size)
{
	char *to = malloc(size);
	size_t old = 0;

	if (pointer)
		memcpy(&old, (char *)pointer - 64, sizeof(old));
	if (to && pointer)
		memcpy(to, pointer, old < size ? old : size);
	return to;
}
#endif

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
