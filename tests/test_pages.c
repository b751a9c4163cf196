/* SPDX-License-Identifier: MIT */
/* B7: pages are there when they are needed, and each is in one place at a time. */
#include "heard.h"
#include "pages.h"

#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/mman.h>

#define CHUNK ((TDI_CHUNK_PAGES + 1) * (size_t)TDI_PAGE_SIZE)

static struct tdi_pages pool;

static void begin(void)
{
	ck_assert_int_eq(tdi_pages_init(&pool, 1), 0);
}

static void end(void)
{
	tdi_pages_destroy(&pool);
}

static unsigned nr_free(void)
{
	return atomic_load(&pool.nr_free);
}

/* All that are free, linked by themselves: how many. */
static unsigned take_all(struct tdi_page **ret)
{
	struct tdi_page *page;
	unsigned n = 0;

	for (*ret = NULL; (page = tdi_page_get(&pool)) != NULL; n++) {
		page->objects[0] = *ret;
		*ret = page;
	}
	return n;
}

static void give_all(struct tdi_page *all)
{
	while (all) {
		struct tdi_page *next = all->objects[0];

		tdi_page_put(&pool, all);
		all = next;
	}
}

/* ---- the pool ---- */

START_TEST(a_pool_hands_each_of_its_pages_out_once)
{
	bool seen[TDI_CHUNK_PAGES + 1] = {false};
	struct tdi_page *all;

	ck_assert_uint_eq(atomic_load(&pool.nr_pages), TDI_CHUNK_PAGES);
	ck_assert_uint_eq(nr_free(), TDI_CHUNK_PAGES);
	ck_assert_uint_eq(take_all(&all), TDI_CHUNK_PAGES);
	ck_assert_uint_eq(nr_free(), 0);
	ck_assert_ptr_null(tdi_page_get(&pool));
	for (struct tdi_page *page = all; page; page = page->objects[0]) {
		ck_assert(tdi_is_aligned((uintptr_t)page, TDI_PAGE_SIZE));
		ck_assert_uint_ge(page->index, 1);
		ck_assert_uint_le(page->index, TDI_CHUNK_PAGES);
		ck_assert(!seen[page->index]);
		seen[page->index] = true;
	}
	give_all(all);
	ck_assert_uint_eq(nr_free(), TDI_CHUNK_PAGES);
}
END_TEST

START_TEST(a_page_comes_back_empty)
{
	struct tdi_page *page = tdi_page_get(&pool);

	atomic_store(&page->bytes, 100);
	page->bytes_taken = 50;
	page->start = page->objects + 3;
	page->end = page->objects + 9;
	tdi_page_put(&pool, page);
	ck_assert_ptr_eq(tdi_page_get(&pool), page);
	ck_assert_uint_eq(atomic_load(&page->bytes), 0);
	ck_assert_uint_eq(page->bytes_taken, 0);
	ck_assert_ptr_eq(page->start, page->objects);
	ck_assert_ptr_eq(page->end, page->objects);
	tdi_page_put(&pool, page);
}
END_TEST

/* A pointer to the place of the next object names its page, wherever in it that is. */
START_TEST(every_place_in_a_page_names_the_page)
{
	struct tdi_page *page = tdi_page_get(&pool);

	for (void **next = page->objects; next <= tdi_page_limit(page); next++)
		ck_assert_ptr_eq(tdi_page_before(next), page);
	ck_assert_uint_eq((size_t)(tdi_page_limit(page) - page->objects),
			  TDI_PAGE_OBJECTS);
	tdi_page_put(&pool, page);
}
END_TEST

