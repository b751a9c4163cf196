/* SPDX-License-Identifier: MIT */
/* What td-bench batch compares: ways to free an object once no reader sees it any more.
 */
#ifndef BENCH_BATCH_H
#define BENCH_BATCH_H

#include "common.h"

#include <pthread.h>
#include <stdatomic.h>

#include <urcu/urcu-memb.h>

#ifdef BENCH_CK
#include <ck_epoch.h>
#endif

#define BATCH_OBJECT_BYTES 200u
#define BATCH_BURST 1000u /* objects in a burst, and in a list */
#define BATCH_ADDERS_MAX 2u
#define BATCH_BOUND ((uint64_t)64 << 20) /* of subject td_batch_bounded */

/* Every way allocates the same: what it embeds is a part of the 200 bytes. */
struct batch_object {
	union {
		struct rcu_head rcu;
		struct td_batch_node node;
		struct batch_object *next;
#ifdef BENCH_CK
		ck_epoch_entry_t ck;
#endif
	};
	char payload[BATCH_OBJECT_BYTES - sizeof(struct rcu_head)];
};

struct batch_list; /* of call_rcu_list: its objects, and one rcu_head */

/* A thread that adds. */
struct batch_adder {
	_Alignas(64) const struct batch_way *way;
	unsigned index;
	struct batch_list *list;
	struct td_batch_list td_list;
	uint64_t refused;

	/* batch.c's own */
	pthread_t thread;
	pthread_barrier_t *begin;
	struct batch_object **objects;
	size_t nr_objects;
	bool shuffled;
	struct bench_series *bursts;
	uint64_t began, ended, queued_ns;
	int64_t peak;
	uint64_t wait_ns, wait_any_ns;
};

struct batch_way {
	const char *name, *skipped; /* skipped: why it cannot be measured */
	double embedded_bytes;	    /* in an object */
	/* Before and after objects are added; NULL: nothing to do. */
	void (*begin)(td_engine *engine);
	void (*end)(void);
	/* In the adder's thread. */
	void (*enter)(struct batch_adder *adder);
	void (*leave)(struct batch_adder *adder);
	/* Once grace periods allow, and the last burst's part that waits for more. */
	void (*queue)(struct batch_adder *adder, struct batch_object *const *objects,
		      size_t n);
	void (*last)(struct batch_adder *adder);
	/* After each burst: what the adder does besides, for things to be freed. */
	void (*relax)(struct batch_adder *adder);
	/* When nobody adds any more: until all is freed. */
	void (*barrier)(void);
	/* What there is beside the objects, in bytes; before end. */
	uint64_t (*room)(void);
};

enum {
	WAY_FREE,
	WAY_CALL_RCU,
	WAY_CALL_RCU_RT,
	WAY_DEFER_RCU,
	WAY_CALL_RCU_LIST,
	WAY_CK_EPOCH,
	WAY_CK_CALL,
	WAY_TD,
	WAY_TD_NODE,
	WAY_TD_LIST,
	WAY_TD_BOUNDED,
	WAY_TD_NO_ROOM,
	NR_WAYS
};
extern const struct batch_way batch_ways[NR_WAYS];

/* Bytes that are queued and not yet freed, while batch_counting. */
extern bool batch_counting;
extern _Atomic(int64_t) batch_pending;

/* Grace periods of the memb flavor so far, and for Concurrency Kit polls that freed. */
extern _Atomic(uint64_t) batch_periods;

#endif
