/* SPDX-License-Identifier: MIT */
/* Floor 6: process_mrelease(2), a call at a time. */
#ifndef TDI_PROCESS_RELEASE_H
#define TDI_PROCESS_RELEASE_H

#include "base.h"

/* As process_mrelease(2) says; -ENOSYS where it cannot be called. */
int tdi_release_once(int pidfd);

/* Before the next try. *pause_ns is 0 at first, and grows. False: the time is over. */
bool tdi_release_pause(uint64_t *pause_ns, uint64_t deadline_ns);

#endif
