/* SPDX-License-Identifier: MIT */
#ifndef BENCH_COUNT_H
#define BENCH_COUNT_H

#include <stdbool.h>

/* Called once for each time that is counted. Not what it does by the way: what is not in
 * the function is not counted. */
typedef int counted_fn(void *a, void *b, void *c);

struct counted {
	const char *name;
	counted_fn *op;
	bool peer; /* not of the library: to compare with, and of no reference */
	unsigned calls;
};

/* Two of the same text are two functions, of which nothing is known where they are
 * called.
 */
#if defined(__has_attribute) && __has_attribute(noipa)
#define COUNTED_APART __attribute__((noipa))
#else
#define COUNTED_APART __attribute__((noinline))
#endif

/* What is written for one line: its name is what callgrind is told to count. */
#define COUNTED(name, expression)                                                        \
	COUNTED_APART static int counted_##name(void *a, void *b, void *c)               \
	{                                                                                \
		(void)a;                                                                 \
		(void)b;                                                                 \
		(void)c;                                                                 \
		return (expression);                                                     \
	}

#define COUNTED_PATH(id)                                                                 \
	{                                                                                \
		.name = #id, .op = counted_##id                                          \
	}
#define COUNTED_PEER(id)                                                                 \
	{                                                                                \
		.name = #id, .op = counted_##id, .peer = true                            \
	}

void count_perform(struct counted *counted, void *a, void *b, void *c);
void count_tell(const struct counted *all, unsigned nr);

/* Ends the program when err is a negative errno value. */
void count_must(int err, const char *what);

void count_references(void);
void count_lookups(void);
void count_batches(void);
void count_works(void);

#endif
