/* SPDX-License-Identifier: MIT */
/*
 * Floor 6: how far the memory of a dying process has come back, looked at and told.
 *
 * A process that ends lets go of its address space first, and then says that it has no
 * memory, of which nothing may have been freed. Its helper tells the truth, but for the
 * last moment. Where there is none an estimate has to do: by how much the system's free
 * memory has grown. What is told never grows, and is not 0 before it is.
 */
#ifndef TDI_PROCESS_PROGRESS_H
#define TDI_PROCESS_PROGRESS_H

#include "base.h"

#include <pthread.h>
#include <teardown/process.h>

struct tdi_process_progress {
	td_process_progress_fn *fn; /* NULL: nobody is told */
	void *arg;
	uint64_t interval_ns;

	uint64_t began_ns, at_first, free_at_first;
	_Atomic(int) helper_pid; /* 0: none */

	/* The thread's, as long as there is one. */
	uint64_t last, due_ns;

	bool has_thread;
	pthread_t thread;
	_Atomic(uint32_t) stop; /* futex */
};

/* Before the kill: at_first and helper_pid are set. Tells for the first time. */
void tdi_process_progress_start(struct tdi_process_progress *progress);

/* When the caller has to call _tell() next, as there is no thread; UINT64_MAX: never. */
uint64_t tdi_process_progress_due(const struct tdi_process_progress *progress);
void tdi_process_progress_tell(struct tdi_process_progress *progress);

/* Ends the thread: nothing looks at the process any more. */
void tdi_process_progress_stop(struct tdi_process_progress *progress);

/* After the stop: bytes that are not back, as far as can be seen. */
uint64_t tdi_process_progress_left(struct tdi_process_progress *progress);

#endif
