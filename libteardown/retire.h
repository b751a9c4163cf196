/* SPDX-License-Identifier: MIT */
/*
 * Floor 3: the library's own objects that look-ups may still be reading: freed through a
 * batch of the engine's.
 */
#ifndef TDI_RETIRE_H
#define TDI_RETIRE_H

#include "base.h"

#include <teardown/batch.h>

/* In the object. */
struct tdi_retired {
	struct td_batch_node node;
	void (*release)(struct tdi_retired *retired);
};

/* Calls release(retired) after a grace period, on a reaper. Takes no lock, allocates
 * nothing, never fails. */
void tdi_retire(struct td_engine *engine, struct tdi_retired *retired,
		void (*release)(struct tdi_retired *retired));

/*
 * Where no thread waits for grace periods, those who retire do, now and then: by calling
 * this where they hold no lock and may block.
 */
void tdi_retire_settle(struct td_engine *engine);

/* 0, -ENOMEM. At its end there are no readers. */
int tdi_retire_init(struct td_engine *engine);
void tdi_retire_destroy(struct td_engine *engine);

#endif
