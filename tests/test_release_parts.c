/* SPDX-License-Identifier: MIT */
/* C4: td_space_release without shared memory; C3: what the kernel refuses. */
#include "stopping.h"

#include <errno.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- C4 ---- */

static size_t held_by(int fd)
{
	struct stat about;

	ck_assert_int_eq(fstat(fd, &about), 0);
	return (size_t)about.st_blocks * 512;
}

static char *map_shared(size_t length, int *ret_fd)
{
	int fd = memfd_create("shared", MFD_CLOEXEC);
	void *addr;

	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(ftruncate(fd, (off_t)length), 0);
	ck_assert_int_eq(
		td_region_map(space, length,
			      TD_REGION_OPTS(.kind = TD_KIND_SHARED,
					     .flags = TD_REGION_FD | TD_REGION_EXCLUSIVE,
					     .fd = fd),
			      &addr),
		0);
	tdt_touch(addr, length);
	*ret_fd = fd;
	return addr;
}

START_TEST(shared_memory_can_be_left_to_others)
{
	int fd, early_fd;
	char *shared = map_shared(4 * MIB, &fd), *early = map_shared(MIB, &early_fd);
	char *addr = map(40 * MIB), *left = map(2 * MIB);
	struct hold hold;

	hold_reaper(&hold);
	ck_assert_int_eq(td_region_unmap(space, left, 2 * MIB), 0);
	ck_assert_int_eq(td_region_unmap(space, early, MIB), 0);
	ck_assert_int_eq(td_space_put(space), 0);
	for (int i = 0; i < 2; i++) {
		ck_assert_int_eq(td_space_release(space, TD_RELEASE_KEEP_SHARED), 0);
		ck_assert_uint_eq(tdt_mapped(addr, 40 * MIB), 0);
		ck_assert_uint_eq(tdt_resident(shared, 4 * MIB), 4 * MIB);
		ck_assert_uint_eq(held_by(fd), 4 * MIB);
		ck_assert_uint_eq(held_by(early_fd), MIB);
		ck_assert_uint_eq(stats().bytes_quarantined, MIB);
		ck_assert_int_eq(td_space_wait(space, TD_EVENT_RECLAIMED, 0), -ETIMEDOUT);
	}
	let_go(&hold);
	check_reclaimed(shared, 4 * MIB);
	ck_assert_uint_eq(held_by(fd), 0);
	ck_assert_uint_eq(held_by(early_fd), 0);
	close(fd);
	close(early_fd);
}
END_TEST

START_TEST(what_was_left_can_be_released_after_all)
{
	int fd;
	char *shared = map_shared(4 * MIB, &fd);
	struct hold hold;

	hold_reaper(&hold);
	ck_assert_int_eq(td_space_put(space), 0);
	/* before anybody has looked, it cannot be told that there is nothing else */
	ck_assert_int_eq(td_space_release(space, TD_RELEASE_KEEP_SHARED), 0);
	ck_assert_uint_eq(held_by(fd), 4 * MIB);
	ck_assert_int_eq(td_space_release(space, 0), 0);
	ck_assert_uint_eq(held_by(fd), 0);
	check_reclaimed(shared, 4 * MIB);
	let_go(&hold);
	close(fd);
}
END_TEST

START_TEST(beside_a_sync_put_shared_memory_is_left_to_that)
{
	char *slow = map_slow(MIB), *addr = map(4 * MIB), *shared;
	pthread_t putter;
	int fd;

	shared = map_shared(4 * MIB, &fd);
	pthread_create(&putter, NULL, put_sync, space);
	sem_wait(&stop.entered);
	ck_assert_int_eq(td_space_release(space, TD_RELEASE_KEEP_SHARED), -EAGAIN);
	ck_assert_uint_eq(tdt_mapped(addr, 4 * MIB), 0);
	ck_assert_uint_eq(held_by(fd), 4 * MIB);
	sem_post(&stop.may_go);
	ck_assert_int_eq(result_of(putter), 0);
	check_reclaimed(shared, 4 * MIB);
	ck_assert_uint_eq(tdt_mapped(slow, MIB), 0);
	ck_assert_uint_eq(held_by(fd), 0);
	close(fd);
}
END_TEST

