/* SPDX-License-Identifier: MIT */
/* D2: a space that is out of sight when its last put returns. C4: one that keeps what is
 * shared. */
#include "device.h"

#include <limits.h>

#define LARGE (12 * MIB)
#define SMALL (64 * KIB)

static bool have_pool;
static struct plug plug;

static char *map(td_space *space, size_t length, const struct td_region_opts *opts)
{
	void *addr;

	ck_assert_int_eq(td_region_map(space, length, opts, &addr), 0);
	return addr;
}

static char *map_memfd(td_space *space, int fd, size_t length, unsigned flags)
{
	char *addr = map(space, length,
			 TD_REGION_OPTS(.kind = TD_KIND_SHARED, .fd = fd,
					.flags = TD_REGION_FD | flags));

	fill(addr, 'x', length);
	return addr;
}

/* A space with regions of several kinds. */
struct mixture {
	td_space *space;
	char *at[8];
	size_t length[8];
	unsigned nr;
	size_t bytes;
	int exclusive, kept; /* memfds of two of them */
};

static void add(struct mixture *mixture, char *addr, size_t length)
{
	mixture->at[mixture->nr] = addr;
	mixture->length[mixture->nr++] = length;
	mixture->bytes += length;
}

static void make_mixture(struct mixture *mixture, unsigned flags)
{
	td_space *space = make_space(flags);
	char *addr;

	*mixture = (struct mixture){.space = space};
	ck_assert_int_eq(td_space_grab(space), 0);
	addr = map(space, LARGE, NULL);
	fill(addr, 'x', LARGE);
	add(mixture, addr, LARGE);

	addr = map(space, SMALL, TD_REGION_OPTS(.flags = TD_REGION_NODE));
	fill(addr, 'x', SMALL);
	add(mixture, addr, SMALL);

	mixture->exclusive = make_memfd(LARGE, 0);
	add(mixture, map_memfd(space, mixture->exclusive, LARGE, TD_REGION_EXCLUSIVE),
	    LARGE);
	mixture->kept = make_memfd(SMALL, 0);
	add(mixture, map_memfd(space, mixture->kept, SMALL, 0), SMALL);

	/* three mappings, and one that its host may not read any more */
	addr = map(space, LARGE, NULL);
	fill(addr, 'x', LARGE);
	ck_assert_int_eq(mprotect(addr + MIB, MIB, PROT_READ), 0);
	add(mixture, addr, LARGE);

	/* a part of a mapping */
	addr = tdt_map_anon(3 * SMALL);
	fill(addr, 'x', 3 * SMALL);
	ck_assert_int_eq(td_region_adopt(space, addr + SMALL, SMALL, NULL), 0);
	add(mixture, addr + SMALL, SMALL);

	if (have_pool) {
		addr = map(space, 2 * HUGE_PAGE, TD_REGION_OPTS(.kind = TD_KIND_HUGETLB));
		fill(addr, 'x', 2 * HUGE_PAGE);
		add(mixture, addr, 2 * HUGE_PAGE);
	}
}

static void check_mixture_reclaimed(struct mixture *mixture)
{
	struct td_space_stats stats;

	ck_assert_int_eq(td_space_wait(mixture->space, TD_EVENT_RECLAIMED, TD_FOREVER),
			 0);
	stats = stats_of(mixture->space);
	ck_assert_uint_eq(stats.bytes_reclaimed, mixture->bytes);
	ck_assert_uint_eq(stats.bytes_refused, 0);
	ck_assert_uint_eq(stats.regions, 0);
	ck_assert_uint_eq(held_by(mixture->exclusive), 0);
	ck_assert_uint_eq(held_by(mixture->kept), SMALL);
	close(mixture->exclusive);
	close(mixture->kept);
	ck_assert(is_filled(mixture->at[5] - SMALL, SMALL, 'x'));
	ck_assert(is_filled(mixture->at[5] + SMALL, SMALL, 'x'));
	munmap(mixture->at[5] - SMALL, SMALL);
	munmap(mixture->at[5] + SMALL, SMALL);
	ck_assert_int_eq(td_space_drop(mixture->space), 0);
}

/* ---- out of sight ---- */

