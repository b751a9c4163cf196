/* SPDX-License-Identifier: MIT */
#include "placement.h"
#include "sys.h"

#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Of a threaded cgroup, and of one of a v1 hierarchy: who writes 0 is moved there. */
static const char *const thread_files[] = {"cgroup.threads", "tasks"};
#define THREAD_FILE_MAX sizeof("/cgroup.threads")

#define WORDS (sizeof(((struct tdi_cpus *)0)->words) / sizeof(unsigned long))

/* ---- what is asked for ---- */

static int policy_of(enum td_sched sched)
{
	switch (sched) {
	case TD_SCHED_IDLE:
		return SCHED_IDLE;
	case TD_SCHED_OTHER:
		return SCHED_OTHER;
	default:
		return SCHED_BATCH;
	}
}

static bool is_empty(const struct tdi_cpus *cpus)
{
	for (size_t i = 0; i < WORDS; i++) {
		if (cpus->words[i])
			return false;
	}
	return true;
}

int tdi_placement_init(struct tdi_placement *placement, const struct td_engine_opts *opts)
{
	size_t length = opts->cgroup ? strnlen(opts->cgroup, PATH_MAX) : 0;

	*placement = (struct tdi_placement){.policy = policy_of(opts->sched),
					    .nice = opts->nice};
	if (opts->cgroup && (length == 0 || length + THREAD_FILE_MAX > PATH_MAX))
		return -EINVAL;
	if (opts->cpus) {
		placement->has_cpus = true;
		memcpy(&placement->cpus, opts->cpus,
		       tdi_min_size(opts->cpus_size, sizeof(placement->cpus)));
		if (is_empty(&placement->cpus))
			return -EINVAL;
	}
	if (opts->cgroup) {
		placement->cgroup = malloc(length + 1);
		if (!placement->cgroup)
			return -ENOMEM;
		memcpy(placement->cgroup, opts->cgroup, length + 1);
	}
	return 0;
}

void tdi_placement_reset(struct tdi_placement *placement)
{
	atomic_store_explicit(&placement->unplaced, 0, memory_order_relaxed);
	for (unsigned i = 0; i < TDI_UNPLACED_KINDS; i++)
		atomic_store_explicit(&placement->unplaced_by[i], 0,
				      memory_order_relaxed);
}

void tdi_placement_destroy(struct tdi_placement *placement)
{
	free(placement->cgroup);
}

/* ---- in the thread ---- */

static int enter_cgroup(const char *directory)
{
	char path[PATH_MAX];
	int fd = -ENOENT;
	ssize_t wrote;

	for (size_t i = 0; i < 2 && fd == -ENOENT; i++) {
		snprintf(path, sizeof(path), "%s/%s", directory, thread_files[i]);
		fd = tdi_sys_open(path, O_WRONLY | O_CLOEXEC);
	}
	if (fd < 0)
		return fd;
	do {
		wrote = tdi_sys_write(fd, "0", 1);
	} while (wrote == -EINTR);
	(void)tdi_sys_close(fd);
	return wrote < 0 ? (int)wrote : 0;
}

/* Those of them that are near. False: there are none. */
static bool intersect(struct tdi_cpus *cpus, const struct tdi_cpus *near)
{
	struct tdi_cpus both;

	for (size_t i = 0; i < WORDS; i++)
		both.words[i] = cpus->words[i] & near->words[i];
	if (is_empty(&both))
		return false;
	*cpus = both;
	return true;
}

/*
 * A set that was given may go beyond what the creator runs on; what is near may not, if
 * none was given: who confined the process did not mean its reapers to be elsewhere.
 */
static int take_cpus(const struct tdi_placement *placement, const struct tdi_cpus *near)
{
	struct tdi_cpus cpus = placement->cpus;
	int err;

	if (!placement->has_cpus) {
		if (!near)
			return 0;
		err = tdi_sys_getaffinity(cpus.words, sizeof(cpus.words));
		if (err)
			return err;
	}
	if (near && intersect(&cpus, near)) {
		err = tdi_sys_setaffinity(cpus.words, sizeof(cpus.words));
		/* A cpuset allows none of these: then of the set as it was given. */
		if (err != -EINVAL || !placement->has_cpus)
			return err;
		cpus = placement->cpus;
	}
	if (!placement->has_cpus)
		return 0;
	return tdi_sys_setaffinity(cpus.words, sizeof(cpus.words));
}

void tdi_place(struct tdi_placement *placement, const char *name,
	       const struct tdi_cpus *near, unsigned flags)
{
	int err[TDI_UNPLACED_KINDS] = {0};
	bool placed = true;

	err[TDI_UNPLACED_NAME] = tdi_sys_thread_name(name);
	/* First, since entering a cpuset takes the CPUs away that one had; and before it
	 * is idle, which would make the way there a long one. */
	if (placement->cgroup)
		err[TDI_UNPLACED_CGROUP] = enter_cgroup(placement->cgroup);
	err[TDI_UNPLACED_CPUS] = take_cpus(placement, near);
	if (!(flags & TDI_PLACE_KEEP_POLICY))
		err[TDI_UNPLACED_SCHED] = tdi_sys_thread_sched(placement->policy);
	if (placement->nice)
		err[TDI_UNPLACED_NICE] = tdi_sys_thread_nice(placement->nice);
	for (unsigned kind = 0; kind < TDI_UNPLACED_KINDS; kind++) {
		if (err[kind] == 0)
			continue;
		placed = false;
		atomic_fetch_add_explicit(&placement->unplaced_by[kind], 1,
					  memory_order_relaxed);
	}
	if (!placed)
		atomic_fetch_add_explicit(&placement->unplaced, 1, memory_order_relaxed);
}
