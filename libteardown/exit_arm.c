/* SPDX-License-Identifier: MIT */
#include "exit_internal.h"
#include "procfs.h"
#include "sys.h"
#include "sys_process.h"

#include <inttypes.h>
#include <linux/capability.h>
#include <stdio.h>
#include <string.h>
#include <teardown/exit.h>

#define CREDENTIALS_SIZE 640

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_once_t watch_once = PTHREAD_ONCE_INIT;
static int watch_error;

/* Under the lock. */
static struct {
	struct tdi_exit_block *block; /* NULL: none was armed */
	pid_t process;
	bool is_inherited; /* a copy of the parent's */
	char credentials[CREDENTIALS_SIZE];
	int pipe_write; /* in this process's table; -1 */
	uint64_t pipe_inode;
} armed = {.pipe_write = -1};

/* ---- fork ---- */

/*
 * The child goes on with what the lock protects: a block that is just being made or freed
 * would be its to free, and the pipe of a helper that is being made its to close.
 */
static void before_fork(void)
{
	pthread_mutex_lock(&lock);
}

static void after_fork_in_parent(void)
{
	pthread_mutex_unlock(&lock);
}

static void after_fork_in_child(void)
{
	uint64_t inode;

	armed.is_inherited = armed.block != NULL;
	if (armed.pipe_write >= 0 && tdi_sys_inode(armed.pipe_write, &inode) == 0 &&
	    inode == armed.pipe_inode)
		(void)tdi_sys_close(armed.pipe_write);
	armed.pipe_write = -1;
	pthread_mutex_unlock(&lock);
}

static void watch(void)
{
	watch_error =
		-pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child);
}

/* Never without the handlers: the lock would stay locked in a child. */
static void enter(void)
{
	pthread_once(&watch_once, watch);
	pthread_mutex_lock(&lock);
}

/* Also of one that was made without the handler, or by vfork(2). */
static bool is_ours(void)
{
	return armed.block && !armed.is_inherited && armed.process == tdi_sys_getpid();
}

/* ---- credentials ---- */

/* Where there is no /proc: what the calling thread is told about itself. */
static void ask_credentials(char *ret)
{
	unsigned ids[6] = {0};
	uint64_t caps = 0;
	int length;

	(void)tdi_sys_ids(ids);
	(void)tdi_sys_caps(&caps);
	length = snprintf(ret, CREDENTIALS_SIZE, "caps %" PRIx64 " seccomp %d", caps,
			  tdi_sys_seccomp_mode());
	for (int i = 0; i < 6; i++)
		length += snprintf(ret + length, CREDENTIALS_SIZE - (size_t)length, " %u",
				   ids[i]);
}

/* The lines of /proc/self/status that say who the process is and what it may do. */
static void read_credentials(char *ret)
{
	static const char *const names[] = {
		"\nUid:",     "\nGid:",
		"\nCapInh:",  "\nCapPrm:",
		"\nCapEff:",  "\nCapBnd:",
		"\nCapAmb:",  "\nNoNewPrivs:",
		"\nSeccomp:", "\nSeccomp_filters:",
	};
	char text[8192];
	size_t length = 0;

	ret[0] = '\0';
	if (!tdi_procfs_text("/proc/self/status", text, sizeof(text))) {
		ask_credentials(ret);
		return;
	}
	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		const char *line = strstr(text, names[i]);
		size_t size = line ? strcspn(line + 1, "\n") + 1 : 0;

		if (length + size >= CREDENTIALS_SIZE)
			break;
		memcpy(ret + length, line ? line : "", size);
		length += size;
		ret[length] = '\0';
	}
}

/* ---- arming ---- */

/* As the kernel would answer later, when nobody hears it: lower only by who may. */
static int check_oom_score(const struct td_exit_opts *opts)
{
	char text[32];
	uint64_t caps;
	int now = 0, err;

	if (!(opts->flags & TD_EXIT_OOM_SCORE_ADJ))
		return 0;
	if (opts->oom_score_adj < -1000 || opts->oom_score_adj > 1000)
		return -EINVAL;
	if (!tdi_procfs_text("/proc/self/oom_score_adj", text, sizeof(text)) ||
	    sscanf(text, "%d", &now) != 1)
		return -ENOENT;
	err = tdi_sys_caps(&caps);
	if (!err && opts->oom_score_adj < now && !(caps >> CAP_SYS_RESOURCE & 1))
		err = -EACCES;
	return err;
}

static int check_opts(const struct td_exit_opts *opts)
{
	int err = 0;

	if (opts->flags & ~(unsigned)(TD_EXIT_OOM_SCORE_ADJ | TD_EXIT_KEEP_CAPS))
		return -EINVAL;
	if (opts->nr_keep_fds > 0 && !opts->keep_fds)
		return -EINVAL;
	for (unsigned i = 0; i < opts->nr_keep_fds && !err; i++)
		err = opts->keep_fds[i] < 0 ? -EBADF : tdi_sys_is_open(opts->keep_fds[i]);
	return err ? err : check_oom_score(opts);
}

static unsigned count_cpus(void)
{
	unsigned long cpus[4096 / (8 * sizeof(long))] = {0};
	unsigned nr = 0;

	if (tdi_sys_getaffinity(cpus, sizeof(cpus)) < 0)
		return 1;
	for (size_t i = 0; i < sizeof(cpus) / sizeof(cpus[0]); i++)
		nr += (unsigned)__builtin_popcountl(cpus[i]);
	return nr;
}

