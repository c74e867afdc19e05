//! File systems on disks are taken out of use before the hand-over, and put back if it fails.

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::CWD;
use rustix::io::Errno;
use rustix::mount::{FsPickFlags, MountFlags, UnmountFlags};

use crate::paths::Paths;
use crate::patience;

/// What was done to the mounts of this machine.
#[derive(Debug)]
pub(super) struct Released {
    /// Nothing is mounted from a disk any more.
    pub(super) are_disks_free: bool,
    taken: Log,
}

/// In the order in which it was taken; None when it has been put back.
type Log = Arc<Mutex<Option<Vec<Taken>>>>;

/// A mount that is not as it was.
#[derive(Debug)]
struct Taken {
    mount: Mount,
    /// Unmounted; else its file system is read-only.
    is_gone: bool,
}

/// Unmounts what is on block devices, the last mounted first, or makes it read-only.
pub(super) fn release(paths: &Paths) -> Released {
    let taken = Arc::new(Mutex::new(Some(Vec::new())));
    Released { are_disks_free: release_all(paths, taken.clone()), taken }
}

fn release_all(paths: &Paths, taken: Log) -> bool {
    let mounted = || {
        let text = fs::read_to_string(paths.mountinfo());
        text.map(|text| on_block_devices(&text))
            .inspect_err(|error| log::warn!("nothing unmounted, mounts cannot be listed: {error}"))
    };
    let Ok(mounts) = mounted() else { return false };
    if mounts.is_empty() {
        return true;
    }
    // A disk that hangs, or a server of a network file system on it, keeps nobody from going on.
    if patience::within(patience::LONGEST, move || take_all(mounts, &taken)).is_none() {
        log::warn!("unmounting does not end within {} s: going on", patience::LONGEST.as_secs());
        return false;
    }
    mounted().is_ok_and(|left| left.is_empty())
}

fn take_all(mounts: Vec<Mount>, taken: &Log) {
    for mount in mounts.into_iter().rev() {
        let point = mount.point.clone();
        let gone = if point == Path::new("/") {
            Err(Errno::BUSY)
        } else {
            rustix::mount::unmount(&point, UnmountFlags::empty())
        };
        let done = gone.or_else(|_| if mount.is_writable() { set(&point, "ro") } else { Ok(()) });
        match (gone, done) {
            (Ok(()), _) => log::debug!("unmounted {}", point.display()),
            (Err(_), Ok(())) => log::debug!("made {} read-only", point.display()),
            (Err(_), Err(errno)) => log::warn!("{} stays mounted: {errno}", point.display()),
        }
        let is_gone = gone.is_ok();
        if done.is_err() || !(is_gone || mount.is_writable()) {
            continue;
        }
        let one = Taken { mount, is_gone };
        match taken.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            Some(taken) => taken.push(one),
            // Left behind for being slow, and all has been put back meanwhile.
            None => return put_back(&[one], true),
        }
    }
}

impl Released {
    /// Makes writable and mounts again what was, and tells what cannot be. Devices that were reset may have
    /// other names now: without `by_name` nothing is mounted.
    pub(super) fn undo(self, by_name: bool) {
        let taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner).take();
        put_back(&taken.unwrap_or_default(), by_name);
    }
}

/// `taken` is in the order in which it was taken.
fn put_back(taken: &[Taken], by_name: bool) {
    let mut lost = Vec::new();
    // A file system that is read-only at one place is mounted writable at no other.
    for was_gone in [false, true] {
        for Taken { mount, .. } in taken.iter().rev().filter(|taken| taken.is_gone == was_gone) {
            let is_back =
                if was_gone { by_name && mount.again().is_some() } else { set(&mount.point, "rw").is_ok() };
            if !is_back {
                lost.push(&mount.point);
            }
        }
    }
    if !lost.is_empty() {
        log::warn!("unmounted or read-only, and not as before: {lost:?}");
    }
}

/// Sets `ro` or `rw` of the file system that is mounted there, and nothing else: fspick(2).
fn set(point: &Path, flag: &str) -> Result<(), Errno> {
    let picked = rustix::mount::fspick(CWD, point, FsPickFlags::FSPICK_CLOEXEC)?;
    rustix::mount::fsconfig_set_flag(&picked, flag)?;
    rustix::mount::fsconfig_reconfigure(&picked)
}

