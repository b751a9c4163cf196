/* SPDX-License-Identifier: MIT */
/* What the subcommands of teardown share. Single-threaded, but for the text functions. */
#ifndef TOOLS_COMMON_H
#define TOOLS_COMMON_H

#include <getopt.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <sys/types.h>

#include <teardown.h>

/* ---- subcommands: one file each, named in teardown.c's table ---- */

struct tool_command {
	const char *name, *what; /* what: for the list of all */
	const char *help;
	int (*run)(int argc, char **argv); /* the exit code */
};

extern const struct tool_command tool_run, tool_kill, tool_wait, tool_probe;

/* Exit codes: those of env(1), nohup(1) and timeout(1) where they have one for it. */
enum {
	TOOL_OK = 0,
	TOOL_NOT_FOUND = 1, /* a process: or not ours */
	TOOL_NOT_BACK = 2,  /* killed, but its memory is not all back */
	TOOL_TIMEOUT = 124,
	TOOL_FAILED = 125, /* usage, or what the command itself could not do */
	TOOL_CANNOT_EXEC = 126,
	TOOL_NO_COMMAND = 127,
};

/* ---- errors: one line on stderr that begins with the command and its subcommand ---- */

__attribute__((format(printf, 1, 2))) void tool_complain(const char *format, ...);
__attribute__((format(printf, 1, 2), noreturn)) void tool_fail(const char *format, ...);

/* Beyond all letters; a subcommand's own begin there. */
enum { TOOL_OPTION_HELP = 256, TOOL_OPTION_FIRST };
#define TOOL_HELP                                                                        \
	{                                                                                \
		"help", no_argument, NULL, TOOL_OPTION_HELP                              \
	}

/*
 * getopt_long(3) without short options, whose errors are ours. An option that is unknown
 * ends the program; so does --help, after it.
 */
int tool_option(int argc, char **argv, const struct option *options);

/* Ends the program with TOOL_FAILED if stdout could not be written. */
void tool_flush(void);

/* ---- what users write; each ends the program when it is none ---- */

uint64_t tool_size(const char *option, const char *text); /* bytes, or with K, M, G, T */
unsigned tool_number(const char *option, const char *text, unsigned min, unsigned max);
int64_t tool_nanoseconds(const char *option, const char *text); /* of "1.5" seconds */

/* The processes that are named, each once; to be freed. */
struct tool_process {
	pid_t pid;
	int pidfd; /* -1: not opened */
};
struct tool_process *tool_processes(int argc, char **argv, size_t *ret);

/* Opens its pidfd: 0 or -errno; -ENOTSUP: it is a thread. */
int tool_open(struct tool_process *process);

/* ---- what users read ---- */

#define TOOL_TEXT 32
struct tool_text {
	char text[TOOL_TEXT];
};
struct tool_text tool_bytes(uint64_t bytes); /* "8.0 GiB" */
struct tool_text tool_seconds(uint64_t ns);  /* "0.13 s", "12 ms" */

uint64_t tool_now_ns(void); /* CLOCK_MONOTONIC */

/*
 * The first line, or as much as fits, of a small file of /proc or /sys, without its
 * newline. 0 or -errno.
 */
int tool_read_line(const char *path, char *buf, size_t size);

#endif
