/* SPDX-License-Identifier: MIT */
/*
 * td_space: a set of memory with two reference counters.
 *
 *   users  keep the memory. When the last one is put, nobody can reach the memory any
 *          more (the event "gone") and it is given back (the event "reclaimed").
 *   count  keeps the object, so that it can be waited for and asked for its stats. All
 *          users together hold one count until the memory is reclaimed.
 *
 * A count may also be held lazily, for less: see lazy.h.
 *
 * Thread safety: any thread that holds a user or a count.
 */
#ifndef TEARDOWN_SPACE_H
#define TEARDOWN_SPACE_H

#include <stdbool.h>
#include <teardown/engine.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct td_space td_space;

enum td_space_flags {
	/* The last put takes all regions out of sight before it returns, at some
	 * microseconds a region: an access faults from then on. Otherwise they stay where
	 * they are until a reaper comes to them, since nobody has a use for them any
	 * more. What the kernel does not move (a region of more than 64 mappings, say) is
	 * protected against access instead, which takes longer; regions with ops or a
	 * userfaultfd stay as they are. (row D2) */
	TD_SPACE_DETACH = 1u << 0,

	/* Shared memory is unmapped and its pages are kept, exclusively owned or not.
	   (row C4) */
	TD_SPACE_KEEP_SHARED = 1u << 1,
};

struct td_space_opts {
	size_t size;	  /* sizeof(struct td_space_opts) */
	unsigned flags;	  /* enum td_space_flags */
	const char *name; /* for messages; copied, cut to 31 bytes. NULL = "space" */

	/* Its share where several spaces are freed at once: of bytes, beside that of the
	 * others. 1 to 10000; 0 = 100. */
	unsigned weight;
};

#define TD_SPACE_OPTS(...)                                                               \
	(&(const struct td_space_opts){.size = sizeof(struct td_space_opts), __VA_ARGS__})

/*
 * Makes an empty space with one user. All room that its teardown needs is taken here
 * and when regions are added.
 *
 *   engine  whose reapers free it; NULL = the default engine
 *   opts    options, or NULL for the defaults
 *   ret     the space, with users 1, to be given back with td_space_put()
 *
 * Returns 0; -EINVAL: unknown flag or opts->size too small; -E2BIG: unknown option set;
 * -ENOMEM; -ECHILD.
 * Context: allocates. Any thread, callbacks included; no RCU registration needed.
 */
int td_space_create(td_engine *engine, const struct td_space_opts *opts, td_space **ret);

/*
 * Takes another user. The caller holds one already: with none left the process is
 * stopped with a message that names the space. After 2^31-1 users the counter
 * saturates: the space is then never freed, which is said once on stderr.
 * Returns 0; -ECHILD.
 * Context: anywhere, one atomic addition. (rows A4, A9)
 */
int td_space_get(td_space *space);

/*
 * Takes a user if there still is one; the caller holds a count.
 * Returns true if a user was taken. Context: anywhere, does not block.
 */
bool td_space_get_not_zero(td_space *space);

/*
 * Gives a user back. The last one is "gone": waiters are woken, and the memory goes to
 * the thread that is attached, or to the engine's reapers (row A5). The caller is held
 * for microseconds whatever the size: no lock of the library's, no allocation, at most
 * one futex wake for a reaper, one for threads that wait for "gone", and a write for each
 * eventfd that does. Putting more users than there are stops the process with a message
 * that names the space. NULL is allowed and does nothing. Past the engine's budget the
 * caller of the last put helps or waits, when "gone" has been told; slices and callbacks
 * of any owner may run in it then, so that a lock that they take must not be held. Or it
 * is refused: see td_engine_set_budget(). On an engine without threads the caller frees
 * the memory itself, in slices.
 * Returns 0; and, with nothing changed: -EAGAIN: past the budget, TD_BUDGET_AGAIN: the
 * user is still the caller's; -ECHILD. Context: anywhere, callbacks included; blocks past
 * the budget. (row A11)
 */
int td_space_put(td_space *space);

/*
 * As td_space_put(), but when this is the last user the memory is freed in the calling
 * thread, in slices, before it returns. A thread that is attached is sent away.
 * Returns 0; -EINPROGRESS: the kernel refused for now to unmap a part of the empty range
 * (its limit on mappings), or a range that was unmapped before is still with the reapers
 * and cannot be waited for: they go on with it; -ECHILD. A teardown that failed for good
 * reports through td_space_wait(). It runs callbacks of this space only. Context: blocks
 * for as long as the memory takes, and then for a second at most, for what others have in
 * hand; callbacks included.
 */
int td_space_put_sync(td_space *space);

/*
 * Attaches the calling thread to a living space as its reaper: it sleeps until the last
 * user has gone, and then frees the memory itself, in slices, at its own priority and on
 * the account of its own cgroup. The last td_space_put() wakes it instead of a reaper of
 * the engine. While it sleeps it keeps the object and never the memory. (rows A1, A4-A8)
 *
 *   space       the caller holds a count, or holds it lazily: with a user it would wait
 *               for itself
 *   flags       0
 *   timeout_ns  how long to sleep, in nanoseconds; 0 attaches only for a moment;
 *               TD_FOREVER. Runs out only while there are users.
 *
 * Returns 0: the memory is reclaimed; -EINPROGRESS, as td_space_put_sync(): the engine's
 * reapers go on with what is left. With nothing done: -ETIMEDOUT: there still are users;
 * -ECANCELED: td_space_reap_cancel() was called; -EEXIST: another thread is attached (row
 * A2); -ENXIO: there are no users any more, or the last one was put by
 * td_space_put_sync(), which frees the memory itself (row A3); -EINVAL: NULL, unknown
 * flags; -EDEADLK: called on a reaper of its engine; -ECHILD. A teardown that failed for
 * good reports through td_space_wait().
 * Context: blocks on a futex, without CPU, and then for as long as the memory takes,
 * which allocates nothing (it does before it sleeps: row A11); not in a callback of its
 * engine, nor inside a read-side critical section. For a moment, before it sleeps, it is
 * a user: if the last other one leaves then, the memory is freed without sleeping (row
 * A6), and td_space_get_not_zero() may succeed once more.
 */
