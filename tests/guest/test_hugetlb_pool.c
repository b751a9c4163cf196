/* SPDX-License-Identifier: MIT */
/*
 * D5: huge pages are back in the pool, and in that of the node they came from, as soon as
 * the event "reclaimed" says so: in the guest, where nobody else takes any, nothing here
 * waits for them.
 */
#include "../memory.h"
#include "guest.h"

#include <linux/mempolicy.h>
#include <sys/syscall.h>

#define PAGES 12
#define LENGTH (3 * HUGE_PAGE)

static struct guest_node nodes[GUEST_NODES_MAX];
static unsigned nr_nodes;
static bool have_pools;

static const char *pool_file(unsigned node, const char *file)
{
	static char path[128];

	snprintf(path, sizeof(path),
		 "/sys/devices/system/node/node%d/hugepages/hugepages-2048kB/%s",
		 nodes[node].number, file);
	return path;
}

static long pages_free(unsigned node)
{
	return read_long(pool_file(node, "free_hugepages"));
}

/* More pages for a node, or fewer; false: it has not as many. For main(). */
static bool grow(unsigned node, long pages)
{
	long before = read_long(pool_file(node, "nr_hugepages"));
	char text[32];

	snprintf(text, sizeof(text), "%ld", before + pages);
	return before >= 0 && guest_write(pool_file(node, "nr_hugepages"), text) == 0 &&
	       read_long(pool_file(node, "nr_hugepages")) == before + pages;
}

static bool grow_all(long pages)
{
	unsigned done = 0;

	while (done < nr_nodes && grow(done, pages))
		done++;
	if (done == nr_nodes)
		return nr_nodes > 0;
	for (unsigned i = 0; pages > 0 && i <= done; i++)
		(void)grow(i, i < done ? -pages : 0);
	return false;
}

static bool skip_without_pools(void)
{
	if (!have_pools)
		guest_lacks("no huge pages of 2 MiB to be had on all of %u nodes",
			    nr_nodes);
	return !have_pools;
}

/* How many each node has free, and later: as then, but for some pages of one node. */
static long at_first[GUEST_NODES_MAX];

static void note_pools(void)
{
	for (unsigned i = 0; i < nr_nodes; i++)
		at_first[i] = pages_free(i);
}

static void check_pools(unsigned node, long used)
{
	for (unsigned i = 0; !guest_is_here() && used == 0 && i < nr_nodes; i++) {
		uint64_t deadline = tdi_sys_deadline(INT64_C(20000000000));

		while (pages_free(i) < at_first[i])
			ck_assert_msg(tdi_sys_now_ns() < deadline,
				      "node %d: %ld pages free, %ld at first",
				      nodes[i].number, pages_free(i), at_first[i]);
	}
	for (unsigned i = 0; guest_is_here() && i < nr_nodes; i++)
		ck_assert_msg(
			pages_free(i) == at_first[i] - (i == node ? used : 0),
			"node %d: %ld pages free, %ld at first; %ld used of node %d",
			nodes[i].number, pages_free(i), at_first[i], used,
			nodes[node].number);
}

static void allocate_from(unsigned node)
{
	unsigned long mask = 1ul << nodes[node].number;

	ck_assert_int_eq(syscall(SYS_set_mempolicy, MPOL_BIND, &mask, sizeof(mask) * 8),
			 0);
}

START_TEST(pages_go_back_to_the_node_that_they_came_from)
{
	if (skip_without_pools())
		return;
	note_pools();
	for (unsigned i = 0; i < nr_nodes * WAYS; i++) {
		unsigned node = i / WAYS;
		td_space *space = make_space(0);
		void *addr;

		ck_assert_int_eq(
			td_region_map(
				space, LENGTH,
				TD_REGION_OPTS(.kind = TD_KIND_HUGETLB,
					       .flags = TD_REGION_NODE,
					       .node = (unsigned)nodes[node].number),
				&addr),
			0);
		fill(addr, 'x', LENGTH);
		check_pools(node, LENGTH / HUGE_PAGE);
		give_back(space, addr, LENGTH, (enum way)(i % WAYS));
		check_pools(node, 0);
	}
}
END_TEST

