/* SPDX-License-Identifier: MIT */
/* E7, E8: threads, engines and processes that end, or begin, while spaces are held. */
#include "lazies.h"

#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

static struct actor actor;

static void setup_actor(void)
{
	setup_plain();
	actor_begin(&actor);
}

static void setup_actor_exchange(void)
{
	setup_exchange();
	actor_begin(&actor);
}

/* E8 */
START_TEST(a_thread_that_ends_holds_nothing)
{
	tell(&actor, do_enter, space);
	tell(&actor, do_enter, space);
	actor_end(&actor);
	ck_assert_uint_eq(tally().at_exit, 2);
	put(space);
	drain();
	ck_assert_uint_eq(spaces(), 0);
	ck_assert_uint_eq(tally().looked_at, 0);
}
END_TEST

/* E8 */
START_TEST(a_thread_that_ends_drops_the_counts_that_have_come)
{
	td_space *inner = make("inner");

	tell(&actor, do_enter, space);
	tell(&actor, do_enter, inner);
	put(space);
	put(inner);
	drain();
	ck_assert_uint_eq(spaces(), 2);
	actor_end(&actor);
	drain();
	ck_assert_uint_eq(spaces(), 0);
	ck_assert_uint_eq(tally().dropped, 2);
}
END_TEST

static pthread_key_t key;

static void enter_at_the_end(void *of)
{
	static int times;

	enter(of);
	if (times++ == 0) /* after the library's own, perhaps */
		pthread_setspecific(key, of);
}

static void *end_late(void *of)
{
	enter(of);
	leave();
	pthread_setspecific(key, of);
	return NULL;
}

/* E8: whatever the order of destructors. */
START_TEST(a_destructor_may_enter)
{
	pthread_t thread;

	ck_assert_int_eq(pthread_key_create(&key, enter_at_the_end), 0);
	actor_end(&actor);
	pthread_create(&thread, NULL, end_late, space);
	pthread_join(thread, NULL);
	put(space);
	drain();
	ck_assert_uint_eq(spaces(), 0);
	ck_assert_uint_ge(tally().at_exit, 1);
}
END_TEST

static void *be_born_and_end(void *of)
{
	enter(of);
	return NULL;
}

START_TEST(slots_are_used_again)
{
	struct tdi_lazy_block *first;

	for (unsigned i = 0; i < 3 * TDI_LAZY_BLOCK_SLOTS; i++) {
		pthread_t thread;

		pthread_create(&thread, NULL, be_born_and_end, space);
		pthread_join(thread, NULL);
	}
	ck_assert_uint_eq(tdi_lazy_blocks(&first), 1);
	ck_assert_uint_eq(tally().at_exit, 3 * TDI_LAZY_BLOCK_SLOTS);
	actor_end(&actor);
	put(space);
}
END_TEST

/* More threads than a block has slots. */
START_TEST(any_number_of_threads_may_hold)
{
	enum { THREADS = 150 };
	static struct actor many[THREADS];
	struct tdi_lazy_block *first;

	for (int i = 0; i < THREADS; i++) {
		actor_begin(&many[i]);
		tell(&many[i], do_enter, space);
	}
	ck_assert_uint_eq(tdi_lazy_blocks(&first), 3);
	put(space);
	drain();
	ck_assert_uint_eq(count_of(space), THREADS);
	for (int i = 0; i < THREADS; i++) {
		if (i % 2)
			tell(&many[i], do_leave, NULL);
		actor_end(&many[i]);
	}
	actor_end(&actor);
	drain();
	ck_assert_uint_eq(spaces(), 0);
}
END_TEST

static void register_fails(void *err)
{
	ck_assert_int_eq(td_lazy_enter(space), *(int *)err);
	ck_assert_ptr_null(td_lazy_current());
	ck_assert_int_eq(td_lazy_leave(), -EPERM);
}

