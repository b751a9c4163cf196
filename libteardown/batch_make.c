/* SPDX-License-Identifier: MIT */
/* Making a batch, closing what is open in it, and its end. */
#include "batch_internal.h"
#include "grace.h"
#include "sys.h"

#include <stdlib.h>
#include <string.h>
#include <urcu/urcu-memb.h>

#define OBJECT_BYTES 64u
#define CLOSE_BYTES ((uint64_t)1 << 20)
#define CLOSE_COUNT 4096u
#define CLOSE_AGE_NS UINT64_C(10000000)
#define MAX_BYTES ((uint64_t)256 << 20)
#define THREADS 32u
#define THREADS_MAX 65536u
#define ROOM ((size_t)128 << 10)
#define ROOM_MAX ((size_t)64 << 20)

_Static_assert(ROOM_MAX / TDI_PAGE_OBJECTS < (size_t)TDI_CHUNKS_MAX * TDI_CHUNK_PAGES,
	       "as much room as may be asked for fits into a pool");

/* ---- what all calls open with ---- */

/* The caller's word that nobody reads is not kept where he reads himself. */
static void check_readers(const struct td_batch *batch, unsigned flags)
{
#ifdef TDI_DEBUG
	if ((flags & TD_BATCH_NO_READERS) && batch->engine->flavor->read_ongoing())
		tdi_die("batch '%s': freed without a grace period inside a read-side "
			"critical section",
			batch->name);
#else
	(void)batch;
	(void)flags;
#endif
}

int tdi_batch_check(const struct td_batch *batch, unsigned flags)
{
	int err;

	if (!batch || (flags & ~(unsigned)TD_BATCH_NO_READERS) != 0)
		return -EINVAL;
	err = tdi_batch_check_process(batch);
	if (!err)
		check_readers(batch, flags);
	return err;
}

/* ---- closing and waiting ---- */

int td_batch_flush(td_batch *batch, unsigned flags)
{
	int err = tdi_batch_check(batch, flags);

	if (err)
		return err;
	if (flags & TD_BATCH_NO_READERS)
		tdi_grace_skip(batch->engine, batch);
	else if (tdi_grace_runs(&batch->engine->grace))
		tdi_grace_request(&batch->engine->grace);
	/* The engine's thread is gone: here, where that does not wait for the caller. */
	else if (!tdi_engine_is_reaper(batch->engine) &&
		 !batch->engine->flavor->read_ongoing())
		(void)tdi_grace_barrier(batch->engine, batch, UINT64_MAX);
	return 0;
}

int td_batch_barrier(td_batch *batch, int64_t timeout_ns)
{
	int err = tdi_batch_check(batch, 0);

	if (err)
		return err;
	if (tdi_engine_is_reaper(batch->engine))
		return -EDEADLK;
	return tdi_grace_barrier(batch->engine, batch, tdi_sys_deadline(timeout_ns));
}

/* ---- creating and destroying ---- */

static void batch_free(struct td_batch *batch)
{
	struct td_engine *engine = batch->engine;
	bool private = batch->private;

	if (!private) {
		tdi_groups_destroy(&batch->groups);
		tdi_pages_destroy(&batch->pages);
	}
	pthread_mutex_destroy(&batch->ready.lock);
	free(batch);
	if (!private)
		tdi_engine_put(engine);
}

void tdi_batch_get(struct td_batch *batch)
{
	tdi_ref_get(&batch->refs, "batch", batch->name, "references");
}

void tdi_batch_put(struct td_batch *batch)
{
	if (tdi_ref_put(&batch->refs, "batch", batch->name, "references"))
		batch_free(batch);
}

static int options_check(const struct td_batch_opts *opts)
{
	const unsigned both = TD_BATCH_HELP | TD_BATCH_NO_HELP;

	if ((opts->flags & ~both) != 0 || (opts->flags & both) == both)
		return -EINVAL;
	return opts->threads > THREADS_MAX || opts->room > ROOM_MAX ? -EINVAL : 0;
}

static uint64_t or_default(uint64_t value, uint64_t otherwise)
{
	return value ? value : otherwise;
}

