/* SPDX-License-Identifier: MIT */
/*
 * Many threads that map, touch, unmap and map again in the same place, with patterns that
 * would show if anything were freed that is somebody else's, or not freed (D2, D3, A11).
 */
#include "hold.h"
#include "mapped.h"

#include <sys/wait.h>

enum { THREADS = 4, ROUNDS = TDT_SANITIZED ? 100 : 400, SLOTS = 4 };

#define SLOT_SIZE (4 * MIB)
#define RW (PROT_READ | PROT_WRITE)

static atomic_bool enough;
static atomic_uint refused;

static size_t random_length(unsigned *seed)
{
	size_t most = rand_r(seed) % 8 ? 64 : SLOT_SIZE / page;

	return page * (1 + (size_t)rand_r(seed) % most);
}

/* One mapping, or several. */
static void fill(char *addr, size_t length, unsigned mark, unsigned *seed)
{
	map_at(addr, length, RW);
	number_pages(addr, length, mark);
	if (length > 8 * page && rand_r(seed) % 2)
		ck_assert_int_eq(mprotect(addr + 3 * page, 2 * page, PROT_READ), 0);
}

/* Until it succeeds; what fails has changed nothing. */
static void unmap(char *addr, size_t length, unsigned mark)
{
	int err;

	while ((err = td_engine_munmap(engine, addr, length, 0)) != 0) {
		ck_assert_int_eq(err, -ENOMEM);
		check_numbers(addr, length, mark);
		atomic_fetch_add(&refused, 1);
	}
}

/* A hole in the middle, filled by something else at once. */
static void punch(char *addr, size_t length, unsigned mark)
{
	size_t third = tdi_align_down(length / 3, page);

	unmap(addr + third, third, mark + (unsigned)(third / page));
	map_at(addr + third, third, RW);
	ck_assert_int_eq(addr[third], 0);
	number_pages(addr + third, third, 77);
	check_numbers(addr, third, mark);
	check_numbers(addr + 2 * third, length - 2 * third,
		      mark + (unsigned)(2 * third / page));
	check_numbers(addr + third, third, 77);
	/* as if it had always been so */
	number_pages(addr + third, third, mark + (unsigned)(third / page));
}

static void *map_and_unmap(void *arg)
{
	unsigned number = (unsigned)(uintptr_t)arg, seed = number;
	char *base = (char *)TDT_FAR + number * GIB;
	size_t lengths[SLOTS] = {0};
	unsigned marks[SLOTS];

	for (unsigned round = 0; round < ROUNDS; round++) {
		unsigned slot = (unsigned)rand_r(&seed) % SLOTS;
		char *addr = base + slot * 2 * SLOT_SIZE;

		if (lengths[slot]) {
			check_numbers(addr, lengths[slot], marks[slot]);
			if (rand_r(&seed) % 4 == 0 && lengths[slot] > 16 * page)
				punch(addr, lengths[slot], marks[slot]);
			unmap(addr, lengths[slot], marks[slot]);
		}
		lengths[slot] = random_length(&seed);
		marks[slot] = (unsigned)rand_r(&seed);
		fill(addr, lengths[slot], marks[slot], &seed);
		if (rand_r(&seed) % 64 == 0)
			ck_assert_int_eq(td_engine_relieve(engine), 0);
	}
	for (unsigned slot = 0; slot < SLOTS; slot++) {
		if (!lengths[slot])
			continue;
		check_numbers(base + slot * 2 * SLOT_SIZE, lengths[slot], marks[slot]);
		unmap(base + slot * 2 * SLOT_SIZE, lengths[slot], marks[slot]);
	}
	return NULL;
}

/* Maps wherever the kernel likes: in what others leave, too, as soon as they do. */
static void *map_anywhere(void *arg)
{
	unsigned seed = 99;

	(void)arg;
	while (!atomic_load(&enough)) {
		char *addrs[8];
		size_t lengths[8];

		for (unsigned i = 0; i < 8; i++) {
			lengths[i] = random_length(&seed) / 4 + page;
			lengths[i] = tdi_align_down(lengths[i], page);
			addrs[i] = tdt_map_anon(lengths[i]);
			number_pages(addrs[i], lengths[i], i * 1000);
		}
		sched_yield();
		for (unsigned i = 0; i < 8; i++) {
			check_numbers(addrs[i], lengths[i], i * 1000);
			ck_assert_int_eq(munmap(addrs[i], lengths[i]), 0);
		}
	}
	return NULL;
}

