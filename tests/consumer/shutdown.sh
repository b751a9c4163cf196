#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# usage: shutdown.sh [SRC]
# How processes and modules end that use the library, with programs that are built from
# what pkg-config answers for an installed one: static destructors, a main thread that
# ends first, a module that is unloaded.
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

# run NAME CMD...: several times, for what is a matter of chance, and not for ever
run() {
	local name=$1
	shift
	for _ in 1 2 3; do
		quietly timeout 40 "$@"
	done
	echo "$name: $(tail -n 1 log)"
}

quietly meson setup --prefix="$tmp/prefix" -Dtests=false -Dbench=false \
	-Dexamples=false -Dtools=false -Doptimization=0 build "$root"
quietly meson compile -C build
quietly meson install -C build --no-rebuild
rm -rf build
PKG_CONFIG_PATH=$tmp/$(dirname "$(find prefix -name teardown.pc)"):${PKG_CONFIG_PATH-}
export PKG_CONFIG_PATH
read -ra flags <<<"$(pkg-config --cflags --libs teardown)"

quietly "${cc[@]}" "$here/last_thread.c" -o last_thread "${flags[@]}"
run "the main thread ends first" ./last_thread

if command -v "${cxx[0]}" >/dev/null; then
	quietly "${cxx[@]}" "$here/exit.cc" -o exit "${flags[@]}"
	run "static destructors" ./exit
	run "static destructors, stopped before" ./exit stop
else
	echo "static destructors: skipped, there is no ${cxx[0]}"
fi

quietly "${cc[@]}" "$here/loader.c" -o loader -pthread -ldl
quietly "${cc[@]}" -shared -fPIC "$here/module.c" -o stays.so "${flags[@]}"
run "dlclose" ./loader "$tmp/stays.so" stays
# Without the flag it goes for real, and then nothing of it may be left.
kept=()
for flag in "${flags[@]}"; do
	[[ $flag == *nodelete* ]] || kept+=("$flag")
done
[ "${#kept[@]}" -lt "${#flags[@]}" ] || {
	echo "pkg-config does not say that a module has to stay: ${flags[*]}"
	exit 1
}
quietly "${cc[@]}" -shared -fPIC "$here/module.c" -o goes.so "${kept[@]}"
run "dlclose, nothing left" ./loader "$tmp/goes.so" goes
