/* SPDX-License-Identifier: MIT */
/*
 * What the helper gives back itself, and in which order. It works with nothing but its
 * block: no allocator, no stdio, no strings of the C library, whose memory may be what is
 * given back.
 */
#include "exit_internal.h"
#include "sys_process.h"

#include <fcntl.h>
#include <sys/mman.h>

#ifndef MADV_DONTNEED_LOCKED
#define MADV_DONTNEED_LOCKED 24
#endif

#define MAPPING_MIN ((size_t)4 << 20)
#define PIECE_MIN ((size_t)32 << 20)
#define PIECE_HUGE ((size_t)1 << 30) /* of the largest huge pages */
#define SAMPLES 16		     /* pieces, to tell whether they are slow */
#define PIECES_MAX 1024		     /* of one mapping: reserved ones are terabytes */

static bool begins(const char *text, const char *with)
{
	while (*with && *text == *with) {
		text++;
		with++;
	}
	return *with == '\0';
}

static const char *hex(const char *at, uintptr_t *ret)
{
	uintptr_t value = 0;

	for (;; at++) {
		if (*at >= '0' && *at <= '9')
			value = value * 16 + (uintptr_t)(*at - '0');
		else if (*at >= 'a' && *at <= 'f')
			value = value * 16 + (uintptr_t)(*at - 'a') + 10;
		else
			break;
	}
	*ret = value;
	return at;
}

/* Behind so many blanks-separated fields. */
static const char *skip_fields(const char *at, int fields)
{
	for (; fields > 0; fields--) {
		while (*at && *at != ' ')
			at++;
		while (*at == ' ')
			at++;
	}
	return at;
}

static bool is_shared_memory(const char *path)
{
	return begins(path, "/memfd:") || begins(path, "/dev/zero") ||
	       begins(path, "/dev/shm/") || begins(path, "/SYSV") ||
	       begins(path, "/anon_hugepage") || begins(path, "[anon_shmem:");
}

/*
 * Nothing that code may need, or be: no private mapping of a file, where tables of
 * addresses are, nothing executable. Of shared memory only this process's page tables
 * are given back; its pages are, when the last who maps them is gone.
 */
static bool is_to_be_given_back(const char *permissions, const char *path)
{
	if (permissions[2] == 'x')
		return false;
	if (permissions[3] == 's')
		return is_shared_memory(path);
	return *path == '\0' || begins(path, "[heap]") || begins(path, "[anon:") ||
	       begins(path, "/anon_hugepage");
}

static size_t piece_of(size_t length, bool is_huge)
{
	size_t piece = is_huge ? PIECE_HUGE : PIECE_MIN;

	while (length / piece > PIECES_MAX)
		piece *= 2;
	return piece;
}

/* Largest first; the smallest falls out. */
static void insert(struct tdi_exit_block *block, uintptr_t start, uintptr_t end,
		   bool is_huge)
{
	struct tdi_exit_mapping *all = block->mapping;
	unsigned at = block->mappings;

	if (at == TDI_EXIT_MAPPINGS_MAX) {
		if (all[at - 1].end - all[at - 1].start >= end - start)
			return;
		at--;
	} else {
		block->mappings++;
	}
	for (; at > 0 && all[at - 1].end - all[at - 1].start < end - start; at--)
		all[at] = all[at - 1];
	all[at].start = start;
	all[at].end = end;
	all[at].piece = piece_of(end - start, is_huge);
}

struct line {
	uintptr_t start, end;
	const char *permissions, *path;
};

/* False: there is no such line, or it is of the block. */
static bool parse(const struct tdi_exit_block *block, struct line *ret)
{
	uintptr_t block_start = (uintptr_t)block->memory;
	const char *at = hex(block->line, &ret->start);

	if (*at != '-')
		return false;
	at = hex(at + 1, &ret->end);
	if (*at != ' ')
		return false;
	ret->permissions = at + 1;
	ret->path = skip_fields(ret->permissions, 4);
	return ret->start >= block_start + block->size || ret->end <= block_start;
}

