/* SPDX-License-Identifier: MIT */
/*
 * D4: td_munmap and munmap(2) on twin layouts: the same answer, the same mappings left,
 * the same contents. And of each layout D2, D3: nothing to be read there any more, and
 * what is mapped there next is never touched.
 */
#include "hold.h"
#include "mapped.h"

#include <sys/syscall.h>

#define AREA 64 /* pages */

/* GROWS: a read in its hole is no fault, but makes it grow. SEALED: deferred if not */
enum { DEFERRED = 1, DEFERRED_IF_SHARED = 2, GROWS = 4, SEALED = 8 };

static size_t unit; /* bytes: a page, or a huge one */
static bool have_huge;

static char *put(char *base, size_t first, size_t units, int prot, int flags, int fd)
{
	char *addr = base + first * unit;
	void *got = mmap(addr, units * unit, PROT_READ | PROT_WRITE,
			 flags | MAP_FIXED_NOREPLACE, fd,
			 fd >= 0 ? (off_t)(first * unit) : 0);

	ck_assert_msg(got == addr, "mmap of %zu units: %s", units, strerror(errno));
	for (size_t at = 0; at < units * unit; at += page)
		memset(addr + at, (int)(1 + (first * unit + at) / page % 250), page);
	if (prot != (PROT_READ | PROT_WRITE))
		ck_assert_int_eq(mprotect(addr, units * unit, prot), 0);
	return addr;
}

#define RW (PROT_READ | PROT_WRITE)
#define ANON (MAP_PRIVATE | MAP_ANONYMOUS)

static void build_one(char *base)
{
	put(base, 8, 32, RW, ANON, -1);
}

static void build_three(char *base)
{
	put(base, 8, 8, RW, ANON, -1);
	put(base, 16, 8, PROT_READ, ANON, -1);
	put(base, 24, 8, PROT_READ | PROT_EXEC, ANON, -1);
}

static void build_holes(char *base)
{
	put(base, 8, 4, RW, ANON, -1);
	put(base, 16, 4, PROT_READ, ANON, -1);
	put(base, 24, 4, RW, ANON, -1);
}

static void build_many(char *base)
{
	for (size_t i = 1; i < 61; i++)
		put(base, i, 1, i % 2 ? RW : PROT_READ, ANON, -1);
}

static void build_nothing(char *base)
{
	(void)base;
}

static void build_shared(char *base)
{
	put(base, 8, 32, RW, MAP_SHARED | MAP_ANONYMOUS, -1);
}

static int make_file(void)
{
	int fd = memfd_create("twin", MFD_CLOEXEC);

	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(ftruncate(fd, (off_t)(AREA * page)), 0);
	return fd;
}

static void build_file_shared(char *base)
{
	int fd = make_file();

	put(base, 8, 32, RW, MAP_SHARED, fd);
	close(fd);
}

static void build_file_private(char *base)
{
	int fd = make_file();

	put(base, 8, 32, RW, MAP_PRIVATE, fd);
	close(fd);
}

static void build_mixed(char *base)
{
	int fd = make_file();

	put(base, 4, 8, RW, ANON, -1);
	put(base, 12, 4, RW, MAP_SHARED, fd);
	put(base, 18, 4, PROT_READ, MAP_PRIVATE, fd);
	put(base, 22, 4, RW, MAP_SHARED | MAP_ANONYMOUS, -1);
	put(base, 26, 8, RW, ANON, -1);
	close(fd);
}

static void build_locked(char *base)
{
	put(base, 8, 16, RW, ANON, -1);
	put(base, 24, 16, RW, ANON, -1);
	ck_assert_int_eq(lock_memory(base + 16 * unit, 16 * unit), 0);
}

static void build_read_only(char *base)
{
	put(base, 8, 32, PROT_READ, ANON, -1);
}

static void build_no_access(char *base)
{
	put(base, 8, 32, PROT_NONE, ANON, -1);
}

static void build_unreserved(char *base)
{
	put(base, 8, 32, RW, ANON | MAP_NORESERVE, -1);
}

static void build_growing(char *base)
{
	put(base, 8, 32, RW, ANON | MAP_GROWSDOWN, -1);
}

static void build_unforked(char *base)
{
	put(base, 8, 32, RW, ANON, -1);
	ck_assert_int_eq(madvise(base + 16 * unit, 8 * unit, MADV_DONTFORK), 0);
	ck_assert_int_eq(madvise(base + 24 * unit, 8 * unit, MADV_WIPEONFORK), 0);
}

static void build_huge(char *base)
{
	put(base, 1, 2, RW, ANON | MAP_HUGETLB | (21 << MAP_HUGE_SHIFT), -1);
}

static bool sealed;

