/* SPDX-License-Identifier: MIT */
/* What a command is, as far as a preloaded shared object is concerned. */
#ifndef TOOLS_PROGRAM_H
#define TOOLS_PROGRAM_H

#include <stdbool.h>
#include <stddef.h>

/* Where execvp(3) will find this command; false: nowhere. */
bool tool_find(const char *command, char *path, size_t size);

/*
 * Why the dynamic linker will not load what LD_PRELOAD names into the program of this
 * file, in words that go on from its name ("is statically linked"), or NULL: nothing is
 * known that speaks against it. Looks through scripts to their interpreters.
 */
const char *tool_no_preload(const char *path, char *buf, size_t size);

#endif
