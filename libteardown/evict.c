/* SPDX-License-Identifier: MIT */
#include "evict.h"
#include "headroom.h"
#include "sys.h"
#include "vma.h"

#include <string.h>

/* ---- what is there ---- */

struct plan {
	const struct tdi_evict *evict;
	uintptr_t start, end;
	struct tdi_piece pieces[TDI_PIECES_MAX];
	unsigned nr_pieces;
	size_t huge_page;
	size_t movable; /* bytes */
	bool locked;
	int userfault; /* a descriptor to ask with, or negative */
};

/* -EAGAIN ends the walk: there is something that a move would not treat as munmap does.
 */
static int look_closer(struct plan *plan, const struct tdi_vma *vma,
		       struct tdi_piece *piece)
{
	unsigned movable = TDI_VMA_ANON | TDI_VMA_HUGETLB;
	unsigned type = tdi_vma_type(vma);
	size_t page = tdi_page_size();
	/* A region's pages: older kernels do not tell how large they are. */
	size_t known_size =
		plan->evict->known ? plan->evict->extent->backing.huge_page : 0;

	if (plan->evict->shared || plan->evict->known)
		movable |= TDI_VMA_SHARED | TDI_VMA_FILE;
	if (plan->evict->any_size) /* a device: whatever it is */
		movable |= TDI_VMA_SPECIAL;
	if (!(type & movable)) {
		piece->stay = true;
		return 0;
	}
	if (vma->hugetlb || known_size) {
		page = vma->huge_page ? vma->huge_page : known_size;
		if (page == 0 || !tdi_is_aligned(piece->start | piece->length, page))
			return -EAGAIN;
		plan->huge_page = tdi_max_size(plan->huge_page, page);
	} else if (tdi_vma_is_locked(piece->start)) {
		plan->locked = true;
	}
	if (tdi_vma_is_userfault(plan->userfault, piece->start, page))
		return -EAGAIN;
	plan->movable += piece->length;
	return 0;
}

static int take_piece(const struct tdi_vma *vma, void *arg)
{
	struct plan *plan = arg;
	struct tdi_piece *piece = &plan->pieces[plan->nr_pieces];
	uintptr_t start = tdi_max_size(vma->start, plan->start);
	uintptr_t end = tdi_min_size(vma->end, plan->end);

	if (plan->nr_pieces == TDI_PIECES_MAX)
		return -E2BIG;
	*piece = (struct tdi_piece){
		.start = start,
		.length = end - start,
		.partial = start != vma->start || end != vma->end,
	};
	plan->nr_pieces++;
	return look_closer(plan, vma, piece);
}

static int is_there(const struct tdi_vma *vma, void *arg)
{
	(void)vma;
	(void)arg;
	return 1;
}

/*
 * Could the range end beyond what a process can have, which munmap refuses? Not where
 * something is mapped at its end or after it. The upper half is the kernel's.
 */
static bool may_be_too_long(const struct plan *plan)
{
	const struct tdi_piece *last;

	if (plan->evict->known || plan->nr_pieces == 0)
		return false;
	last = &plan->pieces[plan->nr_pieces - 1];
	if (last->start + last->length == plan->end)
		return false;
	return tdi_vma_walk(plan->end, (uintptr_t)INTPTR_MAX, is_there, NULL) != 1;
}

static int make_plan(struct plan *plan)
{
	int err;

	/* A region's userfaultfd is known, and has been left. */
	plan->userfault = plan->evict->known ? -1 : tdi_vma_userfault_open();
	err = tdi_vma_walk(plan->start, plan->end, take_piece, plan);
	tdi_vma_userfault_close(plan->userfault);
	return !err && may_be_too_long(plan) ? -EAGAIN : err;
}

/* ---- doing it ---- */

static bool is_unnoticeable(const struct plan *plan, const struct td_engine *engine)
{
	uint64_t pending =
		atomic_load_explicit(&engine->bytes_quarantined, memory_order_relaxed);
	struct tdi_holding holding = {
		.address_space = pending + tdi_detach_room(plan->end - plan->start,
							   plan->huge_page),
		.memory = pending + plan->movable,
		.locked = plan->locked,
		.huge_page = plan->huge_page,
	};

	return tdi_limits_are_far(&holding);
}

static int plan_for(struct tdi_evict *evict, struct plan *plan)
{
	struct tdi_extent *extent = evict->extent;
	int err;

	*plan = (struct plan){
		.evict = evict,
		.start = extent->start,
		.end = extent->start + extent->length,
	};
	err = make_plan(plan);
	evict->single = !err && plan->nr_pieces == 1 && plan->movable == extent->length;
	if (evict->single) /* no step may cut one in two */
		extent->backing.huge_page = plan->huge_page;
	return err;
}

