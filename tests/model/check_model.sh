#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# usage: check_model.sh MODEL holds|fails [-DNAME[=VALUE]...]
# Searches all states of a Spin model. "holds": there is no error in any of them; "fails":
# there is one, so that what was taken away from the model is needed, and would be missed.
set -euo pipefail

[ "$#" -ge 2 ] || {
	echo "usage: check_model.sh MODEL holds|fails [-DNAME[=VALUE]...]"
	exit 1
}
model=$(realpath "$1")
expected=$2
shift 2
command -v spin >/dev/null || {
	echo "spin is not installed"
	exit 77
}
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"

if ! spin -a "$@" "$model" >spin.log 2>&1 || [ -s spin.log ]; then
	cat spin.log
	echo "spin does not take the model"
	exit 1
fi
# Optimizing it takes longer than the search. Spin's code is not clean of warnings.
read -ra cc <<<"${CC:-cc}"
"${cc[@]}" -O0 -w -DSAFETY -DNOCLAIM -DMEMLIM=1500 -o pan pan.c
status=0
./pan -m100000 -w22 >pan.log 2>&1 || status=$?
grep -E '^pan:|errors:|states, stored|total actual memory' pan.log || cat pan.log
errors=$(sed -n 's/.*errors: \([0-9]*\).*/\1/p' pan.log)
if [ -z "$errors" ] || grep -qE 'max search depth|out of memory|aborting|truncated' pan.log; then
	echo "the search did not come to its end (exit status $status)"
	exit 1
fi
case $expected in
holds)
	[ "$errors" -eq 0 ]
	grep -q '^Full statespace search' pan.log
	;;
fails)
	if ! grep -qE '^pan:[0-9]+: (assertion violated|invalid end state)' pan.log; then
		echo "no error was found: the model would not notice"
		exit 1
	fi
	;;
*)
	echo "neither holds nor fails: $expected"
	exit 1
	;;
esac
