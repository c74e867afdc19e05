//! What a ramdisk is made of: cpio archives, plain or compressed, one behind the other.
//! Documentation/driver-api/early-userspace/buffer-format.rst. Only for people to look at: a kernel may
//! know formats that are unknown here.

use std::borrow::Cow;

use super::compressed::{self, Compression, Step, Stop};
use super::foreign::{self, Foreign};
use super::pe::Pe;
use super::{Error, MOST_UNPACKED, at, zboot};

/// More archives in one ramdisk are not looked at.
const MOST_PIECES: usize = 64;
/// "newc", and the same with checksums.
const MAGICS: [&[u8; 6]; 2] = [b"070701", b"070702"];
const HEADER: usize = 110;
const LAST: &[u8] = b"TRAILER!!!";
/// Where the kernel looks for microcode before it unpacks anything:
/// Documentation/arch/x86/microcode.rst.
const MICROCODE: &[u8] = b"kernel/x86/microcode/";

/// One archive of a ramdisk.
#[derive(Debug, PartialEq, Eq)]
pub struct Piece {
    /// Where it begins in the ramdisk, in bytes.
    pub offset: usize,
    /// In bytes. What is compressed in a way that is not undone here goes on to the end.
    pub size: usize,
    /// `cpio`, `gzip`, ...
    pub format: Cow<'static, str>,
    /// How many files a plain archive holds.
    pub files: Option<u64>,
    /// Microcode for the processor is in it.
    pub microcode: bool,
    /// What comes out of a compressed one, in bytes.
    pub unpacked: Option<u64>,
    /// Why the kernel is not going to unpack all of it.
    pub fault: Option<String>,
}

/// Takes a ramdisk apart. At most [`MOST_UNPACKED`] bytes of it are unpacked, and none of them kept.
pub fn survey(bytes: &[u8]) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let mut rest = bytes;
    let mut left = MOST_UNPACKED;
    while pieces.len() < MOST_PIECES {
        // The kernel passes over zeros between archives.
        let Some(start) = rest.iter().position(|&byte| byte != 0) else { break };
        rest = rest.get(start..).unwrap_or_default();
        let (mut piece, after) = piece(rest, left);
        left = left.saturating_sub(piece.unpacked.unwrap_or(0));
        piece.offset = bytes.len().saturating_sub(rest.len());
        piece.size = rest.len().saturating_sub(after.len());
        pieces.push(piece);
        rest = after;
    }
    pieces
}

/// The archive that `bytes` begin with, of which at most `left` bytes are unpacked, and what follows it.
fn piece(bytes: &[u8], left: u64) -> (Piece, &[u8]) {
    let mut piece = Piece {
        offset: 0,
        size: 0,
        format: Cow::Borrowed("cpio"),
        files: None,
        microcode: false,
        unpacked: None,
        fault: None,
    };
    if foreign::is_cpio(bytes) {
        return match walk(bytes, &mut piece) {
            Ok(rest) => (piece, rest),
            Err(fault) => {
                piece.fault = Some(fault);
                (piece, &[])
            }
        };
    }
    let Some(compression) = Compression::of(bytes) else {
        let kind = foreign::recognise(bytes);
        piece.format = match kind {
            Foreign::Xz => "xz".into(),
            Foreign::Lzma => "lzma".into(),
            Foreign::Lz4 => "lz4".into(),
            Foreign::Lzop => "lzop".into(),
            Foreign::Bzip2 => "bzip2".into(),
            kind => {
                piece.fault = Some("the kernel does not unpack it".to_owned());
                kind.to_string().into()
            }
        };
        return (piece, &[]);
    };
    piece.format = compression.to_string().into();
    let mut unpacked = 0;
    let mut is_archive = true;
    let done = compressed::unpack(compression, bytes, &mut |step| {
        let Step::Bytes(chunk) = step else { return Ok(()) };
        if unpacked == 0 && !chunk.is_empty() {
            // Padding may stand before the archive in it, as between archives.
            is_archive = foreign::is_cpio(chunk) || chunk.first() == Some(&0);
        }
        unpacked += chunk.len() as u64;
        if unpacked > left {
            return Err(Error::TooLarge { name: "the ramdisk", limit: MOST_UNPACKED });
        }
        Ok(())
    });
    piece.unpacked = Some(unpacked);
    let rest = match done {
        Ok(rest) => rest,
        Err(Stop::Fault(fault)) => {
            piece.fault = Some(fault.to_string());
            &[]
        }
        Err(Stop::Sink(error)) => {
            piece.fault = Some(error.to_string());
            &[]
        }
    };
    if !is_archive && piece.fault.is_none() {
        piece.fault = Some("no cpio archive is in it".to_owned());
    }
    (piece, rest)
}

