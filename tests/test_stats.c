/* SPDX-License-Identifier: MIT */
/* A8: what was freed, by whom and at what cost; read as a struct and as JSON. */
#include "harness.h"
#include "base.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <teardown.h>

static td_engine *engine;
static td_space *space;

static void setup(void)
{
	ck_assert_int_eq(td_engine_create(TD_ENGINE_OPTS(.reapers = 1), &engine), 0);
	ck_assert_int_eq(td_space_create(engine, NULL, &space), 0);
}

static void teardown(void)
{
	ck_assert_int_eq(td_engine_destroy(engine, TD_EXIT_DRAIN, 0), 0);
}

/* The value of a key in a flat JSON object of numbers; checks its form on the way. */
static uint64_t value_of(const char *json, const char *key)
{
	const char *at = json + 1;
	uint64_t found = UINT64_MAX;

	ck_assert_int_eq(json[0], '{');
	for (;;) {
		char name[64];
		unsigned long long value;
		int length = 0;

		ck_assert_int_eq(
			sscanf(at, "\"%63[a-z_]\":%llu%n", name, &value, &length), 2);
		if (strcmp(name, key) == 0)
			found = value;
		at += length;
		if (*at == '}')
			break;
		ck_assert_int_eq(*at++, ',');
	}
	ck_assert_int_eq(at[1], '\0');
	ck_assert_msg(found != UINT64_MAX, "no %s in %s", key, json);
	return found;
}

START_TEST(a_teardown_is_accounted_to_its_space_and_engine)
{
	struct td_space_stats of_space;
	struct td_engine_stats of_engine;
	uint64_t began, took;
	void *addr;

	ck_assert_int_eq(td_region_map(space, 48 * MIB, NULL, &addr), 0);
	tdt_touch(addr, 48 * MIB);
	ck_assert_int_eq(td_space_grab(space), 0);
	ck_assert_int_eq(td_space_stats(space, &of_space), 0);
	ck_assert_uint_eq(of_space.users, 1);
	ck_assert_uint_eq(of_space.count, 2);
	ck_assert_uint_eq(of_space.regions, 1);
	ck_assert_uint_eq(of_space.bytes_mapped, 48 * MIB);
	ck_assert_uint_eq(of_space.bytes_pending, 0);
	ck_assert_uint_eq(of_space.put_to_reclaimed_ns, 0);
	began = tdi_sys_now_ns();
	ck_assert_int_eq(td_space_put(space), 0);
	ck_assert_int_eq(td_space_wait(space, TD_EVENT_RECLAIMED, TD_FOREVER), 0);
	took = tdi_sys_now_ns() - began;
	ck_assert_int_eq(td_engine_drain(engine, TD_FOREVER), 0);

	ck_assert_int_eq(td_space_stats(space, &of_space), 0);
	ck_assert_uint_eq(of_space.users, 0);
	ck_assert_uint_eq(of_space.count, 1);
	ck_assert_uint_eq(of_space.regions, 0);
	ck_assert_uint_eq(of_space.bytes_pending, 0);
	ck_assert_uint_eq(of_space.bytes_reclaimed, 48 * MIB);
	ck_assert_uint_ge(of_space.slices, 1);
	ck_assert_uint_gt(of_space.cpu_ns, 0);
	ck_assert_uint_gt(of_space.put_to_reclaimed_ns, 0);
	ck_assert_uint_le(of_space.put_to_reclaimed_ns, took);

	ck_assert_int_eq(td_engine_stats(engine, &of_engine), 0);
	ck_assert_uint_eq(of_engine.works_submitted, 1);
	ck_assert_uint_eq(of_engine.works_done, 1);
	ck_assert_uint_eq(of_engine.bytes_pending, 0);
	ck_assert_uint_eq(of_engine.bytes_reclaimed, 48 * MIB);
	ck_assert_uint_eq(of_engine.slices, of_space.slices);
	ck_assert_uint_ge(of_engine.cpu_ns, of_space.cpu_ns);
	ck_assert_int_eq(td_space_drop(space), 0);
}
END_TEST

