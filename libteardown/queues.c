/* SPDX-License-Identifier: MIT */
#include "queues.h"

#include <stdlib.h>

#define CPUS_SIZE 1024u /* bytes, as of a cpu_set_t: for 8192 CPUs */

static bool has_cpus(unsigned node)
{
	unsigned long cpus[CPUS_SIZE / sizeof(unsigned long)];

	return tdi_numa_cpus(node, cpus, sizeof(cpus));
}

static void join_ring(struct tdi_queues *queues, bool steal)
{
	for (unsigned i = 0; i < queues->nr; i++) {
		queues->first[i].next = &queues->first[(i + 1) % queues->nr];
		queues->first[i].steals = steal && queues->nr > 1;
	}
}

/* The index of the queue whose node is nearest. */
static unsigned short nearest(const struct tdi_queues *queues, unsigned node)
{
	unsigned short best = 0;

	for (unsigned i = 1; i < queues->nr; i++) {
		if (tdi_numa_distance(node, queues->first[i].node) <
		    tdi_numa_distance(node, queues->first[best].node))
			best = (unsigned short)i;
	}
	return best;
}

static int allocate(struct tdi_queues *queues, unsigned nr)
{
	queues->first =
		aligned_alloc(_Alignof(struct tdi_queue), nr * sizeof(struct tdi_queue));
	queues->of_node = calloc(queues->nodes, sizeof(queues->of_node[0]));
	if (queues->first && queues->of_node)
		return 0;
	free(queues->first);
	free(queues->of_node);
	return -ENOMEM;
}

int tdi_queues_make(struct tdi_queues *queues, unsigned reapers, bool steal)
{
	unsigned most;

	queues->nodes = tdi_numa_end();
	most = queues->nodes < reapers ? queues->nodes : reapers;
	if (most == 0)
		most = 1;
	if (allocate(queues, most))
		return -ENOMEM;
	queues->nr = 0;
	for (unsigned node = 0; most > 1 && node < queues->nodes && queues->nr < most;
	     node++) {
		if (!tdi_numa_has_node(node) || !has_cpus(node))
			continue;
		tdi_queue_init(&queues->first[queues->nr]);
		queues->first[queues->nr++].node = node;
	}
	if (queues->nr == 0) {
		tdi_queue_init(queues->first);
		queues->nr = 1;
	}
	for (unsigned node = 0; node < queues->nodes; node++)
		queues->of_node[node] = nearest(queues, node);
	for (unsigned i = 0; i < reapers; i++)
		tdi_queues_of_reaper(queues, i)->reapers++;
	join_ring(queues, steal);
	return 0;
}

void tdi_queues_reset(struct tdi_queues *queues)
{
	for (unsigned i = 0; i < queues->nr; i++) {
		struct tdi_queue *queue = &queues->first[i];
		unsigned node = queue->node, reapers = queue->reapers;
		bool steals = queue->steals;

		tdi_queue_init(queue);
		queue->node = node;
		queue->reapers = reapers;
		queue->steals = steals;
		queue->next = &queues->first[(i + 1) % queues->nr];
	}
}

void tdi_queues_free(struct tdi_queues *queues)
{
	for (unsigned i = 0; i < queues->nr; i++)
		tdi_queue_destroy(&queues->first[i]);
	free(queues->first);
	free(queues->of_node);
}

void tdi_queues_limit(struct tdi_queues *queues, struct tdi_rate *limit)
{
	for (unsigned i = 0; i < queues->nr; i++)
		queues->first[i].limit = limit;
}

void tdi_queues_hurry(struct tdi_queues *queues, bool urgent)
{
	for (unsigned i = 0; i < queues->nr; i++)
		tdi_queue_hurry(&queues->first[i], urgent);
}

void tdi_queues_unpark(struct tdi_queues *queues)
{
	for (unsigned i = 0; i < queues->nr; i++)
		tdi_queue_unpark(&queues->first[i]);
}

void tdi_queues_stop(struct tdi_queues *queues)
{
	for (unsigned i = 0; i < queues->nr; i++)
		tdi_queue_stop(&queues->first[i]);
}

struct td_work *tdi_queues_leftover(struct tdi_queues *queues)
{
	struct td_work *work = NULL;

	for (unsigned i = 0; i < queues->nr && !work; i++)
		work = tdi_queue_leftover(&queues->first[i]);
	return work;
}
