/* SPDX-License-Identifier: MIT */
#include "rate.h"

/* A hundred years: what is paid for never comes near the end of the clock. */
#define LONGEST_NS 3e18

static uint64_t time_of(double bytes, uint64_t bytes_per_s)
{
	double ns = bytes * 1e9 / (double)bytes_per_s;

	return (uint64_t)(ns < LONGEST_NS ? ns : LONGEST_NS);
}

/* Relaxed, all of it: it orders nothing, and who looks a moment too late waits no longer
 * than a slice too little. */
void tdi_rate_set(struct tdi_rate *rate, uint64_t bytes_per_s, uint64_t now_ns)
{
	uint64_t before = atomic_load_explicit(&rate->bytes_per_s, memory_order_relaxed);
	uint64_t paid = atomic_load_explicit(&rate->paid_until_ns, memory_order_relaxed);
	double debt = before && paid > now_ns
			      ? (double)(paid - now_ns) * (double)before / 1e9
			      : 0;

	if (before == bytes_per_s)
		return;
	atomic_store_explicit(&rate->paid_until_ns,
			      bytes_per_s ? now_ns + time_of(debt, bytes_per_s) : 0,
			      memory_order_relaxed);
	atomic_store_explicit(&rate->bytes_per_s, bytes_per_s, memory_order_relaxed);
}

uint64_t tdi_rate_due(struct tdi_rate *rate, uint64_t now_ns)
{
	uint64_t paid;

	if (!tdi_rate_is_limited(rate))
		return 0;
	paid = atomic_load_explicit(&rate->paid_until_ns, memory_order_relaxed);
	return paid > now_ns ? paid : 0;
}

void tdi_rate_pay(struct tdi_rate *rate, uint64_t bytes, uint64_t now_ns)
{
	uint64_t limit = atomic_load_explicit(&rate->bytes_per_s, memory_order_relaxed);
	uint64_t unused = now_ns > TDI_RATE_BURST_NS ? now_ns - TDI_RATE_BURST_NS : 0;
	uint64_t paid = atomic_load_explicit(&rate->paid_until_ns, memory_order_relaxed);
	uint64_t from, until, takes;

	if (limit == 0 || bytes == 0)
		return;
	takes = time_of((double)bytes, limit);
	do {
		from = paid > unused ? paid : unused;
		until = from < UINT64_MAX - takes ? from + takes : UINT64_MAX - 1;
	} while (!atomic_compare_exchange_weak_explicit(&rate->paid_until_ns, &paid,
							until, memory_order_relaxed,
							memory_order_relaxed));
}
