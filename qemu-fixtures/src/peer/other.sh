#!/bin/sh
# Somebody else's init: it brings up what it needs, and calls phaseboot as a command.
set -e
trap 'echo "peer: failed"; poweroff -f' EXIT
mkdir -p /run
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
. /peer.conf
for module in $modules; do
    insmod "/modules/$module"
done
case $network in
udhcpc)
    ip link set eth0 up
    udhcpc -i eth0 -f -n -q -s /bin/lease
    ;;
phaseboot) phaseboot net ;;
none) ;;
esac
. /commands
