/* SPDX-License-Identifier: MIT */
/*
 * What the exit helper gives back, tried in a process that has its memory for itself and
 * goes on afterwards: the right mappings, the largest first, and nothing that code needs.
 */
#include "exits.h"
#include "exit_internal.h"

#include <sys/file.h>

#define LARGE (96 * MIB)
#define MEDIUM (40 * MIB)
#define SMALL (1 * MIB)

static struct tdi_exit_block *block;

static char *map(size_t length, int prot, int flags, int fd)
{
	char *memory = mmap(NULL, length, prot, flags, fd, 0);

	need(memory != MAP_FAILED);
	if (prot & PROT_WRITE)
		memset(memory, 1, length);
	return memory;
}

static const struct tdi_exit_mapping *found(const char *memory)
{
	for (unsigned i = 0; i < block->mappings; i++) {
		const struct tdi_exit_mapping *mapping = &block->mapping[i];

		if (mapping->start <= (uintptr_t)memory &&
		    (uintptr_t)memory < mapping->end)
			return mapping;
	}
	return NULL;
}

static void check_order(void)
{
	size_t pieces = 0;

	for (unsigned i = 0; i < block->mappings; i++) {
		const struct tdi_exit_mapping *mapping = &block->mapping[i];

		need_eq(mapping->first, pieces);
		pieces += (tdi_align_up(mapping->end, mapping->piece) -
			   tdi_align_down(mapping->start, mapping->piece)) /
			  mapping->piece;
		need(i == 0 || mapping[-1].end - mapping[-1].start >=
				       mapping->end - mapping->start);
	}
	need_eq(block->pieces, pieces);
}

static void give_back(void *arg)
{
	int file = open("/proc/self/exe", O_RDONLY), memfd = memfd_create("td-test", 0);
	const int own = MAP_PRIVATE | MAP_ANONYMOUS, rw = PROT_READ | PROT_WRITE;
	char *large, *locked, *small, *code, *private_file, *shared;

	(void)arg;
	need(file >= 0 && memfd >= 0);
	need_eq(ftruncate(memfd, (off_t)MEDIUM), 0);
	large = map(LARGE, rw, own, -1);
	mprotect(map(4096, PROT_NONE, own, -1), 4096, PROT_NONE); /* between them */
	locked = map(MEDIUM, rw, own, -1);
	(void)mlock(locked, MEDIUM);
	small = map(SMALL, rw, own, -1);
	mprotect(small, 4096, PROT_NONE);
	code = map(MEDIUM, rw, own, -1);
	need_eq(mprotect(code, MEDIUM, PROT_READ | PROT_EXEC), 0);
	shared = map(MEDIUM, rw, MAP_SHARED, memfd);
	private_file = map(MEDIUM, rw, MAP_PRIVATE, memfd);
	tdi_exit_find_mappings(block);
	check_order();
	need(found(large) && found(locked) && found(shared));
	need(!found(small + 8192) || found(small + 8192) == found(large));
	need(!found(code) && !found(private_file));
	need(!found((char *)block) && !found((char *)&file));
	need(tdi_exit_is_slow(block, 1)); /* nanosecond: the first */
	need(!tdi_exit_is_slow(block, UINT64_MAX));
	tdi_exit_zap_pieces(block);
	for (size_t at = 0; at < LARGE; at += 4096)
		need_eq(large[at], 0);
	for (size_t at = 0; at < MEDIUM; at += 4096) {
		need_eq(locked[at], 0);
		need_eq(code[at], 1);
		need_eq(private_file[at], 1);
		need_eq(shared[at], 1); /* the page tables went, not the pages */
	}
	need_eq(block->next_piece, block->pieces + 1);
}

START_TEST(it_gives_back_what_no_code_needs_largest_first) /* A10 */
{
	if (TDT_SANITIZED) {
		tdt_skip(
			"a sanitizer's shadow would be given back, and the test goes on");
		return;
	}
	ck_assert_int_eq(tdi_exit_block_make(NULL, 0, &block), 0);
	ck_assert_int_eq(in_child(give_back, NULL), 0);
	tdi_exit_block_free(block);
}
END_TEST

static bool is_mapped(char *memory)
{
	unsigned char resident;

	return mincore(memory, 4096, &resident) == 0;
}

