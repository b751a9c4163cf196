#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Measures everything that td-bench can, beside what else one would take, and writes a
# report: bench.sh --help.
set -euo pipefail

here=$(dirname "$(readlink -f -- "${BASH_SOURCE[0]}")")
root=$(dirname "$here")
# shellcheck source=scripts/deps.sh disable=SC1091
. "$here/deps.sh"

# NAME|QUICK ARGUMENTS|SECONDS|FULL ARGUMENTS|SECONDS: what is run, in this order, and how
# long it takes on a machine of 2 cores. A size that does not fit is halved until it does.
# What follows a dot tells two runs of a scenario apart; no seconds: it is left out.
scenarios='
limits    |--size 1G --repeat 2                     |4 |--repeat 3                    |20
put       |--size 1G --repeat 3                     |6 |--repeat 3                    |65
sizes     |--size 1G --repeat 2                     |15|--repeat 3                    |110
reclaim   |--size 1G --repeat 2                     |8 |--repeat 3                    |45
unmap     |--size 256M --repeat 2                   |12|--repeat 3 --only anon4k,thp,hugetlb,memfd,shared_anon,file,locked|170
threshold |--size 16M --repeat 2                    |3 |--repeat 3                    |25
stall     |--size 1G --repeat 2                     |10|--repeat 3                    |100
slices    |--size 512M --repeat 1 --only anon4k     |6 |--repeat 2                    |55
lookup    |--repeat 3                               |5 |--repeat 9                    |12
batch     |--objects 200000 --repeat 2              |12|--objects 1000000 --repeat 3  |60
refs      |--repeat 3                               |7 |--repeat 9                    |20
small     |--size 1G --repeat 2                     |5 |--size 16G --repeat 2         |60
budget    |--size 64M --repeat 1                    |14|--repeat 3                    |35
foreground|--size 64M --repeat 1                    |9 |--size 128M --repeat 3        |30
allocator |--size 256M --repeat 1 --only jemalloc_decay_1s,jemalloc_decay_0,jemalloc_purge,jemalloc_destroy,td_hooks_free,td_hooks_destroy,mimalloc_collect|20|--repeat 2|130
kill      |--size 1G --repeat 2                     |6 |--size 8G --repeat 3          |60
exit      |--size 512M --repeat 1 --only anon4k,kill|6 |--size 8G --repeat 3 --only anon4k,thp,plain,qemu_design,td|130
exit.small|                                         |  |--size 2G --repeat 2          |70
demo      |--size 1G                                |5 |--size 4G                     |15
count     |                                         |5 |                              |5
'

usage() {
	cat <<'END'
usage: bench.sh [--quick] [--runs N] [--only SCENARIOS] [--out DIR] [--docs]
  --quick  one pass with small sizes: less than 5 minutes besides installing packages, and
           6 GiB of memory; what is not done then is left out
  --runs   passes over all scenarios (2; with --quick 1); ratios are compared between them
  --only   some scenarios, commas between them
  --out    where results.txt, report.md and plots/ are written (build-bench/results)
  --docs   then makes docs/benchmarks.md, docs/scale.md's tables, README.md's table and
           docs/benchmarks/ of them (not with --only, which would leave the rest empty)
Installs what is missing and builds into build-bench/ first. A machine that does nothing
else measures best. Exits with 0 when every scenario was measured.
END
}

usage_error() {
	td_say "error: $* (see bench.sh --help)"
	exit 2
}

# ---- arguments ----

mode=full runs='' only='' out='' docs=''
while [ "$#" -gt 0 ]; do
	case $1 in
	--quick) mode=quick ;;
	--docs) docs=1 ;;
	--runs | --only | --out)
		[ "$#" -ge 2 ] || usage_error "$1 takes an argument"
		declare "${1#--}=$2"
		shift
		;;
	--help)
		usage
		exit 0
		;;
	*) usage_error "unexpected argument '$1'" ;;
	esac
	shift
