/* SPDX-License-Identifier: MIT */
#include "ref.h"

static void saturate(struct tdi_ref *ref, uint32_t old, const char *type,
		     const char *object, const char *counter)
{
	atomic_store_explicit(&ref->n, TDI_REF_SATURATED, memory_order_relaxed);
	/* Said by the one who crossed the line, not by all who come after. */
	if (old <= TDI_REF_MAX)
		tdi_warn("%s '%s': %s saturated, it will never be freed", type, object,
			 counter);
}

void tdi_ref_get_slow(struct tdi_ref *ref, uint32_t old, const char *type,
		      const char *object, const char *counter)
{
	if (old == 0)
		tdi_die("%s '%s': get of a dead one (%s is 0)", type, object, counter);
	saturate(ref, old, type, object, counter);
}

void tdi_ref_put_slow(struct tdi_ref *ref, uint32_t old, const char *type,
		      const char *object, const char *counter)
{
	/* fewer than were put */
	if (old <= TDI_REF_MAX)
		tdi_die("%s '%s': put without a reference (%s is %u)", type, object,
			counter, old);
	saturate(ref, old, type, object, counter);
}
