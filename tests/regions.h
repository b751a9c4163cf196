/* SPDX-License-Identifier: MIT */
/*
 * For tests of regions: a window of pages, described by a string with a letter for each.
 *
 *   .  nothing is mapped
 *   _  plain memory, not the space's
 *   a  a region: as far as the same letter goes, whichever it is
 *
 * Pages hold what tells them apart, so that it is seen when one is lost or moved.
 */
#ifndef TDT_REGIONS_H
#define TDT_REGIONS_H

#include "base.h"
#include "harness.h"

#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <teardown.h>
#include <urcu/urcu-memb.h>

/* ---- accesses that fault ---- */

static sigjmp_buf access_failed;

static inline void on_segv(int number)
{
	siglongjmp(access_failed, number);
}

static inline bool faults(const void *addr)
{
	struct sigaction ours = {.sa_handler = on_segv}, before;
	volatile bool fault = true;

	sigaction(SIGSEGV, &ours, &before);
	if (sigsetjmp(access_failed, 1) == 0) {
		(void)*(const volatile char *)addr;
		fault = false;
	}
	sigaction(SIGSEGV, &before, NULL);
	return fault;
}

/* ---- looking up, on a registered thread ---- */

static inline int lookup(td_space *space, const void *addr, struct td_region_info *ret)
{
	int err;

	urcu_memb_read_lock();
	err = td_region_lookup(space, addr, ret);
	urcu_memb_read_unlock();
	return err;
}

/* ---- windows ---- */

struct window {
	char *addr;
	size_t pages;
};

static inline void *page_at(const struct window *window, size_t page)
{
	return window->addr + page * tdi_page_size();
}

static inline uint64_t mark_of(const struct window *window, size_t page)
{
	return ((uintptr_t)window->addr ^ page * UINT64_C(0x9e3779b97f4a7c15)) | 1;
}

static inline size_t run_length(const char *layout)
{
	return strspn(layout, (const char[]){layout[0], '\0'});
}

/*
 * Where the kernel puts nothing by itself, so that what is unmapped there stays a hole:
 * sanitizers map and unmap what they need at any time.
 */
static inline void *place_apart(size_t length)
{
	static uintptr_t lowest;

	if (!lowest) {
		void *probe = tdt_map_anon(length);

		lowest = (uintptr_t)probe - 256 * GIB;
		munmap(probe, length);
	}
	lowest -= length + tdi_page_size();
	return (void *)lowest;
}

/* Plain memory with its marks, of which regions can be made. */
static inline struct window window_new(size_t pages)
{
	size_t page = tdi_page_size(), length = pages * page;
	struct window window = {mmap(place_apart(length), length, PROT_READ | PROT_WRITE,
				     MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE,
				     -1, 0),
				pages};

	ck_assert_ptr_ne(window.addr, MAP_FAILED);
	for (size_t i = 0; i < pages; i++)
		*(uint64_t *)page_at(&window, i) = mark_of(&window, i);
	return window;
}

/* The letters of a layout are adopted, the dots unmapped. */
static inline struct window window_with(td_space *space, const char *layout)
{
	struct window window = window_new(strlen(layout));
	size_t page = tdi_page_size();

	for (size_t at = 0, n; at < window.pages; at += n) {
		n = run_length(layout + at);
		if (layout[at] == '.')
			ck_assert_int_eq(munmap(page_at(&window, at), n * page), 0);
		else if (layout[at] != '_')
			ck_assert_int_eq(td_region_adopt(space, page_at(&window, at),
							 n * page, NULL),
					 0);
	}
	return window;
}

static inline int window_unmap(td_space *space, const struct window *window, size_t from,
			       size_t pages)
{
	return td_region_unmap(space, page_at(window, from), pages * tdi_page_size());
}

static inline void check_page(td_space *space, const struct window *window, size_t i,
			      char letter)
{
	struct td_region_info info;
	char *page = page_at(window, i);

	if (letter == '.')
		ck_assert_msg(faults(page), "page %zu is still there", i);
	else
		ck_assert_msg(*(uint64_t *)page == mark_of(window, i),
			      "page %zu holds something else", i);
	if (letter == '.' || letter == '_')
		ck_assert_msg(lookup(space, page, &info) == -ENOENT,
			      "page %zu is in the space", i);
}

/* Everything in the window is as the layout says, the bounds of its regions too. */
static inline void check_window(td_space *space, const struct window *window,
				const char *layout)
{
	size_t page = tdi_page_size();

	ck_assert_uint_eq(strlen(layout), window->pages);
	for (size_t at = 0, n; at < window->pages; at += n) {
		struct td_region_info info;

		n = run_length(layout + at);
		for (size_t i = at; i < at + n; i++)
			check_page(space, window, i, layout[at]);
		if (layout[at] == '.' || layout[at] == '_')
			continue;
		for (size_t i = at; i < at + n; i++) {
			ck_assert_int_eq(lookup(space, page_at(window, i), &info), 0);
			ck_assert_ptr_eq(info.addr, page_at(window, at));
			ck_assert_uint_eq(info.length, n * page);
		}
	}
}

static inline size_t regions_in(const char *layout)
{
	size_t regions = 0;

	for (size_t at = 0; layout[at]; at += run_length(layout + at))
		regions += layout[at] != '.' && layout[at] != '_';
	return regions;
}

/* Unmaps what is plain memory. */
static inline void window_clear(const struct window *window, const char *layout)
{
	for (size_t i = 0; i < window->pages; i++) {
		if (layout[i] == '_')
			munmap(page_at(window, i), tdi_page_size());
	}
}

#endif