/// Goes from header to header until the last one, and returns what follows it.
fn walk<'a>(bytes: &'a [u8], piece: &mut Piece) -> Result<&'a [u8], String> {
    let mut offset = 0;
    let mut files = 0;
    loop {
        let header = bytes.get(offset..).unwrap_or_default();
        if header.len() < HEADER {
            return Err(format!("it ends after {files} files without an end mark"));
        }
        if !MAGICS.iter().any(|magic| header.starts_with(*magic)) {
            return Err(format!("no file header follows the first {files} files"));
        }
        // Fields of eight hexadecimal digits: the sizes of the file and of its name.
        let field = |index: usize| {
            let digits = at::<8>(header, 6 + index * 8)?;
            usize::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()
        };
        let sizes = field(6).zip(field(11));
        let (size, name_size) = sizes.ok_or_else(|| format!("the header after {files} files is broken"))?;
        let name_end = offset.saturating_add(HEADER).saturating_add(name_size);
        let name = bytes.get(offset.saturating_add(HEADER)..name_end).unwrap_or_default();
        let end = name_end.next_multiple_of(4).saturating_add(size);
        if end > bytes.len() {
            return Err(format!("file {} ends at byte {end}, the archive at {}", files + 1, bytes.len()));
        }
        if name.strip_suffix(b"\0").unwrap_or(name) == LAST {
            piece.files = Some(files);
            return Ok(bytes.get(end..).unwrap_or_default());
        }
        piece.microcode |= name.starts_with(MICROCODE);
        files += 1;
        piece.files = Some(files);
        offset = end.next_multiple_of(4);
    }
}

