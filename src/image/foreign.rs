//! Names for the files people publish as a kernel or a ramdisk that are none.

use std::fmt;

use super::at;
use super::pe::Pe;

/// What a file is that is no kernel that can be loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Foreign {
    Empty,
    Xz,
    Lzma,
    Lz4,
    Lzop,
    Bzip2,
    /// A program for the firmware with no kernel in it. For which architecture.
    Efi(&'static str),
    /// For which architecture.
    Elf(&'static str),
    /// A kernel where none belongs.
    Kernel,
    UBoot,
    Android,
    WebPage,
    Json,
    /// A pointer of Git LFS.
    LfsPointer,
    Cpio,
    CompressedCpio,
    DeviceTree,
    Squashfs,
    Ext,
    Iso,
    Disk,
    Tar,
    Deb,
    Rpm,
    Zip,
    Zeros,
    Unknown,
}

impl fmt::Display for Foreign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Efi(arch) => return write!(f, "an EFI program for {arch} with no kernel in it"),
            Self::Elf(arch) => return write!(f, "an ELF file for {arch} (a vmlinux?)"),
            Self::Empty => "empty",
            Self::Xz => "an xz file",
            Self::Lzma => "an lzma file",
            Self::Lz4 => "an lz4 file",
            Self::Lzop => "an lzop file",
            Self::Bzip2 => "a bzip2 file",
            Self::Kernel => "a kernel",
            Self::UBoot => "a U-Boot image",
            Self::Android => "an Android boot image",
            Self::WebPage => "a web page",
            Self::Json => "a JSON text",
            Self::LfsPointer => "a Git LFS pointer",
            Self::Cpio => "a cpio archive (an initramfs?)",
            Self::CompressedCpio => "a compressed cpio archive (an initramfs?)",
            Self::DeviceTree => "a device tree blob",
            Self::Squashfs => "a squashfs image",
            Self::Ext => "an ext2/3/4 image",
            Self::Iso => "an ISO image",
            Self::Disk => "a disk image",
            Self::Tar => "a tar archive",
            Self::Deb => "a Debian package",
            Self::Rpm => "an RPM package",
            Self::Zip => "a zip archive",
            Self::Zeros => "nothing but zeros",
            Self::Unknown => "of no kind that phaseboot knows",
        })
    }
}

impl Foreign {
    pub(super) fn hint(self) -> &'static str {
        match self {
            Self::Xz | Self::Lzma | Self::Lz4 | Self::Lzop | Self::Bzip2 => {
                "compress it with gzip or zstd, or leave it as it is"
            }
            Self::Elf(_) => "use arch/x86/boot/bzImage or arch/arm64/boot/Image of the same build",
            Self::Efi(_) => "use the kernel itself, or a unified kernel image",
            Self::Cpio | Self::CompressedCpio | Self::Kernel => "are kernel and initramfs swapped?",
            Self::UBoot | Self::Android => "use the kernel that is packed in it",
            Self::Squashfs
            | Self::Ext
            | Self::Iso
            | Self::Disk
            | Self::Tar
            | Self::Deb
            | Self::Rpm
            | Self::Zip => "use the files that are packed in it",
            Self::DeviceTree => {
                "a device tree belongs into the manifest's dtbs; a FIT image has to be taken apart"
            }
            Self::WebPage | Self::Json | Self::LfsPointer | Self::Empty | Self::Zeros => {
                "this is another file than was meant: check where it comes from"
            }
            Self::Unknown => "use a bzImage (x86_64), an Image (arm64) or a unified kernel image",
        }
    }
}

