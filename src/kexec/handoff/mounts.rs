//! File systems on disks are taken out of use before the hand-over.

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};

use crate::paths::Paths;
use crate::patience;

/// Unmounts what is on block devices, the last mounted first, or makes it read-only. Whether nothing
/// is mounted from a disk any more.
pub(super) fn release(paths: &Paths) -> bool {
    let mounted = || {
        let text = fs::read_to_string(paths.mountinfo());
        text.map(|text| on_block_devices(&text))
            .inspect_err(|error| log::warn!("nothing unmounted, mounts cannot be listed: {error}"))
    };
    let Ok(points) = mounted() else { return false };
    if points.is_empty() {
        return true;
    }
    // A disk that hangs, or a server of a network file system on it, keeps nobody from going on.
    if patience::within(patience::LONGEST, move || unmount_all(&points)).is_none() {
        log::warn!("unmounting does not end within {} s: going on", patience::LONGEST.as_secs());
        return false;
    }
    mounted().is_ok_and(|left| left.is_empty())
}

fn unmount_all(points: &[PathBuf]) {
    for point in points.iter().rev() {
        let gone = if point == Path::new("/") {
            Err(Errno::BUSY)
        } else {
            rustix::mount::unmount(point, UnmountFlags::empty())
        };
        let done = gone.or_else(|_| rustix::mount::mount_remount(point, MountFlags::RDONLY, ""));
        match (gone, done) {
            (Ok(()), _) => log::debug!("unmounted {}", point.display()),
            (Err(_), Ok(())) => log::debug!("made {} read-only", point.display()),
            (Err(_), Err(errno)) => log::warn!("{} stays mounted: {errno}", point.display()),
        }
    }
}

/// Mount points whose file system lies on a block device, in the order of `mountinfo`: proc(5).
fn on_block_devices(mountinfo: &str) -> Vec<PathBuf> {
    let point = |line: &str| {
        let (mount, filesystem) = line.split_once(" - ")?;
        let mut mount = mount.split(' ');
        let device = mount.nth(2)?;
        let point = mount.nth(1)?;
        let source = filesystem.split(' ').nth(1)?;
        // Major 0 is no device, but btrfs shows it for file systems on one.
        let on_device = !device.starts_with("0:") || source.starts_with("/dev/");
        on_device.then(|| unescape(point))
    };
    mountinfo.lines().filter_map(point).collect()
}

/// Undoes the octal escapes of white space and backslash.
fn unescape(text: &str) -> PathBuf {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let code =
            after.get(..3).and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        match (byte, code) {
            (b'\\', Some(code)) => {
                out.push(code);
                rest = after.get(3..).unwrap_or_default();
            }
            _ => {
                out.push(byte);
                rest = after;
            }
        }
    }
    PathBuf::from(OsString::from_vec(out))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_on_block_devices() {
        let mountinfo = "\
21 1 0:2 / / rw - rootfs none rw
22 21 0:20 / /proc rw,nosuid shared:5 - proc proc rw
23 21 254:1 / /mnt/a\\040disk rw,relatime shared:1 master:2 - ext4 /dev/vda1 rw
24 21 0:35 /sub /data rw - btrfs /dev/vdb rw
25 21 0:36 / /nfs rw - nfs 10.0.2.2:/x rw
26 21 7:0 / /over\\134x ro - squashfs /dev/loop0 ro
broken
";
        let found = on_block_devices(mountinfo);
        assert_eq!(found, [Path::new("/mnt/a disk"), Path::new("/data"), Path::new("/over\\x")]);
        assert_eq!(unescape("a\\04"), Path::new("a\\04"));
    }
}
