#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""usage: preload.py TEARDOWN VICTIM VICTIM_WITH_MALLOC

Runs a program that knows nothing of the library with `teardown run` and without: it must
say the same and end the same. What was done for it is told by TEARDOWN_VERBOSE.
"""

import glob
import os
import re
import signal
import subprocess
import sys
import time

THRESHOLD = str(1 << 20)
# Set by `meson test`: glibc then writes all of each block, and of what is no block.
os.environ.pop('MALLOC_PERTURB_', None)
failures = []
again = 0  # calls of all that were refused, and tried again


def run(command, **env):
    """Output, exit status and standard error; whatever it started is ended."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                               env={**os.environ, **env}, start_new_session=True)
    began = time.monotonic()
    try:
        out, err = process.communicate(timeout=60)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        out, err = process.communicate()
        err += b'timed out'
    took = time.monotonic() - began
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    told = {}
    for line in err.decode(errors='replace').splitlines():
        match = re.match(r'libteardown-run: pid (\d+): exit helper (.*), engine (.*); '
                         r'(\d+) munmaps later, (\d+) by the caller; zone (.*), '
                         r'(\d+) allocations, (\d+) frees later, (\d+) by the caller; '
                         r'(\d+) calls tried again', line)
        if match:
            told[int(match[1])] = {
                'helper': match[2], 'engine': match[3], 'munmaps': int(match[4]),
                'zone': match[6], 'allocations': int(match[7]), 'frees': int(match[8]),
                'again': int(match[10])}
    return {'out': out.decode(errors='replace'), 'code': process.returncode,
            'err': err.decode(errors='replace'), 'told': told, 'own': told.get(process.pid),
            'took': took, 'pid': process.pid}


def check(is_right, what, result=None):
    if is_right:
        return
    failures.append(what)
    print(f'FAILED: {what}')
    if result:
        print(result['out'][-2000:], result['err'][-2000:], 'exit:', result['code'])


def teardown(*command, **env):
    return run([tool, 'run', '--verbose', '--threshold', THRESHOLD, '--', *command], **env)


def both(program, what, **env):
    """The same with and without? Returns what was told, {} if nothing was."""
    plain = run([program, what, THRESHOLD], **env)
    with_it = teardown(program, what, THRESHOLD, **env)
    name = ' '.join([os.path.basename(program), what, *env.values()])
    check(plain['out'] == with_it['out'], f'{name}: output', with_it)
    check(plain['code'] == with_it['code'], f'{name}: exit status {plain["code"]}', with_it)
    check('WRONG' not in plain['out'] and plain['code'] not in (98, 99),
          f'{name}: by itself', plain)
    own = with_it['own']
    print(f'{name}: {plain["took"]:.2f} s, {with_it["took"]:.2f} s preloaded, {own}')
    global again  # pylint: disable=global-statement
    if own:
        again += own['again']
        check(own['helper'] in ('armed', 'ended'), f'{name}: the helper is armed', with_it)
        check(own['engine'] == 'made', f'{name}: the engine is made', with_it)
    return with_it, own or {}


def large_frees_are_later():
    _, told = both(victim, 'munmap')
    check(told.get('munmaps', 0) >= 5, 'munmap is deferred')
    _, told = both(victim, 'malloc')
    check(told.get('frees', 0) >= 100, 'free is deferred')
    _, told = both(victim, 'threads')
    check(told.get('frees', 0) >= 100 and told['munmaps'] >= 50, 'and in threads')
    both(victim, 'signals')


def children():
    result, told = both(victim, 'fork')
    others = [t for pid, t in result['told'].items() if t is not told]
    check(len(others) > 0 and all(t['helper'] == 'armed' for t in others),
          'children arm when they map much', result)
    check(all(t['munmaps'] >= 1 and t['frees'] >= 1 for t in others),
          'and free later', result)
    both(victim, 'vfork')
    both(victim, 'dontfork')
    # A child that does little does nothing.
    result = teardown('/bin/sh', '-c', '/bin/echo a; /bin/echo b; true')
    check(result['out'] == 'a\nb\n' and not result['told'].keys() - {result['pid']},
          'small children arm nothing', result)


def limits():
    both(victim, 'limit')
    both(victim, 'late-limit')
    _, told = both(victim, 'many')
    check(0 < told.get('allocations', 0) < 16000, 'most mappings are left to the program')
    # A limit from the start: there is no zone.
    limited = ['/bin/sh', '-c', f'ulimit -v 2000000; exec {victim} limit {THRESHOLD}']
    plain, result = run(limited), teardown(*limited)
    check(plain['out'] == result['out'] and plain['code'] == result['code'],
          'under ulimit -v', result)
    check((result['own'] or {}).get('zone') == 'not used', 'no zone under ulimit -v', result)


