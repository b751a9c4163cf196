/* SPDX-License-Identifier: MIT */
#include "tune.h"
#include "engine_internal.h"
#include "sys.h"

#include <teardown/tune.h>

static uint64_t slice_or_default(uint64_t ns)
{
	if (ns == 0)
		return TDI_SLICE_NS;
	return ns < INT64_MAX ? ns : INT64_MAX;
}

/* Under the lock: puts in force what was asked for, or what pressure makes of it. */
static void apply(struct td_engine *engine)
{
	struct tdi_tune *tune = &engine->tune;
	uint64_t target = tune->slice_ns;
	enum td_pressure pressure = TD_PRESSURE_NONE;

	for (unsigned i = 0; i < TDI_REPORTERS; i++) {
		if (tune->reported[i] > pressure)
			pressure = tune->reported[i];
	}
	if (tune->fast || pressure > TD_PRESSURE_NONE)
		target = target < INT64_MAX / TDI_FAST_TIMES ? target * TDI_FAST_TIMES
							     : INT64_MAX;
	atomic_store_explicit(&tune->target_ns, target, memory_order_relaxed);
	atomic_store_explicit(&tune->pressure, pressure, memory_order_relaxed);
	tdi_rate_set(&tune->rate, pressure ? 0 : tune->bytes_per_s, tdi_sys_now_ns());
}

static void lock(struct tdi_tune *tune)
{
	pthread_mutex_lock(&tune->lock);
}

/* With what was changed in force, and seen by who sleeps: T2. */
static void unlock(struct td_engine *engine)
{
	apply(engine);
	tdi_queues_hurry(&engine->queues, tdi_engine_pressure_now(engine) > 0);
	pthread_mutex_unlock(&engine->tune.lock);
}

void tdi_tune_init(struct td_engine *engine, const struct td_engine_opts *opts)
{
	struct tdi_tune *tune = &engine->tune;

	tune->slice_ns = slice_or_default(opts->slice_ns);
	tune->bytes_per_s = opts->bytes_per_s;
	tune->fast = (opts->flags & TD_ENGINE_FAST) != 0;
	apply(engine);
}

void tdi_tune_destroy(struct td_engine *engine)
{
	pthread_mutex_destroy(&engine->tune.lock);
}

void tdi_tune_reset(struct td_engine *engine)
{
	struct tdi_tune *tune = &engine->tune;

	pthread_mutex_init(&tune->lock, NULL);
	tune->reported[TDI_REPORTER_KERNEL] = TD_PRESSURE_NONE;
	tdi_queues_limit(&engine->queues, &tune->rate);
	apply(engine);
}

enum td_pressure tdi_tune_pressure(struct td_engine *engine, enum tdi_reporter reporter,
				   enum td_pressure level)
{
	lock(&engine->tune);
	engine->tune.reported[reporter] = level;
	unlock(engine);
	return tdi_engine_pressure_now(engine);
}

enum td_pressure tdi_engine_pressure_now(struct td_engine *engine)
{
	return (enum td_pressure)atomic_load_explicit(&engine->tune.pressure,
						      memory_order_relaxed);
}

uint64_t tdi_engine_slice_ns(struct td_engine *engine)
{
	return atomic_load_explicit(&engine->tune.target_ns, memory_order_relaxed);
}

int td_engine_set_slice(td_engine *given, uint64_t ns)
{
	struct td_engine *engine;
	int err = tdi_engine_resolve(given, &engine);

	if (err)
		return err;
	lock(&engine->tune);
	engine->tune.slice_ns = slice_or_default(ns);
	unlock(engine);
	return 0;
}

int td_engine_set_rate(td_engine *given, uint64_t bytes_per_s)
{
	struct td_engine *engine;
	int err = tdi_engine_resolve(given, &engine);

	if (err)
		return err;
	lock(&engine->tune);
	engine->tune.bytes_per_s = bytes_per_s;
	unlock(engine);
	return 0;
}

int td_engine_set_fast(td_engine *given, bool fast)
{
	struct td_engine *engine;
	int err = tdi_engine_resolve(given, &engine);

	if (err)
		return err;
	lock(&engine->tune);
	engine->tune.fast = fast;
	unlock(engine);
	return 0;
}
