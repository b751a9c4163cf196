/* SPDX-License-Identifier: MIT */
/*
 * D3, D4, D7: random steps in a window of pages against a plain array, with readers
 * beside. TDT_SEED and TDT_STEPS, in the environment, make other and longer runs.
 */
#include "regions.h"
#include "vma.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <teardown/stats.h>

enum { PAGES = 256, STEPS = TDT_SANITIZED ? 40000 : 250000, KEPT = 16 };

static td_engine *engine;
static td_space *space;
static size_t page;

/* ---- random numbers: each thread its own ---- */

static uint64_t next_random(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state >> 11;
}

static uint64_t random_state;

static size_t below(size_t n)
{
	return next_random(&random_state) % n;
}

static uint64_t from_environment(const char *name, uint64_t otherwise)
{
	const char *value = getenv(name);

	return value ? strtoull(value, NULL, 0) : otherwise;
}

/* As ck_assert, which talks to Check's process each time it is met, does when it fails.
 */
#define expect(what)                                                                     \
	do {                                                                             \
		if (!(what))                                                             \
			ck_abort_msg("step %llu, not so: " #what,                        \
				     (unsigned long long)step);                          \
	} while (0)

static uint64_t step;

/* ---- the window, and what it should be ---- */

static char *window, *kept; /* kept is a number of regions that stay */

enum what { HOLE, PLAIN, REGION };

static struct model {
	enum what what;
	size_t first, end; /* REGION: the pages of it */
	uint64_t content;  /* 0: fresh */
} model[PAGES];
static uint64_t generation;
static uint64_t bytes_unmapped; /* and of those that were mapped elsewhere for a moment */

static void *addr_of(size_t at)
{
	return window + at * page;
}

static bool all_are(size_t from, size_t to, enum what what)
{
	for (size_t i = from; i < to; i++) {
		if (model[i].what != what)
			return false;
	}
	return true;
}

static void set(size_t from, size_t to, enum what what)
{
	for (size_t i = from; i < to; i++) {
		if (model[i].what == HOLE)
			model[i].content = 0;
		model[i].what = what;
		model[i].first = from;
		model[i].end = to;
	}
}

static void check_content(size_t at)
{
	if (model[at].what != HOLE)
		expect(*(uint64_t *)addr_of(at) == model[at].content);
}

static void write_content(size_t at)
{
	if (model[at].what == HOLE)
		return;
	check_content(at);
	model[at].content = ++generation << 16 | at;
	*(uint64_t *)addr_of(at) = model[at].content;
}

/* ---- steps ---- */

static void range(size_t *from, size_t *to)
{
	size_t length = 1 + below(below(8) ? 12 : PAGES / 2);

	*from = below(PAGES);
	*to = tdi_min_size(*from + length, PAGES);
}

