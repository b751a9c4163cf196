# SPDX-License-Identifier: MIT
"""What td-bench measured: read from a results file, and asked for.

A results file has a line for each thing measured, "run=1 bench=put subject=munmap ...",
as td-bench printed it, with the pass over all scenarios before it; what was measured on
("machine ..."), with what ("run=1 peer=..."), and how each scenario ended
("run=1 scenario=put status=ok ..."). A line that is none of these is an error.
"""
import re
import statistics

# What tells one line of a scenario from another; all else on it was measured.
KEYS = ('bench', 'subject', 'kind', 'size', 'end', 'threads', 'order', 'regions', 'readers',
        'slots', 'target_us', 'fast', 'loops', 'from', 'to', 'op', 'operation', 'pages',
        'host', 'page', 'model')
# Settings and counts of a line, which nobody compares.
NOTES = ('repeat', 'flags', 'fs', 'cgroup', 'seen_by', 'skipped', 'reason', 'why', 'compiler',
         'calls', 'probes', 'arch', 'options', 'peer')
# Two passes that differ by more than this do not agree.
AGREE = 1.2

_TOKEN = re.compile(r'([A-Za-z_][A-Za-z0-9_.-]*)=("[^"]*"|[^\s"]*)(?=\s|$)')


class Malformed(Exception):
    """A line of a results file that says nothing: FILE:LINE: why."""


def _tokens(text, where):
    values = {}
    at = 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if not match:
            word = text[at:].split()[0]
            if word != 'skipped':
                raise Malformed(f'{where}: neither key=value nor known: {word}')
            values['skipped'] = 'yes'
            at += len(word)
        else:
            key, value = match.groups()
            if key in values:
                raise Malformed(f'{where}: {key} is said twice')
            values[key] = value.strip('"')
            at = match.end()
        while at < len(text) and text[at].isspace():
            at += 1
    return values


def number(text):
    """The value of a number, or None."""
    try:
        value = float(text)
    except (TypeError, ValueError):
        return None
    return value if value == value and abs(value) != float('inf') else None


class Results:
    """The lines of a results file, by what they tell."""

    def __init__(self):
        self.machine = {}
        self.peers = {}       # scenario -> {peer: its line}
        self.lines = []       # measured: dicts, 'run' and all
        self.summaries = []
        self.simulated = []   # by bench/sim, of the lines measured
        self.scenarios = []   # how each ended
        self.skipped = []     # dicts of lines that say why something was left out
        self.comments = []

    @property
    def runs(self):
        return sorted({line['run'] for line in self.lines + self.scenarios})

    def pick(self, bench, **match):
        """The measured lines of a scenario that have all these values."""
        return [line for line in self.lines if line['bench'] == bench and
                all(line.get(key) == str(value) for key, value in match.items())]

    def values(self, bench, field, **match):
        """{run: value}, of the one line that matches in each run."""
        found = {}
        for line in self.pick(bench, **match):
            value = number(line.get(field))
            if value is None:
                continue
            if line['run'] in found:
                raise LookupError(f'{bench} {field} {match}: more than one line of a run')
            found[line['run']] = value
        return found

    def distinct(self, bench, key, **match):
        """The values that a key has, in order of appearance; numbers by value."""
        seen = list(dict.fromkeys(line[key] for line in self.pick(bench, **match)
                                  if key in line))
        if all(number(value) is not None for value in seen):
            seen.sort(key=float)
        return seen

    def median(self, bench, field, **match):
        """Over the runs; None where there is none."""
        found = self.values(bench, field, **match)
        return statistics.median(found.values()) if found else None

    def spread(self, bench, field, **match):
        """(median, least, most) over the runs and their rounds, or None."""
        found = self.values(bench, field, **match)
        if not found:
            return None
        low = self.values(bench, field + '_min', **match) or found
        high = self.values(bench, field + '_max', **match) or found
        return (statistics.median(found.values()), min(low.values()), max(high.values()))

    def failed(self):
        """The lines of scenarios that did not end well."""
        return [line for line in self.scenarios if line['status'] != 'ok']


