/* SPDX-License-Identifier: MIT */
/*
 * When a limit is near, what is gone must not count against it any longer (D4, A11): each
 * limit on its own, then what td_munmap makes of it while its only reaper is held up.
 */
#include "headroom.h"
#include "hold.h"
#include "mapped.h"
#include "procfs.h"

#include <linux/capability.h>
#include <sys/resource.h>

/* ---- files that say what a test wants them to ---- */

#define FILES_MAX 4

static struct file {
	const char *path, *text; /* NULL: it cannot be opened */
} files[FILES_MAX];

/* What the hook answers is taken for the call's result: a descriptor will do as well. */
static int open_ours(enum tdi_sys_call call, uintptr_t path, size_t length, int detail)
{
	(void)length;
	(void)detail;
	if (call != TDI_SYS_open)
		return 0;
	for (unsigned i = 0; i < FILES_MAX && files[i].path; i++) {
		int fd;

		if (strcmp(files[i].path, (const char *)path) != 0)
			continue;
		if (!files[i].text)
			return -EACCES;
		fd = memfd_create("fake", MFD_CLOEXEC);
		if (pwrite(fd, files[i].text, strlen(files[i].text), 0) < 0)
			abort();
		return fd;
	}
	return 0;
}

static void fake(unsigned i, const char *path, const char *text)
{
	files[i] = (struct file){path, text};
	tdi_sys_set_fault(open_ours);
}

static void fake_none(void)
{
	memset(files, 0, sizeof(files));
	tdi_sys_set_fault(NULL);
}

static bool far(struct tdi_holding holding)
{
	return tdi_limits_are_far(&holding);
}
#define FAR(...) far((struct tdi_holding){__VA_ARGS__})

#define MODE "/proc/sys/vm/overcommit_memory"
#define HUGE_OF(kib, what) "/sys/kernel/mm/hugepages/hugepages-" kib "kB/" what

static void set_limit(int resource, size_t bytes)
{
	struct rlimit limit;

	ck_assert_int_eq(getrlimit(resource, &limit), 0);
	limit.rlim_cur = bytes;
	ck_assert_int_eq(setrlimit(resource, &limit), 0);
}

static bool drop_ipc_lock(void)
{
	struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct data[2];

	if (syscall(SYS_capget, &header, data) != 0)
		return false;
	data[0].effective &= ~(1u << CAP_IPC_LOCK);
	return syscall(SYS_capset, &header, data) == 0;
}

/* ---- one limit at a time ---- */

START_TEST(without_limits_there_is_room_for_anything)
{
	fake(0, MODE, "0\n");
	ck_assert(FAR(.address_space = UINT64_C(1) << 60, .memory = UINT64_C(1) << 60));
	fake(0, MODE, "1\n");
	ck_assert(FAR(.address_space = UINT64_C(1) << 60, .memory = UINT64_C(1) << 60));
	fake_none();
}
END_TEST

START_TEST(address_space_must_leave_twice_as_much)
{
	size_t room = 64 * MIB;

	if (TDT_SANITIZED) {
		tdt_skip("a sanitizer needs all the address space");
		return;
	}
	fake(0, "/proc/thread-self/statm", "1000 10 1 1 0 1 0\n");
	set_limit(RLIMIT_AS, 1000 * page + room);
	ck_assert(FAR(.address_space = room / 2));
	ck_assert(!FAR(.address_space = room / 2 + page));
	/* over it already: the limit was lowered */
	fake(0, "/proc/thread-self/statm", "1000000000 10 1 1 0 1 0\n");
	ck_assert(!FAR(.address_space = 0));
	fake(0, "/proc/thread-self/statm", "no number");
	ck_assert(!FAR(.address_space = page));
	fake(0, "/proc/thread-self/statm", "");
	ck_assert(!FAR(.address_space = page));
	fake(0, "/proc/thread-self/statm", NULL);
	ck_assert(!FAR(.address_space = page));
	set_limit(RLIMIT_AS, RLIM_INFINITY);
	ck_assert(FAR(.address_space = room));
	fake_none();
}
END_TEST

#define STATUS(locked, caps)                                                             \
	"Name:\tx\nVmPeak:\t 9 kB\nVmLck:\t    " locked " kB\nCapPrm:\t0\n"              \
	"CapEff:\t" caps "\nCapBnd:\tffff\n"

