/* SPDX-License-Identifier: MIT */
/*
 * In place of malloc and its kin. glibc unmaps its large chunks inside of itself, where
 * nobody can stand in its way; so very large ones are made in the zone instead, and only
 * where all of malloc is glibc's. Any other allocator unmaps by calling munmap(): what is
 * asked of it is passed on as it is.
 *
 * A small request costs a comparison and a jump.
 */
#include "preload.h"

#include <dlfcn.h>
#include <errno.h>
#include <malloc.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

_Atomic(size_t) tdr_limit = SIZE_MAX;

/* X(type, name, parameters, arguments) */
#define FUNCTIONS(X)                                                                     \
	X(void *, malloc, (size_t size), (size))                                         \
	X(void *, calloc, (size_t n, size_t size), (n, size))                            \
	X(void *, realloc, (void *pointer, size_t size), (pointer, size))                \
	X(void *, reallocarray, (void *pointer, size_t n, size_t size),                  \
	  (pointer, n, size))                                                            \
	X(void *, memalign, (size_t align, size_t size), (align, size))                  \
	X(void *, aligned_alloc, (size_t align, size_t size), (align, size))             \
	X(int, posix_memalign, (void **ret, size_t align, size_t size),                  \
	  (ret, align, size))                                                            \
	X(void *, valloc, (size_t size), (size))                                         \
	X(void *, pvalloc, (size_t size), (size))                                        \
	X(size_t, malloc_usable_size, (void *pointer), (pointer))

#define DECLARE(type, name, parameters, arguments)                                       \
	TDR_EXPORT type name parameters;                                                 \
	static type first_##name parameters;
FUNCTIONS(DECLARE)
TDR_EXPORT void free(void *pointer);
TDR_EXPORT void free_sized(void *pointer, size_t size);
TDR_EXPORT void free_aligned_sized(void *pointer, size_t align, size_t size);
static void first_free(void *pointer);

/* What comes after ours. The first call of any finds them all. */
#define FIELD(type, name, parameters, arguments) type(*name) parameters;
#define FIRST(type, name, parameters, arguments) .name = first_##name,
static struct {
	FUNCTIONS(FIELD)
	void (*free)(void *pointer);
} next = {FUNCTIONS(FIRST).free = first_free};

/* ---- until then ---- */

/* dlsym() may allocate, for whoever asks where malloc is. No more than a little. */
static size_t pool_used;

#define POOL_HEADER 16

static size_t pool_size(const void *pointer)
{
	size_t size;

	memcpy(&size, (const char *)pointer - POOL_HEADER, sizeof(size));
	return size;
}

static void *pool_alloc(size_t size, size_t align)
{
	uintptr_t start, end;

	if (align < POOL_HEADER)
		align = POOL_HEADER;
	tdr_zone_reserve();
	start = tdr_zone_start + pool_used + POOL_HEADER;
	start = (start + align - 1) & ~(uintptr_t)(align - 1);
	end = tdr_zone_start + TDR_POOL;
	if (size > TDR_POOL || start > end || end - start < size) {
		errno = ENOMEM;
		return NULL;
	}
	pool_used = start + size - tdr_zone_start;
	memcpy((char *)start - POOL_HEADER, &size, sizeof(size));
	return (void *)start;
}

static bool is_pooled(const void *pointer)
{
	return (uintptr_t)pointer - tdr_zone_start < TDR_POOL && tdr_zone_size > 0;
}

static bool is_finding; /* before there are threads */

