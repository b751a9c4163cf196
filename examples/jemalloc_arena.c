/* SPDX-License-Identifier: MIT */
/* An arena with the hooks of jemalloc_hooks.c is destroyed, and an equal one with
 * jemalloc's. */
#include "jemalloc_hooks.h"

#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define MIB ((size_t)1 << 20)
#define GIB ((size_t)1 << 30)

static void must(int err, const char *what)
{
	if (err < 0)
		errx(EXIT_FAILURE, "%s: %s", what, strerror(-err));
}

static uint64_t now_ns(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

#define ROUNDS 5
#define SAMPLES 4096

struct filling {
	unsigned arena;
	size_t bytes;
	struct item { /* at the start of each allocation */
		struct item *next;
		size_t size;
	} * items;
};

/* 16 B to 8 MiB; nearly all items, and a fifteenth of the bytes, below 8 KiB. */
static void fill(struct filling *filling, size_t bytes)
{
	int flags = MALLOCX_ARENA(filling->arena) | MALLOCX_TCACHE_NONE;

	while (filling->bytes < bytes) {
		bool large = random() % 64 == 0;
		size_t size = (large ? 4096ul : 16ul) << random() % (large ? 11 : 9);
		struct item *item;

		size += (size_t)random() % size;
		item = mallocx(size, flags);
		must(item ? 0 : -ENOMEM, "mallocx");
		memset(item, 1, size);
		*item = (struct item){filling->items, size};
		filling->items = item;
		filling->bytes += size;
	}
}

static void free_some(struct filling *filling)
{
	for (struct item **link = &filling->items, *item; (item = *link) != NULL;) {
		if (random() % 3 > 0) {
			link = &item->next;
			continue;
		}
		*link = item->next;
		filling->bytes -= item->size;
		dallocx(item, MALLOCX_TCACHE_NONE);
	}
}

static void arena_ctl(unsigned arena, const char *what)
{
	char name[64];

	snprintf(name, sizeof(name), "arena.%u.%s", arena, what);
	must(-mallctl(name, NULL, NULL, NULL, 0), name);
}

static size_t resident(void)
{
	char text[64] = "";
	int fd = open("/proc/self/statm", O_RDONLY | O_CLOEXEC); /* without a malloc */
	ssize_t length = read(fd, text, sizeof(text) - 1);

	must(length <= 0 ? -EIO : close(fd), "/proc/self/statm");
	return strtoul(strchr(text, ' '), NULL, 10) * (size_t)sysconf(_SC_PAGESIZE);
}

static void check(bool holds, const char *what)
{
	if (!holds)
		errx(EXIT_FAILURE, "does not hold: %s", what);
}

struct times {
	double held_us, back_us;
};

/* hooked: NULL for jemalloc's own hooks. */
static void run(struct hooked *hooked, size_t bytes, struct times *best)
{
	const uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
	static void *sample[SAMPLES];
	struct filling filling = {0};
	size_t length = sizeof(filling.arena), before = resident(), nr = 0;
	unsigned char residency;
	struct times times;
	uint64_t began;

	must(-mallctl("arenas.create", &filling.arena, &length, hooked ? &hooked : NULL,
		      hooked ? sizeof(hooked) : 0),
	     "arenas.create");
	srandom(1); /* equal arenas */
	fill(&filling, bytes / 2);
	free_some(&filling); /* holes, for split, merge and dalloc */
	arena_ctl(filling.arena, "purge");
	fill(&filling, bytes);
	for (struct item *item = filling.items; item && nr < SAMPLES; item = item->next)
		sample[nr++] = (void *)((uintptr_t)item & -page);

	began = now_ns();
	arena_ctl(filling.arena, "destroy");
	times.held_us = (double)(now_ns() - began) / 1e3;
	if (hooked)
		hooked_wait(hooked); /* only to measure and to check */
	times.back_us = (double)(now_ns() - began) / 1e3;

	check(!hooked || atomic_load(&hooked->mapped) == 0,
	      "all that alloc mapped has been unmapped");
	for (size_t i = 0; i < nr; i++)
		check(mincore(sample[i], 1, &residency) == -1 && errno == ENOMEM,
		      "the arena's addresses are free");
	check(resident() < before + 8 * MIB + bytes / 64, "its memory is back");
	if (best->held_us == 0 || times.held_us < best->held_us)
		*best = times;
}

/* 0: not a size. */
static size_t parse_size(const char *text)
{
	static const char units[] = "KMG";
	char unit = 0, junk;
	size_t size = 0;

	if (*text == '-' || sscanf(text, "%zu%c%c", &size, &unit, &junk) > 2 ||
	    (unit && !strchr(units, unit)))
		return 0;
	return unit ? size << 10 * (strchr(units, unit) - units + 1) : size;
}

static const char usage[] =
	"usage: jemalloc_arena [--size SIZE] [--check-ratio]\n"
	"Fills a jemalloc arena with SIZE bytes (256M, 1G; default 1G) and destroys it,\n"
	"with jemalloc's own extent hooks, and with hooks that hand extents to reapers.\n"
	"Shows how long arena.<i>.destroy held its caller, and when the memory was "
	"back,\n"
	"which is checked; the best of 5 times. With --check-ratio it is an error when\n"
	"the caller was not held less than a tenth as long. MALLOC_CONF=retain:false\n"
	"shows jemalloc without its default of keeping addresses for later.\n";

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{"size", required_argument, NULL, 's'},
		{"check-ratio", no_argument, NULL, 'c'},
		{"help", no_argument, NULL, 'h'},
		{NULL, 0, NULL, 0},
	};
	struct times theirs = {0}, ours = {0};
	static struct hooked hooked;
	bool check_ratio = false;
	size_t size = GIB, length = sizeof(void *);
	extent_hooks_t *defaults;
	int option;

	while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
		if (option == 'h')
			return fputs(usage, stdout) < 0 || fflush(stdout) != 0;
		check_ratio |= option == 'c';
		if (option == '?' || (option == 's' && (size = parse_size(optarg)) == 0))
			return fputs(usage, stderr), 2;
	}
	if (optind < argc)
		return fputs(usage, stderr), 2;

	must(-mallctl("arena.0.extent_hooks", &defaults, &length, NULL, 0),
	     "extent_hooks");
	hooked_init(&hooked, defaults);
	for (int i = 0; i < ROUNDS; i++) {
		run(NULL, size, &theirs);
		run(&hooked, size, &ours);
	}
	printf("%-14s %15s %18s\n", "microseconds", "caller held", "memory back");
	printf("%-14s %15.1f %18.1f\n", "jemalloc", theirs.held_us, theirs.back_us);
	printf("%-14s %15.1f %18.1f\n", "libteardown", ours.held_us, ours.back_us);
	printf("held %.1f times shorter; %u extents handed over in %u submissions\n",
	       theirs.held_us / ours.held_us, atomic_load(&hooked.extents),
	       atomic_load(&hooked.submits));
	check(!check_ratio || theirs.held_us > 10 * ours.held_us,
	      "the caller is held less than a tenth as long");
	return EXIT_SUCCESS;
}
