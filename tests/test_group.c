/* SPDX-License-Identifier: MIT */
/* B2, B7: each thread that adds has a group of its own, and leaves it to the next one. */
#include "group.h"
#include "harness.h"
#include "membarrier.h"
#include "thread.h"

#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <string.h>
#include <sys/wait.h>
#include <teardown/engine.h>
#include <unistd.h>

static struct tdi_groups set;

static unsigned owned(void)
{
	unsigned n = 0;

	tdi_groups_for_each(&set, block, group) n += atomic_load(&group->owner) != 0;
	return n;
}

/* ---- a thread that finds a group, and stays until it may go ---- */

struct finder {
	pthread_t thread;
	struct tdi_groups *set;
	struct tdi_group *found;
	size_t left; /* what it found in the group, and what it leaves there */
	sem_t has_found, may_end;
};

static void *find(void *arg)
{
	struct finder *finder = arg;

	finder->found = tdi_group_find(finder->set);
	if (finder->found) {
		size_t before = finder->found->until_close;

		finder->found->until_close = finder->left;
		finder->left = before;
	}
	sem_post(&finder->has_found);
	sem_wait(&finder->may_end);
	return NULL;
}

static void begin(struct finder *finder, struct tdi_groups *in, size_t leaves)
{
	*finder = (struct finder){.set = in, .left = leaves};
	sem_init(&finder->has_found, 0, 0);
	sem_init(&finder->may_end, 0, 0);
	pthread_create(&finder->thread, NULL, find, finder);
	while (sem_wait(&finder->has_found) != 0)
		;
}

static void end(struct finder *finder)
{
	sem_post(&finder->may_end);
	pthread_join(finder->thread, NULL);
}

/* ---- one thread ---- */

START_TEST(a_thread_finds_its_group_again)
{
	struct tdi_group *group;

	ck_assert_int_eq(tdi_groups_init(&set, 4), 0);
	ck_assert_ptr_null(tdi_group_cached(set.id));
	group = tdi_group_find(&set);
	ck_assert_ptr_nonnull(group);
	ck_assert_uint_eq(atomic_load(&group->owner), tdi_thread_token());
	for (int i = 0; i < 10; i++) {
		ck_assert_ptr_eq(tdi_group_find(&set), group);
		ck_assert_ptr_eq(tdi_group_cached(set.id), group);
	}
	ck_assert_uint_eq(owned(), 1);
	tdi_groups_destroy(&set);
}
END_TEST

START_TEST(a_thread_finds_its_group_after_using_many_other_sets)
{
	enum { SETS = 3 * TDI_GROUP_CACHE };
	static struct tdi_groups sets[SETS];
	struct tdi_group *groups[SETS];

	for (unsigned i = 0; i < SETS; i++) {
		ck_assert_int_eq(tdi_groups_init(&sets[i], 2), 0);
		groups[i] = tdi_group_find(&sets[i]);
		ck_assert_ptr_nonnull(groups[i]);
	}
	ck_assert_ptr_null(tdi_group_cached(sets[0].id));
	for (unsigned i = 0; i < 2 * SETS; i++)
		ck_assert_ptr_eq(tdi_group_find(&sets[i % SETS]), groups[i % SETS]);
	/* From the middle, the ends, and then the rest. */
	tdi_groups_destroy(&sets[SETS / 2]);
	tdi_groups_destroy(&sets[SETS - 1]);
	tdi_groups_destroy(&sets[0]);
	for (unsigned i = 1; i < SETS - 1; i++) {
		if (i != SETS / 2)
			tdi_groups_destroy(&sets[i]);
	}
}
END_TEST

START_TEST(a_set_where_another_one_was_is_not_mistaken_for_it)
{
	struct tdi_group *group;
	uint64_t id;

	for (int i = 0; i < 3 * TDI_GROUP_CACHE; i++) {
		ck_assert_int_eq(tdi_groups_init(&set, 2), 0);
		id = set.id;
		ck_assert_ptr_null(tdi_group_cached(id));
		group = tdi_group_find(&set);
		ck_assert_uint_eq(group->until_close, 0);
		group->until_close = 99;
		ck_assert_uint_eq(owned(), 1);
		tdi_groups_destroy(&set);
		ck_assert_int_eq(tdi_groups_init(&set, 2), 0);
		ck_assert_uint_ne(set.id, id);
		ck_assert_ptr_null(tdi_group_cached(set.id));
		tdi_groups_destroy(&set);
	}
}
END_TEST

