/* SPDX-License-Identifier: MIT */
/*
 * E3, E9: one thread that enters or leaves, and one that closes and passes, at the same
 * moment, again and again: what the membarriers of a pass are for. The one who holds has
 * its store buffer full of other stores just before, so that what it stores becomes
 * visible late, on a machine that does such things but rarely.
 *
 * tdi_membarrier is called through ours (the linker's --wrap), which leaves one out.
 */
#include "harness.h"
#include "lazy_slots.h"
#include "membarrier.h"
#include "torture.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

/* So long, with as many rounds as the machine's other business allows. */
#define RUN_NS UINT64_C(1500000000)
/* Of a library that is broken: as a rule it is noticed at once. */
#define RUN_BROKEN_NS UINT64_C(15000000000)
#define TAKEN_SLOTS 48u /* that a pass looks at before it comes to the holder's */

/* ---- a library with a barrier missing ---- */

enum broken { WHOLE, NO_FIRST_BARRIER, NO_SECOND_BARRIER };
static enum broken broken;
static unsigned barriers; /* of this pass; of the one who passes */

int __real_tdi_membarrier(void);
int __wrap_tdi_membarrier(void);

int __wrap_tdi_membarrier(void)
{
	unsigned n = ++barriers;

	/* Without the second one the first is not missed, as the hold is there long
	 * before; but it would keep the two in step. */
	if (n == (unsigned)broken || broken == NO_SECOND_BARRIER)
		return 0;
	return __real_tdi_membarrier();
}

/* ---- the two ---- */

/* The object of all rounds, but of one at a time. */
static struct {
	_Alignas(TDI_CACHE_LINE) struct tdi_lazy lazy;
	_Alignas(TDI_CACHE_LINE) struct tdi_ref count;
	_Alignas(TDI_CACHE_LINE) _Atomic(bool) freed;
} object;

/* Rounds that each of them is ready for, and is through with. */
static struct {
	_Alignas(128) _Atomic(unsigned) at;
} ready[2], through[2];
enum { HOLDER, PASSER };

static struct {
	unsigned refused, kept, left, switched, stayed;
} seen;

/* What has been noticed, for the parent of a child that dies of it. */
enum noticed { NOTHING, FREED, LOST };
static enum noticed *noticed;

static void put_count(struct tdi_lazy *unused)
{
	(void)unused;
	if (tdi_ref_put(&object.count, "object", "duel", "count"))
		atomic_store(&object.freed, true);
}

/* Not for ever on the same CPU as the other one. */
static void await(const _Atomic(unsigned) *at, unsigned round)
{
	for (unsigned spins = 0; atomic_load(at) < round; spins++) {
		if (spins > 50000)
			sched_yield();
	}
}

static void meet(unsigned self, unsigned round)
{
	atomic_store(&ready[self].at, round);
	await(&ready[!self].at, round);
}

static void linger(unsigned n)
{
	while (n-- > 0)
		__asm__ volatile("" ::: "memory");
}

/* Lines that no cache has: storing to each takes its time, one after the other. */
#define LINES 48u
static char far_away[LINES * 4096];

/* Before, as it takes long. */
static void send_lines_away(void)
{
#ifdef __x86_64__
	for (unsigned i = 0; i < LINES; i++)
		__builtin_ia32_clflush(&far_away[i * 4096 + (i % 64) * 64]);
	__builtin_ia32_mfence();
#endif
}

static void fill_store_buffer(unsigned lines)
{
	for (unsigned i = 0; i < lines; i++)
		((volatile char *)far_away)[i * 4096 + (i % 64) * 64] = 1;
}

static void check_kept(void)
{
	if (!atomic_load(&object.freed))
		return;
	*noticed = FREED;
	notice("freed while it is held lazily");
}

