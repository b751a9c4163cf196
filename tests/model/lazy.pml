/* SPDX-License-Identifier: MIT */
/*
 * Lazy references: every way in which threads that enter, switch, leave, end and are born
 * can meet the passes of spaces that die. docs/memory-ordering.md names the steps.
 *
 * Each thread may do any OPS things in any order, of those that its references allow, and
 * then gives everything back. Its plain stores wait in store buffers, one for each word,
 * which drain at any time and in any order among words: weaker than the code, whose
 * stores are releases, needs. membarrier() drains them all; an atomic read-modify-write
 * drains those of its own thread, and is seen at once.
 *
 *   THREADS, SLOTS   a thread waits for a free slot: with fewer slots they are reused
 *   SPACES           each has one pass, by a reaper of its own
 *   OPS              things that a thread does of its own will
 *   USERS, COUNTS    bit t: thread t begins with a user, a count, of each space
 *   EXCHANGE         without membarrier: an exchange to leave
 *
 * What must fail has one of: NO_FIRST_BARRIER, NO_SECOND_BARRIER, NO_SECOND_LOOK,
 * NO_OPEN_CHECK, NO_TURN, LOOK_AT_TAKEN, PUT_RELAXED, LEAVE_RELAXED,
 * PLAIN_LEAVE, PLAIN_ENTER and PLAIN_SWITCH (the last three with EXCHANGE).
 */
#ifndef THREADS
#define THREADS 2
#endif
#ifndef SLOTS
#define SLOTS THREADS
#endif
#ifndef SPACES
#define SPACES 1
#endif
#ifndef OPS
#define OPS 3
#endif
#ifndef DEPTH
#define DEPTH 1 /* how deep holds may nest */
#endif
#ifndef USERS
#define USERS 1
#endif
#ifndef COUNTS
#define COUNTS 2
#endif

#define SIDES 2 /* words of a level: a switch needs the other one */
#define WORDS (DEPTH * SIDES)
#define ALL (SLOTS * WORDS)
#define NONE 0
#define NAME(s) (s + 1) /* of a space, in a word or tag */

/* ---- what is in memory ---- */
byte users[SPACES];
byte count[SPACES];
bool closed[SPACES];
byte word[ALL]; /* the space that is held; stored by the slot's thread only */
byte tag[ALL];	/* the space for which a count comes with the word, by passes */
bool taken[SLOTS];
bool turn;	   /* of passes */
bool dead[SPACES]; /* the last count is gone: for the engine */

/* ---- on the way there: up to two stores to a word, the older one first ---- */
byte waiting[ALL];
byte older[ALL];
byte newer[ALL];

/* ---- what really is ---- */
byte held[SPACES];
byte freed[SPACES];
byte ended;

#define touch(s) assert(freed[s] == 0)

inline store(w, value)
{
	atomic {
		waiting[w] < 2 ->
		if
		:: waiting[w] == 0 -> older[w] = value
		:: else -> newer[w] = value
		fi;
		waiting[w]++
	}
}

inline drain_one(w)
{
	word[w] = older[w];
	older[w] = newer[w];
	newer[w] = NONE;
	waiting[w]--;
	if
	:: waiting[w] == 0 -> older[w] = NONE
	:: else
	fi
}

inline drain(from, to)
{
	d_step {
		j = from;
		do
		:: j < to ->
			if
			:: waiting[j] > 0 -> drain_one(j)
			:: else -> j++
			fi
		:: else -> break
		od;
		j = 0
	}
}

inline drain_mine()
{
	drain(slot * WORDS, slot * WORDS + WORDS)
}

inline membarrier()
{
	drain(0, ALL)
}

/* A count goes; the last one hands the space to the engine. */
inline drop(s)
{
	atomic {
		touch(s);
		assert(count[s] > 0);
		count[s]--;
		if
		:: count[s] == 0 -> assert(!dead[s]); dead[s] = true
		:: else
		fi
	}
}

/* Drains the stores of one word, whenever it likes. */
proctype memory(byte w)
{
end:	do
	:: atomic { waiting[w] > 0 -> drain_one(w) }
	od
}

