/* SPDX-License-Identifier: MIT */
/*
 * D8, A11: unmapping where the kernel refuses, or memory is short. Each region is then as
 * it was, or has gone as it was to; nothing in between, and what the call says is so.
 */
#include "job.h"
#include "regions.h"

#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <unistd.h>

static td_space *space;
static size_t page;

static void begin(void)
{
	page = tdi_page_size();
	urcu_memb_register_thread();
	setup();
	ck_assert_int_eq(td_space_create(engine, TD_SPACE_OPTS(.name = "arena"), &space),
			 0);
}

static void end(void)
{
	ck_assert_int_eq(td_space_put(space), 0);
	teardown();
	urcu_memb_unregister_thread();
}

static void defer(bool all)
{
	ck_assert_int_eq(td_engine_set_munmap_threshold(engine, all ? 1 : SIZE_MAX), 0);
}

/* ---- system calls ---- */

/* Two runs of neighbours, cut at both ends. */
static const char layout[] = "aaaabb__ccdddd";
enum { FROM = 2, PAGES = 10 };

static bool has_gone(const struct window *window, size_t at)
{
	return tdt_mapped(page_at(window, at), page) == 0;
}

/* Of pages [from, to) all are in the space, as they were, or none is. */
static bool run_has_gone(const struct window *window, size_t from, size_t to)
{
	bool gone = has_gone(window, from);

	for (size_t i = from; i < to; i++) {
		struct td_region_info info;
		const char *at = page_at(window, i);

		if (gone) {
			ck_assert(has_gone(window, i));
			ck_assert_int_eq(lookup(space, at, &info), -ENOENT);
			continue;
		}
		ck_assert(*(uint64_t *)page_at(window, i) == mark_of(window, i));
		ck_assert_int_eq(lookup(space, at, &info), 0);
		ck_assert((char *)info.addr <= at &&
			  at < (char *)info.addr + info.length);
	}
	return gone;
}

/* True when the call to fail was reached. */
static bool unmap_failing(enum tdi_sys_call call, int err, unsigned first, unsigned count)
{
	struct window window = window_with(space, layout);
	bool left_gone, right_gone, reached;
	int result;

	tdt_fail_none();
	tdt_fail(call, err, first, count);
	result = window_unmap(space, &window, FROM, PAGES);
	reached = tdt_calls(call) > first;
	tdt_fail_none();

	left_gone = run_has_gone(&window, 2, 6);
	right_gone = run_has_gone(&window, 8, 12);
	if (result == 0)
		ck_assert(left_gone && right_gone);
	else
		ck_assert(!left_gone || !right_gone);
	ck_assert(!run_has_gone(&window, 0, 2));
	ck_assert(!run_has_gone(&window, 12, 14));
	/* What stays is claimed as before, and nobody waits for it to leave. */
	if (!left_gone)
		ck_assert_int_eq(td_region_adopt(space, page_at(&window, 2), page, NULL),
				 -EEXIST);
	if (!right_gone)
		ck_assert_int_eq(td_region_adopt(space, page_at(&window, 11), page, NULL),
				 -EEXIST);
	check_page(space, &window, 6, '_');
	check_page(space, &window, 7, '_');

	ck_assert_int_eq(window_unmap(space, &window, 0, window.pages), 0);
	ck_assert_int_eq(td_engine_drain(engine, TD_FOREVER), 0);
	check_window(space, &window, "......__......");
	window_clear(&window, layout);
	return reached;
}

static bool is_of_no_use(enum tdi_sys_call call)
{
	/* These end the process when they fail as they never do. */
	return call == TDI_SYS_futex_wait || call == TDI_SYS_futex_wake;
}

START_TEST(any_system_call_may_fail_anywhere)
{
	static const int errs[] = {-ENOMEM, -EPERM, -EINVAL, -EAGAIN, -EINTR, -ENOSYS};
	unsigned rounds = 0, calls = 0;
	struct td_space_stats now;

	for (int deferred = 0; deferred < 2; deferred++) {
		defer(deferred);
		for (int call = 0; call < TDI_SYS_COUNT; call++) {
			unsigned first = 0;

			if (is_of_no_use((enum tdi_sys_call)call))
				continue;
			while (unmap_failing((enum tdi_sys_call)call, -ENOMEM, first,
					     UINT32_MAX)) {
				for (size_t i = 0; i < sizeof(errs) / sizeof(*errs);
				     i++) {
					(void)unmap_failing((enum tdi_sys_call)call,
							    errs[i], first, 1);
					rounds++;
				}
				first++;
			}
			calls += first > 0;
		}
	}
	printf("# %u rounds, %u calls\n", rounds, calls);
	ck_assert_uint_gt(calls, 5);
	ck_assert_int_eq(td_space_stats(space, &now), 0);
	ck_assert_uint_eq(now.regions, 0);
}
END_TEST

