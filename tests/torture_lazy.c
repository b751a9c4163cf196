/* SPDX-License-Identifier: MIT */
/*
 * E1-E8: threads that enter, nest, switch, leave, die and are born, while the spaces that
 * they hold are created and put at full rate. A hold promises the object, and not the
 * memory: what a space's user would look at is freed when the space is reclaimed, held or
 * not; the object is looked at for as long as it is held, and poisoned when it is freed.
 */
#include "lazies.h"
#include "membarrier.h"
#include "watched.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
	PLACES = 3,    /* spaces that can be found */
	WALKERS = 2,   /* threads that stay */
	NURSERIES = 2, /* .. and that raise others, one at a time */
	SEATS = WALKERS + NURSERIES,
	NAME_SIZE = 16,
};
#define RUN_NS UINT64_C(3000000000)
#define ALIVE 0x11febeefu

_Static_assert(SEATS <= SEATS_MAX, "for each a seat");

/* ---- spaces, where they are found ---- */

static atomic_uint made, reclaimed;

/* What is kept by users, and by nobody else. */
struct memory {
	unsigned serial, alive;
};

static struct place {
	pthread_mutex_t lock;
	td_space *space; /* with a user, ours */
	struct memory *memory;
	unsigned serial;
} places[PLACES];

static void name_of(unsigned serial, char *name)
{
	snprintf(name, NAME_SIZE, "torture %x", serial);
}

static void count_reclaimed(td_space *of, enum td_event event, int status, void *arg)
{
	struct memory *memory = arg;

	(void)of;
	(void)event;
	must_be(status, 0, "reclaimed");
	memory->alive = 0;
	free(memory);
	atomic_fetch_add(&reclaimed, 1);
}

static void fill(struct place *fresh)
{
	char name[NAME_SIZE];

	fresh->serial = atomic_fetch_add(&made, 1);
	fresh->memory = malloc(sizeof(*fresh->memory));
	*fresh->memory = (struct memory){fresh->serial, ALIVE};
	name_of(fresh->serial, name);
	must_be(td_space_create(engine, TD_SPACE_OPTS(.name = name), &fresh->space), 0,
		"td_space_create");
	must_be(td_space_on_event(fresh->space, TD_EVENT_RECLAIMED, count_reclaimed,
				  fresh->memory),
		0, "td_space_on_event");
}

/* Puts a new one, or none, in the place of the one that is there. */
static void replace(struct place *place, bool with, bool sync)
{
	struct place fresh = {.space = NULL};
	td_space *old;

	if (with)
		fill(&fresh);
	pthread_mutex_lock(&place->lock);
	old = place->space;
	place->space = fresh.space;
	place->memory = fresh.memory;
	place->serial = fresh.serial;
	pthread_mutex_unlock(&place->lock);
	must_be(sync ? td_space_put_sync(old) : td_space_put(old), 0, "put");
}

/* ---- threads that hold them ---- */

static atomic_bool over;
static _Atomic(uint64_t) entered, refused, died_holding, outlived, nested, switched;

struct walker {
	struct seat *seat;
	unsigned seed, depth;
	struct held {
		td_space *space;
		unsigned serial;
	} held[TD_LAZY_DEPTH];
	uint64_t entered, refused, outlived, nested, switched; /* added when it ends */
};

static unsigned draw(struct walker *walker, unsigned n)
{
	return (unsigned)rand_r(&walker->seed) % n;
}

static void publish(struct walker *walker, unsigned level, td_space *of)
{
	atomic_store_explicit(&walker->seat->holds[level], of, memory_order_relaxed);
}

/* What a hold promises: the object, and all that one with a count may do with it. */
static void look(struct walker *walker)
{
	const struct held *held;
	struct td_space_stats stats;
	char name[NAME_SIZE];

	if (walker->depth == 0) {
		if (td_lazy_current())
			notice("something is held lazily, and should not be");
		return;
	}
	if (td_lazy_current() != walker->held[walker->depth - 1].space)
		notice("something else is held lazily than was entered");
	held = &walker->held[draw(walker, walker->depth)];
	name_of(held->serial, name);
	if (strncmp(td_space_name(held->space), name, NAME_SIZE) != 0)
		notice("held lazily: '%s', found: '%.15s'", name,
		       td_space_name(held->space));
	if (draw(walker, 4) > 0)
		return;
	must_be(td_space_stats(held->space, &stats), 0, "td_space_stats");
	if (stats.count == 0)
		notice("'%s' is held lazily, and nothing keeps it", name);
	if (td_space_wait(held->space, TD_EVENT_RECLAIMED, 0) == 0)
		walker->outlived++; /* the hold, its memory */
	must_be(td_space_grab(held->space), 0, "td_space_grab");
	must_be(td_space_drop(held->space), 0, "td_space_drop");
}

