#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""usage: scale.py RESULTS | --docs [--check] [RESULTS [DOCUMENT]]

What hosts of a TiB and more would see: bench=sim host=... lines, extrapolated from a
results file. --docs: puts the tables into docs/scale.md, from docs/benchmarks/results.txt;
--check: says whether they are in it, and changes nothing; ends with 77 without results.
"""
import os
import re
import sys

sys.dont_write_bytecode = True
HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
sys.path.insert(0, os.path.join(os.path.dirname(HERE), "report"))

import results as results_file  # noqa: E402
from check import Checks  # noqa: E402
from costs import Missing, calibrate  # noqa: E402
import hosts  # noqa: E402
import tables  # noqa: E402

RESULTS = os.path.join(ROOT, "docs", "benchmarks", "results.txt")
DOCUMENT = os.path.join(ROOT, "docs", "scale.md")
EXIT_USAGE = 2
EXIT_SKIP = 77  # as meson has it


class BadDocument(Exception):
    """Markers that do not fit."""


def line_of(found):
    words = [f"{name}={value:.6g}" if isinstance(value, float) else f"{name}={value}"
             for name, value in found.items()]
    return "bench=sim " + " ".join(words)


def markers(name):
    return f"<!-- scale: begin {name} -->", f"<!-- scale: end {name} -->"


def fill(text, made):
    """The document with these tables between their markers."""
    named = re.findall(r"<!-- scale: begin (\S+) -->", text)
    if sorted(named) != sorted(made):
        raise BadDocument(f"tables in the document: {' '.join(sorted(named))}; "
                          f"made: {' '.join(sorted(made))}")
    for name, lines in made.items():
        begin, end = markers(name)
        at, to = text.find(begin), text.find(end)
        if to < at:
            raise BadDocument(f"no end of {name}")
        text = text[:at] + "\n".join([begin] + lines) + "\n" + text[to:]
    return text


def make(results):
    """All tables of a results file."""
    costs = calibrate(results)
    return tables.all_tables(results, costs, Checks(results).run(),
                             list(hosts.extrapolate(costs)))


def document(check, results_path, path):
    """True: the document has these tables (now)."""
    with open(path, encoding="utf-8") as stream:
        before = stream.read()
    after = fill(before, make(results_file.read(results_path)))
    if check:
        return after == before
    if after != before:
        with open(path, "w", encoding="utf-8") as stream:
            stream.write(after)
    return True


def run(arguments):
    if arguments[:1] != ["--docs"]:
        if len(arguments) != 1 or arguments[0].startswith("-"):
            print(__doc__.split("\n", maxsplit=1)[0], file=sys.stderr)
            return EXIT_USAGE
        for found in hosts.extrapolate(calibrate(results_file.read(arguments[0]))):
            print(line_of(found))
        return 0
    check = arguments[1:2] == ["--check"]
    paths = arguments[2 if check else 1:]
    if len(paths) > 2 or any(path.startswith("-") for path in paths):
        print(__doc__.split("\n", maxsplit=1)[0], file=sys.stderr)
        return EXIT_USAGE
    paths += [RESULTS, DOCUMENT][len(paths):]
    if check and not os.path.exists(paths[0]):
        print(f"{paths[0]} has not been made yet: scripts/bench.sh --docs")
        return EXIT_SKIP
    if document(check, *paths):
        return 0
    print(f"{paths[1]}: its tables are not those of {paths[0]}: bench/sim/scale.py --docs",
          file=sys.stderr)
    return 1


def main(arguments):
    try:
        return run(arguments)
    except (OSError, Missing, BadDocument, results_file.Malformed) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
