/* SPDX-License-Identifier: MIT */
#include "program.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <link.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/xattr.h>

#define SCRIPTS_MAX                                                                      \
	4 /* an interpreter may be a script; the kernel has the same bound               \
	   */
#define HEADERS_MAX 64

bool tool_find(const char *command, char *path, size_t size)
{
	const char *dirs = getenv("PATH"), *end;
	struct stat st;

	if (strchr(command, '/'))
		return (size_t)snprintf(path, size, "%s", command) < size &&
		       access(path, F_OK) == 0;
	for (dirs = dirs ? dirs : "/bin:/usr/bin";; dirs = end + 1) {
		end = strchrnul(dirs, ':');
		/* An empty one is the working directory. */
		if ((size_t)snprintf(path, size, "%.*s%s%s", (int)(end - dirs), dirs,
				     end > dirs ? "/" : "./", command) < size &&
		    access(path, X_OK) == 0 && stat(path, &st) == 0 &&
		    S_ISREG(st.st_mode))
			return true;
		if (!*end)
			return false;
	}
}

/* Does it run with other rights than ours? Then the linker heeds no environment. */
static const char *gains_rights(int fd)
{
	struct statvfs fs;
	struct stat st;
	char caps[64];

	if (getuid() != geteuid() || getgid() != getegid())
		return "would run with other rights than its user's";
	if (prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1 ||
	    (fstatvfs(fd, &fs) == 0 && (fs.f_flag & ST_NOSUID)) || fstat(fd, &st))
		return NULL;
	if ((st.st_mode & S_ISUID) && st.st_uid != getuid())
		return "is setuid";
	if ((st.st_mode & (S_ISGID | S_IXGRP)) == (S_ISGID | S_IXGRP) &&
	    st.st_gid != getgid())
		return "is setgid";
	if (getuid() != 0 && fgetxattr(fd, "security.capability", caps, sizeof(caps)) > 0)
		return "has file capabilities";
	return NULL;
}

/* glibc's is ld-linux*.so.N, ld64.so.N or ld.so.1, in whatever directory. */
static bool is_glibc_linker(const char *path)
{
	const char *name = strrchr(path, '/');

	name = name ? name + 1 : path;
	return !strncmp(name, "ld-linux", 8) || !strncmp(name, "ld64.so", 7) ||
	       !strncmp(name, "ld.so", 5) || !strncmp(name, "ld-2.", 5);
}

static const char *look_at_elf(int fd, const char *path, const ElfW(Ehdr) * header,
			       char *buf, size_t size)
{
	ElfW(Phdr) headers[HEADERS_MAX];
	char linker[PATH_MAX];
	const char *why;
	ElfW(Ehdr) ours;
	ssize_t n;
	int self;

	self = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
	if (self >= 0) {
		n = read(self, &ours, sizeof(ours));
		close(self);
		if (n == sizeof(ours) &&
		    (ours.e_ident[EI_CLASS] != header->e_ident[EI_CLASS] ||
		     ours.e_machine != header->e_machine))
			return "is for another machine than this command";
	}
	why = gains_rights(fd);
	if (why)
		return why;
	if (header->e_phentsize != sizeof(headers[0]) || header->e_phnum > HEADERS_MAX)
		return NULL;
	n = pread(fd, headers, header->e_phnum * sizeof(headers[0]),
		  (off_t)header->e_phoff);
	if (n != (ssize_t)(header->e_phnum * sizeof(headers[0])))
		return NULL;
	for (unsigned i = 0; i < header->e_phnum; i++) {
		if (headers[i].p_type != PT_INTERP)
			continue;
		if (headers[i].p_filesz == 0 || headers[i].p_filesz >= sizeof(linker))
			return NULL;
		n = pread(fd, linker, headers[i].p_filesz, (off_t)headers[i].p_offset);
		if (n != (ssize_t)headers[i].p_filesz)
			return NULL;
		linker[n] = '\0';
		if (is_glibc_linker(linker))
			return NULL;
		snprintf(buf, size, "uses another C library (%s)", linker);
		return buf;
	}
	/* The linker called as a command has none, and loads what it is told to. */
	return is_glibc_linker(path) ? NULL : "is statically linked";
}

const char *tool_no_preload(const char *file, char *buf, size_t size)
{
	char path[PATH_MAX], head[PATH_MAX];
	const char *why = NULL;
	ElfW(Ehdr) header;

	if ((size_t)snprintf(path, sizeof(path), "%s", file) >= sizeof(path))
		return NULL;
	for (int i = 0; i <= SCRIPTS_MAX; i++) {
		int fd = open(path, O_RDONLY | O_CLOEXEC);
		ssize_t n;

		/* What may be run but not read: the linker finds out. */
		if (fd < 0)
			return NULL;
		n = pread(fd, head, sizeof(head) - 1, 0);
		if (n >= (ssize_t)sizeof(header) && !memcmp(head, ELFMAG, SELFMAG)) {
			memcpy(&header, head, sizeof(header));
			why = look_at_elf(fd, path, &header, buf, size);
			close(fd);
			return why;
		}
		close(fd);
		if (n < 3 || head[0] != '#' || head[1] != '!')
			return NULL; /* perhaps a script without a first line: sh runs it
				      */
		head[n] = '\0';
		head[strcspn(head, "\n")] = '\0';
		n = (ssize_t)strspn(head + 2, " \t") + 2;
		head[n + (ssize_t)strcspn(head + n, " \t")] = '\0';
		memcpy(path, head + n, strlen(head + n) + 1);
	}
	return NULL;
}
