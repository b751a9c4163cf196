#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""usage: report.py SOURCE

What scripts/bench.sh makes of its results: that the report says what they say, and that
the documents in the tree are what is made of docs/benchmarks/results.txt.
"""
import os
import re
import shutil
import subprocess
import sys
import unittest

sys.dont_write_bytecode = True
SOURCE = os.path.abspath(sys.argv.pop(1)) if len(sys.argv) > 1 else ''
sys.path.insert(0, os.path.join(SOURCE, 'bench', 'report'))

import compare  # noqa: E402
import goals  # noqa: E402
import goals_data  # noqa: E402
import plots  # noqa: E402
import readme  # noqa: E402
import report  # noqa: E402
from results import Malformed, agree, parse, read  # noqa: E402
from sections import SECTIONS  # noqa: E402

GIB = 1 << 30
WORDS = 'the last put of 4 GiB holds its caller shorter than munmap (warm)'


def put(run, subject, value, size=4 * GIB, more=''):
    return (f'run={run} bench=put subject={subject} kind=anon4k size={size} '
            f'caller_us={value} caller_us_min={value * 0.9:g} caller_us_max={value * 1.1:g} '
            f'reclaim_ms=5{more}')


def both(run, munmap, td, size=4 * GIB):
    return [put(run, 'munmap', munmap, size), put(run, 'td_space_put_warm', td, size)]


def ended(run, scenario, status='ok', why=''):
    said = f' why="{why}"' if why else ''
    return f'run={run} scenario={scenario} status={status} exit=0 seconds=1 args=""{said}'


def outcome(lines, words=WORDS):
    results = parse(lines)
    found = [one for one in goals.judge_all(results) if one.goal.words == words]
    assert len(found) == 1, words
    return found[0]


def row(lines, words=WORDS):
    """The goal's row of the report's table."""
    text = report.report(parse(lines), set(), '')
    found = [line for line in text.splitlines() if line.startswith(f'| {words} |')]
    assert len(found) == 1, words
    return found[0]


def peers(lines):
    """The lines of the report's first table."""
    text = report.report(parse(lines), set(), '')
    part = text.split('## Where a peer is better')[1].split('## Every goal')[0]
    return [line for line in part.splitlines() if line.startswith('| ')][1:]


class Reading(unittest.TestCase):
    def test_the_median_is_over_runs(self):
        results = parse(put(run, 'munmap', value) for run, value in ((1, 10), (2, 30), (3, 20)))
        self.assertEqual(results.median('put', 'caller_us', subject='munmap'), 20)
        self.assertEqual(results.spread('put', 'caller_us', subject='munmap'), (20, 9, 33))
        self.assertIsNone(results.median('put', 'caller_us', subject='nobody'))

    def test_what_is_malformed_is_refused_with_its_place(self):
        good = put(1, 'munmap', 10)
        for bad in ('bench=put subject=munmap size=1 caller_us=1', 'run=0 bench=put subject=a',
                    'run=1 put subject=munmap', 'run=1 bench=put subject=munmap caller_us',
                    'run=1 bench=put subject=munmap caller_us=12x', 'run=1 bench=put size=1',
                    'run=1 bench=put subject=a caller_us=1 caller_us=2', 'nonsense',
                    'run=1 subject=munmap caller_us=1', 'run=1 scenario=put status=fine',
                    'run=1 bench=put subject="half', 'run=1 bench=put subject=a x=1.2.3'):
            with self.assertRaisesRegex(Malformed, r'^file:2: ', msg=bad):
                parse([good, bad], 'file')

    def test_what_is_measured_twice_is_refused(self):
        with self.assertRaisesRegex(Malformed, 'twice'):
            parse([put(1, 'munmap', 10), put(1, 'munmap', 11)])
        parse([put(1, 'munmap', 10), put(2, 'munmap', 11)])

    def test_runs_agree_within_a_fifth(self):
        self.assertTrue(agree({1: 100, 2: 119}))
        self.assertFalse(agree({1: 100, 2: 121}))
        self.assertFalse(agree({1: 0, 2: 1}))
        self.assertTrue(agree({1: 0, 2: 0}))
        self.assertTrue(agree({1: 5}))

    def test_what_is_left_out_is_known(self):
        results = parse(['run=1 bench=batch subject=ck_epoch threads=1 skipped=libck-dev',
                         'run=1 bench=slices kind=thp skipped reason="no room"',
                         'run=1 skip bench=kill reason=no-process_mrelease',
                         'run=1 # skipped bench=put size=1: does not fit'])
        self.assertEqual(len(results.skipped), 4)
        self.assertEqual(results.lines, [])


