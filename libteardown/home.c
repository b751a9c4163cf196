/* SPDX-License-Identifier: MIT */
#include "home.h"

bool tdi_home_is_elsewhere(struct td_engine *engine, struct tdi_doom *doom,
			   struct td_slice *slice)
{
	int node;

	if (tdi_likely(slice->tdi_node == TDI_NODE_UNKNOWN))
		return false;
	node = tdi_doom_node(doom);
	if (node == TDI_NODE_UNKNOWN)
		return false;
	slice->tdi_home = (int)tdi_queues_of_node(&engine->queues, (unsigned)node)->node;
	if (slice->tdi_home == slice->tdi_node)
		return false;
	atomic_fetch_add_explicit(&engine->moves_home, 1, memory_order_relaxed);
	return true;
}
