/* SPDX-License-Identifier: MIT */
/*
 * Two ways to ask: from Linux 6.11 an ioctl that finds a mapping by address, whose cost
 * does not grow with the number of mappings; before that, reading the text.
 */
#include "vma.h"
#include "sys.h"

#include <fcntl.h>
#include <linux/ioctl.h>
#include <linux/userfaultfd.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#define USER_MODE_ONLY 1 /* for userfaultfd, Linux 5.11: needs no privilege */

/* The ioctl's argument, as Linux 6.11 defines it; older headers lack it. */
struct maps_query {
	uint64_t size, flags, addr;
	uint64_t vma_start, vma_end, vma_flags, vma_page_size, vma_offset, inode;
	uint32_t dev_major, dev_minor, name_size, build_id_size;
	uint64_t name, build_id;
};
#define MAPS_QUERY _IOWR('f', 17, struct maps_query)
#define MAPS_QUERY_AT_OR_AFTER 0x10u
#define MAPS_QUERY_VMA_SHARED 0x08u

/* By the kernel's names: none for anonymous memory, or one given by PR_SET_VMA_ANON_NAME;
 * a file of its own for huge pages, which only a file on hugetlbfs could be named like.
 */
static void classify(struct tdi_vma *vma, uint64_t inode, const char *name)
{
	bool named = name[0] != '\0' && strncmp(name, "[anon:", 6) != 0;

	if (strncmp(name, "/anon_hugepage", 14) == 0) {
		vma->hugetlb = true;
		vma->anonymous = !vma->shared;
	} else {
		vma->anonymous = inode == 0 && !named;
		vma->special = inode == 0 && named && name[0] == '[';
	}
}

unsigned tdi_vma_type(const struct tdi_vma *vma)
{
	if (vma->special)
		return TDI_VMA_SPECIAL;
	if (vma->shared)
		return TDI_VMA_SHARED;
	if (!vma->anonymous)
		return TDI_VMA_FILE;
	return vma->hugetlb ? TDI_VMA_HUGETLB : TDI_VMA_ANON;
}

/* An older kernel, or a filter that does not know the ioctl. */
static bool is_no_query(int err)
{
	return err == -ENOTTY || err == -EINVAL || err == -EPERM || err == -EACCES;
}

/*
 * *usable: false when the very first query was refused as an unknown one is. Only then
 * has fn not been called, whose errors may be the same.
 */
static int walk_by_query(int fd, uintptr_t start, uintptr_t end, tdi_vma_fn *fn,
			 void *arg, bool *usable)
{
	bool first = true;

	*usable = true;
	while (start < end) {
		char name[256] = "";
		struct maps_query query = {
			.size = sizeof(query),
			.flags = MAPS_QUERY_AT_OR_AFTER,
			.addr = start,
			.name_size = sizeof(name),
			.name = (uintptr_t)name,
		};
		int err = tdi_sys_ioctl(fd, MAPS_QUERY, &query);
		struct tdi_vma vma;

		if (first && is_no_query(err)) {
			*usable = false;
			return err;
		}
		first = false;
		if (err == -ENOENT) /* nothing mapped from here on */
			return 0;
		if (err == -ENAMETOOLONG) { /* a path longer than ours: a file */
			query.name_size = 0;
			query.name = 0;
			name[0] = '/';
			err = tdi_sys_ioctl(fd, MAPS_QUERY, &query);
		}
		if (err < 0)
			return err;
		if (query.vma_start >= end)
			return 0;
		vma = (struct tdi_vma){
			.start = (uintptr_t)query.vma_start,
			.end = (uintptr_t)query.vma_end,
			.shared = (query.vma_flags & MAPS_QUERY_VMA_SHARED) != 0,
		};
		classify(&vma, query.inode, name);
		if (query.vma_page_size > tdi_page_size()) {
			vma.hugetlb = true;
			vma.huge_page = (size_t)query.vma_page_size;
		}
		err = fn(&vma, arg);
		if (err)
			return err;
		start = vma.end;
	}
	return 0;
}

/* One line being read: "start-end perms offset dev inode   name" */
struct line {
	unsigned field;	 /* 0 start, 1 end, 2 perms, 3 offset, 4 dev, 5 inode, 6 name */
	unsigned length; /* of the field so far */
	uint64_t number, inode;
	struct tdi_vma vma;
	char name[16]; /* enough to tell "/anon_hugepage" */
};

static unsigned hex_digit(char c)
{
	return c <= '9' ? (unsigned)(c - '0') : (unsigned)(c - 'a') + 10;
}

