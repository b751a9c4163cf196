# SPDX-License-Identifier: MIT
"""The report in Markdown, of a results file.

usage: report.py report RESULTS PLOTS   prints it; the plots that are there are shown
       report.py docs ROOT              makes ROOT/docs/benchmarks.md and README.md's figures
       report.py check ROOT             tells whether these are what docs would make
"""
import difflib
import os
import statistics
import sys

import compare
import goals
import readme
from plots import PLOTS
from results import KEYS, NOTES, Malformed, number, read
from sections import SECTIONS, Section
from text import digits, figure, key, table, unit_of

DOCS = 'docs/benchmarks.md'
RESULTS = 'docs/benchmarks/results.txt'
SPDX = '<!-- SPDX-License-Identifier: MIT -->'
REPEAT = '''## How to repeat it

```
scripts/bench.sh           # two passes over all of it, about 40 minutes and 24 GiB
scripts/bench.sh --quick   # one pass with small sizes: less than 5 minutes and 6 GiB
scripts/bench.sh --docs    # and makes this page, the plots and the table of README.md
```

On Debian 12 or later, as root or as a user with sudo, from any directory. It installs what is
missing and builds into build-bench/. What does not fit into memory is measured smaller, or left
out and said. `build-bench/results/` then has results.txt, report.md and the plots. Each line of
results.txt is one thing measured: the median of its rounds, the least and the most. Before the
rounds that count there is one that does not (but for foreground, and the largest of sizes), and
those that are compared take turns (A B A B).
A machine that does nothing else measures best; times of others, of the host's too, count.
`td-bench --help` in build-bench/bench/ tells how to run one of them alone.'''


# ---- where peers are better ----

_BETTER = ('what is measured', 'where', 'the peer', 'its figure', 'the library',
           'its figure', 'times')
_ANCHOR = '#every-case-in-which-a-peer-is-better'


def in_short(results):
    """What one who reads no more must know: no win without the losses beside it."""
    total, better = compare.compared(results)
    outcomes = goals.judge_all(results)
    missed = [outcome.goal.part for outcome in outcomes if outcome.verdict == goals.MISSED]
    parts = ', '.join(f'{missed.count(part)} of "{part}"' for part in dict.fromkeys(missed))
    machine_ = results.machine
    lines = [f'* A peer is better in {len(better)} of {total} comparisons, listed first.',
             f'* {_counts(outcomes)}' + (f' Missed: {parts}.' if parts else '')]
    lines += [f'* {words}' for words in readme.gains(results)]
    if len(results.runs) > 1:
        apart = sum(not outcome.agrees for outcome in outcomes)
        lines.append(f'* {len(results.runs)} runs; they differ by more than 20 % in {apart} of '
                     'the figures that goals are judged by.')
    else:
        lines.append('* One run: nothing tells how far another would be from it.')
    if machine_:
        lines.append(f'* {machine_.get("cpus", "?")} CPUs ({machine_.get("cpu", "?")}), '
                     f'{float(machine_.get("memory_mib", 0)) / 1024:.0f} GiB, Linux '
                     f'{machine_.get("kernel", "?")}, hypervisor: '
                     f'{machine_.get("hypervisor", "?")}, load before it: '
                     f'{machine_.get("load", "?")}.')
    return lines + ['']


def _counts(outcomes):
    counts = {verdict: sum(outcome.verdict == verdict for outcome in outcomes)
              for verdict in (goals.MET, goals.MISSED, goals.PROVED, goals.UNKNOWN)}
    return (f'{len(outcomes)} goals: {counts[goals.MET]} met, **{counts[goals.MISSED]} '
            f'missed**, {counts[goals.PROVED]} proved by a test, {counts[goals.UNKNOWN]} not '
            'measured here.')


