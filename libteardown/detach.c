/* SPDX-License-Identifier: MIT */
#include "detach.h"
#include "sys.h"
#include "vma.h"

#include <pthread.h>
#include <string.h>
#include <sys/mman.h>

/*
 * Held for reading from the reservation to the marks, for writing by a fork: D4. Writers
 * first, or threads that unmap all the time would keep a fork waiting for ever.
 */
#define FORK_LOCK_INITIALIZER PTHREAD_RWLOCK_WRITER_NONRECURSIVE_INITIALIZER_NP
static pthread_rwlock_t fork_lock = FORK_LOCK_INITIALIZER;

/*
 * For so long a detach waits for a fork, and then is refused: an allocator may be
 * unmapping with a lock of its own held, which the fork is waiting for.
 */
#define FORK_WAIT_NS 1000000000

static bool keep_forks_out(void)
{
	return pthread_rwlock_tryrdlock(&fork_lock) == 0 ||
	       tdi_sys_rdlock_until(&fork_lock, tdi_sys_deadline(FORK_WAIT_NS)) == 0;
}

void tdi_detach_before_fork(void)
{
	pthread_rwlock_wrlock(&fork_lock);
}

void tdi_detach_after_fork(bool in_child)
{
	/* Held by the parent's thread, which is not that of the child. */
	if (in_child)
		fork_lock = (pthread_rwlock_t)FORK_LOCK_INITIALIZER;
	else
		pthread_rwlock_unlock(&fork_lock);
}

/* ---- the reservation ---- */

static size_t best_modulus(size_t length, size_t huge_page)
{
	size_t tables = length >= tdi_pud_size()   ? tdi_pud_size()
			: length >= tdi_pmd_size() ? tdi_pmd_size()
						   : tdi_page_size();

	return tdi_max_size(tables, huge_page);
}

size_t tdi_detach_room(size_t length, size_t huge_page)
{
	return length + best_modulus(length, huge_page);
}

/*
 * Where a quarantine may lie: in a part of the address space that the kernel does not use
 * by itself before all else is full, from its upper end down and then again. Elsewhere it
 * would come to lie where another range has just left: there an access would not fault,
 * and whoever maps something there again would meet it. A gap keeps it from being merged
 * with the one before. The part scales with the address space, in whose upper half any
 * stack is. That somebody is there already only sends us elsewhere.
 */
static void *choose_place(size_t length)
{
	static _Atomic(uintptr_t) lowest; /* used so far */
	unsigned bits =
		63 - (unsigned)__builtin_clzll((uintptr_t)__builtin_frame_address(0));
	uintptr_t top = (uintptr_t)1 << (bits - 1);
	uintptr_t before = atomic_load_explicit(&lowest, memory_order_relaxed), place;

	if (length >= top / 4)
		return NULL;
	do {
		place = before < top / 2 + length || before > top ? top : before;
		place = tdi_align_down(place - length, tdi_page_size());
	} while (!atomic_compare_exchange_weak_explicit(
		&lowest, &before, place, memory_order_relaxed, memory_order_relaxed));
	return (void *)place;
}

static int reserve_modulo(uintptr_t start, size_t length, size_t modulus,
			  struct tdi_quarantine *quarantine)
{
	size_t slack = modulus - tdi_page_size();
	uintptr_t reserved;
	void *addr;
	int err;

	if (length > SIZE_MAX - modulus)
		return -ENOMEM;
	err = tdi_sys_mmap(choose_place(length + modulus), length + slack, PROT_NONE,
			   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, &addr);
	if (err)
		return err;
	reserved = (uintptr_t)addr;
	quarantine->reserved = reserved;
	quarantine->reserved_end = reserved + length + slack;
	quarantine->start = reserved + ((start - reserved) & (modulus - 1));
	return 0;
}

static int reserve(uintptr_t start, size_t length, size_t huge_page,
		   struct tdi_quarantine *quarantine)
{
	size_t moduli[] = {best_modulus(length, huge_page), tdi_pmd_size(),
			   tdi_page_size()};
	int err = -ENOMEM;

	for (size_t i = 0; i < sizeof(moduli) / sizeof(*moduli); i++) {
		if (moduli[i] < huge_page || (i > 0 && moduli[i] >= moduli[i - 1]))
			continue;
		err = reserve_modulo(start, length, moduli[i], quarantine);
		if (!err)
			break;
	}
	return err;
}

static void unreserve(const struct tdi_quarantine *quarantine)
{
	size_t length = quarantine->reserved_end - quarantine->reserved;
	int err = tdi_sys_munmap((void *)quarantine->reserved, length);

	/* Empty, and whole: only a neighbour that it was merged with can make it fail. */
	if (err)
		tdi_warn("detach: %#lx bytes of address space stay reserved: %s",
			 (unsigned long)length, strerrordesc_np(-err));
}

bool tdi_detach_trim(struct tdi_quarantine *quarantine, size_t length)
{
	uintptr_t start = quarantine->start, end = start + length;

	if (quarantine->reserved < start &&
	    tdi_sys_munmap((void *)quarantine->reserved, start - quarantine->reserved) ==
		    0)
		quarantine->reserved = start;
	if (end < quarantine->reserved_end &&
	    tdi_sys_munmap((void *)end, quarantine->reserved_end - end) == 0)
		quarantine->reserved_end = end;
	return quarantine->reserved == start && quarantine->reserved_end == end;
}

