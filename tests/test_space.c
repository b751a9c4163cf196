/* SPDX-License-Identifier: MIT */
/* A4, A5, A9: users and count, and what happens when the last one has gone. */
#include "arena.h"
#include "nodes.h"
#include "space_internal.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <teardown.h>
#include <unistd.h>

/* ---- creating ---- */

START_TEST(bad_options_are_refused)
{
	struct td_space_opts too_small = {.size = 4};
	struct {
		struct td_space_opts opts;
		uint64_t beyond;
	} newer = {{.size = sizeof(newer)}, 1};
	td_space *made = (void *)1;

	ck_assert_int_eq(td_space_create(engine, TD_SPACE_OPTS(.flags = 1u << 31), &made),
			 -EINVAL);
	ck_assert_int_eq(td_space_create(engine, &too_small, &made), -EINVAL);
	ck_assert_int_eq(td_space_create(engine, &newer.opts, &made), -E2BIG);
	ck_assert_ptr_eq(made, (void *)1);
	ck_assert_int_eq(td_space_put(space), 0);
}
END_TEST

START_TEST(a_long_name_is_cut)
{
	td_space *named;

	ck_assert_str_eq(td_space_name(space), "arena");
	ck_assert_int_eq(td_space_create(engine,
					 TD_SPACE_OPTS(.name = "0123456789012345678901234"
							       "567890123"),
					 &named),
			 0);
	ck_assert_str_eq(td_space_name(named), "0123456789012345678901234567890");
	ck_assert_int_eq(td_space_put(named), 0);
	ck_assert_int_eq(td_space_put(space), 0);
}
END_TEST

START_TEST(an_empty_space_comes_and_goes)
{
	put_and_wait();
}
END_TEST

/* ---- the last put ---- */

START_TEST(the_last_put_gives_the_memory_back)
{
	char *large = map(40 * MIB), *small = map(64 * KIB);

	put_and_wait();
	ck_assert_uint_eq(tdt_mapped(large, 40 * MIB), 0);
	ck_assert_uint_eq(tdt_mapped(small, 64 * KIB), 0);
}
END_TEST

START_TEST(memory_stays_as_long_as_there_is_a_user)
{
	char *addr = map(64 * KIB);

	ck_assert_int_eq(td_space_get(space), 0);
	ck_assert_int_eq(td_space_put(space), 0);
	ck_assert_int_eq(td_engine_drain(engine, TD_FOREVER), 0);
	ck_assert_uint_eq(tdt_resident(addr, 64 * KIB), 64 * KIB);
	ck_assert_int_eq(td_space_wait(space, TD_EVENT_GONE, 0), -ETIMEDOUT);
	ck_assert_int_eq(td_space_put(space), 0);
	ck_assert_int_eq(td_engine_drain(engine, TD_FOREVER), 0);
	ck_assert_uint_eq(tdt_mapped(addr, 64 * KIB), 0);
}
END_TEST

/* A4 */
START_TEST(a_count_keeps_the_object_and_not_the_memory)
{
	char *addr = map(64 * KIB);

	ck_assert_int_eq(td_space_grab(space), 0);
	ck_assert_int_eq(td_space_put(space), 0);
	ck_assert_int_eq(td_engine_drain(engine, TD_FOREVER), 0);
	ck_assert_uint_eq(tdt_mapped(addr, 64 * KIB), 0);
	ck_assert_str_eq(td_space_name(space), "arena");
	ck_assert(!td_space_get_not_zero(space));
	ck_assert_int_eq(td_space_drop(space), 0);
}
END_TEST

START_TEST(get_not_zero_takes_a_user_of_the_living)
{
	ck_assert_int_eq(td_space_grab(space), 0);
	ck_assert(td_space_get_not_zero(space));
	ck_assert_int_eq(td_space_put(space), 0);
	ck_assert_int_eq(td_space_wait(space, TD_EVENT_GONE, 0), -ETIMEDOUT);
	ck_assert_int_eq(td_space_put(space), 0);
	ck_assert_int_eq(td_space_wait(space, TD_EVENT_GONE, 0), 0);
	ck_assert_int_eq(td_space_drop(space), 0);
}
END_TEST

/* A5 */
START_TEST(put_sync_frees_in_the_caller_before_it_returns)
{
	struct plug plugs[2];
	char *addr = map(40 * MIB);

	plug_all_reapers(plugs);
	ck_assert_int_eq(td_space_put_sync(space), 0);
	ck_assert_uint_eq(tdt_mapped(addr, 40 * MIB), 0);
	unplug(plugs);
}
END_TEST

START_TEST(put_sync_of_one_user_among_others_only_puts)
{
	char *addr = map(64 * KIB);

	ck_assert_int_eq(td_space_get(space), 0);
	ck_assert_int_eq(td_space_put_sync(space), 0);
	ck_assert_uint_eq(tdt_mapped(addr, 64 * KIB), 64 * KIB);
	ck_assert_int_eq(td_space_put_sync(space), 0);
	ck_assert_uint_eq(tdt_mapped(addr, 64 * KIB), 0);
}
END_TEST

