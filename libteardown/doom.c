/* SPDX-License-Identifier: MIT */
#include "host.h"
#include "sys.h"

#include <limits.h>
#include <string.h>
#include <sys/mman.h>

enum job_type { JOB_PREPARE, JOB_RELEASE, JOB_ZAP, JOB_UNMAP };

struct job {
	enum job_type type;
	struct tdi_extent *extent;
	uintptr_t start;
	size_t length;
	size_t released; /* by the host */
};

void tdi_doom_init(struct tdi_doom *doom, const char *name)
{
	*doom = (struct tdi_doom){.name = name};
	pthread_mutex_init(&doom->lock, NULL);
}

void tdi_doom_destroy(struct tdi_doom *doom)
{
	pthread_mutex_destroy(&doom->lock);
}

void tdi_doom_add(struct tdi_doom *doom, struct tdi_extent *extent)
{
	pthread_mutex_lock(&doom->lock);
	tdi_extent_list_add(&doom->live, extent);
	pthread_mutex_unlock(&doom->lock);
}

void tdi_doom_remove(struct tdi_doom *doom, struct tdi_extent *extent)
{
	pthread_mutex_lock(&doom->lock);
	tdi_extent_list_remove(&doom->live, extent);
	pthread_mutex_unlock(&doom->lock);
}

/* ---- handing out, under the lock ---- */

static bool claim_callback(struct tdi_extent *extent, struct job *job)
{
	if (extent->hosting)
		return false;
	extent->hosting = true;
	job->start = extent->start + extent->claimed;
	job->length =
		tdi_min_size(extent->length - extent->claimed, extent->zap_pace.step);
	job->released = 0;
	return true;
}

static bool claim_from(struct tdi_extent *extent, const struct td_slice *slice,
		       struct job *job)
{
	const struct tdi_kind *kind = extent->backing.kind;

	tdi_extent_aim(extent, slice);
	job->extent = extent;
	if (tdi_host_must_prepare(extent)) {
		job->type = JOB_PREPARE;
		return claim_callback(extent, job);
	}
	if (kind->release && extent->claimed < extent->length) {
		job->type = JOB_RELEASE;
		return claim_callback(extent, job);
	}
	if (extent->claimed == 0 && !extent->no_whole && kind->whole &&
	    extent->length <= extent->zap_pace.step) {
		/* Small enough to be unmapped with its pages in one step. */
		tdi_extent_make_whole(extent);
		extent->claimed = extent->zapped = extent->length;
	}
	if (extent->claimed < extent->length) {
		job->type = JOB_ZAP;
		job->start = extent->start + extent->claimed;
		job->length =
			tdi_extent_step(extent, extent->claimed, extent->zap_pace.step);
		extent->claimed += job->length;
		return true;
	}
	if (extent->zapped < extent->length || extent->unmapping)
		return false;
	job->type = JOB_UNMAP;
	job->start = extent->start + extent->unmapped;
	job->length = tdi_extent_step(extent, extent->unmapped, extent->unmap_pace.step);
	extent->unmapping = true;
	return true;
}

/* How many reapers could be of use: more than one while a zap is to be handed out. */
static unsigned parallelism(const struct tdi_doom *doom)
{
	const struct tdi_extent *first = doom->live;

	if (!first || (first->next == first && first->claimed == first->length))
		return 1;
	return UINT_MAX;
}

/*
 * TD_WORK_MORE with a job, or why there is none. Extents that were put aside have another
 * try at the start of a slice, and none within it.
 */
static int claim(struct tdi_doom *doom, bool slice_begins, bool keep_shared,
		 const struct td_slice *slice, struct job *job)
{
	struct tdi_extent *extent;

	if (!doom->live && doom->busy == 0 && slice_begins) {
		doom->live = doom->stuck;
		doom->stuck = NULL;
	}
	extent = doom->live;
	if (extent) {
		/* At most one extent a reaper is passed over. */
		do {
			if (!(keep_shared && tdi_extent_is_shared(extent)) &&
			    claim_from(extent, slice, job)) {
				doom->busy++;
				return TD_WORK_MORE;
			}
			extent = extent->next;
		} while (extent != doom->live);
		return TD_WORK_WAIT;
	}
	if (doom->busy > 0)
		return TD_WORK_WAIT;
	return doom->stuck ? TD_WORK_LATER : TD_WORK_DONE;
}

