/* SPDX-License-Identifier: MIT */
#include "account.h"
#include "engine_internal.h"
#include "sys.h"

#include <teardown/stats.h>

static __thread struct {
	struct td_thread_stats stats;
	uint64_t others_ns;  /* of accounts that ended inside the one that is open */
	unsigned generation; /* of the process in which that was */
} mine;

/* A forked child's thread starts at 0, as its CPU clock does. */
static struct td_thread_stats *my_stats(void)
{
	if (tdi_unlikely(mine.generation != tdi_fork_generation)) {
		mine.stats = (struct td_thread_stats){0};
		mine.generation = tdi_fork_generation;
	}
	return &mine.stats;
}

/* By its only writer: no read-modify-write is needed. */
static void count(_Atomic(uint64_t) *counter, uint64_t n)
{
	uint64_t value = atomic_load_explicit(counter, memory_order_relaxed);

	atomic_store_explicit(counter, value + n, memory_order_relaxed);
}

static void note_place(struct tdi_reaper_account *account)
{
	unsigned cpu = 0, node = 0;

	if (tdi_sys_getcpu(&cpu, &node))
		return;
	atomic_store_explicit(&account->cpu, cpu, memory_order_relaxed);
	atomic_store_explicit(&account->node, node, memory_order_relaxed);
}

void tdi_account_reaper(struct tdi_reaper_account *account)
{
	atomic_store_explicit(&account->tid, tdi_sys_gettid(), memory_order_relaxed);
	note_place(account);
}

void tdi_account_begin(struct tdi_account *account)
{
	account->others_ns = mine.others_ns;
	mine.others_ns = 0;
	account->began_ns = tdi_sys_cpu_ns();
}

uint64_t tdi_account_end(struct td_engine *engine, struct tdi_account *account)
{
	const struct tdi_reaping *as = tdi_reaping_now();
	uint64_t all_ns = tdi_sys_cpu_ns() - account->began_ns;
	uint64_t cpu_ns = all_ns - mine.others_ns;

	mine.others_ns = account->others_ns + all_ns;
	my_stats()->cpu_ns += cpu_ns;
	atomic_fetch_add_explicit(&engine->cpu_ns, cpu_ns, memory_order_relaxed);
	if (as && as->reaper)
		count(&as->reaper->account.cpu_ns, cpu_ns);
	else
		atomic_fetch_add_explicit(&engine->cpu_in_caller_ns, cpu_ns,
					  memory_order_relaxed);
	return cpu_ns;
}

void tdi_account_slice(struct td_engine *engine, uint64_t bytes)
{
	const struct tdi_reaping *as = tdi_reaping_now();
	struct td_thread_stats *stats = my_stats();

	stats->slices++;
	stats->bytes_reclaimed += bytes;
	switch (as ? as->role : TDI_ROLE_CALLER) {
	case TDI_ROLE_CALLER:
		stats->slices_as_caller++;
		break;
	case TDI_ROLE_REAPER:
		stats->slices_as_reaper++;
		break;
	case TDI_ROLE_HELPER:
		stats->slices_as_helper++;
		break;
	case TDI_ROLE_ATTACHED:
		stats->slices_attached++;
		break;
	}
	atomic_fetch_add_explicit(&engine->slices, 1, memory_order_relaxed);
	atomic_fetch_add_explicit(&engine->bytes_reclaimed, bytes, memory_order_relaxed);
	if (as && as->reaper) {
		count(&as->reaper->account.slices, 1);
		count(&as->reaper->account.bytes, bytes);
		note_place(&as->reaper->account);
	} else {
		atomic_fetch_add_explicit(&engine->bytes_in_caller, bytes,
					  memory_order_relaxed);
	}
}

int td_thread_stats(struct td_thread_stats *ret)
{
	*ret = *my_stats();
	return 0;
}

static uint64_t load(_Atomic(uint64_t) *counter)
{
	return atomic_load_explicit(counter, memory_order_relaxed);
}

static uint64_t load_u32(_Atomic(uint32_t) *value)
{
	return atomic_load_explicit(value, memory_order_relaxed);
}

int td_engine_reaper_stats(td_engine *given, unsigned index, struct td_reaper_stats *ret)
{
	struct tdi_reaper_account *account;
	struct td_engine *engine;
	int err = tdi_engine_resolve(given, &engine);

	if (err)
		return err;
	if (index >= engine->nr_reapers)
		return -EINVAL;
	account = &engine->reapers[index].account;
	*ret = (struct td_reaper_stats){
		.tid = load_u32(&account->tid),
		.cpu = load_u32(&account->cpu),
		.node = load_u32(&account->node),
		.slices = load(&account->slices),
		.bytes_reclaimed = load(&account->bytes),
		.cpu_ns = load(&account->cpu_ns),
	};
	return 0;
}
