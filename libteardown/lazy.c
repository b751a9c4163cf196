/* SPDX-License-Identifier: MIT */
/* What a thread does but rarely: it registers, comes too late, has a count to drop, ends.
 */
#include "lazy.h"
#include "lazy_slots.h"
#include "membarrier.h"
#include "thread.h"

__thread struct tdi_lazy_thread tdi_lazy_self __attribute__((tls_model("initial-exec")));

static uint32_t generation = 1; /* written only in a child that has one thread */

static _Atomic(uint64_t) tally[LAZY_ENDS]; /* relaxed: they order nothing */

void tdi_lazy_count(enum tdi_lazy_end end, uint64_t n)
{
	atomic_fetch_add_explicit(&tally[end], n, memory_order_relaxed);
}

void tdi_lazy_tally(struct tdi_lazy_tally *ret)
{
	uint64_t n[LAZY_ENDS];

	for (unsigned end = 0; end < LAZY_ENDS; end++)
		n[end] = atomic_load_explicit(&tally[end], memory_order_relaxed);
	*ret = (struct tdi_lazy_tally){
		.passes = n[LAZY_PASSES],
		.looked_at = n[LAZY_LOOKED_AT],
		.tagged = n[LAZY_TAGGED],
		.taken_back = n[LAZY_TAKEN_BACK],
		.dropped = n[LAZY_DROPPED],
		.at_exit = n[LAZY_AT_EXIT],
		.refused = n[LAZY_REFUSED],
	};
}

/* The rest of "open" is the generation, closed or not. */
#define CLOSED 0x80000000u

void tdi_lazy_init(struct tdi_lazy *object, struct tdi_ref *count,
		   void (*drop)(struct tdi_lazy *object), const char *name)
{
	*object = (struct tdi_lazy){
		.open = generation,
		.count = (const uint32_t *)&count->n,
		.drop = drop,
		.name = name,
	};
}

void tdi_lazy_close(struct tdi_lazy *object)
{
	/* c2. seq_cst: pairs with x2 below where a barrier of the pass does not. */
	__atomic_store_n(&object->open, object->open | CLOSED, __ATOMIC_SEQ_CST);
}

/* ---- levels ---- */

static unsigned level_of(const struct tdi_lazy_thread *self)
{
	switch (self->state) {
	case TDI_LAZY_FREE:
	case TDI_LAZY_FREE_X:
		return 0;
	case TDI_LAZY_HELD:
	case TDI_LAZY_HELD_X:
		return 1;
	default:
		return self->level;
	}
}

/* What nests is not inlined. */
static void set_level(struct tdi_lazy_thread *self, unsigned level)
{
	self->level = level;
	if (level > 1)
		self->state = TDI_LAZY_SLOW;
	else if (level == 1)
		self->state = self->exchange ? TDI_LAZY_HELD_X : TDI_LAZY_HELD;
	else
		self->state = self->exchange ? TDI_LAZY_FREE_X : TDI_LAZY_FREE;
}

static tdi_lazy_word *word_of(const struct tdi_lazy_thread *self, unsigned level)
{
	if (level == 0)
		return self->word;
	return &self->slot->words[2 * level + ((self->sides >> level) & 1)];
}

static tdi_lazy_word *other_word_of(const struct tdi_lazy_thread *self, unsigned level)
{
	return (tdi_lazy_word *)((uintptr_t)word_of(self, level) ^ sizeof(tdi_lazy_word));
}

static void change_sides(struct tdi_lazy_thread *self, unsigned level)
{
	if (level == 0)
		self->word = other_word_of(self, 0);
	else
		self->sides ^= 1u << level;
}

static void empty(const struct tdi_lazy_thread *self, tdi_lazy_word *word)
{
	if (self->exchange)
		tdi_lazy_exchange(word);
	else
		tdi_lazy_empty(word);
}

/* ---- threads begin and end ---- */

static void thread_ends(void)
{
	struct tdi_lazy_thread *self = &tdi_lazy_self;

	if (!self->slot)
		return;
	tdi_lazy_count(LAZY_AT_EXIT, level_of(self));
	while (level_of(self) > 0)
		(void)tdi_lazy_leave_slow();
	tdi_lazy_slot_give(self->slot);
	/* Other destructors may enter again: then it is registered and told anew. */
	*self = (struct tdi_lazy_thread){.of_parent = self->of_parent};
}

static int register_thread(struct tdi_lazy_thread *self)
{
	int err;

	tdi_thread_on_exit(TDI_THREAD_LAZY, thread_ends);
	err = tdi_thread_watch();
	if (err)
		return err;
	self->slot = tdi_lazy_slot_take();
	if (!self->slot)
		return -ENOMEM;
	self->word = &self->slot->words[0];
	self->generation = generation;
	self->exchange = !tdi_membarrier_works();
	set_level(self, 0);
	return 0;
}

/* ---- the slow ends ---- */

