/* SPDX-License-Identifier: MIT */
/* A module that linked the library, loaded and unloaded by loader.c. */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <teardown.h>

#define LENGTH ((size_t)72 << 20)

int module_use(void);
int module_enter(void);
int module_use_and_clear(void);

static int map(void **ret)
{
	*ret = mmap(NULL, LENGTH, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
		    0);
	if (*ret == MAP_FAILED)
		return -1;
	memset(*ret, 1, LENGTH);
	return 0;
}

/* Leaves work pending, on the default engine. */
int module_use(void)
{
	td_space *space;
	void *memory;
	int err = map(&memory);

	if (!err)
		err = td_munmap(memory, LENGTH);
	if (!err)
		err = td_space_create(NULL, NULL, &space);
	if (!err)
		err = td_region_map(space, LENGTH, NULL, &memory);
	if (err)
		return err;
	memset(memory, 1, LENGTH);
	return td_space_put(space);
}

/* Leaves the thread to be told of when it ends: it adds, and holds something lazily. */
int module_enter(void)
{
	td_batch *batch;
	td_space *space;
	int err = td_space_create(NULL, NULL, &space);

	if (!err)
		err = td_batch_create(NULL, NULL, &batch);
	if (!err)
		err = td_batch_free_ptr(batch, malloc(64), 64);
	if (!err)
		err = td_lazy_enter(space);
	return err ? err : td_space_put(space);
}

/* Leaves nothing. */
int module_use_and_clear(void)
{
	td_engine *engine;
	void *memory;
	int err = td_engine_create(NULL, &engine);

	if (!err)
		err = map(&memory);
	if (!err)
		err = td_engine_munmap(engine, memory, LENGTH, 0);
	return err ? err : td_engine_destroy(engine, TD_EXIT_DRAIN, 0);
}