int td_space_reap(td_space *space, unsigned flags, int64_t timeout_ns);

/*
 * Detaches the thread that is attached: its td_space_reap() returns -ECANCELED, soon, and
 * another one may attach at once. The last put goes to the engine's reapers again.
 *
 * Returns 0; -ENOENT: none is attached; -EALREADY: the last user has gone, and whoever
 * was attached is at work; -EINVAL: NULL; -ECHILD. Context: anywhere, callbacks included;
 * does not block; the caller holds a user or a count. (row A7)
 */
int td_space_reap_cancel(td_space *space);

enum td_release_flags {
	/* Leaves shared memory (TD_KIND_SHARED) to those whose it is to free it. (C4) */
	TD_RELEASE_KEEP_SHARED = 1u << 0,
};

/*
 * Frees the memory of a dying space now, in the caller, beside whoever is at it already:
 * reapers, which may have much else to do, the thread that is attached, or one in
 * td_space_put_sync(). Ranges that were unmapped before are among it. Nothing is freed
 * twice. The teardown's callbacks may run in the caller.
 *
 *   space  its last user has gone; the caller holds a count, or holds it lazily
 *   flags  enum td_release_flags
 *
 * Returns 0: all of it has been reclaimed, by whomever (with TD_RELEASE_KEEP_SHARED: all
 * but shared memory has been released); -EAGAIN: a part is still in others' hands, or
 * could not be freed for now, or all has been released and whoever runs the teardown has
 * yet to say so; -EINVAL: NULL, unknown flags, or the space has users; -ECHILD. How the
 * teardown ended is for td_space_wait() to tell.
 * Context: blocks for as long as what it frees takes, and then for 10 ms at most, for
 * what others have in hand; on a reaper or in a callback it does not wait for them. Not
 * inside a read-side critical section. (rows C3, C4)
 */
int td_space_release(td_space *space, unsigned flags);

/*
 * Take and give back a count: it keeps the object, never its memory (row A4). The
 * caller of grab holds a user or a count. The object is freed with the last count.
 * drop(NULL) is allowed. Misuse is caught as with users.
 * Return 0; -ECHILD. Context: anywhere, do not block.
 */
int td_space_grab(td_space *space);
int td_space_drop(td_space *space);

/* The two events of a teardown (row A12). */
enum td_event {
	TD_EVENT_GONE = 1,	/* no user can reach the memory */
	TD_EVENT_RECLAIMED = 2, /* its memory is back with the system */
};

/*
 * Waits for an event; the caller holds a count (it would wait for itself with a user).
 *
 *   timeout_ns  nanoseconds; 0 polls; TD_FOREVER
 *
 * Returns 0; -ETIMEDOUT; -EINVAL: no such event; -EDEADLK: called on a reaper; -ECHILD;
 * and for TD_EVENT_RECLAIMED, once the teardown has ended: -ECANCELED: the engine
 * abandoned it, the memory goes when the process ends; or the errno with which the
 * kernel refused to unmap a range (-EPERM for a sealed one); -EAGAIN, on an engine
 * without threads: it still refused for now after a second. Pages are released in any
 * case. Context: blocks on a futex, without CPU; not in a callback.
 */
int td_space_wait(td_space *space, enum td_event event, int64_t timeout_ns);

/*
 * Makes an eventfd that becomes readable when the event happens (at once if it has).
 *
 *   ret  the descriptor, non-blocking and close-on-exec; the caller closes it whenever
 *        it likes: the library keeps a duplicate of its own until the event
 *
 * Returns 0; -EINVAL: no such event; -EMFILE, -ENFILE, -ENOMEM; -ECHILD.
 * Context: allocates; the caller holds a user or a count.
 */
int td_space_eventfd(td_space *space, enum td_event event, int *ret);

/*
 * Has fn called once when the event has happened; for TD_EVENT_RECLAIMED status is
 * what td_space_wait() would return, for TD_EVENT_GONE it is 0. The space is valid
 * during the call.
 *
 * Returns 0; -EALREADY: the event has happened, fn will not be called; -EINVAL: no such
 * event or no function; -ENOMEM; -ECHILD.
 * Context: allocates; the caller holds a user or a count. fn runs on a reaper, or in
 * the thread that frees in its place; no library lock held, not registered with RCU; it
 * may block and may call the library. Nothing of the space is released, and "reclaimed"
 * is not told to other callbacks, until those before have returned.
 */
typedef void td_event_fn(td_space *space, enum td_event event, int status, void *arg);
int td_space_on_event(td_space *space, enum td_event event, td_event_fn *fn, void *arg);

/* The name given at creation. Context: the caller holds a user or a count. */
const char *td_space_name(const td_space *space);

#ifdef __cplusplus
}
#endif

#endif
