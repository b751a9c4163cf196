/* SPDX-License-Identifier: MIT */
#include "membarrier.h"
#include "sys.h"

#include <linux/membarrier.h>

static pthread_once_t once = PTHREAD_ONCE_INIT;
static bool works;

static void try_it(void)
{
	works = tdi_sys_membarrier(MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED) == 0 &&
		tdi_sys_membarrier(MEMBARRIER_CMD_PRIVATE_EXPEDITED) == 0;
}

bool tdi_membarrier_works(void)
{
	pthread_once(&once, try_it);
	return works;
}

int tdi_membarrier(void)
{
	return tdi_sys_membarrier(MEMBARRIER_CMD_PRIVATE_EXPEDITED);
}
