/* SPDX-License-Identifier: MIT */
/*
 * A small virtual machine monitor whose guest RAM is freed by libteardown. It runs a VM
 * twice: torn down by hand, and by putting the last user of a space.
 *
 * Why a VMM wants this. The RAM of a guest is one huge shared mapping that KVM knows of.
 * It cannot just be unmapped: first KVM has to let go of it, which waits for readers all
 * over the kernel, then the VM has to end, then the pages go, which takes as long as
 * there are pages. All of it holds the thread that does it, and the pages hold the
 * address space, in a process that may have other VMs to run.
 *
 * How it maps to the library:
 *
 *   the VM            a td_space; whoever may touch guest RAM holds a user: each vCPU
 *                     thread, the device models, the main thread
 *   guest RAM         a region, TD_KIND_SHARED with TD_REGION_FD: a memfd, as it would be
 *                     shared with a vhost-user back end
 *   that it is ours   TD_REGION_EXCLUSIVE: nobody will look for the pages again, so they
 *   alone             are punched out of the memfd, in slices that take no lock which
 *                     mmap needs. Leave it out when another process may still want them
 *                     (live update, migration through the file): then it is only unmapped
 *   what KVM holds    the region's prepare hooks, in this order: the memory slot, then
 *                     the vCPU and the VM. No page is released before they have
 * succeeded, since a guest must never reach a page that is somebody else's; one that
 * fails is called again, later telling others    ops.done, and the event "reclaimed"
 *
 * The hooks run on a reaper, so their time is not the putting thread's either.
 *
 * The guest is 32-bit code in protected mode, without paging, started there by setting
 * the segment registers: no BIOS, no tables, no interrupts. It needs little of KVM and so
 * runs where bigger guests would not, but no more than 4 GiB are in its reach, less what
 * a PC has at the end of them. Where KVM has to interpret such a guest it takes some 20
 * us a page.
 */
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <teardown.h>

#define SKIPPED 77
#define MIB ((size_t)1 << 20)
#define PAGE 4096u
#define RAM_NAME "td-guest-ram"
#define RAM_MAX 0xfee00000u  /* here KVM has a local APIC, asked for or not */
#define TSS_ADDR 0xfffbd000u /* three pages that Intel's processors need, above RAM */

/* Ends the program when err is a negative errno value, as the library returns. */
static void must(int err, const char *what)
{
	if (err < 0)
		errx(EXIT_FAILURE, "%s: %s", what, strerror(-err));
}

static void check(bool holds, const char *what)
{
	if (!holds)
		errx(EXIT_FAILURE, "does not hold: %s", what);
}

static double now_us(void)
{
	struct timespec time;

	must(clock_gettime(CLOCK_MONOTONIC, &time) ? -errno : 0, "clock_gettime");
	return (double)time.tv_sec * 1e6 + (double)time.tv_nsec / 1e3;
}

/* ---- the guest ---- */

#define CODE_ADDR 0x1000u   /* where its code is */
#define DIRTY_FROM 0x10000u /* the first page that it writes to */
#define PORT_PROGRESS 0x10u /* out: how far it is */
#define PORT_FINISHED 0x11u /* out: the same, at the end */

/* Writes its own address to each page of [edi, esi), and says so every 64 MiB. */
static const uint8_t guest_code[] = {
	0x89, 0x3f,				     /* again: mov [edi], edi */
	0x81, 0xc7,	     0x00, 0x10, 0x00, 0x00, /*        add edi, 0x1000 */
	0xf7, 0xc7,	     0xff, 0xff, 0xff, 0x03, /*        test edi, 0x3ffffff */
	0x75, 0x04,				     /*        jnz on */
	0x89, 0xf8,				     /*        mov eax, edi */
	0xe7, PORT_PROGRESS,			     /*        out PORT_PROGRESS, eax */
	0x39, 0xf7,				     /* on:    cmp edi, esi */
	0x72, 0xe6,				     /*        jb again */
	0x89, 0xf8,				     /*        mov eax, edi */
	0xe7, PORT_FINISHED,			     /*        out PORT_FINISHED, eax */
	0xf4,					     /*        hlt */
};

/* ---- the VM ---- */

enum { SLOT_DROPPED, VM_CLOSED, RAM_RELEASED, STEPS };

static const char *const step_names[STEPS] = {"slot dropped", "VM closed",
					      "RAM released"};

struct vm {
	size_t size;
	int memfd, fd, vcpu;
	char *ram;
	struct kvm_run *run; /* what KVM shares with the vCPU's thread */
	size_t run_size;

