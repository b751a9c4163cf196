/* SPDX-License-Identifier: MIT */
#include "pressure.h"
#include "engine_internal.h"
#include "grace.h"
#include "thread.h"
#include "trace.h"

/* Whoever holds the lock says so: shrinkers run in it, and are not to come back. */
static int lock(struct td_engine *engine)
{
	struct tdi_shrinkers *shrinkers = &engine->shrinkers;
	uint64_t token = tdi_thread_token();

	if (atomic_load_explicit(&shrinkers->holder, memory_order_relaxed) == token)
		return -EDEADLK;
	pthread_mutex_lock(&shrinkers->lock);
	atomic_store_explicit(&shrinkers->holder, token, memory_order_relaxed);
	return 0;
}

static void unlock(struct td_engine *engine)
{
	atomic_store_explicit(&engine->shrinkers.holder, 0, memory_order_relaxed);
	pthread_mutex_unlock(&engine->shrinkers.lock);
}

static bool is_shrinker(const struct td_shrinker *shrinker)
{
	return shrinker && shrinker->shrink;
}

/* What holds it, or the end of the list. */
static struct td_shrinker **find(struct td_engine *engine, struct td_shrinker *shrinker)
{
	struct td_shrinker **link = &engine->shrinkers.first;

	while (*link && *link != shrinker)
		link = &(*link)->tdi_next;
	return link;
}

int td_engine_add_shrinker(td_engine *given, struct td_shrinker *shrinker)
{
	struct td_shrinker **link;
	struct td_engine *engine;
	int err = is_shrinker(shrinker) ? tdi_engine_resolve(given, &engine) : -EINVAL;

	if (!err)
		err = lock(engine);
	if (err)
		return err;
	link = find(engine, shrinker);
	if (!*link) {
		shrinker->tdi_next = NULL;
		*link = shrinker;
	} else {
		err = -EALREADY;
	}
	unlock(engine);
	return err;
}

int td_engine_remove_shrinker(td_engine *given, struct td_shrinker *shrinker)
{
	struct td_engine *engine = tdi_engine_made(given);
	struct td_shrinker **link;
	int err;

	if (!is_shrinker(shrinker))
		return -EINVAL;
	if (!engine) /* the default one, which nobody has used yet */
		return -ENOENT;
	err = tdi_engine_check(engine);
	if (!err)
		err = lock(engine);
	if (err)
		return err;
	link = find(engine, shrinker);
	if (*link)
		*link = shrinker->tdi_next;
	else
		err = -ENOENT;
	unlock(engine);
	return err;
}

/* By whoever holds the shrinkers' lock. Returns what the shrinkers said. */
static uint64_t act_on(struct td_engine *engine, enum tdi_reporter reporter,
		       enum td_pressure level)
{
	uint64_t bytes = 0;

	/* First what needs nobody's cooperation: memory that waits is freed fast, and
	 * before anything else. */
	level = tdi_tune_pressure(engine, reporter, level);
	if (level != TD_PRESSURE_NONE)
		tdi_grace_trim(&engine->grace);
	for (struct td_shrinker *at = engine->shrinkers.first; at; at = at->tdi_next)
		bytes += at->shrink(at, level);
	tdi_trace_pressure(engine->name, level, bytes);
	return bytes;
}

int td_engine_pressure(td_engine *given, enum td_pressure level, uint64_t *ret)
{
	struct td_engine *engine = tdi_engine_made(given);
	uint64_t bytes = 0;
	int err;

	if ((unsigned)level > TD_PRESSURE_FULL)
		return -EINVAL;
	err = engine ? tdi_engine_check(engine) : 0;
	if (err)
		return err;
	if (engine) {
		err = lock(engine);
		if (err)
			return err;
		bytes = act_on(engine, TDI_REPORTER_HOST, level);
		unlock(engine);
	}
	if (ret)
		*ret = bytes;
	return 0;
}

void tdi_pressure_tell(struct td_engine *engine, enum td_pressure level)
{
	if (lock(engine))
		tdi_die("engine '%s': a shrinker reports pressure", engine->name);
	(void)act_on(engine, TDI_REPORTER_KERNEL, level);
	unlock(engine);
}
