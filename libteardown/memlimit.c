/* SPDX-License-Identifier: MIT */
#include "memlimit.h"
#include "procfs.h"
#include "sys.h"

#include <fcntl.h>
#include <string.h>

/* Longer ones are left out: those of container managers have some 300 bytes. */
#define LONGEST_PATH 1024

/* ---- lines of a file ---- */

struct lines {
	int fd;
	size_t length, at; /* of text; where the next line begins */
	char text[2 * LONGEST_PATH + 256];
};

static bool lines_open(struct lines *lines, const char *path)
{
	lines->fd = tdi_sys_open(path, O_RDONLY | O_CLOEXEC);
	lines->length = lines->at = 0;
	return lines->fd >= 0;
}

/* More behind what is left. False: there is no more, or no room. */
static bool lines_fill(struct lines *lines)
{
	ssize_t got;

	memmove(lines->text, lines->text + lines->at, lines->length - lines->at);
	lines->length -= lines->at;
	lines->at = 0;
	do {
		got = tdi_sys_read(lines->fd, lines->text + lines->length,
				   sizeof(lines->text) - lines->length);
	} while (got == -EINTR);
	if (got > 0)
		lines->length += (size_t)got;
	return got > 0;
}

/* The next one, without its end; NULL: no more. One that does not fit is left out. */
static char *lines_next(struct lines *lines)
{
	bool whole = true;

	for (;;) {
		char *line = lines->text + lines->at;
		char *end = memchr(line, '\n', lines->length - lines->at);

		if (end) {
			*end = '\0';
			lines->at = (size_t)(end + 1 - lines->text);
			if (whole)
				return line;
			whole = true;
		} else if (lines->at == 0 && lines->length == sizeof(lines->text)) {
			whole = false;
			lines->length = 0;
		} else if (!lines_fill(lines)) {
			return NULL;
		}
	}
}

static void lines_close(struct lines *lines)
{
	(void)tdi_sys_close(lines->fd);
}

/* Cuts the part before the next separator off. NULL: there is no more. */
static char *cut(char **rest, char separator)
{
	char *part = *rest, *end = part ? strchr(part, separator) : NULL;

	if (end)
		*end++ = '\0';
	*rest = end;
	return part;
}

static bool has_word(const char *list, const char *word)
{
	size_t length = strlen(word);

	for (const char *at = list; at; at = strchr(at, ',')) {
		at += *at == ',';
		if (strncmp(at, word, length) == 0 &&
		    (at[length] == ',' || at[length] == '\0'))
			return true;
	}
	return false;
}

/* ---- cgroups ---- */

enum version { V1, V2, NR_VERSIONS };

struct cgroup {
	char path[LONGEST_PATH]; /* empty: not in one */
};

/* "4:memory:/path" or, version 2, "0::/path" */
static void find_cgroups(const char *file, struct cgroup cgroups[NR_VERSIONS])
{
	struct lines lines;
	char *rest;

	if (!lines_open(&lines, file))
		return;
	while ((rest = lines_next(&lines)) != NULL) {
		const char *id = cut(&rest, ':'), *controllers = cut(&rest, ':');
		struct cgroup *cgroup = NULL;

		if (!rest || *rest != '/' || strlen(rest) >= sizeof(cgroup->path))
			continue;
		if (strcmp(id, "0") == 0 && *controllers == '\0')
			cgroup = &cgroups[V2];
		else if (has_word(controllers, "memory"))
			cgroup = &cgroups[V1];
		if (cgroup)
			strcpy(cgroup->path, rest);
	}
	lines_close(&lines);
}

/* "\040" and so on, for blanks in paths. */
static void unescape(char *text)
{
	char *to = text;

	for (const char *from = text; *from; to++) {
		if (from[0] == '\\' && from[1] >= '0' && from[1] <= '3' && from[2] &&
		    from[3]) {
			*to = (char)((from[1] - '0') * 64 + (from[2] - '0') * 8 +
				     (from[3] - '0'));
			from += 4;
		} else {
			*to = *from++;
		}
	}
	*to = '\0';
}

struct mount {
	char *root, *point; /* what of the hierarchy is mounted, and where */
	enum version version;
};

