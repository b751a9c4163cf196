/* SPDX-License-Identifier: MIT */
/* What a command is, as far as a preloaded shared object is concerned. */
#ifndef TOOLS_PROGRAM_H
#define TOOLS_PROGRAM_H

#include <stddef.h>

/*
 * Why the dynamic linker will not load what LD_PRELOAD names into this command, in words
 * that go on from its name ("is statically linked"), or NULL: nothing is known that
 * speaks against it. Looks where execvp(3) will, and through scripts to their
 * interpreters.
 */
const char *tool_no_preload(const char *command, char *buf, size_t size);

#endif