class Goals(unittest.TestCase):
    def test_a_ratio_is_worked_out_inside_each_run(self):
        got = outcome(both(1, 200000, 10) + both(2, 1600000, 40))
        self.assertEqual(got.figures, {1: 20000, 2: 40000})
        self.assertEqual(got.verdict, goals.MET)

    def test_a_spread_of_more_than_a_fifth_is_shown(self):
        self.assertIn('**20,000 to 40,000**', row(both(1, 200000, 10) + both(2, 400000, 10)))
        text = row(both(1, 200000, 10) + both(2, 220000, 10))
        self.assertNotIn('**', text)
        self.assertIn('| yes |', text)
        self.assertIn('| one run |', row(both(1, 200000, 10)))

    def test_the_report_tells_whether_its_runs_agree(self):
        words = 'two runs agree on every figure of this table'
        self.assertIn('met: all 1', row(both(1, 200000, 10) + both(2, 220000, 10), words))
        self.assertIn('**MISSED**: 1 of 1', row(both(1, 200000, 10) + both(2, 400000, 10),
                                                words))
        self.assertIn('not measured', row(both(1, 200000, 10), words))

    def test_a_goal_that_is_missed_is_shown_as_missed(self):
        self.assertIn('**MISSED**', row(both(1, 99990, 10)))
        self.assertIn('**MISSED** in run 2', row(both(1, 200000, 10) + both(2, 90000, 10)))
        self.assertNotIn('MISSED', row(both(1, 100000, 10)))
        self.assertIn('| met |', row(both(1, 100000, 10)))

    def test_one_run_that_misses_is_enough_even_if_the_median_meets(self):
        got = outcome(both(1, 900000, 10) + both(2, 900000, 10) + both(3, 9000, 10))
        self.assertEqual((got.verdict, got.missed_in), (goals.MISSED, (3,)))

    def test_another_size_does_not_count(self):
        got = outcome(both(1, 900000, 10, size=2 * GIB))
        self.assertEqual((got.verdict, got.figures), (goals.UNKNOWN, {}))
        self.assertIn('only up to 2 GiB: 90,000', got.reason)

    def test_a_run_without_the_figure_has_not_met_it(self):
        got = outcome(both(1, 900000, 10) + [put(2, 'munmap', 900000)])
        self.assertEqual(got.verdict, goals.UNKNOWN)
        self.assertIn('run 2', got.reason)

    def test_of_several_peers_the_best_counts(self):
        words = 'td_process_kill of 8 GiB of 4 KiB pages: the memory back against the best peer'
        lines = [f'run=1 bench=kill subject={subject} kind=anon4k size={8 * GIB} '
                 f'reclaim_ms={value}'
                 for subject, value in (('sigkill', 700), ('mrelease', 400), ('td', 440))]
        got = outcome(lines, words)
        self.assertEqual((round(got.figures[1], 3), got.verdict), (1.1, goals.MISSED))

    def test_what_was_not_measured_is_never_met(self):
        nothing = [one for one in goals.judge_all(parse([])) if one.verdict
                   not in (goals.UNKNOWN, goals.PROVED)]
        self.assertEqual(nothing, [])
        got = outcome([ended(1, 'put', 'failed', 'no room')])
        self.assertEqual(got.verdict, goals.UNKNOWN)
        self.assertIn('no room', got.reason)
        text = report.report(parse([ended(1, 'put', 'missing', 'unknown')]), set(), '')
        self.assertIn('**Not all of it could be measured: put (run 1: missing)', text)

    def test_differences_agree_within_a_fifth_of_what_is_required(self):
        words = 'what a program on all CPUs loses to reapers at SCHED_IDLE'

        def lines(*lost):
            return [f'run={run} bench=foreground subject={subject} work_percent={value}'
                    for run, one in enumerate(lost, 1)
                    for subject, value in (('nothing', 100), ('td-idle', 100 - one))]
        self.assertTrue(outcome(lines(0.4, -0.5), words).agrees)
        self.assertFalse(outcome(lines(0.4, 1.5), words).agrees)

    def test_noise_is_no_measurement(self):
        words = 'what a program on all CPUs loses to reapers at SCHED_IDLE'
        got = outcome([f'run=1 bench=foreground subject={subject} work_percent={value}'
                       for subject, value in (('nothing', 80), ('td-idle', 104))], words)
        self.assertEqual((got.verdict, got.figures), (goals.UNKNOWN, {}))

    def test_without_a_memory_cgroup_none_is_survived(self):
        words = 'one loop with room for two arenas: runs killed for want of memory'
        line = 'run=1 bench=budget subject=help loops=1 oom=0 cgroup='
        self.assertEqual(outcome([line + 'v2'], words).verdict, goals.MET)
        self.assertEqual(outcome([line + 'none'], words).verdict, goals.UNKNOWN)

    def test_each_goal_is_there_once_and_can_be_judged(self):
        words = [goal.words for goal in goals_data.GOALS]
        self.assertEqual(len(words), len(set((goal.part, goal.words)
                                             for goal in goals_data.GOALS)))
        self.assertGreater(len(words), 100)
        for goal in goals_data.GOALS:
            ways = (goal.limit is not None, bool(goal.tests), bool(goal.not_here))
            self.assertEqual(sum(ways), 1, goal.words)
            for test in goal.tests:
                self.assertTrue(os.path.exists(os.path.join(SOURCE, test.split()[0])), test)


