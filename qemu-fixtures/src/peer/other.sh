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
none | doctor | kexec) ;;
esac
if [ "$network" = doctor ] || [ "$network" = kexec ]; then
    mount -t securityfs securityfs /sys/kernel/security
    code=0
    phaseboot doctor || code=$?
    echo "doctor: exit code $code"
fi
case $network in
doctor) exit ;;
kexec)
    code=0
    phaseboot kexec --status || code=$?
    echo "nothing loaded: exit code $code"
    phaseboot fetch --out /run/next
    phaseboot doctor --kernel /run/next/kernel --initrd /run/next/initramfs
    set -- --kernel /run/next/kernel --initrd /run/next/initramfs --reuse-cmdline --append lab.appended=1
    phaseboot kexec --dry-run --json "$@"
    phaseboot kexec --load-only "$@"
    phaseboot kexec --unload
    phaseboot kexec --status || echo "unloaded: exit code $?"
    phaseboot kexec --load-only "$@"
    phaseboot kexec --status
    phaseboot kexec --exec
    ;;
esac
. /commands
