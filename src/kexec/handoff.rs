//! The last steps of this kernel: nothing is left half-written, then reboot(2) into the next one.

use std::convert::Infallible;
use std::ffi::OsString;
use std::fs;
use std::io::Write;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};
use rustix::system::RebootCommand;

use super::Error;
use crate::paths::Paths;
use crate::sys;

/// A kernel is loaded. Only [`Plan::load`](super::Plan::load) makes this.
#[derive(Debug)]
pub struct Loaded {
    paths: Paths,
}

impl Loaded {
    pub(super) fn new(paths: Paths) -> Self {
        Self { paths }
    }

    /// Starts it. Writes back what is cached, takes block devices out of use as far as they can be,
    /// leaves a line in the kernel log. Returns only if the kernel refuses, or, before anything is
    /// touched, if no kernel is loaded after all.
    pub fn exec(&self) -> Result<Infallible, Error> {
        let loaded = fs::read_to_string(self.paths.kexec_loaded()).unwrap_or_default();
        if loaded.trim() != "1" {
            return Err(Error::NothingLoaded);
        }
        crate::patience::sync();
        match fs::read_to_string(self.paths.mountinfo()) {
            Ok(text) => release(&text),
            Err(error) => log::warn!("nothing unmounted, mounts cannot be listed: {error}"),
        }
        log::info!("starting the next kernel");
        crate::log::drain();
        if let Ok(mut kmsg) = fs::OpenOptions::new().write(true).open(self.paths.kmsg()) {
            let _ = kmsg.write_all(b"<5>phaseboot: handing over to the next kernel\n");
        }
        let errno = rustix::system::reboot(RebootCommand::Kexec).err().unwrap_or(Errno::IO);
        Err(Error::Exec { errno })
    }
}

/// Starts a kernel that somebody loaded before.
pub fn exec_loaded(paths: &Paths) -> Result<Infallible, Error> {
    Loaded::new(paths.clone()).exec()
}

/// Forgets a loaded kernel, whoever loaded it. No error if there is none.
pub fn unload() -> Result<(), Error> {
    sys::kexec::unload().map_err(|errno| Error::Unload { errno })
}

/// Unmounts what is on block devices, the last mounted first, or makes it read-only.
fn release(mountinfo: &str) {
    for point in on_block_devices(mountinfo).iter().rev() {
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
    fn nothing_is_touched_when_no_kernel_is_loaded() {
        let root = tempfile::tempdir().unwrap();
        let paths = Paths::under(root.path());
        assert!(matches!(exec_loaded(&paths), Err(Error::NothingLoaded)));
        fs::create_dir_all(root.path().join("sys/kernel")).unwrap();
        fs::write(paths.kexec_loaded(), "0\n").unwrap();
        assert!(matches!(exec_loaded(&paths), Err(Error::NothingLoaded)));
    }

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
