/* SPDX-License-Identifier: MIT */
/*
 * Objects that are poisoned when they are freed, and kept for a while: who looks at one
 * that he should not see any more finds poison. Each is freed once for each time that it
 * was added.
 */
#ifndef TDT_POISONED_H
#define TDT_POISONED_H

#include "harness.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <teardown.h>

enum {
	QUARANTINE = 8192, /* objects that are kept at least */
	CHUNK = 1024,
	STASH = 64,
};

#define GOOD UINT64_C(0x600d600d600d600d)
#define POISON UINT64_C(0xdeaddeaddeaddead)

enum { OURS, ADDED, FREED };

struct object {
	volatile uint64_t magic; /* what readers look at */
	struct object *other;	 /* they follow this, too: it is freed with this one */
	unsigned again;		 /* so often the callback adds it once more */
	atomic_int state;
	struct object *next_kept;
	struct td_batch_node node;
};

static atomic_bool enough; /* readers and writers are to end */

/* ---- what went wrong, and what happened at all ---- */

static atomic_uint poison_seen, freed_wrongly, lost, miscounted, refused_wrongly;
static atomic_ulong reads, added, freed, added_again, unused;

static bool is_wrong(void)
{
	return atomic_load(&poison_seen) + atomic_load(&freed_wrongly) +
		       atomic_load(&refused_wrongly) >
	       0;
}

static void expect_ok(int err)
{
	if (err)
		atomic_fetch_add(&refused_wrongly, 1);
}

/* ---- objects: the one that was freed first is used again first ---- */

static pthread_mutex_t kept_lock = PTHREAD_MUTEX_INITIALIZER;
static struct object *kept_first, *kept_last;
static size_t kept;
static struct chunk {
	struct chunk *next;
	struct object objects[CHUNK];
} * chunks;

/* Under the lock, or where nobody else is yet. */
static void keep(struct object *object)
{
	object->next_kept = NULL;
	if (kept_first)
		kept_last->next_kept = object;
	else
		kept_first = object;
	kept_last = object;
	kept++;
}

static void keep_more(void)
{
	struct chunk *chunk = calloc(1, sizeof(*chunk));

	if (!chunk)
		abort();
	chunk->next = chunks;
	chunks = chunk;
	for (size_t i = 0; i < CHUNK; i++) {
		chunk->objects[i].magic = POISON;
		atomic_init(&chunk->objects[i].state, FREED);
		keep(&chunk->objects[i]);
	}
}

struct stash {
	struct object *objects[STASH];
	size_t n;
};

static struct object *take(struct stash *stash)
{
	struct object *object;

	if (stash->n == 0) {
		pthread_mutex_lock(&kept_lock);
		while (kept < QUARANTINE + STASH)
			keep_more();
		for (; stash->n < STASH; stash->n++) {
			stash->objects[stash->n] = kept_first;
			kept_first = kept_first->next_kept;
			kept--;
		}
		pthread_mutex_unlock(&kept_lock);
	}
	object = stash->objects[--stash->n];
	if (atomic_exchange(&object->state, OURS) != FREED)
		atomic_fetch_add(&freed_wrongly, 1);
	object->other = NULL;
	object->again = 0;
	object->magic = GOOD;
	return object;
}

static void give_back(struct stash *stash)
{
	pthread_mutex_lock(&kept_lock);
	while (stash->n > 0)
		keep(stash->objects[--stash->n]);
	pthread_mutex_unlock(&kept_lock);
}

/* ---- freeing ---- */

struct target {
	td_batch *batch;
	unsigned max_size; /* that an object is said to have */
};

static void mark_freed(struct object *object)
{
	int expected = ADDED;

	/* One that is freed twice, or was never given away. */
	if (!atomic_compare_exchange_strong(&object->state, &expected, FREED) ||
	    object->magic != GOOD)
		atomic_fetch_add(&freed_wrongly, 1);
	object->magic = POISON;
}

static void free_bulk(void **objects, size_t n, void *ctx)
{
	struct target *target = ctx;
	size_t left = 0;

	for (size_t i = 0; i < n; i++) {
		struct object *object = objects[i];

		if (object->again > 0) {
			object->again--;
			atomic_fetch_add(&added_again, 1);
			if (object->again > 0 ||
			    td_batch_free_ptr(target->batch, object, 0) != 0)
				expect_ok(td_batch_free(target->batch, &object->node, 0));
			continue;
		}
		mark_freed(object);
		objects[left++] = object;
	}
	atomic_fetch_add(&freed, left);
	pthread_mutex_lock(&kept_lock);
	for (size_t i = 0; i < left; i++)
		keep(objects[i]);
	pthread_mutex_unlock(&kept_lock);
}

static void mark_added(struct object *object)
{
	int expected = OURS;

	if (!atomic_compare_exchange_strong(&object->state, &expected, ADDED))
		atomic_fetch_add(&freed_wrongly, 1);
	atomic_fetch_add(&added, 1);
}

static void check_all_freed(void)
{
	struct chunk *next;

	for (; chunks; chunks = next) {
		next = chunks->next;
		for (size_t i = 0; i < CHUNK; i++) {
			if (chunks->objects[i].state != FREED)
				atomic_fetch_add(&lost, 1);
		}
		free(chunks);
	}
}

#endif
