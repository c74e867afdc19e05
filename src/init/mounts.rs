//! The file systems every later step needs.

use std::path::Path;

use log::{debug, warn};
use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::mount::MountFlags;

struct Mount {
    kind: &'static str,
    target: &'static str,
    flags: MountFlags,
    data: Option<&'static std::ffi::CStr>,
}

const SAFE: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV).union(MountFlags::NOEXEC);

const MOUNTS: [Mount; 6] = [
    Mount { kind: "proc", target: "/proc", flags: SAFE, data: None },
    Mount { kind: "sysfs", target: "/sys", flags: SAFE, data: None },
    Mount { kind: "devtmpfs", target: "/dev", flags: MountFlags::NOSUID, data: Some(c"mode=0755") },
    Mount { kind: "tmpfs", target: "/run", flags: SAFE, data: Some(c"mode=0755") },
    Mount { kind: "tmpfs", target: "/tmp", flags: SAFE, data: Some(c"mode=1777") },
    // Lockdown's mode is read here; a kernel without it simply has no such file.
    Mount { kind: "securityfs", target: "/sys/kernel/security", flags: SAFE, data: None },
];

/// Mounts what is not mounted yet. What fails is reported and left: the step that needs it says why.
pub(super) fn mount_all() {
    for mount in &MOUNTS {
        let _ = rustix::fs::mkdir(mount.target, Mode::from_raw_mode(0o755));
        match rustix::mount::mount(mount.kind, mount.target, mount.kind, mount.flags, mount.data) {
            Ok(()) => {}
            Err(Errno::BUSY) => debug!("{} is mounted already", mount.target),
            Err(errno) if mount.kind == "securityfs" => debug!("no {}: {errno}", mount.target),
            Err(errno) => warn!("cannot mount {} on {}: {errno}", mount.kind, mount.target),
        }
    }
}

/// Mounts the firmware's variables, where there are any. The driver can be a module.
pub(super) fn mount_variables() {
    let (firmware, target) = ("/sys/firmware/efi", "/sys/firmware/efi/efivars");
    let mounted = rustix::mount::mount("efivarfs", target, "efivarfs", SAFE, None);
    if let Some(errno) = is_missed(mounted, Path::new(firmware).exists()) {
        warn!("cannot mount efivarfs on {target}: {errno}; the firmware keeps no rollback record");
    }
}

/// Why this machine lacks the variables that its firmware has. The second attempt finds them mounted.
fn is_missed(mounted: Result<(), Errno>, has_firmware: bool) -> Option<Errno> {
    mounted.err().filter(|&errno| has_firmware && errno != Errno::BUSY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_missed_only_where_there_is_firmware() {
        for (mounted, has_firmware, missed) in [
            (Ok(()), true, false),
            (Err(Errno::BUSY), true, false),
            (Err(Errno::NODEV), true, true),
            (Err(Errno::NOENT), true, true),
            (Err(Errno::NOENT), false, false),
        ] {
            assert_eq!(is_missed(mounted, has_firmware).is_some(), missed, "{mounted:?}");
        }
    }
}
