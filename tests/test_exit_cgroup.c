/* SPDX-License-Identifier: MIT */
/* The exit helper in a cgroup of its own, and in the one of its process. */
#include "exits.h"

#include <sys/stat.h>

static char service[128], spare[128]; /* directories */

/* Two new cgroups of a hierarchy whose groups have that file. */
static bool make_cgroups(const char *file)
{
	static const char *const where[] = {"/sys/fs/cgroup", "/sys/fs/cgroup/unified",
					    "/sys/fs/cgroup/freezer",
					    "/sys/fs/cgroup/pids"};

	for (size_t i = 0; i < sizeof(where) / sizeof(where[0]); i++) {
		char path[192];

		snprintf(service, sizeof(service), "%s/td-test-%d", where[i],
			 (int)getpid());
		snprintf(spare, sizeof(spare), "%s/td-test-%d-spare", where[i],
			 (int)getpid());
		snprintf(path, sizeof(path), "%s/cgroup.procs", where[i]);
		if (access(path, W_OK) != 0 || mkdir(service, 0755) != 0)
			continue;
		snprintf(path, sizeof(path), "%s/%s", service, file);
		if (access(path, W_OK) == 0 && mkdir(spare, 0755) == 0)
			return true;
		rmdir(service);
	}
	service[0] = spare[0] = '\0';
	return false;
}

static void remove_cgroup(char *path)
{
	while (*path && rmdir(path) != 0 && errno == EBUSY)
		;
	*path = '\0';
}

static void end(void)
{
	end_orphans();
	remove_cgroup(service);
	remove_cgroup(spare);
}

static void write_to(const char *directory, const char *file, const char *text)
{
	char path[192];
	int fd;

	snprintf(path, sizeof(path), "%s/%s", directory, file);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	need_eq(fd >= 0, true);
	need_eq(write(fd, text, strlen(text)), (ssize_t)strlen(text));
	close(fd);
}

/* The only process in it; 0: there is none. */
static int only_member(const char *directory)
{
	char path[192];
	int pid = 0, other;
	FILE *file;

	snprintf(path, sizeof(path), "%s/cgroup.procs", directory);
	file = fopen(path, "re");
	ck_assert_ptr_nonnull(file);
	if (fscanf(file, "%d", &pid) == 1)
		ck_assert_int_ne(fscanf(file, "%d", &other), 1);
	fclose(file);
	return pid;
}

START_TEST(it_moves_into_a_cgroup) /* A10 */
{
	struct served served;
	char text[4096];

	if (!make_cgroups("cgroup.procs")) {
		tdt_skip("no cgroup can be made here");
		return;
	}
	served = start_served(TD_EXIT_OPTS(.cgroup = spare), wait_for_signals, NULL);
	ck_assert_int_eq(only_member(spare), served.helper);
	read_proc(served.process, "cgroup", text, sizeof(text));
	ck_assert_ptr_null(strstr(text, "td-test-"));
	kill_and_check(&served);
}
END_TEST

/* ---- the service's cgroup is killed, as its manager does ---- */

#define HELD (64 * MIB)

static void hold_in_service(const char *cgroup_of_helper, struct served *ret)
{
	int out[2];

	ck_assert_int_eq(pipe(out), 0);
	ret->process = fork();
	ck_assert_int_ge(ret->process, 0);
	if (ret->process == 0) {
		void *memory = mmap(NULL, HELD, PROT_READ | PROT_WRITE,
				    MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);

		alarm(CHILD_SECONDS);
		need_eq(memory != MAP_FAILED, true);
		write_to(service, "cgroup.procs", "0");
		need_eq(td_exit_arm(TD_EXIT_OPTS(.cgroup = cgroup_of_helper)), 0);
		ret->helper = helper_of_this();
		need_eq(write(out[1], &ret->helper, sizeof(ret->helper)),
			sizeof(ret->helper));
		wait_for_signals(NULL);
	}
	close(out[1]);
	ck_assert_int_eq(read(out[0], &ret->helper, sizeof(ret->helper)),
			 sizeof(ret->helper));
	close(out[0]);
}

START_TEST(it_outlives_the_kill_of_the_cgroup_that_it_left) /* A10 */
{
	struct served served;

	if (!make_cgroups("cgroup.kill")) {
		tdt_skip("no cgroup of v2 that could be killed");
		return;
	}
	hold_in_service(spare, &served);
	ck_assert_int_eq(only_member(service), served.process);
	write_to(service, "cgroup.kill", "1");
	ck_assert_int_eq(status_of(served.process), SIGKILL);
	check_helper_ended(&served);
}
END_TEST

/* Nothing is lost: the process's memory goes as it would have. */
START_TEST(else_it_is_killed_with_the_process) /* A10 */
{
	struct served served;

	if (!make_cgroups("cgroup.kill")) {
		tdt_skip("no cgroup of v2 that could be killed");
		return;
	}
	hold_in_service(NULL, &served);
	write_to(service, "cgroup.kill", "1");
	ck_assert_int_eq(status_of(served.process), SIGKILL);
	ck_assert_int_eq(status_of(served.helper), SIGKILL);
}
END_TEST

int main(void)
{
	struct tdt *tests = tdt_suite("exit_cgroup");

	tdt_add(tests, it_moves_into_a_cgroup, own_orphans, end);
	tdt_add(tests, it_outlives_the_kill_of_the_cgroup_that_it_left, own_orphans, end);
	tdt_add(tests, else_it_is_killed_with_the_process, own_orphans, end);
	return tdt_run(tests);
}
