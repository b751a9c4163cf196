/* SPDX-License-Identifier: MIT */
/*
 * Queues and reapers for each NUMA node, on a machine that need not have several: what
 * the library asks about nodes is answered here (the linker's --wrap). Four reapers, one
 * for each of four nodes, are told apart by the names of their threads.
 */
#include "hold.h"
#include "home.h"
#include "many_nodes.h"

#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <teardown.h>

/* ---- a machine of four nodes, of which one may have no CPUs ---- */

#define NODES 4u

static _Atomic(unsigned) here;
static _Atomic(uintptr_t) bounds[NODES + 1]; /* of addresses: node i has [i], [i + 1] */

unsigned __wrap_tdi_numa_here(void)
{
	return atomic_load(&here);
}

static int node_of(uintptr_t addr)
{
	for (unsigned node = 0; node < NODES; node++) {
		if (addr >= atomic_load(&bounds[node]) &&
		    addr < atomic_load(&bounds[node + 1]))
			return (int)node;
	}
	return TDI_NODE_UNKNOWN;
}

/* Whoever asks about what begins there is held up. */
static _Atomic(uintptr_t) hold_at;
static sem_t asked, may_know;

int __wrap_tdi_numa_of_range(uintptr_t start, size_t length)
{
	int first = node_of(start);

	if (start == atomic_load(&hold_at)) {
		atomic_store(&hold_at, 0);
		sem_post(&asked);
		sem_wait(&may_know);
	}
	return first == node_of(start + length - 1) ? first : TDI_NODE_UNKNOWN;
}

/* ---- who releases what ---- */

static atomic_uint local, remote;
static _Atomic(bool) watching;

static int watch(enum tdi_sys_call call, uintptr_t addr, size_t length, int detail)
{
	unsigned reaper;
	char name[16];

	(void)length;
	if (!atomic_load(&watching) || call != TDI_SYS_madvise ||
	    detail != MADV_DONTNEED || node_of(addr) == TDI_NODE_UNKNOWN)
		return 0;
	if (pthread_getname_np(pthread_self(), name, sizeof(name)) == 0 &&
	    sscanf(name, "nodes/%u", &reaper) == 1 && (int)reaper == node_of(addr))
		atomic_fetch_add(&local, 1);
	else
		atomic_fetch_add(&remote, 1);
	return 0;
}

static td_engine *make_engine(unsigned reapers, unsigned flags)
{
	td_engine *made;

	ck_assert_int_eq(td_engine_create(TD_ENGINE_OPTS(.reapers = reapers,
							 .flags = flags, .name = "nodes"),
					  &made),
			 0);
	tdi_sys_set_fault(watch);
	return made;
}

static void setup_four(void)
{
	engine = make_engine(NODES, TD_ENGINE_NO_STEAL);
}

static void end(void)
{
	tdi_sys_set_fault(NULL);
	teardown();
}

/* So much memory on each node, in one piece. */
static char *map_on_nodes(size_t each)
{
	char *addr = tdt_map_anon(NODES * each);

	for (unsigned node = 0; node <= NODES; node++)
		atomic_store(&bounds[node], (uintptr_t)addr + node * each);
	tdt_touch(addr, NODES * each);
	atomic_store(&watching, true);
	return addr;
}

/* Adopts regions of that size. */
static td_space *adopt(char *addr, size_t length, size_t region)
{
	td_space *space;

	ck_assert_int_eq(td_space_create(engine, TD_SPACE_OPTS(.name = "db"), &space), 0);
	for (size_t at = 0; at < length; at += region)
		ck_assert_int_eq(td_region_adopt(space, addr + at, region, NULL), 0);
	return space;
}

static void put_and_wait(td_space *space)
{
	ck_assert_int_eq(td_space_grab(space), 0);
	ck_assert_int_eq(td_space_put(space), 0);
	ck_assert_int_eq(td_space_wait(space, TD_EVENT_RECLAIMED, TD_FOREVER), 0);
	ck_assert_int_eq(td_space_drop(space), 0);
}

