#!/bin/sh
# Many cards the shell's way: all are raised, and each is asked on at once. The first lease ends it.
echo "peer: start"
trap 'echo "peer: failed"; poweroff -f' EXIT
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
. /peer.conf
for module in $modules; do
    insmod "/modules/$module"
done
echo "peer: cards"
for card in /sys/class/net/eth*; do
    ip link set "${card##*/}" up
done
for card in /sys/class/net/eth*; do
    (udhcpc -i "${card##*/}" -f -n -q -s /bin/lease && echo "peer: lease" && poweroff -f) &
done
wait
