/* SPDX-License-Identifier: MIT */
/* D1-D3 of detach.h: what is moved where, and what a failure leaves. */
#include "pieces.h"

#include <sys/resource.h>
#include <sys/syscall.h>

#ifndef SYS_mseal
#define SYS_mseal 462
#endif

static bool have_huge;

/* D1 */
START_TEST(one_mapping_moves_with_its_contents)
{
	struct tdi_piece whole = piece(0, AREA);
	struct tdi_quarantine quarantine;

	number_pages(map_at(base, AREA * page, PROT_READ | PROT_WRITE), AREA * page, 1);
	ck_assert_int_eq(detach(&whole, 1, &quarantine), 0);
	ck_assert_uint_eq(tdt_mapped(base, AREA * page), 0);
	ck_assert(!quarantine.exposed);
	check_numbers(quarantined(&quarantine), AREA * page, 1);
	/* the place is free at once: D3 of td_munmap */
	number_pages(map_at(base, AREA * page, PROT_READ | PROT_WRITE), AREA * page, 500);
	release(&quarantine);
	check_numbers(base, AREA * page, 500);
	munmap(base, AREA * page);
}
END_TEST

/* D2: what is not a piece stays: the holes' new tenants, and the rest of mappings. */
START_TEST(several_pieces_keep_their_distances_and_their_neighbours)
{
	struct tdi_piece pieces[] = {piece(6, 4), piece(20, 8), piece(40, 2)};
	struct tdi_quarantine quarantine;
	char *moved;

	build_three();
	pieces[0].partial = pieces[2].partial = true;
	/* came after the walk that found the pieces */
	number_pages(map_at(base + 30 * page, page, PROT_READ | PROT_WRITE), page, 7);
	ck_assert_int_eq(detach(pieces, 3, &quarantine), 0);
	moved = quarantined(&quarantine);
	check_numbers(moved + 6 * page, 4 * page, 102);
	check_numbers(moved + 20 * page, 8 * page, 200);
	check_numbers(moved + 40 * page, 2 * page, 300);
	check_numbers(base + 4 * page, 2 * page, 100);
	check_numbers(base + 10 * page, 2 * page, 106);
	check_numbers(base + 30 * page, page, 7);
	check_numbers(base + 42 * page, 6 * page, 302);
	ck_assert_uint_eq(tdt_mapped(base, AREA * page), 11 * page);
	/* the whole range is reserved, its holes included */
	ck_assert_uint_eq(tdt_mapped(moved, AREA * page), AREA * page);
	ck_assert_uint_le(quarantine.reserved, quarantine.start);
	ck_assert_uint_ge(quarantine.reserved_end, quarantine.start + AREA * page);
	release(&quarantine);
	munmap(base, AREA * page);
}
END_TEST

START_TEST(pieces_that_stay_are_unmapped_and_not_moved)
{
	struct tdi_piece pieces[] = {piece(4, 8), piece(20, 8), piece(40, 8)};
	struct tdi_quarantine quarantine;

	build_three();
	pieces[0].stay = pieces[2].stay = true;
	ck_assert_int_eq(detach(pieces, 3, &quarantine), 0);
	ck_assert_uint_eq(tdt_mapped(base, AREA * page), 0);
	check_numbers(quarantined(&quarantine) + 20 * page, 8 * page, 200);
	ck_assert_int_eq(peek(quarantined(&quarantine) + 4 * page), -1);
	ck_assert_int_eq(peek(quarantined(&quarantine) + 40 * page), -1);
	release(&quarantine);
}
END_TEST