/* True when c completes a line. */
static bool line_take(struct line *line, char c)
{
	if (c == '\n') {
		classify(&line->vma, line->inode, line->name);
		return true;
	}
	if ((c == ' ' || (c == '-' && line->field == 0)) && line->field < 6) {
		if (line->field == 0)
			line->vma.start = (uintptr_t)line->number;
		else if (line->field == 1)
			line->vma.end = (uintptr_t)line->number;
		else if (line->field == 5)
			line->inode = line->number;
		line->field++;
		line->length = 0;
		line->number = 0;
		return false;
	}
	switch (line->field) {
	case 0:
	case 1:
		line->number = line->number * 16 + hex_digit(c);
		break;
	case 2:
		if (line->length == 3)
			line->vma.shared = c == 's';
		break;
	case 5:
		line->number = line->number * 10 + (uint64_t)(c - '0');
		break;
	case 6:
		if (c == ' ' && line->name[0] == '\0') /* padding */
			return false;
		if (line->length < sizeof(line->name) - 1)
			line->name[line->length] = c;
		break;
	default:
		break;
	}
	line->length++;
	return false;
}

static int walk_by_text(int fd, uintptr_t start, uintptr_t end, tdi_vma_fn *fn, void *arg)
{
	struct line line = {0};
	char buf[4096];

	for (;;) {
		ssize_t got = tdi_sys_read(fd, buf, sizeof(buf));

		if (got == -EINTR)
			continue;
		if (got <= 0)
			return (int)got;
		for (ssize_t i = 0; i < got; i++) {
			int err = 0;

			if (!line_take(&line, buf[i]))
				continue;
			if (line.vma.start >= end)
				return 0;
			if (line.vma.end > start)
				err = fn(&line.vma, arg);
			if (err)
				return err;
			line = (struct line){0};
		}
	}
}

int tdi_vma_walk(uintptr_t start, uintptr_t end, tdi_vma_fn *fn, void *arg)
{
	int fd = tdi_sys_open("/proc/thread-self/maps", O_RDONLY | O_CLOEXEC);
	bool usable;
	int err;

	if (fd < 0)
		return fd;
	err = walk_by_query(fd, start, end, fn, arg, &usable);
	if (!usable)
		err = walk_by_text(fd, start, end, fn, arg);
	(void)tdi_sys_close(fd);
	return err;
}

struct check {
	uintptr_t next; /* everything before it was found */
	unsigned types;
	size_t huge_page;
};

static int check_one(const struct tdi_vma *vma, void *arg)
{
	struct check *check = arg;

	if (vma->start > check->next)
		return -ENOMEM;
	if (!(tdi_vma_type(vma) & check->types))
		return -EOPNOTSUPP;
	if (check->huge_page && vma->huge_page && vma->huge_page != check->huge_page)
		return -EINVAL;
	check->next = vma->end;
	return 0;
}

int tdi_vma_check(uintptr_t start, uintptr_t end, unsigned types, size_t huge_page)
{
	struct check check = {start, types, huge_page};
	int err = tdi_vma_walk(start, end, check_one, &check);

	if (err)
		return err;
	return check.next >= end ? 0 : -ENOMEM;
}

/*
 * MS_INVALIDATE does nothing but to answer this. (MADV_COLD would, too, but splits the
 * huge page that the start is in: 200 us here, and as much again when it is freed.)
 */
bool tdi_vma_is_locked(uintptr_t start)
{
	return tdi_sys_msync((void *)start, tdi_page_size(), MS_INVALIDATE) != 0;
}

int tdi_vma_userfault_open(void)
{
	struct uffdio_api api = {.api = UFFD_API};
	int fd = tdi_sys_userfaultfd(O_CLOEXEC | USER_MODE_ONLY), err;

	if (fd == -EINVAL) /* before Linux 5.11 */
		fd = tdi_sys_userfaultfd(O_CLOEXEC);
	err = fd < 0 ? fd : tdi_sys_ioctl(fd, UFFDIO_API, &api);

	if (err < 0 && fd >= 0)
		(void)tdi_sys_close(fd);
	return err < 0 ? err : fd;
}

/*
 * Asks to resolve a fault of the kind that only shared memory has. The kernel looks for a
 * registration first (-ENOENT without one), and then at the kind of memory.
 */
bool tdi_vma_is_userfault(int fd, uintptr_t start, size_t page_size)
{
	struct uffdio_continue ask = {.range = {start, page_size}};

	if (fd == -EMFILE || fd == -ENFILE || fd == -ENOMEM)
		return true; /* who cannot tell is careful */
	return fd >= 0 && tdi_sys_ioctl(fd, UFFDIO_CONTINUE, &ask) != -ENOENT;
}

void tdi_vma_userfault_close(int fd)
{
	if (fd >= 0)
		(void)tdi_sys_close(fd);
}

int tdi_vma_check_movable(uintptr_t start)
{
	int err = tdi_sys_mremap((void *)start, tdi_page_size(), (void *)start);

	return err == -EPERM ? err : 0;
}
