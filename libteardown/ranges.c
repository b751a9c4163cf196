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
static pthread_cond_t settled = PTHREAD_COND_INITIALIZER;

/*
 * The tree's nodes come from malloc, whose owner may have it unmap memory by td_munmap:
 * an allocator's hooks do. Such a call is inside the lock already.
 */
static __thread bool allocating;

static int compare(const void *left, const void *right)
{
	const struct tdi_range *a = left, *b = right;

	if (a->end <= b->start)
		return -1;
	return a->start >= b->end;
}

/* Under the lock. */
static int claim(struct tdi_range *range)
{
	for (;;) {
		struct tdi_range **found;

		allocating = true;
		found = tsearch(range, &tree, compare);
		allocating = false;
		if (!found)
			return -ENOMEM;
		if (*found == range)
			return 0;
		if (!(*found)->leaving)
			return -EEXIST;
		pthread_cond_wait(&settled, &lock);
	}
}

int tdi_ranges_claim(struct tdi_range *range)
{
	int err;

	range->leaving = false;
	pthread_mutex_lock(&lock);
	err = claim(range);
	pthread_mutex_unlock(&lock);
	return err;
}

int tdi_ranges_split(struct tdi_range *range, uintptr_t at, struct tdi_range *tail)
{
	int err;

	pthread_mutex_lock(&lock);
	*tail = (struct tdi_range){at, range->end, false};
	range->end = at;
	err = claim(tail);
	if (err)
		range->end = tail->end;
	pthread_mutex_unlock(&lock);
	return err;
}

/* Under the lock. Where the tree points to the claim. */
static struct tdi_range **place_of(struct tdi_range *range)
{
	struct tdi_range **found = tfind(range, &tree, compare);

	if (!found || *found != range)
		tdi_die("range %#lx-%#lx: not claimed", (unsigned long)range->start,
			(unsigned long)range->end);
	return found;
}

/* Under the lock. */
static void release(struct tdi_range *range)
{
	(void)place_of(range);
	allocating = true;
	tdelete(range, &tree, compare);
	allocating = false;
	range->start = range->end;
}

void tdi_ranges_join(struct tdi_range *range, struct tdi_range *tail)
{
	uintptr_t end = tail->end;

	pthread_mutex_lock(&lock);
	release(tail);
	range->end = end;
	pthread_cond_broadcast(&settled);
	pthread_mutex_unlock(&lock);
}

void tdi_ranges_hand_over(struct tdi_range *range, struct tdi_range *heir)
{
	pthread_mutex_lock(&lock);
	*place_of(range) = heir;
	range->start = range->end;
	pthread_mutex_unlock(&lock);
}

void tdi_ranges_release(struct tdi_range *range)
{
	pthread_mutex_lock(&lock);
	release(range);
	pthread_cond_broadcast(&settled);
	pthread_mutex_unlock(&lock);
}

void tdi_ranges_leave(struct tdi_range *range)
{
	pthread_mutex_lock(&lock);
	range->leaving = true;
	pthread_mutex_unlock(&lock);
}

void tdi_ranges_stay(struct tdi_range *range)
{
	pthread_mutex_lock(&lock);
	range->leaving = false;
	pthread_cond_broadcast(&settled);
	pthread_mutex_unlock(&lock);
}

int tdi_ranges_unmap(struct tdi_range *range, uintptr_t start, size_t length)
{
	int err;

	tdi_ranges_leave(range);
	err = tdi_sys_munmap((void *)start, length);
	pthread_mutex_lock(&lock);
	range->leaving = false;
	if (!err && start + length == range->end)
		release(range);
	else if (!err) /* its place among the others is the same */
		range->start = start + length;
	pthread_cond_broadcast(&settled);
	pthread_mutex_unlock(&lock);
	return err;
}

/* Under the lock. What is leaving may be gone, and the addresses somebody else's. */
static bool overlap(uintptr_t start, uintptr_t end)
{
	while (start < end) {
		struct tdi_range range = {start, end, false};
		struct tdi_range **found = tfind(&range, &tree, compare);

		if (!found)
			return false;
		if (!(*found)->leaving || overlap(start, (*found)->start))
			return true;
		start = (*found)->end;
	}
	return false;
}

bool tdi_ranges_overlap(uintptr_t start, uintptr_t end)
{
	bool found;

	if (allocating) /* an allocator's own memory is no region */
		return false;
	pthread_mutex_lock(&lock);
	found = overlap(start, end);
	pthread_mutex_unlock(&lock);
	return found;
}

void tdi_ranges_after_fork_in_child(void)
{
	/* Whoever held the lock, or waited, is not here, and the claims are not ours. */
	tree = NULL;
	lock = (pthread_mutex_t)PTHREAD_MUTEX_INITIALIZER;
	settled = (pthread_cond_t)PTHREAD_COND_INITIALIZER;
}