static void leave_one(struct walker *walker)
{
	look(walker);
	publish(walker, --walker->depth, NULL);
	must_be(td_lazy_leave(), 0, "td_lazy_leave");
}

/* Enters, or switches to, a space of which the walker has something that allows it. */
static int enter_one(struct walker *walker, const struct place *found, bool switches,
		     bool sure)
{
	unsigned level = walker->depth - (switches ? 1 : 0);
	td_space *old = switches ? walker->held[level].space : NULL;
	int err;

	if (switches)
		publish(walker, level, NULL);
	err = switches ? td_lazy_switch(found->space) : td_lazy_enter(found->space);
	if (err && (sure || err != -ENXIO))
		notice("'%x' could not be held lazily: %d", found->serial, err);
	if (err) {
		walker->refused++;
		if (switches)
			publish(walker, level, old);
		return err;
	}
	publish(walker, level, found->space);
	walker->held[level] = (struct held){found->space, found->serial};
	walker->depth = level + 1;
	walker->entered++;
	walker->nested += level > 0;
	walker->switched += switches;
	return 0;
}

/* With a user: that cannot be refused. The user may be the last one when it is put. */
static void enter_by_user(struct walker *walker, struct place *place, bool switches)
{
	struct place found;

	pthread_mutex_lock(&place->lock);
	found = *place;
	must_be(td_space_get(found.space), 0, "td_space_get");
	pthread_mutex_unlock(&place->lock);
	if (found.memory->alive != ALIVE || found.memory->serial != found.serial)
		notice("'%x' has a user, and its memory is gone", found.serial);
	(void)enter_one(walker, &found, switches, true);
	must_be(td_space_put(found.space), 0, "td_space_put");
}

/* What is refused is in its word for a moment, for a pass to find: as often as it takes
 * to be there when the pass is. */
static void be_refused_often(struct walker *walker, const struct place *found)
{
	unsigned times = walker->depth < TD_LAZY_DEPTH ? 500 * draw(walker, 5) : 0;

	while (times-- > 0) {
		walker->refused++;
		must_be(td_lazy_enter(found->space), -ENXIO,
			"td_lazy_enter once refused");
	}
}

/* With a count: again and again, while the space dies and after that. */
static void enter_by_count(struct walker *walker, struct place *place, bool switches)
{
	unsigned times = 1 + draw(walker, 4) * draw(walker, 100);
	struct place found;
	int err;

	pthread_mutex_lock(&place->lock);
	found = *place;
	must_be(td_space_grab(found.space), 0, "td_space_grab");
	pthread_mutex_unlock(&place->lock);
	err = enter_one(walker, &found, switches, false);
	while (!err && times-- > 1) {
		leave_one(walker);
		err = enter_one(walker, &found, false, false);
	}
	if (err)
		be_refused_often(walker, &found);
	must_be(td_space_drop(found.space), 0, "td_space_drop");
}

static void step(struct walker *walker)
{
	struct place *place = &places[draw(walker, PLACES)];
	bool can_enter = walker->depth < TD_LAZY_DEPTH;

	switch (draw(walker, 8)) {
	case 0:
		if (can_enter)
			enter_by_user(walker, place, false);
		break;
	case 1:
		if (can_enter)
			enter_by_count(walker, place, false);
		break;
	case 2:
		if (walker->depth > 0)
			enter_by_user(walker, place, true);
		break;
	case 3:
		if (walker->depth > 0)
			enter_by_count(walker, place, true);
		break;
	case 4:
		if (draw(walker, 8) == 0)
			replace(place, true, draw(walker, 2) == 0);
		break;
	case 5:
		for (unsigned n = draw(walker, 500); n > 0; n--)
			__asm__ volatile("" ::: "memory");
		break;
	default:
		if (walker->depth > 0)
			leave_one(walker);
		break;
	}
	look(walker);
}

