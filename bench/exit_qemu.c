/* SPDX-License-Identifier: MIT */
/*
 * The real QEMU, full of memory: a guest with four CPUs that are never started, whose
 * memory is filled beforehand. It is told to quit through its monitor (QMP), which is its
 * standard input.
 */
#include "cgroup.h"
#include "exit.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define PROGRAM "qemu-system-x86_64"
#define ARGS_MAX 24
#define HELLO "{\"execute\":\"qmp_capabilities\"}\n"
#define QUIT "{\"execute\":\"quit\"}\n"

/* How it is asked for its helper: by the first of these that it takes. */
static const char *const ways[][2] = {
	{"-run-with", "async-teardown=on"},
	{"-async-teardown", NULL},
};
#define NR_WAYS (sizeof(ways) / sizeof(ways[0]))

struct command {
	const char *args[ARGS_MAX]; /* to a NULL */
	char memory[128], size[32];
};

static void make_command(const struct bench_kind *kind, size_t size,
			 const char *const *way, struct command *ret)
{
	bool memfd = kind == &bench_kinds[BENCH_MEMFD];
	const char *const args[] = {
		PROGRAM,       "-machine",  "q35,memory-backend=mem",
		"-object",     ret->memory, "-m",
		ret->size,     "-smp",	    "4",
		"-accel",      "tcg",	    "-S",
		"-nodefaults", "-display",  "none",
		"-qmp",	       "stdio",
	};
	size_t nr = sizeof(args) / sizeof(args[0]);

	memset(ret, 0, sizeof(*ret));
	memcpy(ret->args, args, sizeof(args));
	snprintf(ret->memory, sizeof(ret->memory),
		 "memory-backend-%s,id=mem,prealloc=on,size=%zu", memfd ? "memfd" : "ram",
		 size);
	snprintf(ret->size, sizeof(ret->size), "%zuK", size >> 10);
	for (unsigned i = 0; way && i < 2 && way[i]; i++)
		ret->args[nr++] = way[i];
}

__attribute__((noreturn)) static void run_qemu(const struct bench_kind *kind, size_t size,
					       const char *const *way, int orders,
					       int answers)
{
	int nowhere = open("/dev/null", O_WRONLY | O_CLOEXEC);
	struct command command;

	make_command(kind, size, way, &command);
	/* It asks for huge pages wherever it may have them. */
	if (kind == &bench_kinds[BENCH_ANON4K])
		bench_must(prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0) ? -errno : 0,
			   "PR_SET_THP_DISABLE");
	dup2(orders, STDIN_FILENO);
	dup2(answers, STDOUT_FILENO);
	if (nowhere >= 0)
		dup2(nowhere, STDERR_FILENO);
	execvp(PROGRAM, (char *const *)command.args);
	_exit(127);
}

/* A line from its monitor. False: there comes none. */
static bool read_line(int answers)
{
	char c = 0;

	while (c != '\n') {
		if (read(answers, &c, 1) != 1)
			return false;
	}
	return true;
}

/* The child of a process, which has one or none. It may be any thread's. */
static pid_t find_child(pid_t parent)
{
	char path[PATH_MAX];
	struct dirent *entry;
	int child = 0;
	DIR *tasks;

	snprintf(path, sizeof(path), "/proc/%d/task", (int)parent);
	tasks = opendir(path);
	bench_must(tasks ? 0 : -errno, path);
	while (child == 0 && (entry = readdir(tasks))) {
		FILE *stream;

		snprintf(path, sizeof(path), "/proc/%d/task/%.16s/children", (int)parent,
			 entry->d_name);
		stream = *entry->d_name == '.' ? NULL : fopen(path, "re");
		if (!stream)
			continue;
		if (fscanf(stream, "%d", &child) != 1)
			child = 0;
		fclose(stream);
	}
	closedir(tasks);
	return child;
}

static bool start(const struct bench_kind *kind, size_t size, const char *const *way,
		  struct exit_process *ret, int *status)
{
	int orders[2], answers[2];

	bench_must(pipe2(orders, O_CLOEXEC) ? -errno : 0, "pipe");
	bench_must(pipe2(answers, O_CLOEXEC) ? -errno : 0, "pipe");
	ret->pid = bench_cgroup_fork();
	if (ret->pid == 0)
		run_qemu(kind, size, way, orders[0], answers[1]);
	close(orders[0]);
	close(answers[1]);
	ret->order = orders[1];
	ret->answer = answers[0];
	/* It answers once its memory is there. */
	if (read_line(ret->answer)) {
		bench_must(write(ret->order, HELLO, strlen(HELLO)) < 0 ? -errno : 0,
			   "write");
		bench_must(read_line(ret->answer) ? 0 : -EPIPE, PROGRAM);
		ret->helper = way ? find_child(ret->pid) : 0;
		return true;
	}
	exit_close(ret);
	bench_must(waitpid(ret->pid, status, 0) < 0 ? -errno : 0, "waitpid");
	bench_cgroup_reaped();
	return false;
}

static size_t first; /* of the ways that it may take */

const char *exit_qemu_start(const struct exit_subject *self,
			    const struct bench_kind *kind, size_t size,
			    struct exit_process *ret)
{
	int status = 0;

	if (!self->asynchronous) {
		if (start(kind, size, NULL, ret, &status))
			return NULL;
	} else {
		for (; first < NR_WAYS; first++) {
			if (!start(kind, size, ways[first], ret, &status))
				continue;
			bench_must(ret->helper ? 0 : -ESRCH, "the helper of " PROGRAM);
			return NULL;
		}
	}
	return WIFEXITED(status) && WEXITSTATUS(status) == 127
		       ? "not installed"
		       : "it does not start like this";
}

void exit_qemu_end(const struct exit_process *process)
{
	bench_must(write(process->order, QUIT, strlen(QUIT)) < 0 ? -errno : 0, "write");
}

/* "QEMU emulator version 7.2.22 (Debian ...)" begins what it says. */
static void read_version(char *text, size_t size)
{
	FILE *said = popen(PROGRAM " --version 2>/dev/null", "re");
	size_t length = strlen("QEMU emulator version ");
	char line[128] = "";

	bench_must(said ? 0 : -errno, "popen");
	if (!fgets(line, sizeof(line), said) || strlen(line) <= length)
		line[0] = line[length] = '\0';
	pclose(said);
	snprintf(text, size, "%.*s", (int)strcspn(line + length, "\n"), line + length);
}

void exit_qemu_print_peer(const struct exit_subject *self, size_t size)
{
	struct command command;
	char version[128], text[512] = "";
	size_t length = 0;

	read_version(version, sizeof(version));
	make_command(&bench_kinds[BENCH_ANON4K], size,
		     self->asynchronous ? ways[first] : NULL, &command);
	for (unsigned i = 0; command.args[i] && length < sizeof(text); i++)
		length += (size_t)snprintf(text + length, sizeof(text) - length, "%s%s",
					   i > 0 ? " " : "", command.args[i]);
	bench_print_peer(self->name, version, text);
}
