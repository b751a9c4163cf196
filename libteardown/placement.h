/* SPDX-License-Identifier: MIT */
/*
 * Floor 1: where the threads of an engine run, and as what. Each places itself when it
 * starts. One that the kernel does not let go on as it is, and is counted.
 */
#ifndef TDI_PLACEMENT_H
#define TDI_PLACEMENT_H

#include "base.h"

#include <teardown/engine.h>

/* As many CPUs as Linux can have. */
#define TDI_CPUS_MAX 8192u
#define TDI_CPUS_PER_WORD (8 * sizeof(unsigned long))

struct tdi_cpus {
	unsigned long words[TDI_CPUS_MAX / TDI_CPUS_PER_WORD]; /* as in a cpu_set_t */
};

/* What a thread can fail to get; of each the engine's stats have a counter. */
enum tdi_unplaced {
	TDI_UNPLACED_NAME,
	TDI_UNPLACED_CGROUP,
	TDI_UNPLACED_CPUS,
	TDI_UNPLACED_SCHED,
	TDI_UNPLACED_NICE,
	TDI_UNPLACED_KINDS
};

struct tdi_placement {
	/* Counters, relaxed: threads, and the same by what they did not get. */
	_Atomic(uint32_t) unplaced, unplaced_by[TDI_UNPLACED_KINDS];

	/* Constant after creation. */
	char *cgroup; /* its directory; NULL = the creator's */
	int policy;   /* SCHED_BATCH, SCHED_IDLE or SCHED_OTHER */
	int nice;     /* 0 = the creator's */
	bool has_cpus;
	struct tdi_cpus cpus;
};

/*
 * Copies what the options say: they may be gone afterwards. 0; -EINVAL: what no thread
 * could ever be given; -ENOMEM.
 */
int tdi_placement_init(struct tdi_placement *placement,
		       const struct td_engine_opts *opts);
void tdi_placement_destroy(struct tdi_placement *placement);
void tdi_placement_reset(struct tdi_placement *placement); /* its counters */

enum tdi_place_flags {
	/* It keeps the scheduling policy it has: where others wait for what it does. */
	TDI_PLACE_KEEP_POLICY = 1u << 0,
};

/*
 * Names and places the calling thread, and counts it if something was refused.
 *
 *   near  the CPUs where it had best run, or NULL: of those that it may use it gets these
 *         where there are any, and else all
 */
void tdi_place(struct tdi_placement *placement, const char *name,
	       const struct tdi_cpus *near, unsigned flags);

#endif
