# SPDX-License-Identifier: MIT
"""Whose turn it is: libteardown/turns.c, rule by rule (U1 to U4)."""
from core import KIB, MIB

SMALL = 2 * MIB
LOOK_AT = 256
FIRST_SPEED = 16.0  # bytes a nanosecond
LEARN_BYTES = 256 * MIB
SPEED_MAX = 1024.0
LEAST_CHARGE = 64 * KIB

NONE, FIRST, CHARGED = range(3)  # what a work has had of slices


class Turns:
    def __init__(self):
        self.large, self.small = [], []
        self.clock = 0.0
        self.weights = 0
        self.small_went_last = False
        self.usual_speed = FIRST_SPEED

    def __bool__(self):
        return bool(self.large or self.small)

    def add(self, work):
        work.share = max(work.share, self.clock)
        work.is_small = work.had_slice == NONE and work.cost <= SMALL
        (self.small if work.is_small else self.large).append(work)
        work.listed = True
        self.weights += work.weight

    def remove(self, work):
        (self.small if work.is_small else self.large).remove(work)
        work.listed = False
        self.weights -= work.weight

    def took(self, work):
        self.remove(work)
        if work.had_slice == NONE:
            work.had_slice = FIRST

    def _least(self, works, may_go):
        best = waits = None
        for work in works[:LOOK_AT]:
            if may_go and not may_go(work):
                continue
            if work.sit_out > 0:
                work.sit_out -= 1
                waits = waits or work
            elif best is None or work.share < best.share:
                best = work
            if best and best.share <= self.clock:
                break
        return best or waits

    def next(self, may_go=None):
        work = None
        if self.small and not self.small_went_last:
            work = self._least(self.small, may_go)
        work = work or self._least(self.large, may_go) or self._least(self.small, may_go)
        if not work:
            return None
        self.small_went_last = work.is_small and bool(self.large)
        self.clock = work.share = max(self.clock, work.share)
        self.took(work)
        return work

    def charge(self, work, released, took_ns, overstay):
        charge = max(min(released, took_ns * SPEED_MAX), took_ns * self.usual_speed / 4,
                     LEAST_CHARGE)
        work.share += charge * 100 / work.weight
        if work.had_slice == FIRST:
            others = self.weights - (work.weight if work.listed else 0)
            work.had_slice = CHARGED
            self.clock += charge * 100 / (others + work.weight)
        work.sit_out = overstay
        if took_ns > 0:
            speed = min(released / took_ns, SPEED_MAX)
            self.usual_speed += (speed - self.usual_speed) * min(released / LEARN_BYTES, 1)

    def bytes(self, most):
        return sum(work.left for work in self.large[:most])

    def has(self, may_go):
        return any(map(may_go, self.small[:LOOK_AT])) or any(map(may_go, self.large[:LOOK_AT]))
