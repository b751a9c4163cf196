/* SPDX-License-Identifier: MIT */
/*
 * B1, B3, B4, B6, B7: objects are replaced and freed by many threads while others read
 * them. Freed ones are poisoned and kept for a while, so that a reader that should not
 * see one sees that. And the test of the test: without grace periods, or with some that
 * are too short, it fails.
 */
#include "harness.h"
#include "base.h"
#include "poison_readers.h"

#include <stdio.h>
#include <sys/wait.h>
#include <teardown/pressure.h>
#include <unistd.h>

enum {
	WRITERS = 3,
	OPERATIONS = TDT_SANITIZED ? 120 : 300,
	BURST = TDT_SANITIZED ? 500 : 4000,
	SHORT_LIVED = 15, /* batches in the meantime */
	BATCHES = 2,
};

static td_engine *engine;
static unsigned lives; /* of each writer */

/* ---- writers ---- */

static struct target targets[BATCHES] = {{.max_size = 300}, {.max_size = 3}};

struct writer {
	unsigned seed;
	bool registered;
	struct stash stash;
	struct td_batch_list list;
	td_batch *list_for;
};

static unsigned chance(struct writer *writer, unsigned n)
{
	return (unsigned)rand_r(&writer->seed) % n;
}

/* While a reader holds all up, the one that does not hold up its adders. */
static const struct target *any_target(struct writer *writer)
{
	return &targets[atomic_load(&stalled) ? 1 : chance(writer, BATCHES)];
}

/* Blocking calls: a reader of qsbr has to say so. */
static void go_offline(const struct writer *writer)
{
	if (writer->registered)
		flavor->thread_offline();
}

static void come_online(const struct writer *writer)
{
	if (writer->registered)
		flavor->thread_online();
}

static void hand_over_list(struct writer *writer)
{
	if (writer->list_for)
		expect_ok(td_batch_free_list(writer->list_for, &writer->list, 0));
	writer->list_for = NULL;
}

static void add(struct writer *writer, const struct target *target, struct object *object)
{
	size_t bytes = chance(writer, target->max_size);
	td_batch *batch = target->batch;
	int err;

	mark_added(object);
	if (chance(writer, 50) == 0)
		object->again = 1 + chance(writer, 3);
	switch (chance(writer, 4)) {
	case 0:
		err = td_batch_free_ptr(batch, object, bytes);
		if (err != -EAGAIN) {
			expect_ok(err);
			break;
		}
		atomic_fetch_add(&unused, 1);
		/* fall through */
	case 1:
		if (writer->list_for && writer->list_for != batch)
			hand_over_list(writer);
		writer->list_for = batch;
		td_batch_list_add(&writer->list, &object->node, bytes);
		if (chance(writer, 16) == 0)
			hand_over_list(writer);
		break;
	default:
		expect_ok(td_batch_free(batch, &object->node, bytes));
		break;
	}
}

/* Puts an object (or two, linked) in the place of another, and frees that. */
static void replace(struct writer *writer, const struct target *target)
{
	struct object *object = take(&writer->stash), *old, *other;

	if (chance(writer, 4) == 0)
		object->other = take(&writer->stash);
	old = atomic_exchange_explicit(&slots[chance(writer, SLOTS)], object,
				       memory_order_acq_rel);
	if (!old)
		return;
	other = old->other; /* before it is not ours any more */
	add(writer, target, old);
	if (other)
		add(writer, target, other);
}

/* A list that nobody ever saw. */
static void free_unseen(struct writer *writer, td_batch *batch)
{
	struct td_batch_list list = {0};

	for (unsigned n = chance(writer, 600); n > 0; n--) {
		struct object *object = take(&writer->stash);

		mark_added(object);
		td_batch_list_add(&list, &object->node, 0);
	}
	go_offline(writer);
	expect_ok(td_batch_free_list(batch, &list, TD_BATCH_NO_READERS));
	come_online(writer);
}