/* ---- which queues there are ---- */

START_TEST(there_is_a_queue_for_each_node_with_reapers)
{
	struct tdi_queues queues;

	ck_assert_int_eq(tdi_queues_make(&queues, 9, true), 0);
	ck_assert_uint_eq(queues.nr, NODES);
	for (unsigned node = 0; node < NODES; node++) {
		ck_assert_uint_eq(tdi_queues_of_node(&queues, node)->node, node);
		ck_assert_uint_eq(queues.first[node].reapers, node == 0 ? 3 : 2);
	}
	tdi_queues_free(&queues);
	ck_assert_int_eq(tdi_queues_make(&queues, 2, true), 0);
	ck_assert_uint_eq(queues.nr, 2);
	ck_assert_uint_eq(tdi_queues_of_node(&queues, 3)->node, 1);
	tdi_queues_free(&queues);
	ck_assert_int_eq(tdi_queues_make(&queues, 0, true), 0);
	ck_assert_uint_eq(queues.nr, 1);
	tdi_queues_free(&queues);
}
END_TEST

START_TEST(a_node_without_cpus_is_served_by_the_nearest)
{
	struct tdi_queues queues;

	node_without_cpus = 3;
	ck_assert_int_eq(tdi_queues_make(&queues, NODES, true), 0);
	ck_assert_uint_eq(queues.nr, NODES - 1);
	ck_assert_uint_eq(tdi_queues_of_node(&queues, 3)->node, 2);
	ck_assert_uint_eq(tdi_queues_of_node(&queues, 1000)->node, 0);
	tdi_queues_free(&queues);
}
END_TEST

/* ---- where memory is released ---- */

START_TEST(regions_are_released_on_the_nodes_of_their_pages)
{
	char *addr = map_on_nodes(16 * MIB);
	td_space *space = adopt(addr, 64 * MIB, 8 * MIB);

	put_and_wait(space);
	ck_assert_uint_eq(tdt_mapped(addr, 64 * MIB), 0);
	ck_assert_uint_ge(atomic_load(&local), 8);
	ck_assert_uint_eq(atomic_load(&remote), 0);
	ck_assert_uint_eq(stats().bytes_pending, 0);
	ck_assert_uint_eq(stats().slices_stolen, 0);
}
END_TEST

/* Its works on other nodes are begun after the drain was. */
START_TEST(who_drains_waits_for_all_nodes)
{
	for (unsigned round = 0; round < 20; round++) {
		char *addr = map_on_nodes(8 * MIB);
		td_space *space = adopt(addr, 32 * MIB, 4 * MIB);

		ck_assert_int_eq(td_space_put(space), 0);
		ck_assert_int_eq(td_engine_drain(engine, TD_FOREVER), 0);
		ck_assert_uint_eq(tdt_mapped(addr, 32 * MIB), 0);
	}
}
END_TEST

START_TEST(what_all_nodes_did_is_counted_for_the_space)
{
	char *addr = map_on_nodes(16 * MIB);
	td_space *space = adopt(addr, 64 * MIB, 8 * MIB);
	struct td_space_stats now;

	ck_assert_int_eq(td_space_grab(space), 0);
	ck_assert_int_eq(td_space_put(space), 0);
	ck_assert_int_eq(td_engine_drain(engine, TD_FOREVER), 0);
	ck_assert_int_eq(td_space_stats(space, &now), 0);
	ck_assert_uint_eq(now.slices, stats().slices);
	ck_assert_uint_ge(now.slices, 1 + NODES);
	ck_assert_uint_eq(now.bytes_reclaimed, 64 * MIB);
	ck_assert_uint_le(now.cpu_ns, stats().cpu_ns);
	ck_assert_int_eq(td_space_drop(space), 0);
}
END_TEST

