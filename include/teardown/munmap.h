/* SPDX-License-Identifier: MIT */
/*
 * td_munmap(): in place of munmap(2), for any memory, also such as the library never saw.
 * The range is out of sight when the call returns; its pages are given back later.
 *
 * Thread safety: as munmap(2).
 */
#ifndef TEARDOWN_MUNMAP_H
#define TEARDOWN_MUNMAP_H

#include <teardown/engine.h>

#ifdef __cplusplus
extern "C" {
#endif

enum td_munmap_flags {
	/* Shared and file mappings are freed later, too. Their files stay in use until
	 * then: seals on writing are refused, a file system cannot be unmounted, the last
	 * close has not happened. */
	TD_MUNMAP_SHARED = 1u << 0,
};

/*
 * Unmaps [addr, addr + length) as munmap(2) does: the range may cover parts of mappings,
 * several of them, and holes; length is rounded up to whole pages. When it returns, an
 * access faults with SIGSEGV and the addresses may be mapped again by anybody (rows D2,
 * D3, D4). The pages of private memory, small, huge or locked, are given back by the
 * engine's reapers.
 *
 * It is plain munmap(2) below the engine's threshold (row D6), in a forked child, for
 * mappings that could tell the difference (shared and file mappings, memory registered
 * with userfaultfd, device memory, the heap and the stack), where what is pending would
 * come near a limit of yours (address space, private memory, locked memory, commit
 * charge, the pool of huge pages), and wherever the kernel refuses any step: then the
 * caller frees in slices. Past the engine's budget it helps or waits before it touches
 * anything, and callbacks of any owner may run in it: a lock that they take must not be
 * held. Or it is refused: see td_engine_set_budget(). (row A11)
 *
 * Not for ranges that belong to a space: td_region_unmap(). Above the threshold that is
 * -EBUSY and changes nothing; below it is not looked for.
 *
 *   addr    start, page aligned
 *   length  bytes
 *
 * Returns 0, or what munmap(2) would answer as a negative errno value: -EINVAL:
 * misaligned, zero, or outside of what a process can have; -ENOMEM: the limit on mappings
 * forbids to split one; -EPERM: part of it is sealed; and -EAGAIN: past the budget, where
 * TD_BUDGET_AGAIN was chosen. On failure nothing is changed.
 * Context: takes the kernel's lock on the address space for some microseconds a mapping;
 * any thread, callbacks included; allocates nothing (but the default engine, on first
 * use); no RCU registration needed.
 */
int td_munmap(void *addr, size_t length);

/*
 * The same on a given engine (NULL = the default one), with flags.
 * Returns also -EINVAL: unknown flag.
 */
int td_engine_munmap(td_engine *engine, void *addr, size_t length, unsigned flags);

/*
 * Sets what td_munmap() and td_region_unmap() hand to reapers: ranges of at least so many
 * bytes. 0 = the default again, SIZE_MAX = none. Any time; concerns calls that begin
 * later. Returns 0; -ECHILD; -ENOMEM (default engine). Context: anywhere.
 */
int td_engine_set_munmap_threshold(td_engine *engine, size_t bytes);

#ifdef __cplusplus
}
#endif

#endif