/* Has a count, and enters while the other one closes. */
static void enter_in_round(unsigned round)
{
	int err;

	send_lines_away();
	meet(HOLDER, round);
	linger(round * 7 % 101);
	fill_store_buffer(round % LINES);
	err = tdi_lazy_enter(&object.lazy);
	put_count(&object.lazy);
	await(&through[PASSER].at, round);
	if (err) {
		must_be(err, -ENXIO, "tdi_lazy_enter");
		seen.refused++;
		return;
	}
	check_kept();
	must_be(tdi_lazy_leave(), 0, "tdi_lazy_leave");
	seen.kept++;
}

/* Has entered, and leaves while the other one passes. */
static void leave_in_round(unsigned round)
{
	must_be(tdi_lazy_enter(&object.lazy), 0, "tdi_lazy_enter");
	send_lines_away();
	meet(HOLDER, round);
	linger(round * 7 % 4001);
	fill_store_buffer(round % LINES);
	check_kept();
	must_be(tdi_lazy_leave(), 0, "tdi_lazy_leave");
	put_count(&object.lazy);
	seen.left++;
	await(&through[PASSER].at, round);
}

/* Switches to what it holds already, with nothing else that allows it. */
static void switch_in_round(unsigned round)
{
	int err;

	must_be(tdi_lazy_enter(&object.lazy), 0, "tdi_lazy_enter");
	put_count(&object.lazy);
	send_lines_away();
	meet(HOLDER, round);
	linger(round * 7 % 101);
	fill_store_buffer(round % LINES);
	err = tdi_lazy_switch(&object.lazy);
	if (err) {
		must_be(err, -ENXIO, "tdi_lazy_switch");
		seen.stayed++;
	} else {
		seen.switched++;
	}
	await(&through[PASSER].at, round);
	check_kept();
	must_be(tdi_lazy_leave(), 0, "tdi_lazy_leave");
}

enum { ENTERS, LEAVES, SWITCHES, KINDS };

static void (*const holder_does[KINDS])(unsigned round) = {
	[ENTERS] = enter_in_round,
	[LEAVES] = leave_in_round,
	[SWITCHES] = switch_in_round,
};

static unsigned kind_of(unsigned round)
{
	if (broken == WHOLE)
		return round % KINDS;
	return broken == NO_FIRST_BARRIER ? ENTERS : LEAVES;
}

static atomic_bool over; /* after the round that the holder is through with */

static void *pass_on(void *unused)
{
	(void)unused;
	for (unsigned round = 1; !atomic_load(&over); round++) {
		meet(PASSER, round);
		linger(round * 11 % (kind_of(round) == LEAVES ? 1009 : 4001));
		barriers = 0;
		tdi_lazy_close(&object.lazy);
		must_be(tdi_lazy_pass(&object.lazy), 0, "tdi_lazy_pass");
		put_count(&object.lazy); /* of all users */
		atomic_store(&through[PASSER].at, round);
		await(&through[HOLDER].at, round);
	}
	return NULL;
}

static void on_a_cpu(pthread_t thread, unsigned number)
{
	cpu_set_t all, one;
	unsigned cpu = 0;

	sched_getaffinity(0, sizeof(all), &all);
	for (unsigned after = number % (unsigned)CPU_COUNT(&all);
	     !CPU_ISSET(cpu, &all) || after-- > 0;)
		cpu++;
	CPU_ZERO(&one);
	CPU_SET(cpu, &one);
	pthread_setaffinity_np(thread, sizeof(one), &one);
}

static void duel(uint64_t run_ns)
{
	uint64_t until = tdi_sys_now_ns() + run_ns;
	pthread_t passer;

	memset(far_away, 1, sizeof(far_away));
	for (unsigned i = 0; i < TAKEN_SLOTS; i++)
		(void)tdi_lazy_slot_take();
	/* Registered, so that it is no more by an exchange that it enters. */
	tdi_ref_init(&object.count, 1);
	tdi_lazy_init(&object.lazy, &object.count, put_count, "duel");
	must_be(tdi_lazy_enter(&object.lazy), 0, "tdi_lazy_enter");
	must_be(tdi_lazy_leave(), 0, "tdi_lazy_leave");
	must_be(pthread_create(&passer, NULL, pass_on, NULL), 0, "pthread_create");
	on_a_cpu(passer, 1);
	on_a_cpu(pthread_self(), 0);
	for (unsigned round = 1; !atomic_load(&over); round++) {
		tdi_ref_init(&object.count, 2); /* all users', and ours */
		tdi_lazy_init(&object.lazy, &object.count, put_count, "duel");
		atomic_store(&object.freed, false);
		holder_does[kind_of(round)](round);
		if (!atomic_load(&object.freed)) {
			*noticed = LOST;
			notice("never freed, round %u: a lazy hold's count is lost",
			       round);
		}
		atomic_store(&over, tdi_sys_now_ns() >= until);
		atomic_store(&through[HOLDER].at, round);
	}
	pthread_join(passer, NULL);
}