START_TEST(nobody_can_be_put_and_dropped_but_not_got)
{
	ck_assert_int_eq(td_space_put(NULL), 0);
	ck_assert_int_eq(td_space_put_sync(NULL), 0);
	ck_assert_int_eq(td_space_drop(NULL), 0);
	ck_assert_int_eq(td_space_get(NULL), -EINVAL);
	ck_assert_int_eq(td_space_grab(NULL), -EINVAL);
	ck_assert(!td_space_get_not_zero(NULL));
	ck_assert_int_eq(td_space_put(space), 0);
}
END_TEST

static atomic_int zappers;
static sem_t both_zap;

/* Holds the first madvise back until another thread makes one, too. */
static int meet_in_madvise(enum tdi_sys_call call, uintptr_t addr, size_t length,
			   int detail)
{
	int before;

	(void)addr;
	(void)length;
	(void)detail;
	if (call != TDI_SYS_madvise)
		return 0;
	before = atomic_fetch_add(&zappers, 1);
	if (before == 0)
		sem_wait(&both_zap);
	else if (before == 1)
		sem_post(&both_zap);
	return 0;
}

START_TEST(two_reapers_work_on_one_region_at_once)
{
	td_engine *pairs; /* one on each node: none comes from elsewhere for so little */
	char *addr;

	ck_assert_int_eq(td_space_put(space), 0);
	ck_assert_int_eq(
		td_engine_create(TD_ENGINE_OPTS(.reapers = 2 * tdi_numa_nodes()), &pairs),
		0);
	ck_assert_int_eq(td_space_create(pairs, NULL, &space), 0);
	addr = map(40 * MIB);
	sem_init(&both_zap, 0, 0);
	tdi_sys_set_fault(meet_in_madvise);
	put_and_wait(); /* for ever, if one reaper had to do it all */
	tdi_sys_set_fault(NULL);
	ck_assert_int_ge(atomic_load(&zappers), 2);
	ck_assert_uint_eq(tdt_mapped(addr, 40 * MIB), 0);
	ck_assert_int_eq(td_engine_destroy(pairs, TD_EXIT_DRAIN, 0), 0);
}
END_TEST

/* ---- misuse ---- */

static void make_alone(void)
{
	setup(); /* threads do not survive the fork into this process */
	ck_assert_int_eq(td_space_grab(space), 0);
}

/* A reaper that is at work would see the wrong number of users, too, and say so first. */
static void put_for_the_last_time(void)
{
	make_alone();
	td_space_put(space);
	td_space_wait(space, TD_EVENT_RECLAIMED, TD_FOREVER);
}

static void get_after_the_last_put(void *arg)
{
	(void)arg;
	put_for_the_last_time();
	td_space_get(space);
}

static void put_below_zero(void *arg)
{
	(void)arg;
	put_for_the_last_time();
	td_space_put(space);
}

static void drop_the_users_count(void *arg)
{
	(void)arg;
	make_alone();
	td_space_drop(space);
	td_space_drop(space);
}

static void tear_down_with_users(void *arg)
{
	(void)arg;
	make_alone();
	(void)tdi_work_claim(&space->work);
	tdi_engine_queue(engine, &space->work);
	td_engine_drain(engine, TD_FOREVER);
}

/* A9 */
START_TEST(misuse_names_the_space_and_aborts)
{
	tdt_expect_death(get_after_the_last_put, NULL,
			 "space 'arena': get of a dead one (users is 0)");
	tdt_expect_death(put_below_zero, NULL,
			 "space 'arena': put without a reference (users is 0)");
	tdt_expect_death(drop_the_users_count, NULL,
			 "space 'arena': last count dropped before");
	tdt_expect_death(tear_down_with_users, NULL,
			 "space 'arena': torn down with 1 users");
}
END_TEST

/* ---- the engine goes first ---- */

START_TEST(a_space_outlives_its_engine_and_is_freed_in_its_caller)
{
	char *addr = map(40 * MIB);

	ck_assert_int_eq(td_engine_destroy(engine, TD_EXIT_DRAIN, 0), 0);
	engine = NULL;
	ck_assert_int_eq(td_space_grab(space), 0);
	ck_assert_int_eq(td_space_put(space), 0);
	ck_assert_int_eq(td_space_wait(space, TD_EVENT_RECLAIMED, 0), 0);
	ck_assert_uint_eq(tdt_mapped(addr, 40 * MIB), 0);
	ck_assert_int_eq(td_space_drop(space), 0);
}
END_TEST