def peers_first(results):
    """Where a peer is better: the worst case of each figure."""
    total, better = compare.compared(results)
    lines = ['## Where a peer is better', '']
    if not total:
        return lines + ['Nothing that could be compared was measured.', '']
    lines += [f'Each way of the library against the best peer of its scenario, case by case and '
              f'figure by figure: in {len(better)} of {total} comparisons a peer is better. Of '
              f'each figure the worst case is shown here; [all of them]({_ANCHOR}) are at the '
              'end.', '']
    rows = []
    for worst, count in compare.worst_of_each(better):
        cells = list(compare.row(worst))
        cells[1] += f' (worst of {count})' if count > 1 else ''
        rows.append([compare.title(worst.bench), *(cell.lstrip() for cell in cells)])
    # Each part is named once.
    for above, cells in reversed(list(zip(rows, rows[1:]))):
        if cells[0] == above[0]:
            cells[0] = ''
    return lines + table(('', *_BETTER), rows, right=(4, 6)) + [''] if rows else lines


def every_case(results):
    """All cases in which a peer is better."""
    _, better = compare.compared(results)
    lines = ['## Every case in which a peer is better', '']
    if not better:
        return lines + ['There is none among what was measured.', '']
    return lines + table(_BETTER, [compare.row(one) for one in better], right=(3, 5)) + ['']


# ---- goals ----

def _runs_of(outcome, results):
    cells = []
    for run in results.runs:
        value = outcome.figures.get(run)
        cells.append('' if value is None else goals.show(outcome.goal, value))
    return cells


def _agreement(outcome):
    values = list(outcome.figures.values())
    if len(values) < 2:
        return 'one run' if values else ''
    if outcome.agrees:
        return 'yes'
    low, high = (goals.show(outcome.goal, value) for value in (min(values), max(values)))
    return f'**{low} to {high}**'


def _verdict(outcome, results):
    if outcome.verdict == goals.MET:
        return f'met: {outcome.reason}' if outcome.reason else 'met'
    if outcome.verdict == goals.PROVED:
        return f'proved by a test: {outcome.reason}'
    if outcome.verdict == goals.UNKNOWN:
        return f'not measured here ({outcome.reason})'
    words = f'**{goals.MISSED}**'
    if outcome.missed_in and len(outcome.missed_in) < len(results.runs):
        words += f' in run {", ".join(map(str, outcome.missed_in))}'
    return f'{words}: {outcome.reason}' if outcome.reason else words


def goals_table(results):
    """Every goal, with what was measured."""
    outcomes = goals.judge_all(results)
    lines = ['## Every goal', '',
             f'{_counts(outcomes)} A figure without a unit is a ratio, worked out inside each '
             'run. A goal is met where every run meets it. Runs agree where they are within '
             '20 % of each other, and differences of two figures where they are within 20 % of '
             'what is required; else the spread is shown.', '']
    header = ('goal', 'required', *(f'run {run}' for run in results.runs), 'agree', '')
    right = range(2, 2 + len(results.runs))
    for part in dict.fromkeys(outcome.goal.part for outcome in outcomes):
        rows = [(outcome.goal.words, outcome.goal.required, *_runs_of(outcome, results),
                 _agreement(outcome), _verdict(outcome, results))
                for outcome in outcomes if outcome.goal.part == part]
        lines += [f'### {part}', ''] + table(header, rows, right) + ['']
    return lines


# ---- one section a scenario ----

def _identity(line):
    return tuple((item, line[item]) for item in KEYS if item in line)


def _spread(lines, field):
    values = [number(line.get(field)) for line in lines]
    values = [value for value in values if value is not None]
    if not values:
        return None
    low = [number(line.get(field + '_min')) for line in lines]
    high = [number(line.get(field + '_max')) for line in lines]
    return (statistics.median(values), min([v for v in low if v is not None] or values),
            max([v for v in high if v is not None] or values))


def _cell(lines, field):
    spread = _spread(lines, field)
    if not spread:
        return ''
    unit = unit_of(field)
    text = figure(spread[0], unit)
    low, high = figure(spread[1], unit), figure(spread[2], unit)
    return text if low == high else f'{text} ({low} to {high})'


def _fields(lines):
    found = []
    for line in lines:
        for field in line:
            if (field not in KEYS + NOTES + ('run',) and field not in found
                    and not field.endswith(('_min', '_max'))
                    and number(line[field]) is not None):
                found.append(field)
    return tuple((field, field) for field in found)


