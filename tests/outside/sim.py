#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""usage: sim.py SOURCE

The simulator of bench/sim does what it says: what goes in comes out, nothing is faster
than its reapers, rules of the library hold, and its check leaves out what it used.
"""
import os
import sys
import unittest

sys.dont_write_bytecode = True
SOURCE = os.path.abspath(sys.argv.pop(1) if len(sys.argv) > 1 else ".")
sys.path[:0] = [os.path.join(SOURCE, "bench", "sim"), os.path.join(SOURCE, "bench", "report")]

from core import GIB, KIB, MIB, MS, S, US, Machine, Scaling, Sim, stall_percentiles  # noqa: E402
from costs import Costs, Kind, calibrate, fit_published  # noqa: E402
from engine import Engine  # noqa: E402
from memory import Doom, Extent, Plain, Space  # noqa: E402
import check  # noqa: E402
import hosts  # noqa: E402
import results  # noqa: E402
import scale  # noqa: E402
import scenarios  # noqa: E402

NS_PER_GIB = 100 * MS
REMOTE = 2.0


def costs(**changes):
    small = Kind("anon4k", 4096, NS_PER_GIB, NS_PER_GIB, NS_PER_GIB / 512)
    huge = Kind("thp", 2 * MIB, 4 * MS, 4 * MS, 1000)
    return Costs(kinds={"anon4k": small, "thp": huge}, scaling=Scaling("linear"),
                 step_ns=5 * US, wake_ns=50 * US, fill_ns_per_gib=250 * MS, remote=REMOTE,
                 **changes)


def one_space(engine, size, nodes=None):
    space = Space(engine, [Extent(size, engine.costs.kind("anon4k"), nodes)])
    engine.submit(space)
    return space


class Memory(unittest.TestCase):
    def test_bytes_in_are_bytes_out(self):
        for size in (4 * KIB, 2 * MIB, 3 * MIB, GIB + 4 * KIB, GIB + 6 * MIB):
            for reapers in (1, 2, 5):
                found = scenarios.put(costs(), size, reapers=reapers)
                self.assertEqual(found["released"], size)

    def test_bytes_of_many_regions_on_many_nodes(self):
        each = 64 * MIB + 4 * KIB
        regions = [(each, "anon4k", [(each, i % 4)] if i % 5 else None) for i in range(40)]
        found = scenarios.teardown(costs(), regions, 8, nodes=4, cpus=4)
        self.assertEqual(found["released"], 40 * each)

    def test_no_faster_than_its_reapers_together(self):
        for reapers in (1, 2, 4, 8):
            found = scenarios.put(costs(), 2 * GIB, reapers=reapers, cpus=8)
            self.assertGreaterEqual(found["reclaim_ns"], 2 * NS_PER_GIB / reapers)

    def test_one_reaper_one_region_is_cost_times_size_and_overheads(self):
        used, size = costs(), 4 * GIB
        engine = Engine(used, 1)
        space = one_space(engine, size)
        steps = []
        work = engine.machine.work

        def counted(node, memory, alone, fixed=0):
            steps.append(fixed)
            return work(node, memory, alone, fixed)

        engine.machine.work = counted
        engine.run()
        kind = used.kind("anon4k")
        expected = (used.wake_ns + size / GIB * (kind.freer_ns_per_gib + kind.shell_ns_per_gib) +
                    len(steps) * used.step_ns)
        self.assertAlmostEqual(space.done_at, expected, delta=2 * used.look_ns)

    def test_reapers_on_one_node_contend_as_the_law_says(self):
        crowded = costs()
        crowded.scaling = Scaling("measured", 0.3)
        alone = scenarios.put(costs(), 2 * GIB, reapers=2)["reclaim_ns"]
        found = scenarios.put(crowded, 2 * GIB, reapers=2)["reclaim_ns"]
        self.assertAlmostEqual(found / alone, 1.3, delta=0.03)

    def test_more_threads_than_cpus_are_no_faster(self):
        two = scenarios.put(costs(), 2 * GIB, reapers=2, cpus=2)["reclaim_ns"]
        four = scenarios.put(costs(), 2 * GIB, reapers=4, cpus=2)["reclaim_ns"]
        self.assertAlmostEqual(four / two, 1, delta=0.05)

    def test_slices_keep_to_their_target(self):
        for target in (100 * US, 500 * US, 5 * MS):
            found = scenarios.put(costs(zap_holds_mmap_lock=True), GIB, target=target,
                                  stalls=True)
            self.assertLess(found["worst_ns"], 2.5 * target)

    def test_many_slices_as_one_change_little(self):
        for kind, times in (("anon4k", 1), ("thp", 16)):
            host = hosts.Host("test", "", 16 * GIB * times, 4, 64)
            for reapers in (1, 4, 16):
                fine, coarse = (hosts.teardown(
                    costs(), Scaling("linear"), host, kind, reapers, **grain)
                    for grain in ({"grain": 1}, {}))
                self.assertAlmostEqual(coarse["reclaim_ns"] / fine["reclaim_ns"], 1, delta=0.1)


class Turns(unittest.TestCase):
    def test_a_small_work_is_not_held_up_by_a_large_one(self):
        for spaces in (1, 64):
            waited, everything = scenarios.small_behind(costs(), 4 * GIB, spaces)
            self.assertLess(waited, 3 * MS)
            self.assertGreater(everything, 4 * NS_PER_GIB)

    def test_works_share_by_weight(self):
        engine = Engine(costs(), 1)
        light, heavy = (Space(engine, [Extent(4 * GIB, engine.costs.kind("anon4k"))], weight)
                        for weight in (100, 300))
        engine.submit(light)
        engine.submit(heavy)
        engine.sim.run(lambda: heavy.left == 0)
        self.assertAlmostEqual((4 * GIB - light.left) / (4 * GIB), 1 / 3, delta=0.02)

    def test_rate_holds(self):
        engine = Engine(costs(), 1, rate=2 * GIB)
        space = one_space(engine, GIB)
        engine.run()
        self.assertAlmostEqual(space.done_at, S / 2, delta=S / 20)
        little = Plain(engine, 0, US)
        engine.submit(little)
        engine.run()
        self.assertLess(little.done_at - space.done_at, MS)


class Nodes(unittest.TestCase):
    def test_two_nodes_are_balanced_by_stealing(self):
        took = {}
        for steals in (True, False):
            engine = Engine(costs(), 2, nodes=2, cpus=1, steals=steals)
            spaces = [one_space(engine, 2 * GIB, [(2 * GIB, 0)]) for _ in range(3)]
            engine.run()
            took[steals] = max(space.done_at for space in spaces)
            self.assertEqual(engine.counts["stolen"] > 0, steals)
            self.assertEqual(engine.reclaimed, 6 * GIB)
        # One near and one that takes twice as long for it.
        self.assertAlmostEqual(took[True] / took[False], 1 / (1 + 1 / REMOTE), delta=0.05)

    def test_little_is_left_to_its_node(self):
        engine = Engine(costs(), 2, nodes=2, cpus=1)
        doom = Doom(engine, [Extent(100 * MIB, engine.costs.kind("anon4k"), [(100 * MIB, 0)])])
        doom.at_home = True
        engine.submit(doom, 0)
        engine.run()
        self.assertEqual(engine.counts["stolen"], 0)

    def test_a_space_on_all_nodes_is_released_on_all_at_once(self):
        each = GIB
        regions = [(each, "anon4k", [(each, node)]) for node in range(4)]
        found = scenarios.teardown(costs(), regions, 4, nodes=4, cpus=1)
        self.assertAlmostEqual(found["reclaim_ns"] / NS_PER_GIB, 1, delta=0.1)


class Budget(unittest.TestCase):
    def test_it_is_never_exceeded(self):
        size, limit = 16 * MIB, 100 * MIB
        for way in ("help", "block", "again"):
            found = scenarios.Loops(costs(), way, 8, size, limit, 2)
            peak = found.run()["peak_pending"]
            self.assertLessEqual(peak, limit)
            self.assertGreater(peak, limit - 2 * size)
            self.assertEqual(found.engine.pending, 0)

    def test_one_larger_than_all_of_it_goes_alone(self):
        found = scenarios.Loops(costs(), "help", 2, 64 * MIB, 10 * MIB, 2).run()
        self.assertEqual(found["peak_pending"], 64 * MIB)

    def test_a_churn_below_what_is_reclaimed_is_bounded(self):
        low, high = (scenarios.churn(costs(), rate * GIB, 64 * MIB, 1, 1, 1) for rate in (1, 8))
        self.assertLess(low, high)
        self.assertLess(high, 4 * GIB)


class Stalls(unittest.TestCase):
    def test_moments_are_weighted_by_time(self):
        (half, most), worst = stall_percentiles([(0, 50)], 0, 100, (0.5, 0.75))
        self.assertAlmostEqual(half, 0, places=3)
        self.assertAlmostEqual(most, 25, places=3)
        self.assertEqual(worst, 50)

    def test_writers_of_the_mmap_lock_exclude_each_other(self):
        sim = Sim()
        machine = Machine(sim, 1, 4, Scaling("linear"), 1)
        machine.holds = []
        for _ in range(3):
            sim.start(machine.locked(True, machine.work(0, 0, 100)))
        for _ in range(2):
            sim.start(machine.locked(False, machine.work(0, 0, 10)))
        sim.run()
        self.assertEqual([end for _, end in machine.holds], [100, 200, 300, 310, 310])


class Whole(unittest.TestCase):
    def test_same_seed_same_result(self):
        def churn(seed):
            return scenarios.churn(costs(), 8 * GIB, 64 * MIB, 0.5, 2, seed, nodes=2, cpus=2)

        self.assertEqual(churn(7), churn(7))
        self.assertNotEqual(churn(7), churn(8))

    def test_published_figures_are_fitted(self):
        fitted = fit_published()
        self.assertTrue(0 < fitted.sigma < 1 and 0 < fitted.kappa < 0.1)
        self.assertGreater(fitted.speed(8), fitted.speed(64))

    LINES = """machine cpus=2