static void configure(struct td_batch *batch, const struct td_batch_opts *opts)
{
	strncpy(batch->name, opts->name ? opts->name : "batch", sizeof(batch->name) - 1);
	batch->free_bulk = opts->free_bulk ? opts->free_bulk : td_free_bulk_malloc;
	batch->ctx = opts->ctx;
	batch->helps = !(opts->flags & TD_BATCH_NO_HELP) &&
		       ((opts->flags & TD_BATCH_HELP) ||
			batch->free_bulk == td_free_bulk_malloc);
	batch->front.id = TDI_BATCH_NO_GROUPS;
	batch->front.node_offset = opts->node_offset;
	batch->front.object_bytes = or_default(opts->object_bytes, OBJECT_BYTES);
	batch->close_bytes = or_default(opts->close_bytes, CLOSE_BYTES);
	batch->close_count = or_default(opts->close_count, CLOSE_COUNT);
	batch->close_age_ns = or_default(opts->close_age_ns, CLOSE_AGE_NS);
	batch->max_bytes = or_default(opts->max_bytes, MAX_BYTES);
	batch->report_bytes = batch->max_bytes / 64 < batch->close_bytes
				      ? or_default(batch->max_bytes / 64, 1)
				      : batch->close_bytes;
}

static struct td_batch *batch_alloc(struct td_engine *engine)
{
	struct td_batch *batch = aligned_alloc(_Alignof(struct td_batch), sizeof(*batch));

	if (!batch)
		return NULL;
	memset(batch, 0, sizeof(*batch));
	batch->engine = engine;
	batch->generation = tdi_fork_generation;
	tdi_chain_init(&batch->open);
	tdi_chain_init(&batch->direct);
	tdi_chain_init(&batch->ready.nodes);
	pthread_mutex_init(&batch->ready.lock, NULL);
	atomic_init(&batch->open_asleep, 1);
	td_work_init(&batch->work, &tdi_batch_work_ops, 0);
	tdi_ref_init(&batch->refs, 1);
	return batch;
}

int tdi_batch_create_private(struct td_engine *engine, const char *name,
			     td_free_bulk_fn *free_bulk, struct td_batch **ret)
{
	struct td_batch_opts opts = {
		.name = name, .free_bulk = free_bulk, .max_bytes = TD_BATCH_UNBOUNDED};
	struct td_batch *batch = batch_alloc(engine);

	if (!batch)
		return -ENOMEM;
	configure(batch, &opts);
	batch->private = true;
	tdi_grace_add(engine, batch);
	*ret = batch;
	return 0;
}

int td_batch_create(td_engine *given, const struct td_batch_opts *given_opts,
		    td_batch **ret)
{
	struct td_batch_opts opts = {0};
	struct td_engine *engine;
	struct td_batch *batch;
	size_t room;
	int err = tdi_opts_take(&opts, sizeof(opts), given_opts);

	if (!err)
		err = options_check(&opts);
	if (!err)
		err = tdi_engine_resolve(given, &engine);
	if (!err)
		err = tdi_grace_start(engine);
	if (err)
		return err;
	batch = batch_alloc(engine);
	if (!batch)
		return -ENOMEM;
	configure(batch, &opts);
	room = opts.room ? opts.room : ROOM;
	err = tdi_groups_init(&batch->groups, opts.threads ? opts.threads : THREADS);
	if (!err) {
		err = tdi_pages_init(&batch->pages, room / TDI_PAGE_OBJECTS + 1);
		if (err)
			tdi_groups_destroy(&batch->groups);
	}
	if (err) {
		pthread_mutex_destroy(&batch->ready.lock);
		free(batch);
		return err;
	}
	batch->front.id = batch->groups.id;
	atomic_init(&batch->spare, tdi_page_get(&batch->pages));
	tdi_engine_get(engine);
	tdi_grace_add(engine, batch);
	*ret = batch;
	return 0;
}

int td_batch_destroy(td_batch *batch, unsigned flags)
{
	int err;

	if (!batch)
		return 0;
	err = tdi_batch_check(batch, flags);
	if (err)
		return err;
	if (tdi_engine_is_reaper(batch->engine))
		return -EDEADLK;
	/* Callbacks may add again, and again. */
	do {
		if (flags & TD_BATCH_NO_READERS)
			tdi_grace_skip(batch->engine, batch);
		(void)tdi_grace_barrier(batch->engine, batch, UINT64_MAX);
	} while (!tdi_grace_is_empty(batch->engine, batch));
	tdi_grace_remove(batch->engine, batch);
	tdi_batch_put(batch);
	return 0;
}