/* With one thread more, unless `also` is NULL. */
static void run(void *(*also)(void *), void *arg)
{
	pthread_t threads[THREADS], elsewhere, another;
	struct tdt_footprint before = tdt_footprint();

	if (also)
		pthread_create(&another, NULL, also, arg);
	pthread_create(&elsewhere, NULL, map_anywhere, NULL);
	for (uintptr_t i = 0; i < THREADS; i++)
		pthread_create(&threads[i], NULL, map_and_unmap, (void *)(i + 1));
	for (int i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	atomic_store(&enough, true);
	pthread_join(elsewhere, NULL);
	if (also)
		pthread_join(another, NULL);
	tdi_sys_set_fault(NULL);
	drain();
	printf("# deferred %u, in the caller %u, refused %u\n",
	       (unsigned)stats().munmaps_deferred, (unsigned)stats().munmaps_in_caller,
	       atomic_load(&refused));
	ck_assert_uint_gt(stats().munmaps_deferred, 0);
	ck_assert_uint_eq(stats().bytes_quarantined, 0);
	ck_assert_uint_eq(stats().works_failed, 0);
	ck_assert_uint_eq(tdt_mapped((char *)TDT_FAR, (THREADS + 1) * GIB), 0);
	ck_assert_uint_eq(tdt_footprint().descriptors, before.descriptors);
	tdt_await_threads(before.threads);
	if (!TDT_SANITIZED) /* each thread that ever was has left an arena of malloc's */
		tdt_check_mappings(before.mappings, 4 * (THREADS + 4));
}

START_TEST(what_is_mapped_again_is_never_touched)
{
	run(NULL, NULL);
}
END_TEST

static int fail_at_random(enum tdi_sys_call call, uintptr_t addr, size_t length,
			  int detail)
{
	static atomic_uint calls;

	(void)addr;
	(void)length;
	(void)detail;
	switch (call) {
	case TDI_SYS_mremap:
	case TDI_SYS_madvise:
	case TDI_SYS_open:
	case TDI_SYS_ioctl:
		return atomic_fetch_add(&calls, 1) % 13 == 7 ? -ENOMEM : 0;
	default:
		return 0;
	}
}

START_TEST(with_calls_that_fail_what_is_mapped_again_is_never_touched)
{
	tdi_sys_set_fault(fail_at_random);
	run(NULL, NULL);
}
END_TEST

START_TEST(with_a_threshold_what_is_mapped_again_is_never_touched)
{
	ck_assert_int_eq(td_engine_set_munmap_threshold(engine, MIB), 0);
	run(NULL, NULL);
	ck_assert_uint_lt(stats().munmaps_deferred, THREADS * ROUNDS / 2);
}
END_TEST

static int live_on(unsigned number)
{
	size_t length = 64 * KIB;
	char *addr = (char *)TDT_FAR;
	int status;
	pid_t pid;

	if (mmap(addr, length, RW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1,
		 0) != addr)
		return 1;
	*(volatile unsigned *)(void *)addr = number;
	if (td_engine_munmap(engine, addr, length, 0))
		return 2;
	if (mmap(addr, length, RW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1,
		 0) != addr)
		return 3;
	pid = fork(); /* no lock has been left behind for it */
	if (pid == 0)
		_exit(td_engine_munmap(engine, addr, length, 0) ? 4 : 0);
	if (waitpid(pid, &status, 0) != pid)
		return 5;
	return WIFEXITED(status) ? WEXITSTATUS(status) : 6;
}

static void *fork_often(void *arg)
{
	unsigned *forks = arg;

	while (!atomic_load(&enough)) {
		int status;
		pid_t pid = fork();

		if (pid == 0) { /* without Check, whose lock another may have held */
			alarm(30);
			_exit(live_on(*forks));
		}
		ck_assert_int_gt(pid, 0);
		ck_assert_int_eq(waitpid(pid, &status, 0), pid);
		ck_assert_msg(status == 0, "child %u: status %#x", *forks,
			      (unsigned)status);
		++*forks;
	}
	return NULL;
}

START_TEST(forks_in_between_take_nothing_along)
{
	unsigned forks = 0;

	if (TDT_SANITIZED) {
		tdt_skip("a sanitizer's own locks do not survive a fork of threads");
		return;
	}
	run(fork_often, &forks);
	printf("# %u forks\n", forks);
	ck_assert_uint_gt(forks, 0);
}
END_TEST

int main(void)
{
	struct tdt *tests = tdt_suite("stress_munmap");
	const TTest *all[] = {
		what_is_mapped_again_is_never_touched,
		with_calls_that_fail_what_is_mapped_again_is_never_touched,
		with_a_threshold_what_is_mapped_again_is_never_touched,
		forks_in_between_take_nothing_along,
	};

	for (size_t i = 0; i < sizeof(all) / sizeof(*all); i++)
		tdt_add(tests, all[i], setup_eager, teardown);
	return tdt_run(tests);
}
