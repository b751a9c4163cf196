/* SPDX-License-Identifier: MIT */
#include "nodes.h"

#include <numa.h>

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
