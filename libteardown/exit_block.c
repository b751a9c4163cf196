/* SPDX-License-Identifier: MIT */
#include "exit_internal.h"
#include "sys.h"

#include <link.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

/* With room for what sanitizers put there. */
#ifdef __SANITIZE_THREAD__
#define KEEPER_STACK ((size_t)512 * 1024)
#else
#define KEEPER_STACK ((size_t)64 * 1024)
#endif

static int add_tls(struct dl_phdr_info *info, size_t size, void *arg)
{
	size_t *sum = arg;

	(void)size;
	for (int i = 0; i < info->dlpi_phnum; i++) {
		if (info->dlpi_phdr[i].p_type == PT_TLS)
			*sum += info->dlpi_phdr[i].p_memsz + info->dlpi_phdr[i].p_align;
	}
	return 0;
}

/* The C library puts thread-local storage on a thread's stack. */
static size_t keeper_stack_size(void)
{
	size_t sum = KEEPER_STACK;

	dl_iterate_phdr(add_tls, &sum);
	return tdi_align_up(sum, tdi_page_size());
}

static int by_number(const void *a, const void *b)
{
	return (*(const int *)a > *(const int *)b) - (*(const int *)a < *(const int *)b);
}

void tdi_exit_sort_kept(struct tdi_exit_block *block)
{
	unsigned nr = 0;

	qsort(block->keep, block->nr_keep, sizeof(block->keep[0]), by_number);
	for (unsigned i = 0; i < block->nr_keep; i++) {
		if (i == 0 || block->keep[i] != block->keep[i - 1])
			block->keep[nr++] = block->keep[i];
	}
	block->nr_keep = nr;
}

static int protect(char *memory, size_t size, size_t page)
{
	int err = tdi_sys_mprotect(memory, page, PROT_NONE);

	if (!err)
		err = tdi_sys_mprotect(memory + size - page, page, PROT_NONE);
	/* A core has no use for it. A child has none, either, but the C library looks at
	 * the stacks of all threads that are not there. */
	if (!err)
		err = tdi_sys_madvise(memory, size, MADV_DONTDUMP);
	return err;
}

/* Guards around [threads' stacks | the helper's | the keeper's | the block]. */
int tdi_exit_block_make(const int *keep, unsigned nr_keep, struct tdi_exit_block **ret)
{
	size_t page = tdi_page_size(), keeper = keeper_stack_size();
	size_t workers = TDI_EXIT_THREADS_MAX * TDI_EXIT_WORKER_STACK;
	size_t stacks = tdi_align_up(workers + TDI_EXIT_HELPER_STACK, page) + keeper;
	size_t own = sizeof(struct tdi_exit_block) + ((size_t)nr_keep + 2) * sizeof(int);
	size_t size = tdi_align_up(own, page) + stacks + 2 * page;
	struct tdi_exit_block *block;
	char *memory;
	void *mapped;
	int err = tdi_sys_mmap(NULL, size, PROT_READ | PROT_WRITE,
			       MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, &mapped);

	if (err)
		return err;
	memory = mapped;
	err = protect(memory, size, page);
	if (err) {
		(void)tdi_sys_munmap(memory, size);
		return err;
	}
	/* Now, rather than when memory may be what is missing. */
	for (size_t at = page; at < size - page; at += page)
		((volatile char *)memory)[at] = 0;
	block = (struct tdi_exit_block *)(void *)(memory + page + stacks);
	block->memory = memory;
	block->size = size;
	block->worker_stacks = memory + page;
	block->helper_stack = block->worker_stacks + workers;
	block->keeper_stack = memory + page + stacks - keeper;
	block->keeper_stack_size = keeper;
	block->keep = (int *)(void *)(block + 1);
	block->nr_keep = nr_keep;
	if (nr_keep > 0)
		memcpy(block->keep, keep, nr_keep * sizeof(int));
	*ret = block;
	return 0;
}

void tdi_exit_block_free(struct tdi_exit_block *block)
{
	int err = tdi_sys_munmap(block->memory, block->size);

	if (err)
		tdi_die("exit helper: munmap: %s", strerrordesc_np(-err));
}
