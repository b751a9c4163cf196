/* SPDX-License-Identifier: MIT */
#include "jemalloc_hooks.h"

#include <err.h>
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define MIB ((size_t)1 << 20)
#define GIB ((size_t)1 << 30)
#define STEP_MIN                                                                         \
	(2 * MIB) /* a page-table page's, or a huge page: neither is cut in two */
#define STEP_MAX (64 * MIB)

static void must(int err, const char *what)
{
	if (err < 0)
		errx(EXIT_FAILURE, "%s: %s", what, strerror(-err));
}

static uint64_t now_ns(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

/* ---- hand-over ---- */

/* At the start of an extent that jemalloc has given up. */
struct hooked_note {
	struct hooked_note *next;
	size_t size;	  /* what is still mapped, from the note on */
	size_t populated; /* what may still have pages, from the note on */
};

static void submit_unless_queued(struct hooked *hooked)
{
	/* seq_cst, as all here: pairs with work_done(). A pusher pushes and then looks
	 * whether the work is queued; work_done() takes it off and then looks for what
	 * was pushed. So one of them, at least, sees the other. */
	if (atomic_load(&hooked->queued) || atomic_exchange(&hooked->queued, true))
		return;
	hooked->work.cost = atomic_load(&hooked->mapped);
	atomic_fetch_add(&hooked->submits, 1);
	/* Fails in the child of a fork only, which has no reapers (-ECHILD): there, what
	 * is given up stays mapped until exec or exit. */
	(void)td_engine_submit(hooked->engine, &hooked->work);
}

static void push(struct hooked *hooked, struct hooked_note *note)
{
	struct hooked_note *top = atomic_load(&hooked->inbox);

	do
		note->next = top;
	while (!atomic_compare_exchange_weak(&hooked->inbox, &top, note));
	/* The note may be gone from here on. */
}

/* ---- the reaper's side ---- */

/*
 * One system call for the first note, from its end, so that the note itself goes last.
 * First the pages, without unmapping: from Linux 6.17 on that takes no lock that others
 * need to mmap. Then, when a step of pages is left at most, the rest: page tables.
 */
static int work_step(struct hooked *hooked, struct td_slice *slice)
{
	struct hooked_note *note = hooked->notes, *next = note->next;
	char *start = (char *)note;
	size_t size = note->size, populated = note->populated;
	size_t from = size > GIB ? size - GIB : 0; /* 512 page-table pages */
	bool big = populated > hooked->step;
	uint64_t began = now_ns(), took;

	if (big) /* to where a page-table page ends */
		from = populated - hooked->step +
		       -(uintptr_t)(start + populated - hooked->step) % STEP_MIN;
	if (big && madvise(start + from, populated - from, MADV_DONTNEED) == 0) {
		note->populated = from;
		took = now_ns() - began;
		if (took > slice->target_ns && hooked->step > STEP_MIN)
			hooked->step /= 2;
		else if (took < slice->target_ns / 2 && hooked->step < STEP_MAX)
			hooked->step *= 2;
	} else { /* or with their pages, where madvise refuses: locked memory */
		if (munmap(start + from, size - from))
			return -errno;
		atomic_fetch_sub(&hooked->mapped, size - from);
		if (from == 0) /* the note is gone */
			hooked->notes = next;
		else
			*note = (struct hooked_note){next, from,
						     populated < from ? populated : from};
	}
	slice->released += populated > from ? populated - from : 0;
	return 0;
}

/* The kernel's limit on mappings: a hole in the middle of one makes two. What can go now
 * are the pages, but for the note's own; the rest when others have gone. */
static void put_off(struct hooked *hooked)
{
	struct hooked_note *note = hooked->notes;
	size_t page = (size_t)sysconf(_SC_PAGESIZE);

	madvise((char *)note + page, note->size - page, MADV_DONTNEED); /* if it can */
	hooked->notes = note->next;
	push(hooked, note);
}

static int work_slice(struct td_work *work, struct td_slice *slice)
{
	struct hooked *hooked = (void *)((char *)work - offsetof(struct hooked, work));
	bool progress = false;

	do {
		int err;

		if (!hooked->notes)
			hooked->notes = atomic_exchange(&hooked->inbox, NULL);
		if (!hooked->notes)
			return TD_WORK_DONE;
		err = work_step(hooked, slice);
		if (err == -ENOMEM) {
			put_off(hooked);
			return progress ? TD_WORK_MORE : TD_WORK_LATER;
		}
		must(err, "freeing an extent"); /* it is somebody else's by now */
		progress = true;
	} while (now_ns() < slice->deadline_ns);
	return TD_WORK_MORE;
}

static void work_done(struct td_work *work, int status)
{
	struct hooked *hooked = (void *)((char *)work - offsetof(struct hooked, work));

	/* Not for status < 0: the engine is going, and with it the process. */
	atomic_store(&hooked->queued, false);
	if (status == 0 && atomic_load(&hooked->inbox))
		submit_unless_queued(hooked);
}

/* ---- the hooks, which are told more than they need ---- */

#pragma GCC diagnostic ignored "-Wunused-parameter"

static void *map(void *addr, size_t size, int flags)
{
	void *start = mmap(addr, size, PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | flags, -1, 0);

	return start == MAP_FAILED ? NULL : start;
}

static void *map_aligned(size_t size, size_t alignment)
{
	char *start = map(NULL, size, 0);
	size_t lead;

	if (!start || (uintptr_t)start % alignment == 0)
		return start;
	munmap(start, size);
	start = map(NULL, size + alignment, 0);
	if (!start)
		return NULL;
	lead = -(uintptr_t)start % alignment;
	if (lead > 0)
		munmap(start, lead);
	munmap(start + lead + size, alignment - lead);
	return start + lead;
}

static void *hook_alloc(extent_hooks_t *hooks, void *new_addr, size_t size,
			size_t alignment, bool *zero, bool *commit, unsigned arena)
{
	struct hooked *hooked = (struct hooked *)hooks;
	void *start;

	/* Exactly there or nowhere: what is queued there, for instance, is still mapped.
	 */
	start = new_addr ? map(new_addr, size, MAP_FIXED_NOREPLACE)
			 : map_aligned(size, alignment);
	if (start && new_addr && start != new_addr) { /* before Linux 4.17: only a hint */
		munmap(start, size);
		return NULL;
	}
	if (!start)
		return NULL;
	*zero = *commit = true; /* asked for or not: it is */
	atomic_fetch_add(&hooked->mapped, size);
	return start;
}

/* False: the extent is ours. True would leave it to jemalloc. */
static bool hook_dalloc(extent_hooks_t *hooks, void *addr, size_t size, bool committed,
			unsigned arena)
{
	struct hooked *hooked = (struct hooked *)hooks;
	struct hooked_note *note = addr;

	*note = (struct hooked_note){.size = size, .populated = size};
	push(hooked, note);
	atomic_fetch_add(&hooked->extents, 1);
	submit_unless_queued(hooked);
	return false;
}

static void hook_destroy(extent_hooks_t *hooks, void *addr, size_t size, bool committed,
			 unsigned arena)
{
	hook_dalloc(hooks, addr, size, committed, arena);
}

/* munmap cuts and spans mappings: extents may be cut and joined freely (false: done). */
static bool hook_split(extent_hooks_t *hooks, void *addr, size_t size, size_t size_a,
		       size_t size_b, bool committed, unsigned arena)
{
	return false;
}

static bool hook_merge(extent_hooks_t *hooks, void *addr_a, size_t size_a, void *addr_b,
		       size_t size_b, bool committed, unsigned arena)
{
	return false;
}

void hooked_init(struct hooked *hooked, const extent_hooks_t *defaults)
{
	static const struct td_work_ops ops = {.slice = work_slice, .done = work_done};

	memset(hooked, 0, sizeof(*hooked));
	hooked->hooks = (extent_hooks_t){
		.alloc = hook_alloc,
		.dalloc = hook_dalloc,
		.destroy = hook_destroy,
		/* jemalloc goes on using what it purges, so this cannot be queued. */
		.purge_lazy = defaults->purge_lazy,
		.purge_forced = defaults->purge_forced,
		.split = hook_split,
		.merge = hook_merge,
		/* No commit and decommit: notes are written to extents. */
	};
	hooked->step = STEP_MIN;
	td_work_init(&hooked->work, &ops, 0);
	must(td_engine_default(&hooked->engine), "td_engine_default");
}

/* Drains again when the
 * work found more as it ended: a drain does not wait for what came after it began. */
void hooked_wait(struct hooked *hooked)
{
	do
		must(td_engine_drain(hooked->engine, TD_FOREVER), "td_engine_drain");
	while (atomic_load(&hooked->queued));
}
