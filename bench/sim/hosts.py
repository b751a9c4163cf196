# SPDX-License-Identifier: MIT
"""Hosts that nobody here has, and what they would see: the simulator at sizes that were
not measured. Everything that this file returns is extrapolated."""
import dataclasses
import math

from core import GIB, MIB, MS, S, TIB, US, Scaling
from costs import PUBLISHED_ALONE_S, PUBLISHED_GIB, fit_published
from memory import ZAP_MAX
import scenarios

SLICES = 400  # that a run is cut into at least, and so many for each reaper:
SLICES_EACH = 4
TARGET = 500 * US
ARENA_GRAIN = 48
SEED = 1
STALL_SIZE = 2 * GIB  # a node
ARENAS = 40  # a churn is this many, of 1 GiB
EXIT_THREADS = 8  # exit_internal.h: TDI_EXIT_THREADS_MAX
EXIT_PIECE = 32 * MIB
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
    flushes = dataclasses.replace(costs, step_ns=costs.step_ns + FLUSH_NS)
    return {"linear": (costs, Scaling("linear")),
            "measured": (flushes, costs.scaling),
            "published": (flushes, fit_published())}


def crowds(host, scaling):
    """How many reapers are tried: (words, count)."""
    useful = scaling.useful(host.cpus)
    return (("1", 1), ("1 a node", host.nodes), ("4 a node", 4 * host.nodes),
            ("most", host.nodes * useful))


def grain(kind, size, reapers):
    """How many slices are simulated as one, so that a run takes a fraction of a second.
    They are alike: all costs of a slice are taken so many times."""
    step = max(kind.page, min(ZAP_MAX, TARGET * GIB / kind.freer_ns_per_gib))
    return max(1, math.ceil(size / step / max(SLICES, SLICES_EACH * reapers)))


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


def munmap_s(costs, host, kind, far):
    """munmap by one thread. far: what is on other nodes takes longer."""
    remote = 1 + (costs.remote - 1) * (1 - 1 / host.nodes) if far else 1
    return scenarios.munmap_ns(costs, kind, host.size) * remote / S


def exit_s(costs, scaling, host, kind, far):
    """The helper's threads, which take pieces as they come, from wherever they are: until
    the memory is back."""
    remote = 1 + (costs.remote - 1) * (1 - 1 / host.nodes) if far else 1
    slow = scaling.slowdown(max(1.0, EXIT_THREADS / host.nodes))
    work = costs.kind(kind)
    piece = EXIT_PIECE * work.freer_ns_per_gib / GIB + costs.step_ns
    if EXIT_PIECE * work.freer_ns_per_gib / GIB < 500 * US:  # it then leaves it to its exit
        return munmap_s(costs, host, kind, far)
    return host.size / EXIT_PIECE * piece * remote * slow / EXIT_THREADS / S


def stall(costs, scaling, host, kind, reapers, zap_locks):
    """Others' wait for the mmap lock, at 2 GiB a node: it is a matter of steps, of which
    there are only more where there is more memory."""
    costs = dataclasses.replace(costs, zap_holds_mmap_lock=zap_locks)
    little = dataclasses.replace(host, size=host.nodes * STALL_SIZE)
    return teardown(costs, scaling, little, kind, reapers, stalls=True, grain=1)


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
    _, worst = all_models["published"]
    yield {"host": host.name, "kind": kind, "what": "caller",
           "munmap_s": munmap_s(costs, host, kind, False),
           "munmap_far_s": munmap_s(costs, host, kind, True),
           "put_us": costs.put_ns / US,
           "td_munmap_us": (costs.detach_ns + host.size / GIB * costs.move_ns_per_gib) / US,
           "exit_wait_ms": costs.exit_wait_ns / MS,
           "exit_s": exit_s(costs, Scaling("linear"), host, kind, False),
           "exit_far_s": exit_s(costs, worst, host, kind, True)}


def _stalls(all_models, host):
    for zap_locks in (False, True):
        used, scaling = all_models["published"]
        result = stall(used, scaling, host, "anon4k", host.nodes, zap_locks)
        yield {"host": host.name, "kind": "anon4k", "what": "stall", "model": "published",
               "zap_locks": int(zap_locks), "reapers": host.nodes,
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