START_TEST(a_pool_grows_to_its_limit_and_no_further)
{
	const size_t most = (size_t)TDI_CHUNKS_MAX * TDI_CHUNK_PAGES;
	struct tdi_pages large;
	struct tdi_page *page;

	ck_assert_int_eq(tdi_pages_init(&large, most + 1), -EINVAL);
	ck_assert_int_eq(tdi_pages_init(&large, SIZE_MAX), -EINVAL);
	ck_assert_int_eq(tdi_pages_init(&large, most - TDI_CHUNK_PAGES), 0);
	ck_assert_uint_eq(atomic_load(&large.nr_pages), most - TDI_CHUNK_PAGES);
	ck_assert_int_eq(tdi_pages_grow(&large), 0);
	ck_assert_int_eq(tdi_pages_grow(&large), -ENOSPC);
	ck_assert_uint_eq(atomic_load(&large.nr_pages), most);
	ck_assert_uint_eq(atomic_load(&large.nr_free), most);
	/* The last one is as good as the first. */
	page = tdi_page_get(&large);
	ck_assert_uint_gt(page->index, most - TDI_CHUNK_PAGES);
	page->objects[TDI_PAGE_OBJECTS - 1] = page;
	tdi_page_put(&large, page);
	tdi_pages_destroy(&large);
}
END_TEST

START_TEST(a_pool_of_none_grows_when_asked)
{
	struct tdi_pages none;

	ck_assert_int_eq(tdi_pages_init(&none, 0), 0);
	ck_assert_ptr_null(tdi_page_get(&none));
	tdi_pages_trim(&none);
	ck_assert_int_eq(tdi_pages_grow(&none), 0);
	ck_assert_ptr_nonnull(tdi_page_get(&none));
	tdi_pages_destroy(&none);
}
END_TEST

/* ---- without memory ---- */

START_TEST(a_pool_that_cannot_be_made_leaves_nothing_behind)
{
	for (unsigned at = 0; at < 3; at++) {
		struct tdi_pages fails;

		tdt_fail_none();
		tdt_fail(TDI_SYS_mmap, -ENOMEM, at, 1);
		ck_assert_int_eq(tdi_pages_init(&fails, 3 * TDI_CHUNK_PAGES), -ENOMEM);
		ck_assert_uint_eq(tdt_calls(TDI_SYS_munmap), at);
	}
	tdt_fail_none();
}
END_TEST

START_TEST(a_pool_that_cannot_grow_is_what_it_was)
{
	struct tdi_page *all;

	tdt_fail(TDI_SYS_mmap, -ENOMEM, 0, 1);
	ck_assert_int_eq(tdi_pages_grow(&pool), -ENOMEM);
	ck_assert_uint_eq(atomic_load(&pool.nr_pages), TDI_CHUNK_PAGES);
	ck_assert_uint_eq(take_all(&all), TDI_CHUNK_PAGES);
	ck_assert_int_eq(tdi_pages_grow(&pool), 0);
	give_all(all);
	ck_assert_uint_eq(take_all(&all), 2 * TDI_CHUNK_PAGES);
	give_all(all);
}
END_TEST

START_TEST(a_chunk_that_cannot_be_unmapped_is_told)
{
	struct tdi_pages kept;
	struct hearing hearing;
	void *chunk;

	ck_assert_int_eq(tdi_pages_init(&kept, 2 * TDI_CHUNK_PAGES), 0);
	chunk = atomic_load(&kept.chunks[0]);
	tdt_fail(TDI_SYS_munmap, -ENOMEM, 0, 1);
	hear(&hearing);
	tdi_pages_destroy(&kept);
	ck_assert_uint_eq(times(heard(&hearing), "could not be unmapped"), 1);
	ck_assert_uint_eq(tdt_calls(TDI_SYS_munmap), 2); /* the other one is */
	ck_assert_uint_eq(tdt_mapped(chunk, CHUNK), CHUNK);
	ck_assert_int_eq(munmap(chunk, CHUNK), 0);
}
END_TEST

/* ---- stacks ---- */

