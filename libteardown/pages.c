/* SPDX-License-Identifier: MIT */
#include "pages.h"
#include "sys.h"

#include <string.h>
#include <sys/mman.h>

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23 /* Linux 5.14 */
#endif

/* Links are kept apart from the pages, so that free pages need no memory. */
struct tdi_chunk {
	_Atomic(uint32_t) links[TDI_CHUNK_PAGES];
	_Atomic(bool) touched; /* relaxed: whoever trims may be another thread */
	_Alignas(TDI_PAGE_SIZE) struct tdi_page pages[TDI_CHUNK_PAGES];
};

static struct tdi_chunk *chunk_of(struct tdi_pages *pages, uint32_t index)
{
	/* Acquire: pairs with tdi_pages_grow. */
	return atomic_load_explicit(&pages->chunks[(index - 1) / TDI_CHUNK_PAGES],
				    memory_order_acquire);
}

static struct tdi_page *page_at(struct tdi_pages *pages, uint32_t index)
{
	return index == 0 ? NULL
			  : &chunk_of(pages, index)->pages[(index - 1) % TDI_CHUNK_PAGES];
}

/* Relaxed: the stack's head orders them. */
static _Atomic(uint32_t) *link_of(struct tdi_pages *pages, uint32_t index)
{
	return &chunk_of(pages, index)->links[(index - 1) % TDI_CHUNK_PAGES];
}

static uint64_t head_with(uint64_t old, uint32_t index)
{
	return ((old >> 32) + 1) << 32 | index;
}

/* ---- stacks ---- */

void tdi_page_link(struct tdi_pages *pages, const struct tdi_page *page,
		   const struct tdi_page *next)
{
	atomic_store_explicit(link_of(pages, page->index), next ? next->index : 0,
			      memory_order_relaxed);
}

struct tdi_page *tdi_page_next(struct tdi_pages *pages, const struct tdi_page *page)
{
	return page_at(pages, atomic_load_explicit(link_of(pages, page->index),
						   memory_order_relaxed));
}

/* By index: the pages themselves may not have been touched. */
static void push(struct tdi_pages *pages, struct tdi_page_stack *stack, uint32_t first,
		 uint32_t last)
{
	uint64_t old = atomic_load_explicit(&stack->head, memory_order_relaxed);

	do {
		atomic_store_explicit(link_of(pages, last), (uint32_t)old,
				      memory_order_relaxed);
		/* seq_cst: a release of what is in the pages and of their links, and
		 * before whatever the pusher looks at next. */
	} while (!atomic_compare_exchange_weak_explicit(
		&stack->head, &old, head_with(old, first), memory_order_seq_cst,
		memory_order_relaxed));
}

void tdi_page_push_list(struct tdi_pages *pages, struct tdi_page_stack *stack,
			struct tdi_page *first, struct tdi_page *last)
{
	push(pages, stack, first->index, last->index);
}

void tdi_page_push(struct tdi_pages *pages, struct tdi_page_stack *stack,
		   struct tdi_page *page)
{
	push(pages, stack, page->index, page->index);
}

static uint32_t pop(struct tdi_pages *pages, struct tdi_page_stack *stack)
{
	/* Acquire, here and below: pairs with the release of the push. */
	uint64_t old = atomic_load_explicit(&stack->head, memory_order_acquire);
	uint32_t next;

	do {
		if ((uint32_t)old == 0)
			return 0;
		/* Of a page that somebody else has popped meanwhile this is whatever it
		 * is; the tag has changed then. */
		next = atomic_load_explicit(link_of(pages, (uint32_t)old),
					    memory_order_relaxed);
	} while (!atomic_compare_exchange_weak_explicit(
		&stack->head, &old, head_with(old, next), memory_order_acquire,
		memory_order_acquire));
	return (uint32_t)old;
}

struct tdi_page *tdi_page_pop(struct tdi_pages *pages, struct tdi_page_stack *stack)
{
	return page_at(pages, pop(pages, stack));
}

static uint32_t pop_all(struct tdi_page_stack *stack)
{
	uint64_t old = atomic_load_explicit(&stack->head, memory_order_acquire);

	do {
		if ((uint32_t)old == 0)
			return 0;
	} while (!atomic_compare_exchange_weak_explicit(
		&stack->head, &old, head_with(old, 0), memory_order_acquire,
		memory_order_acquire));
	return (uint32_t)old;
}

struct tdi_page *tdi_page_pop_all(struct tdi_pages *pages, struct tdi_page_stack *stack)
{
	return page_at(pages, pop_all(stack));
}

bool tdi_page_stack_empty(const struct tdi_page_stack *stack)
{
	/* seq_cst: pairs with push(). */
	return (uint32_t)atomic_load_explicit(&stack->head, memory_order_seq_cst) == 0;
}

/* ---- the pool ---- */

