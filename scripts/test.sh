#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# usage: scripts/test.sh
# Installs what is missing, builds the library plainly, with ASan and UBSan, and with
# TSan, and runs all tests, some of them also in a guest (tests/guest). The last line is
# "N passed, N failed, N skipped"; exits with 0 when nothing failed and something passed.
# Builds are kept in build-test/.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=deps.sh
. "$root/scripts/deps.sh"

passed=0
failed=0
skipped=0
skip_reasons=
out=
completed=

finish() {
	trap - EXIT
	# Somebody interrupted us, or something that must not fail did.
	[ -n "$completed" ] || failed=$((failed + 1))
	[ -z "$skip_reasons" ] || printf '\nskipped:\n%s' "$skip_reasons"
	if [ "$out" != "$root/build-test" ] && [ -n "$out" ]; then
		if [ "$failed" -eq 0 ]; then
			rm -rf "$out"
		else
			echo "logs are in $out"
		fi
	fi
	printf '\n%d passed, %d failed, %d skipped\n' "$passed" "$failed" "$skipped"
	if [ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]; then
		exit 0
	fi
	exit 1
}
trap finish EXIT
trap 'exit 130' INT TERM HUP

fail() {
	failed=$((failed + 1))
	echo "FAILED: $*"
}

# Where nobody else is building, and nobody else's files are in the way.
usable() {
	mkdir -p "$1" 2>/dev/null && touch "$1/.lock" 2>/dev/null || return 1
	[ -z "$(find "$1" ! -writable ! -type l -print -quit 2>&1)" ] || return 1
	exec {lock}>"$1/.lock"
	flock -n "$lock" && return
	exec {lock}>&-
	return 1
}

# configure_and_compile DIR LOG OPTIONS...
configure_and_compile() {
	local dir=$1 log=$2
	shift 2
	if [ ! -e "$dir/build.ninja" ]; then
		rm -rf "$dir"
		meson setup "$@" "$dir" "$root" >"$log" 2>&1 || return 1
		printf '%s\n' "$stamp" >"$dir/stamp"
	fi
	meson compile -C "$dir" >>"$log" 2>&1
}

# build NAME OPTIONS...: compiles into $out/NAME, afresh when what is there is of another
# tree, meson, compiler or set of options, or is broken.
build() {
	local dir=$out/$1 log=$out/$1.log stamp
	shift
	stamp=$(printf '%s\n' "$root" "$(meson --version)" "$(cc --version | head -n 1)" \
		"${CC-} ${CFLAGS-} ${CPPFLAGS-} ${LDFLAGS-}" "$@")
	if [ -e "$dir/stamp" ] && [ "$(cat "$dir/stamp")" = "$stamp" ]; then
		configure_and_compile "$dir" "$log" "$@" && return
	fi
	rm -rf "$dir"
	configure_and_compile "$dir" "$log" "$@" && return
	cat "$log"
	return 1
}

# tally DIR: what the tests of a build came to: "PASSED FAILED SKIPPED", then a line for
# each failure ("f TEXT") and each skip ("s TEXT"). meson's JUnit file has the points of
# each TAP program. It lacks how the program itself ended: a timeout, or a crash after the
# last point. That is in its JSON log.
tally() {
	python3 - "$1" <<'PY'
import json, os, re, sys
import xml.etree.ElementTree as et

logs = os.path.join(sys.argv[1], 'meson-logs')
with open(os.path.join(sys.argv[1], 'meson-info', 'intro-tests.json')) as f:
    tap = {t['name'] for t in json.load(f) if t['protocol'] == 'tap'}
with open(os.path.join(logs, 'testlog.json')) as f:
    runs = [json.loads(line) for line in f]
with open(os.path.join(logs, 'testlog.junit.xml'), 'rb') as f:
    # Programs may print characters that XML does not have; meson copies them.
    root = et.fromstring(re.sub(rb'[\x00-\x08\x0b\x0c\x0e-\x1f]', b'?', f.read()))

points = {}
for suite in root.iter('testsuite'):
    cases = suite.findall('testcase')
    if cases and cases[0].get('classname') == suite.get('name'):
        points.setdefault(suite.get('name'), []).extend(cases)

passed, failed, skipped = 0, [], []
for run in runs:
    name = run['name']
    short = name.split(' / ')[-1]
    good = run['result'] in ('OK', 'EXPECTEDFAIL')
    lines = (run.get('stdout') or '').strip().splitlines()
    if short not in tap:
        if good:
            passed += 1
        elif run['result'] == 'SKIP':
            skipped.append('%s: %s' % (short, lines[-1] if lines else 'no reason given'))
        else:
            failed.append('%s: %s' % (short, run['result']))
        continue
    # What a failed point says of itself: the lines between it and the next point.
    says, point = {}, None
    for line in lines:
        if re.match(r'(not )?ok\b', line):
            number = re.match(r'not ok (\d+)', line)
            point = says.setdefault(number.group(1), []) if number else None
        elif point is not None:
            point.append(line)
    bad = 0
    cases = next((c for n, c in points.items() if n.endswith('.' + name)), [])
    for case in cases:
        number, _, text = case.get('name').partition(' ')
        text = '%s: %s' % (short, text.lstrip('- '))
        if case.find('failure') is not None or case.find('error') is not None:
            failed.append('\n    '.join([text] + says.get(number, [])[:20]))
            bad += 1
        elif case.find('skipped') is not None:
            why = (case.findtext('system-out') or '').strip()
            skipped.append('%s: %s' % (text, why or 'no reason given'))
        else:
            passed += 1
    plan = [l for l in lines if re.match(r'1\.\.\d+', l)]
    why = plan[0].partition('#')[2].strip() if plan else ''
    if not good and run['result'] != 'SKIP' and not bad:
        failed.append('%s: %s (exit status %s)' % (short, run['result'], run['returncode']))
    elif not cases and why:
        skipped.append('%s: %s' % (short, why))
    elif not bad and (not cases or not plan):
        failed.append('%s: no TAP plan, or nothing run' % short)
print(passed, len(failed), len(skipped))
for text in failed:
    print('f', text.replace('\n', '\nf'))
for text in skipped:
    print('s', text)
PY
}

