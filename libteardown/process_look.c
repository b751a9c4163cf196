/* SPDX-License-Identifier: MIT */
#include "process_look.h"
#include "procfs.h"
#include "sys.h"
#include "sys_probe.h"

#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TEXT_SIZE 4096

/* Of a thread's flags in its stat file: the kernel's PF_EXITING and so on. */
#define FLAG_EXITING 0x4u
#define FLAG_SIGNALED 0x400u
#define FLAG_DUMPCORE 0x200u
#define FLAG_KTHREAD 0x200000u

/* /proc/PID/file. A process that is not there is -ESRCH, whatever that reads as. */
static int read_of(int pid, const char *file, char *text, size_t size)
{
	char path[64];
	int err;

	snprintf(path, sizeof(path), "/proc/%d/%s", pid, file);
	err = tdi_procfs_read(path, text, size);
	return err == -ENOENT || (err == 0 && !text[0]) ? -ESRCH : err;
}

int tdi_look_pid(int pidfd, int *ret)
{
	char path[64], text[TEXT_SIZE];
	const char *line;
	int err, pid;

	snprintf(path, sizeof(path), "/proc/thread-self/fdinfo/%d", pidfd);
	err = pidfd < 0 ? -EBADF : tdi_procfs_read(path, text, sizeof(text));
	if (err)
		return err;
	line = strstr(text, "\nPid:");
	if (!line)
		return -EBADF;
	pid = atoi(line + strlen("\nPid:"));
	if (pid <= 0)
		return pid < 0 ? -ESRCH : -ENOENT;
	*ret = pid;
	return 0;
}

uint64_t tdi_look_resident(int pid)
{
	char text[128];
	unsigned long long pages;

	if (read_of(pid, "statm", text, sizeof(text)) ||
	    sscanf(text, "%*u %llu", &pages) != 1)
		return 0;
	return (uint64_t)pages * tdi_page_size();
}

/* Field `number`, from 3 on, of a stat file: the second is a name, with whatever in it.
 */
static bool stat_field(const char *text, unsigned number, uint64_t *ret)
{
	const char *at = strrchr(text, ')');

	for (unsigned i = 2; at && i < number; i++)
		at = strchr(at + 1, ' ');
	if (!at)
		return false;
	*ret = strtoull(at, NULL, 10);
	return true;
}

/* -1: the thread is not there. */
static int is_thread_dying(const char *path)
{
	char file[96], text[TEXT_SIZE];
	uint64_t pending, flags;

	snprintf(file, sizeof(file), "%s/status", path);
	if (tdi_procfs_read(file, text, sizeof(text)) || !text[0])
		return -1;
	if (tdi_procfs_find(text, "SigPnd:", 16, &pending) &&
	    (pending & (UINT64_C(1) << (SIGKILL - 1))))
		return 1;
	snprintf(file, sizeof(file), "%s/stat", path);
	if (tdi_procfs_read(file, text, sizeof(text)) || !text[0])
		return -1;
	return stat_field(text, 9, &flags) &&
	       (flags & (FLAG_EXITING | FLAG_SIGNALED)) != 0;
}

struct entry {
	uint64_t ino, next;
	unsigned short length;
	unsigned char type;
	char name[];
};

/* fn for each entry that is a number. */
static int each_number(const char *path, int (*fn)(int number, void *arg), void *arg)
{
	_Alignas(struct entry) char buf[8192];
	int fd = tdi_sys_open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC), err = 0;
	ssize_t got;

	if (fd < 0)
		return fd;
	while (err == 0 && (got = tdi_sys_getdents(fd, buf, sizeof(buf))) != 0) {
		if (got == -EINTR)
			continue;
		if (got < 0) {
			err = (int)got;
			break;
		}
		for (ssize_t at = 0; at < got && err == 0;) {
			const struct entry *entry = (const struct entry *)(buf + at);

			if (entry->name[0] >= '1' && entry->name[0] <= '9')
				err = fn(atoi(entry->name), arg);
			at += entry->length;
		}
	}
	(void)tdi_sys_close(fd);
	return err;
}

int tdi_look_each(int (*fn)(int pid, void *arg), void *arg)
{
	return each_number("/proc", fn, arg);
}

struct memory {
	int pid, tid;
	uint64_t resident;
};

static int find_memory(int tid, void *arg)
{
	struct memory *memory = arg;
	char path[64], text[128];
	unsigned long long all, resident;

	snprintf(path, sizeof(path), "/proc/%d/task/%d/statm", memory->pid, tid);
	if (tdi_procfs_read(path, text, sizeof(text)) ||
	    sscanf(text, "%llu %llu", &all, &resident) != 2 || all == 0)
		return 0;
	memory->tid = tid;
	memory->resident = (uint64_t)resident * tdi_page_size();
	return 1;
}

