/* SPDX-License-Identifier: MIT */
/*
 * Memory of every kind for tests: made, given back in each way there is, and what the
 * kernel says of it.
 */
#ifndef TDT_MEMORY_H
#define TDT_MEMORY_H

#include "base.h"
#include "harness.h"
#include "hugepages.h"
#include "procfs.h"

#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <teardown.h>
#include <teardown/munmap.h>
#include <unistd.h>

static td_engine *engine __attribute__((unused));

/*
 * What the library retires is freed on threads of the engine, whose allocator maps memory
 * of its own when first used there: where the test may have just unmapped something to
 * look whether it is gone. So that is done once before.
 */
static inline void setup(void)
{
	td_space *space;
	void *addr;

	ck_assert_int_eq(td_engine_create(TD_ENGINE_OPTS(.reapers = 1), &engine), 0);
	ck_assert_int_eq(td_space_create(engine, NULL, &space), 0);
	ck_assert_int_eq(td_region_map(space, tdi_page_size(), NULL, &addr), 0);
	ck_assert_int_eq(td_region_unmap(space, addr, tdi_page_size()), 0);
	ck_assert_int_eq(td_space_put(space), 0);
	ck_assert_int_eq(td_engine_drain(engine, TD_FOREVER), 0);
}

static inline void teardown(void)
{
	ck_assert_int_eq(td_engine_destroy(engine, TD_EXIT_DRAIN, 0), 0);
}

static inline td_space *make_space(unsigned flags)
{
	td_space *space;

	ck_assert_int_eq(td_space_create(engine,
					 TD_SPACE_OPTS(.name = "arena", .flags = flags),
					 &space),
			 0);
	return space;
}

static inline struct td_space_stats stats_of(td_space *space)
{
	struct td_space_stats stats;

	ck_assert_int_eq(td_space_stats(space, &stats), 0);
	return stats;
}

/* ---- files ---- */

static inline int make_memfd(size_t length, unsigned flags)
{
	int fd = memfd_create("test", MFD_CLOEXEC | flags);

	if (fd >= 0)
		ck_assert_int_eq(ftruncate(fd, (off_t)length), 0);
	return fd;
}

/* Bytes that a file takes up. */
static inline size_t held_by(int fd)
{
	struct stat about;

	ck_assert_int_eq(fstat(fd, &about), 0);
	return (size_t)about.st_blocks * 512;
}

static inline char *map_file(int fd, size_t length, int flags)
{
	void *addr = mmap(NULL, length, PROT_READ | PROT_WRITE, flags, fd, 0);

	ck_assert_ptr_ne(addr, MAP_FAILED);
	return addr;
}

/* Not seen by the sanitizers, which would look at each byte of a shadow of their own. */
#define UNSEEN                                                                           \
	static __attribute__((unused, noinline, no_sanitize("thread"),                   \
			      no_sanitize("address")))

#define EACH_BYTE UINT64_C(0x0101010101010101)

UNSEEN void fill(void *addr, char with, size_t length)
{
	volatile uint64_t *words = addr;

	for (size_t i = 0; i < length / sizeof(*words); i++)
		words[i] = EACH_BYTE * (unsigned char)with;
}

UNSEEN bool is_filled(const void *addr, size_t length, char with)
{
	const volatile uint64_t *words = addr;

	for (size_t i = 0; i < length / sizeof(*words); i++) {
		if (words[i] != EACH_BYTE * (unsigned char)with)
			return false;
	}
	return true;
}

/* ---- what is there ---- */

static __thread sigjmp_buf out_of_fault;

static inline void on_fault(int signal)
{
	(void)signal;
	siglongjmp(out_of_fault, 1);
}

/* Does reading there end in SIGSEGV? (row D2) */
static inline bool access_faults(const void *addr)
{
	struct sigaction action = {.sa_handler = on_fault}, before;
	volatile bool faults = true;

	ck_assert_int_eq(sigaction(SIGSEGV, &action, &before), 0);
	if (sigsetjmp(out_of_fault, 1) == 0) {
		(void)*(const volatile char *)addr;
		faults = false;
	}
	ck_assert_int_eq(sigaction(SIGSEGV, &before, NULL), 0);
	return faults;
}

/* At the first page, the last, and one in between. */
static inline void check_out_of_sight(const char *addr, size_t length)
{
	ck_assert_uint_eq(tdt_mapped(addr, length), 0);
	ck_assert(access_faults(addr));
	ck_assert(access_faults(addr + length / 2));
	ck_assert(access_faults(addr + length - 1));
}

