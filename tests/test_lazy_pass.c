/* SPDX-License-Identifier: MIT */
/* E3-E6: the pass when users are 0; what meets it half-way; and when it is refused. */
#include "lazies.h"
#include "heard.h"

#include <string.h>

enum { A_BLOCKS_WORDS = (int)(TDI_LAZY_BLOCK_SLOTS * TDI_LAZY_WORDS) };

static struct actor first, second;

static void setup_two_actors(void)
{
	setup_plain();
	actor_begin(&first);
	actor_begin(&second);
}

static void end_two_actors(void)
{
	actor_end(&first);
	actor_end(&second);
	end_engine();
}

static void see_all_counts(void *arg)
{
	uint32_t *seen = arg;

	*seen = count_of(space);
}

/* E4 */
START_TEST(counts_come_in_one_add_and_unused_ones_go_in_one_subtract)
{
	uint32_t before_looking = 0, tagged = 0;

	tell(&first, do_enter, space);
	tell(&second, do_enter, space);
	at_barrier[0].fn = see_all_counts;
	at_barrier[0].arg = &before_looking;
	at_barrier[1].fn = see_all_counts;
	at_barrier[1].arg = &tagged;
	watch_barriers();
	put(space);
	drain();
	ck_assert_uint_eq(before_looking, 1);
	ck_assert_uint_eq(tagged, 1 + A_BLOCKS_WORDS);
	ck_assert_uint_eq(count_of(space), 2);
	tell(&first, do_leave, NULL);
	tell(&second, do_leave, NULL);
	ck_assert_uint_eq(tally().dropped, 2);
}
END_TEST

/* E6 */
START_TEST(only_slots_of_threads_that_are_there_are_looked_at)
{
	struct actor gone[3];

	for (int i = 0; i < 3; i++) {
		actor_begin(&gone[i]);
		tell(&gone[i], do_enter, space);
		tell(&gone[i], do_leave, NULL);
	}
	tell(&first, do_enter, space);
	tell(&first, do_leave, NULL);
	for (int i = 0; i < 3; i++)
		actor_end(&gone[i]);
	put(space);
	drain();
	ck_assert_uint_eq(tally().passes, 1);
	ck_assert_uint_eq(tally().looked_at, 1);
	ck_assert_uint_eq(tally().tagged, 0);
}
END_TEST

/* E6 */
START_TEST(without_any_slot_there_is_no_pass)
{
	put(space);
	drain();
	ck_assert_uint_eq(tally().passes, 0);
	ck_assert_uint_eq(spaces(), 0);
}
END_TEST

START_TEST(who_holds_nothing_costs_one_barrier)
{
	tell(&first, do_enter, space);
	tell(&first, do_leave, NULL);
	watch_barriers();
	put(space);
	drain();
	ck_assert_uint_eq(atomic_load(&barriers), 1);
}
END_TEST

static void first_leaves(void *arg)
{
	(void)arg;
	tell(&first, do_leave, NULL);
}

/* E3 */
START_TEST(one_who_leaves_before_the_look_keeps_nothing)
{
	tell(&first, do_enter, space);
	at_barrier[0].fn = first_leaves;
	watch_barriers();
	put(space);
	drain();
	ck_assert_uint_eq(spaces(), 0);
	ck_assert_uint_eq(tally().tagged, 0);
}
END_TEST

/* E3 */
START_TEST(one_who_leaves_with_the_tag_drops_the_count)
{
	tell(&first, do_enter, space);
	at_barrier[1].fn = first_leaves;
	watch_barriers();
	put(space);
	drain();
	ck_assert_uint_eq(spaces(), 0);
	ck_assert_uint_eq(tally().tagged, 1);
	ck_assert_uint_eq(tally().dropped, 1);
	ck_assert_uint_eq(tally().taken_back, 0);
}
END_TEST

/* l1 without having seen the tag at l2: what a thread does that looked before p4. */
static void leave_blindly(void *arg)
{
	struct tdi_lazy_thread *self = &tdi_lazy_self;

	(void)arg;
	__atomic_store_n(self->word, NULL, __ATOMIC_RELEASE);
	self->level = 0;
	if (self->state == TDI_LAZY_HELD)
		self->state = TDI_LAZY_FREE;
}

static void first_leaves_blindly(void *arg)
{
	(void)arg;
	tell(&first, leave_blindly, NULL);
}

