/* SPDX-License-Identifier: MIT */
/*
 * Finding the region of an address, against a binary search in a sorted array, which
 * nobody can change while others search it.
 */
#include "common.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/ioctl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <urcu/urcu-memb.h>

enum { LOOKUP_NS, UPDATE_NS, SYSCALL_NS };
enum { TD, BSEARCH, NR_WAYS };

#define READERS_MAX 2u
#define BATCH 1000u /* lookups in one read-side critical section */
#define NR_BATCHES 500u
#define UPDATES (2 * BENCH_REPEAT_MAX)

/* ---- what is searched: one region for each page of one mapping ---- */

/* Neighbours, so that the kernel has one mapping, however many regions there are. */
struct field {
	char *start;
	size_t page, nr;
	td_space *space;

	struct entry {
		uintptr_t start, end;
		uint64_t value;
	} * entries; /* sorted */
	size_t nr_entries;
};

static char *map_pages(char *start, size_t size, int flags)
{
	void *mapped = mmap(start, size, PROT_NONE,
			    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | flags, -1, 0);

	bench_must(mapped == MAP_FAILED ? -errno : 0, "mmap");
	return mapped;
}

static void field_make(td_engine *engine, size_t nr, struct field *field)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE);

	field->page = page;
	field->nr = field->nr_entries = nr;
	field->start = map_pages(NULL, nr * page, 0);
	bench_must(td_space_create(engine, TD_SPACE_OPTS(.name = "bench"), &field->space),
		   "td_space_create");
	field->entries = calloc(nr, sizeof(field->entries[0]));
	bench_must(field->entries ? 0 : -ENOMEM, "calloc");
	for (size_t i = 0; i < nr; i++) {
		uintptr_t start = (uintptr_t)field->start + i * page;

		bench_must(td_region_adopt(field->space, (void *)start, page, NULL),
			   "td_region_adopt");
		field->entries[i] = (struct entry){start, start + page, i};
	}
}

static void field_done(td_engine *engine, struct field *field)
{
	bench_must(td_space_put(field->space), "td_space_put");
	bench_drain(engine);
	free(field->entries);
}

/* The same sequence for both: xorshift, and a multiplication instead of a division. */
static inline size_t pick(uint64_t *seed, size_t nr)
{
	*seed ^= *seed << 13;
	*seed ^= *seed >> 7;
	*seed ^= *seed << 17;
	return (size_t)(((*seed >> 32) * nr) >> 32);
}

/* ---- searching ---- */

static int search(const struct field *field, uintptr_t addr, struct entry *ret)
{
	const struct entry *base = field->entries;
	size_t nr = field->nr_entries;

	if (nr == 0)
		return -ENOENT;
	while (nr > 1) { /* compiled without a branch that could be mispredicted */
		size_t half = nr / 2;

		base = base[half].start <= addr ? base + half : base;
		nr -= half;
	}
	if (addr < base->start || addr >= base->end)
		return -ENOENT;
	*ret = *base;
	return 0;
}

struct reader {
	pthread_t thread;
	pthread_barrier_t *begin;
	const struct field *field;
	int way;
	uint64_t seed, took_ns;
};

/* Makes the compiler believe that the result is used. */
#define USE(object) __asm__ volatile("" : : "r"(&(object)) : "memory")

static void read_td(const struct field *field, uint64_t *seed)
{
	struct td_region_info info;
	int bad = 0; /* negative once anything was */

	urcu_memb_read_lock();
	for (unsigned i = 0; i < BATCH; i++) {
		const char *addr = field->start + pick(seed, field->nr) * field->page;

		bad |= td_region_lookup(field->space, addr + 1, &info);
		USE(info);
	}
	urcu_memb_read_unlock();
	bench_must(bad, "td_region_lookup");
}

static void read_bsearch(const struct field *field, uint64_t *seed)
{
	struct entry entry;
	int bad = 0;

	for (unsigned i = 0; i < BATCH; i++) {
		const char *addr = field->start + pick(seed, field->nr) * field->page;

		bad |= search(field, (uintptr_t)addr + 1, &entry);
		USE(entry);
	}
	bench_must(bad, "search");
}

/*
 * Of this thread's CPU time, which other programs do not add to. A reader has nothing to
 * sleep on: if one held up another it would be by cache lines, and that is CPU time.
 */
static uint64_t thread_ns(void)
{
	struct timespec time;

	bench_must(clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time) ? -errno : 0,
		   "clock_gettime");
	return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

static void *read_on(void *arg)
{
	struct reader *reader = arg;
	void (*read_batch)(const struct field *, uint64_t *) =
		reader->way == TD ? read_td : read_bsearch;
	uint64_t began;

	urcu_memb_register_thread();
	read_batch(reader->field, &reader->seed);
	pthread_barrier_wait(reader->begin);
	began = thread_ns();
	for (unsigned i = 0; i < NR_BATCHES; i++)
		read_batch(reader->field, &reader->seed);
	reader->took_ns = thread_ns() - began;
	urcu_memb_unregister_thread();
	return NULL;
}