START_TEST(a_thread_whose_end_is_not_told_holds_nothing)
{
	int err = -ENOMEM;

	tdt_fail(TDI_SYS_thread_set, -ENOMEM, 0, 1);
	tell(&actor, register_fails, &err);
	tell(&actor, do_enter, space); /* the next time */
	tell(&actor, do_leave, NULL);
	actor_end(&actor);
	put(space);
}
END_TEST

START_TEST(without_a_key_nobody_holds_anything)
{
	int err = -EAGAIN;

	tdt_fail(TDI_SYS_thread_key, -EAGAIN, 0, 1);
	tell(&actor, register_fails, &err);
	actor_end(&actor);
	put(space);
}
END_TEST

/* ---- engines ---- */

static void end_engine_now(enum td_exit_mode mode)
{
	tdi_engine_get(engine); /* for a look at it afterwards */
	ck_assert_int_eq(td_engine_destroy(engine, mode, 0), 0);
}

static void check_all_is_freed(void)
{
	ck_assert_uint_eq(tdi_ref_read(&engine->refs), 1);
	tdi_engine_put(engine);
}

/* E7: with no reapers left, the one who leaves. */
START_TEST(an_engine_may_end_before_holds_do)
{
	enter(space);
	tell(&actor, do_enter, space);
	put(space);
	drain();
	end_engine_now(TD_EXIT_DRAIN);
	ck_assert_str_eq(td_space_name(td_lazy_current()), "held");
	leave();
	tell(&actor, do_leave, NULL);
	actor_end(&actor);
	check_all_is_freed();
}
END_TEST

START_TEST(a_space_may_be_put_after_its_engine)
{
	enter(space);
	end_engine_now(TD_EXIT_DRAIN);
	put(space);
	ck_assert_uint_eq(count_of(space), 1);
	leave();
	actor_end(&actor);
	check_all_is_freed();
}
END_TEST

START_TEST(a_free_that_is_queued_is_done_when_the_engine_is_abandoned)
{
	struct job job;
	sem_t entered, may_go;

	enter(space);
	put(space);
	drain();
	sem_init(&entered, 0, 0);
	sem_init(&may_go, 0, 0);
	job_init(&job, 2);
	job.entered = &entered;
	job.may_go = &may_go;
	ck_assert_int_eq(td_engine_submit(engine, &job.work), 0);
	sem_wait(&entered);
	leave(); /* to the busy reaper's queue */
	sem_post(&may_go);
	sem_post(&may_go);
	end_engine_now(TD_EXIT_ABANDON);
	actor_end(&actor);
	check_all_is_freed();
}
END_TEST

START_TEST(a_synchronous_put_passes_counts_on_too)
{
	tell(&actor, do_enter, space);
	ck_assert_int_eq(td_space_put_sync(space), 0);
	ck_assert_uint_eq(count_of(space), 1);
	tell(&actor, do_leave, NULL);
	actor_end(&actor);
	end_engine();
}
END_TEST

/* ---- fork ---- */

/* In the child, without Check: the number of what went wrong. */
static int live_on(td_space *parents)
{
	uint32_t count = count_of(parents);
	td_engine *own_engine;
	td_space *own;

	if (td_lazy_current())
		return 1;
	if (td_lazy_leave() != -ECHILD || td_lazy_leave() != -ECHILD)
		return 2;
	if (td_lazy_leave() != -EPERM)
		return 3;
	if (td_lazy_enter(parents) != -ECHILD || td_lazy_switch(parents) != -ECHILD)
		return 4;
	if (count_of(parents) != count)
		return 5;
	/* Its own are its own, membarrier included. */
	if (td_engine_create(TD_ENGINE_OPTS(.reapers = 1), &own_engine) != 0 ||
	    td_space_create(own_engine, NULL, &own) != 0)
		return 6;
	if (td_lazy_enter(own) != 0 || td_lazy_switch(parents) != -ECHILD ||
	    td_lazy_current() != own)
		return 7;
	if (td_space_put_sync(own) != 0 || count_of(own) != 1)
		return 8;
	if (td_lazy_leave() != 0 || td_lazy_leave() != -EPERM)
		return 9;
	if (td_engine_drain(own_engine, TD_FOREVER) != 0 ||
	    tdi_ref_read(&own_engine->refs) != 1u + tdi_grace_runs(&own_engine->grace))
		return 10;
	return td_engine_destroy(own_engine, TD_EXIT_DRAIN, 0) ? 11 : 0;
}

