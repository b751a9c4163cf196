/* SPDX-License-Identifier: MIT */
/* td_batch: room for pointers, the bound on what is pending, and helping to free. */
#include "batches.h"
#include "pages.h"

#include <errno.h>

enum {
	/* What room = 1 gives: a chunk, of which one page is set aside. */
	PAGES = TDI_CHUNK_PAGES - 1,
	ROOM = PAGES * TDI_PAGE_OBJECTS,
	SMALL_BOUND = 4 << 20, /* more pages would be too much for it */
};

/* One group, little room, and no more of it. */
static void setup_small(void)
{
	setup();
	batch = make_batch(.name = "test", .threads = 1, .room = 1,
			   .max_bytes = SMALL_BOUND);
}

/* A pass is in its grace period until the reader leaves. `first` is in it. */
static void hold_pass(struct reader *reader, struct object *first)
{
	enter_reader(reader, NULL);
	add_node(batch, first, 1);
	flush(batch);
	await_closed(batch, 1);
}

/* ---- room ---- */

/* B7 */
START_TEST(nodes_are_linked_where_there_is_no_room)
{
	enum { N = ROOM + 3000 };
	struct object *objects = make_objects(N);
	struct reader reader;

	hold_pass(&reader, &objects[0]);
	for (size_t i = 1; i < N; i++)
		add_node(batch, &objects[i], 1);
	ck_assert_uint_ge(atomic_load(&batch->open_count), 3000);
	ck_assert_uint_eq(atomic_load(&batch->pages.nr_pages), TDI_CHUNK_PAGES);
	ck_assert_uint_eq(batch_stats(batch).refused, 0);
	ck_assert_uint_eq(batch_stats(batch).bytes_pending, N);
	ck_assert_uint_eq(count_freed(objects, N), 0);
	leave_reader(&reader);
	barrier(batch);
	ck_assert_uint_eq(count_freed(objects, N), N);
	ck_assert_uint_eq(batch_stats(batch).bytes_pending, 0);
	free(objects);
}
END_TEST

START_TEST(a_pointer_is_refused_where_there_is_no_room)
{
	enum { N = ROOM + 10 };
	struct object *objects = make_objects(N);
	struct reader reader;
	size_t added = 1;

	hold_pass(&reader, &objects[0]);
	while (td_batch_free_ptr(batch, &objects[added], 1) == 0)
		ck_assert_uint_lt(++added, N);
	/* Its owner's still, and as it was. */
	for (int i = 0; i < 3; i++)
		ck_assert_int_eq(td_batch_free_ptr(batch, &objects[added], 1), -EAGAIN);
	ck_assert_uint_eq(batch_stats(batch).refused, 4);
	ck_assert_uint_eq(batch_stats(batch).waits, 4);
	ck_assert_uint_eq(batch_stats(batch).bytes_pending, added);
	ck_assert_uint_gt(added, ROOM - 2 * TDI_PAGE_OBJECTS);
	leave_reader(&reader);
	until(td_batch_free_ptr(batch, &objects[added], 1) == 0);
	barrier(batch);
	ck_assert_uint_eq(count_freed(objects, N), added + 1);
	ck_assert_uint_eq(batch_stats(batch).bytes_pending, 0);
	free(objects);
}
END_TEST

/* Room grows by itself when it is half used, if the bound allows for it. */
START_TEST(room_grows_by_itself)
{
	enum { N = 3 * ROOM };
	struct object *objects = make_objects(N);
	td_batch *growing = make_batch(.threads = 1, .room = 1);
	struct reader reader;
	uint64_t room = batch_stats(growing).bytes_room;

	for (size_t i = 0; i < N; i++) {
		add_node(growing, &objects[i], 1);
		/* A pass beside which nothing is added sees what is in use. */
		if (i % (ROOM / 3) == 0)
			ck_assert_int_eq(td_batch_barrier(growing, TD_FOREVER), 0);
	}
	barrier(growing);
	ck_assert_uint_eq(count_freed(objects, N), N);
	for (size_t i = 0; i < N; i++)
		atomic_store(&objects[i].freed, 0);
	enter_reader(&reader, NULL);
	for (size_t i = 0; i < ROOM * 3 / 4; i++)
		add_ptr(growing, &objects[i], 1);
	flush(growing);
	until(batch_stats(growing).bytes_room > room);
	for (size_t i = ROOM * 3 / 4; i < ROOM * 5 / 4; i++)
		add_ptr(growing, &objects[i], 1);
	leave_reader(&reader);
	destroy(growing);
	ck_assert_uint_eq(count_freed(objects, N), ROOM * 5 / 4);
	free(objects);
}
END_TEST

