/* SPDX-License-Identifier: MIT */
/*
 * The exit helper, however the process ends: who waits for it is told the truth at once,
 * and the helper gives the memory back, holds nothing of the process but its memory, and
 * is not ended by what ends the process.
 */
#include "exits.h"

#include <dirent.h>
#include <poll.h>
#include <sys/file.h>
#include <sys/ipc.h>
#include <sys/shm.h>

#define FILLED (64 * MIB)

static void fill(void)
{
	void *memory = mmap(NULL, FILLED, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	need(memory != MAP_FAILED);
	memset(memory, 1, FILLED);
}

/* ---- the ends of a process ---- */

static void end_by_exit(void *arg)
{
	fill();
	exit(*(int *)arg);
}

static void end_by__exit(void *arg)
{
	fill();
	_exit(*(int *)arg);
}

static void end_by_signal(void *arg)
{
	fill();
	signal(*(int *)arg, SIG_DFL);
	raise(*(int *)arg);
}

static void end_by_fault(void *arg)
{
	(void)arg;
	fill();
	signal(SIGSEGV, SIG_DFL); /* not the sanitizer's */
	*(volatile char *)mmap(NULL, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
			       0) = 1;
}

static void check_end(void (*end)(void *arg), int arg, int status)
{
	struct served served = start_served(NULL, end, &arg);

	ck_assert_int_eq(status_of(served.process) & ~0x80, status); /* no core counts */
	check_helper_ended(&served);
}

START_TEST(the_wait_status_is_true_however_it_ends) /* A10 */
{
	/* the sanitizers' own checks at the exit may change what exit says */
	check_end(end_by_exit, 0, 0);
	check_end(end_by_exit, 7, 7 << 8);
	check_end(end_by__exit, 9, 9 << 8);
	check_end(end_by_signal, SIGKILL, SIGKILL);
	check_end(end_by_signal, SIGTERM, SIGTERM);
	check_end(end_by_signal, SIGABRT, SIGABRT);
	check_end(end_by_fault, 0, SIGSEGV);
}
END_TEST

static unsigned long attached(int segment)
{
	struct shmid_ds about;

	ck_assert_int_eq(shmctl(segment, IPC_STAT, &about), 0);
	return about.shm_nattch;
}

static void attach(void *arg)
{
	need(shmat(*(int *)arg, NULL, 0) != (void *)-1);
	fill();
	kill(getpid(), SIGSTOP);
	wait_for_signals(NULL);
}

static void stop(pid_t pid)
{
	int status;

	ck_assert_int_eq(kill(pid, SIGSTOP), 0);
	ck_assert_int_eq(waitpid(pid, &status, WUNTRACED), pid);
	ck_assert(WIFSTOPPED(status));
}

/* What the kernel counts of a segment tells when the address space is no more. */
START_TEST(the_process_ends_first_and_its_memory_with_the_helper) /* A10 A12 */
{
	int segment = shmget(IPC_PRIVATE, MIB, 0600), status;
	struct served served;

	ck_assert_int_ge(segment, 0);
	served = start_served(NULL, attach, &segment);
	ck_assert_int_eq(waitpid(served.process, &status, WUNTRACED), served.process);
	ck_assert_int_eq(attached(segment), 1);
	stop(served.helper);
	kill(served.process, SIGKILL);
	ck_assert_int_eq(status_of(served.process), SIGKILL);
	ck_assert_int_eq(attached(segment), 1);
	kill(served.helper, SIGCONT);
	check_helper_ended(&served);
	ck_assert_int_eq(attached(segment), 0);
	shmctl(segment, IPC_RMID, NULL);
}
END_TEST

/* ---- what it holds ---- */

struct held {
	int pipe[2], file, kept;
	char path[64];
};

static bool is_one_of(const struct held *held, const char *link, int fd)
{
	return strncmp(link, "anon_inode:[pidfd]", 18) == 0 ||
	       strncmp(link, "pipe:", 5) == 0 ||
	       (held && fd == held->kept && strcmp(link, held->path) == 0);
}

static unsigned check_descriptors(pid_t helper, const struct held *held)
{
	unsigned nr = 0, pipes = 0;
	struct dirent *entry;
	char path[300], link[300];
	DIR *dir;

	snprintf(path, sizeof(path), "/proc/%d/fd", (int)helper);
	dir = opendir(path);
	ck_assert_ptr_nonnull(dir);
	while ((entry = readdir(dir))) {
		ssize_t length;

		if (entry->d_name[0] == '.')
			continue;
		snprintf(path, sizeof(path), "/proc/%d/fd/%s", (int)helper,
			 entry->d_name);
		length = readlink(path, link, sizeof(link) - 1);
		ck_assert_int_ge(length, 0);
		link[length] = '\0';
		ck_assert_msg(is_one_of(held, link, atoi(entry->d_name)),
			      "the helper holds %s: %s", entry->d_name, link);
		pipes += strncmp(link, "pipe:", 5) == 0;
		nr++;
	}
	closedir(dir);
	ck_assert_uint_eq(pipes, 1);
	return nr;
}

static void hold(struct held *held)
{
	snprintf(held->path, sizeof(held->path), "/tmp/td-test-exit-XXXXXX");
	held->file = mkstemp(held->path);
	ck_assert_int_ge(held->file, 0);
	ck_assert_int_eq(pipe(held->pipe), 0);
	held->kept = open(held->path, O_RDWR);
	ck_assert_int_ge(held->kept, 0);
}

static void let_go(struct held *held)
{
	unlink(held->path);
	close(held->file);
	close(held->kept);
	close(held->pipe[0]);
}

static void lock_and_wait(void *arg)
{
	const struct held *held = arg;
	int file = open(held->path, O_RDWR);

	/* a lock of this description, which only this process has */
	need_eq(flock(file, LOCK_EX | LOCK_NB), 0);
	kill(getpid(), SIGSTOP);
	wait_for_signals(NULL);
}

/* As soon as it has ended: the helper, which is stopped, has no part in it. */
START_TEST(locks_and_pipes_are_let_go_when_the_process_ends) /* A10 */
{
	struct served served;
	struct held held;
	int status;
	char byte;

	hold(&held);
	served = start_served(NULL, lock_and_wait, &held);
	close(held.pipe[1]);
	ck_assert_int_eq(waitpid(served.process, &status, WUNTRACED), served.process);
	ck_assert_uint_eq(check_descriptors(served.helper, NULL), 2);
	ck_assert_int_eq(flock(held.file, LOCK_EX | LOCK_NB), -1);
	stop(served.helper);
	kill(served.process, SIGKILL);
	ck_assert_int_eq(status_of(served.process), SIGKILL);
	ck_assert_int_eq(fcntl(held.pipe[0], F_SETFL, O_NONBLOCK), 0);
	ck_assert_int_eq(read(held.pipe[0], &byte, 1), 0); /* not -1: it has ended */
	ck_assert_int_eq(flock(held.file, LOCK_EX | LOCK_NB), 0);
	kill(served.helper, SIGCONT);
	check_helper_ended(&served);
	let_go(&held);
}
END_TEST

START_TEST(it_keeps_what_it_is_told_to) /* A10 */
{
	struct served served;
	struct held held;
	int keep[2];

	hold(&held);
	keep[0] = keep[1] = held.kept;
	served = start_served(TD_EXIT_OPTS(.keep_fds = keep, .nr_keep_fds = 2),
			      wait_for_signals, NULL);
	ck_assert_uint_eq(check_descriptors(served.helper, &held), 3);
	kill_and_check(&served);
	close(held.pipe[1]);
	let_go(&held);
}
END_TEST

static void count_descriptors(void *arg)
{
	(void)arg;
	for (int fd = 3; fd < 100; fd++)
		close(fd);
	/* it is not by a descriptor of this table that the helper is held */
	need(helper_of_this() > 0);
	need_eq(td_exit_disarm(), 0);
}

START_TEST(the_process_may_close_all_descriptors) /* A10 */
{
	struct served served = start_served(NULL, count_descriptors, NULL);

	ck_assert_int_eq(status_of(served.process), 0);
	check_helper_ended(&served);
}
END_TEST

/* ---- what ends it ---- */

static void lead_a_session(void *arg)
{
	(void)arg;
	kill(getpid(), SIGSTOP);
	wait_for_signals(NULL);
}

START_TEST(signals_to_the_group_do_not_end_it) /* A10 */
{
	static const int signals[] = {SIGINT,  SIGHUP,	SIGTERM, SIGQUIT, SIGTSTP,
				      SIGALRM, SIGUSR1, SIGPIPE, 33};
	struct served served = start_served(NULL, lead_a_session, NULL);
	int status;

	ck_assert_int_eq(waitpid(served.process, &status, WUNTRACED), served.process);
	ck_assert_int_eq(getsid(served.helper), served.helper);
	ck_assert_int_eq(getpgid(served.helper), served.helper);
	for (size_t i = 0; i < sizeof(signals) / sizeof(signals[0]); i++)
		ck_assert_int_eq(kill(served.helper, signals[i]), 0);
	kill_and_check(&served); /* with status 0, after all of those */
}
END_TEST

START_TEST(it_has_a_name_and_leaves_the_directory) /* A10 */
{
	struct served served = start_served(NULL, wait_for_signals, NULL);
	char name[32], wanted[32], path[64], cwd[64] = "";

	read_proc(served.helper, "comm", name, sizeof(name));
	snprintf(wanted, sizeof(wanted), "td-exit:%d\n", (int)served.process);
	ck_assert_str_eq(name, wanted);
	snprintf(path, sizeof(path), "/proc/%d/cwd", (int)served.helper);
	ck_assert_int_eq(readlink(path, cwd, sizeof(cwd)), 1);
	ck_assert_str_eq(cwd, "/");
	kill_and_check(&served);
}
END_TEST

/* ---- the calls ---- */

static bool is_readable(int fd)
{
	struct pollfd poll_fd = {.fd = fd, .events = POLLIN};

	return poll(&poll_fd, 1, 0) == 1;
}

static void arm_and_disarm(void *arg)
{
	struct td_exit_state state = {.size = sizeof(state)};
	int fd = -1;

	(void)arg;
	need_eq(td_exit_arm(NULL), -EALREADY);
	need_eq(td_exit_disarm(), 0);
	need_eq(td_exit_disarm(), -ENOENT);
	need_eq(td_exit_check(&state), -ENOENT);
	need_eq(state.pid, 0);
	need_eq(td_exit_pidfd(&fd), -ENOENT);
	need_eq(fd, -1);
	for (int i = 0; i < 20; i++) {
		need_eq(td_exit_arm(TD_EXIT_OPTS(.threads = 1 + (unsigned)i)), 0);
		need_eq(td_exit_pidfd(&fd), 0);
		need(fcntl(fd, F_GETFD) & FD_CLOEXEC);
		need(!is_readable(fd));
		need_eq(td_exit_disarm(), 0);
		need(is_readable(fd)); /* gone when that returns */
		close(fd);
	}
}

START_TEST(it_is_armed_once_and_disarmed_any_number_of_times) /* A10 */
{
	struct served served = start_served(NULL, arm_and_disarm, NULL);

	if (status_of(served.process) != 0)
		ck_abort_msg("the child says why");
}
END_TEST

static void refuse(void *arg)
{
	const struct td_exit_opts too_small = {.size = 4};
	const int bad[] = {-1, 1000000};
	struct tdt_footprint before = tdt_footprint(), after;

	(void)arg;
	need_eq(td_exit_arm(&too_small), -EINVAL);
	need_eq(td_exit_arm(TD_EXIT_OPTS(.flags = 1u << 20)), -EINVAL);
	need_eq(td_exit_arm(TD_EXIT_OPTS(.flags = TD_EXIT_OOM_SCORE_ADJ,
					 .oom_score_adj = 1001)),
		-EINVAL);
	need_eq(td_exit_arm(TD_EXIT_OPTS(.nr_keep_fds = 1)), -EINVAL);
	need_eq(td_exit_arm(TD_EXIT_OPTS(.keep_fds = bad, .nr_keep_fds = 1)), -EBADF);
	need_eq(td_exit_arm(TD_EXIT_OPTS(.keep_fds = bad + 1, .nr_keep_fds = 1)), -EBADF);
	need_eq(td_exit_arm(TD_EXIT_OPTS(.cgroup = "/nonexistent")), -ENOENT);
	need_eq(td_exit_check(&(struct td_exit_state){.size = 4}), -EINVAL);
	need_eq(td_exit_disarm(), -ENOENT);
	after = tdt_footprint();
	need_eq(after.descriptors, before.descriptors);
	need_eq(waitpid(-1, NULL, __WALL), -1);
}

START_TEST(bad_options_are_refused) /* A10 */
{
	ck_assert_int_eq(in_child(refuse, NULL), 0);
}
END_TEST

static void wait_for_any(void *arg)
{
	int status;
	pid_t pid;

	(void)arg;
	need_eq(waitpid(-1, NULL, WNOHANG), -1);
	need_eq(waitpid(-1, NULL, __WALL | WNOHANG), -1);
	need_eq(errno, ECHILD);
	pid = fork();
	if (pid == 0)
		_exit(4);
	need_eq(waitpid(-1, &status, 0), pid);
	need_eq(status, 4 << 8);
	need_eq(waitpid(-1, NULL, 0), -1);
}

START_TEST(a_wait_for_any_child_does_not_find_it) /* A10 */
{
	struct served served = start_served(NULL, wait_for_any, NULL);

	ck_assert_int_eq(status_of(served.process), 0);
	check_helper_ended(&served);
}
END_TEST

int main(void)
{
	struct tdt *tests = tdt_suite("exit");

	tdt_add(tests, the_wait_status_is_true_however_it_ends, own_orphans, end_orphans);
	tdt_add(tests, the_process_ends_first_and_its_memory_with_the_helper, own_orphans,
		end_orphans);
	tdt_add(tests, locks_and_pipes_are_let_go_when_the_process_ends, own_orphans,
		end_orphans);
	tdt_add(tests, it_keeps_what_it_is_told_to, own_orphans, end_orphans);
	tdt_add(tests, the_process_may_close_all_descriptors, own_orphans, end_orphans);
	tdt_add(tests, signals_to_the_group_do_not_end_it, own_orphans, end_orphans);
	tdt_add(tests, it_has_a_name_and_leaves_the_directory, own_orphans, end_orphans);
	tdt_add(tests, it_is_armed_once_and_disarmed_any_number_of_times, own_orphans,
		end_orphans);
	tdt_add(tests, bad_options_are_refused, own_orphans, end_orphans);
	tdt_add(tests, a_wait_for_any_child_does_not_find_it, own_orphans, end_orphans);
	return tdt_run(tests);
}
