# SPDX-License-Identifier: MIT
"""The plots of the report, drawn by gnuplot.

usage: plots.py RESULTS DIR   writes DIR/NAME.svg and DIR/NAME.png, as far as there is data
"""
import dataclasses
import math
import os
import shutil
import subprocess
import sys
import typing

from results import Malformed, number, read
from text import KINDS, name, plural, size

# The library's are drawn most visibly; each peer has its colour wherever it appears.
OURS = {'td_munmap': '#0057b8', 'td_space_put': '#00843d', 'td_region': '#6a3fb5',
        'td_space_put_warm': '#5fbf8a', 'td': '#0057b8', 'td_n': '#0057b8',
        'td_batch': '#0057b8', 'td_batch_node': '#00843d', 'td_user': '#0057b8',
        'td_count': '#6a3fb5', 'lazy': '#00843d', 'lazy_xchg': '#5fbf8a', 'help': '#0057b8',
        'block': '#00843d', 'again': '#6a3fb5', 'td_hooks_free': '#0057b8',
        'td_hooks_destroy': '#00843d',
        'td_spaces': '#0057b8', 'td_space': '#00843d'}
PEERS = {'munmap': '#c8102e', 'plain': '#c8102e', 'sigkill': '#c8102e', 'call_rcu': '#c8102e',
         'atomic': '#c8102e', 'free': '#8a8d8f', 'thread': '#e07b00', 'qemu_design': '#e07b00',
         'defer_rcu': '#e07b00', 'urcu_ref': '#e07b00', 'mrelease': '#e07b00',
         'chunks': '#a0722a', 'thread_chunks': '#c9b037',
         'qemu': '#d98cb3', 'qemu_async': '#a0722a', 'rcu': '#a0722a',
         'call_rcu_list': '#d98cb3', 'ck_epoch': '#a0722a', 'ck_epoch_call': '#c9b037',
         'bsearch': '#e07b00', 'jemalloc_background': '#c8102e', 'jemalloc_destroy': '#d98cb3',
         'jemalloc_decay_1s': '#e07b00', 'jemalloc_decay_0': '#a0722a',
         'jemalloc_purge': '#c9b037', 'mimalloc_collect': '#8a8d8f', 'call_rcu_rt': '#7d1128'}
# What nobody can beat, or would without freeing anything: grey and dashed.
LIMITS = {'mremap': '#6b6f73', 'bare_n': '#6b6f73', 'idle': '#6b6f73', 'exchange': '#6b6f73'}
_MULTIPLOT = 'set multiplot'
_KEY_BELOW = 'set key bmargin center horizontal maxrows 3 reverse Left'
_TICKS = {'ns': 1, 'us': 1e3, 'ms': 1e6}


def _style(subject):
    if subject in LIMITS:
        return f'lc rgb "{LIMITS[subject]}" lw 2 dt 2 pt 1 ps 0.5'
    if subject in OURS:
        return f'lc rgb "{OURS[subject]}" lw 3.5 pt 7 ps 0.7'
    return f'lc rgb "{PEERS.get(subject, "#8a8d8f")}" lw 1.8 pt 5 ps 0.5'


def _colour(subject):
    return OURS.get(subject) or PEERS.get(subject) or LIMITS.get(subject, '#8a8d8f')


def _quote(text):
    return '"' + text.replace('"', "'") + '"'


def _time_ticks(unit, steps=(1,)):
    """Tics of a logarithmic axis that is counted in unit: 1 µs, 10 µs, ... 1 s, ..."""
    tics = []
    for nanoseconds in (step * 10 ** power for power in range(0, 12) for step in steps):
        for words, scale in (('s', 1e9), ('ms', 1e6), ('µs', 1e3), ('ns', 1)):
            if nanoseconds >= scale:
                tics.append(f'"{nanoseconds / scale:g} {words}" {nanoseconds / _TICKS[unit]:g}')
                break
    return f'({", ".join(tics)})'