/* Time of one lookup, of so many readers at once: their mean. */
static double lookup_ns(const struct field *field, int way, unsigned nr_readers)
{
	struct reader readers[READERS_MAX];
	pthread_barrier_t begin;
	double sum = 0;

	bench_must(-pthread_barrier_init(&begin, NULL, nr_readers),
		   "pthread_barrier_init");
	for (unsigned i = 0; i < nr_readers; i++) {
		readers[i] = (struct reader){.begin = &begin,
					     .field = field,
					     .way = way,
					     .seed = i + 88172645};
		bench_must(
			-pthread_create(&readers[i].thread, NULL, read_on, &readers[i]),
			"pthread_create");
	}
	for (unsigned i = 0; i < nr_readers; i++) {
		bench_must(-pthread_join(readers[i].thread, NULL), "pthread_join");
		sum += (double)readers[i].took_ns;
	}
	bench_must(-pthread_barrier_destroy(&begin), "pthread_barrier_destroy");
	return sum / nr_readers / NR_BATCHES / BATCH;
}

/* ---- changing ---- */

/* As the library asks what it is given, with the argument that Linux 6.11 defines. */
struct maps_query {
	uint64_t size, flags, addr;
	uint64_t vma_start, vma_end, vma_flags, vma_page_size, vma_offset, inode;
	uint32_t dev_major, dev_minor, name_size, build_id_size;
	uint64_t name, build_id;
};

/*
 * The system calls that taking out and adopting one page comes to, alone, in the same
 * mapping: td_region_unmap is a munmap below the engine's threshold; td_region_adopt
 * opens the list of mappings, asks it once (an older kernel: reads it) and closes it.
 * What is left of an update without them is the library's own, with a wake now and then
 * for the thread of liburcu that frees what was taken out. The mmap that fills the
 * hole again is the bench's, and timed by nobody.
 */
static uint64_t bare_calls_ns(char *addr, size_t page)
{
	char name[256], text[4096];
	struct maps_query query = {
		.size = sizeof(query),
		.flags = 0x10, /* the mapping at, or after */
		.addr = (uintptr_t)addr,
		.name_size = sizeof(name),
		.name = (uintptr_t)name,
	};
	uint64_t began = bench_now_ns(), took;
	int fd;

	bench_munmap(addr, page);
	took = bench_now_ns() - began;
	map_pages(addr, page, MAP_FIXED_NOREPLACE);
	began = bench_now_ns();
	fd = open("/proc/thread-self/maps", O_RDONLY | O_CLOEXEC);
	bench_must(fd < 0 ? -errno : 0, "open");
	if (ioctl(fd, _IOWR('f', 17, struct maps_query), &query)) {
		while (read(fd, text, sizeof(text)) > 0)
			;
	}
	bench_must(close(fd) ? -errno : 0, "close");
	return took + bench_now_ns() - began;
}

static uint64_t update_td_ns(const struct field *field, char *addr)
{
	uint64_t began = bench_now_ns(), took;

	bench_must(td_region_unmap(field->space, addr, field->page), "td_region_unmap");
	took = bench_now_ns() - began;
	map_pages(addr, field->page, MAP_FIXED_NOREPLACE);
	began = bench_now_ns();
	bench_must(td_region_adopt(field->space, addr, field->page, NULL),
		   "td_region_adopt");
	return took + bench_now_ns() - began;
}

static uint64_t update_bsearch_ns(struct field *field, char *addr)
{
	uint64_t began = bench_now_ns();
	struct entry entry;
	size_t at, after;

	bench_must(search(field, (uintptr_t)addr, &entry), "search");
	at = entry.value; /* the value is the place, as only one is ever missing */
	after = field->nr_entries - at - 1;
	memmove(&field->entries[at], &field->entries[at + 1], after * sizeof(entry));
	USE(*field->entries);
	memmove(&field->entries[at + 1], &field->entries[at], after * sizeof(entry));
	field->entries[at] = entry;
	USE(*field->entries);
	return bench_now_ns() - began;
}

/*
 * Two updates make a pair; both values are of one of them, and medians, as in so many a
 * few are interrupted. The bare calls are made in turn with the library's, in a mapping
 * of the same shape that is none of its business.
 */