/* D3: by the GiB where the range has that much, else by 2 MiB, else as it comes. */
START_TEST(the_quarantine_is_congruent)
{
	static const size_t offsets[] = {0, 4 * KIB, 2 * MIB + 12 * KIB, 700 * MIB};
	struct {
		size_t length, modulus;
	} cases[] = {{64 * KIB, tdi_page_size()},
		     {2 * MIB, tdi_pmd_size()},
		     {200 * MIB, tdi_pmd_size()},
		     {GIB, tdi_pud_size()},
		     {3 * GIB + 4 * KIB, tdi_pud_size()}};

	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		for (size_t j = 0; j < sizeof(offsets) / sizeof(*offsets); j++) {
			struct tdi_piece whole = {(uintptr_t)base + offsets[j],
						  cases[i].length, false, false};
			struct tdi_quarantine quarantine;

			map_at((char *)whole.start, whole.length, PROT_NONE);
			ck_assert_int_eq(tdi_detach(whole.start, whole.length, &whole, 1,
						    0, &quarantine),
					 0);
			ck_assert_uint_eq(
				(quarantine.start - whole.start) % cases[i].modulus, 0);
			ck_assert_uint_le(quarantine.reserved_end - quarantine.reserved,
					  tdi_detach_room(whole.length, 0));
			release(&quarantine);
		}
	}
}
END_TEST

static size_t slack_of(const struct tdi_quarantine *quarantine, size_t length)
{
	return quarantine->reserved_end - quarantine->reserved - length;
}

/* D3, where address space is short: by failing the larger reservations. */
START_TEST(the_quarantine_settles_for_less_where_there_is_no_room)
{
	size_t slacks[] = {tdi_pud_size() - page, tdi_pmd_size() - page, 0};
	struct tdi_piece whole = {(uintptr_t)base + 12 * KIB, GIB, false, false};
	struct tdi_quarantine quarantine;

	for (unsigned refused = 0; refused < 3; refused++) {
		number_pages(
			map_at((char *)whole.start, whole.length, PROT_READ | PROT_WRITE),
			4 * page, 9);
		tdt_fail(TDI_SYS_mmap, -ENOMEM, 0, refused);
		ck_assert_int_eq(tdi_detach(whole.start, GIB, &whole, 1, 0, &quarantine),
				 0);
		tdt_fail_none();
		ck_assert_uint_eq(slack_of(&quarantine, GIB), slacks[refused]);
		check_numbers(quarantined(&quarantine), 4 * page, 9);
		release(&quarantine);
	}
	map_at((char *)whole.start, whole.length, PROT_READ | PROT_WRITE);
	tdt_fail(TDI_SYS_mmap, -ENOMEM, 0, 3);
	ck_assert_int_eq(tdi_detach(whole.start, GIB, &whole, 1, 0, &quarantine),
			 -ENOMEM);
	tdt_fail_none();
	ck_assert_uint_eq(tdt_mapped((char *)whole.start, GIB), GIB);
	munmap((char *)whole.start, GIB);
}
END_TEST

START_TEST(the_quarantine_settles_for_less_near_the_limit_on_address_space)
{
	struct tdi_piece whole = {(uintptr_t)base + 12 * KIB, GIB, false, false};
	struct tdi_quarantine quarantine;
	struct rlimit limit;

	if (TDT_SANITIZED) {
		tdt_skip("a sanitizer needs all the address space");
		return;
	}
	map_at((char *)whole.start, GIB, PROT_READ | PROT_WRITE);
	number_pages((char *)whole.start, 4 * page, 9);
	getrlimit(RLIMIT_AS, &limit);
	limit.rlim_cur = (size_t)vm_pages() * page + GIB + 64 * MIB;
	ck_assert_int_eq(setrlimit(RLIMIT_AS, &limit), 0);
	ck_assert_int_eq(tdi_detach(whole.start, GIB, &whole, 1, 0, &quarantine), 0);
	ck_assert_uint_eq(slack_of(&quarantine, GIB), tdi_pmd_size() - page);
	ck_assert_uint_eq((quarantine.start - whole.start) % tdi_pmd_size(), 0);
	check_numbers(quarantined(&quarantine), 4 * page, 9);
	release(&quarantine);
}
END_TEST

