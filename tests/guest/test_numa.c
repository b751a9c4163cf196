/* SPDX-License-Identifier: MIT */
/*
 * Reapers and memory of several NUMA nodes: who releases what is seen from outside, by
 * the CPU that each system call which releases memory is made on, and by where the kernel
 * says that the pages are.
 */
#include "guest.h"

#include <linux/mempolicy.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <teardown.h>

static struct guest_node nodes[GUEST_NODES_MAX];
static unsigned nr_nodes;
static td_engine *engine;

static bool skip_on_one_node(void)
{
	if (nr_nodes < 2)
		guest_lacks("%u NUMA node with CPUs and memory", nr_nodes);
	return nr_nodes < 2;
}

/* ---- watching ---- */

static atomic_uint local, remote, unknown;

/* The index of the node that has the page, or -1: it is not resident. */
static int node_of_page(uintptr_t addr)
{
	void *page = (void *)addr;
	int at = -1;

	if (syscall(SYS_move_pages, 0, 1UL, &page, NULL, &at, 0) != 0)
		return -1;
	for (unsigned i = 0; i < nr_nodes; i++) {
		if (nodes[i].number == at)
			return (int)i;
	}
	return -1;
}

static int watch(enum tdi_sys_call call, uintptr_t addr, size_t length, int detail)
{
	int node, cpu = sched_getcpu();

	if (call != TDI_SYS_madvise || detail != MADV_DONTNEED)
		return 0;
	node = node_of_page(addr + length / 2);
	if (node < 0)
		atomic_fetch_add(&unknown, 1);
	else if (guest_node_of_cpu(nodes, nr_nodes, cpu) == node)
		atomic_fetch_add(&local, 1);
	else
		atomic_fetch_add(&remote, 1);
	return 0;
}

static void make_engine(unsigned flags)
{
	nr_nodes = guest_nodes(nodes);
	/* Slices as short as by emulation they can be, so that there are many. */
	ck_assert_int_eq(
		td_engine_create(TD_ENGINE_OPTS(.flags = flags, .slice_ns = 2000000),
				 &engine),
		0);
	tdi_sys_set_fault(watch);
}

static void setup(void)
{
	make_engine(0);
}

static void setup_no_steal(void)
{
	make_engine(TD_ENGINE_NO_STEAL);
}

static void teardown(void)
{
	tdi_sys_set_fault(NULL);
	ck_assert_int_eq(td_engine_destroy(engine, TD_EXIT_DRAIN, 0), 0);
}

static struct td_engine_stats stats(void)
{
	struct td_engine_stats now;

	ck_assert_int_eq(td_engine_stats(engine, &now), 0);
	return now;
}

/* ---- memory of a node ---- */

static void bind_to(void *addr, size_t length, unsigned node)
{
	unsigned long mask = 1UL << nodes[node].number;

	ck_assert_int_eq(
		syscall(SYS_mbind, addr, length, MPOL_BIND, &mask, sizeof(mask) * 8, 0),
		0);
}