static void do_something_else(struct writer *writer, const struct target *target)
{
	td_batch *batch = target->batch;
	enum td_pressure level = (enum td_pressure)chance(writer, 3);
	int err;

	switch (chance(writer, 6)) {
	case 0:
		expect_ok(td_batch_flush(batch, 0));
		break;
	case 1:
		go_offline(writer);
		err = td_batch_barrier(batch, chance(writer, 2000000));
		come_online(writer);
		expect_ok(err == -ETIMEDOUT ? 0 : err);
		break;
	case 2:
		go_offline(writer);
		expect_ok(td_engine_pressure(engine, level, NULL));
		come_online(writer);
		break;
	case 3:
		free_unseen(writer, batch);
		break;
	default:
		for (unsigned n = chance(writer, BURST); n > 0 && !is_wrong(); n--)
			replace(writer, any_target(writer));
		break;
	}
}

static void *writer_lives(void *arg)
{
	struct writer writer = {.seed = (unsigned)(uintptr_t)arg + 100};
	unsigned operations = chance(&writer, OPERATIONS);

	writer.registered = chance(&writer, 2);
	if (writer.registered)
		flavor->register_thread();
	while (operations-- > 0 && !is_wrong()) {
		const struct target *target = any_target(&writer);
		bool reads_too = writer.registered && chance(&writer, 4) == 0;

		if (reads_too)
			flavor->read_lock();
		for (unsigned n = chance(&writer, 32); n > 0; n--)
			replace(&writer, target);
		if (reads_too) {
			read_once(&writer.seed, false);
			tdi_tsan_release((void *)(uintptr_t)flavor);
			flavor->read_unlock();
		}
		if (writer.registered)
			flavor->read_quiescent_state();
		if (chance(&writer, 32) == 0 || atomic_load(&stalled))
			do_something_else(&writer, target);
	}
	hand_over_list(&writer);
	if (writer.registered)
		flavor->unregister_thread();
	give_back(&writer.stash);
	return NULL;
}

static void *keep_writing(void *arg)
{
	for (uintptr_t life = 0; life < lives && !is_wrong(); life++) {
		pthread_t thread;

		if (pthread_create(&thread, NULL, writer_lives,
				   (void *)((uintptr_t)arg + life * WRITERS)) != 0)
			abort();
		pthread_join(thread, NULL);
	}
	return NULL;
}

/* Batches that come and go: some for what readers see, some for what they never do. */
static void *keep_creating(void *arg)
{
	struct writer writer = {.seed = (unsigned)(uintptr_t)arg};

	for (unsigned i = 0; i < lives * SHORT_LIVED && !is_wrong(); i++) {
		unsigned unseen = chance(&writer, 2) ? TD_BATCH_NO_READERS : 0;
		struct target target = {.max_size = 300};

		expect_ok(td_batch_create(
			engine,
			TD_BATCH_OPTS(.free_bulk = free_bulk, .ctx = &target,
				      .node_offset = offsetof(struct object, node),
				      .close_age_ns = chance(&writer, 2) ? 1 : UINT64_MAX,
				      .close_count = 1 + chance(&writer, 10),
				      .max_bytes = 1 + chance(&writer, 4000),
				      .threads = 1),
			&target.batch));
		for (unsigned n = chance(&writer, 1500); n > 0; n--) {
			if (unseen)
				add(&writer, &target, take(&writer.stash));
			else
				replace(&writer, &target);
		}
		hand_over_list(&writer);
		if (chance(&writer, 2))
			expect_ok(td_batch_flush(target.batch, unseen));
		expect_ok(td_batch_destroy(target.batch, unseen));
	}
	give_back(&writer.stash);
	return NULL;
}

/* ---- all together ---- */

static void run_threads(void)
{
	pthread_t readers[READERS], writers[WRITERS], creator;

	for (uintptr_t i = 0; i < READERS; i++) {
		if (pthread_create(&readers[i], NULL, keep_reading, (void *)i) != 0)
			abort();
	}
	for (uintptr_t i = 0; i < WRITERS; i++) {
		if (pthread_create(&writers[i], NULL, keep_writing, (void *)i) != 0)
			abort();
	}
	if (pthread_create(&creator, NULL, keep_creating, (void *)1) != 0)
		abort();
	for (int i = 0; i < WRITERS; i++)
		pthread_join(writers[i], NULL);
	atomic_store(&all_written, true);
	pthread_join(creator, NULL);
	atomic_store(&enough, true);
	for (int i = 0; i < READERS; i++)
		pthread_join(readers[i], NULL);
}

