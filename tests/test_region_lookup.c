/* SPDX-License-Identifier: MIT */
/* D7, B4: what look-ups tell, by themselves; beside writers: property_regions.c. */
#include "job.h"
#include "regions.h"

#include <unistd.h>

static td_space *space;
static size_t page;

static void begin(void)
{
	page = tdi_page_size();
	urcu_memb_register_thread();
	setup();
	ck_assert_int_eq(td_space_create(engine, TD_SPACE_OPTS(.name = "arena"), &space),
			 0);
}

static void end(void)
{
	ck_assert_int_eq(td_space_put(space), 0);
	teardown();
	urcu_memb_unregister_thread();
}

static const struct td_region_info untouched = {.addr = (void *)1, .length = 7};

static bool is_untouched(const struct td_region_info *info)
{
	return memcmp(info, &untouched, sizeof(*info)) == 0;
}

START_TEST(a_region_covers_its_first_to_its_last_byte)
{
	struct window window = window_with(space, "_aaa_b.");
	const char *start = page_at(&window, 1), *last = page_at(&window, 4);
	struct td_region_info info = untouched;

	ck_assert_int_eq(lookup(space, start - 1, &info), -ENOENT);
	ck_assert_int_eq(lookup(space, last, &info), -ENOENT);
	ck_assert_int_eq(lookup(space, NULL, &info), -ENOENT);
	ck_assert_int_eq(lookup(space, (void *)UINTPTR_MAX, &info), -ENOENT);
	ck_assert(is_untouched(&info));
	for (const char *at = start; at < last; at += at == start ? 1 : page - 1) {
		info = untouched;
		ck_assert_int_eq(lookup(space, at, &info), 0);
		ck_assert_ptr_eq(info.addr, start);
		ck_assert_uint_eq(info.length, 3 * page);
	}
	ck_assert_int_eq(lookup(space, last - 1, &info), 0);
	ck_assert_int_eq(window_unmap(space, &window, 0, 7), 0);
	info = untouched;
	for (size_t i = 0; i < 7; i++)
		ck_assert_int_eq(lookup(space, page_at(&window, i), &info), -ENOENT);
	ck_assert(is_untouched(&info));
	window_clear(&window, "_..._..");
}
END_TEST

static int never(const struct td_region_info *info, void *arg)
{
	(void)info;
	(void)arg;
	ck_abort_msg("called");
}

START_TEST(nonsense_is_refused_and_nothing_touched)
{
	struct window window = window_with(space, "a");
	struct td_region_info info = untouched;

	ck_assert_int_eq(lookup(NULL, window.addr, &info), -EINVAL);
	ck_assert(is_untouched(&info));
	ck_assert_int_eq(lookup(space, window.addr, NULL), -EINVAL);
	ck_assert_int_eq(td_region_walk(NULL, NULL, never, NULL), -EINVAL);
	ck_assert_int_eq(td_region_walk(space, NULL, NULL, NULL), -EINVAL);
}
END_TEST

/* ---- what is told about each kind ---- */

static int release_nothing(void *arg, size_t offset, size_t length, size_t *released)
{
	(void)arg;
	(void)offset;
	*released = length;
	return 0;
}

static const struct td_region_ops plain_ops, device_ops = {.release = release_nothing};

static void check_told(const void *addr, size_t length, const struct td_region_opts *opts)
{
	struct td_region_info info = untouched;

	ck_assert_int_eq(lookup(space, (const char *)addr + length - 1, &info), 0);
	ck_assert_ptr_eq(info.addr, addr);
	ck_assert_uint_eq(info.length, length);
	ck_assert_int_eq(info.kind, opts->kind);
	ck_assert_uint_eq(info.flags, opts->flags);
	ck_assert_ptr_eq(info.ops, opts->ops);
}