/* An older kernel refuses: then each page is touched when it is used. */
static void touch(struct tdi_chunk *chunk)
{
	(void)tdi_sys_madvise(chunk->pages, sizeof(chunk->pages), MADV_POPULATE_WRITE);
	atomic_store_explicit(&chunk->touched, true, memory_order_relaxed);
}

void tdi_pages_touch_ahead(struct tdi_pages *pages, const struct tdi_page *page)
{
	struct tdi_chunk *chunk = chunk_of(pages, page->index);

	if (page - chunk->pages >= TDI_TOUCH_FROM &&
	    !atomic_load_explicit(&chunk->touched, memory_order_relaxed))
		touch(chunk);
}

static int add_chunk(struct tdi_pages *pages, bool touched)
{
	uint32_t first = atomic_load_explicit(&pages->nr_pages, memory_order_relaxed);
	struct tdi_chunk *chunk;
	void *memory;
	int err;

	if (first / TDI_CHUNK_PAGES >= TDI_CHUNKS_MAX)
		return -ENOSPC;
	err = tdi_sys_mmap(NULL, sizeof(*chunk), PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS, &memory);
	if (err)
		return err;
	chunk = memory;
	if (touched)
		touch(chunk);
	for (uint32_t i = 0; i + 1 < TDI_CHUNK_PAGES; i++)
		atomic_init(&chunk->links[i], first + i + 2);
	/* Release: pairs with chunk_of. */
	atomic_store_explicit(&pages->chunks[first / TDI_CHUNK_PAGES], chunk,
			      memory_order_release);
	atomic_store_explicit(&pages->nr_pages, first + TDI_CHUNK_PAGES,
			      memory_order_relaxed);
	atomic_fetch_add_explicit(&pages->nr_free, TDI_CHUNK_PAGES, memory_order_relaxed);
	push(pages, &pages->free, first + 1, first + TDI_CHUNK_PAGES);
	return 0;
}

int tdi_pages_grow(struct tdi_pages *pages)
{
	return add_chunk(pages, true);
}

int tdi_pages_init(struct tdi_pages *pages, size_t n)
{
	int err = 0;

	if (n > (size_t)TDI_CHUNKS_MAX * TDI_CHUNK_PAGES)
		return -EINVAL;
	atomic_init(&pages->free.head, 0);
	atomic_init(&pages->nr_free, 0);
	atomic_init(&pages->nr_pages, 0);
	for (unsigned i = 0; i < TDI_CHUNKS_MAX; i++)
		atomic_init(&pages->chunks[i], NULL);
	while (!err && pages->nr_pages < n)
		err = add_chunk(pages, false);
	if (err)
		tdi_pages_destroy(pages);
	return err;
}

void tdi_pages_destroy(struct tdi_pages *pages)
{
	for (unsigned i = 0; i < TDI_CHUNKS_MAX && pages->chunks[i]; i++) {
		int err = tdi_sys_munmap(pages->chunks[i], sizeof(struct tdi_chunk));

		if (err)
			tdi_warn("pages: a chunk could not be unmapped: %s",
				 strerrordesc_np(-err));
		pages->chunks[i] = NULL;
	}
}

void tdi_pages_trim(struct tdi_pages *pages)
{
	uint8_t in_hand[TDI_CHUNKS_MAX] = {0};
	uint32_t first = pop_all(&pages->free), last = first, index;

	if (first == 0)
		return;
	for (index = first; index != 0;
	     index = atomic_load_explicit(link_of(pages, index), memory_order_relaxed)) {
		in_hand[(index - 1) / TDI_CHUNK_PAGES]++;
		last = index;
	}
	for (unsigned i = 0; i < TDI_CHUNKS_MAX; i++) {
		if (in_hand[i] < TDI_CHUNK_PAGES)
			continue;
		/* What the kernel refuses to take back is kept. */
		(void)tdi_sys_madvise(pages->chunks[i]->pages,
				      sizeof(pages->chunks[i]->pages), MADV_DONTNEED);
		atomic_store_explicit(&pages->chunks[i]->touched, false,
				      memory_order_relaxed);
	}
	push(pages, &pages->free, first, last);
}

struct tdi_page *tdi_page_get(struct tdi_pages *pages)
{
	uint32_t index = pop(pages, &pages->free);
	struct tdi_page *page = page_at(pages, index);

	if (!page)
		return NULL;
	atomic_fetch_sub_explicit(&pages->nr_free, 1, memory_order_relaxed);
	page->index = index;
	page->start = page->end = page->objects;
	page->bytes_taken = 0;
	atomic_store_explicit(&page->bytes, 0, memory_order_relaxed);
	return page;
}

void tdi_page_put(struct tdi_pages *pages, struct tdi_page *page)
{
	tdi_page_push(pages, &pages->free, page);
	atomic_fetch_add_explicit(&pages->nr_free, 1, memory_order_relaxed);
}
