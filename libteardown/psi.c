/* SPDX-License-Identifier: MIT */
#include "psi.h"
#include "sys.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#define PATH_SIZE 512u

/* ---- /proc, line by line: mountinfo may have any size ---- */

struct lines {
	int fd;
	size_t at, length;
	char buf[512];
};

static int next_char(struct lines *lines)
{
	ssize_t got;

	if (lines->at == lines->length) {
		do {
			got = tdi_sys_read(lines->fd, lines->buf, sizeof(lines->buf));
		} while (got == -EINTR);
		if (got <= 0)
			return -1;
		lines->at = 0;
		lines->length = (size_t)got;
	}
	return (unsigned char)lines->buf[lines->at++];
}

/* Without its end, and cut to size. False: there is no more. */
static bool next_line(struct lines *lines, char *line, size_t size)
{
	size_t length = 0;
	int c = next_char(lines);

	if (c < 0)
		return false;
	for (; c >= 0 && c != '\n'; c = next_char(lines)) {
		if (length < size - 1)
			line[length++] = (char)c;
	}
	line[length] = '\0';
	return true;
}

/* The first line for which take() says so. */
static bool find_line(const char *path, bool (*take)(char *line, void *arg), void *arg)
{
	struct lines lines = {.fd = tdi_sys_open(path, O_RDONLY | O_CLOEXEC)};
	char line[2 * PATH_SIZE];
	bool found = false;

	if (lines.fd < 0)
		return false;
	while (!found && next_line(&lines, line, sizeof(line)))
		found = take(line, arg);
	(void)tdi_sys_close(lines.fd);
	return found;
}

/* ---- where the group is ---- */

struct group {
	char path[PATH_SIZE]; /* in its hierarchy */
	char *ret;
	size_t size;
};

/* "0::/user.slice" */
static bool take_path(char *line, void *arg)
{
	struct group *group = arg;

	if (strncmp(line, "0::/", 4) != 0 || strlen(line + 3) >= PATH_SIZE)
		return false;
	strcpy(group->path, line + 3);
	return true;
}

/* "36 35 0:30 /root-of-it /where/it/is rw shared:1 - cgroup2 cgroup2 rw": what is mounted
 * may be a part of the hierarchy. */
static bool take_mount(char *line, void *arg)
{
	struct group *group = arg;
	char *rest = line, *root = NULL, *where = NULL;
	size_t length;
	int wrote;

	if (!strstr(line, " - cgroup2 "))
		return false;
	for (unsigned field = 0; field < 5; field++) {
		root = where;
		where = strsep(&rest, " ");
		if (!where)
			return false;
	}
	length = strcmp(root, "/") == 0 ? 0 : strlen(root);
	if (strncmp(group->path, root, length) != 0 || group->path[length] != '/')
		return false;
	wrote = snprintf(group->ret, group->size, "%s%s", where, group->path + length);
	return wrote > 0 && (size_t)wrote < group->size;
}

bool tdi_psi_group(char *path, size_t size)
{
	struct group group = {.ret = path, .size = size};

	return find_line("/proc/self/cgroup", take_path, &group) &&
	       strcmp(group.path, "/") != 0 &&
	       find_line("/proc/self/mountinfo", take_mount, &group);
}

/* ---- triggers ---- */

/* 150 ms of 2 s for some, 100 for full: much more than a busy machine has by chance. */
static const char *const thresholds[] = {
	[TD_PRESSURE_SOME] = "some 150000 2000000",
	[TD_PRESSURE_FULL] = "full 100000 2000000",
};

static void add(struct tdi_psi *psi, const char *path, enum td_pressure level)
{
	/* The kernel wants the NUL, too. */
	size_t size = strlen(thresholds[level]) + 1;
	int fd = tdi_sys_open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC);

	if (fd < 0)
		return;
	if (tdi_sys_write(fd, thresholds[level], size) < 0) {
		(void)tdi_sys_close(fd);
		return;
	}
	psi->fd[psi->nr] = fd;
	psi->level[psi->nr++] = level;
}

void tdi_psi_open(struct tdi_psi *psi)
{
	char path[2 * PATH_SIZE];

	psi->nr = 0;
	add(psi, "/proc/pressure/memory", TD_PRESSURE_SOME);
	if (!tdi_psi_group(path, sizeof(path) - sizeof("/memory.pressure")))
		return;
	strcat(path, "/memory.pressure");
	add(psi, path, TD_PRESSURE_SOME);
	add(psi, path, TD_PRESSURE_FULL);
}

void tdi_psi_close(struct tdi_psi *psi)
{
	for (unsigned i = 0; i < psi->nr; i++) {
		if (psi->fd[i] >= 0)
			(void)tdi_sys_close(psi->fd[i]);
	}
	psi->nr = 0;
}