START_TEST(huge_pages_move_whole)
{
	struct tdi_piece whole = {(uintptr_t)base, 2 * HUGE_PAGE, false, false};
	struct tdi_quarantine quarantine;

	if (!have_huge || !map_huge(base, 2)) {
		tdt_skip("the pool has no two huge pages for us");
		return;
	}
	number_pages(base, 2 * HUGE_PAGE, 1);
	ck_assert_int_eq(tdi_detach((uintptr_t)base, 2 * HUGE_PAGE, &whole, 1, HUGE_PAGE,
				    &quarantine),
			 0);
	ck_assert_uint_eq(tdt_mapped(base, 2 * HUGE_PAGE), 0);
	ck_assert(tdi_is_aligned(quarantine.start, HUGE_PAGE));
	check_numbers(quarantined(&quarantine), 2 * HUGE_PAGE, 1);
	release(&quarantine);
	/* with less than that there is no place for them */
	ck_assert_ptr_nonnull(map_huge(base, 2));
	tdt_fail(TDI_SYS_mmap, -ENOMEM, 0, 1);
	ck_assert_int_eq(tdi_detach((uintptr_t)base, 2 * HUGE_PAGE, &whole, 1, HUGE_PAGE,
				    &quarantine),
			 -ENOMEM);
	tdt_fail_none();
	ck_assert_uint_eq(tdt_mapped(base, 2 * HUGE_PAGE), 2 * HUGE_PAGE);
	munmap(base, 2 * HUGE_PAGE);
}
END_TEST

/* ---- D1: failures ---- */

/*
 * Every call at every position: all done, or an error with everything where and as it
 * was. The pieces: one to be cut out of a mapping, two whole ones.
 */
static void fail_each(enum tdi_sys_call call, int err, unsigned stay)
{
	for (unsigned position = 0;; position++) {
		struct tdi_piece pieces[] = {piece(4, 6), piece(20, 8), piece(40, 8)};
		struct tdi_quarantine quarantine = {0};
		long before;
		bool reached;
		int got;

		pieces[0].partial = true;
		for (unsigned i = 0; i < 3; i++)
			pieces[i].stay = (stay >> i & 1) != 0;
		build_three();
		before = vm_pages();
		tdt_fail(call, err, position, 1);
		got = detach(pieces, 3, &quarantine);
		reached = tdt_calls(call) > position;
		tdt_fail_none();
		if (got) {
			ck_assert_int_eq(got, err);
			check_three();
			ck_assert_int_eq(vm_pages(), before);
		} else {
			ck_assert_uint_eq(tdt_mapped(base, AREA * page), 2 * page);
			check_numbers(base + 10 * page, 2 * page, 106);
			for (unsigned i = 0; i < 3; i++) {
				const char *moved = quarantined(&quarantine) +
						    (pieces[i].start - (uintptr_t)base);

				/* or it was refused and unmapped */
				if (call != TDI_SYS_mremap && !pieces[i].stay)
					check_numbers(moved, pieces[i].length,
						      100 * (i + 1));
			}
			release(&quarantine);
		}
		munmap(base, AREA * page);
		if (!reached)
			break;
	}
}

START_TEST(a_failure_anywhere_changes_nothing)
{
	fail_each(TDI_SYS_mmap, -ENOMEM, 0);
	fail_each(TDI_SYS_mremap, -ENOMEM, 0);
	fail_each(TDI_SYS_mremap, -EINVAL, 0);
	fail_each(TDI_SYS_munmap, -ENOMEM, 0);
	fail_each(TDI_SYS_madvise, -ENOMEM, 0);
	/* with one that is to be unmapped, whose munmap is the failing one */
	fail_each(TDI_SYS_mmap, -ENOMEM, 1);
	fail_each(TDI_SYS_mremap, -ENOMEM, 2);
	fail_each(TDI_SYS_munmap, -ENOMEM, 4);
}
END_TEST

