#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# usage: check_floors.sh SRC
# Holds libteardown/ to the table of floors in its README.md: every file is in it and
# includes only files of its own floor or of lower ones, headers do not include each
# other, only sys.c and sys_*.c make system calls, and no file is longer than 500 lines.
set -euo pipefail

root=${1:?usage: check_floors.sh SRC}
cd "$root/libteardown"
shopt -s nullglob
files=(*.c *.h)
[ "${#files[@]}" -gt 0 ] || {
	echo "no sources in $PWD"
	exit 1
}

# Prints one line for each breach, and "edge HEADER HEADER" for each include of a header.
report=$(awk -v max_lines=500 -v calls='mmap|munmap|mremap|madvise|process_madvise|\
mprotect|mincore|mlock|munlock|msync|mbind|move_pages|migrate_pages|[gs]et_mempolicy|\
syscall|futex|eventfd|timerfd_create|epoll_[a-z]+|ioctl|fcntl|dup[23]?|pipe2?|\
open|openat|creat|fopen|fdopen|read|pread|readv|write|pwrite|writev|close|poll|select|\
nanosleep|usleep|sleep|clock_gettime|clock_nanosleep|prctl|sched_[a-z]+|\
pthread_create|pthread_join|pthread_sigmask|pthread_setname_np|pthread_setsched[a-z]+|\
pthread_setaffinity_np|[gs]etpriority|nice|gettid|getcpu|fork|vfork|clone|exec[lv][a-z]*|kill|tgkill|raise' '
	BEGIN {
		gsub(/[\\\n]/, "", calls)
		call = "(^|[^A-Za-z0-9_.>])(" calls ")[ \t]*[(]"
	}
	function breach(text) {
		print FILENAME ":" FNR ": " text
	}
	# The line without comments and without what is inside literals.
	function code(line,    out, c, quote, i) {
		out = quote = ""
		for (i = 1; i <= length(line); i++) {
			c = substr(line, i, 1)
			if (in_comment) {
				if (substr(line, i, 2) == "*/") {
					in_comment = 0
					i++
				}
			} else if (quote != "") {
				if (c == "\\")
					i++
				else if (c == quote)
					quote = ""
			} else if (substr(line, i, 2) == "/*") {
				in_comment = 1
				out = out " "
				i++
			} else if (substr(line, i, 2) == "//") {
				break
			} else {
				if (c == "\"" || c == "\047")
					quote = c
				out = out c
			}
		}
		return out
	}
	FILENAME == "README.md" {
		if ($0 !~ /^\| *[0-9]+ *\|/)
			next
		split($0, cell, "|")
		n = split(cell[3], name, " ")
		for (i = 1; i <= n; i++) {
			if (name[i] in floor)
				breach(name[i] " is in the table twice")
			floor[name[i]] = cell[2] + 0
			row[name[i]] = FNR
		}
		next
	}
	FNR == 1 {
		stem = FILENAME
		sub(/\.[ch]$/, "", stem)
		there[stem] = in_comment = 0
		known = stem in floor
		if (!known)
			breach(stem " is not in the table of README.md")
	}
	FNR == max_lines + 1 {
		breach("longer than " max_lines " lines")
	}
	{ text = code($0) }
	text ~ /^[ \t]*#[ \t]*include[ \t]*"/ {
		match($0, /"[^"]*"/)
		target = substr($0, RSTART + 1, RLENGTH - 2)
		to = target
		if (!sub(/\.h$/, "", to))
			breach("includes " target ", which is not a header")
		else if (target ~ /\// || !(to in floor))
			breach("includes " target ", which is not in the table of README.md")
		else if (known && floor[to] > floor[stem])
			breach("floor " floor[stem] " includes " target " of floor " floor[to])
		if (FILENAME ~ /\.h$/)
			print "edge", FILENAME, target
		next
	}
	text ~ /^[ \t]*#[ \t]*include[ \t]*<.*libteardown/ {
		breach("includes a file of the library by <>")
	}
	FILENAME !~ /^sys(_[a-z]+)?[.]c$/ && text ~ call && text !~ /^[ \t]*#[ \t]*include/ {
		match(text, call)
		name_at = substr(text, RSTART, RLENGTH)
		gsub(/[^A-Za-z0-9_]/, "", name_at)
		breach("calls " name_at "(), which is for sys.c and sys_*.c only")
	}
	END {
		for (stem in floor)
			if (!(stem in there))
				print "README.md:" row[stem] ": there is no " stem ".c or " stem ".h"
	}
' README.md "${files[@]}")

edges=$(sed -n 's/^edge //p' <<<"$report")
breaches=$(sed -e '/^edge /d' -e '/^$/d' <<<"$report")
if ! loop=$(tsort <<<"$edges" 2>&1 >/dev/null); then
	breaches+=$'\n'"headers that include each other:"$'\n'$loop
fi
if [ -n "$breaches" ]; then
	echo "$breaches"
	exit 1
fi
echo "${#files[@]} files, $(grep -c . <<<"$edges" || true) includes among headers"
