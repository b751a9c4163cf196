/* SPDX-License-Identifier: MIT */
/* A13, D5: memory that its host releases, by callbacks, slowly, or not at all. */
#include "device.h"
#include "heard.h"

#define LENGTH (4 * MIB)

static struct device device;

/* The last put, until everything is reclaimed; what that says. */
static int put(td_space *space, enum way way)
{
	if (way == PUT)
		ck_assert_int_eq(td_space_put(space), 0);
	else
		ck_assert_int_eq(td_space_put_sync(space), 0);
	return td_space_wait(space, TD_EVENT_RECLAIMED, TD_FOREVER);
}

static td_space *make_counted_space(void)
{
	td_space *space = make_space(0);

	ck_assert_int_eq(td_space_grab(space), 0);
	return space;
}

START_TEST(hooks_come_in_order_and_once_then_releases_then_done)
{
	static const enum way ways[] = {PUT, PUT_SYNC, UNMAP_LATER};

	for (unsigned i = 0; i < 3; i++) {
		td_space *space = make_space(0);
		char *addr = plug_in(&device, space, LENGTH);

		give_back(space, addr, LENGTH, ways[i]);
		check_notes(&device, "012rd");
		for (unsigned call = 0; call < HOOKS; call++)
			ck_assert_uint_eq(device.calls[call], 1);
		ck_assert_uint_eq(device.calls[DONE], 1);
		ck_assert_int_eq(device.status, 0);
		ck_assert_uint_eq(device.at, LENGTH);
	}
}
END_TEST

START_TEST(put_sync_calls_back_in_the_caller)
{
	td_space *space = make_counted_space();

	plug_in(&device, space, LENGTH);
	ck_assert_int_eq(put(space, PUT_SYNC), 0);
	check_notes(&device, "012rd");
	for (unsigned i = 0; i < CALLS; i++)
		ck_assert(pthread_equal(device.ran_on[i], pthread_self()));
	ck_assert_int_eq(td_space_drop(space), 0);
}
END_TEST

/* ---- the pace ---- */

START_TEST(lengths_begin_with_a_page_and_grow_where_pages_are_fast)
{
	td_space *space = make_counted_space();

	plug_in(&device, space, 16 * MIB);
	ck_assert_int_eq(put(space, PUT), 0);
	ck_assert_uint_eq(device.first, tdi_page_size());
	ck_assert_uint_gt(device.largest, tdi_page_size());
	ck_assert_uint_lt(device.calls[RELEASE], 16 * MIB / tdi_page_size());
	ck_assert_int_eq(td_space_drop(space), 0);
}
END_TEST

START_TEST(lengths_stay_at_a_page_where_pages_are_slow)
{
	td_space *space = make_counted_space();
	size_t length = 8 * tdi_page_size();

	plug_in(&device, space, length);
	device.ns_per_page = 5000000; /* ten times the target */
	ck_assert_int_eq(put(space, PUT), 0);
	ck_assert_uint_eq(device.largest, tdi_page_size());
	ck_assert_uint_eq(device.calls[RELEASE], 8);
	ck_assert_uint_eq(device.at, length);
	ck_assert_int_eq(td_space_drop(space), 0);
}
END_TEST

START_TEST(a_part_is_enough_for_a_call)
{
	static const size_t parts[] = {64 * KIB, 12 * KIB, 100};

	for (size_t i = 0; i < sizeof(parts) / sizeof(*parts); i++) {
		td_space *space = make_counted_space();
		size_t length = parts[i] < KIB ? 16 * KIB : LENGTH;

		plug_in(&device, space, length);
		device.most = parts[i];
		ck_assert_int_eq(put(space, i % 2 ? PUT_SYNC : PUT), 0);
		check_notes(&device, "012rd");
		ck_assert_uint_eq(device.at, length);
		ck_assert_uint_ge(device.calls[RELEASE], length / parts[i]);
		ck_assert_uint_eq(stats_of(space).bytes_reclaimed, length);
		ck_assert_int_eq(td_space_drop(space), 0);
	}
}
END_TEST

static _Atomic(td_space *) reclaimed[2];
static atomic_uint nr_reclaimed;

static void on_reclaimed(td_space *space, enum td_event event, int status, void *arg)
{
	(void)event;
	(void)status;
	(void)arg;
	reclaimed[atomic_fetch_add(&nr_reclaimed, 1)] = space;
}

