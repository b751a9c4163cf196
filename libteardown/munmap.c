/* SPDX-License-Identifier: MIT */
#include "engine_internal.h"
#include "evict.h"
#include "ranges.h"
#include "sys.h"

#include <teardown/munmap.h>

#define KNOWN_FLAGS TD_MUNMAP_SHARED

/* Frees by itself: in steps where that is the same, as far as anybody can see. */
static int unmap_here(struct td_engine *engine, const struct tdi_evict *evict)
{
	struct tdi_extent *extent = evict->extent;

	atomic_fetch_add_explicit(&engine->munmaps_in_caller, 1, memory_order_relaxed);
	if (evict->single)
		return tdi_unmap_in_steps(extent->start, extent->length,
					  extent->backing.huge_page,
					  tdi_engine_slice_ns(engine));
	return tdi_sys_munmap((void *)extent->start, extent->length);
}

static int evict(struct td_engine *engine, uintptr_t start, size_t length, unsigned flags)
{
	struct tdi_extent extent;
	struct tdi_evict evict = {
		.engine = engine,
		.name = "td_munmap",
		.extent = &extent,
		.shared = (flags & TD_MUNMAP_SHARED) != 0,
	};
	int err;

	tdi_extent_init(&extent, &TDI_BACKING_ANON, start, length);
	err = tdi_evict(&evict);
	if (!err)
		atomic_fetch_add_explicit(&engine->munmaps_deferred, 1,
					  memory_order_relaxed);
	else if (evict.refused)
		err = -EAGAIN;
	else if (err != -ENOTRECOVERABLE)
		err = unmap_here(engine, &evict);
	return err == -ENOTRECOVERABLE ? -ENOMEM : err;
}

int td_engine_munmap(td_engine *given, void *addr, size_t length, unsigned flags)
{
	uintptr_t start = (uintptr_t)addr;
	struct td_engine *engine;
	size_t rounded;

	if (flags & ~KNOWN_FLAGS)
		return -EINVAL;
	rounded = tdi_align_up(length, tdi_page_size());
	/* Without an engine, and for what the kernel will not like, it is munmap itself.
	 */
	if (tdi_engine_resolve(given, &engine) || rounded < length ||
	    rounded > UINTPTR_MAX - start || !tdi_is_aligned(start, tdi_page_size()) ||
	    rounded <
		    atomic_load_explicit(&engine->munmap_threshold, memory_order_relaxed))
		return tdi_sys_munmap(addr, length);
	if (rounded == 0)
		return -EINVAL;
	if (tdi_ranges_overlap(start, start + rounded))
		return -EBUSY;
	return evict(engine, start, rounded, flags);
}

int td_munmap(void *addr, size_t length)
{
	return td_engine_munmap(NULL, addr, length, 0);
}

int td_engine_set_munmap_threshold(td_engine *given, size_t bytes)
{
	struct td_engine *engine;
	int err = tdi_engine_resolve(given, &engine);

	if (!err)
		atomic_store_explicit(&engine->munmap_threshold,
				      bytes ? bytes : TDI_MUNMAP_THRESHOLD,
				      memory_order_relaxed);
	return err;
}
