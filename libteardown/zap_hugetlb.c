/* SPDX-License-Identifier: MIT */
/*
 * Huge pages from the pool go back to it one by one; there are few of them, so that even
 * a step of one page-table page's worth is cheap. A kernel before 5.18 refuses
 * MADV_DONTNEED here: they go with the unmapping then.
 */
#include "doom.h"

const struct tdi_kind tdi_kind_hugetlb = {
	.name = "hugetlb",
	.pace = TDI_KIND_PACE_HUGETLB,
	.zap = tdi_zap_entries,
	.whole = true,
};
