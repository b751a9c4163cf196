/* SPDX-License-Identifier: MIT */
/*
 * A3, A8, A11, C3: a machine of four NUMA nodes, as far as the library asks (the linker's
 * --wrap), whose spaces are put, unmapped in part, released and reaped by many threads at
 * once, and whose engines end in every way. All memory comes back once.
 */
#include "base.h"
#include "harness.h"
#include "many_nodes.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <teardown.h>

enum { NODES = 4, THREADS = 6, ROUNDS = TDT_SANITIZED ? 40 : 150 };

/* ---- a machine of four nodes: memory is on another one every 4 MiB ---- */

#define NODE_BYTES (4 * MIB)

unsigned __wrap_tdi_numa_here(void)
{
	static __thread unsigned calls;

	return calls++ % NODES;
}

int __wrap_tdi_numa_of_range(uintptr_t start, size_t length)
{
	uintptr_t first = start / NODE_BYTES, last = (start + length - 1) / NODE_BYTES;

	return last > first + 1 ? TDI_NODE_UNKNOWN : (int)(first % NODES);
}

/* ---- spaces ---- */

static td_engine *engine;
static atomic_uint made, reclaimed, canceled;
static _Atomic(uint64_t) bytes_mapped, bytes_told;

/* Once for each, and with all that was mapped, or it was abandoned. */
static void on_reclaimed(td_space *space, enum td_event event, int status, void *arg)
{
	struct td_space_stats now;

	(void)event;
	(void)arg;
	ck_assert(status == 0 || status == -ECANCELED);
	ck_assert_int_eq(td_space_stats(space, &now), 0);
	ck_assert_uint_eq(now.regions, 0);
	atomic_fetch_add(&bytes_told, now.bytes_reclaimed);
	atomic_fetch_add(status ? &canceled : &reclaimed, 1);
}

struct piece {
	char *addr;
	size_t length;
};

#define PIECES_MAX 6

static td_space *make(unsigned *seed, struct piece *pieces, unsigned *nr)
{
	static const size_t lengths[] = {64 * KIB, 2 * MIB, 6 * MIB, 20 * MIB};
	unsigned flags = rand_r(seed) % 3 ? 0 : TD_SPACE_DETACH;
	td_space *space;

	ck_assert_int_eq(
		td_space_create(engine,
				TD_SPACE_OPTS(.weight = (unsigned)rand_r(seed) % 300,
					      .flags = flags),
				&space),
		0);
	*nr = (unsigned)rand_r(seed) % PIECES_MAX;
	for (unsigned i = 0; i < *nr; i++) {
		struct piece *piece = &pieces[i];
		unsigned kind = TD_KIND_ANON;

		piece->length = lengths[(unsigned)rand_r(seed) % 4];
		if (rand_r(seed) % 4 == 0) {
			void *addr = mmap(NULL, piece->length, PROT_READ | PROT_WRITE,
					  MAP_SHARED | MAP_ANONYMOUS, -1, 0);

			ck_assert_ptr_ne(addr, MAP_FAILED);
			piece->addr = addr;
			kind = TD_KIND_SHARED;
		} else {
			piece->addr = tdt_map_anon(piece->length);
		}
		for (size_t at = 0; at < piece->length; at += 256 * KIB)
			piece->addr[at] = 1;
		ck_assert_int_eq(td_region_adopt(space, piece->addr, piece->length,
						 TD_REGION_OPTS(.kind = kind)),
				 0);
		atomic_fetch_add(&bytes_mapped, piece->length);
	}
	ck_assert_int_eq(td_space_on_event(space, TD_EVENT_RECLAIMED, on_reclaimed, NULL),
			 0);
	atomic_fetch_add(&made, 1);
	return space;
}

static void *reap(void *arg)
{
	td_space *space = arg;
	int err = td_space_reap(space, 0, TD_FOREVER);

	ck_assert(err == 0 || err == -ENXIO || err == -EEXIST || err == -EINPROGRESS);
	ck_assert_int_eq(td_space_drop(space), 0);
	return NULL;
}

