/* SPDX-License-Identifier: MIT */
#include "nodes.h"
#include "base.h"
#include "sys.h"

#include <numa.h>
#include <string.h>

#define SAMPLE_PAGES 16u

unsigned tdi_numa_nodes(void)
{
	int nodes = numa_available() < 0 ? 1 : numa_num_configured_nodes();

	return nodes < 1 ? 1 : (unsigned)nodes;
}

bool tdi_numa_is_on(void)
{
	return numa_available() >= 0;
}

bool tdi_numa_has_node(unsigned node)
{
	if (numa_available() < 0)
		return node == 0;
	return node <= (unsigned)numa_max_node() &&
	       numa_bitmask_isbitset(numa_all_nodes_ptr, node);
}

unsigned tdi_numa_end(void)
{
	return numa_available() < 0 ? 1 : (unsigned)numa_max_node() + 1;
}

bool tdi_numa_cpus(unsigned node, void *cpus, size_t size)
{
	struct bitmask *mask;
	bool any = false;

	if (numa_available() < 0 || node >= tdi_numa_end())
		return false;
	mask = numa_allocate_cpumask();
	if (!mask)
		return false;
	memset(cpus, 0, size);
	if (!numa_node_to_cpus((int)node, mask)) {
		memcpy(cpus, mask->maskp, tdi_min_size(size, numa_bitmask_nbytes(mask)));
		any = numa_bitmask_weight(mask) > 0;
	}
	numa_bitmask_free(mask);
	return any;
}

unsigned tdi_numa_distance(unsigned from, unsigned to)
{
	int distance = numa_available() < 0 ? 0 : numa_distance((int)from, (int)to);

	/* 0: it is not known, so as far as can be. */
	return distance > 0 ? (unsigned)distance : UINT8_MAX;
}

unsigned tdi_numa_here(void)
{
	unsigned cpu, node = 0;

	return tdi_sys_getcpu(&cpu, &node) ? 0 : node;
}

int tdi_numa_of_range(uintptr_t start, size_t length)
{
	size_t page = tdi_page_size(), pages = length / page, step;
	void *sample[SAMPLE_PAGES];
	int at[SAMPLE_PAGES];
	unsigned nr = (unsigned)tdi_min_size(pages, SAMPLE_PAGES), resident = 0;

	if (nr == 0)
		return TDI_NODE_UNKNOWN;
	/* From the middle of each part: the ends are often other than the rest. */
	step = pages / nr;
	for (unsigned i = 0; i < nr; i++)
		sample[i] = (void *)(start + (i * step + step / 2) * page);
	if (tdi_sys_page_nodes(nr, sample, at))
		return TDI_NODE_UNKNOWN;
	for (unsigned i = 0; i < nr; i++) {
		if (at[i] >= 0)
			at[resident++] = at[i];
	}
	for (unsigned i = 0; i < resident; i++) {
		unsigned same = 0;

		for (unsigned j = 0; j < resident; j++)
			same += at[j] == at[i];
		if (same * 4 >= resident * 3)
			return at[i];
	}
	return TDI_NODE_UNKNOWN;
}