	td_space *space; /* NULL: torn down by hand */
	struct td_region_hook prepare[2];
	struct td_region_ops ops;

	/* What the callbacks saw, in their order; read once "reclaimed" has happened. */
	struct seen {
		int step, status;
		uint64_t resident;
		double at_us;
	} seen[8];
	unsigned nr_seen;
};

/* How much memory the memfd holds. */
static uint64_t resident(const struct vm *vm)
{
	struct stat stat;

	must(fstat(vm->memfd, &stat) ? -errno : 0, "fstat");
	return (uint64_t)stat.st_blocks * 512;
}

static void saw(struct vm *vm, int step, int status)
{
	check(vm->nr_seen < 8, "callbacks are called once");
	vm->seen[vm->nr_seen++] = (struct seen){step, status, resident(vm), now_us()};
}

static int set_slot(struct vm *vm, size_t size)
{
	struct kvm_userspace_memory_region slot = {
		.userspace_addr = (uintptr_t)vm->ram,
		.memory_size = size, /* 0: KVM forgets it */
	};

	return ioctl(vm->fd, KVM_SET_USER_MEMORY_REGION, &slot) ? -errno : 0;
}

/* The guest's last chance to reach its RAM ends here. */
static int drop_slot(void *arg, void *addr, size_t length)
{
	struct vm *vm = arg;
	int err = set_slot(vm, 0);

	(void)addr, (void)length;
	if (!err)
		saw(vm, SLOT_DROPPED, 0);
	return err; /* -errno: the library tries again, after a pause */
}

static int close_vm(void *arg, void *addr, size_t length)
{
	struct vm *vm = arg;

	(void)addr, (void)length;
	must(munmap(vm->run, vm->run_size) ? -errno : 0, "munmap of the vCPU");
	must(close(vm->vcpu) ? -errno : 0, "close of the vCPU");
	must(close(vm->fd) ? -errno : 0, "close of the VM");
	saw(vm, VM_CLOSED, 0);
	return 0;
}

/* The last callback. A VMM would tell its management here. */
static void ram_released(void *arg, int status)
{
	saw(arg, RAM_RELEASED, status);
}

static void map_ram(struct vm *vm, bool by_hand)
{
	void *ram;

	vm->memfd = memfd_create(RAM_NAME, MFD_CLOEXEC);
	must(vm->memfd < 0 ? -errno : 0, "memfd_create");
	must(ftruncate(vm->memfd, (off_t)vm->size) ? -errno : 0, "ftruncate");
	if (by_hand) {
		ram = mmap(NULL, vm->size, PROT_READ | PROT_WRITE, MAP_SHARED, vm->memfd,
			   0);
		must(ram == MAP_FAILED ? -errno : 0, "mmap");
	} else {
		/* ops and hooks must outlive the region: they are the VM's. */
		vm->prepare[0] = (struct td_region_hook){"KVM slot", drop_slot, vm};
		vm->prepare[1] = (struct td_region_hook){"VM", close_vm, vm};
		vm->ops = (struct td_region_ops){.prepare = vm->prepare,
						 .nr_prepare = 2,
						 .done = ram_released,
						 .arg = vm};
		must(td_space_create(NULL, TD_SPACE_OPTS(.name = "vm"), &vm->space),
		     "td_space_create");
		/* The library keeps a duplicate of the memfd; ours is for looking at it
		 * afterwards, and keeps no page from being released. */
		must(td_region_map(
			     vm->space, vm->size,
			     TD_REGION_OPTS(.kind = TD_KIND_SHARED,
					    .flags = TD_REGION_FD | TD_REGION_EXCLUSIVE,
					    .fd = vm->memfd, .ops = &vm->ops),
			     &ram),
		     "td_region_map");
	}
	vm->ram = ram;
	memcpy(vm->ram + CODE_ADDR, guest_code, sizeof(guest_code));
}

/* Protected mode: 4 GiB segments from 0, and nothing else. */
static void set_registers(struct vm *vm)
{
	struct kvm_segment segment = {
		.limit = 0xffffffff, .present = 1, .s = 1, .db = 1, .g = 1};
	struct kvm_regs regs = {.rip = CODE_ADDR,
				.rflags = 2, /* always set */
				.rdi = DIRTY_FROM,
				.rsi = vm->size};
	struct kvm_sregs sregs;

	must(ioctl(vm->vcpu, KVM_GET_SREGS, &sregs) ? -errno : 0, "KVM_GET_SREGS");
	segment.selector = 1 << 3;
	segment.type = 11; /* code: execute, read, accessed */
	sregs.cs = segment;
	segment.selector = 2 << 3;
	segment.type = 3; /* data: read, write, accessed */
	sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = segment;
	sregs.cr0 |= 1; /* protection enable */
	must(ioctl(vm->vcpu, KVM_SET_SREGS, &sregs) ? -errno : 0, "KVM_SET_SREGS");
	must(ioctl(vm->vcpu, KVM_SET_REGS, &regs) ? -errno : 0, "KVM_SET_REGS");
}

