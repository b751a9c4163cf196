// SPDX-License-Identifier: MIT
// As main.c, in C++, and told of the event by a call.
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <sys/mman.h>
#include <teardown.h>
#include <vector>

namespace
{
const size_t length = size_t(64) << 20;

void must(const char *what, int err)
{
	if (err == 0)
		return;
	std::fprintf(stderr, "%s: %s\n", what, std::strerror(-err));
	std::exit(EXIT_FAILURE);
}

bool still_mapped(void *addr)
{
	std::vector<unsigned char> resident(length / 4096);

	return mincore(addr, length, resident.data()) == 0 || errno != ENOMEM;
}

extern "C" void reclaimed(td_space *space, td_event event, int status, void *arg)
{
	(void)space;
	if (event == TD_EVENT_RECLAIMED && status == 0)
		static_cast<std::atomic<int> *>(arg)->store(1);
}
} // namespace

int main()
{
	td_engine_opts engine_opts = {};
	td_region_opts region_opts = {};
	std::atomic<int> told(0);
	td_engine *engine;
	td_space *space;
	void *memory;

	engine_opts.size = sizeof engine_opts;
	engine_opts.name = "consumer++";
	region_opts.size = sizeof region_opts;
	region_opts.thp = TD_THP_NEVER;

	must("engine", td_engine_create(&engine_opts, &engine));
	must("space", td_space_create(engine, nullptr, &space));
	must("map", td_region_map(space, length, &region_opts, &memory));
	std::memset(memory, 1, length);

	must("on_event", td_space_on_event(space, TD_EVENT_RECLAIMED, reclaimed, &told));
	must("put", td_space_put(space));
	must("drain", td_engine_drain(engine, TD_FOREVER));
	if (told.load() != 1 || still_mapped(memory)) {
		std::fprintf(stderr, "told %d times, and %p is%s there\n", told.load(),
			     memory, still_mapped(memory) ? " still" : " not");
		return EXIT_FAILURE;
	}
	must("destroy", td_engine_destroy(engine, TD_EXIT_DRAIN, 0));
	std::puts("the memory is back");
	return EXIT_SUCCESS;
}