done
[ -n "$runs" ] || { [ "$mode" = quick ] && runs=1 || runs=2; }
[[ $runs =~ ^[1-9]$ ]] || usage_error "not a number of passes, 1 to 9: '$runs'"

names=()
declare -A args seconds
while IFS='|' read -r name quick_args quick_seconds full_args full_seconds; do
	name=${name// /}
	if [ "$mode" = quick ]; then
		full_args=$quick_args full_seconds=$quick_seconds
	fi
	full_seconds=${full_seconds// /}
	[ -n "$full_seconds" ] || continue
	names+=("$name")
	args[$name]=$full_args seconds[$name]=$full_seconds
done <<<"$scenarios"
if [ -n "$only" ]; then
	chosen=()
	for name in ${only//,/ }; do
		[ -n "${seconds[$name]-}" ] || usage_error "no scenario: '$name'"
		for other in "${names[@]}"; do
			[ "${other%.*}" != "$name" ] || chosen+=("$other")
		done
	done
	[ "${#chosen[@]}" -gt 0 ] || usage_error "--only names no scenario"
	# One that is named twice is run once: which of the two would be true?
	mapfile -t names < <(printf '%s\n' "${chosen[@]}" | awk '!seen[$0]++')
fi
if [ -n "$docs" ]; then
	[ -z "$only" ] || usage_error "--docs is of all scenarios: not with --only"
	for other in README.md docs docs/benchmarks docs/benchmarks.md docs/scale.md; do
		[ ! -e "$root/$other" ] || [ -w "$root/$other" ] ||
			usage_error "--docs: $root/$other cannot be written to"
	done
fi

# ---- leaving ----

child='' tmp='' part='' result_lines='' bad=0

# The whole group of what is being run, which undoes what it has done to the machine.
stop_child() {
	[ -n "$child" ] || return 0
	local guard
	kill -TERM "$child" 2>/dev/null || true
	# Not by asking whether it is there: it is, until it is waited for.
	(
		pause 10
		kill -KILL -- "-$child"
	) >/dev/null 2>&1 {lock}>&- &
	guard=$!
	wait "$child" 2>/dev/null || true
	kill "$guard" 2>/dev/null || true
	wait "$guard" 2>/dev/null || true
	for _ in {1..20}; do
		kill -0 -- "-$child" 2>/dev/null || break
		pause 0.1
	done
	kill -KILL -- "-$child" 2>/dev/null || true
	child=''
}

# shellcheck disable=SC2317 # the trap calls it
finish() {
	local status=$?
	trap - EXIT INT TERM HUP
	stop_child
	if [ -n "$part" ]; then # interrupted
		collect interrupted 130 || true
	fi
	[ -z "$tmp" ] || rm -rf -- "$tmp"
	if [ -n "$result_lines" ] && [ "$status" -ne 0 ] && [ ! -e "$out/report.md" ]; then
		td_say "stopped after $(took "$SECONDS"): what there is of the results is in $out/results.txt"
	fi
	exit "$status"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# Without a process of its own, which would be measured too.
exec {never}<> <(:)
pause() { read -rt "$1" -u "$never" || true; }

# took SECONDS: in words
took() {
	if [ "$1" -lt 90 ]; then
		printf '%d s' "$1"
	else
		printf '%d min' $((($1 + 30) / 60))
	fi
}

# ---- building ----

# What a build is measured by: flags of the environment might be a sanitizer's.
configure() {
	env -u CFLAGS -u CPPFLAGS -u LDFLAGS meson setup "$@" "$root" --buildtype=release \
		-Db_sanitize=none -Dtests=false -Dtools=false -Dexamples=true -Dbench=true
}

# release DIR: nobody has configured it to be anything else.
release() {
	meson introspect --buildoptions "$1" | python3 -c '
import json, sys
options = {o["name"]: o["value"] for o in json.load(sys.stdin)}
sys.exit(options["buildtype"] != "release" or options["b_sanitize"] != "none"
         or bool(options["c_args"]))'
}

build() {
	local stamp=$1/bench-source
	local source
	source=$(printf '%s\n' "$root" "$(meson --version)" "$(cc --version | head -n 1)" \
		"${missing[@]}")
	if [ ! -f "$1/build.ninja" ] || [ "$(cat "$stamp" 2>/dev/null)" != "$source" ] ||
		! release "$1"; then
		if [ -e "$1/meson-private" ]; then
			configure --wipe "$1" || return
		else
			configure "$1" || return
		fi
		release "$1" || return
		printf '%s\n' "$source" >"$stamp"
	fi
	meson compile -C "$1"
}

td_need "${TD_BUILD_PACKAGES[@]}" python3
wanted=("${TD_BENCH_PACKAGES[@]}" "${TD_COUNT_PACKAGES[@]}" "${TD_PLOT_PACKAGES[@]}")
td_want "${wanted[@]}"
# One that cannot be had keeps none of the others away.
mapfile -t missing < <(td_missing "${wanted[@]}")
if [ "${#missing[@]}" -gt 1 ]; then
	for package in "${missing[@]}"; do
		td_want "$package"
	done
	mapfile -t missing < <(td_missing "${missing[@]}")
fi
SECONDS=0 # installing is not a part of it
[ -z "$docs" ] || command -v gnuplot >/dev/null ||
	td_die "--docs needs gnuplot, for the plots that the documents show"

build_dir=$root/build-bench
td_ours "$build_dir" || build_dir=$root/build-bench-$(id -u)
tmp=$(mktemp -d)
if ! td_ours "$build_dir"; then
	[ -n "$out" ] || usage_error "$root is not ours to write to: --out DIR is needed"
	build_dir=$tmp/build
fi
mkdir -p "$build_dir"
exec {lock}<"$build_dir" # a file in it would go with a build that is begun afresh
flock -n "$lock" || td_die "another bench.sh is at work in $build_dir"
td_say "building into ${build_dir#"$root/"}"
build "$build_dir" >"$tmp/build.log" 2>&1 || {
	cat "$tmp/build.log" >&2
	td_die "td-bench could not be built"
}
[ -n "$out" ] || out=$build_dir/results
mkdir -p "$out/plots" || td_die "cannot write to $out"
out=$(cd "$out" && pwd)
rm -f -- "$out/report.md" "$out"/plots/*.svg "$out"/plots/*.png

# ---- the machine ----

hypervisor() {
	local name
	name=$(systemd-detect-virt --vm 2>/dev/null) || true
	[ "${name:-none}" != none ] || name=$(cat /sys/class/dmi/id/sys_vendor 2>/dev/null) || true
	if grep -qw hypervisor /proc/cpuinfo; then
		printf '%s' "${name:-unknown}"
	else
		printf 'none'
	fi
}

describe() {
	local cpu nodes
	nodes=$(find /sys/devices/system/node -maxdepth 1 -name 'node[0-9]*' 2>/dev/null | wc -l) || true
	cpu=$(sed -n 's/^model name[[:space:]]*: //p' /proc/cpuinfo | head -n 1)
	printf 'machine kernel=%s arch=%s cpu="%s" cpus=%d nodes=%d memory_mib=%d hypervisor="%s"\n' \
		"$(uname -r)" "$(uname -m)" "${cpu//\"/}" "$(nproc)" \
		"$((nodes > 0 ? nodes : 1))" \
		$(($(sed -n 's/^MemTotal: *\([0-9]*\) kB/\1/p' /proc/meminfo) / 1024)) "$(hypervisor)"
	printf 'machine compiler="%s" libc="%s" liburcu=%s version=%s\n' \
		"$(cc --version | head -n 1)" "$(getconf GNU_LIBC_VERSION)" \
		"$(pkg-config --modversion liburcu)" \
		"$(meson introspect --projectinfo "$build_dir" | sed 's/.*"version": *"\([^"]*\)".*/\1/')"
	printf 'machine date=%s mode=%s passes=%d load="%s" left_out="%s"\n' "$(date -u +%F)" \
		"$mode" "$runs" "$(cut -d' ' -f1 /proc/loadavg)" "${missing[*]}"
}

result_lines=$out/results.txt
describe >"$result_lines"
read -r load _ </proc/loadavg
[ "${load%.*}" -eq 0 ] || td_say "warning: the machine is busy (load $load): expect noise"

# ---- measuring ----

# Adds what the scenario has printed to the results, each line with its pass before it.
# The last line of one that was killed may be half of one.
collect() {
	{
		if [ "$1" = ok ]; then
			cat "$part"
		else
			sed -n '$!p' "$part"
			[ -z "$(tail -c 1 "$part")" ] && tail -n 1 "$part"
		fi
		printf 'scenario=%s status=%s exit=%d seconds=%d args="%s"' "$name" "$1" "$2" \
			$((SECONDS - began)) "${given[*]}"
		if [ "$1" != ok ]; then
			printf ' why="%s"' "$(tail -n 1 "$tmp/error" | tr -d '"' | sed "s|$root/||g")"
		fi
		printf '\n'
	} | sed -e 's/^demo: /bench=demo subject=arena /' -e '/^[a-z]* *$/d' \
		-e '/^\(bench=\|summary \|peer=\|skip \|#\|scenario=\)/!s/^/# /' \
		-e "s/^/run=$pass /" >>"$result_lines"
	part=''
}

left() {
	local sum=0 other reached=''
	for other in "${names[@]}"; do
		[ "$other" != "$name" ] || reached=1
		[ -z "$reached" ] || sum=$((sum + ${seconds[$other]}))
		sum=$((sum + (runs - pass) * ${seconds[$other]}))
	done
	printf '%d' $((sum - SECONDS + began > 0 ? sum - SECONDS + began : 0))
}

# start: runs the scenario with "${given[@]}" as a group of processes of its own
start() {
	local program=("$build_dir/bench/td-bench" "${name%.*}")
	case $name in
	demo) program=("$build_dir/examples/arena") ;;
	count) program=(python3 "$root/bench/count/count.py" --print
		"$build_dir/bench/count/td-count") ;;
	esac
	part=$tmp/part
	set -m
	"${program[@]}" "${given[@]}" >"$part" 2>"$tmp/error" </dev/null {lock}>&- &
	child=$!
	set +m
}

# Waits for it, and says what is being done. False: it has failed, or takes too long.
watch() {
	local say=$((SECONDS + 15)) code=0
	while kill -0 "$child" 2>/dev/null; do
		pause 0.5
		if [ "$SECONDS" -ge "$deadline" ]; then
			stop_child
			echo "it was not done in time" >>"$tmp/error"
			return 124
		fi
		if [ "$SECONDS" -ge "$say" ]; then
			say=$((SECONDS + 15))
			td_say "        $name: $((SECONDS - began)) s of about ${seconds[$name]} s;" \
				"$(took "$SECONDS") so far, about $(took "$(left)") left"
		fi
	done
	wait "$child" || code=$?
	child=''
	return "$code"
}

# The scenario's size is halved while td-bench says that it does not fit.
halve() {
	local i size
	grep -q 'do not fit' "$tmp/error" || return 1
	for i in "${!given[@]}"; do
		[ "${given[$i]}" = --size ] || continue
		size=$(numfmt --from=iec "${given[$((i + 1))]}")
		[ "$size" -ge $((128 << 20)) ] || return 1
		given[i + 1]=$((size >> 21))M
		td_say "        $name: does not fit into memory, trying ${given[$((i + 1))]}"
		return 0
	done
	return 1
}

# The --size that is given, in bytes; nothing where there is none.
given_size() {
	local i
	for i in "${!given[@]}"; do
		[ "${given[$i]}" != --size ] || numfmt --from=iec "${given[$((i + 1))]}"
	done
}

# The second run of a scenario is of another size than the first, which memory may have
# made as small: the same thing measured twice says nothing.
stay_below_first() {
	local first=${sizes[${name%.*}]-} i
	[ "$name" != "${name%.*}" ] && [ -n "$first" ] && [ "$(given_size)" -ge "$first" ] || return 0
	for i in "${!given[@]}"; do
		[ "${given[$i]}" != --size ] || given[i + 1]=$((first >> 21))M
	done
}

declare -A sizes
run_one() {
	local code status=ok
	began=$SECONDS
	read -ra given <<<"${args[$name]}"
	stay_below_first
	deadline=$((SECONDS + 120 + 5 * ${seconds[$name]}))
	# A quick run that is not quick has failed its purpose.
	[ "$mode" = full ] || [ "$deadline" -lt "$quick_end" ] || deadline=$quick_end
	for (( ; ; )); do
		start
		code=0
		watch || code=$?
		[ "$code" -ne 0 ] || break
		halve || break
	done
	if [ "$code" -ne 0 ]; then
		status=failed
		if [ "$code" -eq 77 ] || grep -q 'unknown scenario' "$tmp/error"; then
			status=missing
		fi
		bad=1
		td_say "        $name: $status: $(tail -n 1 "$tmp/error")"
	fi
	sizes[$name]=$(given_size)
	collect "$status" "$code"
	# The next pass takes as long.
	seconds[$name]=$((SECONDS - began > 0 ? SECONDS - began : 1))
}

# Stopping what runs, the simulator and the plots come after it.
quick_end=$((270 * runs))
for ((pass = 1; pass <= runs; pass++)); do
	number=0
	for name in "${names[@]}"; do
		number=$((number + 1))
		began=$SECONDS
		td_say "[$(printf %2d "$number")/${#names[@]}] $name$([ "$runs" -eq 1 ] ||
			echo ", pass $pass of $runs"): about $(took "${seconds[$name]}");" \
			"$(took "$SECONDS") so far, about $(took "$(left)") left"
		if [ "$mode" = quick ] && [ "$SECONDS" -ge "$quick_end" ]; then
			td_say "        $name: left out, the five minutes are over"
			printf 'run=%d scenario=%s status=failed exit=0 seconds=0 args="%s" why="%s"\n' \
				"$pass" "$name" "${args[$name]}" "the five minutes of --quick were over" \
				>>"$result_lines"
			bad=1
			continue
		fi
		run_one
	done
