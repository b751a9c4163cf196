/* SPDX-License-Identifier: MIT */
/*
 * What an engine's owner can change while it runs: how long a slice lasts, how fast
 * memory goes back, and whether anybody has to be spared.
 *
 * All of it concerns slices that begin later. Each returns 0; -ECHILD; -ENOMEM (default
 * engine); engine NULL = the default engine. Context: any thread, callbacks included; may
 * block for a moment, behind another such call. (row D9)
 */
#ifndef TEARDOWN_TUNE_H
#define TEARDOWN_TUNE_H

#include <teardown/engine.h>

#include <stdbool.h>

#ifdef __cplusplus
extern "C" {
#endif

/* How long one slice may hold others up, in nanoseconds: td_engine_opts.slice_ns.
 * 0 = 500000 again. */
int td_engine_set_slice(td_engine *engine, uint64_t ns);

/*
 * Reapers release no more than so many bytes a second, together, over any time that is
 * longer than a few slices: they sleep in between, with nothing in their hands. 0 = no
 * limit. Threads that free in their place are not held up, nor is their part counted; nor
 * are works without a cost, nor anybody while memory is short (td_engine_pressure()).
 * Whoever waits for memory waits for as long as it takes at that rate.
 */
int td_engine_set_rate(td_engine *engine, uint64_t bytes_per_s);

/*
 * Fast mode, for when nobody else is there: at night, at the end of a process that
 * serves nobody any more. Slices last 40 times as long as they otherwise would, 20 ms by
 * default, and a system call may take as long, of up to 64 MiB. They are short again from
 * the first slice on that begins after it has ended. A rate stays in force. docs/design.md
 * has what it brings, which is not much.
 */
int td_engine_set_fast(td_engine *engine, bool fast);

#ifdef __cplusplus
}
#endif

#endif