/* ---- doing, without the lock ---- */

/*
 * A child would get what is dying, and keep its pages for as long as it lives: from the
 * first step on it gets nothing of it, and a fork has less to do. What cannot be marked
 * (at the limit on mappings, for this may split one) is inherited.
 */
static void keep_from_children(const struct tdi_extent *extent)
{
	if (!(extent->backing.flags & TDI_EXTENT_NO_FORK))
		(void)tdi_sys_madvise((void *)extent->start, extent->length,
				      MADV_DONTFORK);
}

static bool is_passing(int err)
{
	return err == -ENOMEM || err == -EAGAIN || err == -EINTR;
}

static int do_job(struct tdi_doom *doom, struct job *job)
{
	struct tdi_extent *extent = job->extent;
	const struct tdi_kind *kind = extent->backing.kind;

	switch (job->type) {
	case JOB_PREPARE:
		return tdi_host_prepare(extent);
	case JOB_RELEASE:
		return kind->release(extent, job->start - extent->start, job->length,
				     &job->released);
	case JOB_ZAP:
		if (job->start == extent->start)
			keep_from_children(extent);
		return kind->zap(extent, job->start, job->length);
	case JOB_UNMAP:
		break;
	}
	if (doom->unmap)
		return doom->unmap(extent, job->start, job->length);
	return tdi_sys_munmap((void *)job->start, job->length);
}

/* Only these can be in vain and yet not be over. */
static bool got_somewhere(const struct job *job, int err)
{
	switch (job->type) {
	case JOB_PREPARE:
		return !err;
	case JOB_RELEASE:
		return !err || job->released > 0;
	case JOB_ZAP:
		return true;
	case JOB_UNMAP:
		break;
	}
	return !is_passing(err);
}

/* ---- taking back, under the lock ---- */

static uint64_t end_zap(struct tdi_extent *extent, const struct job *job, int err,
			uint64_t took_ns, const struct td_slice *slice)
{
	extent->zapped += job->length;
	if (!err) {
		tdi_extent_learn(extent, &extent->zap_pace, job->length, took_ns, slice);
		return tdi_extent_account(extent, job->length);
	}
	/* Unmapping would leave these pages where they are: every part has to be tried.
	 */
	if (!extent->backing.kind->whole) {
		extent->unmap_pace = extent->zap_pace;
		return 0;
	}
	/* Nothing is lost: what was not zapped goes when it is unmapped. */
	if (!extent->whole)
		tdi_extent_make_whole(extent);
	extent->no_whole = true;
	extent->zapped += extent->length - extent->claimed;
	extent->claimed = extent->length;
	return 0;
}

static void put_aside(struct tdi_doom *doom, struct tdi_extent *extent)
{
	tdi_extent_list_remove(&doom->live, extent);
	tdi_extent_list_add(&doom->stuck, extent);
}

static void record(struct tdi_doom *doom, struct tdi_extent *extent, int err,
		   size_t refused)
{
	extent->status = err;
	doom->refused += refused;
	if (!doom->status)
		doom->status = err;
}

/* True when the extent is done with. */
static bool end_unmap(struct tdi_doom *doom, const struct job *job, int err,
		      uint64_t took_ns, const struct td_slice *slice, uint64_t *released)
{
	struct tdi_extent *extent = job->extent;

	extent->unmapping = false;
	if (is_passing(err) && extent->whole && !extent->no_whole) {
		tdi_extent_make_zapped_first(extent);
		return false;
	}
	if (is_passing(err)) {
		put_aside(doom, extent);
		return false;
	}
	if (!err && extent->whole)
		*released += tdi_extent_account(extent, job->length);
	if (!err)
		tdi_extent_learn(extent, &extent->unmap_pace, job->length, took_ns,
				 slice);
	extent->unmapped += job->length;
	if (err)
		record(doom, extent, err, job->length);
	if (extent->unmapped < extent->length)
		return false;
	if (!extent->status)
		*released += tdi_extent_account(extent, extent->length);
	tdi_extent_list_remove(&doom->live, extent);
	return true;
}