def _groups(results, bench):
    groups = {}
    for line in results.pick(bench):
        groups.setdefault(_identity(line), []).append(line)
    return groups


def _ratio_cells(results, section, line, lines):
    if not section.limit:
        return []
    field, limit, _ = section.limit
    spread = _spread(lines, field)
    bound = limit(results, line) if spread else None
    if not bound:
        return ['', '']
    return [figure(bound, unit_of(field)), digits(spread[0] / bound)]


def _section_table(results, section):
    groups = _groups(results, section.bench)
    lines = [line for group in groups.values() for line in group]
    keys = [item for item in section.keys if any(item in line for line in lines)]
    fields = [(field, words) for field, words in section.fields or _fields(lines)
              if any(number(line.get(field)) is not None for line in lines)]
    header = ['' if item == 'subject' else item.replace('_us', '') for item in keys]
    header += [words for _, words in fields]
    if section.limit:
        header += [f'the limit: {section.limit[2]}', 'of the limit']
    rows = []
    for group in groups.values():
        line = group[0]
        cells = [key(item, line[item], section.bench) if item in line else '' for item in keys]
        cells += [_cell(group, field) for field, _ in fields]
        rows.append(cells + _ratio_cells(results, section, line, group))
    return table(header, rows, right=range(len(keys), len(header)))


def _peer_lines(results, bench):
    """The peers of a scenario: their versions and settings, as it printed them."""
    rows = [(peer['peer'], peer.get('version', ''), peer.get('settings', ''))
            for peer in results.peers.get(bench, {}).values()]
    if not rows:
        return []
    return [''] + table(('peer', 'version', 'used like this'), rows)


def _left_out(results, bench):
    """What a scenario left out, and why."""
    said = []
    for line in results.failed():
        if line['scenario'] == bench:
            said.append(f'**Run {line["run"]}: {line["status"]}**: '
                        f'{line.get("why") or "no reason given"}.')
    for line in results.skipped:
        if line.get('bench') == bench:
            what = ', '.join(key(item, line[item], bench) for item in ('kind', 'size', 'subject')
                             if item in line)
            why = line.get('reason') or line.get('skipped', '')
            said.append(f'Left out{f" ({what})" if what else ""}: {why}.')
    return [line for text in dict.fromkeys(said) for line in ('', text)]


def _sections(results):
    known = {section.bench for section in SECTIONS}
    others = [bench for bench in dict.fromkeys(line['bench'] for line in results.lines)
              if bench not in known]
    generic = tuple(Section(bench, bench, 'As it was printed.', KEYS[1:], ())
                    for bench in others)
    return SECTIONS + generic


def simulator(results, plots, where):
    """How near the simulator comes; what it makes of larger machines is elsewhere."""
    lines = ['## The simulator', '', 'What it says of the runs above that it was not '
             'calibrated with; [scale.md](scale.md) has what it says of larger machines.']
    if 'simulated' in plots:
        lines += ['', f'![The simulator against what was measured]({where}simulated.svg)']
    checks = {}
    for line in results.simulated:
        error = number(line.get('error_percent'))
        if error is not None:
            checks.setdefault((line.get('check', ''), line.get('field', '')), []).append(error)
    rows = [(check, field, len(errors), f'{digits(statistics.median(map(abs, errors)))} %',
             f'{digits(min(errors))} %', f'{digits(max(errors))} %')
            for (check, field), errors in checks.items()]
    if not rows:
        return lines + ['', '**Nothing was simulated.**', '']
    return lines + [''] + table(('scenario', 'figure', 'of so many', 'error, median of its size',
                                 'least', 'most'), rows, right=range(2, 6)) + ['']


def sections(results, plots, where):
    """One for each scenario, with its plots."""
    lines = []
    ended = {line['scenario'] for line in results.scenarios}
    for section in _sections(results):
        bench = section.bench
        lines += [f'## {section.title}', '', section.words]
        shown = [plot for plot in PLOTS if plot.bench == bench and plot.name in plots]
        for plot in shown:
            lines += ['', f'![{plot.title}]({where}{plot.name}.svg)']
        if results.pick(bench):
            lines += [''] + _section_table(results, section) + _peer_lines(results, bench)
        elif bench not in ended and not any(line.get('bench') == bench
                                            for line in results.skipped):
            lines += ['', '**Not measured.**']
        lines += _left_out(results, bench) + ['']
    return lines


