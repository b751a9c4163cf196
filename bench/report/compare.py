# SPDX-License-Identifier: MIT
"""Where a peer is better.

The rule: each way of the library is compared with the best peer of the same scenario, in
the same case (size, kind of memory, number of threads and so on), figure by figure. What
counts is the median over the runs of each run's median; the peer is better by however
little it is. Where the two ranges over all rounds overlap, that is said. Every figure of the
report that a peer has, too, is compared.
"""
import dataclasses
import statistics

from results import number
from sections import SECTIONS
from text import digits, figure, key, name, plural, unit_of

_CASE = ('kind', 'size', 'end', 'threads', 'order', 'regions', 'readers', 'loops', 'host')
_HELD = (('caller_us', 'less', 'the caller is held'),)
_BACK = (('reclaim_ms', 'less', 'until the memory is back'),)
_PAIR = (('pair_ns', 'less', 'a reference taken and given back'),)
_UNMAPS = ('munmap', 'thread', 'chunks')
_BESIDE = (*_UNMAPS, 'thread_chunks')
_BATCHES = ('td_batch', 'td_batch_node', 'td_batch_list', 'td_batch_bounded')
_DEFERS = ('call_rcu', 'call_rcu_rt', 'defer_rcu', 'call_rcu_list', 'ck_epoch', 'ck_epoch_call')

_GIVEN = _HELD + _BACK + (('worst_stall_us', 'less', "another thread's worst stall"),)

# scenario, (field, which is better, words)..., the library's ways, peers
COMPARISONS = (
    ('put', _HELD + _BACK, ('td_space_put', 'td_space_put_warm'), ('munmap',)),
    ('sizes', _HELD + _BACK, ('td_munmap', 'td_region', 'td_space_put'), _UNMAPS),
    ('unmap', _HELD + _BACK, ('td_munmap', 'td_region'), _UNMAPS),
    ('threshold', _HELD + (('cpu_us', 'less', 'CPU time of a call and its reaper'),),
     ('td_munmap', 'td_munmap_burst'), ('munmap',)),
    ('stall', (('worst_us', 'less', "another thread's worst stall"),
               ('probes_per_s', 'more', 'how often another thread gets through'),
               ('p50_us', 'less', "another thread's probes, half of them"),
               ('p99_us', 'less', "another thread's probes, 99 %"),
               ('p999_us', 'less', "another thread's probes, 99.9 %"),
               ('freed_ms', 'less', 'until the memory is back, beside that thread')),
     ('td_munmap', 'td_space_put'), _BESIDE),
    ('stall_curve', tuple((f'{field}_us', 'less', words) for field, words in
                          (('p50', 'the wait at any moment, half of them'),
                           ('p90', 'the wait at any moment, 90 %'),
                           ('p99', 'the wait at any moment, 99 %'),
                           ('p999', 'the wait at any moment, 99.9 %'),
                           ('p9999', 'the wait at any moment, 99.99 %'))),
     ('td_munmap', 'td_space_put'), _BESIDE),
    ('lookup', (('lookup_ns', 'less', 'looking a region up'),
                ('update_ns', 'less', 'adding or unmapping one')), ('td',), ('bsearch',)),
    ('batch', (('queue_ns', 'less', 'queueing an object in the cache'),
               ('queue_cold_ns', 'less', 'queueing an object out of it'),
               ('max_wait_us', 'less', 'the longest call that queues'),
               ('extra_bytes', 'less', 'bytes for each object'),
               ('peak_bytes', 'less', 'the most that was not yet freed')), _BATCHES, _DEFERS),
    # free waits for no reader: it is what all of the work costs at least.
    ('batch', (('total_ns', 'less', 'until all are freed'),), _BATCHES, ('free',) + _DEFERS),
    ('refs', _PAIR, ('td_user', 'td_count', 'lazy'), ('atomic', 'urcu_ref', 'rcu')),
    ('refs', _PAIR, ('lazy_xchg',), ('atomic', 'urcu_ref', 'rcu', 'exchange')),
    ('small', (('small_us', 'less', 'a small work behind large ones'),
               ('all_ms', 'less', 'until all of them are done')),
     ('td_spaces', 'td_space'), ('thread',)),
    ('budget', (('gib_per_s', 'more', "a loop's throughput"),
                ('worst_hold_us', 'less', 'the longest call that frees'),
                ('worst_hold_cpu_us', 'less', 'CPU time of the longest call that frees'),
                ('cpu_ms_per_gib', 'less', 'CPU time for a GiB'),
                ('peak_pending', 'less', 'the most that was not yet freed')),
     ('help', 'block', 'again'), ('munmap', 'thread')),
    ('foreground', (('work_percent', 'more', 'what a busy program keeps of its speed'),
                    ('back_ms', 'less', 'until the memory is back, on busy CPUs'),
                    ('held_us', 'less', 'the caller is held, on busy CPUs')),
     ('td-other', 'td-batch', 'td-idle'), ('thread',)),
    ('allocator', _GIVEN, ('td_hooks_free',),
     ('jemalloc_background', 'jemalloc_decay_1s', 'jemalloc_decay_0', 'jemalloc_purge',
      'mimalloc_collect')),
    ('allocator', _GIVEN, ('td_hooks_destroy',), ('jemalloc_destroy',)),
    ('kill', _BACK + (('caller_cpu_ms', 'less', 'CPU time of who kills'),), ('td',),
     ('sigkill', 'mrelease')),
    ('exit', (('waitpid_ms', 'less', 'until waitpid returns'),) + _BACK, ('td',),
     ('plain', 'qemu_design', 'qemu', 'qemu_async')),
) + tuple(('count', (('instructions', 'less', words),), ours, peers)
          for words, ours, peers in (
              ('instructions of taking a reference', ('get', 'grab', 'lazy_enter'),
               ('atomic_add', 'urcu_ref_get', 'rcu_read_lock')),
              ('instructions of giving it back', ('put', 'drop', 'lazy_leave'),
               ('atomic_sub', 'urcu_ref_put', 'rcu_read_unlock')),
              ('instructions of a look-up', ('lookup_64',), ('search_64',)),
              ('instructions of a look-up', ('lookup_4096',), ('search_4096',)),
              ('instructions of queueing', ('batch_pointer', 'batch_node'), ('call_rcu',)))
) + tuple(('reclaim', (('gib_per_s', 'more', 'speed at which memory comes back'),),
           (f'td_{count}',), (f'bare_{count}',) + (('munmap',) if count == 1 else ()))
          for count in (1, 2, 4, 8, 16, 32, 64))


