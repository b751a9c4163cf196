#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""usage: run.py INIT PROGRAM... [--spare PROGRAM...]

Boots Debian's cloud kernel in qemu, with a file system of busybox, the programs and the
libraries they need, runs the programs there and prints their TAP as one: each of their
points is a point here. Those after --spare are left out, and that is said, when the machine is
so busy that they would not end in time. The kernel and busybox are in $TD_GUEST_DIR, or else in
build-test/guest of the source tree, where scripts/guest.sh puts them; without them or
qemu everything is skipped.
"""
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time

NODES = 4
NODE_MIB = 640
BOOT_SECONDS = 165  # for everything: the suite has 3 minutes
PROGRAM_SECONDS = 90
# An emulated kernel hangs while it boots now and then, before there is anything of ours.
SILENT_SECONDS, BOOTS = 30, 3
SPARE_SECONDS = BOOT_SECONDS - PROGRAM_SECONDS  # none of the spare ones is begun later
NAME = 'guest'


class Cpio:
    """What the kernel unpacks as its first file system (cpio's "newc" format)."""

    def __init__(self):
        self.data = bytearray()
        self.seen = set()

    def put(self, path, mode, content=b''):
        name = path.lstrip('/').encode() + b'\0'
        fields = [len(self.seen) + 1, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name), 0]
        self.seen.add(path)
        self.data += b'070701' + b''.join(b'%08X' % field for field in fields) + name
        self.pad()
        self.data += content
        self.pad()

    def pad(self):
        self.data += bytes(-len(self.data) % 4)

    def directories_of(self, path):
        parent = os.path.dirname(path)
        if parent != '/' and parent not in self.seen:
            self.directories_of(parent)
            self.put(parent, 0o40755)

    def file(self, path, content, mode=0o100755):
        if path not in self.seen:
            self.directories_of(path)
            self.put(path, mode, content)

    def copy(self, path, source):
        with open(source, 'rb') as file:
            self.file(path, file.read())

    def link(self, path, target):
        self.file(path, target.encode(), 0o120777)

    def end(self):
        self.put('TRAILER!!!', 0)
        return bytes(self.data)


def skip(reason):
    print('1..0 # SKIP', reason)
    sys.exit(0)


def libraries(program):
    listed = subprocess.run(['ldd', program], check=True, stdout=subprocess.PIPE,
                            universal_newlines=True).stdout
    if 'not found' in listed:
        sys.exit('%s lacks libraries:\n%s' % (program, listed))
    found = re.findall(r'(/\S+) \(0x', listed)
    # The C library loads this by itself where a thread ends early.
    extra = [os.path.join(os.path.dirname(path), 'libgcc_s.so.1') for path in found
             if os.path.basename(path) == 'libc.so.6']
    return found + [path for path in extra if os.path.exists(path)]


def file_system(busybox, init, programs):
    cpio = Cpio()
    cpio.copy('/init', init)
    cpio.copy('/bin/busybox', busybox)
    cpio.link('/bin/sh', 'busybox')
    order, kind, kinds = [], 'must', []
    for program in programs:
        if program == '--spare':
            kind = 'spare'
            continue
        order.append(os.path.basename(program))
        kinds.append('%s %s\n' % (order[-1], kind))
        cpio.copy('/programs/' + order[-1], program)
        for library in libraries(program):
            cpio.copy(library, library)
    cpio.file('/programs/order', ''.join(kinds).encode())
    return cpio.end(), order


def command(kernel, initrd, console, results):
    words = ['qemu-system-x86_64', '-nodefaults', '-no-user-config', '-display', 'none',
             '-no-reboot', '-machine', 'pc', '-accel', 'tcg,thread=multi',
             '-smp', '%d,sockets=%d' % (NODES, NODES), '-m', '%dM' % (NODES * NODE_MIB)]
    for node in range(NODES):
        words += ['-object', 'memory-backend-ram,id=m%d,size=%dM' % (node, NODE_MIB),
                  '-numa', 'node,nodeid=%d,cpus=%d,memdev=m%d' % (node, node, node)]
    append = ['console=ttyS0', 'loglevel=5', 'panic=-1', 'oops=panic', 'psi=1',
              # Tests say where pages are; that time comes from qemu is good enough.
              'numa_balancing=disable', 'cgroup_no_v1=all', 'mitigations=off',
              'tsc=reliable', 'nowatchdog', 'rcupdate.rcu_expedited=1', 'program_seconds=%d' % PROGRAM_SECONDS, 'spare_seconds=%d' % SPARE_SECONDS]
    return words + ['-kernel', kernel, '-initrd', initrd, '-append', ' '.join(append),
                    '-serial', 'file:' + console, '-serial', 'file:' + results]


