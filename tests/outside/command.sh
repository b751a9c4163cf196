#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# usage: command.sh SRC BUILD HOLDER PRELOADED FILTERED
# The command teardown, as it is installed: what it prints, its exit codes, and what
# becomes of the processes it is told to run, to kill or to wait for (rows C1, C2, C5,
# A12). HOLDER is holder.c, PRELOADED stands in for what `teardown run` loads,
# FILTERED is filtered.c.
# shellcheck disable=SC2016,SC2317 # other shells' variables; functions called indirectly
set -euo pipefail

src=$(realpath "$1")
build=$(realpath "$2")
holder=$(realpath "$3")
preloaded=$(realpath "$4")
filtered=$(realpath "$5")
tmp=$(mktemp -d)
bad=0
skipped=()
started=()
own=$BASHPID

# Kills what was started here and is still there.
finish() {
	local pid
	[ "$BASHPID" -eq "$own" ] || return 0
	for pid in "${started[@]}"; do
		[ ! "/proc/$pid/exe" -ef "$holder" ] || kill -KILL "$pid" || true
	done
	rm -rf "$tmp"
}
trap finish EXIT
chmod 755 "$tmp" # for other users, too
cd "$tmp"

fail() {
	bad=1
	printf 'FAILED: %s\n' "$*"
	sed -n '1,9s/^/    out: /p' out
	sed -n '1,9s/^/    err: /p' err
}

# expect CODE OUT ERR CMD...: the exit code, and what standard output and standard error
# must match as a whole (=~; '' for nothing at all).
expect() {
	local code=$1 out=$2 err=$3 is=0
	shift 3
	# The shell's own word on a signal is not wanted.
	{ "$@" >out 2>err </dev/null || is=$?; } 2>/dev/null
	[ "$is" -eq "$code" ] || fail "$*: exit code $is, not $code"
	[[ $(<out) =~ ^($out)$ ]] || fail "$*: printed something else than '$out'"
	[[ $(<err) =~ ^($err)$ ]] || fail "$*: said something else than '$err'"
}

# until_true CMD...: for what happens in another process, and certainly soon.
until_true() {
	for _ in {1..500}; do
		! "$@" || return 0
		sleep 0.01
	done
	echo "never true: $*"
	exit 1
}

# hold MIB [MODE]: starts a holder of memory. Its PID is in $pid, that of the other
# process, if any, in $other.
hold() {
	local ready
	: >ready
	"$holder" "$@" >ready 2>&1 </dev/null &
	disown
	until_true test -s ready
	read -r ready pid other < <(cat ready)
	if [ "$ready" != ready ]; then
		echo "holder: $ready $pid $other"
		exit 1
	fi
	started+=("$pid")
	[ "$other" -eq 0 ] || started+=("$other")
}
touch out err

ended() {
	! kill -0 "$1" 2>/dev/null
}