static void each_line(struct tdi_exit_block *block,
		      void (*take)(struct tdi_exit_block *block, const struct line *line))
{
	int fd = tdi_bare_open("/proc/self/maps", O_RDONLY);
	size_t length = 0;
	struct line line;
	ssize_t got;

	if (fd < 0)
		return;
	while ((got = tdi_bare_read(fd, block->text, TDI_EXIT_TEXT_SIZE)) > 0) {
		for (ssize_t i = 0; i < got; i++) {
			char c = block->text[i];

			if (c == '\n') {
				block->line[length] = '\0';
				if (parse(block, &line))
					take(block, &line);
				length = 0;
			} else if (length < sizeof(block->line) - 1) {
				/* Of a long path the beginning is enough. */
				block->line[length++] = c;
			}
		}
	}
	(void)tdi_bare_close(fd);
}

/* No loader maps code, or what it needs, shared. */
static void unmap_file(struct tdi_exit_block *block, const struct line *line)
{
	(void)block;
	if (line->permissions[3] != 's' || line->permissions[2] == 'x')
		return;
	/* Of large shared memory the pieces are given back first. */
	if (line->end - line->start < MAPPING_MIN || !is_shared_memory(line->path))
		(void)tdi_bare_munmap(line->start, line->end - line->start);
}

void tdi_exit_unmap_files(struct tdi_exit_block *block)
{
	each_line(block, unmap_file);
}

static void take_mapping(struct tdi_exit_block *block, const struct line *line)
{
	if (line->end - line->start >= MAPPING_MIN &&
	    is_to_be_given_back(line->permissions, line->path))
		insert(block, line->start, line->end,
		       begins(line->path, "/anon_hugepage") ||
			       begins(line->path, "/memfd:hugetlb"));
}

void tdi_exit_find_mappings(struct tdi_exit_block *block)
{
	block->mappings = 0;
	block->pieces = 0;
	each_line(block, take_mapping);
	for (unsigned i = 0; i < block->mappings; i++) {
		struct tdi_exit_mapping *mapping = &block->mapping[i];

		mapping->first = block->pieces;
		block->pieces += (tdi_align_up(mapping->end, mapping->piece) -
				  tdi_align_down(mapping->start, mapping->piece)) /
				 mapping->piece;
	}
	atomic_store_explicit(&block->next_piece, 0, memory_order_relaxed);
}

static void zap(const struct tdi_exit_mapping *mapping, size_t number)
{
	uintptr_t start = tdi_align_down(mapping->start, mapping->piece) +
			  (number - mapping->first) * mapping->piece;
	uintptr_t end = start + mapping->piece;

	if (start < mapping->start)
		start = mapping->start;
	if (end > mapping->end)
		end = mapping->end;
	if (tdi_bare_madvise(start, end - start, MADV_DONTNEED) != 0)
		/* Locked. What cannot be given back here goes when the helper ends. */
		(void)tdi_bare_madvise(start, end - start, MADV_DONTNEED_LOCKED);
}

/* Of the mapping with that number, which only grow. */
static unsigned mapping_of(const struct tdi_exit_block *block, unsigned at, size_t number)
{
	while (at + 1 < block->mappings && block->mapping[at + 1].first <= number)
		at++;
	return at;
}

bool tdi_exit_is_slow(struct tdi_exit_block *block, uint64_t slow_ns)
{
	size_t samples = tdi_min_size(SAMPLES, block->pieces);
	uint64_t began = tdi_bare_now_ns();
	unsigned at = 0;

	for (size_t i = 0; i < samples; i++) {
		size_t number = i * block->pieces / samples;
		uint64_t ended;

		at = mapping_of(block, at, number);
		zap(&block->mapping[at], number);
		ended = tdi_bare_now_ns();
		if (ended - began > slow_ns)
			return true;
		began = ended;
	}
	return false;
}

void tdi_exit_zap_pieces(struct tdi_exit_block *block)
{
	unsigned at = 0;
	size_t number;

	while ((number = atomic_fetch_add_explicit(
			&block->next_piece, 1, memory_order_relaxed)) < block->pieces) {
		at = mapping_of(block, at, number);
		zap(&block->mapping[at], number);
	}
}
