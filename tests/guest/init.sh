#!/bin/sh
# SPDX-License-Identifier: MIT
# The guest's process 1, in busybox's shell: runs the programs of /programs one after the
# other and tells on the second serial port what they printed and how they ended. The
# first one is the kernel's, so that its messages are never in the middle of a line.
#
#   begin NAME, then "o LINE" for each line of its output and "e LINE" of its errors,
#   end NAME STATUS TIME; "late NAME" where there was no time; and after all: done
/bin/busybox mkdir -p /proc /sys /dev /tmp /run
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/shm
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs tmpfs /tmp
mount -t cgroup2 cgroup2 /sys/fs/cgroup
exec </dev/null >/dev/ttyS0 2>&1
stty -F /dev/ttyS1 raw -echo
exec 3>/dev/ttyS1

# Whom tests may need to know in a guest: what is missing here is a failure.
export TDT_GUEST=1
of_cmdline() { sed -n "s/.*\b$1=\([0-9]*\).*/\1/p" /proc/cmdline; }
limit=$(of_cmdline program_seconds)
spare=$(of_cmdline spare_seconds)

while read -r name kind; do
	if [ "$kind" = spare ] && [ "$(cut -d. -f1 /proc/uptime)" -ge "$spare" ]; then
		echo "late $name" >&3
		continue
	fi
	echo "begin $name" >&3
	cd /tmp || exit 1
	timeout -s KILL "$limit" "/programs/$name" >/run/out 2>/run/err
	status=$?
	# What a program that was killed leaves behind would be in the next one's way.
	kill -9 -1
	echo 0 >/proc/sys/vm/nr_hugepages
	sed 's/^/o /' /run/out >&3
	sed 's/^/e /' /run/err >&3
	echo "end $name $status $(cut -d' ' -f1 /proc/uptime)" >&3
done </programs/order
echo 'done' >&3
# Closing waits until all is sent.
exec 3>&-
poweroff -f
