/* SPDX-License-Identifier: MIT */
/* The parts of preload_victim: what each says must be the same with what is preloaded and
 * without. */
#ifndef PRELOAD_VICTIM_H
#define PRELOAD_VICTIM_H

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

extern size_t large; /* from what size on the preloaded object does otherwise */

void say(const char *what, long value);
/* Ends the program unless it is so. */
void must(bool is, const char *what);

/* What the call returned, and errno where that was -1. */
#define SAY_CALL(call)                                                                   \
	do {                                                                             \
		errno = 0;                                                               \
		long result_ = (long)(call);                                             \
		printf("%s: %ld %s\n", #call, result_, strerrorname_np(errno));          \
		fflush(stdout);                                                          \
	} while (0)

void on_fault(int signal); /* for SIGSEGV, before fault_of() */
int fault_of(volatile char *at);

void fill(void *at, size_t size, unsigned seed);
bool is_filled(const void *at, size_t size, unsigned seed);
bool is_zero(const void *at, size_t size);
char *map(size_t size); /* and fills it, with seed 3 */
void around(size_t size);

/* Threads that hand blocks to each other, until no rounds are left, or it is over. */
extern _Atomic(bool) is_over;
extern _Atomic(unsigned) rounds_left;
void start(pthread_t *threads, unsigned n);
void end(pthread_t *threads, unsigned n);

int test_munmap(void);
int test_malloc(void);
int test_threads(void);
int test_fork(void);
int test_vfork(void);
int test_limit(void);
int test_dontfork(void);
int test_late_limit(void);
int test_many(void);
int test_signals(void);

#endif
