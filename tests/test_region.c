/* SPDX-License-Identifier: MIT */
/* Mapping and adopting: what is asked for, what is refused, and nothing left behind. */
#include "regions.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <teardown.h>
#include <unistd.h>

static td_engine *engine;
static td_space *space;
static size_t page;

static void setup(void)
{
	page = tdi_page_size();
	ck_assert_int_eq(td_engine_create(TD_ENGINE_OPTS(.reapers = 1), &engine), 0);
	ck_assert_int_eq(td_space_create(engine, TD_SPACE_OPTS(.name = "arena"), &space),
			 0);
}

static void teardown(void)
{
	ck_assert_int_eq(td_space_put(space), 0);
	ck_assert_int_eq(td_engine_destroy(engine, TD_EXIT_DRAIN, 0), 0);
}

static struct td_space_stats stats(void)
{
	struct td_space_stats now;

	ck_assert_int_eq(td_space_stats(space, &now), 0);
	return now;
}

/* ---- mapping ---- */

START_TEST(mapped_memory_is_there_zeroed_and_writable)
{
	void *addr = NULL;

	ck_assert_int_eq(td_region_map(space, 4 * page, NULL, &addr), 0);
	ck_assert_uint_eq(tdt_mapped(addr, 4 * page), 4 * page);
	for (size_t i = 0; i < 4 * page; i++)
		ck_assert_int_eq(((char *)addr)[i], 0);
	tdt_touch(addr, 4 * page);
	ck_assert_uint_eq(stats().regions, 1);
	ck_assert_uint_eq(stats().bytes_mapped, 4 * page);
}
END_TEST

START_TEST(nonsense_is_refused_and_maps_nothing)
{
	struct td_region_opts too_small = {.size = 4};
	struct {
		struct td_region_opts opts;
		uint64_t beyond;
	} newer = {{.size = sizeof(newer)}, 1};
	struct {
		const struct td_region_opts *opts;
		size_t length;
		int expected;
	} cases[] = {
		{NULL, 0, -EINVAL},
		{NULL, 1, -EINVAL},
		{NULL, page + 1, -EINVAL},
		{&too_small, page, -EINVAL},
		{&newer.opts, page, -E2BIG},
		{TD_REGION_OPTS(.flags = 1u << 30), page, -EINVAL},
		{TD_REGION_OPTS(.prot = 1 << 20), page, -EINVAL},
		{TD_REGION_OPTS(.flags = TD_REGION_NOACCESS, .prot = PROT_READ), page,
		 -EINVAL},
		{TD_REGION_OPTS(.thp = (enum td_thp)7), page, -EINVAL},
		{TD_REGION_OPTS(.align = page + 1), page, -EINVAL},
		{TD_REGION_OPTS(.align = 16), page, -EINVAL},
		{TD_REGION_OPTS(.flags = TD_REGION_NODE, .node = 4000), page, -EINVAL},
		{NULL, SIZE_MAX - page + 1, -ENOMEM},
		{TD_REGION_OPTS(.align = GIB), SIZE_MAX - page + 1, -ENOMEM},
	};
	size_t before = tdt_footprint().mappings;
	void *addr = (void *)1;

	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		int err = td_region_map(space, cases[i].length, cases[i].opts, &addr);

		ck_assert_msg(err == cases[i].expected, "case %zu: %d", i, err);
		ck_assert_ptr_eq(addr, (void *)1);
	}
	ck_assert_int_eq(td_region_map(NULL, page, NULL, &addr), -EINVAL);
	ck_assert_uint_eq(stats().regions, 0);
	tdt_check_mappings(before, 0);
}
END_TEST

START_TEST(protection_is_as_asked)
{
	void *addr;
	int fds[2];

	ck_assert_int_eq(pipe(fds), 0);
	ck_assert_int_eq(
		td_region_map(space, page, TD_REGION_OPTS(.prot = PROT_READ), &addr), 0);
	ck_assert_int_eq(write(fds[1], addr, 1), 1);
	ck_assert_int_eq(read(fds[0], addr, 1), -1); /* the kernel may not write either */
	ck_assert_int_eq(errno, EFAULT);
	ck_assert_int_eq(td_region_map(space, page,
				       TD_REGION_OPTS(.flags = TD_REGION_NOACCESS),
				       &addr),
			 0);
	ck_assert_int_eq(write(fds[1], addr, 1), -1);
	ck_assert_int_eq(errno, EFAULT);
	close(fds[0]);
	close(fds[1]);
}
END_TEST

