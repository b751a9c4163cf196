# SPDX-License-Identifier: MIT
"""Queues, reapers, budget and rate: libteardown/queue.c, queues.c, reaper.c, budget.c,
rate.c. Not modelled: pauses (LATER), host callbacks, pressure, draining, batches, that who
waits for room loses patience where nothing moves, that somebody who sleeps is asked to watch
a queue whose reapers are all busy, and engines without reapers."""
from core import MIB, MS, US, Machine, Signal, Sim
from memory import DONE, LATE, MANY, MORE
from turns import SMALL, Turns

STEAL_BYTES = 128 * MIB
STEAL_LOOK_AT = 64
HELP_LOOK, HELP_PATIENCE = MS, 20 * MS
WAIT_LOOK = 50 * MS
RATE_BURST = 10 * MS


def has_no_home(work):
    return not work.at_home


def is_free(work):
    return work.left == 0


class Queue:
    """One node's."""

    def __init__(self, engine, node, reapers):
        self.engine, self.node, self.reapers = engine, node, reapers
        self.ready = Turns()
        self.signal = Signal()
        self.asleep = 0  # reapers of it
        self.seen = 0.0
        self.ring = []  # the other queues, from the next one on

    def wake(self, for_all):
        engine = self.engine
        if engine.sim.wake(self.signal, 1, engine.costs.wake_ns) or not for_all:
            return
        for other in self.ring if engine.steals else ():
            if engine.sim.wake(other.signal, 1, engine.costs.wake_ns):
                return

    def push(self, work):
        work.queue = self
        if work.serial == 0:
            self.engine.serials += 1
            work.serial = self.engine.serials
        work.share += self.ready.clock
        self.ready.add(work)
        self.wake(has_no_home(work))

    def has_much(self):
        return self.ready.bytes(STEAL_LOOK_AT) > STEAL_BYTES * max(1, self.reapers)

    def is_deserted(self):
        return self.asleep == 0 and self.engine.sim.now - self.seen > LATE

    def has_for_others(self):
        return self.engine.steals and (self.has_much() or self.ready.has(has_no_home))

    def hand_out(self, work):
        work.running += 1
        if work.running < work.limit:
            self.ready.add(work)
        return work

    def pop(self, may_go=None):
        work = self.ready.next(may_go)
        return self.hand_out(work) if work else None

    def pop_that(self, work):
        self.ready.took(work)
        return self.hand_out(work)

    def steal(self, limited):
        """A work of another queue, and whether there is more for others; or when to look
        again, if there is something that is left to its own reapers."""
        again = None
        for other in self.ring:
            if not other.ready:
                continue
            may_go = is_free if limited else (
                None if other.has_much() or other.is_deserted() else has_no_home)
            work = other.pop(may_go)
            if work:
                return work, None, other.has_for_others()
            again = LATE
        return None, again, False

    def ask_someone(self):
        """Who sleeps, here or else on the next queue where one does, is to look."""
        for queue in [self] + self.ring:
            if self.engine.sim.wake(queue.signal, 1, self.engine.costs.wake_ns):
                return

    def take(self):
        """Generator: a reaper's wait for its next work."""
        engine = self.engine
        while True:
            self.seen = engine.sim.now
            limited = engine.rate_due()
            work = self.pop(is_free if limited else None)
            if work:
                break
            again = None
            if engine.steals:
                work, again, for_others = self.steal(limited > 0)
                if work:
                    if for_others:
                        self.ask_someone()
                    break
            if limited:
                again = min(again or limited, limited)
            self.asleep += 1
            yield self.signal, again
            self.asleep -= 1
        if self.ready:
            self.wake(self.has_for_others())
        return work

    def give(self, work, result, released, took, parallel, home):
        """True: the work is finished."""
        target = self.engine.target
        work.running -= 1
        self.ready.charge(work, released, took, max(0, int(took / target) - 1))
        work.limit = max(1, parallel)
        if home is not None:
            work.at_home, work.home = True, home
            work.leaves = self.engine.queue_of(home) is not self
        if result == DONE:
            work.exhausted = True
        if work.listed and (work.exhausted or work.leaves or result != MORE or
                            work.running >= work.limit):
            self.ready.remove(work)
        if work.exhausted:
            return work.running == 0
        if not work.listed:
            self._list_again(work, result)
        return False

    def _list_again(self, work, result):
        if work.running == 0 and work.leaves:
            work.leaves = False
            work.share -= min(self.ready.clock, work.share)
            self.engine.queue_of(work.home).push(work)
        elif work.running == 0 or (result == MORE and work.running < work.limit and
                                   not work.leaves):
            self.ready.add(work)