@dataclasses.dataclass
class Better:
    """A case in which a peer is better than a way of the library."""
    bench: str
    field: str
    words: str
    ours: str
    peer: str
    case: dict
    our_value: float
    peer_value: float
    factor: float
    overlap: bool

    def case_words(self):
        """The case, for people."""
        words = [plural(value, item[:-1]) if item in ('threads', 'regions', 'readers', 'loops')
                 else key(item, value) for item, value in self.case.items()]
        return ', '.join(words)

    def figures(self):
        """Peer's and library's figures."""
        unit = unit_of(self.field)
        return figure(self.peer_value, unit), figure(self.our_value, unit)


def _cases(results, bench):
    seen = {}
    for line in results.pick(bench):
        case = tuple((item, line[item]) for item in _CASE if item in line)
        seen.setdefault(case, {})[line['subject']] = True
    return {case: tuple(subjects) for case, subjects in seen.items()}


def _figures(results, bench, field, subject, case):
    """(median, least, most), of the lines that are this case and no more."""
    def those(name_):
        return [number(line.get(name_)) for line in results.pick(bench, subject=subject)
                if tuple((item, line[item]) for item in _CASE if item in line) == case
                and number(line.get(name_)) is not None]
    values = those(field)
    if not values:
        return None
    return (statistics.median(values), min(those(field + '_min') or values),
            max(those(field + '_max') or values))


def _compare(results, bench, case, fields, ours, peers):
    """None for each figure that both have, and after it a Better where the peer is."""
    for field, better, words in fields:
        got = {peer: _figures(results, bench, field, peer, case) for peer in peers}
        got = {peer: spread for peer, spread in got.items() if spread}
        mine = _figures(results, bench, field, ours, case)
        if not got or not mine:
            continue
        yield None
        pick = min if better == 'less' else max
        peer = pick(got, key=lambda one: got[one][0])
        theirs = got[peer]
        if theirs[0] == mine[0] or (theirs[0] < mine[0]) != (better == 'less'):
            continue
        low, high = sorted((theirs[0], mine[0]))
        yield Better(bench, field, words, ours, peer, dict(case), mine[0], theirs[0],
                     high / low if low > 0 else float('inf'),
                     theirs[1] <= mine[2] and mine[1] <= theirs[2])


def compared(results):
    """How many comparisons there are, and those in which a peer is better."""
    total, better = 0, []
    for bench, fields, ours, peers in COMPARISONS:
        for case, subjects in _cases(results, bench).items():
            for way in ours:
                if way not in subjects or not set(peers) & set(subjects):
                    continue
                found = list(_compare(results, bench, case, fields, way, peers))
                total += found.count(None)
                better += [one for one in found if one]
    return total, better


def worst_of_each(better):
    """Of each scenario's figures: the worst case of any way and how many there are."""
    groups = {}
    for one in better:
        groups.setdefault((one.bench, one.words), []).append(one)
    order = [section.bench for section in SECTIONS]
    rows = [(max(group, key=lambda one: one.factor), len(group))
            for group in groups.values()]
    return sorted(rows, key=lambda row: order.index(row[0].bench))


def title(bench):
    """The title of the scenario's part of the report."""
    return next(section.title for section in SECTIONS if section.bench == bench)


def row(one):
    """The cells of one line: what, where, the peer, its figure, ours, how much."""
    theirs, mine = one.figures()
    factor = 'none at all' if one.factor == float('inf') else digits(one.factor)
    return (one.words, one.case_words(), name(one.peer, one.bench), theirs,
            name(one.ours, one.bench), mine,
            factor + (' (their ranges overlap)' if one.overlap else ''))
