// SPDX-License-Identifier: MIT
// Static objects that use the library when the program exits, made before it was first
// used and after, and work that is still pending then. usage: exit [stop]
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <sys/mman.h>
#include <teardown.h>
#include <unistd.h>

namespace
{
const size_t length = size_t(72) << 20;
int made, used;

// No exceptions, and no exit in an exit: what is not so is told by the status.
void must(const char *what, int err)
{
	if (err == 0)
		return;
	std::fprintf(stderr, "%s: %s\n", what, std::strerror(-err));
	_exit(EXIT_FAILURE);
}

void *filled()
{
	void *memory = mmap(nullptr, length, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (memory == MAP_FAILED)
		_exit(EXIT_FAILURE);
	std::memset(memory, 1, length);
	return memory;
}

void use_default()
{
	td_batch *batch;
	td_space *space;
	void *memory;

	must("td_munmap", td_munmap(filled(), length));
	must("space", td_space_create(nullptr, nullptr, &space));
	must("map", td_region_map(space, length, nullptr, &memory));
	std::memset(memory, 1, length);
	must("put", td_space_put(space));
	must("batch", td_batch_create(nullptr, nullptr, &batch));
	for (int i = 0; i < 100; i++)
		must("free", td_batch_free_ptr(batch, std::malloc(64), 64));
	must("destroy batch", td_batch_destroy(batch, 0));
	used++;
}

struct early { // drains what all others have left
	early()
	{
		made++;
	}
	~early()
	{
		use_default();
		must("drain", td_engine_drain(nullptr, TD_FOREVER));
		(void)td_engine_stop(nullptr, TD_EXIT_DRAIN, 0);
		use_default(); // in this thread
		if (used != 5 || made != 3)
			_exit(EXIT_FAILURE);
		std::puts("the memory is back");
		std::fflush(stdout);
	}
};

struct owner { // of an engine, a space and a batch, which it holds until the end
	owner()
	{
		made++;
		must("engine", td_engine_create(nullptr, &engine));
		must("space", td_space_create(engine, nullptr, &space));
		must("map", td_region_map(space, length, nullptr, &memory));
		std::memset(memory, 1, length);
	}
	~owner()
	{
		must("put", td_space_put(space));
		use_default();
		must("destroy", td_engine_destroy(engine, TD_EXIT_DRAIN, 0));
	}
	td_engine *engine;
	td_space *space;
	void *memory;
};

early first;
owner second;

struct late { // made in the midst of things, so it is the first to go
	late()
	{
		made++;
	}
	~late()
	{
		use_default();
	}
};
} // namespace

int main(int argc, char **argv)
{
	static late third;

	must("td_munmap", td_munmap(filled(), length));
	if (argc > 1 && std::strcmp(argv[1], "stop") == 0)
		must("stop", td_engine_stop(nullptr, TD_EXIT_DRAIN, 0));
	use_default();
	std::exit(EXIT_SUCCESS); // with work pending
}