/* The second cannot be moved and not be unmapped either: the first goes back. */
START_TEST(what_was_moved_is_put_back)
{
	struct tdi_piece pieces[] = {piece(4, 8), piece(20, 8), piece(40, 8)};
	struct tdi_quarantine quarantine = {0};
	long before;

	build_three();
	before = vm_pages();
	for (unsigned refused = 1; refused < 3; refused++) {
		/* the first calls ask for seals, one for each piece */
		tdt_fail(TDI_SYS_mremap, -EFAULT, 3 + refused, 1);
		tdt_fail(TDI_SYS_munmap, -ENOMEM, 0, 1);
		ck_assert_int_eq(detach(pieces, 3, &quarantine), -ENOMEM);
		tdt_fail_none();
		check_three();
		ck_assert_int_eq(vm_pages(), before);
		ck_assert_uint_eq(quarantine.start, 0);
	}
	munmap(base, AREA * page);
}
END_TEST

static unsigned moves;
static char *hole;

/* A move that fails half-way, as the kernel may: with its target unmapped. */
static int fail_half_way(enum tdi_sys_call call, uintptr_t addr, size_t length,
			 int detail)
{
	if (call != TDI_SYS_mremap || detail != 0 || addr == 0 || ++moves != 2)
		return 0;
	hole = find_first() + 16 * page;
	munmap(hole, length);
	return -ENOMEM;
}

/* Or somebody else's mapping could come to lie there, and be freed with the rest. */
START_TEST(the_place_of_a_piece_that_could_not_be_moved_stays_reserved)
{
	struct tdi_piece pieces[] = {piece(4, 8), piece(20, 8), piece(40, 8)};
	struct tdi_quarantine quarantine = {0};
	char *moved;

	build_three();
	tdi_sys_set_fault(fail_half_way);
	ck_assert_int_eq(detach(pieces, 3, &quarantine), 0);
	tdt_fail_none();
	moved = quarantined(&quarantine);
	ck_assert_ptr_eq(hole, moved + 20 * page);
	ck_assert_uint_eq(tdt_mapped(base, AREA * page), 0);
	ck_assert_uint_eq(tdt_mapped(moved, AREA * page), AREA * page);
	check_numbers(moved + 40 * page, 8 * page, 300);
	release(&quarantine);
}
END_TEST

/* ---- seals ---- */

START_TEST(sealed_memory_stops_it_before_anything_moves)
{
	struct tdi_quarantine quarantine = {0};
	long before;

	build_three();
	if (syscall(SYS_mseal, base + 40 * page, 8 * page, 0) != 0) {
		tdt_skip("the kernel has no mseal");
		return;
	}
	before = vm_pages();
	for (unsigned stay = 0; stay < 8; stay++) {
		struct tdi_piece pieces[] = {piece(4, 8), piece(20, 8), piece(40, 8)};

		for (unsigned i = 0; i < 3; i++)
			pieces[i].stay = (stay >> i & 1) != 0;
		ck_assert_int_eq(detach(pieces, 3, &quarantine), -EPERM);
		check_three();
		ck_assert_int_eq(vm_pages(), before);
	}
	{
		struct tdi_piece alone = piece(40, 8);

		ck_assert_int_eq(detach(&alone, 1, &quarantine), -EPERM);
		check_three();
		ck_assert_int_eq(vm_pages(), before);
	}
}
END_TEST

int main(void)
{
	struct tdt *tests = tdt_suite("detach");
	const TTest *all[] = {
		one_mapping_moves_with_its_contents,
		several_pieces_keep_their_distances_and_their_neighbours,
		pieces_that_stay_are_unmapped_and_not_moved,
		the_quarantine_is_congruent,
		the_quarantine_settles_for_less_where_there_is_no_room,
		the_quarantine_settles_for_less_near_the_limit_on_address_space,
		huge_pages_move_whole,
		a_failure_anywhere_changes_nothing,
		what_was_moved_is_put_back,
		the_place_of_a_piece_that_could_not_be_moved_stays_reserved,
		sealed_memory_stops_it_before_anything_moves,
	};
	int result;

	have_huge = pool_add(2);
	for (size_t i = 0; i < sizeof(all) / sizeof(*all); i++)
		tdt_add(tests, all[i], setup, NULL);
	result = tdt_run(tests);
	if (have_huge)
		pool_add(-2);
	return result;
}
