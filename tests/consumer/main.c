/* SPDX-License-Identifier: MIT */
/* A program of somebody who installed the library: built and run by the scripts beside.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <teardown.h>

#define LENGTH	  ((size_t)64 << 20)

#define TRY(call) try_(#call, call)

static void try_(const char *what, int err)
{
	if (err == 0)
		return;
	fprintf(stderr, "%s: %s\n", what, strerror(-err));
	exit(EXIT_FAILURE);
}

static int still_mapped(void *addr)
{
	static unsigned char resident[LENGTH / 4096];

	return mincore(addr, LENGTH, resident) == 0 || errno != ENOMEM;
}

int main(void)
{
	struct td_space_stats stats;
	td_engine *engine;
	td_space *space;
	void *memory;

	if (strcmp(td_version(), TD_VERSION_STRING) != 0) {
		fprintf(stderr, "headers of %s, archive of %s\n", TD_VERSION_STRING,
			td_version());
		return EXIT_FAILURE;
	}
	TRY(td_engine_create(TD_ENGINE_OPTS(.reapers = 1, .name = "consumer"), &engine));
	TRY(td_space_create(engine, TD_SPACE_OPTS(.name = "consumer"), &space));
	TRY(td_region_map(space, LENGTH, NULL, &memory));
	memset(memory, 1, LENGTH);

	TRY(td_space_grab(space));
	TRY(td_space_put(space));
	TRY(td_space_wait(space, TD_EVENT_RECLAIMED, INT64_C(60) * 1000 * 1000 * 1000));
	TRY(td_space_stats(space, &stats));
	if (still_mapped(memory) || stats.bytes_reclaimed != LENGTH) {
		fprintf(stderr, "%p is still there: %llu of %zu bytes reclaimed\n",
			memory, (unsigned long long)stats.bytes_reclaimed, LENGTH);
		return EXIT_FAILURE;
	}
	TRY(td_space_drop(space));
	TRY(td_engine_destroy(engine, TD_EXIT_DRAIN, 0));
	puts("the memory is back");
	return EXIT_SUCCESS;
}
