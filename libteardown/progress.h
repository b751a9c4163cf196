/* SPDX-License-Identifier: MIT */
/*
 * Floor 3: how far an engine has come.
 *
 * Every slice looks whether it is time to look in, which is one load. Whoever looks in
 * notes how much is done, every 50 ms, for the rate; and calls the host, if it wants
 * that and its interval has passed.
 *
 *   O1  Calls are made one at a time, by a thread that has a work of the engine under
 *       way: so who waits for the works waits for the calls.
 *   O2  The last of the works to end, by the count of those done, has the host called
 *       once more if it was told of works since it was last told that there are none.
 *       Where another call is being made at that moment, its thread makes this one too.
 *       Who calls says so, then looks what is pending; who ends a work counts it, then
 *       looks whether the host was told. All seq_cst: so the call tells of no work that
 *       has ended unheard, or the end of that work is told.
 */
#ifndef TDI_PROGRESS_H
#define TDI_PROGRESS_H

#include "base.h"

#include <pthread.h>
#include <teardown/progress.h>

/* So many notes, in a ring, cover more than the window that a rate is for. */
#define TDI_PROGRESS_NOTES 32u

struct tdi_progress {
	_Atomic(uint64_t) due_ns;  /* when a slice is to look in; relaxed */
	_Atomic(uint32_t) told;	   /* of works, since the last call that there are none */
	_Atomic(uint32_t) calling; /* a futex: 1 while the host is called */
	_Atomic(uint64_t) caller;  /* who does: a thread's token */
	pthread_mutex_t lock;	   /* of all below; not held while the host is called */
	td_progress_fn *fn;
	void *arg;
	uint64_t interval_ns, next_call_ns, next_note_ns;
	bool ended; /* O2: to be told */
	unsigned nr_notes, last_note;
	struct {
		uint64_t at_ns, bytes;
	} notes[TDI_PROGRESS_NOTES];
};

/* As at first: nothing has been done. Zeroed, or one whose lock is nobody's. */
void tdi_progress_reset(struct tdi_progress *progress);
void tdi_progress_destroy(struct tdi_progress *progress);

/* A slice has ended, and released so much. */
void tdi_progress_look_in(struct td_engine *engine, uint64_t began_ns, uint64_t now_ns,
			  uint64_t released);

static inline bool tdi_progress_is_due(const struct tdi_progress *progress,
				       uint64_t now_ns)
{
	return now_ns >= atomic_load_explicit(&progress->due_ns, memory_order_relaxed);
}

/* The last work has ended. */
void tdi_progress_ended(struct td_engine *engine);

static inline bool tdi_progress_was_told(const struct tdi_progress *progress)
{
	return atomic_load_explicit(&progress->told, memory_order_seq_cst);
}

/* No more calls, and none is being made: not by the caller. */
void tdi_progress_stop(struct td_engine *engine);

#endif
