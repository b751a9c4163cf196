/* SPDX-License-Identifier: MIT */
#include "turns.h"

/* How many are looked at for the one that is next, at most. */
#define LOOK_AT_MAX 256u

/* How long a work can be made to wait, in slices: half an hour at 500 us. */
#define SIT_OUT_MAX 4000000u

#define LEAST_CHARGE ((uint64_t)64 << 10) /* bytes, for a slice */

/* Bytes a nanosecond that are assumed to be usual before there has been any slice: about
 * what a CPU frees of 4 KiB pages. And over how many bytes the usual speed is learnt. */
#define FIRST_SPEED 16.0
#define LEARN_BYTES ((double)(256 << 20))

/* Faster than any memory is freed: pages that were never touched, or a host that says so.
 * Nobody waits long for having had one such slice, nor is others' time charged so. */
#define SPEED_MAX 1024.0

/* td_work.tdi_had_slice */
enum { SLICE_NONE, SLICE_FIRST, SLICE_CHARGED };

void tdi_work_list_add(struct td_work **list, struct td_work *work)
{
	struct td_work *first = *list;

	if (!first) {
		work->tdi_next = work->tdi_prev = work;
		*list = work;
		return;
	}
	work->tdi_next = first;
	work->tdi_prev = first->tdi_prev;
	first->tdi_prev->tdi_next = work;
	first->tdi_prev = work;
}

void tdi_work_list_remove(struct td_work **list, struct td_work *work)
{
	if (work->tdi_next == work) {
		*list = NULL;
	} else {
		work->tdi_prev->tdi_next = work->tdi_next;
		work->tdi_next->tdi_prev = work->tdi_prev;
		if (*list == work)
			*list = work->tdi_next;
	}
	work->tdi_next = work->tdi_prev = NULL;
}

void tdi_turns_init(struct tdi_turns *turns)
{
	*turns = (struct tdi_turns){.usual_speed = FIRST_SPEED};
}

static unsigned weight_of(const struct td_work *work)
{
	return work->weight ? work->weight : 100;
}

void tdi_turns_add(struct tdi_turns *turns, struct td_work *work)
{
	/* Who was away does not come back with a right to catch up: U4. */
	if (work->tdi_share < turns->clock)
		work->tdi_share = turns->clock;
	work->tdi_is_small = !work->tdi_had_slice && work->cost <= TDI_SMALL_BYTES;
	tdi_work_list_add(work->tdi_is_small ? &turns->small : &turns->large, work);
	turns->weights += weight_of(work);
}

void tdi_turns_remove(struct tdi_turns *turns, struct td_work *work)
{
	tdi_work_list_remove(work->tdi_is_small ? &turns->small : &turns->large, work);
	turns->weights -= weight_of(work);
}

void tdi_turns_took(struct tdi_turns *turns, struct td_work *work)
{
	tdi_turns_remove(turns, work);
	if (work->tdi_had_slice == SLICE_NONE)
		work->tdi_had_slice = SLICE_FIRST;
}

static bool sits_out(struct td_work *work)
{
	if (work->tdi_sit_out == 0)
		return false;
	work->tdi_sit_out--;
	return true;
}

/* Of works that may go and are not made to wait, the one with the least share so far. */
static struct td_work *least(struct tdi_turns *turns, struct td_work *list,
			     tdi_turns_filter *may_go)
{
	struct td_work *work = list, *best = NULL, *waits = NULL;

	for (unsigned looked = 0; work && looked < LOOK_AT_MAX; looked++) {
		if (may_go && !may_go(work)) {
			/* not for whoever asks */
		} else if (sits_out(work)) {
			if (!waits)
				waits = work;
		} else if (!best || (turns->urgent && work->tdi_gives_memory &&
				     !best->tdi_gives_memory)) {
			best = work;
		} else if (work->tdi_share < best->tdi_share &&
			   (!turns->urgent || work->tdi_gives_memory ||
			    !best->tdi_gives_memory)) {
			best = work;
		}
		if (best && best->tdi_share <= turns->clock &&
		    (!turns->urgent || best->tdi_gives_memory))
			break; /* nobody has less: U4 */
		work = work->tdi_next == list ? NULL : work->tdi_next;
	}
	/* Better one that has to wait than nobody. */
	return best ? best : waits;
}

struct td_work *tdi_turns_next(struct tdi_turns *turns, tdi_turns_filter *may_go)
{
	struct td_work *work = NULL;

	if (turns->small && !turns->small_went_last)
		work = least(turns, turns->small, may_go);
	if (!work)
		work = least(turns, turns->large, may_go);
	if (!work)
		work = least(turns, turns->small, may_go);
	if (!work)
		return NULL;
	turns->small_went_last = work->tdi_is_small && turns->large;
	if (work->tdi_share > turns->clock)
		turns->clock = work->tdi_share;
	else /* it sat out: U4 */
		work->tdi_share = turns->clock;
	tdi_turns_took(turns, work);
	return work;
}

/* By bytes and not by slices: else a slow work that gets many would be the usual one. */
static void learn(struct tdi_turns *turns, const struct tdi_slice_end *end)
{
	double speed, part = (double)end->bytes / LEARN_BYTES;

	if (end->took_ns == 0)
		return;
	speed = (double)end->bytes / (double)end->took_ns;
	if (speed > SPEED_MAX)
		speed = SPEED_MAX;
	turns->usual_speed += (speed - turns->usual_speed) * (part < 1 ? part : 1);
}

void tdi_turns_charge(struct tdi_turns *turns, struct td_work *work,
		      const struct tdi_slice_end *end)
{
	double took_ns = (double)end->took_ns, bytes = (double)end->bytes, charge;

	charge = bytes < took_ns * SPEED_MAX ? bytes : took_ns * SPEED_MAX;
	if (charge < took_ns * turns->usual_speed / 4)
		charge = took_ns * turns->usual_speed / 4;
	if (charge < LEAST_CHARGE)
		charge = LEAST_CHARGE;
	work->tdi_share += (uint64_t)(charge * 100 / weight_of(work));
	if (work->tdi_had_slice == SLICE_FIRST) { /* U4 */
		uint64_t others =
			turns->weights - (tdi_work_is_listed(work) ? weight_of(work) : 0);

		work->tdi_had_slice = SLICE_CHARGED;
		turns->clock +=
			(uint64_t)(charge * 100 / (double)(others + weight_of(work)));
	}
	work->tdi_sit_out =
		(unsigned)(end->overstay < SIT_OUT_MAX ? end->overstay : SIT_OUT_MAX);
	learn(turns, end);
}

uint64_t tdi_turns_bytes(const struct tdi_turns *turns, unsigned most)
{
	const struct td_work *work = turns->large;
	uint64_t bytes = 0;

	while (work && most-- > 0) {
		bytes += atomic_load_explicit(&work->tdi_left, memory_order_relaxed);
		work = work->tdi_next == turns->large ? NULL : work->tdi_next;
	}
	return bytes;
}

static bool has(const struct td_work *list, tdi_turns_filter *filter)
{
	const struct td_work *work = list;

	for (unsigned looked = 0; work && looked < LOOK_AT_MAX; looked++) {
		if (filter(work))
			return true;
		work = work->tdi_next == list ? NULL : work->tdi_next;
	}
	return false;
}

bool tdi_turns_has(const struct tdi_turns *turns, tdi_turns_filter *filter)
{
	return has(turns->small, filter) || has(turns->large, filter);
}
