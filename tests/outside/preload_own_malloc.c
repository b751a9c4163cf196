/* SPDX-License-Identifier: MIT */
/* Linked into preload_victim: a malloc of its own, which takes the place of anything
 * preloaded, and never frees. */
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char heap[(size_t)192 << 20] __attribute__((aligned(64)));
static _Atomic(size_t) heap_used;

void *malloc(size_t size)
{
	size_t room = ((size + 63) & ~(size_t)63) + 64, at;

	if (size > sizeof(heap))
		return NULL;
	at = atomic_fetch_add(&heap_used, room);
	if (at + room > sizeof(heap))
		return NULL;
	memcpy(heap + at, &size, sizeof(size));
	return heap + at + 64;
}

void free(void *pointer)
{
	if (pointer && ((char *)pointer < heap || (char *)pointer >= heap + sizeof(heap)))
		_exit(97);
}

void *calloc(size_t n, size_t size)
{
	return malloc(n * size);
}

void *realloc(void *pointer, size_t size)
{
	char *to = malloc(size);
	size_t old = 0;

	if (pointer)
		memcpy(&old, (char *)pointer - 64, sizeof(old));
	if (to && pointer)
		memcpy(to, pointer, old < size ? old : size);
	return to;
}
