/* SPDX-License-Identifier: MIT */
/* For tests: a space on an engine with two reapers, and both of them held up. */
#ifndef TDT_ARENA_H
#define TDT_ARENA_H

#include "harness.h"
#include "space_internal.h"

#include <poll.h>
#include <semaphore.h>
#include <teardown.h>

static td_engine *engine __attribute__((unused));
static td_space *space __attribute__((unused));

static inline void setup(void)
{
	ck_assert_int_eq(td_engine_create(TD_ENGINE_OPTS(.reapers = 2), &engine), 0);
	ck_assert_int_eq(td_space_create(engine, TD_SPACE_OPTS(.name = "arena"), &space),
			 0);
}

static inline void teardown(void)
{
	if (engine)
		ck_assert_int_eq(td_engine_destroy(engine, TD_EXIT_DRAIN, 0), 0);
}

static inline char *map(size_t length)
{
	void *addr;

	ck_assert_int_eq(td_region_map(space, length, NULL, &addr), 0);
	tdt_touch(addr, length);
	return addr;
}

static inline void put_and_wait(void)
{
	ck_assert_int_eq(td_space_grab(space), 0);
	ck_assert_int_eq(td_space_put(space), 0);
	ck_assert_int_eq(td_space_wait(space, TD_EVENT_RECLAIMED, TD_FOREVER), 0);
	ck_assert_int_eq(td_space_drop(space), 0);
}

/* A work that keeps one reaper until it is let go. */
struct plug {
	struct td_work work;
	sem_t entered, may_go;
};

static inline int plug_slice(struct td_work *work, struct td_slice *slice)
{
	struct plug *plug = tdi_container_of(work, struct plug, work);

	(void)slice;
	sem_post(&plug->entered);
	sem_wait(&plug->may_go);
	return TD_WORK_DONE;
}

static inline void plug_all_reapers(struct plug plugs[2])
{
	static const struct td_work_ops ops = {.slice = plug_slice};

	for (int i = 0; i < 2; i++) {
		sem_init(&plugs[i].entered, 0, 0);
		sem_init(&plugs[i].may_go, 0, 0);
		td_work_init(&plugs[i].work, &ops, 0);
		ck_assert_int_eq(td_engine_submit(engine, &plugs[i].work), 0);
	}
	for (int i = 0; i < 2; i++)
		sem_wait(&plugs[i].entered);
}

static inline void unplug(struct plug plugs[2])
{
	for (int i = 0; i < 2; i++)
		sem_post(&plugs[i].may_go);
	ck_assert_int_eq(td_engine_drain(engine, TD_FOREVER), 0);
}

/* ---- events ---- */

static inline bool is_readable(int fd, int timeout_ms)
{
	struct pollfd poller = {.fd = fd, .events = POLLIN};

	return poll(&poller, 1, timeout_ms) == 1;
}

static sem_t called_back __attribute__((unused));
static struct {
	enum td_event event;
	int status;
	bool on_reaper;
	uint32_t users;
} calls[4];
static atomic_int ncalls __attribute__((unused));

static inline void on_event(td_space *of, enum td_event event, int status, void *arg)
{
	int i = atomic_fetch_add(&ncalls, 1);

	ck_assert_ptr_eq(of, space);
	ck_assert_ptr_eq(arg, &called_back);
	calls[i].event = event;
	calls[i].status = status;
	calls[i].on_reaper = tdi_engine_is_reaper(engine);
	calls[i].users = tdi_ref_read(&of->users);
	/* a callback may use the library, but not wait for itself */
	ck_assert_int_eq(td_space_wait(of, TD_EVENT_RECLAIMED, TD_FOREVER), -EDEADLK);
	ck_assert_int_eq(td_space_grab(of), 0);
	ck_assert_int_eq(td_space_drop(of), 0);
	sem_post(&called_back);
}

#endif
