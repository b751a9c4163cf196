/* SPDX-License-Identifier: MIT */
/*
 * Floor 3: the thread that waits for the kernel to say that memory is short, and tells
 * the engine. It sleeps in poll(2) without a timeout while nothing is, allocates nothing,
 * and where the kernel tells nothing there is none.
 *
 *   W1  A level holds until there was no event of it for two windows.
 *   W2  It is started last and stopped first: what it calls is there.
 *   W3  Descriptors that somebody else has closed are left alone from then on: they may
 * be his by now.
 */
#ifndef TDI_PSI_WATCH_H
#define TDI_PSI_WATCH_H

#include "psi.h"

#include <pthread.h>

struct tdi_psi_watch {
	struct tdi_psi psi;
	int stop_fd;		 /* an eventfd */
	_Atomic(uint32_t) state; /* enum in psi_watch.c; a futex */
	_Atomic(uint64_t) events;
	pthread_t thread;
};

/* Whatever comes in between, there is none then. */
void tdi_psi_watch_start(struct td_engine *engine);
void tdi_psi_watch_stop(struct td_engine *engine);

/* In a child: there is none. Gives its copies of the descriptors back. */
void tdi_psi_watch_reset(struct td_engine *engine);

bool tdi_psi_watch_runs(struct td_engine *engine);

#endif
