# SPDX-License-Identifier: MIT
"""What td-bench does, done by the simulator: each returns what td-bench prints."""
import random

from core import GIB, MIB, MS, S, US, stall_percentiles
from engine import Engine
from memory import Doom, Extent, Plain, Space

FILL_STEP = 4 * MIB
LOOP_NS = 600 * MS  # how long td-bench's loops go on
EXIT_THREADS = 8  # exit_internal.h: TDI_EXIT_THREADS_MAX
EXIT_PIECE = 32 * MIB
EXIT_SLOW = 500 * US  # a piece that takes less is left to the helper's own exit


def munmap_ns(costs, kind, size):
    """munmap in the caller, who touched it."""
    return size * costs.kind(kind).caller_ns_per_gib / GIB


def exit_ns(costs, kind, size, cpus, scaling=None):
    """Until the memory of a process with the library's helper is back. Its threads take
    pieces by address, so where memory lies node after node all are at one node's."""
    piece = EXIT_PIECE * costs.kind(kind).freer_ns_per_gib / GIB
    if piece < EXIT_SLOW:
        return munmap_ns(costs, kind, size)
    threads = min(EXIT_THREADS, cpus)
    slow = (scaling or costs.scaling).slowdown(threads)
    return costs.exit_wait_ns + size / EXIT_PIECE * (piece * slow + costs.step_ns) / threads


def teardown(costs, regions, reapers=1, stalls=False, zapped=False, **options):
    """A space of these regions, [(size, kind, nodes)], is put: when its memory is back
    (ns), how fast that was, and what others waited who wanted the mmap lock. zapped: only
    the shells are left of it."""
    engine = Engine(costs, reapers, **options)
    extents = [Extent(size, costs.kind(kind), nodes, engine.grain)
               for size, kind, nodes in regions]
    for extent in extents if zapped else ():
        extent.claimed = extent.zapped = extent.size
    if stalls:
        engine.machine.holds = []
    space = Space(engine, extents)
    engine.submit(space)
    engine.run()
    size = sum(extent.size for extent in extents)
    result = {"reclaim_ns": space.done_at, "gib_per_s": size / GIB * S / space.done_at,
              "released": engine.reclaimed, "size": size, "slices": engine.sim.steps,
              "stolen": engine.counts["stolen"]}
    if stalls:
        (result["p50_ns"], result["p99_ns"]), result["worst_ns"] = stall_percentiles(
            engine.machine.holds, 0, space.done_at, (0.5, 0.99))
    return result


def put(costs, size, kind="anon4k", reapers=1, **options):
    return teardown(costs, [(size, kind, None)], reapers, **options)


def small_behind(costs, size, spaces):
    """A page's work behind so many spaces: until it is done, and until all is (ns)."""
    engine = Engine(costs, 1)
    kind = costs.kind("anon4k")
    for _ in range(spaces):
        engine.submit(Space(engine, [Extent(size // spaces, kind)]))
    little = Plain(engine, 4096, costs.step_ns)

    def submits():
        yield costs.put_ns * spaces
        little.began = engine.sim.now
        engine.submit(little)

    engine.sim.start(submits(), "caller")
    engine.run()
    return little.done_at - little.began, engine.sim.now


class Loops:
    """Threads that map, fill and free arenas, as bench/budget.c."""

    def __init__(self, costs, way, loops, size, limit, cpus):
        self.costs, self.way, self.size = costs, way, size
        self.kind = costs.kind("anon4k")
        bounded = way in ("help", "block", "again")
        self.engine = Engine(costs, 1, cpus=cpus, budget=limit if bounded else None,
                             policy={"block": "wait", "again": "again"}.get(way, "help"))
        self.arenas = 0
        for i in range(loops):
            self.engine.sim.start(self._loop(), f"loop {i}")

    def _steps(self, ns_per_gib):
        for at in range(0, self.size, FILL_STEP):
            size = min(FILL_STEP, self.size - at)
            yield from self.engine.machine.work(0, 0, size * ns_per_gib / GIB)

    def _loop(self):
        while self.engine.sim.now < LOOP_NS:
            yield from self._steps(self.costs.fill_ns_per_gib)
            yield from self._free()
            self.arenas += 1

    def _free(self):
        if self.way == "munmap":
            yield from self._steps(self.kind.caller_ns_per_gib)
            return
        engine = self.engine
        answer = yield from engine.admit(self.size, object())
        if answer == "again":
            yield from self._steps(self.kind.caller_ns_per_gib)
            return
        yield from engine.machine.compute(0, self.costs.detach_ns)
        doom = Doom(engine, [Extent(self.size, self.kind)])
        if answer == "in_place":
            yield from engine.run_here(doom)
        else:
            engine.submit(doom)

    def run(self):
        self.engine.run()
        took = self.engine.sim.now
        return {"gib_per_s": self.arenas * self.size / GIB * S / took,
                "peak_pending": self.engine.peak, "counts": self.engine.counts}


def churn(costs, rate, arena, seconds, reapers, seed, **options):
    """Arenas of `arena` bytes freed at `rate` bytes a second, at random moments
    (exponential gaps, from the seed), each on the next node: the most that was ever
    pending with no bound on it."""
    source = random.Random(seed)
    nodes = options.get("nodes", 1)
    engine = Engine(costs, reapers, **options)
    kind = costs.kind("anon4k")

    def frees():
        for i in range(int(seconds * rate / arena)):
            yield source.expovariate(rate / arena) * S
            room = yield from engine.admit(arena, None)
            assert room == "room"
            engine.submit(Space(engine, [Extent(arena, kind, [(arena, i % nodes)],
                                                engine.grain)]), i)

    engine.sim.start(frees(), "caller")
    engine.run()
    return engine.peak