/* E3 */
START_TEST(the_count_of_one_who_did_not_see_the_tag_is_given_back)
{
	tell(&first, do_enter, space);
	at_barrier[1].fn = first_leaves_blindly;
	watch_barriers();
	put(space);
	drain();
	ck_assert_uint_eq(spaces(), 0);
	ck_assert_uint_eq(tally().tagged, 1);
	ck_assert_uint_eq(tally().taken_back, 1);
	ck_assert_uint_eq(tally().dropped, 0);
}
END_TEST

static void first_is_refused(void *arg)
{
	(void)arg;
	tell(&first, be_refused, space);
}

/* E5 */
START_TEST(nobody_enters_during_the_pass)
{
	tell(&first, do_enter, space);
	tell(&first, do_leave, NULL);
	at_barrier[0].fn = first_is_refused;
	at_barrier[1].fn = first_is_refused;
	tell(&second, do_enter, space); /* or there is no second look */
	ck_assert_int_eq(td_space_grab(space), 0);
	watch_barriers();
	put(space);
	drain();
	ck_assert_uint_eq(tally().refused, 2);
	ck_assert_uint_eq(count_of(space), 2);
	ck_assert_int_eq(td_space_drop(space), 0);
	tell(&second, do_leave, NULL);
}
END_TEST

static td_space *other;

static void first_switches(void *arg)
{
	(void)arg;
	tell(&first, do_switch, other);
}

START_TEST(one_may_switch_away_during_the_pass)
{
	for (unsigned n = 0; n < 2; n++) {
		space = n == 0 ? space : make("again");
		other = make("other");
		tell(&first, do_enter, space);
		at_barrier[n].fn = first_switches;
		at_barrier[1 - n].fn = NULL;
		watch_barriers();
		put(space);
		drain();
		ck_assert_uint_eq(spaces(), 1); /* the other one */
		ck_assert_uint_eq(tally().dropped, 2 * n);
		tdt_fail_none();
		put(other);
		drain();
		ck_assert_uint_eq(count_of(other), 1);
		tell(&first, do_leave, NULL);
		drain();
		ck_assert_uint_eq(spaces(), 0);
		ck_assert_uint_eq(tally().dropped, 2 * n + 1);
	}
}
END_TEST

static void *come_and_hold(void *arg)
{
	enter(other);
	put(other);
	sem_wait(arg);
	leave();
	return NULL;
}

static pthread_t newborn;
static sem_t may_leave;

/* Its slot, with the tag in it, is the newborn's at once. */
static void first_ends_and_another_is_born(void *arg)
{
	(void)arg;
	actor_end(&first);
	pthread_create(&newborn, NULL, come_and_hold, &may_leave);
	/* Its put has been, when there are two works: this one's, and its space's. */
	while (tdi_pending_count(&engine->pending) < 2)
		sched_yield();
}

/* E8 */
START_TEST(threads_end_and_are_born_during_the_pass)
{
	for (unsigned n = 0; n < 2; n++) {
		space = n == 0 ? space : make("again");
		other = make("other");
		sem_init(&may_leave, 0, 0);
		tell(&first, do_enter, space);
		at_barrier[n].fn = first_ends_and_another_is_born;
		at_barrier[1 - n].fn = NULL;
		watch_barriers();
		put(space);
		drain();
		ck_assert_uint_eq(spaces(), 1);
		ck_assert_uint_eq(count_of(other), 1);
		ck_assert_uint_eq(tally().at_exit, n + 1);
		sem_post(&may_leave);
		pthread_join(newborn, NULL);
		drain();
		ck_assert_uint_eq(spaces(), 0);
		actor_begin(&first);
	}
}
END_TEST

/* ---- refused ---- */

static const char *put_and_hear(struct hearing *hearing)
{
	hear(hearing);
	put(space);
	drain();
	return heard(hearing);
}

static void refuse(unsigned n, int err, unsigned calls)
{
	at_barrier[n].err = err;
	at_barrier[n].times = calls;
	watch_barriers();
}

#define NEVER                                                                            \
	"space 'held': who holds it lazily cannot be found out, it will never be freed"