static void map_plain(size_t from, size_t to)
{
	void *got = mmap(addr_of(from), (to - from) * page, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
	bool free = all_are(from, to, HOLE);

	expect((got == addr_of(from)) == free);
	if (free)
		set(from, to, PLAIN);
	else
		expect(got == MAP_FAILED && errno == EEXIST);
}

static void unmap_plain(size_t from, size_t to)
{
	for (size_t i = from; i < to; i++) {
		if (model[i].what != PLAIN)
			continue;
		expect(munmap(addr_of(i), page) == 0);
		model[i].what = HOLE;
	}
}

static void adopt(size_t from, size_t to)
{
	int err = td_region_adopt(space, addr_of(from), (to - from) * page, NULL);

	if (all_are(from, to, PLAIN)) {
		expect(err == 0);
		set(from, to, REGION);
		return;
	}
	for (size_t i = from; i < to; i++) {
		if (model[i].what == REGION) {
			expect(err == -EEXIST);
			return;
		}
	}
	expect(err == -ENOMEM);
}

static void unmap(size_t from, size_t to)
{
	expect(td_region_unmap(space, addr_of(from), (to - from) * page) == 0);
	for (size_t i = 0; i < PAGES; i++) {
		struct model *this = &model[i];

		if (this->what != REGION)
			continue;
		if (i >= from && i < to) {
			this->what = HOLE;
			bytes_unmapped += page;
		} else if (i<from &&this->end> from) {
			this->end = from;
		} else if (i >= to && this->first < to) {
			this->first = to;
		}
	}
}

/* One that lies where the kernel likes, for a moment. */
static void map_elsewhere(void)
{
	size_t length = (1 + below(4)) * page;
	char *addr;

	expect(td_region_map(space, length, NULL, (void **)&addr) == 0);
	*addr = 1;
	expect(td_region_unmap(space, addr, length) == 0);
	bytes_unmapped += length;
}

static void look_up(size_t at)
{
	struct td_region_info info;
	int err = lookup(space, (char *)addr_of(at) + below(page), &info);

	if (model[at].what != REGION) {
		expect(err == -ENOENT);
		return;
	}
	expect(err == 0);
	expect(info.addr == addr_of(model[at].first));
	expect(info.length == (model[at].end - model[at].first) * page);
	expect(info.kind == TD_KIND_ANON && info.flags == 0 && !info.ops);
}

static int compare_with_model(const struct td_region_info *info, void *arg)
{
	size_t *at = arg, first;

	if ((char *)info->addr < window || (char *)info->addr >= window + PAGES * page)
		return 0;
	first = (size_t)((char *)info->addr - window) / page;
	while (*at < PAGES && model[*at].what != REGION)
		++*at;
	expect(first == *at);
	expect(info->length == (model[first].end - first) * page);
	*at = model[first].end;
	return 0;
}

/* From a page on: only regions that end after it, each once and in order. */
static void walk(size_t at)
{
	urcu_memb_read_lock();
	if (model[at].what == REGION)
		at = model[at].first;
	expect(td_region_walk(space, addr_of(at), compare_with_model, &at) == 0);
	urcu_memb_read_unlock();
	while (at < PAGES && model[at].what != REGION)
		at++;
	expect(at == PAGES);
}

/* ---- the whole ---- */

static int mark_mapped(const struct tdi_vma *vma, void *arg)
{
	bool *mapped = arg;

	for (size_t i = 0; i < PAGES; i++) {
		uintptr_t addr = (uintptr_t)addr_of(i);

		mapped[i] |= addr >= vma->start && addr < vma->end;
	}
	return 0;
}

static void compare_all(void)
{
	bool mapped[PAGES] = {false};
	struct td_space_stats stats;
	size_t regions = 0, bytes = 0;

	expect(tdi_vma_walk((uintptr_t)window, (uintptr_t)addr_of(PAGES), mark_mapped,
			    mapped) == 0);
	for (size_t i = 0; i < PAGES; i++) {
		expect(mapped[i] == (model[i].what != HOLE));
		check_content(i);
		look_up(i);
		regions += model[i].what == REGION && model[i].first == i;
		bytes += model[i].what == REGION ? page : 0;
	}
	walk(0);
	expect(td_engine_drain(engine, TD_FOREVER) == 0);
	expect(td_space_stats(space, &stats) == 0);
	expect(stats.regions == regions + KEPT);
	expect(stats.bytes_mapped == bytes + bytes_unmapped + 2 * KEPT * page);
	expect(stats.bytes_reclaimed == bytes_unmapped);
	expect(stats.users == 3);
}

static void one_step(void)
{
	size_t from, to;

	range(&from, &to);
	switch (below(64)) {
	case 0 ... 11:
		map_plain(from, to);
		break;
	case 12 ... 15:
		unmap_plain(from, to);
		break;
	case 16 ... 27:
		adopt(from, to);
		break;
	case 28 ... 39:
		unmap(from, to);
		break;
	case 40:
		map_elsewhere();
		break;
	case 41:
		walk(from);
		break;
	case 42:
		/* mostly in the caller, which is faster, and now and then by reapers */
		(void)td_engine_set_munmap_threshold(
			engine, below(4) ? SIZE_MAX : (1 + below(8)) * page);
		break;
	case 43 ... 53:
		look_up(from);
		break;
	default:
		write_content(from);
		break;
	}
}

/* ---- readers ---- */

static atomic_bool enough;
static atomic_ulong found_there, found_changing, walked;

static int in_order(const struct td_region_info *info, void *arg)
{
	const char **end = arg;

	if ((const char *)info->addr < *end || info->length == 0)
		ck_abort_msg("a walk went back");
	*end = (const char *)info->addr + info->length;
	return 0;
}

static void read_once(uint64_t *state)
{
	size_t offset = next_random(state) % (2 * KEPT * page);
	struct td_region_info info;
	const char *end = NULL;

	if (lookup(space, kept + offset, &info) != 0 ||
	    info.addr != kept + offset / (2 * page) * (2 * page) ||
	    info.length != 2 * page)
		ck_abort_msg("a region that stays was not found, or not as it is");
	atomic_fetch_add_explicit(&found_there, 1, memory_order_relaxed);

	offset = next_random(state) % (PAGES * page);
	if (lookup(space, window + offset, &info) == 0) {
		const char *start = info.addr;

		if (start > window + offset || start + info.length <= window + offset ||
		    start < window || start + info.length > window + PAGES * page ||
		    !tdi_is_aligned((uintptr_t)start | info.length, page))
			ck_abort_msg("found what does not cover the address");
		atomic_fetch_add_explicit(&found_changing, 1, memory_order_relaxed);
	}
	if (next_random(state) % 16 == 0) {
		urcu_memb_read_lock();
		if (td_region_walk(space, NULL, in_order, &end) != 0)
			ck_abort_msg("a walk ended early");
		urcu_memb_read_unlock();
		atomic_fetch_add_explicit(&walked, 1, memory_order_relaxed);
	}
}

static void *reader(void *arg)
{
	uint64_t state = (uintptr_t)arg * UINT64_C(0x9e3779b97f4a7c15);

	urcu_memb_register_thread();
	while (!atomic_load_explicit(&enough, memory_order_relaxed))
		read_once(&state);
	urcu_memb_unregister_thread();
	if (td_space_put(space) != 0)
		ck_abort_msg("not put");
	return NULL;
}

START_TEST(random_steps_agree_with_a_plain_array)
{
	uint64_t seed = from_environment("TDT_SEED", 20240229);
	uint64_t steps = from_environment("TDT_STEPS", STEPS);
	struct td_engine_stats stats;
	pthread_t readers[2];

	page = tdi_page_size();
	random_state = seed * 2 + 1;
	printf("# TDT_SEED=%llu TDT_STEPS=%llu\n", (unsigned long long)seed,
	       (unsigned long long)steps);
	urcu_memb_register_thread();
	ck_assert_int_eq(td_engine_create(TD_ENGINE_OPTS(.reapers = 1), &engine), 0);
	ck_assert_int_eq(td_space_create(engine, NULL, &space), 0);
	kept = window_new(2 * KEPT).addr;
	for (size_t i = 0; i < KEPT; i++)
		ck_assert_int_eq(
			td_region_adopt(space, kept + 2 * i * page, 2 * page, NULL), 0);
	window = place_apart(PAGES * page);
	for (size_t i = 0; i < 2; i++) {
		ck_assert_int_eq(td_space_get(space), 0);
		pthread_create(&readers[i], NULL, reader, (void *)(i + 1));
	}
	for (step = 0; step < steps; step++) {
		one_step();
		if (step % 4096 == 0)
			compare_all();
	}
	compare_all();
	unmap(0, PAGES);
	unmap_plain(0, PAGES);
	compare_all();
	atomic_store(&enough, true);
	for (size_t i = 0; i < 2; i++)
		pthread_join(readers[i], NULL);
	ck_assert_int_eq(td_engine_stats(engine, &stats), 0);
	printf("# %llu bytes detached; found %lu that stay, %lu that change, %lu "
	       "walks\n",
	       (unsigned long long)stats.bytes_reclaimed, atomic_load(&found_there),
	       atomic_load(&found_changing), atomic_load(&walked));
	ck_assert_uint_gt(stats.bytes_reclaimed, steps / 1000 * page);
	ck_assert_uint_gt(atomic_load(&found_changing), 0);
	ck_assert_uint_gt(atomic_load(&walked), 0);
	ck_assert_int_eq(td_space_put_sync(space), 0);
	ck_assert_uint_eq(tdt_mapped(window, PAGES * page), 0);
	ck_assert_uint_eq(tdt_mapped(kept, 2 * KEPT * page), 0);
	ck_assert_int_eq(td_engine_destroy(engine, TD_EXIT_DRAIN, 0), 0);
	urcu_memb_unregister_thread();
}
END_TEST

int main(void)
{
	struct tdt *tests = tdt_suite("property_regions");

	tdt_add(tests, random_steps_agree_with_a_plain_array, NULL, NULL);
	return tdt_run(tests);
}
