/* SPDX-License-Identifier: MIT */
/* A8: the host places reapers in a cgroup, on CPUs, at a nice level, under a policy. */
#include "placed.h"
#include "job.h"

#include <errno.h>
#include <limits.h>
#include <sched.h>
#include <teardown/engine.h>

/* Two reapers and the thread for grace periods. */
#define THREADS 3

static pid_t tids[THREADS_MAX];

static void make(const struct td_engine_opts *given)
{
	struct td_engine_opts opts = *given;

	opts.size = sizeof(opts);
	opts.name = "placed";
	opts.reapers = 2;
	ck_assert_int_eq(td_engine_create(&opts, &engine), 0);
	ck_assert_uint_eq(threads_named("placed", tids), THREADS);
}

/* It works, wherever its threads are. */
static void unmake(void)
{
	struct job job;

	job_init(&job, 3);
	ck_assert_int_eq(td_engine_submit(engine, &job.work), 0);
	sem_wait(&job.done);
	ck_assert_int_eq(job.status, 0);
	teardown();
}

/* The last CPU that this process may use, alone. */
static int one_cpu(cpu_set_t *set)
{
	int cpu = CPU_SETSIZE - 1;

	ck_assert_int_eq(sched_getaffinity(0, sizeof(*set), set), 0);
	while (!CPU_ISSET(cpu, set))
		cpu--;
	CPU_ZERO(set);
	CPU_SET(cpu, set);
	return cpu;
}

/* ---- each of them, as the kernel sees it ---- */

START_TEST(all_threads_run_on_the_cpus_given)
{
	char want[16], list[256], before[256];
	cpu_set_t set;

	snprintf(want, sizeof(want), "%d", one_cpu(&set));
	allowed_cpus(gettid(), before, sizeof(before));
	make(&(struct td_engine_opts){.cpus = &set, .cpus_size = sizeof(set)});
	for (unsigned i = 0; i < THREADS; i++) {
		allowed_cpus(tids[i], list, sizeof(list));
		ck_assert_str_eq(list, want);
	}
	ck_assert_uint_eq(stats().reapers_unplaced, 0);
	allowed_cpus(gettid(), list, sizeof(list));
	ck_assert_str_eq(list, before);
	unmake();
}
END_TEST

START_TEST(a_set_of_any_size_does)
{
	char want[16], list[256];
	unsigned char small[1] = {1};
	cpu_set_t *large = CPU_ALLOC(1 << 20), one;
	size_t size = CPU_ALLOC_SIZE(1 << 20);
	int cpu = one_cpu(&one);

	CPU_ZERO_S(size, large);
	CPU_SET_S((size_t)cpu, size, large);
	make(&(struct td_engine_opts){.cpus = large, .cpus_size = size});
	allowed_cpus(tids[0], list, sizeof(list));
	snprintf(want, sizeof(want), "%d", cpu);
	ck_assert_str_eq(list, want);
	unmake();
	CPU_FREE(large);
	if (!CPU_ISSET(0, &one) && sched_setaffinity(0, sizeof(one), &one) == 0) {
		make(&(struct td_engine_opts){.cpus = small, .cpus_size = 1});
		allowed_cpus(tids[0], list, sizeof(list));
		ck_assert_str_eq(list, "0"); /* beyond what the creator runs on */
		unmake();
	}
}
END_TEST

START_TEST(all_threads_are_as_nice_as_told)
{
	make(&(struct td_engine_opts){.nice = 7});
	for (unsigned i = 0; i < THREADS; i++)
		ck_assert_int_eq(nice_of(tids[i]), 7);
	ck_assert_int_eq(nice_of(gettid()), 0);
	ck_assert_uint_eq(stats().reapers_unplaced, 0);
	unmake();
}
END_TEST

START_TEST(reapers_are_scheduled_as_told_and_grace_periods_are_not_held_up)
{
	static const struct {
		enum td_sched sched;
		int policy;
	} known[] = {{TD_SCHED_BATCH, SCHED_BATCH},
		     {TD_SCHED_IDLE, SCHED_IDLE},
		     {TD_SCHED_OTHER, SCHED_OTHER}};

	for (unsigned k = 0; k < 3; k++) {
		make(&(struct td_engine_opts){.sched = known[k].sched});
		for (unsigned i = 0; i < THREADS; i++)
			ck_assert_int_eq(policy_of_thread(tids[i]),
					 is_named(tids[i], "placed/gp")
						 ? SCHED_OTHER
						 : known[k].policy);
		ck_assert_uint_eq(stats().reapers_unplaced, 0);
		unmake();
	}
}
END_TEST

