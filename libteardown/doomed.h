/* SPDX-License-Identifier: MIT */
/*
 * Floor 4: detached ranges on their way through the engine. Each takes one of a fixed
 * number of slots of the process, so that handing one over never allocates; when all are
 * taken, whoever wants one frees by himself, which also bounds what can be pending.
 */
#ifndef TDI_DOOMED_H
#define TDI_DOOMED_H

#include "detach.h"
#include "doom.h"
#include "engine_internal.h"

#define TDI_DOOMED_SLOTS 128u

struct tdi_doomed_end {
	int status;
	uint64_t refused;	 /* bytes left mapped */
	uint64_t slices, cpu_ns; /* what it took */
};

/* Who is told how it goes: both on reapers, with no lock held. */
struct tdi_doomed_owner {
	void (*released)(struct tdi_doomed_owner *owner, uint64_t bytes);
	void (*done)(struct tdi_doomed_owner *owner, const struct tdi_doomed_end *end);
};

struct tdi_doomed {
	struct td_work work;
	struct tdi_doom doom;
	struct tdi_extent extent;
	struct td_engine *engine;
	struct tdi_doomed_owner *owner; /* or NULL */
	/* What was reserved before and after the range; empty when it has been unmapped.
	 */
	struct tdi_quarantine quarantine;
	_Atomic(bool) trimmed;
};

/* A free slot, or NULL. Given back when it is not used; after a submit by itself. */
struct tdi_doomed *tdi_doomed_take(void);
void tdi_doomed_give(struct tdi_doomed *doomed);

/* The slot whose work this is, or NULL. */
const struct tdi_doomed *tdi_doomed_of(const struct td_work *work);

/*
 * Sets the slot up for a range that lies in quarantine, and hands it to the reapers; or
 * frees it in the caller, where the quarantine says that it should not wait. The extent's
 * host is prepared, and room for its length has been taken: see tdi_budget_admit.
 */
void tdi_doomed_submit(struct tdi_doomed *doomed, struct td_engine *engine,
		       const struct tdi_extent *extent,
		       const struct tdi_quarantine *quarantine, const char *name,
		       struct tdi_doomed_owner *owner);

#endif
