/* SPDX-License-Identifier: MIT */
/*
 * For tests that need what the guest has and few other machines do: several nodes of
 * memory, control groups, pressure information. README.md.
 */
#ifndef TDT_GUEST_H
#define TDT_GUEST_H

#include "harness.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define GUEST_NODES_MAX 64

static inline bool guest_is_here(void)
{
	return getenv("TDT_GUEST") != NULL;
}

/* Skips the test on a machine that lacks something; in the guest, which does not, it
 * fails. The test then returns. */
#define guest_lacks(...)                                                                 \
	do {                                                                             \
		if (guest_is_here())                                                     \
			ck_abort_msg(__VA_ARGS__);                                       \
		tdt_skip(__VA_ARGS__);                                                   \
	} while (0)

/* ---- files of one value ---- */

/* What the file begins with, without the last newline. False: it cannot be read. */
static inline bool guest_read(const char *path, char *text, size_t size)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t got = fd < 0 ? -1 : read(fd, text, size - 1);

	if (fd >= 0)
		close(fd);
	if (got < 0)
		return false;
	if (got > 0 && text[got - 1] == '\n')
		got--;
	text[got] = '\0';
	return true;
}

/* 0 or -errno, as the kernel answers. */
static inline int guest_write(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	int err = fd < 0 || write(fd, text, strlen(text)) < 0 ? -errno : 0;

	if (fd >= 0)
		close(fd);
	return err;
}

/* ---- nodes ---- */

struct guest_node {
	int number;
	cpu_set_t cpus;
	size_t memory, free; /* bytes */
};

/* "0-3,8": adds them to the set. */
static inline void guest_parse_cpus(const char *text, cpu_set_t *cpus)
{
	while (*text >= '0' && *text <= '9') {
		char *end;
		unsigned long first = strtoul(text, &end, 10), last = first;

		if (*end == '-')
			last = strtoul(end + 1, &end, 10);
		for (unsigned long cpu = first; cpu <= last && cpu < CPU_SETSIZE; cpu++)
			CPU_SET(cpu, cpus);
		text = *end == ',' ? end + 1 : end;
	}
}

static inline size_t guest_node_kib(const char *meminfo, const char *what)
{
	const char *found = strstr(meminfo, what);

	return found ? strtoull(found + strlen(what), NULL, 10) : 0;
}

/* The nodes that have both CPUs and memory, by number; returns how many. */
static inline unsigned guest_nodes(struct guest_node nodes[GUEST_NODES_MAX])
{
	unsigned count = 0;

	for (int number = 0; number < GUEST_NODES_MAX; number++) {
		struct guest_node node = {.number = number};
		char path[96], text[4096];

		snprintf(path, sizeof(path), "/sys/devices/system/node/node%d/cpulist",
			 number);
		if (!guest_read(path, text, sizeof(text)))
			continue;
		guest_parse_cpus(text, &node.cpus);
		snprintf(path, sizeof(path), "/sys/devices/system/node/node%d/meminfo",
			 number);
		if (!guest_read(path, text, sizeof(text)))
			continue;
		node.memory = guest_node_kib(text, "MemTotal:") * KIB;
		node.free = guest_node_kib(text, "MemFree:") * KIB;
		if (CPU_COUNT(&node.cpus) > 0 && node.memory > 0)
			nodes[count++] = node;
	}
	return count;
}

/* Which node of an array a CPU belongs to: its index, or -1. */
static inline int guest_node_of_cpu(const struct guest_node *nodes, unsigned count,
				    int cpu)
{
	for (unsigned i = 0; i < count; i++) {
		if (cpu >= 0 && CPU_ISSET((unsigned)cpu, &nodes[i].cpus))
			return (int)i;
	}
	return -1;
}

/* ---- control groups, version 2 ---- */

struct guest_cgroup {
	char path[200];
};

/* Beside the hierarchies of version 1 it may be there, too, with few controllers. */
static inline const char *guest_cgroup_root(void)
{
	static const char both[] = "/sys/fs/cgroup/unified";

	return access(both, F_OK) == 0 ? both : "/sys/fs/cgroup";
}

/* A file of the group, or of the hierarchy's root where group is NULL. */
static inline const char *guest_cgroup_file(const struct guest_cgroup *group,
					    const char *file, char *path, size_t size)
{
	int length = snprintf(path, size, "%s/%s",
			      group ? group->path : guest_cgroup_root(), file);

	ck_assert_int_lt(length, (int)size);
	return path;
}

/* 0 or -errno: guest_cgroup_set(&group, "memory.max", "%zu", bytes) */
static inline int __attribute__((format(printf, 3, 4)))
guest_cgroup_set(const struct guest_cgroup *group, const char *file, const char *format,
		 ...)
{
	char path[300], text[200];
	va_list args;

	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	return guest_write(guest_cgroup_file(group, file, path, sizeof(path)), text);
}

/*
 * The number after a key ("cpu.stat", "usage_usec"), or the only one of the file (key
 * NULL). -1: there is none, or it is "max".
 */
