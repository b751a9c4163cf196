/* SPDX-License-Identifier: MIT */
/*
 * Floor 3: whose CPU time and whose bytes. What a thread does is counted for the thread,
 * for the reaper it may be, and for the engine. CPU time counts once: where one slice's
 * callback runs another work to its end, that is the other work's.
 */
#ifndef TDI_ACCOUNT_H
#define TDI_ACCOUNT_H

#include "base.h"

struct td_engine;

/* As what a thread runs slices. */
enum tdi_role {
	TDI_ROLE_CALLER, /* of a work that it waits for, or that nobody else would run */
	TDI_ROLE_REAPER,
	TDI_ROLE_HELPER,   /* of whatever is in turn */
	TDI_ROLE_ATTACHED, /* to the space as its reaper */
};

/* One reaper's: written by it alone, read by anybody. Relaxed. */
struct tdi_reaper_account {
	_Atomic(uint32_t) tid, cpu, node;
	_Atomic(uint64_t) slices, bytes, cpu_ns;
};

/* Of the calling thread, which becomes a reaper. */
void tdi_account_reaper(struct tdi_reaper_account *account);

/* On the stack, around what is counted. */
struct tdi_account {
	uint64_t began_ns, others_ns;
};

void tdi_account_begin(struct tdi_account *account);

/* The CPU time since then that no account inside this one has. */
uint64_t tdi_account_end(struct td_engine *engine, struct tdi_account *account);

/* And it was a slice, that released so many bytes. */
void tdi_account_slice(struct td_engine *engine, uint64_t bytes);

#endif
