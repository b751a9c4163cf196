/* SPDX-License-Identifier: MIT */
/*
 * What a reference costs: taken and given back, a pair, by threads that all do so with
 * one object. And the pass over the slots of all threads when a space dies.
 */
#include "common.h"

#include <errno.h>
#include <linux/filter.h>
#include <linux/membarrier.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <urcu/ref.h>
#include <urcu/urcu-memb.h>

/* Of each thread, in a sample. What is not shared is faster. */
#define PAIRS(way) ((way) <= TD_COUNT ? 2000000u : 8000000u)
#define WARM_PAIRS 10000u

enum { PAIR_NS };
enum { PASS_US, COLD_US };
/* The shared ones first. */
enum way { ATOMIC, URCU_REF, TD_USER, TD_COUNT, LAZY, LAZY_XCHG, EXCHANGE, RCU, NR_WAYS };

static const char *const way_names[NR_WAYS] = {
	[ATOMIC] = "atomic",	 [URCU_REF] = "urcu_ref", [TD_USER] = "td_user",
	[TD_COUNT] = "td_count", [LAZY] = "lazy",	  [LAZY_XCHG] = "lazy_xchg",
	[EXCHANGE] = "exchange", [RCU] = "rcu",
};

/* ---- pairs ---- */

/* What all threads refer to at once, each on cache lines of its own. */
static struct {
	_Alignas(128) _Atomic(uint32_t) count;
	_Alignas(128) struct urcu_ref ref;
	_Alignas(128) td_space *space;
} shared;

static void release_never(struct urcu_ref *ref)
{
	(void)ref;
	abort();
}

/* Each a loop of its own, with nothing between the pairs. Negative once anything was. */
#define PAIRS_OF(name, up, down)                                                         \
	static int name(unsigned n)                                                      \
	{                                                                                \
		td_space *space = shared.space;                                          \
		_Alignas(128) _Atomic(td_space *) own = NULL;                            \
		int bad = 0;                                                             \
                                                                                         \
		(void)space;                                                             \
		(void)own;                                                               \
		for (unsigned i = 0; i < n; i++) {                                       \
			up;                                                              \
			__asm__ volatile("" ::: "memory");                               \
			down;                                                            \
			__asm__ volatile("" ::: "memory");                               \
		}                                                                        \
		return bad;                                                              \
	}

/* The least that counting takes: nothing is checked. */
PAIRS_OF(atomic_pairs, atomic_fetch_add_explicit(&shared.count, 1, memory_order_relaxed),
	 atomic_fetch_sub_explicit(&shared.count, 1, memory_order_release))
PAIRS_OF(urcu_ref_pairs, urcu_ref_get(&shared.ref),
	 urcu_ref_put(&shared.ref, release_never))
PAIRS_OF(td_user_pairs, bad |= td_space_get(space), bad |= td_space_put(space))
PAIRS_OF(td_count_pairs, bad |= td_space_grab(space), bad |= td_space_drop(space))
PAIRS_OF(lazy_pairs, bad |= td_lazy_enter(space), bad |= td_lazy_leave())
/* The least that a mark without membarrier takes: a store, and one exchange. */
PAIRS_OF(exchange_pairs, atomic_store_explicit(&own, space, memory_order_release),
	 (void)atomic_exchange_explicit(&own, NULL, memory_order_seq_cst))
PAIRS_OF(rcu_pairs, urcu_memb_read_lock(), urcu_memb_read_unlock())

static int (*const pairs_of[NR_WAYS])(unsigned n) = {
	[ATOMIC] = atomic_pairs,     [URCU_REF] = urcu_ref_pairs,
	[TD_USER] = td_user_pairs,   [TD_COUNT] = td_count_pairs,
	[LAZY] = lazy_pairs,	     [LAZY_XCHG] = lazy_pairs,
	[EXCHANGE] = exchange_pairs, [RCU] = rcu_pairs,
};

/* Of this thread's CPU time, which other programs add little to. */
static uint64_t thread_ns(void)
{
	struct timespec time;

	bench_must(clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time) ? -errno : 0,
		   "clock_gettime");
	return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

#define THREADS_MAX 4u

struct worker {
	pthread_t thread;
	pthread_barrier_t *begin;
	enum way way;
	unsigned number;
	uint64_t took_ns;
};