START_TEST(one_region_on_several_nodes_goes_from_node_to_node)
{
	char *addr = map_on_nodes(16 * MIB);
	td_space *space = adopt(addr, 64 * MIB, 64 * MIB);

	atomic_store(&here, 2);
	put_and_wait(space);
	ck_assert_uint_eq(tdt_mapped(addr, 64 * MIB), 0);
	ck_assert_uint_ge(atomic_load(&local), NODES);
	/* a step may begin on one node and end on the next */
	ck_assert_uint_le(atomic_load(&remote), NODES);
	ck_assert_uint_ge(stats().moves_home, NODES - 1);
}
END_TEST

START_TEST(what_td_munmap_defers_goes_to_its_node)
{
	char *addr = map_on_nodes(16 * MIB);

	ck_assert_int_eq(td_engine_set_munmap_threshold(engine, MIB), 0);
	/* It is looked for where it has been moved to: anywhere is node 3. */
	atomic_store(&bounds[0], 0);
	atomic_store(&bounds[1], 0);
	atomic_store(&bounds[2], 0);
	atomic_store(&bounds[3], 0);
	atomic_store(&bounds[4], UINTPTR_MAX);
	ck_assert_int_eq(td_engine_munmap(engine, addr, 64 * MIB, 0), 0);
	ck_assert_int_eq(td_engine_drain(engine, TD_FOREVER), 0);
	ck_assert_uint_ge(atomic_load(&local), 1);
	ck_assert_uint_eq(atomic_load(&remote), 0);
	ck_assert_uint_eq(stats().moves_home, 1);
}
END_TEST

START_TEST(where_nobody_knows_it_is_released_all_the_same)
{
	char *addr = map_on_nodes(16 * MIB);
	td_space *space = adopt(addr, 64 * MIB, 8 * MIB);

	for (unsigned node = 0; node <= NODES; node++)
		atomic_store(&bounds[node], 0);
	put_and_wait(space);
	ck_assert_uint_eq(tdt_mapped(addr, 64 * MIB), 0);
	ck_assert_uint_eq(stats().moves_home, 0);
}
END_TEST

START_TEST(a_synchronous_put_moves_nothing)
{
	char *addr = map_on_nodes(16 * MIB);
	td_space *space = adopt(addr, 64 * MIB, 8 * MIB);

	ck_assert_int_eq(td_space_put_sync(space), 0);
	ck_assert_uint_eq(tdt_mapped(addr, 64 * MIB), 0);
	ck_assert_uint_eq(stats().moves_home, 0);
	ck_assert_uint_eq(stats().works_submitted, 1);
	ck_assert_uint_eq(atomic_load(&local), 0);
}
END_TEST

/* The reapers of all nodes are held; what they then do not get to is the parent's. */
START_TEST(what_is_abandoned_is_told_once_for_all_nodes)
{
	char *addr = map_on_nodes(16 * MIB);
	td_space *space = adopt(addr, 64 * MIB, 8 * MIB);
	struct td_space_stats now;

	ck_assert_int_eq(td_space_grab(space), 0);
	ck_assert_int_eq(td_space_put(space), 0);
	ck_assert_int_eq(td_engine_destroy(engine, TD_EXIT_ABANDON, 0), 0);
	ck_assert(td_space_wait(space, TD_EVENT_RECLAIMED, 0) != -ETIMEDOUT);
	ck_assert_int_eq(td_space_stats(space, &now), 0);
	ck_assert_uint_eq(now.regions, 0);
	ck_assert_uint_ge(now.bytes_reclaimed + tdt_mapped(addr, 64 * MIB), 64 * MIB);
	ck_assert_int_eq(td_space_drop(space), 0);
	engine = make_engine(1, 0);
}
END_TEST

static void hold_sorting_at(const char *addr)
{
	sem_init(&asked, 0, 0);
	sem_init(&may_know, 0, 0);
	atomic_store(&hold_at, (uintptr_t)addr);
}

static bool are_stopped(struct tdi_queue *last)
{
	bool stopped;

	pthread_mutex_lock(&last->lock);
	stopped = last->stopped;
	pthread_mutex_unlock(&last->lock);
	return stopped;
}

