/* SPDX-License-Identifier: MIT */
/* Forks that come when it suits nobody, and processes that are begun without one. */
#include "child.h"
#include "job.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <teardown.h>
#include <urcu/urcu-memb.h>

enum { LENGTH = 4 << 20 };

/* ---- what a child does that has restarted the engine ---- */

static void restart_and_use(void *arg)
{
	td_batch *objects;
	td_space *own;
	void *addr;

	(void)arg;
	need_eq(td_engine_restart(engine), 0);
	need_eq(td_space_create(engine, NULL, &own), 0);
	need_eq(td_region_map(own, LENGTH, NULL, &addr), 0);
	memset(addr, 1, LENGTH);
	need_eq(td_space_put(own), 0);
	need_eq(td_batch_create(engine, NULL, &objects), 0);
	need_eq(td_batch_free_ptr(objects, malloc(50), 50), 0);
	need_eq(td_batch_destroy(objects, 0), 0);
	need_eq(td_engine_destroy(engine, TD_EXIT_DRAIN, 0), 0);
}

/* ---- while others are at the engine ---- */

static struct job held;
static sem_t entered, may_go;

static void hold(void)
{
	sem_init(&entered, 0, 0);
	sem_init(&may_go, 0, 0);
	job_init(&held, 1);
	held.entered = &entered;
	held.may_go = &may_go;
	ck_assert_int_eq(td_engine_submit(engine, &held.work), 0);
	sem_wait(&entered);
}

static void *drain_it(void *arg)
{
	(void)arg;
	return (void *)(intptr_t)td_engine_drain(engine, TD_FOREVER);
}

static void *stop_it(void *arg)
{
	(void)arg;
	return (void *)(intptr_t)td_engine_stop(engine, TD_EXIT_DRAIN, 0);
}

static void fork_while(void *(*run)(void *), bool stops)
{
	pthread_t thread;
	void *result;

	if (skip_without_threads())
		return;
	hold();
	pthread_create(&thread, NULL, run, NULL);
	while (atomic_load(&engine->pending.drainers) == 0)
		sched_yield();
	ck_assert_int_eq(in_child(restart_and_use, NULL), 0);
	sem_post(&may_go);
	pthread_join(thread, &result);
	ck_assert_ptr_null(result);
	ck_assert_int_eq(held.status, 0);
	/* and with all of it behind */
	if (stops)
		ck_assert_int_eq(in_child(restart_and_use, NULL), 0);
	teardown();
}

START_TEST(a_child_restarts_what_others_were_draining)
{
	fork_while(drain_it, false);
}
END_TEST

START_TEST(a_child_restarts_what_others_were_stopping)
{
	fork_while(stop_it, true);
}
END_TEST

/* All locks of the engine's are somebody's who is not there. */
static void *keep_locks(void *arg)
{
	pthread_mutex_t *locks[] = {&engine->grace.pass_lock, &engine->grace.list_lock,
				    &engine->shrinkers.lock};

	(void)arg;
	for (size_t i = 0; i < sizeof(locks) / sizeof(*locks); i++)
		pthread_mutex_lock(locks[i]);
	sem_post(&entered);
	sem_wait(&may_go);
	for (size_t i = 0; i < sizeof(locks) / sizeof(*locks); i++)
		pthread_mutex_unlock(locks[i]);
	return NULL;
}

START_TEST(a_child_finds_no_lock_held)
{
	pthread_t thread;

	if (skip_without_threads())
		return;
	sem_init(&entered, 0, 0);
	sem_init(&may_go, 0, 0);
	pthread_create(&thread, NULL, keep_locks, NULL);
	sem_wait(&entered);
	ck_assert_int_eq(in_child(restart_and_use, NULL), 0);
	sem_post(&may_go);
	pthread_join(thread, NULL);
	teardown();
}
END_TEST

/* ---- an allocator's lock ---- */

static pthread_mutex_t allocator = PTHREAD_MUTEX_INITIALIZER;
static _Atomic(bool) forking;
static sem_t locked;

static void lock_allocator(void)
{
	atomic_store(&forking, true);
	pthread_mutex_lock(&allocator);
}

static void unlock_allocator(void)
{
	pthread_mutex_unlock(&allocator);
}

static void *unmap_in_allocator(void *arg)
{
	void *addr = tdt_map_anon(LENGTH);
	intptr_t err;

	(void)arg;
	tdt_touch(addr, LENGTH);
	pthread_mutex_lock(&allocator);
	sem_post(&locked);
	while (!atomic_load(&forking))
		sched_yield();
	err = td_engine_munmap(engine, addr, LENGTH, 0);
	pthread_mutex_unlock(&allocator);
	ck_assert_uint_eq(tdt_mapped(addr, LENGTH), 0);
	return (void *)err;
}

static void nothing(void *arg)
{
	(void)arg;
}

/* Its handlers were there first, as those of one that is not the C library's own: so they
 * come last before a fork. */
