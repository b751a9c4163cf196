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
from costs import Costs, Kind, calibrate, fit_published, on_kernel  # noqa: E402
from engine import Engine  # noqa: E402
from memory import Doom, Extent, Pace, Plain, Space  # noqa: E402
import check  # noqa: E402
import hosts  # noqa: E402
import results  # noqa: E402
import scale  # noqa: E402
import scenarios  # noqa: E402
import tables  # noqa: E402

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

    def test_a_step_at_most_doubles_or_halves(self):
        for took, step in ((1, 8), (500 * US, 4), (400 * US, 4), (S, 2)):
            pace = Pace(4 * MIB, 2 * MIB, 64 * MIB, 1)
            pace.learn(4 * MIB, took, 500 * US)
            self.assertEqual(pace.step, step * MIB)

    def test_many_slices_as_one_change_little(self):
        for kind, times in (("anon4k", 1), ("thp", 16)):
            host = hosts.Host("test", "", 16 * GIB * times, 4, 64)
            for reapers in (1, 4, 64):
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

    def test_pending_is_the_rate_times_how_long_each_is(self):
        """Little's law: below it no budget can be enough; far above it none is needed."""
        arena, rate, lone = 64 * MIB, 5 * GIB, 64 * MIB / GIB * NS_PER_GIB / S
        peak = scenarios.churn(costs(), rate, arena, 4, 1, 1)
        self.assertGreater(peak, rate * lone)
        # One server, fixed service, half of the time busy: a queue of 12 is one in millions.
        self.assertLess(peak, 12 * arena)

    def test_one_larger_than_all_of_it_goes_alone(self):
        found = scenarios.Loops(costs(), "help", 2, 64 * MIB, 10 * MIB, 2).run()
        self.assertEqual(found["peak_pending"], 64 * MIB)

    def test_a_churn_below_what_is_reclaimed_is_bounded(self):
        low, high = (scenarios.churn(costs(), rate * GIB, 64 * MIB, 1, 1, 1) for rate in (1, 8))
        self.assertLess(low, high)
        self.assertLess(high, 4 * GIB)