static void check_and_print(const char *mode)
{
	struct tdi_lazy_tally now;

	tdi_lazy_tally(&now);
	printf("# %s: entered %u, refused %u; left %u; switched %u, refused %u; tagged "
	       "%llu, dropped %llu, gave "
	       "back "
	       "%llu\n",
	       mode, seen.kept, seen.refused, seen.left, seen.switched, seen.stayed,
	       (unsigned long long)now.tagged, (unsigned long long)now.dropped,
	       (unsigned long long)now.taken_back);
	ck_assert_uint_eq(now.tagged, now.dropped + now.taken_back);
	ck_assert_uint_eq(now.refused, seen.refused + seen.stayed);
	ck_assert_uint_eq(now.passes, seen.refused + seen.kept + seen.left +
					      seen.switched + seen.stayed);
}

START_TEST(no_hold_is_missed_and_no_count_is_lost)
{
	ck_assert(tdi_membarrier_works());
	duel(RUN_NS);
	check_and_print("membarrier");
}
END_TEST

START_TEST(nor_without_membarrier)
{
	tdt_fail(TDI_SYS_membarrier, -ENOSYS, 0, UINT32_MAX);
	ck_assert(!tdi_membarrier_works());
	duel(RUN_NS);
	check_and_print("exchange");
}
END_TEST

/*
 * In a process of its own. Not even a machine that lets loads pass stores has to do so
 * when it is wanted: where other programs keep the two apart there is nothing to see.
 */
static void duel_broken(enum broken step, enum noticed expected)
{
	int status;
	pid_t pid;

	if (TDT_SANITIZED) {
		tdt_skip("a sanitizer's own code empties store buffers");
		return;
	}
	*noticed = NOTHING;
	pid = fork();
	if (pid == 0) {
		broken = step;
		duel(RUN_BROKEN_NS);
		_exit(EXIT_SUCCESS);
	}
	ck_assert_int_gt(pid, 0);
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	if (WIFEXITED(status) && WEXITSTATUS(status) == EXIT_SUCCESS) {
		tdt_skip("this machine, as busy as it is, did not show it");
		return;
	}
	ck_assert_msg(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT, "status %#x",
		      (unsigned)status);
	ck_assert_int_eq(*noticed, expected);
}

/* E9: p1 */
START_TEST(a_missing_first_barrier_is_noticed)
{
	duel_broken(NO_FIRST_BARRIER, FREED);
}
END_TEST

/* E9: p5 */
START_TEST(a_missing_second_barrier_is_noticed)
{
	duel_broken(NO_SECOND_BARRIER, LOST);
}
END_TEST

static void share(void)
{
	noticed = mmap(NULL, sizeof(*noticed), PROT_READ | PROT_WRITE,
		       MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	ck_assert_ptr_ne(noticed, MAP_FAILED);
}

int main(void)
{
	struct tdt *tests = tdt_suite("duel_lazy");

	tdt_add(tests, no_hold_is_missed_and_no_count_is_lost, share, NULL);
	tdt_add(tests, nor_without_membarrier, share, NULL);
	tdt_add(tests, a_missing_first_barrier_is_noticed, share, NULL);
	tdt_add(tests, a_missing_second_barrier_is_noticed, share, NULL);
	return tdt_run(tests);
}