def _lines(series, styles, words=None):
    """Data blocks and the plot command of lines: series is {subject: [(x, y)]}."""
    blocks, plots = [], []
    # The library's last: on top.
    for at, subject in enumerate(sorted(series, key=lambda one: one in OURS)):
        points = '\n'.join(f'{x:g} {y:g}' for x, y in series[subject])
        blocks.append(f'$d{at} << EOD\n{points}\nEOD')
        title = (words or {}).get(subject) or name(subject)
        plots.append(f'$d{at} with linespoints {styles(subject)} title {_quote(title)}')
    return blocks + ['plot ' + ', \\\n     '.join(plots)]


def _points(results, bench, x, y, **match):
    """{subject: [(x, y)]}, medians over the runs, sorted by x."""
    series = {}
    for subject in results.distinct(bench, 'subject', **match):
        points = []
        for value in results.distinct(bench, x, subject=subject, **match):
            median = results.median(bench, y, subject=subject, **{**match, x: value})
            if median is not None and median > 0:
                points.append((float(value), median))
        if points:
            series[subject] = points
    return series


def _hold(results):
    series = _points(results, 'sizes', 'size', 'caller_us')
    if not series:
        series = _points(results, 'put', 'size', 'caller_us')
    if not series:
        return None
    sizes = sorted({x for points in series.values() for x, _ in points})
    tics = ', '.join(f'"{size(x)}" {x:g}' for x in sizes)
    return ['set logscale xy', 'set xlabel "memory freed"', _KEY_BELOW,
            'set ylabel "caller held"', f'set xtics ({tics}) rotate by 30 right',
            f'set ytics {_time_ticks("us")}',
            f'set xrange [{sizes[0] / 1.3:g}:{sizes[-1] * 1.3:g}]'] + _lines(series, _style)


def _stall(results):
    at = (('p50_us', 0.5), ('p90_us', 0.9), ('p99_us', 0.99), ('p999_us', 0.999),
          ('p9999_us', 0.9999))
    series = {}
    for subject in results.distinct('stall_curve', 'subject'):
        points = [(-math.log10(1 - p), results.median('stall_curve', field, subject=subject))
                  for field, p in at]
        points.append((5, results.median('stall_curve', 'worst_us', subject=subject)))
        points = [(x, y) for x, y in points if y]
        if points:
            series[subject] = points
    if not series:
        return None
    tics = ', '.join(f'"{100 * p:g} %%" {-math.log10(1 - p):g}' for _, p in at)
    return ['set logscale y', _KEY_BELOW, 'set xlabel "of all moments to come at"',
            f'set xtics ({tics}, "worst" 5)', f'set ytics {_time_ticks("us")}',
            'set ylabel "another thread waits at most"',
            'set xrange [0.2:5.2]'] + _lines(series, _style)


def _reclaim(results):
    series = {}
    for subject in results.distinct('reclaim', 'subject'):
        family, _, count = subject.rpartition('_')
        speed = results.median('reclaim', 'gib_per_s', subject=subject)
        if count.isdigit() and speed:
            series.setdefault(f'{family}_n', []).append((int(count), speed))
    plain = results.median('reclaim', 'gib_per_s', subject='munmap')
    if not series:
        return None
    most = max(x for points in series.values() for x, _ in points)
    if plain:
        series['munmap'] = [(1, plain), (most, plain)]
    for points in series.values():
        points.sort()
    words = {'td_n': 'reapers', 'bare_n': 'bare threads with MADV_DONTNEED',
             'munmap': 'munmap, in its caller: one thread'}
    counts = sorted({x for points in series.values() for x, _ in points})
    return ['set logscale x 2', 'set xlabel "threads that free"',
            'set key right bottom reverse Left',
            'set ylabel "memory back, GiB/s"', 'set yrange [0:*]',
            f'set xtics ({", ".join(map(str, counts))})',
            f'set xrange [0.9:{most * 1.1:g}]'] + _lines(series, _style, words)


def _refs(results):
    series = _points(results, 'refs', 'threads', 'pair_ns')
    if not series:
        return None
    counts = sorted({x for points in series.values() for x, _ in points})
    return ['set logscale xy', 'set xlabel "threads"', _KEY_BELOW,
            'set ylabel "taken and given back, ns"', f'set xtics ({_bare(counts)})',
            'set ytics (1, 2, 5, 10, 20, 50, 100, 200, 500)', 'set yrange [1:*]',
            f'set xrange [0.9:{counts[-1] * 1.1:g}]'] + _lines(series, _style)