static void sample_updates(struct field *field, int way, double *values)
{
	static struct bench_series pairs, bare;
	size_t size = field->nr * field->page;
	uint64_t seed = 362436069;
	char *other = NULL;

	if (way == TD)
		other = map_pages(NULL, size, 0);
	for (pairs.n = bare.n = 0; pairs.n < UPDATES / 2;) {
		size_t at = pick(&seed, field->nr) * field->page;
		uint64_t took = way == TD ? update_td_ns(field, field->start + at)
					  : update_bsearch_ns(field, field->start + at);

		pairs.values[pairs.n++] = (double)took;
		took = way == TD ? bare_calls_ns(other + at, field->page) : 0;
		bare.values[bare.n++] = (double)took;
	}
	if (way == TD)
		bench_munmap(other, size);
	values[SYSCALL_NS] = bench_summarize(&bare).median / 2;
	values[UPDATE_NS] = bench_summarize(&pairs).median / 2 - values[SYSCALL_NS];
}

/* ---- */

struct setup {
	struct field *field;
	int way;
	unsigned readers;
};

static void sample(const struct bench_subject *self, size_t size, double *values)
{
	const struct setup *setup = self->arg;

	(void)size;
	values[LOOKUP_NS] = lookup_ns(setup->field, setup->way, setup->readers);
	if (setup->readers == 1)
		sample_updates(setup->field, setup->way, values);
}

static void print_subject(const struct bench_subject *subject, size_t nr)
{
	const struct setup *setup = subject->arg;

	printf("bench=lookup subject=%s regions=%zu readers=%u", subject->name, nr,
	       setup->readers);
	bench_print_range("lookup_ns", subject, LOOKUP_NS);
	if (setup->readers == 1)
		printf(" update_ns=%.1f syscall_ns=%.1f",
		       bench_median(subject, UPDATE_NS),
		       bench_median(subject, SYSCALL_NS));
	printf(" repeat=%u\n", subject->series[LOOKUP_NS].n);
}

enum { TD_1, BSEARCH_1, TD_2, BSEARCH_2, NR_SUBJECTS };

static double ratio(const struct bench_subject *a, const struct bench_subject *b,
		    unsigned value)
{
	return bench_median(a, value) / bench_median(b, value);
}

static void run_regions(td_engine *engine, size_t nr, unsigned repeat)
{
	static struct bench_subject subjects[NR_SUBJECTS] = {
		[TD_1] = {.name = "td", .sample = sample},
		[BSEARCH_1] = {.name = "bsearch", .sample = sample},
		[TD_2] = {.name = "td", .sample = sample},
		[BSEARCH_2] = {.name = "bsearch", .sample = sample},
	};
	struct field field;
	struct setup setups[NR_SUBJECTS] = {
		[TD_1] = {&field, TD, 1},
		[BSEARCH_1] = {&field, BSEARCH, 1},
		[TD_2] = {&field, TD, 2},
		[BSEARCH_2] = {&field, BSEARCH, 2},
	};

	field_make(engine, nr, &field);
	for (unsigned i = 0; i < NR_SUBJECTS; i++)
		subjects[i].arg = &setups[i];
	bench_rounds(subjects, NR_SUBJECTS, 0, repeat);
	for (unsigned i = 0; i < NR_SUBJECTS; i++)
		print_subject(&subjects[i], nr);
	printf("summary bench=lookup regions=%zu lookup_td_over_bsearch=%.2f "
	       "update_td_over_bsearch=%.2f update_td_over_syscalls=%.2f "
	       "td_2_readers_over_1=%.2f bsearch_2_readers_over_1=%.2f\n",
	       nr, ratio(&subjects[TD_1], &subjects[BSEARCH_1], LOOKUP_NS),
	       ratio(&subjects[TD_1], &subjects[BSEARCH_1], UPDATE_NS),
	       bench_median(&subjects[TD_1], UPDATE_NS) /
		       bench_median(&subjects[TD_1], SYSCALL_NS),
	       ratio(&subjects[TD_2], &subjects[TD_1], LOOKUP_NS),
	       ratio(&subjects[BSEARCH_2], &subjects[BSEARCH_1], LOOKUP_NS));
	field_done(engine, &field);
}

static void run(const struct bench_opts *opts)
{
	static const size_t defaults[] = {64, 4096, 65000};
	td_engine *engine = bench_engine(1);

	puts("# ratios: td over its peer, below 1 is in the library's favour. update_ns: "
	     "without the system calls\n"
	     "# (syscall_ns) that the update makes; the array's makes none, and allows "
	     "no search meanwhile");
	if (opts->size > 0)
		run_regions(engine, opts->size / (size_t)sysconf(_SC_PAGESIZE),
			    opts->repeat);
	for (size_t i = 0; opts->size == 0 && i < sizeof(defaults) / sizeof(defaults[0]);
	     i++)
		run_regions(engine, defaults[i], opts->repeat);
	bench_engine_done(engine);
}

const struct bench_scenario bench_lookup = {
	.name = "lookup",
	.what = "finding the region of an address (64, 4096, 65000; or SIZE's pages)",
	.run = run,
};
