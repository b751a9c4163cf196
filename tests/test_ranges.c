/* SPDX-License-Identifier: MIT */
#include "harness.h"
#include "ranges.h"

#include <pthread.h>
#include <stdlib.h>

START_TEST(overlap_is_refused_however_it_lies)
{
	struct tdi_range held = {.start = 100, .end = 200};
	struct tdi_range overlapping[] = {{.start = 100, .end = 200},
					  {.start = 50, .end = 101},
					  {.start = 199, .end = 300},
					  {.start = 120, .end = 130},
					  {.start = 50, .end = 300}};
	struct tdi_range beside[] = {{.start = 50, .end = 100},
				     {.start = 200, .end = 300}};

	ck_assert_int_eq(tdi_ranges_claim(&held), 0);
	for (size_t i = 0; i < sizeof(overlapping) / sizeof(*overlapping); i++)
		ck_assert_int_eq(tdi_ranges_claim(&overlapping[i]), -EEXIST);
	for (size_t i = 0; i < 2; i++)
		ck_assert_int_eq(tdi_ranges_claim(&beside[i]), 0);
	tdi_ranges_release(&held);
	ck_assert_int_eq(tdi_ranges_claim(&overlapping[0]), 0);
	ck_assert_int_eq(tdi_ranges_claim(&overlapping[3]), -EEXIST);
	tdi_ranges_release(&overlapping[0]);
	tdi_ranges_release(&beside[0]);
	tdi_ranges_release(&beside[1]);
}
END_TEST

static void release_unclaimed(void *arg)
{
	struct tdi_range range = {.start = 0x1000, .end = 0x2000};

	(void)arg;
	tdi_ranges_release(&range);
}

START_TEST(releasing_what_is_not_claimed_aborts)
{
	tdt_expect_death(release_unclaimed, NULL,
			 "range 0x1000-0x2000: not claimed");
}
END_TEST

/* A range is claimed exactly as long as it is mapped. */
START_TEST(unmapping_gives_the_claim_up_part_by_part)
{
	size_t page = tdi_page_size();
	char *addr = tdt_map_anon(4 * page);
	uintptr_t start = (uintptr_t)addr;
	struct tdi_range held = {.start = start, .end = start + 4 * page};
	struct tdi_range first = {.start = start, .end = start + page};
	struct tdi_range rest = {.start = start + page, .end = start + 2 * page};

	ck_assert_int_eq(tdi_ranges_claim(&held), 0);
	tdt_fail(TDI_SYS_munmap, -ENOMEM, 0, 1);
	ck_assert_int_eq(tdi_ranges_unmap(&held, start, page), -ENOMEM);
	ck_assert_int_eq(tdi_ranges_claim(&first), -EEXIST);
	ck_assert_int_eq(tdi_ranges_unmap(&held, start, page), 0);
	ck_assert_uint_eq(tdt_mapped(addr, 4 * page), 3 * page);
	ck_assert_int_eq(tdi_ranges_claim(&first), 0);
	ck_assert_int_eq(tdi_ranges_claim(&rest), -EEXIST);
	ck_assert_int_eq(tdi_ranges_unmap(&held, start + page, 3 * page), 0);
	ck_assert_uint_eq(tdt_mapped(addr, 4 * page), 0);
	ck_assert_int_eq(tdi_ranges_claim(&rest), 0);
	tdi_ranges_release(&first);
	tdi_ranges_release(&rest);
}
END_TEST

enum { SLOTS = 64, STEPS = 20000 };

/* Against a plain table: a page is claimed or it is not. */
START_TEST(random_claims_agree_with_a_plain_table)
{
	struct tdi_range held[SLOTS] = {{.start = 0}};
	bool taken[1024] = {false};
	unsigned seed = 1;

	for (int step = 0; step < STEPS; step++) {
		struct tdi_range *range = &held[(unsigned)rand_r(&seed) % SLOTS];
		bool is_free = true;
		int err;

		if (range->end) {
			for (uintptr_t i = range->start; i < range->end; i++)
				taken[i] = false;
			tdi_ranges_release(range);
			range->end = 0;
			continue;
		}
		range->start = (unsigned)rand_r(&seed) % 1000;
		range->end = range->start + 1 + (unsigned)rand_r(&seed) % 24;
		for (uintptr_t i = range->start; i < range->end; i++)
			is_free &= !taken[i];
		err = tdi_ranges_claim(range);
		ck_assert_int_eq(err, is_free ? 0 : -EEXIST);
		for (uintptr_t i = range->start; is_free && i < range->end; i++)
			taken[i] = true;
		if (!is_free)
			range->end = 0;
	}
}
END_TEST

int main(void)
{
	struct tdt *tests = tdt_suite("ranges");

	tdt_add(tests, overlap_is_refused_however_it_lies, NULL, NULL);
	tdt_add(tests, releasing_what_is_not_claimed_aborts, NULL, NULL);
	tdt_add(tests, unmapping_gives_the_claim_up_part_by_part, NULL, NULL);
	tdt_add(tests, random_claims_agree_with_a_plain_table, NULL, NULL);
	return tdt_run(tests);
}
