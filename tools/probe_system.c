/* SPDX-License-Identifier: MIT */
/* How this system is set up: what is read from /proc and /sys. */
#include "common.h"
#include "probe.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* What a file of /proc or /sys says; false, with the answer: it cannot be read. */
static bool read_it(struct probe_answer *answer, const char *path, char *line,
		    size_t size)
{
	int err = tool_read_line(path, line, size);

	if (!err)
		return true;
	probe_value(answer, "unknown");
	probe_means(answer, "%s: %s", path, strerror(-err));
	return false;
}

static void ask_yama(struct probe_answer *answer)
{
	static const char path[] = "/proc/sys/kernel/yama/ptrace_scope";
	char line[32];

	if (access(path, F_OK)) {
		probe_value(answer, "none");
		probe_means(answer, "it keeps nobody from asking about processes");
	} else if (read_it(answer, path, line, sizeof(line))) {
		probe_value(answer, "%s", line);
		/* That is about attaching; kcmp(2) only reads. */
		probe_means(answer, "it keeps nobody from asking about processes");
	}
}

/* The number after a name in /proc/self/status; -1: there is none. */
static int status_field(const char *name)
{
	char line[256];
	int value = -1;
	FILE *file = fopen("/proc/self/status", "re");

	while (file && fgets(line, sizeof(line), file)) {
		if (strncmp(line, name, strlen(name)) == 0)
			value = atoi(line + strlen(name));
	}
	if (file)
		fclose(file);
	return value;
}

static void ask_seccomp(struct probe_answer *answer)
{
	int mode = status_field("Seccomp:");

	probe_value(answer, "%s%s",
		    mode == 0	? "off"
		    : mode == 1 ? "strict"
		    : mode == 2 ? "filter"
				: "unknown",
		    status_field("NoNewPrivs:") == 1 ? ", no new privileges" : "");
	probe_means(answer, mode == 2 ? "the answers above are those of its filter"
				      : "nothing is refused by a filter");
}

/* ---- pressure ---- */

#define PSI "/proc/pressure/memory"

static void ask_psi(struct probe_answer *answer)
{
	char line[128];
	int err = tool_read_line(PSI, line, sizeof(line));

	probe_value(answer, err ? "no, %s" : "yes%s", err ? strerror(-err) : "");
	probe_means(answer, err ? "the kernel does not tell of pressure; only "
				  "td_engine_pressure() does"
				: "the kernel measures memory pressure");
}

static void ask_psi_triggers(struct probe_answer *answer)
{
	static const char trigger[] = "some 150000 2000000";
	int fd = open(PSI, O_RDWR | O_NONBLOCK | O_CLOEXEC);

	/* It is gone with the descriptor. */
	if (fd < 0 || write(fd, trigger, sizeof(trigger)) < 0) {
		probe_value(answer, "no, %s", strerror(errno));
		probe_means(answer, "TD_ENGINE_PSI is refused");
	} else {
		probe_value(answer, "yes");
		probe_means(answer, "TD_ENGINE_PSI hears of pressure");
	}
	if (fd >= 0)
		close(fd);
}

/* ---- cgroups ---- */

struct cgroups {
	bool v1, v2;
	char memory[PATH_MAX], unified[PATH_MAX]; /* where we are in these hierarchies */
};

static void read_cgroups(struct cgroups *groups)
{
	FILE *file = fopen("/proc/self/cgroup", "re");
	char line[PATH_MAX + 256];

	memset(groups, 0, sizeof(*groups));
	while (file && fgets(line, sizeof(line), file)) {
		char *controllers = strchr(line, ':'), *path;

		if (!controllers || !(path = strchr(++controllers, ':')))
			continue;
		*path++ = '\0';
		path[strcspn(path, "\n")] = '\0';
		if (!*controllers) {
			groups->v2 = true;
			snprintf(groups->unified, sizeof(groups->unified), "%s", path);
			continue;
		}
		groups->v1 = true;
		for (char *save, *one = strtok_r(controllers, ",", &save); one;
		     one = strtok_r(NULL, ",", &save)) {
			if (!strcmp(one, "memory"))
				snprintf(groups->memory, sizeof(groups->memory), "%s",
					 path);
		}
	}
	if (file)
		fclose(file);
}

