/* SPDX-License-Identifier: MIT */
/* Floor 0: system calls that ask about other processes. As sys.h says of all. */
#ifndef TDI_SYS_PROBE_H
#define TDI_SYS_PROBE_H

#include "sys.h"

/* 0: of one process, which need not be there any more; -EBADF: something else. */
int tdi_sys_pidfd_check(int pidfd);
/* 0: both processes have the same memory; 1: they have not, or one has none. */
int tdi_sys_kcmp_vm(int pid, int other);

ssize_t tdi_sys_getdents(int fd, void *buf, size_t size);
ssize_t tdi_sys_readlink(const char *path, char *buf, size_t size);

/* Bits of what tdi_sys_probe() asks about. */
#define TDI_PROBE_PIDFD_OPEN (1u << 0)
#define TDI_PROBE_PIDFD_SEND_SIGNAL (1u << 1)
#define TDI_PROBE_MRELEASE (1u << 2)
#define TDI_PROBE_KCMP (1u << 3)
#define TDI_PROBE_AFFINITY (1u << 4) /* both reading and setting one's own */
#define TDI_PROBE_ALL 0x1fu

/*
 * Which of these calls are there, and not forbidden; none of them does anything.
 * in_child: a filter may be set that ends who makes one: each is made by a process that
 * may be ended. Returns these bits; -EAGAIN, -ENOMEM and the like: no such process could
 * be made; -ECHILD: somebody else waited for it.
 */
int tdi_sys_probe(unsigned calls, int in_child);

#endif
