/* SPDX-License-Identifier: MIT */
#include "common.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <sys/syscall.h>

extern const struct tool_command *tool_current; /* teardown.c */

static void complain(const char *format, va_list args)
{
	char line[1024];

	vsnprintf(line, sizeof(line), format, args);
	/* One write, so that it stays one line beside other programs' output. */
	if (tool_current)
		fprintf(stderr, "teardown: %s: %s\n", tool_current->name, line);
	else
		fprintf(stderr, "teardown: %s\n", line);
}

void tool_complain(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	complain(format, args);
	va_end(args);
}

void tool_fail(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	complain(format, args);
	va_end(args);
	exit(TOOL_FAILED);
}

void tool_flush(void)
{
	if (fflush(stdout) || ferror(stdout))
		tool_fail("cannot write to standard output: %s", strerror(errno));
}

int tool_option(int argc, char **argv, const struct option *options)
{
	/* '+': what comes after the first that is no option is somebody else's. */
	int option = getopt_long(argc, argv, "+:", options, NULL);

	if (option == TOOL_OPTION_HELP) {
		fputs(tool_current->help, stdout);
		tool_flush();
		exit(TOOL_OK);
	}
	if (option == ':')
		tool_fail("%s needs a value (see --help)", argv[optind - 1]);
	/* What it was: nothing, of a long one that is unknown; a long one of ours; or the
	 * letter of a short one. */
	if (option == '?' && optopt == 0)
		tool_fail("unknown option %s (see --help)", argv[optind - 1]);
	if (option == '?' && optopt >= TOOL_OPTION_HELP)
		tool_fail("%s: takes no value (see --help)", argv[optind - 1]);
	if (option == '?')
		tool_fail("unknown option -%c (see --help)", optopt);
	return option;
}

uint64_t tool_size(const char *option, const char *text)
{
	static const char units[] = "KMGT";
	const char *p = text, *unit;
	uint64_t size = 0;
	bool bad = *p < '0' || *p > '9';

	for (; *p >= '0' && *p <= '9'; p++)
		bad = bad || __builtin_mul_overflow(size, 10, &size) ||
		      __builtin_add_overflow(size, (uint64_t)(*p - '0'), &size);
	unit = *p ? strchr(units, *p) : NULL;
	if (unit) {
		bad = bad || __builtin_mul_overflow(
				     size, UINT64_C(1024) << 10 * (unit - units), &size);
		p++;
	}
	if (bad || *p || size > INT64_MAX)
		tool_fail("%s: not a size: '%s'", option, text);
	return size;
}

unsigned tool_number(const char *option, const char *text, unsigned min, unsigned max)
{
	unsigned long value;
	char *end;

	errno = 0;
	value = strtoul(text, &end, 10);
	if (*text < '0' || *text > '9' || *end || errno || value < min || value > max)
		tool_fail("%s: not a number from %u to %u: '%s'", option, min, max, text);
	return (unsigned)value;
}

int64_t tool_nanoseconds(const char *option, const char *text)
{
	double value;
	char *end;

	/* Neither a sign nor a name nor hexadecimal digits, which strtod knows. */
	value = strtod(text, &end);
	if (!*text || text[strspn(text, "0123456789.")] || *end || value > 1e9)
		tool_fail("%s: not a number of seconds: '%s'", option, text);
	return (int64_t)(value * 1e9);
}

struct tool_process *tool_processes(int argc, char **argv, size_t *ret)
{
	struct tool_process *processes;
	size_t n = 0;

	if (argc <= 0)
		tool_fail("a PID is missing (see --help)");
	processes = calloc((size_t)argc, sizeof(*processes));
	if (!processes)
		tool_fail("out of memory");
	for (int i = 0; i < argc; i++) {
		size_t known = 0;
		char *end;
		long pid;

		errno = 0;
		pid = strtol(argv[i], &end, 10);
		if (*argv[i] < '0' || *argv[i] > '9' || *end || errno || pid < 1 ||
		    pid > INT32_MAX)
			tool_fail("not a PID: '%s'", argv[i]);
		while (known < n && processes[known].pid != (pid_t)pid)
			known++;
		if (known == n)
			processes[n++] = (struct tool_process){(pid_t)pid, -1};
	}
	*ret = n;
	return processes;
}

int tool_open(struct tool_process *process)
{
	char path[64];
	int fd = (int)syscall(SYS_pidfd_open, process->pid, 0);

	if (fd >= 0) {
		process->pidfd = fd;
		return 0;
	}
	/* Of a thread that leads no group: EINVAL, since 6.13 ENOENT. */
	snprintf(path, sizeof(path), "/proc/%d", (int)process->pid);
	if ((errno == EINVAL || errno == ENOENT) && access(path, F_OK) == 0)
		return -ENOTSUP;
	return errno == ENOENT ? -ESRCH : -errno;
}

struct tool_text tool_bytes(uint64_t bytes)
{
	static const char *const units[] = {"bytes", "KiB", "MiB", "GiB", "TiB", "PiB"};
	struct tool_text text;
	double value = (double)bytes;
	unsigned unit = 0;

	while (value >= 1023.95 && unit + 1 < sizeof(units) / sizeof(units[0])) {
		value /= 1024;
		unit++;
	}
	snprintf(text.text, sizeof(text.text), unit ? "%.1f %s" : "%.0f %s", value,
		 units[unit]);
	return text;
}

struct tool_text tool_seconds(uint64_t ns)
{
	struct tool_text text;

	if (ns < 100000000)
		snprintf(text.text, sizeof(text.text), "%.1f ms", (double)ns / 1e6);
	else
		snprintf(text.text, sizeof(text.text), "%.2f s", (double)ns / 1e9);
	return text;
}

uint64_t tool_now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

int tool_read_line(const char *path, char *buf, size_t size)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC), err;
	ssize_t n;

	if (fd < 0)
		return -errno;
	n = read(fd, buf, size - 1);
	err = n < 0 ? -errno : 0;
	close(fd);
	if (err)
		return err;
	buf[n] = '\0';
	buf[strcspn(buf, "\n")] = '\0';
	return 0;
}
