/* SPDX-License-Identifier: MIT */
/* td_munmap beyond munmap's contract: what is deferred, what is not, who can tell. */
#include "doomed.h"
#include "hold.h"
#include "mapped.h"

#include <sys/wait.h>
#include <teardown.h>

static int unmap(void *addr, size_t length)
{
	return td_engine_munmap(engine, addr, length, 0);
}

/* ---- D2, D3 ---- */

START_TEST(an_access_faults_as_soon_as_it_returns)
{
	size_t length = 32 * MIB;
	struct hold hold;
	char *addr = tdt_map_anon(length);

	tdt_touch(addr, length);
	catch_faults();
	hold_reaper(&hold);
	ck_assert_int_eq(unmap(addr, length), 0);
	ck_assert_uint_eq(stats().bytes_quarantined, length);
	ck_assert(read_faults(addr));
	ck_assert(read_faults(addr + length / 2));
	ck_assert(read_faults(addr + length - 1));
	ck_assert(write_faults(addr));
	ck_assert(write_faults(addr + length - 1));
	let_go(&hold);
	drain();
	ck_assert(read_faults(addr));
	ck_assert_uint_eq(stats().bytes_quarantined, 0);
}
END_TEST

struct watcher {
	_Atomic(bool) reading, unmapped;
	const volatile unsigned *word;
	unsigned strange;
	bool too_late;
};

static void *watch(void *arg)
{
	struct watcher *watcher = arg;

	if (sigsetjmp(fault_jump, 1))
		return NULL;
	for (;;) {
		bool unmapped = atomic_load(&watcher->unmapped);
		unsigned value = *watcher->word;

		if (value != 4711)
			watcher->strange = value + 1;
		if (unmapped) {
			watcher->too_late = true;
			return NULL;
		}
		atomic_store(&watcher->reading, true);
	}
}

/* D2: a thread that reads all the while sees what was there, then faults; never zeroes.
 */
static void watch_it_go(size_t length, bool huge)
{
	char *addr = (char *)TDT_FAR;

	catch_faults();
	for (int round = 0; round < 200; round++) {
		struct watcher watcher = {.word = (unsigned *)(addr + length / 2)};
		pthread_t thread;

		map_at(addr, length, PROT_READ | PROT_WRITE);
		if (huge)
			madvise(addr, length, MADV_HUGEPAGE);
		*(volatile unsigned *)watcher.word = 4711;
		pthread_create(&thread, NULL, watch, &watcher);
		while (!atomic_load(&watcher.reading))
			sched_yield();
		ck_assert_int_eq(unmap(addr, length), 0);
		atomic_store(&watcher.unmapped, true);
		pthread_join(thread, NULL);
		ck_assert_uint_eq(watcher.strange, 0);
		ck_assert(!watcher.too_late);
	}
	ck_assert_uint_eq(stats().munmaps_deferred, 200);
}

START_TEST(a_reader_sees_what_was_there_or_faults)
{
#ifdef __SANITIZE_THREAD__
	tdt_skip("the test is a data race: a read against an unmapping");
	return;
#endif
	watch_it_go(64 * KIB, false);
	drain();
}
END_TEST

START_TEST(a_reader_of_huge_pages_sees_what_was_there_or_faults)
{
#ifdef __SANITIZE_THREAD__
	tdt_skip("the test is a data race: a read against an unmapping");
	return;
#endif
	watch_it_go(4 * MIB, true);
	drain();
}
END_TEST

START_TEST(what_is_mapped_there_next_is_never_touched)
{
	size_t length = 16 * MIB;
	char *addr = (char *)TDT_FAR;

	map_at(addr, length, PROT_READ | PROT_WRITE);
	tdt_touch(addr, length);
	for (unsigned round = 0; round < 8; round++) {
		ck_assert_int_eq(unmap(addr, length), 0);
		map_at(addr, length, PROT_READ | PROT_WRITE);
		ck_assert_int_eq(addr[5 * page], 0);
		number_pages(addr, length, round);
		if (round % 2)
			drain();
		check_numbers(addr, length, round);
	}
	drain();
	check_numbers(addr, length, 7);
	ck_assert_int_eq(unmap(addr, length), 0);
}
END_TEST

static void *map_and_number(void *addr)
{
	number_pages(map_at(addr, MIB, PROT_READ | PROT_WRITE), MIB, 3);
	return NULL;
}