START_TEST(pressure_gives_back_room_that_is_not_used)
{
	enum { N = 2 * ROOM };
	struct object *objects = make_objects(N);
	td_batch *big = make_batch(.room = 4 * ROOM, .max_bytes = TD_BATCH_UNBOUNDED);

	for (int round = 0; round < 3; round++) {
		for (size_t i = 0; i < N; i++) {
			atomic_store(&objects[i].freed, 0);
			add_ptr(big, &objects[i], 1);
		}
		ck_assert_int_eq(td_engine_pressure(engine, TD_PRESSURE_FULL, NULL), 0);
		barrier(big);
		tdt_fail(TDI_SYS_madvise, 0, 0, 0);
		ck_assert_int_eq(td_engine_pressure(engine, TD_PRESSURE_FULL, NULL), 0);
		until(tdt_calls(TDI_SYS_madvise) > 0);
		ck_assert_uint_eq(count_freed(objects, N), N);
	}
	destroy(big);
	free(objects);
}
END_TEST

struct one {
	struct object *object;
	bool pointer, insists;
	sem_t added, may_end;
	int err;
};

static void *add_one_and_stay(void *arg)
{
	struct one *one = arg;

	do {
		one->err = one->pointer ? td_batch_free_ptr(batch, one->object, 1)
					: td_batch_free(batch, &one->object->node, 1);
	} while (one->insists && one->err == -EAGAIN);
	sem_post(&one->added);
	sem_wait(&one->may_end);
	return NULL;
}

/* More threads than groups: theirs are linked, or refused, until there are more. */
START_TEST(there_are_groups_for_more_threads_after_a_while)
{
	enum { N = 9 };
	struct object *objects = make_objects(2 * N);
	struct one ones[N];
	pthread_t threads[N];
	struct reader reader;

	hold_pass(&reader, &objects[2 * N - 1]);
	for (size_t i = 0; i < N; i++) {
		ones[i] = (struct one){.object = &objects[i], .pointer = i >= N / 2};
		sem_init(&ones[i].added, 0, 0);
		sem_init(&ones[i].may_end, 0, 0);
		pthread_create(&threads[i], NULL, add_one_and_stay, &ones[i]);
		sem_wait(&ones[i].added);
		ck_assert_int_eq(ones[i].err, ones[i].pointer ? -EAGAIN : 0);
	}
	ck_assert_uint_eq(atomic_load(&batch->open_count), N / 2);
	leave_reader(&reader);
	for (size_t i = 0; i < N; i++) {
		sem_post(&ones[i].may_end);
		pthread_join(threads[i], NULL);
	}
	/* And now there is one for each of them at once. */
	for (size_t i = 0; i < N; i++) {
		ones[i].pointer = ones[i].insists = true;
		ones[i].object = &objects[N + i - 1];
		pthread_create(&threads[i], NULL, add_one_and_stay, &ones[i]);
	}
	for (size_t i = 0; i < N; i++)
		sem_wait(&ones[i].added);
	ck_assert_uint_ge(atomic_load(&batch->groups.n), N);
	for (size_t i = 0; i < N; i++) {
		sem_post(&ones[i].may_end);
		pthread_join(threads[i], NULL);
	}
	barrier(batch);
	ck_assert_uint_eq(count_freed(objects, 2 * N), N / 2 + N + 1);
	free(objects);
}
END_TEST

/* ---- a page that is closed while a pass looks for it ---- */

static sem_t in_mmap, leave_mmap;

static int stop_in_mmap(enum tdi_sys_call call, uintptr_t addr, size_t length, int detail)
{
	(void)addr;
	(void)length;
	(void)detail;
	if (call == TDI_SYS_mmap) {
		tdi_sys_set_fault(NULL);
		sem_post(&in_mmap);
		sem_wait(&leave_mmap);
	}
	return 0;
}

struct filler {
	struct object *objects; /* a page of them, and one more */
	sem_t filled;
};

