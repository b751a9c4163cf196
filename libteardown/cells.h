/* SPDX-License-Identifier: MIT */
/*
 * Floor 1: cells of one cache line each, packed into pages of their own. What look-ups
 * read of tens of thousands of objects then fits into few pages, and into the caches,
 * where malloc would strew it between all the rest. Thread-safe: one lock for the
 * process.
 */
#ifndef TDI_CELLS_H
#define TDI_CELLS_H

#include "base.h"

#define TDI_CELL_SIZE TDI_CACHE_LINE

void *tdi_cells_alloc(void);	 /* zeroed; NULL without memory */
void tdi_cells_free(void *cell); /* NULL is allowed */

/* In a child new blocks are begun: those there are stay the parent's. */
void tdi_cells_after_fork_in_child(void);

#endif