START_TEST(an_allocator_may_unmap_under_a_lock_that_a_fork_takes)
{
	pthread_t thread;
	void *result;

	pthread_atfork(lock_allocator, unlock_allocator, unlock_allocator);
	setup();
	ck_assert_int_eq(td_engine_set_munmap_threshold(engine, tdi_page_size()), 0);
	sem_init(&locked, 0, 0);
	pthread_create(&thread, NULL, unmap_in_allocator, NULL);
	sem_wait(&locked);
	ck_assert_int_eq(in_child(nothing, NULL), 0);
	pthread_join(thread, &result);
	ck_assert_ptr_null(result);
	teardown();
}
END_TEST

/* ---- in callbacks ---- */

static void be_refused(void *arg)
{
	(void)arg;
	need_eq(td_engine_restart(engine), -EDEADLK);
}

static int fork_in_slice(struct td_work *work, struct td_slice *slice)
{
	struct job *job = tdi_container_of(work, struct job, work);

	(void)slice;
	job->ends_with = in_child(be_refused, NULL);
	return TD_WORK_DONE;
}

static uint64_t fork_in_shrinker(struct td_shrinker *shrinker, enum td_pressure level)
{
	(void)shrinker;
	(void)level;
	return (uint64_t)in_child(be_refused, NULL);
}

START_TEST(a_child_of_a_callback_cannot_restart_its_engine)
{
	static const struct td_work_ops ops = {.slice = fork_in_slice, .done = job_done};
	struct td_shrinker shrinker = {.shrink = fork_in_shrinker};
	uint64_t status = 99;
	struct job job;

	job_init(&job, 1);
	job.ends_with = 99;
	job.work.ops = &ops;
	ck_assert_int_eq(td_engine_submit(engine, &job.work), 0);
	sem_wait(&job.done);
	ck_assert_int_eq(job.ends_with, 0);
	ck_assert_int_eq(td_engine_add_shrinker(engine, &shrinker), 0);
	ck_assert_int_eq(td_engine_pressure(engine, TD_PRESSURE_SOME, &status), 0);
	ck_assert_uint_eq(status, 0);
	ck_assert_int_eq(td_engine_remove_shrinker(engine, &shrinker), 0);
	teardown();
}
END_TEST

/* ---- several threads of the child ---- */

static _Atomic(unsigned) restarted, too_late;

static void *restart_too(void *arg)
{
	int err = td_engine_restart(engine);

	(void)arg;
	atomic_fetch_add(err ? &too_late : &restarted, 1);
	need(!err || err == -EALREADY);
	need_eq(td_engine_drain(engine, TD_FOREVER), 0);
	return NULL;
}

static void restart_by_many(void *arg)
{
	pthread_t threads[4];

	(void)arg;
	for (unsigned i = 0; i < 4; i++)
		need_eq(pthread_create(&threads[i], NULL, restart_too, NULL), 0);
	for (unsigned i = 0; i < 4; i++)
		need_eq(pthread_join(threads[i], NULL), 0);
	need_eq(atomic_load(&restarted), 1);
	need_eq(atomic_load(&too_late), 3);
	need_eq(td_engine_destroy(engine, TD_EXIT_DRAIN, 0), 0);
}

START_TEST(of_several_that_restart_an_engine_one_does)
{
	if (skip_without_threads())
		return;
	ck_assert_int_eq(in_child(restart_by_many, NULL), 0);
	teardown();
}
END_TEST

/* ---- a grace period that does not end ---- */

static void *read_until_told(void *arg)
{
	(void)arg;
	urcu_memb_register_thread();
	urcu_memb_read_lock();
	sem_post(&entered);
	sem_wait(&may_go);
	tdi_tsan_release((void *)(uintptr_t)&urcu_memb_flavor);
	urcu_memb_read_unlock();
	urcu_memb_unregister_thread();
	return NULL;
}

static void be_without_rcu(void *arg)
{
	(void)arg;
	need_eq(td_engine_restart(engine), -ENOTRECOVERABLE);
	need_eq(td_engine_drain(engine, 0), -ECHILD);
}

/* The fork waits for it a second: bounded, and told. */
START_TEST(a_fork_that_met_a_long_grace_period_says_so)
{
	pthread_t thread;
	td_batch *batch;
	pid_t pid;

	sem_init(&entered, 0, 0);
	sem_init(&may_go, 0, 0);
	pthread_create(&thread, NULL, read_until_told, NULL);
	sem_wait(&entered);
	ck_assert_int_eq(td_batch_create(engine, NULL, &batch), 0);
	ck_assert_int_eq(td_batch_free_ptr(batch, malloc(50), 50), 0);
	ck_assert_int_eq(td_batch_flush(batch, 0), 0);
	ck_assert_int_eq(td_batch_barrier(batch, 20000000), -ETIMEDOUT);
	pid = child_start(be_without_rcu, NULL);
	sem_post(&may_go);
	ck_assert_int_eq(child_end(pid), 0);
	pthread_join(thread, NULL);
	ck_assert_int_eq(td_batch_destroy(batch, 0), 0);
	teardown();
}
END_TEST