/* Several ranges that leave one after the other, where quarantines lie far off. */
static bool quarantines_are_near(void)
{
#ifdef __SANITIZE_THREAD__
	tdt_skip("ThreadSanitizer puts one range where another has just left");
	return true;
#else
	return false;
#endif
}

/* D2, D3: while the only reaper has something else to do. */
START_TEST(regions_are_out_of_sight_when_the_put_returns)
{
	struct mixture mixture;

	if (quarantines_are_near())
		return;
	make_mixture(&mixture, TD_SPACE_DETACH);
	keep_busy(&plug);
	ck_assert_int_eq(td_space_put(mixture.space), 0);
	for (unsigned i = 0; i < mixture.nr; i++)
		check_out_of_sight(mixture.at[i], mixture.length[i]);
	ck_assert_int_eq(td_space_wait(mixture.space, TD_EVENT_RECLAIMED, 0), -ETIMEDOUT);
	ck_assert_uint_eq(held_by(mixture.exclusive), LARGE);
	/* somebody takes the addresses at once, and keeps what is his */
	for (unsigned i = 0; i < mixture.nr; i++) {
		ck_assert_ptr_eq(
			mmap(mixture.at[i], mixture.length[i], PROT_READ | PROT_WRITE,
			     MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0),
			mixture.at[i]);
		fill(mixture.at[i], 'o', mixture.length[i]);
	}
	sem_post(&plug.may_go);
	ck_assert_int_eq(td_space_wait(mixture.space, TD_EVENT_RECLAIMED, TD_FOREVER), 0);
	for (unsigned i = 0; i < mixture.nr; i++) {
		ck_assert(is_filled(mixture.at[i], mixture.length[i], 'o'));
		munmap(mixture.at[i], mixture.length[i]);
	}
	check_mixture_reclaimed(&mixture);
}
END_TEST

/* Another space may have them, as soon as the put has returned. */
START_TEST(the_addresses_are_claimed_by_nobody)
{
	td_space *space = make_space(TD_SPACE_DETACH), *next = make_space(0);
	char *addr = map(space, LARGE, NULL);

	fill(addr, 'x', LARGE);
	keep_busy(&plug);
	ck_assert_int_eq(td_space_put(space), 0);
	ck_assert_ptr_eq(mmap(addr, LARGE, PROT_READ | PROT_WRITE,
			      MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0),
			 addr);
	fill(addr, 'n', LARGE);
	ck_assert_int_eq(td_region_adopt(next, addr, LARGE, NULL), 0);
	sem_post(&plug.may_go);
	ck_assert_int_eq(td_engine_drain(engine, TD_FOREVER), 0);
	ck_assert(is_filled(addr, LARGE, 'n'));
	give_back(next, addr, LARGE, PUT);
}
END_TEST

START_TEST(without_the_flag_regions_stay_until_a_reaper_comes)
{
	struct mixture mixture;

	make_mixture(&mixture, 0);
	keep_busy(&plug);
	ck_assert_int_eq(td_space_put(mixture.space), 0);
	for (unsigned i = 0; i < mixture.nr; i++)
		ck_assert(is_filled(mixture.at[i], mixture.length[i], 'x'));
	sem_post(&plug.may_go);
	ck_assert_int_eq(td_space_wait(mixture.space, TD_EVENT_RECLAIMED, TD_FOREVER), 0);
	for (unsigned i = 0; i < mixture.nr; i++)
		ck_assert_uint_eq(tdt_mapped(mixture.at[i], mixture.length[i]), 0);
	check_mixture_reclaimed(&mixture);
}
END_TEST

START_TEST(regions_with_ops_stay_until_their_hooks_have_run)
{
	static struct device device, hooked;
	td_space *space = make_space(TD_SPACE_DETACH);
	char *plain = map(space, LARGE, NULL), *addr = plug_in(&device, space, LARGE);

	device_init(&hooked, TD_KIND_ANON);
	hooked.addr = map(space, LARGE, TD_REGION_OPTS(.ops = &hooked.ops));
	hooked.length = LARGE;
	fill(hooked.addr, 'x', LARGE);
	fill(addr, 'x', LARGE);
	ck_assert_int_eq(td_space_grab(space), 0);
	keep_busy(&plug);
	ck_assert_int_eq(td_space_put(space), 0);
	check_out_of_sight(plain, LARGE);
	ck_assert(is_filled(addr, LARGE, 'x'));
	ck_assert(is_filled(hooked.addr, LARGE, 'x'));
	check_notes(&device, "");
	sem_post(&plug.may_go);
	ck_assert_int_eq(td_space_wait(space, TD_EVENT_RECLAIMED, TD_FOREVER), 0);
	check_notes(&device, "012rd");
	check_notes(&hooked, "012d");
	ck_assert_uint_eq(tdt_mapped(addr, LARGE), 0);
	ck_assert_uint_eq(tdt_mapped(hooked.addr, LARGE), 0);
	ck_assert_int_eq(td_space_drop(space), 0);
}
END_TEST

