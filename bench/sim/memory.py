# SPDX-License-Identifier: MIT
"""Extents, how they are released in steps, and the works that do it: libteardown/doom.c,
extent.c, pace.h, space_nodes.c."""
from core import GIB, MIB, MS
from turns import NONE

MORE, WAIT, DONE = "more", "wait", "done"

PMD = 2 * MIB
ZAP_FIRST, ZAP_MAX = 4 * MIB, 64 * MIB
SHELL_FIRST, SHELL_MAX = GIB, 16 * GIB
USUAL_TARGET = 500_000
MANY = 1 << 30


class Pace:
    """pace.h: at most doubles or halves from step to step."""

    def __init__(self, first, least, most, grain):
        self.least, self.most = least * grain, max(least, most) * grain
        self.step = max(least, first) * grain
        self.target = USUAL_TARGET * grain

    def _bounded(self, step):
        return max(self.least, int(min(step, self.most)) // self.least * self.least)

    def aim(self, target):
        if target != self.target:
            self.step = self._bounded(self.step * target / self.target)
            self.target = target

    def learn(self, done, took, target):
        if done < self.step and took < target:
            return
        if took <= target / 2:
            step = done * 2
        elif took / 2 >= target:
            step = done / 2
        else:
            step = done * target / took
        self.step = self._bounded(step)


class Extent:
    """nodes: None, interleaved or unknown; or a list of (bytes, node) from its start."""

    def __init__(self, size, kind, nodes=None, grain=1):
        self.size, self.kind, self.nodes = size, kind, nodes
        least = max(PMD, kind.page)
        self.zap = Pace(ZAP_FIRST, least, ZAP_MAX, grain)
        # Growing to its size takes a few steps: not a few times the grain.
        self.shell = Pace(SHELL_FIRST if grain == 1 else SHELL_MAX, least, SHELL_MAX, grain)
        self.claimed = self.zapped = self.unmapped = self.accounted = 0
        self.begun = self.unmapping = self.whole = False

    def node_at(self, offset):
        for size, node in self.nodes or ():
            if offset < size:
                return node
            offset -= size
        return None

    def home(self):
        """The node where three quarters of it are, or None."""
        by_node = {}
        for size, node in self.nodes or ():
            by_node[node] = by_node.get(node, 0) + size
        for node, size in by_node.items():
            if size * 4 >= self.size * 3:
                return node
        return None

    def account(self, released):
        part = min(released, self.size - self.accounted)
        self.accounted += part
        return part


class Work:
    """What is queued. Its slice is a generator that returns (result, released, parallel,
    home)."""

    def __init__(self, engine, cost, parallel=1, weight=100):
        self.engine, self.cost, self.left = engine, cost, cost
        self.limit = self.parallel = parallel
        self.weight = weight
        self.share, self.had_slice, self.sit_out = 0.0, NONE, 0
        self.is_small = self.listed = self.exhausted = self.leaves = self.at_home = False
        self.running, self.serial, self.slices = 0, 0, 0
        self.queue = self.home = None
        self.exempt = False  # takes no room in the budget
        self.done_at = None
        self.on_done = []

    def slice(self, node, target):
        raise NotImplementedError


class Plain(Work):
    """A host's own work, done in one slice."""

    def __init__(self, engine, cost, took_ns):
        super().__init__(engine, cost)
        self.took_ns = took_ns

    def slice(self, node, target):
        yield from self.engine.machine.compute(node, self.took_ns)
        return DONE, self.cost, 1, None


class Doom(Work):
    """Extents that reapers release together."""

    def __init__(self, engine, extents, weight=100):
        super().__init__(engine, sum(extent.size for extent in extents), MANY, weight)
        self.live = list(extents)
        self.busy = 0

    def next_node(self):
        first = self.live[0] if self.live else None
        if first and first.claimed < first.size:
            return first.node_at(first.claimed)
        return None

    def elsewhere(self, node, stolen):
        """The node whose queue the next step belongs to, if that is another."""
        if stolen or len(self.engine.queues) == 1:
            return None, False
        at = self.next_node()
        return at, at is not None and self.engine.queue_of(at).node != node

    def _claim_from(self, extent, target):
        if not extent.begun:
            hint = self.engine.hints.get(extent.kind.name)
            if hint and hint < extent.zap.step:
                extent.zap.step = extent.zap._bounded(hint)
            extent.begun = True
        extent.zap.aim(target)
        extent.shell.aim(target)
        if extent.claimed == 0 and extent.size <= extent.zap.step:
            extent.whole = True
            extent.claimed = extent.zapped = extent.size
        if extent.claimed < extent.size:
            step = min(extent.zap.step, extent.size - extent.claimed)
            start, extent.claimed = extent.claimed, extent.claimed + step
            return "zap", start, step
        if extent.zapped < extent.size or extent.unmapping:
            return None
        extent.unmapping = True
        step = extent.zap.step if extent.whole else extent.shell.step
        return "unmap", extent.unmapped, min(step, extent.size - extent.unmapped)

    def _claim(self, target):
        for extent in self.live:
            job = self._claim_from(extent, target)
            if job:
                return extent, job
        return None, None

    def _parallel(self):
        if not self.live or (len(self.live) == 1 and
                             self.live[0].claimed == self.live[0].size):
            return 1
        return MANY

    def _do(self, extent, job, node, target):
        """Generator: a step. Returns what it released."""
        engine, (what, start, size) = self.engine, job
        costs, kind = engine.costs, extent.kind
        zaps = what == "zap" or extent.whole
        alone = 0
        if zaps:
            alone += size * kind.freer_ns_per_gib / GIB
        if what == "unmap":
            alone += size * kind.shell_ns_per_gib / GIB
        began = engine.sim.now
        memory = extent.node_at(start) if extent.nodes else (
            None if len(engine.machine.nodes) > 1 else 0)
        work = engine.machine.work(node, memory, alone, engine.grain * costs.step_ns)
        if what == "unmap" or costs.zap_holds_mmap_lock:
            work = engine.machine.locked(what == "unmap", work)
        yield from work
        took = engine.sim.now - began
        if what == "zap":
            extent.zapped += size
            extent.zap.learn(size, took, target)
            engine.hints[extent.kind.name] = (
                extent.zap.step * USUAL_TARGET * engine.grain / target)
            return extent.account(size)
        extent.unmapping = False
        (extent.zap if extent.whole else extent.shell).learn(size, took, target)
        extent.unmapped += size
        released = extent.account(size) if extent.whole else 0
        if extent.unmapped >= extent.size:
            released += extent.account(extent.size)
            self.live.remove(extent)
        return released

    def slice(self, node, target, stolen=False):
        at, is_elsewhere = self.elsewhere(node, stolen)
        if is_elsewhere:
            yield self.engine.costs.look_ns
            return MORE, 0, self.limit, at
        return (yield from self._release(node, target, at))

    def _release(self, node, target, home):
        sim, released = self.engine.sim, 0
        ends = sim.now + target
        while True:
            extent, job = self._claim(target)
            parallel = self._parallel()
            if not job:
                yield self.engine.costs.look_ns
                return (WAIT if self.busy else DONE), released, parallel, home
            self.busy += 1
            released += yield from self._do(extent, job, node, target)
            self.busy -= 1
            if sim.now >= ends:
                return MORE, released, parallel, home


class Space(Doom):
    """A space's own work: on several nodes it first hands each its part."""

    def __init__(self, engine, extents, weight=100):
        super().__init__(engine, extents, weight)
        self.sorted = len(engine.queues) == 1 or len(extents) == 1
        self.parts = 0
        self.limit = self.parallel = MANY if self.sorted else 1

    def _sort(self, node):
        """Generator: the sorting slice."""
        engine, by_node = self.engine, {}
        yield len(self.live) * engine.costs.look_ns
        for extent in self.live:
            by_node.setdefault(extent.home(), []).append(extent)
        self.live = by_node.pop(None, [])
        by_queue = {}
        for at, extents in sorted(by_node.items()):
            by_queue.setdefault(engine.queue_of(at).node, []).extend(extents)
        for at, extents in sorted(by_queue.items()):
            part = Doom(engine, extents, self.weight)
            part.exempt = self.exempt
            part.on_done.append(lambda _: self._part_done())
            self.left -= part.cost
            self.parts += 1
            engine.begin(part)
            engine.queue_of(at).push(part)
        self.sorted = True

    def _part_done(self):
        self.parts -= 1
        self._finish()

    def _finish(self):
        if self.parts == 0 and self.done_at is None and self.exhausted:
            self.done_at = self.engine.sim.now
            for call in self.on_done:
                call(self)

    def finished(self):
        self._finish()

    def slice(self, node, target, stolen=False):
        if not self.sorted:
            yield from self._sort(node)
            return MORE, 0, MANY, None
        return (yield from super().slice(node, target, stolen))


LATE = 100 * MS
