/* SPDX-License-Identifier: MIT */
#include "retire.h"
#include "batch_internal.h"
#include "grace.h"

#include <urcu/urcu-memb.h>

/* So many are worth a grace period in a caller. */
#define SETTLE_COUNT 64

static void release_bulk(void **objects, size_t n, void *ctx)
{
	(void)ctx;
	for (size_t i = 0; i < n; i++) {
		struct tdi_retired *retired = objects[i];

		retired->release(retired);
	}
}

int tdi_retire_init(struct td_engine *engine)
{
	return tdi_batch_create_private(engine, "retired", release_bulk,
					&engine->retired);
}

void tdi_retire(struct td_engine *engine, struct tdi_retired *retired,
		void (*release)(struct tdi_retired *retired))
{
	retired->release = release;
	(void)td_batch_free(engine->retired, &retired->node, 0);
}

void tdi_retire_settle(struct td_engine *engine)
{
	struct td_batch *batch = engine->retired;

	if (tdi_grace_runs(&engine->grace) ||
	    atomic_load_explicit(&batch->open_count, memory_order_relaxed) <
		    SETTLE_COUNT ||
	    tdi_engine_is_reaper(engine) || engine->flavor->read_ongoing())
		return;
	(void)tdi_grace_barrier(engine, batch, UINT64_MAX);
}

/*
 * Readers hold a user of a space, and each space has a reference to the engine: so there
 * are none, nor is there anybody else here. A pass would submit works, and those need an
 * engine that lives.
 */
void tdi_retire_destroy(struct td_engine *engine)
{
	struct td_batch *batch = engine->retired;
	bool all; /* it has no groups */

	if (!batch)
		return;
	if (tdi_batch_take(batch, &all))
		tdi_batch_make_ready(batch);
	while (tdi_batch_free_some(batch, true) > 0)
		;
	tdi_grace_remove(engine, batch);
	engine->retired = NULL;
	tdi_batch_put(batch);
}
