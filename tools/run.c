/* SPDX-License-Identifier: MIT */
/*
 * teardown run: puts the program in its own place, with libteardown-run.so preloaded,
 * which reads what is asked of it from the environment. So whoever waits for us waits
 * for the program.
 */
#include "common.h"
#include "program.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <sys/stat.h>

#define PRELOAD "libteardown-run.so"
#define THREADS_MAX 1024

static const char help[] =
	"usage: teardown run [OPTION]... [--] COMMAND [ARGUMENT]...\n"
	"Runs a program so that it ends at once, whatever its size: a helper process "
	"gives\n"
	"its memory back afterwards. Large ranges that it unmaps are freed on threads.\n"
	"\n"
	"  --budget SIZE     at most so much waits to be freed; then unmapping helps\n"
	"  --threshold SIZE  smaller ranges are unmapped as ever\n"
	"  --threads N       the helper frees on N threads\n"
	"  --cgroup DIR      moves the helper into this cgroup, a directory\n"
	"  --verbose         tells on standard error what is done\n"
	"  --strict          does not run a program that cannot be helped\n"
	"  --help            this\n"
	"SIZE: bytes, or with K, M, G, T: KiB, MiB, GiB, TiB.\n"
	"\n"
	"Exit code: the program's; 125: teardown failed; 126: COMMAND cannot be run; "
	"127:\n"
	"COMMAND was not found. The program takes this process's place.\n";

enum {
	OPT_BUDGET = TOOL_OPTION_FIRST,
	OPT_THRESHOLD,
	OPT_THREADS,
	OPT_CGROUP,
	OPT_VERBOSE,
	OPT_STRICT
};

static const struct option options[] = {
	{"budget", required_argument, NULL, OPT_BUDGET},
	{"threshold", required_argument, NULL, OPT_THRESHOLD},
	{"threads", required_argument, NULL, OPT_THREADS},
	{"cgroup", required_argument, NULL, OPT_CGROUP},
	{"verbose", no_argument, NULL, OPT_VERBOSE},
	{"strict", no_argument, NULL, OPT_STRICT},
	TOOL_HELP,
	{NULL, 0, NULL, 0},
};

static void set(const char *name, const char *value)
{
	if (setenv(name, value, 1))
		tool_fail("out of memory");
}

static void set_number(const char *name, uint64_t value)
{
	char text[24];

	snprintf(text, sizeof(text), "%" PRIu64, value);
	set(name, text);
}

static bool is_file(const char *path)
{
	struct stat st;

	return stat(path, &st) == 0 && S_ISREG(st.st_mode);
}

/* The shared object: as told, installed beside us, or in a build directory. */
static const char *find_preload(void)
{
	static char path[2 * PATH_MAX];
	static const char *const places[] = {
		TOOL_BIN_TO_LIB "/teardown/" PRELOAD,
		PRELOAD,
	};
	const char *told = getenv("TEARDOWN_PRELOAD");
	char self[PATH_MAX];
	ssize_t n;

	if (told && *told)
		return is_file(told) ? realpath(told, path) : NULL;
	n = readlink("/proc/self/exe", self, sizeof(self) - 1);
	if (n > 0) {
		self[n] = '\0';
		*strrchr(self, '/') = '\0';
		for (size_t i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
			char tried[2 * PATH_MAX];

			snprintf(tried, sizeof(tried), "%s/%s", self, places[i]);
			if (is_file(tried))
				return realpath(tried, path);
		}
	}
	/* No /proc: where it was to be installed. */
	return is_file(TOOL_LIB "/teardown/" PRELOAD) ? TOOL_LIB "/teardown/" PRELOAD
						      : NULL;
}

static void prepend(const char *path)
{
	const char *there = getenv("LD_PRELOAD");
	char *both;

	if (!there || !*there) {
		set("LD_PRELOAD", path);
		return;
	}
	/* The first already, as in a run within a run. */
	if (!strncmp(there, path, strlen(path)) &&
	    strchr(": ", there[strlen(path)])) /* or its end */
		return;
	if (asprintf(&both, "%s:%s", path, there) < 0)
		tool_fail("out of memory");
	set("LD_PRELOAD", both);
	free(both);
}

static int run(int argc, char **argv)
{
	char why[PATH_MAX + 64], cgroup[PATH_MAX], program[PATH_MAX];
	const char *preload, *reason = NULL;
	bool strict = false;
	struct stat st;
	int option;

	while ((option = tool_option(argc, argv, options)) != -1) {
		switch (option) {
		case OPT_BUDGET:
			set_number("TEARDOWN_BUDGET", tool_size("--budget", optarg));
			break;
		case OPT_THRESHOLD:
			set_number("TEARDOWN_THRESHOLD",
				   tool_size("--threshold", optarg));
			break;
		case OPT_THREADS:
			set_number("TEARDOWN_THREADS",
				   tool_number("--threads", optarg, 1, THREADS_MAX));
			break;
		case OPT_CGROUP:
			if (!realpath(optarg, cgroup))
				tool_fail("--cgroup: %s: %s", optarg, strerror(errno));
			if (stat(cgroup, &st) || !S_ISDIR(st.st_mode))
				tool_fail("--cgroup: %s: not a directory", optarg);
			set("TEARDOWN_CGROUP", cgroup);
			break;
		case OPT_VERBOSE:
			set("TEARDOWN_VERBOSE", "1");
			break;
		case OPT_STRICT:
			strict = true;
			break;
		}
	}
	if (optind == argc)
		tool_fail("a command is missing (see --help)");
	argv += optind;

	if (!tool_find(argv[0], program, sizeof(program))) {
		/* It tells whether there is one that must not be run. */
		execvp(argv[0], argv);
		option = errno;
		tool_complain("%s: %s", argv[0], strerror(option));
		return option == ENOENT ? TOOL_NO_COMMAND : TOOL_CANNOT_EXEC;
	}
	preload = find_preload();
	if (!preload)
		reason = "cannot be helped: " PRELOAD " was not found";
	else if (strpbrk(preload, ": \t\n"))
		reason = "cannot be helped: LD_PRELOAD cannot name a path with colons or "
			 "spaces";
	else
		reason = tool_no_preload(program, why, sizeof(why));
	if (reason && strict)
		tool_fail("%s: %s; not run", argv[0], reason);
	if (reason) {
		tool_complain("%s: %s; runs without", argv[0], reason);
	} else {
		prepend(preload);
		set_number("TEARDOWN_PID", (uint64_t)getpid());
	}
	execvp(argv[0], argv);
	option = errno;
	tool_complain("%s: %s", argv[0], strerror(option));
	return option == ENOENT ? TOOL_NO_COMMAND : TOOL_CANNOT_EXEC;
}

const struct tool_command tool_run = {
	.name = "run",
	.what = "runs a program so that it ends, and unmaps memory, at once",
	.help = help,
	.run = run,
};