START_TEST(kind_flags_and_ops_are_told_as_they_were_given)
{
	int memory = memfd_create("memory", MFD_CLOEXEC);
	const struct td_region_opts cases[] = {
		{.size = sizeof(*cases)},
		{.size = sizeof(*cases), .flags = TD_REGION_NORESERVE},
		{.size = sizeof(*cases), .flags = TD_REGION_NOACCESS, .ops = &plain_ops},
		{.size = sizeof(*cases), .kind = TD_KIND_SHARED},
		{.size = sizeof(*cases),
		 .kind = TD_KIND_SHARED,
		 .flags = TD_REGION_EXCLUSIVE | TD_REGION_SCRUB},
		{.size = sizeof(*cases),
		 .kind = TD_KIND_SHARED,
		 .flags = TD_REGION_FD | TD_REGION_EXCLUSIVE,
		 .fd = memory},
		{.size = sizeof(*cases), .kind = TD_KIND_FILE, .fd = memory},
		{.size = sizeof(*cases),
		 .kind = TD_KIND_FILE,
		 .flags = TD_REGION_PRIVATE,
		 .fd = memory,
		 .offset = page},
	};
	struct td_region_opts device = {
		.size = sizeof(device), .kind = TD_KIND_DEVICE, .ops = &device_ops};
	void *addr = tdt_map_anon(2 * page);

	ck_assert_int_eq(ftruncate(memory, (off_t)(4 * page)), 0);
	ck_assert_int_eq(td_region_adopt(space, addr, 2 * page, &device), 0);
	check_told(addr, 2 * page, &device);
	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		ck_assert_int_eq(td_region_map(space, 3 * page, &cases[i], &addr), 0);
		check_told(addr, 3 * page, &cases[i]);
		if (cases[i].ops)
			continue;
		ck_assert_int_eq(td_region_unmap(space, (char *)addr + page, page), 0);
		check_told(addr, page, &cases[i]); /* parts are of the same kind */
		check_told((char *)addr + 2 * page, page, &cases[i]);
	}
	close(memory);
}
END_TEST

START_TEST(huge_pages_are_told_as_such)
{
	struct td_region_opts opts = {.size = sizeof(opts),
				      .kind = TD_KIND_HUGETLB,
				      .flags = TD_REGION_NORESERVE,
				      .huge_page_size = 2 * MIB};
	void *addr;
	int err = td_region_map(space, 4 * MIB, &opts, &addr);

	if (err) {
		tdt_skip("no huge pages of 2 MiB here: %s", strerror(-err));
		return;
	}
	check_told(addr, 4 * MIB, &opts);
	ck_assert_int_eq(td_region_unmap(space, addr, MIB), -EINVAL);
	check_told(addr, 4 * MIB, &opts);
	ck_assert_int_eq(td_region_unmap(space, addr, 2 * MIB), 0);
	check_told((char *)addr + 2 * MIB, 2 * MIB, &opts);
}
END_TEST

/* ---- walking ---- */

struct walk {
	const char *window;
	char seen[64];
	size_t n, stop_at;
};

/* Writes down the page where each region starts, as a digit. */
static int note(const struct td_region_info *info, void *arg)
{
	struct walk *walk = arg;

	walk->seen[walk->n++] =
		(char)('0' + (size_t)((char *)info->addr - walk->window) / page);
	return walk->n == walk->stop_at ? 1234 : 0;
}

static int walk_from(struct walk *walk, const struct window *window, const void *addr,
		     size_t stop_at)
{
	int err;

	*walk = (struct walk){.window = window->addr, .stop_at = stop_at};
	urcu_memb_read_lock();
	err = td_region_walk(space, addr, note, walk);
	urcu_memb_read_unlock();
	return err;
}