# ---- the whole ----

def machine(results):
    """What it was measured on."""
    words = {'kernel': 'kernel', 'arch': 'architecture', 'cpu': 'CPU', 'cpus': 'CPUs',
             'nodes': 'NUMA nodes', 'memory_mib': 'memory, MiB', 'hypervisor': 'hypervisor',
             'compiler': 'compiler', 'libc': 'C library', 'liburcu': 'liburcu',
             'version': 'libteardown', 'date': 'date', 'mode': 'sizes', 'passes': 'passes',
             'load': 'load before it', 'left_out': 'packages that could not be had'}
    rows = [(words.get(item, item), value) for item, value in results.machine.items() if value]
    took = sum(float(line.get('seconds', 0)) for line in results.scenarios)
    rows.append(('measuring took', f'{took / 60:.0f} minutes'))
    return ['## The machine', ''] + table(('', ''), rows) + ['']


def report(results, plots, where):
    """The report's lines. plots: the names of those there are, which lie in where."""
    lines = ['# Side by side', '',
             'What the library costs and gains beside what its users would otherwise take: '
             'medians, and in parentheses the least and the most of all rounds and runs.', '']
    if results.machine.get('mode') == 'quick':
        lines += ['**Measured with small sizes (`--quick`): goals that name larger ones are '
                  'not measured.**', '']
    if results.failed():
        said = ', '.join(f'{line["scenario"]} (run {line["run"]}: {line["status"]})'
                         for line in results.failed())
        lines += [f'**Not all of it could be measured: {said}.**', '']
    if not plots:
        lines += ['There are no plots: gnuplot was not to be had.', '']
    lines += in_short(results) + peers_first(results) + goals_table(results)
    lines += sections(results, plots, where) + simulator(results, plots, where)
    lines += every_case(results)
    lines += machine(results) + REPEAT.split('\n')
    return '\n'.join(lines) + '\n'


def plots_in(directory):
    """The names of the plots that are there."""
    if not os.path.isdir(directory):
        return set()
    return {entry[:-4] for entry in os.listdir(directory) if entry.endswith('.svg')}


def made(root):
    """{path: text} of what is made of ROOT's results."""
    results = read(os.path.join(root, RESULTS))
    plots = plots_in(os.path.join(root, 'docs/benchmarks'))
    path = os.path.join(root, 'README.md')
    with open(path, encoding='utf-8') as stream:
        text = stream.read()
    return {os.path.join(root, DOCS): f'{SPDX}\n' + report(results, plots, 'benchmarks/'),
            path: readme.replace(text, readme.figures(results, plots))}


def main(args):
    """Exit status."""
    if len(args) == 3 and args[0] == 'report':
        sys.stdout.write(report(read(args[1]), plots_in(args[2]), 'plots/'))
        return 0
    if len(args) != 2 or args[0] not in ('docs', 'check'):
        print(__doc__.strip(), file=sys.stderr)
        return 2
    differ = 0
    for path, text in made(args[1]).items():
        old = ''
        if os.path.exists(path):
            with open(path, encoding='utf-8') as stream:
                old = stream.read()
        if args[0] == 'docs':
            with open(path, 'w', encoding='utf-8') as stream:
                stream.write(text)
        elif old != text:
            differ = 1
            short = os.path.relpath(path, args[1])
            print(f'{short} is not what bench/report makes of {RESULTS}:')
            sys.stdout.writelines(list(difflib.unified_diff(
                old.splitlines(True), text.splitlines(True), short, 'made', n=0))[:20])
    return differ


if __name__ == '__main__':
    try:
        sys.exit(main(sys.argv[1:]))
    except (Malformed, OSError, LookupError) as error:
        sys.exit(f'error: {error}')