done

# ---- the report ----

report=$root/bench/report
td_say "measured in $(took "$SECONDS"), writing the report"
if python3 "$root/bench/sim/check.py" "$out/results.txt" >"$tmp/sim" 2>"$tmp/error"; then
	sed 's/^/run=1 /' "$tmp/sim" >>"$out/results.txt"
else
	td_say "nothing was simulated: $(tail -n 1 "$tmp/error")"
fi
python3 -B "$report/plots.py" "$out/results.txt" "$out/plots" || bad=1
python3 -B "$report/report.py" report "$out/results.txt" "$out/plots" >"$tmp/report.md"
mv -- "$tmp/report.md" "$out/report.md"
if [ -n "$docs" ]; then
	mkdir -p "$root/docs/benchmarks"
	rm -f -- "$root"/docs/benchmarks/*.svg
	cp -- "$out/results.txt" "$out"/plots/*.svg "$root/docs/benchmarks/"
	python3 -B "$report/report.py" docs "$root"
	python3 "$root/bench/sim/scale.py" --docs || bad=1
	td_say "made of it: docs/benchmarks.md, the figures of README.md, the tables of docs/scale.md"
fi
[ "${#missing[@]}" -eq 0 ] || td_say "left out, for want of packages: ${missing[*]}"
td_say "the report is $out/report.md"
[ "$bad" -eq 0 ] || td_say "something could not be measured: see there"
exit "$bad"
