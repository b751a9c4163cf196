/* SPDX-License-Identifier: MIT */
#include "kinds.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/statvfs.h>
#include <sys/vfs.h>
#include <unistd.h>

/* ---- transparent huge pages ---- */

static uint64_t huge_bytes(void)
{
	FILE *stream = fopen("/proc/self/smaps_rollup", "re");
	char line[256];
	uint64_t kib = 0;

	while (stream && fgets(line, sizeof(line), stream))
		(void)!sscanf(line, "AnonHugePages: %" SCNu64, &kib);
	if (stream)
		fclose(stream);
	return kib * 1024;
}

/* Tries it with a sample, for there are many reasons for which there may be none. */
static const char *prepare_thp(size_t *size)
{
	const size_t sample = (size_t)64 << 20;
	struct bench_memory memory;
	uint64_t before = huge_bytes(), got;

	(void)size;
	bench_memory_map(&bench_kinds[BENCH_THP], sample, &memory);
	bench_memory_touch(&memory);
	got = huge_bytes() - before;
	bench_memory_unmap(&memory);
	return got >= sample / 2 ? NULL : "the kernel gave no transparent huge pages";
}

/* ---- huge pages of the pool ---- */

static const char *prepare_hugetlb(size_t *size)
{
	size_t page = bench_hugepage_size();

	if (page == 0)
		return "the kernel has no huge pages";
	*size = (*size + page - 1) / page * page;
	/* Four times as much: the library hands nothing on that comes near the limit of
	 * the pool, and without that much there is something else to see. */
	return bench_hugepages_reserve(4 * *size) ? bench_hugepages_reserve(2 * *size)
						  : NULL;
}

/* ---- memfd ---- */

static int open_memfd(size_t size)
{
	int fd = memfd_create("bench", MFD_CLOEXEC);

	bench_must(fd < 0 ? -errno : 0, "memfd_create");
	bench_must(ftruncate(fd, (off_t)size) ? -errno : 0, "ftruncate");
	return fd;
}

/* ---- file ---- */

static int file = -1; /* all samples map the same one */

static const char *prepare_file(size_t *size)
{
	static char reason[128], chunk[1 << 20];
	const char *dir = getenv("TMPDIR");
	struct statvfs space;

	dir = dir && *dir ? dir : ".";
	file = open(dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	if (file < 0) {
		snprintf(reason, sizeof(reason), "no temporary file in %s: %s", dir,
			 strerror(errno));
		return reason;
	}
	bench_must(fstatvfs(file, &space) ? -errno : 0, "fstatvfs");
	if ((uint64_t)space.f_bavail * space.f_frsize / 10 * 9 < *size) {
		snprintf(reason, sizeof(reason), "not enough room in %s", dir);
		close(file);
		return reason;
	}
	/* Written and clean, so that what is measured is not writing back. */
	for (size_t left = *size; left > 0;) {
		ssize_t wrote =
			write(file, chunk, left < sizeof(chunk) ? left : sizeof(chunk));

		bench_must(wrote < 0 ? -errno : 0, "writing the temporary file");
		left -= (size_t)wrote;
	}
	bench_must(fsync(file) ? -errno : 0, "fsync");
	return NULL;
}

static void done_file(void)
{
	bench_must(close(file) ? -errno : 0, "close");
}

static int open_file(size_t size)
{
	int fd = fcntl(file, F_DUPFD_CLOEXEC, 0);

	(void)size;
	bench_must(fd < 0 ? -errno : 0, "dup");
	return fd;
}

static const char *file_system(void)
{
	static const struct {
		uint64_t magic;
		const char *name;
	} known[] = {
		{0xef53, "ext4"},      {0x58465342, "xfs"},	{0x9123683e, "btrfs"},
		{0x01021994, "tmpfs"}, {0x794c7630, "overlay"}, {0xf2f52010, "f2fs"},
		{0x2fc12fc1, "zfs"},   {0x6969, "nfs"},		{0x65735546, "fuse"},
		{0x858458f6, "ramfs"},
	};
	static char other[32];
	struct statfs system;

	bench_must(fstatfs(file, &system) ? -errno : 0, "fstatfs");
	for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++) {
		if ((uint64_t)system.f_type == known[i].magic)
			return known[i].name;
	}
	snprintf(other, sizeof(other), "0x%" PRIx64, (uint64_t)system.f_type);
	return other;
}