static void help(td_space *space, unsigned *seed)
{
	unsigned flags = rand_r(seed) % 2 ? TD_RELEASE_KEEP_SHARED : 0;
	int err = td_space_release(space, flags);

	ck_assert(err == 0 || err == -EAGAIN);
}

static void end(td_space *space, unsigned *seed)
{
	pthread_t reaper;
	int err;

	ck_assert_int_eq(td_space_grab(space), 0);
	switch ((unsigned)rand_r(seed) % 6) {
	case 0:
		err = td_space_put_sync(space);
		ck_assert(err == 0 || err == -EINPROGRESS);
		break;
	case 1:
		ck_assert_int_eq(td_space_grab(space), 0);
		pthread_create(&reaper, NULL, reap, space);
		ck_assert_int_eq(td_space_put(space), 0);
		pthread_join(reaper, NULL);
		break;
	case 2:
		ck_assert_int_eq(td_space_put(space), 0);
		help(space, seed);
		break;
	default:
		ck_assert_int_eq(td_space_put(space), 0);
		break;
	}
	ck_assert_int_eq(td_space_drop(space), 0);
}

/* A part of the space leaves before it, or memory that is nobody's does. */
static void unmap_some(td_space *space, const struct piece *pieces, unsigned nr,
		       unsigned *seed)
{
	const struct piece *piece = &pieces[(unsigned)rand_r(seed) % PIECES_MAX];
	void *addr;

	if (piece < pieces + nr) {
		ck_assert_int_eq(td_region_unmap(space, piece->addr, piece->length / 2),
				 0);
		return;
	}
	addr = tdt_map_anon(12 * MIB);
	ck_assert_int_eq(td_engine_munmap(engine, addr, 12 * MIB, 0), 0);
}

static void *live(void *arg)
{
	unsigned seed = (unsigned)(uintptr_t)arg;

	for (unsigned round = 0; round < ROUNDS; round++) {
		struct piece pieces[PIECES_MAX];
		unsigned nr;
		td_space *space = make(&seed, pieces, &nr);

		if (rand_r(&seed) % 2)
			unmap_some(space, pieces, nr, &seed);
		end(space, &seed);
		if (rand_r(&seed) % 16 == 0)
			ck_assert_int_eq(td_engine_drain(engine, TD_FOREVER), 0);
		if (rand_r(&seed) % 16 == 0)
			(void)td_engine_relieve(engine);
	}
	return NULL;
}

static void make_engine(unsigned reapers, unsigned flags)
{
	ck_assert_int_eq(
		td_engine_create(TD_ENGINE_OPTS(.reapers = reapers, .flags = flags,
						.munmap_threshold = MIB,
						.slice_ns = 100000),
				 &engine),
		0);
}