/// Bytes that a kind of file has at an offset.
const MARKS: [(usize, &[u8], Foreign); 24] = [
    (0, b"\xfd7zXZ\0", Foreign::Xz),
    (0, b"\x5d\0\0", Foreign::Lzma),
    // The kernel's own, and the frames of lz4(1).
    (0, b"\x02\x21\x4c\x18", Foreign::Lz4),
    (0, b"\x04\x22\x4d\x18", Foreign::Lz4),
    (0, b"\x89LZO", Foreign::Lzop),
    (0, b"BZh", Foreign::Bzip2),
    (0, b"\x27\x05\x19\x56", Foreign::UBoot),
    (0, b"ANDROID!", Foreign::Android),
    (0, b"version https://git-lfs", Foreign::LfsPointer),
    (0, b"07070", Foreign::Cpio),
    (0, b"\xc7\x71", Foreign::Cpio),
    (0, b"\xd0\x0d\xfe\xed", Foreign::DeviceTree),
    (0, b"hsqs", Foreign::Squashfs),
    (0, b"!<arch>\ndebian", Foreign::Deb),
    (0, b"\xed\xab\xee\xdb", Foreign::Rpm),
    (0, b"PK\x03\x04", Foreign::Zip),
    (257, b"ustar", Foreign::Tar),
    (0x438, b"\x53\xef", Foreign::Ext),
    (0x8001, b"CD001", Foreign::Iso),
    (512, b"EFI PART", Foreign::Disk),
    // Kernels: of x86, arm64, RISC-V and 32-bit ARM.
    (0x202, b"HdrS", Foreign::Kernel),
    (0x38, b"ARM\x64", Foreign::Kernel),
    (0x38, b"RSC\x05", Foreign::Kernel),
    (0x24, b"\x18\x28\x6f\x01", Foreign::Kernel),
];

/// Whether an archive begins here that the kernel unpacks itself:
/// Documentation/driver-api/early-userspace/buffer-format.rst.
pub(super) fn is_cpio(bytes: &[u8]) -> bool {
    bytes.starts_with(b"07070")
}

/// Names `bytes`.
pub(super) fn recognise(bytes: &[u8]) -> Foreign {
    if bytes.is_empty() {
        return Foreign::Empty;
    }
    if let Some(arch) = elf(bytes) {
        return Foreign::Elf(arch);
    }
    let marked = MARKS
        .iter()
        .find(|(offset, mark, _)| bytes.get(*offset..).is_some_and(|there| there.starts_with(mark)));
    if let Some(&(_, _, kind)) = marked {
        return kind;
    }
    if let Some(pe) = Pe::parse(bytes) {
        return Foreign::Efi(pe.arch());
    }
    if bytes.iter().all(|&byte| byte == 0) {
        return Foreign::Zeros;
    }
    text(bytes)
}

/// The architecture of a kernel that phaseboot starts on no machine.
pub(super) fn other_kernel(bytes: &[u8]) -> Option<&'static str> {
    match at(bytes, 0x38) {
        Some([b'R', b'S', b'C', 5]) => return Some("RISC-V"),
        // Every EFI kernel but x86's and arm64's has this there: linux/include/linux/pe.h.
        Some([0xcd, 0x23, 0x82, 0x81]) => return Pe::parse(bytes).map(|pe| pe.arch()),
        _ => {}
    }
    // linux/arch/arm/boot/compressed/head.S
    (at(bytes, 0x24) == Some([0x18, 0x28, 0x6f, 0x01])).then_some("32-bit ARM")
}

/// The architecture of an ELF file: `e_machine` of the ELF header.
fn elf(bytes: &[u8]) -> Option<&'static str> {
    if !bytes.starts_with(b"\x7fELF") {
        return None;
    }
    Some(match at(bytes, 18).map(u16::from_le_bytes) {
        Some(62) => "x86_64",
        Some(183) => "arm64",
        Some(3) => "32-bit x86",
        Some(40) => "32-bit ARM",
        Some(243) => "RISC-V",
        Some(258) => "LoongArch",
        _ => "another architecture",
    })
}

