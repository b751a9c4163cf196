/* SPDX-License-Identifier: MIT */
/* D5: shared memory and files, mapped and adopted, given back in every way. */
#include "memory.h"

#include <errno.h>
#include <stdlib.h>

#define LENGTH (8 * MIB)
#define PART (2 * MIB)

static bool have_pool;

static char *map_region(td_space *space, const struct td_region_opts *opts, size_t length)
{
	void *addr;

	ck_assert_int_eq(td_region_map(space, length, opts, &addr), 0);
	return addr;
}

/* A region of the file: mapped by the library, or by us and adopted. */
static char *make_region(td_space *space, const struct td_region_opts *opts, bool adopt,
			 size_t length)
{
	struct td_region_opts adopted = *opts;
	void *addr;

	if (!adopt)
		return map_region(space, opts, length);
	addr = mmap(NULL, length, PROT_READ | PROT_WRITE,
		    opts->flags & TD_REGION_PRIVATE ? MAP_PRIVATE : MAP_SHARED, opts->fd,
		    (off_t)opts->offset);
	ck_assert_ptr_ne(addr, MAP_FAILED);
	adopted.flags &= ~(unsigned)(TD_REGION_PRIVATE | TD_REGION_LOCKED);
	ck_assert_int_eq(td_region_adopt(space, addr, length, &adopted), 0);
	return addr;
}

static size_t descriptors(void)
{
	return tdt_footprint().descriptors;
}

/* ---- a memfd ---- */

START_TEST(an_exclusive_memfd_is_emptied)
{
	int fd = make_memfd(LENGTH, 0);
	size_t before = descriptors();

	for (unsigned i = 0; i < 2 * WAYS; i++) {
		td_space *space = make_space(0);
		char *addr = make_region(
			space,
			TD_REGION_OPTS(.kind = TD_KIND_SHARED, .fd = fd,
				       .flags = TD_REGION_FD | TD_REGION_EXCLUSIVE),
			i % 2 == 1, LENGTH);

		fill(addr, 'x', LENGTH);
		ck_assert_uint_eq(held_by(fd), LENGTH);
		give_back(space, addr, LENGTH, (enum way)(i / 2));
		ck_assert_uint_eq(held_by(fd), 0);
		ck_assert_uint_eq(descriptors(), before);
	}
	close(fd);
}
END_TEST

START_TEST(a_memfd_that_is_not_exclusive_keeps_its_contents)
{
	int fd = make_memfd(LENGTH, 0);
	char *other = map_file(fd, LENGTH, MAP_SHARED);
	size_t before = descriptors();

	for (unsigned i = 0; i < 2 * WAYS; i++) {
		td_space *space = make_space(0);
		char *addr = make_region(space,
					 TD_REGION_OPTS(.kind = TD_KIND_SHARED, .fd = fd,
							.flags = TD_REGION_FD),
					 i % 2 == 1, LENGTH);

		fill(addr, 'a' + (int)i, LENGTH);
		give_back(space, addr, LENGTH, (enum way)(i / 2));
		ck_assert_uint_eq(held_by(fd), LENGTH);
		ck_assert(is_filled(other, LENGTH, (char)('a' + i)));
		ck_assert_uint_eq(descriptors(), before);
	}
	close(fd);
}
END_TEST

/* The middle of the file: what is before and after it stays. */
START_TEST(only_the_regions_part_of_the_memfd_is_emptied)
{
	for (unsigned i = 0; i < 2 * WAYS; i++) {
		td_space *space = make_space(0);
		int fd = make_memfd(LENGTH + 2 * PART, 0);
		char *whole = map_file(fd, LENGTH + 2 * PART, MAP_SHARED), *addr;

		fill(whole, 'w', LENGTH + 2 * PART);
		addr = make_region(
			space,
			TD_REGION_OPTS(.kind = TD_KIND_SHARED, .fd = fd, .offset = PART,
				       .flags = TD_REGION_FD | TD_REGION_EXCLUSIVE),
			i % 2 == 1, LENGTH);
		ck_assert(is_filled(addr, LENGTH, 'w'));
		give_back(space, addr, LENGTH, (enum way)(i / 2));
		ck_assert_uint_eq(held_by(fd), 2 * PART);
		ck_assert(is_filled(whole, PART, 'w'));
		ck_assert(is_filled(whole + PART + LENGTH, PART, 'w'));
		munmap(whole, LENGTH + 2 * PART);
		close(fd);
	}
}
END_TEST

