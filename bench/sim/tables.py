# SPDX-License-Identifier: MIT
"""What check.py and hosts.py find, as the tables of docs/scale.md."""
import math
import statistics

from core import GIB, MS, S, US
from costs import PUBLISHED, PUBLISHED_ALONE_S, PUBLISHED_GIB, fit_published, size_name
import hosts

KINDS = {"anon4k": "4 KiB pages", "thp": "THP", "hugetlb": "hugetlb, 2 MiB",
         "hugetlb1g": "hugetlb, 1 GiB"}
FIELDS = {"reclaim_ms": ("ms", MS), "caller_us": ("us", US), "small_us": ("us", US),
          "all_ms": ("ms", MS), "waitpid_ms": ("ms", MS),
          "gib_per_s": ("GiB/s", None),
          "reclaim_gib_per_s": ("GiB/s", None), "peak_pending": ("bytes", None)}


def digits(value):
    """Three that count, and no more."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    places = 2 - math.floor(math.log10(abs(value)))
    return f"{round(value, places):,.{max(0, places)}f}"


def duration(ns):
    for name, unit in (("h", 3600 * S), ("min", 60 * S), ("s", S), ("ms", MS), ("µs", US)):
        if ns >= unit * (2 if name in ("h", "min") else 1):
            return f"{digits(ns / unit)} {name}"
    return f"{digits(ns)} ns"


def between(values, words):
    """The least and the most of them, once where they read the same."""
    least, most = words(min(values)), words(max(values))
    if least == most:
        return least
    if least.split(" ")[1:] == most.split(" ")[1:]:
        least = least.split(" ")[0]
    return f"{least} to {most}"


def table(header, rows):
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return lines + ["| " + " | ".join(row) + " |" for row in rows]


def machine(results):
    return table(["measured on", ""], [
        [name, value] for name, value in sorted(results.machine.items())])


def parameters(costs):
    return table(["parameter", "value", "source"], [list(row) for row in costs.sources])


def _figure(check, value):
    unit, scale = FIELDS[check.field]
    if scale:
        return duration(value * scale)
    return size_name(int(value)) if unit == "bytes" and value >= GIB else (
        f"{digits(value / (1 << 20))} MiB" if unit == "bytes" else f"{digits(value)} {unit}")


def _at(what):
    words = [KINDS.get(what.get("kind"), what.get("kind", ""))]
    if "size" in what:
        words.append(size_name(int(what["size"])))
    if "target_us" in what:
        words.append("fast mode" if what.get("fast") == "1" else f"{what['target_us']} µs")
    if "loops" in what:
        words.append(f"{what['loops']} loops" if what["loops"] != "1" else "1 loop")
    if "end" in what:
        words.append({"exit": "by exit", "kill": "by SIGKILL"}.get(what["end"], what["end"]))
    return ", ".join(word for word in words if word)


def _varies(found):
    """By how much what was measured does, the median of those that were more than once."""
    spreads = [check.varies for check in found if check.varies is not None]
    return f"{statistics.median(spreads):.0f}%" if spreads else "not known"


def checks(found):
    rows = []
    for check in found:
        rows.append([check.what["bench"], check.what["subject"], _at(check.what), check.field,
                     _figure(check, check.measured), _varies([check]),
                     _figure(check, check.simulated), f"{check.error:+.0f}%"])
    return table(["scenario", "subject", "of what", "figure", "measured",
                  "least to most of it", "simulated", "error"], rows)


def errors(found):
    """Each scenario's, without signs."""
    rows, by_figure = [], {}
    for check in found:
        by_figure.setdefault((check.what["bench"], check.field), []).append(check)
    for (bench, field), group in by_figure.items():
        sizes = [abs(check.error) for check in group]
        worst = max(group, key=lambda check: abs(check.error))
        rows.append([bench, field, str(len(group)), f"{statistics.median(sizes):.0f}%",
                     f"{worst.error:+.0f}%: {worst.what['subject']}, {_at(worst.what)}",
                     _varies(group)])
    return table(["scenario", "figure", "checked", "error, median", "worst",
                  "what was measured varies by, median"], rows)


def _title(name):
    return next(host.title for host in hosts.HOSTS if host.name == name)


def _pick(lines, **wanted):
    return [line for line in lines
            if all(line.get(name) == value for name, value in wanted.items())]


def reclaim(lines):
    rows = []
    for host in hosts.HOSTS:
        for kind, words in KINDS.items():
            row = [host.title, words]
            for crowd in ("1", "1_a_node", "4_a_node", "most"):
                found = _pick(lines, what="reclaim", host=host.name, kind=kind, crowd=crowd,
                              layout="node")
                row.append(between([line["reclaim_s"] * S for line in found], duration)
                           if found else "not measured")
            rows.append(row)
    return table(["host", "of", "1 reaper", "1 a node", "4 a node", "as many as help"], rows)


