# SPDX-License-Identifier: MIT
"""What things cost: measured where a results file has it, else assumed with a reason.

Measured costs come from one size and one thread that frees, and nothing of the library's
own but what its callers pay; what the simulator is checked against is other lines. Which
lines were used is kept in `used`, so that none of them is checked.
"""
from dataclasses import dataclass, field, replace
import re
import statistics

from core import GIB, US, Scaling

USUAL_SIZE = 4 * GIB
PAGES_PER_GIB = GIB // 4096

# Kernels from which on MADV_DONTNEED takes only the mapping's own lock, and from which on
# it gives back the page tables that it has emptied (CONFIG_PT_RECLAIM, of x86-64).
MAPPING_LOCK, TABLES_GO = (6, 17), (6, 14)
# What an unmapping of what was zapped then costs, in pages of 4 KiB a GiB: its tables;
# or one of them, and a look at 512 entries.
TABLES_LEFT, TABLES_GONE = 513, 10
REMOTE_LEAST, REMOTE_MOST = 1.2, 2.2

# Public: parallel freeing of 320 GiB of 4 KiB pages (no THP) by so many workers, seconds,
# on 4 nodes and 72 cores, Linux 4.10, filled and so freed node after node.
# https://lkml.iu.edu/hypermail/linux/kernel/1702.3/00244.html (Aaron Lu, 24 Feb 2017)
PUBLISHED_GIB, PUBLISHED_ALONE_S = 320, 10.8
PUBLISHED = {1: 8.9, 2: 5.65, 4: 4.84, 8: 4.77, 16: 4.85, 32: 6.21}


class Missing(Exception):
    """A results file lacks what cannot be assumed."""


@dataclass
class Kind:
    name: str
    page: int
    freer_ns_per_gib: float  # by a thread that woke up for it
    caller_ns_per_gib: float  # munmap by who mapped it
    shell_ns_per_gib: float  # what is left of page tables
    move_ns_per_gib: float = 0  # more than other kinds, by mremap


@dataclass
class Costs:
    kinds: dict = field(default_factory=dict)
    scaling: Scaling = None  # of threads on one node, as measured
    step_ns: float = 5 * US
    look_ns: float = 3 * US
    wake_ns: float = 50 * US
    put_ns: float = 10 * US
    detach_ns: float = 150 * US
    move_ns_per_gib: float = 100
    fill_ns_per_gib: float = 0
    exit_wait_ns: float = 1_000_000
    remote: float = 1.5
    zap_holds_mmap_lock: bool = False
    sources: list = field(default_factory=list)  # (parameter, value, source)
    used: set = field(default_factory=set)

    def detach(self, size, name):
        """What td_munmap holds its caller."""
        each = self.move_ns_per_gib + self.kind(name).move_ns_per_gib
        return self.detach_ns + size / GIB * each

    def kind(self, name):
        if name not in self.kinds:
            raise Missing(f"nothing was measured of {name}")
        return self.kinds[name]


def key_of(line):
    return tuple(sorted((name, value) for name, value in line.items()
                        if name in ("bench", "subject", "kind", "size", "target_us", "fast",
                                    "loops", "threads", "end")))


class Lines:
    """What a results file says, of which notes are taken: what is used is not checked."""

    def __init__(self, results):
        self.results = results

    def find(self, bench, **wanted):
        return self.results.pick(bench, **wanted)

    def median(self, lines, value):
        numbers = [float(line[value]) for line in lines if value in line]
        return statistics.median(numbers) if numbers else None

    def use(self, costs, value, bench, **wanted):
        """The median over the runs; None: there is none."""
        found = self.find(bench, **wanted)
        costs.used.update(key_of(line) for line in found if value in line)
        return self.median(found, value)

    def nearest(self, costs, value, bench, **wanted):
        """The same at 4 GiB, or at the size that is nearest: (median, size)."""
        sizes = {int(line["size"]) for line in self.find(bench, **wanted)
                 if value in line and "size" in line}
        if not sizes:
            return None, 0
        size = min(sizes, key=lambda size: (abs(size - USUAL_SIZE), size))
        return self.use(costs, value, bench, size=size, **wanted), size


