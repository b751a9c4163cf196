# SPDX-License-Identifier: MIT
"""README.md's figures: two plots and one table, of wins and losses alike."""
from text import digits, figure, name, size, unit_of

BEGIN, END = '<!-- figures: begin -->', '<!-- figures: end -->'
PLOTS = (('hold', 'How long freeing holds its caller'),
         ('stall', 'What another thread waits meanwhile'))

_UNMAPS = ('munmap', 'chunks')
_BESIDE = ('munmap', 'thread', 'chunks', 'thread_chunks')
_DEFERS = ('call_rcu', 'call_rcu_rt', 'defer_rcu', 'call_rcu_list', 'ck_epoch', 'ck_epoch_call')

STALL = ("another thread's worst stall meanwhile", 'stall', 'worst_us', 'less', 'td_munmap',
         _BESIDE, 8 << 30, {})

# What is compared: words, scenario, field, which is better, the library's way, peers (the
# first is the usual way, shown besides the best), the largest size that is taken (None: no
# sizes), and what else tells the line. A thread that munmaps leaves the range in sight: it is
# a peer where that may be.
ROWS = (
    ('an arena, given back: its caller is held', 'sizes', 'caller_us', 'less',
     'td_space_put', ('munmap', 'thread', 'chunks'), 4 << 30, {}),
    ('the same, until the memory is back', 'sizes', 'reclaim_ms', 'less', 'td_space_put',
     ('munmap', 'thread', 'chunks'), 4 << 30, {}),
    ('4 KiB pages, out of sight on return: caller held', 'unmap', 'caller_us', 'less', 'td_munmap',
     _UNMAPS, 4 << 30, {'kind': 'anon4k'}),
    ('transparent huge pages, likewise: caller held', 'unmap', 'caller_us', 'less', 'td_munmap',
     _UNMAPS, 4 << 30, {'kind': 'thp'}),
    ('hugetlb pages, likewise: caller held', 'unmap', 'caller_us', 'less', 'td_munmap', _UNMAPS,
     1 << 30, {'kind': 'hugetlb'}),
    ('4 KiB pages that may stay in sight: caller held', 'unmap', 'caller_us', 'less', 'td_munmap',
     ('munmap', 'thread'), 4 << 30, {'kind': 'anon4k'}),
    STALL,
    ('how often that thread gets through, each second', 'stall', 'probes_per_s', 'more',
     'td_munmap', _BESIDE, 8 << 30, {}),
    ('speed of freeing, one thread', 'reclaim', 'gib_per_s', 'more', 'td_1', ('munmap', 'bare_1'),
     None, {}),
    ('speed of freeing, two threads', 'reclaim', 'gib_per_s', 'more', 'td_2', ('munmap', 'bare_2'),
     None, {}),
    ('an object that readers may see: queue it', 'batch', 'queue_ns', 'less', 'td_batch',
     _DEFERS, None, {'threads': 1, 'order': 'allocated'}),
    ('until all of them are freed, for each', 'batch', 'total_ns', 'less', 'td_batch',
     (*_DEFERS, 'free'), None, {'threads': 1, 'order': 'allocated'}),
    ('the same with two threads that add', 'batch', 'total_ns', 'less', 'td_batch',
     (*_DEFERS, 'free'), None, {'threads': 2, 'order': 'allocated'}),
    ('a reference, two threads', 'refs', 'pair_ns', 'less', 'td_user', ('atomic', 'urcu_ref'),
     None, {'threads': 2}),
    ('a reference to a space that one holds anyway, two threads', 'refs', 'pair_ns', 'less',
     'lazy', ('atomic', 'urcu_ref', 'rcu'), None, {'threads': 2}),
    ('looking up among 65,000 regions', 'lookup', 'lookup_ns', 'less', 'td', ('bsearch',),
     None, {'regions': 65000, 'readers': 1}),
    ('a jemalloc arena is destroyed: caller held', 'allocator', 'caller_us', 'less',
     'td_hooks_destroy', ('jemalloc_destroy',), 1 << 30, {}),
    ('a loop with memory for two arenas: throughput', 'budget', 'gib_per_s', 'more', 'help',
     ('munmap', 'thread'), None, {'loops': 1}),
    ('its longest call that frees, eight loops', 'budget', 'worst_hold_us', 'less', 'help',
     ('munmap', 'thread'), None, {'loops': 8}),
    ('a process of 4 KiB pages exits: waitpid', 'exit', 'waitpid_ms', 'less', 'td',
     ('plain', 'qemu_design', 'qemu', 'qemu_async'), 8 << 30,
     {'kind': 'anon4k', 'end': 'exit'}),
    ('the same, until the memory is back', 'exit', 'reclaim_ms', 'less', 'td',
     ('plain', 'qemu_design', 'qemu', 'qemu_async'), 8 << 30,
     {'kind': 'anon4k', 'end': 'exit'}),
    ('a process is killed: 4 KiB pages back', 'kill', 'reclaim_ms', 'less', 'td',
     ('sigkill', 'mrelease'), 8 << 30, {'kind': 'anon4k'}),
    ('a process is killed: huge pages back', 'kill', 'reclaim_ms', 'less', 'td',
     ('sigkill', 'mrelease'), 8 << 30, {'kind': 'thp'}),
)