static void build_sealed(char *base)
{
	put(base, 8, 16, RW, ANON, -1);
	put(base, 24, 8, PROT_READ, ANON, -1);
	/* where the kernel cannot, it is one like the others */
	sealed = syscall(462 /* mseal */, base + 24 * unit, 8 * unit, 0) == 0;
}

struct layout {
	const char *name;
	void (*build)(char *base);
	size_t from, length; /* units */
	long from_bytes, length_bytes;
	unsigned expect;
};

static const struct layout layouts[] = {
	{"one mapping", build_one, 8, 32, 0, 0, DEFERRED},
	{"its middle", build_one, 16, 8, 0, 0, DEFERRED},
	{"its head", build_one, 8, 8, 0, 0, DEFERRED},
	{"its tail", build_one, 32, 8, 0, 0, DEFERRED},
	{"its last page", build_one, 39, 1, 0, 0, DEFERRED},
	{"an odd length", build_one, 8, 8, 0, 1, DEFERRED},
	{"an odd length within a page", build_one, 8, 0, 0, 1, DEFERRED},
	{"an odd length short of the end", build_one, 8, 32, 0, -1, DEFERRED},
	{"more than there is", build_one, 0, 64, 0, 0, DEFERRED},
	{"nothing of it", build_one, 8, 0, 0, 0, 0},
	{"a start within a page", build_one, 8, 8, 1, 0, 0},
	{"three protections", build_three, 8, 24, 0, 0, DEFERRED},
	{"parts of three", build_three, 12, 16, 0, 0, DEFERRED},
	{"holes between", build_holes, 8, 20, 0, 0, DEFERRED},
	{"a hole first", build_holes, 4, 12, 0, 0, DEFERRED},
	{"a hole last", build_holes, 10, 4, 0, 0, DEFERRED},
	{"holes all around", build_holes, 13, 11, 0, 0, DEFERRED},
	{"a hole only", build_holes, 12, 4, 0, 0, 0},
	{"nothing there", build_nothing, 8, 32, 0, 0, 0},
	{"sixty mappings", build_many, 0, 64, 0, 0, DEFERRED},
	{"shared anonymous", build_shared, 8, 32, 0, 0, DEFERRED_IF_SHARED},
	{"part of a shared one", build_shared, 10, 3, 0, 0, DEFERRED_IF_SHARED},
	{"a file, shared", build_file_shared, 12, 20, 0, 0, DEFERRED_IF_SHARED},
	{"a file, private", build_file_private, 12, 20, 0, 0, DEFERRED_IF_SHARED},
	{"all kinds at once", build_mixed, 2, 40, 0, 0, DEFERRED},
	{"parts of all kinds", build_mixed, 6, 22, 0, 0, DEFERRED},
	{"locked", build_locked, 8, 32, 0, 0, DEFERRED},
	{"partly locked", build_locked, 12, 8, 0, 0, DEFERRED},
	{"read-only", build_read_only, 8, 32, 0, 0, DEFERRED},
	{"no access", build_no_access, 10, 30, 0, 0, DEFERRED},
	{"not reserved", build_unreserved, 10, 30, 0, 0, DEFERRED},
	{"growing down", build_growing, 8, 32, 0, 0, DEFERRED},
	{"middle of a growing one", build_growing, 16, 8, 0, 0, DEFERRED | GROWS},
	{"head of a growing one", build_growing, 8, 8, 0, 0, DEFERRED | GROWS},
	{"advised about forks", build_unforked, 12, 16, 0, 0, DEFERRED},
	{"partly sealed", build_sealed, 8, 24, 0, 0, SEALED},
	{"beside a sealed one", build_sealed, 8, 16, 0, 0, DEFERRED},
};

/* In units of huge pages. */
static const struct layout huge_layouts[] = {
	{"huge pages", build_huge, 1, 2, 0, 0, DEFERRED},
	{"one of two huge pages", build_huge, 2, 1, 0, 0, DEFERRED},
	{"huge pages and a hole", build_huge, 0, 4, 0, 0, DEFERRED},
	{"a huge page from within", build_huge, 1, 1, 4096, 0, 0},
	{"a huge page not to its end", build_huge, 1, 1, 0, -4096, 0},
};

struct outcome {
	int err;
	char left[8192];
};

static char *twins[2];

static uintptr_t place = TDT_FAR;

static char *area_of(unsigned twin)
{
	return twins[twin] = (char *)place + twin * GIB;
}

static void look(unsigned twin, struct outcome *outcome)
{
	picture(twins[twin], AREA * unit, outcome->left, sizeof(outcome->left));
}