static void fork_and_check(void)
{
	int status;
	pid_t pid = fork();

	if (pid == 0)
		_exit(live_on(space));
	ck_assert_int_gt(pid, 0);
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert_msg(WIFEXITED(status) && WEXITSTATUS(status) == 0, "status %#x",
		      (unsigned)status);
}

START_TEST(a_child_holds_nothing_and_touches_nothing_of_its_parents)
{
	td_space *outer = make("outer");

	if (TDT_SANITIZED) {
		/* threads in a child of threads */
		tdt_skip("a sanitizer's own locks do not survive a fork of threads");
	} else {
		tell(&actor, do_enter, space);
		enter(outer);
		enter(space);
		fork_and_check(); /* open, not tagged */
		put(space);
		drain();
		fork_and_check(); /* closed and tagged */
		ck_assert_uint_eq(count_of(space), 2);
		leave();
		leave();
		tell(&actor, do_leave, NULL);
		space = make("last");
	}
	put(outer);
	put(space);
	actor_end(&actor);
	end_engine();
}
END_TEST

/* The library's locks are not held in the child, whatever the others are at. */
static atomic_bool over;

static void *come_and_go(void *of)
{
	while (!atomic_load(&over)) {
		pthread_t thread;

		pthread_create(&thread, NULL, be_born_and_end, of);
		pthread_join(thread, NULL);
	}
	return NULL;
}

static void *die_and_die(void *unused)
{
	(void)unused;
	while (!atomic_load(&over))
		put(make("short"));
	return NULL;
}

START_TEST(children_forked_at_any_moment_live_on)
{
	pthread_t threads[2];

	if (TDT_SANITIZED) {
		tdt_skip("a sanitizer's own locks do not survive a fork of threads");
	} else {
		pthread_create(&threads[0], NULL, come_and_go, space);
		pthread_create(&threads[1], NULL, die_and_die, NULL);
		enter(space);
		enter(space);
		for (int i = 0; i < 60; i++)
			fork_and_check();
		leave();
		leave();
		atomic_store(&over, true);
		pthread_join(threads[0], NULL);
		pthread_join(threads[1], NULL);
	}
	put(space);
	actor_end(&actor);
	end_engine();
}
END_TEST

int main(void)
{
	struct tdt *tests = tdt_suite("lazy_end");

	tdt_add(tests, a_thread_that_ends_holds_nothing, setup_actor, end_engine);
	tdt_add(tests, a_thread_that_ends_drops_the_counts_that_have_come,
		setup_actor_exchange, end_engine);
	tdt_add(tests, a_destructor_may_enter, setup_actor, end_engine);
	tdt_add(tests, slots_are_used_again, setup_actor, end_engine);
	tdt_add(tests, any_number_of_threads_may_hold, setup_actor, end_engine);
	tdt_add(tests, a_thread_whose_end_is_not_told_holds_nothing, setup_actor,
		end_engine);
	tdt_add(tests, without_a_key_nobody_holds_anything, setup_actor, end_engine);
	tdt_add(tests, an_engine_may_end_before_holds_do, setup_actor, NULL);
	tdt_add(tests, a_space_may_be_put_after_its_engine, setup_actor, NULL);
	tdt_add(tests, a_free_that_is_queued_is_done_when_the_engine_is_abandoned,
		setup_actor, NULL);
	tdt_add(tests, a_synchronous_put_passes_counts_on_too, setup_actor, NULL);
	tdt_add(tests, a_child_holds_nothing_and_touches_nothing_of_its_parents,
		setup_actor, NULL);
	tdt_add(tests, children_forked_at_any_moment_live_on, setup_actor, NULL);
	return tdt_run(tests);
}
