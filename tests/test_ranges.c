/* SPDX-License-Identifier: MIT */
#include "harness.h"
#include "ranges.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

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
	tdt_expect_death(release_unclaimed, NULL, "range 0x1000-0x2000: not claimed");
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

/*
 * D3: whoever was given addresses of a range that is leaving may unmap them again, before
 * the one who unmapped it has said so.
 */
START_TEST(what_is_leaving_is_not_in_the_way_of_unmapping)
{
	struct tdi_range held[] = {{.start = 0x1000, .end = 0x2000},
				   {.start = 0x2000, .end = 0x4000},
				   {.start = 0x4000, .end = 0x5000}};

	for (size_t i = 0; i < 3; i++)
		ck_assert_int_eq(tdi_ranges_claim(&held[i]), 0);
	tdi_ranges_leave(&held[1]);
	ck_assert(!tdi_ranges_overlap(0x2000, 0x4000));
	ck_assert(!tdi_ranges_overlap(0x3000, 0x3800));
	ck_assert(tdi_ranges_overlap(0x1000, 0x3000));
	ck_assert(tdi_ranges_overlap(0x3000, 0x5000));
	tdi_ranges_leave(&held[0]);
	ck_assert(!tdi_ranges_overlap(0, 0x4000));
	ck_assert(tdi_ranges_overlap(0, 0x6000));
	tdi_ranges_leave(&held[2]);
	ck_assert(!tdi_ranges_overlap(0, 0x6000));
	tdi_ranges_stay(&held[1]);
	ck_assert(tdi_ranges_overlap(0, 0x6000));
	for (size_t i = 0; i < 3; i++)
		tdi_ranges_release(&held[i]);
}
END_TEST

/* ---- cutting, handing over ---- */

START_TEST(a_claim_is_cut_and_its_parts_are_released_one_by_one)
{
	struct tdi_range whole = {.start = 100, .end = 200}, tail;
	struct tdi_range low = {.start = 120, .end = 130};
	struct tdi_range high = {.start = 160, .end = 170};

	ck_assert_int_eq(tdi_ranges_claim(&whole), 0);
	ck_assert_int_eq(tdi_ranges_split(&whole, 150, &tail), 0);
	ck_assert_uint_eq(whole.start, 100);
	ck_assert_uint_eq(whole.end, 150);
	ck_assert_uint_eq(tail.start, 150);
	ck_assert_uint_eq(tail.end, 200);
	ck_assert_int_eq(tdi_ranges_claim(&low), -EEXIST);
	ck_assert_int_eq(tdi_ranges_claim(&high), -EEXIST);
	tdi_ranges_release(&tail);
	ck_assert_int_eq(tdi_ranges_claim(&low), -EEXIST);
	ck_assert_int_eq(tdi_ranges_claim(&high), 0);
	tdi_ranges_release(&whole);
	ck_assert_int_eq(tdi_ranges_claim(&low), 0);
	tdi_ranges_release(&low);
	tdi_ranges_release(&high);
	ck_assert(!tdi_ranges_overlap(0, UINTPTR_MAX));
}
END_TEST

/* The error path of a cut that could not be published. */
START_TEST(parts_are_joined_again)
{
	struct tdi_range whole = {.start = 100, .end = 200}, tail;
	struct tdi_range high = {.start = 160, .end = 170};

	ck_assert_int_eq(tdi_ranges_claim(&whole), 0);
	ck_assert_int_eq(tdi_ranges_split(&whole, 150, &tail), 0);
	tdi_ranges_join(&whole, &tail);
	ck_assert_uint_eq(whole.start, 100);
	ck_assert_uint_eq(whole.end, 200);
	ck_assert_int_eq(tdi_ranges_claim(&high), -EEXIST);
	tdi_ranges_release(&whole);
	ck_assert(!tdi_ranges_overlap(0, UINTPTR_MAX));
}
END_TEST

static void release_heirless(void *arg)
{
	struct tdi_range old = {.start = 0x1000, .end = 0x2000};
	struct tdi_range heir = {.start = 0x1000, .end = 0x2000};

	(void)arg;
	(void)tdi_ranges_claim(&old);
	tdi_ranges_hand_over(&old, &heir);
	old = (struct tdi_range){.start = 0x1000, .end = 0x2000};
	tdi_ranges_release(&old); /* it is the heir's now */
}

START_TEST(an_heir_takes_the_place_of_a_claim)
{
	struct tdi_range old = {.start = 100, .end = 200};
	struct tdi_range heir = {.start = 100, .end = 200};
	struct tdi_range other = {.start = 150, .end = 250};

	ck_assert_int_eq(tdi_ranges_claim(&old), 0);
	tdi_ranges_hand_over(&old, &heir);
	ck_assert_uint_eq(old.start, old.end); /* known to claim nothing */
	ck_assert_int_eq(tdi_ranges_claim(&other), -EEXIST);
	tdi_ranges_release(&heir);
	ck_assert_int_eq(tdi_ranges_claim(&other), 0);
	tdi_ranges_release(&other);
	tdt_expect_death(release_heirless, NULL, "range 0x1000-0x2000: not claimed");
}
END_TEST

