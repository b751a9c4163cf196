/* SPDX-License-Identifier: MIT */
/*
 * A memory cgroup for children of this program: made, joined, and removed however the
 * program ends. One at a time. Single-threaded.
 */
#ifndef BENCH_CGROUP_H
#define BENCH_CGROUP_H

#include <stdint.h>
#include <sys/types.h>

/* From here on a signal that ends this program (until _unguard), or its exit, kills the
 * child first, waits for all there are, and removes the cgroup. */
void bench_cgroup_guard(void);
void bench_cgroup_unguard(void);

/* limit: in bytes, 0 = none. -errno: there can be none. */
int bench_cgroup_make(uint64_t limit);
void bench_cgroup_remove(void);

const char *bench_cgroup_version(void); /* "v1", "v2"; NULL = there is none */
/* The bytes in use, as text: a descriptor, to be read from its start. */
int bench_cgroup_usage(void);

/* Forks. The child is in the cgroup, if there is one, and is killed with this program. */
pid_t bench_cgroup_fork(void);
void bench_cgroup_reaped(void); /* the child has been waited for */

#endif
