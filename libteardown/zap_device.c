/* SPDX-License-Identifier: MIT */
/* Memory that only its host knows how to release (row A13). */
#include "doom.h"

static int device_release(const struct tdi_extent *extent, size_t offset, size_t length,
			  size_t *released)
{
	const struct td_region_ops *ops = extent->backing.ops;
	size_t done = 0;
	int err = ops->release(ops->arg, offset, length, &done);

	if (done > length)
		tdi_die("device region %#lx-%#lx: %zu bytes released of %zu",
			(unsigned long)extent->start,
			(unsigned long)(extent->start + extent->length), done, length);
	*released = done;
	if (err < 0)
		return err;
	return done > 0 ? 0 : -EAGAIN; /* neither an error nor any progress */
}

const struct tdi_kind tdi_kind_device = {
	.name = "device",
	.release = device_release,
};