/* D1: a region in pieces still knows where in the file it is. */
START_TEST(a_part_of_a_region_is_emptied_and_the_rest_is_later)
{
	for (unsigned way = UNMAP_HERE; way <= UNMAP_LATER; way++) {
		td_space *space = make_space(0);
		int fd = make_memfd(LENGTH + PART, 0);
		char *addr = map_region(
			space,
			TD_REGION_OPTS(.kind = TD_KIND_SHARED, .fd = fd, .offset = PART,
				       .flags = TD_REGION_FD | TD_REGION_EXCLUSIVE),
			LENGTH);
		char *whole = map_file(fd, LENGTH + PART, MAP_SHARED);
		size_t before = descriptors();

		fill(whole, 'w', LENGTH + PART);
		unmap_region(space, addr + PART, PART, (enum way)way);
		ck_assert_int_eq(td_engine_drain(engine, TD_FOREVER), 0);
		ck_assert_uint_eq(held_by(fd), LENGTH);
		ck_assert(is_filled(whole, 2 * PART, 'w'));
		ck_assert(is_filled(whole + 2 * PART, PART, 0));
		ck_assert(is_filled(whole + 3 * PART, LENGTH - 2 * PART, 'w'));
		fill(whole + 2 * PART, 'v', PART); /* nobody's part any more */
		ck_assert_uint_eq(stats_of(space).regions, 2);
		ck_assert_int_eq(td_space_put_sync(space), 0);
		ck_assert_uint_eq(held_by(fd), 2 * PART);
		ck_assert(is_filled(whole, PART, 'w'));
		ck_assert(is_filled(whole + 2 * PART, PART, 'v'));
		ck_assert_uint_eq(descriptors(), before - 1); /* the pieces shared one */
		munmap(whole, LENGTH + PART);
		close(fd);
	}
}
END_TEST

START_TEST(the_host_may_close_its_descriptor_meanwhile)
{
	size_t before = descriptors();

	for (unsigned way = 0; way < WAYS; way++) {
		td_space *space = make_space(0);
		int fd = make_memfd(LENGTH, 0), stranger;
		char *addr = map_region(
			space,
			TD_REGION_OPTS(.kind = TD_KIND_SHARED, .fd = fd,
				       .flags = TD_REGION_FD | TD_REGION_EXCLUSIVE),
			LENGTH);
		char *other = map_file(fd, LENGTH, MAP_SHARED), *theirs;

		fill(addr, 'x', LENGTH);
		close(fd);
		stranger = make_memfd(LENGTH, 0); /* of the same number */
		ck_assert_int_eq(stranger, fd);
		theirs = map_file(stranger, LENGTH, MAP_SHARED);
		fill(theirs, 's', LENGTH);
		give_back(space, addr, LENGTH, (enum way)way);
		ck_assert(is_filled(other, LENGTH, 0));
		ck_assert(is_filled(theirs, LENGTH, 's'));
		ck_assert_uint_eq(held_by(stranger), LENGTH);
		munmap(other, LENGTH);
		munmap(theirs, LENGTH);
		close(stranger);
		ck_assert_uint_eq(descriptors(), before);
	}
}
END_TEST

START_TEST(a_memfd_that_is_sealed_against_writing_is_only_unmapped)
{
	for (unsigned way = 0; way < WAYS; way++) {
		td_space *space = make_space(0);
		int fd = make_memfd(LENGTH, MFD_ALLOW_SEALING);
		char *addr = map_file(fd, LENGTH, MAP_SHARED);

		fill(addr, 'x', LENGTH);
		munmap(addr, LENGTH);
		ck_assert_int_eq(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE), 0);
		addr = map_region(
			space,
			TD_REGION_OPTS(.kind = TD_KIND_SHARED, .fd = fd,
				       .prot = PROT_READ,
				       .flags = TD_REGION_FD | TD_REGION_EXCLUSIVE),
			LENGTH);
		ck_assert(is_filled(addr, LENGTH, 'x'));
		give_back(space, addr, LENGTH, (enum way)way);
		ck_assert_uint_eq(held_by(fd), LENGTH);
		close(fd);
	}
}
END_TEST

/* Whatever the kernel answers: the pages are given back, or at least the range is. */
START_TEST(a_memfd_that_cannot_be_punched_is_unmapped)
{
	static const int errors[] = {-EPERM, -EOPNOTSUPP, -EINTR, -EIO, -ENOSPC};

	for (unsigned i = 0; i < 5 * WAYS; i++) {
		td_space *space = make_space(0);
		int fd = make_memfd(LENGTH, 0);
		char *addr = map_region(
			space,
			TD_REGION_OPTS(.kind = TD_KIND_SHARED, .fd = fd,
				       .flags = TD_REGION_FD | TD_REGION_EXCLUSIVE),
			LENGTH);

		fill(addr, 'x', LENGTH);
		if (i / 5 < UNMAP_HERE)
			tdt_fail(TDI_SYS_fallocate, errors[i % 5], 0, 1000);
		give_back(space, addr, LENGTH, (enum way)(i / 5));
		tdt_fail_none();
		close(fd);
	}
}
END_TEST

