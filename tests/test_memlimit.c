/* SPDX-License-Identifier: MIT */
/* A11: how much memory a process may have, as its cgroups say it. */
#include "harness.h"
#include "memlimit.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static char dir[64] = "", names[3][128];
static const struct tdi_memlimit_files files = {names[0], names[1], names[2]};

/* "%D" stands for the directory. */
static void put_file(const char *name, const char *text)
{
	char path[512];
	FILE *file;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	file = fopen(path, "we");
	ck_assert_ptr_nonnull(file);
	for (; *text; text++) {
		if (text[0] == '%' && text[1] == 'D') {
			fputs(dir, file);
			text++;
		} else {
			fputc(*text, file);
		}
	}
	ck_assert_int_eq(fclose(file), 0);
}

static void make_dir(const char *name)
{
	char path[512];

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	ck_assert_int_eq(mkdir(path, 0700), 0);
}

static void setup(void)
{
	const char *base = getenv("TMPDIR");

	snprintf(dir, sizeof(dir), "%s/memlimit-XXXXXX",
		 base && strlen(base) < 40 ? base : "/tmp");
	ck_assert_ptr_nonnull(mkdtemp(dir));
	snprintf(names[0], sizeof(names[0]), "%s/meminfo", dir);
	snprintf(names[1], sizeof(names[1]), "%s/cgroup", dir);
	snprintf(names[2], sizeof(names[2]), "%s/mountinfo", dir);
	put_file("meminfo", "MemTotal:         1000 kB\nMemFree:         1 kB\n");
}

static void remove_all(const char *path)
{
	struct dirent *entry;
	DIR *stream;

	if (unlink(path) == 0)
		return;
	stream = opendir(path);
	while (stream && (entry = readdir(stream)) != NULL) {
		char inner[1024];

		if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
			continue;
		snprintf(inner, sizeof(inner), "%s/%s", path, entry->d_name);
		remove_all(inner);
	}
	if (stream)
		closedir(stream);
	rmdir(path);
}

static void teardown(void)
{
	remove_all(dir);
}

#define PHYSICAL UINT64_C(1024000)

START_TEST(without_cgroups_it_is_physical_memory)
{
	ck_assert_uint_eq(tdi_memlimit_of(&files), PHYSICAL);
	put_file("cgroup", "");
	put_file("mountinfo", "");
	ck_assert_uint_eq(tdi_memlimit_of(&files), PHYSICAL);
	put_file("cgroup", "1:cpu,cpuacct:/a\nrubbish\n::\n\n4:memory\n");
	put_file("mountinfo", "rubbish\n\n1 2 3\n1 2 3 / /x rw - cgroup\n"
			      "22 1 0:2 / /proc rw - proc proc rw\n");
	ck_assert_uint_eq(tdi_memlimit_of(&files), PHYSICAL);
	put_file("meminfo", "MemFree:   1 kB\n");
	ck_assert_uint_eq(tdi_memlimit_of(&files), UINT64_MAX);
}
END_TEST

START_TEST(version_2_and_what_is_above_it)
{
	put_file("cgroup", "0::/a/b/c\n");
	put_file("mountinfo",
		 "25 1 0:2 / /proc rw,nosuid shared:1 - proc proc rw\n"
		 "30 25 0:26 / %D rw,nosuid,nodev shared:4 - cgroup2 cgroup2 rw\n");
	make_dir("a");
	make_dir("a/b");
	make_dir("a/b/c");
	put_file("a/b/c/memory.max", "max\n");
	ck_assert_uint_eq(tdi_memlimit_of(&files), PHYSICAL);
	put_file("a/memory.max", "300000\n");
	ck_assert_uint_eq(tdi_memlimit_of(&files), 300000);
	put_file("a/b/memory.max", "400000\n");
	ck_assert_uint_eq(tdi_memlimit_of(&files), 300000);
	put_file("a/b/c/memory.max", "200000\n");
	ck_assert_uint_eq(tdi_memlimit_of(&files), 200000);
	/* of the mount itself: a container sees its own cgroup there */
	put_file("memory.max", "100000\n");
	ck_assert_uint_eq(tdi_memlimit_of(&files), 100000);
	put_file("memory.max", "99999999999999\n");
	ck_assert_uint_eq(tdi_memlimit_of(&files), 200000);
}
END_TEST

