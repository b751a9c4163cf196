/* SPDX-License-Identifier: MIT */
#include "progress.h"
#include "engine_internal.h"
#include "sys.h"
#include "thread.h"

#include <limits.h>

#define WINDOW_NS UINT64_C(1000000000)
#define NOTE_NS UINT64_C(50000000)
#define INTERVAL_NS UINT64_C(100000000)

_Static_assert(TDI_PROGRESS_NOTES *NOTE_NS > WINDOW_NS, "notes cover the window");

void tdi_progress_reset(struct tdi_progress *progress)
{
	/* Whom to call stays. */
	*progress = (struct tdi_progress){
		.fn = progress->fn,
		.arg = progress->arg,
		.interval_ns = progress->interval_ns,
	};
	pthread_mutex_init(&progress->lock, NULL);
}

void tdi_progress_destroy(struct tdi_progress *progress)
{
	pthread_mutex_destroy(&progress->lock);
}

static uint64_t load(_Atomic(uint64_t) *counter)
{
	return atomic_load_explicit(counter, memory_order_relaxed);
}

/* ---- notes; under the lock ---- */

static void note(struct tdi_progress *progress, uint64_t at_ns, uint64_t bytes)
{
	progress->last_note = (progress->last_note + 1) % TDI_PROGRESS_NOTES;
	progress->notes[progress->last_note].at_ns = at_ns;
	progress->notes[progress->last_note].bytes = bytes;
	if (progress->nr_notes < TDI_PROGRESS_NOTES)
		progress->nr_notes++;
}

static void take_note(struct td_engine *engine, uint64_t began_ns, uint64_t now_ns,
		      uint64_t released)
{
	struct tdi_progress *progress = &engine->progress;
	uint64_t bytes = load(&engine->bytes_reclaimed);
	uint64_t last_ns = progress->notes[progress->last_note].at_ns;

	/* After a pause, from when this slice began: the pause is in no rate. */
	if (progress->nr_notes == 0 || last_ns + WINDOW_NS < now_ns) {
		progress->nr_notes = 0;
		note(progress, began_ns, bytes > released ? bytes - released : 0);
	}
	note(progress, now_ns, bytes);
	progress->next_note_ns = now_ns + NOTE_NS;
}

/* Between the oldest note in the window and now. */
static uint64_t rate(struct tdi_progress *progress, uint64_t now_ns, uint64_t bytes)
{
	uint64_t from_ns = now_ns, from_bytes = bytes;

	for (unsigned i = 0; i < progress->nr_notes; i++) {
		unsigned at = (progress->last_note + TDI_PROGRESS_NOTES - i) %
			      TDI_PROGRESS_NOTES;

		if (progress->notes[at].at_ns + WINDOW_NS < now_ns)
			break;
		from_ns = progress->notes[at].at_ns;
		from_bytes = progress->notes[at].bytes;
	}
	if (from_ns >= now_ns || from_bytes >= bytes)
		return 0;
	return (uint64_t)((double)(bytes - from_bytes) * 1e9 /
			  (double)(now_ns - from_ns));
}

/* ---- what is told ---- */

static uint64_t time_for(uint64_t bytes, uint64_t per_s)
{
	double ns;

	if (bytes == 0)
		return 0;
	ns = per_s ? (double)bytes * 1e9 / (double)per_s : 0;
	return per_s && ns < 1e18 ? (uint64_t)ns : UINT64_MAX;
}

/* Under the lock. */
static struct td_progress look(struct td_engine *engine)
{
	/* First: it is never the greater. seq_cst: O2 */
	uint64_t done = atomic_load_explicit(&engine->works_done, memory_order_seq_cst);
	struct td_progress now = {
		.bytes_done = load(&engine->bytes_reclaimed),
		.bytes_to_go = load(&engine->bytes_pending),
		.works_to_go = load(&engine->works_submitted) - done,
	};

	now.bytes_per_s = rate(&engine->progress, tdi_sys_now_ns(), now.bytes_done);
	now.ns_left = time_for(now.bytes_to_go, now.bytes_per_s);
	return now;
}

/* Under the lock. */
static void set_due(struct tdi_progress *progress)
{
	uint64_t due_ns = progress->next_note_ns;

	if (progress->fn && progress->next_call_ns < due_ns)
		due_ns = progress->next_call_ns;
	atomic_store_explicit(&progress->due_ns, due_ns, memory_order_relaxed);
}

