/* SPDX-License-Identifier: MIT */
/* D1 to D4: any part of a space leaves at once, and its place can be used again. */
#include "job.h"
#include "regions.h"

#include <malloc.h>
#include <stdio.h>
#include <sys/syscall.h>
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

static struct td_space_stats space_stats(void)
{
	struct td_space_stats now;

	ck_assert_int_eq(td_space_stats(space, &now), 0);
	return now;
}

/* Everything is deferred to the reapers, or nothing. */
static void defer(bool all)
{
	ck_assert_int_eq(td_engine_set_munmap_threshold(engine, all ? 1 : SIZE_MAX), 0);
}

static void drain(void)
{
	ck_assert_int_eq(td_engine_drain(engine, TD_FOREVER), 0);
}

/* ---- any part ---- */

static const struct unmapping {
	const char *before;
	size_t from, pages;
	const char *after;
} unmappings[] = {
	{"aaaaaaaa", 0, 8, "........"}, /* the whole region */
	{"aaaaaaaa", 0, 3, "...aaaaa"}, /* its head, tail, middle */
	{"aaaaaaaa", 5, 3, "aaaaa..."},
	{"aaaaaaaa", 3, 2, "aaa..bbb"},
	{"aaaaaaaa", 0, 1, ".aaaaaaa"},
	{"aaaaaaaa", 7, 1, "aaaaaaa."},
	{"a", 0, 1, "."},
	{"aa.bb..cc", 0, 9, "........."}, /* several, with holes */
	{"aa.bb..cc", 1, 7, "a.......c"},
	{"aaaa.bbbb.cccc", 2, 10, "aa..........cc"},
	{"aa.bb.cc", 2, 4, "aa....cc"},
	{"aabbcc", 2, 2, "aa..cc"}, /* neighbours */
	{"aabbcc", 1, 4, "a....c"},
	{"abcdefgh", 0, 8, "........"},
	{"abcdefgh", 3, 2, "abc..fgh"},
	{"aa.bb", 2, 1, "aa.bb"}, /* exactly between */
	{"aa____bb", 2, 4, "aa____bb"},
	{"....", 0, 4, "...."}, /* nothing at all */
	{"____", 0, 4, "____"},
	{"_aa_", 0, 4, "_.._"}, /* what is not the space's is not touched */
	{"aa_bb", 0, 5, ".._.."},
	{"aa_bb", 1, 3, "a._.b"},
	{"_aaaa_bb.c_", 2, 8, "_a..._...._"},
};

static void unmap_each(void)
{
	for (size_t i = 0; i < sizeof(unmappings) / sizeof(*unmappings); i++) {
		const struct unmapping *this = &unmappings[i];
		struct td_space_stats before = space_stats(), after;
		struct window window = window_with(space, this->before);
		size_t gone = 0;

		for (size_t at = 0; at < window.pages; at++)
			gone += this->before[at] != '.' && this->after[at] == '.';
		ck_assert_int_eq(window_unmap(space, &window, this->from, this->pages),
				 0);
		check_window(space, &window, this->after);
		drain();
		check_window(space, &window, this->after);
		after = space_stats();
		ck_assert_uint_eq(after.regions - before.regions,
				  regions_in(this->after));
		ck_assert_uint_eq(after.bytes_reclaimed - before.bytes_reclaimed,
				  gone * page);
		ck_assert_int_eq(window_unmap(space, &window, 0, window.pages), 0);
		ck_assert_uint_eq(space_stats().regions, before.regions);
		window_clear(&window, this->after);
		drain();
	}
}

/* D2, D4 */
START_TEST(any_part_goes_and_the_rest_stays_whoever_frees_it)
{
	uint64_t in_caller;

	defer(false);
	unmap_each();
	/* What reapers free is the engine's, too. */
	ck_assert_uint_eq(stats().bytes_reclaimed, 0);
	in_caller = space_stats().bytes_reclaimed;
	ck_assert_uint_gt(in_caller, 0);
	defer(true);
	unmap_each();
	ck_assert_uint_eq(stats().bytes_reclaimed,
			  space_stats().bytes_reclaimed - in_caller);
	ck_assert_uint_eq(stats().bytes_reclaimed, in_caller);
}
END_TEST

