/* SPDX-License-Identifier: MIT */
/* Taken and given back: a user, a count, a hold. And what is looked up by an address. */
#include "count.h"
#include "lazy.h"
#include "membarrier.h"

#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include <teardown.h>
#include <urcu/ref.h>
#include <urcu/urcu-memb.h>

#define NR_ELEMENTS(array) ((unsigned)(sizeof(array) / sizeof((array)[0])))
#define CALLS 32

/* ---- references ---- */

static void release_never(struct urcu_ref *ref)
{
	(void)ref;
	abort();
}

static inline int nothing(void)
{
	return 0;
}

#define ATOMIC(a) ((_Atomic(uint32_t) *)(a))

COUNTED(get, td_space_get(a))
COUNTED(put, td_space_put(a))
COUNTED(grab, td_space_grab(a))
COUNTED(drop, td_space_drop(a))
COUNTED(lazy_enter, td_lazy_enter(a))
COUNTED(lazy_leave, td_lazy_leave())
/* The same source, but the other way through it. */
COUNTED(lazy_enter_exchange, td_lazy_enter(a))
COUNTED(lazy_leave_exchange, td_lazy_leave())
COUNTED(atomic_add,
	(atomic_fetch_add_explicit(ATOMIC(a), 1, memory_order_relaxed), nothing()))
COUNTED(atomic_sub,
	(atomic_fetch_sub_explicit(ATOMIC(a), 1, memory_order_release), nothing()))
COUNTED(urcu_ref_get, (urcu_ref_get(a), nothing()))
COUNTED(urcu_ref_put, (urcu_ref_put(a, release_never), nothing()))
COUNTED(rcu_read_lock, (urcu_memb_read_lock(), nothing()))
COUNTED(rcu_read_unlock, (urcu_memb_read_unlock(), nothing()))

static struct counted references[] = {
	COUNTED_PATH(get),	     COUNTED_PATH(put),
	COUNTED_PATH(grab),	     COUNTED_PATH(drop),
	COUNTED_PEER(atomic_add),    COUNTED_PEER(atomic_sub),
	COUNTED_PEER(urcu_ref_get),  COUNTED_PEER(urcu_ref_put),
	COUNTED_PEER(rcu_read_lock), COUNTED_PEER(rcu_read_unlock),
};

enum { ENTER, LEAVE, ENTER_EXCHANGE, LEAVE_EXCHANGE };
static struct counted holds[] = {
	[ENTER] = COUNTED_PATH(lazy_enter),
	[LEAVE] = COUNTED_PATH(lazy_leave),
	[ENTER_EXCHANGE] = COUNTED_PATH(lazy_enter_exchange),
	[LEAVE_EXCHANGE] = COUNTED_PATH(lazy_leave_exchange),
};

static void hold(td_space *space, unsigned enter, unsigned leave, uint32_t held)
{
	for (unsigned i = 0; i < CALLS; i++) {
		count_perform(&holds[enter], space, NULL, NULL);
		count_must(tdi_lazy_self.state == held ? 0 : -EINVAL,
			   "held in another way than is to be counted");
		count_perform(&holds[leave], NULL, NULL, NULL);
	}
}

static void count_holds(td_space *space)
{
	struct tdi_lazy_thread *self = &tdi_lazy_self;

	/* The first of a thread registers it. */
	count_must(td_lazy_enter(space), "td_lazy_enter");
	count_must(td_lazy_leave(), "td_lazy_leave");
	if (tdi_membarrier_works())
		hold(space, ENTER, LEAVE, TDI_LAZY_HELD);
	else
		printf("without lazy_enter lazy_leave: the kernel has no membarrier\n");
	/* As if it had none. This is the stronger way: a pass may still use its own. */
	self->exchange = 1;
	self->state = TDI_LAZY_FREE_X;
	hold(space, ENTER_EXCHANGE, LEAVE_EXCHANGE, TDI_LAZY_HELD_X);
}

static td_space *space_make(td_engine *engine)
{
	td_space *space;

	count_must(td_space_create(engine, NULL, &space), "td_space_create");
	return space;
}