/* Each on a CPU of its own, as far as there are any: two on one would not compete. */
static void stay_on_a_cpu(unsigned number)
{
	cpu_set_t all, one;
	unsigned cpu = 0, after;

	bench_must(sched_getaffinity(0, sizeof(all), &all) ? -errno : 0,
		   "sched_getaffinity");
	after = number % (unsigned)CPU_COUNT(&all);
	while (!CPU_ISSET(cpu, &all) || after-- > 0)
		cpu++;
	CPU_ZERO(&one);
	CPU_SET(cpu, &one);
	bench_must(sched_setaffinity(0, sizeof(one), &one) ? -errno : 0,
		   "sched_setaffinity");
}

static void *work_on(void *arg)
{
	struct worker *worker = arg;
	int (*pairs)(unsigned) = pairs_of[worker->way];
	uint64_t began;

	stay_on_a_cpu(worker->number);
	urcu_memb_register_thread();
	bench_must(pairs(WARM_PAIRS), way_names[worker->way]);
	pthread_barrier_wait(worker->begin);
	began = thread_ns();
	bench_must(pairs(PAIRS(worker->way)), way_names[worker->way]);
	worker->took_ns = thread_ns() - began;
	urcu_memb_unregister_thread();
	return NULL;
}

/* Time of one pair, with so many threads at it: their mean. */
static double pair_ns(enum way way, unsigned threads)
{
	struct worker workers[THREADS_MAX];
	pthread_barrier_t begin;
	double sum = 0;

	bench_must(-pthread_barrier_init(&begin, NULL, threads), "pthread_barrier_init");
	for (unsigned i = 0; i < threads; i++) {
		workers[i] = (struct worker){.begin = &begin, .way = way, .number = i};
		bench_must(
			-pthread_create(&workers[i].thread, NULL, work_on, &workers[i]),
			"pthread_create");
	}
	for (unsigned i = 0; i < threads; i++) {
		bench_must(-pthread_join(workers[i].thread, NULL), "pthread_join");
		sum += (double)workers[i].took_ns;
	}
	bench_must(-pthread_barrier_destroy(&begin), "pthread_barrier_destroy");
	return sum / threads / PAIRS(way);
}

static void shared_make(td_engine *engine)
{
	shared.count = 1;
	urcu_ref_init(&shared.ref);
	bench_must(td_space_create(engine, TD_SPACE_OPTS(.name = "bench"), &shared.space),
		   "td_space_create");
}

/* ---- lazy_xchg: in a process of its own, which has no membarrier ---- */

/* The low half of it. */
#define FIRST_ARGUMENT                                                                   \
	(offsetof(struct seccomp_data, args) +                                           \
	 (__BYTE_ORDER__ == __ORDER_BIG_ENDIAN__ ? sizeof(uint32_t) : 0))

struct without {
	pid_t pid;
	int ask, answer;
};

static void transfer(ssize_t done, size_t size)
{
	bench_must(done < 0 ? -errno : done != (ssize_t)size ? -EPIPE : 0, "pipe");
}

/*
 * A filter answers the call by which a process registers, as where the kernel has no
 * membarrier. Only that one: liburcu has registered already, and could not do without.
 */
static void forbid_membarrier(void)
{
	const unsigned command = MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED;
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_membarrier, 0, 3),
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, FIRST_ARGUMENT),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, command, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOSYS),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog filter = {sizeof(code) / sizeof(code[0]), code};

	bench_must(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) ? -errno : 0, "prctl");
	bench_must(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) ? -errno : 0,
		   "seccomp");
	bench_must(syscall(SYS_membarrier, command, 0, 0) == 0 ? -EINVAL : 0,
		   "a filter of membarrier");
}

__attribute__((noreturn)) static void answer(int asked, int answered)
{
	unsigned threads;
	double ns;

	forbid_membarrier();
	shared_make(bench_engine(1));
	while (read(asked, &threads, sizeof(threads)) == (ssize_t)sizeof(threads)) {
		ns = pair_ns(LAZY_XCHG, threads);
		transfer(write(answered, &ns, sizeof(ns)), sizeof(ns));
	}
	_exit(EXIT_SUCCESS);
}

/* Before the library is used. */
static struct without without_start(void)
{
	struct without peer;
	int asks[2], answers[2];

	bench_must(pipe(asks) || pipe(answers) ? -errno : 0, "pipe");
	fflush(stdout);
	peer.pid = fork();
	bench_must(peer.pid < 0 ? -errno : 0, "fork");
	if (peer.pid == 0) {
		close(asks[1]);
		close(answers[0]);
		answer(asks[0], answers[1]);
	}
	close(asks[0]);
	close(answers[1]);
	peer.ask = asks[1];
	peer.answer = answers[0];
	return peer;
}

