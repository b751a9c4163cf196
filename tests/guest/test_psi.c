/* SPDX-License-Identifier: MIT */
/*
 * B5: the kernel's own word on memory pressure: a process in a group of its own, which
 * holds it to less memory than it keeps using, gets its open groups closed and its
 * shrinkers called by nobody but the kernel.
 */
#include "guest.h"

#include <semaphore.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <teardown.h>

#define HIGH (24 * MIB)

static struct guest_cgroup group;

/* ---- in the process that is in want ---- */

static atomic_uint told, freed;
static sem_t heard;

static uint64_t shrink(struct td_shrinker *shrinker, enum td_pressure level)
{
	(void)shrinker;
	if (level != TD_PRESSURE_NONE && atomic_fetch_add(&told, 1) == 0)
		sem_post(&heard);
	return 0;
}

static void count_freed(void **objects, size_t n, void *arg)
{
	(void)objects;
	(void)arg;
	atomic_fetch_add(&freed, (unsigned)n);
}

/* Goes a little beyond what the group may have: the kernel then makes it wait, for more
 * and more time a page, and counts that as a stall. */
static void want(uint64_t deadline_ns)
{
	char *memory = tdt_map_anon(4 * HIGH);

	for (size_t at = 0;
	     at < 4 * HIGH && atomic_load(&told) == 0 && tdi_sys_now_ns() < deadline_ns;
	     at += 4 * KIB)
		memory[at] = 1;
	munmap(memory, 4 * HIGH);
}

enum { HEARD = 0, NOT_WATCHED = 10, NOT_MADE, NOT_TOLD, NOT_CLOSED, NOT_COUNTED };

static int be_in_want(void)
{
	struct td_shrinker shrinker = {.shrink = shrink};
	struct td_engine_stats stats;
	td_engine *engine;
	td_batch *batch;
	static char object;

	sem_init(&heard, 0, 0);
	if (td_engine_create(TD_ENGINE_OPTS(.flags = TD_ENGINE_PSI, .reapers = 1),
			     &engine) ||
	    td_engine_stats(engine, &stats) || !stats.psi_watched)
		return NOT_WATCHED;
	if (td_engine_add_shrinker(engine, &shrinker) ||
	    td_batch_create(engine,
			    TD_BATCH_OPTS(.free_bulk = count_freed,
					  .close_age_ns = UINT64_C(3600000000000)),
			    &batch) ||
	    td_batch_free_ptr(batch, &object, 1))
		return NOT_MADE;
	want(tdi_sys_deadline(INT64_C(30000000000)));
	if (atomic_load(&told) == 0)
		return NOT_TOLD;
	sem_wait(&heard);
	/* The group was closed before; its object is freed after a grace period. */
	for (int i = 0; i < 10000 && atomic_load(&freed) == 0; i++)
		usleep(1000);
	if (atomic_load(&freed) == 0)
		return NOT_CLOSED;
	if (td_engine_stats(engine, &stats) || stats.pressure_events == 0)
		return NOT_COUNTED;
	return HEARD;
}

START_TEST(want_of_memory_closes_groups_and_calls_shrinkers)
{
	int go[2], status;
	pid_t child;
	char byte;

	if (!guest_cgroup_make(&group, NULL, "td-psi", "+memory") ||
	    guest_cgroup_set(&group, "memory.high", "%zu", (size_t)HIGH) != 0) {
		guest_lacks("no control group with memory.high");
		return;
	}
	ck_assert_int_eq(pipe(go), 0);
	child = fork();
	if (child == 0)
		_exit(read(go[0], &byte, 1) == 1 ? be_in_want() : 99);
	ck_assert_int_eq(guest_cgroup_enter(&group, child), 0);
	ck_assert_int_eq(write(go[1], "", 1), 1);
	ck_assert_int_eq(waitpid(child, &status, 0), child);
	guest_cgroup_remove(&group);
	ck_assert_msg(WIFEXITED(status) && WEXITSTATUS(status) == HEARD,
		      "the process in the group ended with status %#x", status);
}
END_TEST

/* Where the kernel lets us, the library's own triggers are ones that it takes. */
START_TEST(the_kernel_takes_the_triggers)
{
	struct td_engine_stats stats;
	td_engine *engine;

	if (access("/proc/pressure/memory", R_OK | W_OK) != 0) {
		guest_lacks("no /proc/pressure/memory that can be written");
		return;
	}
	ck_assert_int_eq(
		td_engine_create(TD_ENGINE_OPTS(.flags = TD_ENGINE_PSI), &engine), 0);
	ck_assert_int_eq(td_engine_stats(engine, &stats), 0);
	ck_assert_uint_eq(stats.psi_watched, 1);
	ck_assert_int_eq(td_engine_destroy(engine, TD_EXIT_DRAIN, 0), 0);
}
END_TEST

int main(void)
{
	struct tdt *tests = tdt_suite("guest_psi");

	tdt_add(tests, the_kernel_takes_the_triggers, NULL, NULL);
	tdt_add(tests, want_of_memory_closes_groups_and_calls_shrinkers, NULL, NULL);
	return tdt_run(tests);
}
