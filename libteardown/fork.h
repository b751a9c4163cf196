/* SPDX-License-Identifier: MIT */
/*
 * Floor 3: what a fork does to the library: see docs/design.md, "Fork".
 */
#ifndef TDI_FORK_H
#define TDI_FORK_H

#include "engine_internal.h"

/* From the first engine on forks are watched. 0, -ENOMEM. */
int tdi_fork_watch(void);

/*
 * For an engine that is made or restarted in a child: readers of liburcu-bp that the
 * parent had in other threads are forgotten, once in each process, if the caller is its
 * only thread. Other flavors know nothing of forks.
 */
void tdi_fork_forget_readers(const struct rcu_flavor_struct *flavor);

#endif