static void *abandon(void *arg)
{
	(void)arg;
	ck_assert_int_eq(td_engine_destroy(engine, TD_EXIT_ABANDON, 0), 0);
	return NULL;
}

/* Its reaper finds out where things belong when nobody is let in any more. */
START_TEST(what_is_sorted_at_the_end_is_abandoned_too)
{
	char *addr = map_on_nodes(16 * MIB);
	td_space *space = adopt(addr, 64 * MIB, 8 * MIB);
	pthread_t thread;

	ck_assert_int_eq(td_space_grab(space), 0);
	hold_sorting_at(addr + 56 * MIB);
	ck_assert_int_eq(td_space_put(space), 0);
	sem_wait(&asked);
	pthread_create(&thread, NULL, abandon, NULL);
	while (!are_stopped(&engine->queues.first[NODES - 1]))
		sched_yield();
	sem_post(&may_know);
	pthread_join(thread, NULL);
	ck_assert_int_eq(td_space_wait(space, TD_EVENT_RECLAIMED, 0), -ECANCELED);
	ck_assert_uint_eq(tdt_mapped(addr, 64 * MIB), 64 * MIB);
	ck_assert_int_eq(td_space_drop(space), 0);
	engine = make_engine(1, 0);
}
END_TEST

/* All that is not shared is in nobody's hands yet, and is not freed. */
START_TEST(a_release_is_not_over_while_a_space_is_sorted)
{
	char *addr = map_on_nodes(8 * MIB), *shared = addr + 24 * MIB;
	td_space *space;

	ck_assert_ptr_eq(mmap(shared, 8 * MIB, PROT_READ | PROT_WRITE,
			      MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED, -1, 0),
			 shared);
	space = adopt(addr, 24 * MIB, 8 * MIB);
	ck_assert_int_eq(td_region_adopt(space, shared, 8 * MIB,
					 TD_REGION_OPTS(.kind = TD_KIND_SHARED)),
			 0);
	ck_assert_int_eq(td_space_grab(space), 0);
	hold_sorting_at(shared);
	ck_assert_int_eq(td_space_put(space), 0);
	sem_wait(&asked);
	ck_assert_int_eq(td_space_release(space, TD_RELEASE_KEEP_SHARED), -EAGAIN);
	ck_assert_uint_eq(tdt_mapped(addr, 24 * MIB), 24 * MIB);
	sem_post(&may_know);
	ck_assert_int_eq(td_space_wait(space, TD_EVENT_RECLAIMED, TD_FOREVER), 0);
	ck_assert_uint_eq(tdt_mapped(addr, 32 * MIB), 0);
	ck_assert_int_eq(td_space_drop(space), 0);
}
END_TEST

/* ---- stealing ---- */

static void hold_on(struct hold *hold, unsigned node)
{
	atomic_store(&here, node);
	hold_reaper(hold);
}

/* A work of no node in particular is not left to a reaper that is busy. */
/* C3: whatever queues the parts of a space wait on. */
START_TEST(a_release_helps_on_all_nodes)
{
	char *addr = map_on_nodes(16 * MIB);
	td_space *space = adopt(addr, 64 * MIB, 8 * MIB);
	struct hold holds[NODES];
	uint64_t done;

	for (unsigned node = 1; node < NODES; node++)
		hold_on(&holds[node], node);
	atomic_store(&here, 0);
	done = stats().works_done;
	ck_assert_int_eq(td_space_grab(space), 0);
	ck_assert_int_eq(td_space_put(space), 0);
	/* its own and that of the first node are done, those of the others wait */
	while (stats().works_done != done + 2)
		sched_yield();
	ck_assert_uint_eq(tdt_mapped(addr, 64 * MIB), 48 * MIB);
	ck_assert_int_eq(td_space_release(space, 0), 0);
	ck_assert_uint_eq(tdt_mapped(addr, 64 * MIB), 0);
	ck_assert_int_eq(td_space_wait(space, TD_EVENT_RECLAIMED, 0), 0);
	ck_assert_int_eq(td_space_drop(space), 0);
	for (unsigned node = 1; node < NODES; node++)
		let_go(&holds[node]);
}
END_TEST

