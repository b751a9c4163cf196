# SPDX-License-Identifier: MIT
"""Hosts that nobody here has, and what they would see: the simulator at sizes that were
not measured. Everything that this file returns is extrapolated."""
import dataclasses
import math

from core import GIB, MIB, MS, S, TIB, US, Scaling
from costs import (MAPPING_LOCK, PUBLISHED_ALONE_S, PUBLISHED_GIB, REMOTE_LEAST, REMOTE_MOST,
                   TABLES_GO, fit_published, on_kernel)
from memory import ZAP_MAX
import scenarios

SLICES = 240  # that a run is cut into at least, and so many for each reaper:
SLICES_EACH = 10
STEPS = 4000  # but not into more of these: a slice of huge pages has many
TARGET = 500 * US
ARENA_GRAIN = 48
SEED = 1
STALL_SIZE = 2 * GIB  # a node
ARENAS = 200  # a churn is this many, of 1 GiB
FLUSH_NS = 20 * US  # telling hundreds of CPUs to flush, a step: assumed


@dataclasses.dataclass
class Host:
    name: str
    title: str
    size: int
    nodes: int
    cores: int

    @property
    def cpus(self):
        return self.cores // self.nodes


HOSTS = (Host("h1t", "1 TiB, 8 nodes, 256 cores", TIB, 8, 256),
         Host("h12t", "12 TiB, 16 nodes, 896 cores", 12 * TIB, 16, 896))
KINDS = ("anon4k", "thp", "hugetlb", "hugetlb1g")


def models(costs):
    """(costs, scaling): from the best to the worst that there is reason to think of."""
    near = dataclasses.replace(costs, remote=REMOTE_LEAST)
    flushes = dataclasses.replace(costs, step_ns=costs.step_ns + FLUSH_NS)
    far_off = dataclasses.replace(flushes, remote=REMOTE_MOST)
    return {"linear": (near, Scaling("linear")),
            "measured": (flushes, costs.scaling),
            "published": (far_off, fit_published())}


def crowds(host, scaling):
    """How many reapers are tried: (words, count)."""
    useful = scaling.useful(host.cpus)
    return (("1", 1), ("1 a node", host.nodes), ("4 a node", 4 * host.nodes),
            ("most", host.nodes * useful))


def grain(kind, size, reapers):
    """How many slices are simulated as one, so that a run takes a fraction of a second.
    They are alike: all costs of a slice are taken so many times."""
    slice_bytes = max(kind.page, TARGET * GIB / kind.freer_ns_per_gib)
    step = max(kind.page, min(ZAP_MAX, slice_bytes))
    return max(1, math.ceil(size / slice_bytes / max(SLICES, SLICES_EACH * reapers)),
               math.ceil(size / step / STEPS))


def teardown(costs, scaling, host, kind, reapers, layout="node", **options):
    """The whole of the host's memory is put. layout: a region a node; one region, node
    after node ("over"); one that is interleaved."""
    each = host.size // host.nodes
    if layout == "node":
        regions = [(each, kind, [(each, node)]) for node in range(host.nodes)]
    elif layout == "over":
        regions = [(host.size, kind, [(each, node) for node in range(host.nodes)])]
    else:
        regions = [(host.size, kind, None)]
    options.setdefault("grain", grain(costs.kind(kind), host.size, reapers))
    return scenarios.teardown(costs, regions, reapers, nodes=host.nodes, cpus=host.cpus,
                              scaling=scaling, **options)


def far(costs, host):
    """How much longer all takes for who is on one node: the most of it is on others."""
    return 1 + (costs.remote - 1) * (1 - 1 / host.nodes)


def stall(costs, scaling, host, kind, reapers, kernel):
    """Others' wait for the mmap lock, at 2 GiB a node: it is a matter of steps, of which
    there are only more where there is more memory. But for those of shells, which grow up
    to 16 GiB: the worst is with shells as large as the host has them."""
    costs = on_kernel(costs, kernel)
    little = dataclasses.replace(host, size=host.nodes * STALL_SIZE)
    found = teardown(costs, scaling, little, kind, reapers, stalls=True, grain=1)
    shells = teardown(costs, scaling, host, kind, reapers, stalls=True, zapped=True, grain=1)
    return dict(found, worst_ns=max(found["worst_ns"], shells["worst_ns"]))