/* ---- a thread ---- */

/* The word goes, and with it the count if one has come with it. */
inline leave(w, s)
{
#ifdef LEAVE_RELAXED
	store(w, NONE);
	use(s);
	atomic { holds = holds - 1; held[s]-- };
#else
	atomic { holds = holds - 1; held[s]-- };
#if defined(EXCHANGE) && !defined(PLAIN_LEAVE)
	atomic { drain_mine(); word[w] = NONE };
#else
	store(w, NONE);
#endif
#endif
	take_tag(w, s)
}

inline use(s)
{
	touch(s)
}

inline take_tag(w, s)
{
	if
	:: tag[w] == NAME(s) -> /* the load; the exchange follows */
		atomic {
			drain_mine();
			if
			:: tag[w] == NAME(s) -> tag[w] = NONE; got = true
			:: else
			fi
		};
		if
		:: got -> got = false; drop(s)
		:: else
		fi
	:: else
	fi
}

inline enter(w, s)
{
	touch(s);
#if defined(EXCHANGE) && !defined(PLAIN_ENTER)
	if
	:: count[s] > 1 || same ->
		atomic { drain_mine(); word[w] = NAME(s) }
	:: else ->
		store(w, NAME(s))
	fi;
#else
	store(w, NAME(s));
#endif
#ifdef NO_OPEN_CHECK
	atomic { holds++; held[s]++; entered = true };
#else
	touch(s);
	if
	:: atomic { !closed[s] -> holds++; held[s]++; entered = true }
	:: closed[s] -> /* refused */
#ifdef EXCHANGE
		atomic { drain_mine(); word[w] = NONE };
#else
		store(w, NONE);
#endif
		take_tag(w, s)
	fi
#endif
}

inline put_user(s)
{
	user[s] = false;
	atomic {
		touch(s);
#ifndef PUT_RELAXED
		drain_mine();
#endif
		users[s]--;
		last = (users[s] == 0)
	};
	if
	:: last -> last = false; closed[s] = true
	:: else
	fi
}

inline drop_count(s)
{
	counted[s] = false;
	drain_mine();
	drop(s)
}

#define WORD(level) (slot * WORDS + (level) * SIDES + side[level])
#define OTHER(level) (slot * WORDS + (level) * SIDES + 1 - side[level])

proctype thread(byte t)
{
	byte slot, j, s, ops, depth, holds;
	byte at[DEPTH]; /* the space held at each level */
	bit side[DEPTH];
	bool user[SPACES], counted[SPACES];
	bool entered, got, last, same;

	atomic {
		do
		:: s < SPACES ->
			user[s] = ((USERS >> t) & 1);
			counted[s] = ((COUNTS >> t) & 1);
			s++
		:: else -> break
		od;
		s = 0;
	}
	/* registers */
	atomic {
		if
		:: !taken[0] -> slot = 0
#if SLOTS > 1
		:: taken[0] && !taken[1] -> slot = 1
#endif
		fi;
		taken[slot] = true
	}

	do
	:: ops < OPS ->
		ops++;
		atomic { select(s : 0 .. (SPACES - 1)) };
		if
		:: depth < DEPTH && (user[s] || counted[s]) ->
			enter(WORD(depth), s);
			if
			:: entered -> entered = false; at[depth] = s; depth++
			:: else
			fi
#if DEPTH > 1
		:: depth == 1 && at[0] == s -> /* holds it lazily already */
			enter(WORD(1), s);
			if
			:: entered -> entered = false; at[1] = s; depth++
			:: else
			fi
#endif
		:: depth > 0 ->
			depth--;
			leave(WORD(depth), at[depth])
		/* switches, maybe by virtue of the hold that ends */
		:: depth > 0 && (user[s] || counted[s] || at[depth - 1] == s) ->
#ifndef PLAIN_SWITCH
			same = (at[depth - 1] == s);
#endif
			enter(OTHER(depth - 1), s);
			same = false;
			if
			:: entered ->
				entered = false;
				leave(WORD(depth - 1), at[depth - 1]);
				side[depth - 1] = 1 - side[depth - 1];
				at[depth - 1] = s
			:: else
			fi
		:: user[s] ->
			put_user(s)
		:: counted[s] ->
			drop_count(s)
		:: depth > 0 && at[depth - 1] == s && !counted[s] -> /* takes a count */
			atomic {
				touch(s);
				assert(count[s] > 0);
				count[s]++;
				counted[s] = true
			}
		:: break
		fi
	:: else -> break
	od;

	/* Ends, whatever it still has. */
	s = 0;
	do
	:: s < SPACES ->
		if
		:: user[s] -> put_user(s)
		:: else
		fi;
		if
		:: counted[s] -> drop_count(s)
		:: else
		fi;
		s++
	:: else -> break
	od;
	do
	:: depth > 0 ->
		depth--;
		leave(WORD(depth), at[depth])
	:: else -> break
	od;
	atomic {
		drain_mine();
		taken[slot] = false;
		ended++
	}
}