/* "35 31 0:32 ROOT POINT rw,relatime shared:1 - cgroup cgroup rw,memory" */
static bool parse_mount(char *line, struct mount *mount)
{
	char *rest = line, *type;

	for (int i = 0; i < 3; i++)
		(void)cut(&rest, ' ');
	mount->root = cut(&rest, ' ');
	mount->point = cut(&rest, ' ');
	type = rest ? strstr(rest, " - ") : NULL;
	if (!type)
		return false;
	rest = type + 3;
	type = cut(&rest, ' ');
	(void)cut(&rest, ' ');
	if (strcmp(type, "cgroup2") == 0)
		mount->version = V2;
	else if (strcmp(type, "cgroup") == 0 && rest && has_word(rest, "memory"))
		mount->version = V1;
	else
		return false;
	unescape(mount->root);
	unescape(mount->point);
	return true;
}

/* What is left of a cgroup's path below a mount's root. Not below it: the mount's own
 * root is as near as we get (a container sees its own cgroup there). */
static const char *below(const char *path, const char *root)
{
	size_t length = strcmp(root, "/") == 0 ? 0 : strlen(root);

	if (strncmp(path, root, length) != 0 ||
	    (path[length] != '/' && path[length] != '\0') || strstr(path, "/.."))
		return "";
	return strcmp(path + length, "/") == 0 ? "" : path + length;
}

/* "max", as version 2 says it, is no number: no limit. */
static uint64_t limit_of(const char *dir, enum version version)
{
	static const char *const names[] = {
		[V1] = "/memory.limit_in_bytes", [V2] = "/memory.max"};
	char path[LONGEST_PATH + 32];
	size_t length = strlen(dir);
	uint64_t limit;

	memcpy(path, dir, length);
	strcpy(path + length, names[version]);
	return tdi_procfs_number(path, &limit) ? limit : UINT64_MAX;
}

/* Of a cgroup and those above it, as far as they are mounted. */
static uint64_t least_limit(const struct mount *mount, const char *cgroup)
{
	const char *rest = below(cgroup, mount->root);
	size_t stem = strlen(mount->point), length = strlen(rest);
	uint64_t least = UINT64_MAX;
	char dir[LONGEST_PATH];

	if (stem + length >= sizeof(dir))
		return least;
	memcpy(dir, mount->point, stem);
	memcpy(dir + stem, rest, length + 1);
	for (;;) {
		uint64_t limit = limit_of(dir, mount->version);
		char *last;

		least = limit < least ? limit : least;
		last = strrchr(dir + stem, '/');
		if (!last)
			return least;
		*last = '\0';
	}
}

static uint64_t cgroup_limit(const struct tdi_memlimit_files *files)
{
	struct cgroup cgroups[NR_VERSIONS];
	uint64_t least = UINT64_MAX;
	struct mount mount;
	struct lines lines;
	char *line;

	cgroups[V1].path[0] = cgroups[V2].path[0] = '\0';
	find_cgroups(files->cgroup, cgroups);
	if (!lines_open(&lines, files->mountinfo))
		return least;
	while ((line = lines_next(&lines)) != NULL) {
		const char *path;
		uint64_t limit;

		if (!parse_mount(line, &mount))
			continue;
		path = cgroups[mount.version].path;
		limit = *path ? least_limit(&mount, path) : UINT64_MAX;
		least = limit < least ? limit : least;
	}
	lines_close(&lines);
	return least;
}

static uint64_t physical_memory(const char *meminfo)
{
	char text[512]; /* it is the first line */
	uint64_t kib;

	if (!tdi_procfs_text(meminfo, text, sizeof(text)) ||
	    !tdi_procfs_find(text, "MemTotal:", 10, &kib))
		return UINT64_MAX;
	return kib * 1024;
}

uint64_t tdi_memlimit_of(const struct tdi_memlimit_files *files)
{
	uint64_t physical = physical_memory(files->meminfo);
	uint64_t cgroup = cgroup_limit(files);

	return physical < cgroup ? physical : cgroup;
}

uint64_t tdi_memlimit(void)
{
	static const struct tdi_memlimit_files files = {
		"/proc/meminfo", "/proc/self/cgroup", "/proc/self/mountinfo"};

	return tdi_memlimit_of(&files);
}
