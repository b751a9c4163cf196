/* SPDX-License-Identifier: MIT */
/*
 * Objects that readers may still see, freed: what queueing one costs, and what all of it
 * does, against plain free, which waits for no reader.
 *
 * A sample is three runs. *Hot*: bursts of objects that were allocated and written to a
 * moment ago; only the queueing is timed, and a value is the median of the bursts.
 * *Cold*: all objects are allocated and written to, the caches are filled with something
 * else, then they are queued, and freed: total is from the first one's queueing to the
 * last one's end. *Counted*: as cold, with each object's bytes counted and each call
 * timed, which costs more than what is measured otherwise.
 */
#include "batch.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

enum {
	QUEUE_NS,
	COLD_NS,
	TOTAL_NS,
	CALLER_NS,
	PERIODS,
	EXTRA_BYTES,
	PEAK_BYTES,
	WAIT_US,
	WAIT_ANY_US,
	REFUSED
};

#define OBJECTS ((size_t)2000000)
#define HOT_BURSTS 200u
#define SHUFFLED_BLOCK 16u /* neighbours that stay together: 3 KiB */
#define EVICT_BYTES ((size_t)64 << 20)

/* ---- objects ---- */

static void make_objects(struct batch_object **objects, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		objects[i] = malloc(sizeof(*objects[i]));
		bench_must(objects[i] ? 0 : -ENOMEM, "malloc");
		memset(objects[i], 1, sizeof(*objects[i]));
	}
}

/* Whole blocks change places; a rest at the end stays. */
static void shuffle(struct batch_object **objects, size_t n)
{
	struct batch_object *block[SHUFFLED_BLOCK];
	uint64_t seed = 88172645463325252;

	for (size_t i = n / SHUFFLED_BLOCK; i > 1; i--) {
		struct batch_object **a = objects + (i - 1) * SHUFFLED_BLOCK, **b;

		seed ^= seed << 13;
		seed ^= seed >> 7;
		seed ^= seed << 17;
		b = objects + seed % i * SHUFFLED_BLOCK;
		memcpy(block, a, sizeof(block));
		memmove(a, b, sizeof(block));
		memcpy(b, block, sizeof(block));
	}
}

/* Beside what the objects themselves push out of the caches, if they are few. */
static void evict(void)
{
	static char *other;

	if (!other)
		other = bench_map_plain(EVICT_BYTES);
	for (size_t i = 0; i < EVICT_BYTES; i += 64)
		((volatile char *)other)[i]++;
}

/* ---- the runs, in a thread that adds ---- */

static void relax(struct batch_adder *adder)
{
	if (adder->way->relax)
		adder->way->relax(adder);
}

static void run_hot(struct batch_adder *adder)
{
	struct batch_object *objects[BATCH_BURST];

	adder->bursts->n = 0;
	for (unsigned i = 0; i < HOT_BURSTS; i++) {
		uint64_t began;

		make_objects(objects, BATCH_BURST);
		began = bench_now_ns();
		adder->way->queue(adder, objects, BATCH_BURST);
		adder->bursts->values[adder->bursts->n++] =
			(double)(bench_now_ns() - began) / BATCH_BURST;
		relax(adder);
	}
}

static void run_cold(struct batch_adder *adder)
{
	uint64_t began;

	for (size_t i = 0; i < adder->nr_objects; i += BATCH_BURST) {
		size_t left = adder->nr_objects - i;

		began = bench_now_ns();
		adder->way->queue(adder, adder->objects + i,
				  left < BATCH_BURST ? left : BATCH_BURST);
		adder->queued_ns += bench_now_ns() - began;
		relax(adder);
	}
}

/* How often the kernel took the CPU away from the calling thread. */
static long preemptions(void)
{
	struct rusage usage;

	bench_must(getrusage(RUSAGE_THREAD, &usage) ? -errno : 0, "getrusage");
	return usage.ru_nivcsw;
}