START_TEST(json_says_the_same_as_the_struct)
{
	struct td_space_stats of_space;
	struct td_engine_stats of_engine;
	struct td_reaper_stats of_reaper;
	struct td_thread_stats of_thread;
	char json[2048];
	size_t length = 0;
	void *addr;

	ck_assert_int_eq(td_region_map(space, MIB, NULL, &addr), 0);
	ck_assert_int_eq(td_space_stats(space, &of_space), 0);
	ck_assert_int_eq(td_space_stats_json(space, json, sizeof(json), &length), 0);
	ck_assert_uint_eq(strlen(json), length);
#define CHECK(name, text) ck_assert_uint_eq(value_of(json, #name), of_space.name);
	TD_SPACE_STATS(CHECK)
#undef CHECK
	ck_assert_int_eq(td_space_put_sync(space), 0);
	ck_assert_int_eq(td_engine_stats(engine, &of_engine), 0);
	ck_assert_int_eq(td_engine_stats_json(engine, json, sizeof(json), NULL), 0);
#define CHECK(name, text) ck_assert_uint_eq(value_of(json, #name), of_engine.name);
	TD_ENGINE_STATS(CHECK)
#undef CHECK
	ck_assert_uint_eq(value_of(json, "works_in_caller"), 1);
	ck_assert_int_eq(td_engine_reaper_stats(engine, 0, &of_reaper), 0);
	ck_assert_int_eq(td_engine_reaper_stats_json(engine, 0, json, sizeof(json), NULL),
			 0);
#define CHECK(name, text) ck_assert_uint_eq(value_of(json, #name), of_reaper.name);
	TD_REAPER_STATS(CHECK)
#undef CHECK
	ck_assert_uint_gt(value_of(json, "tid"), 0);
	ck_assert_int_eq(td_engine_reaper_stats_json(engine, 1, json, sizeof(json), NULL),
			 -EINVAL);
	ck_assert_int_eq(td_thread_stats(&of_thread), 0);
	ck_assert_int_eq(td_thread_stats_json(json, sizeof(json), NULL), 0);
#define CHECK(name, text) ck_assert_uint_eq(value_of(json, #name), of_thread.name);
	TD_THREAD_STATS(CHECK)
#undef CHECK
	ck_assert_uint_gt(value_of(json, "slices_as_caller"), 0);
}
END_TEST

START_TEST(a_buffer_too_small_is_told_and_untouched)
{
	char json[2048], *exact;
	size_t length = 0, kept = 7;

	ck_assert_int_eq(td_engine_stats_json(engine, NULL, 0, &length), 0);
	ck_assert_uint_gt(length, 0);
	memset(json, '#', sizeof(json));
	ck_assert_int_eq(td_engine_stats_json(engine, json, length, &kept), -ENOSPC);
	ck_assert_int_eq(td_engine_stats_json(engine, json, 0, &kept), -ENOSPC);
	ck_assert_int_eq(td_engine_stats_json(engine, NULL, 5, &kept), -ENOSPC);
	ck_assert_uint_eq(kept, 7);
	for (size_t i = 0; i < sizeof(json); i++)
		ck_assert_int_eq(json[i], '#');
	exact = malloc(length + 1); /* ASan watches its end */
	ck_assert_int_eq(td_engine_stats_json(engine, exact, length + 1, &kept), 0);
	ck_assert_uint_eq(strlen(exact), length);
	free(exact);
	ck_assert_int_eq(td_space_stats_json(NULL, json, sizeof(json), NULL), -EINVAL);
	ck_assert_int_eq(td_space_put(space), 0);
}
END_TEST

START_TEST(the_default_engine_has_stats_too)
{
	struct td_engine_stats of_default;

	ck_assert_int_eq(td_engine_stats(NULL, &of_default), 0);
	ck_assert_uint_ge(of_default.reapers, 1);
	ck_assert_uint_eq(of_default.works_submitted, 0);
	ck_assert_int_eq(td_space_put(space), 0);
}
END_TEST

int main(void)
{
	struct tdt *tests = tdt_suite("stats");

	tdt_add(tests, a_teardown_is_accounted_to_its_space_and_engine, setup, teardown);
	tdt_add(tests, json_says_the_same_as_the_struct, setup, teardown);
	tdt_add(tests, a_buffer_too_small_is_told_and_untouched, setup, teardown);
	tdt_add(tests, the_default_engine_has_stats_too, setup, teardown);
	return tdt_run(tests);
}
