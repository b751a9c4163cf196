/* SPDX-License-Identifier: MIT */
/*
 * td_batch: objects freed under RCU, gathered so that freeing one costs a store and one
 * grace period serves thousands.
 *
 * Each thread that adds has an open group of its own. A group is closed when it holds
 * enough bytes or objects, or is old enough; the engine's grace thread then waits for one
 * grace period for all that was added by then, to whatever batch of the engine, and
 * reapers hand the objects to a bulk callback.
 *
 *	td_batch_create(engine, TD_BATCH_OPTS(.free_bulk = my_free_bulk), &batch);
 *	...
 *	unlink(object);               // new readers cannot find it any more
 *	td_batch_free(batch, &object->node, sizeof(*object));
 *
 * An object is either added by a node embedded in it, or as a plain pointer. The node is
 * written to only where there is no room for a pointer: then objects are linked instead.
 *
 * Thread safety: every function may be called from any thread at any time, except that
 * td_batch_destroy() ends the caller's right to use the batch. Those that add need no RCU
 * registration, and may be called inside a read-side critical section.
 * (With qsbr a thread is inside one while it is online.)
 */
#ifndef TEARDOWN_BATCH_H
#define TEARDOWN_BATCH_H

#include <teardown/batch_inline.h>
#include <teardown/engine.h>

