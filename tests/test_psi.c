/* SPDX-License-Identifier: MIT */
/*
 * B5: the kernel's word on memory pressure. The kernel is played here (the linker's
 * --wrap): its files of pressure are eventfds, which become ready when a test says that a
 * trigger fires. A real one is in guest/test_psi.c.
 */
#include "job.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <teardown/pressure.h>
#include <unistd.h>

/* ---- the kernel ---- */

#define FILES 8

static struct {
	char path[200], trigger[40];
	int fd;
} files[FILES];
static unsigned nr_files;
static const char *group = "0::/host.slice/one\n";
static const char *mounts = "22 1 0:20 / /sys rw - sysfs sysfs rw\n"
			    "30 22 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 "
			    "cgroup2 rw\n";
static int open_error, trigger_error, poll_error;
static atomic_uint polls;
static atomic_bool broken; /* each trigger is in error, as when its group has gone */

int __real_tdi_sys_open(const char *path, int flags);
int __wrap_tdi_sys_open(const char *path, int flags);
ssize_t __real_tdi_sys_write(int fd, const void *buf, size_t size);
ssize_t __wrap_tdi_sys_write(int fd, const void *buf, size_t size);
int __real_tdi_sys_poll(struct pollfd *fds, unsigned nr, uint64_t deadline_ns);
int __wrap_tdi_sys_poll(struct pollfd *fds, unsigned nr, uint64_t deadline_ns);

static int text_file(const char *text)
{
	int fd = memfd_create("text", MFD_CLOEXEC);

	if (write(fd, text, strlen(text)) < 0 || lseek(fd, 0, SEEK_SET) < 0)
		return -EIO;
	return fd;
}

int __wrap_tdi_sys_open(const char *path, int flags)
{
	if (strcmp(path, "/proc/self/cgroup") == 0)
		return group ? text_file(group) : -ENOENT;
	if (strcmp(path, "/proc/self/mountinfo") == 0)
		return mounts ? text_file(mounts) : -ENOENT;
	if (!strstr(path, "pressure"))
		return __real_tdi_sys_open(path, flags);
	if (open_error)
		return open_error;
	snprintf(files[nr_files].path, sizeof(files[0].path), "%s", path);
	files[nr_files].fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	return files[nr_files++].fd;
}

ssize_t __wrap_tdi_sys_write(int fd, const void *buf, size_t size)
{
	for (unsigned i = 0; i < nr_files; i++) {
		if (files[i].fd != fd || files[i].trigger[0])
			continue;
		if (trigger_error) {
			files[i].fd = -1;
			return trigger_error;
		}
		/* with its NUL */
		memcpy(files[i].trigger, buf, size);
		return (ssize_t)size;
	}
	return __real_tdi_sys_write(fd, buf, size);
}

int __wrap_tdi_sys_poll(struct pollfd *fds, unsigned nr, uint64_t deadline_ns)
{
	uint64_t value;
	int ready;

	atomic_fetch_add(&polls, 1);
	if (poll_error)
		return poll_error;
	for (unsigned i = 1; i < nr; i++)
		fds[i].events = POLLIN;
	ready = __real_tdi_sys_poll(fds, nr, deadline_ns);
	for (unsigned i = 1; i < nr; i++) {
		if (!(fds[i].revents & POLLIN))
			continue;
		if (read(fds[i].fd, &value, sizeof(value)) < 0)
			return -EIO;
		fds[i].revents = POLLPRI | (atomic_load(&broken) ? POLLERR : 0);
	}
	return ready;
}

static void fire(const char *path, const char *word)
{
	uint64_t one = 1;

	for (unsigned i = 0; i < nr_files; i++) {
		if (strcmp(files[i].path, path) != 0 ||
		    strncmp(files[i].trigger, word, strlen(word)) != 0)
			continue;
		ck_assert_int_eq(write(files[i].fd, &one, sizeof(one)), sizeof(one));
		return;
	}
	ck_abort_msg("there is no trigger '%s' on %s", word, path);
}

/* ---- who hears of it ---- */

struct heard {
	struct td_shrinker shrinker;
	sem_t told;
	_Atomic(enum td_pressure) level;
	char thread[16]; /* of the first call */
	struct job *submit;
};

