/* SPDX-License-Identifier: MIT */
/*
 * Counters of an engine, its reapers, a thread, a space and a batch. Each list below is
 * the one place where a counter is named: the struct, its reader and its JSON are made
 * from it.
 *
 * Counters are read one by one while others count on: each is right, their sum may be
 * a moment apart.
 */
#ifndef TEARDOWN_STATS_H
#define TEARDOWN_STATS_H

#include <teardown/batch.h>
#include <teardown/space.h>

#ifdef __cplusplus
extern "C" {
#endif

/* X(name, what it counts) */
#define TD_ENGINE_STATS(X)                                                               \
	X(reapers, "reaper threads")                                                     \
	X(reapers_unplaced, "the engine's threads that did not get all of the below")    \
	X(unplaced_name, "of these, could not be named")                                 \
	X(unplaced_cgroup, "could not enter the cgroup")                                 \
	X(unplaced_cpus, "were not let on those CPUs")                                   \
	X(unplaced_sched, "could not be set to that scheduling policy")                  \
	X(unplaced_nice, "could not be given that nice level")                           \
	X(works_submitted, "works submitted, spaces included")                           \
	X(works_pending, "works submitted and not yet done")                             \
	X(works_done, "works that ended, in whatever way")                               \
	X(works_in_caller, "works that ran in their submitter or attached reaper")       \
	X(works_failed, "works that ended with an error, abandoned ones included")       \
	X(bytes_pending, "bytes of cost submitted and not yet released")                 \
	X(bytes_pending_peak, "most of them that were left to reapers at once")          \
	X(bytes_reclaimed, "bytes released")                                             \
	X(bytes_in_caller, "of these, by others than its reapers")                       \
	X(budget, "bytes that may be left to reapers")                                   \
	X(budget_helped, "calls that found no room in it and ran slices")                \
	X(budget_waited, "calls that slept for room")                                    \
	X(budget_refused, "calls that got -EAGAIN")                                      \
	X(budget_in_place,                                                               \
	  "calls that freed their own, since nothing moved or in callbacks")             \
	X(munmaps_deferred, "ranges taken out of sight at once and freed later")         \
	X(munmaps_in_caller, "ranges of such a size that the caller freed all the same") \
	X(bytes_quarantined, "bytes out of sight and not yet released")                  \
	X(slices, "slices run")                                                          \
	X(slices_stolen, "of these, by reapers of another NUMA node than their queue's") \
	X(moves_home, "times that a work went to the node that has its pages")           \
	X(pauses, "slices that could not go on and were put off")                        \
	X(cpu_ns, "CPU time of all slices and callbacks, ns")                            \
	X(cpu_in_caller_ns, "of this, in others than its reapers")                       \
	X(psi_watched, "1: a thread waits for the kernel to say that memory is short")   \
	X(pressure_events, "times that it did")                                          \
	X(pressure, "the level in force, as an enum td_pressure")                        \
	X(grace_periods, "grace periods waited for, by all batches together")

#define TD_REAPER_STATS(X)                                                               \
	X(tid, "of the thread, as gettid(2) has it")                                     \
	X(cpu, "where it ran last")                                                      \
	X(node, "the NUMA node of that CPU")                                             \
	X(slices, "slices run")                                                          \
	X(bytes_reclaimed, "bytes released")                                             \
	X(cpu_ns, "CPU time of these slices and of callbacks, ns")

/* Of whatever engines. Not in it: objects that it freed while it added to a batch. */
#define TD_THREAD_STATS(X)                                                               \
	X(slices, "slices run")                                                          \
	X(slices_as_reaper, "of these, as a reaper of an engine")                        \
	X(slices_attached, "as the reaper of a space")                                   \
	X(slices_as_helper, "lending a hand: td_engine_relieve(), td_space_release()")   \
	X(slices_as_caller, "of what it put, unmapped or submitted itself")              \
	X(bytes_reclaimed, "bytes released")                                             \
	X(cpu_ns, "CPU time of these slices and of callbacks, ns")

#define TD_SPACE_STATS(X)                                                                \
	X(users, "users now")                                                            \
	X(count, "counts now, one for all users included")                               \
	X(regions, "regions not yet released")                                           \
	X(bytes_mapped, "bytes in regions so far, reclaimed ones included")              \
	X(bytes_pending, "bytes put and not yet released")                               \
	X(bytes_reclaimed, "bytes released")                                             \
	X(bytes_refused, "bytes left mapped: the kernel would not unmap them")           \
	X(slices, "slices run, once they are done also for ranges unmapped before")      \
	X(cpu_ns, "CPU time of all these, callbacks for gone included, ns")              \
	X(put_to_reclaimed_ns, "time from the last put to reclaimed, ns; 0 before")

#define TD_BATCH_STATS(X)                                                                \
	X(objects_closed, "objects that a grace period was asked for")                   \
	X(objects_freed, "objects handed to the callback")                               \
	X(objects_helped, "of these, in threads that added")                             \
	X(bytes_pending, "bytes added and not yet freed")                                \
	X(bytes_room, "bytes taken for pointers and groups")                             \
	X(waits, "times that an adder gave up the CPU, for the bound or for room")       \
	X(passed_bound, "adds, about, that found the bound passed")                      \
	X(refused, "plain pointers that there was no room for")

#define TD_STATS_FIELD_(name, text) uint64_t name;
struct td_engine_stats {
	TD_ENGINE_STATS(TD_STATS_FIELD_)
};
struct td_reaper_stats {
	TD_REAPER_STATS(TD_STATS_FIELD_)
};
struct td_thread_stats {
	TD_THREAD_STATS(TD_STATS_FIELD_)
};
struct td_space_stats {
	TD_SPACE_STATS(TD_STATS_FIELD_)
};
struct td_batch_stats {
	TD_BATCH_STATS(TD_STATS_FIELD_)
};
#undef TD_STATS_FIELD_

/*
 * Read the counters. engine NULL = the default engine; index: of the reaper, from 0; the
 * thread is the calling one.
 * Return 0; -EINVAL: no such reaper, no space, no batch; -ECHILD; the engine's also
 * -ENOMEM (default engine). Context: do not block; the caller holds a user or a count of
 * the space. (row A8)
 */
int td_engine_stats(td_engine *engine, struct td_engine_stats *ret);
int td_engine_reaper_stats(td_engine *engine, unsigned index,
			   struct td_reaper_stats *ret);
int td_thread_stats(struct td_thread_stats *ret);
int td_space_stats(td_space *space, struct td_space_stats *ret);
int td_batch_stats(td_batch *batch, struct td_batch_stats *ret);

/*
 * The same as one JSON object, {"reapers":2,...}, on one line without a newline.
 *
 *   buf, size  where to write, NUL-terminated; NULL, 0 only asks for the length
 *   ret        length of the text, without the NUL; may be NULL
 *
 * Return 0; -ENOSPC: buf is too small; or what the reader above returns. On failure
 * buf is untouched too. Context: as above.
 */
int td_engine_stats_json(td_engine *engine, char *buf, size_t size, size_t *ret);
int td_engine_reaper_stats_json(td_engine *engine, unsigned index, char *buf, size_t size,
				size_t *ret);
int td_thread_stats_json(char *buf, size_t size, size_t *ret);
int td_space_stats_json(td_space *space, char *buf, size_t size, size_t *ret);
int td_batch_stats_json(td_batch *batch, char *buf, size_t size, size_t *ret);

#ifdef __cplusplus
}
#endif

#endif