int tdi_look_memory(int pid, int *ret_tid, uint64_t *ret_resident)
{
	struct memory memory = {.pid = pid};
	char path[64];
	int err;

	if (find_memory(pid, &memory) == 0) {
		snprintf(path, sizeof(path), "/proc/%d/task", pid);
		err = each_number(path, find_memory, &memory);
		if (err <= 0)
			return err == 0 ? -ENODATA : err == -ENOENT ? -ESRCH : err;
	}
	*ret_tid = memory.tid;
	*ret_resident = memory.resident;
	return 0;
}

struct threads {
	int pid;
	unsigned dying;
};

static int count_dying(int tid, void *arg)
{
	struct threads *threads = arg;
	char path[64];
	int is;

	snprintf(path, sizeof(path), "/proc/%d/task/%d", threads->pid, tid);
	is = is_thread_dying(path);
	threads->dying += is > 0;
	return is == 0;
}

bool tdi_look_is_dying(int pid)
{
	struct threads threads = {.pid = pid};
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/task", pid);
	return each_number(path, count_dying, &threads) == 0 && threads.dying > 0;
}

static uint64_t flags_of(int pid)
{
	char text[TEXT_SIZE];
	uint64_t flags;

	return read_of(pid, "stat", text, sizeof(text)) == 0 &&
			       stat_field(text, 9, &flags)
		       ? flags
		       : 0;
}

/* The dump of one that is killed is over at once; that there was one stays to be seen. */
bool tdi_look_dumps_core(int pid)
{
	char text[TEXT_SIZE];
	uint64_t is;

	return (flags_of(pid) & FLAG_DUMPCORE) ||
	       (read_of(pid, "status", text, sizeof(text)) == 0 &&
		tdi_procfs_find(text, "CoreDumping:", 10, &is) && is != 0);
}

bool tdi_look_is_immortal(int pid)
{
	return pid == 1 || (flags_of(pid) & FLAG_KTHREAD);
}

int tdi_look_cpu(int pid)
{
	char text[TEXT_SIZE];
	uint64_t cpu;

	if (read_of(pid, "stat", text, sizeof(text)) || !stat_field(text, 39, &cpu))
		return -1;
	return (int)cpu;
}

int tdi_look_name(int pid, char *name, size_t size)
{
	int err = read_of(pid, "comm", name, size);

	if (!err)
		name[strcspn(name, "\n")] = '\0';
	return err;
}

int tdi_look_at(int pid, struct tdi_look *ret)
{
	struct tdi_look look = {.depth = 0};
	char text[TEXT_SIZE], *line;
	int err = tdi_look_name(pid, look.name, sizeof(look.name));

	if (!err)
		err = read_of(pid, "stat", text, sizeof(text));
	if (!err && !stat_field(text, 22, &look.started))
		err = -ENODATA;
	if (!err)
		err = read_of(pid, "status", text, sizeof(text));
	if (err)
		return err;
	line = strstr(text, "\nUid:");
	if (!line || sscanf(line, "\nUid: %*u %" SCNu64, &look.uid) != 1)
		return -ENODATA;
	look.inner_pid = (uint64_t)pid;
	line = strstr(text, "\nNSpid:"); /* not without CONFIG_PID_NS */
	line = line ? line + strlen("\nNSpid:") : NULL;
	while (line && *line == '\t') {
		look.inner_pid = strtoull(line, &line, 10);
		look.depth++;
	}
	*ret = look;
	return 0;
}

bool tdi_look_same_pidns(int pid, int other)
{
	char path[64], mine[64], others[64];
	ssize_t length, length_other;

	snprintf(path, sizeof(path), "/proc/%d/ns/pid", pid);
	length = tdi_sys_readlink(path, mine, sizeof(mine));
	snprintf(path, sizeof(path), "/proc/%d/ns/pid", other);
	length_other = tdi_sys_readlink(path, others, sizeof(others));
	if (length <= 0 || length_other <= 0)
		return true;
	return length == length_other && memcmp(mine, others, (size_t)length) == 0;
}

unsigned tdi_look_running(void)
{
	char text[128];
	unsigned running;

	if (tdi_procfs_read("/proc/loadavg", text, sizeof(text)) ||
	    sscanf(text, "%*s %*s %*s %u/", &running) != 1)
		return UINT_MAX;
	return running;
}

uint64_t tdi_look_free(void)
{
	char text[TEXT_SIZE];
	uint64_t kib;

	return tdi_procfs_text("/proc/meminfo", text, sizeof(text)) &&
			       tdi_procfs_find(text, "MemFree:", 10, &kib)
		       ? kib * 1024
		       : 0;
}
