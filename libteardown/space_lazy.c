/* SPDX-License-Identifier: MIT */
/* Spaces that are held lazily: the public calls, and the end when such a hold was last.
 */
#include "space_internal.h"

#include <string.h>
#include <teardown/lazy.h>

_Static_assert(offsetof(struct td_space, lazy) == 0, "what is inlined relies on it");
_Static_assert(2 * TD_LAZY_DEPTH == TDI_LAZY_WORDS, "two words for each level");

static struct td_space *space_of(struct tdi_lazy *lazy)
{
	return tdi_container_of(lazy, struct td_space, lazy);
}

/* ---- the end ---- */

static int nothing_to_do(struct td_work *work, struct td_slice *slice)
{
	(void)work;
	(void)slice;
	return TD_WORK_DONE;
}

/* In done, which is called even where the engine abandons what it still has. */
static void end(struct td_work *work, int status)
{
	(void)status;
	tdi_space_end(tdi_container_of(work, struct td_space, work));
}

static const struct td_work_ops end_ops = {.slice = nothing_to_do, .done = end};

/*
 * Of a thread that leaves: it does not free, but have a reaper do it (row E7). The
 * space's work is over, since that dropped the count of all users: it is used again.
 */
static void drop(struct tdi_lazy *lazy)
{
	struct td_space *space = space_of(lazy);

	if (!tdi_ref_put(&space->count, "space", space->name, "count"))
		return;
	td_work_init(&space->work, &end_ops, 0);
	(void)tdi_work_claim(&space->work);
	tdi_engine_queue(space->engine, &space->work);
}

void tdi_space_lazy_init(struct td_space *space)
{
	tdi_lazy_init(&space->lazy, &space->count, drop, space->name);
}

bool tdi_space_lazy_pass(struct td_space *space)
{
	int err = tdi_lazy_pass(&space->lazy);

	if (err)
		tdi_warn("space '%s': who holds it lazily cannot be found out, it will "
			 "never be freed: membarrier: %s",
			 space->name, strerrordesc_np(-err));
	return !err;
}

/* ---- what is inlined, for those who cannot ---- */

extern inline int td_lazy_enter(td_space *space);
extern inline int td_lazy_switch(td_space *space);
extern inline int td_lazy_leave(void);
extern inline td_space *td_lazy_current(void);