START_TEST(version_1_where_the_memory_controller_is_mounted)
{
	put_file("cgroup", "9:name=systemd:/\n4:cpu,memory:/x/y\n0::/\n");
	put_file("mountinfo",
		 "32 31 0:29 / %D/none rw,relatime - cgroup cgroup rw,cpuset\n"
		 "35 31 0:32 / %D/v1 rw,relatime - cgroup cgroup rw,cpu,memory\n"
		 "41 31 0:38 / %D/unified rw,relatime - cgroup2 cgroup2 rw\n");
	make_dir("v1");
	make_dir("v1/x");
	make_dir("v1/x/y");
	put_file("v1/memory.limit_in_bytes", "9223372036854771712\n");
	ck_assert_uint_eq(tdi_memlimit_of(&files), PHYSICAL);
	put_file("v1/x/memory.limit_in_bytes", "500000\n");
	put_file("v1/x/y/memory.limit_in_bytes", "600000\n");
	ck_assert_uint_eq(tdi_memlimit_of(&files), 500000);
	/* no such controller, in spite of the name */
	put_file("cgroup", "4:memory2:/x/y\n");
	ck_assert_uint_eq(tdi_memlimit_of(&files), PHYSICAL);
}
END_TEST

/* A part of the hierarchy is mounted, somewhere with a blank in its name. */
START_TEST(a_part_of_a_hierarchy_may_be_mounted)
{
	put_file("cgroup", "0::/docker/1234/inner\n");
	put_file("mountinfo",
		 "30 25 0:26 /docker/1234 %D/my\\040mount rw - cgroup2 c rw\n");
	make_dir("my mount");
	make_dir("my mount/inner");
	put_file("my mount/memory.max", "700000\n");
	ck_assert_uint_eq(tdi_memlimit_of(&files), 700000);
	put_file("my mount/inner/memory.max", "600000\n");
	ck_assert_uint_eq(tdi_memlimit_of(&files), 600000);
	/* our cgroup is not below what is mounted: what is mounted has to do */
	put_file("cgroup", "0::/docker/12345\n");
	ck_assert_uint_eq(tdi_memlimit_of(&files), 700000);
	put_file("cgroup", "0::/docker/1234/../other\n");
	ck_assert_uint_eq(tdi_memlimit_of(&files), 700000);
}
END_TEST

/* A line that is too long for us does not hide those after it. */
START_TEST(long_lines_are_passed_over)
{
	char *text = malloc(100000);

	ck_assert_ptr_nonnull(text);
	memset(text, 'x', 50000);
	strcpy(text + 50000, "\n30 25 0:26 / %D rw - cgroup2 cgroup2 rw\n");
	put_file("mountinfo", text);
	strcpy(text, "0::/");
	memset(text + 4, 'y', 3000);
	strcpy(text + 3004, "\n0::/\n");
	put_file("cgroup", text);
	put_file("memory.max", "1234\n");
	ck_assert_uint_eq(tdi_memlimit_of(&files), 1234);
	free(text);
}
END_TEST

START_TEST(what_cannot_be_read_does_not_limit)
{
	size_t descriptors = tdt_footprint().descriptors;

	put_file("cgroup", "0::/\n");
	put_file("mountinfo", "30 25 0:26 / %D rw - cgroup2 cgroup2 rw\n");
	put_file("memory.max", "1234\n");
	for (unsigned i = 0; i < 4; i++) {
		uint64_t limit = i == 0 ? 1234 : PHYSICAL;

		tdt_fail(TDI_SYS_open, -EACCES, i, 1);
		ck_assert_uint_eq(tdi_memlimit_of(&files), limit);
	}
	tdt_fail_none();
	tdt_fail(TDI_SYS_read, -EIO, 0, UINT32_MAX);
	ck_assert_uint_eq(tdi_memlimit_of(&files), UINT64_MAX);
	tdt_fail_none();
	tdt_fail(TDI_SYS_read, -EINTR, 0, 3);
	ck_assert_uint_eq(tdi_memlimit_of(&files), 1234);
	tdt_fail_none();
	ck_assert_uint_eq(tdt_footprint().descriptors, descriptors);
}
END_TEST

