/* SPDX-License-Identifier: MIT */
/* Options that do not go together, memory that is not what it is said to be. (D5) */
#include "memory.h"

#include <errno.h>
#include <pthread.h>

#define NO_FD 9999

static size_t page;
static int memfd, file;
static td_space *space;

static int nothing(void *arg, void *addr, size_t length)
{
	(void)arg;
	(void)addr;
	(void)length;
	return 0;
}

static int release(void *arg, size_t offset, size_t length, size_t *released)
{
	(void)arg;
	(void)offset;
	*released = length;
	return 0;
}

static const struct td_region_hook hook = {.name = "hook", .call = nothing};
static const struct td_region_hook hookless[2] = {{"hook", nothing, NULL},
						  {"none", NULL, NULL}};
static const struct td_region_ops ops = {.prepare = &hook, .nr_prepare = 1};
static const struct td_region_ops bare = {0};
static const struct td_region_ops device = {.release = release};
static const struct td_region_ops no_list = {.nr_prepare = 1};
static const struct td_region_ops no_call = {.prepare = hookless, .nr_prepare = 2};

static void open_all(void)
{
	setup();
	page = tdi_page_size();
	memfd = make_memfd(64 * KIB, 0);
	file = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
	ck_assert_int_ge(memfd, 0);
	ck_assert_int_ge(file, 0);
	space = make_space(0);
}

static void close_all(void)
{
	ck_assert_int_eq(td_space_put(space), 0);
	close(memfd);
	close(file);
	teardown();
}

struct refusal {
	struct td_region_opts opts;
	int expected;
};

#define R(expected, ...)                                                                 \
	{                                                                                \
		{.size = sizeof(struct td_region_opts), __VA_ARGS__}, expected           \
	}

static const struct td_region_opts *filled_in(struct td_region_opts *opts)
{
	if (opts->fd == 0)
		opts->fd = opts->kind == TD_KIND_FILE ? file : memfd;
	return opts;
}

/* ---- wrong for fresh memory and for what is adopted ---- */

static struct refusal wrong[] = {
	/* kinds, flags and values that there are not */
	R(-EINVAL, .kind = (enum td_kind)5),
	R(-EINVAL, .kind = (enum td_kind) - 1),
	R(-EINVAL, .flags = 1u << 9),
	R(-EINVAL, .flags = 1u << 31),
	R(-EINVAL, .thp = (enum td_thp)3),
	R(-EINVAL, .prot = PROT_GROWSDOWN),
	/* flags of shared memory */
	R(-EINVAL, .flags = TD_REGION_EXCLUSIVE),
	R(-EINVAL, .flags = TD_REGION_SCRUB),
	R(-EINVAL, .flags = TD_REGION_FD),
	R(-EINVAL, .kind = TD_KIND_HUGETLB, .flags = TD_REGION_EXCLUSIVE),
	R(-EINVAL, .kind = TD_KIND_HUGETLB, .flags = TD_REGION_FD),
	R(-EINVAL, .kind = TD_KIND_FILE, .flags = TD_REGION_EXCLUSIVE),
	R(-EINVAL, .kind = TD_KIND_FILE, .flags = TD_REGION_SCRUB),
	R(-EINVAL, .kind = TD_KIND_FILE, .flags = TD_REGION_FD),
	R(-EINVAL, .kind = TD_KIND_SHARED, .flags = TD_REGION_SCRUB),
	/* of files */
	R(-EINVAL, .flags = TD_REGION_PRIVATE),
	R(-EINVAL, .kind = TD_KIND_SHARED, .flags = TD_REGION_PRIVATE),
	R(-EINVAL, .kind = TD_KIND_HUGETLB, .flags = TD_REGION_PRIVATE),
	/* of anonymous memory */
	R(-EINVAL, .kind = TD_KIND_SHARED, .flags = TD_REGION_UFFD),
	R(-EINVAL, .kind = TD_KIND_FILE, .flags = TD_REGION_UFFD),
	R(-EINVAL, .kind = TD_KIND_HUGETLB, .flags = TD_REGION_UFFD),
	R(-EINVAL, .kind = TD_KIND_HUGETLB, .flags = TD_REGION_LOCKED),
	R(-EINVAL, .kind = TD_KIND_FILE, .flags = TD_REGION_NODE),
	R(-EINVAL, .kind = TD_KIND_HUGETLB, .thp = TD_THP_ALWAYS),
	R(-EINVAL, .kind = TD_KIND_FILE, .thp = TD_THP_NEVER),
	/* offsets, sizes of huge pages */
	R(-EINVAL, .offset = 4096),
	R(-EINVAL, .kind = TD_KIND_HUGETLB, .offset = 2 * MIB),
	R(-EINVAL, .kind = TD_KIND_SHARED, .offset = 4096),
	R(-EINVAL, .kind = TD_KIND_SHARED, .flags = TD_REGION_FD, .offset = 100),
	R(-EINVAL, .kind = TD_KIND_FILE, .offset = 1),
	R(-EINVAL, .huge_page_size = 2 * MIB),
	R(-EINVAL, .kind = TD_KIND_SHARED, .huge_page_size = 2 * MIB),
	R(-EINVAL, .kind = TD_KIND_HUGETLB, .huge_page_size = 3 * MIB),
	R(-EINVAL, .kind = TD_KIND_HUGETLB, .huge_page_size = 4096),
	R(-EINVAL, .kind = TD_KIND_HUGETLB, .huge_page_size = 1),
	/* the host's part */
	R(-EINVAL, .ops = &device),
	R(-EINVAL, .kind = TD_KIND_SHARED, .ops = &device),
	R(-EINVAL, .kind = TD_KIND_FILE, .ops = &device),
	R(-EINVAL, .kind = TD_KIND_HUGETLB, .ops = &device),
	R(-EINVAL, .ops = &no_list),
	R(-EINVAL, .ops = &no_call),
	R(-EINVAL, .kind = TD_KIND_DEVICE),
	R(-EINVAL, .kind = TD_KIND_DEVICE, .ops = &ops),
	R(-EINVAL, .kind = TD_KIND_DEVICE, .ops = &bare),
	R(-EINVAL, .kind = TD_KIND_DEVICE, .ops = &device, .flags = TD_REGION_EXCLUSIVE),
	R(-EINVAL, .kind = TD_KIND_DEVICE, .ops = &device, .flags = TD_REGION_FD),
	R(-EINVAL, .kind = TD_KIND_DEVICE, .ops = &device, .flags = TD_REGION_UFFD),
	R(-EINVAL, .kind = TD_KIND_DEVICE, .ops = &device, .thp = TD_THP_NEVER),
	R(-EINVAL, .kind = TD_KIND_DEVICE, .ops = &device, .offset = 4096),
};