/// Refuses what is certainly no ramdisk, and warns of what hardly is one.
pub(super) fn judge(name: &'static str, bytes: &[u8]) -> Result<(), Error> {
    if foreign::is_cpio(bytes) || Compression::of(bytes).is_some() {
        return Ok(());
    }
    let is_kernel =
        super::arch(bytes).is_some() || foreign::other_kernel(bytes).is_some() || zboot::is(bytes);
    let kind = match foreign::recognise(bytes) {
        _ if is_kernel || Pe::parse(bytes).is_some() => Foreign::Kernel,
        kind => kind,
    };
    match kind {
        Foreign::Kernel | Foreign::Elf(_) | Foreign::WebPage | Foreign::Json | Foreign::LfsPointer => {
            Err(Error::NotRamdisk { name, kind })
        }
        Foreign::Cpio
        | Foreign::CompressedCpio
        | Foreign::Xz
        | Foreign::Lzma
        | Foreign::Lz4
        | Foreign::Lzop
        | Foreign::Bzip2 => Ok(()),
        Foreign::Empty
        | Foreign::Efi(_)
        | Foreign::UBoot
        | Foreign::Android
        | Foreign::DeviceTree
        | Foreign::Squashfs
        | Foreign::Ext
        | Foreign::Iso
        | Foreign::Disk
        | Foreign::Tar
        | Foreign::Deb
        | Foreign::Rpm
        | Foreign::Zip
        | Foreign::Zeros
        | Foreign::Unknown => {
            log::warn!("{name} is {kind}, {} bytes: the next kernel may not unpack it", bytes.len());
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::testing::{ARM, X86, arm64, bzimage, cpio, gzip, pe, uki, zboot, zstd};

    fn formats(bytes: &[u8]) -> Vec<String> {
        survey(bytes).into_iter().map(|piece| piece.format.into_owned()).collect()
    }

    #[test]
    fn archives_one_behind_the_other_are_told_apart() {
        let microcode = cpio(&[("kernel/x86/microcode/GenuineIntel.bin", &[7; 1000])]);
        let main = cpio(&[("init", b"#!"), ("etc/passwd", b"root")]);
        let mut bytes = microcode.clone();
        bytes.resize(2048, 0);
        let start = bytes.len();
        bytes.extend_from_slice(&gzip(&main));
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes.extend_from_slice(&zstd(&main));
        bytes.extend_from_slice(&main);
        let pieces = survey(&bytes);
        assert_eq!(formats(&bytes), ["cpio", "gzip", "zstd", "cpio"]);
        assert!(pieces[0].microcode && !pieces[3].microcode);
        assert_eq!((pieces[0].offset, pieces[0].size, pieces[0].files), (0, microcode.len(), Some(1)));
        assert_eq!((pieces[1].offset, pieces[1].unpacked), (start, Some(main.len() as u64)));
        assert_eq!(pieces[3].files, Some(2));
        assert!(pieces.iter().all(|piece| piece.fault.is_none()), "{pieces:?}");
        assert_eq!(formats(b"\xfd7zXZ\0....."), ["xz"]);
        assert_eq!(formats(&[&microcode, &b"\x02\x21\x4c\x18.."[..]].concat()), ["cpio", "lz4"]);
        assert!(survey(&[0; 100]).is_empty() && survey(b"").is_empty());
    }

    #[test]
    fn what_is_broken_is_said() {
        let whole = cpio(&[("init", &[1; 100]), ("other", &[2; 100])]);
        let fault = |bytes: &[u8]| survey(bytes).pop().unwrap().fault.unwrap();
        assert_eq!(fault(&whole[..whole.len() - 124]), "it ends after 2 files without an end mark");
        assert_eq!(fault(&whole[..200]), "file 1 ends at byte 216, the archive at 200");
        let mut bytes = whole.clone();
        bytes[54] = b'x';
        assert_eq!(fault(&bytes), "the header after 0 files is broken");
        assert_eq!(
            fault(&[&whole[..220], &[b'x'; 200][..]].concat()),
            "no file header follows the first 1 files"
        );
        assert_eq!(fault(&gzip(b"no archive")), "no cpio archive is in it");
        let cut = gzip(&whole);
        assert!(fault(&cut[..cut.len() - 3]).contains("left"));
        assert_eq!(fault(b"nonsense"), "the kernel does not unpack it");
    }

    #[test]
    fn what_is_certainly_no_ramdisk_is_refused() {
        let said = |bytes: &[u8]| judge("initramfs", bytes).map_err(|error| error.to_string());
        for bytes in [bzimage(), arm64(), uki(X86, &bzimage()), zboot("xz", b"x"), pe(ARM, &[])] {
            let error = judge("initramfs", &bytes).unwrap_err();
            assert_eq!(error.to_string(), "initramfs is a kernel, not a ramdisk");
            assert_eq!(error.hint(), "are kernel and initramfs swapped?");
        }
        assert_eq!(said(b"<html>404").unwrap_err(), "initramfs is a web page, not a ramdisk");
        assert!(said(b"{}").is_err());
        assert!(said(b"\x7fELF").is_err());
        for bytes in [cpio(&[]), gzip(b""), zstd(b"x"), b"hsqs".to_vec(), vec![], vec![0; 512], b"?".to_vec()]
        {
            assert_eq!(said(&bytes), Ok(()));
        }
    }

    proptest::proptest! {
        #[test]
        fn no_ramdisk_panics(
            flips in proptest::collection::vec((0usize..600, 0u8..8), 0..4),
            length in 0usize..=600,
        ) {
            let mut bytes = cpio(&[("init", &[1; 50])]);
            bytes.extend(gzip(&cpio(&[("a", b"b")])));
            bytes.resize(600, 0);
            for (at, bit) in flips {
                bytes[at] ^= 1 << bit;
            }
            bytes.truncate(length);
            let pieces = survey(&bytes);
            proptest::prop_assert!(pieces.iter().all(|piece| piece.offset + piece.size <= length));
            let _ = judge("initramfs", &bytes);
        }
    }
}