static double without_ask(const struct without *peer, unsigned threads)
{
	double ns;

	transfer(write(peer->ask, &threads, sizeof(threads)), sizeof(threads));
	transfer(read(peer->answer, &ns, sizeof(ns)), sizeof(ns));
	return ns;
}

static void without_stop(struct without *peer)
{
	close(peer->ask);
	close(peer->answer);
	bench_must(waitpid(peer->pid, NULL, 0) < 0 ? -errno : 0, "waitpid");
}

/* ---- all ways in turn ---- */

static const unsigned thread_numbers[] = {1, 2, 4};
#define NR_NUMBERS (sizeof(thread_numbers) / sizeof(thread_numbers[0]))

struct setup {
	const struct without *peer;
	enum way way;
	unsigned threads;
};

static void sample_pairs(const struct bench_subject *self, size_t size, double *values)
{
	const struct setup *setup = self->arg;

	(void)size;
	values[PAIR_NS] = setup->way == LAZY_XCHG
				  ? without_ask(setup->peer, setup->threads)
				  : pair_ns(setup->way, setup->threads);
}

static void print_pairs(const struct bench_subject *subject)
{
	const struct setup *setup = subject->arg;

	printf("bench=refs subject=%s threads=%u", subject->name, setup->threads);
	bench_print_range("pair_ns", subject, PAIR_NS);
	printf(" repeat=%u\n", subject->series[PAIR_NS].n);
}

static void run_pairs(const struct without *peer, unsigned repeat)
{
	static struct bench_subject subjects[NR_NUMBERS][NR_WAYS];
	struct setup setups[NR_NUMBERS][NR_WAYS];
	double ns[NR_NUMBERS][NR_WAYS];

	for (size_t k = 0; k < NR_NUMBERS; k++) {
		for (unsigned way = 0; way < NR_WAYS; way++) {
			setups[k][way] =
				(struct setup){peer, (enum way)way, thread_numbers[k]};
			subjects[k][way].name = way_names[way];
			subjects[k][way].sample = sample_pairs;
			subjects[k][way].arg = &setups[k][way];
		}
	}
	bench_rounds(&subjects[0][0], NR_NUMBERS * NR_WAYS, 0, repeat);
	for (size_t k = 0; k < NR_NUMBERS; k++) {
		for (unsigned way = 0; way < NR_WAYS; way++) {
			print_pairs(&subjects[k][way]);
			ns[k][way] = bench_median(&subjects[k][way], PAIR_NS);
		}
	}
	for (size_t k = 0; k < NR_NUMBERS; k++)
		printf("summary bench=refs threads=%u td_user_over_atomic=%.2f "
		       "td_count_over_atomic=%.2f lazy_ns=%.2f lazy_over_1_thread=%.2f "
		       "lazy_xchg_over_exchange=%.2f\n",
		       thread_numbers[k], ns[k][TD_USER] / ns[k][ATOMIC],
		       ns[k][TD_COUNT] / ns[k][ATOMIC], ns[k][LAZY],
		       ns[k][LAZY] / ns[0][LAZY], ns[k][LAZY_XCHG] / ns[k][EXCHANGE]);
}

/* ---- the pass ---- */

#define PASSES 20u /* in a sample; the median counts */
#define OTHER_BYTES ((size_t)64 << 20)
#define IDLE_MAX 10000u

/* Threads that have held something once, and now sleep until it is over. */
struct idle {
	pthread_t threads[IDLE_MAX];
	unsigned n;
	sem_t ready, over;
};

static void *be_idle(void *arg)
{
	struct idle *idle = arg;

	bench_must(td_lazy_enter(shared.space), "td_lazy_enter");
	bench_must(td_lazy_leave(), "td_lazy_leave");
	sem_post(&idle->ready);
	while (sem_wait(&idle->over))
		;
	return NULL;
}

/* False: the system does not allow so many threads. */
static bool idle_grow(struct idle *idle, unsigned n)
{
	pthread_attr_t attr;
	int err = 0;

	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, (size_t)64 << 10);
	while (idle->n < n && !err) {
		err = -pthread_create(&idle->threads[idle->n], &attr, be_idle, idle);
		if (!err) {
			idle->n++;
			while (sem_wait(&idle->ready))
				;
		}
	}
	pthread_attr_destroy(&attr);
	if (err)
		printf("# skipped bench=refs subject=pass slots=%u: %u threads, then: "
		       "%s\n",
		       n, idle->n, strerror(-err));
	return !err;
}

