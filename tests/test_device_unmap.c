/* SPDX-License-Identifier: MIT */
/*
 * A13, D2, D5: devices that leave before their space does, that are abandoned, whose
 * callbacks use the library; and hooks of memory that is no device's.
 */
#include "device.h"
#include "engine_internal.h"
#include "heard.h"

#include <limits.h>
#include <urcu/urcu-memb.h>

#define LENGTH (4 * MIB)

static struct device device;
static td_space *space;

static void open_space(void)
{
	setup();
	space = make_space(0);
	ck_assert_int_eq(td_space_grab(space), 0);
}

static void close_space(void)
{
	ck_assert_int_eq(td_space_drop(space), 0);
	if (engine)
		teardown();
}

static int put(void)
{
	ck_assert_int_eq(td_space_put(space), 0);
	return td_space_wait(space, TD_EVENT_RECLAIMED, TD_FOREVER);
}

static int look_up(const void *addr)
{
	const struct rcu_flavor_struct *flavor = td_engine_flavor(engine);
	struct td_region_info info;
	int err;

	flavor->register_thread();
	flavor->read_lock();
	err = td_region_lookup(space, addr, &info);
	flavor->read_unlock();
	flavor->unregister_thread();
	return err;
}

/* ---- td_region_unmap ---- */