/* What is left of a space that was unmapped in part goes with the space. */
START_TEST(parts_that_stayed_go_with_the_space)
{
	struct window windows[2];

	for (int deferred = 0; deferred < 2; deferred++) {
		windows[deferred] = window_with(space, "aaaaaaaabb");
		defer(deferred);
		ck_assert_int_eq(window_unmap(space, &windows[deferred], 3, 2), 0);
		ck_assert_int_eq(window_unmap(space, &windows[deferred], 7, 2), 0);
	}
	ck_assert_int_eq(td_space_grab(space), 0);
	ck_assert_int_eq(td_space_put(space), 0);
	ck_assert_int_eq(td_space_wait(space, TD_EVENT_RECLAIMED, TD_FOREVER), 0);
	for (int i = 0; i < 2; i++)
		ck_assert_uint_eq(tdt_mapped(windows[i].addr, 10 * page), 0);
	ck_assert_uint_eq(space_stats().bytes_reclaimed, 20 * page);
	ck_assert_uint_eq(space_stats().bytes_refused, 0);
	ck_assert_uint_eq(space_stats().regions, 0);
	ck_assert_int_eq(td_space_drop(space), 0);
	space = NULL;
}
END_TEST

START_TEST(nonsense_is_refused_and_changes_nothing)
{
	struct window window = window_with(space, "aaaa");
	uintptr_t start = (uintptr_t)window.addr;
	const struct {
		uintptr_t addr;
		size_t length;
	} cases[] = {
		{start, 0},
		{start, page - 1},
		{start, page + 1},
		{start + 1, page},
		{start + page / 2, page},
		{start, SIZE_MAX - page + 1},
		{start, (size_t)0 - start},
		{UINTPTR_MAX - page + 1, page},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		int err = td_region_unmap(space, (void *)cases[i].addr, cases[i].length);

		ck_assert_msg(err == -EINVAL, "case %zu: %d", i, err);
	}
	ck_assert_int_eq(td_region_unmap(NULL, window.addr, page), -EINVAL);
	check_window(space, &window, "aaaa");
	ck_assert_uint_eq(space_stats().regions, 1);
}
END_TEST

START_TEST(a_space_without_users_is_not_unmapped)
{
	struct window window = window_with(space, "aa");
	struct job job;
	sem_t entered, may_go;

	sem_init(&entered, 0, 0);
	sem_init(&may_go, 0, 0);
	job_init(&job, 1);
	job.entered = &entered;
	job.may_go = &may_go;
	ck_assert_int_eq(td_engine_submit(engine, &job.work), 0);
	sem_wait(&entered); /* the reaper is busy: the region stays for a while */
	ck_assert_int_eq(td_space_grab(space), 0);
	ck_assert_int_eq(td_space_put(space), 0);
	ck_assert_int_eq(window_unmap(space, &window, 0, 2), -ENXIO);
	ck_assert_uint_eq(tdt_mapped(window.addr, 2 * page), 2 * page);
	sem_post(&may_go);
	sem_wait(&job.done);
	ck_assert_int_eq(td_space_wait(space, TD_EVENT_RECLAIMED, TD_FOREVER), 0);
	ck_assert_int_eq(td_space_drop(space), 0);
	space = NULL;
}
END_TEST

static void done_by_host(void *arg, int status)
{
	*(int *)arg = status;
}