fn text(bytes: &[u8]) -> Foreign {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes).trim_ascii_start();
    let begins = |word: &[u8]| bytes.get(..word.len()).is_some_and(|start| start.eq_ignore_ascii_case(word));
    let tags: [&[u8]; 4] = [b"<!doctype", b"<html", b"<head", b"<?xml"];
    if tags.into_iter().any(begins) {
        Foreign::WebPage
    } else if (begins(b"{") || begins(b"[")) && std::str::from_utf8(bytes).is_ok() {
        Foreign::Json
    } else {
        Foreign::Unknown
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::Header;
    use crate::image::testing::{ARM, X86, arm64, bzimage, pe};

    fn at_offset(offset: usize, mark: &[u8]) -> Vec<u8> {
        let mut bytes = vec![1; offset + mark.len() + 100];
        bytes[offset..offset + mark.len()].copy_from_slice(mark);
        bytes
    }

    #[test]
    fn each_is_named() {
        for (bytes, kind) in [
            (b"".to_vec(), Foreign::Empty),
            (pe(X86, &[(".text", b"")]), Foreign::Efi("x86_64")),
            (pe(ARM, &[]), Foreign::Efi("arm64")),
            (b"MZ".to_vec(), Foreign::Unknown),
            (b"\x7fELF\x02\x01............\x3e\0".to_vec(), Foreign::Elf("x86_64")),
            (b"\x7fELF\x02\x01............\xb7\0".to_vec(), Foreign::Elf("arm64")),
            (b"\x7fELF".to_vec(), Foreign::Elf("another architecture")),
            (b"\n <!DOCTYPE html><html>".to_vec(), Foreign::WebPage),
            (b"\xef\xbb\xbf<HTML>404".to_vec(), Foreign::WebPage),
            (b"{\"error\":404}".to_vec(), Foreign::Json),
            (b"[1]".to_vec(), Foreign::Json),
            (b"{\xff}".to_vec(), Foreign::Unknown),
            (b"version https://git-lfs.github.com/spec/v1\n".to_vec(), Foreign::LfsPointer),
            (b"070701000002".to_vec(), Foreign::Cpio),
            (b"\xfd7zXZ\0....".to_vec(), Foreign::Xz),
            (b"\x02\x21\x4c\x18".to_vec(), Foreign::Lz4),
            (b"\x04\x22\x4d\x18".to_vec(), Foreign::Lz4),
            (b"\xd0\x0d\xfe\xed".to_vec(), Foreign::DeviceTree),
            (b"hsqs".to_vec(), Foreign::Squashfs),
            (at_offset(0x438, b"\x53\xef"), Foreign::Ext),
            (at_offset(0x8001, b"CD001"), Foreign::Iso),
            (at_offset(512, b"EFI PART"), Foreign::Disk),
            (at_offset(257, b"ustar\0"), Foreign::Tar),
            (b"!<arch>\ndebian-binary".to_vec(), Foreign::Deb),
            (b"\xed\xab\xee\xdb".to_vec(), Foreign::Rpm),
            (vec![0; 4096], Foreign::Zeros),
            (b"an initramfs".to_vec(), Foreign::Unknown),
        ] {
            assert_eq!(recognise(&bytes), kind, "{:?}", &bytes[..bytes.len().min(20)]);
            let error = Header::of("kernel", &bytes).unwrap_err();
            assert!(error.to_string().starts_with("kernel is "), "{error}");
            assert!(!error.hint().is_empty() && !error.hint().contains("not supported"), "{error}");
        }
    }

    #[test]
    fn kernels_of_other_machines_are_named() {
        let mut loongarch = pe(0x6264, &[]);
        loongarch[0x38..0x3c].copy_from_slice(&[0xcd, 0x23, 0x82, 0x81]);
        let mut small = bzimage();
        small[0x236..0x238].fill(0);
        for (bytes, found) in [
            (at_offset(0x38, b"RSC\x05"), "RISC-V"),
            (at_offset(0x24, &[0x18, 0x28, 0x6f, 0x01]), "32-bit ARM"),
            (loongarch, "LoongArch"),
            (small, "32-bit x86"),
        ] {
            let error = Header::of("kernel", &bytes).unwrap_err();
            assert_eq!(error.to_string(), format!("kernel is a kernel for {found}"));
        }
        assert!(Header::of("kernel", &arm64()).is_ok());
    }
}
