/* SPDX-License-Identifier: MIT */
/*
 * Floor 1: a full memory barrier on every running thread of the process, at the cost of
 * one system call here and none there. It lets the frequent side of "each writes, then
 * reads what the other wrote" do with plain stores and loads.
 */
#ifndef TDI_MEMBARRIER_H
#define TDI_MEMBARRIER_H

#include "base.h"

/*
 * May tdi_membarrier be relied on? Asked of the kernel once for the process: false where
 * it is too old, or a filter forbids the call. Those who got false put a fence of their
 * own on the frequent side.
 */
bool tdi_membarrier_works(void);

/*
 * Whatever another thread had stored when this returns 0, the caller sees; and whatever
 * the caller stored before, that thread sees in all that comes after. -errno: the kernel
 * refuses what it offered before (a filter that came later), and nothing is known.
 */
int tdi_membarrier(void);

#endif