/* A13: 10 ms a page, on the only reaper; what comes later is back earlier. */
START_TEST(a_slow_device_does_not_hold_up_other_spaces)
{
	td_space *slow = make_counted_space(), *other = make_counted_space();
	void *addr;

	plug_in(&device, slow, 100 * tdi_page_size());
	device.ns_per_page = 10000000;
	ck_assert_int_eq(td_region_map(other, 64 * MIB, NULL, &addr), 0);
	tdt_touch(addr, 64 * MIB);
	ck_assert_int_eq(td_space_on_event(slow, TD_EVENT_RECLAIMED, on_reclaimed, NULL),
			 0);
	ck_assert_int_eq(td_space_on_event(other, TD_EVENT_RECLAIMED, on_reclaimed, NULL),
			 0);
	ck_assert_int_eq(td_space_put(slow), 0);
	ck_assert_int_eq(td_space_put(other), 0);
	ck_assert_int_eq(td_engine_drain(engine, TD_FOREVER), 0);
	ck_assert_uint_eq(atomic_load(&nr_reclaimed), 2);
	ck_assert_ptr_eq(atomic_load(&reclaimed[0]), other);
	ck_assert_ptr_eq(atomic_load(&reclaimed[1]), slow);
	ck_assert_uint_eq(device.at, 100 * tdi_page_size());
	ck_assert_int_eq(td_space_drop(slow), 0);
	ck_assert_int_eq(td_space_drop(other), 0);
}
END_TEST

/* ---- failures ---- */

START_TEST(a_callback_may_fail_all_but_the_last_time)
{
	for (unsigned call = 0; call <= RELEASE; call++) {
		td_space *space = make_counted_space();

		plug_in(&device, space, LENGTH);
		device.ops.tries = 3;
		device.failures[call] = 2;
		ck_assert_int_eq(put(space, call % 2 ? PUT_SYNC : PUT), 0);
		ck_assert_msg(!device.wrong, "%s", device.wrong);
		for (unsigned i = 0; i < HOOKS; i++)
			ck_assert_uint_eq(device.calls[i], i == call ? 3 : 1);
		ck_assert_uint_eq(device.at, LENGTH);
		ck_assert_int_eq(device.status, 0);
		ck_assert_int_eq(td_space_drop(space), 0);
	}
}
END_TEST

/* Neither 0 nor an errno: not what was asked for, and no reason to call for ever. */
START_TEST(what_is_no_error_is_success)
{
	td_space *space = make_counted_space();

	plug_in(&device, space, LENGTH);
	device.error = 7;
	for (unsigned i = 0; i < HOOKS; i++)
		device.failures[i] = 1;
	ck_assert_int_eq(put(space, PUT), 0);
	check_notes(&device, "012rd");
	ck_assert_int_eq(td_space_drop(space), 0);
}
END_TEST

/* In a row: what was released in between counts. */
START_TEST(failures_are_counted_anew_after_each_success)
{
	td_space *space = make_counted_space();

	plug_in(&device, space, LENGTH);
	device.ops.tries = 2;
	for (unsigned call = 0; call < RELEASE; call++)
		device.failures[call] = 1;
	device.failures[RELEASE] = 1;
	device.fails_from = LENGTH / 2;
	ck_assert_int_eq(put(space, PUT), 0);
	check_notes(&device, "001122rd");
	ck_assert_int_eq(device.status, 0);
	ck_assert_int_eq(td_space_drop(space), 0);
}
END_TEST

START_TEST(a_callback_that_fails_for_ever_is_reported_and_the_rest_goes)
{
	static const char *const names[] = {
		"'slot' failed 3 times", "'iommu' failed 3 times",
		"'rings' failed 3 times", "'release' failed 3 times"};

	for (unsigned i = 0; i < 2 * (RELEASE + 1); i++) {
		unsigned call = i / 2;
		td_space *space = make_counted_space();
		struct hearing hearing;
		struct td_space_stats stats;
		char *addr = plug_in(&device, space, LENGTH);
		void *other;

		ck_assert_int_eq(td_region_map(space, LENGTH, NULL, &other), 0);
		tdt_touch(other, LENGTH);
		device.ops.tries = 3;
		device.failures[call] = 1000;
		device.fails_from = LENGTH / 2;
		hear(&hearing);
		ck_assert_int_eq(put(space, i % 2 ? PUT_SYNC : PUT), -EIO);
		heard(&hearing);
		ck_assert_uint_eq(times(hearing.text, "libteardown:"), 1);
		ck_assert_uint_eq(times(hearing.text, "space 'arena'"), 1);
		ck_assert_uint_eq(times(hearing.text, names[call]), 1);
		check_notes(&device, call == 0	 ? "000d"
				     : call == 1 ? "0111d"
				     : call == 2 ? "01222d"
						 : "012rd");
		ck_assert_int_eq(device.status, -EIO);
		ck_assert_uint_eq(device.calls[DONE], 1);
		ck_assert_uint_eq(tdt_mapped(addr, LENGTH), LENGTH);
		ck_assert_uint_eq(tdt_mapped(other, LENGTH), 0);
		stats = stats_of(space);
		ck_assert_uint_eq(stats.bytes_refused, LENGTH);
		ck_assert_uint_eq(stats.regions, 0);
		ck_assert_uint_eq(stats.bytes_reclaimed,
				  LENGTH + (call == RELEASE ? device.at : 0));
		ck_assert_int_eq(td_space_drop(space), 0);
		/* nobody claims it any more */
		munmap(addr, LENGTH);
	}
}
END_TEST

