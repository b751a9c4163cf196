#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# usage: check_headers.sh SRC_INCLUDE BUILD_INCLUDE [CFLAGS...]
# Each public header compiles alone, as C11 and as C++11, and stands being included twice.
set -euo pipefail

[ "$#" -ge 2 ] || {
	echo "usage: check_headers.sh SRC_INCLUDE BUILD_INCLUDE [CFLAGS...]"
	exit 1
}
source_include=$1
build_include=$2
shift 2
# CC and CXX may hold arguments too: "ccache gcc".
read -ra cc <<<"${CC:-cc}"
read -ra cxx <<<"${CXX:-c++}"
flags=(-pedantic -Wall -Wextra -Werror -fsyntax-only "-I$source_include"
	"-I$build_include" "$@")
bad=0
seen=0
has_cxx=1
command -v "${cxx[0]}" >/dev/null || has_cxx=0

for header in "$source_include"/*.h "$source_include"/teardown/*.h \
	"$build_include"/teardown/*.h; do
	[ -e "$header" ] || {
		echo "no such header: $header"
		exit 1
	}
	name=${header#"$source_include/"}
	name=${name#"$build_include/"}
	unit=$(printf '#include <%s>\n#include <%s>\nint alone;' "$name" "$name")
	seen=$((seen + 1))
	"${cc[@]}" -x c -std=c11 "${flags[@]}" - <<<"$unit" 2>&1 || {
		echo "<$name> does not compile alone as C11"
		bad=1
	}
	[ "$has_cxx" -eq 1 ] || continue
	"${cxx[@]}" -x c++ -std=c++11 "${flags[@]}" - <<<"$unit" 2>&1 || {
		echo "<$name> does not compile alone as C++11"
		bad=1
	}
done

[ "$bad" -eq 0 ] || exit 1
if [ "$has_cxx" -eq 0 ]; then
	echo "no C++ compiler (${cxx[*]}): $seen headers were compiled as C only"
	exit 77
fi
echo "$seen headers"