START_TEST(a_stack_gives_the_last_one_first)
{
	struct tdi_page_stack stack = {0};
	struct tdi_page *pages[4];

	ck_assert(tdi_page_stack_empty(&stack));
	ck_assert_ptr_null(tdi_page_pop(&pool, &stack));
	ck_assert_ptr_null(tdi_page_pop_all(&pool, &stack));
	for (unsigned i = 0; i < 4; i++) {
		pages[i] = tdi_page_get(&pool);
		tdi_page_push(&pool, &stack, pages[i]);
		ck_assert(!tdi_page_stack_empty(&stack));
	}
	for (unsigned i = 4; i-- > 0;)
		ck_assert_ptr_eq(tdi_page_pop(&pool, &stack), pages[i]);
	ck_assert(tdi_page_stack_empty(&stack));
	for (unsigned i = 0; i < 4; i++)
		tdi_page_put(&pool, pages[i]);
}
END_TEST

START_TEST(a_stack_is_taken_and_put_back_as_a_list)
{
	struct tdi_page_stack stack = {0};
	struct tdi_page *pages[4], *first, *at;

	for (unsigned i = 0; i < 4; i++) {
		pages[i] = tdi_page_get(&pool);
		tdi_page_push(&pool, &stack, pages[i]);
	}
	at = first = tdi_page_pop_all(&pool, &stack);
	ck_assert(tdi_page_stack_empty(&stack));
	for (unsigned i = 4; i-- > 0; at = tdi_page_next(&pool, at))
		ck_assert_ptr_eq(at, pages[i]);
	ck_assert_ptr_null(at);

	/* Back, without one in the middle, on top of that one. */
	tdi_page_push(&pool, &stack, pages[2]);
	tdi_page_link(&pool, pages[3], pages[1]);
	tdi_page_push_list(&pool, &stack, first, pages[0]);
	ck_assert_ptr_eq(tdi_page_pop(&pool, &stack), pages[3]);
	ck_assert_ptr_eq(tdi_page_pop(&pool, &stack), pages[1]);
	ck_assert_ptr_eq(tdi_page_pop(&pool, &stack), pages[0]);
	ck_assert_ptr_eq(tdi_page_pop(&pool, &stack), pages[2]);
	ck_assert_ptr_null(tdi_page_pop(&pool, &stack));
	for (unsigned i = 0; i < 4; i++)
		tdi_page_put(&pool, pages[i]);
}
END_TEST

/* Who has read that b comes after a is held up: a is first again, but without b. */
START_TEST(a_page_that_is_first_once_more_does_not_fool_a_late_pop)
{
	struct tdi_page_stack stack = {0};
	struct tdi_page *a = tdi_page_get(&pool), *b = tdi_page_get(&pool);
	uint64_t read, with_b;

	tdi_page_push(&pool, &stack, b);
	tdi_page_push(&pool, &stack, a);
	read = atomic_load(&stack.head);
	with_b = ((read >> 32) + 1) << 32 | b->index;
	ck_assert_ptr_eq(tdi_page_pop(&pool, &stack), a);
	ck_assert_ptr_eq(tdi_page_pop(&pool, &stack), b);
	tdi_page_push(&pool, &stack, a);
	ck_assert_uint_eq((uint32_t)atomic_load(&stack.head), (uint32_t)read);
	ck_assert(!atomic_compare_exchange_strong(&stack.head, &read, with_b));
	ck_assert_ptr_eq(tdi_page_pop(&pool, &stack), a);
	ck_assert_ptr_null(tdi_page_pop(&pool, &stack));
	tdi_page_put(&pool, a);
	tdi_page_put(&pool, b);
}
END_TEST

/* ---- giving memory back ---- */

static void touch_all(void)
{
	struct tdi_page *all;

	take_all(&all);
	for (struct tdi_page *page = all; page; page = page->objects[0])
		page->objects[TDI_PAGE_OBJECTS - 1] = page;
	give_all(all);
}

/* Beside the links, which stay. */
static size_t resident(unsigned chunk)
{
	char *start = (char *)atomic_load(&pool.chunks[chunk]);

	return tdt_resident(start + TDI_PAGE_SIZE, CHUNK - TDI_PAGE_SIZE);
}