def budget(costs, scaling, host, rate, reapers, fastest, arena=GIB):
    """The most that is pending at that rate; None: it has no bound."""
    if rate >= fastest * 0.95:
        return None
    return scenarios.churn(costs, rate, arena, ARENAS * arena / rate, reapers, SEED,
                           nodes=host.nodes, cpus=host.cpus, scaling=scaling,
                           grain=ARENA_GRAIN)


def published_s(costs):
    """The published machine's free() of 320 GiB, and what munmap's cost here says."""
    here = scenarios.munmap_ns(costs, "anon4k", PUBLISHED_GIB * GIB) / S
    return PUBLISHED_ALONE_S, here


def extrapolate(costs):
    """Yields dicts: what bench=sim host= lines say."""
    all_models = models(costs)
    for host in HOSTS:
        for kind in KINDS:
            if kind not in costs.kinds:
                continue
            yield from _reclaims(costs, all_models, host, kind)
            yield from _callers(costs, all_models, host, kind)
        for layout in ("over", "interleaved"):
            for name, (used, scaling) in all_models.items():
                result = teardown(used, scaling, host, "anon4k", host.nodes, layout)
                yield _reclaim(host, "anon4k", name, "1 a node", host.nodes, layout, result)
        if host is HOSTS[0]:
            yield from _stalls(all_models, host)
        yield from _budgets(all_models, host)


def _reclaim(host, kind, model, words, reapers, layout, result):
    return {"host": host.name, "kind": kind, "what": "reclaim", "model": model,
            "crowd": words.replace(" ", "_"), "reapers": reapers, "layout": layout,
            "reclaim_s": result["reclaim_ns"] / S, "gib_per_s": result["gib_per_s"]}


def _reclaims(costs, all_models, host, kind):
    for name, (used, scaling) in all_models.items():
        done = {}
        for words, reapers in crowds(host, scaling):
            if reapers not in done:
                done[reapers] = teardown(used, scaling, host, kind, reapers)
            yield _reclaim(host, kind, name, words, reapers, "node", done[reapers])


def _callers(costs, all_models, host, kind):
    worst, worst_scaling = all_models["published"]
    times = far(worst, host)
    munmap = scenarios.munmap_ns(costs, kind, host.size)
    exits = [scenarios.exit_ns(costs, kind, host.size, host.cores, scaling)
             for scaling in (Scaling("linear"), worst_scaling)]
    yield {"host": host.name, "kind": kind, "what": "caller", "munmap_s": munmap / S,
           "munmap_far_s": munmap * times / S, "put_us": costs.put_ns / US,
           "td_munmap_us": costs.detach(host.size, kind) / US,
           "exit_wait_ms": costs.exit_wait_ns / MS, "exit_s": exits[0] / S,
           "exit_far_s": exits[1] * times / S}


def _stalls(all_models, host):
    for words, kernel in (("from_6.17_on", MAPPING_LOCK), ("6.14_to_6.16", TABLES_GO),
                          ("up_to_6.13", (0, 0))):
        used, scaling = all_models["published"]
        result = stall(used, scaling, host, "anon4k", host.nodes, kernel)
        yield {"host": host.name, "kind": "anon4k", "what": "stall", "model": "published",
               "kernel": words, "reapers": host.nodes,
               "p50_us": result["p50_ns"] / US, "p99_us": result["p99_ns"] / US,
               "worst_us": result["worst_ns"] / US}


def _budgets(all_models, host):
    for name in ("linear", "published"):
        used, scaling = all_models[name]
        for words, reapers in crowds(host, scaling)[1:3]:
            fastest = teardown(used, scaling, host, "anon4k", reapers)["gib_per_s"]
            for rate in (10, 50, 100):
                peak = budget(used, scaling, host, rate * GIB, reapers, fastest * GIB)
                yield {"host": host.name, "kind": "anon4k", "what": "budget", "model": name,
                       "crowd": words.replace(" ", "_"), "reapers": reapers,
                       "rate_gib_per_s": rate, "fastest_gib_per_s": fastest,
                       "pending_gib": peak / GIB if peak else math.inf}