START_TEST(a_region_with_ops_goes_whole_or_not_at_all)
{
	int status = 99;
	const struct td_region_ops ops = {.done = done_by_host, .arg = &status};
	const char *whole = "aaaabb";

	for (int deferred = 0; deferred < 2; deferred++) {
		struct window window = window_new(6);

		defer(deferred);
		status = 99;
		ck_assert_int_eq(td_region_adopt(space, window.addr, 4 * page,
						 TD_REGION_OPTS(.ops = &ops)),
				 0);
		ck_assert_int_eq(
			td_region_adopt(space, page_at(&window, 4), 2 * page, NULL), 0);
		ck_assert_int_eq(window_unmap(space, &window, 0, 3), -EOPNOTSUPP);
		ck_assert_int_eq(window_unmap(space, &window, 1, 5), -EOPNOTSUPP);
		check_window(space, &window, whole);
		ck_assert_int_eq(status, 99);
		ck_assert_int_eq(window_unmap(space, &window, 0, 5), 0);
		check_window(space, &window, ".....b");
		drain();
		ck_assert_int_eq(status, 0);
	}
}
END_TEST

/* C, D5: of a file, only the part that leaves is punched out. */
START_TEST(of_exclusive_shared_memory_only_the_part_that_leaves_is_freed)
{
	for (int deferred = 0; deferred < 2; deferred++) {
		int fd = memfd_create("part", MFD_CLOEXEC);
		struct td_region_info info;
		char byte;
		char *addr;

		defer(deferred);
		ck_assert_int_eq(ftruncate(fd, (off_t)(10 * page)), 0);
		for (size_t i = 0; i < 10; i++) {
			byte = (char)('0' + i);
			ck_assert_int_eq(pwrite(fd, &byte, 1, (off_t)(i * page)), 1);
		}
		addr = mmap(place_apart(8 * page), 8 * page, PROT_READ | PROT_WRITE,
			    MAP_SHARED | MAP_FIXED_NOREPLACE, fd, (off_t)page);
		ck_assert_ptr_ne(addr, MAP_FAILED);
		ck_assert_int_eq(
			td_region_adopt(space, addr, 8 * page,
					TD_REGION_OPTS(.kind = TD_KIND_SHARED,
						       .flags = TD_REGION_FD |
								TD_REGION_EXCLUSIVE,
						       .fd = fd, .offset = page)),
			0);
		ck_assert_int_eq(td_region_unmap(space, addr + 2 * page, 3 * page), 0);
		ck_assert(faults(addr + 2 * page) && faults(addr + 4 * page));
		ck_assert_int_eq(addr[page], '2');
		ck_assert_int_eq(addr[5 * page], '6');
		ck_assert_int_eq(lookup(space, addr + 5 * page, &info), 0);
		ck_assert_int_eq(info.kind, TD_KIND_SHARED);
		ck_assert_uint_eq(info.flags, TD_REGION_FD | TD_REGION_EXCLUSIVE);
		drain();
		for (size_t i = 0; i < 10; i++) {
			ck_assert_int_eq(pread(fd, &byte, 1, (off_t)(i * page)), 1);
			ck_assert_int_eq(byte, i >= 3 && i < 6 ? 0 : (int)('0' + i));
		}
		ck_assert_int_eq(td_region_unmap(space, addr, 8 * page), 0);
		drain();
		close(fd);
	}
}
END_TEST

/* ---- many at once ---- */

/* Neighbours leave as one, so that small regions are worth it together. (D1) */
START_TEST(a_thousand_neighbours_leave_as_one_range)
{
	enum { REGIONS = 1000 };
	struct window window = window_new(REGIONS);
	uint64_t works;
	int err;

	ck_assert_int_eq(td_engine_set_munmap_threshold(engine, 500 * page), 0);
	for (size_t i = 0; i < REGIONS; i++)
		ck_assert_int_eq(td_region_adopt(space, page_at(&window, i), page, NULL),
				 0);
	/* What the map has replaced is a work too, and so are the descriptors that go:
	 * but not before a grace period has ended. */
	drain();
	urcu_memb_read_lock();
	works = stats().works_submitted;
	err = window_unmap(space, &window, 0, REGIONS);
	works = stats().works_submitted - works;
	urcu_memb_read_unlock();
	ck_assert_int_eq(err, 0);
	ck_assert_uint_eq(works, 1);
	ck_assert_uint_eq(space_stats().regions, 0);
	ck_assert_uint_eq(tdt_mapped(window.addr, REGIONS * page), 0);
	drain();
	ck_assert_uint_eq(stats().bytes_quarantined, 0);
	ck_assert_uint_eq(stats().bytes_reclaimed, REGIONS * page);
	ck_assert_uint_eq(space_stats().bytes_reclaimed, REGIONS * page);
}
END_TEST

