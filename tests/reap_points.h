/* SPDX-License-Identifier: MIT */
/*
 * For tests: td_space_reap's steps are called through ours (the linker's --wrap, and the
 * fault hook), which at each of them stop to let others do their worst.
 */
#ifndef TDT_REAP_POINTS_H
#define TDT_REAP_POINTS_H

#include "reaping.h"

#include <errno.h>

/* Where a thread may be stopped, in the order in which an attacher comes there. */
enum point {
	BEFORE_USER,   /* it has not taken its user for a moment */
	BEFORE_ATTACH, /* it has, and nobody knows of it */
	BEFORE_BACK,   /* it is attached, and still a user */
	BEFORE_LOOK,   /* it has given that back, and was not the last */
	BEFORE_SLEEP,  /* it has found that it may sleep */
	BEFORE_BEGIN,  /* (a last put) it has taken the thread out, and not told it yet */
	BEFORE_WAKE,   /* (a last put, a cancel) it has told it, and not woken it yet */
	POINTS
};

/* What is to happen there, once, in this thread. */
static __thread void (*at_point[POINTS])(void);
static __thread unsigned sleeps; /* in the kernel, or almost */
static __thread int sleep_result;

static inline void reach(enum point point)
{
	void (*action)(void) = at_point[point];

	at_point[point] = NULL;
	if (action)
		action();
}

bool __real_td_space_get_not_zero(td_space *of);
bool __wrap_td_space_get_not_zero(td_space *of);
bool __real_tdi_space_put_user(td_space *of);
bool __wrap_tdi_space_put_user(td_space *of);
void __real_tdi_work_begin(td_engine *of, struct td_work *work, bool admitted);
void __wrap_tdi_work_begin(td_engine *of, struct td_work *work, bool admitted);

bool __wrap_td_space_get_not_zero(td_space *of)
{
	bool got;

	reach(BEFORE_USER);
	got = __real_td_space_get_not_zero(of);
	reach(BEFORE_ATTACH);
	return got;
}

bool __wrap_tdi_space_put_user(td_space *of)
{
	bool last;

	reach(BEFORE_BACK);
	last = __real_tdi_space_put_user(of);
	if (!last)
		reach(BEFORE_LOOK);
	return last;
}

void __wrap_tdi_work_begin(td_engine *of, struct td_work *work, bool admitted)
{
	reach(BEFORE_BEGIN);
	__real_tdi_work_begin(of, work, admitted);
}

static inline int hook(enum tdi_sys_call call, uintptr_t addr, size_t length, int detail)
{
	int result = 0;

	(void)addr;
	(void)length;
	(void)detail;
	if (call == TDI_SYS_futex_wait) {
		sleeps++;
		reach(BEFORE_SLEEP);
		result = sleep_result;
		sleep_result = 0;
	} else if (call == TDI_SYS_futex_wake) {
		reach(BEFORE_WAKE);
	}
	return result;
}

static char *addr;

static inline void setup_race(void)
{
	setup_space();
	addr = map(4 * MIB);
	tdi_sys_set_fault(hook);
}

/* ---- what others do: in threads of their own ---- */

struct other {
	int (*call)(td_space *of);
	void (*at)(void); /* at a point of its own */
	enum point point;
	int err;
	pthread_t thread;
};

static inline void *other_run(void *arg)
{
	struct other *other = arg;

	at_point[other->point] = other->at;
	other->err = other->call(space);
	return NULL;
}

static inline void other_start(struct other *other)
{
	ck_assert_int_eq(pthread_create(&other->thread, NULL, other_run, other), 0);
}

static inline int other_result(struct other *other)
{
	ck_assert_int_eq(pthread_join(other->thread, NULL), 0);
	return other->err;
}

static inline int in_another(int (*call)(td_space *of))
{
	struct other other = {.call = call};

	other_start(&other);
	return other_result(&other);
}

static inline int reap_forever(td_space *of)
{
	return td_space_reap(of, 0, TD_FOREVER);
}

static inline void put(void)
{
	ck_assert_int_eq(in_another(td_space_put), 0);
}

static inline void put_sync(void)
{
	ck_assert_int_eq(in_another(td_space_put_sync), 0);
}

static inline void cancel(void)
{
	ck_assert_int_eq(in_another(td_space_reap_cancel), 0);
}

static inline void cancel_none(void)
{
	ck_assert_int_eq(in_another(td_space_reap_cancel), -ENOENT);
	put();
}

static inline void cancel_and_put(void)
{
	cancel();
	put();
}

static inline void put_and_cancel(void)
{
	put();
	ck_assert_int_eq(in_another(td_space_reap_cancel), -EALREADY);
}

static inline void try_to_attach_and_put(void)
{
	ck_assert_int_eq(in_another(reap_forever), -EEXIST);
	put();
}

static struct other successor = {.call = reap_forever};

/* users: how many there are beside the successor's own for a moment */
static inline void succeed(uint32_t users)
{
	other_start(&successor);
	await_attached(users);
}

static inline void cancel_and_succeed_and_put(void)
{
	cancel();
	/* ourselves, if we still are one, and the test's */
	succeed(tdi_ref_read(&space->users));
	put();
}

static inline int reap_with(enum point point, void (*deed)(void))
{
	at_point[point] = deed;
	sleeps = 0;
	return td_space_reap(space, 0, TD_FOREVER);
}

static inline void check_end(void)
{
	check_reclaimed(addr, 4 * MIB);
	drain();
	ck_assert_uint_eq(stats().works_pending, 0);
	ck_assert_uint_eq(stats().bytes_pending, 0);
	ck_assert_uint_eq(stats().works_failed, 0);
}

#endif