static int detach(const struct plan *plan, struct tdi_quarantine *ret)
{
	return tdi_detach(plan->start, plan->end - plan->start, plan->pieces,
			  plan->nr_pieces, plan->huge_page, ret);
}

int tdi_evict_detach(struct tdi_evict *evict, struct tdi_quarantine *ret)
{
	struct plan plan;
	int err = plan_for(evict, &plan);

	return err ? err : detach(&plan, ret);
}

static int plan_eviction(struct tdi_evict *evict, struct plan *plan)
{
	struct td_engine *engine = evict->engine;
	size_t threshold =
		atomic_load_explicit(&engine->munmap_threshold, memory_order_relaxed);
	int err = plan_for(evict, plan);

	if (!err && plan->movable < threshold && !evict->any_size)
		err = -EFBIG;
	if (!err && !is_unnoticeable(plan, engine))
		err = -EDQUOT;
	return err;
}

/* Takes room for it, of which there is little: helping or waiting for it may take long,
 * and then everything is looked at again. */
static int admit(struct tdi_evict *evict, struct plan *plan)
{
	size_t length = evict->extent->length;
	int err = tdi_budget_admit(evict->engine, length, true);

	if (err) {
		evict->refused = err == -EAGAIN;
		return -EDQUOT;
	}
	err = plan_eviction(evict, plan);
	if (err)
		tdi_budget_give(evict->engine, length);
	return err;
}

static int hand_over(struct tdi_evict *evict, struct plan *plan)
{
	struct tdi_extent extent = *evict->extent;
	struct tdi_doomed *doomed = tdi_doomed_take();
	struct tdi_quarantine quarantine;
	int err;

	if (!doomed)
		return -EAGAIN;
	err = detach(plan, &quarantine);
	if (err) {
		tdi_doomed_give(doomed);
		return err;
	}
	extent.backing.huge_page = plan->huge_page;
	if (plan->locked)
		extent.backing.flags |= TDI_EXTENT_LOCKED;
	if (evict->gone)
		evict->gone(evict);
	tdi_doomed_submit(doomed, evict->engine, &extent, &quarantine, evict->name,
			  evict->owner);
	return 0;
}

int tdi_evict(struct tdi_evict *evict)
{
	struct td_engine *engine = evict->engine;
	size_t length = evict->extent->length;
	struct plan plan;
	int err = plan_eviction(evict, &plan);

	if (!err && !evict->admitted && !tdi_budget_try(engine, length))
		err = admit(evict, &plan);
	if (err)
		return err;
	err = hand_over(evict, &plan);
	if (err && !evict->admitted)
		tdi_budget_give(engine, length);
	return err;
}

#define FIRST_STEP ((size_t)4 << 20)
#define MAX_STEP ((size_t)256 << 20)

/*
 * The first step may be refused, since it may split a mapping. What is left is one of its
 * own then, which the kernel has no reason to keep: it is asked for some time.
 */
static int unmap_step(uintptr_t start, size_t length, bool first)
{
	int err = tdi_sys_munmap((void *)start, length);

	for (unsigned tries = 0; err && !first && tries < 10; tries++) {
		tdi_sys_pause(UINT64_C(1000000) << tries);
		err = tdi_sys_munmap((void *)start, length);
	}
	return err;
}

int tdi_unmap_in_steps(uintptr_t start, size_t length, size_t huge_page,
		       uint64_t target_ns)
{
	size_t least = tdi_max_size(tdi_pmd_size(), huge_page);
	struct tdi_pace pace;
	size_t done = 0;

	tdi_pace_init(&pace, tdi_max_size(FIRST_STEP, least), least,
		      tdi_max_size(MAX_STEP, least));
	tdi_pace_aim(&pace, target_ns);
	while (done < length) {
		size_t left = length - done;
		uintptr_t from = start + done;
		uintptr_t to = tdi_align_down(from + pace.step, least);
		size_t step = left <= pace.step ? left
			      : to > from	? to - from
						: pace.step;
		uint64_t began = tdi_sys_now_ns();
		int err = unmap_step(from, step, done == 0);

		/* In one piece it may split nothing: the end of a mapping, for instance.
		 */
		if (err && done == 0 && step < length)
			return tdi_sys_munmap((void *)start, length);
		if (err && done > 0)
			tdi_warn("%#lx-%#lx stays mapped, what was before it not: %s",
				 (unsigned long)from, (unsigned long)(start + length),
				 strerrordesc_np(-err));
		if (err)
			return done > 0 ? -ENOTRECOVERABLE : err;
		tdi_pace_learn(&pace, step, tdi_sys_now_ns() - began, target_ns);
		done += step;
	}
	return 0;
}
