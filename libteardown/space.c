/* SPDX-License-Identifier: MIT */
/*
 * The life of a space:
 *
 *   users > 0                      regions come and go
 *   last put                       event "gone"; the space's work is submitted, handed to
 *                                  the thread that is attached (space_reap.c), or run in
 *                                  the caller (put_sync)
 *   the work's slices, on reapers  callbacks for "gone"; extents released
 *   the work is done               event "reclaimed", its callbacks; those who hold it
 *                                  lazily get counts; the count that all users held
 *                                  together is dropped
 *   last count                     the object is freed, the engine's reference given up
 */
#include "host.h"
#include "space_internal.h"
#include "sys.h"
#include "trace.h"

#include <stdlib.h>
#include <string.h>

static struct tdi_region *region_of(struct tdi_extent *extent)
{
	return tdi_container_of(extent, struct tdi_region, extent);
}

/* ---- the teardown, on reapers ---- */

static int unmap(struct tdi_extent *extent, uintptr_t start, size_t length)
{
	return tdi_region_unmap(region_of(extent), start, length);
}

/* Nobody looks regions up any more: no grace period has to pass. (B4) */
static void forget_extent(struct tdi_doom *doom, struct tdi_extent *extent)
{
	struct td_space *space = doom->owner;

	atomic_fetch_sub_explicit(&space->regions, 1, memory_order_relaxed);
	tdi_space_forget_room(space, region_of(extent));
	tdi_region_free(region_of(extent));
}

static void call_back(void *owner, void (*call)(void), void *arg, uint32_t event)
{
	struct td_space *space = owner;
	int status = event == TD_EVENT_RECLAIMED ? tdi_space_status(space) : 0;

	((td_event_fn *)call)(space, event, status, arg);
}

static void call_back_gone(void *owner, void (*call)(void), void *arg)
{
	call_back(owner, call, arg, TD_EVENT_GONE);
}

static void call_back_reclaimed(void *owner, void (*call)(void), void *arg)
{
	call_back(owner, call, arg, TD_EVENT_RECLAIMED);
}

/*
 * Calls back for "gone", before anything is released: true when that is over, false while
 * another reaper is at it.
 */
static bool call_back_first(struct td_space *space)
{
	uint32_t state = CALLS_TO_MAKE;

	if (tdi_likely(atomic_load_explicit(&space->gone_calls, memory_order_acquire) ==
		       CALLS_MADE))
		return true;
	/* As a rule there are none, and no other reaper has to wait for us. */
	if (tdi_events_close_calls(&space->events, TD_EVENT_GONE)) {
		atomic_store_explicit(&space->gone_calls, CALLS_MADE,
				      memory_order_release);
		return true;
	}
	if (!atomic_compare_exchange_strong_explicit(
		    &space->gone_calls, &state, CALLS_BEING_MADE, memory_order_acquire,
		    memory_order_acquire))
		return state == CALLS_MADE;
	tdi_events_take_calls(&space->events, TD_EVENT_GONE, call_back_gone, space);
	/* Release: what the callbacks did comes before what other reapers do. */
	atomic_store_explicit(&space->gone_calls, CALLS_MADE, memory_order_release);
	return true;
}

static int slice_of(struct td_space *space, struct td_slice *slice, unsigned how)
{
	int result = TD_WORK_WAIT;

	if (!call_back_first(space))
		return result;
	if (tdi_unlikely(space->nodes)) {
		result = tdi_space_nodes_sort(space, slice);
		if (result)
			return result;
	}
	return tdi_doom_slice_of(&space->doom, slice, how & TDI_REAPING_KEEP_SHARED);
}

static int space_slice(struct td_work *work, struct td_slice *slice)
{
	struct td_space *space = tdi_container_of(work, struct td_space, work);
	uint32_t users = tdi_ref_read(&space->users);
	unsigned how = tdi_reaping_how();
	int result;

	if (tdi_unlikely(users != 0))
		tdi_die("space '%s': torn down with %u users", space->name, users);
	if (!(how & TDI_REAPING_BESIDE))
		tdi_space_beside_open(space);
	result = slice_of(space, slice, how);
	/* The rest is in the hands of one whom the engine does not know of. */
	if (result == TD_WORK_WAIT && !(how & TDI_REAPING_BESIDE))
		tdi_space_beside_wait(space, slice->deadline_ns);
	atomic_fetch_add_explicit(&space->bytes_reclaimed, slice->released,
				  memory_order_relaxed);
	return result;
}