static void check_is_kept(unsigned n)
{
	static td_space *kept; /* for LeakSanitizer */
	struct hearing hearing;
	td_space *next = make("next");

	tell(&first, do_enter, space);
	refuse(n, -EPERM, 1);
	kept = space;
	ck_assert_uint_eq(times(put_and_hear(&hearing), NEVER), 1);
	ck_assert_str_eq(td_space_name(kept), "held");
	tell(&first, do_leave, NULL);
	drain();
	ck_assert_uint_eq(spaces(), 2);
	tdt_fail_none();

	/* The slot works as before. */
	tell(&first, do_enter, next);
	put(next);
	drain();
	ck_assert_uint_eq(spaces(), 2);
	tell(&first, do_leave, NULL);
	drain();
	ck_assert_uint_eq(spaces(), 1);
}

static void end_with_one_kept(void)
{
	actor_end(&first);
	actor_end(&second);
	ck_assert_int_eq(td_engine_destroy(engine, TD_EXIT_DRAIN, 0), 0);
}

START_TEST(a_space_is_kept_for_good_if_the_first_barrier_is_refused)
{
	check_is_kept(0);
}
END_TEST

START_TEST(a_space_is_kept_for_good_if_the_second_barrier_is_refused)
{
	check_is_kept(1);
}
END_TEST

/* Whoever left without seeing it leaves a tag behind, when nobody can look again. */
START_TEST(a_tag_that_is_left_over_is_in_nobodys_way)
{
	static td_space *kept;
	struct hearing hearing;
	td_space *next = make("next");

	tell(&first, do_enter, space);
	refuse(1, -EPERM, 1);
	kept = space;
	ck_assert_uint_eq(times(put_and_hear(&hearing), NEVER), 1);
	tdt_fail_none();
	tell(&first, leave_blindly, NULL);
	tell(&first, do_enter, next);
	put(next);
	drain();
	ck_assert_uint_eq(count_of(next), 1);
	tell(&first, do_leave, NULL);
	drain();
	ck_assert_uint_eq(spaces(), 1);
	ck_assert_str_eq(td_space_name(kept), "held");
}
END_TEST

START_TEST(a_barrier_that_lacks_memory_is_tried_again)
{
	struct hearing hearing;

	tell(&first, do_enter, space);
	refuse(0, -ENOMEM, 2);
	refuse(1, -ENOMEM, 3);
	hear(&hearing);
	put(space);
	drain();
	ck_assert_str_eq(heard(&hearing), "");
	ck_assert_uint_eq(count_of(space), 1);
	tell(&first, do_leave, NULL);
	drain();
	ck_assert_uint_eq(spaces(), 0);
}
END_TEST

int main(void)
{
	struct tdt *tests = tdt_suite("lazy_pass");

	tdt_add(tests, counts_come_in_one_add_and_unused_ones_go_in_one_subtract,
		setup_two_actors, end_two_actors);
	tdt_add(tests, only_slots_of_threads_that_are_there_are_looked_at,
		setup_two_actors, end_two_actors);
	tdt_add(tests, without_any_slot_there_is_no_pass, setup_two_actors,
		end_two_actors);
	tdt_add(tests, who_holds_nothing_costs_one_barrier, setup_two_actors,
		end_two_actors);
	tdt_add(tests, one_who_leaves_before_the_look_keeps_nothing, setup_two_actors,
		end_two_actors);
	tdt_add(tests, one_who_leaves_with_the_tag_drops_the_count, setup_two_actors,
		end_two_actors);
	tdt_add(tests, the_count_of_one_who_did_not_see_the_tag_is_given_back,
		setup_two_actors, end_two_actors);
	tdt_add(tests, nobody_enters_during_the_pass, setup_two_actors, end_two_actors);
	tdt_add(tests, one_may_switch_away_during_the_pass, setup_two_actors,
		end_two_actors);
	tdt_add(tests, threads_end_and_are_born_during_the_pass, setup_two_actors,
		end_two_actors);
	tdt_add(tests, a_space_is_kept_for_good_if_the_first_barrier_is_refused,
		setup_two_actors, end_with_one_kept);
	tdt_add(tests, a_space_is_kept_for_good_if_the_second_barrier_is_refused,
		setup_two_actors, end_with_one_kept);
	tdt_add(tests, a_tag_that_is_left_over_is_in_nobodys_way, setup_two_actors,
		end_with_one_kept);
	tdt_add(tests, a_barrier_that_lacks_memory_is_tried_again, setup_two_actors,
		end_two_actors);
	return tdt_run(tests);
}
