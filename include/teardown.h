/* SPDX-License-Identifier: MIT */
/*
 * libteardown: free hundreds of GiB without stopping anybody.
 *
 * Freeing memory has two halves. Taking it out of sight is short and happens in
 * the caller. Giving the pages back is long and happens on the engine's reapers:
 *
 *   put -> doomed extents -> queue -> reaper: slice, slice, slice
 *       -> empty shell unmapped -> event "reclaimed" -> descriptors freed
 *
 *   td_engine  owns reaper threads; runs any slow teardown in slices   (engine.h)
 *   td_space   a refcounted set of memory: users keep the memory,
 *              counts keep the object                                  (space.h)
 *   region     a mapped range of a space                               (region.h)
 *   td_lazy    a thread's own reference to a space, for two stores         (lazy.h)
 *   td_munmap  in place of munmap(2), for any memory                   (munmap.h)
 *   td_batch   objects freed under RCU, at the cost of a store         (batch.h)
 *   pressure   what is done when memory is short, and who else is asked (pressure.h)
 *   tuning     slices, a rate, fast mode                                (tune.h)
 *   progress   how far it has come, and how long the rest will take    (progress.h)
 *   td_exit    the process ends at once, its memory goes afterwards        (exit.h)
 *   td_process kills another process, and gets its memory back          (process.h)
 *
 * Conventions: functions return 0 or a negative errno value; results come through
 * the last argument, which is left untouched on failure; option structs carry their
 * size, and zero in a field means its default; unknown flags get -EINVAL; functions
 * that destroy or drop accept NULL; timeouts are in nanoseconds, 0 polls, and
 * TD_FOREVER waits without end. After fork() every call on an engine, space or batch made
 * in the parent answers -ECHILD in the child; td_engine_restart() makes an engine usable.
 */
#ifndef TEARDOWN_H
#define TEARDOWN_H

#include <teardown/batch.h>
#include <teardown/engine.h>
#include <teardown/exit.h>
#include <teardown/lazy.h>
#include <teardown/munmap.h>
#include <teardown/pressure.h>
#include <teardown/process.h>
#include <teardown/progress.h>
#include <teardown/region.h>
#include <teardown/space.h>
#include <teardown/stats.h>
#include <teardown/tune.h>
#include <teardown/version.h>

#endif
