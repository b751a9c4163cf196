/* SPDX-License-Identifier: MIT */
/*
 * Floor 0: probes for tracers, by which what an engine does can be watched from outside.
 * Each is one nop, and a note in the program of where its arguments are. Without
 * <sys/sdt.h> at build time there are none. docs/observability.md documents them.
 */
#ifndef TDI_TRACE_H
#define TDI_TRACE_H

#ifdef TDI_PROBES
#include <sys/sdt.h>
#define TDI_PROBE3(name, a, b, c) DTRACE_PROBE3(teardown, name, a, b, c)
#define TDI_PROBE5(name, a, b, c, d, e) DTRACE_PROBE5(teardown, name, a, b, c, d, e)
#else
#define TDI_PROBE3(name, a, b, c) ((void)(a), (void)(b), (void)(c))
#define TDI_PROBE5(name, a, b, c, d, e)                                                  \
	((void)(a), (void)(b), (void)(c), (void)(d), (void)(e))
#endif

/* What help is given with. */
enum tdi_help { TDI_HELP_SLICE, TDI_HELP_OBJECTS };

#define tdi_trace_put(space, name, bytes) TDI_PROBE3(put, space, name, bytes)
#define tdi_trace_gone(space, name, bytes) TDI_PROBE3(gone, space, name, bytes)
#define tdi_trace_slice(engine, work, bytes, ns, result)                                 \
	TDI_PROBE5(slice, engine, work, bytes, ns, result)
#define tdi_trace_reclaimed(space, name, bytes, ns, status)                              \
	TDI_PROBE5(reclaimed, space, name, bytes, ns, status)
#define tdi_trace_help(engine, with, amount) TDI_PROBE3(help, engine, with, amount)
#define tdi_trace_pressure(engine, level, bytes)                                         \
	TDI_PROBE3(pressure, engine, level, bytes)

#endif