START_TEST(locked_memory_must_leave_twice_as_much_unless_privileged)
{
	const char *path = "/proc/thread-self/status";

	set_limit(RLIMIT_MEMLOCK, MIB);
	fake(0, path, STATUS("512", "0000000000000000"));
	ck_assert(FAR(.memory = 256 * KIB, .locked = true));
	ck_assert(!FAR(.memory = 257 * KIB, .locked = true));
	ck_assert(FAR(.memory = GIB, .locked = false));
	fake(0, path, STATUS("512", "000001fffeffffff")); /* CAP_IPC_LOCK is bit 14 */
	ck_assert(FAR(.memory = GIB, .locked = true));
	fake(0, path, STATUS("512", "000001fffeffbfff"));
	ck_assert(!FAR(.memory = GIB, .locked = true));
	fake(0, path, "VmLck:\t1 kB\n");
	ck_assert(!FAR(.memory = page, .locked = true));
	fake(0, path, NULL);
	ck_assert(!FAR(.memory = page, .locked = true));
	fake_none();
}
END_TEST

START_TEST(commit_charge_must_leave_twice_as_much_where_it_is_counted)
{
	const char *meminfo = "MemTotal:    999999999 kB\nCommitLimit:     4096 kB\n"
			      "Committed_AS:    2048 kB\n";

	fake(0, MODE, "2\n");
	fake(1, "/proc/meminfo", meminfo);
	ck_assert(FAR(.memory = MIB));
	ck_assert(!FAR(.memory = MIB + page));
	ck_assert(FAR(.address_space = GIB)); /* a mere reservation is not charged */
	fake(0, MODE, "0\n");
	ck_assert(FAR(.memory = MIB + page));
	fake(0, MODE, NULL);
	ck_assert(!FAR(.memory = page));
	fake(0, MODE, "2\n");
	fake(1, "/proc/meminfo", "CommitLimit: 4096 kB\n");
	ck_assert(!FAR(.memory = page));
	fake(1, "/proc/meminfo", NULL);
	ck_assert(!FAR(.memory = page));
	fake_none();
}
END_TEST

START_TEST(the_pool_must_keep_twice_as_many_huge_pages)
{
	fake(0, HUGE_OF("2048", "free_hugepages"), "10\n");
	fake(1, HUGE_OF("2048", "resv_hugepages"), "2\n");
	ck_assert(FAR(.memory = 8 * MIB, .huge_page = 2 * MIB));
	ck_assert(!FAR(.memory = 10 * MIB, .huge_page = 2 * MIB));
	ck_assert(FAR(.memory = 10 * MIB, .huge_page = 0));
	fake(1, HUGE_OF("2048", "resv_hugepages"), NULL);
	ck_assert(!FAR(.memory = 2 * MIB, .huge_page = 2 * MIB));
	fake(0, HUGE_OF("1048576", "free_hugepages"), "4\n");
	fake(1, HUGE_OF("1048576", "resv_hugepages"), "0\n");
	ck_assert(FAR(.memory = 2 * GIB, .huge_page = GIB));
	ck_assert(!FAR(.memory = 3 * GIB, .huge_page = GIB));
	fake_none();
}
END_TEST

START_TEST(a_limit_that_cannot_be_read_is_taken_to_be_near)
{
	ck_assert(FAR(.address_space = page, .memory = page));
	for (unsigned i = 0; i < 3; i++) {
		tdt_fail(TDI_SYS_getrlimit, -EPERM, i, 1);
		ck_assert(!FAR(.address_space = page, .memory = page, .locked = true));
	}
	tdt_fail_none();
	tdt_fail(TDI_SYS_read, -EIO, 0, UINT32_MAX);
	ck_assert(!FAR(.address_space = page, .memory = page));
	/* interrupted is not unreadable */
	tdt_fail(TDI_SYS_read, -EINTR, 0, 3);
	ck_assert(FAR(.address_space = page, .memory = page));
	tdt_fail_none();
}
END_TEST

/* ---- what td_munmap makes of it ---- */

static struct hold hold;

static uint64_t status_kib(const char *name)
{
	char text[4096];
	uint64_t kib;

	ck_assert(tdi_procfs_text("/proc/self/status", text, sizeof(text)));
	ck_assert(tdi_procfs_find(text, name, 10, &kib));
	return kib;
}

static char *map_touched(size_t length)
{
	char *addr = tdt_map_anon(length);

	tdt_touch(addr, length);
	return addr;
}