START_TEST(a_space_on_all_nodes_leaves_nothing_on_any)
{
	td_space *space;

	if (skip_without_pools())
		return;
	note_pools();
	space = make_space(0);
	for (unsigned i = 0; i < nr_nodes; i++) {
		void *addr =
			map_file(-1, LENGTH, MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB);

		allocate_from(i);
		fill(addr, 'x', LENGTH);
		ck_assert_int_eq(td_region_adopt(space, addr, LENGTH,
						 TD_REGION_OPTS(.kind = TD_KIND_HUGETLB)),
				 0);
		if (guest_is_here())
			ck_assert_int_eq(pages_free(i),
					 at_first[i] - (long)(LENGTH / HUGE_PAGE));
	}
	ck_assert_int_eq(td_space_grab(space), 0);
	ck_assert_int_eq(td_space_put(space), 0);
	ck_assert_int_eq(td_space_wait(space, TD_EVENT_RECLAIMED, TD_FOREVER), 0);
	check_pools(0, 0);
	ck_assert_int_eq(td_space_drop(space), 0);
}
END_TEST

START_TEST(pages_of_a_memfd_that_nobody_else_uses_go_back_while_it_is_open)
{
	if (skip_without_pools())
		return;
	note_pools();
	for (unsigned i = 0; i < nr_nodes * WAYS; i++) {
		unsigned node = i / WAYS;
		int fd = memfd_create("td-test", MFD_HUGETLB | MFD_CLOEXEC);
		td_space *space = make_space(0);
		void *addr;

		ck_assert_int_ge(fd, 0);
		ck_assert_int_eq(ftruncate(fd, LENGTH), 0);
		allocate_from(node);
		ck_assert_int_eq(
			td_region_map(space, LENGTH,
				      TD_REGION_OPTS(.kind = TD_KIND_SHARED, .fd = fd,
						     .flags = TD_REGION_FD |
							      TD_REGION_EXCLUSIVE),
				      &addr),
			0);
		fill(addr, 'x', LENGTH);
		check_pools(node, LENGTH / HUGE_PAGE);
		give_back(space, addr, LENGTH, (enum way)(i % WAYS));
		check_pools(node, 0);
		close(fd);
	}
}
END_TEST

START_TEST(what_td_munmap_has_taken_is_back_when_the_engine_is_drained)
{
	if (skip_without_pools())
		return;
	note_pools();
	ck_assert_int_eq(td_engine_set_munmap_threshold(engine, HUGE_PAGE), 0);
	for (unsigned i = 0; i < nr_nodes; i++) {
		void *addr =
			map_file(-1, LENGTH, MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB);

		allocate_from(i);
		fill(addr, 'x', LENGTH);
		check_pools(i, LENGTH / HUGE_PAGE);
		ck_assert_int_eq(td_engine_munmap(engine, addr, LENGTH, 0), 0);
		ck_assert_int_eq(td_engine_drain(engine, TD_FOREVER), 0);
		check_pools(i, 0);
	}
}
END_TEST

int main(void)
{
	struct tdt *tests = tdt_suite("guest_hugetlb_pool");
	const TTest *all[] = {
		pages_go_back_to_the_node_that_they_came_from,
		a_space_on_all_nodes_leaves_nothing_on_any,
		pages_of_a_memfd_that_nobody_else_uses_go_back_while_it_is_open,
		what_td_munmap_has_taken_is_back_when_the_engine_is_drained,
	};
	int result;

	nr_nodes = guest_nodes(nodes);
	/* Adds nothing, but locks the pools. */
	have_pools = pool_add(0) && grow_all(PAGES);
	for (size_t i = 0; i < sizeof(all) / sizeof(*all); i++)
		tdt_add(tests, all[i], setup, teardown);
	result = tdt_run(tests);
	if (have_pools)
		(void)grow_all(-PAGES);
	return result;
}