static void *fill_a_page(void *arg)
{
	struct filler *filler = arg;

	for (size_t i = 0; i < TDI_PAGE_OBJECTS; i++)
		add_ptr(batch, &filler->objects[i], 1);
	sem_post(&filler->filled);
	sem_wait(&in_mmap);
	/* Closes the page, for which there is no other one. */
	add_node(batch, &filler->objects[TDI_PAGE_OBJECTS], 1);
	sem_post(&leave_mmap);
	return NULL;
}

/* How many objects it has taken. */
static uint64_t run_pass_here(void)
{
	struct tdi_grace *grace = &engine->grace;
	uint64_t taken;
	bool all = true;

	pthread_mutex_lock(&grace->pass_lock);
	pthread_mutex_lock(&grace->list_lock);
	tdi_sys_set_fault(stop_in_mmap);
	ck_assert(tdi_batch_take(batch, &all));
	taken = batch_stats(batch).objects_closed;
	pthread_mutex_unlock(&grace->list_lock);
	tdi_batch_make_ready(batch); /* nobody reads */
	pthread_mutex_unlock(&grace->pass_lock);
	tdi_batch_submit(batch);
	return taken;
}

/* The pass is at another group, and needs memory for what is in that: it takes all the
 * same what was added before it. */
START_TEST(a_pass_sees_a_page_that_is_closed_meanwhile)
{
	enum { MINE = (PAGES - 2) * TDI_PAGE_OBJECTS + 1, N = MINE + TDI_PAGE_OBJECTS };
	struct object *objects = make_objects(N + 1);
	struct filler filler = {.objects = objects + MINE};
	pthread_t thread;

	destroy(batch);
	batch = make_batch(.threads = 2, .room = 1, .max_bytes = SMALL_BOUND);
	sem_init(&in_mmap, 0, 0);
	sem_init(&leave_mmap, 0, 0);
	sem_init(&filler.filled, 0, 0);
	for (size_t i = 0; i < MINE; i++)
		add_ptr(batch, &objects[i], 1);
	pthread_create(&thread, NULL, fill_a_page, &filler);
	sem_wait(&filler.filled);
	ck_assert(tdi_page_stack_empty(&batch->pages.free));
	ck_assert_uint_eq(run_pass_here(), N + 1);
	pthread_join(thread, NULL);
	barrier(batch);
	ck_assert_uint_eq(count_freed(objects, N + 1), N + 1);
	free(objects);
}
END_TEST

/* ---- the bound ---- */

static atomic_uint freed_here;
static pthread_t adder;

static void note_thread(struct tally *of, struct object *first, size_t n)
{
	(void)of;
	(void)first;
	if (pthread_equal(pthread_self(), adder))
		atomic_fetch_add(&freed_here, (unsigned)n);
}

/* The only reaper is held up, and half of the bound is past its grace period. */
static void fill_half(struct hold *hold, struct object *objects, size_t n, unsigned flags)
{
	destroy(batch);
	batch = make_batch(.max_bytes = 2 * n * 100, .flags = flags);
	adder = pthread_self();
	tally.inside = note_thread;
	hold_reaper(hold);
	for (size_t i = 0; i < n; i++)
		add_node(batch, &objects[i], 100);
	flush(batch);
	until(tdi_batch_has_ready(batch));
	await_closed(batch, n);
}

START_TEST(who_adds_near_the_bound_helps_to_free)
{
	enum { N = 4000 };
	struct object *objects = make_objects(2 * N);
	struct hold hold;

	fill_half(&hold, objects, N, TD_BATCH_HELP);
	for (size_t i = N; i < 2 * N; i++) {
		if (i % 2)
			add_ptr(batch, &objects[i], 100);
		else
			add_node(batch, &objects[i], 100);
	}
	ck_assert_uint_gt(atomic_load(&freed_here), 0);
	ck_assert_uint_eq(batch_stats(batch).objects_helped, atomic_load(&freed_here));
	let_go(&hold);
	barrier(batch);
	ck_assert_uint_eq(count_freed(objects, 2 * N), 2 * N);
	ck_assert_uint_eq(batch_stats(batch).bytes_pending, 0);
	free(objects);
}
END_TEST

