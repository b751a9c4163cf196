/* SPDX-License-Identifier: MIT */
#include "cells.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

/* The first cell of a block is its header, found from any other by its alignment. */
#define BLOCK_SIZE ((size_t)64 * TDI_CELL_SIZE)
#define FREE_ALL (~UINT64_C(1)) /* a bit for each cell but the header */

struct block {
	struct block *next, *prev; /* among those with a free cell */
	uint64_t free;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct block *partial;

static void list_add(struct block *block)
{
	block->prev = NULL;
	block->next = partial;
	if (partial)
		partial->prev = block;
	partial = block;
}

static void list_remove(struct block *block)
{
	if (block->next)
		block->next->prev = block->prev;
	if (block->prev)
		block->prev->next = block->next;
	else
		partial = block->next;
}

/* Under the lock. */
static struct block *block_with_room(void)
{
	struct block *block = partial;

	if (block)
		return block;
	block = aligned_alloc(BLOCK_SIZE, BLOCK_SIZE);
	if (block) {
		block->free = FREE_ALL;
		list_add(block);
	}
	return block;
}

/* A sanitizer watches each allocation, and would not see these. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#else
#define SANITIZED 0
#endif

void *tdi_cells_alloc(void)
{
	struct block *block;
	void *cell = NULL;

	if (SANITIZED)
		return calloc(1, TDI_CELL_SIZE);
	pthread_mutex_lock(&lock);
	block = block_with_room();
	if (block) {
		unsigned index = (unsigned)__builtin_ctzll(block->free);

		block->free &= block->free - 1;
		if (block->free == 0)
			list_remove(block);
		cell = (char *)block + index * TDI_CELL_SIZE;
	}
	pthread_mutex_unlock(&lock);
	return cell ? memset(cell, 0, TDI_CELL_SIZE) : NULL;
}

void tdi_cells_free(void *cell)
{
	struct block *block, *unused = NULL;
	uint64_t bit;

	if (!cell || SANITIZED) {
		free(cell);
		return;
	}
	block = (struct block *)tdi_align_down((uintptr_t)cell, BLOCK_SIZE);
	bit = UINT64_C(1) << ((uintptr_t)cell - (uintptr_t)block) / TDI_CELL_SIZE;
	pthread_mutex_lock(&lock);
	if ((block->free & bit) != 0)
		tdi_die("cell %p: freed twice", cell);
	if (block->free == 0)
		list_add(block);
	block->free |= bit;
	/* The last one stays, for the next that comes. */
	if (block->free == FREE_ALL && (block->next || block->prev)) {
		list_remove(block);
		unused = block;
	}
	pthread_mutex_unlock(&lock);
	free(unused);
}

void tdi_cells_after_fork_in_child(void)
{
	/* Somebody who is not here may have been at the list. */
	partial = NULL;
	lock = (pthread_mutex_t)PTHREAD_MUTEX_INITIALIZER;
}
