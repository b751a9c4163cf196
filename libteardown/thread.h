/* SPDX-License-Identifier: MIT */
/*
 * Floor 1: what the library keeps for each thread of the process: who it is, and being
 * told when it ends.
 */
#ifndef TDI_THREAD_H
#define TDI_THREAD_H

#include "base.h"

/* Those who want to be told, each once for a thread. */
enum tdi_thread_user { TDI_THREAD_BATCH, TDI_THREAD_LAZY, TDI_THREAD_USERS };

/*
 * From now on calls fn in each watched thread that ends. Takes no lock and may be called
 * again. fn runs among the thread's other destructors of thread-specific data: those may
 * use the library before and after it, and a thread that is watched anew is told anew.
 */
void tdi_thread_on_exit(enum tdi_thread_user user, void (*fn)(void));

/*
 * The end of the calling thread will be told. 0, or -errno: it will not be. Allocates
 * only in a process with more than 32 keys of thread-specific data.
 */
int tdi_thread_watch(void);

/* Of the calling thread: never 0, never another thread's, be that one dead. */
uint64_t tdi_thread_token(void);

#endif
