/* SPDX-License-Identifier: MIT */
/*
 * What every test program shares: Check, one forked process a test, results as TAP with
 * skips and their reasons, failing system calls on demand, and a look at the process
 * from outside.
 */
#ifndef TDT_HARNESS_H
#define TDT_HARNESS_H

#include <check.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "sys.h"

#define KIB ((size_t)1024)
#define MIB (KIB * 1024)
#define GIB (MIB * 1024)

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define TDT_SANITIZED 1
#else
#define TDT_SANITIZED 0
#endif

struct tdt;

struct tdt *tdt_suite(const char *name);

/* setup and teardown, either may be NULL, run in the test's own process. */
void tdt_add(struct tdt *tests, const TTest *test, void (*setup)(void),
	     void (*teardown)(void));

/* Runs all, prints TAP, returns what main should. */
int tdt_run(struct tdt *tests);

/* Marks the running test as skipped; the test then returns. */
void tdt_skip(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* fn(arg), run in a process of its own, aborts and says `words` on stderr. */
void tdt_expect_death(void (*fn)(void *arg), void *arg, const char *words);

/*
 * Makes calls number `first` (from 0) to first + count - 1 of a kind fail with err
 * (negative), counting from now. Several may be in force, one for each kind of call.
 */
void tdt_fail(enum tdi_sys_call call, int err, unsigned first, unsigned count);
/* Only calls with this detail (an madvise advice, mmap flags, a descriptor). */
void tdt_fail_detail(enum tdi_sys_call call, int detail, int err, unsigned first,
		     unsigned count);
void tdt_fail_none(void);
unsigned tdt_calls(enum tdi_sys_call call); /* since its last tdt_fail, or _none */

/* Bytes of [addr, addr + length) that are mapped, and that are resident. */
size_t tdt_mapped(const void *addr, size_t length);
size_t tdt_resident(const void *addr, size_t length);

void *tdt_map_anon(size_t length);	   /* private anonymous, not touched */
void tdt_touch(void *addr, size_t length); /* writes to every page */

struct tdt_footprint {
	size_t rss_kib, mappings, threads, descriptors;
};
struct tdt_footprint tdt_footprint(void);

/* A joined thread is seen for a moment more: waits until there are no more than so many.
 */
void tdt_await_threads(size_t threads);

/* At most `slack` mappings more than `before`; a sanitizer's own are not counted. */
void tdt_check_mappings(size_t before, size_t slack);

#endif
