/* SPDX-License-Identifier: MIT */
/*
 * For the torture of lazy references: some functions of the library are called through
 * these (the linker's --wrap), to see each space before it is freed, and to have a
 * library with a step missing, which the torture must notice.
 */
#ifndef TDT_WATCHED_H
#define TDT_WATCHED_H

#include "space_internal.h"
#include "torture.h"

#include <string.h>
#include <teardown/lazy.h>

#define SEATS_MAX 8
#define POISON 0x5a

/* ---- a library with a step missing ---- */

enum broken { WHOLE, NO_PASS, NO_CLOSE };
static enum broken broken;

int __real_tdi_lazy_pass(struct tdi_lazy *object);
int __wrap_tdi_lazy_pass(struct tdi_lazy *object);
void __real_tdi_lazy_close(struct tdi_lazy *object);
void __wrap_tdi_lazy_close(struct tdi_lazy *object);
void __real_tdi_doom_destroy(struct tdi_doom *doom);
void __wrap_tdi_doom_destroy(struct tdi_doom *doom);

int __wrap_tdi_lazy_pass(struct tdi_lazy *object)
{
	return broken == NO_PASS ? 0 : __real_tdi_lazy_pass(object);
}

void __wrap_tdi_lazy_close(struct tdi_lazy *object)
{
	if (broken != NO_CLOSE)
		__real_tdi_lazy_close(object);
}

/* ---- who holds what ---- */

/*
 * Published after a hold has begun and taken back before it ends, both relaxed: so that
 * it does not order what the library has to. It is in order all the same for who sees
 * the hold's end, which is a release.
 */
static struct seat {
	_Alignas(128) _Atomic(td_space *) holds[TD_LAZY_DEPTH];
} seats[SEATS_MAX];

static atomic_uint freed;

/* The last that is done to a space before it is freed. */
void __wrap_tdi_doom_destroy(struct tdi_doom *doom)
{
	td_space *dead = tdi_container_of(doom, td_space, doom);

	__real_tdi_doom_destroy(doom);
	for (unsigned i = 0; i < SEATS_MAX; i++) {
		for (unsigned level = 0; level < TD_LAZY_DEPTH; level++) {
			if (atomic_load_explicit(&seats[i].holds[level],
						 memory_order_relaxed) == dead)
				notice("'%s' is freed, and it is held lazily",
				       dead->name);
		}
	}
	memset(dead, POISON, sizeof(*dead));
	atomic_fetch_add(&freed, 1);
}

#endif
