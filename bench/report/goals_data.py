# SPDX-License-Identifier: MIT
"""The goals themselves: what was asked for, and which lines of td-bench tell."""
import dataclasses
import typing

GIB = 1 << 30


@dataclasses.dataclass(frozen=True)
class Value:
    """A field of one line of a scenario; of one in each run."""
    bench: str
    field: str
    match: dict


@dataclasses.dataclass(frozen=True)
class Goal:
    """One figure that was asked for. Without op: above alone; with / or -: with below."""
    part: str
    words: str
    required: str
    limit: tuple = None
    above: typing.Any = None     # a Value, or several, of which the least counts
    below: typing.Any = None
    op: str = None
    tests: tuple = ()            # what proves it, where it is no figure
    not_here: str = ''           # why td-bench does not measure it
    note: str = ''               # why it is missed where it is
    other_size: bool = False     # above and below are of different sizes
    sound: tuple = None          # (Value, least, most, why): else nothing was measured
    only_with: tuple = None      # (field, what it must not be, why)

    def values(self):
        """All Values that it is made of."""
        sides = [side for side in (self.above, self.below) if side is not None]
        return [value for side in sides
                for value in (side if isinstance(side, (list, tuple)) else [side])]

    def first(self):
        """The Value that it is about."""
        return self.values()[0]


def _value(bench, field, **match):
    return Value(bench, field, match)


def _ratio(part, words, required, limit, above, below, **more):
    return Goal(part, words, required, limit, above, below, '/', **more)


ARENA = 'Freeing an arena'
ANY = 'Any memory, any range'
BATCH = 'Objects that readers may still see'
REFS = 'Counts and lazy references'
REAPERS = 'Reapers that behave'
PROCESSES = 'Whole processes'
REPORT = 'This report'

COLD = ('the first put after seconds of nothing but filling memory: in a virtual machine a page '
        'of code or of the kernel that was left alone that long costs tens of µs to touch')
LITTLE = {
    'thp': 'munmap is short itself: there are 512 times fewer pages',
    'hugetlb': 'munmap takes little more than the move of page tables that the library makes',
    'file': 'munmap is short itself: the pages stay in the page cache',
    'memfd': '', 'shared_anon': '',
    'locked': "of 1 GiB only: munmap's time grows with the size, the library's does not",
}


def _arena():
    yield from (
        _ratio(ARENA, f'the last put of 4 GiB holds its caller shorter than munmap ({how})',
               'at least 10,000 times', ('>=', 10000),
               _value('put', 'caller_us', subject='munmap', size=4 * GIB),
               _value('put', 'caller_us', subject=subject, size=4 * GIB), note=note)
        for how, subject, note in (('cold', 'td_space_put', COLD),
                                   ('warm', 'td_space_put_warm', '')))
    yield from (
        _ratio(ARENA, f'its cost does not grow: 8 GiB against 1 GiB ({how})', 'at most 1.5',
               ('<=', 1.5), _value('put', 'caller_us', subject=subject, size=8 * GIB),
               _value('put', 'caller_us', subject=subject, size=GIB), other_size=True,
               note=note)
        for how, subject, note in (('cold', 'td_space_put', COLD),
                                   ('warm', 'td_space_put_warm', '')))
    yield _ratio(ARENA, "one reaper's speed against munmap's", 'at least 0.95', ('>=', 0.95),
                 _value('reclaim', 'gib_per_s', subject='td_1'),
                 _value('reclaim', 'gib_per_s', subject='munmap'))
    yield _ratio(ARENA, "two reapers' speed against two bare threads with MADV_DONTNEED",
                 'at least 0.95', ('>=', 0.95),
                 _value('reclaim', 'gib_per_s', subject='td_2'),
                 _value('reclaim', 'gib_per_s', subject='bare_2'))
    yield Goal(ARENA, "the demo: another thread's worst stall at 4 GiB, munmap's against a put's",
               'at least 20 times', ('>=', 20),
               _value('demo', 'stall_ratio', subject='arena', size=4 * GIB),
               note='the worst of one run: a CPU that the host takes away counts in full')
    yield Goal(ARENA, 'resident memory, mappings, threads and descriptors are as before after '
               '10,000 arenas', 'nothing is left', tests=('tests/stress_space.c',))
    yield Goal(ARENA, 'the teardown path allocates nothing', 'nothing',
               tests=('tests/test_noalloc.c',))
    yield Goal(ARENA, 'the demo and the tests work on a fresh Debian 12, twice, from another '
               'directory', 'both', not_here='it takes a fresh system')


