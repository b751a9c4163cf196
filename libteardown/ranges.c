/* SPDX-License-Identifier: MIT */
#include "ranges.h"
#include "sys.h"

#include <pthread.h>
#include <search.h>

/*
 * glibc's balanced tree, with "overlaps" for "equal". Claimed ranges never overlap each
 * other, so among them this is a true order, and looking up a range that is equal to
 * none of them finds that there is room for it.
 */
static void *tree;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static int compare(const void *left, const void *right)
{
	const struct tdi_range *a = left, *b = right;

	if (a->end <= b->start)
		return -1;
	return a->start >= b->end;
}

int tdi_ranges_claim(struct tdi_range *range)
{
	struct tdi_range **found;
	int err = 0;

	pthread_mutex_lock(&lock);
	found = tsearch(range, &tree, compare);
	if (!found)
		err = -ENOMEM;
	else if (*found != range)
		err = -EEXIST;
	pthread_mutex_unlock(&lock);
	return err;
}

/* Under the lock. */
static void release(struct tdi_range *range)
{
	struct tdi_range **found = tfind(range, &tree, compare);

	if (!found || *found != range)
		tdi_die("range %#lx-%#lx: released but not claimed",
			(unsigned long)range->start, (unsigned long)range->end);
	tdelete(range, &tree, compare);
	range->start = range->end;
}

void tdi_ranges_release(struct tdi_range *range)
{
	pthread_mutex_lock(&lock);
	release(range);
	pthread_mutex_unlock(&lock);
}

int tdi_ranges_unmap(struct tdi_range *range, uintptr_t start, size_t length)
{
	int err;

	pthread_mutex_lock(&lock);
	err = tdi_sys_munmap((void *)start, length);
	if (!err && start + length == range->end)
		release(range);
	else if (!err) /* its place among the others is the same */
		range->start = start + length;
	pthread_mutex_unlock(&lock);
	return err;
}

void tdi_ranges_before_fork(void)
{
	pthread_mutex_lock(&lock);
}

void tdi_ranges_after_fork(bool in_child)
{
	if (in_child)
		tree = NULL;
	pthread_mutex_unlock(&lock);
}
