/* SPDX-License-Identifier: MIT */
/* Floor 4: the host's callbacks on the way of an extent's release (Z6 in doom.h). */
#ifndef TDI_HOST_H
#define TDI_HOST_H

#include "doom.h"

/* Is there a callback to make before anything is released? */
bool tdi_host_must_prepare(const struct tdi_extent *extent);

/* Makes the next of them. 0: it is done with; or what it returned. */
int tdi_host_prepare(struct tdi_extent *extent);

/* After a failure: was it one too many? */
bool tdi_host_gives_up(struct tdi_extent *extent);

/* Says so on stderr. */
void tdi_host_report(const struct tdi_extent *extent, int err, const char *owner);

/* The last one. */
void tdi_host_done(const struct tdi_extent *extent, int status);

#endif
