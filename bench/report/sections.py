# SPDX-License-Identifier: MIT
"""What the report says of each scenario: which figures, and the physical limit of which."""
import dataclasses

from results import KEYS, NOTES, number


def basic(results, subject):
    """The figure of the first line of the scenario limits that is about this, or None."""
    lines = results.pick('limits', subject=subject)
    for field in lines[0] if lines else ():
        if field in KEYS + NOTES + ('run',) or number(lines[0][field]) is None:
            continue
        same = {item: lines[0][item] for item in KEYS[1:] if item in lines[0]}
        return results.median('limits', field, **same)
    return None


def madvise_speed(results):
    """The most GiB/s that any number of bare threads reach, of 4 KiB pages."""
    lines = [line for line in results.pick('limits', kind='anon4k')
             if line['subject'].startswith('madvise_')]
    lines += [line for line in results.pick('reclaim', kind='anon4k')
              if line['subject'].startswith('bare_')]
    return max((number(line.get('gib_per_s')) or 0 for line in lines), default=None)


def _wake(results, _line):
    return basic(results, 'wake')


def _mremap(results, _line):
    return basic(results, 'mremap')


def _store(results, _line):
    return basic(results, 'store')


def _of_size(results, line):
    if line['subject'] == 'td_space_put':
        return basic(results, 'wake')
    return results.median('sizes', 'caller_us', subject='mremap', size=line['size'])


def _bare(results, line):
    count = line['subject'].rsplit('_', 1)[-1]
    return results.median('reclaim', 'gib_per_s',
                          subject=f'bare_{count if count.isdigit() else 1}')


def _idle(results, line):
    same = {item: line[item] for item in ('kind', 'size') if item in line}
    return results.median(line['bench'], 'worst_us', subject='idle', **same)


def _array(results, line):
    return results.median('lookup', 'lookup_ns', subject='bsearch', regions=line['regions'],
                          readers=line['readers'])


def _all_threads(results, line):
    speed = madvise_speed(results)
    if not speed or line.get('kind') != 'anon4k':
        return None
    return float(line['size']) / (1 << 30) / speed * 1e3


@dataclasses.dataclass(frozen=True)
class Section:
    """A scenario's part of the report."""
    bench: str
    title: str
    words: str
    keys: tuple
    fields: tuple          # (field, header)
    limit: tuple = None    # (field, function of results and a line, words)


_HELD = ('caller_us', 'caller held')
_BACK = ('reclaim_ms', 'memory back')