static inline long long guest_cgroup_get(const struct guest_cgroup *group,
					 const char *file, const char *key)
{
	char path[300], text[8192], *line, *rest = text;

	if (!guest_read(guest_cgroup_file(group, file, path, sizeof(path)), text,
			sizeof(text)))
		return -1;
	while ((line = strsep(&rest, "\n")) != NULL) {
		size_t length = key ? strlen(key) : 0;
		char *end;
		long long number;

		if (key && (strncmp(line, key, length) != 0 || line[length] != ' '))
			continue;
		line += key ? length + 1 : 0;
		number = strtoll(line, &end, 10);
		return end == line ? -1 : number;
	}
	return -1;
}

/*
 * Moves everybody who is in it to the hierarchy's root, which is the one that may hold
 * processes beside other groups; the threads of a threaded one to the group above.
 */
static inline void guest_cgroup_empty(const struct guest_cgroup *group)
{
	char path[300], type[64], target[300], line[32];
	const char *members = "cgroup.procs";
	FILE *file;

	(void)guest_cgroup_file(NULL, members, target, sizeof(target));
	(void)guest_cgroup_file(group, "cgroup.type", path, sizeof(path));
	if (guest_read(path, type, sizeof(type)) && strcmp(type, "threaded") == 0) {
		members = "cgroup.threads";
		(void)guest_cgroup_file(group, "../cgroup.threads", target,
					sizeof(target));
	}
	file = fopen(guest_cgroup_file(group, members, path, sizeof(path)), "re");
	while (file && fgets(line, sizeof(line), file))
		(void)guest_write(target, line); /* it may have ended meanwhile */
	if (file)
		fclose(file);
}

/* With the groups below it; whoever is in one of them goes to the root. */
static inline void guest_cgroup_remove(const struct guest_cgroup *group)
{
	uint64_t deadline = tdi_sys_deadline(INT64_C(10000000000));
	struct guest_cgroup below;
	struct dirent *entry;
	DIR *dir;

	guest_cgroup_empty(group);
	dir = opendir(group->path);
	while (dir && (entry = readdir(dir)) != NULL) {
		size_t length = strlen(group->path) + 1 + strlen(entry->d_name);

		if (entry->d_type != DT_DIR || entry->d_name[0] == '.' ||
		    length >= sizeof(below.path))
			continue;
		strcpy(below.path, group->path);
		strcat(strcat(below.path, "/"), entry->d_name);
		guest_cgroup_remove(&below);
	}
	if (dir)
		closedir(dir);
	/* A thread that ends is in it for a moment more. */
	while (rmdir(group->path) != 0 && errno != ENOENT) {
		ck_assert_msg(tdi_sys_now_ns() < deadline, "%s cannot be removed: %s",
			      group->path, strerror(errno));
		guest_cgroup_empty(group);
		sched_yield();
	}
}

/*
 * Makes a group below another one, or below the root (parent NULL), with controllers that
 * the parent passes on: "+cpu +memory", or NULL for none. One of that name that an
 * earlier test left behind is removed first. False: not on this machine. (On others than
 * the guest the root's own settings are left alone: what it does not pass on is not to be
 * had.)
 */
static inline bool guest_cgroup_make(struct guest_cgroup *group,
				     const struct guest_cgroup *parent, const char *name,
				     const char *controllers)
{
	char path[300], on[400], words[200], *word, *rest = words;

	if (geteuid() != 0)
		return false;
	snprintf(words, sizeof(words), "%s", controllers ? controllers : "");
	if (parent || guest_is_here()) {
		if (words[0] &&
		    guest_cgroup_set(parent, "cgroup.subtree_control", "%s", words) != 0)
			return false;
	}
	if (!guest_read(guest_cgroup_file(parent, "cgroup.subtree_control", path,
					  sizeof(path)),
			on, sizeof(on)))
		return false;
	while ((word = strsep(&rest, " ")) != NULL) {
		if (word[0] == '+' && !strstr(on, word + 1))
			return false;
	}
	(void)guest_cgroup_file(parent, name, group->path, sizeof(group->path));
	if (access(group->path, F_OK) == 0)
		guest_cgroup_remove(group);
	return mkdir(group->path, 0755) == 0;
}

/* A process with all its threads, 0 = the calling one; or, in a threaded group of the
 * same domain, one thread. 0 or -errno. */
static inline int guest_cgroup_enter(const struct guest_cgroup *group, pid_t process)
{
	return guest_cgroup_set(group, "cgroup.procs", "%d", (int)process);
}

static inline int guest_cgroup_enter_thread(const struct guest_cgroup *group, pid_t tid)
{
	return guest_cgroup_set(group, "cgroup.threads", "%d", (int)tid);
}

/*
 * A domain with the calling process in it, and below it a threaded group, into which any
 * thread of the process may go. (Of the controllers only cpu, cpuset, perf_event and pids
 * can be passed on to a threaded group.) guest_cgroup_remove(domain) undoes both.
 */
static inline bool guest_cgroup_make_threaded(struct guest_cgroup *domain,
					      struct guest_cgroup *threaded,
					      const char *name, const char *controllers)
{
	if (!guest_cgroup_make(domain, NULL, name, controllers))
		return false;
	if (guest_cgroup_enter(domain, 0) == 0 &&
	    guest_cgroup_make(threaded, domain, "threads", NULL) &&
	    guest_cgroup_set(threaded, "cgroup.type", "threaded") == 0 &&
	    (!controllers ||
	     guest_cgroup_set(domain, "cgroup.subtree_control", "%s", controllers) == 0))
		return true;
	guest_cgroup_remove(domain);
	return false;
}

#endif
