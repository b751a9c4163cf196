# SPDX-License-Identifier: MIT
"""Events, threads and the machine that they run on.

Time is in nanoseconds, memory in bytes. A thread is a generator: it yields how long it
is busy or asleep, or a Signal that it waits for. Nothing here is random: what happens at
the same time happens in the order in which it was begun.
"""
import heapq

KIB, MIB, GIB, TIB = 1 << 10, 1 << 20, 1 << 30, 1 << 40
US, MS, S = 1_000, 1_000_000, 1_000_000_000


class Signal:
    """What threads sleep on. A wake with nobody asleep is lost, as a futex's is."""

    def __init__(self):
        self.waiting = []

    def __len__(self):
        return len(self.waiting)


class Thread:
    def __init__(self, generator, name):
        self.generator, self.name = generator, name
        self.turn = 0  # of its sleeps: an event for an earlier one is stale
        self.signal = None
        self.done = False


class Sim:
    def __init__(self):
        self.now = 0.0
        self.events = []
        self.serial = 0
        self.threads = []
        self.steps = 0

    def start(self, generator, name="", delay=0):
        thread = Thread(generator, name)
        self.threads.append(thread)
        self._at(self.now + delay, thread, None)
        return thread

    def _at(self, when, thread, value):
        self.serial += 1
        heapq.heappush(self.events, (when, self.serial, thread, thread.turn, value))

    def wake(self, signal, count=1, after=0):
        """Wakes those who have waited longest; returns how many."""
        woken = 0
        while signal.waiting and woken < count:
            thread = signal.waiting.pop(0)
            thread.signal = None
            thread.turn += 1
            self._at(self.now + after, thread, True)
            woken += 1
        return woken

    def run(self, until=None):
        """Until nothing is left to happen, or until() says so after an event."""
        while self.events:
            when, _, thread, turn, value = heapq.heappop(self.events)
            if turn != thread.turn:
                continue
            self.now = when
            self._resume(thread, value)
            if until and until():
                return

    def _resume(self, thread, value):
        self.steps += 1
        if thread.signal:  # it timed out
            thread.signal.waiting.remove(thread)
            thread.signal = None
        try:
            wants = thread.generator.send(value)
        except StopIteration:
            thread.done = True
            return
        thread.turn += 1
        if isinstance(wants, tuple):
            signal, timeout = wants
            thread.signal = signal
            signal.waiting.append(thread)
            if timeout is not None:
                self._at(self.now + timeout, thread, False)
        else:
            self._at(self.now + wants, thread, None)


class Node:
    """A NUMA node: its CPUs, and what goes on there now."""

    def __init__(self, index, cpus):
        self.index, self.cpus = index, cpus
        self.runnable = 0  # threads that want a CPU of it
        self.freeing = 0  # threads that free or fill its memory


class MmapLock:
    """The address space's: in the order in which they come, readers together."""

    def __init__(self, sim):
        self.sim = sim
        self.readers, self.written = 0, False
        self.queue = []

    def take(self, writes):
        """Generator: returns when it is held."""
        if self.queue or self.written or (writes and self.readers):
            signal = Signal()
            self.queue.append((signal, writes))
            yield signal, None
        else:
            self._hold(writes)

    def _hold(self, writes):
        self.written = writes
        self.readers += not writes

    def release(self, writes):
        self.written = False
        self.readers -= not writes
        while self.queue:
            signal, writes = self.queue[0]
            if self.written or (writes and self.readers):
                return
            self.queue.pop(0)
            self._hold(writes)
            self.sim.wake(signal)


