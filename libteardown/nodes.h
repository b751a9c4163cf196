/* SPDX-License-Identifier: MIT */
/* Floor 1: the only user of libnuma. Without NUMA there is one node, number 0. */
#ifndef TDI_NODES_H
#define TDI_NODES_H

#include <stdbool.h>

unsigned tdi_numa_nodes(void); /* nodes with memory, at least 1 */
bool tdi_numa_is_on(void);     /* false: nothing can be bound, nor need it be */
bool tdi_numa_has_node(unsigned node);

#endif