def models(lines):
    rows = []
    for host in hosts.HOSTS:
        for model in ("linear", "measured", "published"):
            found = {line["crowd"]: line for line in _pick(
                lines, what="reclaim", host=host.name, kind="anon4k", layout="node",
                model=model)}
            if found:
                rows.append([host.title, model] + [
                    f"{digits(found[crowd]['gib_per_s'])}"
                    for crowd in ("1", "1_a_node", "4_a_node")] + [
                    f"{digits(found['most']['gib_per_s'])} ({found['most']['reapers']})"])
    return table(["host", "scaling on a node", "1 reaper", "1 a node", "4 a node",
                  "as many as help (how many)"], rows)


def layouts(lines):
    rows = []
    for host in hosts.HOSTS:
        for layout, words in (("node", "a region on each node"), ("interleaved", "interleaved"),
                              ("over", "one region, node after node")):
            found = _pick(lines, what="reclaim", host=host.name, kind="anon4k",
                          layout=layout, crowd="1_a_node")
            if found:
                rows.append([host.title, words, between(
                    [line["reclaim_s"] * S for line in found], duration)])
    return table(["host", "4 KiB pages, 1 reaper a node", "reclaimed after"], rows)


def callers(lines):
    rows = []
    for line in _pick(lines, what="caller"):
        rows.append([_title(line["host"]), KINDS[line["kind"]],
                     between([line["munmap_s"] * S, line["munmap_far_s"] * S], duration),
                     duration(line["put_us"] * US), duration(line["td_munmap_us"] * US),
                     duration(line["exit_wait_ms"] * MS),
                     between([line["exit_s"] * S, line["exit_far_s"] * S], duration)])
    return table(["host", "of", "munmap, or a plain exit", "td_space_put", "td_munmap",
                  "exit with the helper: waitpid", "its memory is back"], rows)


def stalls(lines):
    rows = []
    for line in _pick(lines, what="stall"):
        hold = _pick(lines, what="caller", host=line["host"], kind=line["kind"])[0]
        rows.append([_title(line["host"]),
                     line["kernel"].replace("_", " "),
                     duration(line["p50_us"] * US), duration(line["p99_us"] * US),
                     duration(line["worst_us"] * US),
                     between([hold["munmap_s"] * S, hold["munmap_far_s"] * S], duration)])
    return table(["host", "kernel", "half of the time", "99% of it", "worst",
                  "munmap: worst"], rows)


def budgets(lines):
    rows = []
    for host in hosts.HOSTS:
        for crowd in ("1_a_node", "4_a_node"):
            for rate in (10, 50, 100):
                found = _pick(lines, what="budget", host=host.name, crowd=crowd,
                              rate_gib_per_s=rate)
                if not found:
                    continue
                needs = [line["pending_gib"] for line in found]
                fastest = between([line["fastest_gib_per_s"] for line in found],
                                  lambda value: f"{digits(value)} GiB/s")
                if min(needs) == math.inf:
                    said = "none is enough"
                elif max(needs) == math.inf:
                    said = f"{digits(min(needs))} GiB, or none is enough"
                else:
                    said = between(needs, lambda value: f"{digits(value)} GiB")
                rows.append([host.title, crowd.replace("_", " "), f"{rate} GiB/s", fastest, said])
    return table(["host", "reapers", "freed, 1 GiB at a time", "they reclaim at most",
                  "pending at most"], rows)


def public(costs):
    fitted = fit_published()
    here = hosts.published_s(costs)[1]
    rows = [["free() of 320 GiB, one thread", f"{PUBLISHED_ALONE_S} s",
             f"{digits(here)} s by munmap's cost here"]]
    for threads, seconds in PUBLISHED.items():
        modelled = PUBLISHED[1] * threads / fitted.speed(threads) / threads
        rows.append([f"the same, {threads} worker{'s' if threads > 1 else ''}", f"{seconds} s",
                     f"{digits(modelled)} s as fitted"])
    rows.append(["1 TiB of 4 KiB pages, one thread",
                 f"{duration(PUBLISHED_ALONE_S / PUBLISHED_GIB * 1024 * S)} at that speed",
                 f"{duration(here / PUBLISHED_GIB * 1024 * S)} by munmap's cost here"])
    return table(["", "published", "here"], rows)


def all_tables(results, costs, found, lines):
    return {"machine": machine(results), "parameters": parameters(costs),
            "errors": errors(found), "check": checks(found), "callers": callers(lines),
            "reclaim": reclaim(lines), "models": models(lines), "layouts": layouts(lines),
            "stalls": stalls(lines), "budgets": budgets(lines), "public": public(costs)}