static char *map_bound(size_t length)
{
	char *addr = mmap(NULL, length, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	ck_assert_ptr_ne(addr, MAP_FAILED);
	ck_assert_int_eq(madvise(addr, length, MADV_NOHUGEPAGE), 0);
	return addr;
}

static void check_local(unsigned percent)
{
	unsigned good = atomic_load(&local), bad = atomic_load(&remote);

	printf("# %u of %u steps on the node of their pages; %llu slices stolen, %llu "
	       "moves home\n",
	       good, good + bad, (unsigned long long)stats().slices_stolen,
	       (unsigned long long)stats().moves_home);
	ck_assert_uint_ge(good + bad, 4 * nr_nodes);
	ck_assert_msg(good * 100 >= (good + bad) * percent,
		      "%u of %u steps on the node of their pages", good, good + bad);
}

/* A space with regions on all nodes, bound by the host or touched there. */
START_TEST(regions_are_released_on_the_nodes_of_their_pages)
{
	size_t each = 32 * MIB;
	td_space *space;

	if (skip_on_one_node())
		return;
	ck_assert_int_eq(td_space_create(engine, NULL, &space), 0);
	for (unsigned i = 0; i < 2 * nr_nodes; i++) {
		char *addr = map_bound(each);

		bind_to(addr, each, i % nr_nodes);
		tdt_touch(addr, each);
		ck_assert_int_eq(td_region_adopt(space, addr, each, NULL), 0);
	}
	ck_assert_int_eq(td_space_grab(space), 0);
	ck_assert_int_eq(td_space_put(space), 0);
	ck_assert_int_eq(td_space_wait(space, TD_EVENT_RECLAIMED, TD_FOREVER), 0);
	ck_assert_int_eq(td_space_drop(space), 0);
	check_local(95);
}
END_TEST

/* The policy says one thing and the pages lie elsewhere: they were touched before. */
START_TEST(where_the_pages_are_counts_and_not_the_policy)
{
	size_t each = 32 * MIB;
	td_space *space;

	if (skip_on_one_node())
		return;
	ck_assert_int_eq(td_space_create(engine, NULL, &space), 0);
	for (unsigned i = 0; i < nr_nodes; i++) {
		char *addr = map_bound(each);

		bind_to(addr, each, i);
		tdt_touch(addr, each);
		bind_to(addr, each, (i + 1) % nr_nodes); /* moves nothing */
		ck_assert_int_eq(td_region_adopt(space, addr, each, NULL), 0);
	}
	ck_assert_int_eq(td_space_put(space), 0);
	ck_assert_int_eq(td_engine_drain(engine, TD_FOREVER), 0);
	check_local(95);
}
END_TEST

/* One range whose parts lie on all nodes, out of sight by td_munmap. */
START_TEST(a_range_on_all_nodes_goes_from_node_to_node)
{
	size_t each = 64 * MIB;
	char *addr;

	if (skip_on_one_node())
		return;
	addr = map_bound(nr_nodes * each);
	for (unsigned i = 0; i < nr_nodes; i++)
		bind_to(addr + i * each, each, i);
	tdt_touch(addr, nr_nodes * each);
	ck_assert_int_eq(td_engine_munmap(engine, addr, nr_nodes * each, 0), 0);
	ck_assert_int_eq(td_engine_drain(engine, TD_FOREVER), 0);
	ck_assert_uint_eq(tdt_mapped(addr, nr_nodes * each), 0);
	check_local(90); /* a step may end on the next node */
	ck_assert_uint_ge(stats().moves_home, nr_nodes - 1);
}
END_TEST

/* A12: per node, what was taken is back. */
START_TEST(each_node_has_its_memory_back)
{
	struct guest_node now[GUEST_NODES_MAX];
	size_t each = 96 * MIB;
	td_space *space;

	if (skip_on_one_node())
		return;
	ck_assert_int_eq(td_space_create(engine, NULL, &space), 0);
	for (unsigned i = 0; i < nr_nodes; i++) {
		char *addr = map_bound(each);

		bind_to(addr, each, i);
		tdt_touch(addr, each);
		ck_assert_int_eq(td_region_adopt(space, addr, each, NULL), 0);
	}
	(void)guest_nodes(nodes);
	ck_assert_int_eq(td_space_put(space), 0);
	ck_assert_int_eq(td_engine_drain(engine, TD_FOREVER), 0);
	ck_assert_uint_eq(guest_nodes(now), nr_nodes);
	for (unsigned i = 0; i < nr_nodes; i++)
		ck_assert_msg(now[i].free > nodes[i].free + each / 2,
			      "node %d: %zu MiB free, %zu before", nodes[i].number,
			      now[i].free / MIB, nodes[i].free / MIB);
}
END_TEST

static cpu_set_t cpus_of_reaper[GUEST_NODES_MAX];
static unsigned reapers_seen;

static int look_slice(struct td_work *work, struct td_slice *slice)
{
	(void)work;
	(void)slice;
	ck_assert_int_eq(
		sched_getaffinity(0, sizeof(cpu_set_t), &cpus_of_reaper[reapers_seen++]),
		0);
	return TD_WORK_DONE;
}

static const struct td_work_ops look_ops = {.slice = look_slice};

/* A8 */
START_TEST(reapers_run_on_the_cpus_of_their_node)
{
	if (skip_on_one_node())
		return;
	ck_assert_uint_eq(stats().reapers, nr_nodes);
	for (unsigned i = 0; i < nr_nodes; i++) {
		struct td_work work;

		ck_assert_int_eq(sched_setaffinity(0, sizeof(cpu_set_t), &nodes[i].cpus),
				 0);
		td_work_init(&work, &look_ops, 0);
		ck_assert_int_eq(td_engine_submit(engine, &work), 0);
		ck_assert_int_eq(td_engine_drain(engine, TD_FOREVER), 0);
		ck_assert_uint_eq(reapers_seen, i + 1);
		ck_assert(CPU_EQUAL(&cpus_of_reaper[i], &nodes[i].cpus));
	}
	ck_assert_uint_eq(stats().reapers_unplaced, 0);
}
END_TEST

int main(void)
{
	struct tdt *tests = tdt_suite("guest numa");

	tdt_add(tests, regions_are_released_on_the_nodes_of_their_pages, setup, teardown);
	tdt_add(tests, where_the_pages_are_counts_and_not_the_policy, setup, teardown);
	tdt_add(tests, a_range_on_all_nodes_goes_from_node_to_node, setup_no_steal,
		teardown);
	tdt_add(tests, each_node_has_its_memory_back, setup, teardown);
	tdt_add(tests, reapers_run_on_the_cpus_of_their_node, setup_no_steal, teardown);
	return tdt_run(tests);
}