START_TEST(address_space_is_free_at_once_where_it_is_short)
{
	char *addr;

	if (TDT_SANITIZED) {
		tdt_skip("a sanitizer needs all the address space");
		return;
	}
	/* room for the quarantine, but not for what comes next beside it */
	addr = map_touched(64 * MIB);
	hold_reaper(&hold);
	set_limit(RLIMIT_AS, (size_t)vm_pages() * page + 100 * MIB);
	ck_assert_ptr_eq(
		mmap(NULL, 130 * MIB, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0),
		MAP_FAILED);
	ck_assert_int_eq(td_engine_munmap(engine, addr, 64 * MIB, 0), 0);
	tdt_map_anon(130 * MIB);
	set_limit(RLIMIT_AS, RLIM_INFINITY);
	ck_assert_uint_eq(stats().munmaps_in_caller, 1);
	let_go(&hold);
}
END_TEST

START_TEST(private_memory_may_be_mapped_at_once_where_it_is_limited)
{
	const char *path = "/proc/thread-self/status";
	char *addr;

	if (TDT_SANITIZED) {
		tdt_skip("a sanitizer needs memory of its own");
		return;
	}
	addr = map_touched(64 * MIB);
	hold_reaper(&hold);
	set_limit(RLIMIT_DATA, GIB);
	fake(0, path, "VmData:\t  524288 kB\n");
	ck_assert(FAR(.memory = GIB / 4));
	ck_assert(!FAR(.memory = GIB / 4 + page));
	fake(0, path, NULL);
	ck_assert(!FAR(.memory = page));
	fake_none();
	set_limit(RLIMIT_DATA, (size_t)status_kib("VmData:") * KIB + 32 * MIB);
	ck_assert_ptr_eq(mmap(NULL, 64 * MIB, PROT_READ | PROT_WRITE,
			      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0),
			 MAP_FAILED);
	ck_assert_int_eq(td_engine_munmap(engine, addr, 64 * MIB, 0), 0);
	tdt_map_anon(64 * MIB);
	set_limit(RLIMIT_DATA, RLIM_INFINITY);
	ck_assert_uint_eq(stats().munmaps_in_caller, 1);
	let_go(&hold);
}
END_TEST

/* What is pending already counts as well. */
START_TEST(many_small_ranges_do_not_add_up_to_the_limit)
{
	enum { COUNT = 64 };
	char *addrs[COUNT];
	size_t length = MIB;

	if (TDT_SANITIZED) {
		tdt_skip("a sanitizer needs all the address space");
		return;
	}
	for (unsigned i = 0; i < COUNT; i++)
		addrs[i] = tdt_map_anon(length);
	hold_reaper(&hold);
	set_limit(RLIMIT_AS, (size_t)vm_pages() * page + 24 * MIB);
	for (unsigned i = 0; i < COUNT; i++)
		ck_assert_int_eq(td_engine_munmap(engine, addrs[i], length, 0), 0);
	ck_assert_uint_gt(stats().munmaps_in_caller, 0);
	ck_assert_uint_gt(stats().munmaps_deferred, 0);
	tdt_map_anon((24 + COUNT / 2) * MIB);
	set_limit(RLIMIT_AS, RLIM_INFINITY);
	let_go(&hold);
}
END_TEST

START_TEST(memory_can_be_locked_at_once_where_that_is_short)
{
	size_t length = 768 * KIB;
	char *addr = map_touched(length), *next = map_touched(length);

	if (!drop_ipc_lock()) {
		tdt_skip("no right to drop CAP_IPC_LOCK");
		return;
	}
	set_limit(RLIMIT_MEMLOCK, MIB);
	ck_assert_int_eq(lock_memory(addr, length), 0);
	ck_assert_int_ne(lock_memory(next, length), 0);
	hold_reaper(&hold);
	ck_assert_int_eq(td_engine_munmap(engine, addr, length, 0), 0);
	ck_assert_int_eq(lock_memory(next, length), 0);
	ck_assert_uint_eq(stats().munmaps_in_caller, 1);
	let_go(&hold);
	/* where there is room it is deferred */
	set_limit(RLIMIT_MEMLOCK, 8 * MIB);
	ck_assert_int_eq(td_engine_munmap(engine, next, length, 0), 0);
	ck_assert_uint_eq(stats().munmaps_deferred, 1);
}
END_TEST