/* ---- in the middle of it ---- */

static struct window leaving;
static unsigned seen;
static pthread_t other;
static _Atomic(pid_t) other_tid;
static int other_result;

static bool is_on_its_way(enum tdi_sys_call call, uintptr_t addr)
{
	return (call == TDI_SYS_munmap || call == TDI_SYS_mremap) &&
	       addr == (uintptr_t)leaving.addr;
}

static int look_up_on_the_way(enum tdi_sys_call call, uintptr_t addr, size_t length,
			      int detail)
{
	struct td_region_info info;

	(void)length;
	(void)detail;
	if (!is_on_its_way(call, addr))
		return 0;
	for (size_t i = 0; i < leaving.pages; i++)
		ck_assert_int_eq(lookup(space, page_at(&leaving, i), &info), -ENOENT);
	seen++;
	return 0;
}

/* D2, D7: whoever finds a region may count on its memory's not having gone before. */
START_TEST(a_region_is_not_found_from_before_its_memory_goes)
{
	for (int deferred = 0; deferred < 2; deferred++) {
		defer(deferred);
		leaving = window_with(space, "aabb");
		seen = 0;
		tdi_sys_set_fault(look_up_on_the_way);
		ck_assert_int_eq(window_unmap(space, &leaving, 0, 4), 0);
		tdi_sys_set_fault(NULL);
		ck_assert_uint_gt(seen, 0);
		check_window(space, &leaving, "....");
	}
}
END_TEST

static void *unmap_too(void *arg)
{
	(void)arg;
	atomic_store(&other_tid, gettid());
	other_result = window_unmap(space, &leaving, 0, 2);
	return NULL;
}

/* Asleep: of what it does only waiting for the other takes so. */
static bool sleeps(pid_t tid)
{
	char path[64], state = '?';
	FILE *file;

	snprintf(path, sizeof(path), "/proc/self/task/%d/stat", (int)tid);
	file = fopen(path, "re");
	if (file && fscanf(file, "%*d (%*[^)]) %c", &state) != 1)
		state = '?';
	if (file)
		fclose(file);
	return state == 'S';
}

static int refuse_once_somebody_waits(enum tdi_sys_call call, uintptr_t addr,
				      size_t length, int detail)
{
	(void)length;
	(void)detail;
	if (!is_on_its_way(call, addr) || seen++ > 0)
		return 0;
	pthread_create(&other, NULL, unmap_too, NULL);
	while (!atomic_load(&other_tid) || !sleeps(atomic_load(&other_tid)))
		sched_yield();
	return -EPERM;
}

/* D8: who waited for a region to leave looks again at one that stayed. */
START_TEST(whoever_waits_goes_on_when_a_region_stays)
{
	defer(false);
	leaving = window_with(space, "aaa");
	tdi_sys_set_fault(refuse_once_somebody_waits);
	ck_assert_int_eq(window_unmap(space, &leaving, 0, 3), -EPERM);
	pthread_join(other, NULL);
	tdi_sys_set_fault(NULL);
	ck_assert_int_eq(other_result, 0);
	check_window(space, &leaving, "..a");
}
END_TEST

/* ---- the limit on mappings ---- */

static long limit_on_mappings(void)
{
	FILE *file = fopen("/proc/sys/vm/max_map_count", "re");
	long limit = -1;

	if (!file || fscanf(file, "%ld", &limit) != 1)
		limit = -1;
	if (file)
		fclose(file);
	return limit;
}

