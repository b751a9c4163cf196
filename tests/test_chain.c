/* SPDX-License-Identifier: MIT */
/* B3, B7: any thread puts in what is linked, and nothing is lost or comes twice. */
#include "chain.h"
#include "harness.h"

#include <pthread.h>
#include <sched.h>
#include <stdlib.h>

struct item {
	struct td_batch_node node;
	unsigned from, number;
};

static struct tdi_chain chain;
static struct item items[8];

static void begin(void)
{
	tdi_chain_init(&chain);
}

static struct item *item_of(struct td_batch_node *node)
{
	return node ? tdi_container_of(node, struct item, node) : NULL;
}

static void put(unsigned number)
{
	tdi_chain_put(&chain, &items[number].node, &items[number].node);
}

/* The items from first to last, in a row. */
static void put_row(unsigned first, unsigned last)
{
	for (unsigned i = first; i < last; i++)
		atomic_store(&items[i].node.tdi_next, &items[i + 1].node);
	tdi_chain_put(&chain, &items[first].node, &items[last].node);
}

static void check_takes(unsigned number)
{
	ck_assert_ptr_eq(tdi_chain_take(&chain), &items[number].node);
}

/* first to last can be walked along. */
static void check_row(struct td_batch_node *node, unsigned first, unsigned last)
{
	for (unsigned i = first; i <= last; i++, node = tdi_chain_next(node))
		ck_assert_ptr_eq(node, &items[i].node);
	ck_assert_ptr_null(node);
}

static void check_empty(void)
{
	struct td_batch_node *last = &items[7].node;

	ck_assert(tdi_chain_empty(&chain));
	ck_assert_ptr_null(tdi_chain_take(&chain));
	ck_assert_ptr_null(tdi_chain_take_all(&chain, &last));
	ck_assert_ptr_eq(last, &items[7].node);
}

/* ---- alone ---- */

START_TEST(what_was_put_in_first_comes_out_first)
{
	check_empty();
	put(0);
	ck_assert(!tdi_chain_empty(&chain));
	check_takes(0);
	check_empty();
	put(1);
	put_row(2, 5);
	put(6);
	for (unsigned i = 1; i < 7; i++)
		check_takes(i);
	check_empty();
}
END_TEST

/* A node may come with whatever it held: its object has been in use. */
START_TEST(what_a_node_held_before_does_not_matter)
{
	atomic_store(&items[0].node.tdi_next, &items[5].node);
	put(0);
	check_takes(0);
	check_empty();
}
END_TEST

START_TEST(a_node_can_be_put_in_again_at_once)
{
	for (unsigned i = 0; i < 5; i++) {
		put(0);
		put(1);
		check_takes(0);
		put(0);
		check_takes(1);
		check_takes(0);
		check_empty();
	}
}
END_TEST

START_TEST(all_is_taken_at_once_as_a_row)
{
	struct td_batch_node *last;

	put(0);
	put_row(1, 3);
	put(4);
	check_takes(0);
	check_row(tdi_chain_take_all(&chain, &last), 1, 4);
	ck_assert_ptr_eq(last, &items[4].node);
	check_empty();
	put(5);
	check_row(tdi_chain_take_all(&chain, &last), 5, 5);
	ck_assert_ptr_eq(last, &items[5].node);
	check_empty();
}
END_TEST

/* What a grace period was waited for goes from one queue to another. */
START_TEST(a_row_that_was_taken_can_be_put_into_another_one)
{
	struct td_batch_node *first, *last;
	struct tdi_chain other;

	tdi_chain_init(&other);
	put_row(0, 2);
	first = tdi_chain_take_all(&chain, &last);
	tdi_chain_put(&other, first, last);
	put_row(3, 4);
	first = tdi_chain_take_all(&chain, &last);
	tdi_chain_put(&other, first, last);
	check_row(tdi_chain_take_all(&other, &last), 0, 4);
	check_empty();
}
END_TEST

/* ---- somebody held up between his exchange and his link ---- */

static struct td_batch_node *held_before;

static void hold(unsigned number)
{
	atomic_store(&items[number].node.tdi_next, NULL);
	held_before = atomic_exchange(&chain.tail, &items[number].node);
}

static void let_go(unsigned number)
{
	atomic_store(&held_before->tdi_next, &items[number].node);
}

START_TEST(behind_a_missing_link_nothing_is_seen_and_nothing_lost)
{
	struct td_batch_node *last;

	hold(0);
	put(1);
	put_row(2, 3);
	ck_assert(!tdi_chain_empty(&chain));
	for (unsigned i = 0; i < 3; i++) {
		ck_assert_ptr_null(tdi_chain_take(&chain));
		ck_assert_ptr_null(tdi_chain_take_all(&chain, &last));
	}
	let_go(0);
	for (unsigned i = 0; i < 4; i++)
		check_takes(i);
	check_empty();
}
END_TEST

START_TEST(what_is_before_a_missing_link_comes_out_but_for_the_last)
{
	put(0);
	put(1);
	hold(2);
	check_takes(0);
	/* It is where the link will be written to. */
	ck_assert_ptr_null(tdi_chain_take(&chain));
	ck_assert_ptr_null(tdi_chain_take(&chain));
	put(3);
	ck_assert_ptr_null(tdi_chain_take(&chain));
	let_go(2);
	for (unsigned i = 1; i < 4; i++)
		check_takes(i);
	check_empty();
}
END_TEST