/* False: this machine has no VMs to give; *why tells. */
static bool vm_create(struct vm *vm, int kvm, bool by_hand, const char **why)
{
	int run_size;

	vm->fd = ioctl(kvm, KVM_CREATE_VM, 0);
	if (vm->fd < 0) {
		*why = "KVM_CREATE_VM";
		return false;
	}
	/* Intel only, where needed; others have no use for it. */
	(void)ioctl(vm->fd, KVM_SET_TSS_ADDR, TSS_ADDR);
	map_ram(vm, by_hand);
	must(set_slot(vm, vm->size), "KVM_SET_USER_MEMORY_REGION");
	vm->vcpu = ioctl(vm->fd, KVM_CREATE_VCPU, 0);
	must(vm->vcpu < 0 ? -errno : 0, "KVM_CREATE_VCPU");
	run_size = ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
	must(run_size < 0 ? -errno : 0, "KVM_GET_VCPU_MMAP_SIZE");
	vm->run_size = (size_t)run_size;
	vm->run =
		mmap(NULL, vm->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, vm->vcpu, 0);
	must(vm->run == MAP_FAILED ? -errno : 0, "mmap of the vCPU");
	set_registers(vm);
	return true;
}

static void show_progress(uint32_t done, size_t size)
{
	if (isatty(STDERR_FILENO))
		fprintf(stderr, "\rthe guest has written to %u of %zu MiB%s",
			done / (unsigned)MIB, size / MIB, done == size ? "\n" : "");
}

/* The vCPU's thread: a user of the space for as long as the guest may run. */
static void *run_vcpu(void *arg)
{
	struct vm *vm = arg;
	uint32_t value = 0, finished = 0;

	for (;;) {
		if (ioctl(vm->vcpu, KVM_RUN, 0)) {
			must(errno == EINTR ? 0 : -errno, "KVM_RUN");
			continue;
		}
		if (vm->run->exit_reason != KVM_EXIT_IO)
			break;
		memcpy(&value, (char *)vm->run + vm->run->io.data_offset, sizeof(value));
		show_progress(value, vm->size);
		if (vm->run->io.port == PORT_FINISHED)
			finished = value;
	}
	if (vm->run->exit_reason != KVM_EXIT_HLT)
		errx(EXIT_FAILURE, "the guest stopped at %#x, KVM's exit reason is %u",
		     value, vm->run->exit_reason);
	check(finished == vm->size, "the guest says that it has written to all its RAM");
	if (vm->space)
		td_space_put(vm->space);
	return NULL;
}

static void vm_run(struct vm *vm)
{
	pthread_t thread;

	if (vm->space)
		must(td_space_get(vm->space), "td_space_get"); /* the thread's */
	must(-pthread_create(&thread, NULL, run_vcpu, vm), "pthread_create");
	must(-pthread_join(thread, NULL), "pthread_join");
	for (size_t at = DIRTY_FROM; at < vm->size; at += PAGE) {
		uint32_t value;

		memcpy(&value, vm->ram + at, sizeof(value));
		check(value == at, "each page has what the guest wrote to it");
	}
	check(resident(vm) >= vm->size - DIRTY_FROM,
	      "the guest's pages are in the memfd");
}

/* ---- two ways to end ---- */

struct times {
	double held_us, back_us;
};

/* The same steps in the same order, by the thread itself. */
static void end_by_hand(struct vm *vm, struct times *times)
{
	double began = now_us();

	must(drop_slot(vm, vm->ram, vm->size), "dropping the slot");
	must(close_vm(vm, vm->ram, vm->size), "closing the VM");
	must(munmap(vm->ram, vm->size) ? -errno : 0, "munmap");
	must(close(vm->memfd) ? -errno : 0, "close of the memfd");
	times->held_us = times->back_us = now_us() - began;
}

static bool is_mapped(const char *name)
{
	FILE *maps = fopen("/proc/self/maps", "re");
	bool found = false;
	char line[4096];

	must(maps ? 0 : -errno, "/proc/self/maps");
	while (!found && fgets(line, sizeof(line), maps))
		found = strstr(line, name) != NULL;
	fclose(maps);
	return found;
}

