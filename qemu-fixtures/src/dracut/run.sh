# Arguments: a system with dracut, the module's folder, kernel modules, where the image goes, the kernel's release.
mount --bind "$2" "$1/usr/lib/dracut/modules.d/95phaseboot"
mount --bind "$3" "$1/usr/lib/modules"
mount --bind "$4" "$1/work"
mount --rbind /dev "$1/dev"
mount --rbind /proc "$1/proc"
exec chroot "$1" /bin/sh -c 'exec dracut --force --no-hostonly --no-early-microcode --no-compress --tmpdir /work --kver "$1" \
    --add phaseboot /work/dracut.img' sh "$5"
