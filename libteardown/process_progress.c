/* SPDX-License-Identifier: MIT */
#include "process_progress.h"
#include "process_look.h"
#include "sys.h"

static uint64_t look(struct tdi_process_progress *progress)
{
	int helper_pid =
		atomic_load_explicit(&progress->helper_pid, memory_order_relaxed);
	uint64_t left = helper_pid ? tdi_look_resident(helper_pid) : 0, free;

	if (left == 0 && progress->free_at_first) {
		free = tdi_look_free();
		free -= free > progress->free_at_first ? progress->free_at_first : free;
		left = progress->at_first -
		       (free < progress->at_first ? free : progress->at_first);
	}
	left = tdi_max_size(left, tdi_min_size(progress->at_first, tdi_page_size()));
	if (left < progress->last)
		progress->last = left;
	return progress->last;
}

/* UINT64_MAX nanoseconds are never, not a moment ago. */
static uint64_t due_after(const struct tdi_process_progress *progress, uint64_t now_ns)
{
	return progress->interval_ns < UINT64_MAX - now_ns
		       ? now_ns + progress->interval_ns
		       : UINT64_MAX;
}

void tdi_process_progress_tell(struct tdi_process_progress *progress)
{
	uint64_t left = look(progress), now_ns = tdi_sys_now_ns();

	progress->due_ns = due_after(progress, now_ns);
	progress->fn(progress->arg, left, progress->at_first,
		     now_ns - progress->began_ns);
}

static void *run(void *arg)
{
	struct tdi_process_progress *progress = arg;

	(void)tdi_sys_thread_name("td-progress");
	while (!atomic_load_explicit(&progress->stop, memory_order_relaxed)) {
		if (tdi_sys_now_ns() >= progress->due_ns)
			tdi_process_progress_tell(progress);
		else
			(void)tdi_sys_futex_wait(&progress->stop, 0, progress->due_ns);
	}
	return NULL;
}

void tdi_process_progress_start(struct tdi_process_progress *progress)
{
	progress->last = progress->at_first;
	progress->due_ns = UINT64_MAX;
	if (progress->fn)
		progress->fn(progress->arg, progress->last, progress->at_first, 0);
	progress->free_at_first = tdi_look_free();
	progress->began_ns = tdi_sys_now_ns();
	if (!progress->fn)
		return;
	progress->due_ns = due_after(progress, progress->began_ns);
	progress->has_thread =
		tdi_sys_thread_create(&progress->thread, run, progress) == 0;
}

uint64_t tdi_process_progress_due(const struct tdi_process_progress *progress)
{
	return progress->has_thread ? UINT64_MAX : progress->due_ns;
}

void tdi_process_progress_stop(struct tdi_process_progress *progress)
{
	if (!progress->has_thread)
		return;
	atomic_store_explicit(&progress->stop, 1, memory_order_relaxed);
	tdi_sys_futex_wake(&progress->stop, 1);
	tdi_sys_thread_join(progress->thread);
	progress->has_thread = false;
}

uint64_t tdi_process_progress_left(struct tdi_process_progress *progress)
{
	return look(progress);
}