/* One step that cannot be zapped says nothing about the others. */
START_TEST(every_step_of_a_memfd_is_tried)
{
	td_space *space = make_space(0);
	int fd = make_memfd(4 * LENGTH, 0);
	char *addr =
		map_region(space,
			   TD_REGION_OPTS(.kind = TD_KIND_SHARED, .fd = fd,
					  .flags = TD_REGION_FD | TD_REGION_EXCLUSIVE),
			   4 * LENGTH);

	fill(addr, 'x', 4 * LENGTH);
	tdt_fail(TDI_SYS_fallocate, -EIO, 0, 1);
	tdt_fail(TDI_SYS_madvise, -EINVAL, 0, 1000);
	give_back(space, addr, 4 * LENGTH, PUT);
	ck_assert_uint_gt(held_by(fd), 0);
	ck_assert_uint_le(held_by(fd), LENGTH);
	close(fd);
}
END_TEST

/* ---- shared anonymous ---- */

/* Is there still something behind it? A child has it mapped, too. */
static void *in_child(char *addr, size_t length, int tell[2], int ask[2])
{
	pid_t pid = fork();

	ck_assert_int_ge(pid, 0);
	if (pid == 0) {
		char asked, kept;

		if (read(ask[0], &asked, 1) != 1)
			_exit(1);
		kept = is_filled(addr, length, 'x') ? 'k'
		       : is_filled(addr, length, 0) ? 'e'
						    : '?';
		_exit(write(tell[1], &kept, 1) != 1);
	}
	return NULL;
}

START_TEST(shared_anonymous_memory)
{
	int tell[2], ask[2], status;
	char kept;

	ck_assert_int_eq(pipe(tell), 0);
	ck_assert_int_eq(pipe(ask), 0);
	for (unsigned i = 0; i < 2 * WAYS; i++) {
		enum way way = (enum way)(i / 2);
		bool exclusive = i % 2 == 1;
		td_space *space = make_space(0);
		char *addr = map_region(
			space,
			TD_REGION_OPTS(.kind = TD_KIND_SHARED,
				       .flags = exclusive ? TD_REGION_EXCLUSIVE : 0),
			LENGTH);

		fill(addr, 'x', LENGTH);
		in_child(addr, LENGTH, tell, ask);
		give_back(space, addr, LENGTH, way);
		ck_assert_int_eq(write(ask[1], "?", 1), 1);
		ck_assert_int_eq(read(tell[0], &kept, 1), 1);
		/* in the caller it is unmapped: nobody else has it, as was said */
		if (way != UNMAP_HERE || !exclusive)
			ck_assert_int_eq(kept, exclusive ? 'e' : 'k');
		ck_assert_int_gt(wait(&status), 0);
	}
}
END_TEST

/* ---- huge pages in a memfd ---- */

START_TEST(a_memfd_of_huge_pages_gives_them_back)
{
	long before = read_long(POOL_FREE);
	int fd = make_memfd(3 * HUGE_PAGE, MFD_HUGETLB);

	if (!have_pool || fd < 0) {
		tdt_skip("no huge pages to be had from %s", POOL);
		return;
	}
	for (unsigned i = 0; i < 4 * WAYS; i++) {
		bool exclusive = i % 2 == 1;
		td_space *space = make_space(0);
		char *addr = make_region(
			space,
			TD_REGION_OPTS(.kind = TD_KIND_SHARED, .fd = fd,
				       .flags = TD_REGION_FD |
						(exclusive ? TD_REGION_EXCLUSIVE : 0)),
			i % 4 > 1, 3 * HUGE_PAGE);

		fill(addr, 'x', 3 * HUGE_PAGE);
		ck_assert_int_eq(
			td_region_unmap(space, addr + tdi_page_size(), HUGE_PAGE),
			-EINVAL);
		give_back(space, addr, 3 * HUGE_PAGE, (enum way)(i / 4));
		ck_assert_uint_eq(held_by(fd), exclusive ? 0 : 3 * HUGE_PAGE);
	}
	close(fd);
	await_huge_pages(before);
}
END_TEST

