#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# usage: man_page.sh SRC
# The man page is rendered without a warning.
set -euo pipefail

page=$1/tools/teardown.1
if command -v groff >/dev/null; then
	with=groff
	said=$(groff -man -Tutf8 -ww -z "$page" 2>&1) || true
elif command -v mandoc >/dev/null; then
	with=mandoc
	said=$(mandoc -T lint -W warning "$page" 2>&1) || true
else
	echo "neither groff (groff-base) nor mandoc is installed"
	exit 77
fi
if [ -n "$said" ]; then
	echo "$said"
	exit 1
fi
echo "no warning from $with"
