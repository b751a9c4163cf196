/* SPDX-License-Identifier: MIT */
/* Floor 1: which system calls about processes can be made here. */
#ifndef TDI_PROCESS_PROBE_H
#define TDI_PROCESS_PROBE_H

#include "base.h"
#include "sys_probe.h"

/* TDI_PROBE_*. Asked once, and again when a seccomp filter has come. Under a filter it
 * takes a process to ask: -EAGAIN, -ENOMEM and the like: there is none now. */
int tdi_process_probe(void);

#endif
