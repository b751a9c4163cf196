/* SPDX-License-Identifier: MIT */
#include <stdio.h>
#include <string.h>
#include <teardown.h>

int main(void)
{
	const size_t size = (size_t)1 << 30;
	td_space *space;
	void *arena;
	int err;

	/* NULL: the process-wide engine. A space starts with one user: us. */
	err = td_space_create(NULL, TD_SPACE_OPTS(.name = "arena"), &space);
	if (!err)
		err = td_region_map(space, size, NULL, &arena);
	if (err) {
		fprintf(stderr, "no arena: %s\n", strerror(-err));
		return 1;
	}

	memset(arena, 1, size); /* use it; td_space_get() for each further user */

	td_space_grab(space); /* a count keeps the object, so that we can wait */
	td_space_put(space);  /* the last user: microseconds, and the arena is gone */

	/* ... do something else; the memory comes back meanwhile ... */

	td_space_wait(space, TD_EVENT_RECLAIMED, TD_FOREVER);
	td_space_drop(space);
	return 0;
}