/* ---- the engine ---- */

proctype reaper(byte s)
{
	byte i, j, tagged_words, unused;
	bool tagged[ALL];

	closed[s];
#ifndef NO_TURN
	atomic { !turn -> turn = true };
#endif
#if !defined(EXCHANGE) && !defined(NO_FIRST_BARRIER)
	membarrier();
#endif
	atomic { touch(s); count[s] = count[s] + ALL };
	unused = ALL;

	/* tags */
	do
	:: i < ALL ->
		if
		:: taken[i / WORDS] && word[i] == NAME(s) ->
			atomic {
				/* Whoever had a hold here before has taken its tag. */
				assert(tag[i] == NONE);
				tag[i] = NAME(s);
				tagged[i] = true;
				unused--;
				tagged_words++
			}
		:: else
		fi;
		i++
	:: else -> break
	od;
	i = 0;

	/* looks again */
#ifndef NO_SECOND_LOOK
	if
	:: tagged_words > 0 ->
#if !defined(EXCHANGE) && !defined(NO_SECOND_BARRIER)
		membarrier();
#endif
		do
		:: i < ALL ->
#ifdef LOOK_AT_TAKEN
			if
			:: !taken[i / WORDS] -> tagged[i] = false
			:: else
			fi;
#endif
			if
			:: tagged[i] && word[i] != NAME(s) ->
				atomic {
					if
					:: tag[i] == NAME(s) -> tag[i] = NONE; unused++
					:: else
					fi
				}
			:: else
			fi;
			tagged[i] = false;
			i++
		:: else -> break
		od;
		i = 0
	:: else
	fi;
#endif
	tagged_words = 0;
	atomic { touch(s); count[s] = count[s] - unused; unused = 0 };
#ifndef NO_TURN
	turn = false;
#endif
	drop(s); /* that of all users */

	/* The last count, whoever drops it. */
	dead[s];
	atomic {
		assert(held[s] == 0);
		assert(count[s] == 0 && users[s] == 0);
		freed[s]++;
		assert(freed[s] == 1);
		ended++
	}
}

/* When all have ended nothing is left. Who waits for ever is Spin's to find. */
proctype at_the_end()
{
	byte i;

	ended == THREADS + SPACES;
	do
	:: i < ALL -> assert(tag[i] == NONE && word[i] == NONE && waiting[i] == 0); i++
	:: else -> break
	od;
	i = 0;
	do
	:: i < SPACES -> assert(freed[i] == 1); i++
	:: else -> break
	od
}

init {
	byte t, s;

	atomic {
		do
		:: s < SPACES ->
			t = 0;
			count[s] = 1;
			do
			:: t < THREADS ->
				users[s] = users[s] + ((USERS >> t) & 1);
				count[s] = count[s] + ((COUNTS >> t) & 1);
				t++
			:: else -> break
			od;
			run reaper(s);
			s++
		:: else -> break
		od;
		t = 0;
		do
		:: t < ALL -> run memory(t); t++
		:: else -> break
		od;
		t = 0;
		do
		:: t < THREADS -> run thread(t); t++
		:: else -> break
		od;
		run at_the_end()
	}
}
