/* SPDX-License-Identifier: MIT */
/*
 * Private: what lazy.h inlines, since a function call takes longer than these do: one
 * hold of a thread that is registered. The archive has it as functions, too. What the
 * steps are (e1, l1 ..), and why there are words and tags, is in docs/memory-ordering.md.
 */
#ifndef TEARDOWN_LAZY_INLINE_H
#define TEARDOWN_LAZY_INLINE_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define TDI_LAZY_DEPTH 4
#define TDI_LAZY_WORDS 8 /* two for each level: see tdi_lazy_switch */

/* At the head of what is held. */
struct tdi_lazy {
	uint32_t open;	       /* the process generation in which it may be entered */
	const uint32_t *count; /* constant, as all that follows */
	void (*drop)(struct tdi_lazy *object);
	const char *name;
};

typedef struct tdi_lazy *tdi_lazy_word;

struct tdi_lazy_slot {
	/* What the thread holds. Only the thread itself writes here. */
	__attribute__((aligned(64))) tdi_lazy_word words[TDI_LAZY_WORDS];
	/* For which object a count comes with the word. Passes write, the thread takes.
	 */
	__attribute__((aligned(64))) tdi_lazy_word tags[TDI_LAZY_WORDS];
};

/* Constants, each stored where a branch has found another one: so that no call has to
 * wait for what the last one stored. */
enum tdi_lazy_state {
	TDI_LAZY_SLOW, /* not registered, or more than one hold */
	TDI_LAZY_FREE,
	TDI_LAZY_HELD, /* by plain stores; passes have membarrier */
	TDI_LAZY_FREE_X,
	TDI_LAZY_HELD_X, /* the word is emptied by an exchange: there is none */
};

struct tdi_lazy_thread {
	tdi_lazy_word *word;	    /* the one of its two that level 0 uses */
	uint32_t state;		    /* enum tdi_lazy_state */
	uint32_t generation;	    /* of the process */
	struct tdi_lazy_slot *slot; /* NULL: not registered */
	uint32_t level;		    /* TDI_LAZY_SLOW: holds now */
	uint32_t sides;	    /* bit l: which of its words level l uses, from 1 on */
	uint32_t of_parent; /* holds of the thread that forked */
	uint32_t exchange;  /* there is no membarrier */
};

/* In the thread's own block, wherever the library ends up. */
extern __thread struct tdi_lazy_thread tdi_lazy_self
	__attribute__((tls_model("initial-exec")));

int tdi_lazy_enter_slow(struct tdi_lazy *object);
int tdi_lazy_switch_slow(struct tdi_lazy *object);
int tdi_lazy_leave_slow(void);
struct tdi_lazy *tdi_lazy_current_slow(void);
int tdi_lazy_refuse(struct tdi_lazy *object, tdi_lazy_word *word);
void tdi_lazy_take_tag(struct tdi_lazy *object, tdi_lazy_word *word);

#define TDI_LAZY_INLINE inline __attribute__((always_inline))
#define tdi_lazy_rarely(x) __builtin_expect(!!(x), 0)

TDI_LAZY_INLINE tdi_lazy_word *tdi_lazy_tag(tdi_lazy_word *word)
{
	return word + TDI_LAZY_WORDS;
}

TDI_LAZY_INLINE int tdi_lazy_enter_word(struct tdi_lazy_thread *self,
					struct tdi_lazy *object, tdi_lazy_word *word)
{
	/* e1. Release: what was done under the hold that was here before, if a pass sees
	 * this word and not the one that ended it. */
	__atomic_store_n(word, object, __ATOMIC_RELEASE);
	/* The machine may still turn these two around; the pass has a membarrier. */
	__atomic_signal_fence(__ATOMIC_SEQ_CST);
	/* e2 */
	if (tdi_lazy_rarely(__atomic_load_n(&object->open, __ATOMIC_RELAXED) !=
			    self->generation))
		return tdi_lazy_refuse(object, word);
	return 0;
}

/* Empties a word, and drops the count that has come with it if one has. */
TDI_LAZY_INLINE void tdi_lazy_empty(tdi_lazy_word *word)
{
	struct tdi_lazy *object = __atomic_load_n(word, __ATOMIC_RELAXED);

	/* l1. Release: the thread's last look at the object comes before. */
	__atomic_store_n(word, (struct tdi_lazy *)0, __ATOMIC_RELEASE);
	__atomic_signal_fence(__ATOMIC_SEQ_CST); /* as in tdi_lazy_enter_word */
	/* l2 */
	if (tdi_lazy_rarely(__atomic_load_n(tdi_lazy_tag(word), __ATOMIC_RELAXED) ==
			    object))
		tdi_lazy_take_tag(object, word);
}

