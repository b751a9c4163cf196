# SPDX-License-Identifier: MIT
"""Figures, names and tables as people read them."""

_TIMES = (('ns', 1.0), ('us', 1e3), ('ms', 1e6), ('s', 1e9))
_SIZES = (('TiB', 40), ('GiB', 30), ('MiB', 20), ('KiB', 10))

NAMES = {
    'munmap': 'munmap', 'thread': 'munmap in a thread', 'idle': 'nothing is freed',
    'chunks': 'MADV_DONTNEED in chunks, then munmap',
    'thread_chunks': 'chunks in a thread', 'mremap': 'one bare mremap',
    'td_munmap': 'td_munmap', 'td_region': 'td_region_unmap', 'td_space_put': 'td_space_put',
    'td_space_put_warm': 'td_space_put, warm', 'td_munmap_burst': 'td_munmap, many calls',
    'free': 'free', 'td_batch': 'td_batch, pointers', 'td_batch_node': 'td_batch, nodes',
    'td_batch_list': 'td_batch, lists', 'td_batch_bounded': 'td_batch, pointers, bounded',
    'td_batch_no_room': 'td_batch, no room',
    'wake': 'wake of a sleeping thread', 'store': 'a store', 'grace_period': 'a grace period',
    'atomic': 'bare atomic pair',
    'td_user': 'td_space_get, put', 'td_count': 'td_space_grab, drop',
    'lazy': 'td_lazy_enter, leave', 'lazy_xchg': 'the same without membarrier',
    'exchange': 'bare exchange', 'rcu': 'rcu_read_lock, unlock', 'plain': 'plain exit',
    'qemu_design': "a helper of QEMU's design", 'qemu': 'QEMU',
    'qemu_async': 'QEMU -async-teardown', 'sigkill': 'SIGKILL',
    'mrelease': 'SIGKILL, process_mrelease', 'bsearch': 'binary search',
    'help': 'td_munmap, helping', 'block': 'td_munmap, waiting',
    'again': 'td_munmap, -EAGAIN', 'jemalloc_background': 'jemalloc, background_thread',
    'jemalloc_decay_1s': 'jemalloc, decay of 1 s',
    'jemalloc_decay_0': 'jemalloc, no decay', 'jemalloc_purge': 'jemalloc, free and purge',
    'jemalloc_destroy': 'jemalloc, arena destroyed', 'td_hooks_free': 'our hooks, free',
    'td_hooks_destroy': 'our hooks, arena destroyed',
    'mimalloc_collect': 'mimalloc, mi_collect', 'td_spaces': 'behind td spaces',
    'td_space': 'behind one td space', 'nothing': 'nothing is freed',
}
# A subject that is called the same in several scenarios.
NAMES_IN = {('kill', 'td'): 'td_process_kill', ('exit', 'td'): 'td_exit_arm',
            ('lookup', 'td'): 'td_region_lookup', ('slices', 'td'): 'td_space_put',
            ('small', 'thread'): 'behind a thread that munmaps',
            ('count', 'get'): 'td_space_get', ('count', 'put'): 'td_space_put',
            ('count', 'grab'): 'td_space_grab', ('count', 'drop'): 'td_space_drop',
            ('count', 'lazy_enter'): 'td_lazy_enter',
            ('count', 'lazy_leave'): 'td_lazy_leave', ('count', 'atomic_add'): 'a bare atomic',
            ('count', 'atomic_sub'): 'a bare atomic',
            ('count', 'lookup_64'): 'td_region_lookup, 64 regions',
            ('count', 'lookup_4096'): 'td_region_lookup, 4,096 regions',
            ('count', 'search_64'): 'binary search, 64 regions',
            ('count', 'search_4096'): 'binary search, 4,096 regions',
            ('count', 'batch_pointer'): 'td_batch, pointers',
            ('count', 'batch_node'): 'td_batch, nodes'}
KINDS = {'anon4k': '4 KiB pages', 'thp': 'transparent huge pages', 'hugetlb': 'hugetlb pages',
         'memfd': 'a memfd', 'shared_anon': 'shared anonymous memory', 'file': 'a file',
         'locked': 'locked memory'}


def digits(value):
    """Three digits that count, thousands apart."""
    size = abs(value)
    if size >= 100:
        return f'{value:,.0f}'
    if size >= 10:
        return f'{value:.1f}'
    return f'{value:.2f}' if size >= 0.01 or size == 0 else f'{value:.2g}'


def size(value):
    """Bytes, in the largest unit of which there is a whole one."""
    value = float(value)
    for unit, shift in _SIZES:
        if value >= 1 << shift:
            count = value / (1 << shift)
            return f'{count:g} {unit}' if count == int(count) else f'{digits(count)} {unit}'
    return f'{value:.0f} bytes'


def unit_of(field):
    """What a field of a results file is counted in, by its name."""
    for ending, _ in _TIMES[:3]:
        if field.endswith('_' + ending):
            return ending
    if '_ms_per_' in field:
        return 'ms'
    if field.endswith('gib_per_s'):
        return 'GiB/s'
    if field.endswith('_percent'):
        return '%'
    if field.endswith('_bytes') or field == 'peak_pending':
        return 'bytes'
    return ''


def figure(value, unit):
    """A value in its unit, or in one that suits it better."""
    if value is None:
        return ''
    known = dict(_TIMES)
    if unit in known:
        nanoseconds = value * known[unit]
        for name, scale in reversed(_TIMES):
            if abs(nanoseconds) >= scale or name == 'ns':
                return f'{digits(nanoseconds / scale)} {"µs" if name == "us" else name}'
    if not unit and value == int(value):
        return f'{value:,.0f}'
    if unit == 'bytes' and value >= 1024:
        return size(value)
    return f'{digits(value)} {unit}'.rstrip()


def name(subject, bench=None):
    """A subject of a scenario, in words."""
    if (bench, subject) in NAMES_IN:
        return NAMES_IN[bench, subject]
    for prefix, words in (('td_', 'reaper'), ('bare_', 'bare thread'),
                          ('madvise_', 'bare thread')):
        count = subject[len(prefix):]
        if subject.startswith(prefix) and count.isdigit():
            return plural(count, words)
    return NAMES.get(subject, subject)


def plural(count, word):
    """1 thread, 2 threads"""
    return f'{count} {word}{"" if str(count) == "1" else "s"}'


def key(field, value, bench=None):
    """The value of a field that tells lines apart, in words."""
    if field == 'size':
        return size(value)
    if field == 'kind':
        return KINDS.get(value, value)
    if field == 'subject':
        return name(value, bench)
    if field == 'target_us':
        return figure(float(value), 'us')
    return {'exit': 'by exit', 'kill': 'by SIGKILL'}.get(value, value)


def times(ratio):
    """How many times more or less that is: the ratio is one over the other."""
    return f'{digits(ratio if ratio >= 1 else 1 / ratio)} times'


def table(header, rows, right=()):
    """Lines of Markdown. right: the columns that are numbers."""
    lines = ['| ' + ' | '.join(header) + ' |',
             '|' + '|'.join('---:' if i in right else '---' for i in range(len(header))) + '|']
    for row in rows:
        lines.append('| ' + ' | '.join(str(cell).replace('|', '\\|') for cell in row) + ' |')
    return lines