/* ---- locked memory ---- */

/* With a capability one may lock what one likes, whatever the limit: so it is tried. */
static bool may_lock(size_t size)
{
	void *start = bench_map(size, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1);
	bool may = mlock2(start, size, MLOCK_ONFAULT) == 0;

	bench_munmap(start, size);
	return may;
}

static const char *prepare_locked(size_t *size)
{
	static char reason[128];
	struct rlimit limit = {RLIM_INFINITY, RLIM_INFINITY};

	if (setrlimit(RLIMIT_MEMLOCK, &limit)) {
		bench_must(getrlimit(RLIMIT_MEMLOCK, &limit) ? -errno : 0, "getrlimit");
		limit.rlim_cur = limit.rlim_max;
		bench_must(setrlimit(RLIMIT_MEMLOCK, &limit) ? -errno : 0, "setrlimit");
	}
	/* Twice as much, as for huge pages. */
	if (may_lock(2 * *size))
		return NULL;
	snprintf(reason, sizeof(reason), "only %" PRIu64 " KiB may be locked (ulimit -l)",
		 (uint64_t)limit.rlim_cur / 1024);
	return reason;
}

/* ---- */

#define PRIVATE_FLAGS (MAP_PRIVATE | MAP_ANONYMOUS)

static void read_pages(void *start, size_t size)
{
	bench_read(start, size);
}

const struct bench_kind bench_kinds[BENCH_KINDS] = {
	[BENCH_ANON4K] = {.name = "anon4k",
			  .size = 4 * BENCH_GIB,
			  .map_flags = PRIVATE_FLAGS,
			  .advice = MADV_NOHUGEPAGE,
			  .region = {.thp = TD_THP_NEVER},
			  .touch = bench_write},
	[BENCH_THP] = {.name = "thp",
		       .size = 4 * BENCH_GIB,
		       .map_flags = PRIVATE_FLAGS,
		       .advice = MADV_HUGEPAGE,
		       .region = {.thp = TD_THP_ALWAYS},
		       .touch = bench_write,
		       .prepare = prepare_thp},
	[BENCH_HUGETLB] = {.name = "hugetlb",
			   .size = BENCH_GIB,
			   .map_flags = PRIVATE_FLAGS | MAP_HUGETLB,
			   .region = {.kind = TD_KIND_HUGETLB},
			   .touch = bench_write,
			   .prepare = prepare_hugetlb,
			   .done = bench_hugepages_restore},
	[BENCH_MEMFD] = {.name = "memfd",
			 .size = 4 * BENCH_GIB,
			 .map_flags = MAP_SHARED,
			 .munmap_flags = TD_MUNMAP_SHARED,
			 .flags_name = "shared",
			 .region = {.kind = TD_KIND_SHARED,
				    .flags = TD_REGION_FD | TD_REGION_EXCLUSIVE},
			 .region_flags_name = "exclusive",
			 .open = open_memfd,
			 .touch = bench_write},
	[BENCH_SHARED_ANON] = {.name = "shared_anon",
			       .size = 4 * BENCH_GIB,
			       .map_flags = MAP_SHARED | MAP_ANONYMOUS,
			       .munmap_flags = TD_MUNMAP_SHARED,
			       .flags_name = "shared",
			       .region = {.kind = TD_KIND_SHARED,
					  .flags = TD_REGION_EXCLUSIVE},
			       .region_flags_name = "exclusive",
			       .touch = bench_write},
	[BENCH_FILE] = {.name = "file",
			.size = BENCH_GIB,
			.map_flags = MAP_SHARED,
			.munmap_flags = TD_MUNMAP_SHARED,
			.flags_name = "shared",
			.region = {.kind = TD_KIND_FILE},
			.open = open_file,
			.touch = read_pages,
			.prepare = prepare_file,
			.done = done_file,
			.file_system = file_system},
	[BENCH_LOCKED] = {.name = "locked",
			  .size = BENCH_GIB,
			  .map_flags = PRIVATE_FLAGS,
			  .advice = MADV_NOHUGEPAGE,
			  .region = {.thp = TD_THP_NEVER, .flags = TD_REGION_LOCKED},
			  .touch = bench_write,
			  .prepare = prepare_locked},
};

