/* SPDX-License-Identifier: MIT */
/*
 * Floor 3: what is done about memory pressure. Two may report it, the host and the
 * kernel (psi_watch.h); the larger of what they said last holds.
 */
#ifndef TDI_PRESSURE_H
#define TDI_PRESSURE_H

#include <teardown/pressure.h>

/* The kernel says so. Not in a shrinker. */
void tdi_pressure_tell(struct td_engine *engine, enum td_pressure level);

#endif
