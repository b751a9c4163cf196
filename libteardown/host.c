/* SPDX-License-Identifier: MIT */
#include "host.h"
#include "sys.h"

#include <linux/userfaultfd.h>
#include <string.h>
#include <sys/ioctl.h>

#define TRIES_DEFAULT 10u
#define PAUSE_MAX_NS 1000000000u

static unsigned nr_hooks(const struct tdi_extent *extent)
{
	return extent->backing.ops ? extent->backing.ops->nr_prepare : 0;
}

/* The host's own come first, then ours: leaving a userfaultfd. */
bool tdi_host_must_prepare(const struct tdi_extent *extent)
{
	return extent->prepared < nr_hooks(extent) + (extent->backing.uffd >= 0);
}

/*
 * Releasing pages would tell whoever reads the userfaultfd, and wait until he has read
 * it; and threads that wait for one of its pages would wait for ever.
 */
static void leave_userfault(const struct tdi_extent *extent)
{
	struct uffdio_range range = {extent->start, extent->length};
	int err = tdi_sys_ioctl(extent->backing.uffd, UFFDIO_UNREGISTER, &range);

	if (err < 0)
		tdi_warn("%#lx-%#lx could not be unregistered from its userfaultfd: %s",
			 (unsigned long)extent->start,
			 (unsigned long)(extent->start + extent->length),
			 strerrordesc_np(-err));
}

int tdi_host_prepare(struct tdi_extent *extent)
{
	const struct td_region_hook *hook;
	int err = 0;

	if (extent->prepared < nr_hooks(extent)) {
		hook = &extent->backing.ops->prepare[extent->prepared];
		err = hook->call(hook->arg, (void *)extent->start, extent->length);
	} else {
		leave_userfault(extent);
	}
	if (err >= 0) {
		extent->prepared++;
		extent->failures = 0;
	}
	return err < 0 ? err : 0;
}

bool tdi_host_gives_up(struct tdi_extent *extent)
{
	unsigned tries = extent->backing.ops->tries;

	return ++extent->failures >= (tries ? tries : TRIES_DEFAULT);
}

void tdi_host_report(const struct tdi_extent *extent, int err, const char *owner)
{
	const struct td_region_ops *ops = extent->backing.ops;
	const char *what = "release";

	if (extent->prepared < ops->nr_prepare)
		what = ops->prepare[extent->prepared].name;
	tdi_warn("space '%s': %#lx-%#lx stays mapped, since '%s' failed %u times: %s",
		 owner, (unsigned long)extent->start,
		 (unsigned long)(extent->start + extent->length), what ? what : "prepare",
		 extent->failures, strerrordesc_np(-err));
}

void tdi_host_done(const struct tdi_extent *extent, int status)
{
	const struct td_region_ops *ops = extent->backing.ops;

	if (ops && ops->done)
		ops->done(ops->arg, status);
}

int tdi_extent_prepare(struct tdi_extent *extent, const char *owner)
{
	uint64_t pause_ns = 1000000;

	while (tdi_host_must_prepare(extent)) {
		int err = tdi_host_prepare(extent);

		if (!err)
			continue;
		if (tdi_host_gives_up(extent)) {
			tdi_host_report(extent, err, owner);
			return err;
		}
		tdi_sys_pause(pause_ns);
		if (pause_ns < PAUSE_MAX_NS)
			pause_ns *= 2;
	}
	return 0;
}
