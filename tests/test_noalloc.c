/* SPDX-License-Identifier: MIT */
/* A11: nothing on the teardown path depends on getting memory. */
#include "harness.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <teardown.h>

#if TDT_SANITIZED

START_TEST(the_teardown_allocates_nothing)
{
	tdt_skip("the sanitizer owns malloc");
}
END_TEST

static void add_tests(struct tdt *tests)
{
	tdt_add(tests, the_teardown_allocates_nothing, NULL, NULL);
}

#else

/* glibc's own, under the names that are left when malloc is replaced. */
void *__libc_malloc(size_t size);
void *__libc_calloc(size_t n, size_t size);
void *__libc_realloc(void *old, size_t size);
void *__libc_memalign(size_t align, size_t size);

static atomic_bool failing;
static atomic_uint refused;

static bool refuse(void)
{
	if (!atomic_load(&failing))
		return false;
	atomic_fetch_add(&refused, 1);
	errno = ENOMEM;
	return true;
}

/* An allocator that gives memory back by td_munmap, when it pleases. */
static __thread bool unmaps;
static atomic_uint unmapped;

static void unmap_something(void)
{
	void *spare;

	if (!unmaps)
		return;
	unmaps = false;
	spare = mmap(NULL, 64 * MIB, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (spare != MAP_FAILED && td_munmap(spare, 64 * MIB) == 0)
		atomic_fetch_add(&unmapped, 1);
	unmaps = true;
}

void *malloc(size_t size)
{
	unmap_something();
	return refuse() ? NULL : __libc_malloc(size);
}

void *calloc(size_t n, size_t size)
{
	return refuse() ? NULL : __libc_calloc(n, size);
}

void *realloc(void *old, size_t size)
{
	return refuse() ? NULL : __libc_realloc(old, size);
}

void *memalign(size_t align, size_t size);
void *memalign(size_t align, size_t size)
{
	return refuse() ? NULL : __libc_memalign(align, size);
}

void *aligned_alloc(size_t align, size_t size)
{
	unmap_something();
	return refuse() ? NULL : __libc_memalign(align, size);
}

int posix_memalign(void **ret, size_t align, size_t size)
{
	*ret = refuse() ? NULL : __libc_memalign(align, size);
	return *ret ? 0 : ENOMEM;
}

static td_engine *engine;
static td_space *space;
static atomic_uint calls;

static void on_event(td_space *of, enum td_event event, int status, void *arg)
{
	(void)of;
	(void)event;
	(void)arg;
	if (status == 0)
		atomic_fetch_add(&calls, 1);
}

static void make(void *addrs[], int regions)
{
	ck_assert_int_eq(td_space_create(engine, NULL, &space), 0);
	for (int i = 0; i < regions; i++) {
		size_t length = i % 8 == 0 ? 16 * MIB : 64 * KIB;

		ck_assert_int_eq(td_region_map(space, length, NULL, &addrs[i]), 0);
		tdt_touch(addrs[i], length);
	}
}

/* The first of everything, such as the dynamic linker's, is not the library's. */
static void warm_up(void)
{
	void *addrs[2];

	ck_assert_int_eq(td_engine_create(TD_ENGINE_OPTS(.reapers = 2), &engine), 0);
	make(addrs, 2);
	ck_assert_int_eq(td_space_put(space), 0);
	ck_assert_int_eq(td_engine_drain(engine, TD_FOREVER), 0);
}

static void tear_down(bool sync)
{
	enum { REGIONS = 40 };
	void *addrs[REGIONS];
	int results[3], fd;

	make(addrs, REGIONS);
	ck_assert_int_eq(td_space_on_event(space, TD_EVENT_GONE, on_event, NULL), 0);
	ck_assert_int_eq(td_space_on_event(space, TD_EVENT_RECLAIMED, on_event, NULL), 0);
	ck_assert_int_eq(td_space_eventfd(space, TD_EVENT_RECLAIMED, &fd), 0);
	ck_assert_int_eq(td_space_grab(space), 0);

	atomic_store(&failing, true);
	results[0] = sync ? td_space_put_sync(space) : td_space_put(space);
	results[1] = td_space_wait(space, TD_EVENT_RECLAIMED, TD_FOREVER);
	results[2] = td_engine_drain(engine, TD_FOREVER);
	atomic_store(&failing, false);

	ck_assert_int_eq(results[0] | results[1] | results[2], 0);
	ck_assert_uint_eq(atomic_load(&refused), 0);
	ck_assert_uint_eq(atomic_load(&calls), 2);
	for (int i = 0; i < REGIONS; i++)
		ck_assert_uint_eq(tdt_mapped(addrs[i], 64 * KIB), 0);
	ck_assert_int_eq(td_space_drop(space), 0);
}

START_TEST(the_reapers_teardown_allocates_nothing)
{
	tear_down(false);
}
END_TEST

START_TEST(the_callers_teardown_allocates_nothing)
{
	tear_down(true);
}
END_TEST

START_TEST(nor_does_it_when_system_calls_fail)
{
	tdt_fail(TDI_SYS_madvise, -ENOMEM, 1, 4);
	tdt_fail(TDI_SYS_munmap, -ENOMEM, 3, 4);
	tear_down(false);
}
END_TEST

START_TEST(nor_does_an_engine_that_shuts_down)
{
	void *addrs[4];
	int results[2];

	make(addrs, 4);
	atomic_store(&failing, true);
	results[0] = td_space_put(space);
	results[1] = td_engine_destroy(engine, TD_EXIT_DRAIN, 0);
	atomic_store(&failing, false);
	ck_assert_int_eq(results[0] | results[1], 0);
	ck_assert_uint_eq(atomic_load(&refused), 0);
}
END_TEST

START_TEST(creation_without_memory_fails_cleanly)
{
	td_engine *made = (void *)1;
	td_space *dead = (void *)1;
	void *addr = (void *)1;
	int results[3], fd = -5;
	size_t before;

	ck_assert_int_eq(td_space_create(engine, NULL, &space), 0);
	before = tdt_footprint().mappings;
	atomic_store(&failing, true);
	results[0] = td_engine_create(NULL, &made);
	results[1] = td_space_create(engine, NULL, &dead);
	results[2] = td_region_map(space, MIB, NULL, &addr);
	if (td_space_eventfd(space, TD_EVENT_GONE, &fd) != -ENOMEM ||
	    td_space_on_event(space, TD_EVENT_GONE, on_event, NULL) != -ENOMEM)
		results[2] = 0;
	atomic_store(&failing, false);
	for (int i = 0; i < 3; i++)
		ck_assert_int_eq(results[i], -ENOMEM);
	ck_assert_ptr_eq(made, (void *)1);
	ck_assert_ptr_eq(dead, (void *)1);
	ck_assert_ptr_eq(addr, (void *)1);
	ck_assert_int_eq(fd, -5);
	tdt_check_mappings(before, 0);
	ck_assert_int_eq(td_space_put(space), 0);
}
END_TEST

/* E3, E7: a thread's first lazy reference allocates, nothing after that does. */
START_TEST(lazy_references_allocate_once_a_thread)
{
	int results[6];

	ck_assert_int_eq(td_space_create(engine, NULL, &space), 0);
	atomic_store(&failing, true);
	results[0] = td_lazy_enter(space);
	atomic_store(&failing, false);
	ck_assert_int_eq(results[0], -ENOMEM);
	ck_assert_uint_eq(atomic_load(&refused), 1);
	ck_assert_ptr_null(td_lazy_current());

	ck_assert_int_eq(td_lazy_enter(space), 0);
	atomic_store(&failing, true);
	results[0] = td_lazy_leave();
	results[1] = td_lazy_enter(space);
	results[2] = td_space_put(space);
	results[3] = td_engine_drain(engine, TD_FOREVER);
	results[4] = td_lazy_leave();
	results[5] = td_engine_drain(engine, TD_FOREVER);
	atomic_store(&failing, false);
	for (int i = 0; i < 6; i++)
		ck_assert_int_eq(results[i], 0);
	ck_assert_uint_eq(atomic_load(&refused), 1);
}
END_TEST

/* D4: td_munmap may be called by malloc itself, on behalf of the library. */
START_TEST(an_allocator_may_unmap_while_the_library_allocates)
{
	td_engine *made;
	void *addr;
	int err[2];

	unmaps = true;
	err[0] = td_engine_default(&made);
	unmaps = false;
	ck_assert_int_eq(err[0], 0);
	ck_assert_int_eq(td_space_create(made, NULL, &space), 0);
	unmaps = true;
	err[0] = td_region_map(space, MIB, NULL, &addr);
	err[1] = td_region_unmap(space, addr, MIB);
	unmaps = false;
	ck_assert_int_eq(err[0] | err[1], 0);
	ck_assert_uint_gt(atomic_load(&unmapped), 1);
	ck_assert_int_eq(td_space_put(space), 0);
	ck_assert_int_eq(td_engine_drain(NULL, TD_FOREVER), 0);
}
END_TEST

/* ---- B7: batches ---- */

struct small {
	struct td_batch_node node;
	char more[48];
};

static __thread bool adding;
static atomic_uint waits_of_adder, objects_freed;

static int watch_adder(enum tdi_sys_call call, uintptr_t addr, size_t length, int detail)
{
	(void)addr;
	(void)length;
	(void)detail;
	if (adding && call == TDI_SYS_futex_wait)
		atomic_fetch_add(&waits_of_adder, 1);
	return 0;
}

static void count_them(void **objects, size_t n, void *ctx)
{
	(void)objects;
	(void)ctx;
	atomic_fetch_add(&objects_freed, (unsigned)n);
}

/* Its first call in this thread included. */
START_TEST(adding_to_a_batch_allocates_nothing_and_does_not_wait)
{
	enum { N = 30000 };
	static struct small objects[3 * N];
	struct td_batch_list list = {0};
	td_batch *batch;
	int err = 0;

	ck_assert_int_eq(
		td_batch_create(engine, TD_BATCH_OPTS(.free_bulk = count_them), &batch),
		0);
	tdi_sys_set_fault(watch_adder);
	atomic_store(&failing, true);
	adding = true;
	for (int i = 0; i < N; i++) {
		err |= td_batch_free(batch, &objects[3 * i].node, 0);
		err |= td_batch_free_ptr(batch, &objects[3 * i + 1], 0);
		td_batch_list_add(&list, &objects[3 * i + 2].node, 0);
		if (i % 7 == 0)
			err |= td_batch_free_list(batch, &list, 0);
		if (i % 1000 == 0)
			err |= td_batch_flush(batch, 0);
	}
	err |= td_batch_free_list(batch, &list, 0);
	adding = false;
	err |= td_batch_barrier(batch, TD_FOREVER);
	atomic_store(&failing, false);
	tdi_sys_set_fault(NULL);
	ck_assert_int_eq(err, 0);
	ck_assert_uint_eq(atomic_load(&refused), 0);
	ck_assert_uint_eq(atomic_load(&waits_of_adder), 0);
	ck_assert_uint_eq(atomic_load(&objects_freed), 3 * N);
	ck_assert_int_eq(td_batch_destroy(batch, 0), 0);
}
END_TEST

START_TEST(a_batch_without_memory_is_none)
{
	td_batch *batch = (void *)1;
	int err;

	for (int i = 0; i < 2; i++) {
		atomic_store(&failing, true);
		err = td_batch_create(engine, NULL, &batch);
		atomic_store(&failing, false);
		ck_assert_int_eq(err, -ENOMEM);
		ck_assert_ptr_eq(batch, (void *)1);
	}
}
END_TEST

static void add_tests(struct tdt *tests)
{
	tdt_add(tests, adding_to_a_batch_allocates_nothing_and_does_not_wait, warm_up,
		NULL);
	tdt_add(tests, a_batch_without_memory_is_none, warm_up, NULL);
	tdt_add(tests, the_reapers_teardown_allocates_nothing, warm_up, NULL);
	tdt_add(tests, the_callers_teardown_allocates_nothing, warm_up, NULL);
	tdt_add(tests, nor_does_it_when_system_calls_fail, warm_up, NULL);
	tdt_add(tests, nor_does_an_engine_that_shuts_down, warm_up, NULL);
	tdt_add(tests, creation_without_memory_fails_cleanly, warm_up, NULL);
	tdt_add(tests, lazy_references_allocate_once_a_thread, warm_up, NULL);
	tdt_add(tests, an_allocator_may_unmap_while_the_library_allocates, NULL, NULL);
}

#endif

int main(void)
{
	struct tdt *tests = tdt_suite("noalloc");

	add_tests(tests);
	return tdt_run(tests);
}
