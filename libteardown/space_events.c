/* SPDX-License-Identifier: MIT */
/* Waiting for what happens to a space, and its name. */
#include "space_internal.h"
#include "sys.h"

static int event_check(td_space *space, enum td_event event)
{
	if (event != TD_EVENT_GONE && event != TD_EVENT_RECLAIMED)
		return -EINVAL;
	return tdi_space_check(space);
}

int td_space_wait(td_space *space, enum td_event event, int64_t timeout_ns)
{
	int err = event_check(space, event);

	if (err)
		return err;
	if (tdi_engine_is_reaper(space->engine))
		return -EDEADLK;
	err = tdi_events_wait(&space->events, event, tdi_sys_deadline(timeout_ns));
	if (!err && event == TD_EVENT_RECLAIMED)
		err = tdi_space_status(space);
	return err;
}

int td_space_eventfd(td_space *space, enum td_event event, int *ret)
{
	int err = event_check(space, event);

	return err ? err : tdi_events_add_fd(&space->events, event, ret);
}

int td_space_on_event(td_space *space, enum td_event event, td_event_fn *fn, void *arg)
{
	int err = fn ? event_check(space, event) : -EINVAL;

	if (err)
		return err;
	/* The list of "gone" stays open until a reaper takes it: the event came before.
	 */
	if (tdi_events_happened(&space->events, event))
		return -EALREADY;
	return tdi_events_add_call(&space->events, event, (void (*)(void))fn, arg);
}

const char *td_space_name(const td_space *space)
{
	return space->name;
}
