/* SPDX-License-Identifier: MIT */
/*
 * Mappings of files: what was written through a shared one is the file's, and stays in
 * the page cache; a private one's own copies are released.
 */
#include "doom.h"

const struct tdi_kind tdi_kind_file = {
	.name = "file",
	.pace = TDI_KIND_PACE_FILE,
	.zap = tdi_zap_entries,
	.whole = true,
};
