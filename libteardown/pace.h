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

struct tdi_pace {
	size_t step; /* bytes for the next step */
	size_t min, max;
};

static inline void tdi_pace_init(struct tdi_pace *pace, size_t first, size_t min,
				 size_t max)
{
	*pace = (struct tdi_pace){.step = first, .min = min, .max = max};
}

/* A step of `bytes` took took_ns where target_ns was wanted. */
static inline void tdi_pace_learn(struct tdi_pace *pace, size_t bytes, uint64_t took_ns,
				  uint64_t target_ns)
{
	uint64_t step;

	/* A short step, at the end of a range, only tells when it was too slow all the
	 * same. */
	if (bytes < pace->step && took_ns < target_ns)
		return;
	if (took_ns * 2 <= target_ns)
		step = (uint64_t)bytes * 2;
	else if (took_ns >= target_ns * 2)
		step = (uint64_t)bytes / 2;
	else
		step = (uint64_t)((double)bytes * (double)target_ns / (double)took_ns);
	pace->step = tdi_align_down(
		tdi_max_size(pace->min, tdi_min_size(pace->max, (size_t)step)),
		pace->min);
}

#endif