static int start(const struct td_exit_opts *opts, struct tdi_exit_block *block)
{
	uint32_t answer;
	int err;

	block->threads = opts->threads ? opts->threads : count_cpus();
	if (block->threads > TDI_EXIT_THREADS_MAX)
		block->threads = TDI_EXIT_THREADS_MAX;
	block->flags = opts->flags;
	block->oom_score_adj = opts->oom_score_adj;
	block->cgroup = opts->cgroup;
	block->process = tdi_sys_getpid();
	snprintf(block->name, sizeof(block->name), "td-exit:%d", (int)block->process);
	err = tdi_sys_thread_create_on(block->keeper_stack, block->keeper_stack_size,
				       &block->keeper_thread, tdi_exit_keep, block);
	if (err)
		return err;
	while ((answer = atomic_load_explicit(&block->answer, memory_order_acquire)) ==
	       TDI_EXIT_STARTING)
		(void)tdi_sys_futex_wait(&block->answer, answer, UINT64_MAX);
	if (answer != TDI_EXIT_FAILED)
		return 0;
	tdi_sys_thread_join(block->keeper_thread);
	return block->error;
}

static int arm(const struct td_exit_opts *opts)
{
	char credentials[CREDENTIALS_SIZE] = "";
	struct tdi_exit_block *block;
	int err;

	if (is_ours())
		return -EALREADY;
	/* The kernel kills all others when the first of a PID namespace ends, and lets
	 * that wait for them. */
	if (tdi_sys_getpid() == 1)
		return -EOPNOTSUPP;
	if (watch_error)
		return watch_error;
	err = check_opts(opts);
	if (!err)
		err = tdi_exit_block_make(opts->keep_fds, opts->nr_keep_fds, &block);
	if (err)
		return err;
	/* First: if another thread changes them meanwhile they are older. */
	read_credentials(credentials);
	err = start(opts, block);
	if (err) {
		tdi_exit_block_free(block);
		return err;
	}
	/* A copy of the parent's. In a child of vfork(2) it would be the parent's own. */
	if (armed.is_inherited)
		tdi_exit_block_free(armed.block);
	armed.block = block;
	armed.process = block->process;
	armed.is_inherited = false;
	armed.pipe_write = block->has_own_files ? -1 : block->pipe_write;
	armed.pipe_inode = block->pipe_inode;
	memcpy(armed.credentials, credentials, sizeof(credentials));
	return 0;
}

int td_exit_arm(const struct td_exit_opts *given)
{
	struct td_exit_opts opts = {.size = sizeof(opts)};
	int err = tdi_opts_take(&opts, sizeof(opts), given);

	if (err)
		return err == -E2BIG ? -EINVAL : err;
	enter();
	err = arm(&opts);
	pthread_mutex_unlock(&lock);
	return err;
}

/* ---- afterwards ---- */

int td_exit_disarm(void)
{
	struct tdi_exit_block *block = NULL;

	enter();
	if (is_ours()) {
		block = armed.block;
		atomic_fetch_or_explicit(&block->helper, TDI_EXIT_DISARMED,
					 memory_order_release);
		(void)tdi_bare_futex_wake(&block->helper);
		tdi_sys_thread_join(block->keeper_thread);
		tdi_exit_block_free(block);
		armed.block = NULL;
		armed.pipe_write = -1;
	}
	pthread_mutex_unlock(&lock);
	return block ? 0 : -ENOENT;
}

/* 0, -ENOENT, -ECHILD, -ESRCH. */
static int is_there(void)
{
	if (!armed.block)
		return -ENOENT;
	if (!is_ours())
		return -ECHILD;
	return atomic_load_explicit(&armed.block->helper, memory_order_acquire) &
			       TDI_EXIT_TID
		       ? 0
		       : -ESRCH;
}

int td_exit_check(struct td_exit_state *ret)
{
	struct td_exit_state state = {0};
	char credentials[CREDENTIALS_SIZE];
	size_t size = ret ? ret->size : sizeof(state);
	int err;

	if (size < sizeof(size_t))
		return -EINVAL;
	enter();
	err = is_there();
	if (!err) {
		read_credentials(credentials);
		if (strcmp(credentials, armed.credentials) != 0) {
			state.flags |= TD_EXIT_OLD_CREDENTIALS;
			err = -ESTALE;
		}
		if (armed.block->may_ask && armed.block->threads > 1)
			state.flags |= TD_EXIT_PARALLEL;
		state.pid = (int)armed.block->helper_pid;
	}
	pthread_mutex_unlock(&lock);
	if (ret && (err == 0 || err == -ESTALE)) {
		state.size = size;
		memcpy(ret, &state, tdi_min_size(size, sizeof(state)));
	}
	return err;
}

int td_exit_pidfd(int *ret)
{
	int err, fd = -1;

	enter();
	err = is_there();
	if (!err)
		fd = tdi_sys_pidfd_open((pid_t)armed.block->helper_pid);
	/* It was the helper's if that still lives. */
	if (!err && fd < 0)
		err = fd;
	else if (!err)
		err = is_there();
	pthread_mutex_unlock(&lock);
	if (!err)
		*ret = fd;
	else if (fd >= 0)
		(void)tdi_sys_close(fd);
	return err;
}
