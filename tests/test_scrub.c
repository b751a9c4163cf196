/* SPDX-License-Identifier: MIT */
/* D5: shared memory is overwritten before it is released, since its pages may live on. */
#include "heard.h"
#include "memory.h"

#include <errno.h>
#include <limits.h>

#define LENGTH (8 * MIB)
#define UNABLE "could not be overwritten"

static bool have_pool;

static char *map_region(td_space *space, int fd, uint64_t offset, unsigned flags,
			size_t length)
{
	struct td_region_opts opts = {.size = sizeof(opts),
				      .kind = TD_KIND_SHARED,
				      .flags = flags,
				      .fd = fd,
				      .offset = offset};
	void *addr;

	if (fd >= 0)
		opts.flags |= TD_REGION_FD;
	ck_assert_int_eq(td_region_map(space, length, &opts, &addr), 0);
	return addr;
}

static bool file_is_filled(int fd, size_t length, char with)
{
	char *addr = mmap(NULL, length, PROT_READ, MAP_SHARED, fd, 0);
	bool filled;

	ck_assert_ptr_ne(addr, MAP_FAILED);
	filled = is_filled(addr, length, with);
	munmap(addr, length);
	return filled;
}

START_TEST(pages_are_zero_and_holes_stay_holes)
{
	for (unsigned way = 0; way < WAYS; way++) {
		td_space *space = make_space(0);
		int fd = make_memfd(LENGTH, 0);
		char *addr = map_region(space, fd, 0, TD_REGION_SCRUB, LENGTH);
		size_t pages = 0;

		/* the first, the last, neighbours, and more than one write's worth */
		for (size_t at = 0; at < LENGTH; at += MIB, pages++)
			fill(addr + at, 'x', tdi_page_size());
		fill(addr + LENGTH - tdi_page_size(), 'x', tdi_page_size());
		pages += 1;
		fill(addr + 5 * MIB + tdi_page_size(), 'x', 50 * tdi_page_size());
		pages += 50;
		ck_assert_uint_eq(held_by(fd), pages * tdi_page_size());
		give_back(space, addr, LENGTH, (enum way)way);
		ck_assert_uint_eq(held_by(fd), pages * tdi_page_size());
		ck_assert(file_is_filled(fd, LENGTH, 0));
		close(fd);
	}
}
END_TEST

START_TEST(only_the_regions_part_of_the_file_is_overwritten)
{
	for (unsigned way = 0; way < WAYS; way++) {
		td_space *space = make_space(0);
		int fd = make_memfd(LENGTH + 2 * MIB, 0);
		char *whole = map_file(fd, LENGTH + 2 * MIB, MAP_SHARED);
		char *addr = map_region(space, fd, MIB, TD_REGION_SCRUB, LENGTH);

		fill(whole, 'w', LENGTH + 2 * MIB);
		give_back(space, addr, LENGTH, (enum way)way);
		ck_assert(is_filled(whole, MIB, 'w'));
		ck_assert(is_filled(whole + MIB, LENGTH, 0));
		ck_assert(is_filled(whole + MIB + LENGTH, MIB, 'w'));
		munmap(whole, LENGTH + 2 * MIB);
		close(fd);
	}
}
END_TEST

/* A child still has it mapped, and looks when it has gone here. */
START_TEST(shared_anonymous_memory_is_zero_for_whoever_has_it)
{
	for (unsigned i = 0; i < 2 * WAYS; i++) {
		td_space *space = make_space(0);
		char *addr = map_region(space, -1, 0,
					TD_REGION_SCRUB | TD_REGION_EXCLUSIVE, LENGTH);
		int ask[2], status;
		pid_t pid;

		fill(addr, 'x', LENGTH);
		ck_assert_int_eq(pipe(ask), 0);
		pid = fork();
		ck_assert_int_ge(pid, 0);
		if (pid == 0) {
			char go;

			_exit(read(ask[0], &go, 1) != 1 || !is_filled(addr, LENGTH, 0));
		}
		if (i % 2) /* one that cannot be punched by address */
			ck_assert_int_eq(mprotect(addr, LENGTH, PROT_READ), 0);
		give_back(space, addr, LENGTH, (enum way)(i / 2));
		ck_assert_int_eq(write(ask[1], "?", 1), 1);
		ck_assert_int_eq(waitpid(pid, &status, 0), pid);
		ck_assert_int_eq(status, 0);
		close(ask[0]);
		close(ask[1]);
	}
}
END_TEST

START_TEST(an_exclusive_memfd_is_overwritten_and_emptied)
{
	for (unsigned way = 0; way < WAYS; way++) {
		td_space *space = make_space(0);
		int fd = make_memfd(LENGTH, 0);
		char *addr = map_region(space, fd, 0,
					TD_REGION_SCRUB | TD_REGION_EXCLUSIVE, LENGTH);

		fill(addr, 'x', LENGTH);
		if (way < UNMAP_HERE)
			tdt_fail(TDI_SYS_pwrite, 0, 0, 0); /* to count */
		give_back(space, addr, LENGTH, (enum way)way);
		ck_assert_uint_ge(tdt_calls(TDI_SYS_pwrite), LENGTH / MIB);
		ck_assert_uint_eq(held_by(fd), 0);
		close(fd);
	}
}
END_TEST