/* Descriptors go, too: memory does not grow. (D1, phase three) */
START_TEST(many_cycles_leave_nothing)
{
	enum { CYCLES = TDT_SANITIZED ? 10000 : 100000, WARM = CYCLES / 10 };
	struct tdt_footprint before = {0}, after;
	size_t used_before = 0;

	for (int i = 0; i < CYCLES; i++) {
		char *addr;

		if (i == WARM) {
			drain();
			before = tdt_footprint();
			used_before = mallinfo2().uordblks;
		}
		if (i % 1000 == 0) {
			/* A backlog is no leak, but would look like one. */
			drain();
			defer(i % 10000 == 0);
		}
		ck_assert(td_region_map(space, 3 * page, NULL, (void **)&addr) == 0);
		*addr = 1;
		ck_assert(td_region_unmap(space, addr + page, page) == 0);
		ck_assert(td_region_unmap(space, addr, 3 * page) == 0);
	}
	drain();
	after = tdt_footprint();
	printf("# rss %zu then %zu KiB, malloc %zu then %zu bytes\n", before.rss_kib,
	       after.rss_kib, used_before, mallinfo2().uordblks);
	ck_assert_uint_eq(space_stats().regions, 0);
	ck_assert_uint_eq(after.descriptors, before.descriptors);
	tdt_check_mappings(before.mappings, 4);
	if (TDT_SANITIZED) /* whose own memory grows as it likes */
		return;
	ck_assert_uint_le(after.rss_kib, before.rss_kib + 8192);
	ck_assert_uint_le(mallinfo2().uordblks, used_before + MIB);
}
END_TEST

/* ---- while a reaper has yet to come ---- */

static struct job blocker;
static sem_t blocked, may_go;

/* The only reaper has something else to do, until it is let go. */
static void hold_the_reaper(void)
{
	sem_init(&blocked, 0, 0);
	sem_init(&may_go, 0, 0);
	job_init(&blocker, 1);
	blocker.entered = &blocked;
	blocker.may_go = &may_go;
	ck_assert_int_eq(td_engine_submit(engine, &blocker.work), 0);
	sem_wait(&blocked);
}

static void let_the_reaper_go(void)
{
	sem_post(&may_go);
	sem_wait(&blocker.done);
}

/* A12, D1. When the last put frees all the rest by itself, it lends a hand with that. */
START_TEST(a_space_is_reclaimed_when_what_left_it_before_is)
{
	for (int sync = 0; sync < 2; sync++) {
		struct window window;
		td_space *dying;

		ck_assert_int_eq(td_space_create(engine, NULL, &dying), 0);
		window = window_with(dying, "aaaaaa");
		defer(true);
		hold_the_reaper();
		ck_assert_int_eq(window_unmap(dying, &window, 2, 2), 0);
		ck_assert_int_eq(td_space_grab(dying), 0);
		ck_assert_int_eq(sync ? td_space_put_sync(dying) : td_space_put(dying),
				 0);
		ck_assert_int_eq(td_space_wait(dying, TD_EVENT_GONE, 0), 0);
		ck_assert_int_eq(td_space_wait(dying, TD_EVENT_RECLAIMED, 0),
				 sync ? 0 : -ETIMEDOUT);
		let_the_reaper_go();
		ck_assert_int_eq(td_space_wait(dying, TD_EVENT_RECLAIMED, TD_FOREVER), 0);
		ck_assert_uint_eq(tdt_mapped(window.addr, 6 * page), 0);
		ck_assert_int_eq(td_space_drop(dying), 0);
	}
	ck_assert_uint_eq(stats().bytes_reclaimed, 2 * 6 * page + 2 * 1000);
}
END_TEST

