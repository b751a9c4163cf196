/* SPDX-License-Identifier: MIT */
/*
 * Floor 1: the kernel's pressure information (PSI): how long threads were held up for
 * want of memory. A trigger is a descriptor that poll(2) reports when that was long in
 * any window of 2 s, at most once a window.
 *
 * The process's own control group (v2) tells of some and of full; the whole system only
 * of some: others' want is a reason to give memory back soon, but none to hold up
 * callers here.
 */
#ifndef TDI_PSI_H
#define TDI_PSI_H

#include "base.h"

#include <teardown/pressure.h>

/* The only windows that anybody may ask for are multiples of 2 s (Linux 6.5; before, only
 * with CAP_SYS_RESOURCE). */
#define TDI_PSI_WINDOW_NS 2000000000u

#define TDI_PSI_TRIGGERS 3u

struct tdi_psi {
	unsigned nr; /* 0: the kernel has none for us */
	int fd[TDI_PSI_TRIGGERS];
	enum td_pressure level[TDI_PSI_TRIGGERS];
};

void tdi_psi_open(struct tdi_psi *psi);
void tdi_psi_close(struct tdi_psi *psi);

/*
 * Where in the file system the process's own group is. False: it has none, but the root,
 * or it cannot be told.
 */
bool tdi_psi_group(char *path, size_t size);

#endif