/* Ten times where nothing else is said. */
START_TEST(there_are_ten_tries_unless_told)
{
	td_space *space = make_counted_space();
	struct hearing hearing;

	plug_in(&device, space, tdi_page_size());
	device.failures[1] = 1000;
	hear(&hearing);
	ck_assert_int_eq(put(space, PUT), -EIO);
	ck_assert_uint_eq(times(heard(&hearing), "failed 10 times"), 1);
	ck_assert_uint_eq(device.calls[1], 10);
	ck_assert_int_eq(td_space_drop(space), 0);
}
END_TEST

static int release_with_an_error(void *arg, size_t offset, size_t length,
				 size_t *released)
{
	struct device *of = arg;
	int err = device_release(arg, offset, tdi_min_size(length, 16 * KIB), released);

	return err ? err : of->error;
}

START_TEST(progress_counts_even_with_an_error)
{
	td_space *space = make_counted_space();

	plug_in(&device, space, 128 * KIB);
	device.ops.release = release_with_an_error; /* each time */
	device.ops.tries = 2;
	ck_assert_int_eq(put(space, PUT), 0);
	check_notes(&device, "012rd");
	ck_assert_uint_eq(device.at, 128 * KIB);
	ck_assert_int_eq(device.status, 0);
	ck_assert_uint_eq(stats_of(space).bytes_reclaimed, 128 * KIB);
	ck_assert_int_eq(td_space_drop(space), 0);
}
END_TEST

START_TEST(neither_an_error_nor_progress_is_a_failure)
{
	td_space *space = make_counted_space();
	struct hearing hearing;

	plug_in(&device, space, LENGTH);
	device.ops.tries = 4;
	device.failures[RELEASE] = 1000;
	device.error = 0;
	hear(&hearing);
	ck_assert_int_eq(put(space, PUT), -EAGAIN);
	ck_assert_uint_eq(times(heard(&hearing), "'release' failed 4 times"), 1);
	ck_assert_uint_eq(device.calls[RELEASE], 4);
	ck_assert_int_eq(device.status, -EAGAIN);
	ck_assert_int_eq(td_space_drop(space), 0);
}
END_TEST

static int release_too_much(void *arg, size_t offset, size_t length, size_t *released)
{
	(void)arg;
	(void)offset;
	*released = length + 1;
	return 0;
}

static void put_a_liar(void *arg)
{
	td_space *space;

	(void)arg;
	setup();
	space = make_space(0);
	plug_in(&device, space, LENGTH);
	device.ops.release = release_too_much;
	td_space_put_sync(space);
}

START_TEST(more_than_was_asked_for_stops_the_process)
{
	tdt_expect_death(put_a_liar, NULL, "4097 bytes released of 4096");
}
END_TEST

/* One device after the other fails now and then; each gets what is its own. */
START_TEST(devices_do_not_hold_each_other_up)
{
	enum { DEVICES = 8 };
	static struct device devices[DEVICES];
	td_space *space = make_counted_space();
	struct hearing hearing;

	for (unsigned i = 0; i < DEVICES; i++) {
		plug_in(&devices[i], space, 64 * KIB);
		devices[i].ops.tries = 3;
		devices[i].failures[i % CALLS] = i == 5 ? 1000 : 2;
	}
	hear(&hearing);
	ck_assert_int_eq(put(space, PUT), -EIO);
	ck_assert_uint_eq(times(heard(&hearing), "libteardown:"), 1);
	for (unsigned i = 0; i < DEVICES; i++) {
		ck_assert_msg(!devices[i].wrong, "%s", devices[i].wrong);
		ck_assert_int_eq(devices[i].status, i == 5 ? -EIO : 0);
		ck_assert_uint_eq(devices[i].at, i == 5 ? 0 : 64 * KIB);
	}
	ck_assert_uint_eq(stats_of(space).bytes_refused, 64 * KIB);
	ck_assert_int_eq(td_space_drop(space), 0);
}
END_TEST

int main(void)
{
	struct tdt *tests = tdt_suite("device");
	const TTest *all[] = {
		hooks_come_in_order_and_once_then_releases_then_done,
		put_sync_calls_back_in_the_caller,
		lengths_begin_with_a_page_and_grow_where_pages_are_fast,
		lengths_stay_at_a_page_where_pages_are_slow,
		a_part_is_enough_for_a_call,
		a_slow_device_does_not_hold_up_other_spaces,
		a_callback_may_fail_all_but_the_last_time,
		what_is_no_error_is_success,
		failures_are_counted_anew_after_each_success,
		a_callback_that_fails_for_ever_is_reported_and_the_rest_goes,
		there_are_ten_tries_unless_told,
		progress_counts_even_with_an_error,
		neither_an_error_nor_progress_is_a_failure,
		devices_do_not_hold_each_other_up,
	};

	for (size_t i = 0; i < sizeof(all) / sizeof(*all); i++)
		tdt_add(tests, all[i], setup, teardown);
	/* its process makes its own */
	tdt_add(tests, more_than_was_asked_for_stops_the_process, NULL, NULL);
	return tdt_run(tests);
}
