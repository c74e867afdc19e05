//! Names for the files people publish as a kernel that this version cannot load.

use std::fmt;

use super::at;

/// What a file that is not a loadable kernel is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Foreign {
    Empty,
    Gzip,
    Zstd,
    Xz,
    /// linux/drivers/firmware/efi/libstub/zboot-header.S
    Zboot,
    /// A PE file with a `.linux` section: UAPI.5 Unified Kernel Image.
    UnifiedKernelImage,
    Efi,
    Elf,
    WebPage,
    Json,
    /// A newc cpio archive: the initramfs in the kernel's place.
    Cpio,
    Unknown,
}

impl fmt::Display for Foreign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => "empty",
            Self::Gzip => "a gzip file (a compressed Image?)",
            Self::Zstd => "a zstd file (a compressed Image?)",
            Self::Xz => "an xz file",
            Self::Zboot => "an EFI zboot kernel",
            Self::UnifiedKernelImage => "a unified kernel image",
            Self::Efi => "an EFI program",
            Self::Elf => "an ELF file (a vmlinux?)",
            Self::WebPage => "a web page",
            Self::Json => "a JSON text",
            Self::Cpio => "a cpio archive (an initramfs?)",
            Self::Unknown => "no kernel that phaseboot knows",
        })
    }
}

impl Foreign {
    pub(super) fn hint(self) -> &'static str {
        match self {
            Self::Gzip | Self::Zstd => {
                "compressed kernels are not supported in this version: publish the Image itself"
            }
            Self::Zboot => "EFI zboot is not supported in this version: publish the Image it was made from",
            Self::UnifiedKernelImage => {
                "unified kernel images are not supported in this version: publish the kernel and the initramfs it holds"
            }
            Self::Elf => {
                "ELF kernels are not supported in this version: publish arch/x86/boot/bzImage or arch/arm64/boot/Image"
            }
            Self::WebPage | Self::Json => "the file behind the manifest's URL is not a kernel: publish again",
            Self::Cpio => "are kernel and initramfs swapped in the manifest?",
            Self::Empty | Self::Xz | Self::Efi | Self::Unknown => {
                "publish a bzImage (x86_64) or an Image (arm64)"
            }
        }
    }
}

/// Names `bytes`, which are neither a bzImage nor an arm64 Image.
pub(super) fn recognise(bytes: &[u8]) -> Foreign {
    match bytes {
        [] => Foreign::Empty,
        [0x1f, 0x8b, ..] => Foreign::Gzip,
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Foreign::Zstd,
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Foreign::Xz,
        [0x7f, b'E', b'L', b'F', ..] => Foreign::Elf,
        [b'0', b'7', b'0', b'7', b'0', ..] => Foreign::Cpio,
        [b'M', b'Z', _, _, b'z', b'i', b'm', b'g', ..] => Foreign::Zboot,
        [b'M', b'Z', ..] => portable_executable(bytes).unwrap_or(Foreign::Unknown),
        _ => text(bytes),
    }
}

/// Looks for the section `.linux` in a PE file: Microsoft PE format, "Section Table".
fn portable_executable(bytes: &[u8]) -> Option<Foreign> {
    /// UKIs have about a dozen.
    const SECTIONS_MOST: u16 = 96;
    let coff = usize::try_from(u32::from_le_bytes(at(bytes, 0x3c)?)).ok()?;
    if &at::<4>(bytes, coff)? != b"PE\0\0" {
        return None;
    }
    let sections = u16::from_le_bytes(at(bytes, coff.checked_add(6)?)?).min(SECTIONS_MOST);
    let optional = u16::from_le_bytes(at(bytes, coff.checked_add(20)?)?);
    let table = coff.checked_add(24)?.checked_add(usize::from(optional))?;
    let linux = (0..usize::from(sections))
        .filter_map(|index| at::<8>(bytes, table.checked_add(index.checked_mul(40)?)?))
        .any(|name| &name == b".linux\0\0");
    Some(if linux { Foreign::UnifiedKernelImage } else { Foreign::Efi })
}

fn text(bytes: &[u8]) -> Foreign {
    let bytes = bytes.trim_ascii_start();
    let begins = |word: &[u8]| bytes.get(..word.len()).is_some_and(|start| start.eq_ignore_ascii_case(word));
    if begins(b"<!doctype") || begins(b"<html") || begins(b"<?xml") {
        Foreign::WebPage
    } else if begins(b"{") && std::str::from_utf8(bytes).is_ok() {
        Foreign::Json
    } else {
        Foreign::Unknown
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::Arch;
    use crate::error::Exit;
    use crate::image::{Error, Header};

    fn pe(section: &[u8; 8]) -> Vec<u8> {
        let mut bytes = vec![0; 0x400];
        bytes[..2].copy_from_slice(b"MZ");
        bytes[0x3c] = 0x80;
        bytes[0x80..0x84].copy_from_slice(b"PE\0\0");
        bytes[0x86] = 1;
        bytes[0x94] = 0xf0;
        bytes[0x80 + 24 + 0xf0..][..8].copy_from_slice(section);
        bytes
    }

    #[test]
    fn each_is_named() {
        assert_eq!(recognise(b""), Foreign::Empty);
        assert_eq!(recognise(&[0x1f, 0x8b, 8, 0]), Foreign::Gzip);
        assert_eq!(recognise(&[0x28, 0xb5, 0x2f, 0xfd]), Foreign::Zstd);
        assert_eq!(recognise(b"MZ\0\0zimg\0\0\0\0gzip"), Foreign::Zboot);
        assert_eq!(recognise(&pe(b".linux\0\0")), Foreign::UnifiedKernelImage);
        assert_eq!(recognise(&pe(b".text\0\0\0")), Foreign::Efi);
        assert_eq!(recognise(b"MZ"), Foreign::Unknown);
        assert_eq!(recognise(b"\x7fELF\x02\x01"), Foreign::Elf);
        assert_eq!(recognise(b"\n <!DOCTYPE html><html>"), Foreign::WebPage);
        assert_eq!(recognise(b"<html>404"), Foreign::WebPage);
        assert_eq!(recognise(b"{\"error\":404}"), Foreign::Json);
        assert_eq!(recognise(b"070701000002"), Foreign::Cpio);
        assert_eq!(recognise(&[0; 4096]), Foreign::Unknown);
    }

    #[test]
    fn the_error_says_what_it_is_and_what_to_do() {
        let error = Header::parse("kernel", &[0x1f, 0x8b, 8], Arch::Aarch64).unwrap_err();
        assert_eq!(error.to_string(), "kernel is a gzip file (a compressed Image?), 3 bytes");
        assert!(error.hint().contains("not supported in this version"));
        assert_eq!(error.exit(), Exit::ImageUnusable);
        assert!(matches!(error, Error::Foreign { kind: Foreign::Gzip, .. }));
    }
}
