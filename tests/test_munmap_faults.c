/* SPDX-License-Identifier: MIT */
/*
 * Every system call on the way of a deferred munmap, failing at every position, in the
 * caller as in the reaper. Afterwards all is gone and has been given back, or there is an
 * error and all is as it was (A11, D4).
 */
#include "hold.h"
#include "mapped.h"

#include <sys/stat.h>
#include <sys/wait.h>

#define AREA 48	   /* pages */
#define LARGE 1100 /* more than 2 MiB, so that its quarantine has room to spare */
#define ALL 2048   /* room for either, and what is around it */
#define POSITIONS_MAX 200

static const char *const names[] = {
#define NAME(name) #name,
	TDI_SYS_CALLS(NAME)
#undef NAME
};

struct layout {
	const char *name;
	void (*build)(char *base);
	size_t pages; /* of the range */
	unsigned flags;
};

static void build_one(char *base)
{
	number_pages(map_at(base, AREA * page, PROT_READ | PROT_WRITE), AREA * page, 1);
}

static void build_large(char *base)
{
	number_pages(map_at(base, LARGE * page, PROT_READ | PROT_WRITE), LARGE * page, 1);
}

/* Parts of mappings at both ends, a hole, something locked. */
static void build_several(char *base)
{
	number_pages(map_at(base - 4 * page, 12 * page, PROT_READ | PROT_WRITE),
		     12 * page, 1);
	number_pages(map_at(base + 12 * page, 8 * page, PROT_READ | PROT_WRITE), 8 * page,
		     100);
	ck_assert_int_eq(lock_memory(base + 12 * page, 8 * page), 0);
	number_pages(map_at(base + 24 * page, 28 * page, PROT_READ | PROT_WRITE),
		     28 * page, 200);
}