class Engine:
    """reapers go to the nodes in turn, as reaper i of an engine goes to queue i % nr."""

    def __init__(self, costs, reapers, nodes=1, cpus=2, target=500 * US, scaling=None,
                 budget=None, policy="help", rate=0, steals=True, grain=1):
        self.sim = Sim()
        self.costs, self.grain = costs, grain
        self.machine = Machine(self.sim, nodes, cpus, scaling or costs.scaling, costs.remote)
        self.target = target * grain
        self.queues, self.steals = [], False
        nr = min(nodes, reapers) if reapers else 1
        per_node = [len(range(i, reapers, nr)) for i in range(nr)]
        self.queues = [Queue(self, i, per_node[i]) for i in range(nr)]
        for i, queue in enumerate(self.queues):
            queue.ring = self.queues[i + 1:] + self.queues[:i]
        self.steals = steals and nr > 1
        self.hints, self.serials = {}, 0
        self.pending = self.peak = self.reclaimed = self.exempt = 0
        self.limit, self.policy = budget, policy
        self.first_in_line = None
        self.room = Signal()
        self.rate, self.paid_until = rate, 0.0
        self.counts = {"helped": 0, "waited": 0, "refused": 0, "in_place": 0, "stolen": 0}
        self.unfinished = 0
        for i in range(reapers):
            self.sim.start(self._reap(self.queues[i % nr]), f"reaper {i}")
        self.sim.run()  # until they sleep

    # ---- reapers ----

    def _reap(self, queue):
        while True:
            work = yield from queue.take()
            yield from self.run_slice(work, queue)

    def run_slice(self, work, queue, node=None):
        """Generator. queue: of the reaper that runs it; None: whoever helps."""
        origin, began = work.queue, self.sim.now
        at = queue.node if queue else (node or 0)
        stolen = origin.node != at and work.at_home
        result = yield from work.slice(at, self.target, stolen) if hasattr(
            work, "live") else work.slice(at, self.target)
        result, released, parallel, home = result
        work.slices += 1
        self.counts["stolen"] += origin is not queue and queue is not None
        self.settle(work, released)
        if queue and self.rate and released:
            paid = max(self.paid_until, self.sim.now - RATE_BURST)
            self.paid_until = paid + released * 1e9 / self.rate
        if origin.give(work, result, released, self.sim.now - began, parallel, home):
            self.finish(work)
        elif not queue or origin is not queue:
            origin.wake(queue is None)

    def rate_due(self):
        return max(0.0, self.paid_until - self.sim.now) if self.rate else 0.0

    # ---- works ----

    def queue_of(self, node):
        """Fewer queues than nodes: in the library the nearest one's."""
        return self.queues[node % len(self.queues)]

    def begin(self, work):
        self.unfinished += 1

    def submit(self, work, node=0):
        """Hands a work over that has been given room."""
        self.begin(work)
        self.queue_of(node).push(work)

    def settle(self, work, released):
        part = min(released, work.left)
        work.left -= part
        self.reclaimed += released
        if not work.exempt:
            self.give_room(part)

    def finish(self, work):
        part, work.left = work.left, 0
        if not work.exempt:
            self.give_room(part)
        self.unfinished -= 1
        if hasattr(work, "finished"):
            work.finished()
            return
        work.done_at = self.sim.now
        for call in work.on_done:
            call(work)

    # ---- budget ----

    def give_room(self, size):
        self.pending -= size
        if size and len(self.room):
            self.sim.wake(self.room, MANY, self.costs.wake_ns)

    def _take_room(self, size, ahead):
        alone = size == 0 or (self.pending == 0 and not ahead)
        if self.limit is not None and not alone and self.pending + size + ahead > self.limit:
            return False
        self.pending += size
        self.peak = max(self.peak, self.pending)
        return True

    def admit(self, size, caller, node=0):
        """Generator, in the caller: room is taken ("room"), there is none ("again"), or
        he is to free his own ("in_place")."""
        ahead = self.first_in_line[1] if self.first_in_line else 0
        if self._take_room(size, ahead):
            return "room"
        if self.policy == "again":
            self.counts["refused"] += 1
            return "again"
        if not self.queues[0].reapers or (self.policy == "help" and size <= SMALL):
            self.counts["in_place"] += 1
            return "in_place"
        helped, moved = False, self.sim.now
        answer = None
        while not answer:
            if not self.first_in_line:
                self.first_in_line = (caller, size)
            mine = self.first_in_line[0] is caller
            if self._take_room(size, 0 if mine else self.first_in_line[1]):
                answer = "room"
                continue
            work = self._oldest() if self.policy == "help" else None
            if work:
                yield from self.run_slice(work, None, node)
                helped, moved = True, self.sim.now
            elif self.policy == "help" and self.sim.now - moved >= HELP_PATIENCE:
                answer = "in_place"
            else:
                yield self.room, HELP_LOOK if self.policy == "help" else WAIT_LOOK
        if self.first_in_line[0] is caller:
            self.first_in_line = None
            self.sim.wake(self.room, MANY, self.costs.wake_ns)
        self.counts["helped" if helped else "waited"] += 1
        self.counts["in_place"] += answer == "in_place"
        return answer

    def _oldest(self):
        for queue in self.queues:
            works = [work for work in queue.ready.large + queue.ready.small if work.left]
            if works:
                return queue.pop_that(min(works, key=lambda work: work.serial))
        return None

    def run_here(self, work, node=0):
        """Generator: a caller frees his own, in slices."""
        work.exempt = True
        while True:
            result, released, _, _ = yield from work.slice(node, self.target, True)
            self.reclaimed += released
            if result == DONE:
                work.done_at = self.sim.now
                return

    def run(self):
        """Until all works are done."""
        self.sim.run(lambda: self.unfinished == 0 and self._callers_done())

    def _callers_done(self):
        return all(thread.done for thread in self.sim.threads
                   if not thread.name.startswith("reaper"))