START_TEST(a_sync_put_detaches_too)
{
	struct mixture mixture;

	make_mixture(&mixture, TD_SPACE_DETACH);
	ck_assert_int_eq(td_space_put_sync(mixture.space), 0);
	for (unsigned i = 0; i < mixture.nr; i++)
		ck_assert_uint_eq(tdt_mapped(mixture.at[i], mixture.length[i]), 0);
	check_mixture_reclaimed(&mixture);
}
END_TEST

START_TEST(only_the_last_put_detaches)
{
	td_space *space = make_space(TD_SPACE_DETACH);
	char *addr = map(space, SMALL, NULL);

	fill(addr, 'x', SMALL);
	ck_assert_int_eq(td_space_get(space), 0);
	ck_assert_int_eq(td_space_put(space), 0);
	ck_assert(is_filled(addr, SMALL, 'x'));
	give_back(space, addr, SMALL, PUT);
}
END_TEST

/* Each part of the range is moved by itself: none to where another was. */
START_TEST(all_of_an_unmapped_range_is_out_of_sight_whatever_it_is_made_of)
{
	size_t part = LARGE / 3, length = LARGE + 2 * part;
	td_space *space = make_space(0);
	int fd = make_memfd(part, 0);
	char *area = tdt_map_anon(length), *shared = area + LARGE;

	if (quarantines_are_near()) {
		ck_assert_int_eq(td_space_put(space), 0);
		return;
	}
	ck_assert_ptr_eq(
		mmap(shared, part, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0),
		shared);
	fill(area, 'x', length);
	/* the first leaves room enough for each of the others */
	ck_assert_int_eq(td_region_adopt(space, area, LARGE, NULL), 0);
	ck_assert_int_eq(td_region_adopt(space, shared, part,
					 TD_REGION_OPTS(.kind = TD_KIND_SHARED, .fd = fd,
							.flags = TD_REGION_FD |
								 TD_REGION_EXCLUSIVE)),
			 0);
	ck_assert_int_eq(td_region_adopt(space, shared + part, part, NULL), 0);
	keep_busy(&plug);
	unmap_region(space, area, length, UNMAP_LATER);
	for (size_t at = 0; at < length; at += MIB)
		check_out_of_sight(area + at, MIB);
	sem_post(&plug.may_go);
	ck_assert_int_eq(td_space_put_sync(space), 0);
	ck_assert_int_eq(td_engine_drain(engine, TD_FOREVER), 0);
	ck_assert_uint_eq(held_by(fd), 0);
	ck_assert_uint_eq(tdt_mapped(area, length), 0);
	close(fd);
}
END_TEST

/* ---- what the kernel refuses ---- */

/* All of it is mapped, or none of it; but none can be got at. (D2) */
static bool is_there(const char *addr, size_t length)
{
	size_t mapped = tdt_mapped(addr, length);

	ck_assert(mapped == 0 || mapped == length);
	ck_assert(access_faults(addr));
	ck_assert(access_faults(addr + length / 2));
	ck_assert(access_faults(addr + length - 1));
	return mapped > 0;
}

