#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# usage: pkgconfig.sh [SRC]
# Installs the library into an empty prefix, and builds and runs a C program, a C++
# program and a fully static C program with nothing but what pkg-config answers.
set -euo pipefail

root=$(cd "${1:-$(dirname "$0")/../..}" && pwd)
here=$root/tests/consumer
read -ra cc <<<"${CC:-cc}"
read -ra cxx <<<"${CXX:-c++}"
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
cd "$tmp"
unset DESTDIR

# quietly CMD...: shows the output only when CMD fails
quietly() {
	"$@" >log 2>&1 || {
		cat log
		echo "failed: $*"
		exit 1
	}
}

quietly meson setup --prefix="$tmp/prefix" -Dtests=false -Dbench=false \
	-Dexamples=false -Doptimization=0 build "$root"
quietly meson compile -C build
quietly meson install -C build --no-rebuild
# What is used below is what was installed.
rm -rf build

pc=$(find prefix -name teardown.pc)
[ -n "$pc" ] || {
	echo "teardown.pc was not installed"
	exit 1
}
PKG_CONFIG_PATH=$tmp/$(dirname "$pc"):${PKG_CONFIG_PATH-}
export PKG_CONFIG_PATH
pkg-config --print-errors --exists teardown
read -ra flags <<<"$(pkg-config --cflags --libs teardown)"

# try NAME COMPILER...: builds a program and runs it
try() {
	local name=$1
	shift
	quietly "$@" -o "$name" "${flags[@]}"
	quietly "./$name"
	echo "$name: $(tail -n 1 log)"
}

try c "${cc[@]}" "$here/main.c"
if command -v "${cxx[0]}" >/dev/null; then
	try c++ "${cxx[@]}" "$here/main.cc"
else
	echo "c++: skipped, there is no ${cxx[0]}"
fi

# A distribution need not ship the static archives of what the library requires.
echo 'int main(void) { return 0; }' >empty.c
read -ra flags <<<"$(pkg-config --static --libs liburcu numa)"
if "${cc[@]}" -static empty.c -o empty "${flags[@]}" >log 2>&1; then
	read -ra flags <<<"$(pkg-config --static --cflags --libs teardown)"
	try static "${cc[@]}" -static "$here/main.c"
else
	echo "static: skipped, there is no static $(sed -n 's/.*cannot find //p' log | xargs)"
fi
