/* SPDX-License-Identifier: MIT */
/*
 * A machine of several NUMA nodes wherever the tests run: what the library asks about
 * nodes is answered here (the linker's --wrap, see meson.build). Who includes it says
 * where memory is and where the caller runs.
 */
#ifndef MANY_NODES_H
#define MANY_NODES_H

#include "nodes.h"

#include <string.h>

static unsigned machine_nodes = 4;
static unsigned node_without_cpus = UINT32_MAX;

unsigned __wrap_tdi_numa_end(void);
unsigned __wrap_tdi_numa_nodes(void);
bool __wrap_tdi_numa_has_node(unsigned node);
bool __wrap_tdi_numa_cpus(unsigned node, void *cpus, size_t size);
unsigned __wrap_tdi_numa_distance(unsigned from, unsigned to);

/* These two are the test's. */
unsigned __wrap_tdi_numa_here(void);
int __wrap_tdi_numa_of_range(uintptr_t start, size_t length);

unsigned __wrap_tdi_numa_end(void)
{
	return machine_nodes;
}

unsigned __wrap_tdi_numa_nodes(void)
{
	return machine_nodes;
}

bool __wrap_tdi_numa_has_node(unsigned node)
{
	return node < machine_nodes;
}

bool __wrap_tdi_numa_cpus(unsigned node, void *cpus, size_t size)
{
	memset(cpus, 0xff, size); /* wherever we may run */
	return node != node_without_cpus;
}

unsigned __wrap_tdi_numa_distance(unsigned from, unsigned to)
{
	return 10 + (from > to ? from - to : to - from);
}

#endif