static void run_counted(struct batch_adder *adder)
{
	long preempted = preemptions(), now;

	for (size_t i = 0; i < adder->nr_objects; i++) {
		uint64_t began, took;
		int64_t bytes =
			BATCH_OBJECT_BYTES +
			atomic_fetch_add_explicit(&batch_pending, BATCH_OBJECT_BYTES,
						  memory_order_relaxed);

		if (bytes > adder->peak)
			adder->peak = bytes;
		began = bench_now_ns();
		adder->way->queue(adder, adder->objects + i, 1);
		took = bench_now_ns() - began;
		if (took > adder->wait_any_ns)
			adder->wait_any_ns = took;
		if (took > adder->wait_ns || i % 64 == 0) {
			now = preemptions();
			if (took > adder->wait_ns && now == preempted)
				adder->wait_ns = took;
			preempted = now;
		}
		if (i % BATCH_BURST == BATCH_BURST - 1)
			relax(adder);
	}
}

static void *add(void *arg)
{
	struct batch_adder *adder = arg;
	const struct batch_way *way = adder->way;

	if (!adder->bursts) {
		make_objects(adder->objects, adder->nr_objects);
		if (adder->shuffled)
			shuffle(adder->objects, adder->nr_objects);
	}
	way->enter(adder);
	pthread_barrier_wait(adder->begin);
	if (!adder->bursts)
		evict();
	pthread_barrier_wait(adder->begin);
	adder->began = bench_now_ns();
	(adder->bursts ? run_hot : batch_counting ? run_counted : run_cold)(adder);
	if (way->last)
		way->last(adder);
	adder->ended = bench_now_ns();
	way->leave(adder);
	return NULL;
}

/* ---- all adders at once ---- */

struct setup {
	const struct batch_way *way;
	unsigned threads;
	bool shuffled;
	struct batch_object **objects;
	size_t nr_objects;
};

struct outcome {
	uint64_t began, added, ended, queued_ns, wait_ns, wait_any_ns;
	uint64_t periods, room, refused;
	int64_t peak;
};

static void join_outcome(struct outcome *outcome, const struct batch_adder *adder)
{
	if (adder->began < outcome->began)
		outcome->began = adder->began;
	if (adder->ended > outcome->added)
		outcome->added = adder->ended;
	if (adder->peak > outcome->peak)
		outcome->peak = adder->peak;
	if (adder->wait_ns > outcome->wait_ns)
		outcome->wait_ns = adder->wait_ns;
	if (adder->wait_any_ns > outcome->wait_any_ns)
		outcome->wait_any_ns = adder->wait_any_ns;
	outcome->queued_ns += adder->queued_ns;
	outcome->refused += adder->refused;
}

static struct outcome run_adders(const struct setup *setup, td_engine *engine,
				 struct bench_series *bursts)
{
	const struct batch_way *way = setup->way;
	struct outcome outcome = {.began = UINT64_MAX};
	struct batch_adder adders[BATCH_ADDERS_MAX];
	size_t each = setup->nr_objects / setup->threads;
	pthread_barrier_t begin;

	bench_must(-pthread_barrier_init(&begin, NULL, setup->threads),
		   "pthread_barrier_init");
	if (way->begin)
		way->begin(engine);
	outcome.periods = atomic_load(&batch_periods);
	for (unsigned i = 0; i < setup->threads; i++) {
		adders[i] = (struct batch_adder){
			.way = way,
			.index = i,
			.begin = &begin,
			.objects = setup->objects + i * each,
			.nr_objects = each,
			.shuffled = setup->shuffled,
			.bursts = bursts ? &bursts[i] : NULL,
		};
		bench_must(-pthread_create(&adders[i].thread, NULL, add, &adders[i]),
			   "pthread_create");
	}
	for (unsigned i = 0; i < setup->threads; i++) {
		bench_must(-pthread_join(adders[i].thread, NULL), "pthread_join");
		join_outcome(&outcome, &adders[i]);
	}
	outcome.ended = outcome.added;
	if (way->barrier) {
		way->barrier();
		outcome.ended = bench_now_ns();
	}
	outcome.periods = atomic_load(&batch_periods) - outcome.periods;
	if (way->room)
		outcome.room = way->room();
	if (way->end)
		way->end();
	bench_must(-pthread_barrier_destroy(&begin), "pthread_barrier_destroy");
	return outcome;
}