static void build_with_shared(char *base)
{
	void *got;

	number_pages(map_at(base, 8 * page, PROT_READ | PROT_WRITE), 8 * page, 1);
	got = mmap(base + 12 * page, 8 * page, PROT_READ | PROT_WRITE,
		   MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
	ck_assert_ptr_eq(got, base + 12 * page);
	number_pages(got, 8 * page, 100);
	number_pages(map_at(base + 24 * page, 24 * page, PROT_READ | PROT_WRITE),
		     24 * page, 200);
}

static const struct layout layouts[] = {
	{"one", build_one, AREA, 0},
	{"several", build_several, AREA, 0},
	{"with shared", build_with_shared, AREA, 0},
	{"with shared deferred", build_with_shared, AREA, TD_MUNMAP_SHARED},
	{"large", build_large, LARGE, 0},
};

static void check_contents(const struct layout *layout, const char *base)
{
	if (layout->build == build_one || layout->build == build_large) {
		check_numbers(base, layout->pages * page, 1);
	} else {
		check_numbers(base, 8 * page, layout->build == build_several ? 5 : 1);
		check_numbers(base + 12 * page, 8 * page, 100);
		check_numbers(base + 24 * page, 24 * page, 200);
	}
}

/* The parts that are not in the range, whatever happens. */
static void check_outside(const struct layout *layout, const char *base)
{
	if (layout->build == build_several) {
		check_numbers(base - 4 * page, 4 * page, 1);
		check_numbers(base + 48 * page, 4 * page, 224);
	}
}

static struct outcome {
	unsigned done, refused, positions;
} outcome;

/* False when the call at this position is no longer reached. */
static bool fail_at(const struct layout *layout, enum tdi_sys_call call, int err,
		    unsigned position, bool for_good)
{
	char *base = (char *)TDT_FAR + 8 * page;
	size_t fds = tdt_footprint().descriptors;
	char before[4096], after[4096];
	uint64_t failed = stats().works_failed;
	long pages = vm_pages();
	bool held = for_good && call == TDI_SYS_munmap, reached;
	struct hold hold;
	int got;

	if (held) /* the reaper would try for ever */
		hold_reaper(&hold);
	layout->build(base);
	picture((char *)TDT_FAR, ALL * page, before, sizeof(before));
	tdt_fail(call, err, position, for_good ? UINT32_MAX : 1);
	got = td_engine_munmap(engine, base, layout->pages * page, layout->flags);
	reached = tdt_calls(call) > position;
	if (held) {
		tdt_fail_none();
		let_go(&hold);
	}
	drain();
	reached |= tdt_calls(call) > position;
	tdt_fail_none();

	picture((char *)TDT_FAR, ALL * page, after, sizeof(after));
	if (got) {
		ck_assert_msg(strcmp(before, after) == 0, "%s %s %u: was\n%snow\n%s",
			      layout->name, names[call], position, before, after);
		check_contents(layout, base);
		outcome.refused++;
	} else {
		ck_assert_uint_eq(tdt_mapped(base, layout->pages * page), 0);
		outcome.done++;
	}
	check_outside(layout, base);
	ck_assert_uint_eq(stats().bytes_quarantined, 0);
	ck_assert_uint_eq(stats().works_failed, failed);
	if (call != TDI_SYS_close) /* it is not closed where that fails */
		ck_assert_uint_eq(tdt_footprint().descriptors, fds);
	munmap((char *)TDT_FAR, ALL * page);
	/* a reservation that cannot be unmapped stays, and is told */
	if (!TDT_SANITIZED && !held)
		ck_assert_msg(vm_pages() <= pages, "%s %s %u: %ld pages more",
			      layout->name, names[call], position, vm_pages() - pages);
	return reached;
}

static bool is_of_no_interest(enum tdi_sys_call call)
{
	return call == TDI_SYS_futex_wait || call == TDI_SYS_futex_wake ||
	       call == TDI_SYS_thread_create || call == TDI_SYS_thread_name ||
	       call == TDI_SYS_thread_sched || call == TDI_SYS_thread_nice ||
	       call == TDI_SYS_getaffinity || call == TDI_SYS_setaffinity ||
	       call == TDI_SYS_write;
}

static void fail_everywhere(int err, bool for_good)
{
	size_t count = sizeof(layouts) / sizeof(*layouts);

	for (size_t i = 0; i < count; i++) {
		for (unsigned call = 0; call < TDI_SYS_COUNT; call++) {
			unsigned position = 0;

			if (is_of_no_interest((enum tdi_sys_call)call))
				continue;
			/* that would be for good, and the memory lost */
			if (call == TDI_SYS_munmap && err != -ENOMEM)
				continue;
			while (fail_at(&layouts[i], (enum tdi_sys_call)call, err,
				       position, for_good))
				ck_assert_uint_lt(++position, POSITIONS_MAX);
			outcome.positions += position;
		}
	}
	printf("# %u failures injected, %u munmaps done, %u refused\n", outcome.positions,
	       outcome.done, outcome.refused);
	ck_assert_uint_gt(outcome.positions, 4 * 10);
}

START_TEST(running_out_once_leaves_all_or_nothing)
{
	fail_everywhere(-ENOMEM, false);
	ck_assert_uint_eq(outcome.refused, 0);
}
END_TEST

START_TEST(running_out_from_then_on_leaves_all_or_nothing)
{
	fail_everywhere(-ENOMEM, true);
	ck_assert_uint_gt(outcome.refused, 0);
	ck_assert_uint_gt(outcome.done, 0);
}
END_TEST

START_TEST(refusals_leave_all_or_nothing)
{
	static const int errors[] = {-EPERM, -EINVAL, -EAGAIN};

	/* To a sanitizer they are all the same. */
	for (size_t i = 0; i < (TDT_SANITIZED ? 1 : sizeof(errors) / sizeof(*errors));
	     i++) {
		fail_everywhere(errors[i], false);
		fail_everywhere(errors[i], true);
	}
	ck_assert_uint_eq(outcome.refused, 0);
}
END_TEST

int main(void)
{
	struct tdt *tests = tdt_suite("munmap_faults");

	tdt_add(tests, running_out_once_leaves_all_or_nothing, setup_eager, teardown);
	tdt_add(tests, running_out_from_then_on_leaves_all_or_nothing, setup_eager,
		teardown);
	tdt_add(tests, refusals_leave_all_or_nothing, setup_eager, teardown);
	return tdt_run(tests);
}
