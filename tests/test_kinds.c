/* SPDX-License-Identifier: MIT */
/* D5: private memory of every kind, mapped and adopted, given back in every way. */
#include "memory.h"

#include <errno.h>
#include <sys/resource.h>

static bool have_pool;

struct kind {
	struct td_region_opts fresh, adopted;
	int mmap_flags; /* to make one that is adopted */
	size_t length;
	/* Before it is written to, and after; may be NULL. */
	void (*get_ready)(char *addr, size_t length);
	void (*check)(char *addr, size_t length);
};

#define OPTS(...)                                                                        \
	{                                                                                \
		.size = sizeof(struct td_region_opts), __VA_ARGS__                       \
	}

static char *make(td_space *space, const struct kind *kind, bool adopt)
{
	void *addr;

	if (!adopt) {
		ck_assert_int_eq(td_region_map(space, kind->length, &kind->fresh, &addr),
				 0);
	} else {
		addr = map_file(-1, kind->length,
				MAP_PRIVATE | MAP_ANONYMOUS | kind->mmap_flags);
		if (kind->get_ready)
			kind->get_ready(addr, kind->length);
		ck_assert_int_eq(
			td_region_adopt(space, addr, kind->length, &kind->adopted), 0);
	}
	fill(addr, 'x', kind->length);
	if (kind->check)
		kind->check(addr, kind->length);
	return addr;
}

static void run_all_ways(const struct kind *kind)
{
	struct tdt_footprint before = {0};

	for (unsigned i = 0; i < 2 * WAYS; i++) {
		td_space *space = make_space(0);
		char *addr = make(space, kind, i % 2 == 1);

		give_back(space, addr, kind->length, (enum way)(i / 2));
		ck_assert_int_eq(td_engine_drain(engine, TD_FOREVER), 0);
		if (i == 0) /* now everybody has warmed up */
			before = tdt_footprint();
	}
	ck_assert_uint_eq(tdt_footprint().descriptors, before.descriptors);
	tdt_check_mappings(before.mappings, 2);
}

START_TEST(private_anonymous_memory)
{
	struct kind kind = {.fresh = OPTS(), .adopted = OPTS(), .length = 24 * MIB};

	run_all_ways(&kind);
}
END_TEST

/* ---- transparent huge pages ---- */

static void check_thp(char *addr, size_t length)
{
	char *huge = (char *)tdi_align_up((uintptr_t)addr, HUGE_PAGE);

	ck_assert_uint_lt((size_t)(huge - addr), length);
	ck_assert_uint_gt(smaps_kib(huge, "AnonHugePages:"), 0);
}

START_TEST(transparent_huge_pages)
{
	struct kind kind = {.fresh = OPTS(.thp = TD_THP_ALWAYS, .align = HUGE_PAGE),
			    .adopted = OPTS(.thp = TD_THP_ALWAYS),
			    .length = 16 * MIB,
			    .check = check_thp};
	FILE *file = fopen("/sys/kernel/mm/transparent_hugepage/enabled", "re");
	char setting[64] = "";

	if (!file || !fgets(setting, sizeof(setting), file) ||
	    strstr(setting, "[never]")) {
		tdt_skip("transparent huge pages are off");
		return;
	}
	fclose(file);
	run_all_ways(&kind);
}
END_TEST

/* ---- huge pages from the pool ---- */

static bool skip_without_pool(void)
{
	if (!have_pool)
		tdt_skip("no huge pages of 2 MiB to be had from %s", POOL);
	return !have_pool;
}

static void check_huge(char *addr, size_t length)
{
	ck_assert_uint_eq(smaps_kib(addr, "Private_Hugetlb:"), length / KIB);
}

START_TEST(huge_pages_go_back_to_their_pool)
{
	struct kind kind = {
		.fresh = OPTS(.kind = TD_KIND_HUGETLB),
		.adopted = OPTS(.kind = TD_KIND_HUGETLB, .huge_page_size = HUGE_PAGE),
		.mmap_flags = MAP_HUGETLB,
		.length = 3 * HUGE_PAGE,
		.check = check_huge};
	long before = read_long(POOL_FREE);

	if (skip_without_pool())
		return;
	run_all_ways(&kind);
	ck_assert_uint_eq(kib_of("/proc/self/status", "HugetlbPages:"), 0);
	await_huge_pages(before);
}
END_TEST