/* All that is left in the slots, the whole pair each. */
static void empty_slots(const struct target *target)
{
	struct writer writer = {.seed = 7};

	for (int i = 0; i < SLOTS; i++) {
		struct object *object = atomic_exchange(&slots[i], NULL);
		struct object *other = object ? object->other : NULL;

		if (object)
			add(&writer, target, object);
		if (other)
			add(&writer, target, other);
	}
	hand_over_list(&writer);
}

/* All is freed but one, which a reader keeps: what is pending is what that counts for. */
static void check_count(const struct target *target)
{
	const uint64_t bytes = UINT64_C(1) << 40;
	struct td_batch_stats stats = {0};
	struct stash stash = {0};
	struct object *object = take(&stash);

	/* Each may be added again by its callback, three times. */
	for (int round = 0; round < 4; round++)
		expect_ok(td_batch_barrier(target->batch, TD_FOREVER));
	flavor->register_thread();
	flavor->read_lock();
	mark_added(object);
	expect_ok(td_batch_free(target->batch, &object->node, bytes));
	expect_ok(td_batch_stats(target->batch, &stats));
	if (stats.bytes_pending != bytes)
		atomic_fetch_add(&miscounted, 1);
	flavor->read_unlock();
	flavor->unregister_thread();
	give_back(&stash);
}

static void torture(const struct rcu_flavor_struct *used, unsigned n)
{
	struct td_batch_stats stats[BATCHES];
	struct td_engine_stats all;

	flavor = used;
	lives = TDT_SANITIZED ? (n + 1) / 2 : n;
	if (td_engine_create(TD_ENGINE_OPTS(.flavor = used, .reapers = 2), &engine) != 0)
		abort();
	/* One that is always at its bound; one that has more objects than room. */
	expect_ok(td_batch_create(
		engine,
		TD_BATCH_OPTS(.free_bulk = free_bulk, .ctx = &targets[0],
			      .node_offset = offsetof(struct object, node), .threads = 1,
			      .flags = TD_BATCH_HELP, .close_count = 64,
			      .close_age_ns = 500000, .max_bytes = 256 * KIB),
		&targets[0].batch));
	expect_ok(td_batch_create(
		engine,
		TD_BATCH_OPTS(.free_bulk = free_bulk, .ctx = &targets[1],
			      .node_offset = offsetof(struct object, node), .threads = 2,
			      .object_bytes = 1, .room = 1, .close_age_ns = 1000000,
			      .max_bytes = 4000 * KIB),
		&targets[1].batch));
	run_threads();
	for (int i = 0; i < BATCHES; i++) {
		empty_slots(&targets[i]);
		expect_ok(td_batch_flush(targets[i].batch, 0));
		expect_ok(td_batch_stats(targets[i].batch, &stats[i]));
		if (i == 0)
			check_count(&targets[i]);
		expect_ok(td_batch_destroy(targets[i].batch, 0));
	}
	expect_ok(td_engine_stats(engine, &all));
	expect_ok(td_engine_destroy(engine, TD_EXIT_DRAIN, 0));
	printf("# %lu reads, %lu added, %lu again, %lu for which there was no room; "
	       "%lu helped, %lu waits, %lu past the bound, %lu grace periods\n",
	       reads, added, added_again, unused, stats[0].objects_helped,
	       stats[0].waits + stats[1].waits, stats[0].passed_bound, all.grace_periods);
	check_all_freed();
}

