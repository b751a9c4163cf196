/* SPDX-License-Identifier: MIT */
/*
 * Floor 3: an engine's queues, one for each NUMA node that has CPUs of its own, as far as
 * there are reapers for them. A node without a queue uses the nearest one. On one node,
 * or without NUMA, there is one queue and nothing to choose.
 */
#ifndef TDI_QUEUES_H
#define TDI_QUEUES_H

#include "nodes.h"
#include "queue.h"

struct tdi_queues {
	struct tdi_queue *first; /* an array of so many, which are also a ring */
	unsigned nr;
	unsigned short *of_node; /* index by the node's number */
	unsigned nodes;
};

/* Allocates. For so many reapers, 0 is as 1. 0, -ENOMEM. */
int tdi_queues_make(struct tdi_queues *queues, unsigned reapers, bool steal);
void tdi_queues_free(struct tdi_queues *queues);

/* As they were when made: in a child, where threads that are no more had them. */
void tdi_queues_reset(struct tdi_queues *queues);

static inline struct tdi_queue *tdi_queues_of_reaper(const struct tdi_queues *queues,
						     unsigned reaper)
{
	return &queues->first[reaper % queues->nr];
}

static inline struct tdi_queue *tdi_queues_of_node(const struct tdi_queues *queues,
						   unsigned node)
{
	return &queues->first[node < queues->nodes ? queues->of_node[node] : 0];
}

/* Of the node where the caller runs. */
static inline struct tdi_queue *tdi_queues_here(const struct tdi_queues *queues)
{
	if (tdi_likely(queues->nr == 1))
		return queues->first;
	return tdi_queues_of_node(queues, tdi_numa_here());
}

/* Before there are reapers. */
void tdi_queues_limit(struct tdi_queues *queues, struct tdi_rate *limit);

void tdi_queues_hurry(struct tdi_queues *queues, bool urgent);
void tdi_queues_unpark(struct tdi_queues *queues);
void tdi_queues_stop(struct tdi_queues *queues);
struct td_work *tdi_queues_leftover(struct tdi_queues *queues);

#endif
