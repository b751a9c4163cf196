/* SPDX-License-Identifier: MIT */
/*
 * Lazy references: a thread marks, in a place of its own, that it holds a space. The mark
 * keeps the object as a count does, and never its memory, at the cost of two plain
 * stores, however many threads do the same.
 *
 *   td_lazy_enter(space);      the caller holds a user or a count of it
 *   td_space_put(space);       ... which may go now
 *   ...                        the object stays: its name, its stats, its events
 *   td_lazy_leave();
 *
 * When the last user has been put, one pass over the threads that are registered finds
 * who holds the space lazily, and gives each of them a real count. A thread that leaves
 * after that drops it, and if it is the last one, an engine's reaper frees the object.
 *
 * A thread is registered by its first td_lazy_enter(), and no more when it ends. What it
 * then still holds is given back for it; but not what a destructor of thread-specific
 * data enters in the last of the rounds that the C library runs them in
 * (PTHREAD_DESTRUCTOR_ITERATIONS): that space is kept for good. Holds nest, TD_LAZY_DEPTH
 * deep, and belong to their thread. Counts saturate 512 below the limit for each 64
 * threads that are registered.
 *
 * After fork() the child holds nothing lazily: for each hold of its thread in the parent
 * one td_lazy_leave() answers -ECHILD.
 */
#ifndef TEARDOWN_LAZY_H
#define TEARDOWN_LAZY_H

#include <teardown/lazy_inline.h>
#include <teardown/space.h>

#ifdef __cplusplus
extern "C" {
#endif

/* So deep may holds nest. */
#define TD_LAZY_DEPTH TDI_LAZY_DEPTH

/*
 * Holds a space lazily, inside of what the thread holds already. The caller has a user or
 * a count of the space until the call returns, or holds it lazily. While it holds the
 * space it may do what one with a count may, td_space_grab() among it.
 *
 * Writes no memory that others write, and has no atomic read-modify-write (row E1); but
 * where the kernel offers no membarrier(2), one while somebody holds a count.
 *
 * Returns 0; -ENXIO: its users are 0, no new lazy reference is made, a count has to do
 * (row E5; a call at the very time of the last td_space_put() may still succeed);
 * -EOVERFLOW: nested too deep; -ENOMEM or -EAGAIN: the thread could not be registered;
 * -EINVAL: NULL; -ECHILD. On failure nothing has changed.
 * Context: does not block; the first call of a thread takes a lock and allocates. Not in
 * signal handlers.
 */
TDI_LAZY_INLINE int td_lazy_enter(td_space *space)
{
	return tdi_lazy_enter((struct tdi_lazy *)space);
}

/*
 * The same, in the place of the innermost hold, which ends, but not before this one has
 * begun: on failure it is still there. Costs as much as leaving and entering. With
 * nothing held it is td_lazy_enter().
 */
TDI_LAZY_INLINE int td_lazy_switch(td_space *space)
{
	return tdi_lazy_switch((struct tdi_lazy *)space);
}

/*
 * Ends the innermost hold. The space may be gone when the call returns. A plain store,
 * or an atomic exchange where the kernel offers no membarrier(2) (row E2). Only if
 * the space has died meanwhile: drops the count that has come, and has a reaper free the
 * object if it was the last (row E7); where its engine has no threads any more, frees it.
 *
 * Returns 0; -EPERM: the thread holds nothing; -ECHILD: the hold was the parent's.
 * Context: does not block. Not in signal handlers.
 */
TDI_LAZY_INLINE int td_lazy_leave(void)
{
	return tdi_lazy_leave();
}

/* The space that the calling thread holds innermost, or NULL. Context: anywhere. */
TDI_LAZY_INLINE td_space *td_lazy_current(void)
{
	return (td_space *)tdi_lazy_current();
}

#ifdef __cplusplus
}
#endif

#endif
