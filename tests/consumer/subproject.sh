#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# usage: subproject.sh [SRC]
# Builds and runs a program of a meson project that has the library as a subproject.
set -euo pipefail

root=$(cd "${1:-$(dirname "$0")/../..}" && pwd)
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

# quietly CMD...: shows the output only when CMD fails
quietly() {
	"$@" >"$tmp/log" 2>&1 || {
		cat "$tmp/log"
		echo "failed: $*"
		exit 1
	}
}

mkdir -p "$tmp/host/subprojects/teardown"
tar -C "$root" --exclude=./.git --exclude='./build*' --exclude=./subprojects -cf - . |
	tar -C "$tmp/host/subprojects/teardown" -xf -
cp "$root/tests/consumer/main.c" "$tmp/host/main.c"
# The host knows nothing of our flags, and warns about everything.
cat >"$tmp/host/meson.build" <<'MESON'
project('host', 'c',
  default_options: ['c_std=c11', 'warning_level=3', 'werror=true'])
teardown = dependency('teardown', version: '>=0.1', fallback: ['teardown', 'teardown_dep'],
  default_options: ['tests=false', 'bench=false', 'examples=false', 'werror=false'])
test('host', executable('host', 'main.c', dependencies: teardown,
  c_args: '-D_DEFAULT_SOURCE'), timeout: 120)
MESON

# An installed teardown must not stand in for the subproject.
quietly meson setup --force-fallback-for=teardown -Doptimization=0 "$tmp/build" "$tmp/host"
quietly meson compile -C "$tmp/build"
quietly meson test -C "$tmp/build" --no-rebuild --print-errorlogs
grep -E '^Ok: +[1-9]' "$tmp/log"
[ -f "$tmp/build/subprojects/teardown/libteardown/libteardown.a" ] || {
	echo "the subproject was not built"
	exit 1
}
