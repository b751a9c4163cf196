# shellcheck shell=bash
# SPDX-License-Identifier: MIT
# Sourced by the other scripts: installs what a fresh Debian lacks, and nothing
# that is already there.

td_say() { printf '%s\n' "$*" >&2; }

td_die() {
	td_say "error: $*"
	exit 1
}

# td_ours DIR: it is ours to write to, or to make, in the tree that $root names. Root, too,
# keeps out of a directory of somebody else's, whom its files would be in the way of.
td_ours() {
	if [ -e "$1" ]; then
		[ -d "$1" ] && [ -O "$1" ] && [ -w "$1" ]
	else
		# shellcheck disable=SC2154 # set by the scripts that source this file
		[ -w "$root" ]
	fi
}

# td_as_root CMD...: runs CMD as root, through sudo when we are not root already.
td_as_root() {
	if [ "$(id -u)" -eq 0 ]; then
		"$@"
	elif command -v sudo >/dev/null 2>&1; then
		sudo "$@"
	else
		td_die "packages are missing and this needs root or sudo: $*"
	fi
}

# td_installed PKG: true when dpkg has the package fully installed.
td_installed() {
	[ "$(dpkg-query -W -f='${db:Status-Status}' "$1" 2>/dev/null)" = installed ]
}

# td_missing PKG...: prints those that are not installed.
td_missing() {
	local pkg
	for pkg in "$@"; do
		td_installed "$pkg" || printf '%s\n' "$pkg"
	done
}

# The package lists of a fresh machine or container are empty or stale. Once is enough: without
# a network it takes its time.
td_updated=''
td_update() {
	[ -z "$td_updated" ] || return 0
	td_updated=1
	td_as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq update >&2 ||
		td_say "warning: apt-get update failed, trying with the lists there are"
}

td_install() {
	td_say "installing: $*"
	td_update
	td_as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq -y \
		--no-install-recommends install "$@" >&2
}

# td_need PKG...: installs those of the Debian packages that are missing.
td_need() {
	local missing
	command -v dpkg-query >/dev/null 2>&1 || {
		td_say "not a Debian system: assuming that these are there: $*"
		return 0
	}
	mapfile -t missing < <(td_missing "$@")
	[ "${#missing[@]}" -gt 0 ] || return 0
	td_install "${missing[@]}" || td_die "could not install: ${missing[*]}"
}

# td_want PKG...: the same for what can be done without: it is only said.
td_want() {
	local missing
	command -v dpkg-query >/dev/null 2>&1 || return 0
	mapfile -t missing < <(td_missing "$@")
	[ "${#missing[@]}" -gt 0 ] || return 0
	(td_install "${missing[@]}") || td_say "going on without: ${missing[*]}"
	td_updated=1 # the subshell's is its own
}

# shellcheck disable=SC2034 # read by the scripts that source this file
TD_BUILD_PACKAGES=(gcc libc6-dev meson ninja-build pkg-config liburcu-dev libnuma-dev)
# shellcheck disable=SC2034
TD_TEST_PACKAGES=(g++ check shellcheck binutils util-linux libjemalloc-dev spin)
# With its header the library has probes for tracers; nothing else needs it.
# shellcheck disable=SC2034
TD_PROBE_PACKAGES=(systemtap-sdt-dev)
# It renders the man page, to see that it can be; nothing else needs it.
# shellcheck disable=SC2034
TD_MAN_PACKAGES=(groff-base)
# It counts instructions of the hot paths; nothing else needs it.
# shellcheck disable=SC2034
TD_COUNT_PACKAGES=(valgrind)
# What td-bench compares the library with; each can be done without, and nothing else
# needs them.
# shellcheck disable=SC2034
TD_BENCH_PACKAGES=(libck-dev libjemalloc-dev libjemalloc2 libmimalloc2.0 qemu-system-x86)
# The plots of scripts/bench.sh; without it there is a report without them.
# shellcheck disable=SC2034
TD_PLOT_PACKAGES=(gnuplot-nox)
# Its program is tested under `teardown run`, where it is there. Its redis-check-rdb is
# the server by another name: no service is installed that would start at once.
# shellcheck disable=SC2034
TD_PROGRAM_PACKAGES=(redis-tools)
