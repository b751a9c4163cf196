/* SPDX-License-Identifier: MIT */
/* Floor 4: works of memory go where their pages are. */
#ifndef TDI_HOME_H
#define TDI_HOME_H

#include "doom.h"
#include "engine_internal.h"

/*
 * At the start of a slice: does what the doom would release next belong to another node's
 * reapers? Then the slice is to return TD_WORK_MORE, and the work goes there.
 */
bool tdi_home_is_elsewhere(struct td_engine *engine, struct tdi_doom *doom,
			   struct td_slice *slice);

#endif
