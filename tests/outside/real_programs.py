#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""usage: real_programs.py TEARDOWN redis|qemu|python

Programs as they are, with `teardown run` and without: they answer the same and end with
the same exit status; the exit helper is there, and ends when the memory is back. Times
are printed, not judged. 77: the program is not installed.
"""

import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

failures = []
running = []


def check(is_right, what):
    if not is_right:
        failures.append(what)
        print(f'FAILED: {what}')


class Program:
    """A process, with `teardown run` or without, and its helper."""

    def __init__(self, name, command, with_it, where, **options):
        self.name = f'{name}, {"teardown run" if with_it else "plain"}'
        self.with_it = with_it
        self.log = os.path.join(where, f'{name}.log')
        if with_it:
            command = [tool, 'run', '--verbose', '--', *command]
        with open(self.log, 'wb') as log:
            self.process = subprocess.Popen(command, stderr=log, start_new_session=True,
                                            cwd=where, **options)
        self.helper = None
        running.append(self)

    def find_helper(self):
        """A pidfd of it: it outlives the program."""
        if not self.with_it:
            return
        wanted = f'td-exit:{self.process.pid}'
        for pid in os.listdir('/proc'):
            try:
                with open(f'/proc/{pid}/comm', encoding='ascii', errors='replace') as file:
                    if file.read().strip() == wanted and self.helper is None:
                        self.helper = os.pidfd_open(int(pid))
            except OSError:
                pass
        check(self.helper is not None, f'{self.name}: has a helper')

    def resident(self):
        with open(f'/proc/{self.process.pid}/status', encoding='ascii') as file:
            for line in file:
                if line.startswith('VmRSS:'):
                    return int(line.split()[1]) >> 10
        return 0

    def end(self, how, code):
        """how() makes it end."""
        self.find_helper()
        resident = self.resident()
        began = time.monotonic()
        how()
        try:
            status = self.process.wait(30)
        except subprocess.TimeoutExpired:
            status = 'did not end'
        ended = time.monotonic() - began
        check(status == code, f'{self.name}: exit status {status}, not {code}')
        text = f'{self.name}: {resident} MiB, ended after {ended * 1000:.1f} ms'
        if self.helper is not None:
            ready = select.select([self.helper], [], [], 30)[0]
            check(ready, f'{self.name}: the helper ends')
            text += f', memory back after {(time.monotonic() - began) * 1000:.1f} ms'
        print(text)
        if self.with_it:
            self.tell()
        self.close()

    def kill(self):
        os.kill(self.process.pid, signal.SIGKILL)

    def tell(self):
        with open(self.log, encoding='utf-8', errors='replace') as file:
            for line in file:
                if line.startswith('libteardown-run: '):
                    print('  ' + line.strip())

    def close(self):
        if self.process.poll() is None:
            self.kill()
            self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe:
                pipe.close()
        if self.helper is not None:
            os.close(self.helper)
            self.helper = None
        if self in running:
            running.remove(self)


# ---- redis ----


class Redis:
    def __init__(self, where, with_it, server):
        self.path = os.path.join(where, 'socket')
        self.program = Program('redis', [
            server, '--port', '0', '--unixsocket', self.path, '--save', '',
            '--appendonly', 'no', '--enable-debug-command', 'yes', '--daemonize', 'no',
            '--logfile', os.path.join(where, 'redis.out')], with_it, where,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(60)
        until = time.monotonic() + 30
        while True:
            try:
                self.socket.connect(self.path)
                break
            except OSError:
                if self.program.process.poll() is not None or time.monotonic() > until:
                    raise
                time.sleep(0.01)
        self.file = self.socket.makefile('rb')

    def send(self, *words):
        parts = [f'*{len(words)}\r\n'.encode()]
        for word in words:
            word = str(word).encode()
            parts.append(b'$%d\r\n%s\r\n' % (len(word), word))
        self.socket.sendall(b''.join(parts))

    def reply(self):
        line = self.file.readline().strip()
        if line[:1] == b'$' and line != b'$-1':
            return self.file.read(int(line[1:]) + 2)[:-2]
        if line[:1] == b'*':
            return [self.reply() for _ in range(int(line[1:]))]
        return line

    def ask(self, *words):
        self.send(*words)
        return self.reply()

    def close(self):
        self.file.close()
        self.socket.close()


def redis_fill(redis):
    began = time.monotonic()
    replies = [redis.ask('DEBUG', 'POPULATE', 250000, 'key', 4096)]
    print(f'{redis.program.name}: filled in {time.monotonic() - began:.2f} s')
    for i in range(200):
        redis.send('SET', f'own:{i}', f'{i}' * (i * 7 + 1))
    replies += [redis.reply() for _ in range(200)]
    replies += [redis.ask('GET', f'own:{i}') for i in range(200)]
    check(replies[-1] == b'199' * 1394, f'{redis.program.name}: a key written and read back')
    replies += [redis.ask('DBSIZE'), redis.ask('STRLEN', 'key:249999'),
                redis.ask('DEBUG', 'DIGEST-VALUE', 'key:0', 'key:77777', 'own:199')]
    check(replies[-3] == b':250200', f'{redis.program.name}: DBSIZE')
    return replies


def redis_run(where, with_it, server):
    """All its answers."""
    redis = Redis(where, with_it, server)
    answers = redis_fill(redis)
    began = time.monotonic()
    answers += [redis.ask('FLUSHALL'), redis.ask('DBSIZE'), redis.ask('GET', 'own:3')]
    print(f'{redis.program.name}: FLUSHALL in {time.monotonic() - began:.2f} s')
    answers += redis_fill(redis)
    redis.program.end(lambda: redis.send('SHUTDOWN', 'NOSAVE'), 0)
    redis.close()
    return answers


def redis_kill(where, server):
    redis = Redis(where, True, server)
    redis_fill(redis)
    redis.program.end(redis.program.kill, -signal.SIGKILL)
    redis.close()


def test_redis():
    # In Debian both are one program, which looks at its name; this one comes without a
    # service that starts at once.
    binary = shutil.which('redis-server') or shutil.which('redis-check-rdb')
    if not binary:
        skip('redis-tools is not installed')
    with tempfile.TemporaryDirectory() as where:
        server = os.path.join(where, 'redis-server')
        os.symlink(os.path.realpath(binary), server)
        if b'Redis server' not in subprocess.run([server, '--version'], check=False,
                                                 capture_output=True).stdout:
            skip(f'{binary} is not the server')
        check(redis_run(where, False, server) == redis_run(where, True, server),
              'redis: answers')
        redis_kill(where, server)


# ---- qemu ----


def qemu_start(where, with_it, qemu):
    program = Program('qemu', [
        qemu, '-nodefaults', '-display', 'none', '-S', '-accel', 'tcg',
        '-object', 'memory-backend-ram,id=memory,size=2G,prealloc=on',
        '-machine', 'q35,memory-backend=memory', '-m', '2G', '-monitor', 'stdio'],
        with_it, where, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    os.set_blocking(program.process.stdout.fileno(), False)
    return program


def qemu_ask(program, command):
    """What the monitor says until it asks for more."""
    said = b''
    until = time.monotonic() + 60
    if command:
        program.process.stdin.write(command.encode() + b'\n')
        program.process.stdin.flush()
    while not said.endswith(b'(qemu) '):
        left = until - time.monotonic()
        if left <= 0 or not select.select([program.process.stdout], [], [], left)[0]:
            break
        part = program.process.stdout.read(65536)
        if not part:
            break
        said += part
    check(said.endswith(b'(qemu) '), f'{program.name}: {command} is answered')
    return said


def qemu_quit(program):
    program.process.stdin.write(b'quit\n')
    program.process.stdin.flush()


def qemu_run(where, with_it, qemu):
    program = qemu_start(where, with_it, qemu)
    answers = [qemu_ask(program, command) for command in (
        '', 'info status', 'info memdev', 'xp /32bx 0xffffffe0', 'xp /8bx 0x70000000')]
    check(b'paused' in answers[1], f'{program.name}: is stopped')
    check(program.resident() >= 2048, f'{program.name}: has its 2 GiB')
    program.end(lambda: qemu_quit(program), 0)
    return answers


def qemu_kill(where, qemu):
    program = qemu_start(where, True, qemu)
    qemu_ask(program, '')
    program.end(program.kill, -signal.SIGKILL)


def test_qemu():
    qemu = shutil.which('qemu-system-x86_64')
    if not qemu:
        skip('qemu-system-x86 is not installed (scripts/guest.sh)')
    with tempfile.TemporaryDirectory() as where:
        check(qemu_run(where, False, qemu) == qemu_run(where, True, qemu),
              'qemu: answers')
        qemu_kill(where, qemu)


# ---- python ----

WORK = r'''
import hashlib, mmap, multiprocessing, os, subprocess, sys, threading, zlib

def show(*what):
    print(*what, flush=True)

def large(n):
    data = bytearray(n << 20)
    data[::4096] = bytes(i & 255 for i in range(len(data) // 4096))
    return data

for i in range(2):
    data = large(256)
    show('bytearray', zlib.crc32(data))
    del data

data = bytearray()
while len(data) < 200 << 20: # grows by realloc
    data += bytes([len(data) >> 20 & 255]) * (9 << 20)
show('grown', len(data), zlib.crc32(data))
del data[100 << 20:]
show('shrunk', len(data), zlib.crc32(data))
text = 'x' * (90 << 20)
show('text', len(text.upper()), text.count('x'))
del text, data

memory = mmap.mmap(-1, 128 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
memory[100] = 5
memory.resize(256 << 20)
memory[-1] = 6
show('mmap', memory[100], memory[-1], len(memory))
memory.close()
shared = mmap.mmap(-1, 192 << 20)
shared[::1 << 20] = b'a' * 192
show('shared', shared[:].count(b'a'))
shared.close()

squeezed = zlib.compress(bytes(large(100)), 1)
show('zlib', len(squeezed), zlib.crc32(zlib.decompress(squeezed)))

inherited = large(80)
pid = os.fork()
if pid == 0:
    mine = large(70)
    show('child', zlib.crc32(mine), zlib.crc32(inherited))
    del inherited, mine
    os._exit(7)
show('waited', os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), zlib.crc32(inherited))

def part(i):
    return zlib.crc32(large(64 + i))

with multiprocessing.get_context('fork').Pool(2) as pool:
    show('pool', pool.map(part, range(4)))
found = []
threads = [threading.Thread(target=lambda i=i: found.append(part(i))) for i in range(3)]
for thread in threads: thread.start()
for thread in threads: thread.join()
show('threads', sorted(found))
done = subprocess.run([sys.executable, '-c', 'print(len(bytes(100 << 20)))'],
                      capture_output=True)
show('subprocess', done.stdout, done.returncode)
done = subprocess.run('cat', input=large(70), capture_output=True)
show('pipe', zlib.crc32(done.stdout))
kept = large(256)
sys.exit(43)
'''


def python_run(where, with_it):
    program = Program('python', [sys.executable, '-c', WORK], with_it, where,
                      stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    began = time.monotonic()
    try:
        out = program.process.communicate(timeout=60)[0].decode()
    except subprocess.TimeoutExpired:
        out = 'timed out'
    print(f'{program.name}: {time.monotonic() - began:.2f} s, {len(out)} bytes')
    if with_it:
        program.tell()
    code = program.process.returncode
    check(code == 43, f'{program.name}: exit status {code}, not 43')
    with open(program.log, encoding='utf-8', errors='replace') as file:
        errors = [line for line in file if not line.startswith('libteardown-run: ')]
    program.close()
    return out, errors


def test_python():
    with tempfile.TemporaryDirectory() as where:
        plain = python_run(where, False)
        preloaded = python_run(where, True)
        check(plain == preloaded, f'python: {plain} {preloaded}')
        check('subprocess' in plain[0], 'python: all of its work')


def skip(why):
    print(f'skipped: {why}')
    sys.exit(77)


def stop(number, _):
    sys.exit(128 + number)


tool = os.path.abspath(sys.argv[1])
signal.signal(signal.SIGTERM, stop)
try:
    {'redis': test_redis, 'qemu': test_qemu, 'python': test_python}[sys.argv[2]]()
finally:
    for each in running[:]:
        each.close()
sys.exit(1 if failures else 0)