static void compare(const char *name, const struct outcome *theirs,
		    const struct outcome *ours)
{
	ck_assert_msg(theirs->err == ours->err, "%s: munmap %d, td_munmap %d", name,
		      theirs->err, ours->err);
	ck_assert_msg(strcmp(theirs->left, ours->left) == 0,
		      "%s: munmap leaves\n%std_munmap leaves\n%s", name, theirs->left,
		      ours->left);
	for (size_t at = 0; at < AREA * unit; at += page) {
		int first = peek(twins[0] + at), second = peek(twins[1] + at);

		ck_assert_msg(first == second, "%s: at %#zx %d, with td_munmap %d", name,
			      at, first, second);
	}
}

/* Maps and fills [start, end), whatever else is there: munmap has just answered 0. */
static void fill_again(const char *name, char *start, char *end)
{
	void *got =
		mmap(start, (size_t)(end - start), RW, ANON | MAP_FIXED_NOREPLACE, -1, 0);

	ck_assert_msg(got == start, "%s: not to be mapped again", name);
	memset(start, 251, (size_t)(end - start));
}

static void run(const struct layout *layout, unsigned flags)
{
	uint64_t deferred = stats().munmaps_deferred;
	bool defers = (layout->expect & DEFERRED) ||
		      ((layout->expect & DEFERRED_IF_SHARED) && flags);
	bool again = !(layout->expect & GROWS);
	size_t length = (size_t)((long)(layout->length * unit) + layout->length_bytes);
	struct outcome theirs, ours;
	char *start, *end;
	struct hold hold;

	for (unsigned twin = 0; twin < 2; twin++)
		layout->build(area_of(twin));
	if (layout->expect & SEALED)
		defers = !sealed;
	if (unit == HUGE_PAGE && !kernel_finds_mappings())
		defers = false; /* how large the pages are is not told */
	hold_reaper(&hold);
	start = twins[0] + layout->from * unit + layout->from_bytes;
	theirs.err = munmap(start, length) ? -errno : 0;
	look(0, &theirs);
	start = twins[1] + layout->from * unit + layout->from_bytes;
	ours.err = td_engine_munmap(engine, start, length, flags);
	look(1, &ours);
	compare(layout->name, &theirs, &ours);
	ck_assert_msg((stats().munmaps_deferred > deferred) == defers,
		      "%s: deferred %d times", layout->name,
		      (int)(stats().munmaps_deferred - deferred));
	end = start + tdi_align_up(length, page);
	again &= !ours.err && length > 0;
	if (again) { /* D2, D3, before its pages are released and after */
		for (char *at = start; at < end; at += page)
			ck_assert_msg(read_faults(at), "%s: at %#zx", layout->name,
				      (size_t)(at - twins[1]));
		fill_again(layout->name, start, end);
	}
	let_go(&hold);
	drain();
	for (char *at = start; again && at < end; at += page)
		ck_assert_int_eq(*(unsigned char *)at, 251);
	ck_assert_uint_eq(stats().bytes_quarantined, 0);
	if (munmap(twins[0], AREA * unit) || munmap(twins[1], AREA * unit))
		place += 2 * GIB; /* sealed for good */
}

static void run_all(unsigned flags)
{
	catch_faults();
	unit = page;
	for (size_t i = 0; i < sizeof(layouts) / sizeof(*layouts); i++)
		run(&layouts[i], flags);
}

START_TEST(whatever_the_layout_it_does_what_munmap_does)
{
	run_all(0);
}
END_TEST

START_TEST(with_shared_memory_deferred_it_does_what_munmap_does)
{
	run_all(TD_MUNMAP_SHARED);
}
END_TEST

START_TEST(with_the_list_of_mappings_as_text_it_does_what_munmap_does)
{
	tdt_fail(TDI_SYS_ioctl, -ENOTTY, 0, UINT32_MAX);
	run_all(0);
}
END_TEST

/* D5 */
START_TEST(huge_pages_are_unmapped_as_munmap_does)
{
	unit = HUGE_PAGE;
	catch_faults();
	if (!have_huge) {
		tdt_skip("the pool of huge pages cannot be grown");
		return;
	}
	for (size_t i = 0; i < sizeof(huge_layouts) / sizeof(*huge_layouts); i++)
		run(&huge_layouts[i], 0);
}
END_TEST

