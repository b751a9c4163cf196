/* SPDX-License-Identifier: MIT */
/*
 * What runs in the helper. While it sets itself up the process is whole and the keeper
 * sleeps. When the process has ended, all that it uses is its block, and code.
 */
#include "exit_internal.h"
#include "sys_process.h"

#include <fcntl.h>
#include <limits.h>
#include <linux/capability.h>
#include <sched.h>
#include <teardown/exit.h>

#define WORKER_FLAGS                                                                     \
	(CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM)

/* ---- setting itself up ---- */

static bool is_kept(const int *keep, unsigned nr, int fd)
{
	for (unsigned i = 0; i < nr; i++) {
		if (keep[i] == fd)
			return true;
	}
	return false;
}

static int number(const char *text)
{
	int value = 0;

	for (; *text >= '0' && *text <= '9'; text++)
		value = value * 10 + (*text - '0');
	return value;
}

/* As getdents64(2) writes them. */
struct entry {
	uint64_t inode, offset;
	unsigned short length;
	unsigned char type;
	char name[];
};

/* Before Linux 5.9, or under a filter. Of the thread: the keeper's table is its own. One
 * that changes while it is read is read again. */
static int close_one_by_one(const int *keep, unsigned nr, char *text, size_t size)
{
	int dir = tdi_bare_open("/proc/thread-self/fd", O_RDONLY | O_DIRECTORY);
	bool closed = true;
	ssize_t got = 0;
	int err = 0;

	if (dir < 0)
		return dir;
	while (closed) {
		(void)tdi_bare_close(dir);
		dir = tdi_bare_open("/proc/thread-self/fd", O_RDONLY | O_DIRECTORY);
		if (dir < 0)
			return dir;
		closed = false;
		while ((got = tdi_bare_getdents(dir, text, size)) > 0) {
			for (ssize_t at = 0; at < got;) {
				const struct entry *entry =
					(const struct entry *)(void *)(text + at);
				int fd = number(entry->name);

				at += entry->length;
				if (entry->name[0] == '.' || fd == dir ||
				    is_kept(keep, nr, fd))
					continue;
				err = tdi_bare_close(fd);
				/* A filter: it would be there for ever. */
				if (err == -EPERM || err == -ENOSYS)
					goto out;
				closed = true;
			}
		}
		err = (int)got;
		if (err < 0)
			break;
	}
out:
	(void)tdi_bare_close(dir);
	return err;
}

int tdi_exit_close_all_but(const int *keep, unsigned nr, char *text, size_t size)
{
	unsigned from = 0;
	int err = 0;

	for (unsigned i = 0; i <= nr && !err; i++) {
		unsigned to = i < nr ? (unsigned)keep[i] : UINT_MAX;

		if (i == nr || from < to)
			err = tdi_sys_close_range(from, i < nr ? to - 1 : to);
		from = to + 1;
	}
	if (err == -ENOSYS || err == -EPERM)
		err = close_one_by_one(keep, nr, text, size);
	return err;
}

static int enter_cgroup(struct tdi_exit_block *block)
{
	static const char file[] = "/cgroup.procs";
	char *path = block->text;
	size_t length = 0;

	if (!block->cgroup)
		return 0;
	while (block->cgroup[length]) {
		if (length + sizeof(file) >= TDI_EXIT_TEXT_SIZE)
			return -ENAMETOOLONG;
		path[length] = block->cgroup[length];
		length++;
	}
	for (size_t i = 0; i < sizeof(file); i++)
		path[length + i] = file[i];
	/* By itself, when it is there: CLONE_INTO_CGROUP is of clone3(2) only, which the
	 * C library does not offer, and of v2. "0" is who writes, in v1 and v2 alike. */
	return tdi_sys_write_file(path, "0");
}

static int set_up(struct tdi_exit_block *block)
{
	bool lowers = block->flags & TD_EXIT_OOM_SCORE_ADJ && block->oom_score_adj < 0;
	int err = tdi_sys_block_signals();

	if (!err)
		err = tdi_sys_setsid();
	if (!err)
		err = tdi_exit_close_all_but(block->keep, block->nr_keep, block->text,
					     TDI_EXIT_TEXT_SIZE);
	if (!err)
		err = enter_cgroup(block);
	if (!err)
		err = tdi_sys_chdir("/"); /* holds up no umount */
	if (!err)
		err = tdi_sys_process_name(block->name);
	if (!err)
		err = tdi_sys_leave_realtime();
	if (!err)
		err = tdi_sys_no_core();
	/* The keeper is there: the answer is that it is not alone, or that it must not
	 * ask. */
	block->may_ask = !err && tdi_sys_unshare(CLONE_VM) == -EINVAL;
	/* What it waits with: it must not find out later that a filter forbids it. */
	if (!err)
		err = tdi_bare_poll(NULL, 0, 0);
	if (!err && !(block->flags & TD_EXIT_KEEP_CAPS))
		err = tdi_sys_drop_caps(lowers ? UINT64_C(1) << CAP_SYS_RESOURCE : 0);
	return err;
}

/* ---- the end of the process ---- */

/*
 * Nobody else uses the memory: unsharing it succeeds without doing anything. The kernel
 * looks at every process; and since only who shares it could make another that does, it
 * stays so. It protects a child of vfork(2), which may outlive its parent.
 */