# run_tests NAME MESON_TEST_ARGS...: runs the tests of $out/NAME through "${wrapper[@]}"
run_tests() {
	local name=$1 dir=$out/$1 status=0 counts numbers
	shift
	rm -rf "$dir/meson-logs"/testlog*
	"${wrapper[@]}" meson test -C "$dir" --no-rebuild --num-processes 2 \
		--print-errorlogs "$@" || status=$?
	counts=$(tally "$dir") || {
		fail "$name: the tests left no results (meson test: exit status $status)"
		return 0
	}
	read -ra numbers <<<"$counts"
	# No test at all is a mistake somewhere, never a success.
	[ $((numbers[0] + numbers[1] + numbers[2])) -gt 0 ] || fail "$name: no tests"
	[ "$status" -eq 0 ] || [ "${numbers[1]}" -gt 0 ] ||
		fail "$name: meson test: exit status $status"
	passed=$((passed + numbers[0]))
	failed=$((failed + numbers[1]))
	skipped=$((skipped + numbers[2]))
	sed -n -e "s|^f \\([^ ]\\)|FAILED: $name: \\1|p" -e 's|^f  |  |p' <<<"$counts"
	skip_reasons+=$(sed -n "s|^s |  $name: |p" <<<"$counts" && echo .)
	skip_reasons=${skip_reasons%.}
	echo "$name: ${numbers[0]} + ${numbers[1]} failed + ${numbers[2]} skipped"
}

# one NAME MESON_TEST_ARGS... -- SETUP_OPTIONS...: builds and tests
one() {
	local name=$1 test_args=()
	shift
	while [ "$1" != -- ]; do
		test_args+=("$1")
		shift
	done
	shift
	printf '\n== %s ==\n' "$name"
	if build "$name" "$@"; then
		run_tests "$name" "${test_args[@]}"
	else
		fail "$name: does not compile"
	fi
}

# TSan's shadow memory leaves little room: where mappings are placed more randomly than
# with 28 bits (vm.mmap_rnd_bits) a program starts one time and does not the next.
tsan_runs() {
	printf 'int main(void) { return 0; }\n' >"$out/probe.c"
	cc -fsanitize=thread "$out/probe.c" -o "$out/probe" >"$out/probe.log" 2>&1 || return 1
	for _ in {1..24}; do
		"${wrapper[@]}" "$out/probe" >"$out/probe.log" 2>&1 || return 1
	done
}

td_need "${TD_BUILD_PACKAGES[@]}" "${TD_TEST_PACKAGES[@]}"
td_want "${TD_PROBE_PACKAGES[@]}"
td_want "${TD_MAN_PACKAGES[@]}"
td_want "${TD_PROGRAM_PACKAGES[@]}"
td_want "${TD_COUNT_PACKAGES[@]}"

out=$root/build-test
usable "$out" || {
	out=$(mktemp -d)
	echo "cannot build in $root/build-test, building in $out"
}

# Without it the suite 'guest' is skipped, and says why.
export TD_GUEST_DIR=$out/guest
"$root/scripts/guest.sh" "$TD_GUEST_DIR" || echo "going on without the guest of tests/guest"

# Not abort_on_error: a test that expects an abort must not take a report for one.
export ASAN_OPTIONS=detect_leaks=1:abort_on_error=0:exitcode=98
export UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1
export TSAN_OPTIONS=halt_on_error=1:second_deadlock_stack=1
[ ! -e "$root/tests/tsan.supp" ] || TSAN_OPTIONS+=:suppressions=$root/tests/tsan.supp
[ ! -e "$root/tests/lsan.supp" ] ||
	export LSAN_OPTIONS=suppressions=$root/tests/lsan.supp

wrapper=()
# -g1: for the lines in a report; what else a debugger wants takes a fifth of the time.
one plain -- --buildtype=debugoptimized -Dc_args="${CFLAGS-} -g1" -Dexamples=true \
	-Dbench=true -Dwerror=true
# -O1 compiles sooner; with it gcc 12's UBSan takes addresses of thread-local storage for
# null. ASan tells of what is.
one asan --no-suite outside -- -Dbuildtype=debugoptimized -Doptimization=1 \
	-Dc_args="${CFLAGS-} -g1 -fno-sanitize=null" \
	-Dexamples=false -Dbench=false -Db_sanitize=address,undefined -Db_lundef=false
tsan_runs || wrapper=(setarch -R)
if tsan_runs; then
	one tsan --no-suite outside -- -Dbuildtype=debugoptimized -Doptimization=1 \
		-Dc_args="${CFLAGS-} -g1" -Dexamples=false -Dbench=false -Db_sanitize=thread -Db_lundef=false
else
	skipped=$((skipped + 1))
	skip_reasons+="  tsan: $(head -n 1 "$out/probe.log")"$'\n'
fi
completed=1
