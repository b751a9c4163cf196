/* SPDX-License-Identifier: MIT */
/* Floor 1: numbers from the kernel's text files. Nothing here allocates. */
#ifndef TDI_PROCFS_H
#define TDI_PROCFS_H

#include "base.h"

/* Reads the beginning of a file as a string. 0, or -errno of opening or reading it. */
int tdi_procfs_read(const char *path, char *text, size_t size);

/* The same. False: it cannot be read, or is empty. */
bool tdi_procfs_text(const char *path, char *text, size_t size);

/* The number that a file begins with. */
bool tdi_procfs_number(const char *path, uint64_t *ret);

/* The number after a name such as "VmLck:" at the start of a line. base: 10 or 16. */
bool tdi_procfs_find(const char *text, const char *name, unsigned base, uint64_t *ret);

/* The size of huge pages that the system takes by default, in bytes; 0: it has none. */
size_t tdi_procfs_huge_page(void);

#endif