START_TEST(an_unmapped_device_is_prepared_in_the_caller_and_released_later)
{
	char *addr = plug_in(&device, space, LENGTH), *other;
	struct plug plug;

	ck_assert_int_eq(td_engine_set_munmap_threshold(engine, SIZE_MAX), 0);
	keep_busy(&plug);
	ck_assert_int_eq(td_region_unmap(space, addr, LENGTH), 0);
	check_notes(&device, "012");
	for (unsigned i = 0; i < HOOKS; i++)
		ck_assert(pthread_equal(device.ran_on[i], pthread_self()));
	check_out_of_sight(addr, LENGTH);
	ck_assert_int_eq(look_up(addr), -ENOENT);
	other = mmap(addr, LENGTH, PROT_READ | PROT_WRITE,
		     MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
	ck_assert_ptr_eq(other, addr);
	fill(other, 'o', LENGTH);
	sem_post(&plug.may_go);
	sem_wait(&device.is_done);
	ck_assert(!pthread_equal(device.ran_on[RELEASE], pthread_self()));
	ck_assert(!pthread_equal(device.ran_on[DONE], pthread_self()));
	ck_assert_int_eq(put(), 0);
	check_notes(&device, "012rd");
	ck_assert_int_eq(device.status, 0);
	ck_assert_uint_eq(device.at, LENGTH);
	ck_assert(is_filled(other, LENGTH, 'o'));
	ck_assert_uint_eq(stats_of(space).bytes_reclaimed, LENGTH);
	munmap(other, LENGTH);
}
END_TEST

START_TEST(reclaimed_waits_for_a_device_that_left_before)
{
	struct plug plug;

	keep_busy(&plug);
	ck_assert_int_eq(td_region_unmap(space, plug_in(&device, space, LENGTH), LENGTH),
			 0);
	ck_assert_int_eq(td_space_put(space), 0);
	ck_assert_int_eq(td_space_wait(space, TD_EVENT_GONE, 0), 0);
	ck_assert_int_eq(td_space_wait(space, TD_EVENT_RECLAIMED, 0), -ETIMEDOUT);
	device.failures[RELEASE] = 1000;
	device.fails_from = LENGTH;
	sem_post(&plug.may_go);
	ck_assert_int_eq(td_space_wait(space, TD_EVENT_RECLAIMED, TD_FOREVER), 0);
	check_notes(&device, "012rd");
}
END_TEST

START_TEST(a_device_that_fails_after_it_left_is_reported)
{
	char *addr = plug_in(&device, space, LENGTH);
	struct hearing hearing;

	device.ops.tries = 3;
	device.failures[RELEASE] = 1000;
	hear(&hearing);
	ck_assert_int_eq(td_region_unmap(space, addr, LENGTH), 0);
	ck_assert_int_eq(put(), -EIO);
	ck_assert_uint_eq(times(heard(&hearing), "space 'arena'"), 1);
	check_notes(&device, "012rd");
	ck_assert_int_eq(device.status, -EIO);
	ck_assert_uint_eq(device.calls[RELEASE], 3);
	ck_assert_uint_eq(stats_of(space).bytes_refused, LENGTH);
}
END_TEST

/* Between two regions of plain memory, which go all the same. */
START_TEST(a_device_that_cannot_be_prepared_stays)
{
	char *area = tdt_map_anon(3 * LENGTH), *addr = area + LENGTH;
	struct hearing hearing;

	ck_assert_int_eq(td_region_adopt(space, area, LENGTH, NULL), 0);
	ck_assert_int_eq(td_region_adopt(space, area + 2 * LENGTH, LENGTH, NULL), 0);
	plug_in_at(&device, space, addr, LENGTH);
	device.ops.tries = 2;
	device.failures[1] = 2;
	fill(addr, 'x', LENGTH);
	hear(&hearing);
	ck_assert_int_eq(td_region_unmap(space, area, 3 * LENGTH), -EIO);
	ck_assert_uint_eq(times(heard(&hearing), "'iommu' failed 2 times"), 1);
	check_notes(&device, "011");
	ck_assert_uint_eq(tdt_mapped(area, LENGTH), 0);
	ck_assert_uint_eq(tdt_mapped(area + 2 * LENGTH, LENGTH), 0);
	ck_assert(is_filled(addr, LENGTH, 'x'));
	ck_assert_int_eq(look_up(addr), 0);
	ck_assert_int_eq(look_up(area), -ENOENT);
	ck_assert_uint_eq(stats_of(space).regions, 1);
	ck_assert_uint_eq(stats_of(space).bytes_refused, 0);
	/* once more, from where it stopped; its tries are counted anew */
	device.failures[1] = 1;
	ck_assert_int_eq(td_region_unmap(space, area, 3 * LENGTH), 0);
	sem_wait(&device.is_done);
	ck_assert_int_eq(put(), 0);
	check_notes(&device, "0111" /* twice in vain, */ "12rd");
	ck_assert_int_eq(device.status, 0);
	ck_assert_uint_eq(tdt_mapped(area, 3 * LENGTH), 0);
}
END_TEST

START_TEST(a_device_that_stayed_goes_with_its_space)
{
	char *addr = plug_in(&device, space, LENGTH);
	struct hearing hearing;

	device.ops.tries = 1;
	device.failures[2] = 1;
	hear(&hearing);
	ck_assert_int_eq(td_region_unmap(space, addr, LENGTH), -EIO);
	heard(&hearing);
	ck_assert_int_eq(put(), 0);
	check_notes(&device, "0122rd");
	ck_assert_uint_eq(tdt_mapped(addr, LENGTH), 0);
}
END_TEST

START_TEST(a_region_with_ops_is_unmapped_whole_or_not_at_all)
{
	char *addr = plug_in(&device, space, LENGTH);
	size_t page = tdi_page_size();

	ck_assert_int_eq(td_region_unmap(space, addr, page), -EOPNOTSUPP);
	ck_assert_int_eq(td_region_unmap(space, addr + page, LENGTH), -EOPNOTSUPP);
	ck_assert_int_eq(td_region_unmap(space, addr - page, LENGTH), -EOPNOTSUPP);
	ck_assert_int_eq(td_region_unmap(space, addr + page, page), -EOPNOTSUPP);
	check_notes(&device, "");
	ck_assert_uint_eq(tdt_mapped(addr, LENGTH), LENGTH);
	ck_assert_int_eq(look_up(addr), 0);
	ck_assert_int_eq(put(), 0);
	check_notes(&device, "012rd");
}
END_TEST

/* ---- where the range cannot be moved: released in the caller ---- */

START_TEST(a_device_that_cannot_be_moved_is_released_in_the_caller)
{
	char *addr = plug_in(&device, space, LENGTH);

	device.failures[RELEASE] = 3;
	device.fails_from = LENGTH / 2;
	tdt_fail(TDI_SYS_mremap, -ENOMEM, 0, UINT_MAX);
	ck_assert_int_eq(td_region_unmap(space, addr, LENGTH), 0);
	check_notes(&device, "012rd");
	for (unsigned i = 0; i < CALLS; i++)
		ck_assert(pthread_equal(device.ran_on[i], pthread_self()));
	ck_assert_int_eq(device.status, 0);
	ck_assert_uint_eq(tdt_mapped(addr, LENGTH), 0);
	ck_assert_uint_eq(stats_of(space).bytes_reclaimed, LENGTH);
	ck_assert_int_eq(put(), 0);
	ck_assert_uint_eq(device.calls[DONE], 1);
}
END_TEST

START_TEST(what_has_been_released_in_the_caller_is_not_released_again)
{
	for (unsigned later = 0; later < 3; later++) {
		td_space *owner = make_space(0);
		char *addr = plug_in(&device, owner, LENGTH);
		struct hearing hearing;

		ck_assert_int_eq(td_space_grab(owner), 0);
		device.ops.tries = 3;
		device.failures[RELEASE] = 3;
		device.fails_from = LENGTH / 2;
		tdt_fail(TDI_SYS_mmap, -ENOMEM, 0, UINT_MAX);
		hear(&hearing);
		ck_assert_int_eq(td_region_unmap(owner, addr, LENGTH), -EIO);
		ck_assert_uint_eq(times(heard(&hearing), "'release' failed 3 times"), 1);
		check_notes(&device, "012r");
		ck_assert_uint_ge(device.at, LENGTH / 2);
		ck_assert_uint_eq(tdt_mapped(addr, LENGTH), LENGTH);
		ck_assert_uint_eq(stats_of(owner).regions, 1);
		/* it works again: in the caller, by a reaper, with its space */
		if (later > 0)
			tdt_fail_none();
		if (later < 2)
			ck_assert_int_eq(td_region_unmap(owner, addr, LENGTH), 0);
		ck_assert_int_eq(td_space_put(owner), 0);
		ck_assert_int_eq(td_space_wait(owner, TD_EVENT_RECLAIMED, TD_FOREVER), 0);
		tdt_fail_none();
		check_notes(&device, "012rd");
		ck_assert_int_eq(device.status, 0);
		ck_assert_uint_eq(device.at, LENGTH);
		ck_assert_uint_eq(tdt_mapped(addr, LENGTH), 0);
		ck_assert_uint_eq(stats_of(owner).bytes_reclaimed, LENGTH);
		ck_assert_uint_eq(stats_of(owner).bytes_refused, 0);
		ck_assert_int_eq(td_space_drop(owner), 0);
	}
	ck_assert_int_eq(put(), 0);
}
END_TEST

/* More tries than a pause's doubling from 1 ms to a second takes. */
START_TEST(a_device_has_all_its_tries_in_the_caller_too)
{
	char *addr = plug_in(&device, space, 2 * tdi_page_size());

	device.ops.tries = 13;
	device.failures[RELEASE] = 11;
	tdt_fail(TDI_SYS_mremap, -ENOMEM, 0, UINT_MAX);
	ck_assert_int_eq(td_region_unmap(space, addr, 2 * tdi_page_size()), 0);
	check_notes(&device, "012rd");
	ck_assert_int_eq(put(), 0);
}
END_TEST

START_TEST(a_range_that_cannot_be_unmapped_yet_stays_and_goes_later)
{
	char *addr = plug_in(&device, space, LENGTH);

	tdt_fail(TDI_SYS_mremap, -ENOMEM, 0, UINT_MAX);
	tdt_fail(TDI_SYS_munmap, -ENOMEM, 0, UINT_MAX);
	ck_assert_int_eq(td_region_unmap(space, addr, LENGTH), -ENOMEM);
	check_notes(&device, "012r");
	ck_assert_int_eq(look_up(addr), 0);
	ck_assert_uint_eq(tdt_mapped(addr, LENGTH), LENGTH);
	tdt_fail_none();
	ck_assert_int_eq(put(), 0);
	check_notes(&device, "012rd");
	ck_assert_uint_eq(tdt_mapped(addr, LENGTH), 0);
}
END_TEST

/* ---- hooks of other memory ---- */

static int held_memfd;

static void look_at_memfd(struct device *of, unsigned call)
{
	bool there = held_by(held_memfd) == LENGTH;

	if (call == DONE ? there : !there || !is_filled(of->addr, LENGTH, 'x'))
		of->wrong = "it was released too early or too late";
}

START_TEST(hooks_of_a_memfd_come_before_its_release)
{
	for (unsigned way = 0; way < WAYS; way++) {
		td_space *owner = make_space(0);
		struct td_region_opts opts = {.size = sizeof(opts),
					      .kind = TD_KIND_SHARED,
					      .flags = TD_REGION_FD | TD_REGION_EXCLUSIVE,
					      .ops = &device.ops};
		void *addr;

		device_init(&device, TD_KIND_SHARED);
		held_memfd = opts.fd = make_memfd(LENGTH, 0);
		device.use_library = look_at_memfd;
		device.failures[1] = 2;
		ck_assert_int_eq(td_region_map(owner, LENGTH, &opts, &addr), 0);
		fill(addr, 'x', LENGTH);
		device.addr = addr;
		device.length = LENGTH;
		give_back(owner, addr, LENGTH, (enum way)way);
		check_notes(&device, "01112d");
		ck_assert_int_eq(device.status, 0);
		close(held_memfd);
	}
	ck_assert_int_eq(put(), 0);
}
END_TEST

/* ---- callbacks that use the library ---- */

static void use_everything(struct device *of, unsigned call)
{
	td_space *made;
	void *addr;

	(void)of;
	ck_assert_int_eq(td_space_create(engine, NULL, &made), 0);
	ck_assert_int_eq(td_region_map(made, MIB, NULL, &addr), 0);
	tdt_touch(addr, MIB);
	if (call % 2)
		ck_assert_int_eq(td_region_unmap(made, addr, MIB), 0);
	ck_assert_int_eq(call == RELEASE ? td_space_put_sync(made) : td_space_put(made),
			 0);
	/* the same space, while it has users */
	if (td_space_get_not_zero(space)) {
		ck_assert_int_eq(td_region_map(space, MIB, NULL, &addr), 0);
		ck_assert_int_eq(td_region_unmap(space, addr, MIB), 0);
		ck_assert_int_eq(td_space_put(space), 0);
	}
}

START_TEST(callbacks_may_use_the_library)
{
	static struct device second;
	char *addr = plug_in(&device, space, 16 * KIB);

	plug_in(&second, space, 16 * KIB);
	device.use_library = second.use_library = use_everything;
	ck_assert_int_eq(td_region_unmap(space, addr, 16 * KIB), 0);
	ck_assert_int_eq(put(), 0);
	ck_assert_int_eq(td_engine_drain(engine, TD_FOREVER), 0);
	check_notes(&device, "012rd");
	check_notes(&second, "012rd");
}
END_TEST

/*
 * The caller is still inside td_region_unmap, and the kernel may give the callback the
 * very addresses.
 */
static void map_there_again(struct device *of, unsigned call)
{
	char *addr;

	if (call != DONE)
		return;
	addr = mmap(of->addr, of->length, PROT_READ | PROT_WRITE,
		    MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
	ck_assert_ptr_eq(addr, of->addr);
	ck_assert_int_eq(td_region_adopt(space, addr, of->length, NULL), 0);
}

static void unmap_and_map_again(void)
{
	device.use_library = map_there_again;
	ck_assert_int_eq(td_region_unmap(space, device.addr, LENGTH), 0);
	ck_assert_uint_eq(device.calls[DONE], 1);
	ck_assert_int_eq(device.status, 0);
	ck_assert_int_eq(look_up(device.addr), 0);
	ck_assert_int_eq(td_region_unmap(space, device.addr, LENGTH), 0);
}

START_TEST(what_is_told_that_a_region_is_gone_may_map_there_again)
{
	struct td_region_opts opts = {.size = sizeof(opts), .ops = &device.ops};
	void *addr;

	device_init(&device, TD_KIND_ANON);
	ck_assert_int_eq(td_region_map(space, LENGTH, &opts, &addr), 0);
	device.addr = addr;
	device.length = LENGTH;
	unmap_and_map_again();

	plug_in(&device, space, LENGTH);
	tdt_fail(TDI_SYS_mremap, -ENOMEM, 0, UINT_MAX);
	unmap_and_map_again();
	tdt_fail_none();

	plug_in(&device, space, LENGTH);
	ck_assert_int_eq(td_engine_destroy(engine, TD_EXIT_DRAIN, 0), 0);
	unmap_and_map_again(); /* no reapers: the caller releases what it moved */
	ck_assert_int_eq(put(), 0);
	engine = NULL;
}
END_TEST

/* ---- the engine goes first ---- */

static void *abandon(void *arg)
{
	(void)arg;
	return (void *)(intptr_t)td_engine_destroy(engine, TD_EXIT_ABANDON, 0);
}

static sem_t inside, may_leave;

static void stop_in_release(struct device *of, unsigned call)
{
	(void)of;
	if (call != RELEASE)
		return;
	sem_post(&inside);
	sem_wait(&may_leave);
}

static void abandon_until_stopped(pthread_t *thread)
{
	pthread_create(thread, NULL, abandon, NULL);
	for (bool stopped = false; !stopped; sched_yield()) {
		pthread_mutex_lock(&engine->queues.first->lock);
		stopped = engine->queues.first->stopped;
		pthread_mutex_unlock(&engine->queues.first->lock);
	}
}

static void check_abandoned(pthread_t thread, const char *notes, const char *addr)
{
	void *result;

	ck_assert_int_eq(td_space_wait(space, TD_EVENT_RECLAIMED, TD_FOREVER),
			 -ECANCELED);
	ck_assert_int_eq(pthread_join(thread, &result), 0);
	ck_assert_ptr_null(result);
	engine = NULL;
	check_notes(&device, notes);
	ck_assert_uint_eq(device.calls[DONE], 1);
	ck_assert_int_eq(device.status, -ECANCELED);
	ck_assert_uint_eq(tdt_mapped(addr, LENGTH), LENGTH);
}

START_TEST(an_abandoned_device_is_told_before_it_was_begun)
{
	char *addr = plug_in(&device, space, LENGTH);
	struct plug plug;
	pthread_t thread;

	keep_busy(&plug);
	ck_assert_int_eq(td_space_put(space), 0);
	abandon_until_stopped(&thread);
	sem_post(&plug.may_go);
	check_abandoned(thread, "d", addr);
}
END_TEST

START_TEST(an_abandoned_device_is_told_when_its_last_call_has_returned)
{
	char *addr = plug_in(&device, space, LENGTH);
	pthread_t thread;

	sem_init(&inside, 0, 0);
	sem_init(&may_leave, 0, 0);
	device.use_library = stop_in_release;
	device.ns_per_page = 2000000; /* longer than a slice */
	ck_assert_int_eq(td_space_put(space), 0);
	sem_wait(&inside);
	abandon_until_stopped(&thread);
	ck_assert_uint_eq(device.calls[DONE], 0);
	sem_post(&may_leave);
	check_abandoned(thread, "012rd", addr);
}
END_TEST

START_TEST(an_abandoned_device_that_has_left_its_space_is_told_too)
{
	char *addr = plug_in(&device, space, LENGTH);
	struct plug plug;
	pthread_t thread;
	void *result;

	keep_busy(&plug);
	ck_assert_int_eq(td_region_unmap(space, addr, LENGTH), 0);
	ck_assert_int_eq(td_space_put(space), 0);
	abandon_until_stopped(&thread);
	sem_post(&plug.may_go);
	ck_assert_int_eq(td_space_wait(space, TD_EVENT_RECLAIMED, TD_FOREVER),
			 -ECANCELED);
	ck_assert_int_eq(pthread_join(thread, &result), 0);
	engine = NULL;
	check_notes(&device, "012d");
	ck_assert_int_eq(device.status, -ECANCELED);
}
END_TEST

int main(void)
{
	struct tdt *tests = tdt_suite("device_unmap");
	const TTest *all[] = {
		an_unmapped_device_is_prepared_in_the_caller_and_released_later,
		reclaimed_waits_for_a_device_that_left_before,
		a_device_that_fails_after_it_left_is_reported,
		a_device_that_cannot_be_prepared_stays,
		a_device_that_stayed_goes_with_its_space,
		a_region_with_ops_is_unmapped_whole_or_not_at_all,
		a_device_that_cannot_be_moved_is_released_in_the_caller,
		what_has_been_released_in_the_caller_is_not_released_again,
		a_device_has_all_its_tries_in_the_caller_too,
		a_range_that_cannot_be_unmapped_yet_stays_and_goes_later,
		hooks_of_a_memfd_come_before_its_release,
		callbacks_may_use_the_library,
		what_is_told_that_a_region_is_gone_may_map_there_again,
		an_abandoned_device_is_told_before_it_was_begun,
		an_abandoned_device_is_told_when_its_last_call_has_returned,
		an_abandoned_device_that_has_left_its_space_is_told_too,
	};

	for (size_t i = 0; i < sizeof(all) / sizeof(*all); i++)
		tdt_add(tests, all[i], open_space, close_space);
	return tdt_run(tests);
}
