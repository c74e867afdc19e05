#!/bin/sh
# The way people boot over a network without phaseboot: busybox and kexec-tools in a shell script.
echo "peer: start"
set -e
trap 'echo "peer: failed"; poweroff -f' EXIT
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
. /peer.conf
for module in $modules; do
    insmod "/modules/$module"
done
ip link set eth0 up
udhcpc -i eth0 -f -n -q -s /bin/lease
echo "peer: lease"
for file in kernel initramfs SHA256SUMS; do
    wget -q "$url/$file"
done
echo "peer: downloaded"
sha256sum -c SHA256SUMS
echo "peer: verified"
kexec -l kernel --initrd=initramfs --command-line="$cmdline"
echo "peer: exec"
kexec -e
