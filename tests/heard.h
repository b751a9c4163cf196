/* SPDX-License-Identifier: MIT */
/* For tests: what the library says on stderr. */
#ifndef TDT_HEARD_H
#define TDT_HEARD_H

#include "harness.h"

#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

struct hearing {
	int stderr_fd, file;
	char text[4096];
};

static inline void hear(struct hearing *hearing)
{
	hearing->stderr_fd = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 0);
	hearing->file = memfd_create("stderr", MFD_CLOEXEC);
	ck_assert_int_ge(hearing->stderr_fd, 0);
	ck_assert_int_ge(dup2(hearing->file, STDERR_FILENO), 0);
}

/* What has been said since; and stderr is itself again. */
static inline const char *heard(struct hearing *hearing)
{
	ssize_t got = pread(hearing->file, hearing->text, sizeof(hearing->text) - 1, 0);

	ck_assert_int_ge(got, 0);
	hearing->text[got] = '\0';
	ck_assert_int_ge(dup2(hearing->stderr_fd, STDERR_FILENO), 0);
	close(hearing->stderr_fd);
	close(hearing->file);
	return hearing->text;
}

static inline unsigned times(const char *text, const char *words)
{
	unsigned count = 0;

	while ((text = strstr(text, words)) != NULL) {
		text += strlen(words);
		count++;
	}
	return count;
}

#endif