def _bare(counts):
    return ', '.join(f'{count:g}' for count in counts)


def _lookup(results):
    series, words = {}, {}
    for readers in results.distinct('lookup', 'readers'):
        for subject, points in _points(results, 'lookup', 'regions', 'lookup_ns',
                                       readers=readers).items():
            words[(subject, readers)] = (
                f'{"td_region_lookup" if subject == "td" else name(subject)}, '
                f'{plural(readers, "reader")}')
            series[(subject, readers)] = points
    if not series:
        return None
    counts = sorted({x for points in series.values() for x, _ in points})

    def style(one):
        return _style(one[0]) + (' dt 3' if one[1] != '1' else '')
    return ['set logscale x', 'set xlabel "regions"', 'set key left top reverse Left',
            'set yrange [0:*]',
            f'set xtics ({_bare(counts)})', 'set ylabel "look-up, ns"',
            f'set xrange [{counts[0] / 1.3:g}:{counts[-1] * 1.3:g}]'
            ] + _lines(series, style, words)


# ---- bars ----

def _panel(at, results, bench, field, label, groups, subjects, log):
    """Data and commands of one panel: bars of the subjects, in groups."""
    rows, tics, x = [], [], 0
    for words, match in groups:
        first = x
        for subject in subjects:
            spread = results.spread(bench, field, subject=subject, **match)
            if spread and (spread[0] > 0 or not log):
                rows.append(f'{x} {spread[0]:g} {spread[1]:g} {spread[2]:g} '
                            f'{int(_colour(subject)[1:], 16)}')
            x += 1
        tics.append(f'{_quote(words)} {(first + x - 1) / 2:g}')
        x += 1
    if not rows:
        return None
    data = '\n'.join(rows)
    commands = [f'$p{at} << EOD\n{data}\nEOD', f'set ylabel {_quote(label)}',
                f'set xtics ({", ".join(tics)}) scale 0', f'set xrange [-1:{x - 1}]']
    if log:
        low = min(float(row.split()[1]) for row in rows)
        # Room for the key, above.
        high = max(float(row.split()[3]) for row in rows)
        commands += ['set logscale y',
                     f'set yrange [{10 ** math.floor(math.log10(low) - 0.3):g}:{high * 2:g}]']
        unit = field.rsplit('_', 1)[-1]
        # An axis that is short has more than one or two of them.
        steps = (1,) if high > 300 * low else (1, 2, 5)
        tics = _time_ticks(unit, steps) if unit in _TICKS else 'auto'
        commands.append(f'set ytics {tics}')
    else:
        commands += ['unset logscale y', 'set yrange [0:*]', 'set ytics auto']
    commands.append(f'plot $p{at} using 1:2:(0.9):5 with boxes lc rgb variable fs solid 0.9 '
                    f'notitle, $p{at} using 1:3:(0):($4-$3) with vectors nohead '
                    'lc rgb "#222222" lw 1.5 notitle')
    return commands


def _bars(results, bench, panels, groups, subjects=None):
    """Panels side by side, and what the colours mean below. panels: (field, label, log)."""
    there = results.distinct(bench, 'subject')
    subjects = [subject for subject in subjects or there if subject in there]
    drawn = [_panel(at, results, bench, field, label, groups, subjects, log)
             for at, (field, label, log) in enumerate(panels)]
    drawn = [panel for panel in drawn if panel]
    if not drawn:
        return None
    commands = [_MULTIPLOT, 'unset key']
    for at, panel in enumerate(drawn):
        left, right = at / len(drawn), (at + 1) / len(drawn)
        commands += [f'set lmargin at screen {left + 0.11:g}',
                     f'set rmargin at screen {right - 0.02:g}',
                     'set tmargin at screen 0.9', 'set bmargin at screen 0.3'] + panel
    legend = ', '.join(f'NaN with boxes lc rgb "{_colour(subject)}" fs solid 0.9 '
                       f'title {_quote(name(subject, bench))}' for subject in subjects)
    commands += ['unset xtics', 'unset ytics', 'unset ylabel', 'unset border', 'unset grid',
                 'unset logscale', 'set xrange [0:1]', 'set yrange [0:1]',
                 'set lmargin at screen 0', 'set rmargin at screen 1',
                 'set tmargin at screen 0.2', 'set bmargin at screen 0.01',
                 'set key center center horizontal maxcols 4 reverse Left', f'plot {legend}',
                 'unset multiplot']
    return commands


