/* SPDX-License-Identifier: MIT */
/* D5: those who could tell a deferred munmap from another, and are not to. */
#include "hold.h"
#include "mapped.h"

#include <linux/userfaultfd.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>

static char *map_file(int *fd)
{
	char *addr;

	*fd = memfd_create("sealed", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	ck_assert_int_ge(*fd, 0);
	ck_assert_int_eq(ftruncate(*fd, (off_t)MIB), 0);
	addr = mmap(NULL, MIB, PROT_READ | PROT_WRITE, MAP_SHARED, *fd, 0);
	ck_assert_ptr_ne(addr, MAP_FAILED);
	tdt_touch(addr, MIB);
	return addr;
}

START_TEST(a_file_can_be_sealed_as_soon_as_it_is_unmapped)
{
	struct hold hold;
	int fd;
	char *addr = map_file(&fd);

	hold_reaper(&hold);
	ck_assert_int_eq(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE), -1);
	ck_assert_int_eq(td_engine_munmap(engine, addr, MIB, 0), 0);
	ck_assert_int_eq(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE), 0);
	let_go(&hold);
	close(fd);
}
END_TEST

static void *relieve(void *result)
{
	*(int *)result = td_engine_relieve(engine);
	return NULL;
}

START_TEST(deferred_on_request_it_stays_in_use_until_relieved)
{
	struct hold hold;
	pthread_t thread;
	int fd, err = 1;
	char *addr = map_file(&fd);

	hold_reaper(&hold);
	ck_assert_int_eq(td_engine_munmap(engine, addr, MIB, TD_MUNMAP_SHARED), 0);
	ck_assert_uint_eq(tdt_mapped(addr, MIB), 0);
	ck_assert_int_eq(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE), -1);
	ck_assert_int_eq(errno, EBUSY);
	/* it lends a hand, and then waits for the one that we hold up */
	pthread_create(&thread, NULL, relieve, &err);
	while (stats().bytes_quarantined > 0)
		sched_yield();
	ck_assert_int_eq(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE), 0);
	/* its contents are the file's */
	ck_assert_int_eq(pread(fd, &(char){0}, 1, (off_t)(3 * page)), 1);
	let_go(&hold);
	pthread_join(thread, NULL);
	ck_assert_int_eq(err, 0);
	close(fd);
}
END_TEST

struct faults {
	int fd, stop;
	unsigned unmaps, remaps, others;
};

static void *read_events(void *arg)
{
	struct faults *faults = arg;
	struct pollfd polled[] = {{.fd = faults->fd, .events = POLLIN},
				  {.fd = faults->stop, .events = POLLIN}};
	struct uffd_msg message;

	while (poll(polled, 2, -1) >= 0) {
		if (read(faults->fd, &message, sizeof(message)) == sizeof(message)) {
			if (message.event == UFFD_EVENT_UNMAP)
				faults->unmaps++;
			else if (message.event == UFFD_EVENT_REMAP)
				faults->remaps++;
			else
				faults->others++;
		} else if (polled[1].revents) {
			break;
		}
	}
	return NULL;
}

START_TEST(the_reader_of_a_userfaultfd_hears_what_munmap_tells)
{
	struct uffdio_api api = {.api = UFFD_API,
				 .features = UFFD_FEATURE_EVENT_UNMAP |
					     UFFD_FEATURE_EVENT_REMAP |
					     UFFD_FEATURE_EVENT_REMOVE};
	struct uffdio_register registration = {.mode = UFFDIO_REGISTER_MODE_MISSING};
	struct faults faults = {0};
	char *addr = (char *)TDT_FAR;
	pthread_t thread;
	int stop[2];

	faults.fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	if (faults.fd < 0 || ioctl(faults.fd, UFFDIO_API, &api) != 0) {
		tdt_skip("no userfaultfd with events: %s", strerror(errno));
		return;
	}
	map_at(addr, 3 * MIB, PROT_READ | PROT_WRITE);
	tdt_touch(addr, MIB);
	tdt_touch(addr + 2 * MIB, MIB);
	registration.range.start = (uintptr_t)addr + MIB;
	registration.range.len = MIB;
	ck_assert_int_eq(ioctl(faults.fd, UFFDIO_REGISTER, &registration), 0);
	ck_assert_int_eq(pipe(stop), 0);
	faults.stop = stop[0];
	pthread_create(&thread, NULL, read_events, &faults);
	/* all of it, of which a part is registered */
	ck_assert_int_eq(td_engine_munmap(engine, addr, 3 * MIB, 0), 0);
	ck_assert_uint_eq(tdt_mapped(addr, 3 * MIB), 0);
	drain();
	close(stop[1]);
	pthread_join(thread, NULL);
	ck_assert_uint_eq(faults.remaps, 0);
	ck_assert_uint_eq(faults.others, 0);
	ck_assert_uint_eq(faults.unmaps, 1);
	ck_assert_uint_eq(stats().munmaps_deferred, 0);
	close(faults.fd);
	close(stop[0]);
}
END_TEST

int main(void)
{
	struct tdt *tests = tdt_suite("munmap_told");
	const TTest *all[] = {
		a_file_can_be_sealed_as_soon_as_it_is_unmapped,
		deferred_on_request_it_stays_in_use_until_relieved,
		the_reader_of_a_userfaultfd_hears_what_munmap_tells,
	};

	for (size_t i = 0; i < sizeof(all) / sizeof(*all); i++)
		tdt_add(tests, all[i], setup_eager, teardown);
	return tdt_run(tests);
}
