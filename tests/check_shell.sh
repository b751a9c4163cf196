#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# usage: check_shell.sh [SRC]
# Runs shellcheck on every shell script of the tree.
set -euo pipefail

cd "${1:-$(dirname "$0")/..}"
command -v shellcheck >/dev/null || {
	echo "shellcheck is not installed"
	exit 77
}
mapfile -t scripts < <(find . \( -name .git -o -name 'build*' -o -path ./subprojects \) \
	-type d -prune -o -type f \( -name '*.sh' -o -path ./.ci/run \) -print | sort)
[ "${#scripts[@]}" -gt 0 ] || {
	echo "no shell scripts in $PWD"
	exit 1
}
shellcheck --external-sources --source-path=SCRIPTDIR "${scripts[@]}"
echo "${#scripts[@]} scripts"