START_TEST(a_group_begins_asleep_and_fences_where_the_kernel_does_not)
{
	uint32_t flags = TDI_GROUP_ASLEEP | TDI_GROUP_FENCE;

	tdt_fail(TDI_SYS_membarrier, -EPERM, 0, UINT32_MAX);
	ck_assert_int_eq(tdi_groups_init(&set, 2), 0);
	tdi_groups_for_each(&set, block, group) ck_assert_uint_eq(
		__atomic_load_n(&group->front.flags, __ATOMIC_RELAXED), flags);
	/* Asked for once: what a filter allows later does not count. */
	tdt_fail_none();
	ck_assert(!tdi_membarrier_works());
	ck_assert_int_eq(tdi_groups_grow(&set), 0);
	tdi_groups_for_each(&set, block, group) ck_assert_uint_eq(
		__atomic_load_n(&group->front.flags, __ATOMIC_RELAXED), flags);
	tdi_groups_destroy(&set);
}
END_TEST

START_TEST(a_group_does_not_fence_where_the_kernel_does)
{
	if (!tdi_membarrier_works()) {
		tdt_skip("this kernel has no membarrier, or forbids it");
		return;
	}
	ck_assert_int_eq(tdi_groups_init(&set, 2), 0);
	tdi_groups_for_each(&set, block, group) ck_assert_uint_eq(
		__atomic_load_n(&group->front.flags, __ATOMIC_RELAXED), TDI_GROUP_ASLEEP);
	tdi_groups_destroy(&set);
}
END_TEST

START_TEST(groups_that_there_is_no_memory_for_are_none)
{
	if (TDT_SANITIZED) {
		tdt_skip("a sanitizer's allocator ends the process instead");
		return;
	}
	/* Half a TiB: no kernel promises that without being told to. */
	if (tdi_groups_init(&set, UINT32_MAX) == 0) {
		tdi_groups_destroy(&set);
		tdt_skip("half a TiB could be had");
		return;
	}
	ck_assert_int_eq(tdi_groups_init(&set, UINT32_MAX), -ENOMEM);
	ck_assert_int_eq(tdi_groups_init(&set, 1), 0);
	tdi_groups_destroy(&set);
}
END_TEST

/* ---- threads that come and go ---- */

START_TEST(threads_have_groups_of_their_own)
{
	struct finder finders[3];

	ck_assert_int_eq(tdi_groups_init(&set, 3), 0);
	for (int i = 0; i < 3; i++)
		begin(&finders[i], &set, 0);
	ck_assert_uint_eq(owned(), 3);
	for (int i = 0; i < 3; i++) {
		ck_assert_ptr_nonnull(finders[i].found);
		for (int j = 0; j < i; j++)
			ck_assert_ptr_ne(finders[i].found, finders[j].found);
	}
	for (int i = 0; i < 3; i++)
		end(&finders[i]);
	ck_assert_uint_eq(owned(), 0);
	tdi_groups_destroy(&set);
}
END_TEST

START_TEST(a_thread_that_ends_leaves_its_group_as_it_is_to_the_next)
{
	struct tdi_group *group = NULL;
	struct finder finder;

	ck_assert_int_eq(tdi_groups_init(&set, 1), 0);
	for (size_t i = 0; i < 20; i++) {
		begin(&finder, &set, i + 1);
		ck_assert_ptr_nonnull(finder.found);
		ck_assert(i == 0 || finder.found == group);
		group = finder.found;
		ck_assert_uint_eq(finder.left, i);
		ck_assert_uint_eq(owned(), 1);
		end(&finder);
		ck_assert_uint_eq(owned(), 0);
	}
	ck_assert_ptr_eq(tdi_group_find(&set), group);
	ck_assert_uint_eq(group->until_close, 20);
	tdi_groups_destroy(&set);
}
END_TEST