static void add_up(const struct walker *walker)
{
	atomic_fetch_add(&entered, walker->entered);
	atomic_fetch_add(&refused, walker->refused);
	atomic_fetch_add(&outlived, walker->outlived);
	atomic_fetch_add(&nested, walker->nested);
	atomic_fetch_add(&switched, walker->switched);
}

static void *walk_on(void *arg)
{
	unsigned index = (unsigned)(uintptr_t)arg;
	struct walker walker = {.seat = &seats[index], .seed = index + 1};

	while (!atomic_load(&over))
		step(&walker);
	while (walker.depth > 0)
		leave_one(&walker);
	add_up(&walker);
	return NULL;
}

/* Born, holds a few, and ends with what it has just then. */
static void *live_briefly(void *arg)
{
	struct walker *walker = arg;
	unsigned steps = 1 + draw(walker, 60);

	while (steps-- > 0)
		step(walker);
	atomic_fetch_add(&died_holding, walker->depth);
	while (walker->depth > 0)
		publish(walker, --walker->depth, NULL);
	return NULL;
}

static void *raise_others(void *arg)
{
	unsigned index = (unsigned)(uintptr_t)arg;
	struct walker walker = {.seat = &seats[index], .seed = index + 1};

	while (!atomic_load(&over)) {
		pthread_t thread;

		must_be(pthread_create(&thread, NULL, live_briefly, &walker), 0,
			"pthread_create");
		pthread_join(thread, NULL);
	}
	add_up(&walker);
	return NULL;
}

static void *replace_on(void *arg)
{
	struct walker self = {.seed = 99};

	(void)arg;
	while (!atomic_load(&over))
		replace(&places[draw(&self, PLACES)], true, draw(&self, 4) == 0);
	return NULL;
}

/* ---- the torture ---- */

/* How many holds ended how. */
struct ends {
	uint64_t left_before, tagged, gave_back, at_exit;
};

static struct ends ends_now(void)
{
	struct tdi_lazy_tally now = tally();
	uint64_t all = atomic_load(&entered), seen = now.tagged + now.at_exit;

	return (struct ends){
		/* At least: what was refused may have been tagged, too. */
		.left_before = all > seen ? all - seen : 0,
		.tagged = now.dropped,
		.gave_back = now.taken_back,
		.at_exit = now.at_exit,
	};
}

/* Each way to end has been seen, but for the first, which is counted in the end. */
static bool all_seen(void)
{
	struct ends ends = ends_now();

	return ends.tagged > 0 && ends.gave_back > 0 && ends.at_exit > 0;
}

static void torture(uint64_t run_ns)
{
	pthread_t threads[SEATS + 1];
	uint64_t until = tdi_sys_now_ns() + run_ns;
	unsigned n = 0;

	for (unsigned i = 0; i < PLACES; i++) {
		pthread_mutex_init(&places[i].lock, NULL);
		replace(&places[i], true, false);
	}
	for (unsigned i = 0; i < SEATS; i++)
		pthread_create(&threads[n++], NULL, i < WALKERS ? walk_on : raise_others,
			       (void *)(uintptr_t)i);
	pthread_create(&threads[n++], NULL, replace_on, NULL);
	/* The amount, not a time limit: that is the harness's. */
	while (tdi_sys_now_ns() < until || (!TDT_SANITIZED && !broken && !all_seen()))
		tdi_sys_pause(10000000);
	atomic_store(&over, true);
	while (n > 0)
		pthread_join(threads[--n], NULL);
	for (unsigned i = 0; i < PLACES; i++)
		replace(&places[i], false, false);
	must_be(td_engine_drain(engine, TD_FOREVER), 0, "td_engine_drain");
	if (spaces() != 0)
		notice("%u spaces are never freed: counts that came from lazy holds",
		       spaces());
}

