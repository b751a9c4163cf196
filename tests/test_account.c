/* SPDX-License-Identifier: MIT */
/* A8: CPU time and bytes are charged to the thread, and so the cgroup, that did it. */
#include "job.h"
#include "placed.h"
#include "space_internal.h"

#include <errno.h>
#include <sched.h>
#include <sys/wait.h>
#include <teardown.h>

#define ARENA (TDT_SANITIZED ? 64 * MIB : 512 * MIB)

static struct td_thread_stats mine(void)
{
	struct td_thread_stats now;

	ck_assert_int_eq(td_thread_stats(&now), 0);
	ck_assert_uint_eq(now.slices, now.slices_as_reaper + now.slices_attached +
					      now.slices_as_helper +
					      now.slices_as_caller);
	return now;
}

static struct td_reaper_stats reaper(unsigned index)
{
	struct td_reaper_stats now;

	ck_assert_int_eq(td_engine_reaper_stats(engine, index, &now), 0);
	return now;
}

static td_space *make_arena(td_engine *in, size_t size)
{
	td_space *space;
	void *addr;

	ck_assert_int_eq(td_space_create(in, NULL, &space), 0);
	ck_assert_int_eq(td_region_map(space, size, NULL, &addr), 0);
	tdt_touch(addr, size);
	return space;
}

/* A thread that attaches itself to a space, and what it was charged with. */
struct reaping {
	td_space *space;
	struct group_v1 *group; /* or NULL */
	pthread_t thread;
	struct td_thread_stats did;
};

static void *reap_run(void *arg)
{
	struct reaping *reaping = arg;

	if (reaping->group)
		enter_group(reaping->group);
	ck_assert_int_eq(td_space_reap(reaping->space, 0, TD_FOREVER), 0);
	reaping->did = mine();
	return NULL;
}

static void attach(struct reaping *reaping)
{
	ck_assert_int_eq(pthread_create(&reaping->thread, NULL, reap_run, reaping), 0);
	while (!atomic_load(&reaping->space->attached))
		sched_yield();
}

/* ---- in which role ---- */

START_TEST(a_reaper_is_charged_with_what_it_ran)
{
	struct td_reaper_stats of;
	pid_t tids[THREADS_MAX];

	ck_assert_uint_eq(reaper(0).slices, 0);
	ck_assert_int_eq(td_space_put(make_arena(engine, 16 * MIB)), 0);
	ck_assert_int_eq(td_engine_drain(engine, TD_FOREVER), 0);
	of = reaper(0);
	ck_assert_uint_eq(threads_named("reaper/0", tids), 1);
	ck_assert_uint_eq(of.tid, (unsigned)tids[0]);
	ck_assert_uint_lt(of.cpu, (unsigned)sysconf(_SC_NPROCESSORS_CONF));
	ck_assert_uint_eq(of.slices, stats().slices);
	ck_assert_uint_eq(of.bytes_reclaimed, 16 * MIB);
	ck_assert_uint_gt(of.cpu_ns, 0);
	ck_assert_uint_eq(of.cpu_ns, stats().cpu_ns);
	ck_assert_uint_eq(stats().bytes_in_caller, 0);
	ck_assert_uint_eq(stats().cpu_in_caller_ns, 0);
	ck_assert_uint_eq(mine().slices, 0);
	ck_assert_uint_eq(mine().cpu_ns, 0);
	ck_assert_int_eq(td_engine_reaper_stats(engine, 1, &of), -EINVAL);
	ck_assert_uint_eq(of.bytes_reclaimed, 16 * MIB);
}
END_TEST

START_TEST(a_caller_is_charged_with_what_it_puts_itself)
{
	struct td_thread_stats of;

	ck_assert_int_eq(td_space_put_sync(make_arena(engine, 16 * MIB)), 0);
	of = mine();
	ck_assert_uint_eq(of.slices, stats().slices);
	ck_assert_uint_eq(of.slices_as_caller, of.slices);
	ck_assert_uint_eq(of.bytes_reclaimed, 16 * MIB);
	ck_assert_uint_gt(of.cpu_ns, 0);
	ck_assert_uint_eq(of.cpu_ns, stats().cpu_ns);
	ck_assert_uint_eq(stats().bytes_in_caller, 16 * MIB);
	ck_assert_uint_eq(stats().cpu_in_caller_ns, of.cpu_ns);
	ck_assert_uint_eq(reaper(0).slices, 0);
	ck_assert_uint_eq(reaper(0).cpu_ns, 0);
}
END_TEST

