/* SPDX-License-Identifier: MIT */
/*
 * Floor 6: the exit helper, between who arms it and itself. Three take part:
 *
 *   who calls td_exit_arm()
 *   the keeper, a thread of the process: it has the helper made, holds the write end of
 *     a pipe in a table of descriptors of its own, and sleeps until the helper has ended
 *     or is to end. That the pipe is closed tells the helper that the keeper is no more:
 *     the process ends, or has become another program.
 *   the helper, a process that shares the memory, and also the keeper's thread-local
 *     storage, errno with it: they take turns, each sleeps in a system call while the
 *     other works.
 */
#ifndef TDI_EXIT_INTERNAL_H
#define TDI_EXIT_INTERNAL_H

#include "base.h"

#include <pthread.h>
#include <sys/types.h>

#define TDI_EXIT_THREADS_MAX 8
#define TDI_EXIT_MAPPINGS_MAX 256
#define TDI_EXIT_TEXT_SIZE 4096

/* Of `helper`. Thread numbers have 22 bits. */
#define TDI_EXIT_REPORTED                                                                \
	(UINT32_C(1) << 31) /* the helper has set itself up, or failed */
#define TDI_EXIT_DISARMED (UINT32_C(1) << 30) /* it is to end */
#define TDI_EXIT_TID (TDI_EXIT_DISARMED - 1)  /* all of its bits: not started yet */

/* A mapping to give back: count pieces of `piece` bytes, a power of two. */
struct tdi_exit_mapping {
	uintptr_t start, end;
	size_t piece;
	size_t first; /* number of its first piece among all */
};

/* All that the helper uses. It alone is left when the rest has been given back. */
struct tdi_exit_block {
	char *memory; /* the whole mapping: guards, stacks, this */
	size_t size;
	char *helper_stack, *worker_stacks, *keeper_stack;
	size_t keeper_stack_size;

	/* What was asked for. */
	unsigned threads;
	unsigned flags; /* enum td_exit_flags */
	int oom_score_adj;
	const char *cgroup; /* the caller's, while it waits */
	char name[16];

	pid_t process, keeper;
	pthread_t keeper_thread;

	/*
	 * Thread number of the helper, set by the kernel as it starts, and to 0 as it
	 * ends, with bits above it. The keeper waits here for all that concerns it.
	 */
	_Atomic(uint32_t) helper;
	uint32_t helper_pid; /* also after its end */
	int report;	     /* with TDI_EXIT_REPORTED: 0, or -errno: it ends */

	_Atomic(uint32_t) answer; /* enum tdi_exit_answer, of the keeper */
	int error;		  /* with TDI_EXIT_FAILED */
	bool may_ask;		  /* whether it is alone with the memory */

	int pidfd, pipe_read, pipe_write; /* numbers */
	bool has_own_files;		  /* the keeper */
	uint64_t pipe_inode;

	/* Descriptors that the helper keeps, in order; its own two among them. */
	unsigned nr_keep;
	int *keep;

	/* For the end. */
	_Atomic(size_t) next_piece;
	size_t pieces;
	unsigned mappings;
	struct tdi_exit_mapping mapping[TDI_EXIT_MAPPINGS_MAX];
	char text[TDI_EXIT_TEXT_SIZE];
	char line[128];
};

enum tdi_exit_answer {
	TDI_EXIT_STARTING,
	TDI_EXIT_READY,
	TDI_EXIT_FAILED, /* and nothing of it is left */
	TDI_EXIT_LOST,	 /* it has ended */
};

#define TDI_EXIT_HELPER_STACK ((size_t)64 * 1024)
#define TDI_EXIT_WORKER_STACK ((size_t)4096)

/* ---- exit_block.c ---- */

/* nr_keep: without its own two. 0, -errno. */
int tdi_exit_block_make(const int *keep, unsigned nr_keep, struct tdi_exit_block **ret);
void tdi_exit_block_free(struct tdi_exit_block *block);
/* In order, each once. */
void tdi_exit_sort_kept(struct tdi_exit_block *block);

/* ---- exit_keeper.c ---- */

/* The keeper, on its stack. */
void *tdi_exit_keep(void *block);

/* ---- exit_helper.c, which runs in the helper, and is not instrumented ---- */

int tdi_exit_help(void *block);
/* The process that makes it, and ends. */
int tdi_exit_between(void *block);
/* Closes all but those, which are in order. text: for the way without close_range(2). */
int tdi_exit_close_all_but(const int *keep, unsigned nr, char *text, size_t size);

/* ---- exit_maps.c, likewise ---- */

/* Shared mappings of files and devices. Each holds its file open, with its locks. */
void tdi_exit_unmap_files(struct tdi_exit_block *block);
/* The largest mappings of this process that hold nothing but pages of its own. */
void tdi_exit_find_mappings(struct tdi_exit_block *block);
/* Gives back some pieces here and there: has one taken longer than that? */
bool tdi_exit_is_slow(struct tdi_exit_block *block, uint64_t slow_ns);
/* Gives back piece after piece, beside others who do. */
void tdi_exit_zap_pieces(struct tdi_exit_block *block);

#endif
