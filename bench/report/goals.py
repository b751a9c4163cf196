# SPDX-License-Identifier: MIT
"""The goals that the library was built for, as data, and how each is judged.

A goal is met where every run meets it. What is measured at another size than the goal
names does not count: it is shown, and the goal is not measured.
"""
import dataclasses
import statistics
import typing

import goals_data
from results import agree, number, quotient
from text import digits, figure, size, unit_of

MET, MISSED, PROVED, UNKNOWN = 'met', 'MISSED', 'proved by a test', 'not measured here'


@dataclasses.dataclass
class Outcome:
    """What became of a goal."""
    goal: typing.Any
    verdict: str
    figures: dict      # {run: value}
    missed_in: tuple = ()
    reason: str = ''

    @property
    def agrees(self):
        """Whether the runs are within 20 % of each other; differences, which may be near
        0, within 20 % of what is required of them."""
        if self.goal.op == '-' and self.figures:
            values = self.figures.values()
            return max(values) - min(values) <= abs(self.goal.limit[1]) / 5
        return agree(self.figures)


def _value(results, value, **instead):
    """{run: figure} of one value, or the best of several in each run."""
    if isinstance(value, (list, tuple)):
        best = {}
        for one in value:
            for run, got in _value(results, one, **instead).items():
                best[run] = min(got, best.get(run, got))
        return best
    return results.values(value.bench, value.field, **{**value.match, **instead})


def measure(results, goal, **instead):
    """{run: figure} of a goal, as far as there is one."""
    above = _value(results, goal.above, **instead)
    if goal.op is None:
        return above
    below = _value(results, goal.below, **(instead if not goal.other_size else {}))
    if goal.op == '/':
        return quotient(above, below)
    return {run: above[run] - below[run] for run in above if run in below}


def _meets(goal, value):
    sign, limit = goal.limit
    return value >= limit if sign == '>=' else value <= limit


def _elsewhere(results, goal):
    """The figures at the size that is nearest below the goal's, and this size."""
    wanted = goal.first().match.get('size')
    if wanted is None or goal.other_size:
        return {}, None
    for other in reversed(results.distinct(goal.first().bench, 'size')):
        if float(other) < wanted:
            figures = measure(results, goal, size=other)
            if figures:
                return figures, other
    return {}, None


def _why_not(results, goal):
    """The reason for which a scenario has no such figure, as well as it is known."""
    bench = goal.first().bench
    for line in results.scenarios:
        if line['scenario'] == bench and line['status'] != 'ok':
            return f'{bench} {line["status"]}: {line.get("why") or "no reason given"}'
    subjects = {value.match.get('subject') for value in goal.values()}
    for line in results.skipped:
        if line.get('bench') == bench and (line.get('subject') in subjects or
                                           line.get('kind') == goal.first().match.get('kind')):
            return line.get('reason') or f'{line.get("subject")} needs {line["skipped"]}'
    if not results.pick(bench):
        return f'{bench} was not run'
    wanted = goal.first().match.get('size')
    return f'not measured at {size(wanted)}' if wanted else f'{bench} has no such line'


def judge(results, goal):
    """The goal's outcome."""
    if goal.tests:
        return Outcome(goal, PROVED, {}, reason=', '.join(goal.tests))
    if goal.not_here:
        return Outcome(goal, UNKNOWN, {}, reason=goal.not_here)
    figures = measure(results, goal)
    if not figures:
        reason = _why_not(results, goal)
        figures, other = _elsewhere(results, goal)
        if figures and not _unsound(results, goal):
            reason = (f'only up to {size(other)}: '
                      f'{show(goal, statistics.median(figures.values()))}')
        return Outcome(goal, UNKNOWN, {}, reason=reason)
    unsound = _unsound(results, goal)
    if unsound:
        return Outcome(goal, UNKNOWN, {}, reason=unsound)
    return _against_limit(results, goal, figures)


def _unsound(results, goal):
    """Why the lines that are there do not measure what the goal is about, if so."""
    if goal.only_with:
        field, without, why = goal.only_with
        if any(line.get(field) == without
               for line in results.pick(goal.first().bench, **goal.first().match)):
            return why
    if goal.sound:
        value, least, most, why = goal.sound
        if not all(least <= one <= most for one in _value(results, value).values()):
            return why
    return ''


def _against_limit(results, goal, figures):
    missed = tuple(sorted(run for run, value in figures.items() if not _meets(goal, value)))
    # A run that lacks the figure has not met the goal either.
    lacking = ', '.join(str(run) for run in results.runs if run not in figures)
    if missed:
        return Outcome(goal, MISSED, figures, missed, goal.note)
    if lacking:
        return Outcome(goal, UNKNOWN, figures, reason=f'run {lacking} has no figure')
    return Outcome(goal, MET, figures)


def _counted(results):
    """How far the counted instructions have grown beyond what is written down."""
    goal = goals_data.COUNTED
    worst = {}
    for line in results.pick('count'):
        now, then = number(line.get('instructions')), number(line.get('reference'))
        if now is not None and then:
            worst[line['run']] = max(worst.get(line['run'], 0), now / then)
    # They are counted once: no pass changes them.
    if not worst:
        return Outcome(goal, PROVED, {}, reason=', '.join(goal.tests))
    return _against_limit(results, goal, dict.fromkeys(results.runs, max(worst.values())))


def _simulated(results):
    """How far the simulator is from the real runs."""
    goal = goals_data.SIMULATED
    errors = [abs(error) for error in (number(line.get('error_percent'))
                                       for line in results.simulated) if error is not None]
    if not errors:
        return Outcome(goal, UNKNOWN, {}, reason='nothing was simulated')
    return Outcome(goal, MET, {}, reason=f'of {len(errors)} figures half are within '
                   f'{digits(statistics.median(errors))} %, the worst is '
                   f'{digits(max(errors))} % off')


def _two_runs(results, outcomes):
    """Whether the passes agree on every figure of the table."""
    goal = goals_data.TWO_RUNS
    if len(results.runs) < 2:
        return Outcome(goal, UNKNOWN, {}, reason='there was one run')
    figures = [outcome for outcome in outcomes if len(outcome.figures) > 1]
    apart = sum(not outcome.agrees for outcome in figures)
    outcome = Outcome(goal, MISSED if apart else MET, {})
    outcome.reason = (f'{apart} of {len(figures)} do not; their spread is shown' if apart
                      else f'all {len(figures)}')
    return outcome


def judge_all(results):
    """Outcomes of all goals, in order."""
    outcomes = [judge(results, goal) for goal in goals_data.GOALS]
    outcomes += [_counted(results), _simulated(results)]
    outcomes.append(_two_runs(results, outcomes))
    return outcomes


def show(goal, value):
    """A figure of a goal: a ratio is a bare number."""
    if goal.op == '/' or goal.above is None:
        return digits(value)
    return figure(value, unit_of(goal.first().field))
