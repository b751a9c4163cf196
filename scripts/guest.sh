#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# usage: scripts/guest.sh [DIR]
# Gets what tests/guest boots: installs qemu, and unpacks Debian's cloud kernel and its
# static busybox into DIR (default: build-test/guest). These two are not installed:
# a kernel's package would rebuild the machine's boot files, and busybox-static removes
# busybox. What is there already is kept. Needs root or sudo only for what is missing.
set -euo pipefail

here=$(dirname "$(readlink -f -- "${BASH_SOURCE[0]}")")
# shellcheck source=scripts/deps.sh disable=SC1091
. "$here/deps.sh"

dir=${1:-$(dirname "$here")/build-test/guest}
tmp=''
trap 'rm -rf -- ${tmp:+"$tmp"}' EXIT

# kernel_package: the one that this month's linux-image-cloud-amd64 stands for.
kernel_package() {
	LC_ALL=C apt-cache depends linux-image-cloud-amd64 2>/dev/null |
		awk '$1 == "Depends:" && $2 ~ /^linux-image-[0-9]/ { print $2; exit }'
}

# unpack PKG: into $tmp.
unpack() {
	(cd "$tmp" && apt-get -qq -o APT::Sandbox::User=root download "$1" >&2 &&
		dpkg-deb -x ./"$1"_*.deb . && rm -f ./"$1"_*.deb)
}

there() {
	[ -s "$dir/busybox" ] && [ -s "$dir/vmlinuz" ]
}

fetch() {
	local kernel
	kernel=$(kernel_package)
	[ -n "$kernel" ] || return 1
	unpack "$kernel" && unpack busybox-static || return 1
	# The kernel last: who finds it finds all.
	mv -f "$tmp/bin/busybox" "$dir/busybox" &&
		mv -f "$tmp"/boot/vmlinuz-* "$dir/vmlinuz"
}

[ "$(dpkg --print-architecture 2>/dev/null)" = amd64 ] ||
	td_die "the guest is Debian's for amd64, this machine is something else"
# The runner finds what is there, and says what is not.
td_want qemu-system-x86
there && exit
mkdir -p "$dir"
tmp=$(mktemp -d -p "$dir")
td_say "unpacking the guest's kernel and busybox into $dir"
# The first try fails where the package lists are missing or stale.
fetch || { td_update && fetch; } ||
	td_die "linux-image-cloud-amd64 or busybox-static cannot be downloaded"
