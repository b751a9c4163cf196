/* SPDX-License-Identifier: MIT */
/* Floor 5: the space object, for its own files. */
#ifndef TDI_SPACE_INTERNAL_H
#define TDI_SPACE_INTERNAL_H

#include "doom.h"
#include "engine_internal.h"
#include "events.h"
#include "ref.h"

#include <teardown/space.h>

#define TDI_SPACE_NAME_SIZE 32

enum tdi_calls { CALLS_TO_MAKE, CALLS_BEING_MADE, CALLS_MADE };

struct td_space {
	/* Written by every get and put. */
	_Alignas(TDI_CACHE_LINE) struct tdi_ref users;
	struct tdi_ref count;

	/* Constant after creation. */
	_Alignas(TDI_CACHE_LINE) struct td_engine *engine; /* holds a reference */
	char name[TDI_SPACE_NAME_SIZE];

	struct td_work work;
	struct tdi_doom doom;
	struct tdi_events events;
	_Atomic(uint32_t) gone_calls; /* enum tdi_calls: the callbacks for "gone" */
	/* Written before their event is raised, read after it. */
	uint64_t put_ns, reclaimed_ns;
	int status;

	_Atomic(uint64_t) regions, bytes_mapped, bytes_reclaimed;
};

/* 0; -EINVAL for NULL; -ECHILD. */
static inline int tdi_space_check(const struct td_space *space)
{
	return tdi_likely(space) ? tdi_engine_check(space->engine) : -EINVAL;
}

#endif