struct settler {
	td_space *space;
	char *addr;
	size_t length;
};

static void *settle(void *arg)
{
	const struct settler *settler = arg;
	char *got = mmap(settler->addr, settler->length, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);

	ck_assert_ptr_eq(got, settler->addr);
	ck_assert_int_eq(got[0], 0);
	memset(got, 'n', settler->length);
	ck_assert_int_eq(td_region_adopt(settler->space, got, settler->length, NULL), 0);
	return NULL;
}

static void check_settled(const struct settler *settler)
{
	for (size_t i = 0; i < settler->length; i++)
		ck_assert(settler->addr[i] == 'n');
}

/* D3: by another thread, in this space or another, and nothing touches it later. */
START_TEST(the_place_can_be_settled_again_at_once)
{
	for (int other = 0; other < 2; other++) {
		struct window window = window_with(space, "aaaaaaaabb");
		struct settler settler = {space, page_at(&window, 2), 7 * page};
		struct td_region_info info;
		pthread_t thread;

		if (other)
			ck_assert_int_eq(td_space_create(engine, NULL, &settler.space),
					 0);
		defer(true);
		hold_the_reaper();
		ck_assert_int_eq(window_unmap(space, &window, 2, 7), 0);
		ck_assert_int_eq(pthread_create(&thread, NULL, settle, &settler), 0);
		pthread_join(thread, NULL);
		check_settled(&settler);
		let_the_reaper_go();
		drain();
		check_settled(&settler);
		ck_assert_int_eq(lookup(settler.space, settler.addr, &info), 0);
		ck_assert_ptr_eq(info.addr, settler.addr);
		ck_assert_uint_eq(info.length, settler.length);
		ck_assert_int_eq(lookup(space, settler.addr, &info), other ? -ENOENT : 0);
		if (other)
			ck_assert_int_eq(td_space_put_sync(settler.space), 0);
		else
			ck_assert_int_eq(window_unmap(space, &window, 2, 7), 0);
		check_window(space, &window, "aa.......b");
		drain();
	}
}
END_TEST

/* D2, D3: nor does what left later lie where something left before. */
START_TEST(what_waits_for_a_reaper_lies_where_nobody_was)
{
	char *addrs[8];

	defer(true);
	hold_the_reaper();
	for (int i = 0; i < 8; i++) {
		ck_assert_int_eq(td_region_map(space, 4 * page, NULL, (void **)&addrs[i]),
				 0);
		tdt_touch(addrs[i], 4 * page);
	}
	for (int i = 0; i < 8; i++)
		ck_assert_int_eq(td_region_unmap(space, addrs[i], 4 * page), 0);
	for (int i = 0; i < 8; i++) {
		if (!TDT_SANITIZED) /* which maps things in between */
			ck_assert_uint_eq(tdt_mapped(addrs[i], 4 * page), 0);
	}
	let_the_reaper_go();
}
END_TEST

int main(void)
{
	struct tdt *tests = tdt_suite("region_unmap");
	const TTest *all[] = {
		any_part_goes_and_the_rest_stays_whoever_frees_it,
		parts_that_stayed_go_with_the_space,
		nonsense_is_refused_and_changes_nothing,
		a_space_without_users_is_not_unmapped,
		a_region_with_ops_goes_whole_or_not_at_all,
		of_exclusive_shared_memory_only_the_part_that_leaves_is_freed,
		a_thousand_neighbours_leave_as_one_range,
		many_cycles_leave_nothing,
		a_space_is_reclaimed_when_what_left_it_before_is,
		the_place_can_be_settled_again_at_once,
		what_waits_for_a_reaper_lies_where_nobody_was,
	};

	for (size_t i = 0; i < sizeof(all) / sizeof(*all); i++)
		tdt_add(tests, all[i], begin, end);
	return tdt_run(tests);
}