def quotient(above, below):
    """{run: above / below}, inside each run that has both."""
    return {run: above[run] / below[run] for run in above
            if run in below and below[run] != 0}


def agree(figures):
    """Whether the runs' figures are within 20 % of each other."""
    values = list(figures.values())
    if len(values) < 2 or min(values) == max(values):
        return True
    return min(values) > 0 and max(values) / min(values) <= AGREE


def _read_run(text, where):
    match = re.match(r'run=([1-9][0-9]*) (.+)$', text)
    if not match:
        raise Malformed(f'{where}: no run before it')
    return int(match.group(1)), match.group(2)


def _add_line(results, run, text, where):
    values = dict(_tokens(text, where), run=run)
    if 'bench' not in values or 'skipped' in values and 'subject' not in values:
        if 'bench' not in values:
            raise Malformed(f'{where}: no scenario (bench=)')
        results.skipped.append(values)
        return
    if 'skipped' in values:
        results.skipped.append(values)
        return
    if values['bench'] == 'sim':
        results.simulated.append(values)
        return
    if 'subject' not in values:
        raise Malformed(f'{where}: no subject')
    if values['bench'] == 'reclaim' and 'min' in values:
        values['gib_per_s_min'] = values.pop('min')
        values['gib_per_s_max'] = values.pop('max', None)
    for key, value in values.items():
        if key in KEYS + NOTES + ('run',) or number(value) is not None:
            continue
        # A median of nothing, which a scenario may print, is no figure.
        if value not in ('nan', '-nan', 'inf', '-inf') and re.match(r'[-0-9.]', str(value)):
            raise Malformed(f'{where}: not a number: {key}={value}')
    results.lines.append(values)


def parse(lines, name='results'):
    """Results, of a file's lines. Raises Malformed."""
    results = Results()
    peers = []  # of the scenario whose lines come next
    for at, text in enumerate(lines, 1):
        where, text = f'{name}:{at}', text.rstrip('\n')
        if not text or text.startswith('# '):
            continue
        if text.startswith('machine '):
            results.machine.update(_tokens(text[len('machine '):], where))
            continue
        run, text = _read_run(text, where)
        word = text.split()[0]
        if word.startswith('#'):
            if text.startswith('# skipped '):
                results.skipped.append({'run': run, 'reason': text[len('# skipped '):]})
            else:
                results.comments.append(text)
        elif word == 'summary':
            results.summaries.append(dict(_tokens(text[len(word):].strip(), where), run=run))
        elif word == 'skip':
            results.skipped.append(dict(_tokens(text[len(word):].strip(), where), run=run))
        elif word.startswith('peer='):
            values = _tokens(text, where)
            peers.append(dict(values, run=run))
        elif word.startswith('scenario='):
            values = dict(_tokens(text, where), run=run)
            if values.get('status') not in ('ok', 'failed', 'missing', 'interrupted'):
                raise Malformed(f'{where}: no status of a scenario')
            # Two runs of a scenario with other sizes: "exit", "exit.small".
            values['scenario'] = values['scenario'].split('.')[0]
            results.scenarios.append(values)
            for peer in peers:
                results.peers.setdefault(values['scenario'], {}).setdefault(peer['peer'], peer)
            peers = []
        else:
            _add_line(results, run, text, where)
    _once(results, name)
    return results


def _once(results, name):
    """The same thing measured twice in a run: which of the two is true?"""
    seen = set()
    for line in results.lines:
        key = tuple((key, line[key]) for key in ('run',) + KEYS if key in line)
        if key in seen:
            said = ' '.join(f'{key}={value}' for key, value in key)
            raise Malformed(f'{name}: measured twice: {said}')
        seen.add(key)


def read(path):
    """Results, of a file. Raises Malformed and OSError."""
    with open(path, encoding='utf-8') as stream:
        return parse(stream, path.rsplit('/', 1)[-1])
