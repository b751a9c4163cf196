/* SPDX-License-Identifier: MIT */
/*
 * Floor 3: what may be changed while an engine runs: td_engine_set_slice() and so on, and
 * pressure, which changes the same things.
 *
 *   T1  What was asked for is kept apart from what is in force: pressure puts fast mode
 *       in force and the rate out of it, and when it is over they are as they were asked.
 *   T2  A reaper that sleeps for the rate sleeps on its queue's signal, too: it is woken
 *       when the rate changes, as for a work.
 */
#ifndef TDI_TUNE_H
#define TDI_TUNE_H

#include "base.h"
#include "pace.h"
#include "rate.h"

#include <pthread.h>
#include <teardown/pressure.h>

#define TDI_SLICE_NS 500000u

/* Fast mode's slices are longer by so much: 20 ms by default. */
#define TDI_FAST_TIMES 40u

/* Of pressure. */
enum tdi_reporter { TDI_REPORTER_HOST, TDI_REPORTER_KERNEL, TDI_REPORTERS };

struct tdi_tune {
	pthread_mutex_t lock; /* of what was asked for; no other is taken in it but
				 queues' */
	uint64_t slice_ns, bytes_per_s;
	bool fast;
	enum td_pressure reported[TDI_REPORTERS];

	/* In force; relaxed, for they guard nothing. */
	_Atomic(uint64_t) target_ns;
	_Atomic(uint32_t) pressure; /* the larger of what was reported */
	struct tdi_rate rate;
	struct tdi_pace_hints hints;
};

/* Once it has been reset, and the queues are made. */
void tdi_tune_init(struct td_engine *engine, const struct td_engine_opts *opts);
void tdi_tune_destroy(struct td_engine *engine);

/* In a child, whose parent may have been at it: what was asked for stays. */
void tdi_tune_reset(struct td_engine *engine);

/* Returns what is in force then. */
enum td_pressure tdi_tune_pressure(struct td_engine *engine, enum tdi_reporter reporter,
				   enum td_pressure level);

enum td_pressure tdi_engine_pressure_now(struct td_engine *engine);

/* How long a slice may last now: fast mode is in it. At most INT64_MAX. */
uint64_t tdi_engine_slice_ns(struct td_engine *engine);

#endif