class Machine:
    """What a piece of work takes, given who else is at it.

    Three things make it longer than it would be alone, each a factor:
      * CPUs: more threads than the node has share them in equal parts.
      * Its memory: n threads that free memory of one node (zone lock, caches, memory
        bandwidth) each take 1 + sigma (n - 1) + kappa n (n - 1) times as long: the
        Universal Scalability Law. sigma = kappa = 0 is linear scaling.
      * Distance: `remote` times as long for another node's memory.
    They are looked at when a piece begins and hold for all of it: pieces are short.
    """

    def __init__(self, sim, nodes, cpus, scaling, remote):
        self.sim = sim
        self.nodes = [Node(i, cpus) for i in range(nodes)]
        self.scaling, self.remote = scaling, remote
        self.mmap = MmapLock(sim)
        self.holds = None  # a list: (came, let go) of those who held that

    def share(self, thread_node):
        node = self.nodes[thread_node]
        return max(1.0, node.runnable / node.cpus)

    def factor(self, thread_node, memory_node):
        factor = 1.0
        if memory_node is None:  # interleaved: of all nodes in equal parts
            others = sum(at.freeing for at in self.nodes) / len(self.nodes)
            far = 1 + (self.remote - 1) * (1 - 1 / len(self.nodes))
            return factor * far * self.scaling.slowdown(max(1.0, others))
        memory = self.nodes[memory_node]
        at_once = memory.freeing
        if len(self.nodes) == 1:  # others wait for a CPU, and for no lock
            at_once = min(at_once, memory.cpus)
        if thread_node != memory_node:
            factor *= self.remote
        return factor * self.scaling.slowdown(max(1, at_once))

    def work(self, thread_node, memory_node, alone_ns, fixed_ns=0):
        """Generator: runs for what takes alone_ns on that memory where nobody else is,
        and fixed_ns wherever it is."""
        node = self.nodes[thread_node]
        touched = self.nodes if memory_node is None else [self.nodes[memory_node]]
        part = 1 / len(touched)
        node.runnable += 1
        for at in touched:
            at.freeing += part
        yield self.share(thread_node) * (
            alone_ns * self.factor(thread_node, memory_node) + fixed_ns)
        node.runnable -= 1
        for at in touched:
            at.freeing -= part

    def locked(self, writes, work):
        """Generator: the same with the mmap lock held. Who comes to it later waits until
        it has been let go."""
        came = self.sim.now
        yield from self.mmap.take(writes)
        yield from work
        self.mmap.release(writes)
        if self.holds is not None:
            self.holds.append((came, self.sim.now))

    def compute(self, thread_node, alone_ns):
        """Generator: the same for what needs a CPU only."""
        node = self.nodes[thread_node]
        node.runnable += 1
        yield alone_ns * self.share(thread_node)
        node.runnable -= 1


class Scaling:
    """How much longer each of n threads takes on one node's memory."""

    def __init__(self, name, sigma=0.0, kappa=0.0):
        self.name, self.sigma, self.kappa = name, sigma, kappa

    def slowdown(self, threads):
        return max(1.0, 1 + self.sigma * (threads - 1) + self.kappa * threads * (threads - 1))

    def speed(self, threads):
        return threads / self.slowdown(threads)

    def useful(self, cpus, gain=1.1):
        """The threads on one node beyond which twice as many bring less than gain."""
        threads = 1
        while threads * 2 <= cpus and self.speed(threads * 2) >= gain * self.speed(threads):
            threads *= 2
        return threads


def stall_percentiles(holds, began, ended, shares):
    """What somebody waits who comes at a moment between began and ended, each moment as
    likely, and wants the mmap lock for himself: until all who hold it then let go. At the
    given shares (0.99 ...) of the moments, and at the worst."""
    points, first, until = [], began, began  # (from, to, until): who comes waits to until
    for start, stop in sorted(holds):
        start, stop = max(start, began), min(stop, ended)
        if stop > until:
            points.append((first, min(start, until), until))
            first, until = start, stop
    points.append((first, until, until))
    points = [point for point in points if point[1] > point[0]]

    # Waits fall from (until - from) to (until - to) within a piece, uniformly.
    def share_above(wait):
        above = sum(max(0.0, min(to, until - wait) - start) for start, to, until in points)
        return above / (ended - began)

    worst = max((until - start for start, _, until in points), default=0.0)
    waits = []
    for share in shares:
        low, high = 0.0, worst
        for _ in range(50):
            middle = (low + high) / 2
            low, high = (middle, high) if share_above(middle) > 1 - share else (low, middle)
        waits.append(high if share_above(0.0) > 1 - share else 0.0)
    return waits, worst