/* B5 */
START_TEST(what_is_not_in_use_is_given_back_and_can_be_used_again)
{
	struct tdi_page *all, *page;

	ck_assert_int_eq(tdi_pages_grow(&pool), 0);
	ck_assert_uint_eq(resident(0), 0); /* not touched before its use */
	touch_all();
	ck_assert_uint_eq(resident(0), CHUNK - TDI_PAGE_SIZE);
	ck_assert_uint_eq(resident(1), CHUNK - TDI_PAGE_SIZE);
	page = tdi_page_get(&pool);
	page->objects[7] = page;
	tdi_pages_trim(&pool);
	/* One page of a chunk in use keeps the chunk. */
	ck_assert_uint_eq(resident((page->index - 1) / TDI_CHUNK_PAGES),
			  CHUNK - TDI_PAGE_SIZE);
	ck_assert_uint_eq(resident((page->index - 1) / TDI_CHUNK_PAGES == 0), 0);
	ck_assert_ptr_eq(page->objects[7], page);
	ck_assert_uint_eq(nr_free(), 2 * TDI_CHUNK_PAGES - 1);
	tdi_page_put(&pool, page);
	tdi_pages_trim(&pool);
	ck_assert_uint_eq(resident(0) + resident(1), 0);
	ck_assert_uint_eq(take_all(&all), 2 * TDI_CHUNK_PAGES);
	give_all(all);
}
END_TEST

START_TEST(what_the_kernel_does_not_take_back_is_kept)
{
	struct tdi_page *all;

	touch_all();
	tdt_fail(TDI_SYS_madvise, -EINVAL, 0, UINT32_MAX);
	tdi_pages_trim(&pool);
	ck_assert_uint_eq(tdt_calls(TDI_SYS_madvise), 1);
	tdt_fail_none();
	ck_assert_uint_eq(resident(0), CHUNK - TDI_PAGE_SIZE);
	ck_assert_uint_eq(take_all(&all), TDI_CHUNK_PAGES);
	tdi_pages_trim(&pool); /* nothing is free */
	ck_assert_uint_eq(tdt_calls(TDI_SYS_madvise), 0);
	give_all(all);
}
END_TEST

/* ---- many threads ---- */

enum { THREADS = 4, ROUNDS = TDT_SANITIZED ? 20000 : 200000 };

static struct tdi_page_stack stacks[2];
static atomic_bool in_hand[4 * TDI_CHUNK_PAGES + 1];
static atomic_uint wrong, running;

static void take(struct tdi_page *page)
{
	if (page && atomic_exchange(&in_hand[page->index], true))
		atomic_fetch_add(&wrong, 1);
}

static void let(struct tdi_page *page)
{
	if (!atomic_exchange(&in_hand[page->index], false))
		atomic_fetch_add(&wrong, 1);
}

/* The list is the caller's: nobody else links or takes its pages. */
static void move_list(struct tdi_page_stack *from, struct tdi_page_stack *to)
{
	struct tdi_page *first = tdi_page_pop_all(&pool, from), *last = NULL, *page;

	for (page = first; page; page = tdi_page_next(&pool, page)) {
		take(page);
		page->bytes_taken++;
		last = page;
	}
	if (!first)
		return;
	for (page = first; page; page = tdi_page_next(&pool, page))
		let(page);
	tdi_page_push_list(&pool, to, first, last);
}

static void *pop_and_push(void *arg)
{
	unsigned seed = (unsigned)(uintptr_t)arg;

	for (int i = 0; i < ROUNDS; i++) {
		struct tdi_page_stack *from = &stacks[rand_r(&seed) % 2];
		struct tdi_page *page, *other;

		if (i % 64 == 0) {
			move_list(from, &stacks[i / 64 % 2]);
			continue;
		}
		/* Two at a time, and back in another order. */
		take(page = tdi_page_pop(&pool, from));
		take(other = tdi_page_pop(&pool, from));
		for (unsigned j = 0; j < 2; j++, page = other) {
			if (!page)
				continue;
			page->bytes_taken++; /* ThreadSanitizer sees whose it is */
			let(page);
			tdi_page_push(&pool, &stacks[rand_r(&seed) % 2], page);
		}
	}
	return NULL;
}