static void check_in_group(const struct group_v1 *group)
{
	const char *name = strrchr(group->path, '/');
	char text[1024];

	for (unsigned i = 0; i < THREADS; i++) {
		thread_text(tids[i], "cgroup", text, sizeof(text));
		ck_assert_msg(strstr(text, name) != NULL, "%s", text);
	}
	thread_text(gettid(), "cgroup", text, sizeof(text));
	ck_assert_ptr_null(strstr(text, name));
	ck_assert_uint_eq(stats().reapers_unplaced, 0);
}

START_TEST(all_threads_enter_a_cgroup_and_nobody_else_does)
{
	struct group_v1 group;

	if (!make_group(&group, "cpuacct", "place"))
		return;
	make(&(struct td_engine_opts){.cgroup = group.path});
	check_in_group(&group);
	unmake();
	remove_group(&group);
}
END_TEST

START_TEST(the_cpus_of_a_cpuset_stay_in_force)
{
	static const char *const knobs[] = {"cpus", "mems"};
	struct group_v1 group;
	char path[160], list[256];

	if (!make_group(&group, "cpuset", "place"))
		return;
	for (unsigned k = 0; k < 2; k++) { /* without these nobody can enter it */
		FILE *knob;

		snprintf(path, sizeof(path), "%s/cpuset.%s", group.path, knobs[k]);
		knob = fopen(path, "we");
		ck_assert_ptr_nonnull(knob);
		fputs("0", knob);
		ck_assert_int_eq(fclose(knob), 0);
	}
	make(&(struct td_engine_opts){.cgroup = group.path});
	check_in_group(&group);
	for (unsigned i = 0; i < THREADS; i++) {
		allowed_cpus(tids[i], list, sizeof(list));
		ck_assert_str_eq(list, "0");
	}
	unmake();
	remove_group(&group);
}
END_TEST

/* ---- what cannot be had ---- */

START_TEST(what_no_thread_can_be_given_is_refused_at_creation)
{
	static char path[PATH_MAX + 1];
	cpu_set_t none;
	struct td_engine_opts opts[] = {
		{.cpus = &none, .cpus_size = sizeof(none)},
		{.cpus_size = 8},
		{.cpus = &none},
		{.cgroup = ""},
		{.cgroup = path},
		{.nice = 20},
		{.nice = -21},
		{.sched = TD_SCHED_OTHER + 1},
	};

	CPU_ZERO(&none);
	memset(path, '/', PATH_MAX);
	engine = (void *)1;
	for (size_t i = 0; i < sizeof(opts) / sizeof(*opts); i++) {
		opts[i].size = sizeof(opts[i]);
		ck_assert_int_eq(td_engine_create(&opts[i], &engine), -EINVAL);
		ck_assert_ptr_eq(engine, (void *)1);
	}
}
END_TEST

START_TEST(what_the_kernel_refuses_is_counted_and_the_engine_works)
{
	unsigned char far[1024] = {0};

	far[1023] = 128; /* CPU 8191 */
	make(&(struct td_engine_opts){.cpus = far, .cpus_size = sizeof(far)});
	ck_assert_uint_eq(stats().unplaced_cpus, THREADS);
	ck_assert_uint_eq(stats().reapers_unplaced, THREADS);
	unmake();
	make(&(struct td_engine_opts){.cgroup = "/nowhere"});
	ck_assert_uint_eq(stats().unplaced_cgroup, THREADS);
	ck_assert_uint_eq(stats().reapers_unplaced, THREADS);
	unmake();
	make(&(struct td_engine_opts){.cgroup = "/proc/self", .nice = 3});
	ck_assert_uint_eq(stats().unplaced_cgroup, THREADS);
	ck_assert_uint_eq(stats().unplaced_nice, 0);
	ck_assert_int_eq(nice_of(tids[0]), 3); /* the rest is done all the same */
	unmake();
}
END_TEST

