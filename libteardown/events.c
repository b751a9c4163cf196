/* SPDX-License-Identifier: MIT */
#include "events.h"
#include "sys.h"

#include <limits.h>
#include <stdlib.h>
#include <sys/eventfd.h>

/* A watch is pushed by its adder, and the whole list is taken once, by the raiser. */
struct tdi_watch {
	struct tdi_watch *next;
	int fd;
	void (*call)(void);
	void *arg;
};

/* In place of a list that has been taken. */
static struct tdi_watch taken;

static unsigned index_of(uint32_t event)
{
	return (unsigned)__builtin_ctz(event);
}

void tdi_events_init(struct tdi_events *events)
{
	atomic_init(&events->word, 0);
	for (unsigned i = 0; i < TDI_EVENTS_MAX; i++) {
		atomic_init(&events->waiters[i], 0);
		atomic_init(&events->fds[i], NULL);
		atomic_init(&events->calls[i], NULL);
	}
}

/* False: the list was taken already. */
static bool push(_Atomic(struct tdi_watch *) *list, struct tdi_watch *watch)
{
	/* Acquire: whoever finds the list taken also sees what its taker did before. */
	struct tdi_watch *head = atomic_load_explicit(list, memory_order_acquire);

	do {
		if (head == &taken)
			return false;
		watch->next = head;
		/* Release: the taker reads the watch. */
	} while (!atomic_compare_exchange_weak_explicit(
		list, &head, watch, memory_order_release, memory_order_acquire));
	return true;
}

/* The list, first come first. */
TDI_HOT static struct tdi_watch *take(_Atomic(struct tdi_watch *) *list)
{
	struct tdi_watch *watch =
		atomic_exchange_explicit(list, &taken, memory_order_acq_rel);
	struct tdi_watch *ordered = NULL;

	while (watch && watch != &taken) {
		struct tdi_watch *next = watch->next;

		watch->next = ordered;
		ordered = watch;
		watch = next;
	}
	return ordered;
}

static void ring(int fd)
{
	const uint64_t one = 1;
	ssize_t wrote;

	/* A new eventfd has room for one, so only a signal can be in the way. */
	do {
		wrote = tdi_sys_write(fd, &one, sizeof(one));
	} while (wrote == -EINTR);
	if (wrote < 0)
		tdi_warn("cannot signal eventfd %d: error %d", fd, (int)-wrote);
}

TDI_HOT void tdi_events_raise(struct tdi_events *events, uint32_t event)
{
	struct tdi_watch *watch;

	/* seq_cst pairs with the waiter's count-then-look in tdi_events_wait: one of us
	 * sees the other. */
	atomic_fetch_or_explicit(&events->word, event, memory_order_seq_cst);
	if (atomic_load_explicit(&events->waiters[index_of(event)],
				 memory_order_seq_cst) > 0)
		tdi_sys_futex_wake_bits(&events->word, INT_MAX, event);
	watch = take(&events->fds[index_of(event)]);
	while (watch) {
		struct tdi_watch *next = watch->next;

		ring(watch->fd);
		(void)tdi_sys_close(watch->fd);
		free(watch);
		watch = next;
	}
}

int tdi_events_wait(struct tdi_events *events, uint32_t event, uint64_t deadline_ns)
{
	_Atomic(uint32_t) *waiters = &events->waiters[index_of(event)];
	uint32_t word;
	int err = 0;

	if (tdi_events_happened(events, event))
		return 0;
	/* seq_cst: see tdi_events_raise */
	atomic_fetch_add_explicit(waiters, 1, memory_order_seq_cst);
	for (;;) {
		word = atomic_load_explicit(&events->word, memory_order_seq_cst);
		if (word & event)
			break;
		if (err == -ETIMEDOUT)
			break;
		err = tdi_sys_futex_wait_bits(&events->word, word, event, deadline_ns);
	}
	atomic_fetch_sub_explicit(waiters, 1, memory_order_relaxed);
	return (word & event) ? 0 : -ETIMEDOUT;
}

int tdi_events_add_fd(struct tdi_events *events, uint32_t event, int *ret)
{
	struct tdi_watch *watch = calloc(1, sizeof(*watch));
	int fd, err;

	if (!watch)
		return -ENOMEM;
	fd = tdi_sys_eventfd(EFD_CLOEXEC | EFD_NONBLOCK);
	if (fd < 0) {
		free(watch);
		return fd;
	}
	/* The caller may close his at any time, and its number may be used anew. */
	watch->fd = tdi_sys_dup_cloexec(fd);
	if (watch->fd < 0) {
		err = watch->fd;
		free(watch);
		(void)tdi_sys_close(fd);
		return err;
	}
	if (!push(&events->fds[index_of(event)], watch)) {
		ring(watch->fd);
		(void)tdi_sys_close(watch->fd);
		free(watch);
	}
	*ret = fd;
	return 0;
}

int tdi_events_add_call(struct tdi_events *events, uint32_t event, void (*call)(void),
			void *arg)
{
	struct tdi_watch *watch = calloc(1, sizeof(*watch));

	if (!watch)
		return -ENOMEM;
	watch->call = call;
	watch->arg = arg;
	if (!push(&events->calls[index_of(event)], watch)) {
		free(watch);
		return -EALREADY;
	}
	return 0;
}

bool tdi_events_close_calls(struct tdi_events *events, uint32_t event)
{
	struct tdi_watch *none = NULL;

	return atomic_compare_exchange_strong_explicit(
		&events->calls[index_of(event)], &none, &taken, memory_order_acq_rel,
		memory_order_acquire);
}

void tdi_events_take_calls(struct tdi_events *events, uint32_t event,
			   tdi_events_visit *visit, void *owner)
{
	struct tdi_watch *watch = take(&events->calls[index_of(event)]);

	while (watch) {
		struct tdi_watch *next = watch->next;

		visit(owner, watch->call, watch->arg);
		free(watch);
		watch = next;
	}
}