static void join(pthread_t *threads)
{
	for (unsigned i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	ck_assert_uint_eq(atomic_load(&wrong), 0);
}

START_TEST(each_page_is_in_one_hand_at_a_time_and_none_is_lost)
{
	pthread_t threads[THREADS];
	struct tdi_page *page;
	unsigned n = 0;

	for (unsigned i = 0; i < 9; i++) /* few: so that they meet */
		tdi_page_push(&pool, &stacks[i % 2], tdi_page_get(&pool));
	for (uintptr_t i = 0; i < THREADS; i++)
		pthread_create(&threads[i], NULL, pop_and_push, (void *)(i + 1));
	join(threads);
	for (unsigned i = 0; i < 2; i++) {
		while ((page = tdi_page_pop(&pool, &stacks[i])) != NULL) {
			take(page);
			tdi_page_put(&pool, page);
			n++;
		}
	}
	ck_assert_uint_eq(n, 9);
	ck_assert_uint_eq(atomic_load(&wrong), 0);
	ck_assert_uint_eq(nr_free(), TDI_CHUNK_PAGES);
}
END_TEST

static void *get_and_put(void *arg)
{
	unsigned seed = (unsigned)(uintptr_t)arg;

	for (int i = 0; i < ROUNDS; i++) {
		struct tdi_page *page = tdi_page_get(&pool);
		unsigned at = (unsigned)rand_r(&seed) % TDI_PAGE_OBJECTS;

		take(page);
		if (!page) { /* a trim has them all for a moment */
			sched_yield();
			continue;
		}
		if (page->end != page->objects || atomic_load(&page->bytes) != 0)
			atomic_fetch_add(&wrong, 1);
		page->objects[at] = arg;
		if (i % 128 == 0)
			sched_yield();
		if (page->objects[at] != arg)
			atomic_fetch_add(&wrong, 1);
		let(page);
		tdi_page_put(&pool, page);
	}
	atomic_fetch_sub(&running, 1);
	return NULL;
}

/* B5 */
START_TEST(pages_in_use_survive_trimming_and_growing)
{
	pthread_t threads[THREADS];
	struct tdi_page *all;
	unsigned trims = 0;

	atomic_store(&running, THREADS);
	for (uintptr_t i = 0; i < THREADS; i++)
		pthread_create(&threads[i], NULL, get_and_put, (void *)(i + 1));
	while (atomic_load(&running) > 0) {
		tdi_pages_trim(&pool);
		if (++trims % 100 == 0 && trims < 400)
			ck_assert_int_eq(tdi_pages_grow(&pool), 0);
		if (trims % 8 == 0)
			sched_yield();
	}
	join(threads);
	ck_assert_uint_eq(take_all(&all), atomic_load(&pool.nr_pages));
	give_all(all);
}
END_TEST

int main(void)
{
	struct tdt *tests = tdt_suite("pages");
	const TTest *all[] = {
		a_pool_hands_each_of_its_pages_out_once,
		a_page_comes_back_empty,
		every_place_in_a_page_names_the_page,
		a_pool_grows_to_its_limit_and_no_further,
		a_pool_of_none_grows_when_asked,
		a_pool_that_cannot_be_made_leaves_nothing_behind,
		a_pool_that_cannot_grow_is_what_it_was,
		a_chunk_that_cannot_be_unmapped_is_told,
		a_stack_gives_the_last_one_first,
		a_stack_is_taken_and_put_back_as_a_list,
		a_page_that_is_first_once_more_does_not_fool_a_late_pop,
		what_is_not_in_use_is_given_back_and_can_be_used_again,
		what_the_kernel_does_not_take_back_is_kept,
		each_page_is_in_one_hand_at_a_time_and_none_is_lost,
		pages_in_use_survive_trimming_and_growing,
	};

	for (size_t i = 0; i < sizeof(all) / sizeof(*all); i++)
		tdt_add(tests, all[i], begin, end);
	return tdt_run(tests);
}