/* Only wrong for fresh memory: adopting does not look at these. */
static struct refusal wrong_for_mapping[] = {
	R(-EINVAL, .kind = TD_KIND_DEVICE, .ops = &device),
	R(-EINVAL, .flags = TD_REGION_NODE, .node = 4000),
	R(-EINVAL, .align = 100),
	R(-EINVAL, .align = 12288),
	R(-EINVAL, .flags = TD_REGION_NOACCESS, .prot = PROT_READ),
	R(-EBADF, .kind = TD_KIND_FILE, .fd = -1),
	R(-EBADF, .kind = TD_KIND_FILE, .fd = NO_FD),
	R(-EBADF, .kind = TD_KIND_SHARED, .flags = TD_REGION_FD, .fd = NO_FD),
	R(-EBADF, .kind = TD_KIND_SHARED, .flags = TD_REGION_FD | TD_REGION_EXCLUSIVE,
	  .fd = -1),
	R(-EBADF, .flags = TD_REGION_UFFD, .uffd = NO_FD),
	/* a file that may only be read */
	R(-EACCES, .kind = TD_KIND_FILE),
};

static struct refusal wrong_for_adopting[] = {
	R(-EINVAL, .flags = TD_REGION_NOACCESS),
	R(-EINVAL, .flags = TD_REGION_NODE),
	R(-EINVAL, .flags = TD_REGION_NORESERVE),
	R(-EINVAL, .flags = TD_REGION_LOCKED),
	R(-EINVAL, .kind = TD_KIND_FILE, .flags = TD_REGION_PRIVATE),
	R(-EINVAL, .prot = PROT_READ),
	R(-EINVAL, .align = 4096),
	R(-EBADF, .kind = TD_KIND_SHARED, .flags = TD_REGION_FD | TD_REGION_EXCLUSIVE,
	  .fd = NO_FD),
	R(-EBADF, .kind = TD_KIND_SHARED, .flags = TD_REGION_FD | TD_REGION_SCRUB,
	  .fd = NO_FD),
	R(-EBADF, .flags = TD_REGION_UFFD, .uffd = -1),
};