static void live_and_die(unsigned reapers, unsigned flags)
{
	struct tdt_footprint before, after;
	struct td_engine_stats now;
	pthread_t threads[THREADS];

	make_engine(reapers, flags);
	before = tdt_footprint();
	for (unsigned i = 0; i < THREADS; i++)
		pthread_create(&threads[i], NULL, live, (void *)(uintptr_t)(i + 1));
	for (unsigned i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	ck_assert_int_eq(td_engine_drain(engine, TD_FOREVER), 0);
	ck_assert_uint_eq(atomic_load(&reclaimed), atomic_load(&made));
	ck_assert_uint_eq(atomic_load(&bytes_told), atomic_load(&bytes_mapped));
	ck_assert_int_eq(td_engine_stats(engine, &now), 0);
	ck_assert_uint_eq(now.bytes_pending, 0);
	ck_assert_uint_eq(now.works_pending, 0);
	ck_assert_uint_eq(now.bytes_quarantined, 0);
	printf("# spaces %u, slices %llu, stolen %llu, moves %llu\n", atomic_load(&made),
	       (unsigned long long)now.slices, (unsigned long long)now.slices_stolen,
	       (unsigned long long)now.moves_home);
	ck_assert_uint_gt(now.moves_home, 0);
	if (flags & TD_ENGINE_NO_STEAL)
		ck_assert_uint_eq(now.slices_stolen, 0);
	after = tdt_footprint();
	tdt_check_mappings(before.mappings, 64); /* threads' stacks and heaps */
	if (!TDT_SANITIZED)
		ck_assert_uint_le(after.rss_kib, before.rss_kib + 8192);
	ck_assert_int_eq(td_engine_destroy(engine, TD_EXIT_DRAIN, 0), 0);
}

START_TEST(spaces_on_four_nodes_live_and_die)
{
	live_and_die(4, 0);
}
END_TEST

START_TEST(where_nobody_steals)
{
	live_and_die(4, TD_ENGINE_NO_STEAL);
}
END_TEST

START_TEST(with_fewer_reapers_than_nodes)
{
	live_and_die(3, 0);
}
END_TEST

START_TEST(with_several_reapers_a_node)
{
	live_and_die(9, 0);
}
END_TEST

/* ---- engines that end ---- */

static void *put_it(void *arg)
{
	ck_assert_int_eq(td_space_put(arg), 0);
	return NULL;
}

static void end_while_putting(enum td_exit_mode mode, unsigned flags)
{
	for (unsigned round = 0; round < (TDT_SANITIZED ? 12 : 40); round++) {
		struct piece pieces[PIECES_MAX];
		unsigned nr, seed = round;
		td_space *spaces[THREADS];
		pthread_t threads[THREADS];
		int err;

		make_engine(1 + round % 6, flags);
		for (unsigned i = 0; i < THREADS; i++) {
			spaces[i] = make(&seed, pieces, &nr);
			ck_assert_int_eq(td_space_grab(spaces[i]), 0);
		}
		for (unsigned i = 0; i < THREADS; i++)
			pthread_create(&threads[i], NULL, put_it, spaces[i]);
		err = td_engine_destroy(engine, mode, rand_r(&seed) % 2000000);
		ck_assert(err == 0 || (mode == TD_EXIT_DEADLINE && err == -ETIMEDOUT));
		for (unsigned i = 0; i < THREADS; i++) {
			pthread_join(threads[i], NULL);
			err = td_space_wait(spaces[i], TD_EVENT_RECLAIMED, TD_FOREVER);
			ck_assert(err == 0 ||
				  (err == -ECANCELED && mode != TD_EXIT_DRAIN));
			ck_assert_int_eq(td_space_drop(spaces[i]), 0);
		}
	}
	ck_assert_uint_eq(atomic_load(&reclaimed) + atomic_load(&canceled),
			  atomic_load(&made));
	if (mode == TD_EXIT_DRAIN)
		ck_assert_uint_eq(atomic_load(&bytes_told), atomic_load(&bytes_mapped));
	printf("# %u spaces reclaimed, %u abandoned\n", atomic_load(&reclaimed),
	       atomic_load(&canceled));
}

START_TEST(engines_drain_while_others_put)
{
	end_while_putting(TD_EXIT_DRAIN, 0);
}
END_TEST

START_TEST(engines_end_at_their_deadline_while_others_put)
{
	end_while_putting(TD_EXIT_DEADLINE, 0);
}
END_TEST

START_TEST(engines_are_abandoned_while_others_put)
{
	end_while_putting(TD_EXIT_ABANDON, TD_ENGINE_NO_STEAL);
}
END_TEST

int main(void)
{
	struct tdt *tests = tdt_suite("stress_nodes");
	const TTest *all[] = {
		spaces_on_four_nodes_live_and_die,
		where_nobody_steals,
		with_fewer_reapers_than_nodes,
		with_several_reapers_a_node,
		engines_drain_while_others_put,
		engines_end_at_their_deadline_while_others_put,
		engines_are_abandoned_while_others_put,
	};

	for (size_t i = 0; i < sizeof(all) / sizeof(*all); i++)
		tdt_add(tests, all[i], NULL, NULL);
	return tdt_run(tests);
}