/* The kernel would round such a length up, over whatever comes next. */
START_TEST(a_memfd_of_huge_pages_is_mapped_in_whole_pages_only)
{
	static const size_t aligns[] = {0, 4 * KIB, HUGE_PAGE, 4 * HUGE_PAGE};
	int fd = make_memfd(4 * HUGE_PAGE, MFD_HUGETLB);
	size_t page = tdi_page_size(), before = tdt_footprint().mappings;
	void *mapped = (void *)1;
	td_space *space;

	if (!have_pool || fd < 0) {
		tdt_skip("no huge pages to be had from %s", POOL);
		return;
	}
	space = make_space(0);
	for (size_t i = 0; i < 2 * sizeof(aligns) / sizeof(*aligns); i++) {
		enum td_kind kind = i % 2 ? TD_KIND_FILE : TD_KIND_SHARED;
		struct td_region_opts opts = {.size = sizeof(opts),
					      .kind = kind,
					      .flags = i % 2 ? 0 : TD_REGION_FD,
					      .fd = fd,
					      .align = aligns[i / 2]};

		ck_assert_int_eq(td_region_map(space, page, &opts, &mapped), -EINVAL);
		ck_assert_int_eq(td_region_map(space, HUGE_PAGE + page, &opts, &mapped),
				 -EINVAL);
		opts.offset = page;
		ck_assert_int_eq(td_region_map(space, HUGE_PAGE, &opts, &mapped),
				 -EINVAL);
	}
	ck_assert_ptr_eq(mapped, (void *)1);
	tdt_check_mappings(before, 0);
	ck_assert_int_eq(td_space_put(space), 0);
	close(fd);
}
END_TEST

/* ---- files ---- */

static int make_file(size_t length)
{
	char path[] = "./td-kinds-XXXXXX";
	int fd = mkstemp(path);

	ck_assert_int_ge(fd, 0);
	unlink(path);
	ck_assert_int_eq(ftruncate(fd, (off_t)length), 0);
	return fd;
}

START_TEST(a_file_keeps_what_was_written_through_a_shared_mapping)
{
	int fd = make_file(LENGTH + PART);
	size_t before = descriptors();

	for (unsigned i = 0; i < 4 * WAYS; i++) {
		bool private = i % 2 == 1;
		td_space *space = make_space(0);
		char *addr, *read;

		ck_assert_int_eq(pwrite(fd, "original", 8, PART), 8);
		addr = make_region(
			space,
			TD_REGION_OPTS(.kind = TD_KIND_FILE, .fd = fd, .offset = PART,
				       .flags = private ? TD_REGION_PRIVATE : 0),
			i % 4 > 1, LENGTH);
		ck_assert_int_eq(memcmp(addr, "original", 8), 0);
		fill(addr, 'x', LENGTH);
		give_back(space, addr, LENGTH, (enum way)(i / 4));
		read = map_file(fd, LENGTH + PART, MAP_SHARED);
		ck_assert_int_eq(
			memcmp(read + PART, private ? "original" : "xxxxxxxx", 8), 0);
		munmap(read, LENGTH + PART);
		ck_assert_int_eq(ftruncate(fd, PART), 0); /* for the next round */
		ck_assert_int_eq(ftruncate(fd, LENGTH + PART), 0);
		ck_assert_uint_eq(descriptors(), before);
	}
	close(fd);
}
END_TEST

/* The memory of a file's region that was mapped past what the file has by now. */
START_TEST(a_file_may_shrink_under_its_region)
{
	for (unsigned i = 0; i < 3 * WAYS; i++) {
		td_space *space = make_space(0);
		int fd = make_memfd(LENGTH, 0);
		struct td_region_opts opts = {.size = sizeof(opts), .fd = fd};
		char *addr;

		opts.kind = i % 3 ? TD_KIND_SHARED : TD_KIND_FILE;
		if (i % 3)
			opts.flags = TD_REGION_FD | TD_REGION_SCRUB;
		if (i % 3 == 2)
			opts.flags |= TD_REGION_EXCLUSIVE;
		addr = map_region(space, &opts, LENGTH);
		fill(addr, 'x', LENGTH);
		ck_assert_int_eq(ftruncate(fd, 100), 0);
		give_back(space, addr, LENGTH, (enum way)(i / 3));
		ck_assert_uint_le(held_by(fd), tdi_page_size());
		ck_assert_int_eq(lseek(fd, 0, SEEK_END), 100);
		close(fd);
	}
}
END_TEST

int main(void)
{
	struct tdt *tests = tdt_suite("kinds_shared");
	const TTest *all[] = {
		an_exclusive_memfd_is_emptied,
		a_memfd_that_is_not_exclusive_keeps_its_contents,
		only_the_regions_part_of_the_memfd_is_emptied,
		a_part_of_a_region_is_emptied_and_the_rest_is_later,
		the_host_may_close_its_descriptor_meanwhile,
		a_memfd_that_is_sealed_against_writing_is_only_unmapped,
		a_memfd_that_cannot_be_punched_is_unmapped,
		every_step_of_a_memfd_is_tried,
		shared_anonymous_memory,
		a_memfd_of_huge_pages_gives_them_back,
		a_memfd_of_huge_pages_is_mapped_in_whole_pages_only,
		a_file_keeps_what_was_written_through_a_shared_mapping,
		a_file_may_shrink_under_its_region,
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