/* Under the lock, which is let go meanwhile. Nobody else is calling. */
static void call(struct td_engine *engine)
{
	struct tdi_progress *progress = &engine->progress;

	atomic_store_explicit(&progress->caller, tdi_thread_token(),
			      memory_order_relaxed);
	atomic_store_explicit(&progress->calling, 1, memory_order_relaxed);
	do {
		td_progress_fn *fn = progress->fn;
		void *arg = progress->arg;
		struct td_progress now;

		/* seq_cst, then the look: O2 */
		atomic_store_explicit(&progress->told, 1, memory_order_seq_cst);
		now = look(engine);
		if (now.works_to_go == 0)
			atomic_store_explicit(&progress->told, 0, memory_order_relaxed);
		progress->ended = false;
		pthread_mutex_unlock(&progress->lock);
		fn(&now, arg);
		pthread_mutex_lock(&progress->lock);
		progress->next_call_ns = tdi_sys_now_ns() + progress->interval_ns;
	} while (progress->fn && progress->ended);
	atomic_store_explicit(&progress->caller, 0, memory_order_relaxed);
	/* Release: pairs with await_quiet. */
	atomic_store_explicit(&progress->calling, 0, memory_order_release);
	tdi_sys_futex_wake(&progress->calling, INT_MAX);
	set_due(progress);
}

static bool is_calling(const struct tdi_progress *progress)
{
	return atomic_load_explicit(&progress->calling, memory_order_acquire) != 0;
}

void tdi_progress_look_in(struct td_engine *engine, uint64_t began_ns, uint64_t now_ns,
			  uint64_t released)
{
	struct tdi_progress *progress = &engine->progress;

	pthread_mutex_lock(&progress->lock);
	if (now_ns >= progress->next_note_ns)
		take_note(engine, began_ns, now_ns, released);
	if (progress->fn && now_ns >= progress->next_call_ns) {
		/* Set first: the others need not look in while it is called. */
		progress->next_call_ns = now_ns + progress->interval_ns;
		set_due(progress);
		if (!is_calling(progress))
			call(engine);
	} else {
		set_due(progress);
	}
	pthread_mutex_unlock(&progress->lock);
}

void tdi_progress_ended(struct td_engine *engine)
{
	struct tdi_progress *progress = &engine->progress;

	pthread_mutex_lock(&progress->lock);
	if (progress->fn && tdi_progress_was_told(progress)) {
		progress->ended = true;
		if (!is_calling(progress))
			call(engine);
	}
	pthread_mutex_unlock(&progress->lock);
}

/* ---- for the host ---- */

int td_engine_progress(td_engine *given, struct td_progress *ret)
{
	struct td_engine *engine = tdi_engine_made(given);
	struct td_progress now = {0};
	int err = engine ? tdi_engine_check(engine) : 0;

	if (err)
		return err;
	if (engine) {
		pthread_mutex_lock(&engine->progress.lock);
		now = look(engine);
		pthread_mutex_unlock(&engine->progress.lock);
	}
	*ret = now;
	return 0;
}

/* Under the lock, which is let go meanwhile. */
static void await_quiet(struct tdi_progress *progress)
{
	while (is_calling(progress)) {
		pthread_mutex_unlock(&progress->lock);
		tdi_sys_futex_wait(&progress->calling, 1, UINT64_MAX);
		pthread_mutex_lock(&progress->lock);
	}
}

static int set(struct td_engine *engine, td_progress_fn *fn, void *arg,
	       uint64_t interval_ns)
{
	struct tdi_progress *progress = &engine->progress;

	if (load(&progress->caller) == tdi_thread_token())
		return -EDEADLK;
	pthread_mutex_lock(&progress->lock);
	progress->fn = NULL; /* no new calls begin */
	await_quiet(progress);
	progress->fn = fn;
	progress->arg = arg;
	progress->interval_ns = interval_ns ? interval_ns : INTERVAL_NS;
	if (progress->interval_ns > INT64_MAX)
		progress->interval_ns = INT64_MAX;
	progress->next_call_ns = 0;
	progress->ended = false;
	atomic_store_explicit(&progress->told, 0, memory_order_relaxed);
	set_due(progress);
	pthread_mutex_unlock(&progress->lock);
	return 0;
}

int td_engine_on_progress(td_engine *given, td_progress_fn *fn, void *arg,
			  uint64_t interval_ns)
{
	struct td_engine *engine;
	int err;

	if (!fn && !tdi_engine_made(given)) /* the default one, which nobody has used */
		return 0;
	err = tdi_engine_resolve(given, &engine);
	return err ? err : set(engine, fn, arg, interval_ns);
}

void tdi_progress_stop(struct td_engine *engine)
{
	(void)set(engine, NULL, NULL, 0);
}