def _any():
    names = {'td_munmap': ('td_munmap', 800), 'td_region': ('td_region_unmap', 1000)}
    kinds = (('anon4k', '4 KiB pages', 4), ('thp', 'transparent huge pages', 4),
             ('hugetlb', 'hugetlb pages', 1), ('memfd', 'a memfd', 4),
             ('shared_anon', 'shared anonymous memory', 4), ('file', 'a file', 1),
             ('locked', 'locked memory', 1))
    for kind, words, gib in kinds:
        for subject, (call, limit) in names.items():
            yield _ratio(ANY, f'{call} of {gib} GiB, {words}: its caller is held shorter than '
                         'by munmap', f'at least {limit:,} times', ('>=', limit),
                         _value('unmap', 'caller_us', subject='munmap', kind=kind,
                                size=gib * GIB),
                         _value('unmap', 'caller_us', subject=subject, kind=kind,
                                size=gib * GIB), note=LITTLE.get(kind, ''))
    yield _ratio(ANY, 'td_munmap of 16 GiB against its own 4 GiB', 'at most 1.5', ('<=', 1.5),
                 _value('sizes', 'caller_us', subject='td_munmap', size=16 * GIB),
                 _value('sizes', 'caller_us', subject='td_munmap', size=4 * GIB),
                 other_size=True)
    for subject in ('td_munmap', 'td_space_put'):
        yield _ratio(ANY, f"another thread's worst stall while 8 GiB go by {subject}, shorter "
                     'than by munmap', 'at least 50 times', ('>=', 50),
                     _value('stall', 'worst_us', subject='munmap', size=8 * GIB),
                     _value('stall', 'worst_us', subject=subject, size=8 * GIB),
                     note="the median of the rounds' worst probes: a CPU that the host takes away "
                     'counts in full')
    for subject in ('td_munmap', 'td_space_put'):
        yield _ratio(ANY, f'how often that thread gets through meanwhile ({subject}), against '
                     'idle', 'at least a third', ('>=', 1 / 3),
                     _value('stall', 'probes_per_s', subject=subject, size=8 * GIB),
                     _value('stall', 'probes_per_s', subject='idle', size=8 * GIB),
                     note='with few CPUs the reaper takes CPU time from the thread that probes, '
                     'besides the lock')
    for readers, words in ((1, 'one reader'), (2, 'two readers')):
        yield _ratio(ANY, f'looking up among 65,000 regions against a binary search, {words}',
                     'at most 1.5', ('<=', 1.5),
                     _value('lookup', 'lookup_ns', subject='td', regions=65000,
                            readers=readers),
                     _value('lookup', 'lookup_ns', subject='bsearch', regions=65000,
                            readers=readers))
    yield Goal(ANY, 'one insert or unmap among 65,000 regions, beside its system calls',
               'at most 2 µs', ('<=', 2000),
               _value('lookup', 'update_ns', subject='td', regions=65000, readers=1))
    yield Goal(ANY, 'random steps agree with a simple model, with readers beside them, also '
               'under ASan and TSan', 'millions of steps',
               not_here='tests/property_regions.c takes 250,000 steps a run, 40,000 with a '
               'sanitizer; millions by TDT_STEPS')
    yield Goal(ANY, 'a fault at any system call of the way leaves all of munmap, or an error and '
               'nothing changed', 'every call', tests=('tests/test_munmap_faults.c',))
    yield _ratio(ANY, "jemalloc's arena.<i>.destroy of 1 GiB with the library's hooks, against its "
                 'own', 'at most 0.1', ('<=', 0.1),
                 _value('allocator', 'caller_us', subject='td_hooks_destroy', size=GIB),
                 _value('allocator', 'caller_us', subject='jemalloc_destroy', size=GIB),
                 note="what is left is jemalloc's own bookkeeping")
    yield Goal(ANY, 'a device of 10 ms a page holds up no other space', 'not held up',
               tests=('tests/test_device.c',))


