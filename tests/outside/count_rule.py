#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""usage: count_rule.py COUNT_PY TD_COUNT

The rule of count.py, without counting: figures as the reference has them are within it;
where the reference is 11 % lower, or higher, or has not all of them, it fails and names
each of them; and a build of which there is nothing is skipped. So is a valgrind that cannot run the
program; but a program that fails is not.
"""

import fractions
import importlib.util
import os
import subprocess
import sys
import tempfile

count_py, program = sys.argv[1:]
spec = importlib.util.spec_from_file_location('count', count_py)
count = importlib.util.module_from_spec(spec)
spec.loader.exec_module(count)
failures = 0

BUILD = count.build_of(count.fields_of(subprocess.run(
    [program, '--build'], stdout=subprocess.PIPE, text=True, check=True).stdout))
FIGURES = {'small': 4, 'large': 1000, 'mean': fractions.Fraction('16.25')}


def check(what, expected, reference, *named, build=BUILD):
    """count.py with these figures and that reference ends so, and names those."""
    global failures
    with tempfile.TemporaryDirectory() as directory:
        figures = os.path.join(directory, 'figures')
        with open(figures, 'w', encoding='utf-8') as file:
            file.write('bench=count subject=of_a_peer instructions=1 peer=yes %s\n' % BUILD)
            for name, value in FIGURES.items():
                file.write('bench=count subject=%s instructions=%s %s\n'
                           % (name, count.text_of(fractions.Fraction(value)), BUILD))
        path = os.path.join(directory, 'reference')
        count.write_reference(path, {build: {
            name: fractions.Fraction(value) for name, value in reference.items()}})
        process = subprocess.run(
            [sys.executable, count_py, '--reference', path, '--figures', figures, program],
            stdout=subprocess.PIPE, text=True, check=False)
    lines = process.stdout.splitlines()
    said = {line.split(':')[0] for line in lines if ' instructions, ' in line}
    if process.returncode != expected or said != set(named):
        print('%s: exit status %d, not %d; named: %s\n%s' % (
            what, process.returncode, expected, ' '.join(sorted(said)), process.stdout))
        failures += 1


def times(percent):
    return {name: value * fractions.Fraction(percent, 100)
            for name, value in FIGURES.items()}


check('as it is', 0, FIGURES)
check('11 % lower', 1, times(89), *FIGURES)
check('fallen to less than 90 %', 1, times(112), *FIGURES)
check('within 10 %', 0, {**FIGURES, 'large': 910, 'mean': 15})
check('one more of four', 1, {**FIGURES, 'small': 3}, 'small')
check('just past it', 1, {**FIGURES, 'large': 909}, 'large')
check('a path without a reference', 1, {'small': 4, 'large': 1000}, 'mean')
check('a reference without a path', 1, {**FIGURES, 'gone': 5}, 'gone')
check('of another compiler only', 77, FIGURES, build=BUILD.replace('=', '=x', 1))


def check_valgrind(what, expected, script):
    """count.py where that is the valgrind there is."""
    global failures
    with tempfile.TemporaryDirectory() as directory:
        path = os.path.join(directory, 'reference')
        count.write_reference(path, {BUILD: {'small': fractions.Fraction(4)}})
        valgrind = os.path.join(directory, 'valgrind')
        with open(valgrind, 'w', encoding='utf-8') as file:
            file.write('#!/bin/sh\n' + script + '\n')
        os.chmod(valgrind, 0o755)
        process = subprocess.run(
            [sys.executable, count_py, '--reference', path, program],
            stdout=subprocess.PIPE, text=True, check=False,
            env={**os.environ, 'PATH': directory + ':' + os.environ['PATH']})
    if process.returncode != expected:
        print('%s: exit status %d, not %d\n%s' % (what, process.returncode, expected,
                                                  process.stdout))
        failures += 1


check_valgrind('an instruction that valgrind does not know', 77,
               'echo "vex: unhandled instruction bytes: 0x62 0xF1" >&2; kill -ILL $$')
check_valgrind('a valgrind without its tool', 77,
               'echo "valgrind: failed to start tool" >&2; exit 1')
check_valgrind('a program that fails', 1, 'echo "error: td_engine_create" >&2; exit 1')
sys.exit(1 if failures else 0)