START_TEST(a_walk_meets_the_regions_in_order_from_an_address_on)
{
	struct window window = window_new(8);
	struct walk walk;

	/* in another order than that of the addresses */
	ck_assert_int_eq(walk_from(&walk, &window, NULL, 0), 0);
	ck_assert_str_eq(walk.seen, "");
	ck_assert_int_eq(td_region_adopt(space, page_at(&window, 6), 2 * page, NULL), 0);
	ck_assert_int_eq(td_region_adopt(space, page_at(&window, 0), page, NULL), 0);
	ck_assert_int_eq(td_region_adopt(space, page_at(&window, 3), page, NULL), 0);
	ck_assert_int_eq(td_region_adopt(space, page_at(&window, 1), 2 * page, NULL), 0);

	ck_assert_int_eq(walk_from(&walk, &window, NULL, 0), 0);
	ck_assert_str_eq(walk.seen, "0136");
	ck_assert_int_eq(walk_from(&walk, &window, window.addr + page - 1, 0), 0);
	ck_assert_str_eq(walk.seen, "0136");
	ck_assert_int_eq(walk_from(&walk, &window, window.addr + page, 0), 0);
	ck_assert_str_eq(walk.seen, "136");
	ck_assert_int_eq(walk_from(&walk, &window, page_at(&window, 2), 0), 0);
	ck_assert_str_eq(walk.seen, "136"); /* it ends after the address */
	ck_assert_int_eq(walk_from(&walk, &window, page_at(&window, 4), 0), 0);
	ck_assert_str_eq(walk.seen, "6");
	ck_assert_int_eq(walk_from(&walk, &window, page_at(&window, 8), 0), 0);
	ck_assert_str_eq(walk.seen, "");
	ck_assert_int_eq(walk_from(&walk, &window, (void *)UINTPTR_MAX, 0), 0);
	ck_assert_str_eq(walk.seen, "");
	/* and ends with what the function says */
	ck_assert_int_eq(walk_from(&walk, &window, NULL, 3), 1234);
	ck_assert_str_eq(walk.seen, "013");
	ck_assert_int_eq(walk_from(&walk, &window, NULL, 4), 1234);
}
END_TEST

/* ---- without a user ---- */

/* Made where they are used: in a child a parent's space answers -ECHILD. */
static td_space *space_without_user(void)
{
	td_space *dead = NULL;

	setup();
	ck_assert_int_eq(td_space_create(engine, TD_SPACE_OPTS(.name = "dead"), &dead),
			 0);
	ck_assert_int_eq(td_space_grab(dead), 0);
	ck_assert_int_eq(td_space_put_sync(dead), 0);
	return dead;
}

static void lookup_without_user(void *arg)
{
	struct td_region_info info;

	(void)arg;
	(void)lookup(space_without_user(), NULL, &info);
}

static void walk_without_user(void *arg)
{
	(void)arg;
	(void)td_region_walk(space_without_user(), NULL, never, NULL);
}

/* B4 */
START_TEST(looking_up_without_a_user_aborts_a_debug_build)
{
#ifdef TDI_DEBUG
	const char *words = "space 'dead': looked up by a caller without a user";

	tdt_expect_death(lookup_without_user, NULL, words);
	tdt_expect_death(walk_without_user, NULL, words);
#else
	(void)lookup_without_user;
	(void)walk_without_user;
	tdt_skip("only builds of type debug and sanitized ones check that");
#endif
}
END_TEST

int main(void)
{
	struct tdt *tests = tdt_suite("region_lookup");
	const TTest *all[] = {
		a_region_covers_its_first_to_its_last_byte,
		nonsense_is_refused_and_nothing_touched,
		kind_flags_and_ops_are_told_as_they_were_given,
		huge_pages_are_told_as_such,
		a_walk_meets_the_regions_in_order_from_an_address_on,
	};

	for (size_t i = 0; i < sizeof(all) / sizeof(*all); i++)
		tdt_add(tests, all[i], begin, end);
	tdt_add(tests, looking_up_without_a_user_aborts_a_debug_build, NULL, NULL);
	return tdt_run(tests);
}
