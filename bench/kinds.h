/* SPDX-License-Identifier: MIT */
/* The kinds of memory that td-bench frees, and how each is had without the library. */
#ifndef BENCH_KINDS_H
#define BENCH_KINDS_H

#include "common.h"

enum bench_kind_id {
	BENCH_ANON4K,	   /* private anonymous memory in 4 KiB pages */
	BENCH_THP,	   /* in transparent huge pages */
	BENCH_HUGETLB,	   /* from the pool of huge pages, which we fill when allowed */
	BENCH_MEMFD,	   /* the whole of a memfd, nobody else's */
	BENCH_SHARED_ANON, /* MAP_SHARED | MAP_ANONYMOUS */
	BENCH_FILE,	   /* a file's clean pages in the page cache, where they stay */
	BENCH_LOCKED,	   /* 4 KiB pages, locked by mlock */
	BENCH_KINDS,
};

struct bench_kind {
	const char *name;
	size_t size;			  /* by default */
	int map_flags;			  /* for mmap */
	int advice;			  /* for madvise; 0 = none */
	unsigned munmap_flags;		  /* for td_engine_munmap */
	const char *flags_name;		  /* of these */
	struct td_region_opts region;	  /* .fd is filled in */
	const char *region_flags_name;	  /* the flags of the release, "" = none */
	int (*open)(size_t size);	  /* the descriptor to map; NULL = none */
	void (*touch)(void *, size_t);	  /* has the pages mapped */
	const char *(*prepare)(size_t *); /* see bench_kind_prepare */
	void (*done)(void); /* takes back what prepare did; NULL = nothing */
	const char *(*file_system)(void); /* of the file; NULL = none */
};

extern const struct bench_kind bench_kinds[BENCH_KINDS];

struct bench_memory {
	const struct bench_kind *kind;
	char *start;
	size_t size;
	int fd; /* to be closed with it, -1 = none */
};

/*
 * Makes the machine ready for *size bytes of a kind, and rounds *size up to what it
 * comes in. NULL, or why there can be none of it here. Ended by bench_kind_done().
 */
const char *bench_kind_prepare(const struct bench_kind *kind, size_t *size);
void bench_kind_done(const struct bench_kind *kind);

/* So much of it without the library, not touched yet (but for locked memory). */
void bench_memory_map(const struct bench_kind *kind, size_t size,
		      struct bench_memory *ret);

/* The same as a region. The descriptor is closed. */
void bench_memory_map_region(const struct bench_kind *kind, size_t size, td_space *space,
			     struct bench_memory *ret);

void bench_memory_touch(const struct bench_memory *memory);

/* Closes the descriptor, with which a memfd's pages go, if no mapping is left. */
void bench_memory_close(struct bench_memory *memory);

/* munmap and close. arg: a struct bench_memory, for bench_freer_hand() */
void bench_memory_unmap(void *arg);

/* The same, but each 4 MiB are given back by madvise beforehand, so that nobody who maps
 * something meanwhile waits for all of it. */
void bench_memory_unmap_chunks(void *arg);

/* ---- hugepages.c ---- */

/*
 * Has so many bytes of huge pages, of the default size, free in the system's pool. NULL,
 * or why not. What it added is taken back by bench_hugepages_restore(), or when the
 * program ends in whatever way.
 */
const char *bench_hugepages_reserve(size_t bytes);
void bench_hugepages_restore(void);
size_t bench_hugepage_size(void); /* 0 = none */

#endif
