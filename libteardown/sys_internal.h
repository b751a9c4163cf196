/* SPDX-License-Identifier: MIT */
/* Floor 0: what the files that make system calls share. */
#ifndef TDI_SYS_INTERNAL_H
#define TDI_SYS_INTERNAL_H

#include "sys.h"

#include <errno.h>

/* Asks the fault hook: 0, or what to return in the call's place. */
int tdi_sys_fault(enum tdi_sys_call call, const void *addr, size_t length, int detail);

/* Library calls must not disturb the host's errno: many run in its free() paths. */
#define TDI_ERRNO(expression)                                                            \
	({                                                                               \
		int saved_errno_ = errno;                                                \
		long result_ = (long)(expression);                                       \
		if (result_ == -1)                                                       \
			result_ = -errno;                                                \
		errno = saved_errno_;                                                    \
		result_;                                                                 \
	})

#endif
