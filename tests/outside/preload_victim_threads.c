/* SPDX-License-Identifier: MIT */
/* preload_victim: threads, and children. */
#include "preload_victim.h"

#include <limits.h>
#include <pthread.h>
#include <spawn.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

/* ---- threads ---- */

#define SLOTS 24

struct block {
	size_t size;
	unsigned seed;
};
static _Atomic(struct block *) slots[SLOTS];
_Atomic(bool) is_over;
_Atomic(unsigned) rounds_left;

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

void start(pthread_t *threads, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		must(!pthread_create(&threads[i], NULL, churn,
				     (void *)(uintptr_t)(i + 1)),
		     "pthread_create");
}

void end(pthread_t *threads, unsigned n)
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

int test_threads(void)
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

int test_fork(void)
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

int test_vfork(void)
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