# Does a process hold a pidfd of another?
watches() {
	grep -qs "^Pid:[[:space:]]*$2\$" /proc/"$1"/fdinfo/*
}

# waiting CODE OUT PID: `teardown wait PID`, and once it does, SIGTERM to that.
waiting() {
	local is=0
	"$teardown" wait "$3" >out 2>err &
	until_true watches $! "$3"
	kill -TERM "$3"
	wait $! || is=$?
	[ "$is" -eq "$1" ] || fail "wait: exit code $is, not $1"
	[[ $(<out) =~ ^($2)$ ]] || fail "wait: printed something else than '$2'"
}

# ---- installed ----

DESTDIR=$tmp/dest meson install -C "$build" --no-rebuild >log 2>&1 || {
	cat log
	exit 1
}
teardown=$(find dest -path '*/bin/teardown')
manual=$(find dest -path '*/man/man1/teardown.1')
if [ -z "$teardown" ] || [ -z "$manual" ]; then
	echo "not installed: the command or its man page"
	exit 1
fi
teardown=$tmp/$teardown
cmp -s "$manual" "$src/tools/teardown.1" || fail "the man page is another one"

# ---- help, and how it is called ----

usage='usage: teardown .*'
expect 0 "$usage" '' "$teardown" --help
expect 0 'teardown [0-9.]+' '' "$teardown" --version
# options TEXT...: the long options that these lines name
options() {
	grep -oE -- '--[a-z]+' | sort -u
}
for name in run kill wait probe; do
	expect 0 "usage: teardown $name .*" '' "$teardown" "$name" --help
	# The man page's section about it names the same options.
	diff -u --label "teardown $name --help" --label "the man page" \
		<(options <out) \
		<(sed -n "/^\\.SS $name\$/,/^\\.S/p" "$manual" | sed 's/\\-/-/g' | options) ||
		fail "$name: the man page and --help name other options"
	expect 125 '' "teardown: $name: unknown option --no-such .see --help." \
		"$teardown" "$name" --no-such
	expect 125 '' "teardown: $name: unknown option -x .see --help." "$teardown" "$name" -x
done
expect 125 '' 'teardown: a command is missing .*' "$teardown"
expect 125 '' "teardown: unknown command 'frob' .*" "$teardown" frob
expect 125 '' 'teardown: unknown option --frob .*' "$teardown" --frob
expect 125 '' 'teardown: run: a command is missing .*' "$teardown" run --verbose
expect 125 '' 'teardown: run: --budget needs a value .*' "$teardown" run --budget
expect 125 '' 'teardown: run: --strict=1: takes no value .*' "$teardown" run --strict=1 true
expect 125 '' "teardown: run: --budget: not a size: '3X'" "$teardown" run --budget 3X true
expect 125 '' "teardown: run: --budget: not a size: '9999999T'" \
	"$teardown" run --budget 9999999T true
expect 125 '' "teardown: run: --threads: not a number .*: '0'" "$teardown" run --threads 0 true
expect 125 '' 'teardown: run: --cgroup: /dev/null: not a directory' \
	"$teardown" run --cgroup /dev/null true
expect 125 '' "teardown: kill: --timeout: not a number of seconds: '-1'" \
	"$teardown" kill --timeout -1 1
for name in kill wait; do
	expect 125 '' "teardown: $name: a PID is missing .*" "$teardown" "$name"
	for none in 0 -1 +1 1x '' 99999999999; do
		expect 125 '' "teardown: $name: not a PID: '[^ ]*'" "$teardown" "$name" -- "$none"
	done
done
expect 125 '' "teardown: probe: unexpected argument 'x' .*" "$teardown" probe x
expect 125 '' 'teardown: kill: cannot write to standard output: .*' \
	sh -c '"$1" kill --help >/dev/full' sh "$teardown"

# ---- run ----

# What was installed with it is found beside it, wherever that is.
if [ -n "$(find dest -name libteardown-run.so)" ]; then
	expect 0 ".* $tmp/dest/[^ ]*/teardown/libteardown-run.so.*" '' \
		"$teardown" run cat /proc/self/maps
else
	skipped+=("libteardown-run.so: it is not built here")
fi

export TEARDOWN_PRELOAD=$preloaded
expect 0 'word' '' "$teardown" run -- echo word
expect 7 '' '' "$teardown" run -- sh -c 'exit 7'
expect $((128 + 9)) '' '' "$teardown" run -- sh -c 'kill -KILL $$'
expect $((128 + 15)) '' '' "$teardown" run -- sh -c 'kill -TERM $$'
expect 127 '' 'teardown: run: no-such: No such file or directory' "$teardown" run -- no-such
expect 126 '' 'teardown: run: /etc/passwd: Permission denied' "$teardown" run -- /etc/passwd
mkdir bin
touch bin/not-to-run
expect 126 '' 'teardown: run: not-to-run: Permission denied' \
	env PATH="$tmp/bin:$PATH" "$teardown" run -- not-to-run
expect 0 '.*libteardown_preloaded.*' '' "$teardown" run cat /proc/self/maps
# In its own place: the program is the process that was started, and is told its PID.
expect 0 'same' '' sh -c 'echo $$ >pid; exec "$@"' sh "$teardown" run -- \
	sh -c '[ "$$ $$" = "$(cat pid) $TEARDOWN_PID" ] && echo same'
expect 0 '1073741824 4194304 3 /dev 1' '' \
	"$teardown" run --budget 1G --threshold=4M --threads 3 --cgroup /dev --verbose -- \
	sh -c 'echo "$TEARDOWN_BUDGET $TEARDOWN_THRESHOLD $TEARDOWN_THREADS \
$TEARDOWN_CGROUP $TEARDOWN_VERBOSE"'
expect 0 "$preloaded:libc.so.6" '' env LD_PRELOAD=libc.so.6 \
	"$teardown" run -- sh -c 'echo "$LD_PRELOAD"'
# A run within a run does not name it twice.
expect 0 "$preloaded" '' "$teardown" run -- "$teardown" run -- sh -c 'echo "$LD_PRELOAD"'

# cannot REASON CMD: runs without, or with --strict not at all.
cannot() {
	expect 125 '' "teardown: run: $2: $1; not run" "$teardown" run --strict -- "$2"
}
TEARDOWN_PRELOAD=/no/such cannot 'cannot be helped: libteardown-run.so was not found' true
expect 3 '' 'teardown: run: sh: cannot be helped: [^ ]* was not found; runs without' \
	env TEARDOWN_PRELOAD=/no/such "$teardown" run -- sh -c 'exit 3'
cp "$preloaded" "with a space.so"
TEARDOWN_PRELOAD="$tmp/with a space.so" cannot 'cannot be helped: LD_PRELOAD .*' true
echo 'int main(void) { return 0; }' >static.c
if "${CC:-cc}" -static static.c -o static 2>log; then
	cannot 'is statically linked' ./static
	expect 0 '' 'teardown: run: ./static: is statically linked; runs without' \
		"$teardown" run ./static
	printf '#!%s/static\n' "$tmp" >script
	chmod 755 script
	cannot 'is statically linked' ./script
else
	skipped+=("a static program: none could be linked")
fi
true=$(type -P true)
sed 's/ld-linux/ld-musl-/g' "$true" >musl
chmod 755 musl
if cmp -s musl "$true"; then
	skipped+=("another C library: the linker has another name here")
else
	cannot 'uses another C library .*ld-musl.*' ./musl
fi
if [ "$(id -u)" -eq 0 ]; then
	cp "$true" setuid
	chown 65534 setuid
	chmod 4755 setuid
	cannot 'is setuid' ./setuid
	chown 0:65534 setuid
	chmod 2755 setuid
	cannot 'is setgid' ./setuid
	chmod 755 setuid
	expect 0 '' '' "$teardown" run --strict ./setuid
else
	skipped+=("setuid programs: only root can make them")
fi
unset TEARDOWN_PRELOAD

# ---- kill ----

hold 256
expect 0 "$pid: [a-z ]+, 25[0-9][.][0-9] MiB in [0-9.]+ m?s" '' "$teardown" kill --wait "$pid"
ended "$pid" || fail "kill --wait: is still there"
expect 1 '' "teardown: kill: $pid: no such process" "$teardown" kill "$pid"
# The others are dealt with; each is named once.
gone=$pid
hold 16
expect 1 "$pid: [^:]*" "teardown: kill: $gone: no such process" \
	"$teardown" kill --wait "$gone" "$pid" "$pid"
ended "$pid" || fail "kill: left another one alive"
hold 16
expect 0 '' '' "$teardown" kill --quiet --wait "$pid"
expect 1 '' 'teardown: kill: 1: is init, .*' "$teardown" kill 1
# A parent that does not wait: the memory is back, and that is all.
hold 16 child
expect 124 "$pid: [^:]*" "teardown: kill: $pid: its parent has not waited for it" \
	"$teardown" kill --wait --timeout 0.3 "$pid"
# Again: it has ended, and still is there.
expect 0 "$pid: nothing left to release" '' "$teardown" kill "$pid"
kill -KILL "$other"
hold 64 share
expect 2 "$pid: [^,]*, [0-9.]+ MiB of [0-9.]+ MiB not back" '' "$teardown" kill --timeout 0.5 "$pid"
kill -KILL "$other"
if [ "$(id -u)" -eq 0 ] && command -v setpriv >/dev/null; then
	hold 1
	expect 1 '' "teardown: kill: $pid: Operation not permitted" \
		setpriv --reuid=65534 --regid=65534 --clear-groups "$teardown" kill "$pid"
	kill -KILL "$pid"
else
	skipped+=("a process of another user: this is not root")
fi
hold 256
if command -v script >/dev/null; then
	script -qec "'$teardown' kill $pid" typescript >out 2>err </dev/null || fail "kill on a terminal"
	[[ $(<out) == *'] '*' MiB back, '* ]] || fail "kill: no bar on a terminal"
else
	skipped+=("the bar: script(1) is missing")
	kill -KILL "$pid"
fi

# ---- wait ----

expect 1 '' "teardown: wait: $gone: no such process, and no exit helper of it" \
	"$teardown" wait --timeout 9 "$gone"
hold 16
expect 124 '' "teardown: wait: $pid: was still running when the time was over" \
	"$teardown" wait --timeout 0.05 "$pid"
waiting 0 "$pid: ended; it had no exit helper, and its memory is back" "$pid"
hold 64 arm
waiting 0 "$pid: ended; its memory is back [0-9.]+ m?s later" "$pid"
# The process is no more, and its helper is held up.
hold 16 arm
helper=$(grep -slx "td-exit:$pid" /proc/[0-9]*/comm || true) # others come and go
helper=${helper#/proc/}
helper=${helper%/comm}
started+=("$helper")
kill -STOP "$helper"
kill -KILL "$pid"
until_true ended "$pid"
expect 124 '' "teardown: wait: $pid: its exit helper was still at work when the time was over" \
	"$teardown" wait --timeout 0.05 "$pid"
kill -CONT "$helper"
"$teardown" wait --timeout 5 "$pid" >out 2>err || grep -q "no exit helper of it" err ||
	fail "wait: the helper of a process that is no more"
until_true ended "$helper"
hold 64 arm
expect 0 "$pid: .*, by its exit helper" '' "$teardown" kill --wait "$pid"

# ---- probe ----

lines='[a-z_]+: [^()]+ [(].+[)]'
expect 0 "($lines.)+$lines" '' "$teardown" probe
diff -u --label expected --label 'teardown probe' - <(sed 's/:.*//' out) <<'NAMES' ||
kernel
pidfd
exit_helper
process_mrelease
unshare_vm
kcmp
close_range
dontneed_locked
populate_write
membarrier
procmap_query
mremap_many
userfaultfd
vma_locks
yama
seccomp
psi
psi_triggers
cgroup
memory_limit
hugetlb
thp
numa_nodes
max_map_count
overcommit
NAMES
	fail "probe: other lines"
# says NAME VALUE: what probe said of it
says() {
	grep -qF "$1: $2 (" out || fail "probe: $1 is $2"
}
says kernel "$(uname -r)"
says max_map_count "$(</proc/sys/vm/max_map_count)"
says overcommit "$(</proc/sys/vm/overcommit_memory)"
[ ! -r /sys/devices/system/node/online ] || says numa_nodes "$(</sys/devices/system/node/online)"
case $(sed -n 's/^Seccomp:\t//p' /proc/self/status) in
0) grep -q '^seccomp: off' out || fail "probe: seccomp is off" ;;
2) grep -q '^seccomp: filter' out || fail "probe: seccomp is a filter" ;;
esac

# Under a filter: what the library does not use does not count, and nothing stays.
if [ "$(uname -m)" = x86_64 ]; then
	clone3=435 pidfd_open=434
	expect 0 ".*exit_helper: yes .*" '' timeout 60 "$filtered" "$clone3" 38 "$teardown" probe
	# Who stays would hold the pipe open.
	timeout 60 "$filtered" "$pidfd_open" kill "$teardown" probe | cat >out ||
		fail "probe: left a process behind under a filter, or ended by it"
	grep -q '^process_mrelease: no, who calls it is killed' out || fail "probe: under a filter"
fi

[ "${#skipped[@]}" -eq 0 ] || printf 'without %s\n' "${skipped[@]}"
[ "$bad" -eq 0 ] && echo "all as it should be"
exit "$bad"