#ifdef __cplusplus
extern "C" {
#else
#include <stdatomic.h>
#endif

typedef struct td_batch td_batch;

/* Embedded in an object. Needs no initialisation; the library's from td_batch_free() on.
 */
struct td_batch_node {
	TD_ATOMIC(struct td_batch_node *) tdi_next;
};

/*
 * Frees n objects, each exactly once, n >= 1. The array is the library's, may be written
 * to, and is gone when this returns. ctx: as given at creation.
 * Context: on a reaper, or in the thread that runs works in its place; not registered
 * with RCU, outside any read-side critical section, no library lock held; may block; may
 * add to batches, this one included. With TD_BATCH_HELP also in threads that add. (row
 * B6)
 */
typedef void td_free_bulk_fn(void **objects, size_t n, void *ctx);

/* The default: each object was allocated by malloc(3) or the like. */
void td_free_bulk_malloc(void **objects, size_t n, void *ctx);

enum td_batch_flags {
	/*
	 * Threads that add may call free_bulk while the batch is near its bound, in
	 * whatever context they add: it takes no lock that they may hold, and does not
	 * mind being inside a read-side critical section. Implied for
	 * td_free_bulk_malloc.
	 */
	TD_BATCH_HELP = 1u << 0,
	/* Threads that add never do so, even for td_free_bulk_malloc. */
	TD_BATCH_NO_HELP = 1u << 1,
};

#define TD_BATCH_UNBOUNDED UINT64_MAX

struct td_batch_opts {
	size_t size;	/* sizeof(struct td_batch_opts) */
	unsigned flags; /* enum td_batch_flags */

	const char *name; /* for messages; copied, cut to 31 bytes; NULL = "batch" */
	td_free_bulk_fn *free_bulk; /* NULL = td_free_bulk_malloc */
	void *ctx;		    /* for it */
	size_t node_offset;	    /* of the td_batch_node in an object */
	size_t object_bytes; /* what an object counts for that is added as 0 bytes; 0 = 64
			      */

	/*
	 * A thread's group is closed when it holds this much, or when its oldest object
	 * was added this long ago, whichever comes first. (row B2) A close costs a grace
	 * period, unless one is due anyway; what is open is memory that is not free yet.
	 */
	uint64_t close_bytes;  /* 0 = 1 MiB */
	size_t close_count;    /* objects; 0 = 4096 */
	uint64_t close_age_ns; /* 0 = 10 ms */

	/*
	 * Bound on what has been added and not yet been freed. From one half on, a thread
	 * that adds helps to free what is past its grace period (TD_BATCH_HELP); from
	 * seven eighths on it gives up the CPU for at most 20 us a call (and as long as
	 * the kernel is late: 50 us by default, see PR_SET_TIMERSLACK), so that grace
	 * periods and reapers get on; but it never fails for it, and if a reader holds a
	 * grace period up for longer the bound is passed, and that is counted.
	 * 0 = 256 MiB; TD_BATCH_UNBOUNDED. Exact but for a page of pointers (504
	 * objects), or 1/64 of the bound, for each thread that adds.
	 */
	uint64_t max_bytes;

	/*
	 * Room taken at creation: for so many threads (0 = 32; more are provided for as
	 * they come), and for so many pointers (0 = 128 Ki, 1 MiB of address space;
	 * touched when used). The grace thread makes more when it sees half of it in use.
	 */
	unsigned threads;
	size_t room;
};

#define TD_BATCH_OPTS(...)                                                               \
	(&(struct td_batch_opts){.size = sizeof(struct td_batch_opts), __VA_ARGS__})

/*
 * Makes a batch of the engine, whose flavor's grace periods it waits for.
 *
 *   engine  NULL = the default engine
 *   opts    options, or NULL for the defaults
 *   ret     the batch
 *
 * Returns 0; -EINVAL: unknown or contradicting flags, threads above 65536 or room above
 * 64 Mi; -E2BIG: an option unknown to this library; -ENOMEM; -EAGAIN: the engine has no
 * grace thread, and it could not be started; -ECHILD. On failure nothing is left behind.
 * Ownership: the caller's until td_batch_destroy(); the engine stays valid that long.
 * Context: may block; allocates. Any thread, callbacks included. (row B1)
 */
int td_batch_create(td_engine *engine, const struct td_batch_opts *opts, td_batch **ret);

/*
 * Frees all that was ever added, in whatever state it is, including what callbacks add
 * meanwhile; then the batch. Nobody adds any more, callbacks of this batch excepted.
 *
 *   flags  TD_BATCH_NO_READERS: as in td_batch_flush()
 *
 * Returns 0; and, with the batch unchanged: -EINVAL: unknown flags; -EDEADLK: called on a
 * reaper of its engine or in a callback; -ECHILD. NULL is allowed and does nothing.
 * Context: blocks; not inside a read-side critical section.
 */
int td_batch_destroy(td_batch *batch, unsigned flags);

/*
 * Frees an object after a grace period: it can be found no more by readers that begin
 * now.
 *
 *   node    in the object, at the offset that the batch was told
 *   bytes   what the object counts for; 0 = object_bytes
 *
 * Never fails, but with -EINVAL for NULL, and -ECHILD: the batch was made in the parent
 * of this process, and the object is untouched. Ownership: the object is the library's
 * from here on. Context: any; takes no lock, allocates nothing (but for a thread's first
 * call in a process with more than 32 keys of thread-specific data, see
 * pthread_setspecific(3)), never waits for a grace period. Costs a store; each 504th call
 * some atomic operations; near the bound see max_bytes. Not in a signal handler. (rows
 * B1, B7)
 */
TDI_BATCH_INLINE int td_batch_free(td_batch *batch, struct td_batch_node *node,
				   size_t bytes)
{
	return tdi_batch_free(batch, node, bytes);
}

/*
 * The same for an object without a node. Where there is no room for its pointer (the pool
 * that the grace thread keeps filled is empty, or more threads add at once than there are
 * groups yet) the caller helps to free, if that is allowed, and otherwise gives up the
 * CPU for as long, once; if there is still none:
 *
 * Returns -EAGAIN: the object is still the caller's. Otherwise as td_batch_free().
 * A callback does not wait for room.
 */
TDI_BATCH_INLINE int td_batch_free_ptr(td_batch *batch, void *object, size_t bytes)
{
	return tdi_batch_free_ptr(batch, object, bytes);
}

/* Objects linked through their nodes. All zero is an empty one. */
struct td_batch_list {
	struct td_batch_node *tdi_first, *tdi_last;
	size_t tdi_count;
	uint64_t tdi_bytes;
};

/* Of a list that nobody else knows yet: in no order, which an assignment would keep. */
static inline void tdi_batch_link(struct td_batch_node *node, struct td_batch_node *next)
{
#ifdef __cplusplus
	node->tdi_next = next;
#else
	atomic_store_explicit(&node->tdi_next, next, memory_order_relaxed);
#endif
}

/*
 * Adds to a list of the caller's own: in order, unlocked. bytes: as for td_batch_free(),
 * but that a list of 0 in all counts object_bytes for each of its objects.
 */
static inline void td_batch_list_add(struct td_batch_list *list,
				     struct td_batch_node *node, size_t bytes)
{
	tdi_batch_link(node, NULL);
	if (list->tdi_last)
		tdi_batch_link(list->tdi_last, node);
	else
		list->tdi_first = node;
	list->tdi_last = node;
	list->tdi_count++;
	list->tdi_bytes += bytes;
}

enum td_batch_when {
	/* No reader can see any of it any more: free it without a grace period. (B4) */
	TD_BATCH_NO_READERS = 1u << 0,
};

/*
 * Hands over a whole list, of any length, at once; it is empty afterwards. One grace
 * period serves it.
 *
 *   flags  TD_BATCH_NO_READERS or 0. It is the caller's word that nobody is reading:
 *          because readers hold a user of the space that these objects belong to, and it
 *          has none left, or because the threads that read are gone. A debug build stops
 *          a caller that is inside a read-side critical section (with qsbr: online).
 *
 * Returns 0 (also for an empty list); -EINVAL: NULL, unknown flags; -ECHILD. Context: as
 * td_batch_free(); but with TD_BATCH_NO_READERS, where the engine has no reapers (any
 * more), callbacks of the batch may run in the caller. (rows B3, B4, B7)
 */
int td_batch_free_list(td_batch *batch, struct td_batch_list *list, unsigned flags);

/*
 * Closes all open groups of the batch now, whoever's they are.
 *
 *   flags  0, or TD_BATCH_NO_READERS: what was added so far, as far as the caller knows
 *          of it, is given to the reapers without a grace period. What others are adding
 *          meanwhile may be, too: the caller's word is for all of the batch.
 *
 * Returns 0; -EINVAL: NULL, unknown flags; -ECHILD. Context: with 0 does not block,
 * unless the engine has no grace thread any more: then it waits for a grace period, but
 * in a callback or a read-side critical section does nothing. With TD_BATCH_NO_READERS it
 * may wait for a grace period that is under way, and must not be called inside a
 * read-side critical section. (rows B4, B5)
 */
int td_batch_flush(td_batch *batch, unsigned flags);

/*
 * Closes all open groups, and waits until all that was added before has been freed. What
 * is added meanwhile, by callbacks for instance, is not waited for.
 *
 * Returns 0; -ETIMEDOUT; -EINVAL: NULL; -EDEADLK: as td_batch_destroy(); -ECHILD.
 * Context: blocks (where the engine has no grace thread any more also beyond the timeout,
 * for a grace period); not inside a read-side critical section. (row B1)
 */
int td_batch_barrier(td_batch *batch, int64_t timeout_ns);

#ifdef __cplusplus
}
#endif

#endif
