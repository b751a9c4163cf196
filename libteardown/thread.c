/* SPDX-License-Identifier: MIT */
#include "thread.h"
#include "sys.h"

static _Atomic(void *) on_exit_fns[TDI_THREAD_USERS]; /* void (*)(void) */
static pthread_once_t key_once = PTHREAD_ONCE_INIT;
static pthread_key_t key;
static int key_error;

static void thread_ends(void *value)
{
	(void)value;
	for (unsigned user = 0; user < TDI_THREAD_USERS; user++) {
		/* Acquire: pairs with tdi_thread_on_exit. */
		void *fn = atomic_load_explicit(&on_exit_fns[user], memory_order_acquire);

		if (fn)
			((void (*)(void))fn)();
	}
}

static void make_key(void)
{
	key_error = tdi_sys_thread_key(&key, thread_ends);
}

void tdi_thread_on_exit(enum tdi_thread_user user, void (*fn)(void))
{
	/* The key is made early, while its number is low: see tdi_thread_watch. */
	pthread_once(&key_once, make_key);
	atomic_store_explicit(&on_exit_fns[user], (void *)fn, memory_order_release);
}

int tdi_thread_watch(void)
{
	pthread_once(&key_once, make_key);
	return key_error ? key_error : tdi_sys_thread_set(key, &key);
}

uint64_t tdi_thread_token(void)
{
	static _Atomic(uint64_t) last;
	static __thread uint64_t token;

	if (tdi_unlikely(token == 0))
		token = atomic_fetch_add_explicit(&last, 1, memory_order_relaxed) + 1;
	return token;
}
