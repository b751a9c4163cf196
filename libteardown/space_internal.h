/* SPDX-License-Identifier: MIT */
/* Floor 5: the space object, for its own files. */
#ifndef TDI_SPACE_INTERNAL_H
#define TDI_SPACE_INTERNAL_H

#include "doom.h"
#include "engine_internal.h"
#include "events.h"
#include "lazy.h"
#include "map.h"
#include "ref.h"
#include "region_internal.h"

#include <teardown/space.h>

#define TDI_SPACE_NAME_SIZE 32

enum tdi_calls { CALLS_TO_MAKE, CALLS_BEING_MADE, CALLS_MADE };

/* A thread that is attached as a space's reaper: on its stack. */
enum tdi_attached_state { ATTACHED, HANDED, OVERTAKEN, CANCELED };
struct tdi_attached {
	_Atomic(uint32_t) state; /* enum tdi_attached_state: its futex */
};

struct td_space {
	/* First: td_lazy_enter relies on it. Written when the last user is put. */
	_Alignas(TDI_CACHE_LINE) struct tdi_lazy lazy;

	/* Constant after creation. */
	struct td_engine *engine; /* holds a reference */
	unsigned flags;		  /* enum td_space_flags */
	unsigned generation;	  /* of the process that made it */
	char name[TDI_SPACE_NAME_SIZE];

	/* Written by every get and put. */
	_Alignas(TDI_CACHE_LINE) struct tdi_ref users;
	struct tdi_ref count;

	/* Whose it is to tear the space down, or NULL: the engine's. Set only by one who
	 * holds a user. Whoever takes it out has to tell the thread why: space_reap.c. */
	_Atomic(struct tdi_attached *) attached;

	/*
	 * Its regions, by address. Read under RCU by those who hold a user. The lock is
	 * held by those who change it, for look-ups and allocations, never across a
	 * system call on memory; inside it those of the claims and of the doom are taken.
	 */
	_Alignas(TDI_CACHE_LINE) struct tdi_map map;
	pthread_mutex_t map_lock;
	pthread_cond_t settled; /* a region that was leaving has left, or stays */

	/* What must have ended before its memory is reclaimed: the work below, and each
	 * range that was evicted before. */
	_Atomic(uint32_t) parts;
	_Atomic(int) status;	   /* of those: the first error */
	_Atomic(uint64_t) refused; /* bytes */
	struct tdi_doomed_owner evicted;
	_Atomic(uint64_t) ranges_slices, ranges_cpu_ns; /* of those that have ended */

	struct td_work work;
	/* Who runs slices of it beside those to whom it was given: space_release.c. */
	_Atomic(uint32_t) beside;
	struct tdi_doom doom;
	struct tdi_space_nodes *nodes; /* NULL on one node: see space_nodes.c */
	struct tdi_events events;
	_Atomic(uint32_t) gone_calls; /* enum tdi_calls: the callbacks for "gone" */
	/* Written before their event is raised, read after it. */
	uint64_t put_ns, reclaimed_ns;

	_Atomic(uint64_t) regions, bytes_mapped, bytes_unmapped, bytes_reclaimed;
};

/* 0; -EINVAL for NULL; -ECHILD, though its engine may have been restarted. Every get and
 * put asks: a call would cost them half as much again. */
static inline int tdi_space_check(const struct td_space *space)
{
	if (tdi_unlikely(!space))
		return -EINVAL;
	return tdi_likely(space->generation == tdi_fork_generation) ? 0 : -ECHILD;
}

/* How its teardown went, as far as it has come: 0, or the first error. */
static inline int tdi_space_status(struct td_space *space)
{
	return atomic_load_explicit(&space->status, memory_order_relaxed);
}

/* Another part is to end; it has ended, with what status and how many bytes left. */
void tdi_space_part_begins(struct td_space *space);
void tdi_space_part_ends(struct td_space *space, int status, uint64_t refused);
void tdi_space_range_ends(struct td_space *space, const struct tdi_doomed_end *end);

/* Gives a user back. True: that was the last one, and the work is the caller's to run or
 * to hand on. */
bool tdi_space_put_user(struct td_space *space);

/* The last user is gone: leaves the work to the engine's reapers, within its budget. */
void tdi_space_queue(struct td_space *space);
/* The last user is gone: hands the work to the attached thread, or else to the engine's
 * reapers. The space may be gone when it returns. */
void tdi_space_hand_over(struct td_space *space);
/* Or the caller does it himself, and the attached thread is told to go. */
void tdi_space_overtake(struct td_space *space);

/* Runs the work, which has been begun, in the caller, and waits for what was evicted
 * before. As td_space_put_sync(); the caller holds a count. */
int tdi_space_tear_down(struct td_space *space, enum tdi_role role);

/* From here on others may run slices beside the caller, who has begun the work. */
void tdi_space_beside_open(struct td_space *space);
/* No more will, and none does when it returns. */
void tdi_space_beside_close(struct td_space *space);
/* While one does: waits, until one leaves or the deadline. */
void tdi_space_beside_wait(struct td_space *space, uint64_t deadline_ns);

/* Runs a slice of what is the space's and waits in a queue, but for its own work. False:
 * nothing does that can go on. */
bool tdi_space_help_parts(struct td_space *space);

/* Is the range one that was evicted from the space? */
bool tdi_space_evicted(const struct td_space *space,
		       const struct tdi_doomed_owner *owner);

/* A doom of the space's extents; and what to do once it is through: a part has ended. */
void tdi_space_doom_init(struct td_space *space, struct tdi_doom *doom);
void tdi_space_doom_done(struct td_space *space, struct tdi_doom *doom, int status);

/* Where the engine has several queues, room for a doom on each. 0, -ENOMEM. */
int tdi_space_nodes_make(struct td_space *space);
void tdi_space_nodes_free(struct td_space *space);

/* What a work is to release, if it is one of those. */
struct tdi_doom *tdi_space_nodes_doom(struct td_space *space, const struct td_work *work);

/*
 * At the start of a slice: hands what lies on other nodes to works of their own. 0: go
 * on; or what the slice is to return.
 */
int tdi_space_nodes_sort(struct td_space *space, struct td_slice *slice);

/* Adds what its works did so far. */
void tdi_space_nodes_count(struct td_space *space, uint64_t *slices, uint64_t *cpu_ns);

/* The work has ended: what it was about to hand out is its own again. */
void tdi_space_nodes_give_up(struct td_space *space);

/* The last count has been dropped: frees it. */
void tdi_space_end(struct td_space *space);

/* For those who hold it lazily: prepares; and gives each of them a count, once, before
 * the count of all users is dropped. False: nobody knows who they are, and the space must
 * stay for good. */
void tdi_space_lazy_init(struct td_space *space);
bool tdi_space_lazy_pass(struct td_space *space);

/* Takes all regions out of sight, as far as that can be done. Users are 0. */
void tdi_space_detach(struct td_space *space);
/* And when one of them has been released. */
void tdi_space_forget_room(struct td_space *space, struct tdi_region *region);

#endif
