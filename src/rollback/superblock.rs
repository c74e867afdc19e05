//! What file system begins with these bytes, and what it is called: ext2, ext3, ext4 and FAT. Pure.
//! Source: Documentation/filesystems/ext4/super.rst; linux/msdos_fs.h (struct fat_boot_sector).

use std::ffi::CStr;

use crate::manifest::keys::hex;

/// As many bytes of a device as have to be read.
pub(super) const LENGTH: usize = 2048;
/// The superblock of ext2, ext3 and ext4.
const EXT: usize = 1024;
const EXT_MAGIC: [u8; 2] = [0x53, 0xef];
/// EXT4_FEATURE_INCOMPAT_RECOVER, of the lowest byte of the incompatible features.
const RECOVER: u8 = 4;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FileSystem {
    /// Any of the three; the driver of ext4 takes all of them.
    Ext,
    Fat,
}

impl FileSystem {
    /// The driver, as mount(2) names it.
    pub(super) fn driver(self) -> &'static str {
        match self {
            Self::Ext => "ext4",
            Self::Fat => "vfat",
        }
    }

    /// The options of a mount. The superblock could ask for a panic where something is damaged.
    pub(super) fn options(self, untouched: bool) -> &'static CStr {
        match (self, untouched) {
            // Even a read-only mount replays the journal.
            (Self::Ext, true) => c"errors=remount-ro,noload",
            (Self::Ext, false) | (Self::Fat, _) => c"errors=remount-ro",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Superblock {
    pub(super) kind: FileSystem,
    pub(super) label: String,
    /// As blkid(8) shows it.
    pub(super) uuid: String,
    /// Its journal holds what is not in its place yet.
    pub(super) needs_recovery: bool,
}

impl Superblock {
    /// Reads the first [`LENGTH`] bytes of a device.
    pub(super) fn parse(start: &[u8]) -> Option<Self> {
        Self::ext(start).or_else(|| Self::fat(start))
    }

    fn ext(start: &[u8]) -> Option<Self> {
        let superblock = start.get(EXT..)?;
        (superblock.get(56..58)? == EXT_MAGIC).then_some(())?;
        let uuid = uuid(*superblock.get(104..)?.first_chunk()?);
        let needs_recovery = superblock.get(96)? & RECOVER != 0;
        Some(Self { kind: FileSystem::Ext, label: label(superblock.get(120..136)?), uuid, needs_recovery })
    }

    /// FAT16 or FAT32. The label is the boot sector's, which mkfs.fat writes and Windows does not.
    fn fat(start: &[u8]) -> Option<Self> {
        (start.get(510..512)? == [0x55, 0xaa]).then_some(())?;
        let fields = if start.get(82..90)? == b"FAT32   " {
            start.get(67..82)?
        } else if start.get(54..62)? == b"FAT16   " {
            start.get(39..54)?
        } else {
            return None;
        };
        let (serial, name) = fields.split_first_chunk::<4>()?;
        let id = u32::from_le_bytes(*serial);
        let uuid = format!("{:04X}-{:04X}", id >> 16, id & 0xffff);
        Some(Self { kind: FileSystem::Fat, label: label(name), uuid, needs_recovery: false })
    }
}

/// RFC 9562, section 4
pub(super) fn uuid(bytes: [u8; 16]) -> String {
    let digits = hex(&bytes);
    [0..8, 8..12, 12..16, 16..20, 20..32].map(|range| digits.get(range).unwrap_or_default()).join("-")
}

/// Up to the first NUL, without the spaces that fill a FAT label.
fn label(bytes: &[u8]) -> String {
    let text = bytes.split(|&byte| byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(text).trim_end_matches(' ').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::fs::File;
    use std::io::Read;
    use std::process::{Command, Stdio};

    /// The start of an image that `program` made, or None if there is no such program here.
    fn made(program: &str, arguments: &[&str], size: u64) -> Option<Vec<u8>> {
        let root = tempfile::tempdir().unwrap();
        let image = root.path().join("image");
        File::create(&image).unwrap().set_len(size).unwrap();
        let path = ["/sbin", "/usr/sbin"].map(|folder| format!("{folder}/{program}"));
        let Some(program) = path.iter().find(|path| std::path::Path::new(path).exists()) else {
            println!("skipped: no {program} here");
            return None;
        };
        let status =
            Command::new(program).args(arguments).arg(&image).stdout(Stdio::null()).status().unwrap();
        assert!(status.success());
        let mut start = vec![0; LENGTH];
        File::open(&image).unwrap().read_exact(&mut start).unwrap();
        Some(start)
    }

    #[test]
    fn ext_of_every_age() {
        let uuid = "6f2c9f7e-4e0f-4c0a-9d5a-0f3f5f8f6a11";
        for version in ["ext2", "ext3", "ext4"] {
            let arguments = ["-q", "-t", version, "-U", uuid, "-L", "PHASE_CACHE"];
            let Some(start) = made("mke2fs", &arguments, 8 << 20) else { return };
            let superblock = Superblock::parse(&start).unwrap();
            assert_eq!(superblock.kind, FileSystem::Ext, "{version}");
            assert_eq!((superblock.label.as_str(), superblock.uuid.as_str()), ("PHASE_CACHE", uuid));
            assert!(!superblock.needs_recovery);
            let mut unclean = start;
            unclean[EXT + 96] |= 4;
            assert!(Superblock::parse(&unclean).unwrap().needs_recovery);
        }
    }

    #[test]
    fn fat16_and_fat32() {
        for (bits, size) in [("16", 16 << 20), ("32", 64 << 20)] {
            let arguments = ["-F", bits, "-i", "12ab34cd", "-n", "PHASECACHE"];
            let Some(start) = made("mkfs.fat", &arguments, size) else { return };
            let superblock = Superblock::parse(&start).unwrap();
            assert_eq!(superblock.kind, FileSystem::Fat, "{bits}");
            assert_eq!((superblock.label.as_str(), superblock.uuid.as_str()), ("PHASECACHE", "12AB-34CD"));
        }
    }

    #[test]
    fn labels_end_where_they_end() {
        assert_eq!(label(b"a b \0junk"), "a b");
        assert_eq!(label(b"NO NAME    "), "NO NAME");
        assert_eq!(label(b"\xff"), "\u{fffd}");
        assert_eq!(label(b""), "");
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..LENGTH), ext: bool) {
            let mut bytes = bytes;
            let (at, magic) = if ext { (EXT + 56, EXT_MAGIC) } else { (510, [0x55, 0xaa]) };
            if let Some(place) = bytes.get_mut(at..at + 2) {
                place.copy_from_slice(&magic);
            }
            let _ = Superblock::parse(&bytes);
        }
    }
}
