/* SPDX-License-Identifier: MIT */
/* td_engine_restart: what the parent made stays the parent's, and the engine works. */
#include "child.h"
#include "job.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <teardown.h>

enum { LENGTH = 8 << 20 };

static td_space *space;
static td_batch *batch;
static struct job pending;
static sem_t entered, may_go;
static unsigned shrunk;

static uint64_t shrink(struct td_shrinker *shrinker, enum td_pressure level)
{
	(void)shrinker;
	(void)level;
	shrunk++;
	return 5;
}

static struct td_shrinker shrinker = {.shrink = shrink};

static void *map(size_t length)
{
	void *addr = mmap(NULL, length, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	need(addr != MAP_FAILED);
	memset(addr, 1, length);
	return addr;
}

/* Spaces, ranges, batches, works: through an engine of this process. */
static void use(td_engine *of)
{
	uint64_t deferred, pressed = 0;
	struct td_engine_stats now;
	struct job job;
	td_space *own;
	td_batch *objects;
	void *addr;

	need_eq(td_engine_stats(of, &now), 0);
	deferred = now.munmaps_deferred;
	need_eq(td_space_create(of, NULL, &own), 0);
	need_eq(td_region_map(own, LENGTH, NULL, &addr), 0);
	memset(addr, 1, LENGTH);
	need_eq(td_region_unmap(own, addr, LENGTH / 2), 0);
	need_eq(td_space_grab(own), 0);
	need_eq(td_space_get(own), 0);
	need_eq(td_space_put(own), 0);
	need_eq(td_space_put(own), 0);
	need_eq(td_space_wait(own, TD_EVENT_RECLAIMED, TD_FOREVER), 0);
	need_eq(td_space_drop(own), 0);

	need_eq(td_engine_munmap(of, map(LENGTH), LENGTH, 0), 0);
	need_eq(td_batch_create(of, NULL, &objects), 0);
	for (int i = 0; i < 1000; i++)
		need_eq(td_batch_free_ptr(objects, malloc(50), 50), 0);
	need_eq(td_batch_barrier(objects, TD_FOREVER), 0);
	need_eq(td_batch_destroy(objects, 0), 0);
	job_init(&job, 3);
	need_eq(td_engine_submit(of, &job.work), 0);
	need_eq(td_engine_drain(of, TD_FOREVER), 0);
	need_eq(job.status, 0);
	need_eq(td_engine_pressure(of, TD_PRESSURE_SOME, &pressed), 0);
	need_eq(td_engine_stats(of, &now), 0);
	need_eq(now.works_pending, 0);
	need_eq(now.bytes_pending, 0);
	need_eq(now.munmaps_deferred, deferred + 1);
}

static void tell_progress(const struct td_progress *now, void *arg)
{
	need_eq(now->bytes_done > 0, true);
	++*(unsigned *)arg;
}

/* Through an engine of the parent's. */
static void refuse_engine(td_engine *of)
{
	struct td_engine_stats now;
	struct td_reaper_stats reaper;
	struct td_progress progress;
	td_space *own = NULL;
	td_batch *objects = NULL;
	struct job job;
	char text[1024];

	job_init(&job, 1);
	need_eq(td_space_create(of, NULL, &own), -ECHILD);
	need_eq(td_batch_create(of, NULL, &objects), -ECHILD);
	need(!own && !objects);
	need_eq(td_engine_submit(of, &job.work), -ECHILD);
	need_eq(td_engine_drain(of, TD_FOREVER), -ECHILD);
	need_eq(td_engine_relieve(of), -ECHILD);
	need_eq(td_engine_stats(of, &now), -ECHILD);
	need_eq(td_engine_stats_json(of, text, sizeof(text), NULL), -ECHILD);
	need_eq(td_engine_reaper_stats(of, 0, &reaper), -ECHILD);
	need_eq(td_engine_reaper_stats_json(of, 0, text, sizeof(text), NULL), -ECHILD);
	need_eq(td_engine_progress(of, &progress), -ECHILD);
	need_eq(td_engine_on_progress(of, tell_progress, NULL, 0), -ECHILD);
	need_eq(td_engine_set_budget(of, LENGTH, TD_BUDGET_HELP), -ECHILD);
	need_eq(td_engine_set_slice(of, 1), -ECHILD);
	need_eq(td_engine_set_rate(of, 1), -ECHILD);
	need_eq(td_engine_set_fast(of, true), -ECHILD);
	need_eq(td_engine_set_munmap_threshold(of, LENGTH), -ECHILD);
	need_eq(td_engine_add_shrinker(of, &shrinker), -ECHILD);
	need_eq(td_engine_remove_shrinker(of, &shrinker), -ECHILD);
	need_eq(td_engine_pressure(of, TD_PRESSURE_SOME, NULL), -ECHILD);
	need_eq(td_engine_stop(of, TD_EXIT_DRAIN, 0), -ECHILD);
	if (of)
		need_eq(td_engine_destroy(of, TD_EXIT_DRAIN, 0), -ECHILD);
	/* munmap itself */
	need_eq(td_engine_munmap(of, map(LENGTH), LENGTH, 0), 0);
}

static void tell(td_space *of, enum td_event event, int status, void *arg)
{
	(void)of;
	(void)event;
	(void)status;
	(void)arg;
}

static int visit(const struct td_region_info *info, void *arg)
{
	(void)info;
	(void)arg;
	return 0;
}

/* Through a space and a batch of the parent's. */
static void refuse_objects(void)
{
	struct td_batch_list list = {0};
	struct td_space_stats now;
	struct td_batch_stats counts;
	struct td_region_info info;
	void *addr = &info;
	int fd;

	need_eq(td_space_get(space), -ECHILD);
	need(!td_space_get_not_zero(space));
	need_eq(td_space_put(space), -ECHILD);
	need_eq(td_space_put_sync(space), -ECHILD);
	need_eq(td_space_grab(space), -ECHILD);
	need_eq(td_space_drop(space), -ECHILD);
	need_eq(td_space_wait(space, TD_EVENT_GONE, TD_FOREVER), -ECHILD);
	need_eq(td_space_eventfd(space, TD_EVENT_GONE, &fd), -ECHILD);
	need_eq(td_space_on_event(space, TD_EVENT_GONE, tell, NULL), -ECHILD);
	need_eq(td_space_stats(space, &now), -ECHILD);
	need_eq(td_space_reap(space, 0, 0), -ECHILD);
	need_eq(td_space_reap_cancel(space), -ECHILD);
	need_eq(td_space_release(space, 0), -ECHILD);
	need_eq(td_lazy_enter(space), -ECHILD);
	need_eq(td_region_map(space, LENGTH, NULL, &addr), -ECHILD);
	need_eq(td_region_unmap(space, addr, LENGTH), -ECHILD);
	need_eq(td_region_lookup(space, addr, &info), -ECHILD);
	need_eq(td_region_walk(space, NULL, visit, NULL), -ECHILD);
	need_eq(td_batch_free_ptr(batch, addr, 0), -ECHILD);
	need_eq(td_batch_free_list(batch, &list, 0), -ECHILD);
	need_eq(td_batch_flush(batch, 0), -ECHILD);
	need_eq(td_batch_barrier(batch, TD_FOREVER), -ECHILD);
	need_eq(td_batch_destroy(batch, 0), -ECHILD);
	need_eq(td_batch_stats(batch, &counts), -ECHILD);
}

/* A reaper in a slice, more behind it, a space in use, a batch with something in it. */
static void setup_busy(void)
{
	/* Longer than a case lasts: else it would be one more work, on a slow machine. */
	const uint64_t age = (uint64_t)600 * 1000000000u;
	void *addr;

	setup();
	ck_assert_int_eq(td_engine_set_munmap_threshold(engine, tdi_page_size()), 0);
	ck_assert_int_eq(td_engine_add_shrinker(engine, &shrinker), 0);
	ck_assert_int_eq(td_space_create(engine, NULL, &space), 0);
	ck_assert_int_eq(td_region_map(space, LENGTH, NULL, &addr), 0);
	memset(addr, 1, LENGTH);
	ck_assert_int_eq(
		td_batch_create(engine, TD_BATCH_OPTS(.close_age_ns = age), &batch), 0);
	ck_assert_int_eq(td_batch_free_ptr(batch, malloc(50), 50), 0);
	sem_init(&entered, 0, 0);
	sem_init(&may_go, 0, 0);
	job_init(&pending, 1);
	pending.entered = &entered;
	pending.may_go = &may_go;
	ck_assert_int_eq(td_engine_submit(engine, &pending.work), 0);
	sem_wait(&entered);
	ck_assert_int_eq(td_engine_munmap(engine, tdt_map_anon(LENGTH), LENGTH, 0), 0);
}

static void end_busy(void)
{
	sem_post(&may_go);
	sem_wait(&pending.done);
	ck_assert_int_eq(pending.status, 0);
	ck_assert_int_eq(td_batch_destroy(batch, 0), 0);
	ck_assert_int_eq(td_space_put(space), 0);
	ck_assert_int_eq(td_engine_drain(engine, TD_FOREVER), 0);
	ck_assert_uint_eq(stats().bytes_pending, 0);
	ck_assert_int_eq(td_engine_remove_shrinker(engine, &shrinker), 0);
	teardown();
}

static void refuse_all(void *arg)
{
	(void)arg;
	refuse_engine(engine);
	refuse_objects();
	need_eq(pending.slices, 0);
}

START_TEST(every_call_on_what_the_parent_made_is_refused)
{
	ck_assert_int_eq(in_child(refuse_all, NULL), 0);
	end_busy();
}
END_TEST

static void restart_and_use(void *arg)
{
	struct td_engine_stats now;

	(void)arg;
	need_eq(td_engine_restart(engine), 0);
	need_eq(td_engine_restart(engine), -EALREADY);
	need_eq(td_engine_stats(engine, &now), 0);
	need_eq(now.reapers, 1);
	need_eq(now.works_submitted, 0);
	need_eq(now.works_pending, 0);
	need_eq(now.bytes_pending, 0);
	need_eq(now.bytes_quarantined, 0);
	need_eq(now.slices, 0);
	use(engine);
	need_eq(shrunk, 1);
	refuse_objects();
	/* The parent's own has not been touched; it can be used here when it is made
	 * anew. */
	need_eq(pending.slices, 0);
	need_eq(td_engine_submit(engine, &pending.work), -EBUSY);
	td_work_init(&pending.work, pending.work.ops, 0);
	pending.entered = pending.may_go = NULL;
	need_eq(td_engine_submit(engine, &pending.work), 0);
	need_eq(td_engine_remove_shrinker(engine, &shrinker), 0);
	need_eq(td_engine_destroy(engine, TD_EXIT_DRAIN, 0), 0);
	need_eq(pending.slices, 1);
	refuse_objects();
}

START_TEST(a_restarted_engine_works_and_the_parents_objects_stay_refused)
{
	if (skip_without_threads())
		return;
	ck_assert_int_eq(in_child(restart_and_use, NULL), 0);
	ck_assert_uint_eq(shrunk, 0);
	end_busy();
}
END_TEST

/* ---- with what was set ---- */

static unsigned told;

static td_space *make_arena(void)
{
	td_space *own;
	void *addr;

	need_eq(td_space_create(engine, NULL, &own), 0);
	need_eq(td_region_map(own, LENGTH, NULL, &addr), 0);
	return own;
}

static void restart_as_set(void *arg)
{
	struct td_engine_stats now;
	struct td_reaper_stats reaper;

	(void)arg;
	need_eq(td_engine_restart(engine), 0);
	need_eq(td_engine_stats(engine, &now), 0);
	need_eq(now.reapers_unplaced, 0);
	need_eq(now.budget, LENGTH);
	need_eq(now.bytes_pending_peak, 0);
	need_eq(now.budget_waited, 0);
	need_eq(atomic_load(&engine->budget_policy), TD_BUDGET_WAIT);
	need_eq(td_engine_reaper_stats(engine, 0, &reaper), 0);
	need_eq(reaper.slices, 0);
	need_eq(sched_getscheduler((pid_t)reaper.tid), SCHED_IDLE);
	need_eq(getpriority(PRIO_PROCESS, reaper.tid), 3);
	/* Room for each of these: what is pending in the parent takes none. */
	for (int i = 0; i < 3; i++)
		need_eq(td_space_put(make_arena()), 0);
	need_eq(td_engine_drain(engine, TD_FOREVER), 0);
	need_eq(told > 0, true);
	need_eq(td_engine_destroy(engine, TD_EXIT_DRAIN, 0), 0);
}

static void *put_and_wait(void *arg)
{
	ck_assert_int_eq(td_space_put(arg), 0);
	return NULL;
}

/* The parent's budget is used up, and somebody sleeps for room. */
START_TEST(a_restarted_engine_is_placed_bounded_and_watched_as_before)
{
	pthread_t waiter;

	if (skip_without_threads())
		return;
	ck_assert_int_eq(
		td_engine_create(TD_ENGINE_OPTS(.reapers = 1, .nice = 3,
						.sched = TD_SCHED_IDLE, .budget = 1),
				 &engine),
		0);
	ck_assert_int_eq(td_engine_set_budget(engine, LENGTH, TD_BUDGET_WAIT), 0);
	ck_assert_int_eq(td_engine_on_progress(engine, tell_progress, &told, 1), 0);
	sem_init(&entered, 0, 0);
	sem_init(&may_go, 0, 0);
	job_init(&pending, 1);
	pending.entered = &entered;
	pending.may_go = &may_go;
	ck_assert_int_eq(td_engine_submit(engine, &pending.work), 0);
	sem_wait(&entered);
	pthread_create(&waiter, NULL, put_and_wait, make_arena());
	while (atomic_load(&engine->budget.sleepers) == 0)
		sched_yield();
	ck_assert_int_eq(in_child(restart_as_set, NULL), 0);
	sem_post(&may_go);
	pthread_join(waiter, NULL);
	teardown();
	ck_assert_uint_gt(told, 0);
}
END_TEST

static void restart_by_generations(void *arg)
{
	int *left = arg;

	refuse_engine(engine);
	need_eq(td_engine_restart(engine), 0);
	use(engine);
	if (--*left > 0)
		need_eq(in_child(restart_by_generations, left), 0);
	use(engine);
}

START_TEST(a_child_of_a_child_restarts_it_as_well)
{
	int generations = 3;

	if (skip_without_threads())
		return;
	ck_assert_int_eq(in_child(restart_by_generations, &generations), 0);
	end_busy();
}
END_TEST

static void fail_to_restart(void *arg)
{
	(void)arg;
	for (unsigned thread = 0; thread < 2; thread++) { /* the reaper, grace's */
		tdt_fail(TDI_SYS_thread_create, -EAGAIN, thread, 1);
		need_eq(td_engine_restart(engine), -EAGAIN);
		tdt_fail_none();
		refuse_engine(engine);
	}
	need_eq(td_engine_restart(engine), 0);
	use(engine);
}

START_TEST(a_restart_that_fails_can_be_tried_again)
{
	if (skip_without_threads())
		return;
	ck_assert_int_eq(in_child(fail_to_restart, NULL), 0);
	end_busy();
}
END_TEST

static void restart_default(void *arg)
{
	const bool *threads = arg;
	struct td_engine_stats now;
	td_engine *found;

	need_eq(td_engine_default(&found), -ECHILD);
	refuse_engine(NULL);
	if (!*threads)
		tdt_fail(TDI_SYS_thread_create, -EAGAIN, 0, UINT32_MAX);
	need_eq(td_engine_restart(NULL), 0);
	need_eq(td_engine_restart(NULL), -EALREADY);
	need_eq(td_engine_default(&found), 0);
	need_eq(td_engine_restart(found), -EALREADY);
	need_eq(td_engine_set_munmap_threshold(NULL, tdi_page_size()), 0);
	if (*threads)
		use(NULL);
	need_eq(td_engine_stats(NULL, &now), 0);
	need_eq(now.reapers > 0, *threads);
	need_eq(td_munmap(map(LENGTH), LENGTH), 0);
	need_eq(td_engine_drain(NULL, TD_FOREVER), 0);
	need_eq(td_engine_destroy(found, TD_EXIT_DRAIN, 0), -EPERM);
}

START_TEST(the_default_engine_is_restarted_by_no_name)
{
	bool threads = true;
	td_engine *found;

	if (skip_without_threads())
		return;
	ck_assert_int_eq(td_engine_restart(NULL), -EALREADY); /* never made */
	ck_assert_int_eq(td_engine_default(&found), 0);
	ck_assert_int_eq(td_engine_restart(NULL), -EALREADY);
	ck_assert_int_eq(in_child(restart_default, &threads), 0);
	threads = false;
	ck_assert_int_eq(in_child(restart_default, &threads), 0);
}
END_TEST

static void make_default(void *arg)
{
	(void)arg;
	need_eq(td_engine_restart(NULL), -EALREADY);
	need_eq(td_engine_set_munmap_threshold(NULL, tdi_page_size()), 0);
	use(NULL);
}

START_TEST(what_the_parent_never_made_the_child_makes_for_itself)
{
	if (skip_without_threads())
		return;
	ck_assert_int_eq(in_child(make_default, NULL), 0);
	end_busy();
}
END_TEST

START_TEST(an_engine_of_ones_own_is_not_restarted)
{
	ck_assert_int_eq(td_engine_restart(engine), -EALREADY);
	ck_assert_uint_eq(stats().works_pending, 2);
	end_busy();
}
END_TEST

int main(void)
{
	struct tdt *tests = tdt_suite("fork");
	const TTest *busy[] = {
		every_call_on_what_the_parent_made_is_refused,
		a_restarted_engine_works_and_the_parents_objects_stay_refused,
		a_child_of_a_child_restarts_it_as_well,
		a_restart_that_fails_can_be_tried_again,
		what_the_parent_never_made_the_child_makes_for_itself,
		an_engine_of_ones_own_is_not_restarted,
	};

	for (size_t i = 0; i < sizeof(busy) / sizeof(*busy); i++)
		tdt_add(tests, busy[i], setup_busy, NULL);
	tdt_add(tests, a_restarted_engine_is_placed_bounded_and_watched_as_before, NULL,
		NULL);
	tdt_add(tests, the_default_engine_is_restarted_by_no_name, NULL, NULL);
	return tdt_run(tests);
}
