//! A record in a variable of the UEFI firmware. Source: Documentation/filesystems/efivarfs.rst; UEFI
//! specification 2.10, section 8.2 (SetVariable).

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};

use super::file;
use crate::paths::Paths;

const NAME: &str = "PhasebootSeen";
/// phaseboot's own
const GUID: &str = "4bfd6d7b-ae4e-4b32-a2d1-50c02e5540e0";
/// EFI_VARIABLE_NON_VOLATILE, BOOTSERVICE_ACCESS and RUNTIME_ACCESS, which efivarfs puts before the content.
const ATTRIBUTES: [u8; 4] = [7, 0, 0, 0];

/// Where the variable is, or would be; None if this machine has no efivarfs mounted. A `record_name`
/// follows a dot: what follows a `-` would look like part of the GUID.
pub(super) fn find(paths: &Paths, record_name: Option<&str>) -> Option<PathBuf> {
    let mountinfo = fs::read_to_string(paths.mountinfo()).ok()?;
    let name = || match record_name {
        Some(record) => format!("{NAME}.{record}-{GUID}"),
        None => format!("{NAME}-{GUID}"),
    };
    mountinfo.lines().any(is_efivarfs).then(|| paths.efi_variables().join(name()))
}

/// Whether this line of mountinfo is about the firmware's variables: proc(5).
fn is_efivarfs(line: &str) -> bool {
    line.split_once(" - ").is_some_and(|(mount, filesystem)| {
        filesystem.starts_with("efivarfs ") && mount.split(' ').nth(4) == Some("/sys/firmware/efi/efivars")
    })
}

/// The content; None if there is no such variable.
pub(super) fn read(path: &Path, most: usize) -> io::Result<Option<Vec<u8>>> {
    match file::read(path, most.saturating_add(ATTRIBUTES.len()))? {
        // No variable is empty: this is one that was created, and could not be written.
        None => Ok(None),
        Some(bytes) if bytes.is_empty() => Ok(None),
        Some(bytes) => match bytes.strip_prefix(&ATTRIBUTES) {
            Some(content) => Ok(Some(content.to_vec())),
            None => {
                Err(io::Error::new(io::ErrorKind::InvalidData, "its attributes are not those that were set"))
            }
        },
    }
}

/// Sets the variable: one write(2), which the firmware does whole or not at all.
pub(super) fn write(path: &Path, content: &[u8]) -> io::Result<()> {
    let bytes = [ATTRIBUTES.as_slice(), content].concat();
    // efivarfs protects variables from being deleted by mistake, and so from being written.
    let protection = File::open(path).ok().and_then(|file| {
        let flags = ioctl_getflags(&file).ok().filter(|flags| flags.contains(IFlags::IMMUTABLE))?;
        ioctl_setflags(&file, flags - IFlags::IMMUTABLE).ok()?;
        Some((file, flags))
    });
    let written =
        OpenOptions::new().write(true).create(true).truncate(false).open(path).and_then(|mut file| {
            let length = file.write(&bytes)?;
            if length == bytes.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
        });
    if let Some((file, flags)) = protection {
        let _ = ioctl_setflags(&file, flags);
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_mounted_efivarfs_counts() {
        let root = tempfile::tempdir().unwrap();
        let paths = Paths::under(root.path());
        assert_eq!(find(&paths, None), None);
        fs::create_dir_all(root.path().join("proc/self")).unwrap();
        let line = "31 24 0:27 / /sys/firmware/efi/efivars rw,nosuid - efivarfs efivarfs rw\n";
        for (text, found) in [
            ("21 1 0:20 / /sys rw - sysfs sysfs rw\n", false),
            ("31 24 0:27 / /mnt rw - efivarfs efivarfs rw\n", false),
            ("31 24 0:27 / /sys/firmware/efi/efivars rw - tmpfs efivarfs rw\n", false),
            ("31 - efivarfs x", false),
            (line, true),
        ] {
            fs::write(paths.mountinfo(), text).unwrap();
            assert_eq!(find(&paths, None).is_some(), found, "{text}");
        }
        let name = |record| find(&paths, record).unwrap().file_name().unwrap().to_owned();
        assert_eq!(name(None), "PhasebootSeen-4bfd6d7b-ae4e-4b32-a2d1-50c02e5540e0");
        assert_eq!(name(Some("acme-2")), "PhasebootSeen.acme-2-4bfd6d7b-ae4e-4b32-a2d1-50c02e5540e0");
    }

    #[test]
    fn the_attributes_stand_before_the_content() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join(NAME);
        assert_eq!(read(&path, 9).unwrap(), None);
        write(&path, b"first").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"\x07\0\0\0first");
        assert_eq!(read(&path, 9).unwrap().unwrap(), b"first");
        write(&path, b"secnd").unwrap();
        assert_eq!(read(&path, 9).unwrap().unwrap(), b"secnd");
        assert_eq!(read(&path, 3).unwrap().unwrap(), b"secn");
    }

    #[test]
    fn other_attributes_are_damage_and_an_empty_file_is_none() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join(NAME);
        fs::write(&path, "").unwrap();
        assert_eq!(read(&path, 9).unwrap(), None);
        for bytes in [b"\x07\0\0".as_slice(), b"\x06\0\0\0x", b"x"] {
            fs::write(&path, bytes).unwrap();
            assert!(read(&path, 9).is_err(), "{bytes:?}");
        }
        assert!(write(&root.path().join("none").join(NAME), b"x").is_err());
    }

    /// ext4 knows the same flag; a file system that does not is passed over.
    #[test]
    fn an_immutable_variable_is_written_and_stays_immutable() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join(NAME);
        write(&path, b"first").unwrap();
        let file = File::open(&path).unwrap();
        let Ok(flags) = ioctl_getflags(&file) else {
            println!("skipped: no inode flags here");
            return;
        };
        if ioctl_setflags(&file, flags | IFlags::IMMUTABLE).is_err() {
            println!("skipped: the immutable flag cannot be set here");
            return;
        }
        let written = write(&path, b"secnd");
        let after = ioctl_getflags(&file).unwrap();
        ioctl_setflags(&file, flags).unwrap();
        written.unwrap();
        assert!(after.contains(IFlags::IMMUTABLE));
        assert_eq!(read(&path, 9).unwrap().unwrap(), b"secnd");
    }
}
