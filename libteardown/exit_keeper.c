/* SPDX-License-Identifier: MIT */
/*
 * The keeper: makes the helper, waits for its end, and ends it.
 *
 * The helper is made by a process in between, which ends at once: so it is a child of
 * init, or of the nearest subreaper, from the start. A wait for any child does not find
 * it in the program, nor in the one that this becomes by exec, and whoever kills it
 * leaves no zombie there.
 */
#include "exit_internal.h"
#include "sys.h"
#include "sys_process.h"

#include <sched.h>
#include <signal.h>

#define END_PATIENCE_MS 1000

static uint32_t tid_of(struct tdi_exit_block *block, uint32_t *ret_word)
{
	/* Acquire: pairs with the helper's report. */
	*ret_word = atomic_load_explicit(&block->helper, memory_order_acquire);
	return *ret_word & TDI_EXIT_TID;
}

/* Sleeps until the helper has ended, or one of these bits is set. False: after that
 * time. */
static bool await(struct tdi_exit_block *block, uint32_t bits, int timeout_ms)
{
	uint32_t word;

	while (tid_of(block, &word) != 0 && !(word & bits)) {
		if (tdi_bare_futex_wait(&block->helper, word, timeout_ms) == -ETIMEDOUT)
			return false;
	}
	return true;
}

static void say(struct tdi_exit_block *block, enum tdi_exit_answer answer, int err)
{
	block->error = err;
	/* Release: pairs with the acquire of who arms, or checks. */
	atomic_store_explicit(&block->answer, answer, memory_order_release);
	tdi_sys_futex_wake(&block->answer, 1);
}

/* ---- making the helper ---- */

/*
 * With a table of its own the keeper is alone in holding the pipe: no child inherits it,
 * nobody closes it. A filter may forbid that: then it is in the process's table.
 */
static int open_descriptors(struct tdi_exit_block *block)
{
	int err = tdi_sys_unshare(CLONE_FILES);

	block->has_own_files = err == 0;
	if (err && err != -EPERM && err != -ENOSYS)
		return err;
	err = tdi_sys_pidfd_open(block->process);
	if (err < 0)
		return err;
	block->pidfd = err;
	err = tdi_sys_pipe(&block->pipe_read, &block->pipe_write);
	if (!err)
		err = tdi_sys_inode(block->pipe_write, &block->pipe_inode);
	return err;
}

/* The process's own may have closed it, and opened another. */
static void close_pipe(struct tdi_exit_block *block)
{
	uint64_t inode;

	if (block->pipe_write >= 0 && tdi_sys_inode(block->pipe_write, &inode) == 0 &&
	    inode == block->pipe_inode)
		(void)tdi_bare_close(block->pipe_write);
	block->pipe_write = -1;
}

/* In the process's table. The helper goes on reading the numbers. */
static void close_what_is_the_helpers(struct tdi_exit_block *block)
{
	if (block->pidfd >= 0)
		(void)tdi_bare_close(block->pidfd);
	if (block->pipe_read >= 0)
		(void)tdi_bare_close(block->pipe_read);
}

static int make_helper(struct tdi_exit_block *block)
{
	/* It sleeps before the helper comes to the lower half of its stack. */
	char *stack = block->helper_stack + TDI_EXIT_HELPER_STACK / 2;
	int pid, waited = 0;
	uint32_t word;

	block->keep[block->nr_keep++] = block->pidfd;
	block->keep[block->nr_keep++] = block->pipe_read;
	tdi_exit_sort_kept(block);
	block->report = -ESRCH; /* if it is killed before it says otherwise */
	atomic_store_explicit(&block->helper, TDI_EXIT_TID, memory_order_relaxed);
	/* CLONE_VFORK: it has left the memory when this returns, even where waiting for
	 * it is forbidden. */
	pid = tdi_sys_clone(tdi_exit_between, stack, CLONE_VM | CLONE_VFORK | CLONE_FILES,
			    block, NULL, NULL);
	if (pid < 0)
		block->report = pid;
	else
		waited = tdi_sys_wait_child(pid);
	if (block->helper_pid == 0) {
		atomic_store_explicit(&block->helper, 0, memory_order_relaxed);
		return block->report;
	}
	/* Until then its number may change at any moment, for which futex(2) would fail,
	 * and write errno while the helper reads its own. */
	while (tid_of(block, &word) == TDI_EXIT_TID)
		(void)tdi_bare_poll(NULL, 0, 1);
	(void)await(block, TDI_EXIT_REPORTED, -1);
	/* -ECHILD: somebody else has waited for it. */
	if (waited && waited != -ECHILD)
		return waited;
	return block->report;
}

/* ---- its end ---- */

static void end_helper(struct tdi_exit_block *block)
{
	struct pollfd fd = {.events = POLLIN};
	uint32_t word;

	if (block->helper_pid == 0)
		return;
	fd.fd = tdi_sys_pidfd_open((pid_t)block->helper_pid);
	if (tid_of(block, &word) != 0) {
		/* By its number it is found as long as it is there, which it now was
		 * after that was opened. A byte, since others may hold the pipe; a signal
		 * may be forbidden by now, but who has stopped it would make us wait. */
		(void)tdi_bare_write(block->pipe_write, "", 1);
		if (!await(block, 0, END_PATIENCE_MS) && fd.fd >= 0)
			(void)tdi_sys_pidfd_send_signal(fd.fd, SIGKILL);
		(void)await(block, 0, -1);
	}
	if (fd.fd >= 0) {
		/* Bounded: if it had ended before that was opened it is anybody's. */
		while (tdi_bare_poll(&fd, 1, END_PATIENCE_MS) == -EINTR)
			;
		(void)tdi_bare_close(fd.fd);
	}
	/* Ours only if the process is a subreaper. */
	(void)tdi_sys_wait_child((pid_t)block->helper_pid);
}

void *tdi_exit_keep(void *arg)
{
	struct tdi_exit_block *block = arg;
	uint32_t word;
	int err;

	(void)tdi_sys_thread_name("td-keeper");
	block->keeper = (pid_t)tdi_sys_gettid();
	block->pidfd = block->pipe_read = block->pipe_write = -1;
	err = open_descriptors(block);
	if (!err)
		err = make_helper(block);
	/* A table of its own goes with the keeper. */
	if (!block->has_own_files)
		close_what_is_the_helpers(block);
	else if (!err)
		err = tdi_exit_close_all_but(&block->pipe_write, 1, block->text,
					     TDI_EXIT_TEXT_SIZE);
	if (!err) {
		say(block, TDI_EXIT_READY, 0);
		(void)await(block, TDI_EXIT_DISARMED, -1);
	}
	/* One that was killed may have been followed by another of its number. */
	if (err || tid_of(block, &word) != 0)
		end_helper(block);
	else
		(void)tdi_sys_wait_child((pid_t)block->helper_pid);
	if (!block->has_own_files)
		close_pipe(block);
	say(block, err ? TDI_EXIT_FAILED : TDI_EXIT_LOST, err);
	return NULL;
}
