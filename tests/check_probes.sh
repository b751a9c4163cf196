#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# usage: check_probes.sh SRC ARCHIVE 1|0
# The archive has just the probes that docs/observability.md lists, each with the
# arguments listed there; or, where it was built without (0), none at all.
set -euo pipefail

[ "$#" -eq 3 ] || {
	echo "usage: check_probes.sh SRC ARCHIVE 1|0"
	exit 1
}

# "NAME ARGUMENTS" for each probe of ours in the notes.
found=$("${READELF:-readelf}" -n "$2" 2>/dev/null | awk '
	/^ *Provider:/ { ours = $2 == "teardown" }
	/^ *Name:/ { name = $2 }
	/^ *Arguments:/ && ours { print name, NF - 1 }' | sort -u)

if [ "$3" -eq 0 ]; then
	[ -z "$found" ] || {
		echo "probes in a library that was built without: $found"
		exit 1
	}
	echo "there was no sys/sdt.h: the library has no probes"
	exit 77
fi

# The rows of its table whose first cell is a name in backquotes; the last is no argument.
# shellcheck disable=SC2016 # these are backquotes to awk, not to the shell
listed=$(awk -F'|' '$2 ~ /^ `[a-z]+` $/ {
		gsub(/[ `]/, "", $2)
		args = 0
		for (i = 3; i <= 7; i++)
			args += $i !~ /^ *$/
		print $2, args
	}' "$1/docs/observability.md" | sort -u)
diff -u <(echo "$listed") <(echo "$found") || {
	echo "the table (-) and the archive (+) differ"
	exit 1
}
echo "$(wc -l <<<"$found") probes"
