/* SPDX-License-Identifier: MIT */
/*
 * Floor 1: a limit in bytes a second. What has been released is paid for with time: the
 * clock until which it lasts moves on by what the bytes would take at the rate, and until
 * then nobody begins anything new. Time that was not used is good for 10 ms, no more.
 */
#ifndef TDI_RATE_H
#define TDI_RATE_H

#include "base.h"

#define TDI_RATE_BURST_NS 10000000u

struct tdi_rate {
	_Atomic(uint64_t) bytes_per_s; /* 0 = no limit */
	_Atomic(uint64_t) paid_until_ns;
};

static inline bool tdi_rate_is_limited(struct tdi_rate *rate)
{
	return atomic_load_explicit(&rate->bytes_per_s, memory_order_relaxed) > 0;
}

/* Any thread, one at a time. A debt stays one of as many bytes. */
void tdi_rate_set(struct tdi_rate *rate, uint64_t bytes_per_s, uint64_t now_ns);

/* When more may be released: 0 = now. */
uint64_t tdi_rate_due(struct tdi_rate *rate, uint64_t now_ns);

/* So much has been. */
void tdi_rate_pay(struct tdi_rate *rate, uint64_t bytes, uint64_t now_ns);

#endif
