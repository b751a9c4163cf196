/* SPDX-License-Identifier: MIT */
#include "bare.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/mman.h>

#define CHUNK ((size_t)16 << 20)

struct bare {
	char *start;
	size_t size;
	_Atomic(size_t) cursor;
	pthread_barrier_t release, finish;
};

static void *bare_thread(void *arg)
{
	struct bare *bare = arg;
	size_t at;

	pthread_barrier_wait(&bare->release);
	while ((at = atomic_fetch_add(&bare->cursor, CHUNK)) < bare->size) {
		size_t left = bare->size - at;

		bench_must(madvise(bare->start + at, left < CHUNK ? left : CHUNK,
				   MADV_DONTNEED)
				   ? -errno
				   : 0,
			   "madvise");
	}
	pthread_barrier_wait(&bare->finish);
	return NULL;
}

double bench_gib_per_s(size_t size, uint64_t took_ns)
{
	return (double)size / (double)BENCH_GIB / ((double)took_ns / 1e9);
}

double bench_bare_rate(size_t size, unsigned threads)
{
	struct bare bare = {.size = size};
	pthread_t thread[BENCH_BARE_MAX];
	uint64_t began, ended;

	bench_must(-pthread_barrier_init(&bare.release, NULL, threads + 1),
		   "pthread_barrier_init");
	bench_must(-pthread_barrier_init(&bare.finish, NULL, threads + 1),
		   "pthread_barrier_init");
	for (unsigned i = 0; i < threads; i++)
		bench_must(-pthread_create(&thread[i], NULL, bare_thread, &bare),
			   "pthread_create");
	/* They wait asleep while this fills, as reapers do. */
	bare.start = bench_map_plain(size);
	began = bench_now_ns();
	pthread_barrier_wait(&bare.release);
	pthread_barrier_wait(&bare.finish);
	bench_munmap(bare.start, bare.size);
	ended = bench_now_ns();
	for (unsigned i = 0; i < threads; i++)
		bench_must(-pthread_join(thread[i], NULL), "pthread_join");
	bench_must(-pthread_barrier_destroy(&bare.release), "pthread_barrier_destroy");
	bench_must(-pthread_barrier_destroy(&bare.finish), "pthread_barrier_destroy");
	return bench_gib_per_s(size, ended - began);
}