START_TEST(an_idle_node_takes_what_belongs_nowhere)
{
	struct hold hold;
	struct job other;

	hold_on(&hold, 1);
	job_init(&other, 1);
	ck_assert_int_eq(td_engine_submit(engine, &other.work), 0);
	sem_wait(&other.done);
	ck_assert_uint_ge(stats().slices_stolen, 1);
	let_go(&hold);
}
END_TEST

static void setup_stealing(void)
{
	engine = make_engine(NODES, 0);
}

/* As little as a node's own reapers will soon have done is left to them. */
START_TEST(little_is_left_to_its_node)
{
	char *addr = map_on_nodes(4 * MIB);
	td_space *space = adopt(addr, 16 * MIB, 2 * MIB);

	put_and_wait(space);
	/* Any reaper may find out where it belongs; only those there release it. */
	ck_assert_uint_eq(atomic_load(&remote), 0);
}
END_TEST

/* On one node, and nothing to do for the others. */
/* Often, and with little to do for each: whoever gives a stolen work back when those it
 * belongs to have gone to sleep wakes them. */
START_TEST(much_is_shared_with_idle_nodes_or_not_as_is_wanted)
{
	for (unsigned round = 0; round < (TDT_SANITIZED ? 120 : 400); round++) {
		char *addr = tdt_map_anon(512 * MIB);

		for (unsigned node = 0; node <= NODES; node++)
			atomic_store(&bounds[node],
				     (uintptr_t)addr + (node > 0 ? 512 * MIB : 0));
		for (size_t at = 0; at < 512 * MIB; at += 2 * MIB)
			addr[at] = 1;
		put_and_wait(adopt(addr, 512 * MIB, 512 * MIB));
	}
	if (engine->flags & TD_ENGINE_NO_STEAL)
		ck_assert_uint_eq(stats().slices_stolen, 0);
	else
		ck_assert_uint_ge(stats().slices_stolen, 1);
}
END_TEST

int main(void)
{
	struct tdt *tests = tdt_suite("queues");

	tdt_add(tests, there_is_a_queue_for_each_node_with_reapers, NULL, NULL);
	tdt_add(tests, a_node_without_cpus_is_served_by_the_nearest, NULL, NULL);
	tdt_add(tests, regions_are_released_on_the_nodes_of_their_pages, setup_four, end);
	tdt_add(tests, who_drains_waits_for_all_nodes, setup_four, end);
	tdt_add(tests, what_all_nodes_did_is_counted_for_the_space, setup_four, end);
	tdt_add(tests, one_region_on_several_nodes_goes_from_node_to_node, setup_four,
		end);
	tdt_add(tests, what_td_munmap_defers_goes_to_its_node, setup_four, end);
	tdt_add(tests, where_nobody_knows_it_is_released_all_the_same, setup_four, end);
	tdt_add(tests, a_synchronous_put_moves_nothing, setup_four, end);
	tdt_add(tests, a_release_helps_on_all_nodes, setup_four, end);
	tdt_add(tests, what_is_abandoned_is_told_once_for_all_nodes, setup_four, end);
	tdt_add(tests, what_is_sorted_at_the_end_is_abandoned_too, setup_four, end);
	tdt_add(tests, a_release_is_not_over_while_a_space_is_sorted, setup_four, end);
	tdt_add(tests, much_is_shared_with_idle_nodes_or_not_as_is_wanted, setup_four,
		end);
	tdt_add(tests, an_idle_node_takes_what_belongs_nowhere, setup_stealing, end);
	tdt_add(tests, little_is_left_to_its_node, setup_stealing, end);
	tdt_add(tests, much_is_shared_with_idle_nodes_or_not_as_is_wanted, setup_stealing,
		end);
	return tdt_run(tests);
}