static uint64_t hear(struct td_shrinker *shrinker, enum td_pressure level)
{
	struct heard *heard = tdi_container_of(shrinker, struct heard, shrinker);

	/* It cannot be over before we return, however long that is. */
	ck_assert_uint_eq(stats().pressure, (uint64_t)level);
	ck_assert_uint_eq(tdi_engine_slice_ns(engine),
			  TDI_SLICE_NS * (level ? TDI_FAST_TIMES : 1));
	if (!heard->thread[0])
		pthread_getname_np(pthread_self(), heard->thread, sizeof(heard->thread));
	if (level == TD_PRESSURE_FULL && heard->submit) {
		ck_assert_int_eq(td_engine_submit(engine, &heard->submit->work), 0);
		ck_assert(pthread_equal(heard->submit->ran_on, pthread_self()));
		heard->submit = NULL;
	}
	atomic_store(&heard->level, level);
	sem_post(&heard->told);
	return 0;
}

static struct heard heard;

static void make(void)
{
	ck_assert_int_eq(
		td_engine_create(TD_ENGINE_OPTS(.flags = TD_ENGINE_PSI, .reapers = 1),
				 &engine),
		0);
}

static void make_and_listen(void)
{
	make();
	ck_assert_uint_eq(stats().psi_watched, 1);
	heard = (struct heard){.shrinker.shrink = hear};
	sem_init(&heard.told, 0, 0);
	ck_assert_int_eq(td_engine_add_shrinker(engine, &heard.shrinker), 0);
}

static void listen_no_more(void)
{
	ck_assert_int_eq(td_engine_remove_shrinker(engine, &heard.shrinker), 0);
	teardown();
}

static void await_level(enum td_pressure level)
{
	do {
		sem_wait(&heard.told);
	} while (atomic_load(&heard.level) != level);
}

#define SYSTEM "/proc/pressure/memory"
#define GROUP "/sys/fs/cgroup/host.slice/one/memory.pressure"

START_TEST(triggers_are_those_that_anybody_may_have)
{
	make();
	ck_assert_uint_eq(stats().psi_watched, 1);
	ck_assert_uint_eq(nr_files, 3);
	ck_assert_str_eq(files[0].path, SYSTEM);
	ck_assert_str_eq(files[0].trigger, "some 150000 2000000");
	ck_assert_str_eq(files[1].path, GROUP);
	ck_assert_str_eq(files[1].trigger, "some 150000 2000000");
	ck_assert_str_eq(files[2].path, GROUP);
	ck_assert_str_eq(files[2].trigger, "full 100000 2000000");
	teardown();
}
END_TEST

START_TEST(an_event_is_told_by_the_thread_that_watches)
{
	make_and_listen();
	fire(SYSTEM, "some");
	await_level(TD_PRESSURE_SOME);
	ck_assert_str_eq(heard.thread, "reaper/psi");
	ck_assert_uint_ge(stats().pressure_events, 1);
	fire(GROUP, "full");
	fire(GROUP, "some");
	await_level(TD_PRESSURE_FULL);
	listen_no_more();
}
END_TEST

/* Two windows are 4 s. */
START_TEST(it_is_over_when_nothing_came_for_two_windows)
{
	uint64_t began = tdi_sys_now_ns();
	struct job job;

	make_and_listen();
	job_init(&job, 1);
	heard.submit = &job;
	fire(GROUP, "full");
	await_level(TD_PRESSURE_FULL);
	sem_wait(&job.done);
	await_level(TD_PRESSURE_NONE);
	ck_assert_uint_ge(tdi_sys_now_ns() - began, 2 * TDI_PSI_WINDOW_NS);
	ck_assert_uint_eq(stats().pressure_events, 1);
	listen_no_more();
}
END_TEST

START_TEST(while_nothing_happens_it_sleeps)
{
	unsigned before;

	make_and_listen();
	fire(SYSTEM, "some");
	await_level(TD_PRESSURE_SOME);
	before = atomic_load(&polls);
	ck_assert_uint_le(before, 3);
	ck_assert_int_eq(td_engine_drain(engine, 0), 0);
	ck_assert_uint_le(atomic_load(&polls), before + 1);
	listen_no_more();
}
END_TEST

/* ---- where there is none ---- */

static void check_none(void)
{
	struct tdt_footprint before, after;

	setup(); /* whatever comes with a first engine */
	teardown();
	before = tdt_footprint();
	make();
	ck_assert_uint_eq(stats().psi_watched, 0);
	ck_assert_uint_eq(stats().pressure, TD_PRESSURE_NONE);
	after = tdt_footprint();
	ck_assert_uint_eq(after.descriptors, before.descriptors);
	ck_assert_int_eq(td_engine_pressure(engine, TD_PRESSURE_SOME, NULL), 0);
	ck_assert_uint_eq(stats().pressure, TD_PRESSURE_SOME);
	teardown();
}

