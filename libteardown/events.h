/* SPDX-License-Identifier: MIT */
/*
 * Floor 2: events that happen once, and those who want to know of them: threads
 * (futex), descriptors (eventfd), callbacks. Raising takes no lock and allocates
 * nothing.
 */
#ifndef TDI_EVENTS_H
#define TDI_EVENTS_H

#include "base.h"

#define TDI_EVENTS_MAX 2 /* an event is a bit: 1, 2 */

struct tdi_watch;

struct tdi_events {
	_Atomic(uint32_t) word; /* events that have happened; the futex */
	_Atomic(uint32_t) waiters[TDI_EVENTS_MAX];
	_Atomic(struct tdi_watch *) fds[TDI_EVENTS_MAX];
	_Atomic(struct tdi_watch *) calls[TDI_EVENTS_MAX];
};

void tdi_events_init(struct tdi_events *events);

/* True when the event has happened; everything before its raise is then visible. */
static inline bool tdi_events_happened(struct tdi_events *events, uint32_t event)
{
	return (atomic_load_explicit(&events->word, memory_order_acquire) & event) != 0;
}

/* Marks the event, wakes its threads and writes to its descriptors. Once per event. */
void tdi_events_raise(struct tdi_events *events, uint32_t event);

/* 0, or -ETIMEDOUT */
int tdi_events_wait(struct tdi_events *events, uint32_t event, uint64_t deadline_ns);

/* A new eventfd of the caller's, readable once the event has happened. */
int tdi_events_add_fd(struct tdi_events *events, uint32_t event, int *ret);

/* Keeps a callback, of the owner's own type; -EALREADY after tdi_events_take_calls. */
int tdi_events_add_call(struct tdi_events *events, uint32_t event, void (*call)(void),
			void *arg);

/* Refuses callbacks from now on if there are none so far: true when that is so. */
bool tdi_events_close_calls(struct tdi_events *events, uint32_t event);

/* Hands the callbacks of an event to visit, first come first, and refuses more. */
typedef void tdi_events_visit(void *owner, void (*call)(void), void *arg);
void tdi_events_take_calls(struct tdi_events *events, uint32_t event,
			   tdi_events_visit *visit, void *owner);

#endif