static void expect_no_poison(const struct rcu_flavor_struct *used, unsigned n)
{
	torture(used, n);
	ck_assert_uint_eq(poison_seen, 0);
	ck_assert_uint_eq(freed_wrongly, 0);
	ck_assert_uint_eq(refused_wrongly, 0);
	ck_assert_uint_eq(lost, 0);
	ck_assert_uint_eq(miscounted, 0);
	ck_assert_uint_eq(freed, added);
	ck_assert_uint_gt(added_again, 0);
	if (!TDT_SANITIZED) /* there it would take too long to fill the pool */
		ck_assert_uint_gt(unused, 0);
	ck_assert_uint_gt(reads, 1000);
}

START_TEST(memb_readers_see_no_freed_object)
{
	expect_no_poison(&urcu_memb_flavor, 4);
}
END_TEST

START_TEST(mb_readers_see_no_freed_object)
{
	expect_no_poison(&urcu_mb_flavor, 4);
}
END_TEST

/* Grace periods of the last two are long where readers share CPUs. */
START_TEST(bp_readers_see_no_freed_object)
{
	expect_no_poison(&urcu_bp_flavor, 2);
}
END_TEST

START_TEST(qsbr_readers_see_no_freed_object)
{
	expect_no_poison(&urcu_qsbr_flavor, 3);
}
END_TEST

/* ---- the test of the test ---- */

static void wait_for_nobody(void)
{
}

static void wait_too_short(void)
{
	uint64_t end = tdi_sys_now_ns() + 20000;

	while (tdi_sys_now_ns() < end)
		continue;
}

static void wait_for_all_but_one(void)
{
	for (int i = 1; i < READERS; i++) {
		while (atomic_load_explicit(&inside[i], memory_order_seq_cst))
			sched_yield();
	}
}

/* In a process of its own, that is told by how it ends. */
static void expect_poison(const struct rcu_flavor_struct *used, void (*synchronize)(void))
{
	struct rcu_flavor_struct broken = *used;
	int status;
	pid_t pid;

	if (TDT_SANITIZED) {
		tdt_skip("a sanitizer would stop at the first broken object");
		return;
	}
	broken.update_synchronize_rcu = synchronize;
	fflush(stdout);
	pid = fork();
	ck_assert_int_ge(pid, 0);
	if (pid == 0) {
		torture(&broken, 10);
		printf("# poison seen %u times\n", poison_seen);
		fflush(stdout);
		_exit(poison_seen > 0 && freed_wrongly == 0 && refused_wrongly == 0 ? 42
										    : 1);
	}
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert_msg(WIFEXITED(status) && WEXITSTATUS(status) == 42,
		      "not noticed: status %#x", (unsigned)status);
}

START_TEST(a_missing_grace_period_is_noticed)
{
	expect_poison(&urcu_memb_flavor, wait_for_nobody);
}
END_TEST

START_TEST(a_missing_grace_period_of_qsbr_is_noticed)
{
	expect_poison(&urcu_qsbr_flavor, wait_for_nobody);
}
END_TEST

START_TEST(a_grace_period_that_ends_too_soon_is_noticed)
{
	expect_poison(&urcu_memb_flavor, wait_too_short);
}
END_TEST

START_TEST(a_grace_period_that_forgets_a_reader_is_noticed)
{
	expect_poison(&urcu_memb_flavor, wait_for_all_but_one);
}
END_TEST

int main(void)
{
	struct tdt *tests = tdt_suite("torture_batch");

	tdt_add(tests, memb_readers_see_no_freed_object, NULL, NULL);
	tdt_add(tests, mb_readers_see_no_freed_object, NULL, NULL);
	tdt_add(tests, bp_readers_see_no_freed_object, NULL, NULL);
	tdt_add(tests, qsbr_readers_see_no_freed_object, NULL, NULL);
	tdt_add(tests, a_missing_grace_period_is_noticed, NULL, NULL);
	tdt_add(tests, a_missing_grace_period_of_qsbr_is_noticed, NULL, NULL);
	tdt_add(tests, a_grace_period_that_ends_too_soon_is_noticed, NULL, NULL);
	tdt_add(tests, a_grace_period_that_forgets_a_reader_is_noticed, NULL, NULL);
	return tdt_run(tests);
}
