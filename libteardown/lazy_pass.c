/* SPDX-License-Identifier: MIT */
#include "lazy_slots.h"
#include "membarrier.h"
#include "sys.h"

#include <pthread.h>

#define BARRIER_TRIES 10 /* with pauses of 1, 2, 4 .. ms in between: half a second */

/* Passes take turns, so that a tag that one is about to take back is in nobody's way. */
static pthread_mutex_t turn = PTHREAD_MUTEX_INITIALIZER;
/* A pass was refused its second barrier: tags of its object may be left over. */
static bool leftovers;

#define AHEAD 8 /* slots that are fetched while one is looked at */

struct pass {
	struct tdi_lazy *object;
	struct tdi_ref *count; /* its */
	struct tdi_lazy_block *first;
	unsigned blocks;
	uint32_t tagged, taken_back;
	uint64_t looked_at;
};

/* 0, or -errno. Without membarrier the order is that of the seq_cst accesses. */
static int barrier(void)
{
	int err = 0;

	if (!tdi_membarrier_works())
		return 0;
	for (unsigned tries = 0; tries < BARRIER_TRIES; tries++) {
		if (tries > 0)
			tdi_sys_pause(UINT64_C(500000) << tries);
		err = tdi_membarrier();
		if (err != -ENOMEM)
			break;
	}
	return err;
}

static void tag_slot(struct pass *pass, struct tdi_lazy_block *block, unsigned i)
{
	struct tdi_lazy_slot *slot = &block->slots[i];

	for (unsigned w = 0; w < TDI_LAZY_WORDS; w++) {
		struct tdi_lazy *there = NULL;

		/* p3. Acquire: who held it, and does not any more, has done with it. */
		if (tdi_likely(__atomic_load_n(&slot->words[w], __ATOMIC_SEQ_CST) !=
			       pass->object))
			continue;
		/* p4: pairs with l2. It is free: whoever had a tag here took it before
		 * he entered this. */
		while (!__atomic_compare_exchange_n(&slot->tags[w], &there, pass->object,
						    false, __ATOMIC_SEQ_CST,
						    __ATOMIC_RELAXED)) {
			if (!leftovers)
				tdi_die("'%s': held lazily where a count of another one "
					"still is",
					pass->object->name);
		}
		pass->tagged++;
		block->tagged |= UINT64_C(1) << i;
	}
}

static void tag_holders(struct pass *pass)
{
	struct tdi_lazy_block *block = pass->first;

	for (unsigned n = 0; n < pass->blocks; n++) {
		/* Those who come later do not find it open. (E6) */
		uint64_t taken =
			atomic_load_explicit(&block->taken, memory_order_seq_cst);

		pass->looked_at += (unsigned)__builtin_popcountll(taken);
		for (; taken != 0; taken &= taken - 1) {
			unsigned i = (unsigned)__builtin_ctzll(taken);

			/* Mostly they are in other CPUs' caches, or in none. */
			__builtin_prefetch(
				&block->slots[(i + AHEAD) % TDI_LAZY_BLOCK_SLOTS]);
			tag_slot(pass, block, i);
		}
		if (n + 1 < pass->blocks)
			block = block->next;
	}
}

static void look_at_slot(struct pass *pass, struct tdi_lazy_slot *slot)
{
	for (unsigned w = 0; w < TDI_LAZY_WORDS; w++) {
		struct tdi_lazy *object = pass->object;

		/* p6: pairs with l1. Acquire: as p3. */
		if (__atomic_load_n(&slot->tags[w], __ATOMIC_RELAXED) == object &&
		    __atomic_load_n(&slot->words[w], __ATOMIC_SEQ_CST) != object &&
		    /* p7: against l3 */
		    __atomic_compare_exchange_n(&slot->tags[w], &object, NULL, false,
						__ATOMIC_SEQ_CST, __ATOMIC_RELAXED))
			pass->taken_back++;
	}
}

/* At those with a tag, be they still taken or not. */
static void look_again(struct pass *pass)
{
	struct tdi_lazy_block *block = pass->first;

	for (unsigned n = 0; n < pass->blocks; n++) {
		for (; block->tagged != 0; block->tagged &= block->tagged - 1)
			look_at_slot(pass, &block->slots[__builtin_ctzll(block->tagged)]);
		if (n + 1 < pass->blocks)
			block = block->next;
	}
}

static int in_turn(struct pass *pass)
{
	struct tdi_lazy *object = pass->object;
	int err = barrier(); /* p1 */
	uint32_t all;

	if (err)
		return err;
	/* After it: who registered before the barrier may have entered before it, too. */
	pass->blocks = tdi_lazy_blocks(&pass->first);
	all = pass->blocks * TDI_LAZY_BLOCK_SLOTS * TDI_LAZY_WORDS;
	/* p2 */
	tdi_ref_get_many(pass->count, all, "lazily held", object->name, "count");
	tag_holders(pass);
	if (pass->tagged > 0)
		err = barrier(); /* p5 */
	look_again(pass);
	if (err) {
		leftovers = true;
		return err;
	}
	/* p8. Not the last ones: the caller has one. */
	(void)tdi_ref_put_many(pass->count, all - pass->tagged + pass->taken_back,
			       "lazily held", object->name, "count");
	return 0;
}

int tdi_lazy_pass(struct tdi_lazy *object)
{
	struct pass pass = {
		.object = object,
		.count = tdi_container_of(object->count, struct tdi_ref, n),
	};
	int err;

	/* p0 */
	if (!tdi_lazy_any_block())
		return 0;
	pthread_mutex_lock(&turn);
	err = in_turn(&pass);
	pthread_mutex_unlock(&turn);
	tdi_lazy_count(LAZY_PASSES, 1);
	tdi_lazy_count(LAZY_LOOKED_AT, pass.looked_at);
	tdi_lazy_count(LAZY_TAGGED, pass.tagged);
	tdi_lazy_count(LAZY_TAKEN_BACK, pass.taken_back);
	return err;
}

bool tdi_lazy_is_held(const struct tdi_lazy *object)
{
	struct tdi_lazy_block *block;
	unsigned blocks = tdi_lazy_blocks(&block);

	for (unsigned n = 0; n < blocks; n++) {
		for (unsigned i = 0; i < TDI_LAZY_BLOCK_SLOTS * TDI_LAZY_WORDS; i++) {
			struct tdi_lazy_slot *slot = &block->slots[i / TDI_LAZY_WORDS];

			if (__atomic_load_n(&slot->words[i % TDI_LAZY_WORDS],
					    __ATOMIC_RELAXED) == object)
				return true;
		}
		if (n + 1 < blocks)
			block = block->next;
	}
	return false;
}

void tdi_lazy_pass_before_fork(void)
{
	pthread_mutex_lock(&turn);
}

void tdi_lazy_pass_after_fork(void)
{
	pthread_mutex_unlock(&turn);
}