START_TEST(a_thread_without_a_group_says_so_and_more_are_made)
{
	struct finder finders[5];
	unsigned n = 0;

	ck_assert_int_eq(tdi_groups_init(&set, 2), 0);
	ck_assert(!atomic_load(&set.short_of));
	begin(&finders[0], &set, 1);
	begin(&finders[1], &set, 2);
	ck_assert(!atomic_load(&set.short_of));
	begin(&finders[2], &set, 3);
	ck_assert_ptr_null(finders[2].found);
	ck_assert(atomic_load(&set.short_of));
	ck_assert_ptr_null(tdi_group_find(&set));

	ck_assert_int_eq(tdi_groups_grow(&set), 0);
	ck_assert(!atomic_load(&set.short_of));
	ck_assert_uint_eq(atomic_load(&set.n), 4);
	tdi_groups_for_each(&set, block, group) n++;
	ck_assert_uint_eq(n, 4);
	ck_assert_uint_eq(tdi_groups_bytes(&set), 4 * sizeof(struct tdi_group));
	begin(&finders[3], &set, 4);
	begin(&finders[4], &set, 5);
	ck_assert_ptr_nonnull(finders[3].found);
	ck_assert_ptr_nonnull(finders[4].found);
	ck_assert_ptr_null(tdi_group_find(&set));
	/* The first ones' are where they were. */
	ck_assert_uint_eq(finders[0].found->until_close, 1);
	ck_assert_uint_eq(finders[1].found->until_close, 2);
	for (int i = 0; i < 5; i++)
		end(&finders[i]);
	ck_assert_uint_eq(owned(), 0);
	tdi_groups_destroy(&set);
}
END_TEST

START_TEST(a_thread_may_outlive_a_set_that_it_used)
{
	struct finder finder;

	ck_assert_int_eq(tdi_groups_init(&set, 2), 0);
	begin(&finder, &set, 0);
	tdi_groups_destroy(&set);
	memset(&set, 0x5a, sizeof(set));
	end(&finder);
}
END_TEST

/* ---- threads whose end is not told ---- */

static void check_kept_for_good(void)
{
	struct finder finder;

	begin(&finder, &set, 0);
	ck_assert_ptr_nonnull(finder.found);
	end(&finder);
	/* Nobody else can be in it: nobody knows that it has gone. */
	ck_assert_uint_eq(owned(), 1);
	ck_assert_ptr_null(tdi_group_find(&set));
	ck_assert_int_eq(tdi_groups_grow(&set), 0);
	ck_assert_ptr_nonnull(tdi_group_find(&set));
	tdi_groups_destroy(&set);
}

START_TEST(without_a_key_groups_are_not_left_to_others)
{
	tdt_fail(TDI_SYS_thread_key, -EAGAIN, 0, UINT32_MAX);
	ck_assert_int_eq(tdi_groups_init(&set, 1), 0);
	check_kept_for_good();
}
END_TEST

START_TEST(a_thread_that_cannot_be_watched_keeps_its_group)
{
	ck_assert_int_eq(tdi_groups_init(&set, 1), 0);
	tdt_fail(TDI_SYS_thread_set, -ENOMEM, 0, 1);
	check_kept_for_good();
}
END_TEST

static pthread_key_t late_key;
static struct tdi_group *found_late;
static unsigned late_uses, owned_late;

/* After the library has been told of the end. */
static void use_late(void *value)
{
	found_late = tdi_group_find(&set);
	/* Its own once more, not what it remembers. */
	owned_late += found_late && atomic_load(&found_late->owner) == tdi_thread_token();
	if (late_uses++ == 0)
		pthread_setspecific(late_key, value);
}

static void *end_late(void *arg)
{
	pthread_setspecific(late_key, arg);
	return tdi_group_find(&set);
}

START_TEST(a_destructor_that_still_adds_leaves_its_group_too)
{
	pthread_t thread;
	void *found;

	ck_assert_int_eq(tdi_groups_init(&set, 1), 0);
	ck_assert_int_eq(pthread_key_create(&late_key, use_late), 0);
	pthread_create(&thread, NULL, end_late, &set);
	pthread_join(thread, &found);
	ck_assert_uint_eq(late_uses, 2);
	ck_assert_uint_eq(owned_late, 2);
	ck_assert_ptr_nonnull(found);
	ck_assert_ptr_eq(found_late, found);
	ck_assert_uint_eq(owned(), 0);
	tdi_groups_destroy(&set);
}
END_TEST

/* ---- fork ---- */

