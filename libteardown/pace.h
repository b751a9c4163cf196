/* SPDX-License-Identifier: MIT */
/*
 * Floor 1: how many bytes to release in one step so that it takes a given time.
 *
 * The cost of a byte differs by a factor of thousands between a range that was never
 * touched, one of huge pages and one of 4 KiB pages, and it changes within a range. So
 * the size follows what the last step took. It at most doubles or halves from step to
 * step: one odd measurement (the thread lost its CPU) must not undo the rest.
 */
#ifndef TDI_PACE_H
#define TDI_PACE_H

#include "base.h"

/* What a first guess and a kind's hint are for. */
#define TDI_PACE_TARGET_NS 500000u

struct tdi_pace {
	size_t step; /* bytes for the next step */
	size_t min, max;
	uint64_t target_ns; /* that the step was learnt for; 0: for the usual one */
};

static inline void tdi_pace_init(struct tdi_pace *pace, size_t first, size_t min,
				 size_t max)
{
	*pace = (struct tdi_pace){.step = first, .min = min, .max = max};
}

static inline size_t tdi_pace_bounded(const struct tdi_pace *pace, double step)
{
	if (step >= (double)pace->max)
		return tdi_align_down(pace->max, pace->min);
	return tdi_align_down(tdi_max_size(pace->min, (size_t)step), pace->min);
}

/* Steps are to take so long from now on: what was learnt holds in proportion, at once. */
static inline void tdi_pace_aim(struct tdi_pace *pace, uint64_t target_ns)
{
	uint64_t before = pace->target_ns ? pace->target_ns : TDI_PACE_TARGET_NS;

	pace->target_ns = target_ns;
	if (target_ns != before)
		pace->step = tdi_pace_bounded(
			pace, (double)pace->step * (double)target_ns / (double)before);
}

/* A step of `bytes` took took_ns where target_ns was wanted. */
static inline void tdi_pace_learn(struct tdi_pace *pace, size_t bytes, uint64_t took_ns,
				  uint64_t target_ns)
{
	double step;

	/* A short step, at the end of a range, only tells when it was too slow all the
	 * same. */
	if (bytes < pace->step && took_ns < target_ns)
		return;
	if (took_ns <= target_ns / 2)
		step = (double)bytes * 2;
	else if (took_ns / 2 >= target_ns)
		step = (double)bytes / 2;
	else
		step = (double)bytes * (double)target_ns / (double)took_ns;
	pace->step = tdi_pace_bounded(pace, step);
	pace->target_ns = target_ns;
}

/*
 * What was learnt last, of memory of one kind, for who begins with the next: as a step
 * for the usual target, 0 for nothing yet. Only to begin lower than the first guess: a
 * guess too low costs a few system calls, and one too high holds others up.
 */
#define TDI_PACE_HINTS 4u

struct tdi_pace_hints {
	_Atomic(size_t) step[TDI_PACE_HINTS]; /* relaxed: hints */
};

static inline void tdi_pace_tell(const struct tdi_pace *pace,
				 struct tdi_pace_hints *hints, unsigned kind)
{
	double step = (double)pace->step;

	if (!hints)
		return;
	if (pace->target_ns)
		step *= (double)TDI_PACE_TARGET_NS / (double)pace->target_ns;
	atomic_store_explicit(&hints->step[kind], (size_t)step, memory_order_relaxed);
}

/* Before the first step, and before it is aimed. */
static inline void tdi_pace_take(struct tdi_pace *pace, struct tdi_pace_hints *hints,
				 unsigned kind)
{
	size_t step =
		hints ? atomic_load_explicit(&hints->step[kind], memory_order_relaxed)
		      : 0;

	if (step > 0 && step < pace->step)
		pace->step = tdi_pace_bounded(pace, (double)step);
}

#endif