const char *bench_kind_prepare(const struct bench_kind *kind, size_t *size)
{
	return kind->prepare ? kind->prepare(size) : NULL;
}

void bench_kind_done(const struct bench_kind *kind)
{
	if (kind->done)
		kind->done();
}

void bench_memory_map(const struct bench_kind *kind, size_t size,
		      struct bench_memory *ret)
{
	int fd = kind->open ? kind->open(size) : -1;
	void *start = bench_map(size, kind->map_flags, fd);

	if (kind->advice && madvise(start, size, kind->advice) && errno != EINVAL)
		bench_must(-errno, "madvise"); /* EINVAL: a kernel without huge pages */
	if ((kind->region.flags & TD_REGION_LOCKED) && mlock(start, size))
		bench_must(-errno, "mlock");
	*ret = (struct bench_memory){kind, start, size, fd};
}

void bench_memory_map_region(const struct bench_kind *kind, size_t size, td_space *space,
			     struct bench_memory *ret)
{
	struct td_region_opts opts = kind->region;
	void *start;

	opts.size = sizeof(opts);
	if (kind->open)
		opts.fd = kind->open(size);
	bench_must(td_region_map(space, size, &opts, &start), "td_region_map");
	*ret = (struct bench_memory){kind, start, size, kind->open ? opts.fd : -1};
	bench_memory_close(ret);
}

void bench_memory_touch(const struct bench_memory *memory)
{
	memory->kind->touch(memory->start, memory->size);
}

void bench_memory_close(struct bench_memory *memory)
{
	if (memory->fd >= 0)
		bench_must(close(memory->fd) ? -errno : 0, "close");
	memory->fd = -1;
}

void bench_memory_unmap(void *arg)
{
	struct bench_memory *memory = arg;

	bench_munmap(memory->start, memory->size);
	bench_memory_close(memory);
}

#ifndef MADV_DONTNEED_LOCKED
#define MADV_DONTNEED_LOCKED 24
#endif

/*
 * A thousand small pages: for 0.1 to 0.3 ms others wait who would map meanwhile, and the
 * call itself is less than 1 of 100 parts of it.
 */
#define CHUNK ((size_t)4 << 20)

/* What gives back pages of a kind. Those of shared memory stay after MADV_DONTNEED. */
static int giving_back(const struct bench_kind *kind)
{
	if (kind->region.flags & TD_REGION_LOCKED)
		return MADV_DONTNEED_LOCKED;
	return kind->region.kind == TD_KIND_SHARED ? MADV_REMOVE : MADV_DONTNEED;
}

void bench_memory_unmap_chunks(void *arg)
{
	struct bench_memory *memory = arg;
	int advice = giving_back(memory->kind);

	/* What is one chunk is better left to munmap at once. */
	for (size_t at = 0; memory->size > CHUNK && at < memory->size; at += CHUNK) {
		size_t left = memory->size - at;

		if (madvise(memory->start + at, left < CHUNK ? left : CHUNK, advice))
			break; /* before 5.18 not for all kinds: all is left to munmap */
	}
	bench_memory_unmap(memory);
}
