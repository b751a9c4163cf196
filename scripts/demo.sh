#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Builds examples/arena.c and runs it: demo.sh [--size 4G], see demo.sh --help.
set -euo pipefail

here=$(dirname "$(readlink -f -- "${BASH_SOURCE[0]}")")
root=$(dirname "$here")
# shellcheck source=scripts/deps.sh disable=SC1091
. "$here/deps.sh"

# Removes what there is to remove on any way out.
log='' tmp=''
trap 'rm -rf -- ${log:+"$log"} ${tmp:+"$tmp"}' EXIT

configure() {
	meson setup "$@" "$root" --buildtype=release -Dexamples=true -Dtests=false \
		-Dbench=false
}

# build DIR: whatever state it is in. A tree that was copied or moved brings along a
# build directory that would build the original.
build() {
	local stamp=$1/demo-source
	if [ -f "$1/build.ninja" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$root" ] &&
		meson compile -C "$1"; then
		return 0
	fi
	if [ -e "$1/meson-private" ]; then
		configure --wipe "$1" || return
	else
		configure "$1" || return
	fi
	meson compile -C "$1" && printf '%s\n' "$root" >"$stamp"
}

td_need "${TD_BUILD_PACKAGES[@]}"
log=$(mktemp)
dir=$root/build-demo
td_ours "$dir" || dir=$root/build-demo-$(id -u)
if ! td_ours "$dir" || ! build "$dir" >"$log" 2>&1; then
	tmp=$(mktemp -d)
	dir=$tmp
	build "$dir" >"$log" 2>&1 || {
		cat "$log" >&2
		td_die "the demo could not be built"
	}
fi
rm -f -- "$log"
log=''
if [ -z "$tmp" ]; then
	exec "$dir/examples/arena" "$@"
fi
"$dir/examples/arena" "$@"
