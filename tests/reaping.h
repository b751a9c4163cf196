/* SPDX-License-Identifier: MIT */
/* For tests: a space on an engine with one reaper, and threads attached to it. */
#ifndef TDT_REAPING_H
#define TDT_REAPING_H

#include "hold.h"
#include "space_internal.h"

#include <sched.h>
#include <string.h>
#include <teardown.h>

static td_space *space __attribute__((unused));

static inline td_space *make_space(const char *name)
{
	td_space *made;

	ck_assert_int_eq(td_space_create(engine, TD_SPACE_OPTS(.name = name), &made), 0);
	return made;
}

static inline void setup_space(void)
{
	setup_eager();
	space = make_space("arena");
	/* The tests' own, to look at it afterwards. */
	ck_assert_int_eq(td_space_grab(space), 0);
}

static inline void teardown_space(void)
{
	ck_assert_int_eq(td_space_drop(space), 0);
	if (engine)
		teardown();
}

static inline char *map(size_t length)
{
	void *addr;

	ck_assert_int_eq(td_region_map(space, length, NULL, &addr), 0);
	tdt_touch(addr, length);
	return addr;
}

static inline struct td_space_stats space_stats(void)
{
	struct td_space_stats now;

	ck_assert_int_eq(td_space_stats(space, &now), 0);
	return now;
}

/* A thread that calls td_space_reap, after what a test wants done in it. */
struct attacher {
	td_space *space;
	int64_t timeout_ns;
	void (*first)(void); /* or NULL */
	int err;
	uint64_t cpu_ns;
	pthread_t thread;
};

static inline void *attacher_run(void *arg)
{
	struct attacher *attacher = arg;
	uint64_t began = tdi_sys_cpu_ns();

	if (attacher->first)
		attacher->first();
	attacher->err = td_space_reap(attacher->space, 0, attacher->timeout_ns);
	attacher->cpu_ns = tdi_sys_cpu_ns() - began;
	return NULL;
}

static inline void attacher_start(struct attacher *attacher, int64_t timeout_ns,
				  void (*first)(void))
{
	*attacher = (struct attacher){
		.space = space, .timeout_ns = timeout_ns, .first = first, .err = 99};
	ck_assert_int_eq(pthread_create(&attacher->thread, NULL, attacher_run, attacher),
			 0);
}

/* Until it sleeps, or is about to: it has given its own user back. */
static inline void await_attached(uint32_t users)
{
	while (!atomic_load(&space->attached) || tdi_ref_read(&space->users) != users)
		sched_yield();
}

static inline void attach_thread(struct attacher *attacher)
{
	attacher_start(attacher, TD_FOREVER, NULL);
	await_attached(1);
}

static inline int attacher_result(struct attacher *attacher)
{
	ck_assert_int_eq(pthread_join(attacher->thread, NULL), 0);
	return attacher->err;
}

/* Everything is back, and nobody is attached any more. */
static inline void check_reclaimed(const void *addr, size_t length)
{
	struct td_space_stats now;

	ck_assert_int_eq(td_space_wait(space, TD_EVENT_RECLAIMED, TD_FOREVER), 0);
	now = space_stats();
	ck_assert_uint_eq(tdt_mapped(addr, length), 0);
	ck_assert_uint_eq(now.users, 0);
	ck_assert_uint_eq(now.regions, 0);
	ck_assert_uint_eq(now.bytes_pending, 0);
	ck_assert_uint_eq(now.bytes_reclaimed, now.bytes_mapped);
	ck_assert_ptr_null(atomic_load(&space->attached));
}

#endif