START_TEST(what_another_thread_has_mapped_goes_as_well)
{
	char *addr = (char *)TDT_FAR;
	pthread_t thread;

	pthread_create(&thread, NULL, map_and_number, addr);
	pthread_join(thread, NULL);
	check_numbers(addr, MIB, 3);
	ck_assert_int_eq(unmap(addr, MIB), 0);
	pthread_create(&thread, NULL, map_and_number, addr);
	pthread_join(thread, NULL);
	drain();
	check_numbers(addr, MIB, 3);
	ck_assert_int_eq(unmap(addr, MIB), 0);
}
END_TEST

/* ---- bounds ---- */

/* Mappings of a page each that cannot be merged. */
static void map_many(char *addr, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		map_at(addr + i * page, page, i % 2 ? PROT_READ : PROT_READ | PROT_WRITE);
		if (i % 2 == 0)
			number_pages(addr + i * page, page, (unsigned)i);
	}
}

START_TEST(a_range_of_too_many_mappings_is_freed_in_the_caller)
{
	static const size_t counts[] = {63, 64, 65, 66, 200, 1000};
	uint64_t deferred = 0;
	char *addr = (char *)TDT_FAR;

	for (size_t i = 0; i < sizeof(counts) / sizeof(*counts); i++) {
		map_many(addr, counts[i]);
		ck_assert_int_eq(unmap(addr, counts[i] * page), 0);
		ck_assert_uint_eq(tdt_mapped(addr, counts[i] * page), 0);
		deferred += counts[i] <= TDI_PIECES_MAX;
		ck_assert_uint_eq(stats().munmaps_deferred, deferred);
		ck_assert_uint_eq(stats().munmaps_in_caller, i + 1 - deferred);
	}
}
END_TEST

/* A11: past what can be pending the caller frees by itself. */
START_TEST(past_what_can_be_pending_the_caller_frees)
{
	unsigned more = 40;
	struct hold hold;
	char *addr = (char *)TDT_FAR;

	hold_reaper(&hold);
	for (unsigned i = 0; i < TDI_DOOMED_SLOTS + more; i++) {
		map_at(addr, 64 * KIB, PROT_READ | PROT_WRITE);
		tdt_touch(addr, 64 * KIB);
		ck_assert_int_eq(unmap(addr, 64 * KIB), 0);
		ck_assert_uint_eq(tdt_mapped(addr, 64 * KIB), 0);
	}
	ck_assert_uint_eq(stats().munmaps_deferred, TDI_DOOMED_SLOTS);
	ck_assert_uint_eq(stats().munmaps_in_caller, more);
	ck_assert_uint_eq(stats().bytes_quarantined, TDI_DOOMED_SLOTS * 64 * KIB);
	let_go(&hold);
	drain();
	ck_assert_uint_eq(stats().bytes_quarantined, 0);
	map_at(addr, 64 * KIB, PROT_READ | PROT_WRITE);
	ck_assert_int_eq(unmap(addr, 64 * KIB), 0);
	ck_assert_uint_eq(stats().munmaps_deferred, TDI_DOOMED_SLOTS + 1);
}
END_TEST

START_TEST(quarantine_is_used_again_and_not_used_up)
{
	size_t length = 256 * KIB, before = 0;
	long pages = 0;

	for (int i = 0; i < 3000; i++) {
		char *addr = tdt_map_anon(length);

		addr[0] = 1;
		ck_assert_int_eq(unmap(addr, length), 0);
		if (i % 100 == 0 || i == 2999)
			drain();
		if (i == 100) {
			before = tdt_footprint().mappings;
			pages = vm_pages();
		}
	}
	tdt_check_mappings(before, 0);
	if (!TDT_SANITIZED)
		ck_assert_int_le(vm_pages(), pages);
	ck_assert_uint_gt(stats().munmaps_deferred, 0);
	ck_assert_uint_eq(stats().bytes_quarantined, 0);
	ck_assert_uint_eq(stats().works_failed, 0);
}
END_TEST

/* A child would keep its pages: so that there is hardly a time when it could. */
START_TEST(what_cannot_be_kept_out_of_children_is_freed_at_once)
{
	char *addr = (char *)TDT_FAR;
	struct hold hold;

	hold_reaper(&hold);
	map_at(addr, MIB, PROT_READ | PROT_WRITE);
	tdt_touch(addr, MIB);
	tdt_fail_detail(TDI_SYS_madvise, MADV_DONTFORK, -ENOMEM, 0, 1);
	ck_assert_int_eq(unmap(addr, MIB), 0);
	tdt_fail_none();
	ck_assert_uint_eq(stats().bytes_quarantined, 0);
	ck_assert_uint_eq(stats().works_in_caller, 1);
	ck_assert_uint_eq(stats().works_pending, 1); /* the one held */
	let_go(&hold);
}
END_TEST

