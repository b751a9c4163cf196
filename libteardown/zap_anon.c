/* SPDX-License-Identifier: MIT */
/* Private anonymous memory: small and transparent huge pages, locked, bound to a node. */
#include "doom.h"
#include "sys.h"

#include <sys/mman.h>

#ifndef MADV_DONTNEED_LOCKED
#define MADV_DONTNEED_LOCKED 24 /* Linux 5.18 */
#endif

int tdi_zap_entries(const struct tdi_extent *extent, uintptr_t start, size_t length)
{
	bool locked = (extent->backing.flags & TDI_EXTENT_LOCKED) != 0;
	int err = -EINVAL;

	if (!locked)
		err = tdi_sys_madvise((void *)start, length, MADV_DONTNEED);
	if (err == -EINVAL) /* locked after all: that stays the host's affair */
		err = tdi_sys_madvise((void *)start, length, MADV_DONTNEED_LOCKED);
	if (err == -EINVAL && locked) /* unlocked meanwhile, on an old kernel */
		err = tdi_sys_madvise((void *)start, length, MADV_DONTNEED);
	return err;
}

const struct tdi_kind tdi_kind_anon = {
	.name = "anon",
	.pace = TDI_KIND_PACE_ANON,
	.zap = tdi_zap_entries,
	.whole = true,
};