START_TEST(overlap_is_told_however_it_lies)
{
	struct tdi_range held = {.start = 100, .end = 200};

	ck_assert(!tdi_ranges_overlap(100, 200));
	ck_assert_int_eq(tdi_ranges_claim(&held), 0);
	ck_assert(tdi_ranges_overlap(100, 200));
	ck_assert(tdi_ranges_overlap(0, 101));
	ck_assert(tdi_ranges_overlap(199, 300));
	ck_assert(tdi_ranges_overlap(150, 151));
	ck_assert(tdi_ranges_overlap(0, UINTPTR_MAX));
	ck_assert(!tdi_ranges_overlap(0, 100));
	ck_assert(!tdi_ranges_overlap(200, UINTPTR_MAX));
	tdi_ranges_leave(&held); /* is not waited for */
	ck_assert(!tdi_ranges_overlap(150, 151));
	tdi_ranges_release(&held);
	ck_assert(!tdi_ranges_overlap(0, UINTPTR_MAX));
}
END_TEST

/* ---- waiting for one that is leaving ---- */

struct claimer {
	struct tdi_range range;
	pthread_t thread;
	_Atomic(pid_t) tid;
	atomic_bool over;
	int err;
};

static void *claim_it(void *arg)
{
	struct claimer *claimer = arg;

	atomic_store(&claimer->tid, gettid());
	claimer->err = tdi_ranges_claim(&claimer->range);
	atomic_store(&claimer->over, true);
	return NULL;
}

/* Asleep in the kernel, and there is only one thing there that it may be waiting for. */
static bool sleeps(pid_t tid)
{
	char path[64], state = '?';
	FILE *file;

	snprintf(path, sizeof(path), "/proc/self/task/%d/stat", (int)tid);
	file = fopen(path, "re");
	if (!file)
		return false;
	if (fscanf(file, "%*d (%*[^)]) %c", &state) != 1)
		state = '?';
	fclose(file);
	return state == 'S';
}

static void start_and_let_it_wait(struct claimer *claimer, uintptr_t start, uintptr_t end)
{
	claimer->range = (struct tdi_range){.start = start, .end = end};
	atomic_init(&claimer->tid, 0);
	atomic_init(&claimer->over, false);
	claimer->err = 99;
	ck_assert_int_eq(pthread_create(&claimer->thread, NULL, claim_it, claimer), 0);
	while (!atomic_load(&claimer->over) &&
	       !(atomic_load(&claimer->tid) && sleeps(atomic_load(&claimer->tid))))
		sched_yield();
	ck_assert(!atomic_load(&claimer->over));
}

static int result_of(struct claimer *claimer)
{
	pthread_join(claimer->thread, NULL);
	return claimer->err;
}

/* D3, D8 */
START_TEST(a_claim_waits_for_a_range_that_is_leaving_and_gets_it)
{
	struct tdi_range held = {.start = 100, .end = 200};
	struct tdi_range beside = {.start = 200, .end = 300};
	struct claimer claimer;

	ck_assert_int_eq(tdi_ranges_claim(&held), 0);
	tdi_ranges_leave(&held);
	ck_assert_int_eq(tdi_ranges_claim(&beside), 0); /* that is another one */
	start_and_let_it_wait(&claimer, 150, 200);
	tdi_ranges_release(&held);
	ck_assert_int_eq(result_of(&claimer), 0);
	ck_assert(tdi_ranges_overlap(150, 200));
	ck_assert(!tdi_ranges_overlap(100, 150));
	tdi_ranges_release(&claimer.range);
	tdi_ranges_release(&beside);
}
END_TEST

START_TEST(a_claim_waits_for_a_range_that_stays_after_all_and_is_refused)
{
	struct tdi_range held = {.start = 100, .end = 200};
	struct claimer claimer;

	ck_assert_int_eq(tdi_ranges_claim(&held), 0);
	tdi_ranges_leave(&held);
	start_and_let_it_wait(&claimer, 50, 101);
	tdi_ranges_stay(&held);
	ck_assert_int_eq(result_of(&claimer), -EEXIST);
	tdi_ranges_release(&held);
	ck_assert(!tdi_ranges_overlap(0, UINTPTR_MAX));
}
END_TEST

/* What it waited for is gone, and there is another one behind it. (D8) */
START_TEST(a_claim_that_waited_looks_again)
{
	struct tdi_range held[] = {{.start = 100, .end = 200},
				   {.start = 200, .end = 300}};
	struct tdi_range again = {.start = 190, .end = 195};
	struct claimer claimer;

	for (int i = 0; i < 2; i++) {
		ck_assert_int_eq(tdi_ranges_claim(&held[i]), 0);
		tdi_ranges_leave(&held[i]);
	}
	start_and_let_it_wait(&claimer, 150, 250);
	tdi_ranges_release(&held[0]);
	ck_assert_int_eq(tdi_ranges_claim(&again), 0);
	tdi_ranges_stay(&held[1]);
	ck_assert_int_eq(result_of(&claimer), -EEXIST);
	tdi_ranges_release(&again);
	tdi_ranges_release(&held[1]);
	ck_assert(!tdi_ranges_overlap(0, UINTPTR_MAX));
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
	tdt_add(tests, a_claim_is_cut_and_its_parts_are_released_one_by_one, NULL, NULL);
	tdt_add(tests, parts_are_joined_again, NULL, NULL);
	tdt_add(tests, an_heir_takes_the_place_of_a_claim, NULL, NULL);
	tdt_add(tests, overlap_is_told_however_it_lies, NULL, NULL);
	tdt_add(tests, what_is_leaving_is_not_in_the_way_of_unmapping, NULL, NULL);
	tdt_add(tests, a_claim_waits_for_a_range_that_is_leaving_and_gets_it, NULL, NULL);
	tdt_add(tests, a_claim_waits_for_a_range_that_stays_after_all_and_is_refused,
		NULL, NULL);
	tdt_add(tests, a_claim_that_waited_looks_again, NULL, NULL);
	tdt_add(tests, random_claims_agree_with_a_plain_table, NULL, NULL);
	return tdt_run(tests);
}