static void sample(const struct bench_subject *self, size_t size, double *values)
{
	static struct bench_series bursts[BATCH_ADDERS_MAX];
	const struct setup *setup = self->arg;
	size_t n = setup->nr_objects / setup->threads * setup->threads;
	struct outcome outcome;

	(void)size;
	(void)run_adders(setup, self->engine, bursts);
	for (unsigned i = 0; i < setup->threads; i++)
		values[QUEUE_NS] += bench_summarize(&bursts[i]).median / setup->threads;

	outcome = run_adders(setup, self->engine, NULL);
	values[COLD_NS] = (double)outcome.queued_ns / (double)n;
	values[TOTAL_NS] = (double)(outcome.ended - outcome.began) / (double)n;
	values[CALLER_NS] = (double)(outcome.added - outcome.began) / (double)n;
	values[PERIODS] = (double)outcome.periods;
	values[EXTRA_BYTES] =
		setup->way->embedded_bytes + (double)outcome.room / (double)n;

	batch_counting = true;
	outcome = run_adders(setup, self->engine, NULL);
	batch_counting = false;
	bench_must(atomic_load(&batch_pending) == 0 ? 0 : -EPROTO, "all is freed once");
	values[PEAK_BYTES] = (double)outcome.peak;
	values[WAIT_US] = (double)outcome.wait_ns / 1e3;
	values[WAIT_ANY_US] = (double)outcome.wait_any_ns / 1e3;
	values[REFUSED] = (double)outcome.refused;
}

/* ---- */

static double most(const struct bench_subject *subject, unsigned value)
{
	return bench_summarize(&subject->series[value]).max;
}

static const char *order_name(const struct setup *setup)
{
	return setup->shuffled ? "shuffled" : "allocated";
}

static void print_subject(const struct bench_subject *subject)
{
	const struct setup *setup = subject->arg;

	printf("bench=batch subject=%s threads=%u order=%s", subject->name,
	       setup->threads, order_name(setup));
	if (setup->way->skipped) {
		printf(" skipped=%s\n", setup->way->skipped);
		return;
	}
	bench_print_range("queue_ns", subject, QUEUE_NS);
	bench_print_range("queue_cold_ns", subject, COLD_NS);
	bench_print_range("total_ns", subject, TOTAL_NS);
	printf(" caller_ns=%.2f grace_periods=%.0f extra_bytes=%.2f peak_bytes=%.0f "
	       "max_wait_us=%.1f max_wait_preempted_us=%.1f refused=%.0f repeat=%u\n",
	       bench_median(subject, CALLER_NS), bench_median(subject, PERIODS),
	       bench_median(subject, EXTRA_BYTES), most(subject, PEAK_BYTES),
	       most(subject, WAIT_US), most(subject, WAIT_ANY_US),
	       bench_median(subject, REFUSED), subject->series[TOTAL_NS].n);
}

static double ratio(const struct bench_subject *a, const struct bench_subject *b,
		    unsigned value)
{
	return bench_median(a, value) / bench_median(b, value);
}

/* The peer that is best at it, free excepted. */
static const struct bench_subject *best_peer(const struct bench_subject *subjects,
					     unsigned value)
{
	const struct bench_subject *best = &subjects[WAY_CALL_RCU];

	for (unsigned i = WAY_CALL_RCU; i < WAY_TD; i++) {
		if (!batch_ways[i].skipped &&
		    bench_median(&subjects[i], value) < bench_median(best, value))
			best = &subjects[i];
	}
	return best;
}

static void print_best(const struct bench_subject *subjects, const char *name,
		       unsigned value)
{
	const struct bench_subject *best = best_peer(subjects, value);

	printf(" %s_best_peer=%s %s_td_over_best_peer=%.2f", name, best->name, name,
	       ratio(&subjects[WAY_TD], best, value));
}