static void drop_count(struct td_space *space);

void tdi_space_part_begins(struct td_space *space)
{
	atomic_fetch_add_explicit(&space->parts, 1, memory_order_relaxed);
}

void tdi_space_part_ends(struct td_space *space, int status, uint64_t refused)
{
	int none = 0;

	if (status)
		atomic_compare_exchange_strong_explicit(&space->status, &none, status,
							memory_order_relaxed,
							memory_order_relaxed);
	atomic_fetch_add_explicit(&space->refused, refused, memory_order_relaxed);
	/* acq_rel: the last one sees what the others did. */
	if (atomic_fetch_sub_explicit(&space->parts, 1, memory_order_acq_rel) > 1)
		return;
	space->reclaimed_ns = tdi_sys_now_ns();
	tdi_trace_reclaimed(
		space, space->name,
		atomic_load_explicit(&space->bytes_reclaimed, memory_order_relaxed),
		space->reclaimed_ns - space->put_ns, tdi_space_status(space));
	tdi_events_raise(&space->events, TD_EVENT_RECLAIMED);
	tdi_events_take_calls(&space->events, TD_EVENT_RECLAIMED, call_back_reclaimed,
			      space);
	if (tdi_space_lazy_pass(space))
		drop_count(space);
}

static void evicted_released(struct tdi_doomed_owner *owner, uint64_t bytes)
{
	struct td_space *space = tdi_container_of(owner, struct td_space, evicted);

	atomic_fetch_add_explicit(&space->bytes_reclaimed, bytes, memory_order_relaxed);
}

void tdi_space_range_ends(struct td_space *space, const struct tdi_doomed_end *end)
{
	atomic_fetch_add_explicit(&space->ranges_slices, end->slices,
				  memory_order_relaxed);
	atomic_fetch_add_explicit(&space->ranges_cpu_ns, end->cpu_ns,
				  memory_order_relaxed);
	tdi_space_part_ends(space, end->status, end->refused);
}

static void evicted_done(struct tdi_doomed_owner *owner, const struct tdi_doomed_end *end)
{
	tdi_space_range_ends(tdi_container_of(owner, struct td_space, evicted), end);
}

void tdi_space_doom_init(struct td_space *space, struct tdi_doom *doom)
{
	tdi_doom_init(doom, space->name);
	doom->owner = space;
	doom->unmap = unmap;
	doom->extent_done = forget_extent;
}

void tdi_space_doom_done(struct td_space *space, struct tdi_doom *doom, int status)
{
	struct tdi_extent *extent;
	uint64_t left = 0;

	/* Left where the engine abandoned it, or had no thread to go on with it. */
	while ((extent = tdi_doom_leftover(doom)) != NULL) {
		left += extent->length - extent->unmapped;
		tdi_host_done(extent, status);
		forget_extent(doom, extent);
	}
	if (left > 0 && status != -ECANCELED) {
		doom->refused += left;
		tdi_warn("space '%s': %llu bytes of address space could not be unmapped: "
			 "%s",
			 space->name, (unsigned long long)left, strerrordesc_np(-status));
	}
	tdi_space_part_ends(space, status ? status : doom->status, doom->refused);
}

static void space_done(struct td_work *work, int status)
{
	struct td_space *space = tdi_container_of(work, struct td_space, work);

	tdi_space_beside_close(space);
	(void)call_back_first(space); /* abandoned before its first slice */
	if (tdi_unlikely(space->nodes))
		tdi_space_nodes_give_up(space);
	tdi_space_doom_done(space, &space->doom, status);
}

static const struct td_work_ops space_work_ops = {
	.slice = space_slice,
	.done = space_done,
};

/* ---- creating and freeing ---- */