/* The host has made it read-only, or taken it out of reach, meanwhile: all or a part. */
START_TEST(what_the_mapping_allows_does_not_matter)
{
	static const int prots[] = {PROT_READ, PROT_NONE};

	for (unsigned i = 0; i < 4 * WAYS; i++) {
		td_space *space = make_space(0);
		int fd = make_memfd(LENGTH, MFD_ALLOW_SEALING);
		char *addr = map_region(space, fd, 0, TD_REGION_SCRUB, LENGTH);

		fill(addr, 'x', LENGTH);
		if (i % 4 < 2)
			ck_assert_int_eq(mprotect(addr, LENGTH, prots[i % 2]), 0);
		else
			ck_assert_int_eq(mprotect(addr + MIB, 4 * MIB, prots[i % 2]), 0);
		give_back(space, addr, LENGTH, (enum way)(i / 4));
		ck_assert(file_is_filled(fd, LENGTH, 0));
		close(fd);
	}
}
END_TEST

/* Its descriptor cannot be written to any more; a mapping that was there can. */
START_TEST(a_file_sealed_against_new_writers_is_overwritten_in_place)
{
	for (unsigned i = 0; i < 2 * WAYS; i++) {
		td_space *space = make_space(0);
		int fd = make_memfd(LENGTH, MFD_ALLOW_SEALING);
		char *addr = map_region(space, fd, 0, TD_REGION_SCRUB, LENGTH);

		fill(addr, 'x', LENGTH / 2);
		fill(addr + LENGTH - MIB, 'x', MIB);
		if (i % 2)
			ck_assert_int_eq(mprotect(addr, LENGTH, PROT_READ), 0);
		ck_assert_int_eq(fcntl(fd, F_ADD_SEALS, F_SEAL_FUTURE_WRITE), 0);
		give_back(space, addr, LENGTH, (enum way)(i / 2));
		ck_assert_uint_eq(held_by(fd), LENGTH / 2 + MIB);
		ck_assert(file_is_filled(fd, LENGTH, 0));
		close(fd);
	}
}
END_TEST

START_TEST(a_memfd_of_huge_pages_is_overwritten)
{
	long before = read_long(POOL_FREE);
	int fd = make_memfd(3 * HUGE_PAGE, MFD_HUGETLB);

	if (!have_pool || fd < 0) {
		tdt_skip("no huge pages to be had from %s", POOL);
		return;
	}
	for (unsigned way = 0; way < WAYS; way++) {
		td_space *space = make_space(0);
		char *addr = map_region(space, fd, 0, TD_REGION_SCRUB, 3 * HUGE_PAGE);

		fill(addr, 'x', 3 * HUGE_PAGE);
		give_back(space, addr, 3 * HUGE_PAGE, (enum way)way);
		ck_assert(file_is_filled(fd, 3 * HUGE_PAGE, 0));
	}
	close(fd);
	await_huge_pages(before);
}
END_TEST

/* ---- what cannot be done ---- */

START_TEST(a_file_sealed_against_writing_is_said_and_the_rest_goes)
{
	for (unsigned way = 0; way < WAYS; way++) {
		td_space *space = make_space(0);
		int fd = make_memfd(MIB, MFD_ALLOW_SEALING);
		int other = make_memfd(MIB, 0);
		char *addr = map_file(fd, MIB, MAP_SHARED), *good;
		struct hearing hearing;
		void *mapped;

		fill(addr, 'x', MIB);
		munmap(addr, MIB);
		ck_assert_int_eq(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE), 0);
		ck_assert_int_eq(td_region_map(space, MIB,
					       TD_REGION_OPTS(.kind = TD_KIND_SHARED,
							      .prot = PROT_READ, .fd = fd,
							      .flags = TD_REGION_FD |
								       TD_REGION_SCRUB),
					       &mapped),
				 0);
		good = map_region(space, other, 0, TD_REGION_SCRUB, MIB);
		fill(good, 'x', MIB);
		hear(&hearing);
		ck_assert_int_eq(td_space_grab(space), 0);
		if (way == UNMAP_HERE || way == UNMAP_LATER)
			unmap_region(space, mapped, MIB, (enum way)way);
		if (way == PUT_SYNC)
			ck_assert_int_eq(td_space_put_sync(space), 0);
		else
			ck_assert_int_eq(td_space_put(space), 0);
		ck_assert_int_eq(td_space_wait(space, TD_EVENT_RECLAIMED, TD_FOREVER), 0);
		ck_assert_uint_eq(times(heard(&hearing), UNABLE), 1);
		ck_assert_uint_eq(stats_of(space).bytes_reclaimed, 2 * MIB);
		ck_assert_uint_eq(tdt_mapped(mapped, MIB), 0);
		ck_assert(file_is_filled(fd, MIB, 'x'));
		ck_assert(file_is_filled(other, MIB, 0));
		ck_assert_int_eq(td_space_drop(space), 0);
		close(fd);
		close(other);
	}
}
END_TEST

