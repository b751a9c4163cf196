/* SPDX-License-Identifier: MIT */
/*
 * libteardown-run.so, which `teardown run` preloads into programs that know nothing of
 * it: docs/preload.md.
 *
 *   preload         settings, this process's exit helper and engine, fork, its end
 *   preload_map     in place of munmap, mmap, mremap, mlock and setrlimit
 *   preload_user    in place of setuid and its kin
 *   preload_malloc  in place of malloc and its kin
 *   preload_zone    the address space that very large allocations come from
 *   preload_reserve its reservation, its lock, its end, and forks
 *   preload_ranges  the table of what it is divided into
 *
 * Nothing here calls what it stands for: the link replaces such calls, the library's
 * included, by system calls.
 */
#ifndef TDR_PRELOAD_H
#define TDR_PRELOAD_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TDR_EXPORT __attribute__((visibility("default")))
#define tdr_unlikely(x) __builtin_expect(!!(x), 0)

/* ---- preload ---- */

extern size_t tdr_threshold; /* bytes: from here on a range is freed later */

/*
 * The engine is there and is this process's: not in a child that has not armed yet, nor
 * in one that shares the memory of its parent (vfork), nor before the constructor.
 */
bool tdr_serves(void);

/* Not a child that has only borrowed this memory. */
bool tdr_is_own_memory(void);

/* Somebody maps much. A process that has not armed yet does so in its next malloc(). */
void tdr_much_is_mapped(void);
bool tdr_is_to_arm(void);
void tdr_arm(void);

/* The process has another user or group: so must the helper have. */
void tdr_user_changed(void);

/* A call was refused for want of memory. True: some was pending and is back. Try again.
 */
bool tdr_relieve(void);

/* Around calls into the library: no signal handler and no cancellation in between, errno
 * as it was. */
struct tdr_calm {
	unsigned long signals[16];
	int cancel, error;
};
void tdr_calm(struct tdr_calm *before);
void tdr_calm_end(const struct tdr_calm *before);

void tdr_say(const char *format, ...) __attribute__((format(printf, 1, 2)));
void tdr_die(const char *what, const void *pointer) __attribute__((noreturn, cold));

/* What the line at the end tells. */
struct tdr_counts {
	_Atomic(uint64_t) retries;   /* calls tried again after tdr_relieve */
	_Atomic(uint64_t) zone_gave; /* allocations from the zone */
	_Atomic(uint64_t) zone_later,
		zone_here; /* of these, freed later; by the caller */
};
extern struct tdr_counts tdr_counts;
static inline void tdr_count(_Atomic(uint64_t) *counter)
{
	atomic_fetch_add_explicit(counter, 1, memory_order_relaxed);
}

/* ---- preload_map: as the system calls, but -errno ---- */

int tdr_sys_munmap(void *addr, size_t length);
void *tdr_sys_mmap_none(void *addr, size_t length, int flags); /* NULL: refused */
int tdr_sys_mprotect(void *addr, size_t length, int prot);
int tdr_sys_madvise(void *addr, size_t length, int advice);
bool tdr_sys_is_mapped(const void *addr, size_t length); /* all of it */

/* ---- preload_malloc ---- */

/* Requests from here on leave the short way. 0: all; SIZE_MAX: none. */
extern _Atomic(size_t) tdr_limit;

/* Finds what comes after us. Says whether that is glibc's, all of it, and whether the
 * program calls ours. */
void tdr_malloc_init(bool *ret_is_glibc, bool *ret_is_ours);

/* ---- preload_zone ---- */

/* What free() tells ours by. The first TDR_POOL bytes are for malloc's first steps. */
extern uintptr_t tdr_zone_start;
extern size_t tdr_zone_size;
#define TDR_POOL ((size_t)2 << 20)

static inline bool tdr_zone_has(const void *pointer)
{
	return (uintptr_t)pointer - tdr_zone_start < tdr_zone_size;
}

/* Reserves address space, once: for the pool, and as much as there is for the zone. */
void tdr_zone_reserve(void);
/* Gives it up but for the pool, before anything was taken from it. */
void tdr_zone_give_up(void);
/* Gives up all that is not in use: no more is made there, and what is there goes when it
 * is freed. */
void tdr_zone_shed(void);
/* Of a pointer that is in the zone: from there, not of somebody who came after. */
bool tdr_zone_gave(const void *pointer);

/* Zeroed, aligned to 2 MiB, or as said, a power of two. NULL: no room. */
void *tdr_zone_alloc(size_t size, size_t align);
void tdr_zone_free(void *pointer);
size_t tdr_zone_usable(const void *pointer);
/* Makes it larger or smaller where it is. */
bool tdr_zone_resize(void *pointer, size_t size);
/* Moves it. NULL: no room, and it is as it was. */
void *tdr_zone_move(void *pointer, size_t size);
/* memcpy, but what is zero is not written: the target is, and need not be touched. */
void tdr_copy(void *to, const void *from, size_t size);

void tdr_zone_before_fork(void);
void tdr_zone_after_fork(bool in_child);

#endif