/* D6 */
START_TEST(the_threshold_is_honoured)
{
	size_t threshold = 1 * MIB;
	char *addr = (char *)TDT_FAR;
	td_engine *own;
	struct td_engine_stats now;

	ck_assert_int_eq(td_engine_set_munmap_threshold(engine, threshold), 0);
	map_at(addr, threshold, PROT_READ);
	ck_assert_int_eq(unmap(addr, threshold), 0);
	ck_assert_uint_eq(stats().munmaps_deferred, 1);
	map_at(addr, threshold, PROT_READ);
	ck_assert_int_eq(unmap(addr, threshold - page), 0);
	ck_assert_uint_eq(stats().munmaps_deferred, 1);
	ck_assert_uint_eq(tdt_mapped(addr, threshold), page);
	/* so much range, but not so much memory */
	ck_assert_int_eq(unmap(addr, threshold), 0);
	ck_assert_uint_eq(tdt_mapped(addr, threshold), 0);
	ck_assert_uint_eq(stats().munmaps_deferred, 1);
	ck_assert_uint_eq(stats().munmaps_in_caller, 1);

	ck_assert_int_eq(td_engine_set_munmap_threshold(engine, 0), 0);
	map_at(addr, TDI_MUNMAP_THRESHOLD, PROT_READ);
	ck_assert_int_eq(unmap(addr, TDI_MUNMAP_THRESHOLD - page), 0);
	ck_assert_int_eq(unmap(addr + TDI_MUNMAP_THRESHOLD - page, page), 0);
	ck_assert_uint_eq(stats().munmaps_deferred, 1);
	map_at(addr, TDI_MUNMAP_THRESHOLD, PROT_READ);
	ck_assert_int_eq(unmap(addr, TDI_MUNMAP_THRESHOLD), 0);
	ck_assert_uint_eq(stats().munmaps_deferred, 2);

	ck_assert_int_eq(td_engine_set_munmap_threshold(engine, SIZE_MAX), 0);
	map_at(addr, 4 * GIB, PROT_NONE);
	ck_assert_int_eq(unmap(addr, 4 * GIB), 0);
	ck_assert_uint_eq(stats().munmaps_deferred, 2);
	ck_assert_uint_eq(tdt_mapped(addr, 4 * GIB), 0);

	/* as an option of the engine */
	ck_assert_int_eq(
		td_engine_create(
			TD_ENGINE_OPTS(.reapers = 1, .munmap_threshold = 4 * page), &own),
		0);
	for (size_t pages = 3; pages <= 4; pages++) {
		map_at(addr, pages * page, PROT_READ);
		ck_assert_int_eq(td_engine_munmap(own, addr, pages * page, 0), 0);
		ck_assert_int_eq(td_engine_stats(own, &now), 0);
		ck_assert_uint_eq(now.munmaps_deferred, pages - 3);
	}
	ck_assert_int_eq(td_engine_destroy(own, TD_EXIT_DRAIN, 0), 0);
}
END_TEST

/* ---- engines ---- */

START_TEST(without_reapers_the_caller_frees)
{
	char *addr = (char *)TDT_FAR;
	struct td_engine_stats now;

	tdt_fail(TDI_SYS_thread_create, -EAGAIN, 0, UINT32_MAX);
	ck_assert_int_eq(td_engine_set_munmap_threshold(NULL, page), 0);
	tdt_fail_none();
	for (int i = 0; i < 300; i++) {
		map_at(addr, MIB, PROT_READ | PROT_WRITE);
		tdt_touch(addr, MIB);
		ck_assert_int_eq(td_munmap(addr, MIB), 0);
		ck_assert_uint_eq(tdt_mapped(addr, MIB), 0);
		ck_assert_int_eq(td_engine_stats(NULL, &now), 0);
		ck_assert_uint_eq(now.reapers, 0);
		ck_assert_uint_eq(now.bytes_quarantined, 0);
	}
}
END_TEST

/* What is abandoned stays in quarantine, and the slots come back. */
START_TEST(an_abandoned_engine_leaves_the_addresses_free)
{
	char *addr = (char *)TDT_FAR;

	for (unsigned round = 0; round < 3; round++) {
		struct hold hold;

		hold_reaper(&hold);
		for (unsigned i = 0; i < TDI_DOOMED_SLOTS; i++) {
			map_at(addr, page, PROT_READ | PROT_WRITE);
			ck_assert_int_eq(unmap(addr, page), 0);
		}
		ck_assert_uint_eq(stats().munmaps_deferred, TDI_DOOMED_SLOTS);
		sem_post(&hold.may_go);
		ck_assert_int_eq(td_engine_destroy(engine, TD_EXIT_ABANDON, 0), 0);
		setup_eager();
		ck_assert_uint_eq(tdt_mapped(addr, page), 0);
	}
}
END_TEST

