/* SPDX-License-Identifier: MIT */
#include "batch_internal.h"
#include "space_internal.h"

#include <stdio.h>
#include <string.h>
#include <teardown/stats.h>

static uint64_t load(_Atomic(uint64_t) *counter)
{
	return atomic_load_explicit(counter, memory_order_relaxed);
}

/* For one reason, or TDI_UNPLACED_KINDS for whichever. */
static uint64_t unplaced(struct td_engine *engine, unsigned why)
{
	struct tdi_placement *placement = &engine->placement;

	return atomic_load_explicit(why < TDI_UNPLACED_KINDS
					    ? &placement->unplaced_by[why]
					    : &placement->unplaced,
				    memory_order_relaxed);
}

int td_engine_stats(td_engine *given, struct td_engine_stats *ret)
{
	struct td_engine *engine;
	int err = tdi_engine_resolve(given, &engine);

	if (err)
		return err;
	*ret = (struct td_engine_stats){
		.reapers = atomic_load_explicit(&engine->stopped, memory_order_relaxed)
				   ? 0
				   : engine->nr_reapers,
		.reapers_unplaced = unplaced(engine, TDI_UNPLACED_KINDS),
		.unplaced_name = unplaced(engine, TDI_UNPLACED_NAME),
		.unplaced_cgroup = unplaced(engine, TDI_UNPLACED_CGROUP),
		.unplaced_cpus = unplaced(engine, TDI_UNPLACED_CPUS),
		.unplaced_sched = unplaced(engine, TDI_UNPLACED_SCHED),
		.unplaced_nice = unplaced(engine, TDI_UNPLACED_NICE),
		.works_submitted = load(&engine->works_submitted),
		.works_pending = tdi_pending_count(&engine->pending),
		.works_done = load(&engine->works_done),
		.works_in_caller = load(&engine->works_in_caller),
		.works_failed = load(&engine->works_failed),
		.bytes_pending =
			load(&engine->bytes_pending) + load(&engine->bytes_exempt),
		.bytes_pending_peak = load(&engine->budget.peak),
		.bytes_reclaimed = load(&engine->bytes_reclaimed),
		.budget = load(&engine->budget.limit),
		.budget_helped = load(&engine->budget.helped),
		.budget_waited = load(&engine->budget.waited),
		.budget_refused = load(&engine->budget.refused),
		.budget_in_place = load(&engine->budget.in_place),
		.munmaps_deferred = load(&engine->munmaps_deferred),
		.munmaps_in_caller = load(&engine->munmaps_in_caller),
		.bytes_quarantined = load(&engine->bytes_quarantined),
		.bytes_in_caller = load(&engine->bytes_in_caller),
		.slices = load(&engine->slices),
		.slices_stolen = load(&engine->slices_stolen),
		.moves_home = load(&engine->moves_home),
		.pauses = load(&engine->pauses),
		.cpu_ns = load(&engine->cpu_ns),
		.cpu_in_caller_ns = load(&engine->cpu_in_caller_ns),
		.psi_watched = tdi_psi_watch_runs(engine),
		.pressure_events = load(&engine->psi_watch.events),
		.pressure = tdi_engine_pressure_now(engine),
		.grace_periods = load(&engine->grace.periods),
	};
	return 0;
}

int td_space_stats(td_space *space, struct td_space_stats *ret)
{
	struct td_space_stats now;
	int err = tdi_space_check(space);
	bool gone, reclaimed;
	uint64_t mapped, released;

	if (err)
		return err;
	/* Reclaimed first: a space that is reclaimed is gone, too. */
	reclaimed = tdi_events_happened(&space->events, TD_EVENT_RECLAIMED);
	gone = tdi_events_happened(&space->events, TD_EVENT_GONE);
	mapped = load(&space->bytes_mapped);
	released = load(&space->bytes_reclaimed);
	now = (struct td_space_stats){
		.users = tdi_ref_read(&space->users),
		.count = tdi_ref_read(&space->count),
		.regions = load(&space->regions),
		.bytes_mapped = mapped,
		.bytes_pending = gone && !reclaimed ? mapped - released : 0,
		.bytes_reclaimed = released,
		.bytes_refused = reclaimed ? load(&space->refused) : 0,
		.slices = load(&space->ranges_slices) +
			  atomic_load_explicit(&space->work.tdi_slices,
					       memory_order_relaxed),
		.cpu_ns = load(&space->ranges_cpu_ns) + load(&space->work.tdi_cpu_ns),
		.put_to_reclaimed_ns =
			reclaimed ? space->reclaimed_ns - space->put_ns : 0,
	};
	if (space->nodes)
		tdi_space_nodes_count(space, &now.slices, &now.cpu_ns);
	*ret = now;
	return 0;
}