static void end_by_put(struct vm *vm, struct times *times)
{
	uint64_t before = resident(vm);
	double began;

	must(td_space_grab(vm->space), "td_space_grab"); /* to wait, only */
	began = now_us();
	must(td_space_put(vm->space), "td_space_put"); /* the vCPU's is gone */
	times->held_us = now_us() - began;
	/* A VMM would go on with its other VMs. */
	must(td_space_wait(vm->space, TD_EVENT_RECLAIMED, TD_FOREVER), "td_space_wait");
	times->back_us = now_us() - began;
	must(td_space_drop(vm->space), "td_space_drop");

	check(vm->nr_seen == STEPS, "each callback has been called once");
	for (int step = 0; step < STEPS; step++) {
		const struct seen *seen = &vm->seen[step];

		printf("%12.1f us after the put: %-13s %6" PRIu64 " MiB in the memfd\n",
		       seen->at_us - began, step_names[seen->step], seen->resident / MIB);
		check(seen->step == step, "the callbacks are called in their order");
		check(seen->status == 0, "the region is unmapped when done is called");
		check(seen->resident == (step < RAM_RELEASED ? before : 0),
		      "pages are released after all prepare hooks, before done");
	}
	check(!is_mapped(RAM_NAME), "guest RAM is no longer mapped");
	check(resident(vm) == 0, "no page is left in the memfd");
	must(close(vm->memfd) ? -errno : 0, "close of the memfd");
}

/* ---- the program ---- */

/* 0: not a size. */
static size_t parse_size(const char *text)
{
	static const char units[] = "KMG";
	char unit = 0, junk;
	size_t size = 0;

	if (*text == '-' || sscanf(text, "%zu%c%c", &size, &unit, &junk) > 2 ||
	    (unit && !strchr(units, unit)))
		return 0;
	return unit ? size << 10 * (strchr(units, unit) - units + 1) : size;
}

static const char usage[] =
	"usage: kvm_vmm [--size SIZE]\n"
	"Runs a VM of SIZE bytes of RAM (256M, 2G; default 2G, at most 4078M, of which\n"
	"the guest writes to every page) and ends it, twice: by dropping the KVM slot,\n"
	"closing the VM, unmapping and closing the memfd by hand; then by td_space_put,\n"
	"with the same steps done on a reaper. Shows how long each held the thread and\n"
	"checks their order and that the memory is back. Exits with 77 without "
	"/dev/kvm.\n";

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{"size", required_argument, NULL, 's'},
		{"help", no_argument, NULL, 'h'},
		{NULL, 0, NULL, 0},
	};
	struct times by_hand, by_put;
	size_t size = 2048 * MIB;
	const char *why = "/dev/kvm";
	struct vm plain, ours;
	int option, kvm;

	while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
		if (option == 'h')
			return fputs(usage, stdout) < 0 || fflush(stdout) != 0;
		if (option != 's' || (size = parse_size(optarg)) == 0)
			return fputs(usage, stderr), 2;
	}
	if (optind < argc)
		return fputs(usage, stderr), 2;
	size = (size + PAGE - 1) / PAGE * PAGE;
	if (size / PAGE > (size_t)sysconf(_SC_PHYS_PAGES))
		errx(EXIT_FAILURE, "%zu bytes: this machine has less", size);
	if (size <= DIRTY_FROM || size > RAM_MAX)
		errx(EXIT_FAILURE,
		     "%zu bytes: the guest, in 32-bit protected mode, needs "
		     "more than 64K and has room for 4078M at most",
		     size);

	plain = ours = (struct vm){.size = size};
	kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	if (kvm < 0 || !vm_create(&plain, kvm, true, &why)) {
		printf("skipped: %s: %s\n", why, strerror(errno));
		return SKIPPED;
	}
	vm_run(&plain);
	end_by_hand(&plain, &by_hand);
	if (!vm_create(&ours, kvm, false, &why))
		err(EXIT_FAILURE, "%s", why);
	vm_run(&ours);
	end_by_put(&ours, &by_put);
	close(kvm);

	printf("%-14s %15s %18s\n", "microseconds", "thread held", "memory back");
	printf("%-14s %15.1f %18.1f\n", "by hand", by_hand.held_us, by_hand.back_us);
	printf("%-14s %15.1f %18.1f\n", "td_space_put", by_put.held_us, by_put.back_us);
	return EXIT_SUCCESS;
}