/* A mapping holds its file open, and a lock is let go when that is closed. */
static void unmap_files(void *arg)
{
	char path[] = "/tmp/td-test-mapped-XXXXXX";
	int file = mkstemp(path), again = open(path, O_RDWR), large, small;
	char *locked, *private_file, *of_large, *of_small, *anonymous;

	(void)arg;
	need(file >= 0 && again >= 0);
	unlink(path);
	need_eq(ftruncate(file, 4096), 0);
	large = memfd_create("td-test", 0);
	small = memfd_create("td-test", 0);
	need_eq(ftruncate(large, (off_t)MEDIUM), 0);
	need_eq(ftruncate(small, 4096), 0);
	anonymous = map(4096, PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	locked = map(4096, PROT_WRITE, MAP_SHARED, file);
	private_file = map(4096, PROT_WRITE, MAP_PRIVATE, again);
	of_large = map(MEDIUM, PROT_WRITE, MAP_SHARED, large);
	of_small = map(4096, PROT_WRITE, MAP_SHARED, small);
	need_eq(flock(file, LOCK_EX | LOCK_NB), 0);
	close(file);
	need_eq(flock(again, LOCK_EX | LOCK_NB), -1);
	need_eq(errno, EWOULDBLOCK);
	tdi_exit_unmap_files(block);
	need_eq(flock(again, LOCK_EX | LOCK_NB), 0);
	need(!is_mapped(locked) && !is_mapped(of_small));
	need(is_mapped(private_file) && is_mapped(of_large) && is_mapped(anonymous));
}

START_TEST(locks_of_mapped_files_are_let_go_first) /* A10 */
{
	ck_assert_int_eq(tdi_exit_block_make(NULL, 0, &block), 0);
	ck_assert_int_eq(in_child(unmap_files, NULL), 0);
	tdi_exit_block_free(block);
}
END_TEST

static void map_many(void *arg)
{
	(void)arg;
	for (size_t i = 0; i < TDI_EXIT_MAPPINGS_MAX + 50; i++) {
		size_t length = 4 * MIB + i * 4096;
		char *memory = mmap(NULL, length + 4096, PROT_READ | PROT_WRITE,
				    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

		need(memory != MAP_FAILED);
		need_eq(mprotect(memory, 4096, PROT_NONE), 0); /* one mapping each */
	}
	tdi_exit_find_mappings(block);
	need_eq(block->mappings, TDI_EXIT_MAPPINGS_MAX);
	check_order();
	/* The smallest have fallen out. */
	need(block->mapping[TDI_EXIT_MAPPINGS_MAX - 1].end -
		     block->mapping[TDI_EXIT_MAPPINGS_MAX - 1].start >=
	     4 * MIB + 49 * 4096);
}

START_TEST(of_too_many_it_takes_the_largest) /* A10 */
{
	ck_assert_int_eq(tdi_exit_block_make(NULL, 0, &block), 0);
	ck_assert_int_eq(in_child(map_many, NULL), 0);
	tdi_exit_block_free(block);
}
END_TEST

START_TEST(descriptors_to_keep_are_sorted_and_counted_once) /* A10 */
{
	const int keep[] = {9, 3, 9, 100, 3};

	ck_assert_int_eq(tdi_exit_block_make(keep, 5, &block), 0);
	block->keep[block->nr_keep++] = 50;
	block->keep[block->nr_keep++] = 4;
	tdi_exit_sort_kept(block);
	ck_assert_uint_eq(block->nr_keep, 5);
	ck_assert_int_eq(block->keep[0], 3);
	ck_assert_int_eq(block->keep[1], 4);
	ck_assert_int_eq(block->keep[2], 9);
	ck_assert_int_eq(block->keep[3], 50);
	ck_assert_int_eq(block->keep[4], 100);
	tdi_exit_block_free(block);
}
END_TEST

int main(void)
{
	struct tdt *tests = tdt_suite("exit_maps");

	tdt_add(tests, it_gives_back_what_no_code_needs_largest_first, NULL, NULL);
	tdt_add(tests, locks_of_mapped_files_are_let_go_first, NULL, NULL);
	tdt_add(tests, of_too_many_it_takes_the_largest, NULL, NULL);
	tdt_add(tests, descriptors_to_keep_are_sorted_and_counted_once, NULL, NULL);
	return tdt_run(tests);
}
