#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# usage: check_symbols.sh ARCHIVE
# Every global symbol that the archive defines is td_* or tdi_*, and the td_* ones are
# exactly the functions that the public headers declare.
set -euo pipefail

archive=${1:?usage: check_symbols.sh ARCHIVE}
include=$(cd "$(dirname "$0")/.." && pwd)/include
bad=0

# "NAME TYPE ..." for each symbol; lines of another shape name the members.
defined=$("${NM:-nm}" -g --defined-only -P "$archive" |
	awk 'NF >= 2 && $2 ~ /^[A-Za-z]$/ { print $1, $2 }')
[ -n "$defined" ] || {
	echo "$archive: no global symbols"
	exit 1
}

# The last is hidden, and comes with <sys/sdt.h>'s probes.
foreign=$(awk '$1 !~ /^tdi?_/ && $1 != "_.stapsdt.base" { print $1 }' <<<"$defined" | sort -u)
if [ -n "$foreign" ]; then
	echo "global symbols that are neither td_* nor tdi_*:" "${foreign//$'\n'/ }"
	bad=1
fi

# The declarations of a header: what is left without comments and preprocessor lines,
# cut at each semicolon or brace, where a td_ name stands before the first parenthesis.
declared=$(cat "$include"/*.h "$include"/teardown/*.h "$include"/teardown/*.h.in |
	sed -e 's,//.*,,' -e 's,/\*,\n&,g' -e 's,\*/,&\n,g' |
	sed -e '\,^/\*.*\*/$,d' -e '\,^/\*,,\,\*/$,d' |
	sed -e ':more' -e '/\\$/{N;s/\\\n//;bmore' -e '}' -e '/^[[:space:]]*#/d' |
	tr '\n' ' ' | tr ';{}' '[\n*]' |
	sed -n -e '/^[[:space:]]*typedef/d' -e '/^[[:space:]]*static/d' \
		-e 's/^[^(=]*[^(=A-Za-z0-9_]\(td_[a-z0-9_]*\)[[:space:]]*(.*/\1/p' | sort -u)
[ -n "$declared" ] || {
	echo "$include: found no declared functions"
	exit 1
}

functions=$(awk '$2 ~ /^[TWi]$/ { print $1 }' <<<"$defined" | sort -u)
missing=$(comm -23 <(echo "$declared") <(echo "$functions"))
if [ -n "$missing" ]; then
	echo "declared in include/, not defined in the archive:" "${missing//$'\n'/ }"
	bad=1
fi
undeclared=$(comm -13 <(echo "$declared") <(grep '^td_' <<<"$functions" || true))
if [ -n "$undeclared" ]; then
	echo "td_* in the archive, not declared in include/:" "${undeclared//$'\n'/ }"
	bad=1
fi

echo "$(wc -l <<<"$defined") symbols, $(wc -l <<<"$declared") public functions"
exit "$bad"
