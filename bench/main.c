/* SPDX-License-Identifier: MIT */
/* td-bench: measures, and asserts nothing. Results are key=value lines on stdout. */
#include "allocator.h"

#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EXIT_USAGE 2
#define REPEAT_DEFAULT 5
#define OBJECTS_MIN 2000u
#define OBJECTS_MAX 1000000000u

static const struct bench_scenario *const scenarios[] = {
	&bench_put,    &bench_reclaim,	  &bench_unmap, &bench_threshold, &bench_lookup,
	&bench_stall,  &bench_slices,	  &bench_batch, &bench_refs,	  &bench_small,
	&bench_budget, &bench_foreground, &bench_kill,	&bench_exit,	  &bench_sizes,
	&bench_limits, &bench_allocator,
};
#define NR_SCENARIOS (sizeof(scenarios) / sizeof(scenarios[0]))

static int help(void)
{
	printf("usage: td-bench SCENARIO [--size SIZE] [--objects M] [--repeat N] "
	       "[--only WORDS]\n"
	       "  SIZE  bytes, or with K, M, G: KiB, MiB, GiB\n"
	       "  M     objects, for batch: 2000 to %u\n"
	       "  N     rounds that count, 1 to %u (default: %u), after one that does "
	       "not where\n"
	       "        a round takes no minutes\n"
	       "  WORDS some of the kinds of memory, of unmap, threshold, slices, kill "
	       "and "
	       "exit, commas\n"
	       "        between them; unmap also takes 16g, exit its subjects and ends;\n"
	       "        of allocator, its subjects\n"
	       "scenarios, with the sizes they take by default:\n",
	       OBJECTS_MAX, BENCH_REPEAT_MAX, REPEAT_DEFAULT);
	for (size_t i = 0; i < NR_SCENARIOS; i++)
		printf("  %-10s %s\n", scenarios[i]->name, scenarios[i]->what);
	return fflush(stdout) == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}

__attribute__((noreturn)) static void usage_error(const char *what, const char *given)
{
	fprintf(stderr, "error: %s '%s' (see td-bench --help)\n", what, given);
	exit(EXIT_USAGE);
}

static unsigned parse_number(const char *text, unsigned min, unsigned max,
			     const char *what)
{
	unsigned long value;
	char *end;

	errno = 0;
	value = strtoul(text, &end, 10);
	if (*text < '0' || *text > '9' || *end || errno || value < min || value > max)
		usage_error(what, text);
	return (unsigned)value;
}

static const struct bench_scenario *find(const char *name)
{
	for (size_t i = 0; i < NR_SCENARIOS; i++) {
		if (strcmp(scenarios[i]->name, name) == 0)
			return scenarios[i];
	}
	usage_error("unknown scenario", name);
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{"size", required_argument, NULL, 's'},
		{"objects", required_argument, NULL, 'o'},
		{"repeat", required_argument, NULL, 'r'},
		{"only", required_argument, NULL, 'y'},
		{"help", no_argument, NULL, 'h'},
		{NULL, 0, NULL, 0},
	};
	struct bench_opts opts = {.repeat = REPEAT_DEFAULT};
	const struct bench_scenario *scenario;
	int option;

	if (argc > 1 && strcmp(argv[1], ALLOCATOR_CHILD) == 0)
		return allocator_child(argc, argv);
	while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
		if (option == 'h')
			return help();
		if (option == 'r')
			opts.repeat = parse_number(optarg, 1, BENCH_REPEAT_MAX,
						   "not a number of rounds:");
		else if (option == 'o')
			opts.objects = parse_number(optarg, OBJECTS_MIN, OBJECTS_MAX,
						    "not a number of objects:");
		else if (option == 'y')
			opts.only = optarg;
		else if (option != 's')
			return EXIT_USAGE; /* getopt_long has said why */
		else if (!bench_parse_size(optarg, &opts.size))
			usage_error("not a size:", optarg);
	}
	if (optind == argc)
		usage_error("a scenario is missing after", argv[0]);
	scenario = find(argv[optind]);
	if (optind + 1 < argc)
		usage_error("unexpected argument", argv[optind + 1]);

	/* A line at a time, for whoever watches through a pipe. */
	bench_must(setvbuf(stdout, NULL, _IOLBF, 0) ? -ENOMEM : 0, "setvbuf");
	bench_print_header();
	bench_print_peers(scenario->name);
	scenario->run(&opts);
	bench_must(fflush(stdout) || ferror(stdout) ? -EIO : 0, "stdout");
	return EXIT_SUCCESS;
}