class Peers(unittest.TestCase):
    def test_a_peer_that_is_better_is_listed(self):
        lines = peers(both(1, 5, 10))
        self.assertEqual(len(lines), 1)
        self.assertRegex(lines[0], r'caller is held .*4 GiB.* munmap .*5\.00 µs.*10\.0 µs.* 2\.00 ')

    def test_one_that_is_worse_or_equal_is_not(self):
        self.assertEqual(peers(both(1, 10, 5)), [])
        self.assertEqual(peers(both(1, 10, 10)), [])

    def test_more_is_better_where_it_is(self):
        def speed(munmap, td):
            return [f'run=1 bench=reclaim subject={subject} kind=anon4k size=1 gib_per_s={value}'
                    for subject, value in (('munmap', munmap), ('td_1', td))]
        self.assertEqual(len(peers(speed(10, 5))), 1)
        self.assertEqual(peers(speed(5, 10)), [])

    def test_ranges_that_overlap_are_told(self):
        self.assertIn('overlap', peers(both(1, 10, 11))[0])
        self.assertNotIn('overlap', peers(both(1, 10, 20))[0])

    def test_each_case_is_listed_in_the_end(self):
        lines = both(1, 5, 10) + both(1, 5, 20, size=GIB)
        self.assertEqual(len(peers(lines)), 1)
        self.assertIn('1 GiB (worst of 2)', peers(lines)[0])
        text = report.report(parse(lines), set(), '')
        self.assertEqual(text.split('## Every case')[1].count('td_space_put, warm |'), 2)

    def test_peers_come_before_goals(self):
        text = report.report(parse(both(1, 5, 10)), set(), '')
        self.assertLess(text.index('## Where a peer'), text.index('## Every goal'))

    def test_their_versions_and_settings_are_shown(self):
        text = report.report(parse(['run=1 peer=munmap version="6.1" settings="bare calls"',
                                    *both(1, 5, 10), ended(1, 'put')]), set(), '')
        self.assertIn('| munmap | 6.1 | bare calls |', text)

    def test_a_win_and_a_loss_are_told_apart_in_the_readme(self):
        def table(munmap, td):
            lines = [f'run=1 bench=kill subject={subject} kind=thp size={GIB} reclaim_ms={value}'
                     for subject, value in (('sigkill', munmap), ('td', td))]
            return readme.figures(parse(lines), set())
        self.assertIn('| 10.0 times better |', table(100, 10))
        self.assertIn('| **10.0 times worse** |', table(10, 100))
        self.assertIn('| the same |', table(10, 10))

    def test_the_readme_compares_with_the_best_peer_and_not_with_the_usual_one(self):
        lines = [f'run=1 bench=stall subject={subject} kind=anon4k size={GIB} worst_us={value}'
                 for subject, value in (('munmap', 100000), ('chunks', 4000), ('td_munmap', 8000))]
        self.assertIn('| 100 ms (munmap) | 4.00 ms (MADV_DONTNEED in chunks, then munmap) | '
                      '8.00 ms (td_munmap) | **2.00 times worse** |',
                      readme.figures(parse(lines), set()))

    def test_what_a_peer_lacks_is_no_comparison(self):
        total, better = compare.compared(parse(both(1, 5, 10)))
        self.assertEqual((total, len(better)), (2, 1))  # no other figure; equal reclaim_ms

    def test_each_figure_of_the_report_that_a_peer_has_is_compared(self):
        results = read(os.path.join(SOURCE, report.RESULTS))
        compared = {(bench, field) for bench, fields, _, _ in compare.COMPARISONS
                    for field, _, _ in fields}
        ours = {(bench, way) for bench, _, ways, _ in compare.COMPARISONS for way in ways}
        peers_ = {(bench, peer) for bench, _, _, peers in compare.COMPARISONS for peer in peers}
        # Counts of what happened, what differs on purpose, and the sum of two others.
        no_figure = {('exit', 'naps'), ('batch', 'grace_periods'), ('count', 'reference'),
                     ('batch', 'max_wait_preempted_us'), ('stall_curve', 'worst_us'),
                     ('budget', 'oom'), ('lookup', 'syscall_ns')}
        for section in SECTIONS:
            for field, _ in section.fields:
                sides = [any((section.bench, line['subject']) in those and field in line
                             for line in results.pick(section.bench)) for those in (ours, peers_)]
                if all(sides) and (section.bench, field) not in no_figure:
                    self.assertIn((section.bench, field), compared)