START_TEST(a_kernel_without_it_is_not_watched)
{
	open_error = -ENOENT;
	check_none();
}
END_TEST

START_TEST(a_kernel_that_refuses_is_not_watched)
{
	trigger_error = -EINVAL;
	check_none();
}
END_TEST

START_TEST(a_thread_or_a_descriptor_that_cannot_be_had_fails_no_engine)
{
	static const enum tdi_sys_call calls[] = {TDI_SYS_eventfd, TDI_SYS_thread_create};

	for (unsigned i = 0; i < 2; i++) {
		/* The reaper's thread and that of grace periods come first. */
		tdt_fail(calls[i], -EAGAIN, i == 0 ? 0 : 2, 1);
		make();
		ck_assert_uint_eq(stats().psi_watched, 0);
		teardown();
		tdt_fail_none();
	}
}
END_TEST

START_TEST(an_engine_that_does_not_ask_is_not_watched)
{
	setup();
	ck_assert_uint_eq(stats().psi_watched, 0);
	ck_assert_uint_eq(nr_files, 0);
	teardown();
}
END_TEST

/* ---- the group ---- */

static void check_group(const char *cgroup, const char *mountinfo, const char *path)
{
	char found[300] = "none";

	group = cgroup;
	mounts = mountinfo;
	ck_assert_int_eq(tdi_psi_group(found, sizeof(found)), path != NULL);
	if (path)
		ck_assert_str_eq(found, path);
}

#define V2 "30 22 0:26 / /sys/fs/cgroup rw - cgroup2 none rw\n"

START_TEST(the_group_is_found_wherever_it_is_mounted)
{
	static char many[200000];

	check_group("0::/a/b\n", V2, "/sys/fs/cgroup/a/b");
	/* beside version 1 */
	check_group("3:memory:/x\n1:name=systemd:/y\n0::/a\n",
		    "29 22 0:25 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
		    "30 22 0:26 / /sys/fs/cgroup/unified rw shared:9 master:1 - cgroup2 "
		    "none rw\n",
		    "/sys/fs/cgroup/unified/a");
	/* a part of the hierarchy, as in a container */
	check_group("0::/docker/1/own\n", "30 22 0:26 /docker/1 /cg rw - cgroup2 c rw\n",
		    "/cg/own");
	check_group("0::/docker/12\n", "30 22 0:26 /docker/1 /cg rw - cgroup2 c rw\n",
		    NULL);
	/* the second of two */
	check_group("0::/b/c\n",
		    "30 22 0:26 /a /cg/a rw - cgroup2 c rw\n"
		    "31 22 0:26 /b /cg/b rw - cgroup2 c rw\n",
		    "/cg/b/c");
	/* none */
	check_group("0::/\n", V2, NULL);
	check_group("3:memory:/x\n", V2, NULL);
	check_group("0::/a\n", "22 1 0:20 / /sys rw - sysfs sysfs rw\n", NULL);
	check_group("0::/a\n", " - cgroup2 \n", NULL);
	check_group("0::/a\n", "", NULL);
	check_group("", V2, NULL);
	check_group(NULL, V2, NULL);
	check_group("0::/a\n", NULL, NULL);
	/* behind thousands of other mounts, without a last newline, and with a long line
	 */
	memset(many, 'x', sizeof(many));
	for (size_t i = 70; i < sizeof(many) - 1000; i += 71)
		many[i] = '\n';
	strcpy(many + sizeof(many) - 100, "\n30 22 0:26 / /cg rw - cgroup2 c rw");
	check_group("0::/a", many, "/cg/a");
}
END_TEST

START_TEST(a_path_that_is_too_long_is_no_group)
{
	static char cgroup[2000], found[20];

	memset(cgroup, 'a', sizeof(cgroup) - 1);
	memcpy(cgroup, "0::/", 4);
	check_group(cgroup, V2, NULL);
	group = "0::/a-name-of-some-length\n";
	ck_assert(!tdi_psi_group(found, sizeof(found)));
}
END_TEST

/* ---- what can happen to it ---- */

START_TEST(a_group_that_is_removed_is_watched_no_more_and_the_rest_is)
{
	make_and_listen();
	atomic_store(&broken, true);
	fire(GROUP, "full");
	while (stats().pressure_events == 0 && atomic_load(&polls) < 2)
		sched_yield();
	atomic_store(&broken, false);
	fire(SYSTEM, "some");
	await_level(TD_PRESSURE_SOME);
	ck_assert_uint_eq(stats().pressure_events, 1);
	listen_no_more();
}
END_TEST