class Stalls(unittest.TestCase):
    def test_the_worst_is_of_shells_one_after_the_other(self):
        host = hosts.Host("test", "", 512 * GIB, 4, 16)
        worst = {}
        for kernel in ((6, 13), (6, 17)):
            found = hosts.stall(costs(), Scaling("linear"), host, "anon4k", 4, kernel)
            worst[kernel] = found["worst_ns"]
            self.assertLess(worst[kernel], 5 * 500 * US)
        # A step of 16 GiB, which a region of 2 GiB never comes to.
        each = 16 * on_kernel(costs(), (6, 17)).kind("anon4k").shell_ns_per_gib + 5 * US
        self.assertAlmostEqual(worst[(6, 17)] / (4 * each), 1, delta=0.1)
        self.assertGreater(worst[(6, 13)], worst[(6, 17)])

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
    def test_nothing_takes_nothing(self):
        engine = Engine(costs(), 1, budget=MIB)
        rooms = []

        def asks():
            for size in (MIB, 0):
                rooms.append((yield from engine.admit(size, object())))

        engine.sim.start(asks(), "caller")
        engine.sim.run(lambda: len(rooms) == 2)
        self.assertEqual((rooms, engine.sim.now), (["room", "room"], 0))
        self.assertEqual(scenarios.put(costs(), 0)["released"], 0)

    def test_odd_hosts(self):
        """Fewer queues than nodes, more reapers than CPUs, memory on a node without."""
        for nodes, reapers, cpus in ((1, 7, 2), (8, 3, 1), (4, 9, 1), (3, 1, 2)):
            regions = [(65 * MIB, "anon4k", [(65 * MIB, node)]) for node in range(nodes)]
            twice = [scenarios.teardown(costs(), regions, reapers, nodes=nodes, cpus=cpus)
                     for _ in range(2)]
            self.assertEqual(twice[0], twice[1])
            self.assertEqual(twice[0]["released"], 65 * MIB * nodes)
            # Who begins a piece before the others shares with none of them for all of it.
            self.assertGreaterEqual(twice[0]["reclaim_ns"], 0.95 * 65 / 1024 * NS_PER_GIB *
                                    nodes / min(reapers, nodes * cpus))

    def test_same_seed_same_result(self):
        def churn(seed):
            return scenarios.churn(costs(), 8 * GIB, 64 * MIB, 0.5, 2, seed, nodes=2, cpus=2)

        self.assertEqual(churn(7), churn(7))
        self.assertNotEqual(churn(7), churn(8))

    def test_kernels_differ_by_locks_and_tables(self):
        shells, locks = {}, {}
        for kernel in ((6, 13), (6, 14), (6, 17)):
            used = on_kernel(costs(), kernel)
            locks[kernel] = used.zap_holds_mmap_lock
            shells[kernel] = used.kind("anon4k").shell_ns_per_gib
            self.assertEqual(used.kind("thp").shell_ns_per_gib, shells[(6, 14)] if
                             kernel != (6, 13) else shells[kernel] * 10 / 513)
        self.assertEqual(list(locks.values()), [True, True, False])
        self.assertAlmostEqual(shells[(6, 13)], 513 * NS_PER_GIB / (GIB // 4096))
        self.assertEqual(shells[(6, 14)], shells[(6, 17)])
        self.assertEqual(on_kernel(costs(), (6, 14), "aarch64").kind("anon4k").shell_ns_per_gib,
                         shells[(6, 13)])

    def test_memory_from_afar_is_in_the_range(self):
        used = costs()
        host = hosts.Host("test", "", 8 * GIB, 8, 64)
        used.remote = 1.5
        times = {"linear": 1.2, "measured": 1.5, "published": 2.2}
        for name, (model, scaling) in hosts.models(used).items():
            found = hosts.teardown(model, scaling, host, "anon4k", 1)
            self.assertAlmostEqual(found["reclaim_ns"] / (8 * NS_PER_GIB),
                                   1 + (times[name] - 1) * 7 / 8, delta=0.15)
            mixed = hosts.teardown(model, scaling, host, "anon4k", 1, "interleaved")
            self.assertAlmostEqual(mixed["reclaim_ns"] / found["reclaim_ns"], 1, delta=0.05)
        said = next(hosts._callers(used, hosts.models(used), host, "anon4k"))
        self.assertAlmostEqual(said["munmap_far_s"] / said["munmap_s"], 1 + 1.2 * 7 / 8)

    def test_a_budget_is_enough_only_below_what_is_reclaimed(self):
        host = hosts.Host("test", "", 8 * GIB, 2, 4)
        for rate, is_enough in ((18, True), (19.5, False), (30, False)):
            peak = hosts.budget(costs(), Scaling("linear"), host, rate * GIB, 2, 20 * GIB)
            self.assertEqual(peak is not None, is_enough)

    def test_an_exit_has_threads(self):
        used = costs(exit_wait_ns=0)
        alone, crowd = (scenarios.exit_ns(used, "anon4k", 8 * GIB, cpus) for cpus in (1, 99))
        self.assertAlmostEqual(alone / crowd, scenarios.EXIT_THREADS)
        self.assertAlmostEqual(crowd, NS_PER_GIB + 32 * used.step_ns)
        self.assertEqual(scenarios.exit_ns(used, "thp", GIB, 99), 4 * MS)

    def test_published_figures_are_fitted(self):
        fitted = fit_published()
        self.assertTrue(0 < fitted.sigma < 1 and 0 < fitted.kappa < 0.1)
        self.assertGreater(fitted.speed(8), fitted.speed(64))

    LINES = """machine cpus=2 kernel=6.18.1
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
        self.assertAlmostEqual(found[0].error, (found[0].simulated / 940 - 1) * 100)
        self.assertIn("error_percent=", found[0].line())
        self.assertIn("| 940 ms | 9% |", "\n".join(tables.checks(found)))
        # Two runs; and one figure only, which says nothing of how much it varies.
        self.assertAlmostEqual(found[0].varies, 80 / 940 * 100)
        self.assertIsNone(found[2].varies)

    def test_costs_are_what_the_lines_say(self):
        used = calibrate(results.parse(self.LINES + """
run=1 bench=reclaim subject=bare_1 kind=anon4k size=4294967296 gib_per_s=10
run=1 bench=budget subject=munmap loops=1 kind=anon4k size=67108864 gib_per_s=2
run=1 bench=slices subject=td kind=anon4k size=536870912 target_us=50 fast=0 reclaim_gib_per_s=4
run=1 bench=slices subject=td kind=anon4k size=536870912 target_us=500 fast=0 reclaim_gib_per_s=4.9
run=1 bench=unmap subject=munmap kind=hugetlb size=1073741824 caller_us=512 reclaim_ms=1
run=1 bench=unmap subject=thread kind=hugetlb size=1073741824 caller_us=5 reclaim_ms=1.024
run=1 bench=unmap subject=td_munmap kind=anon4k size=1073741824 caller_us=90 caller_us_min=50
run=1 bench=unmap subject=td_munmap kind=hugetlb size=1073741824 caller_us=999 caller_us_min=562
""".strip().split("\n")))
        small, huge, largest = (used.kind(name) for name in ("anon4k", "hugetlb", "hugetlb1g"))
        self.assertEqual((small.freer_ns_per_gib, small.caller_ns_per_gib), (110 * MS, 100 * MS))
        self.assertAlmostEqual(used.scaling.sigma, 2 * 10 / 15 - 1)
        self.assertEqual(used.fill_ns_per_gib, 400 * MS)
        # A step of 50 us brings 40 us of work, of 500 us 490 us: 4.9 / 4 = 49 / 40.
        self.assertAlmostEqual(used.step_ns, 10 * US)
        self.assertEqual((huge.freer_ns_per_gib, huge.move_ns_per_gib), (1024 * US, 512 * US))
        self.assertEqual((largest.freer_ns_per_gib, largest.move_ns_per_gib), (2 * US, US))
        self.assertEqual(used.put_ns, 8 * US)

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