static bool is_alone(void)
{
	return tdi_bare_unshare(CLONE_VM) == 0;
}

static bool becomes_alone(void)
{
	for (int wait_ms = 1; wait_ms <= 64; wait_ms *= 2) {
		if (is_alone())
			return true;
		(void)tdi_bare_poll(NULL, 0, wait_ms);
	}
	return is_alone();
}

/* For all that share the memory, which is why it is only set now. */
static void set_oom_score(const struct tdi_exit_block *block)
{
	int value = block->oom_score_adj, fd;
	bool negative = value < 0;
	char text[8];
	size_t at = sizeof(text);

	if (!(block->flags & TD_EXIT_OOM_SCORE_ADJ))
		return;
	value = negative ? -value : value;
	do {
		text[--at] = (char)('0' + value % 10);
		value /= 10;
	} while (value > 0);
	if (negative)
		text[--at] = '-';
	fd = tdi_bare_open("/proc/self/oom_score_adj", O_WRONLY);
	if (fd < 0)
		return; /* there is nobody left to be told */
	(void)tdi_bare_write(fd, text + at, sizeof(text) - at);
	(void)tdi_bare_close(fd);
}

static int work(void *arg)
{
	tdi_exit_zap_pieces(arg);
	tdi_bare_exit_thread();
}

/* Who waits for the process was woken by the same event, and comes first: on few CPUs he
 * would else be told when the helper has had its turn, milliseconds later. */
#define FIRST_PAUSE_NS 100000

/* A piece that takes no longer is of huge pages, or was never touched. Where all are, the
 * exit is as fast as several threads, and has not the price of a call for each piece. */
#define SLOW_NS 500000

static void give_back(struct tdi_exit_block *block)
{
	unsigned workers;

	tdi_bare_pause(FIRST_PAUSE_NS);
	if (!block->may_ask || !becomes_alone())
		return;
	set_oom_score(block);
	tdi_exit_unmap_files(block);
	if (block->threads < 2)
		return;
	tdi_exit_find_mappings(block);
	if (!tdi_exit_is_slow(block, SLOW_NS))
		return;
	workers = (unsigned)tdi_min_size(block->threads, block->pieces);
	for (unsigned i = 1; i < workers; i++) {
		char *stack = block->worker_stacks + i * TDI_EXIT_WORKER_STACK;

		if (tdi_bare_clone(work, stack, WORKER_FLAGS, block) < 0)
			break; /* those that are do it */
	}
	/* Those that are not done yet when this one is come to the end of their call. */
	tdi_exit_zap_pieces(block);
}

/* ---- waiting for it ---- */

static bool has_ended(const struct tdi_exit_block *block, int timeout_ms)
{
	struct pollfd fd = {.fd = block->pidfd, .events = POLLIN};

	return tdi_bare_poll(&fd, 1, timeout_ms) > 0;
}

/*
 * The pipe is closed: the process ends, or its memory is not its memory any more, since
 * it has become another program, or, where the keeper has no table of its own, somebody
 * has closed a descriptor that was not his. False: the helper is to end.
 */
static bool await_end(const struct tdi_exit_block *block)
{
	/* At first the process may be about to end: it and who waits for it need the CPUs
	 * that giving back would take. */
	const int patient = 8, long_enough = 256, longest = 1024;

	for (int wait_ms = 1;; wait_ms = wait_ms < longest ? wait_ms * 2 : longest) {
		if (has_ended(block, wait_ms))
			return true;
		if (wait_ms >= patient && block->may_ask && is_alone())
			return true;
		if (tdi_bare_thread_is_there(block->process, block->keeper) == 0)
			wait_ms = longest;
		else if (!block->may_ask && wait_ms >= long_enough)
			return false;
	}
}

static bool serve(const struct tdi_exit_block *block)
{
	struct pollfd fds[2];

	for (;;) {
		fds[0].fd = block->pidfd;
		fds[1].fd = block->pipe_read;
		fds[0].events = fds[1].events = POLLIN;
		fds[0].revents = fds[1].revents = 0;
		if (tdi_bare_poll(fds, 2, -1) < 0) {
			/* No memory for it. The other call needs none. */
			if (has_ended(block, 100))
				return true;
			continue;
		}
		if (fds[0].revents)
			return true;
		if (fds[1].revents & POLLIN)
			return false; /* disarmed */
		if (fds[1].revents)
			return await_end(block);
	}
}

int tdi_exit_help(void *arg)
{
	struct tdi_exit_block *block = arg;
	int err = set_up(block);

	block->report = err;
	/* Release: pairs with the keeper's acquire. */
	atomic_fetch_or_explicit(&block->helper, TDI_EXIT_REPORTED, memory_order_release);
	(void)tdi_bare_futex_wake(&block->helper);
	if (!err && serve(block))
		give_back(block);
	tdi_bare_exit(0);
}

int tdi_exit_between(void *arg)
{
	struct tdi_exit_block *block = arg;
	int got =
		tdi_sys_clone(tdi_exit_help, block->helper_stack + TDI_EXIT_HELPER_STACK,
			      CLONE_VM | CLONE_PARENT_SETTID | CLONE_CHILD_SETTID |
				      CLONE_CHILD_CLEARTID,
			      block, &block->helper_pid, &block->helper);

	if (got < 0)
		block->report = got;
	tdi_bare_exit(0);
}