START_TEST(a_child_begins_without_its_parents_groups)
{
	struct tdi_group *group;
	td_engine *engine;
	int status;
	pid_t pid;

	/* It is the engines that watch for forks. */
	ck_assert_int_eq(td_engine_create(TD_ENGINE_OPTS(.reapers = 1), &engine), 0);
	ck_assert_int_eq(tdi_groups_init(&set, 2), 0);
	group = tdi_group_find(&set);
	pid = fork();
	ck_assert_int_ge(pid, 0);
	if (pid == 0) {
		static struct tdi_groups own;
		bool right = !tdi_group_cached(set.id) && tdi_groups_init(&own, 1) == 0 &&
			     tdi_group_find(&own) && tdi_group_cached(own.id) &&
			     own.id != set.id;

		tdi_groups_destroy(&own);
		_exit(right ? 0 : 1);
	}
	ck_assert_ptr_eq(tdi_group_cached(set.id), group);
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert_int_eq(status, 0);
	tdi_groups_destroy(&set);
	ck_assert_int_eq(td_engine_destroy(engine, TD_EXIT_DRAIN, 0), 0);
}
END_TEST

/* ---- many at once ---- */

enum { THREADS = 6, LIVES = TDT_SANITIZED ? 400 : 3000 };

static atomic_uint wrong, running, found_one;

/* Nobody else is in the group: its plain fields are ours (as ThreadSanitizer sees, too).
 */
static void *live_short(void *arg)
{
	struct tdi_group *group = tdi_group_find(&set);

	(void)arg;
	if (!group)
		return NULL;
	atomic_fetch_add(&found_one, 1);
	if (group->until_close != 0)
		atomic_fetch_add(&wrong, 1);
	group->until_close = 1;
	group->since_close++;
	sched_yield();
	if (group->until_close != 1 || tdi_group_find(&set) != group)
		atomic_fetch_add(&wrong, 1);
	group->until_close = 0;
	return NULL;
}

static void *live_often(void *arg)
{
	for (unsigned i = 0; i < LIVES; i++) {
		pthread_t thread;

		if (pthread_create(&thread, NULL, live_short, arg) != 0)
			atomic_fetch_add(&wrong, 1);
		else
			pthread_join(thread, NULL);
	}
	atomic_fetch_sub(&running, 1);
	return NULL;
}

/* Sets come and go, others grow, while threads end. */
START_TEST(a_group_has_one_thread_at_a_time)
{
	pthread_t threads[THREADS];
	uint64_t sum = 0;

	ck_assert_int_eq(tdi_groups_init(&set, 2), 0);
	atomic_store(&running, THREADS);
	for (unsigned i = 0; i < THREADS; i++)
		pthread_create(&threads[i], NULL, live_often, NULL);
	while (atomic_load(&running) > 0) {
		struct tdi_groups other;

		ck_assert_int_eq(tdi_groups_init(&other, 3), 0);
		ck_assert_ptr_nonnull(tdi_group_find(&other));
		tdi_groups_destroy(&other);
		if (atomic_load(&set.short_of) && atomic_load(&set.n) < 4)
			ck_assert_int_eq(tdi_groups_grow(&set), 0);
		sched_yield();
	}
	for (unsigned i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	ck_assert_uint_eq(atomic_load(&wrong), 0);
	ck_assert_uint_eq(owned(), 0);
	tdi_groups_for_each(&set, block, group) sum += group->since_close;
	ck_assert_uint_eq(sum, atomic_load(&found_one));
	ck_assert_uint_gt(sum, 0);
	tdi_groups_destroy(&set);
}
END_TEST

int main(void)
{
	struct tdt *tests = tdt_suite("group");
	const TTest *all[] = {
		a_thread_finds_its_group_again,
		a_thread_finds_its_group_after_using_many_other_sets,
		a_set_where_another_one_was_is_not_mistaken_for_it,
		a_group_begins_asleep_and_fences_where_the_kernel_does_not,
		a_group_does_not_fence_where_the_kernel_does,
		groups_that_there_is_no_memory_for_are_none,
		threads_have_groups_of_their_own,
		a_thread_that_ends_leaves_its_group_as_it_is_to_the_next,
		a_thread_without_a_group_says_so_and_more_are_made,
		a_thread_may_outlive_a_set_that_it_used,
		without_a_key_groups_are_not_left_to_others,
		a_thread_that_cannot_be_watched_keeps_its_group,
		a_destructor_that_still_adds_leaves_its_group_too,
		a_child_begins_without_its_parents_groups,
		a_group_has_one_thread_at_a_time,
	};

	for (size_t i = 0; i < sizeof(all) / sizeof(*all); i++)
		tdt_add(tests, all[i], NULL, NULL);
	return tdt_run(tests);
}
