/* SPDX-License-Identifier: MIT */
/*
 * The attached reaper: a thread that sleeps until the last user of a space has gone and
 * then does the engine's work.
 *
 *   R1  It attaches while it holds a user, and gives that back before it sleeps. So the
 *       last put comes after the attaching, finds it, and wakes the thread; or it is the
 *       attacher's own. Nobody attaches after the last put.
 *   R2  The attached thread is taken out of the space once: by the last put, by a cancel,
 *       or by the thread itself when its time runs out. Whoever else took it out tells it
 *       why, and until then the thread does not leave: it is on its stack.
 *   R3  Asleep it holds a count. That it has been told is the last that the teller does
 *       to it, and to the space: the thread may be gone when the wake is called, which
 *       only names an address.
 */
#include "space_internal.h"
#include "sys.h"

/* The last that is done for it: R3. */
static void tell(struct tdi_attached *attached, enum tdi_attached_state state)
{
	_Atomic(uint32_t) *futex = &attached->state;

	/* Release: pairs with the acquire in await(). What all users did comes before the
	 * teardown. */
	atomic_store_explicit(futex, state, memory_order_release);
	tdi_sys_futex_wake(futex, 1);
}

/*
 * By the last put. That no more thread can come is the order of users: each attached
 * before it gave its own back (a release), and the last put is after all others (an
 * acquire), so even a relaxed load would find it. Acquire: pairs with attach(). Release:
 * pairs with the load in cancel(), which looks at users next.
 */
static struct tdi_attached *take(struct td_space *space)
{
	return atomic_exchange_explicit(&space->attached, NULL, memory_order_acq_rel);
}

void tdi_space_overtake(struct td_space *space)
{
	struct tdi_attached *attached = take(space);

	if (attached)
		tell(attached, OVERTAKEN);
}

void tdi_space_hand_over(struct td_space *space)
{
	struct tdi_attached *attached = take(space);

	if (!attached) { /* it has been detached at the last moment */
		tdi_space_queue(space);
		return;
	}
	/* From here on a drain of the engine waits for it. */
	tdi_work_begin(space->engine, &space->work, false);
	tdi_space_beside_open(space);
	tell(attached, HANDED);
}

/* False: another one is. */
static bool attach(struct td_space *space, struct tdi_attached *me)
{
	struct tdi_attached *none = NULL;

	/* Release: whoever takes it out finds it set up. */
	return atomic_compare_exchange_strong_explicit(
		&space->attached, &none, me, memory_order_release, memory_order_relaxed);
}

/* False: somebody else has taken it out, and tells. */
static bool detach(struct td_space *space, struct tdi_attached *me)
{
	/* Relaxed: nothing that was written by others is read or freed. */
	return atomic_compare_exchange_strong_explicit(
		&space->attached, &me, NULL, memory_order_relaxed, memory_order_relaxed);
}

/* What it is told, or ATTACHED when its time has run out. */
static enum tdi_attached_state await(struct td_space *space, struct tdi_attached *me,
				     uint64_t deadline_ns)
{
	uint32_t state;

	/* Acquire: pairs with the release in tell(). */
	while ((state = atomic_load_explicit(&me->state, memory_order_acquire)) ==
	       ATTACHED) {
		int err = tdi_sys_futex_wait(&me->state, ATTACHED, deadline_ns);

		if (err != -ETIMEDOUT)
			continue;
		if (detach(space, me))
			break;
		/* It is being told, whatever the time. (R2) */
		deadline_ns = UINT64_MAX;
	}
	return (enum tdi_attached_state)state;
}

static int reap(struct td_space *space, uint64_t deadline_ns)
{
	struct tdi_attached me;

	atomic_init(&me.state, ATTACHED);
	if (!td_space_get_not_zero(space))
		return -ENXIO;
	if (!attach(space, &me)) {
		/* It may have become the last; and must not be refused. */
		if (tdi_space_put_user(space))
			tdi_space_hand_over(space);
		return -EEXIST;
	}
	/* When it is the last, as a rule we hand the work to ourselves; to somebody else
	 * if we have been detached meanwhile. (A6) */
	if (tdi_space_put_user(space))
		tdi_space_hand_over(space);
	switch (await(space, &me, deadline_ns)) {
	case HANDED:
		return tdi_space_tear_down(space, TDI_ROLE_ATTACHED);
	case OVERTAKEN:
		return -ENXIO;
	case CANCELED:
		return -ECANCELED;
	case ATTACHED:
		break;
	}
	return -ETIMEDOUT;
}

int td_space_reap(td_space *space, unsigned flags, int64_t timeout_ns)
{
	int err = tdi_space_check(space);

	if (err)
		return err;
	if (flags)
		return -EINVAL;
	if (tdi_engine_is_reaper(space->engine))
		return -EDEADLK;
	tdi_reaper_warm_up();
	/* The caller's may be dropped by another thread meanwhile. */
	(void)td_space_grab(space);
	err = reap(space, tdi_sys_deadline(timeout_ns));
	(void)td_space_drop(space);
	return err;
}

int td_space_reap_cancel(td_space *space)
{
	struct tdi_attached *attached;
	int err = tdi_space_check(space);

	if (err)
		return err;
	/* Acquire: pairs with attach(), and with take(), after which users are 0. */
	attached = atomic_load_explicit(&space->attached, memory_order_acquire);
	do {
		if (!attached)
			return tdi_ref_read(&space->users) > 0 ? -ENOENT : -EALREADY;
	} while (!atomic_compare_exchange_weak_explicit(&space->attached, &attached, NULL,
							memory_order_acquire,
							memory_order_acquire));
	tell(attached, CANCELED);
	return 0;
}
