/* SPDX-License-Identifier: MIT */
/* teardown: whole processes, from the shell. The table of subcommands, and what is common
 * to all: --help, --version, the first word. */
#include "common.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct tool_command *const commands[] = {
	&tool_run,
	&tool_kill,
	&tool_wait,
	&tool_probe,
};
#define NR_COMMANDS (sizeof(commands) / sizeof(commands[0]))

const struct tool_command *tool_current; /* what errors begin with */

static int help(void)
{
	printf("usage: teardown COMMAND [OPTION]... [ARGUMENT]...\n"
	       "Ends processes at once, and gets back the memory of those that end.\n"
	       "\n"
	       "commands:\n");
	for (size_t i = 0; i < NR_COMMANDS; i++)
		printf("  %-6s %s\n", commands[i]->name, commands[i]->what);
	printf("\n"
	       "  --help     this; after a command: its options and exit codes\n"
	       "  --version  the version\n");
	tool_flush();
	return TOOL_OK;
}

int main(int argc, char **argv)
{
	if (argc < 2)
		tool_fail("a command is missing (see teardown --help)");
	if (!strcmp(argv[1], "--help"))
		return help();
	if (!strcmp(argv[1], "--version")) {
		printf("teardown %s\n", td_version());
		tool_flush();
		return TOOL_OK;
	}
	if (argv[1][0] == '-')
		tool_fail("unknown option %s (see teardown --help)", argv[1]);
	for (size_t i = 0; i < NR_COMMANDS; i++) {
		if (strcmp(argv[1], commands[i]->name) == 0) {
			tool_current = commands[i];
			opterr = 0;
			return commands[i]->run(argc - 1, argv + 1);
		}
	}
	tool_fail("unknown command '%s' (see teardown --help)", argv[1]);
}
