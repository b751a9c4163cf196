/* SPDX-License-Identifier: MIT */
/*
 * D3, D7, D8: several threads map, adopt, unmap and look up the same addresses, in one
 * space or in two that fight over them. Nobody may touch memory there, for anybody may
 * unmap it: what is checked is what the calls answer, and what is left at the end.
 */
#include "regions.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <teardown/stats.h>

enum { THREADS = 4, PAGES = 64, OWN = 8, ROUNDS = TDT_SANITIZED ? 10000 : 30000 };

static td_engine *engine;
static td_space *spaces[2];
static unsigned nr_spaces;
static size_t page;
static char *window, *owned; /* OWN pages for each thread, which nobody else touches */

static atomic_ulong adopted, refused, unmapped, found;
static atomic_ulong bytes_adopted;

#define expect(what)                                                                     \
	do {                                                                             \
		if (!(what))                                                             \
			ck_abort_msg("not so: " #what);                                  \
	} while (0)

static void range(unsigned *seed, char **addr, size_t *length)
{
	size_t from = (unsigned)rand_r(seed) % PAGES;
	size_t pages = 1 + (unsigned)rand_r(seed) % 12;

	*addr = window + from * page;
	*length = tdi_min_size(pages, PAGES - from) * page;
}

/* Mapped where nothing is, adopted where no region is: one of those who try gets it. */
static void settle(td_space *space, unsigned *seed)
{
	size_t length;
	char *addr;
	int err;

	range(seed, &addr, &length);
	(void)mmap(addr, length, PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
	err = td_region_adopt(space, addr, length, NULL);
	if (!err) {
		atomic_fetch_add(&adopted, 1);
		atomic_fetch_add(&bytes_adopted, length);
	} else {
		expect(err == -EEXIST || err == -ENOMEM);
		atomic_fetch_add(&refused, 1);
	}
}

static void unmap(td_space *space, unsigned *seed)
{
	size_t length;
	char *addr;

	range(seed, &addr, &length);
	expect(td_region_unmap(space, addr, length) == 0);
	atomic_fetch_add(&unmapped, 1);
}

static void look_up(td_space *space, unsigned *seed)
{
	struct td_region_info info;
	size_t length;
	char *addr;

	range(seed, &addr, &length);
	if (lookup(space, addr, &info) != 0)
		return;
	expect((char *)info.addr <= addr && addr < (char *)info.addr + info.length);
	expect((char *)info.addr >= window &&
	       (char *)info.addr + info.length <= window + PAGES * page);
	atomic_fetch_add(&found, 1);
}

/* What a thread has to itself stays as it left it, whatever the others do next to it. */
static void use_own(td_space *space, char *own, unsigned *seed, uint64_t *mark)
{
	size_t at = (unsigned)rand_r(seed) % OWN;
	char *addr = own + at * page;
	struct td_region_info info;

	if (mark[at]) {
		expect(*(uint64_t *)addr == mark[at]);
		expect(lookup(space, addr, &info) == 0 && info.addr == addr);
		expect(td_region_unmap(space, addr, page) == 0);
		expect(lookup(space, addr, &info) == -ENOENT);
		mark[at] = 0;
		return;
	}
	expect(mmap(addr, page, PROT_READ | PROT_WRITE,
		    MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0) == addr);
	expect(*(uint64_t *)addr == 0);
	mark[at] = (uint64_t)rand_r(seed) + 1;
	*(uint64_t *)addr = mark[at];
	expect(td_region_adopt(space, addr, page, NULL) == 0);
	atomic_fetch_add(&bytes_adopted, page);
}

static void map_elsewhere(td_space *space, unsigned *seed)
{
	size_t length = (1 + (unsigned)rand_r(seed) % 4) * page;
	void *addr;

	expect(td_region_map(space, length, NULL, &addr) == 0);
	atomic_fetch_add(&bytes_adopted, length);
	*(char *)addr = 1;
	expect(td_region_unmap(space, addr, length) == 0);
}

static void *live(void *arg)
{
	unsigned number = (unsigned)(uintptr_t)arg, seed = number + 1;
	td_space *space = spaces[number % nr_spaces];
	char *own = owned + number * OWN * page;
	uint64_t mark[OWN] = {0};

	urcu_memb_register_thread();
	for (int round = 0; round < ROUNDS; round++) {
		expect(td_space_get(space) == 0);
		switch ((unsigned)rand_r(&seed) % 8) {
		case 0:
		case 1:
			settle(space, &seed);
			break;
		case 2:
		case 3:
			unmap(space, &seed);
			break;
		case 4:
			use_own(space, own, &seed, mark);
			break;
		case 5:
			if (rand_r(&seed) % 8 == 0)
				map_elsewhere(space, &seed);
			break;
		default:
			look_up(space, &seed);
			break;
		}
		if (number == 0 && round % 64 == 0)
			(void)td_engine_set_munmap_threshold(
				engine, round % 128 ? SIZE_MAX : 2 * page);
		expect(td_space_put(space) == 0);
	}
	urcu_memb_unregister_thread();
	return NULL;
}

static int count_bytes(const struct td_region_info *info, void *arg)
{
	*(size_t *)arg += info->length;
	return 0;
}

/* Takes what is left of a space, and returns how many bytes it ever had. */
static uint64_t finish(td_space *space)
{
	struct td_space_stats before, after;
	size_t walked = 0;

	ck_assert_int_eq(td_engine_drain(engine, TD_FOREVER), 0);
	ck_assert_int_eq(td_space_stats(space, &before), 0);
	urcu_memb_read_lock();
	ck_assert_int_eq(td_region_walk(space, NULL, count_bytes, &walked), 0);
	urcu_memb_read_unlock();
	ck_assert_uint_eq(before.bytes_mapped - before.bytes_reclaimed, walked);
	ck_assert_int_eq(td_space_grab(space), 0);
	ck_assert_int_eq(td_space_put(space), 0);
	ck_assert_int_eq(td_space_wait(space, TD_EVENT_RECLAIMED, TD_FOREVER), 0);
	ck_assert_int_eq(td_space_stats(space, &after), 0);
	ck_assert_uint_eq(after.users, 0);
	ck_assert_uint_eq(after.regions, 0);
	ck_assert_uint_eq(after.bytes_refused, 0);
	ck_assert_uint_eq(after.bytes_reclaimed, after.bytes_mapped);
	ck_assert_int_eq(td_space_drop(space), 0);
	return after.bytes_mapped;
}

static void fight(unsigned number_of_spaces)
{
	struct td_engine_stats stats;
	pthread_t threads[THREADS];
	uint64_t bytes = 0;

	page = tdi_page_size();
	nr_spaces = number_of_spaces;
	urcu_memb_register_thread();
	ck_assert_int_eq(td_engine_create(TD_ENGINE_OPTS(.reapers = 2), &engine), 0);
	for (unsigned i = 0; i < nr_spaces; i++)
		ck_assert_int_eq(td_space_create(engine, NULL, &spaces[i]), 0);
	window = place_apart(PAGES * page);
	owned = place_apart(THREADS * OWN * page);
	for (unsigned i = 0; i < THREADS; i++)
		pthread_create(&threads[i], NULL, live, (void *)(uintptr_t)i);
	for (unsigned i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	for (unsigned i = 0; i < nr_spaces; i++)
		bytes += finish(spaces[i]);
	ck_assert_uint_eq(bytes, atomic_load(&bytes_adopted));
	munmap(window, PAGES * page); /* what was mapped and then not adopted */
	ck_assert_uint_eq(tdt_mapped(owned, THREADS * OWN * page), 0);
	ck_assert_int_eq(td_engine_drain(engine, TD_FOREVER), 0);
	ck_assert_int_eq(td_engine_stats(engine, &stats), 0);
	ck_assert_uint_eq(stats.works_pending, 0);
	ck_assert_uint_eq(stats.works_done, stats.works_submitted);
	ck_assert_uint_eq(stats.works_failed, 0);
	ck_assert_uint_eq(stats.bytes_quarantined, 0);
	ck_assert_uint_eq(stats.bytes_pending, 0);
	printf("# adopted %lu refused %lu unmapped %lu found %lu detached %llu bytes\n",
	       atomic_load(&adopted), atomic_load(&refused), atomic_load(&unmapped),
	       atomic_load(&found), (unsigned long long)stats.bytes_reclaimed);
	ck_assert_uint_gt(atomic_load(&adopted), ROUNDS / 10);
	ck_assert_uint_gt(atomic_load(&found), ROUNDS / 100);
	ck_assert_uint_gt(stats.bytes_reclaimed, ROUNDS / 100 * page);
	ck_assert_int_eq(td_engine_destroy(engine, TD_EXIT_DRAIN, 0), 0);
	urcu_memb_unregister_thread();
}

START_TEST(threads_fight_over_one_space)
{
	fight(1);
}
END_TEST

START_TEST(two_spaces_fight_over_the_same_addresses)
{
	fight(2);
}
END_TEST

int main(void)
{
	struct tdt *tests = tdt_suite("stress_regions");

	tdt_add(tests, threads_fight_over_one_space, NULL, NULL);
	tdt_add(tests, two_spaces_fight_over_the_same_addresses, NULL, NULL);
	return tdt_run(tests);
}
