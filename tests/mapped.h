/* SPDX-License-Identifier: MIT */
/* For tests of unmapping: where to map, what is mapped, and what can be read there. */
#ifndef TDT_MAPPED_H
#define TDT_MAPPED_H

#include "base.h"
#include "harness.h"
#include "hugepages.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

/*
 * Far below where the kernel looks for room, so that nothing else comes to lie in the
 * holes that a test makes; and where the sanitizers let a program have memory.
 */
#ifdef __SANITIZE_THREAD__
#define TDT_FAR UINT64_C(0x4000000000)
#else
#define TDT_FAR UINT64_C(0x200000000000)
#endif

/* Linux 6.11 finds a mapping by address (PROCMAP_QUERY): unknown, it is no fault either.
 */
static inline bool kernel_finds_mappings(void)
{
	int fd = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
	bool known = ioctl(fd, _IOWR('f', 17, char[104]), NULL) != 0 && errno == EFAULT;

	close(fd);
	return known;
}

/* Private anonymous memory at an address where nothing is mapped. */
static inline char *map_at(char *addr, size_t length, int prot)
{
	void *got = mmap(addr, length, prot,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);

	ck_assert_ptr_eq(got, addr);
	return addr;
}

/* Every page gets its own number, from `first` on. */
static inline void number_pages(char *addr, size_t length, unsigned first)
{
	size_t step = tdi_page_size();

	for (size_t at = 0; at < length; at += step)
		*(volatile unsigned *)(void *)(addr + at) = first++;
}

static inline void check_numbers(const char *addr, size_t length, unsigned first)
{
	size_t step = tdi_page_size();

	for (size_t at = 0; at < length; at += step)
		ck_assert_uint_eq(*(const volatile unsigned *)(const void *)(addr + at),
				  first++);
}

/* The mappings in [base, base + length), one a line, by their distance from base. */
static inline void picture(const void *base, size_t length, char *text, size_t size)
{
	unsigned long first = (unsigned long)base, last = first + length, start, end;
	FILE *maps = fopen("/proc/self/maps", "re");
	char line[512], prot[8];
	size_t at = 0;

	ck_assert_ptr_nonnull(maps);
	text[0] = '\0';
	while (fgets(line, sizeof(line), maps)) {
		if (sscanf(line, "%lx-%lx %7s", &start, &end, prot) != 3)
			continue;
		if (end <= first || start >= last)
			continue;
		start = start > first ? start : first;
		end = end < last ? end : last;
		at += (size_t)snprintf(text + at, size - at, "%#lx-%#lx %s\n",
				       start - first, end - first, prot);
		ck_assert_uint_lt(at, size);
	}
	fclose(maps);
}

/* The byte at addr, or -1 where reading it is refused. */
static inline int peek(const void *addr)
{
	static int fds[2] = {-1, -1};
	unsigned char byte;

	if (fds[0] < 0)
		ck_assert_int_eq(pipe2(fds, O_CLOEXEC), 0);
	if (write(fds[1], addr, 1) != 1)
		return -1;
	ck_assert_int_eq(read(fds[0], &byte, 1), 1);
	return byte;
}

static __thread sigjmp_buf fault_jump;

static inline void on_fault(int signal)
{
	(void)signal;
	siglongjmp(fault_jump, 1);
}

static inline void catch_faults(void)
{
	struct sigaction action = {.sa_handler = on_fault};

	ck_assert_int_eq(sigaction(SIGSEGV, &action, NULL), 0);
}

/* Does a read at addr end in SIGSEGV? After catch_faults(). */
static inline bool read_faults(const void *addr)
{
	if (sigsetjmp(fault_jump, 1))
		return true;
	(void)*(const volatile char *)addr;
	return false;
}

static inline bool write_faults(void *addr)
{
	if (sigsetjmp(fault_jump, 1))
		return true;
	*(volatile char *)addr = 1;
	return false;
}

/* A number from a file of /proc or /sys; -1: it is not there. */
/* Pages of address space in use. */
static inline long vm_pages(void)
{
	return read_long("/proc/self/statm");
}

/* Not by mlock(2), which the sanitizers have no use for. */
static inline int lock_memory(void *addr, size_t length)
{
	return (int)syscall(SYS_mlock, addr, length);
}

/* ---- huge pages ---- */

/* Huge pages at addr (NULL: anywhere), or NULL. */
static inline char *map_huge(char *addr, size_t pages)
{
	int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB;
	void *got = mmap(
		addr, pages * HUGE_PAGE, PROT_READ | PROT_WRITE,
		flags | (21 << MAP_HUGE_SHIFT) | (addr ? MAP_FIXED_NOREPLACE : 0), -1, 0);

	return got == MAP_FAILED ? NULL : got;
}

#endif