START_TEST(this_machine_has_some)
{
	ck_assert_uint_gt(tdi_memlimit(), MIB);
	ck_assert_uint_le(tdi_memlimit(),
			  (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)getpagesize());
}
END_TEST

/* ---- a real one ---- */

static bool write_text(const char *base, const char *name, const char *text)
{
	char path[512];
	int fd;
	bool ok;

	snprintf(path, sizeof(path), "%s/%s", base, name);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return false;
	ok = write(fd, text, strlen(text)) == (ssize_t)strlen(text);
	close(fd);
	return ok;
}

/* In a child, since the test's own process stays where it is. */
static int limit_inside(const char *group, uint64_t *ret)
{
	int fds[2], status;
	pid_t pid;

	ck_assert_int_eq(pipe(fds), 0);
	pid = fork();
	if (pid == 0) {
		uint64_t limit = 0;

		if (write_text(group, "cgroup.procs", "0"))
			limit = tdi_memlimit();
		_exit(write(fds[1], &limit, sizeof(limit)) != sizeof(limit));
	}
	ck_assert_int_eq(read(fds[0], ret, sizeof(*ret)), sizeof(*ret));
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	close(fds[0]);
	close(fds[1]);
	return status;
}

static void check_real(const char *mount, const char *limit_name)
{
	char outer[256], inner[300];
	uint64_t limit = 0;
	bool limited;

	snprintf(outer, sizeof(outer), "%s/td-memlimit-%d", mount, (int)getpid());
	snprintf(inner, sizeof(inner), "%s/inner", outer);
	if (mkdir(outer, 0755)) {
		tdt_skip("no memory cgroup can be made in %s: %s", mount,
			 strerror(errno));
		return;
	}
	limited = write_text(outer, limit_name, "134217728");
	(void)write_text(outer, "cgroup.subtree_control", "+memory");
	if (!limited) {
		rmdir(outer);
		tdt_skip("no %s in %s", limit_name, outer);
		return;
	}
	ck_assert_int_eq(mkdir(inner, 0755), 0);
	ck_assert_int_eq(limit_inside(inner, &limit), 0);
	/* The child has been waited for, and yet the group may be busy for a moment. */
	while (rmdir(inner) && errno == EBUSY)
		sched_yield();
	while (rmdir(outer) && errno == EBUSY)
		sched_yield();
	ck_assert_uint_eq(limit, 134217728);
}

START_TEST(a_real_cgroup_of_version_1)
{
	check_real("/sys/fs/cgroup/memory", "memory.limit_in_bytes");
}
END_TEST

START_TEST(a_real_cgroup_of_version_2)
{
	check_real("/sys/fs/cgroup", "memory.max");
}
END_TEST

int main(void)
{
	struct tdt *tests = tdt_suite("memlimit");

	tdt_add(tests, without_cgroups_it_is_physical_memory, setup, teardown);
	tdt_add(tests, version_2_and_what_is_above_it, setup, teardown);
	tdt_add(tests, version_1_where_the_memory_controller_is_mounted, setup, teardown);
	tdt_add(tests, a_part_of_a_hierarchy_may_be_mounted, setup, teardown);
	tdt_add(tests, long_lines_are_passed_over, setup, teardown);
	tdt_add(tests, what_cannot_be_read_does_not_limit, setup, teardown);
	tdt_add(tests, this_machine_has_some, NULL, NULL);
	tdt_add(tests, a_real_cgroup_of_version_1, NULL, NULL);
	tdt_add(tests, a_real_cgroup_of_version_2, NULL, NULL);
	return tdt_run(tests);
}