static void find_next(void)
{
	is_finding = true;
#define FIND(type, name, parameters, arguments)                                          \
	type(*found_##name) parameters = (type(*) parameters)dlsym(RTLD_NEXT, #name);
	FUNCTIONS(FIND)
	void (*found_free)(void *) = (void (*)(void *))dlsym(RTLD_NEXT, "free");

	is_finding = false;
	if (!found_malloc || !found_free || !found_calloc || !found_realloc)
		tdr_die("there is no malloc to be found", NULL);
		/* An allocator need not have all; who calls it cannot be served either.
		 */
#define SET(type, name, parameters, arguments) next.name = found_##name;
	FUNCTIONS(SET)
	next.free = found_free;
}

static void *first_malloc(size_t size)
{
	if (is_finding)
		return pool_alloc(size, 0);
	find_next();
	return next.malloc(size);
}

static void *first_calloc(size_t n, size_t size)
{
	size_t total;

	if (is_finding) /* the pool is fresh */
		return __builtin_mul_overflow(n, size, &total) ? NULL
							       : pool_alloc(total, 0);
	find_next();
	return next.calloc(n, size);
}

static void *first_realloc(void *pointer, size_t size)
{
	if (is_finding)
		return pointer ? NULL : pool_alloc(size, 0);
	find_next();
	return next.realloc(pointer, size);
}

static void first_free(void *pointer)
{
	if (is_finding || !pointer)
		return;
	find_next();
	next.free(pointer);
}

#define FIRST_PLAIN(type, name, parameters, arguments)                                   \
	static type first_##name parameters                                              \
	{                                                                                \
		if (is_finding)                                                          \
			tdr_die(#name "() while looking for malloc", NULL);              \
		find_next();                                                             \
		return next.name arguments;                                              \
	}
FIRST_PLAIN(void *, reallocarray, (void *pointer, size_t n, size_t size),
	    (pointer, n, size))
FIRST_PLAIN(void *, memalign, (size_t align, size_t size), (align, size))
FIRST_PLAIN(void *, aligned_alloc, (size_t align, size_t size), (align, size))
FIRST_PLAIN(int, posix_memalign, (void **ret, size_t align, size_t size),
	    (ret, align, size))
FIRST_PLAIN(void *, valloc, (size_t size), (size))
FIRST_PLAIN(void *, pvalloc, (size_t size), (size))
FIRST_PLAIN(size_t, malloc_usable_size, (void *pointer), (pointer))

static bool is_from(const void *function, const void *base)
{
	Dl_info info;

	return function && dladdr(function, &info) && info.dli_fbase == base;
}

void tdr_malloc_init(bool *ret_is_glibc, bool *ret_is_ours)
{
	void *version = dlsym(RTLD_DEFAULT, "gnu_get_libc_version");
	Dl_info libc, ours;

	if (next.free == first_free)
		find_next();
	*ret_is_glibc = version && dladdr(version, &libc);
	/* By what is not exported: that name is ours whatever the program defines. */
	*ret_is_ours = dladdr((const void *)find_next, &ours);
#define ASK(type, name, parameters, arguments)                                           \
	if (*ret_is_glibc && !is_from((const void *)next.name, libc.dli_fbase))          \
		*ret_is_glibc = false;                                                   \
	if (*ret_is_ours && !is_from(dlsym(RTLD_DEFAULT, #name), ours.dli_fbase))        \
		*ret_is_ours = false;
	FUNCTIONS(ASK)
	ASK(void, free, (void *), ())
}

/* ---- large requests ---- */

static size_t limit_now(void)
{
	return atomic_load_explicit(&tdr_limit, memory_order_relaxed);
}

/* Everything that is not served by a comparison comes by here first. */
static void look_up(size_t size)
{
	if (limit_now() == 0 || (size >= tdr_threshold && tdr_is_to_arm()))
		tdr_arm();
}

static void *zone_alloc(size_t size, size_t align)
{
	int error = errno;
	void *made = NULL;

	look_up(size);
	if (size >= limit_now() && size >= tdr_threshold && size <= PTRDIFF_MAX)
		made = tdr_zone_alloc(size, align);
	errno = error;
	return made;
}

/* A large request that was refused: tried again when what is pending is back. Not one of
 * no bytes, which realloc() answers so when it has freed. */
#define TWICE(size, call)                                                                \
	({                                                                               \
		__auto_type made_ = (call);                                              \
		if (tdr_unlikely(!made_) && (size)-1 < PTRDIFF_MAX && tdr_relieve())     \
			made_ = (call);                                                  \
		made_;                                                                   \
	})

static __attribute__((noinline)) void *large_malloc(size_t size)
{
	void *made = zone_alloc(size, 0);

	return made ? made : TWICE(size, next.malloc(size));
}

void *malloc(size_t size)
{
	if (tdr_unlikely(size >= limit_now()))
		return large_malloc(size);
	return next.malloc(size);
}

static __attribute__((noinline)) void *large_calloc(size_t n, size_t size)
{
	void *made = zone_alloc(n * size, 0); /* no overflow */

	return made ? made : TWICE(n * size, next.calloc(n, size));
}

void *calloc(size_t n, size_t size)
{
	size_t total;

	/* Overflow is the next one's to refuse. */
	if (!__builtin_mul_overflow(n, size, &total) &&
	    tdr_unlikely(total >= limit_now()))
		return large_calloc(n, size);
	return next.calloc(n, size);
}

static __attribute__((noinline)) void *large_align(size_t align, size_t size,
						   void *(*plain)(size_t, size_t))
{
	void *made = NULL;

	if (align && (align & (align - 1)) == 0)
		made = zone_alloc(size, align);
	return made ? made : TWICE(size, plain(align, size));
}

void *memalign(size_t align, size_t size)
{
	if (tdr_unlikely(size >= limit_now()))
		return large_align(align, size, next.memalign);
	return next.memalign(align, size);
}

void *aligned_alloc(size_t align, size_t size)
{
	if (tdr_unlikely(size >= limit_now()))
		return large_align(align, size, next.aligned_alloc);
	return next.aligned_alloc(align, size);
}

int posix_memalign(void **ret, size_t align, size_t size)
{
	if (tdr_unlikely(size >= limit_now()) && align % sizeof(void *) == 0 && align &&
	    (align & (align - 1)) == 0) {
		void *made = zone_alloc(size, align);
		int err;

		if (made) {
			*ret = made;
			return 0;
		}
		err = next.posix_memalign(ret, align, size);
		return err == ENOMEM && tdr_relieve()
			       ? next.posix_memalign(ret, align, size)
			       : err;
	}
	return next.posix_memalign(ret, align, size);
}

void *valloc(size_t size)
{
	void *made = NULL;

	if (tdr_unlikely(size >= limit_now()))
		made = zone_alloc(size, 0);
	return made ? made : next.valloc(size);
}

void *pvalloc(size_t size)
{
	void *made = NULL;

	/* Whole pages, which the zone gives anyway. */
	if (tdr_unlikely(size >= limit_now()))
		made = zone_alloc(size, 0);
	return made ? made : next.pvalloc(size);
}

/* ---- what was given before ---- */

/* Not only there: after tdr_zone_shed() it may be another's. */
static bool is_zones(const void *pointer)
{
	return tdr_zone_has(pointer) && !is_pooled(pointer) && tdr_zone_gave(pointer);
}

static __attribute__((noinline)) void zone_free(void *pointer)
{
	int error = errno;

	if (is_pooled(pointer))
		return;
	if (tdr_zone_gave(pointer))
		tdr_zone_free(pointer);
	else
		next.free(pointer);
	errno = error;
}

void free(void *pointer)
{
	if (tdr_unlikely(tdr_zone_has(pointer)))
		zone_free(pointer);
	else
		next.free(pointer);
}

void free_sized(void *pointer, size_t size)
{
	(void)size;
	free(pointer);
}

void free_aligned_sized(void *pointer, size_t align, size_t size)
{
	(void)align;
	(void)size;
	free(pointer);
}

static size_t usable(void *pointer)
{
	if (is_pooled(pointer))
		return pool_size(pointer);
	return is_zones(pointer) ? tdr_zone_usable(pointer)
				 : next.malloc_usable_size(pointer);
}

size_t malloc_usable_size(void *pointer)
{
	return usable(pointer);
}

/* From here to there, whichever these are. */
static void *move(void *pointer, size_t size, void *to)
{
	size_t old;

	if (!to)
		return NULL;
	old = usable(pointer);
	if (is_zones(to))
		tdr_copy(to, pointer, old < size ? old : size);
	else
		memcpy(to, pointer, old < size ? old : size);
	free(pointer);
	return to;
}

static void *realloc_in_zone(void *pointer, size_t size)
{
	void *to;

	if (size == 0) {
		free(pointer);
		return NULL;
	}
	if (is_pooled(pointer))
		return move(pointer, size, malloc(size));
	if (size < tdr_threshold || size > PTRDIFF_MAX) {
		to = move(pointer, size, next.malloc(size));
		/* Smaller never fails. */
		return to || size > tdr_zone_usable(pointer) ||
				       !tdr_zone_resize(pointer, size)
			       ? to
			       : pointer;
	}
	if (tdr_zone_resize(pointer, size))
		return pointer;
	to = tdr_zone_move(pointer, size);
	return to ? to : move(pointer, size, next.malloc(size));
}

static __attribute__((noinline)) void *large_realloc(void *pointer, size_t size)
{
	int error = errno;
	void *to = NULL;

	if (!pointer)
		return malloc(size);
	if (is_pooled(pointer) || is_zones(pointer)) {
		to = realloc_in_zone(pointer, size);
		errno = to || size == 0 ? error : ENOMEM;
		return to;
	}
	look_up(size);
	if (size >= tdr_threshold)
		to = move(pointer, size, zone_alloc(size, 0));
	return to ? to : TWICE(size, next.realloc(pointer, size));
}

void *realloc(void *pointer, size_t size)
{
	if (tdr_unlikely(size >= limit_now() || tdr_zone_has(pointer)))
		return large_realloc(pointer, size);
	return next.realloc(pointer, size);
}

void *reallocarray(void *pointer, size_t n, size_t size)
{
	size_t total;

	if (tdr_unlikely(__builtin_mul_overflow(n, size, &total))) {
		errno = ENOMEM;
		return NULL;
	}
	return realloc(pointer, total);
}