def _largest(results, bench, **match):
    sizes = results.distinct(bench, 'size', **match)
    return {'size': sizes[-1]} if sizes else {}


def _exit(results):
    groups = []
    for kind in results.distinct('exit', 'kind'):
        for end in results.distinct('exit', 'end', kind=kind):
            match = {'kind': kind, 'end': end}
            largest = _largest(results, 'exit', **match)
            short = {'anon4k': '4 KiB', 'thp': 'THP'}.get(kind, kind)
            how = 'exit' if end == 'exit' else 'SIGKILL'
            groups.append((f'{short},\\n{how}', {**match, **largest}))
    return _bars(results, 'exit', (('waitpid_ms', 'until waitpid returns', True),
                                   ('reclaim_ms', 'until the memory is back', True)),
                 groups, ('plain', 'qemu_design', 'qemu', 'qemu_async', 'td'))


def _batch(results):
    groups = [(plural(threads, 'thread'),
               {'threads': threads, 'order': 'allocated'})
              for threads in results.distinct('batch', 'threads')]
    return _bars(results, 'batch', (('queue_ns', 'queue one, in the cache', True),
                                    ('total_ns', 'until all are freed, each', True)), groups,
                 ('free', 'call_rcu', 'call_rcu_rt', 'defer_rcu', 'call_rcu_list', 'ck_epoch',
                  'ck_epoch_call', 'td_batch', 'td_batch_node'))


def _budget(results):
    groups = []
    for loops in results.distinct('budget', 'loops'):
        match = {'loops': loops}
        largest = _largest(results, 'budget', **match)
        groups.append((f'{plural(loops, "loop")} of\\n{size(largest["size"])}',
                       {**match, **largest}))
    return _bars(results, 'budget', (('gib_per_s', 'throughput, GiB/s', False),
                                     ('worst_hold_us', 'longest call that frees', True)),
                 groups, ('munmap', 'thread', 'help', 'block', 'again'))


def _by_kind(results, bench):
    groups = []
    for kind in results.distinct(bench, 'kind'):
        largest = _largest(results, bench, kind=kind, subject='munmap') or _largest(
            results, bench, kind=kind)
        short = {'anon4k': '4 KiB', 'thp': 'THP', 'shared_anon': 'shared'}.get(kind, kind)
        groups.append((f'{short}\\n{size(largest["size"])}', {'kind': kind, **largest}))
    return groups


def _unmap(results):
    return _bars(results, 'unmap', (('caller_us', 'caller held', True),),
                 _by_kind(results, 'unmap'),
                 ('munmap', 'thread', 'chunks', 'td_munmap', 'td_region'))


def _kill(results):
    groups = [(KINDS.get(kind, kind), {'kind': kind, **_largest(results, 'kill', kind=kind)})
              for kind in results.distinct('kill', 'kind')]
    return _bars(results, 'kill', (('reclaim_ms', 'until the memory is back', True),
                                   ('caller_cpu_ms', 'CPU time of who kills', True)), groups,
                 ('sigkill', 'mrelease', 'td'))


def _allocator(results):
    return _bars(results, 'allocator', (('caller_us', 'caller held', True),
                                        ('reclaim_ms', 'until the memory is back', True)),
                 _by_kind(results, 'allocator'),
                 ('jemalloc_background', 'jemalloc_decay_1s', 'jemalloc_decay_0',
                  'jemalloc_purge', 'mimalloc_collect', 'td_hooks_free', 'jemalloc_destroy',
                  'td_hooks_destroy'))


