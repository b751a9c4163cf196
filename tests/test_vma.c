/* SPDX-License-Identifier: MIT */
#include "harness.h"
#include "vma.h"

#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

static bool by_text;

static void use_query(void)
{
	by_text = false;
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

int main(void)
{
	struct tdt *query = tdt_suite("vma");
	static TTest by_text_too[7];
	const TTest *all[] = {private_anonymous_memory_is_told,
			      holes_are_told_at_the_start_the_middle_and_the_end,
			      shared_memory_and_files_are_told,
			      the_stack_is_the_kernels,
			      nothing_is_mapped_at_the_end_of_the_world,
			      what_the_file_answers_is_passed_on,
			      no_descriptor_is_left_behind};
	static char names[7][100];

	for (int i = 0; i < 7; i++) {
		tdt_add(query, all[i], use_query, NULL);
		by_text_too[i] = *all[i];
		snprintf(names[i], sizeof(names[i]), "%s_by_text", all[i]->name);
		by_text_too[i].name = names[i];
		tdt_add(query, &by_text_too[i], use_text, NULL);
	}
	return tdt_run(query);
}