def ends():
    for how, code in (('main-leaves', 0), ('handler', 21), ('_exit', 22),
                      ('quick_exit', 23), ('abort', -signal.SIGABRT),
                      ('kill', -signal.SIGKILL), ('fault', -signal.SIGSEGV),
                      ('bad-free', -signal.SIGABRT), ('exec', 24)):
        result, _ = both(victim, how)
        check(result['code'] == code, f'{how}: {code}', result)


def reserved_is_not_dumped():
    """A debugger writes all to its core file but what is marked (dd)."""
    result = teardown('cat', '/proc/self/smaps')
    sizes = [int(size) for size in re.findall(r'^Size: +(\d+) kB', result['out'], re.M)]
    flags = re.findall(r'^VmFlags:(.*)$', result['out'], re.M)
    check(len(flags) == len(sizes) > 10 and sum(sizes) > 1 << 26, 'address space is reserved')
    dumped = sum(size for size, flag in zip(sizes, flags) if 'dd' not in flag.split())
    check(dumped < 1 << 20, f'a debugger dumps {dumped >> 10} MiB')


def other_allocators():
    _, told = both(own_malloc, 'munmap')
    check(told.get('zone') == 'not used' and told['munmaps'] >= 5, "a program's own malloc")
    both(own_malloc, 'handler')
    both(own_malloc, 'vfork')
    jemalloc = sorted(glob.glob('/usr/lib/*/libjemalloc.so.2'))
    if not jemalloc:
        print('jemalloc: not installed, left out')
        return
    _, told = both(victim, 'threads', LD_PRELOAD=jemalloc[0])
    check(told.get('zone') == 'not used' and told['munmaps'] >= 50, 'jemalloc')
    both(victim, 'munmap', LD_PRELOAD=jemalloc[0])


def settings():
    result = teardown(victim, 'handler', THRESHOLD, TEARDOWN_ZONE='0')
    check(result['code'] == 21 and result['own']['zone'] == 'not used', 'TEARDOWN_ZONE=0',
          result)
    result = teardown(victim, 'handler', THRESHOLD, TEARDOWN_BUDGET='12x',
                      TEARDOWN_ZONE='no')
    lines = [line for line in result['err'].splitlines() if 'ignored' in line]
    check(result['code'] == 21 and len(lines) == 2, 'what is malformed is ignored', result)
    result = run([tool, 'run', '--threshold', THRESHOLD, '--', victim, 'handler', THRESHOLD])
    check(result['err'] == '' and result['code'] == 21, 'silent unless asked', result)


def rights():
    """Who gives up rights has a helper without them."""
    if os.getuid() != 0:
        print('rights: not run by root, left out')
        return
    code = 'import os; os.setgid(65534); os.setuid(65534); print(1, flush=True); input()'
    with subprocess.Popen([tool, 'run', '--', sys.executable, '-c', code], cwd='/',
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        started.add(process.pid)
        process.stdout.readline()
        helpers = []
        for path in glob.glob('/proc/[0-9]*/status'):
            try:
                with open(path, encoding='ascii', errors='replace') as file:
                    lines = dict(line.rstrip('\n').split(':\t', 1) for line in file
                                 if ':\t' in line)
            except OSError:
                continue
            if lines['Name'] == f'td-exit:{process.pid}' and lines['State'][0] != 'Z':
                helpers.append(lines['Uid'])
        process.stdin.write(b'\n')
        process.stdin.close()
        check(process.wait(30) == 0, 'after setuid the exit status is right')
        check(helpers == ['65534\t65534\t65534\t65534'], f'its helper: {helpers}')


def nobody_is_left():
    """Helpers end when the memory is back."""
    end = time.monotonic() + 10
    left = ['?']
    while left and time.monotonic() < end:
        left = []
        for path in glob.glob('/proc/[0-9]*/stat'):
            try:
                with open(path, encoding='ascii', errors='replace') as file:
                    text = file.read()
            except OSError:
                continue
            name, state = text[text.find('(') + 1:text.rfind(')')], text.split(') ')[-1][0]
            of = name[len('td-exit:'):]
            if name.startswith('td-exit:') and state != 'Z' and int(of or 0) in started:
                left.append(name)
        if left:
            time.sleep(0.02)
    check(not left, f'helpers that are left: {left}')


tool, victim, own_malloc = map(os.path.abspath, sys.argv[1:4])
started = set()
_run = run


def run(command, **env):  # pylint: disable=function-redefined
    result = _run(command, **env)
    started.update(result['told'])
    return result


large_frees_are_later()
children()
limits()
ends()
reserved_is_not_dumped()
other_allocators()
# Whether anything is pending when a call is refused is a matter of chance, each time.
check(again > 0, 'no refused call was tried again')
settings()
rights()
nobody_is_left()
sys.exit(1 if failures else 0)
