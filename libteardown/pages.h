/* SPDX-License-Identifier: MIT */
/*
 * Floor 1: pages of pointers, and lock-free stacks of them.
 *
 * A page is filled by one thread and emptied by another; what the pointers mean is not
 * known here. All pages belong to a pool, which is never smaller than it was made, so
 * that whoever looks at a page that is somebody else's by now reads something harmless.
 */
#ifndef TDI_PAGES_H
#define TDI_PAGES_H

#include "base.h"

enum {
	TDI_PAGE_SIZE = 4096,
	TDI_PAGE_OBJECTS = (TDI_PAGE_SIZE - 64) / sizeof(void *),
	TDI_CHUNK_PAGES = 127, /* with the chunk's own first page: 512 KiB */
	TDI_CHUNKS_MAX = 1056, /* 528 MiB */
	TDI_TOUCH_FROM = 8,    /* pages of a chunk in use: then the others soon will be */
};

struct tdi_page {
	/* Of those that have been put in, taken out or not. By whoever fills it. */
	_Atomic(uint64_t) bytes;
	/* What is to be taken out. By whoever does. */
	void **start, **end;
	uint64_t bytes_taken;
	uint32_t index; /* constant */
	unsigned epoch; /* see pending.h */
	_Alignas(TDI_CACHE_LINE) void *objects[TDI_PAGE_OBJECTS];
};

_Static_assert(sizeof(struct tdi_page) == TDI_PAGE_SIZE, "a page is a page");

/* The page of the last object before next, or the one that starts there. */
static inline struct tdi_page *tdi_page_before(void **next)
{
	return (struct tdi_page *)(((uintptr_t)next - 1) &
				   ~(uintptr_t)(TDI_PAGE_SIZE - 1));
}

static inline void **tdi_page_limit(struct tdi_page *page)
{
	return page->objects + TDI_PAGE_OBJECTS;
}

/* Nothing is in it, taken out or not. */
static inline void tdi_page_clear(struct tdi_page *page)
{
	page->start = page->end = page->objects;
	page->bytes_taken = 0;
	atomic_store_explicit(&page->bytes, 0, memory_order_relaxed);
}

/*
 * The index of the first page, and a tag that each change makes another: a pop that was
 * held up between reading and writing fails when the same page is first once more.
 */
struct tdi_page_stack {
	_Atomic(uint64_t) head;
};

struct tdi_chunk;

struct tdi_pages {
	_Alignas(TDI_CACHE_LINE) struct tdi_page_stack free;
	_Atomic(uint32_t) nr_free, nr_pages;
	_Atomic(struct tdi_chunk *) chunks[TDI_CHUNKS_MAX];
};

/*
 * For at least so many pages. Memory is taken from the kernel now, and touched when it is
 * used. 0, -ENOMEM, -EINVAL: too many.
 */
int tdi_pages_init(struct tdi_pages *pages, size_t n);
void tdi_pages_destroy(struct tdi_pages *pages);

/*
 * Another chunk, touched: for the sake of those who take pages and would meet page
 * faults. One caller at a time. 0, -ENOMEM, -ENOSPC: as large as can be.
 */
int tdi_pages_grow(struct tdi_pages *pages);

/*
 * Somebody has used this page: touches the other ones of its chunk if they are going to
 * be used, and have not been touched yet. By the same caller as the above.
 */
void tdi_pages_touch_ahead(struct tdi_pages *pages, const struct tdi_page *page);

/*
 * Gives what chunks hold that are not in use back to the kernel, but not their addresses.
 * For a moment the pool seems empty.
 */
void tdi_pages_trim(struct tdi_pages *pages);

/* Lock-free, any thread. An empty page, or NULL; a page that is no longer used. */
struct tdi_page *tdi_page_get(struct tdi_pages *pages);
void tdi_page_put(struct tdi_pages *pages, struct tdi_page *page);

/* Lock-free, any thread. Stacks of a pool's pages; a page is in one at a time. */
void tdi_page_push(struct tdi_pages *pages, struct tdi_page_stack *stack,
		   struct tdi_page *page);
struct tdi_page *tdi_page_pop(struct tdi_pages *pages, struct tdi_page_stack *stack);
bool tdi_page_stack_empty(const struct tdi_page_stack *stack);

/* All at once: the first of a list, or NULL, and its next ones. And back: first to last
 * are linked. */
struct tdi_page *tdi_page_pop_all(struct tdi_pages *pages, struct tdi_page_stack *stack);
struct tdi_page *tdi_page_next(struct tdi_pages *pages, const struct tdi_page *page);
void tdi_page_link(struct tdi_pages *pages, const struct tdi_page *page,
		   const struct tdi_page *next);
void tdi_page_push_list(struct tdi_pages *pages, struct tdi_page_stack *stack,
			struct tdi_page *first, struct tdi_page *last);

#endif
