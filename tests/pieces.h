/* SPDX-License-Identifier: MIT */
/* For tests of detaching: three mappings, and pieces of them. */
#ifndef TDT_PIECES_H
#define TDT_PIECES_H

#include "detach.h"
#include "mapped.h"

#define AREA 64 /* pages */

static char *base;
static size_t page;

static inline void setup(void)
{
	page = tdi_page_size();
	base = (char *)TDT_FAR;
}

static inline void release(const struct tdi_quarantine *quarantine)
{
	ck_assert_int_eq(munmap((void *)quarantine->reserved,
				quarantine->reserved_end - quarantine->reserved),
			 0);
}

static inline char *quarantined(const struct tdi_quarantine *quarantine)
{
	return (char *)quarantine->start;
}

/* A piece, in pages from base; splitting a mapping or not is up to the layout. */
static inline struct tdi_piece piece(size_t first, size_t pages)
{
	return (struct tdi_piece){.start = (uintptr_t)base + first * page,
				  .length = pages * page};
}

static inline int detach(const struct tdi_piece *pieces, unsigned count,
			 struct tdi_quarantine *ret)
{
	return tdi_detach((uintptr_t)base, AREA * page, pieces, count, 0, ret);
}

/* Three mappings with holes before, between and after them. */
static inline void build_three(void)
{
	number_pages(map_at(base + 4 * page, 8 * page, PROT_READ | PROT_WRITE), 8 * page,
		     100);
	number_pages(map_at(base + 20 * page, 8 * page, PROT_READ | PROT_WRITE), 8 * page,
		     200);
	number_pages(map_at(base + 40 * page, 8 * page, PROT_READ | PROT_WRITE), 8 * page,
		     300);
}

static inline void check_three(void)
{
	check_numbers(base + 4 * page, 8 * page, 100);
	check_numbers(base + 20 * page, 8 * page, 200);
	check_numbers(base + 40 * page, 8 * page, 300);
	ck_assert_uint_eq(tdt_mapped(base, AREA * page), 24 * page);
}

/* Where the mapping has gone whose first page has number 100, of 8 pages. */
static inline char *find_first(void)
{
	FILE *maps = fopen("/proc/self/maps", "re");
	unsigned long start, end;
	char line[512], prot[8], *found = NULL;

	while (!found && fgets(line, sizeof(line), maps)) {
		if (sscanf(line, "%lx-%lx %7s", &start, &end, prot) == 3 &&
		    end - start == 8 * page && strcmp(prot, "rw-p") == 0 &&
		    *(unsigned *)start == 100)
			found = (char *)start;
	}
	fclose(maps);
	return found;
}

#endif