static inline size_t kib_of(const char *path, const char *name)
{
	FILE *file = fopen(path, "re");
	char line[512];
	size_t kib = 0;

	ck_assert_ptr_nonnull(file);
	while (fgets(line, sizeof(line), file)) {
		if (strncmp(line, name, strlen(name)) == 0 &&
		    sscanf(line + strlen(name), "%zu", &kib) == 1)
			break;
	}
	fclose(file);
	return kib;
}

static inline size_t locked_kib(void)
{
	return kib_of("/proc/self/status", "VmLck:");
}

/* A number that smaps gives for the mapping around an address. */
static inline size_t smaps_kib(const void *addr, const char *name)
{
	FILE *smaps = fopen("/proc/self/smaps", "re");
	unsigned long start, end;
	bool here = false;
	char line[512];
	size_t kib = 0;

	ck_assert_ptr_nonnull(smaps);
	while (fgets(line, sizeof(line), smaps)) {
		if (sscanf(line, "%lx-%lx ", &start, &end) == 2)
			here = start <= (uintptr_t)addr && (uintptr_t)addr < end;
		if (here && strncmp(line, name, strlen(name)) == 0 &&
		    sscanf(line + strlen(name), "%zu", &kib) == 1)
			break;
	}
	fclose(smaps);
	return kib;
}

/* ---- the pool of huge pages ---- */

#define POOL_FREE "/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages"

/* Others may hold some for a moment; what is leaked does not come back. */
static inline void await_huge_pages(long number)
{
	uint64_t deadline = tdi_sys_deadline(INT64_C(20000000000));

	while (read_long(POOL_FREE) < number)
		ck_assert_msg(tdi_sys_now_ns() < deadline, "%ld huge pages free, not %ld",
			      read_long(POOL_FREE), number);
}

/* ---- giving back ---- */

/* In the caller, and by reapers, from a space and from the middle of its life. */
enum way { PUT, PUT_SYNC, UNMAP_HERE, UNMAP_LATER, WAYS };

static inline void unmap_region(td_space *space, char *addr, size_t length, enum way way)
{
	bool later = way == UNMAP_LATER;

	ck_assert_int_eq(td_engine_set_munmap_threshold(engine, later ? tdi_page_size()
								      : SIZE_MAX),
			 0);
	tdt_fail_none();
	ck_assert_int_eq(td_region_unmap(space, addr, length), 0);
	ck_assert_uint_eq(tdt_calls(TDI_SYS_mremap) > 0, later);
	check_out_of_sight(addr, length);
}

/*
 * Gives a space's only region of so many bytes back, and with it the space: when it
 * returns, everything is reclaimed, and the numbers say so.
 */
static inline void give_back(td_space *space, char *addr, size_t length, enum way way)
{
	struct td_space_stats stats;

	ck_assert_uint_eq(stats_of(space).bytes_mapped, length);
	ck_assert_uint_eq(stats_of(space).regions, 1);
	ck_assert_int_eq(td_space_grab(space), 0);
	if (way == UNMAP_HERE || way == UNMAP_LATER) {
		char *other = addr;

		unmap_region(space, addr, length, way);
		/* (row D3) what comes to lie there is nobody's business */
		other = mmap(addr, length, PROT_READ | PROT_WRITE,
			     MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
		ck_assert_ptr_eq(other, addr);
		fill(other, 'o', length);
		ck_assert_int_eq(td_space_put(space), 0);
		ck_assert_int_eq(td_space_wait(space, TD_EVENT_RECLAIMED, TD_FOREVER), 0);
		ck_assert(is_filled(other, length, 'o'));
		ck_assert_int_eq(munmap(other, length), 0);
	} else if (way == PUT) {
		ck_assert_int_eq(td_space_put(space), 0);
		ck_assert_int_eq(td_space_wait(space, TD_EVENT_RECLAIMED, TD_FOREVER), 0);
	} else {
		ck_assert_int_eq(td_space_put_sync(space), 0);
		ck_assert_int_eq(td_space_wait(space, TD_EVENT_RECLAIMED, 0), 0);
	}
	ck_assert_uint_eq(tdt_mapped(addr, length), 0);
	stats = stats_of(space);
	ck_assert_uint_eq(stats.regions, 0);
	ck_assert_uint_eq(stats.bytes_mapped, length);
	ck_assert_uint_eq(stats.bytes_reclaimed, length);
	ck_assert_uint_eq(stats.bytes_refused, 0);
	ck_assert_uint_eq(stats.bytes_pending, 0);
	ck_assert_int_eq(td_space_drop(space), 0);
}

#endif
