/* SPDX-License-Identifier: MIT */
/*
 * Floor 3: a batch, for its own files.
 *
 *   batch.c       adding, and the bound        any thread
 *   batch_make.c  making, closing, ending      any thread
 *   batch_take.c  taking what was added        the pass: one at a time, see grace.h
 *   batch_free.c  freeing what is past its     reapers, threads that help
 *                 grace period
 *
 * An object is at any moment in one of: a thread's group; `closed`, pages that groups
 * filled; `open`, objects that are linked; `waiting`, the pass's; `ready`, past their
 * grace period. Those who add never wait for a pass: it reads what a group has published,
 * and leaves the rest. A pass waits for one who adds only where he is held up between two
 * stores: while he pushes a full page, or links himself to `open`.
 */
#ifndef TDI_BATCH_INTERNAL_H
#define TDI_BATCH_INTERNAL_H

#include "chain.h"
#include "engine_internal.h"
#include "group.h"
#include "pages.h"
#include "pending.h"
#include "ref.h"

#include <teardown/batch.h>

#define TDI_BATCH_NAME_SIZE 32

/* What is past its grace period, the oldest first. */
struct tdi_batch_ready {
	pthread_mutex_t lock; /* never held across a callback, no lock taken inside */
	_Atomic(struct tdi_page *) page; /* the first one; read without the lock */
	struct tdi_page *page_last;
	/* Linked objects; those of the two epochs may be mixed. */
	struct tdi_chain nodes;
	struct td_batch_node *node_last[2]; /* of each epoch; NULL: none are left */
	uint64_t count, bytes;		    /* what is left counts for, nearly */
};

struct td_batch {
	struct tdi_batch_front front;
	/* Constant after creation; but for the pool and the groups, which grow. */
	struct td_engine *engine;
	unsigned generation; /* of the process that made it */
	bool helps;	     /* threads that add may call free_bulk */
	bool private; /* the engine's own: without groups and pages, and no reference */
	uint64_t close_bytes, close_age_ns, max_bytes;
	uint64_t report_bytes; /* a group counts what it holds when it is so much */
	size_t close_count;
	td_free_bulk_fn *free_bulk;
	void *ctx;
	struct tdi_groups groups;
	char name[TDI_BATCH_NAME_SIZE];
	struct tdi_pages pages;

	/* Written by those who add. */
	_Alignas(TDI_CACHE_LINE) _Atomic(int64_t) bytes; /* not freed yet, see report() */
	struct tdi_page_stack closed;
	struct tdi_chain open;
	_Atomic(uint64_t) open_count, open_bytes;
	struct tdi_chain direct; /* those that need no grace period */
	_Atomic(uint64_t) direct_count, direct_bytes;
	_Atomic(uint32_t) open_asleep; /* as TDI_GROUP_ASLEEP, of the chain */

	/* The pass's own. */
	struct td_batch *next; /* of the engine's: under the list's lock */
	uint64_t serial;       /* in ascending order */
	struct td_batch *next_taken;
	struct tdi_page *gather; /* collects what groups hold open */
	struct tdi_page *waiting, *waiting_last;
	struct td_batch_node *waiting_node, *waiting_node_last;
	uint64_t waiting_count, waiting_bytes;
	unsigned waiting_epoch;
	bool open_used;			  /* since the last drowse */
	_Atomic(struct tdi_page *) spare; /* for gather, when the pool is empty */

	/* Past the grace period. */
	_Alignas(TDI_CACHE_LINE) struct tdi_batch_ready ready;
	struct tdi_pending pending; /* pages, and an epoch's chain as one */
	_Atomic(uint32_t) room_seq, room_waiters;
	struct td_work work;
	struct tdi_ref refs; /* the creator's, its work's, a pass's */

	/* Counters, relaxed. */
	_Atomic(uint64_t) objects_closed, objects_freed, objects_helped;
	_Atomic(uint64_t) waits, passed_bound, refused;
};

_Static_assert(offsetof(struct td_batch, front) == 0, "a front is its batch");

/* 0, or -ECHILD, though its engine may have been restarted. */
static inline int tdi_batch_check_process(const struct td_batch *batch)
{
	return tdi_likely(batch->generation == tdi_fork_generation) ? 0 : -ECHILD;
}

/* 0; -EINVAL: no batch, unknown flags (of enum td_batch_when); -ECHILD. */
int tdi_batch_check(const struct td_batch *batch, unsigned flags);

void tdi_batch_get(struct td_batch *batch);
void tdi_batch_put(struct td_batch *batch);

/* Nothing is in it, whatever the caller knows of: the list of batches is locked, and no
 * pass is taking. */
bool tdi_batch_is_empty(struct td_batch *batch);

/* For the library's own objects, all with a node: see retire.h. 0, -ENOMEM. */
int tdi_batch_create_private(struct td_engine *engine, const char *name,
			     td_free_bulk_fn *free_bulk, struct td_batch **ret);

/* ---- the pass ---- */

/*
 * Takes what was added so far, and makes more room if there is need. True: something.
 * *all becomes false where a part had to stay, since there is no page to gather it in.
 */
bool tdi_batch_take(struct td_batch *batch, bool *all);

/* It is past its grace period. To be submitted when no lock is held. */
void tdi_batch_make_ready(struct td_batch *batch);

/*
 * Puts to sleep what nothing was added to since the last time. True: only those who have
 * passed a barrier since know of it. Then, after such a barrier (or without): wakes up
 * again what something was added to in between.
 */
bool tdi_batch_drowse(struct td_batch *batch);
void tdi_batch_look_again(struct td_batch *batch, bool barrier);
bool tdi_batch_awake(struct td_batch *batch);

/* ---- freeing ---- */

bool tdi_batch_has_ready(struct td_batch *batch);
/* Moves what needs no grace period to the rest. False: there is some that cannot be seen
 * yet, see chain.h. */
bool tdi_batch_take_direct(struct td_batch *batch);
/* Somebody links himself in a moment. */
#define TDI_BATCH_LINK_PAUSE_NS 20000u
/* Gives what is ready to the reapers; where there are none it is freed before this
 * returns. */
void tdi_batch_submit(struct td_batch *batch);
/* Frees a page of objects, and some linked ones, in the caller. How many: 0: there are
 * none, or somebody else is at them. */
size_t tdi_batch_free_some(struct td_batch *batch, bool wait);
extern const struct td_work_ops tdi_batch_work_ops;

/* Waits until something becomes ready or a page free, for a moment at most. */
void tdi_batch_await_room(struct td_batch *batch);
void tdi_batch_tell_room(struct td_batch *batch);

#endif
