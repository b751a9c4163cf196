/* SPDX-License-Identifier: MIT */
#include "doomed.h"
#include "home.h"
#include "host.h"
#include "sys.h"

#include <string.h>

#define RESET_PAUSE_NS 1000

static struct tdi_doomed slots[TDI_DOOMED_SLOTS];
static _Atomic(uint64_t) taken[TDI_DOOMED_SLOTS / 64];

/*
 * After a fork they are all free: what they were for is the parent's. Twice the
 * generation of the process whose slots these are, and one more while they are being
 * freed: not a lock, which a child of that process could inherit.
 */
static _Atomic(unsigned) slots_of;

static bool are_ours(void)
{
	return atomic_load_explicit(&slots_of, memory_order_acquire) ==
	       2 * tdi_fork_generation;
}

static void reset_after_fork(void)
{
	unsigned resetting = 2 * tdi_fork_generation + 1;
	unsigned of = atomic_load_explicit(&slots_of, memory_order_relaxed);

	if (of != resetting && !are_ours() &&
	    atomic_compare_exchange_strong_explicit(&slots_of, &of, resetting,
						    memory_order_relaxed,
						    memory_order_relaxed)) {
		for (unsigned word = 0; word < TDI_DOOMED_SLOTS / 64; word++)
			atomic_store_explicit(&taken[word], 0, memory_order_relaxed);
		/* Release: pairs with the acquire in are_ours. */
		atomic_store_explicit(&slots_of, resetting - 1, memory_order_release);
	}
	while (!are_ours()) /* somebody else is at it */
		tdi_sys_pause(RESET_PAUSE_NS);
}

struct tdi_doomed *tdi_doomed_take(void)
{
	if (tdi_unlikely(!are_ours()))
		reset_after_fork();
	for (unsigned word = 0; word < TDI_DOOMED_SLOTS / 64; word++) {
		uint64_t bits = atomic_load_explicit(&taken[word], memory_order_relaxed);

		while (~bits != 0) {
			unsigned bit = (unsigned)__builtin_ctzll(~bits);

			/* Acquire: pairs with the release in tdi_doomed_give. */
			if (atomic_compare_exchange_weak_explicit(
				    &taken[word], &bits, bits | UINT64_C(1) << bit,
				    memory_order_acquire, memory_order_relaxed))
				return &slots[word * 64 + bit];
		}
	}
	return NULL;
}

void tdi_doomed_give(struct tdi_doomed *doomed)
{
	size_t index = (size_t)(doomed - slots);

	atomic_fetch_and_explicit(&taken[index / 64], ~(UINT64_C(1) << index % 64),
				  memory_order_release);
}

static int doomed_slice(struct td_work *work, struct td_slice *slice)
{
	struct tdi_doomed *doomed = tdi_container_of(work, struct tdi_doomed, work);
	int result;

	if (tdi_home_is_elsewhere(doomed->engine, &doomed->doom, slice))
		return TD_WORK_MORE;
	if (!atomic_exchange_explicit(&doomed->trimmed, true, memory_order_relaxed))
		(void)tdi_detach_trim(&doomed->quarantine, doomed->extent.length);
	result = tdi_doom_slice_of(&doomed->doom, slice,
				   tdi_reaping_how() & TDI_REAPING_KEEP_SHARED);
	if (slice->released > 0 && doomed->owner)
		doomed->owner->released(doomed->owner, slice->released);
	return result;
}

static void doomed_done(struct td_work *work, int status)
{
	struct tdi_doomed *doomed = tdi_container_of(work, struct tdi_doomed, work);
	struct tdi_doomed_owner *owner = doomed->owner;
	struct tdi_extent *left = tdi_doom_leftover(&doomed->doom);
	struct tdi_doomed_end end = {
		.status = status,
		.refused = doomed->doom.refused,
		.slices = atomic_load_explicit(&work->tdi_slices, memory_order_relaxed),
		.cpu_ns = atomic_load_explicit(&work->tdi_cpu_ns, memory_order_relaxed),
	};

	if (left) { /* abandoned, or refused for too long */
		end.refused += left->length - left->unmapped;
		tdi_host_done(left, status);
		if (status != -ECANCELED)
			tdi_warn("%s: %#lx-%#lx could not be unmapped: %s",
				 doomed->doom.name, (unsigned long)left->start,
				 (unsigned long)(left->start + left->length),
				 strerrordesc_np(-status));
	} else if (!tdi_detach_trim(&doomed->quarantine, doomed->extent.length)) {
		tdi_warn("%s: address space around %#lx-%#lx stays reserved",
			 doomed->doom.name, (unsigned long)doomed->quarantine.reserved,
			 (unsigned long)doomed->quarantine.reserved_end);
	}
	if (!status)
		end.status = doomed->doom.status;
	atomic_fetch_sub_explicit(&doomed->engine->bytes_quarantined,
				  doomed->extent.length, memory_order_relaxed);
	tdi_doom_destroy(&doomed->doom);
	tdi_doomed_give(doomed);
	if (owner)
		owner->done(owner, &end);
}

static const struct td_work_ops doomed_ops = {
	.slice = doomed_slice,
	.done = doomed_done,
};

const struct tdi_doomed *tdi_doomed_of(const struct td_work *work)
{
	return work->ops == &doomed_ops
		       ? (const struct tdi_doomed *)((const char *)work -
						     offsetof(struct tdi_doomed, work))
		       : NULL;
}

void tdi_doomed_submit(struct tdi_doomed *doomed, struct td_engine *engine,
		       const struct tdi_extent *extent,
		       const struct tdi_quarantine *quarantine, const char *name,
		       struct tdi_doomed_owner *owner)
{
	td_work_init(&doomed->work, &doomed_ops, extent->length);
	doomed->work.parallel = UINT32_MAX;
	doomed->work.tdi_gives_memory = true;
	tdi_doom_init(&doomed->doom, name);
	tdi_extent_init(&doomed->extent, &extent->backing, quarantine->start,
			extent->length);
	tdi_extent_carry_on(&doomed->extent, extent);
	if (!quarantine->exposed)
		doomed->extent.backing.flags |= TDI_EXTENT_NO_FORK;
	doomed->engine = engine;
	doomed->owner = owner;
	doomed->quarantine = *quarantine;
	atomic_store_explicit(&doomed->trimmed, false, memory_order_relaxed);
	tdi_doom_add(&doomed->doom, &doomed->extent);
	atomic_fetch_add_explicit(&engine->bytes_quarantined, extent->length,
				  memory_order_relaxed);
	(void)tdi_work_claim(&doomed->work);
	if (tdi_unlikely(quarantine->exposed)) {
		tdi_budget_give(engine, extent->length);
		(void)tdi_engine_run(engine, &doomed->work);
	} else {
		tdi_engine_queue_admitted(engine, &doomed->work);
	}
}