/* Every system call of it, one after the other. */
START_TEST(each_refusal_has_its_counter)
{
	static const struct {
		enum tdi_sys_call call;
		size_t counter;
	} known[] = {
#define COUNTED_BY(field) offsetof(struct td_engine_stats, field)
		{TDI_SYS_thread_name, COUNTED_BY(unplaced_name)},
		{TDI_SYS_open, COUNTED_BY(unplaced_cgroup)},
		{TDI_SYS_write, COUNTED_BY(unplaced_cgroup)},
		{TDI_SYS_setaffinity, COUNTED_BY(unplaced_cpus)},
		{TDI_SYS_thread_sched, COUNTED_BY(unplaced_sched)},
		{TDI_SYS_thread_nice, COUNTED_BY(unplaced_nice)},
	};
	char directory[] = "/tmp/td-placement-XXXXXX", tasks[64];
	struct td_engine_stats now;
	cpu_set_t set;
	int fd;

	/* a file like that of a cgroup, to see that it is written to */
	ck_assert_ptr_nonnull(mkdtemp(directory));
	snprintf(tasks, sizeof(tasks), "%s/tasks", directory);
	fd = open(tasks, O_CREAT | O_RDWR | O_CLOEXEC, 0600);
	ck_assert_int_ge(fd, 0);
	(void)one_cpu(&set);
	for (size_t i = 0; i < sizeof(known) / sizeof(*known); i++) {
		/* not of the third thread, whose policy nobody sets */
		tdt_fail(known[i].call, -EPERM, 0, 2);
		ck_assert_int_eq(
			td_engine_create(TD_ENGINE_OPTS(.reapers = 2, .nice = 1,
							.budget = GIB, .cpus = &set,
							.cpus_size = sizeof(set),
							.cgroup = directory),
					 &engine),
			0);
		ck_assert_uint_ge(tdt_calls(known[i].call), 2);
		tdt_fail_none();
		now = stats();
		ck_assert_uint_eq(now.reapers_unplaced, 2);
		ck_assert_uint_eq(*(uint64_t *)((char *)&now + known[i].counter), 2);
		ck_assert_uint_eq(now.unplaced_name + now.unplaced_cgroup +
					  now.unplaced_cpus + now.unplaced_sched +
					  now.unplaced_nice,
				  2);
		unmake();
	}
	tdt_fail(TDI_SYS_write, -EINTR, 0, 1); /* is tried again */
	make(&(struct td_engine_opts){.cgroup = directory});
	tdt_fail_none();
	ck_assert_uint_eq(stats().reapers_unplaced, 0);
	unmake();
	ck_assert_int_eq(pread(fd, tasks, 2, 0), 1);
	ck_assert_int_eq(tasks[0], '0');
	close(fd);
	snprintf(tasks, sizeof(tasks), "%s/tasks", directory);
	unlink(tasks);
	rmdir(directory);
}
END_TEST

/* ---- CPUs that are near ---- */

static struct tdi_placement placement;
static cpu_set_t got;

static void *place_near(void *near)
{
	tdi_place(&placement, "near", near, 0);
	sched_getaffinity(0, sizeof(got), &got);
	return NULL;
}

static void run_near(const struct td_engine_opts *opts, struct tdi_cpus *near)
{
	pthread_t thread;

	ck_assert_int_eq(tdi_placement_init(&placement, opts), 0);
	ck_assert_int_eq(pthread_create(&thread, NULL, place_near, near), 0);
	ck_assert_int_eq(pthread_join(thread, NULL), 0);
	tdi_placement_destroy(&placement);
}

static bool only(int cpu)
{
	return CPU_COUNT(&got) == 1 && CPU_ISSET((size_t)cpu, &got);
}

START_TEST(of_the_cpus_allowed_the_near_ones_are_taken_if_there_are_any)
{
	struct td_engine_opts none = {0}, opts = none;
	struct tdi_cpus near = {{0}}, far = {{0}};
	cpu_set_t all, one;
	int cpu = one_cpu(&one);

	ck_assert_int_eq(sched_getaffinity(0, sizeof(all), &all), 0);
	near.words[(unsigned)cpu / TDI_CPUS_PER_WORD] =
		1ul << ((unsigned)cpu % TDI_CPUS_PER_WORD);
	far.words[0] = 2 | 1;
	far.words[(unsigned)cpu / TDI_CPUS_PER_WORD] &=
		~near.words[(unsigned)cpu / TDI_CPUS_PER_WORD];

	run_near(&none, &near);
	ck_assert(only(cpu));
	opts.cpus = &all;
	opts.cpus_size = sizeof(all);
	run_near(&opts, &near);
	ck_assert(only(cpu));
	opts.cpus = &one;
	opts.cpus_size = sizeof(one);
	run_near(&opts, &far); /* none of those allowed is near */
	ck_assert(only(cpu));
	ck_assert_uint_eq(placement.unplaced, 0);

	/* What the process was confined to, its reapers are. */
	ck_assert_int_eq(sched_setaffinity(0, sizeof(one), &one), 0);
	run_near(&none, &far);
	ck_assert(only(cpu));
	ck_assert_uint_eq(placement.unplaced, 0);
}
END_TEST

