/* SPDX-License-Identifier: MIT */
/*
 * A space whose regions lie on several NUMA nodes is released on all of them at once: its
 * work's first slices ask where the pages of each region are, and hand those of a node to
 * a work of that node's queue. What lies on no node in particular stays with the space's
 * own work, which goes where the pages of its next step are, as those do, too.
 */
#include "home.h"
#include "space_internal.h"
#include "sys.h"

#include <stdlib.h>

enum { TO_SORT, SORTING, SORTED };

struct space_node {
	struct td_space *space;
	struct td_work work;
	struct tdi_doom doom;
};

struct tdi_space_nodes {
	_Atomic(uint32_t) state;
	/* Whoever sorts. */
	bool begun;
	unsigned left;		/* regions to be looked at */
	struct space_node at[]; /* one for each queue */
};

static int node_slice(struct td_work *work, struct td_slice *slice)
{
	struct space_node *node = tdi_container_of(work, struct space_node, work);
	struct td_space *space = node->space;
	int result;

	if (tdi_home_is_elsewhere(space->engine, &node->doom, slice))
		return TD_WORK_MORE;
	result = tdi_doom_slice_of(&node->doom, slice,
				   tdi_reaping_how() & TDI_REAPING_KEEP_SHARED);
	atomic_fetch_add_explicit(&space->bytes_reclaimed, slice->released,
				  memory_order_relaxed);
	return result;
}

static void node_done(struct td_work *work, int status)
{
	struct space_node *node = tdi_container_of(work, struct space_node, work);

	tdi_space_doom_done(node->space, &node->doom, status);
}

static const struct td_work_ops node_ops = {.slice = node_slice, .done = node_done};

struct tdi_doom *tdi_space_nodes_doom(struct td_space *space, const struct td_work *work)
{
	for (unsigned i = 0; space->nodes && i < space->engine->queues.nr; i++) {
		if (work == &space->nodes->at[i].work)
			return &space->nodes->at[i].doom;
	}
	return NULL;
}

int tdi_space_nodes_make(struct td_space *space)
{
	unsigned nr = space->engine->queues.nr;
	struct tdi_space_nodes *nodes =
		calloc(1, sizeof(*nodes) + nr * sizeof(nodes->at[0]));

	if (!nodes)
		return -ENOMEM;
	atomic_init(&nodes->state, TO_SORT);
	for (unsigned i = 0; i < nr; i++) {
		nodes->at[i].space = space;
		td_work_init(&nodes->at[i].work, &node_ops, 0);
		nodes->at[i].work.parallel = UINT32_MAX;
		nodes->at[i].work.weight = space->work.weight;
		nodes->at[i].work.tdi_gives_memory = true;
		tdi_space_doom_init(space, &nodes->at[i].doom);
	}
	space->nodes = nodes;
	return 0;
}

void tdi_space_nodes_free(struct td_space *space)
{
	for (unsigned i = 0; i < space->engine->queues.nr; i++)
		tdi_doom_destroy(&space->nodes->at[i].doom);
	free(space->nodes);
}

/* ---- sorting: nobody else is at the dooms ---- */

static unsigned count_extents(struct tdi_doom *doom)
{
	const struct tdi_extent *extent = doom->live;
	unsigned extents = 0;

	while (extent) {
		extents++;
		extent = extent->next == doom->live ? NULL : extent->next;
	}
	return extents;
}

static void sort_first(struct td_space *space)
{
	struct tdi_queues *queues = &space->engine->queues;
	struct tdi_extent *extent = space->doom.live;
	struct tdi_doom *to = &space->doom;
	int node = extent->backing.ops ? TDI_NODE_UNKNOWN
				       : tdi_numa_of_range(extent->start, extent->length);

	if (node != TDI_NODE_UNKNOWN) {
		struct space_node *at =
			&space->nodes->at[tdi_queues_of_node(queues, (unsigned)node) -
					  queues->first];

		at->work.cost += extent->length;
		to = &at->doom;
	}
	tdi_doom_remove(&space->doom, extent);
	tdi_doom_add(to, extent);
}

/* True when all have been looked at. */
static bool sort_some(struct td_space *space, const struct td_slice *slice)
{
	struct tdi_space_nodes *nodes = space->nodes;

	if (!nodes->begun) {
		nodes->begun = true;
		nodes->left = count_extents(&space->doom);
		if (nodes->left == 1) /* goes where it belongs as a whole */
			nodes->left = 0;
	}
	while (nodes->left > 0) {
		sort_first(space);
		nodes->left--;
		if (tdi_sys_now_ns() >= slice->deadline_ns)
			break;
	}
	return nodes->left == 0;
}

static void start(struct td_space *space)
{
	struct tdi_queues *queues = &space->engine->queues;

	for (unsigned i = 0; i < queues->nr; i++) {
		struct space_node *node = &space->nodes->at[i];

		if (!node->doom.live)
			continue;
		tdi_space_part_begins(space);
		(void)tdi_work_claim(&node->work);
		tdi_engine_queue_part(space->engine, &node->work, &space->work,
				      &queues->first[i]);
	}
}

void tdi_space_nodes_count(struct td_space *space, uint64_t *slices, uint64_t *cpu_ns)
{
	for (unsigned i = 0; i < space->engine->queues.nr; i++) {
		struct td_work *work = &space->nodes->at[i].work;

		*slices += atomic_load_explicit(&work->tdi_slices, memory_order_relaxed);
		*cpu_ns += atomic_load_explicit(&work->tdi_cpu_ns, memory_order_relaxed);
	}
}

void tdi_space_nodes_give_up(struct td_space *space)
{
	uint32_t state = atomic_load_explicit(&space->nodes->state, memory_order_acquire);

	/* Abandoned while being sorted: back to where it will be found. */
	for (unsigned i = 0; state != SORTED && i < space->engine->queues.nr; i++) {
		struct tdi_doom *doom = &space->nodes->at[i].doom;
		struct tdi_extent *extent;

		while ((extent = tdi_doom_leftover(doom)) != NULL)
			tdi_doom_add(&space->doom, extent);
	}
}

bool tdi_space_nodes_are_sorted(const struct td_space *space)
{
	/* Acquire: pairs with the release when they are. */
	return !space->nodes ||
	       atomic_load_explicit(&space->nodes->state, memory_order_acquire) == SORTED;
}

int tdi_space_nodes_sort(struct td_space *space, struct td_slice *slice)
{
	struct tdi_space_nodes *nodes = space->nodes;
	uint32_t state = TO_SORT;

	/* Acquire: pairs with the releases below; the dooms are as sorting left them. */
	if (atomic_load_explicit(&nodes->state, memory_order_acquire) != SORTED) {
		if (!atomic_compare_exchange_strong_explicit(
			    &nodes->state, &state, SORTING, memory_order_acquire,
			    memory_order_acquire)) {
			if (state == SORTING)
				return TD_WORK_WAIT;
		} else if (slice->tdi_node != TDI_NODE_UNKNOWN &&
			   !sort_some(space, slice)) {
			atomic_store_explicit(&nodes->state, TO_SORT,
					      memory_order_release);
			return TD_WORK_MORE;
		} else {
			/* Before it is sorted: its parts are counted by then. */
			start(space);
			atomic_store_explicit(&nodes->state, SORTED,
					      memory_order_release);
		}
	}
	return tdi_home_is_elsewhere(space->engine, &space->doom, slice) ? TD_WORK_MORE
									 : 0;
}
