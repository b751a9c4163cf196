/* SPDX-License-Identifier: MIT */
/* td_batch with each flavor of liburcu: who may add, and where callbacks run. */
#include "batches.h"

/* <urcu/flavor.h> declares that of the first flavor included only. */
extern const struct rcu_flavor_struct urcu_mb_flavor, urcu_bp_flavor, urcu_qsbr_flavor;

enum { N = 600 };

static const struct rcu_flavor_struct *flavor;
static atomic_uint astray;

/* Callbacks run on the engine's reaper, outside any read-side section. (An unregistered
 * thread of urcu-bp is registered by the question.) */
static void look_around(struct tally *of, struct object *first, size_t n)
{
	(void)of;
	(void)first;
	(void)n;
	if (!pthread_equal(pthread_self(), engine->reapers[0].thread) ||
	    flavor->read_ongoing())
		atomic_fetch_add(&astray, 1);
}

static void setup_flavor(const struct rcu_flavor_struct *of)
{
	flavor = of;
	ck_assert_int_eq(
		td_engine_create(TD_ENGINE_OPTS(.reapers = 1, .flavor = of), &engine), 0);
	batch = make_batch(.name = "test");
	tally.inside = look_around;
}

static void teardown_flavor(void)
{
	teardown_batch();
	ck_assert_uint_eq(atomic_load(&astray), 0);
}

static void *add_unregistered(void *arg)
{
	add_all_sorts(arg, N);
	return NULL;
}

/* B1: it is this flavor's readers that are waited for. */
static void a_reader_is_waited_for(void)
{
	struct object *objects = make_objects(N);
	struct reader reader;

	enter_reader(&reader, flavor);
	on_thread(add_unregistered, objects);
	ck_assert_int_eq(td_batch_barrier(batch, MOMENT_NS), -ETIMEDOUT);
	ck_assert_uint_eq(count_freed(objects, N), 0);
	leave_reader(&reader);
	barrier(batch);
	ck_assert_uint_eq(count_freed(objects, N), N);
	free(objects);
}

struct insider {
	struct object *objects;
	sem_t added, may_leave;
};

static void *add_inside(void *arg)
{
	struct insider *insider = arg;

	flavor->register_thread();
	flavor->read_lock();
	add_all_sorts(insider->objects, N);
	(void)td_batch_flush(batch, 0);
	sem_post(&insider->added);
	sem_wait(&insider->may_leave);
	/* It reads what it gave away: that is there until it leaves. */
	if (count_freed(insider->objects, N) > 0)
		atomic_fetch_add(&astray, 1);
	tdi_tsan_release((void *)(uintptr_t)flavor);
	flavor->read_unlock();
	flavor->unregister_thread();
	return NULL;
}

/* B7: inside a read-side section, too; and that one is waited for. */
static void readers_may_add(void)
{
	struct insider insider = {.objects = make_objects(N)};
	pthread_t thread;

	sem_init(&insider.added, 0, 0);
	sem_init(&insider.may_leave, 0, 0);
	pthread_create(&thread, NULL, add_inside, &insider);
	sem_wait(&insider.added);
	ck_assert_int_eq(td_batch_barrier(batch, MOMENT_NS), -ETIMEDOUT);
	ck_assert_uint_eq(count_freed(insider.objects, N), 0);
	sem_post(&insider.may_leave);
	barrier(batch);
	pthread_join(thread, NULL);
	ck_assert_uint_eq(count_freed(insider.objects, N), N);
	free(insider.objects);
}

static void *add_registered(void *arg)
{
	flavor->register_thread();
	add_all_sorts(arg, N);
	flavor->unregister_thread();
	return NULL;
}

/* All sorts of threads at once, and no reader in the way: neither of this flavor, nor one
 * of another that stays. */
static void other_flavors_are_not_waited_for(void)
{
	const struct rcu_flavor_struct *other =
		flavor == &urcu_memb_flavor ? &urcu_mb_flavor : &urcu_memb_flavor;
	struct object *objects = make_objects(3 * N);
	struct reader reader;
	pthread_t threads[2];

	enter_reader(&reader, other);
	pthread_create(&threads[0], NULL, add_registered, objects);
	pthread_create(&threads[1], NULL, add_unregistered, objects + N);
	add_all_sorts(objects + 2 * N, N);
	pthread_join(threads[0], NULL);
	pthread_join(threads[1], NULL);
	barrier(batch);
	ck_assert_uint_eq(count_freed(objects, 3 * N), 3 * N);
	leave_reader(&reader);
	free(objects);
}

/* Those who free in the caller, since the engine is gone, wait for its readers, too. */
static void also_without_the_engine(void)
{
	struct object *objects = make_objects(2 * N);
	struct reader reader;

	tally.inside = NULL;
	teardown();
	add_all_sorts(objects, N);
	barrier(batch);
	ck_assert_uint_eq(count_freed(objects, N), N);
	add_all_sorts(objects + N, N);
	enter_reader(&reader, flavor);
	ck_assert_int_eq(td_batch_flush(batch, TD_BATCH_NO_READERS), 0);
	ck_assert_uint_eq(count_freed(objects, 2 * N), 2 * N);
	leave_reader(&reader);
	destroy(batch);
	free(objects);
}

#define TEST(flavor, name, ends)                                                         \
	START_TEST(flavor##_##name)                                                      \
	{                                                                                \
		setup_flavor(&urcu_##flavor##_flavor);                                   \
		name();                                                                  \
		ends;                                                                    \
	}                                                                                \
	END_TEST

#define TESTS(flavor)                                                                    \
	TEST(flavor, a_reader_is_waited_for, teardown_flavor())                          \
	TEST(flavor, readers_may_add, teardown_flavor())                                 \
	TEST(flavor, other_flavors_are_not_waited_for, teardown_flavor())                \
	TEST(flavor, also_without_the_engine, (void)0)

TESTS(memb)
TESTS(mb)
TESTS(bp)
TESTS(qsbr)

#define ADD_ALL(flavor)                                                                  \
	do {                                                                             \
		tdt_add(tests, flavor##_a_reader_is_waited_for, NULL, NULL);             \
		tdt_add(tests, flavor##_readers_may_add, NULL, NULL);                    \
		tdt_add(tests, flavor##_other_flavors_are_not_waited_for, NULL, NULL);   \
		tdt_add(tests, flavor##_also_without_the_engine, NULL, NULL);            \
	} while (0)

int main(void)
{
	struct tdt *tests = tdt_suite("batch_flavors");

	ADD_ALL(memb);
	ADD_ALL(mb);
	ADD_ALL(bp);
	ADD_ALL(qsbr);
	return tdt_run(tests);
}