START_TEST(near_cpus_that_a_cpuset_forbids_are_done_without)
{
	struct td_engine_opts opts = {0};
	struct tdi_cpus near = {{0}};
	cpu_set_t one;
	int cpu = one_cpu(&one);

	near.words[0] = ~0ul;
	opts.cpus = &one;
	opts.cpus_size = sizeof(one);
	tdt_fail(TDI_SYS_setaffinity, -EINVAL, 0, 1);
	run_near(&opts, &near);
	ck_assert_uint_eq(placement.unplaced, 0);
	ck_assert(only(cpu));
	tdt_fail(TDI_SYS_setaffinity, -EINVAL, 0, 2);
	run_near(&opts, &near);
	ck_assert_uint_eq(placement.unplaced_by[TDI_UNPLACED_CPUS], 1);
	tdt_fail_none();
	opts.cpus = NULL;
	tdt_fail(TDI_SYS_getaffinity, -EPERM, 0, 1);
	run_near(&opts, &near);
	ck_assert_uint_eq(placement.unplaced_by[TDI_UNPLACED_CPUS], 1);
	ck_assert_uint_eq(placement.unplaced, 1);
}
END_TEST

START_TEST(each_reaper_runs_on_the_cpus_of_its_node_unless_told_otherwise)
{
	struct tdi_cpus near;
	cpu_set_t all, of;
	unsigned nodes;

	engine = NULL;
	ck_assert_int_eq(td_engine_create(NULL, &engine), 0);
	nodes = engine->queues.nr;
	if (nodes == 1) {
		teardown();
		tdt_skip("one NUMA node");
		return;
	}
	ck_assert_int_eq(sched_getaffinity(0, sizeof(all), &all), 0);
	for (unsigned i = 0; i < engine->nr_reapers; i++) {
		struct tdi_queue *queue = tdi_queues_of_reaper(&engine->queues, i);
		pid_t tid = (pid_t)atomic_load(&engine->reapers[i].account.tid);

		ck_assert(tdi_numa_cpus(queue->node, near.words, sizeof(near.words)));
		ck_assert_int_eq(sched_getaffinity(tid, sizeof(of), &of), 0);
		ck_assert_int_eq(CPU_COUNT(&of) < CPU_COUNT(&all), 1);
		ck_assert_int_eq(memcmp(&of, near.words, sizeof(of)), 0);
	}
	teardown();
	ck_assert_int_eq(
		td_engine_create(TD_ENGINE_OPTS(.flags = TD_ENGINE_UNBOUND), &engine), 0);
	for (unsigned i = 0; i < engine->nr_reapers; i++) {
		pid_t tid = (pid_t)atomic_load(&engine->reapers[i].account.tid);

		ck_assert_int_eq(sched_getaffinity(tid, sizeof(of), &of), 0);
		ck_assert(CPU_EQUAL(&of, &all));
	}
	teardown();
}
END_TEST

int main(void)
{
	struct tdt *tests = tdt_suite("placement");

	tdt_add(tests, all_threads_run_on_the_cpus_given, NULL, NULL);
	tdt_add(tests, a_set_of_any_size_does, NULL, NULL);
	tdt_add(tests, all_threads_are_as_nice_as_told, NULL, NULL);
	tdt_add(tests, reapers_are_scheduled_as_told_and_grace_periods_are_not_held_up,
		NULL, NULL);
	tdt_add(tests, all_threads_enter_a_cgroup_and_nobody_else_does, NULL, NULL);
	tdt_add(tests, the_cpus_of_a_cpuset_stay_in_force, NULL, NULL);
	tdt_add(tests, what_no_thread_can_be_given_is_refused_at_creation, NULL, NULL);
	tdt_add(tests, what_the_kernel_refuses_is_counted_and_the_engine_works, NULL,
		NULL);
	tdt_add(tests, each_refusal_has_its_counter, NULL, NULL);
	tdt_add(tests, of_the_cpus_allowed_the_near_ones_are_taken_if_there_are_any, NULL,
		NULL);
	tdt_add(tests, near_cpus_that_a_cpuset_forbids_are_done_without, NULL, NULL);
	tdt_add(tests, each_reaper_runs_on_the_cpus_of_its_node_unless_told_otherwise,
		NULL, NULL);
	return tdt_run(tests);
}
