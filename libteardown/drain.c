/* SPDX-License-Identifier: MIT */
/* Waiting for an engine's works, with or without lending a hand. */
#include "engine_internal.h"
#include "sys.h"

int tdi_engine_drain(struct td_engine *engine, uint64_t deadline_ns)
{
	int err = tdi_grace_drain(engine, deadline_ns);

	return err ? err : tdi_pending_drain(&engine->pending, deadline_ns);
}

/* What both calls open with. 1: go on. */
static int enter(struct td_engine *engine)
{
	int err;

	if (!engine)
		return 0;
	err = tdi_engine_check(engine);
	if (err)
		return err;
	return tdi_engine_is_reaper(engine) ? -EDEADLK : 1;
}

int td_engine_drain(td_engine *given, int64_t timeout_ns)
{
	struct td_engine *engine = tdi_engine_made(given);
	int err = enter(engine);

	return err == 1 ? tdi_engine_drain(engine, tdi_sys_deadline(timeout_ns)) : err;
}

/* How often to look whether there is something to lend a hand with, while others work. */
#define RELIEVE_ROUND_SLICES 64u
#define RELIEVE_ROUND_NS 1000000

/* Counted, since one whose last slice has returned is not queued, nor is it done. */
static bool is_stuck(struct td_engine *engine)
{
	return tdi_queue_is_stuck(engine->queues.first,
				  tdi_pending_count(&engine->pending));
}

int td_engine_relieve(td_engine *given)
{
	struct td_engine *engine = tdi_engine_made(given);
	int err = enter(engine);

	if (err != 1)
		return err;
	tdi_grace_request(&engine->grace);
	/* What put itself off may be possible by now. */
	tdi_queues_unpark(&engine->queues);
	do {
		for (unsigned i = 0; i < RELIEVE_ROUND_SLICES; i++) {
			if (!tdi_reaper_help(engine))
				break;
		}
		err = tdi_pending_drain(&engine->pending,
					tdi_sys_deadline(RELIEVE_ROUND_NS));
	} while (err && !is_stuck(engine));
	return err ? -EAGAIN : 0;
}
