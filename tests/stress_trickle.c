/* SPDX-License-Identifier: MIT */
/*
 * B2: what comes now and then is closed at its age, with nothing else to close it; where
 * nothing comes, nothing wakes up.
 */
#include "base.h"
#include "harness.h"

#include <dirent.h>
#include <fcntl.h>
#include <sched.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <teardown.h>
#include <unistd.h>
#include <urcu/flavor.h>

extern const struct rcu_flavor_struct urcu_memb_flavor;

enum { TRICKLE = TDT_SANITIZED ? 30 : 100 };

static td_engine *engine;
static td_batch *batch;

static const uint64_t age_ns = 5000000;
static struct rcu_flavor_struct noting_flavor;
static _Atomic(uint64_t) last_begun_ns; /* of grace periods */
static uint64_t added_ns, latest_ns, late;
static sem_t was_freed;

static void note_and_wait(void)
{
	uint64_t now = tdi_sys_now_ns();

	urcu_memb_flavor.update_synchronize_rcu();
	atomic_store(&last_begun_ns, now);
}

static void free_noted(void **objects, size_t n, void *ctx)
{
	uint64_t waited = atomic_load(&last_begun_ns) - added_ns;

	(void)ctx;
	ck_assert_uint_eq(n, 1);
	free(objects[0]);
	if (waited > latest_ns)
		latest_ns = waited;
	/* Scheduling apart. */
	late += waited > age_ns + 1000000;
	sem_post(&was_freed);
}

static void setup(void)
{
	noting_flavor = urcu_memb_flavor;
	noting_flavor.update_synchronize_rcu = note_and_wait;
	sem_init(&was_freed, 0, 0);
	ck_assert_int_eq(td_engine_create(TD_ENGINE_OPTS(.reapers = 1, .name = "noting",
							 .flavor = &noting_flavor),
					  &engine),
			 0);
	ck_assert_int_eq(td_batch_create(engine,
					 TD_BATCH_OPTS(.close_age_ns = age_ns,
						       .free_bulk = free_noted),
					 &batch),
			 0);
}

static void teardown(void)
{
	ck_assert_int_eq(td_batch_destroy(batch, 0), 0);
	ck_assert_int_eq(td_engine_destroy(engine, TD_EXIT_DRAIN, 0), 0);
}

/* Nothing but the age closes a group of one; the test waits for that. */
static void add_and_await(bool plain)
{
	struct td_batch_node *object = malloc(64);

	ck_assert_ptr_nonnull(object);
	added_ns = tdi_sys_now_ns();
	if (plain)
		ck_assert_int_eq(td_batch_free_ptr(batch, object, 64), 0);
	else
		ck_assert_int_eq(td_batch_free(batch, object, 64), 0);
	while (sem_wait(&was_freed) != 0)
		continue;
}

START_TEST(each_object_of_a_trickle_is_freed_at_its_age)
{
	struct td_engine_stats stats;
	struct td_batch_stats of_batch;

	for (unsigned i = 0; i < TRICKLE; i++) {
		/* So that it comes at any moment of the thread's turn. */
		tdi_sys_pause(i * 2 * age_ns / TRICKLE);
		add_and_await(i % 2);
	}
	ck_assert_int_eq(td_batch_barrier(batch, TD_FOREVER),
			 0); /* until it is counted */
	ck_assert_int_eq(td_engine_stats(engine, &stats), 0);
	ck_assert_int_eq(td_batch_stats(batch, &of_batch), 0);
	printf("# %d objects, each %lu us old at most: the oldest was %lu us when its "
	       "grace period began, %lu were more than 1 ms late\n",
	       TRICKLE, age_ns / 1000, latest_ns / 1000, late);
	ck_assert_uint_ge(stats.grace_periods, TRICKLE);
	ck_assert_uint_eq(of_batch.bytes_pending, 0);
}
END_TEST

/* ---- never ---- */

static void task_file(char *path, size_t size, const char *task, const char *name)
{
	snprintf(path, size, "/proc/self/task/%.16s/%s", task, name);
}

static size_t read_file(const char *path, char *text, size_t size)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t got = fd < 0 ? -1 : read(fd, text, size - 1);

	if (fd >= 0)
		close(fd);
	text[got > 0 ? got : 0] = '\0';
	return got > 0 ? (size_t)got : 0;
}

/* The grace thread, by its name; false: there is none of that name. */
static bool find_thread(const char *name, char *task, size_t size)
{
	DIR *dir = opendir("/proc/self/task");
	char path[64], comm[32];
	struct dirent *entry;
	bool found = false;

	ck_assert_ptr_nonnull(dir);
	while (!found && (entry = readdir(dir)) != NULL) {
		task_file(path, sizeof(path), entry->d_name, "comm");
		found = read_file(path, comm, sizeof(comm)) > 0 &&
			strcmp(comm, name) == 0;
		if (found)
			snprintf(task, size, "%.16s", entry->d_name);
	}
	closedir(dir);
	return found;
}

/* In a futex without a timeout: the fourth argument. */
static bool sleeps_for_good(const char *task)
{
	char path[64], text[256], *at;
	unsigned long argument = 1;

	task_file(path, sizeof(path), task, "syscall");
	read_file(path, text, sizeof(text));
	if (strtol(text, &at, 10) != SYS_futex || at == text)
		return false;
	for (unsigned i = 0; i < 4; i++)
		argument = strtoul(at, &at, 16);
	return argument == 0;
}

static unsigned long wakeups(const char *task)
{
	char path[64], text[4096], *at;

	task_file(path, sizeof(path), task, "status");
	ck_assert_uint_gt(read_file(path, text, sizeof(text)), 0);
	at = strstr(text, "\nvoluntary_ctxt_switches:");
	ck_assert_ptr_nonnull(at);
	return strtoul(strchr(at, ':') + 1, NULL, 10);
}

START_TEST(where_nothing_is_added_nothing_wakes_up)
{
	char task[32], path[64], text[256];
	unsigned long before;

	add_and_await(true);
	ck_assert(find_thread("noting/gp\n", task, sizeof(task)));
	task_file(path, sizeof(path), task, "syscall");
	if (read_file(path, text, sizeof(text)) == 0) {
		tdt_skip("%s cannot be read", path);
		return;
	}
	for (unsigned round = 0; round < 3; round++) {
		uint64_t end;

		/* It drowses at its own pace; if it never did, this would not end. */
		while (!sleeps_for_good(task))
			sched_yield();
		before = wakeups(task);
		for (end = tdi_sys_now_ns() + 20 * age_ns; tdi_sys_now_ns() < end;)
			tdi_sys_pause(age_ns);
		ck_assert(sleeps_for_good(task));
		ck_assert_uint_eq(wakeups(task), before);
		add_and_await(round % 2);
		ck_assert_uint_gt(wakeups(task), before);
	}
}
END_TEST

int main(void)
{
	struct tdt *tests = tdt_suite("stress_trickle");

	tdt_add(tests, each_object_of_a_trickle_is_freed_at_its_age, setup, teardown);
	tdt_add(tests, where_nothing_is_added_nothing_wakes_up, setup, teardown);
	return tdt_run(tests);
}