SECTIONS = (
    Section('limits', 'The physical limits',
            'What the machine can do, with nothing of the library: the speed of bare threads '
            'that only call MADV_DONTNEED, one mremap, a store, the wake of a thread.',
            ('subject', 'threads', 'kind', 'size'),
            (('pair_ns', 'one of them'), ('caller_us', 'caller held'),
             ('woken_us', 'until it runs'), ('period_us', 'takes'),
             ('gib_per_s', 'speed'))),
    Section('put', 'The last put of an arena',
            'How long the caller is held that gives an arena back. *Warm*: another space was '
            'put just before, as in a program that does so all the time.',
            ('size', 'subject'), (_HELD, _BACK),
            ('caller_us', _wake, 'the wake of a sleeping thread')),
    Section('sizes', 'From 64 KiB to 16 GiB',
            'Each way, from small to large. td_munmap and td_region_unmap have their default '
            'threshold: below 64 MiB they are munmap. The limit is one bare mremap into a '
            'reservation; of a put, which moves nothing, it is the wake of a sleeping thread.',
            ('size', 'subject'), (_HELD, _BACK),
            ('caller_us', _of_size, "one bare mremap; a put's: a wake")),
    Section('reclaim', 'How fast memory comes back',
            'munmap in its caller, reapers, and as the limit as many bare threads that only '
            'call MADV_DONTNEED.', ('subject', 'size'), (('gib_per_s', 'speed'),),
            ('gib_per_s', _bare, 'as many bare threads')),
    Section('unmap', 'Kinds of memory',
            'A thread of its own that munmaps leaves the range in sight until it comes to it.',
            ('kind', 'size', 'subject'), (_HELD, _BACK),
            ('caller_us', _mremap, 'one bare mremap')),
    Section('threshold', 'From what size on',
            'Everything is handed over here, also what td_munmap would unmap in its caller.',
            ('kind', 'size', 'subject'), (_HELD, ('cpu_us', 'CPU time, with the reaper'))),
    Section('stall', 'What another thread notices',
            'A thread maps, touches and unmaps 64 KiB all the time while the memory goes.',
            ('subject', 'size'),
            (('probes_per_s', 'probes a second'), ('p50_us', 'half'), ('p99_us', '99 %'),
             ('p999_us', '99.9 %'), ('worst_us', 'worst'), ('freed_ms', 'memory back')),
            ('worst_us', _idle, 'nothing is freed')),
    Section('stall_curve', 'What somebody waits who comes at any moment',
            'Weighted by time: one stall of half a second is half a second in which everybody '
            'who comes waits, not one probe among many.',
            ('subject', 'size'),
            (('p50_us', 'half'), ('p90_us', '90 %'), ('p99_us', '99 %'),
             ('p999_us', '99.9 %'), ('p9999_us', '99.99 %'), ('worst_us', 'worst')),
            ('worst_us', _idle, 'nothing is freed')),
    Section('slices', "The slice's target",
            'How long a slice may last, against what another thread notices and how fast '
            'memory comes back.', ('kind', 'target_us', 'fast'),
            (('reclaim_gib_per_s', 'speed'), ('stall_p99_us', 'stall, 99 %'),
             ('stall_max_us', 'worst stall'), ('cpu_ms', "the reaper's CPU time"))),
    Section('lookup', 'Looking a region up',
            'Against a binary search in a sorted array, which nobody may change meanwhile. '
            'Updates are without their system calls.', ('regions', 'readers', 'subject'),
            (('lookup_ns', 'look-up'), ('update_ns', 'update'),
             ('syscall_ns', 'its system calls')), ('lookup_ns', _array, 'binary search')),
    Section('batch', 'Objects that readers may still see',
            'Objects of 200 bytes. ck_epoch_call is the call alone, whose callbacks the same '
            'thread makes later; call_rcu_list hands a chain of a thousand to one call_rcu. The '
            'longest call is the longest of those that were not preempted.',
            ('threads', 'order', 'subject'),
            (('queue_ns', 'queue one, in the cache'), ('queue_cold_ns', 'out of it'),
             ('total_ns', 'until all are freed'), ('max_wait_us', 'longest call'),
             ('max_wait_preempted_us', 'longest, preempted or not'),
             ('grace_periods', 'grace periods'), ('extra_bytes', 'bytes for each'),
             ('peak_bytes', 'most not freed')), ('queue_ns', _store, 'a store')),
    Section('refs', 'References',
            'Taken and given back, by threads that all do so with one object; and the pass '
            'over the slots of idle threads when a space dies.',
            ('threads', 'slots', 'subject'),
            (('pair_ns', 'a pair'), ('pass_us', 'the pass'), ('cold_us', 'with cold caches')),
            ('pair_ns', _store, 'a store')),
    Section('small', 'A small work behind large ones', 'It frees one page.',
            ('size', 'subject'),
            (('small_us', 'the small one is done'), ('all_ms', 'all are done'))),
    Section('budget', 'A loop with memory for two arenas',
            'In a memory cgroup. *Thread*: a bare thread that unmaps what it is handed, '
            'however much that is.', ('loops', 'size', 'subject'),
            (('gib_per_s', 'throughput'), ('worst_hold_us', 'longest call'),
             ('worst_hold_cpu_us', 'its CPU time'), ('cpu_ms_per_gib', 'CPU time for a GiB'),
             ('peak_pending', 'most pending'), ('oom', 'killed, runs'))),
    Section('foreground', 'A program on every CPU', 'What it keeps of its speed meanwhile.',
            ('size', 'subject'),
            (('work_percent', 'speed kept'), ('back_ms', 'memory back'),
             ('held_us', 'caller held'))),
    Section('allocator', 'Allocators', "What it takes to be rid of an arena, each as its own "
            'documentation advises, and with the library behind it.', ('kind', 'size', 'subject'),
            (_HELD, _BACK, ('worst_stall_us', "another thread's worst stall")),
            ('caller_us', _mremap, 'one bare mremap')),
    Section('kill', 'Killing a process', 'Until its memory is back.',
            ('kind', 'size', 'subject'),
            (_BACK, ('caller_cpu_ms', 'CPU time of who kills')),
            ('reclaim_ms', _all_threads, 'bare threads with MADV_DONTNEED')),
    Section('exit', 'A process full of memory ends',
            "QEMU's design is a stand-in with a helper that naps for a second where it loses "
            'a race: *naps* counts the rounds.', ('kind', 'size', 'end', 'subject'),
            (('waitpid_ms', 'waitpid'), _BACK, ('naps', 'naps')),
            ('reclaim_ms', _all_threads, 'bare threads with MADV_DONTNEED')),
    Section('demo', 'The demo', 'One round of examples/arena.c.', ('size', 'subject'),
            (('munmap_caller_us', 'munmap: caller held'),
             ('td_caller_us', 'put: caller held'),
             ('munmap_worst_stall_us', 'munmap: worst stall'),
             ('td_worst_stall_us', 'put: worst stall'))),
    Section('count', 'Instructions', 'Counted, not timed: the same on every run.',
            ('subject',), (('instructions', 'instructions'), ('reference', 'reference'))),
)