def _batch():
    ways = (('td_batch', 'pointers'), ('td_batch_node', 'nodes'))
    adders = ((1, '1 thread'), (2, '2 threads'))
    peers = ('call_rcu', 'call_rcu_rt', 'defer_rcu', 'call_rcu_list', 'ck_epoch', 'ck_epoch_call')

    def line(field, subject, threads, order='allocated'):
        return _value('batch', field, subject=subject, threads=threads, order=order)

    for subject, what in ways:
        for threads, who in adders:
            case = f'{what}, {who}'
            yield Goal(BATCH, f'queueing one that is in the cache ({case})', 'at most 5 ns',
                       ('<=', 5), line('queue_ns', subject, threads))
            for field, state in (('queue_ns', 'in the cache'), ('queue_cold_ns', 'out of it')):
                yield _ratio(BATCH, f"the same against call_rcu, {state} ({case})",
                             'at most 0.1', ('<=', 0.1), line(field, subject, threads),
                             line(field, 'call_rcu', threads))
            for order, sort in (('allocated', 'in order'), ('shuffled', 'shuffled')):
                yield _ratio(BATCH, f'until all are freed, against plain free ({case}, {sort})',
                             'at most 1.3', ('<=', 1.3),
                             line('total_ns', subject, threads, order),
                             line('total_ns', 'free', threads, order),
                             note='free uses all CPUs there, a batch one reaper'
                             if threads > 1 else '')
            for field, order, how in (
                    ('queue_ns', 'allocated', 'queueing, in the cache'),
                    ('queue_cold_ns', 'allocated', 'queueing, out of it'),
                    ('total_ns', 'allocated', 'until all are freed, in order'),
                    ('total_ns', 'shuffled', 'until all are freed, shuffled')):
                yield _ratio(BATCH, f'{how}, against the best peer ({case})', 'at most 1',
                             ('<=', 1), line(field, subject, threads, order),
                             [line(field, peer, threads, order) for peer in peers],
                             note="the peers' calls alone: they free later in the same "
                             'thread, or hand over one callback for a thousand objects'
                             if field == 'queue_ns' else '')
    yield Goal(BATCH, 'with a bound of 64 MiB: the longest that adding held one of two '
               'threads, of calls that kept their CPU', 'at most 100 µs', ('<=', 100),
               line('max_wait_us', 'td_batch_bounded', 2),
               note='the longest of all calls, in wall time: interrupts and what the host takes '
               'count')
    yield Goal(BATCH, 'objects freed by a grace period, in a flood', 'at least 1,000',
               tests=('tests/stress_batch.c',))
    yield Goal(BATCH, 'at 10 objects a second the bound on age holds', 'holds',
               tests=('tests/stress_trickle.c',))
    yield Goal(BATCH, 'what is not freed stays under its bound in a flood from 2 threads',
               'under it', tests=('tests/stress_batch.c',))
    yield Goal(BATCH, 'readers see no freed object; without a grace period that is noticed',
               'always', tests=('tests/torture_batch.c',))


def _refs():
    def pair(subject, threads):
        return _value('refs', 'pair_ns', subject=subject, threads=threads)

    counts = ((1, '1 thread'), (2, '2 threads'), (4, '4 threads'))
    for threads, who in counts:
        yield _ratio(REFS, f'td_space_get, put against a bare atomic pair ({who})',
                     'at most 1.15', ('<=', 1.15), pair('td_user', threads),
                     pair('atomic', threads))
    yield Goal(REFS, 'td_lazy_enter, leave', 'at most 2 ns', ('<=', 2), pair('lazy', 1))
    for threads, who in counts[1:]:
        yield _ratio(REFS, f'the same by {who} against one', 'at most 1.2', ('<=', 1.2),
                     pair('lazy', threads), pair('lazy', 1))
    for threads, who in counts:
        yield _ratio(REFS, f'without membarrier, against a bare exchange ({who})',
                     'at most 1.2', ('<=', 1.2), pair('lazy_xchg', threads),
                     pair('exchange', threads))
    yield Goal(REFS, 'the pass over 10,000 idle threads', 'under 200 µs', ('<=', 200),
               _value('refs', 'pass_us', subject='pass', slots=10000))
    yield Goal(REFS, 'the same with cold caches', 'under 200 µs', ('<=', 200),
               _value('refs', 'cold_us', subject='pass', slots=10000))
    yield Goal(REFS, 'the pass is outside any lock that a put or get needs', 'outside',
               not_here='puts and gets take no lock, which is read in the code')
    yield Goal(REFS, 'the models hold, and each with a barrier less fails', 'all',
               tests=('tests/model/check_model.sh',))
    yield Goal(REFS, 'torture is clean, also under TSan without a suppression', 'clean',
               tests=('tests/torture_lazy.c',))


