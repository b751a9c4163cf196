#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""usage: count.py [--print | --renew] [--reference FILE] [--figures FILE] TD_COUNT

Has callgrind count the instructions of each hot path that TD_COUNT performs, and holds
them to a reference: ends with 1 where one has grown by more than 10 %, or has fallen by
more than 10 % (then the reference, and the report that quotes it, is not true any more,
and hides the next growth). One instruction more where there were four is a growth, too.
Whoever means it renews the reference in the same commit.

  --print      key=value lines of all figures, also of what is only there to compare with
  --renew      writes the figures into the reference, in the place of this build's
  --reference  another one than reference.txt beside this file
  --figures    figures printed before, in place of counting

Ends with 77 where there is no valgrind, or none that can run the program (it does not know
an instruction of this machine, say), or the reference has nothing of such a build: of this
compiler, architecture and options.
"""

import argparse
import fractions
import os
import re
import shutil
import subprocess
import sys
import tempfile

BUILD = ('compiler', 'arch', 'options')
RULE = fractions.Fraction(10, 100)
SKIP = 77
excused = set()  # paths that the program says cannot be had here


class Failure(Exception):
    """What ends the program, with a status."""

    def __init__(self, text, status=1):
        super().__init__(text)
        self.status = status


def fields_of(line):
    return dict(word.split('=', 1) for word in line.split() if '=' in word)


def build_of(fields):
    return ' '.join('%s=%s' % (key, fields[key]) for key in BUILD)


def text_of(value):
    """A whole number, or a mean of different ones: to a hundredth, in figures as in the
    reference."""
    return str(value) if value.denominator == 1 else '%.2f' % value


def number_of(text):
    return fractions.Fraction(text)


# ---- counting ----

def totals_of(path):
    """Instructions of each counted_NAME(), with all that it calls: {NAME: n}. Callgrind
    counts in these only, and only what their own thread does."""
    totals = {}
    name = None
    with open(path, encoding='utf-8', errors='replace') as file:
        for line in file:
            key, _, rest = line.strip().partition('=')
            if key == 'fn':
                name = rest[len('counted_'):] if rest.startswith('counted_') else None
            elif name and key and key[0].isdigit():
                # Its own, or below a "calls=" what was called.
                totals[name] = totals.get(name, 0) + int(key.split()[1])
    return totals


# What valgrind says where it is at its own end, and not the program.
UNABLE = re.compile(r'unhandled (?:instruction|\S+ syscall)|[Uu]nrecognised instruction|'
                    r'^valgrind:|Fatal error at startup|failed to start tool|'
                    r'the \'impossible\' happened', re.MULTILINE)


def run_counted(command, env):
    """As run(); a valgrind that cannot is no fault of the program, which runs without."""
    try:
        return run(command, env)
    except Failure as failure:
        unable = UNABLE.search(str(failure))
        if not unable:
            raise
        run(command[-1:], env)
        at = str(failure)[unable.start():].splitlines()
        raise Failure('valgrind cannot run it: ' + at[0], SKIP) from failure


def run(command, env):
    process = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                             env=env, text=True, check=False)
    if process.returncode:
        raise Failure('%s: exit status %d\n%s%s' % (command[0], process.returncode,
                                                    process.stdout, process.stderr))
    return process.stdout.splitlines()


def count(program):
    """Figures in the order of the program: [(name, is a peer, instructions)]."""
    valgrind = shutil.which('valgrind')
    if not valgrind:
        raise Failure('valgrind is not installed', SKIP)
    # Or the first call of each function of a library would look it up, and be counted.
    env = {**os.environ, 'LD_BIND_NOW': '1', 'VALGRIND_OPTS': ''}
    with tempfile.TemporaryDirectory() as directory:
        out = os.path.join(directory, 'callgrind.out')
        lines = run_counted([
            valgrind, '--command-line-only=yes', '--tool=callgrind',
            '--callgrind-out-file=' + out,
            '--toggle-collect=counted_*', '--compress-strings=no', '--compress-pos=no',
            program], env)
        totals = totals_of(out)
    figures = []
    for line in lines:
        words = line.split()
        if words[0] == 'without':
            print('# ' + line)
            excused.update(line.partition(':')[0].split()[1:])
        elif words[0] == 'calls':
            name = words[1]
            if name not in totals:
                raise Failure('%s was called, and callgrind did not count it' % name)
            mean = number_of(text_of(fractions.Fraction(totals[name], int(words[2]))))
            figures.append((name, 'peer' in words, mean))
    if not figures:
        raise Failure('nothing was counted')
    return figures


def figures_of(path):
    with open(path, encoding='utf-8') as file:
        lines = [fields_of(line) for line in file if line.startswith('bench=count ')]
    return [(line['subject'], line.get('peer') == 'yes', number_of(line['instructions']))
            for line in lines]


# ---- the reference ----

def read_reference(path):
    """{build: {name: instructions}}"""
    reference = {}
    if not os.path.exists(path):
        return reference
    with open(path, encoding='utf-8') as file:
        for line in file:
            if not line.startswith('#') and line.strip():
                fields = fields_of(line)
                of_build = reference.setdefault(build_of(fields), {})
                of_build[fields['subject']] = number_of(fields['instructions'])
    return reference


def write_reference(path, reference):
    with open(path, 'w', encoding='utf-8') as file:
        file.write('# SPDX-License-Identifier: MIT\n'
                   '# Instructions of each hot path, written by count.py --renew.\n')
        for build, of_build in sorted(reference.items()):
            for name, value in of_build.items():
                file.write('%s subject=%s instructions=%s\n'
                           % (build, name, text_of(value)))


def breaches(figures, of_build):
    """What of the figures the reference does not allow: a line each."""
    found = []
    own = {name: value for name, is_peer, value in figures if not is_peer}
    for name, value in own.items():
        if name not in of_build:
            found.append('%s: %s instructions, and no reference' % (name, text_of(value)))
            continue
        before = of_build[name]
        change = (value - before) / before
        if abs(change) > RULE:
            found.append('%s: %s instructions, %+.0f %%: %s' % (
                name, text_of(value), 100 * change, 'more than the reference, '
                if change > 0 else 'the reference is not true any more, ') + text_of(before))
    found.extend('%s: no instructions, and a reference' % name for name in of_build
                 if name not in own and name not in excused)
    return found


def main():
    parser = argparse.ArgumentParser(usage=__doc__.partition('\n')[0][len('usage: '):])
    parser.add_argument('program')
    parser.add_argument('--print', action='store_true', dest='prints')
    parser.add_argument('--renew', action='store_true')
    parser.add_argument('--figures')
    parser.add_argument('--reference', default=os.path.join(
        os.path.dirname(os.path.abspath(__file__)), 'reference.txt'))
    args = parser.parse_args()

    build = build_of(fields_of(run([args.program, '--build'], None)[0]))
    reference = read_reference(args.reference)
    of_build = reference.get(build, {})
    if not of_build and not args.renew and not args.prints:
        raise Failure('no reference for ' + build, SKIP)
    figures = figures_of(args.figures) if args.figures else count(args.program)
    if args.renew:
        reference[build] = {name: value for name, is_peer, value in figures
                            if not is_peer}
        write_reference(args.reference, reference)
        return 0
    if args.prints:
        for name, is_peer, value in figures:
            before = 'peer=yes' if is_peer else \
                'reference=' + text_of(of_build[name]) if name in of_build else ''
            print(' '.join(['bench=count', 'subject=' + name,
                            'instructions=' + text_of(value), before, build]).replace('  ', ' '))
        return 0
    found = breaches(figures, of_build)
    print('\n'.join(found) if found else
          '%d paths, each within 10 %% of its reference for %s' % (len(of_build), build))
    if found:
        print('Is it meant? Renew the reference in the same commit: %s --renew %s'
              % (sys.argv[0], args.program))
    return 1 if found else 0


if __name__ == '__main__':
    try:
        sys.exit(main())
    except Failure as failure:
        print(failure)
        sys.exit(failure.status)
