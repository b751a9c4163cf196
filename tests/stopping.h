/* SPDX-License-Identifier: MIT */
/* For tests of td_space_release: a teardown that stops where a test wants it to. */
#ifndef TDT_STOPPING_H
#define TDT_STOPPING_H

#include "reaping.h"

/* ---- somebody who is at it, and stops ---- */

static struct {
	sem_t entered, may_go;
	void (*inside)(void); /* or NULL: what is done there */
	pthread_t ran_on;
	atomic_uint calls;
} stop __attribute__((unused));

static inline void stop_here(void)
{
	stop.ran_on = pthread_self();
	if (atomic_fetch_add(&stop.calls, 1) > 0)
		return;
	if (stop.inside)
		stop.inside();
	sem_post(&stop.entered);
	sem_wait(&stop.may_go);
}

static inline int slow_release(void *arg, size_t offset, size_t length, size_t *released)
{
	(void)arg;
	(void)offset;
	stop_here();
	*released = length;
	return 0;
}

/* The one who comes to it stops there: in its release. */
static inline char *map_slow(size_t length)
{
	static const struct td_region_ops ops = {.release = slow_release};
	char *addr = tdt_map_anon(length);

	ck_assert_int_eq(
		td_region_adopt(space, addr, length,
				TD_REGION_OPTS(.kind = TD_KIND_DEVICE, .ops = &ops)),
		0);
	return addr;
}

static inline void on_event(td_space *of, enum td_event event, int status, void *arg)
{
	(void)of;
	(void)event;
	(void)status;
	(void)arg;
	stop_here();
}

static inline void stop_in_callback(enum td_event event)
{
	ck_assert_int_eq(td_space_on_event(space, event, on_event, NULL), 0);
}

static inline void setup_release(void)
{
	setup_space();
	sem_init(&stop.entered, 0, 0);
	sem_init(&stop.may_go, 0, 0);
}

/* In threads of their own, for which the allocator would map a heap when they first free
 * something: perhaps where a test looks whether its memory has gone. */
static inline void *put_sync(void *arg)
{
	tdi_reaper_warm_up();
	return (void *)(intptr_t)td_space_put_sync(arg);
}

static inline void *release_it(void *arg)
{
	tdi_reaper_warm_up();
	return (void *)(intptr_t)td_space_release(arg, 0);
}

static inline int result_of(pthread_t thread)
{
	void *result;

	ck_assert_int_eq(pthread_join(thread, &result), 0);
	return (int)(intptr_t)result;
}

#endif
