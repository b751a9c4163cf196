/* SPDX-License-Identifier: MIT */
/*
 * Memory pressure: what holds memory that it could free registers as a shrinker, and who
 * learns of pressure tells the engine. The engine's batches need no registration.
 */
#ifndef TEARDOWN_PRESSURE_H
#define TEARDOWN_PRESSURE_H

#include <teardown/engine.h>

#ifdef __cplusplus
extern "C" {
#endif

enum td_pressure {
	TD_PRESSURE_NONE = 0, /* over: nothing is asked for */
	TD_PRESSURE_SOME,     /* free what costs little to free */
	TD_PRESSURE_FULL,     /* free all that can be freed */
};

/* Embedded in the host's object. tdi_next is the library's while it is registered. */
struct td_shrinker {
	/*
	 * Frees what it can, or sees to it; returns how many bytes that will have been.
	 * Context: in the thread that called td_engine_pressure(), or, in an engine with
	 * TD_ENGINE_PSI, in the one that watches, with all signals blocked; no lock of
	 * the library held but that shrinkers run one at a time; may block; may use the
	 * library, but must not add or remove shrinkers of this engine, nor report
	 * pressure to it or destroy it. level: the one in force.
	 */
	uint64_t (*shrink)(struct td_shrinker *shrinker, enum td_pressure level);

	struct td_shrinker *tdi_next;
};

/*
 * Registers a shrinker; from the return of the second call on it is not running and will
 * not be called again. It stays the caller's, and must be removed before the engine is
 * destroyed.
 *
 *   engine  NULL = the default engine
 *
 * Return 0; -EINVAL: no shrinker or no function; -EALREADY: it is registered; -ENOENT: it
 * is not; -EDEADLK: called by a shrinker of this engine; -ECHILD; the first also -ENOMEM
 * (default engine). Context: block while shrinkers run.
 * (row B5)
 */
int td_engine_add_shrinker(td_engine *engine, struct td_shrinker *shrinker);
int td_engine_remove_shrinker(td_engine *engine, struct td_shrinker *shrinker);

/*
 * Memory is short, or not any more: reports a level, which holds until the next report.
 * Where the kernel reports, too (TD_ENGINE_PSI), the larger of the two holds.
 *
 * From SOME on, until it is over:
 *   - reapers are in fast mode, and no rate holds them up (td_engine_set_fast(),
 * _rate());
 *   - works that give memory back, spaces and ranges that were unmapped, go before
 * others;
 *   - once, at each report: the open groups of all batches of the engine are closed, so
 *     that they are freed after one grace period, and what room they took that is not in
 *     use is given back.
 * At FULL also:
 *   - what would begin in the background is done in the caller, before the call returns:
 *     the last td_space_put(), td_munmap() and td_region_unmap() of large ranges, and
 *     td_engine_submit() of works that have a cost. Not in callbacks, where it is queued.
 * Then, at each report, each shrinker is called, with the level in force. What is pending
 * is in turn by then but not waited for: see td_engine_relieve().
 *
 *   engine  NULL = the default engine (nothing to do if it was never made)
 *   ret     how many bytes the shrinkers say; may be NULL
 *
 * Returns 0; -EINVAL: unknown level; -EDEADLK: called by a shrinker of this engine;
 * -ECHILD. Context: blocks as the shrinkers do, never for a grace period.
 * (row B5)
 */
int td_engine_pressure(td_engine *engine, enum td_pressure level, uint64_t *ret);

#ifdef __cplusplus
}
#endif

#endif
