/* SPDX-License-Identifier: MIT */
/*
 * Floor 4: how the memory of one kind of mapping is released. One backend a file behind
 * a const table; doom.c drives them and knows no kind by name.
 */
#ifndef TDI_KIND_H
#define TDI_KIND_H

#include "base.h"

struct tdi_extent;

enum tdi_kind_pace {
	TDI_KIND_PACE_ANON,
	TDI_KIND_PACE_HUGETLB,
	TDI_KIND_PACE_SHARED,
	TDI_KIND_PACE_FILE,
	TDI_KIND_PACES
};

struct tdi_kind {
	const char *name;

	/*
	 * Releases the pages of a part of an extent and leaves the empty range mapped.
	 * Several may run side by side on different parts. Other threads' mmap, munmap
	 * and page faults go on meanwhile, as far as the kernel can. 0, or -errno: this
	 * kind of memory cannot be released so; unmapping it in small steps will do.
	 */
	int (*zap)(const struct tdi_extent *extent, uintptr_t start, size_t length);

	/*
	 * In its place: asks the host to. One call at a time; as much as can be done in
	 * a slice, *released telling how much. -errno: nothing but trying again will do.
	 */
	int (*release)(const struct tdi_extent *extent, size_t offset, size_t length,
		       size_t *released);

	unsigned pace; /* enum tdi_kind_pace: whose steps are alike */

	bool whole; /* unmapping gives the pages back, too: a small extent needs no zap */
};

extern const struct tdi_kind tdi_kind_anon; /* private anonymous, locked or not */
extern const struct tdi_kind tdi_kind_hugetlb;
extern const struct tdi_kind tdi_kind_shared; /* memfd, shared anonymous */
extern const struct tdi_kind tdi_kind_file;   /* shared and private */
extern const struct tdi_kind tdi_kind_device; /* by callbacks */

/* What zaps have in common: drops the page-table entries, and private pages with them. */
int tdi_zap_entries(const struct tdi_extent *extent, uintptr_t start, size_t length);

/* Punches what a backing's descriptor holds, mapped or not any more. 0 or -errno. */
struct tdi_backing;
int tdi_shared_punch(const struct tdi_backing *backing, uint64_t length);

#endif