START_TEST(many_small_locked_ranges_do_not_add_up_to_the_limit)
{
	enum { COUNT = 8 };
	char *addrs[COUNT], *next = map_touched(640 * KIB);

	if (!drop_ipc_lock()) {
		tdt_skip("no right to drop CAP_IPC_LOCK");
		return;
	}
	set_limit(RLIMIT_MEMLOCK, MIB);
	for (unsigned i = 0; i < COUNT; i++) {
		addrs[i] = map_touched(64 * KIB);
		ck_assert_int_eq(lock_memory(addrs[i], 64 * KIB), 0);
	}
	hold_reaper(&hold);
	for (unsigned i = 0; i < COUNT; i++)
		ck_assert_int_eq(td_engine_munmap(engine, addrs[i], 64 * KIB, 0), 0);
	ck_assert_uint_gt(stats().munmaps_deferred, 0);
	ck_assert_int_eq(lock_memory(next, 640 * KIB), 0);
	let_go(&hold);
}
END_TEST

START_TEST(commit_charge_is_free_at_once_where_it_is_short)
{
	char *addr = map_touched(MIB);

	/* The real mode would be everybody's on this machine: only what is read is so. */
	hold_reaper(&hold);
	fake(0, MODE, "2\n");
	fake(1, "/proc/meminfo", "CommitLimit: 4096 kB\nCommitted_AS: 2560 kB\n");
	ck_assert_int_eq(td_engine_munmap(engine, addr, MIB, 0), 0);
	ck_assert_uint_eq(stats().munmaps_in_caller, 1);
	addr = map_touched(MIB);
	fake(1, "/proc/meminfo", "CommitLimit: 4096 kB\nCommitted_AS: 1024 kB\n");
	ck_assert_int_eq(td_engine_munmap(engine, addr, MIB, 0), 0);
	ck_assert_uint_eq(stats().munmaps_deferred, 1);
	fake_none();
	let_go(&hold);
}
END_TEST

static long free_huge(void)
{
	return read_long(HUGE_OF("2048", "free_hugepages")) -
	       read_long(HUGE_OF("2048", "resv_hugepages"));
}

static bool have_huge;

/* Somebody else may use the pool at the same time: then it is tried again. */
START_TEST(huge_pages_are_free_at_once_where_they_are_few)
{
	if (!have_huge) {
		tdt_skip("the pool of huge pages cannot be grown");
		return;
	}
	hold_reaper(&hold);
	for (unsigned attempt = 0; attempt < 5; attempt++) {
		long pages = free_huge(), left, after;
		char *addr = pages > 0 ? map_huge(NULL, (size_t)pages) : NULL;

		if (!addr)
			continue;
		tdt_touch(addr, (size_t)pages * HUGE_PAGE);
		left = free_huge();
		ck_assert_int_eq(
			td_engine_munmap(engine, addr, (size_t)pages * HUGE_PAGE, 0), 0);
		after = free_huge();
		if (left == 0 && after >= pages) {
			ck_assert_uint_eq(stats().munmaps_in_caller, attempt + 1);
			let_go(&hold);
			return;
		}
	}
	ck_abort_msg("the huge pages did not come back at once");
}
END_TEST

/* ---- the limit on mappings ---- */

