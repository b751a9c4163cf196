/* SPDX-License-Identifier: MIT */
/* td_batch: telling that nothing is left, beside threads that go on, and beside others'
 * readers. */
#include "batches.h"
#include "pages.h"

#include <errno.h>

enum { GROWTHS = 16, TURNS = TDT_SANITIZED ? 40 : 150 };

/* ---- beside a thread that closes its page ---- */

struct closer {
	struct object *objects; /* a page, and one that is linked */
	sem_t begin, full;
	atomic_uint go; /* which turn */
	bool ends;
};

static void spin(unsigned times)
{
	for (volatile unsigned i = 0; i < times; i = i + 1)
		;
}

static void *fill_and_close(void *arg)
{
	struct closer *closer = arg;

	for (unsigned turn = 1;; turn++) {
		sem_wait(&closer->begin);
		if (closer->ends)
			return NULL;
		for (size_t i = 0; i < TDI_PAGE_OBJECTS; i++)
			add_ptr(batch, &closer->objects[i], 0);
		sem_post(&closer->full);
		while (atomic_load(&closer->go) != turn)
			;
		spin(turn * 300);
		/* Its page goes, there is none for this one. */
		add_node(batch, &closer->objects[TDI_PAGE_OBJECTS], 0);
		sem_post(&closer->full);
	}
}

/* All but so many. */
static void leave_pages(unsigned n)
{
	static struct tdi_page *taken[2 * TDI_CHUNK_PAGES];
	static unsigned nr_taken;
	struct tdi_page *at;

	while ((at = tdi_page_get(&batch->pages)) != NULL) {
		ck_assert_uint_lt(nr_taken, 2 * TDI_CHUNK_PAGES);
		taken[nr_taken++] = at;
	}
	while (n-- > 0 && nr_taken > 0)
		tdi_page_put(&batch->pages, taken[--nr_taken]);
}

/* B1: what it holds is in its group, or where pages are pushed to, and never in neither.
 * Its group is the last one of very many that are looked at. */
START_TEST(draining_sees_a_page_that_is_closed_meanwhile)
{
	struct closer closer = {.objects = make_objects(TDI_PAGE_OBJECTS + 1)};
	pthread_t thread;

	destroy(batch);
	batch = make_batch(.name = "test", .threads = 1, .room = 1, .max_bytes = 1 << 20);
	tdt_fail(TDI_SYS_mmap, -ENOMEM, 0, UINT32_MAX);
	sem_init(&closer.begin, 0, 0);
	sem_init(&closer.full, 0, 0);
	pthread_create(&thread, NULL, fill_and_close, &closer);
	for (unsigned turn = 1; turn <= TURNS; turn++) {
		leave_pages(1);
		sem_post(&closer.begin);
		sem_wait(&closer.full);
		for (int i = 0; turn == 1 && i < GROWTHS; i++)
			ck_assert_int_eq(tdi_groups_grow(&batch->groups), 0);
		atomic_store(&closer.go, turn);
		ck_assert_int_eq(td_engine_drain(engine, TD_FOREVER), 0);
		ck_assert_uint_eq(count_freed(closer.objects, TDI_PAGE_OBJECTS),
				  TDI_PAGE_OBJECTS);
		sem_wait(&closer.full);
		barrier(batch);
		for (size_t i = 0; i <= TDI_PAGE_OBJECTS; i++)
			atomic_store(&closer.objects[i].freed, 0);
	}
	closer.ends = true;
	sem_post(&closer.begin);
	pthread_join(thread, NULL);
	tdt_fail_none();
	leave_pages(2 * TDI_CHUNK_PAGES);
	free(closer.objects);
}
END_TEST

/* ---- beside others' readers ---- */

START_TEST(an_empty_batch_waits_for_no_other_ones_readers)
{
	struct object *objects = make_objects(2);
	td_batch *other = make_batch(.name = "other"), *unused = make_batch(.name = "x");
	struct reader reader;

	add_node(other, &objects[0], 0);
	barrier(other);
	enter_reader(&reader, NULL);
	add_node(batch, &objects[1], 0);
	flush(batch);
	await_closed(batch, 1);
	ck_assert_int_eq(td_batch_barrier(unused, 0), 0);
	ck_assert_int_eq(td_batch_barrier(other, 0), 0);
	ck_assert_int_eq(td_batch_barrier(batch, 0), -ETIMEDOUT);
	ck_assert_int_eq(td_batch_destroy(unused, 0), 0);
	ck_assert_int_eq(td_batch_destroy(other, 0), 0);
	leave_reader(&reader);
	barrier(batch);
	ck_assert_uint_eq(count_freed(objects, 2), 2);
	free(objects);
}
END_TEST

int main(void)
{
	struct tdt *tests = tdt_suite("batch_empty");

	tdt_add(tests, draining_sees_a_page_that_is_closed_meanwhile, setup_batch,
		teardown_batch);
	tdt_add(tests, an_empty_batch_waits_for_no_other_ones_readers, setup_batch,
		teardown_batch);
	return tdt_run(tests);
}
