/* SPDX-License-Identifier: MIT */
#include "mapped.h"
#include "vma.h"

#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/stat.h>

#ifndef PR_SET_VMA
#define PR_SET_VMA 0x53564d41
#define PR_SET_VMA_ANON_NAME 0
#endif

static bool by_text;

static void use_query(void)
{
	by_text = !kernel_finds_mappings();
}

static void use_text(void)
{
	by_text = true;
	tdt_fail(TDI_SYS_ioctl, -ENOTTY, 0, UINT32_MAX);
}

static int check(const void *addr, size_t length)
{
	return tdi_vma_check((uintptr_t)addr, (uintptr_t)addr + length, TDI_VMA_ANON, 0);
}

START_TEST(private_anonymous_memory_is_told)
{
	size_t page = tdi_page_size();
	char *addr = tdt_map_anon(8 * page);

	ck_assert_int_eq(check(addr, 8 * page), 0);
	ck_assert_int_eq(check(addr + page, page), 0);
	/* several mappings: a protection of its own in the middle */
	ck_assert_int_eq(mprotect(addr + 3 * page, page, PROT_READ), 0);
	ck_assert_int_eq(check(addr, 8 * page), 0);
	munmap(addr, 8 * page);
}
END_TEST

START_TEST(holes_are_told_at_the_start_the_middle_and_the_end)
{
	size_t page = tdi_page_size();
	char *addr = tdt_map_anon(9 * page);

	munmap(addr, page);
	munmap(addr + 4 * page, page);
	munmap(addr + 8 * page, page);
	ck_assert_int_eq(check(addr, 2 * page), -ENOMEM);
	ck_assert_int_eq(check(addr, page), -ENOMEM);
	ck_assert_int_eq(check(addr + page, 7 * page), -ENOMEM);
	ck_assert_int_eq(check(addr + 5 * page, 4 * page), -ENOMEM);
	ck_assert_int_eq(check(addr + page, 3 * page), 0);
	ck_assert_int_eq(check(addr + 5 * page, 3 * page), 0);
	munmap(addr, 9 * page);
}
END_TEST

