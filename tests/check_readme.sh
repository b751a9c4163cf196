#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# usage: check_readme.sh SOURCE: the C in README.md is examples/thirty_lines.c, which is
# built and run, line by line.
set -euo pipefail

# shellcheck disable=SC2016 # these are backquotes to sed, not to the shell
diff -u <(tail -n +2 "$1/examples/thirty_lines.c") \
	<(sed -n '/^```c$/,/^```$/p' "$1/README.md" | sed '1d;$d')