START_TEST(a_poll_that_fails_ends_the_watch_and_says_so)
{
	poll_error = -ENOMEM;
	make();
	while (stats().psi_watched)
		sched_yield();
	teardown();
}
END_TEST

START_TEST(interrupted_polls_are_nothing)
{
	tdt_fail(TDI_SYS_poll, -EINTR, 0, 3);
	make_and_listen();
	fire(SYSTEM, "some");
	await_level(TD_PRESSURE_SOME);
	listen_no_more();
}
END_TEST

START_TEST(a_stop_is_repeated_until_it_is_heard)
{
	make();
	tdt_fail(TDI_SYS_write, -EAGAIN, 0, 3);
	teardown();
	ck_assert_uint_ge(tdt_calls(TDI_SYS_write), 4);
}
END_TEST

/* As a daemon does that closes all it does not know. */
START_TEST(descriptors_that_the_host_closed_are_left_alone)
{
	make();
	for (unsigned i = 0; i < nr_files; i++)
		ck_assert_int_eq(close(files[i].fd), 0);
	tdt_fail(TDI_SYS_close, -EIO, 0, 100);
	/* It sees that when it is woken. */
	teardown();
	ck_assert_uint_eq(tdt_calls(TDI_SYS_close), 0);
}
END_TEST

START_TEST(a_child_has_none_until_it_restarts_and_its_parent_goes_on)
{
	size_t descriptors;
	pid_t child;
	int status;

	make_and_listen();
	descriptors = tdt_footprint().descriptors;
	child = fork();
	if (child == 0) {
		struct td_engine_stats now;

		if (td_engine_stats(engine, &now) != -ECHILD)
			_exit(1);
#ifdef __SANITIZE_THREAD__ /* which does not let a forked child start threads */
		_exit(0);
#endif
		/* Its copies of the parent's are closed, and it has its own. */
		nr_files = 0;
		memset(files, 0, sizeof(files));
		if (td_engine_restart(engine) != 0 ||
		    td_engine_stats(engine, &now) != 0 || now.psi_watched != 1)
			_exit(2);
		if (tdt_footprint().descriptors != descriptors)
			_exit(3);
		_exit(td_engine_destroy(engine, TD_EXIT_DRAIN, 0) ? 4 : 0);
	}
	ck_assert_int_eq(waitpid(child, &status, 0), child);
	ck_assert_int_eq(status, 0);
	fire(SYSTEM, "some");
	await_level(TD_PRESSURE_SOME);
	listen_no_more();
}
END_TEST

START_TEST(engines_that_are_watched_come_and_go_without_a_trace)
{
	struct tdt_footprint before;

	for (int i = 0; i < 200; i++) {
		nr_files = 0;
		memset(files, 0, sizeof(files));
		make();
		teardown();
		if (i == 20)
			before = tdt_footprint();
	}
	tdt_await_threads(before.threads);
	ck_assert_uint_eq(tdt_footprint().descriptors, before.descriptors);
	tdt_check_mappings(before.mappings, 4);
}
END_TEST

int main(void)
{
	struct tdt *tests = tdt_suite("psi");
	const TTest *all[] = {
		triggers_are_those_that_anybody_may_have,
		an_event_is_told_by_the_thread_that_watches,
		it_is_over_when_nothing_came_for_two_windows,
		while_nothing_happens_it_sleeps,
		a_kernel_without_it_is_not_watched,
		a_kernel_that_refuses_is_not_watched,
		a_thread_or_a_descriptor_that_cannot_be_had_fails_no_engine,
		an_engine_that_does_not_ask_is_not_watched,
		the_group_is_found_wherever_it_is_mounted,
		a_path_that_is_too_long_is_no_group,
		a_group_that_is_removed_is_watched_no_more_and_the_rest_is,
		a_poll_that_fails_ends_the_watch_and_says_so,
		interrupted_polls_are_nothing,
		a_stop_is_repeated_until_it_is_heard,
		descriptors_that_the_host_closed_are_left_alone,
		a_child_has_none_until_it_restarts_and_its_parent_goes_on,
		engines_that_are_watched_come_and_go_without_a_trace,
	};

	for (size_t i = 0; i < sizeof(all) / sizeof(*all); i++)
		tdt_add(tests, all[i], NULL, NULL);
	return tdt_run(tests);
}
