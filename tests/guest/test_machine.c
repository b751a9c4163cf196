/* SPDX-License-Identifier: MIT */
/*
 * That the guest has what its tests need, and that guest.h shows it. A test that only
 * skipped there, for want of something, would not be missed otherwise.
 */
#include "guest.h"

#include <pthread.h>
#include <sys/syscall.h>

#define LOOPS 20000000

START_TEST(there_are_four_nodes_with_a_cpu_and_memory_each)
{
	struct guest_node nodes[GUEST_NODES_MAX];
	unsigned count = guest_nodes(nodes);
	cpu_set_t all, both;

	if (count < 4) {
		guest_lacks("%u nodes with CPUs and memory", count);
		return;
	}
	CPU_ZERO(&all);
	for (unsigned i = 0; i < count; i++) {
		CPU_AND(&both, &all, &nodes[i].cpus);
		ck_assert_int_eq(CPU_COUNT(&both), 0);
		CPU_OR(&all, &all, &nodes[i].cpus);
		ck_assert_uint_gt(nodes[i].free, 0);
		ck_assert_uint_ge(nodes[i].memory, nodes[i].free);
		for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
			if (CPU_ISSET((unsigned)cpu, &nodes[i].cpus))
				ck_assert_int_eq(guest_node_of_cpu(nodes, count, cpu),
						 (int)i);
		}
	}
	ck_assert_int_eq(guest_node_of_cpu(nodes, count, -1), -1);
}
END_TEST

static void burn(void)
{
	for (volatile unsigned i = 0; i < LOOPS; i++)
		;
}

/* In the group that is its argument. */
static void *burn_in(void *arg)
{
	int *err = malloc(sizeof(*err));

	*err = guest_cgroup_enter_thread(arg, (pid_t)syscall(SYS_gettid));
	burn();
	return err;
}

START_TEST(a_thread_in_a_group_of_its_own_is_accounted_there)
{
	struct guest_cgroup domain, threaded;
	long long theirs, before;
	pthread_t thread;
	void *err;

	if (!guest_cgroup_make_threaded(&domain, &threaded, "td-test-machine", NULL)) {
		guest_lacks("no cgroups to be made in %s", guest_cgroup_root());
		return;
	}
	before = guest_cgroup_get(&threaded, "cpu.stat", "usage_usec");
	ck_assert_int_eq(before, 0);
	burn();
	ck_assert_int_eq(guest_cgroup_get(&threaded, "cpu.stat", "usage_usec"), before);
	ck_assert_int_eq(pthread_create(&thread, NULL, burn_in, &threaded), 0);
	ck_assert_int_eq(pthread_join(thread, &err), 0);
	ck_assert_int_eq(*(int *)err, 0);
	free(err);
	theirs = guest_cgroup_get(&threaded, "cpu.stat", "usage_usec");
	ck_assert_int_gt(theirs, 0);
	/* the threads below count for the domain, too */
	ck_assert_int_gt(guest_cgroup_get(&domain, "cpu.stat", "usage_usec"), theirs);
	guest_cgroup_remove(&domain);
	ck_assert_int_ne(access(domain.path, F_OK), 0);
}
END_TEST

START_TEST(a_group_limits_memory_cpu_and_huge_pages)
{
	struct guest_cgroup group, below;

	if (!guest_cgroup_make(&group, NULL, "td-test-machine",
			       "+cpu +cpuset +memory +hugetlb")) {
		guest_lacks("cgroups do not have all of cpu, cpuset, memory, hugetlb");
		return;
	}
	ck_assert_int_eq(guest_cgroup_get(&group, "memory.max", NULL), -1);
	ck_assert_int_eq(guest_cgroup_set(&group, "memory.max", "%zu", 64 * MIB), 0);
	ck_assert_int_eq(guest_cgroup_get(&group, "memory.max", NULL), 64 * MIB);
	ck_assert_int_eq(guest_cgroup_set(&group, "cpu.weight", "%d", 10), 0);
	ck_assert_int_eq(guest_cgroup_set(&group, "cpuset.cpus", "0"), 0);
	ck_assert_int_eq(guest_cgroup_set(&group, "hugetlb.2MB.max", "0"), 0);
	ck_assert(guest_cgroup_make(&below, &group, "below", "+memory"));
	ck_assert_int_eq(guest_cgroup_enter(&below, 0), 0);
	ck_assert_int_gt(guest_cgroup_get(&below, "memory.current", NULL), -1);
	ck_assert_int_ge(guest_cgroup_get(&below, "memory.events", "oom_kill"), 0);
	guest_cgroup_remove(&group); /* with who is in it, and what is below */
	ck_assert_int_ne(access(group.path, F_OK), 0);
}
END_TEST

START_TEST(pressure_is_told_of_the_machine_and_of_groups)
{
	static const char trigger[] = "some 100000 1000000";
	struct guest_cgroup group;
	char path[300];
	int fd;

	fd = open("/proc/pressure/memory", O_RDWR | O_CLOEXEC | O_NONBLOCK);
	if (fd < 0 || write(fd, trigger, sizeof(trigger)) < 0) {
		guest_lacks("no triggers in /proc/pressure/memory: %s", strerror(errno));
		return;
	}
	close(fd);
	if (!guest_cgroup_make(&group, NULL, "td-test-machine", "+memory")) {
		guest_lacks("no cgroups with memory to be made in %s",
			    guest_cgroup_root());
		return;
	}
	fd = open(guest_cgroup_file(&group, "memory.pressure", path, sizeof(path)),
		  O_RDWR | O_CLOEXEC | O_NONBLOCK);
	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(write(fd, trigger, sizeof(trigger)), sizeof(trigger));
	close(fd);
	guest_cgroup_remove(&group);
}
END_TEST

int main(void)
{
	struct tdt *tests = tdt_suite("guest_machine");
	const TTest *all[] = {
		there_are_four_nodes_with_a_cpu_and_memory_each,
		a_thread_in_a_group_of_its_own_is_accounted_there,
		a_group_limits_memory_cpu_and_huge_pages,
		pressure_is_told_of_the_machine_and_of_groups,
	};

	for (size_t i = 0; i < sizeof(all) / sizeof(*all); i++)
		tdt_add(tests, all[i], NULL, NULL);
	return tdt_run(tests);
}