START_TEST(arguments_that_munmap_refuses_are_refused_alike)
{
	const uintptr_t top = (uintptr_t)1 << 47; /* x86-64, and above what others have */
	struct {
		uintptr_t addr;
		size_t length;
	} cases[] = {
		{0, 0},
		{0, page},
		{page, 0},
		{1, page},
		{TDT_FAR, 0},
		{TDT_FAR, SIZE_MAX},
		{TDT_FAR, SIZE_MAX - page + 1},
		{TDT_FAR, SIZE_MAX - page + 2},
		{TDT_FAR, (size_t)0 - TDT_FAR},
		{TDT_FAR, (size_t)0 - TDT_FAR - page},
		{TDT_FAR, (size_t)1 << 62},
		{TDT_FAR + 1, SIZE_MAX},
		{top - page, 2 * page},
		{top, page},
		{(uintptr_t)1 << 63, page},
		{UINT64_C(0xffff888000000000), GIB},
		{UINT64_C(0xffffffff80000000), page},
		{UINTPTR_MAX, 1},
		{UINTPTR_MAX - page + 1, page},
		{UINTPTR_MAX - page + 1, page - 1},
	};

#ifdef __SANITIZE_THREAD__
	tdt_skip("ThreadSanitizer's own munmap dies of such lengths");
	return;
#endif
	ck_assert_int_eq(td_engine_munmap(engine, NULL, page, 2), -EINVAL);
	ck_assert_int_eq(td_engine_munmap(engine, NULL, page, ~0u), -EINVAL);
	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		void *addr = (void *)cases[i].addr;
		int theirs = munmap(addr, cases[i].length) ? -errno : 0;
		int ours = td_engine_munmap(engine, addr, cases[i].length, 0);

		ck_assert_msg(theirs == ours, "case %zu: munmap %d, td_munmap %d", i,
			      theirs, ours);
		ck_assert_int_eq(td_munmap(addr, cases[i].length), theirs);
	}
	ck_assert_uint_eq(stats().munmaps_deferred, 0);
}
END_TEST

/* Above all that is mapped, where a range can go beyond the end of what there may be. */
START_TEST(a_range_that_goes_too_far_is_refused_whole)
{
	const uintptr_t top = (uintptr_t)1 << 47; /* x86-64 */
	char *addr;

#ifdef __SANITIZE_THREAD__
	tdt_skip("ThreadSanitizer's own munmap dies of such lengths");
	return;
#endif
	addr = mmap((void *)(top - GIB / 2), 16 * page, RW, ANON | MAP_FIXED_NOREPLACE,
		    -1, 0);
	if (addr != (void *)(top - GIB / 2)) {
		tdt_skip("the end of the address space is not where this test looks");
		return;
	}
	memset(addr, 1, 16 * page);
	if (munmap(addr, GIB / 2) == 0) {
		tdt_skip("the address space ends elsewhere");
		return;
	}
	ck_assert_int_eq(td_engine_munmap(engine, addr, GIB / 2, 0), -EINVAL);
	ck_assert_int_eq(addr[16 * page - 1], 1);
	ck_assert_int_eq(td_engine_munmap(engine, addr, 16 * page, 0), 0);
	ck_assert_uint_eq(tdt_mapped(addr, 16 * page), 0);
	ck_assert_uint_eq(stats().munmaps_deferred, 1);
}
END_TEST

/* D5: the kernel's own kind of mapping, and one that is not memory. */
START_TEST(the_heap_and_devices_are_unmapped_at_once)
{
	int fd = open("/dev/zero", O_RDWR | O_CLOEXEC);
	char *device = mmap(NULL, 4 * page, RW, MAP_SHARED, fd, 0);
	char *heap = sbrk(0);

	ck_assert_ptr_ne(device, MAP_FAILED);
	memset(device, 1, 4 * page);
	ck_assert_int_eq(td_engine_munmap(engine, device, 4 * page, 0), 0);
	ck_assert_uint_eq(tdt_mapped(device, 4 * page), 0);
	close(fd);
	ck_assert_int_eq(brk((void *)tdi_align_up((uintptr_t)heap, page)), 0);
	heap = sbrk((intptr_t)(8 * page));
	ck_assert_ptr_ne(heap, (void *)-1);
	memset(heap, 1, 8 * page);
	ck_assert_int_eq(td_engine_munmap(engine, heap + 4 * page, 2 * page, 0), 0);
	ck_assert_uint_eq(tdt_mapped(heap, 8 * page), 6 * page);
	ck_assert_uint_eq(stats().munmaps_deferred, 0);
	ck_assert_uint_eq(stats().munmaps_in_caller, 2);
}
END_TEST

int main(void)
{
	struct tdt *tests = tdt_suite("munmap_contract");
	const TTest *all[] = {
		whatever_the_layout_it_does_what_munmap_does,
		with_shared_memory_deferred_it_does_what_munmap_does,
		with_the_list_of_mappings_as_text_it_does_what_munmap_does,
		huge_pages_are_unmapped_as_munmap_does,
		arguments_that_munmap_refuses_are_refused_alike,
		a_range_that_goes_too_far_is_refused_whole,
		the_heap_and_devices_are_unmapped_at_once,
	};
	int result;

	have_huge = pool_add(16);
	for (size_t i = 0; i < sizeof(all) / sizeof(*all); i++)
		tdt_add(tests, all[i], setup_eager, teardown);
	result = tdt_run(tests);
	if (have_huge)
		pool_add(-16);
	return result;
}
