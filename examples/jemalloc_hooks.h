/* SPDX-License-Identifier: MIT */
/*
 * jemalloc arenas that are destroyed in O(1) an extent: extent hooks whose dalloc and
 * destroy hand the memory to libteardown's reapers. Copy jemalloc_hooks.[ch].
 *
 * Why. By default "arena.<i>.destroy" purges (MADV_DONTNEED) and unmaps all extents in
 * its caller, under a mutex that other mallctl calls want, page by page.
 *
 * What may be queued. jemalloc forgets an extent before it calls dalloc or destroy:
 * nobody uses the range any more, so it can stay mapped until a reaper comes to it. Hence
 * td_engine_submit() and not td_munmap(), which would go to the kernel for each extent to
 * make accesses fault that nobody makes. Purging is not queued: jemalloc keeps what it
 * purges, and purge_forced promises zeros when it returns.
 *
 * Where the notes are kept. A hook must not malloc: it runs inside malloc. A table can be
 * full. But the memory is dead, so each extent holds its own note, in its first bytes,
 * and that page goes last. Hooks push notes to a stack, the reaper takes it as a whole.
 * The price: an extent whose first page was never touched (destroy sees such rests) takes
 * a page fault for it; where transparent huge pages are always on, of a huge page: let
 * alloc advise MADV_NOHUGEPAGE there.
 *
 * One work for an arena. Not one for an extent: whoever pushes while the work is with the
 * engine is done, and a flood of small extents costs one wake. Not one for all arenas:
 * works take turns, and a small arena never waits for a big one.
 *
 * Which engine. The default one: its reapers sleep when there is nothing to do, and are
 * shared with what else is torn down. It is made before a hook runs: that allocates.
 *
 * What to know. Queued extents still count against the process's limits: when mallocx()
 * returns NULL, try again after td_engine_relieve() (not in a hook: it runs anybody's
 * callbacks). And decay unmaps, where jemalloc retains: a program that frees many small
 * pieces and lives on may have dalloc refuse them (true).
 */
#ifndef JEMALLOC_HOOKS_H
#define JEMALLOC_HOOKS_H

#include <jemalloc/jemalloc.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>

#include <teardown.h>

struct hooked_note; /* what waits to be freed */

/* One for each arena. Must outlive it, and what is queued: see hooked_wait(). */
struct hooked {
	extent_hooks_t hooks; /* first: jemalloc hands its address to every hook */
	td_engine *engine;

	_Atomic(struct hooked_note *) inbox; /* given up and not yet seen by a reaper */
	_Atomic(bool) queued;		     /* the work is with the engine */
	_Atomic(size_t) mapped;		     /* by alloc, and not yet unmapped */
	_Atomic(unsigned) extents, submits;

	/* The reaper's, while the work is with the engine. */
	struct td_work work;
	struct hooked_note *notes;
	size_t step; /* bytes that can be released in the time a step may take */
};

/* Before arenas.create, and before the first hook runs: with jemalloc's own hooks, which
 * "arena.0.extent_hooks" tells. */
void hooked_init(struct hooked *hooked, const extent_hooks_t *defaults);

/* When this returns after arena.<i>.destroy, the hooks may go, too. */
void hooked_wait(struct hooked *hooked);

#endif
