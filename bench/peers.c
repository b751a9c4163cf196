/* SPDX-License-Identifier: MIT */
/* What a scenario compares the library with: versions, and how each is used. */
#include "common.h"

#include <errno.h>
#include <gnu/libc-version.h>
#include <stdio.h>
#include <string.h>
#include <sys/utsname.h>

static const char *kernel_version(void)
{
	static struct utsname system;

	bench_must(uname(&system) ? -errno : 0, "uname");
	return system.release;
}

static const char *urcu_version(void)
{
	return BENCH_URCU_VERSION;
}

static const char *ck_version(void)
{
	return BENCH_CK_VERSION;
}

static const char *compiler_version(void)
{
	return __VERSION__;
}

static const struct peer {
	const char *scenarios; /* with spaces between and around them */
	const char *name;
	const char *(*version)(void);
	const char *settings;
} peers[] = {
	{" put reclaim unmap sizes threshold stall budget ", "munmap", kernel_version,
	 "one munmap(2) of the whole range, by the caller"},
	{" unmap sizes stall foreground small ", "thread", kernel_version,
	 "munmap(2) by a thread that was there before, sleeps on a semaphore, and is "
	 "SCHED_BATCH: it does not preempt who wakes it"},
	{" budget ", "thread", kernel_version,
	 "munmap(2) by one thread for all loops, which sleeps on a condition variable "
	 "and is SCHED_BATCH; "
	 "it takes whatever is handed to it"},
	{" unmap sizes stall ", "chunks", kernel_version,
	 "madvise(MADV_DONTNEED; shared memory: MADV_REMOVE) of 4 MiB at a time, then "
	 "munmap(2), by the caller"},
	{" stall ", "thread_chunks", kernel_version, "as chunks, but by that thread"},
	{" reclaim ", "bare", kernel_version,
	 "threads that were there before take 16 MiB at a time for "
	 "madvise(MADV_DONTNEED), then munmap(2); no queue, no pacing"},
	{" limits ", "madvise", kernel_version, "as bare in reclaim"},
	{" sizes limits ", "mremap", kernel_version,
	 "mremap(MREMAP_MAYMOVE | MREMAP_FIXED) into a reservation made before; frees "
	 "nothing"},
	{" lookup ", "bsearch", compiler_version,
	 "binary search in a sorted array, which nobody may change meanwhile"},
	{" kill ", "sigkill", kernel_version, "pidfd_send_signal(SIGKILL), nothing else"},
	{" exit ", "plain", kernel_version, "exit(3), or SIGKILL: the kernel alone"},
	{" kill ", "mrelease", kernel_version,
	 "process_mrelease(2) at once after pidfd_send_signal(SIGKILL), by the same "
	 "thread; again while "
	 "EAGAIN"},
	{" exit ", "qemu_design", kernel_version,
	 "a helper of this program's that does what QEMU 7.2's does: CLONE_VM, closes "
	 "all, SIGHUP by PR_SET_PDEATHSIG, then a look at getppid() each second"},
	{" batch ", "free", gnu_get_libc_version,
	 "glibc's, at once, waits for no reader; M_TRIM_THRESHOLD at its most and "
	 "M_TOP_PAD 256 MiB for all alike"},
	{" batch ", "call_rcu", urcu_version,
	 "urcu-memb; the one default call_rcu thread, flags 0: callers wake it by a "
	 "futex; call_rcu_list: the same, one rcu_head for 1000 objects"},
	{" batch ", "call_rcu_rt", urcu_version,
	 "urcu-memb; a call_rcu thread for each thread that adds, URCU_CALL_RCU_RT: "
	 "it polls every 10 ms, and callers wake nobody"},
	{" batch ", "defer_rcu", urcu_version,
	 "urcu-memb; rcu_defer_register_thread in each thread that adds; what is left "
	 "by rcu_defer_barrier_thread"},
	{" batch ", "ck_epoch", ck_version,
	 "a record for each thread; ck_epoch: ck_epoch_call and ck_epoch_poll by turns, "
	 "ck_epoch_call: one poll after 1000 calls; what is left by ck_epoch_barrier"},
	{" refs ", "atomic", compiler_version,
	 "_Atomic(uint32_t): fetch_add relaxed, fetch_sub release; nothing is checked"},
	{" refs ", "exchange", compiler_version,
	 "a store with release, an exchange with seq_cst, each thread its own word"},
	{" refs ", "urcu_ref", urcu_version, "urcu_ref_get and urcu_ref_put"},
	{" refs ", "rcu", urcu_version,
	 "urcu-memb; rcu_read_lock and rcu_read_unlock, called in the library (no "
	 "_LGPL_SOURCE)"},
};

void bench_print_peer(const char *name, const char *version, const char *settings)
{
	printf("peer=%s version=\"%s\" settings=\"%s\"\n", name, version, settings);
}

void bench_print_peers(const char *scenario)
{
	char word[64];

	snprintf(word, sizeof(word), " %s ", scenario);
	for (size_t i = 0; i < sizeof(peers) / sizeof(peers[0]); i++) {
		if (strstr(peers[i].scenarios, word))
			bench_print_peer(peers[i].name, peers[i].version(),
					 peers[i].settings);
	}
}