def _largest(results, bench, limit, match, subjects):
    """The largest size, up to limit, that all of the subjects have."""
    common = None
    for subject in subjects:
        found = {value for value in results.distinct(bench, 'size', subject=subject, **match)
                 if float(value) <= limit}
        common = found if common is None else common & found
    return max(common, key=float) if common else None


def _row(results, words, bench, field, better, ours, peers, limit, match):
    peers = [peer for peer in peers if results.pick(bench, subject=peer, **match)]
    if not peers or not results.pick(bench, subject=ours, **match):
        return None
    if limit:
        largest = _largest(results, bench, limit, match, (ours, *peers[:1]))
        if largest is None:
            return None
        match = dict(match, size=largest)
        words = f'{words} ({size(largest)})'
    got = {peer: results.median(bench, field, subject=peer, **match) for peer in peers}
    got = {peer: value for peer, value in got.items() if value is not None}
    mine = results.median(bench, field, subject=ours, **match)
    if not got or mine is None:
        return None
    peer = (min if better == 'less' else max)(got, key=got.get)
    unit = unit_of(field)
    usual = got.get(peers[0])
    return (words, f'{figure(usual, unit)} ({name(peers[0], bench)})' if usual else '',
            f'{figure(got[peer], unit)} ({name(peer, bench)})' if peer != peers[0] else '',
            f'{figure(mine, unit)} ({name(ours, bench)})',
            _said(mine / got[peer] if got[peer] else 0, better))


def _said(ratio, better):
    if ratio <= 0:
        return ''
    wins = ratio < 1 if better == 'less' else ratio > 1
    far = digits(ratio if ratio >= 1 else 1 / ratio)
    if far == digits(1):
        return 'the same'
    return f'{far} times better' if wins else f'**{far} times worse**'


def figures(results, plots):
    """What stands between the markers: plots and the table."""
    lines = []
    for plot, words in PLOTS:
        if plot in plots:
            lines += [f'![{words}](docs/benchmarks/{plot}.svg)', '']
    machine = results.machine
    rows = [row for row in (_row(results, *one) for one in ROWS) if row]
    lines += [f'Medians of {len(results.runs)} '
              f'{"run" if len(results.runs) == 1 else "runs"} on a machine of '
              f'{machine.get("cpus", "?")} CPUs, Linux {machine.get("kernel", "?")}; the '
              'usual way, the best peer where that is another one, and the library, whichever '
              'wins. The last column compares the library with the best peer:', '',
              '| | the usual way | a better peer | libteardown | against the best |',
              '|---|---:|---:|---:|---|']
    lines += [f'| {" | ".join(row)} |' for row in rows]
    return '\n'.join(lines)


def gains(results):
    """What the library is for, in a line each: beside the usual way, and the best peer."""
    lines = []
    for words, usual, best, ours, said in filter(None, (_row(results, *ROWS[0]),
                                                        _row(results, *STALL))):
        others = ', '.join(one for one in (usual, best) if one)
        lines.append(f'{words[0].upper()}{words[1:]}: {ours}, against {others}: {said}, '
                     'compared with the best.')
    return lines


def replace(text, new):
    """README's text with other figures between the markers."""
    before, marker, rest = text.partition(BEGIN)
    _, other, after = rest.partition(END)
    if not marker or not other:
        raise LookupError(f'README.md lacks {BEGIN} or {END}')
    return f'{before}{BEGIN}\n{new}\n{END}{after}'