static void check_mapping(struct refusal *table, size_t entries)
{
	struct tdt_footprint before = tdt_footprint();
	void *addr = (void *)1;

	for (size_t i = 0; i < entries; i++) {
		int err =
			td_region_map(space, HUGE_PAGE, filled_in(&table[i].opts), &addr);

		ck_assert_msg(err == table[i].expected, "case %zu: %d", i, err);
		ck_assert_ptr_eq(addr, (void *)1);
	}
	ck_assert_uint_eq(stats_of(space).regions, 0);
	ck_assert_uint_eq(stats_of(space).bytes_mapped, 0);
	ck_assert_uint_eq(tdt_footprint().descriptors, before.descriptors);
	tdt_check_mappings(before.mappings, 0);
}

static void check_adopting(struct refusal *table, size_t entries)
{
	size_t before = tdt_footprint().descriptors;
	char *addr = map_file(-1, HUGE_PAGE, MAP_PRIVATE | MAP_ANONYMOUS);
	char *shared = map_file(memfd, 64 * KIB, MAP_SHARED);
	td_space *owner;

	fill(addr, 'x', HUGE_PAGE);
	for (size_t i = 0; i < entries; i++) {
		bool is_shared = table[i].opts.kind == TD_KIND_SHARED;
		int err = td_region_adopt(space, is_shared ? shared : addr, 4 * page,
					  filled_in(&table[i].opts));

		ck_assert_msg(err == table[i].expected, "case %zu: %d", i, err);
	}
	ck_assert(is_filled(addr, HUGE_PAGE, 'x'));
	ck_assert_uint_eq(stats_of(space).regions, 0);
	ck_assert_uint_eq(stats_of(space).bytes_mapped, 0);
	ck_assert_uint_eq(tdt_footprint().descriptors, before);
	/* no claim was left on it */
	owner = make_space(0);
	ck_assert_int_eq(td_region_adopt(owner, addr, HUGE_PAGE, NULL), 0);
	ck_assert_int_eq(td_region_adopt(owner, shared, 64 * KIB,
					 TD_REGION_OPTS(.kind = TD_KIND_SHARED)),
			 0);
	ck_assert_int_eq(td_space_put_sync(owner), 0);
}

#define COUNT(table) (sizeof(table) / sizeof(*(table)))

START_TEST(options_that_do_not_go_together_map_nothing)
{
	check_mapping(wrong, COUNT(wrong));
	check_mapping(wrong_for_mapping, COUNT(wrong_for_mapping));
}
END_TEST

START_TEST(options_that_do_not_go_together_adopt_nothing)
{
	check_adopting(wrong, COUNT(wrong));
	check_adopting(wrong_for_adopting, COUNT(wrong_for_adopting));
}
END_TEST

/* ---- memory of another kind ---- */

enum { ANON, SHARED_ANON, MEMFD, SHARED_FILE, PRIVATE_FILE, STACK, MEMORIES };

static char *memory(unsigned which, size_t length)
{
	static const int flags[] = {MAP_PRIVATE | MAP_ANONYMOUS,
				    MAP_SHARED | MAP_ANONYMOUS, MAP_SHARED, MAP_SHARED,
				    MAP_PRIVATE};
	void *addr;

	if (which == STACK) /* the kernel's own, as far as it tells */
		return (char *)tdi_align_down((uintptr_t)__builtin_frame_address(0),
					      page);
	addr = mmap(NULL, length, PROT_READ, flags[which],
		    which < MEMFD    ? -1
		    : which == MEMFD ? memfd
				     : file,
		    0);
	ck_assert_ptr_ne(addr, MAP_FAILED);
	return addr;
}

START_TEST(memory_of_another_kind_is_not_adopted)
{
	static const bool fits[][MEMORIES] = {
		[TD_KIND_ANON] = {true, false, false, false, false, false},
		[TD_KIND_HUGETLB] = {false},
		[TD_KIND_SHARED] = {false, true, true, true, false, false},
		[TD_KIND_FILE] = {false, true, true, true, true, false},
	};
	size_t before = tdt_footprint().mappings;

	for (unsigned kind = 0; kind <= TD_KIND_FILE; kind++) {
		for (unsigned which = 0; which < MEMORIES; which++) {
			bool fit = fits[kind][which];
			char *addr = memory(which, 4 * page);
			td_space *owner = make_space(0);
			struct td_region_opts opts = {.size = sizeof(opts),
						      .kind = (enum td_kind)kind};
			int err;

			if (kind == TD_KIND_HUGETLB)
				addr = (char *)tdi_align_down((uintptr_t)addr, HUGE_PAGE);
			err = td_region_adopt(owner, addr,
					      kind == TD_KIND_HUGETLB ? HUGE_PAGE
					      : which == STACK	      ? page
								      : 4 * page,
					      &opts);
			if (kind == TD_KIND_HUGETLB) /* mapped around it, or not */
				ck_assert(err == -EOPNOTSUPP || err == -ENOMEM);
			else
				ck_assert_msg(err == (fit ? 0 : -EOPNOTSUPP),
					      "kind %u, memory %u: %d", kind, which, err);
			ck_assert_uint_eq(stats_of(owner).regions, fit);
			ck_assert_int_eq(td_space_put_sync(owner), 0);
			if (kind == TD_KIND_HUGETLB && which != STACK)
				continue; /* not at its start any more */
			if (which == STACK || fit)
				continue;
			ck_assert_uint_eq(tdt_mapped(addr, 4 * page), 4 * page);
			ck_assert_int_eq(munmap(addr, 4 * page), 0);
		}
	}
	tdt_check_mappings(before, MEMORIES);
}
END_TEST

