/* SPDX-License-Identifier: MIT */
/*
 * A program whose main thread ends before the others: once the engines' threads are
 * stopped, the process ends with the last thread of its own.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <teardown.h>
#include <unistd.h>

#define LENGTH ((size_t)72 << 20)

#define TRY(call) try_(#call, call)

static pthread_t main_thread;

static void try_(const char *what, int err)
{
	if (err == 0)
		return;
	fprintf(stderr, "%s: %s\n", what, strerror(-err));
	_exit(EXIT_FAILURE);
}

static void unmap(void)
{
	void *memory = mmap(NULL, LENGTH, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (memory == MAP_FAILED)
		_exit(EXIT_FAILURE);
	memset(memory, 1, LENGTH);
	TRY(td_munmap(memory, LENGTH));
}

static void *outlive_main(void *arg)
{
	td_batch *batch = NULL;

	(void)arg;
	if (pthread_join(main_thread, NULL))
		_exit(EXIT_FAILURE);
	unmap();
	TRY(td_engine_stop(NULL, TD_EXIT_DRAIN, 0));
	/* It can still be used: here. */
	unmap();
	TRY(td_batch_create(NULL, NULL, &batch));
	TRY(td_batch_free_ptr(batch, malloc(64), 64));
	TRY(td_batch_destroy(batch, 0));
	puts("the memory is back");
	fflush(stdout);
	return NULL;
}

int main(void)
{
	pthread_t thread;

	main_thread = pthread_self();
	unmap();
	if (pthread_create(&thread, NULL, outlive_main, NULL))
		return EXIT_FAILURE;
	pthread_detach(thread);
	pthread_exit(NULL); /* with work pending */
}