/* ---- moving ---- */

struct move {
	uintptr_t start; /* of the range */
	const struct tdi_piece *pieces;
	unsigned nr_pieces;
	struct tdi_quarantine *to;
	uint64_t refused; /* a bit for each piece that could not be moved */
};

_Static_assert(TDI_PIECES_MAX <= 64, "a bit for each");

static void *target(const struct move *move, const struct tdi_piece *piece)
{
	return (void *)(move->to->start + (piece->start - move->start));
}

static bool is_refused(const struct move *move, unsigned i)
{
	return (move->refused >> i & 1) != 0;
}

/*
 * The kernel may have unmapped the target before it refused the rest of a move. It is
 * taken again at once, or it could become somebody else's, and be freed with ours.
 */
static void keep_place(void *place, size_t length)
{
	void *got;
	int err = tdi_sys_mmap(
		place, length, PROT_NONE,
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, &got);

	(void)err; /* -EEXIST is the usual: it was still there */
}

/*
 * Those that split a mapping come first: only they can be refused for want of a mapping
 * and then not be unmapped either.
 */
static int move_pieces(struct move *move)
{
	bool moved = false;

	for (int partial = 1; partial >= 0; partial--) {
		for (unsigned i = 0; i < move->nr_pieces; i++) {
			const struct tdi_piece *piece = &move->pieces[i];
			int err;

			if (piece->partial != (partial == 1))
				continue;
			if (piece->stay) {
				move->refused |= UINT64_C(1) << i;
				continue;
			}
			err = tdi_sys_mremap((void *)piece->start, piece->length,
					     target(move, piece));
			if (err)
				keep_place(target(move, piece), piece->length);
			if (err && !moved)
				return err;
			if (err)
				move->refused |= UINT64_C(1) << i;
			moved = true;
		}
	}
	return 0;
}

/*
 * Puts back what has been moved. Somebody may have mapped something in its place: so the
 * place is reserved first, which fails then. True: all is as it was.
 */
static bool move_back(const struct move *move)
{
	bool all = true;

	for (unsigned i = 0; i < move->nr_pieces; i++) {
		const struct tdi_piece *piece = &move->pieces[i];
		void *place = (void *)piece->start, *got;
		int err;

		if (is_refused(move, i))
			continue;
		err = tdi_sys_mmap(place, piece->length, PROT_NONE,
				   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE |
					   MAP_FIXED_NOREPLACE,
				   &got);
		if (!err)
			err = tdi_sys_mremap(target(move, piece), piece->length, place);
		if (err)
			tdi_warn("detach: %#lx-%#lx was taken away and could not be put "
				 "back: %s",
				 (unsigned long)piece->start,
				 (unsigned long)(piece->start + piece->length),
				 strerrordesc_np(-err));
		all = all && !err;
	}
	return all;
}

/* What could not be moved is unmapped with its pages, and if not even that, all goes
 * back. */
static int unmap_refused(const struct move *move)
{
	bool unmapped = false;

	for (unsigned i = 0; i < move->nr_pieces; i++) {
		const struct tdi_piece *piece = &move->pieces[i];
		int err;

		if (!is_refused(move, i))
			continue;
		err = tdi_sys_munmap((void *)piece->start, piece->length);
		if (!err) {
			unmapped = true;
			continue;
		}
		if (!unmapped)
			return move_back(move) ? err : -ENOTRECOVERABLE;
		tdi_warn("detach: %#lx-%#lx stays mapped, what was around it not: %s",
			 (unsigned long)piece->start,
			 (unsigned long)(piece->start + piece->length),
			 strerrordesc_np(-err));
		return -ENOTRECOVERABLE;
	}
	return 0;
}

static bool mark(const struct tdi_quarantine *quarantine, size_t length)
{
	size_t reserved = quarantine->reserved_end - quarantine->reserved;

	/* A child would get a copy of what is doomed, and keep its pages; and what is
	 * reserved around it, for good. */
	return tdi_sys_madvise((void *)quarantine->reserved, reserved, MADV_DONTFORK) ==
		       0 &&
	       tdi_sys_madvise((void *)quarantine->start, length, MADV_DONTDUMP) == 0;
}

int tdi_detach(uintptr_t start, size_t length, const struct tdi_piece *pieces,
	       unsigned nr_pieces, size_t huge_page, struct tdi_quarantine *ret)
{
	struct tdi_quarantine quarantine = {0};
	struct move move = {start, pieces, nr_pieces, &quarantine, 0};
	int err = 0;

	/* One that is sealed could neither be moved nor unmapped later on. */
	for (unsigned i = 0; !err && nr_pieces > 1 && i < nr_pieces; i++)
		err = tdi_vma_check_movable(pieces[i].start);
	if (!err && !keep_forks_out())
		err = -EAGAIN;
	if (err)
		return err;
	err = reserve(start, length, huge_page, &quarantine);
	if (!err) {
		err = move_pieces(&move);
		if (!err)
			err = unmap_refused(&move);
		if (err)
			unreserve(&quarantine);
		else
			quarantine.exposed = !mark(&quarantine, length);
	}
	pthread_rwlock_unlock(&fork_lock);
	if (!err)
		*ret = quarantine;
	return err;
}