int td_space_create(td_engine *given, const struct td_space_opts *given_opts,
		    td_space **ret)
{
	struct td_space_opts opts = {0};
	struct td_engine *engine;
	struct td_space *space;
	int err = tdi_opts_take(&opts, sizeof(opts), given_opts);

	if (!err && ((opts.flags & ~(TD_SPACE_DETACH | TD_SPACE_KEEP_SHARED)) != 0 ||
		     opts.weight > TDI_WEIGHT_MAX))
		err = -EINVAL;
	if (!err)
		err = tdi_engine_resolve(given, &engine);
	if (err)
		return err;
	space = aligned_alloc(_Alignof(struct td_space), sizeof(*space));
	if (!space)
		return -ENOMEM;
	memset(space, 0, sizeof(*space));
	tdi_ref_init(&space->users, 1);
	tdi_ref_init(&space->count, 1); /* all users' together */
	strncpy(space->name, opts.name ? opts.name : "space", sizeof(space->name) - 1);
	tdi_events_init(&space->events);
	td_work_init(&space->work, &space_work_ops, 0);
	tdi_space_doom_init(space, &space->doom);
	space->work.parallel = UINT32_MAX;
	space->work.weight = opts.weight;
	space->work.tdi_gives_memory = true;
	space->engine = engine;
	space->flags = opts.flags;
	space->generation = tdi_fork_generation;
	if (engine->queues.nr > 1 && tdi_space_nodes_make(space)) {
		tdi_doom_destroy(&space->doom);
		free(space);
		return -ENOMEM;
	}
	space->evicted = (struct tdi_doomed_owner){evicted_released, evicted_done};
	atomic_init(&space->parts, 1); /* the work */
	tdi_space_lazy_init(space);
	tdi_map_init(&space->map, engine);
	pthread_mutex_init(&space->map_lock, NULL);
	pthread_cond_init(&space->settled, NULL);
	tdi_engine_get(engine);
	*ret = space;
	return 0;
}

static void space_free(struct td_space *space)
{
	struct td_engine *engine = space->engine;

	tdi_map_destroy(&space->map);
	pthread_mutex_destroy(&space->map_lock);
	pthread_cond_destroy(&space->settled);
	if (space->nodes)
		tdi_space_nodes_free(space);
	tdi_doom_destroy(&space->doom);
	free(space);
	tdi_engine_put(engine);
}

void tdi_space_end(struct td_space *space)
{
	/* The count of all users is among those that were dropped: too many were. */
	if (!tdi_events_happened(&space->events, TD_EVENT_RECLAIMED))
		tdi_die("space '%s': last count dropped before its memory was reclaimed",
			space->name);
#ifdef TDI_DEBUG
	if (tdi_lazy_is_held(&space->lazy))
		tdi_die("space '%s': its last count is dropped, and it is held lazily",
			space->name);
#endif
	space_free(space);
}

static void drop_count(struct td_space *space)
{
	if (tdi_ref_put(&space->count, "space", space->name, "count"))
		tdi_space_end(space);
}

/* ---- users and counts ---- */

TDI_HOT int td_space_get(td_space *space)
{
	int err = tdi_space_check(space);

	if (tdi_likely(!err))
		tdi_ref_get(&space->users, "space", space->name, "users");
	return err;
}

bool td_space_get_not_zero(td_space *space)
{
	return !tdi_space_check(space) &&
	       tdi_ref_get_not_zero(&space->users, "space", space->name, "users");
}

static uint64_t bytes_left(struct td_space *space)
{
	return atomic_load_explicit(&space->bytes_mapped, memory_order_relaxed) -
	       atomic_load_explicit(&space->bytes_unmapped, memory_order_relaxed);
}

/* The last user has left: from here on the work is ready to be run. */
TDI_HOT static void end_users(struct td_space *space)
{
	tdi_lazy_close(&space->lazy);
	space->put_ns = tdi_sys_now_ns();
	space->work.cost = bytes_left(space);
	(void)tdi_work_claim(&space->work);
	tdi_trace_put(space, space->name, space->work.cost);
	if (tdi_unlikely(space->flags & TD_SPACE_DETACH))
		tdi_space_detach(space);
	tdi_trace_gone(space, space->name, space->work.cost);
	tdi_events_raise(&space->events, TD_EVENT_GONE);
}

