/* SPDX-License-Identifier: MIT */
#include "psi_watch.h"
#include "engine_internal.h"
#include "pressure.h"
#include "sys.h"

#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>

enum { NONE, STARTS, RUNS, ENDED, ROBBED }; /* ROBBED: ended, for W3 */

#define STOP 0 /* index of its eventfd among the polled; the triggers follow */
#define STOP_AGAIN_NS 1000000

/* What the thread knows. */
struct seen {
	struct pollfd fds[1 + TDI_PSI_TRIGGERS];
	uint64_t until_ns[TD_PRESSURE_FULL + 1]; /* of each level: W1 */
	bool robbed;				 /* W3 */
};

static void enter_state(struct tdi_psi_watch *watch, uint32_t state)
{
	/* Release: pairs with the acquires of who starts and stops it. */
	atomic_store_explicit(&watch->state, state, memory_order_release);
	tdi_sys_futex_wake(&watch->state, INT_MAX);
}

static enum td_pressure level_at(const struct seen *seen, uint64_t now_ns,
				 uint64_t *ret_until_ns)
{
	enum td_pressure level = TD_PRESSURE_FULL;

	while (level > TD_PRESSURE_NONE && seen->until_ns[level] <= now_ns)
		level--;
	*ret_until_ns = level > TD_PRESSURE_NONE ? seen->until_ns[level] : UINT64_MAX;
	return level;
}

/* A trigger whose group has gone. The rest goes on. */
static void drop(struct tdi_psi *psi, struct seen *seen, unsigned trigger)
{
	(void)tdi_sys_close(psi->fd[trigger]);
	psi->fd[trigger] = -1;
	seen->fds[1 + trigger].fd = -1; /* poll passes it over */
}

/* How many triggers told of something; -1: it is over. */
static int look(struct tdi_psi_watch *watch, struct seen *seen, uint64_t deadline_ns)
{
	struct tdi_psi *psi = &watch->psi;
	int err = tdi_sys_poll(seen->fds, 1 + psi->nr, deadline_ns), events = 0;
	uint64_t until_ns;

	if (err == -EINTR || err == 0)
		return 0;
	if (err < 0) {
		tdi_warn("memory pressure is not watched any more: poll: %s",
			 strerrordesc_np(-err));
		return -1;
	}
	for (unsigned i = 0; i < 1 + psi->nr; i++) {
		if (seen->fds[i].revents & POLLNVAL) { /* W3 */
			tdi_warn("memory pressure is not watched any more: a descriptor "
				 "of the library's was closed");
			seen->robbed = true;
			return -1;
		}
	}
	if (seen->fds[STOP].revents)
		return -1;
	until_ns = tdi_sys_deadline(2 * (int64_t)TDI_PSI_WINDOW_NS);
	for (unsigned i = 0; i < psi->nr; i++) {
		short revents = seen->fds[1 + i].revents;

		if (revents & POLLERR) {
			drop(psi, seen, i);
		} else if (revents & POLLPRI) {
			seen->until_ns[psi->level[i]] = until_ns;
			events++;
		}
	}
	return events;
}

/* Returns the state in which it ends. */
static uint32_t watch_on(struct td_engine *engine)
{
	struct tdi_psi_watch *watch = &engine->psi_watch;
	enum td_pressure level = TD_PRESSURE_NONE, now;
	struct seen seen = {0};
	uint64_t until_ns = UINT64_MAX;
	int events;

	seen.fds[STOP] = (struct pollfd){.fd = watch->stop_fd, .events = POLLIN};
	for (unsigned i = 0; i < watch->psi.nr; i++)
		seen.fds[1 + i] =
			(struct pollfd){.fd = watch->psi.fd[i], .events = POLLPRI};
	while ((events = look(watch, &seen, until_ns)) >= 0) {
		now = level_at(&seen, tdi_sys_now_ns(), &until_ns);
		atomic_fetch_add_explicit(&watch->events, (uint64_t)events,
					  memory_order_relaxed);
		if (events > 0 || now != level)
			tdi_pressure_tell(engine, now);
		level = now;
	}
	if (level != TD_PRESSURE_NONE) /* nobody will say when it is over */
		tdi_pressure_tell(engine, TD_PRESSURE_NONE);
	return seen.robbed ? ROBBED : ENDED;
}

static void *psi_thread(void *arg)
{
	struct td_engine *engine = arg;
	char name[16];

	snprintf(name, sizeof(name), "%s/psi", engine->name);
	/* As the grace thread: what it says must come when the machine is busy. */
	tdi_place(&engine->placement, name, NULL, TDI_PLACE_KEEP_POLICY);
	enter_state(&engine->psi_watch, RUNS);
	enter_state(&engine->psi_watch, watch_on(engine));
	return NULL;
}

static uint32_t state_of(struct tdi_psi_watch *watch)
{
	return atomic_load_explicit(&watch->state, memory_order_acquire);
}

bool tdi_psi_watch_runs(struct td_engine *engine)
{
	return state_of(&engine->psi_watch) == RUNS;
}

static void close_all(struct tdi_psi_watch *watch)
{
	tdi_psi_close(&watch->psi);
	if (watch->stop_fd >= 0)
		(void)tdi_sys_close(watch->stop_fd);
	watch->stop_fd = -1;
}

void tdi_psi_watch_start(struct td_engine *engine)
{
	struct tdi_psi_watch *watch = &engine->psi_watch;

	watch->stop_fd = -1;
	watch->psi.nr = 0;
	if (!(engine->flags & TD_ENGINE_PSI))
		return;
	tdi_psi_open(&watch->psi);
	if (watch->psi.nr == 0)
		return;
	watch->stop_fd = tdi_sys_eventfd(EFD_CLOEXEC);
	if (watch->stop_fd >= 0) {
		atomic_store_explicit(&watch->state, STARTS, memory_order_relaxed);
		if (!tdi_sys_thread_create(&watch->thread, psi_thread, engine)) {
			/* As for the grace thread: a fork does not meet it half-way. */
			while (state_of(watch) == STARTS)
				tdi_sys_futex_wait(&watch->state, STARTS, UINT64_MAX);
			return;
		}
		atomic_store_explicit(&watch->state, NONE, memory_order_relaxed);
	}
	close_all(watch);
}

void tdi_psi_watch_stop(struct td_engine *engine)
{
	struct tdi_psi_watch *watch = &engine->psi_watch;
	const uint64_t one = 1;

	if (state_of(watch) == NONE)
		return;
	/* Somewhere between there and its end the descriptor may be taken from us, but to
	 * leave a thread behind that uses the engine would be worse. */
	while (state_of(watch) == RUNS && tdi_sys_write(watch->stop_fd, &one, 8) < 0)
		tdi_sys_pause(STOP_AGAIN_NS);
	tdi_sys_thread_join(watch->thread);
	if (state_of(watch) != ROBBED)
		close_all(watch);
	atomic_store_explicit(&watch->state, NONE, memory_order_relaxed);
}

void tdi_psi_watch_reset(struct td_engine *engine)
{
	struct tdi_psi_watch *watch = &engine->psi_watch;

	if (state_of(watch) == RUNS || state_of(watch) == ENDED)
		close_all(watch);
	atomic_store_explicit(&watch->state, NONE, memory_order_relaxed);
	atomic_store_explicit(&watch->events, 0, memory_order_relaxed);
}
