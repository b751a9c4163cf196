/* SPDX-License-Identifier: MIT */
/* For tests: where the kernel says that the threads of an engine run, and as what. */
#ifndef TDT_PLACED_H
#define TDT_PLACED_H

#include "harness.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define THREADS_MAX 16

/* The first bytes of a file of a thread, as a string. */
static inline void thread_text(pid_t tid, const char *file, char *text, size_t size)
{
	char path[64];
	ssize_t got;
	int fd;

	snprintf(path, sizeof(path), "/proc/self/task/%d/%s", tid, file);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	ck_assert_msg(fd >= 0, "%s", path);
	got = read(fd, text, size - 1);
	close(fd);
	ck_assert_int_ge(got, 0);
	text[got] = '\0';
}

/* The threads whose names begin so, "NAME/". */
static inline unsigned threads_named(const char *prefix, pid_t tids[THREADS_MAX])
{
	DIR *tasks = opendir("/proc/self/task");
	struct dirent *task;
	unsigned found = 0;
	char name[32];

	ck_assert_ptr_nonnull(tasks);
	while ((task = readdir(tasks)) != NULL) {
		if (task->d_name[0] == '.')
			continue;
		thread_text(atoi(task->d_name), "comm", name, sizeof(name));
		if (strncmp(name, prefix, strlen(prefix)) == 0 && found < THREADS_MAX)
			tids[found++] = atoi(task->d_name);
	}
	closedir(tasks);
	return found;
}

static inline bool is_named(pid_t tid, const char *name)
{
	char text[32];

	thread_text(tid, "comm", text, sizeof(text));
	text[strcspn(text, "\n")] = '\0';
	return strcmp(text, name) == 0;
}

/* As in "0-1,3". */
static inline void allowed_cpus(pid_t tid, char *list, size_t size)
{
	static const char key[] = "Cpus_allowed_list:";
	char text[4096];
	const char *at;

	thread_text(tid, "status", text, sizeof(text));
	at = strstr(text, key);
	ck_assert_ptr_nonnull(at);
	at += strlen(key) + 1;
	snprintf(list, size, "%.*s", (int)strcspn(at, "\n"), at);
}

/* Field number so and so, from 1, of a thread's stat. */
static inline long stat_field(pid_t tid, unsigned number)
{
	char text[1024];
	char *at;

	thread_text(tid, "stat", text, sizeof(text));
	at = strrchr(text, ')'); /* the end of field 2, which may hold anything */
	ck_assert_ptr_nonnull(at);
	for (unsigned i = 2; i < number; i++)
		at = strchr(at + 1, ' ');
	return atol(at + 1);
}

static inline long nice_of(pid_t tid)
{
	return stat_field(tid, 19);
}

static inline long policy_of_thread(pid_t tid)
{
	return stat_field(tid, 41);
}

/* ---- a cgroup of a v1 hierarchy ---- */

struct group_v1 {
	char path[128];
};

/* False, with the test skipped: there is no such hierarchy, or we may not use it. */
static inline bool make_group(struct group_v1 *group, const char *controller,
			      const char *name)
{
	char tasks[160];

	snprintf(group->path, sizeof(group->path), "/sys/fs/cgroup/%s/td-%s-%d",
		 controller, name, (int)getpid());
	snprintf(tasks, sizeof(tasks), "%s/tasks", group->path);
	if (mkdir(group->path, 0755) < 0) {
		tdt_skip("cannot make a cgroup of the v1 hierarchy %s", controller);
		return false;
	}
	if (access(tasks, W_OK) < 0) {
		rmdir(group->path);
		tdt_skip("%s is not a v1 hierarchy", controller);
		return false;
	}
	return true;
}

/* The calling thread. */
static inline void enter_group(const struct group_v1 *group)
{
	char tasks[160];
	int fd;

	snprintf(tasks, sizeof(tasks), "%s/tasks", group->path);
	fd = open(tasks, O_WRONLY | O_CLOEXEC);
	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(write(fd, "0", 1), 1);
	close(fd);
}

/* Nanoseconds, of a group of the hierarchy cpuacct. */
static inline uint64_t cpu_usage(const struct group_v1 *group)
{
	char path[160];
	unsigned long long usage;
	FILE *file;

	snprintf(path, sizeof(path), "%s/cpuacct.usage", group->path);
	file = fopen(path, "re");
	ck_assert_ptr_nonnull(file);
	ck_assert_int_eq(fscanf(file, "%llu", &usage), 1);
	fclose(file);
	return usage;
}

/* The last thread in it may be seen for a moment after it was joined. */
static inline void remove_group(struct group_v1 *group)
{
	uint64_t deadline = tdi_sys_deadline(INT64_C(10000000000));

	while (rmdir(group->path) < 0)
		ck_assert_msg(tdi_sys_now_ns() < deadline, "%s cannot be removed",
			      group->path);
}

#endif