/* True when the extent is done with: given up. */
static bool end_callback(struct tdi_doom *doom, const struct job *job, int err,
			 uint64_t took_ns, const struct td_slice *slice,
			 uint64_t *released)
{
	struct tdi_extent *extent = job->extent;

	extent->hosting = false;
	if (job->type == JOB_RELEASE) {
		extent->claimed += job->released;
		extent->zapped = extent->claimed;
		*released = tdi_extent_account(extent, job->released);
		if (job->released > 0) {
			extent->failures = 0;
			tdi_pace_learn(&extent->zap_pace, job->released, took_ns,
				       slice->target_ns);
		}
	}
	if (!err)
		return false;
	if (!tdi_host_gives_up(extent)) {
		put_aside(doom, extent);
		return false;
	}
	record(doom, extent, err, extent->length);
	tdi_extent_list_remove(&doom->live, extent);
	return true;
}

static bool end_job(struct tdi_doom *doom, const struct job *job, int err,
		    uint64_t took_ns, struct td_slice *slice)
{
	uint64_t released = 0;
	bool done = false;

	pthread_mutex_lock(&doom->lock);
	doom->busy--;
	if (job->type == JOB_ZAP)
		released = end_zap(job->extent, job, err, took_ns, slice);
	else if (job->type != JOB_UNMAP)
		done = end_callback(doom, job, err, took_ns, slice, &released);
	else
		done = end_unmap(doom, job, err, took_ns, slice, &released);
	pthread_mutex_unlock(&doom->lock);

	slice->released += released;
	if (done && job->type != JOB_UNMAP)
		tdi_host_report(job->extent, err, doom->name);
	if (job->type == JOB_UNMAP && err && !is_passing(err))
		tdi_warn("space '%s': cannot unmap %#lx-%#lx: %s", doom->name,
			 (unsigned long)job->start,
			 (unsigned long)(job->start + job->length),
			 strerrordesc_np(-err));
	return done;
}

int tdi_doom_slice_of(struct tdi_doom *doom, struct td_slice *slice, bool keep_shared)
{
	uint64_t now = tdi_sys_now_ns();
	struct job job = {0};
	bool slice_begins = true, progress = false, done;
	int result;

	do {
		uint64_t began = now;
		int err;

		pthread_mutex_lock(&doom->lock);
		result = claim(doom, slice_begins, keep_shared, slice, &job);
		slice_begins = false;
		slice->parallel = parallelism(doom);
		pthread_mutex_unlock(&doom->lock);
		if (result != TD_WORK_MORE)
			return result;
		err = do_job(doom, &job);
		now = tdi_sys_now_ns();
		done = end_job(doom, &job, err, now - began, slice);
		progress |= done || got_somewhere(&job, err);
		if (done)
			tdi_host_done(job.extent, job.extent->status);
		if (done && doom->extent_done)
			doom->extent_done(doom, job.extent);
	} while (now < slice->deadline_ns);
	/* A pass over thousands of extents that the kernel refuses takes many slices. */
	return progress ? TD_WORK_MORE : TD_WORK_LATER;
}

int tdi_doom_node(struct tdi_doom *doom)
{
	const struct tdi_extent *first;
	uintptr_t start = 0;
	size_t length = 0;

	pthread_mutex_lock(&doom->lock);
	first = doom->live;
	/* What is left after that is page tables, wherever they are. */
	if (first && first->claimed < first->length) {
		start = first->start + first->claimed;
		length = tdi_extent_step(first, first->claimed, first->zap_pace.step);
	}
	pthread_mutex_unlock(&doom->lock);
	return length > 0 ? tdi_numa_of_range(start, length) : TDI_NODE_UNKNOWN;
}

struct tdi_extent *tdi_doom_leftover(struct tdi_doom *doom)
{
	struct tdi_extent **list = doom->live ? &doom->live : &doom->stuck;
	struct tdi_extent *extent = *list;

	if (extent)
		tdi_extent_list_remove(list, extent);
	return extent;
}

static bool has_unshared(const struct tdi_extent *list)
{
	const struct tdi_extent *extent = list;

	while (extent && tdi_extent_is_shared(extent))
		extent = extent->next == list ? NULL : extent->next;
	return extent != NULL;
}

bool tdi_doom_has_unshared(struct tdi_doom *doom)
{
	bool has;

	pthread_mutex_lock(&doom->lock);
	has = has_unshared(doom->live) || has_unshared(doom->stuck);
	pthread_mutex_unlock(&doom->lock);
	return has;
}