class Plots(unittest.TestCase):
    def test_each_has_labels_and_the_library_is_drawn_most_visibly(self):
        lines = [f'run=1 bench=sizes subject={subject} kind=anon4k size={size} caller_us=7'
                 for subject in ('munmap', 'td_munmap', 'mremap') for size in (GIB, 4 * GIB)]
        hold = next(plot for plot in plots.PLOTS if plot.name == 'hold')
        text = plots.script(hold, parse(lines), 'svg background rgb "white"', 'x.svg')
        for word in ('logscale xy', 'set xlabel', 'set ylabel', 'set title', '"1 GiB"'):
            self.assertIn(word, text)
        width = {subject: float(re.search(r'lw ([0-9.]+)', line).group(1))
                 for subject in ('munmap', 'td_munmap') for line in text.splitlines()
                 if f'title "{subject}"' in line}
        self.assertGreater(width['td_munmap'], width['munmap'])

    @unittest.skipUnless(shutil.which('gnuplot'), 'gnuplot is not installed')
    def test_gnuplot_takes_each(self):
        results = read(os.path.join(SOURCE, report.RESULTS))
        for plot in plots.PLOTS:
            text = plots.script(plot, results, 'svg', '/dev/null')
            done = subprocess.run(['gnuplot'], input=text or '', capture_output=True, text=True,
                                  check=False)
            self.assertEqual((done.returncode, done.stderr), (0, ''), plot.name)

    def test_without_data_there_is_none(self):
        for plot in plots.PLOTS:
            self.assertIsNone(plots.script(plot, parse([]), 'svg', 'x.svg'), plot.name)


class Tree(unittest.TestCase):
    def scenarios(self):
        with open(os.path.join(SOURCE, 'scripts', 'bench.sh'), encoding='utf-8') as stream:
            table = re.search(r"^scenarios='\n(.*?)^'$", stream.read(), re.S | re.M).group(1)
        return [[cell.strip() for cell in line.split('|')] for line in table.splitlines()]

    def test_each_scenario_is_run(self):
        with open(os.path.join(SOURCE, 'bench', 'main.c'), encoding='utf-8') as stream:
            there = set(re.findall(r'&bench_([a-z]+)', stream.read()))
        run = {row[0].split('.')[0] for row in self.scenarios()}
        self.assertEqual(there - run, set())
        asked = {value.bench for goal in goals_data.GOALS for value in goal.values()}
        asked |= {comparison[0] for comparison in compare.COMPARISONS}
        self.assertEqual(asked - run - {'stall_curve'}, set())

    def test_quick_and_full_take_as_long_as_they_may(self):
        rows = self.scenarios()
        self.assertLess(sum(int(row[2] or 0) for row in rows), 240)
        self.assertLess(sum(int(row[4] or 0) for row in rows), 22 * 60)

    def test_the_documents_are_what_the_results_say(self):
        done = subprocess.run([sys.executable, '-B', os.path.join(SOURCE, 'bench', 'report',
                                                                 'report.py'), 'check', SOURCE],
                              capture_output=True, text=True, check=False)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        size = os.path.getsize(os.path.join(SOURCE, report.RESULTS))
        self.assertLess(size, 300 << 10)


if __name__ == '__main__':
    if not SOURCE:
        sys.exit(__doc__.strip())
    unittest.main()