START_TEST(a_helper_is_charged_with_what_it_helped_with)
{
	struct job job, held;
	sem_t entered, may_go;

	sem_init(&entered, 0, 0);
	sem_init(&may_go, 0, 0);
	job_init(&held, 1);
	held.entered = &entered;
	held.may_go = &may_go;
	ck_assert_int_eq(td_engine_submit(engine, &held.work), 0);
	sem_wait(&entered); /* the only reaper is busy */
	job_init(&job, 2);
	ck_assert_int_eq(td_engine_submit(engine, &job.work), 0);
	while (tdi_reaper_help(engine))
		;
	ck_assert_int_eq(job.status, 0);
	ck_assert_uint_eq(mine().slices_as_helper, 2);
	ck_assert_uint_eq(mine().bytes_reclaimed, 1000);
	ck_assert_uint_eq(stats().bytes_in_caller, 1000);
	sem_post(&may_go);
	sem_wait(&held.done);
	ck_assert_int_eq(td_engine_drain(engine, TD_FOREVER), 0);
	ck_assert_uint_eq(reaper(0).slices, 1);
	ck_assert_uint_eq(reaper(0).bytes_reclaimed, 1000);
}
END_TEST

/* ---- per space ---- */

START_TEST(a_space_is_charged_with_what_left_it_before_too)
{
	td_space *space;
	struct td_space_stats of, ranges;
	void *addr, *early;

	ck_assert_int_eq(td_engine_set_munmap_threshold(engine, 1), 0);
	ck_assert_int_eq(td_space_create(engine, NULL, &space), 0);
	ck_assert_int_eq(td_region_map(space, 16 * MIB, NULL, &early), 0);
	ck_assert_int_eq(td_region_map(space, 16 * MIB, NULL, &addr), 0);
	tdt_touch(early, 16 * MIB);
	ck_assert_int_eq(td_region_unmap(space, early, 12 * MIB), 0);
	ck_assert_int_eq(td_region_unmap(space, (char *)early + 12 * MIB, 4 * MIB), 0);
	ck_assert_int_eq(td_engine_drain(engine, TD_FOREVER), 0);
	ck_assert_uint_eq(stats().bytes_in_caller, 0); /* both were deferred */
	ck_assert_int_eq(td_space_stats(space, &of), 0);
	ck_assert_uint_eq(of.bytes_reclaimed, 16 * MIB);
	ck_assert_uint_ge(of.slices, 2);
	ck_assert_uint_le(of.slices, stats().slices); /* descriptors take some, too */
	ck_assert_uint_gt(of.cpu_ns, 0);
	ck_assert_uint_le(of.cpu_ns, stats().cpu_ns);
	ranges = of;
	ck_assert_int_eq(td_space_grab(space), 0);
	ck_assert_int_eq(td_space_put(space), 0);
	ck_assert_int_eq(td_engine_drain(engine, TD_FOREVER), 0);
	ck_assert_int_eq(td_space_stats(space, &of), 0);
	ck_assert_uint_eq(of.bytes_reclaimed, 32 * MIB);
	ck_assert_uint_gt(of.slices, ranges.slices);
	ck_assert_uint_gt(of.cpu_ns, ranges.cpu_ns);
	ck_assert_int_eq(td_space_drop(space), 0);
}
END_TEST

/* ---- once ---- */

static int slice_that_puts(struct td_work *work, struct td_slice *slice)
{
	(void)work;
	(void)slice;
	ck_assert_int_eq(td_space_put_sync(make_arena(engine, 16 * MIB)), 0);
	return TD_WORK_DONE;
}

START_TEST(cpu_time_is_charged_once_where_one_work_runs_another)
{
	static const struct td_work_ops ops = {.slice = slice_that_puts};
	uint64_t began = tdi_sys_cpu_ns(), took;
	struct td_work work;

	td_work_init(&work, &ops, 0);
	ck_assert(tdi_work_claim(&work));
	ck_assert_int_eq(tdi_engine_run(engine, &work), 0);
	took = tdi_sys_cpu_ns() - began;
	ck_assert_uint_le(mine().cpu_ns, took);
	ck_assert_uint_eq(mine().cpu_ns, stats().cpu_ns);
	ck_assert_uint_le(atomic_load(&work.tdi_cpu_ns), mine().cpu_ns);
	ck_assert_uint_gt(mine().slices, 1);
	ck_assert_uint_eq(mine().bytes_reclaimed, 16 * MIB);
}
END_TEST

static void *look_at_mine(void *arg)
{
	(void)arg;
	ck_assert_uint_eq(mine().slices, 0);
	ck_assert_uint_eq(mine().cpu_ns, 0);
	return NULL;
}

START_TEST(each_thread_has_counters_of_its_own)
{
	struct td_thread_stats now;
	pthread_t thread;
	int status;
	pid_t pid;

	ck_assert_int_eq(td_space_put_sync(make_arena(engine, MIB)), 0);
	ck_assert_uint_gt(mine().slices, 0);
	ck_assert_int_eq(pthread_create(&thread, NULL, look_at_mine, NULL), 0);
	ck_assert_int_eq(pthread_join(thread, NULL), 0);
	pid = fork();
	ck_assert_int_ge(pid, 0);
	if (pid == 0)
		_exit(td_thread_stats(&now) || now.slices || now.cpu_ns);
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert_int_eq(status, 0);
	ck_assert_uint_gt(mine().slices, 0);
}
END_TEST

