#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# usage: check_style.sh [SRC]
# Every source file names its licence in its first lines, and no file names a path of
# the machine it was written on.
set -euo pipefail

cd "${1:-$(dirname "$0")/..}"
skip=(\( -name .git -o -name 'build*' -o -path ./subprojects \) -type d -prune)
bad=0

mapfile -t sources < <(find . "${skip[@]}" -o -type f \( -name '*.[ch]' -o -name '*.cc' \
	-o -name '*.sh' -o -name '*.py' -o -name '*.md' -o -name '*.in' -o -name '*.supp' \
	-o -name '*.yml' -o -name meson.build -o -name meson_options.txt -o -path ./.ci/run \
	-o -name .clang-format -o -name .editorconfig \) -print | sort)
[ "${#sources[@]}" -gt 0 ] || {
	echo "no sources in $PWD"
	exit 1
}
for file in "${sources[@]}"; do
	head -n 5 "$file" | grep -q 'SPDX-License-Identifier: MIT' || {
		echo "$file: no SPDX line"
		bad=1
	}
done

# In pieces, so that this file does not name them.
if find . "${skip[@]}" -o -type f -print0 |
	xargs -0 grep -nIE '/wor''k/|\.\./shar''ed|/home/[a-z]|/ro''ot/'; then
	echo "these lines name a path of a machine"
	bad=1
fi

echo "${#sources[@]} sources"
exit "$bad"