START_TEST(alignment_is_as_asked_and_large_regions_are_aligned_to_a_pud)
{
	struct td_region_opts aligned = {.size = sizeof(aligned)};
	void *addr;

	for (size_t align = page; align <= 64 * MIB; align *= 2) {
		aligned.align = align;
		ck_assert_int_eq(td_region_map(space, 3 * page, &aligned, &addr), 0);
		ck_assert(tdi_is_aligned((uintptr_t)addr, align));
		ck_assert_uint_eq(tdt_mapped(addr, 3 * page), 3 * page);
	}
	if (tdi_pud_size() > 4 * GIB)
		return;
	for (int i = 0; i < 3; i++) {
		ck_assert_int_eq(td_region_map(space, tdi_pud_size() + (size_t)i * page,
					       NULL, &addr),
				 0);
		ck_assert(tdi_is_aligned((uintptr_t)addr, tdi_pud_size()));
	}
}
END_TEST

START_TEST(aligning_leaves_no_slack_mapped)
{
	size_t before = tdt_footprint().mappings;
	void *addr;

	ck_assert_int_eq(
		td_region_map(space, 8 * page, TD_REGION_OPTS(.align = 16 * MIB), &addr),
		0);
	tdt_check_mappings(before, 1);
}
END_TEST

/* Address space for the region, but not for aligning it. */
START_TEST(where_address_space_is_short_a_large_region_goes_without_alignment)
{
	size_t length = tdi_pud_size(), in_use = 0;
	struct rlimit limit;
	FILE *statm;
	void *addr;

	if (TDT_SANITIZED) {
		tdt_skip("a sanitizer needs all the address space");
		return;
	}
	statm = fopen("/proc/self/statm", "re");
	ck_assert_int_eq(fscanf(statm, "%zu", &in_use), 1);
	fclose(statm);
	limit.rlim_cur = limit.rlim_max = in_use * page + length + length / 2;
	ck_assert_int_eq(setrlimit(RLIMIT_AS, &limit), 0);
	ck_assert_int_eq(
		td_region_map(space, length, TD_REGION_OPTS(.align = length), &addr),
		-ENOMEM);
	ck_assert_int_eq(td_region_map(space, length, NULL, &addr), 0);
	ck_assert_uint_eq(tdt_mapped(addr, length), length);
}
END_TEST

static size_t huge_kib(const void *addr)
{
	FILE *smaps = fopen("/proc/self/smaps", "re");
	unsigned long start;
	char line[512];
	size_t kib = 0;
	bool here = false;

	while (fgets(line, sizeof(line), smaps)) {
		if (sscanf(line, "%lx-", &start) == 1 && strchr(line, '-') &&
		    strchr("0123456789abcdef", line[0]))
			here = start == (uintptr_t)addr;
		if (here && sscanf(line, "AnonHugePages: %zu kB", &kib) == 1)
			break;
	}
	fclose(smaps);
	return kib;
}

START_TEST(huge_pages_come_when_asked_for_and_not_otherwise)
{
	size_t length = 4 * tdi_pmd_size();
	char setting[64] = "";
	FILE *file = fopen("/sys/kernel/mm/transparent_hugepage/enabled", "re");
	void *with, *without;

	if (!file || !fgets(setting, sizeof(setting), file) ||
	    strstr(setting, "[never]")) {
		tdt_skip("transparent huge pages are off");
		return;
	}
	fclose(file);
	ck_assert_int_eq(td_region_map(space, length,
				       TD_REGION_OPTS(.thp = TD_THP_ALWAYS,
						      .align = tdi_pmd_size()),
				       &with),
			 0);
	ck_assert_int_eq(td_region_map(space, length,
				       TD_REGION_OPTS(.thp = TD_THP_NEVER,
						      .align = tdi_pmd_size()),
				       &without),
			 0);
	tdt_touch(with, length);
	tdt_touch(without, length);
	ck_assert_uint_eq(huge_kib(without), 0);
	ck_assert_uint_gt(huge_kib(with), 0);
}
END_TEST