START_TEST(what_cannot_be_moved_stays_and_is_reclaimed_all_the_same)
{
	static const struct {
		enum tdi_sys_call call;
		int err;
	} faults[] = {
		{TDI_SYS_mmap, -ENOMEM},   {TDI_SYS_mremap, -ENOMEM},
		{TDI_SYS_mremap, -EFAULT}, {TDI_SYS_madvise, -EINVAL},
		{TDI_SYS_munmap, -ENOMEM}, {TDI_SYS_open, -EMFILE},
		{TDI_SYS_ioctl, -ENOTTY},
	};
	struct tdt_footprint before = {0};
	unsigned stayed = 0, gone = 0;

	if (quarantines_are_near())
		return;
	for (unsigned i = 0; i < 5 * sizeof(faults) / sizeof(*faults); i++) {
		unsigned first = i % 5;
		struct mixture mixture;

		make_mixture(&mixture, TD_SPACE_DETACH);
		keep_busy(&plug);
		tdt_fail(faults[i / 5].call, faults[i / 5].err, first,
			 first == 4 ? UINT_MAX : 1);
		ck_assert_int_eq(td_space_put(mixture.space), 0);
		tdt_fail_none();
		for (unsigned j = 0; j < mixture.nr; j++) {
			if (is_there(mixture.at[j], mixture.length[j]))
				stayed++;
			else
				gone++;
		}
		sem_post(&plug.may_go);
		check_mixture_reclaimed(&mixture);
		for (unsigned j = 0; j < mixture.nr; j++)
			ck_assert_uint_eq(tdt_mapped(mixture.at[j], mixture.length[j]),
					  0);
		ck_assert_int_eq(td_engine_drain(engine, TD_FOREVER), 0);
		if (i == 0)
			before = tdt_footprint();
	}
	ck_assert_uint_gt(stayed, 0);
	ck_assert_uint_gt(gone, 0);
	ck_assert_uint_eq(tdt_footprint().descriptors, before.descriptors);
	tdt_check_mappings(before.mappings, 3);
}
END_TEST

/* Its second mapping cannot be moved: it is unmapped at once, or the first comes back. */
START_TEST(a_region_of_several_mappings_leaves_whole_or_stays_whole)
{
	for (unsigned comes_back = 0; comes_back < 2; comes_back++) {
		td_space *space = make_space(TD_SPACE_DETACH);
		char *addr = map(space, LARGE, NULL);

		fill(addr, 'x', LARGE);
		ck_assert_int_eq(mprotect(addr + MIB, MIB, PROT_READ), 0);
		ck_assert_int_eq(td_space_grab(space), 0);
		keep_busy(&plug);
		/* detail 0: not those that only ask whether they may be moved */
		tdt_fail_detail(TDI_SYS_mremap, 0, -ENOMEM, 1, 1);
		tdt_fail(TDI_SYS_munmap, -ENOMEM, 0, comes_back);
		ck_assert_int_eq(td_space_put(space), 0);
		tdt_fail_none();
		ck_assert_uint_eq(is_there(addr, LARGE), comes_back);
		sem_post(&plug.may_go);
		ck_assert_int_eq(td_space_wait(space, TD_EVENT_RECLAIMED, TD_FOREVER), 0);
		ck_assert_uint_eq(tdt_mapped(addr, LARGE), 0);
		ck_assert_uint_eq(stats_of(space).bytes_reclaimed, LARGE);
		ck_assert_int_eq(td_space_drop(space), 0);
	}
}
END_TEST

START_TEST(a_space_without_reapers_detaches_and_frees_in_the_caller)
{
	td_engine *own;
	td_space *space;
	void *addr;

	ck_assert_int_eq(td_engine_create(NULL, &own), 0);
	ck_assert_int_eq(
		td_space_create(own, TD_SPACE_OPTS(.flags = TD_SPACE_DETACH), &space), 0);
	ck_assert_int_eq(td_region_map(space, LARGE, NULL, &addr), 0);
	fill(addr, 'x', LARGE);
	ck_assert_int_eq(td_engine_destroy(own, TD_EXIT_ABANDON, 0), 0);
	ck_assert_int_eq(td_space_put(space), 0);
	check_out_of_sight(addr, LARGE);
}
END_TEST

/* More than can be moved in one go: protected where they are. (D2) */
START_TEST(a_region_of_very_many_mappings_cannot_be_got_at)
{
	size_t page = tdi_page_size(), length = 200 * page;
	td_space *space = make_space(TD_SPACE_DETACH);
	char *addr = map(space, length, NULL);

	fill(addr, 'x', length);
	for (size_t i = 0; i < 200; i += 2)
		ck_assert_int_eq(mprotect(addr + i * page, page, PROT_READ), 0);
	ck_assert_int_eq(td_space_grab(space), 0);
	keep_busy(&plug);
	ck_assert_int_eq(td_space_put(space), 0);
	for (size_t i = 0; i < 200; i++)
		ck_assert(access_faults(addr + i * page));
	sem_post(&plug.may_go);
	ck_assert_int_eq(td_space_wait(space, TD_EVENT_RECLAIMED, TD_FOREVER), 0);
	ck_assert_uint_eq(tdt_mapped(addr, length), 0);
	ck_assert_int_eq(td_space_drop(space), 0);
}
END_TEST

