/* SPDX-License-Identifier: MIT */
/*
 * Floor 2: what /proc says of other processes. A PID may be another process's by the
 * time that it is used: who has a pidfd asks that for the PID again afterwards.
 */
#ifndef TDI_PROCESS_LOOK_H
#define TDI_PROCESS_LOOK_H

#include "base.h"

/* Of the process behind a pidfd, as this process sees it. -EBADF: not a pidfd; -ESRCH: it
 * has been waited for; -ENOENT: it is in another PID namespace, or there is no /proc. */
int tdi_look_pid(int pidfd, int *ret);

/* Bytes that are resident; 0: it has no memory, or none any more, or is not there. */
uint64_t tdi_look_resident(int pid);

/*
 * A thread of it that has its memory, and how much of that is resident: its first, unless
 * that has ended before the others. -ENODATA: none has any more; -ESRCH: there is no such
 * process, or it is hidden from us; or what opening or reading failed with.
 */
int tdi_look_memory(int pid, int *ret_tid, uint64_t *ret_resident);

/* Has each of its threads been told to end, or begun to? */
bool tdi_look_is_dying(int pid);

/* Or has done so, as it ended. */
bool tdi_look_dumps_core(int pid);

/* A thread of the kernel, or the first process of our PID namespace: SIGKILL does nothing
 * to it. */
bool tdi_look_is_immortal(int pid);

/* Where its first thread ran last; -1: nobody knows. */
int tdi_look_cpu(int pid);

struct tdi_look {
	char name[16];	    /* of its first thread */
	uint64_t uid;	    /* the effective one */
	uint64_t inner_pid; /* as it sees itself, in the innermost PID namespace */
	uint64_t depth;	    /* in how many of those it is, from ours on */
	uint64_t started;   /* in ticks since boot */
};

/* -ESRCH: there is none; or what opening or reading failed with. */
int tdi_look_name(int pid, char *name, size_t size);
int tdi_look_at(int pid, struct tdi_look *ret);

/* False: known to be in different ones; true, too, where that may not be asked. */
bool tdi_look_same_pidns(int pid, int other);

/* Calls fn for each process there is, until it returns non-zero, which is returned, too.
 * Else 0, or what opening or reading /proc failed with. */
int tdi_look_each(int (*fn)(int pid, void *arg), void *arg);

/* Threads that run or are ready to, now, in the whole system; UINT_MAX: nobody knows. */
unsigned tdi_look_running(void);

/* Free memory of the system in bytes; 0: nobody knows. */
uint64_t tdi_look_free(void);

#endif
