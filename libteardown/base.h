/* SPDX-License-Identifier: MIT */
/* Floor 0: attributes, arithmetic and the option check that everything else uses. */
#ifndef TDI_BASE_H
#define TDI_BASE_H

#include <errno.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define tdi_likely(x) __builtin_expect(!!(x), 1)
#define tdi_unlikely(x) __builtin_expect(!!(x), 0)

#define TDI_CACHE_LINE 64

/*
 * On the path of a caller that only wanted to leave. Such functions are placed together,
 * so that a put that comes after minutes touches a page or two of cold code, not ten.
 */
#define TDI_HOT __attribute__((hot))

#define tdi_container_of(ptr, type, member)                                              \
	((type *)((char *)(ptr)-offsetof(type, member)))

/*
 * liburcu orders hand-offs with inline assembly that ThreadSanitizer cannot see: the
 * giver says tdi_tsan_release, the taker tdi_tsan_acquire, on the same address.
 */
#ifdef __SANITIZE_THREAD__
void __tsan_acquire(void *addr);
void __tsan_release(void *addr);
#define tdi_tsan_acquire(addr) __tsan_acquire(addr)
#define tdi_tsan_release(addr) __tsan_release(addr)
#else
#define tdi_tsan_acquire(addr) ((void)(addr))
#define tdi_tsan_release(addr) ((void)(addr))
#endif

static inline size_t tdi_min_size(size_t a, size_t b)
{
	return a < b ? a : b;
}

static inline size_t tdi_max_size(size_t a, size_t b)
{
	return a > b ? a : b;
}

/* align is a power of two */
static inline uintptr_t tdi_align_up(uintptr_t value, size_t align)
{
	return (value + align - 1) & ~(uintptr_t)(align - 1);
}

static inline uintptr_t tdi_align_down(uintptr_t value, size_t align)
{
	return value & ~(uintptr_t)(align - 1);
}

static inline bool tdi_is_aligned(uintptr_t value, size_t align)
{
	return (value & (align - 1)) == 0;
}

static inline bool tdi_is_power_of_two(size_t value)
{
	return value != 0 && (value & (value - 1)) == 0;
}

size_t tdi_page_size(void);
size_t tdi_pmd_size(void); /* what one last-level page-table page maps: 2 MiB on x86-64 */
size_t tdi_pud_size(void); /* what a page of those maps: 1 GiB on x86-64 */

/*
 * Copies a caller's sized option struct over a zeroed one of ours. given is its first
 * field. -EINVAL: too small to be one; -E2BIG: it sets something beyond what we know.
 */
int tdi_opts_take(void *ours, size_t ours_size, const void *given);

/* One line on stderr, "libteardown: ...", without allocating. */
void tdi_warn(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* The same, then abort: for objects that are already corrupt. */
void tdi_die(const char *format, ...)
	__attribute__((format(printf, 1, 2), noreturn, cold));

#endif
