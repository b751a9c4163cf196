/* SPDX-License-Identifier: MIT */
/*
 * Floor 1: a saturating reference counter.
 *
 *   0                 dead for good
 *   1 .. TDI_REF_MAX  references
 *   above             saturated: the object is never freed. The value is put back to
 *                     the middle of this range whenever a get or put meets it, so that
 *                     2^30 racing gets or puts cannot carry it out again.
 *
 * Order (argued in docs/memory-ordering.md):
 *
 * - get, get_many: relaxed. Whoever may get already holds a reference, and what gave him
 *   that ordered the object's contents.
 * - get_not_zero: relaxed. The same, of the reference that keeps the object.
 * - put, put_many: release. What the caller did to the object comes before its end.
 * - the last of them: then an acquire load of the zero, after all puts before it.
 * - read, read_acquire: a hint; or, with acquire, after the puts that led to this.
 */
#ifndef TDI_REF_H
#define TDI_REF_H

#include "base.h"

#define TDI_REF_MAX 0x7fffffffu
#define TDI_REF_SATURATED 0xc0000000u
#define TDI_REF_MANY_MAX 0x20000000u

struct tdi_ref {
	_Atomic(uint32_t) n;
};

/*
 * What a get or put met instead of a live counter: dies, or saturates and says so.
 * type ("space"), object (its name) and counter ("users") are for the message.
 */
void tdi_ref_get_slow(struct tdi_ref *ref, uint32_t old, const char *type,
		      const char *object, const char *counter) __attribute__((cold));
void tdi_ref_put_slow(struct tdi_ref *ref, uint32_t old, const char *type,
		      const char *object, const char *counter) __attribute__((cold));

static inline void tdi_ref_init(struct tdi_ref *ref, uint32_t n)
{
	atomic_init(&ref->n, n);
}

static inline uint32_t tdi_ref_read(const struct tdi_ref *ref)
{
	return atomic_load_explicit(&ref->n, memory_order_relaxed);
}

static inline uint32_t tdi_ref_read_acquire(const struct tdi_ref *ref)
{
	return atomic_load_explicit(&ref->n, memory_order_acquire);
}

/* Takes n at once, at most TDI_REF_MANY_MAX. */
static inline void tdi_ref_get_many(struct tdi_ref *ref, uint32_t n, const char *type,
				    const char *object, const char *counter)
{
	uint32_t old = atomic_fetch_add_explicit(&ref->n, n, memory_order_relaxed);

	/* one comparison finds 0, what does not fit, and the saturated range */
	if (tdi_unlikely(old - 1 >= TDI_REF_MAX - n))
		tdi_ref_get_slow(ref, old, type, object, counter);
}

static inline void tdi_ref_get(struct tdi_ref *ref, const char *type, const char *object,
			       const char *counter)
{
	tdi_ref_get_many(ref, 1, type, object, counter);
}

/* True when a reference was taken; false: the counter is 0 and stays so. */
static inline bool tdi_ref_get_not_zero(struct tdi_ref *ref, const char *type,
					const char *object, const char *counter)
{
	uint32_t old = tdi_ref_read(ref);

	do {
		if (old == 0)
			return false;
		if (tdi_unlikely(old >= TDI_REF_MAX)) {
			tdi_ref_get_slow(ref, old, type, object, counter);
			return true;
		}
	} while (!atomic_compare_exchange_weak_explicit(
		&ref->n, &old, old + 1, memory_order_relaxed, memory_order_relaxed));
	return true;
}

/* Puts n at once, at most TDI_REF_MANY_MAX. True when there are none left then. */
static inline bool tdi_ref_put_many(struct tdi_ref *ref, uint32_t n, const char *type,
				    const char *object, const char *counter)
{
	uint32_t old = atomic_fetch_sub_explicit(&ref->n, n, memory_order_release);

	if (tdi_unlikely(old - n - 1 >= TDI_REF_MAX - n)) {
		if (tdi_likely(old == n)) {
			/* Acquire: reads the zero of our own subtraction, which continues
			 * the release sequence of every put before it. */
			(void)atomic_load_explicit(&ref->n, memory_order_acquire);
			return true;
		}
		tdi_ref_put_slow(ref, old, type, object, counter);
	}
	return false;
}

/* True when that was the last reference. */
static inline bool tdi_ref_put(struct tdi_ref *ref, const char *type, const char *object,
			       const char *counter)
{
	return tdi_ref_put_many(ref, 1, type, object, counter);
}

/* The same, but the last one is kept: true when this gave one up. */
static inline bool tdi_ref_put_unless_last(struct tdi_ref *ref)
{
	uint32_t old = tdi_ref_read(ref);

	/* What is no count to be lowered is for tdi_ref_put, which says why. */
	while (old > 1 && old <= TDI_REF_MAX) {
		/* Release: as every put. */
		if (atomic_compare_exchange_weak_explicit(&ref->n, &old, old - 1,
							  memory_order_release,
							  memory_order_relaxed))
			return true;
	}
	return false;
}

#endif