START_TEST(memory_can_be_bound_to_a_node)
{
	void *addr = (void *)1;

	tdt_fail_none();
	ck_assert_int_eq(td_region_map(space, 4 * page,
				       TD_REGION_OPTS(.flags = TD_REGION_NODE, .node = 0),
				       &addr),
			 0);
	if (tdt_calls(TDI_SYS_mbind) == 0) {
		tdt_skip("the kernel has no NUMA");
		return;
	}
	tdt_touch(addr, 4 * page);
	ck_assert_uint_eq(tdt_resident(addr, 4 * page), 4 * page);
}
END_TEST

/*
 * Where the kernel happens to find room that is aligned already, one of the two ends
 * needs no unmapping. It looks from the top down: whatever it would choose, a page at the
 * upper end of that makes it choose another place.
 */
static void make_room_unaligned(size_t length, size_t align)
{
	size_t slack = align - page;

	for (;;) {
		char *room = tdt_map_anon(length + slack);
		uintptr_t start = (uintptr_t)room, head = -start & (align - 1);

		ck_assert_int_eq(munmap(room, length + slack), 0);
		if (head != 0 && head != slack)
			return;
		ck_assert_ptr_ne(mmap(room + length + slack - page, page, PROT_NONE,
				      MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE,
				      -1, 0),
				 MAP_FAILED);
	}
}

/* Each system call of mapping, failing in each documented way. */
START_TEST(a_mapping_that_fails_half_way_leaves_nothing)
{
	static const struct {
		enum tdi_sys_call call;
		int err;
		unsigned first;
	} cases[] = {
		{TDI_SYS_mmap, -ENOMEM, 0},    {TDI_SYS_mmap, -EAGAIN, 0},
		{TDI_SYS_mmap, -EPERM, 0},     {TDI_SYS_munmap, -ENOMEM, 0},
		{TDI_SYS_munmap, -ENOMEM, 1},  {TDI_SYS_madvise, -ENOMEM, 0},
		{TDI_SYS_madvise, -EAGAIN, 0}, {TDI_SYS_mbind, -EPERM, 0},
		{TDI_SYS_mmap, -EINVAL, 0},    {TDI_SYS_mmap, -EOVERFLOW, 0},
		{TDI_SYS_munmap, -EINVAL, 0},  {TDI_SYS_madvise, -EPERM, 0},
		{TDI_SYS_madvise, -EIO, 0},    {TDI_SYS_madvise, -EBADF, 0},
		{TDI_SYS_mbind, -EINVAL, 0},   {TDI_SYS_mbind, -EFAULT, 0},
		{TDI_SYS_mbind, -ENOSYS, 0},   {TDI_SYS_mbind, -ENOMEM, 0},
		{TDI_SYS_mbind, -EIO, 0},
	};
	struct td_region_opts opts = {.size = sizeof(opts),
				      .flags = TD_REGION_NODE,
				      .thp = TD_THP_NEVER,
				      .align = 32 * MIB};
	size_t before;
	void *addr = (void *)1;

	make_room_unaligned(2 * MIB, 32 * MIB);
	before = tdt_footprint().mappings;
	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		tdt_fail(cases[i].call, cases[i].err, cases[i].first, 1);
		ck_assert_int_eq(td_region_map(space, 2 * MIB, &opts, &addr),
				 cases[i].err);
		tdt_fail_none();
		ck_assert_ptr_eq(addr, (void *)1);
		tdt_check_mappings(before, 0);
		ck_assert_uint_eq(stats().regions, 0);
	}
	ck_assert_int_eq(td_region_map(space, 2 * MIB, &opts, &addr), 0);
}
END_TEST

START_TEST(a_kernel_without_huge_pages_ignores_the_advice)
{
	void *addr;

	tdt_fail(TDI_SYS_madvise, -EINVAL, 0, 1);
	ck_assert_int_eq(
		td_region_map(space, page, TD_REGION_OPTS(.thp = TD_THP_ALWAYS), &addr),
		0);
}
END_TEST