START_TEST(huge_pages_go_in_whole_pages_only)
{
	const struct td_region_opts *opts = TD_REGION_OPTS(.kind = TD_KIND_HUGETLB);
	size_t page = tdi_page_size();
	td_space *space;
	void *mapped = (void *)1;
	char *addr;

	if (skip_without_pool())
		return;
	space = make_space(0);
	ck_assert_int_eq(td_region_map(space, HUGE_PAGE + page, opts, &mapped), -EINVAL);
	ck_assert_int_eq(td_region_map(space, page, opts, &mapped), -EINVAL);
	ck_assert_ptr_eq(mapped, (void *)1);

	addr = map_file(-1, 4 * HUGE_PAGE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB);
	fill(addr, 'x', 4 * HUGE_PAGE);
	ck_assert_int_eq(td_region_adopt(space, addr + page, HUGE_PAGE, opts), -EINVAL);
	ck_assert_int_eq(td_region_adopt(space, addr, HUGE_PAGE + page, opts), -EINVAL);
	ck_assert_int_eq(td_region_adopt(space, addr, HUGE_PAGE,
					 TD_REGION_OPTS(.kind = TD_KIND_HUGETLB,
							.huge_page_size = GIB)),
			 -EINVAL);
	ck_assert_int_eq(td_region_adopt(space, addr, 4 * HUGE_PAGE, opts), 0);

	ck_assert_int_eq(td_region_unmap(space, addr + page, 4 * HUGE_PAGE), -EINVAL);
	ck_assert_int_eq(td_region_unmap(space, addr, HUGE_PAGE + page), -EINVAL);
	ck_assert_int_eq(td_region_unmap(space, addr + page, page), -EINVAL);
	ck_assert(is_filled(addr, 4 * HUGE_PAGE, 'x'));
	ck_assert_uint_eq(stats_of(space).regions, 1);
	/* out of the middle; what sticks out of the regions does not matter */
	ck_assert_int_eq(td_region_unmap(space, addr + HUGE_PAGE, HUGE_PAGE), 0);
	check_out_of_sight(addr + HUGE_PAGE, HUGE_PAGE);
	ck_assert_int_eq(td_region_unmap(space, addr + 3 * HUGE_PAGE, HUGE_PAGE + page),
			 0);
	ck_assert(is_filled(addr, HUGE_PAGE, 'x'));
	ck_assert(is_filled(addr + 2 * HUGE_PAGE, HUGE_PAGE, 'x'));
	ck_assert_uint_eq(stats_of(space).regions, 2);
	ck_assert_int_eq(td_space_put_sync(space), 0);
	ck_assert_uint_eq(tdt_mapped(addr, 4 * HUGE_PAGE), 0);
	ck_assert_uint_eq(kib_of("/proc/self/status", "HugetlbPages:"), 0);
}
END_TEST

START_TEST(where_the_pool_is_empty_nothing_is_mapped)
{
	size_t before = tdt_footprint().mappings;
	td_space *space = make_space(0);
	void *addr = (void *)1;

	/* more than any pool of a test machine */
	ck_assert_int_eq(td_region_map(space, (size_t)1 << 46,
				       TD_REGION_OPTS(.kind = TD_KIND_HUGETLB,
						      .huge_page_size = HUGE_PAGE,
						      .align = HUGE_PAGE),
				       &addr),
			 -ENOMEM);
	ck_assert_ptr_eq(addr, (void *)1);
	tdt_check_mappings(before, 0);
	ck_assert_int_eq(td_space_put(space), 0);
}
END_TEST

/* ---- locked ---- */

static void lock(char *addr, size_t length)
{
	ck_assert_int_eq(mlock(addr, length), 0);
}

static void check_locked(char *addr, size_t length)
{
	(void)addr;
	ck_assert_uint_ge(locked_kib(), length / KIB);
}

START_TEST(locked_memory)
{
	struct kind kind = {.fresh = OPTS(.flags = TD_REGION_LOCKED),
			    .adopted = OPTS(),
			    .length = 3 * MIB,
			    .get_ready = lock,
			    .check = check_locked};
	char *addr = tdt_map_anon(kind.length);
	size_t before = locked_kib();

	if (TDT_SANITIZED) {
		tdt_skip("sanitizers make mlock do nothing");
		return;
	}
	if (mlock(addr, kind.length) != 0) {
		tdt_skip("cannot lock %zu bytes", kind.length);
		return;
	}
	munmap(addr, kind.length);
	run_all_ways(&kind);
	ck_assert_uint_eq(locked_kib(), before);
	/* a kernel that cannot release locked pages without unmapping them */
	for (unsigned way = 0; way < WAYS; way++) {
		td_space *space = make_space(0);

		addr = make(space, &kind, false);
		if (way < UNMAP_HERE)
			tdt_fail(TDI_SYS_madvise, -EINVAL, 0, 1000);
		give_back(space, addr, kind.length, (enum way)way);
	}
	ck_assert_uint_eq(locked_kib(), before);
}
END_TEST

