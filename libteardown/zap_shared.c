/* SPDX-License-Identifier: MIT */
/*
 * Shared memory belongs to its file. Dropping our page-table entries frees nothing, and
 * the pages go with the file's last descriptor or mapping. Those that nobody else uses
 * are punched out of it: through the descriptor, which needs no lock of the address
 * space, or, where there is none, by address.
 */
#include "doom.h"
#include "sys.h"

#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23 /* Linux 5.14 */
#endif

static uint64_t file_offset(const struct tdi_extent *extent, uintptr_t start)
{
	return extent->backing.offset + (start - extent->start);
}

/* Where there is data at or after *at, before end. False: there is none. */
static bool find_data(int fd, uint64_t *at, uint64_t end, uint64_t *ret_end)
{
	int64_t data = tdi_sys_lseek(fd, *at, SEEK_DATA), hole;

	if (data == -ENXIO)
		return false;
	if (data >= 0 && (uint64_t)data >= end)
		return false;
	if (data >= 0)
		*at = (uint64_t)data;
	hole = tdi_sys_lseek(fd, *at, SEEK_HOLE);
	/* A file that does not know its holes is overwritten whole. */
	*ret_end = data >= 0 && hole >= 0 && (uint64_t)hole < end ? (uint64_t)hole : end;
	return *ret_end > *at;
}

/* Through the descriptor, whatever the mapping allows by now. */
static int overwrite_file(int fd, uint64_t at, uint64_t end)
{
	static char zeros[64 * 1024]; /* never written to: takes no memory */

	while (at < end) {
		ssize_t wrote = tdi_sys_pwrite(
			fd, zeros, tdi_min_size(sizeof(zeros), (size_t)(end - at)), at);

		if (wrote == -EINTR)
			continue;
		if (wrote <= 0)
			return wrote < 0 ? (int)wrote : -EIO;
		at += (uint64_t)wrote;
	}
	return 0;
}

/* Where the descriptor cannot be written to: hugetlbfs, or sealed against new writers. */
static int overwrite_mapping(uintptr_t start, size_t length)
{
	int err = tdi_sys_mprotect((void *)start, length, PROT_READ | PROT_WRITE);

	/* A page that cannot be had (the pool or the file system is out of them) is an
	 * error here, and would be a SIGBUS below. */
	if (!err)
		err = tdi_sys_madvise((void *)start, length, MADV_POPULATE_WRITE);
	if (err == -EINVAL) /* before Linux 5.14 */
		err = 0;
	if (!err)
		explicit_bzero((void *)start, length);
	return err;
}

/* Overwrites what has ever been written: a hole has nothing to hide, and would be filled.
 */
static void scrub(const struct tdi_extent *extent, uintptr_t start, size_t length)
{
	uint64_t first = file_offset(extent, start), at = first, end = first + length, to;
	int fd = extent->backing.fd, err = 0;

	if (fd < 0) /* ours alone: what this fills is punched out next */
		err = overwrite_mapping(start, length);
	while (!err && fd >= 0 && at < end && find_data(fd, &at, end, &to)) {
		if (overwrite_file(fd, at, to))
			err = overwrite_mapping(start + (at - first), (size_t)(to - at));
		at = to;
	}
	if (err)
		tdi_warn("%#lx-%#lx could not be overwritten: %s", (unsigned long)start,
			 (unsigned long)(start + length), strerrordesc_np(-err));
}

/* A step that takes long holds up nobody but the caller, who has to wait anyway. */
#define PUNCH_STEP ((uint64_t)1 << 30)

int tdi_shared_punch(const struct tdi_backing *backing, uint64_t length)
{
	int err = 0;

	for (uint64_t done = 0; !err && done < length; done += PUNCH_STEP) {
		uint64_t left = length - done;

		err = tdi_sys_punch_hole(backing->fd, backing->offset + done,
					 left < PUNCH_STEP ? left : PUNCH_STEP);
	}
	return err;
}

static int shared_zap(const struct tdi_extent *extent, uintptr_t start, size_t length)
{
	int err;

	if (extent->backing.flags & TDI_EXTENT_SCRUB)
		scrub(extent, start, length);
	if (!(extent->backing.flags & TDI_EXTENT_EXCLUSIVE))
		return tdi_zap_entries(extent, start, length);
	if (extent->backing.fd >= 0)
		err = tdi_sys_punch_hole(extent->backing.fd, file_offset(extent, start),
					 length);
	else
		err = tdi_sys_madvise((void *)start, length, MADV_REMOVE);
	/* Sealed, or locked: then the pages go with the last descriptor and mapping. */
	return err ? tdi_zap_entries(extent, start, length) : 0;
}

const struct tdi_kind tdi_kind_shared = {
	.name = "shared",
	.pace = TDI_KIND_PACE_SHARED,
	.zap = shared_zap,
};