/* Single pages of reserved address space, each a mapping, until there is no more. */
static char *fill_mappings(size_t room)
{
	char *start = mmap(NULL, room, PROT_NONE,
			   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	ck_assert_ptr_ne(start, MAP_FAILED);
	for (size_t at = page; at < room; at += 2 * page) {
		if (mprotect(start + at, page, PROT_READ) != 0)
			break;
	}
	/* One more may be left of the two that a split in the middle takes. */
	(void)mprotect(start + room - page, page, PROT_READ);
	return start;
}

START_TEST(at_the_limit_on_mappings_a_cut_is_refused_and_tried_again_later)
{
	long limit = limit_on_mappings();
	struct window window;
	size_t room = (size_t)limit * 2 * page;
	char *filling;

	if (TDT_SANITIZED) {
		tdt_skip("sanitizers need mappings at any time");
		return;
	}
	if (limit < 0 || limit > 1000000) {
		tdt_skip("vm.max_map_count is %ld", limit);
		return;
	}
	for (int deferred = 0; deferred < 2; deferred++) {
		struct td_region_info info;

		defer(deferred);
		window = window_with(space, "aaaaaaaa__");
		filling = fill_mappings(room);
		ck_assert_int_eq(window_unmap(space, &window, 3, 2), -ENOMEM);
		for (size_t i = 0; i < 8; i++) {
			ck_assert(*(uint64_t *)page_at(&window, i) ==
				  mark_of(&window, i));
			ck_assert_int_eq(lookup(space, page_at(&window, i), &info), 0);
		}
		ck_assert_uint_eq(stats().bytes_quarantined, 0);
		munmap(filling, room);
		ck_assert_int_eq(window_unmap(space, &window, 3, 2), 0);
		check_window(space, &window, "aaa..bbb__");
		ck_assert_int_eq(window_unmap(space, &window, 0, 10), 0);
		check_window(space, &window, "........__");
		window_clear(&window, "........__");
	}
}
END_TEST

/* ---- memory ---- */

#if TDT_SANITIZED

START_TEST(memory_may_be_short_at_any_point)
{
	tdt_skip("the sanitizer owns malloc");
}
END_TEST

#else

/* glibc's own, under the names that are left when malloc is replaced. */
void *__libc_malloc(size_t size);
void *__libc_calloc(size_t n, size_t size);
void *__libc_memalign(size_t align, size_t size);

/* Of this thread's allocations so many succeed; negative: all. */
static __thread long left = -1;
static __thread bool refused;

static bool refuse(void)
{
	if (left < 0 || left-- > 0)
		return false;
	left = 0;
	refused = true;
	errno = ENOMEM;
	return true;
}

void *malloc(size_t size)
{
	return refuse() ? NULL : __libc_malloc(size);
}

void *calloc(size_t n, size_t size)
{
	return refuse() ? NULL : __libc_calloc(n, size);
}

void *aligned_alloc(size_t align, size_t size)
{
	return refuse() ? NULL : __libc_memalign(align, size);
}

/* Regions beside it make the map's nodes full, so that a cut needs some. */
static bool unmap_with_memory_for(long allocations, size_t regions)
{
	struct window window = window_with(space, "aaaaaaaa"),
		      crowd = window_new(regions);
	int err;

	for (size_t i = 0; i < regions; i++)
		ck_assert_int_eq(td_region_adopt(space, page_at(&crowd, i), page, NULL),
				 0);
	refused = false;
	left = allocations;
	err = window_unmap(space, &window, 3, 2);
	left = -1;
	if (refused) {
		ck_assert_int_eq(err, -ENOMEM);
		ck_assert(!run_has_gone(&window, 0, 8));
		err = window_unmap(space, &window, 3, 2);
	}
	ck_assert_int_eq(err, 0);
	check_window(space, &window, "aaa..bbb");
	ck_assert_int_eq(window_unmap(space, &window, 0, 8), 0);
	ck_assert_int_eq(window_unmap(space, &crowd, 0, regions), 0);
	check_window(space, &window, "........");
	return refused;
}

START_TEST(memory_may_be_short_at_any_point)
{
	for (int deferred = 0; deferred < 2; deferred++) {
		defer(deferred);
		for (size_t regions = 1; regions < 80; regions += 13) {
			long allocations = 0;

			while (unmap_with_memory_for(allocations, regions))
				allocations++;
			/* two cuts: two objects, a claim and a node each */
			ck_assert_int_ge(allocations, 8);
		}
	}
}
END_TEST

#endif

int main(void)
{
	struct tdt *tests = tdt_suite("region_refused");

	tdt_add(tests, any_system_call_may_fail_anywhere, begin, end);
	tdt_add(tests, a_region_is_not_found_from_before_its_memory_goes, begin, end);
	tdt_add(tests, whoever_waits_goes_on_when_a_region_stays, begin, end);
	tdt_add(tests, at_the_limit_on_mappings_a_cut_is_refused_and_tried_again_later,
		begin, end);
	tdt_add(tests, memory_may_be_short_at_any_point, begin, end);
	return tdt_run(tests);
}