START_TEST(what_may_not_be_locked_is_not_mapped)
{
	struct rlimit limit = {tdi_page_size(), tdi_page_size()};
	size_t before = tdt_footprint().mappings, locked = locked_kib();
	td_space *space = make_space(0);
	void *addr = (void *)1;

	if (!TDT_SANITIZED) { /* the kernel's own refusal; root has none */
		ck_assert_int_eq(setrlimit(RLIMIT_MEMLOCK, &limit), 0);
		if (geteuid() == 0)
			ck_assert_int_eq(seteuid(65534), 0);
		ck_assert_int_eq(td_region_map(space, MIB,
					       TD_REGION_OPTS(.flags = TD_REGION_LOCKED),
					       &addr),
				 -ENOMEM);
	}
	tdt_fail(TDI_SYS_mlock, -EPERM, 0, 1);
	ck_assert_int_eq(td_region_map(space, MIB,
				       TD_REGION_OPTS(.flags = TD_REGION_LOCKED), &addr),
			 -EPERM);
	ck_assert_ptr_eq(addr, (void *)1);
	ck_assert_uint_eq(stats_of(space).regions, 0);
	ck_assert_uint_eq(locked_kib(), locked);
	tdt_check_mappings(before, 0);
	ck_assert_int_eq(td_space_put(space), 0);
}
END_TEST

/* ---- bound, reserved, out of reach ---- */

START_TEST(memory_of_a_node)
{
	struct kind kind = {.fresh = OPTS(.flags = TD_REGION_NODE, .node = 0),
			    .adopted = OPTS(),
			    .length = 6 * MIB};

	run_all_ways(&kind);
}
END_TEST

START_TEST(memory_without_access_or_reserve)
{
	static const unsigned flags[] = {TD_REGION_NOACCESS, TD_REGION_NORESERVE,
					 TD_REGION_NOACCESS | TD_REGION_NORESERVE};

	for (unsigned i = 0; i < 3 * WAYS; i++) {
		td_space *space = make_space(0);
		void *addr;

		ck_assert_int_eq(td_region_map(space, 6 * MIB,
					       TD_REGION_OPTS(.flags = flags[i % 3]),
					       &addr),
				 0);
		ck_assert_uint_eq(access_faults(addr), i % 3 != 1);
		give_back(space, addr, 6 * MIB, (enum way)(i / 3));
	}
}
END_TEST

/* A part that its host made read-only or took out of reach: several mappings. */
START_TEST(memory_of_several_protections)
{
	for (unsigned way = 0; way < WAYS; way++) {
		td_space *space = make_space(0);
		void *mapped;
		char *addr;

		ck_assert_int_eq(td_region_map(space, 12 * MIB, NULL, &mapped), 0);
		addr = mapped;
		fill(addr, 'x', 12 * MIB);
		ck_assert_int_eq(mprotect(addr + MIB, MIB, PROT_READ), 0);
		ck_assert_int_eq(mprotect(addr + 5 * MIB, 64 * KIB, PROT_NONE), 0);
		ck_assert_int_eq(madvise(addr + 8 * MIB, MIB, MADV_DONTFORK), 0);
		give_back(space, addr, 12 * MIB, (enum way)way);
	}
}
END_TEST

int main(void)
{
	struct tdt *tests = tdt_suite("kinds");
	const TTest *all[] = {
		private_anonymous_memory,
		transparent_huge_pages,
		huge_pages_go_back_to_their_pool,
		huge_pages_go_in_whole_pages_only,
		where_the_pool_is_empty_nothing_is_mapped,
		locked_memory,
		what_may_not_be_locked_is_not_mapped,
		memory_of_a_node,
		memory_without_access_or_reserve,
		memory_of_several_protections,
	};
	int result;

	have_pool = pool_add(24);
	for (size_t i = 0; i < sizeof(all) / sizeof(*all); i++)
		tdt_add(tests, all[i], setup, teardown);
	result = tdt_run(tests);
	if (have_pool)
		pool_add(-24);
	return result;
}