static void print_summary(const struct bench_subject *subjects, const struct setup *setup)
{
	const struct bench_subject *td = &subjects[WAY_TD];
	const struct bench_subject *call_rcu = &subjects[WAY_CALL_RCU];
	const struct bench_subject *rt = &subjects[WAY_CALL_RCU_RT];
	double periods = bench_median(td, PERIODS);

	printf("summary bench=batch threads=%u order=%s objects=%zu "
	       "queue_call_rcu_over_td=%.1f queue_cold_call_rcu_over_td=%.1f "
	       "queue_call_rcu_rt_over_td=%.1f queue_cold_call_rcu_rt_over_td=%.1f "
	       "total_td_over_free=%.2f objects_per_grace_period=%.0f",
	       setup->threads, order_name(setup), setup->nr_objects,
	       ratio(call_rcu, td, QUEUE_NS), ratio(call_rcu, td, COLD_NS),
	       ratio(rt, td, QUEUE_NS), ratio(rt, td, COLD_NS),
	       ratio(td, &subjects[WAY_FREE], TOTAL_NS),
	       periods > 0 ? (double)setup->nr_objects / periods : 0.0);
	print_best(subjects, "queue", QUEUE_NS);
	print_best(subjects, "queue_cold", COLD_NS);
	print_best(subjects, "caller", CALLER_NS);
	print_best(subjects, "total", TOTAL_NS);
	putchar('\n');
}

static void run_ways(td_engine *engine, const struct setup *common, unsigned repeat)
{
	static struct bench_subject subjects[NR_WAYS], measured[NR_WAYS];
	struct setup setups[NR_WAYS];
	unsigned n = 0;

	for (unsigned i = 0; i < NR_WAYS; i++) {
		setups[i] = *common;
		setups[i].way = &batch_ways[i];
		subjects[i] = (struct bench_subject){.name = batch_ways[i].name,
						     .sample = sample,
						     .engine = engine,
						     .arg = &setups[i]};
		if (!batch_ways[i].skipped)
			measured[n++] = subjects[i];
	}
	bench_rounds(measured, n, 0, repeat);
	for (unsigned i = NR_WAYS; i-- > 0;) {
		if (!batch_ways[i].skipped)
			subjects[i] = measured[--n];
	}
	for (unsigned i = 0; i < NR_WAYS; i++)
		print_subject(&subjects[i]);
	print_summary(subjects, common);
}

/*
 * Else glibc gives memory back to the kernel, or not, in the midst of a run: by whatever
 * chunk happens to be the last one of a heap. For all ways the same: never. (The second
 * value is more than a heap, for those of other threads' arenas.)
 */
static void keep_memory(void)
{
	bench_must(mallopt(M_TRIM_THRESHOLD, INT_MAX) ? 0 : -EINVAL, "mallopt");
	bench_must(mallopt(M_TOP_PAD, 256 << 20) ? 0 : -EINVAL, "mallopt");
}

static void run(const struct bench_opts *opts)
{
	size_t n = opts->objects ? opts->objects : OBJECTS, size;
	struct batch_object **objects;
	td_engine *engine;

	size = bench_fitting("batch", n * (sizeof(**objects) + 16 + sizeof(*objects)),
			     &(struct bench_opts){.size = opts->size});
	n = size / (sizeof(**objects) + 16 + sizeof(*objects));
	keep_memory();
	objects = malloc(n * sizeof(objects[0]));
	bench_must(objects ? 0 : -ENOMEM, "malloc");
	engine = bench_engine(1);
	puts("# queue: the caller's, for each object; caller: also what it does besides, "
	     "where nobody else frees\n"
	     "# (ck_epoch's callbacks). td: a library of one reaper");
	for (unsigned threads = 1; threads <= BATCH_ADDERS_MAX; threads++) {
		for (unsigned shuffled = 0; shuffled < 2; shuffled++)
			run_ways(engine,
				 &(struct setup){.threads = threads,
						 .shuffled = shuffled,
						 .objects = objects,
						 .nr_objects = n},
				 opts->repeat);
	}
	bench_engine_done(engine);
	free(objects);
}

const struct bench_scenario bench_batch = {
	.name = "batch",
	.what = "objects freed once no reader sees them, by one and two threads",
	.run = run,
};