static bool put_user(struct td_space *space)
{
	if (!tdi_ref_put(&space->users, "space", space->name, "users"))
		return false;
	end_users(space);
	return true;
}

bool tdi_space_put_user(struct td_space *space)
{
	return put_user(space);
}

/* The last user has left, with room for its memory or without. */
TDI_HOT static void queue_or_run(struct td_space *space, int admitted)
{
	if (tdi_likely(admitted == 0))
		tdi_engine_queue_admitted(space->engine, &space->work);
	else
		(void)tdi_engine_run(space->engine, &space->work);
}

TDI_HOT void tdi_space_queue(struct td_space *space)
{
	queue_or_run(space, tdi_budget_admit(space->engine, space->work.cost, false));
}

/*
 * Where a put may be refused, room for what may be the last one is taken before it, since
 * there is no way back after it. Others may still have added memory, or a user.
 * (noinline, here and below: every put would save registers for it.)
 */
__attribute__((noinline)) static int put_or_refuse(struct td_space *space)
{
	struct td_engine *engine = space->engine;
	uint64_t room, cost;
	int admitted;

	if (tdi_ref_put_unless_last(&space->users))
		return 0;
	/* Not one: it is saturated, or there are none, which is for tdi_ref_put to say.
	 */
	room = tdi_ref_read(&space->users) == 1 ? bytes_left(space) : 0;
	admitted = tdi_budget_admit(engine, room, true);
	if (admitted == -EAGAIN)
		return -EAGAIN;
	tdi_engine_get(engine); /* whoever turns out to be the last one may be faster */
	if (!put_user(space)) {
		if (!admitted)
			tdi_budget_give(engine, room);
		tdi_engine_put(engine);
		return 0;
	}
	tdi_engine_put(engine);
	/* Somebody attached himself meanwhile. Relaxed: see tdi_space_hand_over. */
	if (atomic_load_explicit(&space->attached, memory_order_relaxed)) {
		if (!admitted)
			tdi_budget_give(engine, room);
		tdi_space_hand_over(space);
		return 0;
	}
	cost = space->work.cost;
	if (!admitted && cost != room) {
		tdi_budget_give(engine, room);
		admitted = tdi_budget_admit(engine, cost, false);
	}
	queue_or_run(space, admitted);
	return 0;
}

TDI_HOT __attribute__((noinline)) static int put_last(struct td_space *space)
{
	bool attached;

	end_users(space);
	/* It may have come, or gone, since td_space_put looked. */
	attached = atomic_load_explicit(&space->attached, memory_order_relaxed) != NULL;
	if (tdi_likely(!attached))
		tdi_space_queue(space);
	else
		tdi_space_hand_over(space);
	return 0;
}

TDI_HOT int td_space_put(td_space *space)
{
	int err = tdi_space_check(space);
	bool attached;

	if (tdi_unlikely(err))
		return space ? err : 0;
	/* Relaxed: see tdi_space_hand_over. */
	attached = atomic_load_explicit(&space->attached, memory_order_relaxed) != NULL;
	if (tdi_unlikely(!attached && tdi_budget_refuses(space->engine)))
		return put_or_refuse(space);
	if (tdi_unlikely(tdi_ref_put(&space->users, "space", space->name, "users")))
		return put_last(space);
	return 0;
}

int td_space_put_sync(td_space *space)
{
	int err;

	if (!space)
		return 0;
	err = tdi_space_check(space);
	if (err)
		return err;
	/* For looking at it afterwards. */
	tdi_ref_get(&space->count, "space", space->name, "count");
	if (put_user(space)) {
		tdi_work_begin(space->engine, &space->work, false);
		tdi_space_overtake(space);
		err = tdi_space_tear_down(space, TDI_ROLE_CALLER);
	}
	drop_count(space);
	return err;
}

int td_space_grab(td_space *space)
{
	int err = tdi_space_check(space);

	if (tdi_likely(!err))
		tdi_ref_get(&space->count, "space", space->name, "count");
	return err;
}

int td_space_drop(td_space *space)
{
	int err;

	if (!space)
		return 0;
	err = tdi_space_check(space);
	if (tdi_likely(!err))
		drop_count(space);
	return err;
}