static void ask_cgroup(struct probe_answer *answer)
{
	static struct cgroups groups;

	read_cgroups(&groups);
	probe_value(answer, "%s",
		    groups.v1 && groups.v2 ? "v1, v2 beside it"
		    : groups.v1		   ? "v1"
		    : groups.v2		   ? "v2"
					   : "none");
	probe_means(answer, groups.v1 ? "helpers and reapers are placed in one hierarchy"
			    : groups.v2 ? "helpers and reapers can be placed in groups"
					: "helpers and reapers stay where they are");
}

/* Is a word among those that commas separate? */
static bool has_word(const char *list, const char *word)
{
	size_t length = strlen(word);

	for (const char *at = list; (at = strstr(at, word)); at += length) {
		if ((at == list || at[-1] == ',') && (!at[length] || at[length] == ','))
			return true;
	}
	return false;
}

/*
 * The directory of our memory cgroup, and how much of it is the mount, above which there
 * is nothing to see. False: none is mounted.
 */
static bool find_memory_cgroup(const struct cgroups *groups, char *dir, size_t size,
			       size_t *mount_length)
{
	const char *wanted = *groups->memory ? "cgroup" : "cgroup2";
	const char *path = *groups->memory ? groups->memory : groups->unified;
	FILE *file = fopen("/proc/self/mountinfo", "re");
	static char line[4 * PATH_MAX], root[PATH_MAX], mount[PATH_MAX];
	char type[64], options[1024];
	bool found = false;

	while (file && !found && fgets(line, sizeof(line), file)) {
		const char *rest = strstr(line, " - ");
		size_t root_length;

		if (!rest ||
		    sscanf(line, "%*s %*s %*s %4095s %4095s", root, mount) != 2 ||
		    sscanf(rest, " - %63s %*s %1023s", type, options) != 2 ||
		    strcmp(type, wanted) ||
		    (*groups->memory && !has_word(options, "memory")))
			continue;
		root_length = strcmp(root, "/") ? strlen(root) : 0;
		/* Of a container: the mount shows a part, and we may be outside of it. */
		if (strncmp(path, root, root_length))
			root_length = strlen(path);
		*mount_length = strlen(mount);
		found = (size_t)snprintf(dir, size, "%s%s", mount, path + root_length) <
			size;
	}
	if (file)
		fclose(file);
	return found;
}

static void ask_memory_limit(struct probe_answer *answer)
{
	static char dir[2 * PATH_MAX], path[2 * PATH_MAX + 32];
	static struct cgroups groups;
	uint64_t limit = UINT64_MAX;
	size_t mount_length;
	char line[64];

	read_cgroups(&groups);
	if (!find_memory_cgroup(&groups, dir, sizeof(dir), &mount_length)) {
		probe_value(answer, "unknown");
		probe_means(answer, "no memory cgroup is mounted; the budget is half of "
				    "physical memory");
		return;
	}
	for (;;) {
		uint64_t here;
		char *end, *slash;

		snprintf(path, sizeof(path), "%s/%s", dir,
			 *groups.memory ? "memory.limit_in_bytes" : "memory.max");
		if (tool_read_line(path, line, sizeof(line)) == 0) {
			here = strtoull(line, &end, 10);
			if (end != line && here < limit)
				limit = here;
		}
		slash = strrchr(dir, '/');
		if (strlen(dir) <= mount_length || !slash)
			break;
		*slash = '\0';
	}
	/* v1 says so much, rounded to pages, when there is none. */
	if (limit >= INT64_MAX / 2) {
		probe_value(answer, "none");
		probe_means(answer, "the budget is half of physical memory");
	} else {
		probe_value(answer, "%" PRIu64, limit);
		probe_means(answer, "%s; the budget is half of it, or of physical memory",
			    tool_bytes(limit).text);
	}
}

