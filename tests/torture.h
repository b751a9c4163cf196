/* SPDX-License-Identifier: MIT */
/* How a torture of lazy references, in a child of a test's perhaps, says what is wrong.
 */
#ifndef TDT_TORTURE_H
#define TDT_TORTURE_H

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

/* Not ck_abort: in a child of the test's it would not be heard. */
__attribute__((format(printf, 1, 2), noreturn)) static inline void notice(
	const char *format, ...)
{
	va_list args;

	fputs("torture: ", stderr);
	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	fputc('\n', stderr);
	abort();
}

static inline void must_be(int err, int expected, const char *what)
{
	if (err != expected)
		notice("%s: %d, not %d", what, err, expected);
}

#endif