/* ---- C4 ---- */

START_TEST(what_is_shared_is_kept_and_what_is_private_is_released)
{
	for (unsigned i = 0; i < 2 * WAYS; i++) {
		enum way way = (enum way)(i / 2);
		td_space *space =
			make_space(TD_SPACE_KEEP_SHARED | (i % 2 ? TD_SPACE_DETACH : 0));
		int fd = make_memfd(LARGE, 0);
		char *shared = map_memfd(space, fd, LARGE, TD_REGION_EXCLUSIVE);
		char *private = map(space, LARGE, NULL);

		fill(private, 'p', LARGE);
		ck_assert_int_eq(td_space_grab(space), 0);
		if (way == UNMAP_HERE || way == UNMAP_LATER)
			unmap_region(space, shared, LARGE, way);
		if (way == PUT_SYNC)
			ck_assert_int_eq(td_space_put_sync(space), 0);
		else
			ck_assert_int_eq(td_space_put(space), 0);
		ck_assert_int_eq(td_space_wait(space, TD_EVENT_RECLAIMED, TD_FOREVER), 0);
		ck_assert_uint_eq(tdt_mapped(shared, LARGE), 0);
		ck_assert_uint_eq(tdt_mapped(private, LARGE), 0);
		ck_assert_uint_eq(stats_of(space).bytes_reclaimed, 2 * LARGE);
		ck_assert_uint_eq(held_by(fd), LARGE);
		shared = map_file(fd, LARGE, MAP_SHARED);
		ck_assert(is_filled(shared, LARGE, 'x'));
		munmap(shared, LARGE);
		ck_assert_int_eq(td_space_drop(space), 0);
		close(fd);
	}
}
END_TEST

START_TEST(parts_of_what_is_shared_are_kept_too)
{
	td_space *space = make_space(TD_SPACE_KEEP_SHARED);
	int fd = make_memfd(LARGE, 0);
	char *shared = map_memfd(space, fd, LARGE, TD_REGION_EXCLUSIVE);

	unmap_region(space, shared + MIB, 4 * MIB, UNMAP_HERE);
	unmap_region(space, shared + 6 * MIB, 4 * MIB, UNMAP_LATER);
	ck_assert_int_eq(td_space_put_sync(space), 0);
	ck_assert_int_eq(td_engine_drain(engine, TD_FOREVER), 0);
	ck_assert_uint_eq(tdt_mapped(shared, LARGE), 0);
	ck_assert_uint_eq(held_by(fd), LARGE);
	close(fd);
}
END_TEST

START_TEST(other_flags_are_refused)
{
	td_space *space = (td_space *)1;

	for (unsigned bit = 2; bit < 32; bit++)
		ck_assert_int_eq(td_space_create(engine,
						 TD_SPACE_OPTS(.flags = 1u << bit),
						 &space),
				 -EINVAL);
	ck_assert_ptr_eq(space, (td_space *)1);
}
END_TEST

int main(void)
{
	struct tdt *tests = tdt_suite("space_flags");
	const TTest *all[] = {
		regions_are_out_of_sight_when_the_put_returns,
		the_addresses_are_claimed_by_nobody,
		without_the_flag_regions_stay_until_a_reaper_comes,
		regions_with_ops_stay_until_their_hooks_have_run,
		a_sync_put_detaches_too,
		only_the_last_put_detaches,
		all_of_an_unmapped_range_is_out_of_sight_whatever_it_is_made_of,
		what_cannot_be_moved_stays_and_is_reclaimed_all_the_same,
		a_region_of_several_mappings_leaves_whole_or_stays_whole,
		a_region_of_very_many_mappings_cannot_be_got_at,
		a_space_without_reapers_detaches_and_frees_in_the_caller,
		what_is_shared_is_kept_and_what_is_private_is_released,
		parts_of_what_is_shared_are_kept_too,
		other_flags_are_refused,
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