START_TEST(a_preference_for_alignment_yields_to_a_full_address_space)
{
	void *addr;

	if (tdi_pud_size() > 4 * GIB) {
		tdt_skip("a PUD maps more than 4 GiB here");
		return;
	}
	tdt_fail(TDI_SYS_mmap, -ENOMEM, 0, 1);
	ck_assert_int_eq(td_region_map(space, tdi_pud_size(),
				       TD_REGION_OPTS(.flags = TD_REGION_NORESERVE),
				       &addr),
			 0);
	ck_assert_uint_eq(tdt_calls(TDI_SYS_mmap), 2);
}
END_TEST

/* ---- adopting ---- */

START_TEST(an_adopted_mapping_keeps_its_contents_and_goes_with_the_space)
{
	char *addr = tdt_map_anon(16 * page);

	memset(addr, 'x', 16 * page);
	ck_assert_int_eq(td_region_adopt(space, addr, 16 * page, NULL), 0);
	for (size_t i = 0; i < 16 * page; i++)
		ck_assert_int_eq(addr[i], 'x');
	ck_assert_int_eq(td_space_grab(space), 0);
	ck_assert_int_eq(td_space_put(space), 0);
	ck_assert_int_eq(td_space_wait(space, TD_EVENT_RECLAIMED, TD_FOREVER), 0);
	ck_assert_uint_eq(tdt_mapped(addr, 16 * page), 0);
	ck_assert_int_eq(td_space_drop(space), 0);
	space = NULL;
}
END_TEST

START_TEST(a_part_of_a_mapping_can_be_adopted_and_the_rest_stays)
{
	char *addr = tdt_map_anon(9 * page);

	tdt_touch(addr, 9 * page);
	ck_assert_int_eq(td_region_adopt(space, addr + 3 * page, 3 * page, NULL), 0);
	ck_assert_int_eq(td_space_put_sync(space), 0);
	space = NULL;
	ck_assert_uint_eq(tdt_mapped(addr, 3 * page), 3 * page);
	ck_assert_uint_eq(tdt_mapped(addr + 3 * page, 3 * page), 0);
	ck_assert_uint_eq(tdt_resident(addr + 6 * page, 3 * page), 3 * page);
	munmap(addr, 9 * page);
}
END_TEST