START_TEST(shared_memory_and_files_are_told)
{
	size_t page = tdi_page_size();
	char *shared = mmap(NULL, page, PROT_READ, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	int fd = memfd_create("a file", 0);
	char *file;

	ck_assert_int_eq(check(shared, page), -EOPNOTSUPP);
	ck_assert_int_eq(ftruncate(fd, (off_t)page), 0);
	file = mmap(NULL, page, PROT_READ, MAP_PRIVATE, fd, 0);
	ck_assert_int_eq(check(file, page), -EOPNOTSUPP);
	munmap(shared, page);
	munmap(file, page);
	close(fd);
}
END_TEST

START_TEST(the_stack_is_the_kernels)
{
	size_t page = tdi_page_size();
	int local;

	/* The main thread's: Check runs the test on it. */
	ck_assert_int_eq(check((void *)tdi_align_down((uintptr_t)&local, page), page),
			 -EOPNOTSUPP);
}
END_TEST

START_TEST(nothing_is_mapped_at_the_end_of_the_world)
{
	size_t page = tdi_page_size();
	char *last = (char *)((UINTPTR_MAX >> 17) & ~(page - 1)) - page; /* x86-64 */

	if (tdt_mapped(last, page) == 0) /* the stack, without randomisation */
		ck_assert_int_eq(check(last, page), -ENOMEM);
	ck_assert_int_eq(check((void *)0x1000, 0x1000), -ENOMEM);
}
END_TEST

START_TEST(what_the_file_answers_is_passed_on)
{
	size_t page = tdi_page_size();
	char *addr = tdt_map_anon(page);

	static const int errors[] = {-EMFILE, -ENFILE, -ENOMEM, -ENOENT, -EACCES, -EINTR};

	for (size_t i = 0; i < sizeof(errors) / sizeof(*errors); i++) {
		tdt_fail(TDI_SYS_open, errors[i], 0, 1);
		ck_assert_int_eq(check(addr, page), errors[i]);
	}
	tdt_fail_none();
	if (by_text) {
		use_text();
		tdt_fail(TDI_SYS_read, -EIO, 0, 1);
		ck_assert_int_eq(check(addr, page), -EIO);
		tdt_fail(TDI_SYS_read, -EINTR, 0, 3);
	} else {
		tdt_fail(TDI_SYS_ioctl, -ESRCH, 0, 1);
		ck_assert_int_eq(check(addr, page), -ESRCH);
		/* a filter that does not know the ioctl: the text does as well */
		tdt_fail(TDI_SYS_ioctl, -EPERM, 0, 1);
		ck_assert_int_eq(check(addr, page), 0);
		tdt_fail(TDI_SYS_close, -EINTR, 0, 1);
	}
	ck_assert_int_eq(check(addr, page), 0);
	munmap(addr, page);
}
END_TEST

START_TEST(no_descriptor_is_left_behind)
{
	size_t page = tdi_page_size(), before = tdt_footprint().descriptors;
	char *addr = tdt_map_anon(page);

	for (int i = 0; i < 10; i++) {
		ck_assert_int_eq(check(addr, page), 0);
		ck_assert_int_eq(check((void *)0x1000, 0x1000), -ENOMEM);
	}
	ck_assert_uint_eq(tdt_footprint().descriptors, before);
	munmap(addr, page);
}
END_TEST

struct visits {
	unsigned count;
	int answer;
};

static int visit(const struct tdi_vma *vma, void *arg)
{
	struct visits *visits = arg;

	(void)vma;
	visits->count++;
	return visits->answer;
}

/* No mapping is told twice, whatever goes wrong on the way and whatever is answered. */
START_TEST(a_walk_that_ends_early_does_not_begin_again)
{
	static const int answers[] = {-EINVAL, -EPERM, -EACCES, -ENOTTY, -ENOENT, 1};
	size_t page = tdi_page_size();
	char *addr = tdt_map_anon(5 * page);
	uintptr_t start = (uintptr_t)addr, end = start + 5 * page;

	ck_assert_int_eq(mprotect(addr + page, page, PROT_READ), 0);
	ck_assert_int_eq(mprotect(addr + 3 * page, page, PROT_READ), 0);
	for (size_t i = 0; i < sizeof(answers) / sizeof(*answers); i++) {
		struct visits visits = {0, answers[i]};

		ck_assert_int_eq(tdi_vma_walk(start, end, visit, &visits), answers[i]);
		ck_assert_uint_eq(visits.count, 1);
		if (by_text || answers[i] >= 0 || answers[i] == -ENOENT)
			continue;
		visits = (struct visits){0, 0};
		tdt_fail(TDI_SYS_ioctl, answers[i], 2, 1);
		ck_assert_int_eq(tdi_vma_walk(start, end, visit, &visits), answers[i]);
		tdt_fail_none();
		ck_assert_uint_eq(visits.count, 2);
	}
}
END_TEST

/* ---- types ---- */

static int note_type(const struct tdi_vma *vma, void *arg)
{
	*(unsigned *)arg |= tdi_vma_type(vma);
	return 0;
}

/* The types of what is mapped at addr. */
static unsigned types_at(const void *addr, size_t length)
{
	uintptr_t start = (uintptr_t)addr;
	unsigned types = 0;

	ck_assert_int_eq(tdi_vma_walk(start, start + length, note_type, &types), 0);
	return types;
}

static bool have_huge;

static void *map_any(size_t length, int flags, int fd)
{
	void *addr = mmap(NULL, length, PROT_READ | PROT_WRITE, flags, fd, 0);

	ck_assert_ptr_ne(addr, MAP_FAILED);
	return addr;
}

START_TEST(memory_is_told_by_type)
{
	size_t page = tdi_page_size();
	int fd = memfd_create("[anon: not]", MFD_CLOEXEC);
	char *named = tdt_map_anon(page), *grows;

	ck_assert_int_eq(ftruncate(fd, (off_t)page), 0);
	ck_assert_uint_eq(types_at(tdt_map_anon(page), page), TDI_VMA_ANON);
	grows = map_any(page, MAP_PRIVATE | MAP_ANONYMOUS | MAP_GROWSDOWN, -1);
	ck_assert_uint_eq(types_at(grows, page), TDI_VMA_ANON);
	ck_assert_uint_eq(types_at(map_any(page, MAP_SHARED | MAP_ANONYMOUS, -1), page),
			  TDI_VMA_SHARED);
	ck_assert_uint_eq(types_at(map_any(page, MAP_SHARED, fd), page), TDI_VMA_SHARED);
	ck_assert_uint_eq(types_at(map_any(page, MAP_PRIVATE, fd), page), TDI_VMA_FILE);
	/* a name given to it changes nothing (where the kernel knows names) */
	(void)prctl(PR_SET_VMA, PR_SET_VMA_ANON_NAME, named, page, "a name of ours");
	ck_assert_uint_eq(types_at(named, page), TDI_VMA_ANON);
	close(fd);
}
END_TEST

START_TEST(the_kernels_own_is_special)
{
	int local;
	char *heap = sbrk(8192);
	unsigned long start;
	char line[512], *kernels = NULL;
	FILE *maps = fopen("/proc/self/maps", "re");

	ck_assert_uint_eq(types_at(&local, 1), TDI_VMA_SPECIAL);
	ck_assert_ptr_ne(heap, (void *)-1);
	ck_assert_uint_eq(types_at(heap, 8192), TDI_VMA_SPECIAL);
	while (fgets(line, sizeof(line), maps)) {
		if (strstr(line, "[vdso]") && sscanf(line, "%lx-", &start) == 1)
			kernels = (char *)start;
	}
	fclose(maps);
	if (kernels)
		ck_assert_uint_eq(types_at(kernels, 1), TDI_VMA_SPECIAL);
}
END_TEST

START_TEST(huge_pages_are_told)
{
	uintptr_t start;
	char *huge = have_huge ? map_huge(NULL, 2) : NULL;
	char *shared;
	int fd;

	if (!huge) {
		tdt_skip("the pool has no two huge pages for us");
		return;
	}
	start = (uintptr_t)huge;
	ck_assert_uint_eq(types_at(huge, 2 * HUGE_PAGE), TDI_VMA_HUGETLB);
	ck_assert_int_eq(
		tdi_vma_check(start, start + HUGE_PAGE, TDI_VMA_HUGETLB, HUGE_PAGE), 0);
	ck_assert_int_eq(check(huge, HUGE_PAGE), -EOPNOTSUPP);
	/* the text does not tell their size */
	ck_assert_int_eq(tdi_vma_check(start, start + HUGE_PAGE, TDI_VMA_HUGETLB, GIB),
			 by_text ? 0 : -EINVAL);
	munmap(huge, 2 * HUGE_PAGE);
	shared = map_any(HUGE_PAGE, MAP_SHARED | MAP_ANONYMOUS | MAP_HUGETLB, -1);
	ck_assert_uint_eq(types_at(shared, HUGE_PAGE), TDI_VMA_SHARED);
	munmap(shared, HUGE_PAGE);
	fd = memfd_create("huge", MFD_CLOEXEC | MFD_HUGETLB);
	ck_assert_int_eq(ftruncate(fd, (off_t)HUGE_PAGE), 0);
	shared = map_any(HUGE_PAGE, MAP_PRIVATE, fd);
	ck_assert_uint_eq(types_at(shared, HUGE_PAGE), TDI_VMA_FILE);
	munmap(shared, HUGE_PAGE);
	close(fd);
}
END_TEST

/* Longer than the walk has room for: it is a file's all the same. */
START_TEST(a_file_of_a_long_name_is_a_file)
{
	char path[1024] = "/tmp/td-XXXXXX";
	size_t page = tdi_page_size(), base, at;
	char *addr;
	int fd;

	ck_assert_ptr_nonnull(mkdtemp(path));
	base = at = strlen(path);
	for (int i = 0; i < 3; i++) {
		at += (size_t)sprintf(path + at, "/%0150d", i);
		if (i < 2)
			ck_assert_int_eq(mkdir(path, 0700), 0);
	}
	fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(ftruncate(fd, (off_t)page), 0);
	addr = map_any(page, MAP_PRIVATE, fd);
	ck_assert_uint_eq(types_at(addr, page), TDI_VMA_FILE);
	unlink(path);
	while (at > base) {
		path[at] = '\0';
		rmdir(path);
		at -= 151;
	}
	path[base] = '\0';
	rmdir(path);
	ck_assert_uint_eq(types_at(addr, page), TDI_VMA_FILE); /* deleted, still one */
	close(fd);
}
END_TEST

/* ---- what is asked by a page ---- */

START_TEST(locked_memory_is_told)
{
	size_t page = tdi_page_size();
	char *addr = tdt_map_anon(8 * page);

	tdt_touch(addr, 8 * page);
	ck_assert_int_eq(lock_memory(addr + 4 * page, 4 * page), 0);
	ck_assert(!tdi_vma_is_locked((uintptr_t)addr));
	ck_assert(tdi_vma_is_locked((uintptr_t)addr + 4 * page));
	ck_assert_int_eq(addr[0], 1);		/* asking does not take it away */
	tdt_fail(TDI_SYS_msync, -ENOSYS, 0, 1); /* who cannot tell is careful */
	ck_assert(tdi_vma_is_locked((uintptr_t)addr));
}
END_TEST

START_TEST(memory_of_a_userfaultfd_is_told)
{
	struct uffdio_api api = {.api = UFFD_API};
	struct uffdio_register registration = {.mode = UFFDIO_REGISTER_MODE_MISSING};
	size_t page = tdi_page_size(), fds;
	int theirs = (int)syscall(SYS_userfaultfd, O_CLOEXEC), ours;
	char *addr = tdt_map_anon(8 * page);
	uintptr_t start = (uintptr_t)addr;

	if (by_text)
		tdt_fail_none(); /* one way of asking only */
	if (theirs < 0 || ioctl(theirs, UFFDIO_API, &api) != 0) {
		tdt_skip("no userfaultfd: %s", strerror(errno));
		return;
	}
	fds = tdt_footprint().descriptors;
	tdt_touch(addr, 2 * page);
	registration.range.start = start + 4 * page;
	registration.range.len = 4 * page;
	ck_assert_int_eq(ioctl(theirs, UFFDIO_REGISTER, &registration), 0);
	ours = tdi_vma_userfault_open();
	ck_assert_int_ge(ours, 0);
	ck_assert(!tdi_vma_is_userfault(ours, start, page));
	ck_assert(!tdi_vma_is_userfault(ours, start + 3 * page, page));
	ck_assert(tdi_vma_is_userfault(ours, start + 4 * page, page));
	ck_assert(tdi_vma_is_userfault(ours, start + 7 * page, page));
	/* asking changes nothing: still nothing there, which would be told to theirs */
	ck_assert_uint_eq(tdt_resident(addr, 8 * page), 2 * page);
	ck_assert(!tdi_vma_is_userfault(-EPERM, start + 4 * page, page));
	tdi_vma_userfault_close(ours);
	tdi_vma_userfault_close(-EPERM);
	/* half-open */
	tdt_fail(TDI_SYS_ioctl, -EINVAL, 0, 1);
	ck_assert_int_eq(tdi_vma_userfault_open(), -EINVAL);
	tdt_fail_none();
	tdt_fail(TDI_SYS_userfaultfd, -ENOSYS, 0, 1);
	ck_assert_int_eq(tdi_vma_userfault_open(), -ENOSYS);
	tdt_fail_none();
	ck_assert_uint_eq(tdt_footprint().descriptors, fds);
	close(theirs);
}
END_TEST

START_TEST(sealed_memory_is_told)
{
	size_t page = tdi_page_size();
	char *addr = tdt_map_anon(2 * page);

	number_pages(addr, 2 * page, 1);
	ck_assert_int_eq(tdi_vma_check_movable((uintptr_t)addr), 0);
	check_numbers(addr, 2 * page, 1);
	if (syscall(462 /* mseal */, addr, 2 * page, 0) != 0) {
		tdt_skip("the kernel has no mseal");
		return;
	}
	ck_assert_int_eq(tdi_vma_check_movable((uintptr_t)addr), -EPERM);
	check_numbers(addr, 2 * page, 1);
}
END_TEST

int main(void)
{
	struct tdt *query = tdt_suite("vma");
	const TTest *all[] = {private_anonymous_memory_is_told,
			      holes_are_told_at_the_start_the_middle_and_the_end,
			      shared_memory_and_files_are_told,
			      the_stack_is_the_kernels,
			      nothing_is_mapped_at_the_end_of_the_world,
			      what_the_file_answers_is_passed_on,
			      no_descriptor_is_left_behind,
			      a_walk_that_ends_early_does_not_begin_again,
			      memory_is_told_by_type,
			      the_kernels_own_is_special,
			      huge_pages_are_told,
			      a_file_of_a_long_name_is_a_file,
			      locked_memory_is_told,
			      memory_of_a_userfaultfd_is_told,
			      sealed_memory_is_told};
	enum { TESTS = sizeof(all) / sizeof(*all) };
	static TTest by_text_too[TESTS];
	static char names[TESTS][100];
	int result;

	have_huge = pool_add(2);
	for (int i = 0; i < TESTS; i++) {
		tdt_add(query, all[i], use_query, NULL);
		by_text_too[i] = *all[i];
		snprintf(names[i], sizeof(names[i]), "%s_by_text", all[i]->name);
		by_text_too[i].name = names[i];
		tdt_add(query, &by_text_too[i], use_text, NULL);
	}
	result = tdt_run(query);
	if (have_huge)
		pool_add(-2);
	return result;
}