START_TEST(the_last_put_may_be_the_last_of_its_engine_too)
{
	map(MIB);
	ck_assert_int_eq(td_engine_destroy(engine, TD_EXIT_DRAIN, 0), 0);
	engine = NULL;
	ck_assert_int_eq(td_space_put(space), 0); /* sanitizers watch */
}
END_TEST

static void *abandon(void *arg)
{
	(void)arg;
	ck_assert_int_eq(td_engine_destroy(engine, TD_EXIT_ABANDON, 0), 0);
	return NULL;
}

START_TEST(an_abandoned_space_tells_its_waiters_and_leaves_its_memory)
{
	struct plug plugs[2];
	pthread_t thread;
	char *addr = map(64 * KIB);
	int fd;

	sem_init(&called_back, 0, 0);
	plug_all_reapers(plugs);
	ck_assert_int_eq(td_space_grab(space), 0);
	ck_assert_int_eq(td_space_eventfd(space, TD_EVENT_RECLAIMED, &fd), 0);
	ck_assert_int_eq(td_space_put(space), 0);
	pthread_create(&thread, NULL, abandon, NULL);
	for (bool stopped = false; !stopped; sched_yield()) {
		pthread_mutex_lock(&engine->queues.first->lock);
		stopped = engine->queues.first->stopped;
		pthread_mutex_unlock(&engine->queues.first->lock);
	}
	sem_post(&plugs[0].may_go);
	sem_post(&plugs[1].may_go);
	ck_assert_int_eq(td_space_wait(space, TD_EVENT_RECLAIMED, TD_FOREVER),
			 -ECANCELED);
	pthread_join(thread, NULL);
	engine = NULL;
	ck_assert(is_readable(fd, 0));
	ck_assert_uint_eq(tdt_resident(addr, 64 * KIB), 64 * KIB);
	ck_assert_int_eq(td_space_drop(space), 0);
	close(fd);
	munmap(addr, 64 * KIB);
}
END_TEST

/* ---- fork ---- */

START_TEST(in_a_forked_child_nothing_of_the_parents_is_touched)
{
	char *addr = map(64 * KIB);
	int status;
	pid_t pid = fork();

	ck_assert_int_ge(pid, 0);
	if (pid == 0) {
		struct td_space_stats stats;
		td_space *made = NULL;
		void *mapped = NULL;
		int fd = -1, bad = 0;

		bad |= td_space_put(space) != -ECHILD;
		bad |= td_space_put_sync(space) != -ECHILD;
		bad |= td_space_get(space) != -ECHILD;
		bad |= td_space_get_not_zero(space);
		bad |= td_space_grab(space) != -ECHILD;
		bad |= td_space_drop(space) != -ECHILD;
		bad |= (td_space_wait(space, TD_EVENT_GONE, TD_FOREVER) != -ECHILD) << 1;
		bad |= (td_space_eventfd(space, TD_EVENT_GONE, &fd) != -ECHILD) << 2;
		bad |= (td_space_create(engine, NULL, &made) != -ECHILD) << 3;
		bad |= (td_region_map(space, MIB, NULL, &mapped) != -ECHILD) << 4;
		bad |= (td_region_adopt(space, addr, 64 * KIB, NULL) != -ECHILD) << 4;
		bad |= (td_space_stats(space, &stats) != -ECHILD) << 5;
		bad |= (tdt_resident(addr, 64 * KIB) != 64 * KIB) << 6;
		_exit(bad);
	}
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert(WIFEXITED(status));
	ck_assert_int_eq(WEXITSTATUS(status), 0);
	put_and_wait();
	ck_assert_uint_eq(tdt_mapped(addr, 64 * KIB), 0);
}
END_TEST

int main(void)
{
	struct tdt *tests = tdt_suite("space");
	const TTest *all[] = {
		bad_options_are_refused,
		a_long_name_is_cut,
		an_empty_space_comes_and_goes,
		the_last_put_gives_the_memory_back,
		memory_stays_as_long_as_there_is_a_user,
		a_count_keeps_the_object_and_not_the_memory,
		get_not_zero_takes_a_user_of_the_living,
		put_sync_frees_in_the_caller_before_it_returns,
		put_sync_of_one_user_among_others_only_puts,
		nobody_can_be_put_and_dropped_but_not_got,
		two_reapers_work_on_one_region_at_once,
		a_space_outlives_its_engine_and_is_freed_in_its_caller,
		the_last_put_may_be_the_last_of_its_engine_too,
		an_abandoned_space_tells_its_waiters_and_leaves_its_memory,
		in_a_forked_child_nothing_of_the_parents_is_touched,
	};

	for (size_t i = 0; i < sizeof(all) / sizeof(*all); i++)
		tdt_add(tests, all[i], setup, teardown);
	/* its processes make their own */
	tdt_add(tests, misuse_names_the_space_and_aborts, NULL, NULL);
	return tdt_run(tests);
}