run=1 bench=unmap subject=munmap kind=anon4k size=4294967296 caller_us=400000 reclaim_ms=400
run=1 bench=unmap subject=thread kind=anon4k size=4294967296 caller_us=5 reclaim_ms=440
run=1 bench=put subject=td_space_put_warm kind=anon4k size=4294967296 caller_us=8 reclaim_ms=450
run=1 bench=put subject=td_space_put_warm kind=anon4k size=8589934592 caller_us=9 reclaim_ms=900
run=2 bench=put subject=td_space_put_warm kind=anon4k size=8589934592 caller_us=9 reclaim_ms=980
run=1 bench=reclaim subject=bare_2 kind=anon4k size=4294967296 gib_per_s=15
run=1 bench=reclaim subject=td_2 kind=anon4k size=4294967296 gib_per_s=14
""".split("\n")

    def test_the_check_leaves_out_what_it_was_calibrated_with(self):
        read = results.parse(self.LINES)
        used = calibrate(read).used
        found = check.Checks(read).run()
        self.assertEqual([(one.what["subject"], one.field) for one in found],
                         [("td_space_put_warm", "reclaim_ms"), ("td_space_put_warm", "caller_us"),
                          ("td_2", "gib_per_s")])
        self.assertFalse(any(key_of in used for key_of in (
            tuple(sorted(one.what.items())) for one in found)))
        self.assertEqual(found[0].measured, 940)
        self.assertAlmostEqual(found[0].simulated, 890, delta=30)
        self.assertIn("error_percent=", found[0].line())

    def test_what_is_missing_is_said(self):
        with self.assertRaisesRegex(Exception, "anon4k"):
            calibrate(results.parse(["machine cpus=2"]))

    def test_tables_go_between_their_markers(self):
        text = "a\n<!-- scale: begin x -->\nold\n<!-- scale: end x -->\nb\n"
        after = scale.fill(text, {"x": ["new"]})
        self.assertEqual(after, text.replace("old", "new"))
        with self.assertRaises(scale.BadDocument):
            scale.fill(text, {"y": ["new"]})


if __name__ == "__main__":
    unittest.main(argv=[sys.argv[0]])