/* ---- memory ---- */

static void ask_hugetlb(struct probe_answer *answer)
{
	static const char root[] = "/sys/kernel/mm/hugepages";
	DIR *dir = opendir(root);
	struct dirent *entry;
	bool any = false;
	size_t at = 0;

	while (dir && (entry = readdir(dir))) {
		char path[400], total[32], unused[32];
		unsigned long kib;

		if (sscanf(entry->d_name, "hugepages-%lukB", &kib) != 1)
			continue;
		snprintf(path, sizeof(path), "%s/%s/nr_hugepages", root, entry->d_name);
		if (tool_read_line(path, total, sizeof(total)))
			continue;
		snprintf(path, sizeof(path), "%s/%s/free_hugepages", root, entry->d_name);
		if (tool_read_line(path, unused, sizeof(unused)))
			continue;
		if (at < sizeof(answer->value))
			at += (size_t)snprintf(answer->value + at,
					       sizeof(answer->value) - at,
					       "%s%lu kB: %s of %s free", at ? ", " : "",
					       kib, unused, total);
		any = any || strcmp(total, "0");
	}
	if (dir)
		closedir(dir);
	if (at == 0)
		probe_value(answer, "none");
	probe_means(answer, any ? "who starts the next process waits until a helper has "
				  "emptied the last one's"
				: "no pool is filled");
}

static void ask_thp(struct probe_answer *answer)
{
	static const char path[] = "/sys/kernel/mm/transparent_hugepage/enabled";
	char line[64], *is, *end;

	if (!read_it(answer, path, line, sizeof(line)))
		return;
	is = strchr(line, '[');
	end = is ? strchr(is, ']') : NULL;
	if (end)
		*end = '\0';
	probe_value(answer, "%s", end ? is + 1 : line);
	probe_means(answer, "memory in huge pages is freed some ten times as fast");
}

static void ask_numa(struct probe_answer *answer)
{
	char line[64];

	if (!read_it(answer, "/sys/devices/system/node/online", line, sizeof(line)))
		return;
	probe_value(answer, "%s", line);
	probe_means(answer, strpbrk(line, ",-")
				    ? "each node's memory is released by reapers there"
				    : "one node: one queue");
}

static void ask_max_map_count(struct probe_answer *answer)
{
	char line[32];

	if (!read_it(answer, "/proc/sys/vm/max_map_count", line, sizeof(line)))
		return;
	probe_value(answer, "%s", line);
	probe_means(answer, "mappings of a process; near that, unmapping is done by who "
			    "asks for it");
}

static void ask_overcommit(struct probe_answer *answer)
{
	char line[32];

	if (!read_it(answer, "/proc/sys/vm/overcommit_memory", line, sizeof(line)))
		return;
	probe_value(answer, "%s", line);
	probe_means(answer, *line == '2'
				    ? "strict: what is not yet freed counts, and near "
				      "the limit nothing is put off"
			    : *line == '1' ? "everything is promised"
					   : "what is obviously too much is refused");
}

const struct probe probe_system[] = {
	{"yama", ask_yama},
	{"seccomp", ask_seccomp},
	{"psi", ask_psi},
	{"psi_triggers", ask_psi_triggers},
	{"cgroup", ask_cgroup},
	{"memory_limit", ask_memory_limit},
	{"hugetlb", ask_hugetlb},
	{"thp", ask_thp},
	{"numa_nodes", ask_numa},
	{"max_map_count", ask_max_map_count},
	{"overcommit", ask_overcommit},
};
const size_t nr_probe_system = sizeof(probe_system) / sizeof(probe_system[0]);