/* A hole, at the beginning, the end, in between; another kind, likewise. */
START_TEST(all_of_the_range_must_be_there_and_of_the_kind)
{
	static const struct {
		struct td_region_opts opts;
		unsigned which;
	} kinds[] = {
		{{.size = sizeof(struct td_region_opts)}, ANON},
		{{.size = sizeof(struct td_region_opts), .kind = TD_KIND_SHARED}, MEMFD},
		{{.size = sizeof(struct td_region_opts), .kind = TD_KIND_FILE},
		 PRIVATE_FILE},
		{{.size = sizeof(struct td_region_opts),
		  .kind = TD_KIND_DEVICE,
		  .ops = &device},
		 SHARED_ANON},
	};

	for (unsigned i = 0; i < 3 * COUNT(kinds); i++) {
		const struct td_region_opts *opts = &kinds[i / 3].opts;
		unsigned which = kinds[i / 3].which;
		char *addr = memory(which, 5 * page);
		size_t at = (i % 3) * 2 * page;

		ck_assert_int_eq(munmap(addr + at, page), 0);
		ck_assert_int_eq(td_region_adopt(space, addr, 5 * page, opts), -ENOMEM);
		ck_assert_uint_eq(tdt_mapped(addr, 5 * page), 4 * page);
		/* something else in the hole, which only a device does not mind */
		ck_assert_ptr_eq(mmap(addr + at, page, PROT_READ,
				      (which == ANON ? MAP_SHARED : MAP_PRIVATE) |
					      MAP_ANONYMOUS | MAP_FIXED_NOREPLACE,
				      -1, 0),
				 addr + at);
		ck_assert_int_eq(td_region_adopt(space, addr, 5 * page, opts),
				 opts->kind == TD_KIND_DEVICE ? 0 : -EOPNOTSUPP);
		ck_assert_uint_eq(tdt_mapped(addr, 5 * page), 5 * page);
	}
	ck_assert_uint_eq(stats_of(space).regions, 3);
}
END_TEST

START_TEST(no_descriptor_left_for_a_duplicate)
{
	const struct td_region_opts *opts =
		TD_REGION_OPTS(.kind = TD_KIND_SHARED, .fd = memfd,
			       .flags = TD_REGION_FD | TD_REGION_EXCLUSIVE);
	struct tdt_footprint before = tdt_footprint();
	void *mapped = (void *)1;

	tdt_fail(TDI_SYS_dup, -EMFILE, 0, 1);
	ck_assert_int_eq(td_region_map(space, 64 * KIB, opts, &mapped), -EMFILE);
	tdt_fail(TDI_SYS_fstatfs, -EIO, 0, 1);
	ck_assert_int_eq(td_region_map(space, 64 * KIB, opts, &mapped), -EIO);
	tdt_fail(TDI_SYS_mmap, -ENOMEM, 0, 1);
	ck_assert_int_eq(td_region_map(space, 64 * KIB, opts, &mapped), -ENOMEM);
	ck_assert_ptr_eq(mapped, (void *)1);
	ck_assert_uint_eq(tdt_footprint().descriptors, before.descriptors);
	tdt_check_mappings(before.mappings, 0);
	tdt_fail_none();
	ck_assert_int_eq(td_region_map(space, 64 * KIB, opts, &mapped), 0);
	ck_assert_uint_eq(tdt_footprint().descriptors, before.descriptors + 1);
}
END_TEST

int main(void)
{
	struct tdt *tests = tdt_suite("kinds_refused");
	const TTest *all[] = {
		options_that_do_not_go_together_map_nothing,
		options_that_do_not_go_together_adopt_nothing,
		memory_of_another_kind_is_not_adopted,
		all_of_the_range_must_be_there_and_of_the_kind,
		no_descriptor_left_for_a_duplicate,
	};

	for (size_t i = 0; i < sizeof(all) / sizeof(*all); i++)
		tdt_add(tests, all[i], open_all, close_all);
	return tdt_run(tests);
}