def kernel_of(machine):
    """(major, minor) of what was measured on; None: not said."""
    match = re.match(r"(\d+)\.(\d+)", machine.get("kernel", ""))
    return (int(match.group(1)), int(match.group(2))) if match else None


def on_kernel(costs, kernel, arch="x86_64"):
    """The same costs with that kernel's rules of what a zap locks and leaves."""
    small = costs.kind("anon4k").freer_ns_per_gib / PAGES_PER_GIB
    gone = kernel >= TABLES_GO and arch == "x86_64"
    kinds = {}
    for name, kind in costs.kinds.items():
        pages = TABLES_LEFT if name == "anon4k" and not gone else TABLES_GONE
        if kind.page >= GIB:  # an entry of a table that others share
            pages /= 512
        kinds[name] = replace(kind, shell_ns_per_gib=small * pages)
    return replace(costs, kinds=kinds, zap_holds_mmap_lock=kernel < MAPPING_LOCK)


def size_name(size):
    for unit, name in ((GIB * 1024, "TiB"), (GIB, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if size >= unit:
            return f"{size / unit:g} {name}"
    return f"{size} B"


def fit_published():
    """The Universal Scalability Law through the published figures: least squares of
    n / speedup - 1 = sigma (n - 1) + kappa n (n - 1), each relative to n / speedup."""
    rows = []
    for threads, seconds in PUBLISHED.items():
        ratio = threads * seconds / PUBLISHED[1]
        rows.append(((threads - 1) / ratio, threads * (threads - 1) / ratio, (ratio - 1) / ratio))
    aa, ab, bb = (sum(row[i] * row[j] for row in rows) for i, j in ((0, 0), (0, 1), (1, 1)))
    ay, by = (sum(row[i] * row[2] for row in rows) for i in (0, 1))
    det = aa * bb - ab * ab
    return Scaling("published", (ay * bb - by * ab) / det, (aa * by - ab * ay) / det)


def _kinds(lines, costs):
    for name, page in (("anon4k", 4096), ("thp", 2 << 20), ("hugetlb", 2 << 20)):
        freer, size = lines.nearest(costs, "reclaim_ms", "unmap", subject="thread", kind=name)
        caller, _ = lines.nearest(costs, "caller_us", "unmap", subject="munmap", kind=name)
        if freer is None or caller is None:
            continue
        freer_ns, caller_ns = freer * 1e6 * GIB / size, caller * 1e3 * GIB / size
        costs.kinds[name] = Kind(name, page, freer_ns, caller_ns, 0)
        source = f"{size_name(size)} of it, `bench=unmap subject="
        costs.sources += [
            (f"{name}: freed by another thread", f"{freer_ns / 1e6:.2f} ms/GiB",
             f"measured: {source}thread`, a bare thread that munmaps"),
            (f"{name}: munmap in the caller", f"{caller_ns / 1e6:.2f} ms/GiB",
             f"measured: {source}munmap`")]
    costs.kind("anon4k")
    if "hugetlb" in costs.kinds:
        huge = costs.kinds["hugetlb"]
        costs.kinds["hugetlb1g"] = Kind("hugetlb1g", GIB, huge.freer_ns_per_gib / 512,
                                        huge.caller_ns_per_gib / 512, 0)
        costs.sources.append((
            "hugetlb1g", "that of hugetlb, a page",
            "assumed: one page a GiB instead of 512, and the kernel does not clear them"))


def _scaling(lines, costs):
    one, size = lines.nearest(costs, "gib_per_s", "reclaim", subject="bare_1")
    name = "bare_1"
    if one is None:
        one, size = lines.nearest(costs, "gib_per_s", "reclaim", subject="munmap")
        name = "munmap"
    two, _ = lines.nearest(costs, "gib_per_s", "reclaim", subject="bare_2")
    if one is None or two is None:
        costs.scaling = Scaling("measured")
        costs.sources.append(("σ of threads on a node, as measured", "0", "assumed: not measured"))
        return
    sigma = min(1.0, max(0.0, 2 * one / two - 1))
    costs.scaling = Scaling("measured", sigma)
    costs.sources.append((
        "σ of threads on a node, as measured", f"{sigma:.3f}",
        f"measured: 2 x {name} / bare_2 - 1, {size_name(size)}, `bench=reclaim`; no more can "
        "be had from two CPUs, which may be threads of one core"))


def _callers(lines, costs):
    for name, attribute, wanted, what in (
            ("put", "put_ns", {"bench": "put", "subject": "td_space_put_warm"},
             "what td_space_put holds its caller"),
            ("unmap", "detach_ns", {"bench": "unmap", "subject": "td_munmap", "kind": "anon4k"},
             "what td_munmap holds its caller")):
        us, size = lines.nearest(costs, "caller_us", **wanted)
        if us is None:
            costs.sources.append((what, f"{getattr(costs, attribute) / 1e3:.0f} µs",
                                  f"assumed: not measured in `bench={name}`"))
            continue
        setattr(costs, attribute, us * 1e3)
        costs.sources.append((what, f"{us:.1f} µs",
                              f"measured: {size_name(size)}, `bench={name}`"))


def _huge_moves(lines, costs):
    """The kernel moves hugetlb pages one by one."""
    wanted = {"bench": "unmap", "subject": "td_munmap"}
    _, size = lines.nearest(costs, "caller_us_min", kind="hugetlb", **wanted)
    if not size or "hugetlb" not in costs.kinds:
        return
    # The shortest ones: all that disturbs them is longer than what is looked for.
    least = [min((float(line["caller_us_min"]) for line in lines.find(
        kind=kind, size=size, **wanted) if "caller_us_min" in line), default=None)
        for kind in ("anon4k", "hugetlb")]
    if None in least:
        return
    each = max(0.0, least[1] - least[0]) * US * GIB / size
    costs.kinds["hugetlb"].move_ns_per_gib = each
    costs.kinds["hugetlb1g"].move_ns_per_gib = each / 512
    costs.sources.append((
        "hugetlb: mremap of a GiB, beyond that", f"{each / 1e3:.0f} µs",
        f"measured: {size_name(size)}, `bench=unmap subject=td_munmap`, the shortest one less "
        "that of 4 KiB pages; page by page, so 1/512 of it for pages of 1 GiB"))


def _fill(lines, costs):
    speed = lines.use(costs, "gib_per_s", "budget", subject="munmap", loops=1)
    if not speed:
        return
    costs.fill_ns_per_gib = max(0.0, 1e9 / speed - costs.kind("anon4k").caller_ns_per_gib)
    costs.sources.append((
        "filling 4 KiB pages", f"{costs.fill_ns_per_gib / 1e6:.0f} ms/GiB",
        "measured: `bench=budget subject=munmap loops=1`, less its munmap"))


def beside(lines, costs, kind):
    """Where another thread maps all the time (`bench=slices`): ns a GiB, and ns a step,
    by the speeds at slices of 50 and 500 us. A step of so many us brings that less what a
    step costs: speed = (target - step) / (target x cost). None: not measured."""
    speeds = [lines.use(costs, "reclaim_gib_per_s", "slices", kind=kind, target_us=target,
                        fast=0) for target in (50, 500)]
    if None in speeds:
        return None
    slower = speeds[1] / speeds[0]
    step = 25000 * (slower - 1) / (500 * slower - 50) if slower > 1 else 0
    step = min(40.0, max(1.0, step))
    return 1e9 / speeds[1] * (500 - step) / 500, step * US


def _step(lines, costs):
    both = beside(lines, costs, "anon4k")
    if both:
        costs.step_ns = both[1]
    costs.sources.append((
        "a step beyond its bytes", f"{costs.step_ns / 1e3:.1f} µs",
        "measured: the speeds at slices of 50 and 500 µs, `bench=slices kind=anon4k`, at "
        "least 1 and at most 40 µs" if both else
        "assumed: a system call with its TLB flush, locks, clocks and accounting"))


def _exit(lines, costs):
    waits, size = lines.nearest(costs, "waitpid_ms", "exit", subject="td", kind="anon4k",
                                end="exit")
    if waits is not None:
        costs.exit_wait_ns = waits * 1e6
    costs.sources.append((
        "what waitpid takes with the library's helper", f"{costs.exit_wait_ns / 1e6:.2f} ms",
        f"measured: {size_name(size)}, `bench=exit subject=td`; no page is looked at before"
        if waits is not None else "assumed: not measured in `bench=exit`"))


def _move(lines, costs):
    """What one mremap takes longer for each GiB that it moves."""
    times = {}
    for bench in ("limits", "sizes"):
        for line in lines.find(bench, subject="mremap"):
            if int(line["size"]) >= GIB and "caller_us_min" in line:
                times.setdefault(int(line["size"]), []).append(float(line["caller_us_min"]))
    least, most = min(times, default=0), max(times, default=0)
    if least < most:
        gained = min(times[most]) - min(times[least])
        costs.move_ns_per_gib = max(20.0, gained * US * GIB / (most - least))
    costs.sources.append((
        "mremap of a GiB that is moved whole", f"{costs.move_ns_per_gib:.0f} ns",
        f"measured: the shortest one of {size_name(most)}, less that of {size_name(least)}, "
        "`subject=mremap`; at least 20 ns" if least < most else
        "assumed: one entry of the third level under two locks"))


def _wake(lines, costs):
    value = lines.use(costs, "woken_us", "limits", subject="wake")
    if value:
        costs.wake_ns = value * 1e3
    costs.sources.append((
        "until a woken reaper runs", f"{costs.wake_ns / 1e3:.0f} µs",
        "measured: `bench=limits subject=wake`" if value else
        "assumed: an interrupt to an idle virtual CPU. Once a teardown"))


def _kernel(results, costs):
    kernel = kernel_of(results.machine)
    if kernel is None:
        kernel = MAPPING_LOCK
        costs.sources.append(("kernel", "6.17", "assumed: the results do not say"))
    arch = results.machine.get("arch", "x86_64")
    return on_kernel(costs, kernel, arch), kernel if arch == "x86_64" else (0, 0)


def calibrate(results):
    """Costs from a results file."""
    lines, costs = Lines(results), Costs()
    _kinds(lines, costs)
    _scaling(lines, costs)
    _callers(lines, costs)
    _huge_moves(lines, costs)
    _fill(lines, costs)
    _exit(lines, costs)
    _move(lines, costs)
    _wake(lines, costs)
    _step(lines, costs)
    costs, kernel = _kernel(results, costs)
    fitted = fit_published()
    costs.sources += [
        ("σ, κ of threads on a node, as published",
         f"{fitted.sigma:.3f}, {fitted.kappa:.4f}", "fitted to the public figures below"),
        ("a look at where a region's pages are", f"{costs.look_ns / 1e3:.0f} µs",
         "assumed: move_pages(2) for 16 pages; this machine has one node"),
        ("memory of another node",
         f"{REMOTE_LEAST:g} to {REMOTE_MOST:g} times, {costs.remote:g} as *measured*",
         "assumed: the loads that miss are on struct page and page tables; remote latency "
         "is 1.4 to 2.2 times local (SLIT distances 14 to 22), and not all of it is misses"),
        ("what a zap leaves of page tables",
         f"{TABLES_GONE if kernel >= TABLES_GO else TABLES_LEFT} pages a GiB of 4 KiB pages, "
         f"{TABLES_GONE} of huge ones",
         "assumed: each like a page that is freed. Up to 6.13, and elsewhere than on x86-64, "
         f"{TABLES_LEFT} of 4 KiB pages; from 6.14 on their tables go with them, and what is "
         f"left is one, and a look at 512 entries: taken for {TABLES_GONE}"),
        ("who zaps holds the mmap lock", "yes" if costs.zap_holds_mmap_lock else "no",
         "by the kernel: from 6.17 on only the mapping's own lock")]
    return costs