START_TEST(what_cannot_be_adopted_is_refused_and_unchanged)
{
	char *addr = window_new(8).addr; /* where nobody else fills the hole */
	char *shared = mmap(NULL, page, PROT_READ | PROT_WRITE,
			    MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	td_space *other;

	munmap(addr + 5 * page, page);
	ck_assert_int_eq(td_region_adopt(NULL, addr, page, NULL), -EINVAL);
	ck_assert_int_eq(td_region_adopt(space, addr, 0, NULL), -EINVAL);
	ck_assert_int_eq(td_region_adopt(space, addr + 1, page, NULL), -EINVAL);
	ck_assert_int_eq(td_region_adopt(space, addr, page + 1, NULL), -EINVAL);
	ck_assert_int_eq(
		td_region_adopt(space, addr, (size_t)0 - (uintptr_t)addr + page, NULL),
		-EINVAL);
	ck_assert_int_eq(td_region_adopt(space, addr, 8 * page, NULL), -ENOMEM);
	ck_assert_int_eq(td_region_adopt(space, addr + 5 * page, page, NULL), -ENOMEM);
	ck_assert_int_eq(td_region_adopt(space, shared, page, NULL), -EOPNOTSUPP);
	ck_assert_int_eq(
		td_region_adopt(space, addr, page, TD_REGION_OPTS(.align = page)),
		-EINVAL);
	ck_assert_int_eq(
		td_region_adopt(space, addr, page, TD_REGION_OPTS(.prot = PROT_READ)),
		-EINVAL);
	/* overlap, with this space's and with another's */
	ck_assert_int_eq(td_region_adopt(space, addr, 2 * page, NULL), 0);
	ck_assert_int_eq(td_space_create(engine, NULL, &other), 0);
	ck_assert_int_eq(td_region_adopt(space, addr, 2 * page, NULL), -EEXIST);
	ck_assert_int_eq(td_region_adopt(space, addr + page, 2 * page, NULL), -EEXIST);
	ck_assert_int_eq(td_region_adopt(other, addr, page, NULL), -EEXIST);
	ck_assert_int_eq(td_region_adopt(other, addr + 2 * page, page, NULL), 0);
	ck_assert_int_eq(td_space_put_sync(other), 0);
	ck_assert_uint_eq(tdt_mapped(addr + 2 * page, page), 0);
	ck_assert_uint_eq(stats().regions, 1);
	ck_assert_uint_eq(tdt_mapped(shared, page), page);
	munmap(addr + 3 * page, 5 * page);
	munmap(shared, page);
}
END_TEST

START_TEST(a_range_can_be_adopted_again_after_it_was_reclaimed)
{
	char *addr = tdt_map_anon(4 * page);
	td_space *other;

	for (int i = 0; i < 3; i++) {
		ck_assert_int_eq(td_space_create(engine, NULL, &other), 0);
		ck_assert_int_eq(td_region_adopt(other, addr, 4 * page, NULL), 0);
		ck_assert_int_eq(td_space_put_sync(other), 0);
		ck_assert_ptr_eq(mmap(addr, 4 * page, PROT_READ | PROT_WRITE,
				      MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE,
				      -1, 0),
				 addr);
	}
	munmap(addr, 4 * page);
}
END_TEST

START_TEST(an_adoption_that_fails_half_way_can_be_repeated)
{
	char *addr = tdt_map_anon(4 * page);

	tdt_fail(TDI_SYS_open, -EMFILE, 0, 1);
	ck_assert_int_eq(td_region_adopt(space, addr, page, NULL), -EMFILE);
	tdt_fail_none();
	tdt_fail(TDI_SYS_madvise, -ENOMEM, 0, 1);
	ck_assert_int_eq(
		td_region_adopt(space, addr, page, TD_REGION_OPTS(.thp = TD_THP_NEVER)),
		-ENOMEM);
	tdt_fail_none();
	ck_assert_uint_eq(tdt_mapped(addr, 4 * page), 4 * page);
	ck_assert_int_eq(
		td_region_adopt(space, addr, page, TD_REGION_OPTS(.thp = TD_THP_NEVER)),
		0);
	munmap(addr + page, 3 * page);
}
END_TEST

/* A3, in spirit: nothing is added to a space that is gone. */
START_TEST(a_space_without_users_takes_no_regions)
{
	char *addr = tdt_map_anon(page);
	void *mapped = (void *)1;

	ck_assert_int_eq(td_space_grab(space), 0);
	ck_assert_int_eq(td_space_put(space), 0);
	ck_assert_int_eq(td_region_map(space, page, NULL, &mapped), -ENXIO);
	ck_assert_int_eq(td_region_adopt(space, addr, page, NULL), -ENXIO);
	ck_assert_ptr_eq(mapped, (void *)1);
	ck_assert_int_eq(td_space_drop(space), 0);
	space = NULL;
	munmap(addr, page);
}
END_TEST

int main(void)
{
	struct tdt *tests = tdt_suite("region");
	const TTest *all[] = {
		mapped_memory_is_there_zeroed_and_writable,
		nonsense_is_refused_and_maps_nothing,
		protection_is_as_asked,
		alignment_is_as_asked_and_large_regions_are_aligned_to_a_pud,
		aligning_leaves_no_slack_mapped,
		where_address_space_is_short_a_large_region_goes_without_alignment,
		huge_pages_come_when_asked_for_and_not_otherwise,
		memory_can_be_bound_to_a_node,
		a_mapping_that_fails_half_way_leaves_nothing,
		a_kernel_without_huge_pages_ignores_the_advice,
		a_preference_for_alignment_yields_to_a_full_address_space,
		an_adopted_mapping_keeps_its_contents_and_goes_with_the_space,
		a_part_of_a_mapping_can_be_adopted_and_the_rest_stays,
		what_cannot_be_adopted_is_refused_and_unchanged,
		a_range_can_be_adopted_again_after_it_was_reclaimed,
		an_adoption_that_fails_half_way_can_be_repeated,
		a_space_without_users_takes_no_regions,
	};

	for (size_t i = 0; i < sizeof(all) / sizeof(*all); i++)
		tdt_add(tests, all[i], setup, teardown);
	return tdt_run(tests);
}
