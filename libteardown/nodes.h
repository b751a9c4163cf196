/* SPDX-License-Identifier: MIT */
/* Floor 1: the only user of libnuma. Without NUMA there is one node, number 0. */
#ifndef TDI_NODES_H
#define TDI_NODES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TDI_NODE_UNKNOWN (-1)

unsigned tdi_numa_nodes(void); /* nodes with memory, at least 1 */
bool tdi_numa_is_on(void);     /* false: nothing can be bound, nor need it be */
bool tdi_numa_has_node(unsigned node);

unsigned tdi_numa_end(void); /* every node's number is less */

/*
 * A node's CPUs, as a cpu_set_t of so many bytes; those beyond are left out. False: it
 * has none, or is none.
 */
bool tdi_numa_cpus(unsigned node, void *cpus, size_t size);

unsigned tdi_numa_distance(unsigned from, unsigned to);

/* Where the calling thread runs now. */
unsigned tdi_numa_here(void);

/*
 * The node that holds most of a range's pages, by a sample of them that the kernel is
 * asked for; TDI_NODE_UNKNOWN: none is resident, or no node has three quarters of them.
 */
int tdi_numa_of_range(uintptr_t start, size_t length);

#endif
