/* SPDX-License-Identifier: MIT */
/*
 * jemalloc arenas that are destroyed in O(1) an extent: extent hooks whose dalloc and
 * destroy hand the memory to libteardown's reapers. Copy what comes before "the example".
 *
 * Why. By default "arena.<i>.destroy" purges (MADV_DONTNEED) and unmaps all extents in
 * its caller, under a mutex that other mallctl calls want, page by page.
 *
 * What may be queued. jemalloc forgets an extent before it calls dalloc or destroy:
 * nobody uses the range any more, so it can stay mapped until a reaper comes to it. Hence
 * td_engine_submit() and not td_munmap(), which would go to the kernel for each extent to
 * make accesses fault that nobody makes. Purging is not queued: jemalloc keeps what it
 * purges, and purge_forced promises zeros when it returns.
 *
 * Where the notes are kept. A hook must not malloc: it runs inside malloc. A table can be
 * full. But the memory is dead, so each extent holds its own note, in its first bytes,
 * and that page goes last. Hooks push notes to a stack, the reaper takes it as a whole.
 * The price: an extent whose first page was never touched (destroy sees such rests) takes
 * a page fault for it; where transparent huge pages are always on, of a huge page: let
 * alloc advise MADV_NOHUGEPAGE there.
 *
 * One work for an arena. Not one for an extent: whoever pushes while the work is with the
 * engine is done, and a flood of small extents costs one wake. Not one for all arenas:
 * works take turns, and a small arena never waits for a big one.
 *
 * Which engine. The default one: its reapers sleep when there is nothing to do, and are
 * shared with what else is torn down. It is made before a hook runs: that allocates.
 *
 * What to know. Queued extents still count against the process's limits: when mallocx()
 * returns NULL, try again after td_engine_relieve() (not in a hook: it runs anybody's
 * callbacks). And decay unmaps, where jemalloc retains: a program that frees many small
 * pieces and lives on may have dalloc refuse them (true).
 */
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <jemalloc/jemalloc.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <teardown.h>

#define MIB ((size_t)1 << 20)
#define GIB ((size_t)1 << 30)
#define STEP_MIN                                                                         \
	(2 * MIB) /* a page-table page's, or a huge page: neither is cut in two */
#define STEP_MAX (64 * MIB)

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

/* ---- hand-over ---- */

/* At the start of an extent that jemalloc has given up. */
struct note {
	struct note *next;
	size_t size;	  /* what is still mapped, from the note on */
	size_t populated; /* what may still have pages, from the note on */
};

/* One for each arena. Must outlive it, and what is queued: see hooked_wait(). */
struct hooked {
	extent_hooks_t hooks; /* first: jemalloc hands its address to every hook */
	td_engine *engine;

	_Atomic(struct note *) inbox; /* given up and not yet seen by a reaper */
	_Atomic(bool) queued;	      /* the work is with the engine */
	_Atomic(size_t) mapped;	      /* by alloc, and not yet unmapped */
	_Atomic(unsigned) extents, submits;

	/* The reaper's, while the work is with the engine. */
	struct td_work work;
	struct note *notes;
	size_t step; /* bytes that can be released in the time a step may take */
};

static void submit_unless_queued(struct hooked *hooked)
{
	/* seq_cst, as all here: pairs with work_done(). A pusher pushes and then looks
	 * whether the work is queued; work_done() takes it off and then looks for what
	 * was pushed. So one of them, at least, sees the other. */
	if (atomic_load(&hooked->queued) || atomic_exchange(&hooked->queued, true))
		return;
	hooked->work.cost = atomic_load(&hooked->mapped);
	atomic_fetch_add(&hooked->submits, 1);
	/* Fails in the child of a fork only, which has no reapers (-ECHILD): there, what
	 * is given up stays mapped until exec or exit. */
	(void)td_engine_submit(hooked->engine, &hooked->work);
}

static void push(struct hooked *hooked, struct note *note)
{
	struct note *top = atomic_load(&hooked->inbox);

	do
		note->next = top;
	while (!atomic_compare_exchange_weak(&hooked->inbox, &top, note));
	/* The note may be gone from here on. */
}

/* ---- the reaper's side ---- */

/*
 * One system call for the first note, from its end, so that the note itself goes last.
 * First the pages, without unmapping: from Linux 6.17 on that takes no lock that others
 * need to mmap. Then, when a step of pages is left at most, the rest: page tables.
 */
static int work_step(struct hooked *hooked, struct td_slice *slice)
{
	struct note *note = hooked->notes, *next = note->next;
	char *start = (char *)note;
	size_t size = note->size, populated = note->populated;
	size_t from = size > GIB ? size - GIB : 0; /* 512 page-table pages */
	bool big = populated > hooked->step;
	uint64_t began = now_ns(), took;

	if (big) /* to where a page-table page ends */
		from = populated - hooked->step +
		       -(uintptr_t)(start + populated - hooked->step) % STEP_MIN;
	if (big && madvise(start + from, populated - from, MADV_DONTNEED) == 0) {
		note->populated = from;
		took = now_ns() - began;
		if (took > slice->target_ns && hooked->step > STEP_MIN)
			hooked->step /= 2;
		else if (took < slice->target_ns / 2 && hooked->step < STEP_MAX)
			hooked->step *= 2;
	} else { /* or with their pages, where madvise refuses: locked memory */
		if (munmap(start + from, size - from))
			return -errno;
		atomic_fetch_sub(&hooked->mapped, size - from);
		if (from == 0) /* the note is gone */
			hooked->notes = next;
		else
			*note = (struct note){next, from,
					      populated < from ? populated : from};
	}
	slice->released += populated > from ? populated - from : 0;
	return 0;
}

