/* SPDX-License-Identifier: MIT */
/*
 * The exit helper and what else becomes of a process: forks, exec, vfork, other
 * credentials, a daemon, a core dump, a helper that is killed.
 */
#include "exits.h"

#include <elf.h>
#include <sched.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>

static void stop_self(void)
{
	need_eq(kill(getpid(), SIGSTOP), 0);
}

/* Until it has done what comes before its stop_self(). */
static void await_stop(pid_t pid)
{
	int status;

	ck_assert_int_eq(waitpid(pid, &status, WUNTRACED), pid);
	ck_assert_msg(WIFSTOPPED(status), "status %#x", (unsigned)status);
}

static unsigned char *filled(size_t length)
{
	unsigned char *memory = mmap(NULL, length, PROT_READ | PROT_WRITE,
				     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	need(memory != MAP_FAILED);
	for (size_t i = 0; i < length; i++)
		memory[i] = (unsigned char)(i / 4096 * 7 + i);
	return memory;
}

static bool is_filled(const unsigned char *memory, size_t length)
{
	for (size_t i = 0; i < length; i++) {
		if (memory[i] != (unsigned char)(i / 4096 * 7 + i))
			return false;
	}
	return true;
}

/* ---- fork, vfork, exec ---- */

static void arm_in_child(void *arg)
{
	pid_t parents = *(pid_t *)arg;
	int fd = -1;

	need_eq(td_exit_check(NULL), -ECHILD);
	need_eq(td_exit_pidfd(&fd), -ECHILD);
	need_eq(td_exit_disarm(), -ENOENT);
	need_eq(td_exit_arm(NULL), 0);
	need_eq(td_exit_check(NULL), 0);
	need(helper_of_this() != parents);
	need_eq(td_exit_disarm(), 0);
	need_eq(td_exit_check(NULL), -ENOENT);
}

static void fork_twice(void *arg)
{
	pid_t own = helper_of_this();

	(void)arg;
	need_eq(in_child(arm_in_child, &own), 0);
	need_eq(helper_of_this(), own);
	need_eq(in_child(arm_in_child, &own), 0);
}

START_TEST(a_forked_child_has_none_and_arms_its_own) /* A10 */
{
	struct served served;

	if (skip_without_threads())
		return;
	served = start_served(NULL, fork_twice, NULL);
	ck_assert_int_eq(status_of(served.process), 0);
	check_helper_ended(&served);
}
END_TEST

static void become_another_program(void *arg)
{
	filled(16 * MIB);
	execl("/bin/sh", "sh", "-c", "kill -STOP $$; exit 5", (char *)NULL);
	(void)arg;
	_exit(1);
}

static void check_exec(const struct td_exit_opts *opts)
{
	struct served served = start_served(opts, become_another_program, NULL);

	await_stop(served.process);
	check_helper_ended(&served); /* with the old memory */
	kill(served.process, SIGCONT);
	ck_assert_int_eq(status_of(served.process), 5 << 8);
}

START_TEST(exec_ends_it_with_the_old_memory) /* A10 */
{
	check_exec(NULL);
	check_exec(TD_EXIT_OPTS(.threads = 1));
	check_exec(TD_EXIT_OPTS(.threads = 8));
}
END_TEST

static int vfork_pipe[2];

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wclobbered"
static void leave_a_vfork_child(void *arg)
{
	unsigned char *memory = filled(64 * MIB);
	char byte;
	pid_t pid;

	(void)arg;
	close(vfork_pipe[1]);
	pid = vfork();
	if (pid == 0) {
		/* here the test kills the parent, and waits for its helper */
		while (read(vfork_pipe[0], &byte, 1) == 1)
			;
		_exit(is_filled(memory, 64 * MIB) ? 6 : 7);
	}
}
#pragma GCC diagnostic pop

static pid_t only_child_of(pid_t pid)
{
	char name[64], text[64];
	int child;

	snprintf(name, sizeof(name), "task/%d/children", (int)pid);
	do
		read_proc(pid, name, text, sizeof(text));
	while (sscanf(text, "%d", &child) != 1);
	return child;
}

/* It looks whether it is alone with the memory, and leaves it as it is if not. */
START_TEST(a_vfork_child_of_the_dead_keeps_its_memory) /* A10 */
{
	struct served served;
	pid_t child;

#ifdef __SANITIZE_THREAD__
	tdt_skip("ThreadSanitizer makes a fork of vfork");
	return;
#endif
	ck_assert_int_eq(pipe(vfork_pipe), 0);
	served = start_served(NULL, leave_a_vfork_child, NULL);
	close(vfork_pipe[0]);
	child = only_child_of(served.process);
	kill_and_check(&served);
	close(vfork_pipe[1]);
	ck_assert_int_eq(status_of(child), 6 << 8);
}
END_TEST

/* ---- who the process is ---- */

static void change_user(void *arg)
{
	struct td_exit_state state = {.size = sizeof(state)};
	pid_t helper = helper_of_this();

	(void)arg;
	need_eq(setgid(65534), 0);
	need_eq(setuid(65534), 0);
	need_eq(td_exit_check(&state), -ESTALE);
	need(state.flags & TD_EXIT_OLD_CREDENTIALS);
	need_eq(state.pid, helper);
	need_eq(td_exit_check(NULL), -ESTALE);
	need_eq(kill(helper, 0), -1); /* too late to reach it in another way */
	need_eq(td_exit_disarm(), 0);
	need_eq(td_exit_arm(NULL), 0);
	need_eq(td_exit_check(NULL), 0);
	need_eq(td_exit_disarm(), 0);
}

START_TEST(other_credentials_are_noticed_and_disarming_still_works) /* A10 */
{
	struct served served;

	if (getuid() != 0) {
		tdt_skip("only root changes its user");
		return;
	}
	served = start_served(NULL, change_user, NULL);
	ck_assert_int_eq(status_of(served.process), 0);
	check_helper_ended(&served);
}
END_TEST

static uint64_t capabilities_of(pid_t pid)
{
	char text[4096];
	const char *line;
	unsigned long long caps;

	read_proc(pid, "status", text, sizeof(text));
	line = strstr(text, "CapPrm:");
	ck_assert_int_eq(sscanf(line, "CapPrm: %llx", &caps), 1);
	return caps;
}

START_TEST(it_drops_capabilities_unless_told_to_keep_them) /* A10 */
{
	struct served served = start_served(NULL, wait_for_signals, NULL);
	uint64_t own = capabilities_of(getpid());

	ck_assert_uint_eq(capabilities_of(served.helper), 0);
	ck_assert_uint_eq(capabilities_of(served.process), own);
	kill_and_check(&served);
	served = start_served(TD_EXIT_OPTS(.flags = TD_EXIT_KEEP_CAPS), wait_for_signals,
			      NULL);
	ck_assert_uint_eq(capabilities_of(served.helper), own);
	kill_and_check(&served);
}
END_TEST

static int oom_score_of(pid_t pid)
{
	char text[32];

	read_proc(pid, "oom_score_adj", text, sizeof(text));
	return atoi(text);
}

/* The kernel has one for all who share memory. */
START_TEST(the_score_of_the_process_stays_its_own) /* A10 */
{
	int before = oom_score_of(getpid());
	struct served served = start_served(
		TD_EXIT_OPTS(.flags = TD_EXIT_OOM_SCORE_ADJ, .oom_score_adj = 500),
		wait_for_signals, NULL);

	ck_assert_int_eq(oom_score_of(served.process), before);
	kill_and_check(&served);
}
END_TEST

static void lose_helper(void *arg)
{
	pid_t helper = helper_of_this();

	(void)arg;
	need_eq(kill(helper, SIGKILL), 0);
	while (td_exit_check(NULL) == 0)
		usleep(100);
	need_eq(td_exit_check(NULL), -ESRCH);
	need_eq(td_exit_arm(NULL), -EALREADY);
	need_eq(waitpid(-1, NULL, __WALL), -1); /* no zombie of its */
	need_eq(errno, ECHILD);
	need_eq(td_exit_disarm(), 0);
	need_eq(td_exit_arm(NULL), 0);
	need_eq(td_exit_check(NULL), 0);
	need_eq(td_exit_disarm(), 0);
}

START_TEST(that_it_was_killed_is_noticed) /* A10 */
{
	struct served served = start_served(NULL, lose_helper, NULL);

	ck_assert_int_eq(status_of(served.process), 0);
	ck_assert_int_eq(status_of(served.helper), SIGKILL);
}
END_TEST

static void disarm_stopped(void *arg)
{
	(void)arg;
	need_eq(kill(helper_of_this(), SIGSTOP), 0);
	need_eq(td_exit_disarm(), 0);
}

START_TEST(a_stopped_one_is_disarmed_by_force) /* A10 */
{
	struct served served = start_served(NULL, disarm_stopped, NULL);

	ck_assert_int_eq(status_of(served.process), 0);
	ck_assert_int_eq(status_of(served.helper), SIGKILL);
}
END_TEST

static void daemonize_and_arm(void *arg)
{
	int out = *(int *)arg;
	pid_t pids[2];

	if (fork() > 0)
		_exit(0);
	setsid();
	if (fork() > 0)
		_exit(0);
	need_eq(td_exit_arm(NULL), 0);
	pids[0] = getpid();
	pids[1] = helper_of_this();
	need_eq(write(out, pids, sizeof(pids)), sizeof(pids));
	stop_self();
}

START_TEST(a_daemon_arms_when_it_has_become_one) /* A10 */
{
	struct served served;
	int out[2], status;
	pid_t pids[2];

	ck_assert_int_eq(pipe(out), 0);
	ck_assert_int_eq(in_child(daemonize_and_arm, out + 1), 0);
	ck_assert_int_eq(read(out[0], pids, sizeof(pids)), sizeof(pids));
	served.process = pids[0];
	served.helper = pids[1];
	ck_assert_int_ne(getsid(served.helper), getsid(served.process));
	kill(served.process, SIGKILL);
	while (waitpid(served.process, &status, 0) != served.process)
		;
	ck_assert_int_eq(status, SIGKILL);
	check_helper_ended(&served);
}
END_TEST

/* ---- a core dump ---- */

#define DUMPED (32 * MIB)
#define CORE_PATTERN "/proc/sys/kernel/core_pattern"

static unsigned char *dumped;

static void crash(void *arg)
{
	struct rlimit all = {RLIM_INFINITY, RLIM_INFINITY};

	need_eq(chdir(arg), 0);
	need_eq(setrlimit(RLIMIT_CORE, &all), 0);
	for (size_t i = 0; i < DUMPED; i++)
		dumped[i] = (unsigned char)(i / 4096 * 7 + i);
	signal(SIGSEGV, SIG_DFL);
	raise(SIGSEGV);
}

/* The dumped memory, from the program headers of a core. */
static void check_core(const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	unsigned char *memory = malloc(DUMPED);
	bool found = false;
	Elf64_Ehdr head;
	Elf64_Phdr part;

	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(pread(fd, &head, sizeof(head), 0), sizeof(head));
	ck_assert_int_eq(memcmp(head.e_ident, ELFMAG, SELFMAG), 0);
	for (int i = 0; i < head.e_phnum && !found; i++) {
		ck_assert_int_eq(pread(fd, &part, sizeof(part),
				       (off_t)(head.e_phoff + i * sizeof(part))),
				 sizeof(part));
		found = part.p_type == PT_LOAD && part.p_vaddr <= (uintptr_t)dumped &&
			part.p_vaddr + part.p_filesz >= (uintptr_t)dumped + DUMPED;
	}
	ck_assert(found);
	ck_assert_int_eq(
		pread(fd, memory, DUMPED,
		      (off_t)(part.p_offset + ((uintptr_t)dumped - part.p_vaddr))),
		DUMPED);
	ck_assert(is_filled(memory, DUMPED));
	free(memory);
	close(fd);
}

START_TEST(a_core_dump_is_whole) /* A10 */
{
	char pattern[256] = "", dir[] = "/tmp/td-test-core-XXXXXX", path[300];
	int fd = open(CORE_PATTERN, O_RDONLY | O_CLOEXEC), status;
	struct served served;

	if (TDT_SANITIZED) {
		tdt_skip("a sanitizer's shadow does not go into a core");
		return;
	}
	if (fd < 0 || read(fd, pattern, sizeof(pattern) - 1) <= 0 ||
	    strpbrk(pattern, "|/%") || access("/proc/sys/kernel/core_uses_pid", R_OK)) {
		tdt_skip("cores do not go to the working directory here: %s", pattern);
		return;
	}
	close(fd);
	ck_assert_ptr_nonnull(mkdtemp(dir));
	dumped = tdt_map_anon(DUMPED);
	served = start_served(NULL, crash, dir);
	status = status_of(served.process);
	check_helper_ended(&served);
	ck_assert_int_eq(status & 0x7f, SIGSEGV);
	ck_assert_msg(WCOREDUMP(status), "no core was dumped");
	pattern[strcspn(pattern, "\n")] = '\0';
	snprintf(path, sizeof(path), "%s/%s", dir, pattern);
	if (access(path, R_OK) != 0)
		snprintf(path, sizeof(path), "%s/%s.%d", dir, pattern,
			 (int)served.process);
	check_core(path);
	unlink(path);
	rmdir(dir);
}
END_TEST

int main(void)
{
	struct tdt *tests = tdt_suite("exit_around");

	tdt_add(tests, a_forked_child_has_none_and_arms_its_own, own_orphans,
		end_orphans);
	tdt_add(tests, exec_ends_it_with_the_old_memory, own_orphans, end_orphans);
	tdt_add(tests, a_vfork_child_of_the_dead_keeps_its_memory, own_orphans,
		end_orphans);
	tdt_add(tests, other_credentials_are_noticed_and_disarming_still_works,
		own_orphans, end_orphans);
	tdt_add(tests, it_drops_capabilities_unless_told_to_keep_them, own_orphans,
		end_orphans);
	tdt_add(tests, the_score_of_the_process_stays_its_own, own_orphans, end_orphans);
	tdt_add(tests, that_it_was_killed_is_noticed, own_orphans, end_orphans);
	tdt_add(tests, a_stopped_one_is_disarmed_by_force, own_orphans, end_orphans);
	tdt_add(tests, a_daemon_arms_when_it_has_become_one, own_orphans, end_orphans);
	tdt_add(tests, a_core_dump_is_whole, own_orphans, end_orphans);
	return tdt_run(tests);
}