/* ---- what is dying ---- */

static _Atomic(uintptr_t) dying;
static _Atomic(bool) released_some;

/* After the first step of it: lets the fork come. */
static int wait_after_first_step(enum tdi_sys_call call, uintptr_t addr, size_t length,
				 int detail)
{
	(void)length;
	if (call == TDI_SYS_madvise && detail == MADV_DONTNEED &&
	    addr > atomic_load(&dying) && addr < atomic_load(&dying) + 8 * LENGTH &&
	    !atomic_exchange(&released_some, true)) {
		sem_post(&entered);
		sem_wait(&may_go);
	}
	return 0;
}

static void look_for_it(void *arg)
{
	unsigned char in;

	(void)arg;
	for (size_t at = 0; at < 8 * LENGTH; at += LENGTH)
		need_eq(mincore((char *)atomic_load(&dying) + at, tdi_page_size(), &in),
			-1);
}

/* Nor does it keep the pages of a space that was not moved to quarantine. */
START_TEST(a_child_does_not_get_what_is_half_released)
{
	td_space *space;
	void *addr;

	sem_init(&entered, 0, 0);
	sem_init(&may_go, 0, 0);
	ck_assert_int_eq(td_space_create(engine, NULL, &space), 0);
	ck_assert_int_eq(td_region_map(space, 8 * LENGTH,
				       TD_REGION_OPTS(.thp = TD_THP_NEVER), &addr),
			 0);
	tdt_touch(addr, 8 * LENGTH);
	atomic_store(&dying, (uintptr_t)addr);
	tdi_sys_set_fault(wait_after_first_step);
	ck_assert_int_eq(td_space_put(space), 0);
	sem_wait(&entered);
	ck_assert_uint_gt(tdt_mapped(addr, 8 * LENGTH), 0);
	ck_assert_int_eq(in_child(look_for_it, NULL), 0);
	sem_post(&may_go);
	ck_assert_int_eq(td_engine_drain(engine, TD_FOREVER), 0);
	tdt_fail_none();
	ck_assert_uint_eq(tdt_mapped(addr, 8 * LENGTH), 0);
	teardown();
}
END_TEST

/* ---- without fork ---- */

static _Atomic(bool) enough;

static void *unmap_all_the_time(void *arg)
{
	(void)arg;
	while (!atomic_load(&enough)) {
		void *addr = tdt_map_anon(LENGTH);

		tdt_touch(addr, LENGTH);
		if (td_engine_munmap(engine, addr, LENGTH, 0))
			return (void *)1;
	}
	return NULL;
}

static void spawn(void)
{
	char *args[] = {(char *)"sh", (char *)"-c", (char *)"exit 3", NULL};
	extern char **environ;
	int status;
	pid_t pid;

	ck_assert_int_eq(posix_spawnp(&pid, "sh", NULL, NULL, args, environ), 0);
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert(WIFEXITED(status) && WEXITSTATUS(status) == 3);
}

static void pipe_from(void)
{
	char line[16] = "";
	FILE *pipe = popen("echo here", "r");

	ck_assert_ptr_nonnull(pipe);
	ck_assert_ptr_nonnull(fgets(line, sizeof(line), pipe));
	ck_assert_str_eq(line, "here\n");
	ck_assert_int_eq(pclose(pipe), 0);
}

START_TEST(popen_system_and_posix_spawn_are_as_ever)
{
	pthread_t thread;
	void *result;

	ck_assert_int_eq(td_engine_set_munmap_threshold(engine, tdi_page_size()), 0);
	pthread_create(&thread, NULL, unmap_all_the_time, NULL);
	for (unsigned i = 0; i < (TDT_SANITIZED ? 5 : 20); i++) {
		int status = system("exit 4");

		ck_assert(WIFEXITED(status) && WEXITSTATUS(status) == 4);
		pipe_from();
		spawn();
	}
	atomic_store(&enough, true);
	pthread_join(thread, &result);
	ck_assert_ptr_null(result);
	ck_assert_int_eq(td_engine_drain(engine, TD_FOREVER), 0);
	ck_assert_uint_eq(stats().bytes_pending, 0);
	teardown();
}
END_TEST

int main(void)
{
	struct tdt *tests = tdt_suite("fork_when");
	const TTest *all[] = {
		a_child_restarts_what_others_were_draining,
		a_child_restarts_what_others_were_stopping,
		a_child_finds_no_lock_held,
		a_child_of_a_callback_cannot_restart_its_engine,
		of_several_that_restart_an_engine_one_does,
		a_fork_that_met_a_long_grace_period_says_so,
		a_child_does_not_get_what_is_half_released,
		popen_system_and_posix_spawn_are_as_ever,
	};

	for (size_t i = 0; i < sizeof(all) / sizeof(*all); i++)
		tdt_add(tests, all[i], setup, NULL);
	tdt_add(tests, an_allocator_may_unmap_under_a_lock_that_a_fork_takes, NULL, NULL);
	return tdt_run(tests);
}