START_TEST(an_attached_reaper_is_charged_with_its_space)
{
	struct reaping reaping = {.space = make_arena(engine, 16 * MIB)};

	attach(&reaping);
	ck_assert_int_eq(td_space_put(reaping.space), 0);
	ck_assert_int_eq(pthread_join(reaping.thread, NULL), 0);
	ck_assert_uint_gt(reaping.did.slices, 0);
	ck_assert_uint_eq(reaping.did.slices_attached, reaping.did.slices);
	ck_assert_uint_eq(reaping.did.bytes_reclaimed, 16 * MIB);
	ck_assert_uint_gt(reaping.did.cpu_ns, 0);
	ck_assert_uint_eq(stats().bytes_in_caller, 16 * MIB);
	ck_assert_uint_eq(reaper(0).slices, 0);
}
END_TEST

/* ---- as the kernel has it ---- */

static struct group_v1 ours, the_engines;

static void *put_in_group(void *arg)
{
	struct td_thread_stats *of = arg;
	td_space *space = make_arena(engine, ARENA);

	enter_group(&ours);
	ck_assert_int_eq(td_space_put_sync(space), 0);
	*of = mine();
	return NULL;
}

START_TEST(the_cgroup_that_pays_is_that_of_the_thread_that_frees)
{
	struct reaping reaping = {.group = &ours};
	struct td_thread_stats of;
	uint64_t us, engines, theirs;
	pthread_t thread;

	if (!make_group(&ours, "cpuacct", "caller"))
		return;
	ck_assert(make_group(&the_engines, "cpuacct", "engine"));
	ck_assert_int_eq(
		td_engine_create(TD_ENGINE_OPTS(.reapers = 1, .cgroup = the_engines.path),
				 &engine),
		0);
	ck_assert_uint_eq(stats().reapers_unplaced, 0);
	engines = cpu_usage(&the_engines);
	ck_assert_int_eq(pthread_create(&thread, NULL, put_in_group, &of), 0);
	ck_assert_int_eq(pthread_join(thread, NULL), 0);
	us = cpu_usage(&ours);
	ck_assert_uint_eq(of.bytes_reclaimed, ARENA);
	ck_assert_uint_ge(us, of.cpu_ns);
	ck_assert_uint_lt(cpu_usage(&the_engines) - engines, of.cpu_ns / 4);

	/* nor where a thread waits for the last user to go */
	engines = cpu_usage(&the_engines);
	reaping.space = make_arena(engine, ARENA);
	attach(&reaping);
	ck_assert_int_eq(td_space_put(reaping.space), 0);
	ck_assert_int_eq(pthread_join(reaping.thread, NULL), 0);
	ck_assert_uint_eq(reaping.did.bytes_reclaimed, ARENA);
	ck_assert_uint_ge(cpu_usage(&ours), us + reaping.did.cpu_ns);
	ck_assert_uint_lt(cpu_usage(&the_engines) - engines, reaping.did.cpu_ns / 4);
	us = cpu_usage(&ours);

	/* and the other way round, where reapers do it */
	engines = cpu_usage(&the_engines);
	ck_assert_int_eq(td_space_put(make_arena(engine, ARENA)), 0);
	ck_assert_int_eq(td_engine_drain(engine, TD_FOREVER), 0);
	ck_assert_uint_eq(reaper(0).bytes_reclaimed, ARENA);
	theirs = reaper(0).cpu_ns;
	teardown();
	ck_assert_uint_ge(cpu_usage(&the_engines) - engines, theirs);
	ck_assert_uint_eq(cpu_usage(&ours), us);
	remove_group(&ours);
	remove_group(&the_engines);
}
END_TEST

int main(void)
{
	struct tdt *tests = tdt_suite("account");

	tdt_add(tests, a_reaper_is_charged_with_what_it_ran, setup, teardown);
	tdt_add(tests, a_caller_is_charged_with_what_it_puts_itself, setup, teardown);
	tdt_add(tests, a_helper_is_charged_with_what_it_helped_with, setup, teardown);
	tdt_add(tests, an_attached_reaper_is_charged_with_its_space, setup, teardown);
	tdt_add(tests, a_space_is_charged_with_what_left_it_before_too, setup, teardown);
	tdt_add(tests, cpu_time_is_charged_once_where_one_work_runs_another, setup,
		teardown);
	tdt_add(tests, each_thread_has_counters_of_its_own, setup, teardown);
	tdt_add(tests, the_cgroup_that_pays_is_that_of_the_thread_that_frees, NULL, NULL);
	return tdt_run(tests);
}