/* So many mappings of a page each. */
static char *map_up_to(size_t count)
{
	char *area = mmap(NULL, 2 * count * page, PROT_NONE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	ck_assert_ptr_ne(area, MAP_FAILED);
	for (size_t i = 0; i < count / 2; i++)
		ck_assert_int_eq(mprotect(area + 2 * i * page, page, PROT_READ), 0);
	return area;
}

static size_t count_mappings(void)
{
	return tdt_footprint().mappings;
}

/*
 * At each of the last few mappings before the limit: td_munmap does what munmap would
 * have, and at least one mapping can be made after it where one could after munmap.
 */
START_TEST(near_the_limit_on_mappings_one_can_always_map_again)
{
	long most = read_long("/proc/sys/vm/max_map_count");
	size_t room, cut = 0;
	char *range, *area;

	if (TDT_SANITIZED || most < 0 || most > 200000) {
		tdt_skip("mappings without end here, or a sanitizer's own");
		return;
	}
	range = map_touched(64 * page);
	area = map_up_to((size_t)most - count_mappings() - 24);
	for (room = 16; room-- > 0;) {
		bool at_limit;
		void *next;

		/* each page cut out of the rest takes one or two mappings more */
		while ((size_t)most - count_mappings() > room) {
			char *at = area + (2 * (size_t)most - 4 * ++cut) * page;

			if (mprotect(at, page, PROT_READ))
				break;
		}
		at_limit = (size_t)most <= count_mappings();
		hold_reaper(&hold);
		ck_assert_int_eq(td_engine_munmap(engine, range, 64 * page, 0), 0);
		ck_assert_uint_eq(tdt_mapped(range, 64 * page), 0);
		next = mmap(range, 64 * page, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
		ck_assert_msg(next == range, "room %zu: %s", room, strerror(errno));
		tdt_touch(range, 64 * page);
		let_go(&hold);
		drain();
		if (at_limit)
			break;
	}
	printf("# %zu mappings of %ld, deferred %d, in the caller %d\n", count_mappings(),
	       most, (int)stats().munmaps_deferred, (int)stats().munmaps_in_caller);
	ck_assert_uint_gt(stats().munmaps_deferred, 0);
	ck_assert_uint_gt(stats().munmaps_in_caller, 0);
}
END_TEST

/* One that splits a mapping is refused as munmap refuses it, with nothing changed. */
START_TEST(at_the_limit_on_mappings_a_split_is_refused_as_by_munmap)
{
	long most = read_long("/proc/sys/vm/max_map_count");
	char *range;

	if (TDT_SANITIZED || most < 0 || most > 200000) {
		tdt_skip("mappings without end here, or a sanitizer's own");
		return;
	}
	range = tdt_map_anon(16 * page);
	number_pages(range, 16 * page, 1);
	map_up_to((size_t)most - count_mappings() - 40);
	while (mmap(NULL, page, PROT_READ, MAP_SHARED | MAP_ANONYMOUS, -1, 0) !=
	       MAP_FAILED)
		;
	ck_assert_int_eq(munmap(range + 4 * page, page), -1);
	ck_assert_int_eq(errno, ENOMEM);
	ck_assert_int_eq(td_engine_munmap(engine, range + 4 * page, page, 0), -ENOMEM);
	check_numbers(range, 16 * page, 1);
	ck_assert_int_eq(td_engine_munmap(engine, range, 4 * page, 0), 0);
	check_numbers(range + 4 * page, 12 * page, 5);
	ck_assert_int_eq(td_engine_munmap(engine, range, 16 * page, 0), 0);
	drain();
	ck_assert_uint_eq(stats().works_failed, 0);
}
END_TEST

/*
 * D4: the end of a mapping splits nothing when it goes at once, as munmap has it, however
 * large it is.
 */
START_TEST(at_the_limit_on_mappings_the_end_of_one_is_unmapped)
{
	long most = read_long("/proc/sys/vm/max_map_count");
	char *range;

	if (TDT_SANITIZED || most < 0 || most > 200000) {
		tdt_skip("mappings without end here, or a sanitizer's own");
		return;
	}
	range = tdt_map_anon(64 * MIB);
	map_up_to((size_t)most - count_mappings() - 40);
	while (mmap(NULL, page, PROT_READ, MAP_SHARED | MAP_ANONYMOUS, -1, 0) !=
	       MAP_FAILED)
		;
	ck_assert_int_eq(td_engine_munmap(engine, range + 32 * MIB, 32 * MIB, 0), 0);
	ck_assert_uint_eq(tdt_mapped(range, 64 * MIB), 32 * MIB);
}
END_TEST

int main(void)
{
	struct tdt *tests = tdt_suite("headroom");
	const TTest *all[] = {
		without_limits_there_is_room_for_anything,
		address_space_must_leave_twice_as_much,
		locked_memory_must_leave_twice_as_much_unless_privileged,
		commit_charge_must_leave_twice_as_much_where_it_is_counted,
		the_pool_must_keep_twice_as_many_huge_pages,
		a_limit_that_cannot_be_read_is_taken_to_be_near,
		address_space_is_free_at_once_where_it_is_short,
		private_memory_may_be_mapped_at_once_where_it_is_limited,
		many_small_ranges_do_not_add_up_to_the_limit,
		memory_can_be_locked_at_once_where_that_is_short,
		many_small_locked_ranges_do_not_add_up_to_the_limit,
		commit_charge_is_free_at_once_where_it_is_short,
		huge_pages_are_free_at_once_where_they_are_few,
		near_the_limit_on_mappings_one_can_always_map_again,
		at_the_limit_on_mappings_a_split_is_refused_as_by_munmap,
		at_the_limit_on_mappings_the_end_of_one_is_unmapped,
	};
	int result;

	have_huge = pool_add(4);
	for (size_t i = 0; i < sizeof(all) / sizeof(*all); i++)
		tdt_add(tests, all[i], setup_eager, teardown);
	result = tdt_run(tests);
	if (have_huge)
		pool_add(-4);
	return result;
}
