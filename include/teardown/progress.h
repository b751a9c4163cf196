/* SPDX-License-Identifier: MIT */
/* How far an engine has come with what it was given, and how long the rest will take. */
#ifndef TEARDOWN_PROGRESS_H
#define TEARDOWN_PROGRESS_H

#include <teardown/engine.h>

#ifdef __cplusplus
extern "C" {
#endif

struct td_progress {
	uint64_t bytes_done;  /* released since the engine was made */
	uint64_t bytes_to_go; /* of works submitted and not yet done */
	uint64_t works_to_go; /* these works; 0: nothing is pending */
	uint64_t bytes_per_s; /* as of the last second; 0: nothing was released in it */
	uint64_t ns_left;     /* at that rate; UINT64_MAX: it is 0 */
};

/*
 * How far it is.
 *
 *   engine  NULL = the default engine (all 0 if it was never made)
 *
 * Returns 0; -ECHILD. Context: any thread, callbacks included; takes a lock that is only
 * ever held for moments.
 */
int td_engine_progress(td_engine *engine, struct td_progress *ret);

/*
 * Is told of it. Context: on a reaper, or in a thread that frees in the place of one,
 * between two slices; one call at a time; no lock of the library held; may block (then
 * that reaper does nothing else) and may use the library, with -EDEADLK where it would
 * wait for the engine.
 */
typedef void td_progress_fn(const struct td_progress *progress, void *arg);

/*
 * From now on calls fn(progress, arg) while works are pending, when a slice ends and the
 * last call is interval_ns ago; and once more when nothing is pending any more, unless
 * it has not been called since the last time that was so. Waiting for the engine
 * (td_engine_drain) waits for these calls, too. They end when the engine is destroyed.
 *
 *   engine       NULL = the default engine
 *   fn           in place of the one before, if any; NULL: none. When this returns, the
 *                one before is not running and will not be called again
 *   interval_ns  0 = 100 ms
 *
 * Returns 0; -EDEADLK: called by such a call of this engine; -ECHILD; -ENOMEM (default
 * engine). Context: blocks while fn is running elsewhere.
 */
int td_engine_on_progress(td_engine *engine, td_progress_fn *fn, void *arg,
			  uint64_t interval_ns);

#ifdef __cplusplus
}
#endif

#endif
