/* SPDX-License-Identifier: MIT */
/*
 * What `td-bench exit` is made of. A subject is a process full of memory that waits for
 * its end: a child of this program (exit_child.c), or a QEMU (exit_qemu.c). Which of its
 * memory is where, and when it has ended, is watched from here (exit_watch.c).
 * Single-threaded.
 */
#ifndef BENCH_EXIT_H
#define BENCH_EXIT_H

#include "kinds.h"

#include <sys/types.h>

struct exit_process {
	pid_t pid;
	pid_t helper; /* that shares its memory; 0 = none */
	int order;    /* what it is told to end through */
	int answer;   /* what it says comes from here */
};

/* ---- the subjects: start has it filled, and NULL or why it cannot be had ---- */

struct exit_subject {
	const char *name;
	const char *(*start)(const struct exit_subject *self,
			     const struct bench_kind *kind, size_t size,
			     struct exit_process *ret);
	void (*end)(const struct exit_process *process); /* tells it to exit */
	void (*arm)(void);				 /* in a child, when it is full */
	bool asynchronous;				 /* for QEMU */
};

const char *exit_child_start(const struct exit_subject *self,
			     const struct bench_kind *kind, size_t size,
			     struct exit_process *ret);
void exit_child_end(const struct exit_process *process);
void exit_child_arm_qemu_design(void);
void exit_child_arm_td(void);

const char *exit_qemu_start(const struct exit_subject *self,
			    const struct bench_kind *kind, size_t size,
			    struct exit_process *ret);
void exit_qemu_end(const struct exit_process *process);
void exit_qemu_print_peer(const struct exit_subject *self, size_t size); /* it started */

/* ---- watching ---- */

struct exit_times {	    /* in nanoseconds since the process was told, or was killed */
	uint64_t waited;    /* until waitpid(2) returned */
	uint64_t reclaimed; /* until nobody was left who shared its memory */
	uint64_t seen;	    /* until 98 of 100 bytes were back; 0: not seen */
	uint64_t begun;	    /* until 10 of 100 were; 0: not seen */
};

void exit_watch_start(void);
void exit_watch_stop(void);
const char *exit_watch_by(void); /* what says how much memory there is */

/* Ends it and waits until all of it has gone. */
void exit_watch(const struct exit_process *process, size_t size,
		void (*end)(const struct exit_process *process), struct exit_times *ret);

/* Closes its pipes. It has ended. */
void exit_close(const struct exit_process *process);

#endif
