/* SPDX-License-Identifier: MIT */
#include "kind.h"
#include "sys.h"

#include <sys/mman.h>

#ifndef MADV_DONTNEED_LOCKED
#define MADV_DONTNEED_LOCKED 24 /* Linux 5.18 */
#endif

static int anon_zap(uintptr_t start, size_t length)
{
	int err = tdi_sys_madvise((void *)start, length, MADV_DONTNEED);

	if (err == -EINVAL) /* mlocked */
		err = tdi_sys_madvise((void *)start, length, MADV_DONTNEED_LOCKED);
	return err;
}

const struct tdi_kind tdi_kind_anon = {
	.name = "anon",
	.zap = anon_zap,
};