/* ---- when the kernel says no ---- */

START_TEST(what_cannot_be_unmapped_for_now_is_told_and_left)
{
	char *addr = map(40 * MIB);
	struct hold hold;

	hold_reaper(&hold);
	ck_assert_int_eq(td_space_put(space), 0);
	tdt_fail(TDI_SYS_munmap, -ENOMEM, 0, 1000);
	ck_assert_int_eq(td_space_release(space, 0), -EAGAIN);
	/* tried, and not over and over */
	ck_assert_uint_le(tdt_calls(TDI_SYS_munmap), 10);
	ck_assert_uint_eq(tdt_resident(addr, 40 * MIB), 0);
	tdt_fail_none();
	ck_assert_int_eq(td_space_release(space, 0), 0);
	check_reclaimed(addr, 40 * MIB);
	let_go(&hold);
}
END_TEST

/* Every call that it makes, failing at every place. */
START_TEST(whatever_fails_everything_goes)
{
	static const struct {
		enum tdi_sys_call call;
		int err;
	} faults[] = {
		{TDI_SYS_madvise, -EAGAIN},   {TDI_SYS_madvise, -EINVAL},
		{TDI_SYS_munmap, -ENOMEM},    {TDI_SYS_munmap, -EAGAIN},
		{TDI_SYS_futex_wait, -EINTR}, {TDI_SYS_futex_wait, -EAGAIN},
		{TDI_SYS_fallocate, -ENODEV}, {TDI_SYS_fallocate, -EPERM},
	};

	for (size_t i = 0; i < sizeof(faults) / sizeof(*faults); i++) {
		for (unsigned first = 0; first < 4; first++) {
			char *addr = map(24 * MIB), *early = map(4 * MIB);
			int fd, err;

			map_shared(MIB, &fd);
			ck_assert_int_eq(td_region_unmap(space, early, 4 * MIB), 0);
			ck_assert_int_eq(td_space_put(space), 0);
			tdt_fail(faults[i].call, faults[i].err, first, 2);
			err = td_space_release(space, 0);
			ck_assert(err == 0 || err == -EAGAIN);
			check_reclaimed(addr, 24 * MIB);
			tdt_fail_none();
			ck_assert_int_eq(td_space_drop(space), 0);
			space = make_space("arena");
			ck_assert_int_eq(td_space_grab(space), 0);
			close(fd);
		}
	}
	ck_assert_int_eq(td_space_put(space), 0);
}
END_TEST

START_TEST(without_threads_it_helps_the_one_who_put)
{
	char *slow, *addr;
	pthread_t putter;

	ck_assert_int_eq(td_space_put(space), 0);
	ck_assert_int_eq(td_space_drop(space), 0);
	tdt_fail(TDI_SYS_thread_create, -EAGAIN, 0, UINT32_MAX);
	ck_assert_int_eq(td_space_create(NULL, NULL, &space), 0);
	ck_assert_int_eq(td_space_grab(space), 0);
	slow = map_slow(MIB);
	addr = map(8 * MIB);
	pthread_create(&putter, NULL, put_sync, space);
	sem_wait(&stop.entered);
	ck_assert_int_eq(td_space_release(space, 0), -EAGAIN);
	ck_assert_uint_eq(tdt_mapped(addr, 8 * MIB), 0);
	sem_post(&stop.may_go);
	ck_assert_int_eq(result_of(putter), 0);
	check_reclaimed(slow, MIB);
}
END_TEST

int main(void)
{
	struct tdt *tests = tdt_suite("release_parts");
	const TTest *all[] = {
		shared_memory_can_be_left_to_others,
		what_was_left_can_be_released_after_all,
		beside_a_sync_put_shared_memory_is_left_to_that,
		what_cannot_be_unmapped_for_now_is_told_and_left,
		whatever_fails_everything_goes,
		without_threads_it_helps_the_one_who_put,
	};

	for (size_t i = 0; i < sizeof(all) / sizeof(*all); i++)
		tdt_add(tests, all[i], setup_release, teardown_space);
	return tdt_run(tests);
}
