/* SPDX-License-Identifier: MIT */
/*
 * Performs each hot path some times in one thread, for callgrind to count: see count.py.
 *
 * Each is a function of one line, counted_NAME(), whose instructions are those from its
 * first to its return: of a call of the library the `call` (here a jump) and all that the
 * library does, of what is inlined the `ret` beside it. What has to be the same each time
 * is made so: whether reapers sleep, or whether a page has place. For that, and to know
 * which of two ways is taken, this looks into the library.
 */
#include "count.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void count_must(int err, const char *what)
{
	if (err >= 0)
		return;
	fprintf(stderr, "error: %s: %s\n", what, strerror(-err));
	exit(EXIT_FAILURE);
}

void count_perform(struct counted *counted, void *a, void *b, void *c)
{
	count_must(counted->op(a, b, c), counted->name);
	counted->calls++;
}

/* The next line is what the tool reads: how often each was called. */
void count_tell(const struct counted *all, unsigned nr)
{
	for (unsigned i = 0; i < nr; i++) {
		if (all[i].calls > 0)
			printf("calls %s %u%s\n", all[i].name, all[i].calls,
			       all[i].peer ? " peer" : "");
	}
}

int main(int argc, char **argv)
{
	/* What figures depend on: those of another compiler are others. */
	printf("build %s\n", COUNT_BUILD);
	if (argc == 2 && strcmp(argv[1], "--build") == 0)
		return EXIT_SUCCESS;
	if (argc > 1) {
		fprintf(stderr, "usage: td-count [--build]\n");
		return 2;
	}
	count_references();
	count_lookups();
	count_batches();
	count_works();
	count_must(fflush(stdout) || ferror(stdout) ? -EIO : 0, "stdout");
	return EXIT_SUCCESS;
}
