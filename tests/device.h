/* SPDX-License-Identifier: MIT */
/* For tests: a device that notes what it is asked for, and fails as it is told. */
#ifndef TDT_DEVICE_H
#define TDT_DEVICE_H

#include "memory.h"

#include <errno.h>
#include <pthread.h>
#include <semaphore.h>

enum { HOOKS = 3, RELEASE = HOOKS, DONE, CALLS };

struct device {
	struct td_region_ops ops;
	struct td_region_hook hooks[HOOKS];
	char *addr;
	size_t length;

	/* what it is to do */
	unsigned failures[CALLS]; /* so many times in a row */
	size_t fails_from;	  /* releases: not before this offset */
	int error;
	size_t most;	      /* bytes a call; 0: all that is asked for */
	uint64_t ns_per_page; /* of its time */
	void (*use_library)(struct device *device, unsigned call);

	/* what has been done */
	pthread_mutex_t lock;
	char notes[256]; /* '0', '1', '2', 'r', 'd'; of releases in a row only one */
	const char *wrong;
	size_t at, first, last, largest; /* offset; lengths asked for */
	unsigned inside, calls[CALLS];
	pthread_t ran_on[CALLS];
	int status;
	sem_t is_done;
};

/* Returns whether the call is to fail. */
static inline bool note(struct device *device, unsigned call, char what)
{
	size_t end;
	bool fails;

	pthread_mutex_lock(&device->lock);
	if (device->inside++ > 0)
		device->wrong = "two calls at once";
	if (device->calls[DONE] > 0)
		device->wrong = "a call after done";
	end = strlen(device->notes);
	if (end < sizeof(device->notes) - 1 &&
	    (what != 'r' || end == 0 || device->notes[end - 1] != 'r'))
		device->notes[end] = what;
	device->calls[call]++;
	device->ran_on[call] = pthread_self();
	fails = device->failures[call] > 0 &&
		(call != RELEASE || device->at >= device->fails_from);
	if (fails)
		device->failures[call]--;
	pthread_mutex_unlock(&device->lock);
	if (device->use_library)
		device->use_library(device, call);
	return fails;
}

static inline void leave(struct device *device)
{
	pthread_mutex_lock(&device->lock);
	device->inside--;
	pthread_mutex_unlock(&device->lock);
}

static inline int device_prepare(struct device *device, unsigned hook, void *addr,
				 size_t length)
{
	bool fails = note(device, hook, (char)('0' + hook));

	if (addr != device->addr || length != device->length)
		device->wrong = "a hook for something else";
	leave(device);
	return fails ? device->error : 0;
}

static inline int device_prepare_0(void *arg, void *addr, size_t length)
{
	return device_prepare(arg, 0, addr, length);
}

static inline int device_prepare_1(void *arg, void *addr, size_t length)
{
	return device_prepare(arg, 1, addr, length);
}

static inline int device_prepare_2(void *arg, void *addr, size_t length)
{
	return device_prepare(arg, 2, addr, length);
}

static inline int device_release(void *arg, size_t offset, size_t length,
				 size_t *released)
{
	struct device *device = arg;
	bool fails = note(device, RELEASE, 'r');
	size_t part = device->most ? tdi_min_size(device->most, length) : length;

	if (offset != device->at)
		device->wrong = "a release from somewhere else";
	if (length == 0 || offset + length > device->length)
		device->wrong = "a release of what is not there";
	if (*released != 0)
		device->wrong = "something is released before it began";
	if (device->calls[RELEASE] == 1)
		device->first = length;
	device->last = length;
	device->largest = tdi_max_size(device->largest, length);
	if (!fails) {
		if (device->ns_per_page)
			tdi_sys_pause(part / tdi_page_size() * device->ns_per_page);
		*released = part;
		device->at += part;
	}
	leave(device);
	return fails ? device->error : 0;
}

static inline void device_done(void *arg, int status)
{
	struct device *device = arg;

	note(device, DONE, 'd');
	device->status = status;
	leave(device);
	sem_post(&device->is_done);
}

static inline void device_init(struct device *device, enum td_kind kind)
{
	*device = (struct device){
		.hooks = {{"slot", device_prepare_0, device},
			  {"iommu", device_prepare_1, device},
			  {"rings", device_prepare_2, device}},
		.ops = {.nr_prepare = HOOKS, .done = device_done, .arg = device},
		.error = -EIO,
		.status = 99,
	};
	device->ops.prepare = device->hooks;
	if (kind == TD_KIND_DEVICE)
		device->ops.release = device_release;
	pthread_mutex_init(&device->lock, NULL);
	sem_init(&device->is_done, 0, 0);
}

/* Memory of the device's, given to a space. */
static inline char *plug_in_at(struct device *device, td_space *space, char *addr,
			       size_t length)
{
	device_init(device, TD_KIND_DEVICE);
	device->addr = addr;
	device->length = length;
	ck_assert_int_eq(td_region_adopt(space, addr, length,
					 TD_REGION_OPTS(.kind = TD_KIND_DEVICE,
							.ops = &device->ops)),
			 0);
	return addr;
}

static inline char *plug_in(struct device *device, td_space *space, size_t length)
{
	return plug_in_at(device, space, map_file(-1, length, MAP_SHARED | MAP_ANONYMOUS),
			  length);
}

static inline void check_notes(struct device *device, const char *notes)
{
	ck_assert_msg(!device->wrong, "%s", device->wrong);
	ck_assert_str_eq(device->notes, notes);
}

/* A work that keeps the engine's reaper until it is let go. */
struct plug {
	struct td_work work;
	sem_t entered, may_go;
};

static inline int plug_slice(struct td_work *work, struct td_slice *slice)
{
	struct plug *plug = tdi_container_of(work, struct plug, work);

	(void)slice;
	sem_post(&plug->entered);
	sem_wait(&plug->may_go);
	return TD_WORK_DONE;
}

static inline void keep_busy(struct plug *plug)
{
	static const struct td_work_ops ops = {.slice = plug_slice};

	sem_init(&plug->entered, 0, 0);
	sem_init(&plug->may_go, 0, 0);
	td_work_init(&plug->work, &ops, 0);
	ck_assert_int_eq(td_engine_submit(engine, &plug->work), 0);
	sem_wait(&plug->entered);
}

#endif