/* Also inside a read-side section: what it frees there is past its grace period. */
START_TEST(a_reader_may_help)
{
	enum { N = 4000 };
	struct object *objects = make_objects(2 * N);
	struct td_batch_list list = {0};
	struct hold hold;

	fill_half(&hold, objects, N, TD_BATCH_HELP);
	urcu_memb_register_thread();
	urcu_memb_read_lock();
	for (size_t i = N; i < 2 * N; i++)
		td_batch_list_add(&list, &objects[i].node, 100);
	ck_assert_int_eq(td_batch_free_list(batch, &list, 0), 0);
	ck_assert_uint_gt(atomic_load(&freed_here), 0);
	ck_assert_uint_eq(count_freed(objects + N, N), 0);
	tdi_tsan_release((void *)(uintptr_t)&urcu_memb_flavor);
	urcu_memb_read_unlock();
	urcu_memb_unregister_thread();
	let_go(&hold);
	barrier(batch);
	ck_assert_uint_eq(count_freed(objects, 2 * N), 2 * N);
	free(objects);
}
END_TEST

START_TEST(nobody_helps_unasked)
{
	enum { N = 2000 };
	struct object *objects = make_objects(4 * N);
	struct hold hold;

	fill_half(&hold, objects, N, 0);
	for (size_t i = N; i < 4 * N; i++)
		add_node(batch, &objects[i], 100);
	ck_assert_uint_eq(count_freed(objects, 4 * N), 0);
	ck_assert_uint_eq(batch_stats(batch).objects_helped, 0);
	let_go(&hold);
	barrier(batch);
	ck_assert_uint_eq(count_freed(objects, 4 * N), 4 * N);
	ck_assert_uint_eq(atomic_load(&freed_here), 0);
	free(objects);
}
END_TEST

/* For free(3) everybody does, unless told otherwise. */
START_TEST(helping_with_free_can_be_declined)
{
	enum { N = 3000 };
	static const unsigned flags[] = {0, TD_BATCH_NO_HELP};

	for (size_t i = 0; i < 2; i++) {
		const struct td_batch_opts opts = {
			.size = sizeof(opts), .flags = flags[i], .max_bytes = N * 100};
		struct hold hold;
		td_batch *plain;

		ck_assert_int_eq(td_batch_create(engine, &opts, &plain), 0);
		hold_reaper(&hold);
		for (int k = 0; k < N; k++)
			ck_assert_int_eq(td_batch_free_ptr(plain, malloc(100), 100), 0);
		until((flush(plain), tdi_batch_has_ready(plain)));
		for (int k = 0; k < N; k++)
			ck_assert_int_eq(td_batch_free_ptr(plain, malloc(100), 100), 0);
		ck_assert_int_eq(batch_stats(plain).objects_helped > 0, i == 0);
		let_go(&hold);
		destroy(plain);
	}
}
END_TEST

/* A reader that does not leave: nothing fails, and the bound is seen to be passed. */
START_TEST(the_bound_is_passed_rather_than_waited_for)
{
	enum { N = 3000 };
	struct object *objects = make_objects(N + 1);
	struct reader reader;

	destroy(batch);
	batch = make_batch(.max_bytes = N * 50, .flags = TD_BATCH_HELP);
	hold_pass(&reader, &objects[N]);
	for (size_t i = 0; i < N; i++) {
		if (i % 2)
			add_ptr(batch, &objects[i], 100);
		else
			add_node(batch, &objects[i], 100);
	}
	ck_assert_uint_gt(batch_stats(batch).passed_bound, 0);
	ck_assert_uint_gt(batch_stats(batch).waits, 0);
	ck_assert_uint_le(batch_stats(batch).waits, N);
	ck_assert_uint_eq(batch_stats(batch).bytes_pending, N * 100 + 1);
	leave_reader(&reader);
	barrier(batch);
	ck_assert_uint_eq(count_freed(objects, N + 1), N + 1);
	ck_assert_uint_eq(batch_stats(batch).bytes_pending, 0);
	free(objects);
}
END_TEST

int main(void)
{
	struct tdt *tests = tdt_suite("batch_bound");

#define ADD(name) tdt_add(tests, name, setup_small, teardown_batch)
	ADD(nodes_are_linked_where_there_is_no_room);
	ADD(a_pointer_is_refused_where_there_is_no_room);
	ADD(room_grows_by_itself);
	ADD(pressure_gives_back_room_that_is_not_used);
	ADD(there_are_groups_for_more_threads_after_a_while);
	ADD(a_pass_sees_a_page_that_is_closed_meanwhile);
	ADD(who_adds_near_the_bound_helps_to_free);
	ADD(a_reader_may_help);
	ADD(nobody_helps_unasked);
	ADD(helping_with_free_can_be_declined);
	ADD(the_bound_is_passed_rather_than_waited_for);
	return tdt_run(tests);
}