static int child_of(td_engine *parents)
{
	size_t length = 256 * KIB;
	char *addr = mmap(NULL, length, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	td_engine *own;
	struct td_engine_stats stats = {0};
	unsigned char in;

	addr[0] = 1;
	if (td_engine_munmap(parents, addr, length, 0) ||
	    mincore(addr, length, &in) == 0 || errno != ENOMEM)
		return 1;
	if (td_munmap(addr, length) || td_munmap(addr + 1, page) != -EINVAL)
		return 2;
	if (td_engine_set_munmap_threshold(parents, page) != -ECHILD ||
	    td_engine_relieve(parents) != -ECHILD)
		return 3;
#ifdef __SANITIZE_THREAD__
	return 0; /* it allows no threads after a fork of several */
#endif
	/* with an engine of its own it is deferred as anywhere */
	if (td_engine_create(TD_ENGINE_OPTS(.reapers = 1, .munmap_threshold = page),
			     &own))
		return 4;
	addr = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
		    0);
	addr[0] = 1;
	if (td_engine_munmap(own, addr, length, 0) || td_engine_stats(own, &stats) ||
	    td_engine_destroy(own, 0, 0))
		return 5;
	/* the parent's pending ranges take none of its slots */
	return stats.munmaps_deferred == 1 ? 0 : 6;
}

START_TEST(in_a_child_it_is_plain_munmap)
{
	char *addr = (char *)TDT_FAR;
	struct hold hold;
	int status;
	pid_t pid;

	hold_reaper(&hold);
	for (unsigned i = 0; i < TDI_DOOMED_SLOTS; i++) {
		map_at(addr, MIB, PROT_READ | PROT_WRITE);
		*addr = 1;
		ck_assert_int_eq(unmap(addr, MIB), 0);
	}
	ck_assert_int_eq(td_munmap(addr, MIB), 0); /* makes the default engine */
	pid = fork();
	if (pid == 0) {
		alarm(20); /* rather than hang */
		_exit(child_of(engine));
	}
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert_int_eq(status, 0);
	let_go(&hold);
}
END_TEST

START_TEST(a_region_of_a_space_is_refused)
{
	td_space *space;
	void *addr;

	ck_assert_int_eq(td_space_create(engine, NULL, &space), 0);
	ck_assert_int_eq(td_region_map(space, 16 * page, NULL, &addr), 0);
	number_pages(addr, 16 * page, 5);
	ck_assert_int_eq(unmap(addr, 16 * page), -EBUSY);
	ck_assert_int_eq(unmap((char *)addr + 8 * page, page), -EBUSY);
	ck_assert_int_eq(unmap((char *)addr - 4 * page, 5 * page), -EBUSY);
	ck_assert_int_eq(unmap((char *)addr + 15 * page, GIB), -EBUSY);
	check_numbers(addr, 16 * page, 5);
	ck_assert_uint_eq(stats().munmaps_deferred + stats().munmaps_in_caller, 0);
	ck_assert_int_eq(td_space_put_sync(space), 0);
	ck_assert_int_eq(unmap(addr, 16 * page), 0);
}
END_TEST

int main(void)
{
	struct tdt *tests = tdt_suite("munmap");
	const TTest *all[] = {
		an_access_faults_as_soon_as_it_returns,
		a_reader_sees_what_was_there_or_faults,
		a_reader_of_huge_pages_sees_what_was_there_or_faults,
		what_is_mapped_there_next_is_never_touched,
		what_another_thread_has_mapped_goes_as_well,
		a_range_of_too_many_mappings_is_freed_in_the_caller,
		past_what_can_be_pending_the_caller_frees,
		quarantine_is_used_again_and_not_used_up,
		what_cannot_be_kept_out_of_children_is_freed_at_once,
		the_threshold_is_honoured,
		without_reapers_the_caller_frees,
		an_abandoned_engine_leaves_the_addresses_free,
		in_a_child_it_is_plain_munmap,
		a_region_of_a_space_is_refused,
	};

	for (size_t i = 0; i < sizeof(all) / sizeof(*all); i++)
		tdt_add(tests, all[i], setup_eager, teardown);
	return tdt_run(tests);
}
