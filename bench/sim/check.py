#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""usage: check.py RESULTS

The simulator against what was measured on this machine: bench=sim check=... lines. What
it was calibrated with is left out.
"""
import dataclasses
import os
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "report"))

import results as results_file  # noqa: E402
from core import MIB, US  # noqa: E402
from costs import Lines, Missing, beside, calibrate, key_of  # noqa: E402
import scenarios  # noqa: E402

FAST_US = 20000
SIZES_FROM = 64 * MIB  # below, td_munmap is munmap


class Check:
    """One figure, measured and simulated."""

    def __init__(self, line, field, spread, times, simulated):
        self.what = {name: line[name] for name in ("bench", "subject", "kind", "size",
                                                   "target_us", "fast", "loops", "threads", "end")
                     if name in line}
        self.field, self.simulated = field, simulated
        self.measured, self.least, self.most = spread
        self.times = times  # of those, how many say how far apart they are

    @property
    def error(self):
        return (self.simulated / self.measured - 1) * 100

    @property
    def varies(self):
        """In percent; None: one figure says nothing of it."""
        if self.times < 2:
            return None
        return (self.most - self.least) / self.measured * 100

    def line(self):
        said = " ".join(f"{name}={value}" for name, value in self.what.items()
                        if name != "bench")
        return (f"bench=sim check={self.what['bench']} {said} field={self.field} "
                f"measured={self.measured:.6g} least={self.least:.6g} most={self.most:.6g} "
                f"simulated={self.simulated:.6g} error_percent={self.error:.1f}")


class Checks:
    def __init__(self, results):
        self.results, self.costs = results, calibrate(results)
        self.lines = Lines(results)
        self.beside = {kind: beside(self.lines, self.costs, kind) for kind in ("anon4k", "thp")}
        self.cpus = int(results.machine.get("cpus", 2))
        self.checks, self.done = [], {}

    def _once(self, key, simulate):
        """What has been simulated is not again, for another subject or field."""
        if key not in self.done:
            self.done[key] = simulate()
        return self.done[key]

    def _add(self, line, field, simulate):
        if field not in line or key_of(line) in self.costs.used:
            return
        match = {name: line[name] for name in results_file.KEYS
                 if name in line and name != "bench"}
        spread = self.results.spread(line["bench"], field, **match)
        if spread and spread[0] > 0:
            runs = self.results.values(line["bench"], field, **match)
            rounds = self.results.values(line["bench"], field + "_min", **match)
            times = 2 if rounds and line.get("repeat") != "1" else len(runs)
            self.checks.append(Check(line, field, spread, times, simulate()))

    def _each(self, bench):
        """A line of each thing measured: the first run's."""
        seen = set()
        for line in self.lines.find(bench):
            if key_of(line) not in seen:
                seen.add(key_of(line))
                yield line

    def _put(self, size, kind, reapers=1):
        return self._once(("put", size, kind, reapers), lambda: scenarios.put(
            self.costs, size, kind, reapers, cpus=self.cpus))

    def _detach(self, line):
        return self.costs.detach(int(line["size"]), line["kind"])

    def put(self):
        for line in self._each("put"):
            size = int(line["size"])
            if line["subject"] == "munmap":
                took = scenarios.munmap_ns(self.costs, "anon4k", size)
                self._add(line, "reclaim_ms", lambda: took / 1e6)
                continue
            self._add(line, "reclaim_ms",
                      lambda: self._put(size, "anon4k")["reclaim_ns"] / 1e6)
            self._add(line, "caller_us", lambda: self.costs.put_ns / US)

    def sizes(self):
        for line in self._each("sizes"):
            size, subject = int(line["size"]), line["subject"]
            if size < SIZES_FROM or line.get("kind") not in self.costs.kinds:
                continue
            if subject == "munmap":
                took = scenarios.munmap_ns(self.costs, line["kind"], size)
                self._add(line, "caller_us", lambda: took / US)
            elif subject in ("td_munmap", "td_region", "td_space_put"):
                held = self.costs.put_ns if subject == "td_space_put" else self._detach(line)
                self._add(line, "caller_us", lambda: held / US)
                self._add(line, "reclaim_ms", lambda: (
                    self._put(size, line["kind"])["reclaim_ns"] + held) / 1e6)

    def reclaim(self):
        for line in self._each("reclaim"):
            if line["subject"].startswith("td_"):
                reapers = int(line["subject"][3:])
                self._add(line, "gib_per_s", lambda: self._put(
                    int(line["size"]), line["kind"], reapers)["gib_per_s"])

    def unmap(self):
        for line in self._each("unmap"):
            size = int(line["size"])
            if line["subject"] not in ("td_munmap", "td_region") or (
                    line["kind"] not in self.costs.kinds):
                continue
            self._add(line, "caller_us", lambda: self._detach(line) / US)
            self._add(line, "reclaim_ms", lambda: (
                self._put(size, line["kind"])["reclaim_ns"] + self._detach(line)) / 1e6)

    def small(self):
        spaces = {"td_spaces": 64, "td_space": 1}
        for line in self._each("small"):
            size, subject = int(line["size"]), line["subject"]
            if subject == "thread":
                took = scenarios.munmap_ns(self.costs, "anon4k", size)
                self._add(line, "small_us", lambda: took / US)
                continue
            def simulated():
                return self._once(("small", size, subject), lambda: scenarios.small_behind(
                    self.costs, size, spaces[subject]))
            self._add(line, "small_us", lambda: simulated()[0] / US)
            self._add(line, "all_ms", lambda: simulated()[1] / 1e6)

    def slices(self):
        for line in self._each("slices"):
            if not self.beside.get(line["kind"]):
                continue
            ns_per_gib, step_ns = self.beside[line["kind"]]
            kind = dataclasses.replace(self.costs.kind(line["kind"]),
                                       freer_ns_per_gib=ns_per_gib)
            costs = dataclasses.replace(self.costs, step_ns=step_ns,
                                        kinds={line["kind"]: kind})
            target = FAST_US if line["fast"] == "1" else int(line["target_us"])
            self._add(line, "reclaim_gib_per_s", lambda: scenarios.put(
                costs, int(line["size"]), line["kind"], cpus=self.cpus,
                target=target * US)["gib_per_s"])

    def budget(self):
        for line in self._each("budget"):
            loops, size = int(line["loops"]), int(line["size"])
            if float(line.get("oom", 0)) > 0:
                continue  # killed: nothing to compare
            filled = loops * size
            limit = filled if line.get("cgroup") == "none" else (
                2 * filled + filled // 32 + 8 * MIB) // 2
            def simulated():
                return self._once(("budget", line["subject"], loops, size), scenarios.Loops(
                    self.costs, line["subject"], loops, size, limit, self.cpus).run)
            self._add(line, "gib_per_s", lambda: simulated()["gib_per_s"])
            if line["subject"] not in ("munmap", "thread"):
                self._add(line, "peak_pending", lambda: simulated()["peak_pending"])

    def exits(self):
        for line in self._each("exit"):
            kind, size = line.get("kind"), int(line["size"])
            if kind not in ("anon4k", "thp") or kind not in self.costs.kinds:
                continue
            if line["subject"] == "plain":
                took = scenarios.munmap_ns(self.costs, kind, size)
                self._add(line, "waitpid_ms", lambda: took / 1e6)
            elif line["subject"] == "td":
                self._add(line, "waitpid_ms", lambda: self.costs.exit_wait_ns / 1e6)
                self._add(line, "reclaim_ms", lambda: scenarios.exit_ns(
                    self.costs, kind, size, self.cpus) / 1e6)

    def run(self):
        for scenario in (self.put, self.sizes, self.reclaim, self.unmap, self.small,
                         self.slices, self.budget, self.exits):
            scenario()
        return self.checks


def main(arguments):
    if len(arguments) != 1 or arguments[0].startswith("-"):
        print(__doc__.split("\n")[0], file=sys.stderr)
        return 2
    try:
        checks = Checks(results_file.read(arguments[0])).run()
    except (OSError, Missing, results_file.Malformed) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for check in checks:
        print(check.line())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