def _reapers():
    for loops, words in ((1, 'one loop'), (8, 'eight loops')):
        def line(field, subject, loops=loops):
            return _value('budget', field, subject=subject, loops=loops)
        group = ('cgroup', 'none', 'no memory cgroup could be made')
        yield Goal(REAPERS, f'{words} with room for two arenas: runs killed for want of memory',
                   'none', ('<=', 0), line('oom', 'help'), only_with=group)
        yield _ratio(REAPERS, f"its throughput against munmap's ({words})", 'at least 0.9',
                     ('>=', 0.9), line('gib_per_s', 'help'), line('gib_per_s', 'munmap'),
                     only_with=group)
        yield _ratio(REAPERS, f"its longest hold against munmap's ({words})",
                     'at most 0.2', ('<=', 0.2), line('worst_hold_us', 'help'),
                     line('worst_hold_us', 'munmap'), only_with=group,
                     note='eight threads wait for few CPUs, whoever frees' if loops > 1 else
                     'the worst of all calls, in wall time')
    yield Goal(REAPERS, 'what is pending never passes its bound by more than one extent, '
               'whatever the policy', 'never', tests=('tests/stress_budget.c',))
    for subject, words in (('td_spaces', 'many spaces'), ('td_space', 'one space')):
        yield Goal(REAPERS, f'a work of 4 KiB behind 16 GiB of extents ({words})',
                   'within 5 ms', ('<=', 5000),
                   _value('small', 'small_us', subject=subject, size=16 * GIB))
    yield Goal(REAPERS, 'what a program on all CPUs loses to reapers at SCHED_IDLE',
               'less than 5 %', ('<=', 5),
               _value('foreground', 'work_percent', subject='nothing'),
               _value('foreground', 'work_percent', subject='td-idle'), '-',
               sound=(_value('foreground', 'work_percent', subject='nothing'), 95, 105,
                      'its speed changes by more than that where nothing is freed'))
    yield Goal(REAPERS, 'and until the memory is back all the same', 'it comes back',
               ('<=', float('inf')), _value('foreground', 'back_ms', subject='td-idle'))
    yield Goal(REAPERS, 'slices that run on the node of their pages', 'at least 95 %',
               tests=('tests/guest/test_numa.c',))
    yield Goal(REAPERS, '1,000 forks amid teardown: no hang, no leak, clean children', 'none',
               tests=('tests/stress_fork.c',))


def _processes():
    kinds = (('anon4k', '4 KiB pages'), ('thp', 'huge pages'), ('memfd', 'a memfd'))
    short = {'thp': 'plain exit is short itself: there are 512 times fewer pages'}
    for kind, words in kinds:
        for end, how in (('exit', 'by exit'), ('kill', 'by SIGKILL')):
            def line(field, subject, kind=kind, end=end):
                return _value('exit', field, subject=subject, kind=kind, end=end,
                              size=8 * GIB)
            case = f'8 GiB of {words}, {how}' if kind != 'memfd' else f'a memfd of 8 GiB, {how}'
            yield _ratio(PROCESSES, f"waitpid against a plain exit's ({case})",
                         'at most 0.02', ('<=', 0.02), line('waitpid_ms', 'td'),
                         line('waitpid_ms', 'plain'), note=short.get(kind, ''))
            yield _ratio(PROCESSES, f"the memory back against a plain exit's ({case})",
                         'at most 1.05', ('<=', 1.05), line('reclaim_ms', 'td'),
                         line('reclaim_ms', 'plain'), note=short.get(kind, ''))
            for field, rounds in (('reclaim_ms', ''), ('napped_ms', ', where it napped')):
                yield Goal(PROCESSES, f"the memory back sooner than with QEMU's design{rounds} "
                           f'({case})', 'at least 0.9 s', ('>=', 900),
                           line(field, 'qemu_design'), line('reclaim_ms', 'td'), '-',
                           note='its helper naps for a second in some rounds, and not in '
                           'others: a race')
    yield Goal(PROCESSES, 'killed at 1,000 random moments: no helper, zombie or memory is left, '
               'and the status is true', 'ever', tests=('tests/stress_exit.c',))
    yield Goal(PROCESSES, 'the helper holds no descriptor but what was asked for, and no shared '
               'lock', 'none', tests=('tests/test_exit.c',))
    for kind, words in kinds[:2]:
        yield _ratio(PROCESSES, f'td_process_kill of 8 GiB of {words}: the memory back against '
                     'the best peer', 'at most 1', ('<=', 1),
                     _value('kill', 'reclaim_ms', subject='td', kind=kind, size=8 * GIB),
                     [_value('kill', 'reclaim_ms', subject=peer, kind=kind, size=8 * GIB)
                      for peer in ('sigkill', 'mrelease')], note=short.get(kind, ''))
    yield Goal(PROCESSES, 'td_process_kill reports the truth in every outcome', 'every row',
               tests=('tests/test_process_kill.c', 'tests/test_process_release.c'))
    yield Goal(PROCESSES, 'redis, QEMU and Python run unchanged under `teardown run`, and end '
               'at once', 'unchanged', tests=('tests/outside/real_programs.py',))


GOALS = (*_arena(), *_any(), *_batch(), *_refs(), *_reapers(), *_processes())

# These are worked out from all of the results.
COUNTED = Goal(REPORT, 'instructions of each hot path against its reference, the worst',
               'at most 1.1', ('<=', 1.1),
               tests=('bench/count/count.py (test "count" of the suite)',))
SIMULATED = Goal(REPORT, 'the simulator against what was measured here', 'error shown')
TWO_RUNS = Goal(REPORT, 'two runs agree on every figure of this table', 'within 20 %')