def boot(words, results, deadline):
    """Why the guest did not come to its end, or None; and whether it began at all."""
    began, first = False, time.monotonic() + SILENT_SECONDS
    with subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT) as qemu:
        while qemu.poll() is None:
            began = began or any(lines_of(results))
            if time.monotonic() > deadline or (not began and time.monotonic() > first):
                qemu.kill()
                return 'it was not done in time', began
            time.sleep(0.2)
        if qemu.returncode != 0:
            return 'qemu: %s' % qemu.stdout.read().decode(errors='replace').strip(), began
    return None, True


def lines_of(path):
    try:
        with open(path, 'rb') as file:
            return [line.rstrip('\r') for line in file.read().decode(errors='replace').split('\n')]
    except FileNotFoundError:
        return []


class Tap:
    """The points of all programs, numbered anew."""

    def __init__(self):
        self.count = 0

    def point(self, good, text, remarks=()):
        self.count += 1
        print('%sok %d - %s' % ('' if good else 'not ', self.count, text))
        for remark in remarks:
            print('# ' + remark)

    def program(self, name, out, err, status):
        """The points that a program printed, and one more if it ended otherwise than they say."""
        short = re.sub('^test_', '', name)
        none = re.match(r'1\.\.0\s*# SKIP (.*)', out[0]) if out else None
        if none and status == 0:
            self.point(True, '%s # SKIP %s' % (short, none.group(1)))
            return
        plan, seen, bad = None, 0, 0
        for line in out:
            planned = re.match(r'1\.\.(\d+)', line)
            point = re.match(r'(not )?ok\b\s*\d*\s*-?\s*(.*)', line)
            if planned and plan is None:
                plan = int(planned.group(1))
            elif point:
                seen += 1
                bad += bool(point.group(1))
                self.point(not point.group(1), '%s: %s' % (short, point.group(2)))
            elif line.strip():
                print('# ' + line.lstrip('# '))
        wrong = None
        if status is None:
            wrong = 'the guest ended first'
        elif status == 137:
            wrong = 'killed, after %d seconds or for another reason' % PROGRAM_SECONDS
        elif status != 0 and not bad:
            wrong = 'exit status %d' % status
        elif not plan or seen != plan:
            wrong = '%d points, planned were %s' % (seen, plan)
        if wrong:
            self.point(False, '%s: runs to its end' % short, [wrong])
        if wrong or bad:
            for line in err[-40:]:
                print('# stderr: ' + line)


def told(lines):
    """By program: output, errors, exit status (None: it did not end). And whether all ran."""
    runs, current, done = {}, None, False
    for line in lines:
        word, _, rest = line.partition(' ')
        if word == 'begin':
            current = runs.setdefault(rest, [[], [], None])
        elif word == 'o' and current:
            current[0].append(rest)
        elif word == 'e' and current:
            current[1].append(rest)
        elif word == 'end' and current:
            current[2] = int(rest.split()[1])
            print('# %s ended %s s after the guest began to boot' %
                  (rest.split()[0], rest.split()[2]))
        elif word == 'late':
            runs[rest] = [['1..0 # SKIP the guest has taken %d seconds already' %
                           SPARE_SECONDS], [], 0]
        elif word == 'done':
            done = True
    return runs, done


def main():
    source = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    parts = os.environ.get('TD_GUEST_DIR') or os.path.join(source, 'build-test', NAME)
    kernel, busybox = (os.path.join(parts, name) for name in ('vmlinuz', 'busybox'))
    if not shutil.which('qemu-system-x86_64'):
        skip('qemu-system-x86_64 is not installed: scripts/guest.sh')
    for path in (kernel, busybox):
        if not os.access(path, os.R_OK):
            skip('the guest has no %s: scripts/guest.sh' % os.path.basename(path))
    tap = Tap()
    with tempfile.TemporaryDirectory() as tmp:
        initrd, console, results = (os.path.join(tmp, name)
                                    for name in ('initrd', 'console', 'results'))
        content, order = file_system(busybox, sys.argv[1], sys.argv[2:])
        with open(initrd, 'wb') as file:
            file.write(content)
        deadline = time.monotonic() + BOOT_SECONDS
        for left in range(BOOTS - 1, -1, -1):
            wrong, began = boot(command(kernel, initrd, console, results), results, deadline)
            if began or not left or time.monotonic() > deadline:
                break
            print('# %s, before any program began: once more' % wrong)
        runs, done = told(lines_of(results))
        for name in order:
            tap.program(name, *runs.get(name, ([], [], None)))
        if not wrong and not done:
            wrong = 'it ended early'
        tap.point(not wrong, 'the guest runs to its end',
                  [wrong] + lines_of(console)[-60:] if wrong else ())
    print('1..%d' % tap.count)


main()