static void idle_end(struct idle *idle)
{
	for (unsigned i = 0; i < idle->n; i++)
		sem_post(&idle->over);
	for (unsigned i = 0; i < idle->n; i++)
		bench_must(-pthread_join(idle->threads[i], NULL), "pthread_join");
}

struct reclaimed {
	pthread_t thread;
	uint64_t at;
};

static void reclaimed(td_space *space, enum td_event event, int status, void *arg)
{
	struct reclaimed *reclaimed = arg;

	(void)space;
	(void)event;
	bench_must(status, "reclaimed");
	reclaimed->thread = pthread_self();
	reclaimed->at = bench_now_ns();
}

/* What comes after the callback: the pass, and the end of the object. */
static double pass_us(td_engine *engine)
{
	struct reclaimed event;
	td_space *space;
	uint64_t ended;

	bench_must(td_space_create(engine, TD_SPACE_OPTS(.name = "pass"), &space),
		   "td_space_create");
	bench_must(td_space_on_event(space, TD_EVENT_RECLAIMED, reclaimed, &event),
		   "td_space_on_event");
	bench_must(td_space_put_sync(space), "td_space_put_sync");
	ended = bench_now_ns();
	bench_must(pthread_equal(event.thread, pthread_self()) ? 0 : -EXDEV,
		   "td_space_put_sync");
	return (double)(ended - event.at) / 1e3;
}

static void sample_pass(const struct bench_subject *self, size_t size, double *values)
{
	static struct bench_series warm;
	char *other = malloc(OTHER_BYTES);

	(void)size;
	bench_must(other ? 0 : -ENOMEM, "malloc");
	for (warm.n = 0; warm.n < PASSES; warm.n++)
		warm.values[warm.n] = pass_us(self->engine);
	values[PASS_US] = bench_summarize(&warm).median;
	memset(other, 1, OTHER_BYTES); /* in the caches, in place of the slots */
	__asm__ volatile("" : : "r"(other) : "memory");
	values[COLD_US] = pass_us(self->engine);
	free(other);
}

static double run_slots(td_engine *engine, unsigned slots, unsigned repeat)
{
	static struct bench_subject subject = {.name = "pass", .sample = sample_pass};

	subject.engine = engine;
	bench_rounds(&subject, 1, 0, repeat);
	printf("bench=refs subject=pass slots=%u", slots);
	bench_print_range("pass_us", &subject, PASS_US);
	bench_print_range("cold_us", &subject, COLD_US);
	printf(" repeat=%u\n", subject.series[PASS_US].n);
	return bench_median(&subject, PASS_US);
}

/* Slots are never given back to malloc: from few to many, and not in turn. */
static void run_passes(td_engine *engine, unsigned repeat)
{
	static const unsigned slots[] = {1, 100, IDLE_MAX};
	static struct idle idle;
	double us = 0;

	bench_must(sem_init(&idle.ready, 0, 0) || sem_init(&idle.over, 0, 0) ? -errno : 0,
		   "sem_init");
	for (size_t i = 0; i < sizeof(slots) / sizeof(slots[0]); i++) {
		if (!idle_grow(&idle, slots[i]))
			break;
		us = run_slots(engine, slots[i], repeat);
	}
	if (idle.n == IDLE_MAX)
		printf("summary bench=refs slots=%u pass_us=%.1f\n", IDLE_MAX, us);
	idle_end(&idle);
}

/* ---- */

static void run(const struct bench_opts *opts)
{
	struct without peer = without_start();
	td_engine *engine = bench_engine(1);

	puts("# goals: td_user_over_atomic 1.15; lazy_ns 2 with one thread, "
	     "lazy_over_1_thread 1.2;\n"
	     "# lazy_xchg_over_exchange 1.2; pass_us 200 with 10000 slots");
	shared_make(engine);
	/* Nobody is registered: what comes after the callback that is no pass. */
	(void)run_slots(engine, 0, opts->repeat);
	run_pairs(&peer, opts->repeat);
	run_passes(engine, opts->repeat);
	bench_must(td_space_put(shared.space), "td_space_put");
	bench_engine_done(engine);
	without_stop(&peer);
}

const struct bench_scenario bench_refs = {
	.name = "refs",
	.what = "a reference, taken and given back, and the pass over idle threads",
	.run = run,
};