static td_engine *engine_make(void)
{
	td_engine *engine;

	count_must(td_engine_create(TD_ENGINE_OPTS(.reapers = 1), &engine),
		   "td_engine_create");
	return engine;
}

void count_references(void)
{
	td_engine *engine = engine_make();
	td_space *space = space_make(engine);
	_Atomic(uint32_t) count = 1;
	struct urcu_ref ref;
	void *objects[] = {space,  space, space, space, &count,
			   &count, &ref,  &ref,	 NULL,	NULL};

	urcu_ref_init(&ref);
	urcu_memb_register_thread();
	for (unsigned i = 0; i < CALLS; i++) {
		for (unsigned k = 0; k < NR_ELEMENTS(references); k++)
			count_perform(&references[k], objects[k], NULL, NULL);
	}
	urcu_memb_unregister_thread();
	count_holds(space);
	count_tell(references, NR_ELEMENTS(references));
	count_tell(holds, NR_ELEMENTS(holds));
	count_must(td_space_put(space), "td_space_put");
	count_must(td_engine_destroy(engine, TD_EXIT_DRAIN, TD_FOREVER),
		   "td_engine_destroy");
}

/* ---- looking up ---- */

struct entry {
	uintptr_t start, end;
	void *value;
};

struct sorted {
	const struct entry *entries;
	size_t nr;
};

/* What nobody may change meanwhile. No branch to be mispredicted, as in a good one. */
static int search(const struct sorted *sorted, uintptr_t addr, struct entry *ret)
{
	const struct entry *base = sorted->entries;

	for (size_t nr = sorted->nr, half; nr > 1; nr -= half) {
		half = nr / 2;
		base = base[half].start <= addr ? base + half : base;
	}
	if (addr < base->start || addr >= base->end)
		return -ENOENT;
	*ret = *base;
	return 0;
}

COUNTED(lookup_64, td_region_lookup(a, b, c))
COUNTED(lookup_4096, td_region_lookup(a, b, c))
COUNTED(search_64, search(a, (uintptr_t)b, c))
COUNTED(search_4096, search(a, (uintptr_t)b, c))

static struct counted lookups[] = {
	COUNTED_PATH(lookup_64),
	COUNTED_PATH(lookup_4096),
	COUNTED_PEER(search_64),
	COUNTED_PEER(search_4096),
};

/* Once in each of so many regions. */
static void count_among(td_engine *engine, unsigned nr, struct counted *lookup,
			struct counted *peer)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE);
	char *start =
		mmap(NULL, nr * page, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	td_space *space = space_make(engine);
	struct entry *entries = calloc(nr, sizeof(*entries)), found;
	struct sorted sorted = {entries, nr};
	struct td_region_info info;

	count_must(start == MAP_FAILED || !entries ? -ENOMEM : 0, "memory");
	for (unsigned i = 0; i < nr; i++) {
		char *addr = start + i * page;

		count_must(td_region_adopt(space, addr, page, NULL), "td_region_adopt");
		entries[i] =
			(struct entry){(uintptr_t)addr, (uintptr_t)addr + page, NULL};
	}
	urcu_memb_read_lock();
	for (unsigned i = 0; i < nr; i++) {
		count_perform(lookup, space, start + i * page + 1, &info);
		count_perform(peer, &sorted, start + i * page + 1, &found);
		count_must(info.addr == start + i * page &&
					   found.start == (uintptr_t)info.addr
				   ? 0
				   : -EINVAL,
			   "another region was found");
	}
	urcu_memb_read_unlock();
	free(entries);
	count_must(td_space_put(space), "td_space_put");
}

void count_lookups(void)
{
	td_engine *engine = engine_make();

	urcu_memb_register_thread();
	count_among(engine, 64, &lookups[0], &lookups[2]);
	count_among(engine, 4096, &lookups[1], &lookups[3]);
	urcu_memb_unregister_thread();
	count_tell(lookups, NR_ELEMENTS(lookups));
	count_must(td_engine_destroy(engine, TD_EXIT_DRAIN, TD_FOREVER),
		   "td_engine_destroy");
}
