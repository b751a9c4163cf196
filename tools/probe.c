/* SPDX-License-Identifier: MIT */
/* teardown probe: what this kernel offers to the library, and what is done without. */
#include "common.h"
#include "probe.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <sys/utsname.h>

static const char help[] = "usage: teardown probe [OPTION]\n"
			   "Tells what this kernel, as it is set up here, offers to "
			   "libteardown, a line for\n"
			   "each: \"name: value (what that means, or what is done "
			   "without)\". Calls are really\n"
			   "made, in a child. Nothing is changed.\n"
			   "\n"
			   "  --help  this\n"
			   "\n"
			   "Exit code: 0, or 125: teardown failed.\n";

static const struct option options[] = {
	TOOL_HELP,
	{NULL, 0, NULL, 0},
};

void probe_value(struct probe_answer *answer, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vsnprintf(answer->value, sizeof(answer->value), format, args);
	va_end(args);
}

void probe_means(struct probe_answer *answer, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vsnprintf(answer->means, sizeof(answer->means), format, args);
	va_end(args);
}

int probe_kernel(unsigned major, unsigned minor)
{
	unsigned is_major = 0, is_minor = 0;
	struct utsname system;

	if (uname(&system) || sscanf(system.release, "%u.%u", &is_major, &is_minor) != 2)
		return 0;
	return is_major > major || (is_major == major && is_minor >= minor);
}

static void ask_kernel(struct probe_answer *answer)
{
	struct utsname system;

	uname(&system);
	probe_value(answer, "%s", system.release);
	probe_means(answer, "4.14 is needed, %s",
		    probe_kernel(5, 4) ? "5.4 for exit helpers"
				       : "exit helpers need 5.4");
}

static void ask_all(const struct probe *probes, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		struct probe_answer answer = {"", ""};

		probes[i].ask(&answer);
		printf("%s: %s (%s)\n", probes[i].name, answer.value, answer.means);
		tool_flush(); /* a child must not inherit what is not written yet */
	}
}

static int probe(int argc, char **argv)
{
	while (tool_option(argc, argv, options) != -1)
		;
	if (optind < argc)
		tool_fail("unexpected argument '%s' (see --help)", argv[optind]);
	ask_all(&(const struct probe){"kernel", ask_kernel}, 1);
	ask_all(probe_calls, nr_probe_calls);
	ask_all(probe_system, nr_probe_system);
	return TOOL_OK;
}

const struct tool_command tool_probe = {
	.name = "probe",
	.what = "tells what this kernel offers, and what is done without",
	.help = help,
	.run = probe,
};