def _simulated(results):
    series = {}
    for line in results.simulated:
        measured, said = number(line.get('measured')), number(line.get('simulated'))
        if measured and said and measured > 0 and said > 0:
            series.setdefault(line.get('check', 'sim'), []).append((measured, said / measured))
    if not series:
        return None
    blocks, plots = [], []
    for at, (check, points) in enumerate(series.items()):
        rows = '\n'.join(f'{at + 0.5 * i / len(points):g} {ratio:g}'
                         for i, (_, ratio) in enumerate(points))
        blocks.append(f'$s{at} << EOD\n{rows}\nEOD')
        plots.append(f'$s{at} with points pt 7 ps 0.8 lc rgb "#0057b8" notitle')
    tics = ', '.join(f'{_quote(check)} {at + 0.25:g}' for at, check in enumerate(series))
    ratios = [ratio for points in series.values() for _, ratio in points] + [0.5, 2]
    return ['set logscale y', 'set ylabel "simulated / measured"', f'set xtics ({tics})',
            'set ytics (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 0.8, 1, 1.25, 2, 5, 10, 20, 50, 100)',
            f'set yrange [{min(ratios) * 0.8:g}:{max(ratios) * 1.25:g}]',
            'set xlabel "scenario: a point is a figure that it was not calibrated with"',
            f'set xrange [-0.5:{len(series)}]'] + blocks + [
                'plot 1 lc rgb "#6b6f73" dt 2 lw 2 notitle, ' + ', '.join(plots)]


@dataclasses.dataclass(frozen=True)
class Plot:
    """One picture."""
    name: str
    bench: str        # in whose section it is shown
    title: str
    commands: typing.Callable


PLOTS = (
    Plot('hold', 'sizes', 'How long freeing holds its caller', _hold),
    Plot('stall', 'stall_curve', 'What somebody waits who comes while memory is freed', _stall),
    Plot('reclaim', 'reclaim', 'How fast memory comes back', _reclaim),
    Plot('unmap', 'unmap', 'Kinds of memory', _unmap),
    Plot('exit', 'exit', 'A process full of memory ends', _exit),
    Plot('kill', 'kill', 'A process is killed', _kill),
    Plot('batch', 'batch', 'Objects that readers may still see', _batch),
    Plot('refs', 'refs', 'A reference, by threads that all use one object', _refs),
    Plot('lookup', 'lookup', 'Looking a region up', _lookup),
    Plot('budget', 'budget', 'Loops with memory for two arenas', _budget),
    Plot('simulated', 'sim', 'The simulator against what was measured', _simulated),
    Plot('allocator', 'allocator', "An allocator's arena is destroyed", _allocator),
)
_TERMINALS = (('svg', 'svg size 860,500 dynamic font "sans-serif,14" background rgb "white"'),
              ('png', 'pngcairo size 1290,750 font "sans,15" background rgb "white"'))


def script(plot, results, terminal, output):
    """What gnuplot is told, or None where there is no data."""
    commands = plot.commands(results)
    if not commands:
        return None
    titled = commands[0] == _MULTIPLOT
    if titled:  # several panels have one title
        commands = [f'{_MULTIPLOT} title {_quote(plot.title)}', *commands[1:]]
    return '\n'.join([f'set terminal {terminal}', f'set output {_quote(output)}',
                      'set encoding utf8', 'set termoption noenhanced',
                      'unset title' if titled else f'set title {_quote(plot.title)}',
                      'set border 3 lc rgb "#444444"', 'set tics nomirror',
                      'set grid lc rgb "#dddddd" lw 1 dt 1', *commands, 'set output']) + '\n'


def draw(results, directory):
    """Writes all plots; the names of those that there is no data for."""
    without = []
    for plot in PLOTS:
        for ending, terminal in _TERMINALS:
            text = script(plot, results, terminal,
                          os.path.join(directory, f'{plot.name}.{ending}'))
            if text is None:
                without.append(plot.name)
                break
            done = subprocess.run(['gnuplot'], input=text, capture_output=True, text=True,
                                  check=False)
            if done.returncode != 0:
                raise OSError(f'gnuplot, {plot.name}: {done.stderr.strip()}')
    return without


def main(args):
    """Exit status."""
    if len(args) != 2:
        print(__doc__.strip(), file=sys.stderr)
        return 2
    if not shutil.which('gnuplot'):
        print('gnuplot is not installed: a report without plots', file=sys.stderr)
        return 0
    os.makedirs(args[1], exist_ok=True)
    without = draw(read(args[0]), args[1])
    if without:
        print(f'no data for these plots: {", ".join(without)}', file=sys.stderr)
    return 0


if __name__ == '__main__':
    try:
        sys.exit(main(sys.argv[1:]))
    except (Malformed, OSError, LookupError) as error:
        sys.exit(f'error: {error}')