/// A line of `mountinfo`: proc(5).
#[derive(Debug)]
struct Mount {
    point: PathBuf,
    line: String,
}

/// Device, root, mount point, options of the mount; type, source, options of the file system.
#[inline(never)]
fn fields(line: &str) -> Option<[&str; 7]> {
    let words: Vec<&str> = line.split(' ').collect();
    let [_, _, device, root, point, options, rest @ ..] = words.as_slice() else { return None };
    let end = rest.iter().position(|word| *word == "-")?;
    let [_, kind, source, settings, ..] = rest.get(end..)? else { return None };
    Some([device, root, point, options, kind, source, settings])
}

impl Mount {
    /// Of a file system that lies on a block device.
    fn on_block_device(line: &str) -> Option<Self> {
        let [device, _, point, _, _, source, _] = fields(line)?;
        // Major 0 is no device, but btrfs shows it for file systems on one.
        let on_device = !device.starts_with("0:") || source.starts_with("/dev/");
        on_device.then(|| Self { point: unescape(point), line: line.to_owned() })
    }

    /// Whether its file system is, wherever it is mounted.
    fn is_writable(&self) -> bool {
        fields(&self.line).is_some_and(|[.., settings]| settings == "rw" || settings.starts_with("rw,"))
    }

    /// Mounts it again, if the line says all that it takes: not a part of a file system (a bind mount), nor
    /// one that is read-only here alone. mount(2)
    fn again(&self) -> Option<()> {
        let [_, root, _, options, kind, source, settings] = fields(&self.line)?;
        let (mut unknown, mut own) = (String::new(), String::new());
        let mut flags = flags(options, &mut unknown);
        let known = self::flags(settings, &mut own);
        if root != "/" || !unknown.is_empty() || (flags ^ known).contains(MountFlags::RDONLY) {
            return None;
        }
        // What is shown without a word.
        if !flags.intersects(MountFlags::NOATIME | MountFlags::RELATIME) {
            flags |= MountFlags::STRICTATIME;
        }
        let data = std::ffi::CString::new(unescape(&own).into_os_string().into_vec()).ok()?;
        rustix::mount::mount(unescape(source), &self.point, kind, flags | known, data.as_c_str()).ok()
    }
}

/// The flags among `options`; the others are put behind `own`.
#[inline(never)]
fn flags(options: &str, own: &mut String) -> MountFlags {
    let mut flags = MountFlags::empty();
    for option in options.split(',') {
        if let Some(flag) = flag(option) {
            flags |= flag;
            continue;
        }
        if !own.is_empty() {
            own.push(',');
        }
        own.push_str(option);
    }
    flags
}

/// What show_sb_opts() and show_mnt_opts() of the kernel's fs/proc_namespace.c print of mount(2)'s flags.
fn flag(option: &str) -> Option<MountFlags> {
    /// linux/mount.h
    const MS_NOSYMFOLLOW: u32 = 256;
    Some(match option {
        "rw" => MountFlags::empty(),
        "ro" => MountFlags::RDONLY,
        "nosuid" => MountFlags::NOSUID,
        "nodev" => MountFlags::NODEV,
        "noexec" => MountFlags::NOEXEC,
        "noatime" => MountFlags::NOATIME,
        "nodiratime" => MountFlags::NODIRATIME,
        "relatime" => MountFlags::RELATIME,
        "nosymfollow" => MountFlags::from_bits_retain(MS_NOSYMFOLLOW),
        "sync" => MountFlags::SYNCHRONOUS,
        "dirsync" => MountFlags::DIRSYNC,
        "lazytime" => MountFlags::LAZYTIME,
        _ => return None,
    })
}

/// What lies on block devices, in the order of `mountinfo`.
fn on_block_devices(mountinfo: &str) -> Vec<Mount> {
    mountinfo.lines().filter_map(Mount::on_block_device).collect()
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
        let found: Vec<PathBuf> = on_block_devices(mountinfo).into_iter().map(|mount| mount.point).collect();
        assert_eq!(found, [Path::new("/mnt/a disk"), Path::new("/data"), Path::new("/over\\x")]);
        assert_eq!(unescape("a\\04"), Path::new("a\\04"));
    }
}