/* What groups hold and have not reported: a hint beside threads that add. */
static int64_t unreported(struct td_batch *batch)
{
	int64_t bytes = 0;

	tdi_groups_for_each(&batch->groups, block, group)
	{
		void **next = tdi_group_next(group);

		if (next)
			bytes += (int64_t)(load(&tdi_page_before(next)->bytes) -
					   load(&group->reported));
	}
	return bytes;
}

int td_batch_stats(td_batch *batch, struct td_batch_stats *ret)
{
	int err = batch ? tdi_batch_check_process(batch) : -EINVAL;
	int64_t bytes;

	if (err)
		return err;
	bytes = atomic_load_explicit(&batch->bytes, memory_order_relaxed) +
		unreported(batch);
	*ret = (struct td_batch_stats){
		.objects_closed = load(&batch->objects_closed),
		.objects_freed = load(&batch->objects_freed),
		.objects_helped = load(&batch->objects_helped),
		.bytes_pending = bytes > 0 ? (uint64_t)bytes : 0,
		.bytes_room = (uint64_t)batch->pages.nr_pages * TDI_PAGE_SIZE +
			      tdi_groups_bytes(&batch->groups),
		.waits = load(&batch->waits),
		.passed_bound = load(&batch->passed_bound),
		.refused = load(&batch->refused),
	};
	return 0;
}

/* ---- as JSON ---- */

/* Room for any of the objects: 20 digits and 30 bytes of name for each counter. */
#define JSON_SIZE 4096

/* Such a struct is nothing but its counters, in the order of their names. */
static int write_json(const char *const *names, const uint64_t *values, size_t n,
		      char *buf, size_t size, size_t *ret)
{
	char text[JSON_SIZE];
	size_t length = 0;

	for (size_t i = 0; i < n; i++)
		length += (size_t)snprintf(text + length, sizeof(text) - length,
					   "%c\"%s\":%llu", i == 0 ? '{' : ',', names[i],
					   (unsigned long long)values[i]);
	text[length++] = '}';
	if (buf || size) {
		if (!buf || length >= size)
			return -ENOSPC;
		memcpy(buf, text, length);
		buf[length] = '\0';
	}
	if (ret)
		*ret = length;
	return 0;
}

#define NAME_OF(name, description) #name,
#define WRITE_JSON(LIST, stats, buf, size, ret)                                          \
	({                                                                               \
		static const char *const names_[] = {LIST(NAME_OF)};                     \
                                                                                         \
		_Static_assert(sizeof(names_) / sizeof(*names_) * 51 < JSON_SIZE,        \
			       "no room for the text");                                  \
		write_json(names_, (const uint64_t *)&(stats),                           \
			   sizeof(names_) / sizeof(*names_), buf, size, ret);            \
	})

int td_engine_stats_json(td_engine *engine, char *buf, size_t size, size_t *ret)
{
	struct td_engine_stats stats;
	int err = td_engine_stats(engine, &stats);

	return err ? err : WRITE_JSON(TD_ENGINE_STATS, stats, buf, size, ret);
}

int td_engine_reaper_stats_json(td_engine *engine, unsigned index, char *buf, size_t size,
				size_t *ret)
{
	struct td_reaper_stats stats;
	int err = td_engine_reaper_stats(engine, index, &stats);

	return err ? err : WRITE_JSON(TD_REAPER_STATS, stats, buf, size, ret);
}

int td_thread_stats_json(char *buf, size_t size, size_t *ret)
{
	struct td_thread_stats stats;
	int err = td_thread_stats(&stats);

	return err ? err : WRITE_JSON(TD_THREAD_STATS, stats, buf, size, ret);
}

int td_space_stats_json(td_space *space, char *buf, size_t size, size_t *ret)
{
	struct td_space_stats stats;
	int err = td_space_stats(space, &stats);

	return err ? err : WRITE_JSON(TD_SPACE_STATS, stats, buf, size, ret);
}

int td_batch_stats_json(td_batch *batch, char *buf, size_t size, size_t *ret)
{
	struct td_batch_stats stats;
	int err = td_batch_stats(batch, &stats);

	return err ? err : WRITE_JSON(TD_BATCH_STATS, stats, buf, size, ret);
}