/* Each call that it takes, failing once or always: overwritten, or said. */
START_TEST(whatever_fails_it_is_overwritten_or_said)
{
	static const struct {
		enum tdi_sys_call call[2];
		int err;
		unsigned first, count;
		bool said;
	} faults[] = {
		{{TDI_SYS_pwrite, TDI_SYS_COUNT}, -EINTR, 0, 3, false},
		{{TDI_SYS_pwrite, TDI_SYS_COUNT}, -EIO, 0, 1, false},
		{{TDI_SYS_pwrite, TDI_SYS_COUNT}, -EPERM, 3, 1, false},
		{{TDI_SYS_pwrite, TDI_SYS_COUNT}, -EINVAL, 0, UINT_MAX, false},
		{{TDI_SYS_lseek, TDI_SYS_COUNT}, -EINVAL, 0, UINT_MAX, false},
		{{TDI_SYS_lseek, TDI_SYS_COUNT}, -EINVAL, 1, 1, false},
		{{TDI_SYS_lseek, TDI_SYS_COUNT}, -EIO, 2, UINT_MAX, false},
		{{TDI_SYS_mprotect, TDI_SYS_COUNT}, -ENOMEM, 0, UINT_MAX, false},
		{{TDI_SYS_pwrite, TDI_SYS_mprotect}, -EACCES, 0, UINT_MAX, true},
		{{TDI_SYS_pwrite, TDI_SYS_mprotect}, -ENOMEM, 0, 1, true},
		{{TDI_SYS_pwrite, TDI_SYS_lseek}, -EINVAL, 0, UINT_MAX, false},
	};
	enum { CASES = sizeof(faults) / sizeof(*faults) };

	for (unsigned i = 0; i < CASES; i++) {
		td_space *space = make_space(0);
		int fd = make_memfd(LENGTH, 0);
		char *addr = map_region(space, fd, 0, TD_REGION_SCRUB, LENGTH);
		struct hearing hearing;
		bool zero;

		fill(addr, 'x', 3 * MIB);
		fill(addr + 5 * MIB, 'x', 2 * MIB);
		for (unsigned j = 0; j < 2; j++) {
			if (faults[i].call[j] != TDI_SYS_COUNT)
				tdt_fail(faults[i].call[j], faults[i].err,
					 faults[i].first, faults[i].count);
		}
		hear(&hearing);
		give_back(space, addr, LENGTH, i % 2 ? PUT : PUT_SYNC);
		tdt_fail_none();
		ck_assert_msg((times(heard(&hearing), UNABLE) > 0) == faults[i].said,
			      "case %u: %s", i, hearing.text);
		zero = file_is_filled(fd, LENGTH, 0);
		ck_assert_msg(zero == !faults[i].said, "case %u", i);
		ck_assert_int_eq(lseek(fd, 0, SEEK_END), LENGTH);
		close(fd);
	}
}
END_TEST

/* A step whose pages cannot be dropped must not keep the others from being overwritten.
 */
START_TEST(memory_that_cannot_be_zapped_is_overwritten_all_the_same)
{
	for (unsigned way = 0; way < UNMAP_HERE; way++) {
		td_space *space = make_space(0);
		int fd = make_memfd(LENGTH, 0);
		char *addr = map_region(space, fd, 0, TD_REGION_SCRUB, LENGTH);

		fill(addr, 'x', LENGTH);
		tdt_fail(TDI_SYS_madvise, -EINVAL, 0, UINT_MAX);
		give_back(space, addr, LENGTH, (enum way)way);
		ck_assert(file_is_filled(fd, LENGTH, 0));
		close(fd);
	}
}
END_TEST

int main(void)
{
	struct tdt *tests = tdt_suite("scrub");
	const TTest *all[] = {
		pages_are_zero_and_holes_stay_holes,
		only_the_regions_part_of_the_file_is_overwritten,
		shared_anonymous_memory_is_zero_for_whoever_has_it,
		an_exclusive_memfd_is_overwritten_and_emptied,
		what_the_mapping_allows_does_not_matter,
		a_file_sealed_against_new_writers_is_overwritten_in_place,
		a_memfd_of_huge_pages_is_overwritten,
		a_file_sealed_against_writing_is_said_and_the_rest_goes,
		whatever_fails_it_is_overwritten_or_said,
		memory_that_cannot_be_zapped_is_overwritten_all_the_same,
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