int tdi_lazy_refuse(struct tdi_lazy *object, tdi_lazy_word *word)
{
	uint32_t open = __atomic_load_n(&object->open, __ATOMIC_RELAXED);

	if ((open & ~CLOSED) == tdi_lazy_self.generation &&
	    __atomic_load_n(object->count, __ATOMIC_RELAXED) == 0)
		tdi_die("'%s': entered by a caller without a user or a count",
			object->name);
	/* As any hold: a pass may have found it. */
	empty(&tdi_lazy_self, word);
	if ((open & ~CLOSED) != tdi_lazy_self.generation)
		return -ECHILD;
	tdi_lazy_count(LAZY_REFUSED, 1);
	return -ENXIO;
}

/* Without membarrier, and somebody has a count, maybe the caller; or what allows to enter
 * is the very hold that ends: a pass that sees that one end has to see this one begin. */
static int enter_by_exchange(struct tdi_lazy_thread *self, struct tdi_lazy *object,
			     tdi_lazy_word *word)
{
	/* x1: pairs with p3 in lazy_pass.c */
	(void)__atomic_exchange_n(word, object, __ATOMIC_SEQ_CST);
	/* x2: pairs with c2 in tdi_lazy_close */
	if (__atomic_load_n(&object->open, __ATOMIC_SEQ_CST) != self->generation)
		return tdi_lazy_refuse(object, word);
	return 0;
}

static int enter_level(struct tdi_lazy *object, bool switches)
{
	struct tdi_lazy_thread *self = &tdi_lazy_self;
	int err = self->slot ? 0 : register_thread(self);
	tdi_lazy_word *old = NULL, *word;
	unsigned level;

	if (err)
		return err;
	level = level_of(self);
	if (switches && level > 0) {
		old = word_of(self, --level);
		word = other_word_of(self, level);
	} else if (level < TDI_LAZY_DEPTH) {
		word = word_of(self, level);
	} else {
		return -EOVERFLOW;
	}
	if (self->exchange && (!tdi_lazy_is_users(object) || (old && *old == object)))
		err = enter_by_exchange(self, object, word);
	else
		err = tdi_lazy_enter_word(self, object, word);
	if (err)
		return err;
	if (old) {
		change_sides(self, level);
		empty(self, old);
	} else {
		set_level(self, level + 1);
	}
	return 0;
}

int tdi_lazy_enter_slow(struct tdi_lazy *object)
{
	return object ? enter_level(object, false) : -EINVAL;
}

int tdi_lazy_switch_slow(struct tdi_lazy *object)
{
	return object ? enter_level(object, true) : -EINVAL;
}

int tdi_lazy_leave_slow(void)
{
	struct tdi_lazy_thread *self = &tdi_lazy_self;
	unsigned level = level_of(self);

	if (level > 0) {
		set_level(self, level - 1);
		empty(self, word_of(self, level - 1));
		return 0;
	}
	if (self->of_parent > 0) {
		self->of_parent--;
		return -ECHILD;
	}
	return -EPERM;
}

struct tdi_lazy *tdi_lazy_current_slow(void)
{
	const struct tdi_lazy_thread *self = &tdi_lazy_self;
	unsigned level = level_of(self);

	return level == 0 ? NULL
			  : __atomic_load_n(word_of(self, level - 1), __ATOMIC_RELAXED);
}

void tdi_lazy_take_tag(struct tdi_lazy *object, tdi_lazy_word *word)
{
	struct tdi_lazy *expected = object;

	/* l3. Against p7: one of the two has the count. Acquire: the pass comes before
	 * what the last drop does; release: the next pass finds the tag free if it sees
	 * what is entered here next. */
	if (!__atomic_compare_exchange_n(tdi_lazy_tag(word), &expected, NULL, false,
					 __ATOMIC_ACQ_REL, __ATOMIC_RELAXED))
		return;
	tdi_lazy_count(LAZY_DROPPED, 1);
	object->drop(object);
}

/* ---- fork ---- */

void tdi_lazy_before_fork(void)
{
	tdi_lazy_pass_before_fork();
	tdi_lazy_slots_before_fork();
}

void tdi_lazy_after_fork(bool child)
{
	struct tdi_lazy_thread *self = &tdi_lazy_self;

	tdi_lazy_slots_after_fork(child);
	tdi_lazy_pass_after_fork();
	if (!child)
		return;
	/* What was made before is the parent's, and so is what was held. */
	generation++;
	*self = (struct tdi_lazy_thread){.of_parent = self->of_parent + level_of(self)};
}

/* ---- what is inlined, for those who cannot ---- */

extern inline tdi_lazy_word *tdi_lazy_tag(tdi_lazy_word *word);
extern inline int tdi_lazy_enter_word(struct tdi_lazy_thread *self,
				      struct tdi_lazy *object, tdi_lazy_word *word);
extern inline void tdi_lazy_empty(tdi_lazy_word *word);
extern inline void tdi_lazy_exchange(tdi_lazy_word *word);
extern inline int tdi_lazy_is_users(const struct tdi_lazy *object);
extern inline int tdi_lazy_enter(struct tdi_lazy *object);
extern inline int tdi_lazy_leave(void);
extern inline int tdi_lazy_switch(struct tdi_lazy *object);
extern inline struct tdi_lazy *tdi_lazy_current(void);