/* The same without membarrier. seq_cst, both: pair with p4 and p6 in lazy_pass.c. */
TDI_LAZY_INLINE void tdi_lazy_exchange(tdi_lazy_word *word)
{
	struct tdi_lazy *object =
		__atomic_exchange_n(word, (struct tdi_lazy *)0, __ATOMIC_SEQ_CST);

	if (tdi_lazy_rarely(__atomic_load_n(tdi_lazy_tag(word), __ATOMIC_SEQ_CST) ==
			    object))
		tdi_lazy_take_tag(object, word);
}

/*
 * May it be entered by a plain store where there is no membarrier? Who has a user is
 * found by a pass in any case, by the order of its put. With one count only the caller
 * has a user; or that count is his, all users' is gone, and the acquire, which pairs with
 * that drop, sees to it that he finds the object closed.
 */
TDI_LAZY_INLINE int tdi_lazy_is_users(const struct tdi_lazy *object)
{
	return __atomic_load_n(object->count, __ATOMIC_ACQUIRE) <= 1;
}

TDI_LAZY_INLINE int tdi_lazy_enter(struct tdi_lazy *object)
{
	struct tdi_lazy_thread *self = &tdi_lazy_self;
	uint32_t state = self->state;
	int err;

	if (tdi_lazy_rarely(!object))
		return tdi_lazy_enter_slow(object);
	if (!tdi_lazy_rarely(state != TDI_LAZY_FREE)) {
		err = tdi_lazy_enter_word(self, object, self->word);
		if (!tdi_lazy_rarely(err))
			self->state = TDI_LAZY_HELD;
		return err;
	}
	if (state != TDI_LAZY_FREE_X || !tdi_lazy_is_users(object))
		return tdi_lazy_enter_slow(object);
	err = tdi_lazy_enter_word(self, object, self->word);
	if (!tdi_lazy_rarely(err))
		self->state = TDI_LAZY_HELD_X;
	return err;
}

TDI_LAZY_INLINE int tdi_lazy_leave(void)
{
	struct tdi_lazy_thread *self = &tdi_lazy_self;
	uint32_t state = self->state;

	if (!tdi_lazy_rarely(state != TDI_LAZY_HELD)) {
		self->state = TDI_LAZY_FREE;
		tdi_lazy_empty(self->word);
		return 0;
	}
	if (state != TDI_LAZY_HELD_X)
		return tdi_lazy_leave_slow();
	self->state = TDI_LAZY_FREE_X;
	tdi_lazy_exchange(self->word);
	return 0;
}

/* In the other word of the level, so that one of the two is there at any time. */
TDI_LAZY_INLINE int tdi_lazy_switch(struct tdi_lazy *object)
{
	struct tdi_lazy_thread *self = &tdi_lazy_self;
	tdi_lazy_word *old = self->word, *word;
	uint32_t state = self->state;
	int err;

	if (tdi_lazy_rarely(!object))
		return tdi_lazy_switch_slow(object);
	/* Not by plain stores if what allows to enter is the very hold that ends. */
	if (tdi_lazy_rarely(state != TDI_LAZY_HELD) &&
	    (state != TDI_LAZY_HELD_X || !tdi_lazy_is_users(object) ||
	     __atomic_load_n(old, __ATOMIC_RELAXED) == object))
		return tdi_lazy_switch_slow(object);
	word = (tdi_lazy_word *)((uintptr_t)old ^ sizeof(*old));
	err = tdi_lazy_enter_word(self, object, word);
	if (tdi_lazy_rarely(err))
		return err;
	self->word = word;
	if (state == TDI_LAZY_HELD)
		tdi_lazy_empty(old);
	else
		tdi_lazy_exchange(old);
	return 0;
}

TDI_LAZY_INLINE struct tdi_lazy *tdi_lazy_current(void)
{
	const struct tdi_lazy_thread *self = &tdi_lazy_self;

	if (self->state == TDI_LAZY_FREE)
		return (struct tdi_lazy *)0;
	if (self->state == TDI_LAZY_HELD)
		return __atomic_load_n(self->word, __ATOMIC_RELAXED);
	return tdi_lazy_current_slow();
}

#undef tdi_lazy_rarely

#ifdef __cplusplus
}
#endif

#endif