/* The kernel's limit on mappings: a hole in the middle of one makes two. What can go now
 * are the pages, but for the note's own; the rest when others have gone. */
static void put_off(struct hooked *hooked)
{
	struct note *note = hooked->notes;
	size_t page = (size_t)sysconf(_SC_PAGESIZE);

	madvise((char *)note + page, note->size - page, MADV_DONTNEED); /* if it can */
	hooked->notes = note->next;
	push(hooked, note);
}

static int work_slice(struct td_work *work, struct td_slice *slice)
{
	struct hooked *hooked = (void *)((char *)work - offsetof(struct hooked, work));
	bool progress = false;

	do {
		int err;

		if (!hooked->notes)
			hooked->notes = atomic_exchange(&hooked->inbox, NULL);
		if (!hooked->notes)
			return TD_WORK_DONE;
		err = work_step(hooked, slice);
		if (err == -ENOMEM) {
			put_off(hooked);
			return progress ? TD_WORK_MORE : TD_WORK_LATER;
		}
		must(err, "freeing an extent"); /* it is somebody else's by now */
		progress = true;
	} while (now_ns() < slice->deadline_ns);
	return TD_WORK_MORE;
}

static void work_done(struct td_work *work, int status)
{
	struct hooked *hooked = (void *)((char *)work - offsetof(struct hooked, work));

	/* Not for status < 0: the engine is going, and with it the process. */
	atomic_store(&hooked->queued, false);
	if (status == 0 && atomic_load(&hooked->inbox))
		submit_unless_queued(hooked);
}

/* ---- the hooks, which are told more than they need ---- */

#pragma GCC diagnostic ignored "-Wunused-parameter"

static void *map(void *addr, size_t size, int flags)
{
	void *start = mmap(addr, size, PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | flags, -1, 0);

	return start == MAP_FAILED ? NULL : start;
}

static void *map_aligned(size_t size, size_t alignment)
{
	char *start = map(NULL, size, 0);
	size_t lead;

	if (!start || (uintptr_t)start % alignment == 0)
		return start;
	munmap(start, size);
	start = map(NULL, size + alignment, 0);
	if (!start)
		return NULL;
	lead = -(uintptr_t)start % alignment;
	if (lead > 0)
		munmap(start, lead);
	munmap(start + lead + size, alignment - lead);
	return start + lead;
}

static void *hook_alloc(extent_hooks_t *hooks, void *new_addr, size_t size,
			size_t alignment, bool *zero, bool *commit, unsigned arena)
{
	struct hooked *hooked = (struct hooked *)hooks;
	void *start;

	/* Exactly there or nowhere: what is queued there, for instance, is still mapped.
	 */
	start = new_addr ? map(new_addr, size, MAP_FIXED_NOREPLACE)
			 : map_aligned(size, alignment);
	if (start && new_addr && start != new_addr) { /* before Linux 4.17: only a hint */
		munmap(start, size);
		return NULL;
	}
	if (!start)
		return NULL;
	*zero = *commit = true; /* asked for or not: it is */
	atomic_fetch_add(&hooked->mapped, size);
	return start;
}

/* False: the extent is ours. True would leave it to jemalloc. */
static bool hook_dalloc(extent_hooks_t *hooks, void *addr, size_t size, bool committed,
			unsigned arena)
{
	struct hooked *hooked = (struct hooked *)hooks;
	struct note *note = addr;

	*note = (struct note){.size = size, .populated = size};
	push(hooked, note);
	atomic_fetch_add(&hooked->extents, 1);
	submit_unless_queued(hooked);
	return false;
}

static void hook_destroy(extent_hooks_t *hooks, void *addr, size_t size, bool committed,
			 unsigned arena)
{
	hook_dalloc(hooks, addr, size, committed, arena);
}

/* munmap cuts and spans mappings: extents may be cut and joined freely (false: done). */
static bool hook_split(extent_hooks_t *hooks, void *addr, size_t size, size_t size_a,
		       size_t size_b, bool committed, unsigned arena)
{
	return false;
}

static bool hook_merge(extent_hooks_t *hooks, void *addr_a, size_t size_a, void *addr_b,
		       size_t size_b, bool committed, unsigned arena)
{
	return false;
}

/* Before arenas.create, and before the first hook runs. */
static void hooked_init(struct hooked *hooked)
{
	static const struct td_work_ops ops = {.slice = work_slice, .done = work_done};
	extent_hooks_t *defaults;
	size_t length = sizeof(defaults);

	memset(hooked, 0, sizeof(*hooked));
	must(-mallctl("arena.0.extent_hooks", &defaults, &length, NULL, 0),
	     "extent_hooks");
	hooked->hooks = (extent_hooks_t){
		.alloc = hook_alloc,
		.dalloc = hook_dalloc,
		.destroy = hook_destroy,
		/* jemalloc goes on using what it purges, so this cannot be queued. */
		.purge_lazy = defaults->purge_lazy,
		.purge_forced = defaults->purge_forced,
		.split = hook_split,
		.merge = hook_merge,
		/* No commit and decommit: notes are written to extents. */
	};
	hooked->step = STEP_MIN;
	td_work_init(&hooked->work, &ops, 0);
	must(td_engine_default(&hooked->engine), "td_engine_default");
}

/* When this returns after arena.<i>.destroy, the hooks may go, too. Drains again when the
 * work found more as it ended: a drain does not wait for what came after it began. */
static void hooked_wait(struct hooked *hooked)
{
	do
		must(td_engine_drain(hooked->engine, TD_FOREVER), "td_engine_drain");
	while (atomic_load(&hooked->queued));
}

/* ---- the example: an arena with these hooks, an equal one with jemalloc's ---- */

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
	size_t size = GIB;
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

	hooked_init(&hooked);
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