static void check_and_print(const char *mode)
{
	struct tdi_lazy_tally now = tally();
	struct ends ends = ends_now();

	printf("# %s: %u spaces, %llu holds (%llu nested, %llu switched to), %llu "
	       "refused, "
	       "%llu seen to outlive their memory\n",
	       mode, atomic_load(&made), (unsigned long long)atomic_load(&entered),
	       (unsigned long long)atomic_load(&nested),
	       (unsigned long long)atomic_load(&switched),
	       (unsigned long long)atomic_load(&refused),
	       (unsigned long long)atomic_load(&outlived));
	printf("# %s: ended: %llu left before the pass, %llu tagged, %llu gave back, "
	       "%llu by thread exit; %llu passes looked at %llu slots\n",
	       mode, (unsigned long long)ends.left_before,
	       (unsigned long long)ends.tagged, (unsigned long long)ends.gave_back,
	       (unsigned long long)ends.at_exit, (unsigned long long)now.passes,
	       (unsigned long long)now.looked_at);
	ck_assert_uint_eq(atomic_load(&reclaimed), atomic_load(&made));
	ck_assert_uint_eq(atomic_load(&freed), atomic_load(&made));
	ck_assert_uint_eq(now.tagged, now.dropped + now.taken_back);
	ck_assert_uint_eq(now.refused, atomic_load(&refused));
	ck_assert_uint_eq(now.at_exit, atomic_load(&died_holding));
	if (TDT_SANITIZED) /* too few, maybe */
		return;
	ck_assert_uint_gt(ends.left_before, 0);
	ck_assert_uint_gt(ends.tagged, 0);
	ck_assert_uint_gt(ends.gave_back, 0);
	ck_assert_uint_gt(ends.at_exit, 0);
	ck_assert_uint_gt(atomic_load(&outlived), 0);
	ck_assert_uint_gt(atomic_load(&refused), 0);
}

static void begin(void)
{
	must_be(td_engine_create(TD_ENGINE_OPTS(.reapers = 2), &engine), 0,
		"td_engine_create");
}

/* E1-E5, E7, E8 */
START_TEST(holds_end_in_every_way_while_spaces_die)
{
	begin();
	ck_assert(tdi_membarrier_works());
	torture(RUN_NS);
	check_and_print("membarrier");
	ck_assert_int_eq(td_engine_destroy(engine, TD_EXIT_DRAIN, 0), 0);
}
END_TEST

/* E2 */
START_TEST(and_without_membarrier)
{
	tdt_fail(TDI_SYS_membarrier, -ENOSYS, 0, UINT32_MAX);
	begin();
	ck_assert(!tdi_membarrier_works());
	torture(RUN_NS);
	check_and_print("exchange");
	ck_assert_int_eq(td_engine_destroy(engine, TD_EXIT_DRAIN, 0), 0);
}
END_TEST

/* ---- the torture of a broken library ends it ---- */

static void torture_broken(void *step)
{
	broken = *(enum broken *)step;
	begin();
	torture(UINT64_C(20000000000));
}

static void torture_broken_exchange(void *step)
{
	tdt_fail(TDI_SYS_membarrier, -ENOSYS, 0, UINT32_MAX);
	torture_broken(step);
}

/* Mostly by what is held lazily; but a thread that takes a count of what it holds may be
 * the first, and then the library itself says that one of these spaces is dead. */
#define NOTICED "torture"

START_TEST(a_library_without_a_pass_is_noticed)
{
	enum broken step = NO_PASS;

	tdt_expect_death(torture_broken, &step, NOTICED);
	tdt_expect_death(torture_broken_exchange, &step, NOTICED);
}
END_TEST

START_TEST(a_library_that_does_not_close_is_noticed)
{
	enum broken step = NO_CLOSE;

	tdt_expect_death(torture_broken, &step, NOTICED);
	tdt_expect_death(torture_broken_exchange, &step, NOTICED);
}
END_TEST

int main(void)
{
	struct tdt *tests = tdt_suite("torture_lazy");

	tdt_add(tests, holds_end_in_every_way_while_spaces_die, NULL, NULL);
	tdt_add(tests, and_without_membarrier, NULL, NULL);
	tdt_add(tests, a_library_without_a_pass_is_noticed, NULL, NULL);
	tdt_add(tests, a_library_that_does_not_close_is_noticed, NULL, NULL);
	return tdt_run(tests);
}
