/* SPDX-License-Identifier: MIT */
/* What teardown probe asks: a table of questions in each of two files. */
#ifndef TOOLS_PROBE_H
#define TOOLS_PROBE_H

#include <stddef.h>

/* What is printed: "name: value (means)". */
struct probe_answer {
	char value[96];
	char means[192];
};

struct probe {
	const char *name;
	void (*ask)(struct probe_answer *answer);
};

/* What the kernel can do, by having it done; and what is set, by reading it. */
extern const struct probe probe_calls[], probe_system[];
extern const size_t nr_probe_calls, nr_probe_system;

/* The value; and what it means. */
__attribute__((format(printf, 2, 3))) void probe_value(struct probe_answer *answer,
						       const char *format, ...);
__attribute__((format(printf, 2, 3))) void probe_means(struct probe_answer *answer,
						       const char *format, ...);

/* Is the running kernel's version that or a newer one? */
int probe_kernel(unsigned major, unsigned minor);

#endif