START_TEST(a_row_may_be_taken_with_a_link_still_missing)
{
	struct td_batch_node *first, *last;
	struct tdi_chain other;

	put(0);
	hold(1);
	put(2);
	first = tdi_chain_take_all(&chain, &last);
	ck_assert_ptr_eq(first, &items[0].node);
	ck_assert_ptr_eq(last, &items[2].node);
	check_empty();
	put(3); /* nobody minds any more */
	check_takes(3);
	check_empty();

	/* Where it is put to it is missing still. */
	tdi_chain_init(&other);
	tdi_chain_put(&other, first, last);
	ck_assert_ptr_null(tdi_chain_take(&other));
	let_go(1);
	for (unsigned i = 0; i < 3; i++)
		ck_assert_ptr_eq(tdi_chain_take(&other), &items[i].node);
	ck_assert(tdi_chain_empty(&other));
}
END_TEST

START_TEST(the_first_of_an_empty_queue_may_be_the_one_held_up)
{
	struct td_batch_node *last;

	put(0);
	check_takes(0);
	hold(1);
	ck_assert_ptr_eq(held_before, &chain.head);
	ck_assert_ptr_null(tdi_chain_take_all(&chain, &last));
	put(0);
	ck_assert_ptr_null(tdi_chain_take(&chain));
	let_go(1);
	check_takes(1);
	check_takes(0);
	check_empty();
}
END_TEST

/* ---- many threads ---- */

enum { PUTTERS = 3, EACH = TDT_SANITIZED ? 100000 : 600000 };

static struct item (*made)[EACH];
static atomic_uint running;

static void *put_many(void *arg)
{
	unsigned from = (unsigned)(uintptr_t)arg, i = 0;

	while (i < EACH) {
		unsigned n = 1 + i % 7; /* in rows of 1 to 7 */
		unsigned last = i + n < EACH ? i + n - 1 : EACH - 1;

		for (unsigned at = i; at <= last; at++) {
			made[from][at].from = from;
			made[from][at].number = at;
			atomic_store_explicit(&made[from][at].node.tdi_next,
					      at < last ? &made[from][at + 1].node : NULL,
					      memory_order_relaxed);
		}
		tdi_chain_put(&chain, &made[from][i].node, &made[from][last].node);
		if (i % 1024 < n)
			sched_yield();
		i = last + 1;
	}
	atomic_fetch_sub(&running, 1);
	return NULL;
}

/* Those of each come in the order in which he put them in. */
static unsigned expected[PUTTERS];

static void check_next(struct td_batch_node *node)
{
	struct item *item = item_of(node);

	if (item->number != expected[item->from]++)
		ck_abort_msg("of %u came %u, not %u", item->from, item->number,
			     expected[item->from] - 1);
}

/* A row of so many, some of whose links may be missing for a moment. */
static void walk(struct td_batch_node *node, struct td_batch_node *last)
{
	struct td_batch_node *next;

	for (;; node = next) {
		while (!(next = tdi_chain_next(node)) && node != last)
			sched_yield();
		check_next(node);
		if (node == last)
			return;
	}
}

/* one: takes node after node; all: everything at once; or both in turn. */
static void take_what_comes(bool one, bool all)
{
	struct td_batch_node *node, *last;
	pthread_t threads[PUTTERS];
	bool ended;

	made = calloc(PUTTERS, sizeof(*made));
	ck_assert_ptr_nonnull(made);
	atomic_store(&running, PUTTERS);
	for (uintptr_t i = 0; i < PUTTERS; i++)
		pthread_create(&threads[i], NULL, put_many, (void *)i);
	for (unsigned round = 0;; round++) {
		ended = atomic_load(&running) == 0;
		if (one && (!all || round % 16)) {
			while ((node = tdi_chain_take(&chain)) != NULL)
				check_next(node);
		} else if ((node = tdi_chain_take_all(&chain, &last)) != NULL) {
			walk(node, last);
		}
		if (ended && tdi_chain_empty(&chain))
			break;
		if (round % 64 == 0)
			sched_yield();
	}
	for (unsigned i = 0; i < PUTTERS; i++) {
		pthread_join(threads[i], NULL);
		ck_assert_uint_eq(expected[i], EACH);
	}
	check_empty();
	free(made);
}

START_TEST(one_takes_node_by_node_what_many_put_in)
{
	take_what_comes(true, false);
}
END_TEST

START_TEST(one_takes_at_once_what_many_put_in)
{
	take_what_comes(false, true);
}
END_TEST

START_TEST(one_takes_both_ways_what_many_put_in)
{
	take_what_comes(true, true);
}
END_TEST

int main(void)
{
	struct tdt *tests = tdt_suite("chain");
	const TTest *all[] = {
		what_was_put_in_first_comes_out_first,
		what_a_node_held_before_does_not_matter,
		a_node_can_be_put_in_again_at_once,
		all_is_taken_at_once_as_a_row,
		a_row_that_was_taken_can_be_put_into_another_one,
		behind_a_missing_link_nothing_is_seen_and_nothing_lost,
		what_is_before_a_missing_link_comes_out_but_for_the_last,
		a_row_may_be_taken_with_a_link_still_missing,
		the_first_of_an_empty_queue_may_be_the_one_held_up,
		one_takes_node_by_node_what_many_put_in,
		one_takes_at_once_what_many_put_in,
		one_takes_both_ways_what_many_put_in,
	};

	for (size_t i = 0; i < sizeof(all) / sizeof(*all); i++)
		tdt_add(tests, all[i], begin, NULL);
	return tdt_run(tests);
}
