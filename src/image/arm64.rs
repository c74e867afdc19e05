//! The arm64 Image: Documentation/arch/arm64/booting.rst, "Call the kernel image".

use super::{Error, at, line_at, pe};

const FORMAT: &str = "arm64 Image";
/// "ARM\x64" and where it stands.
const MAGIC: &[u8; 4] = b"ARM\x64";
const MAGIC_OFFSET: usize = 56;
const HEADER_SIZE: u64 = 64;
/// The base of an Image is aligned to 2 MiB, so `text_offset` is below it.
pub const BASE_ALIGNMENT: u64 = 2 << 20;
/// `text_offset` where `image_size` is zero: before Linux 3.17 its byte order was not specified.
const OLD_TEXT_OFFSET: u64 = 0x8_0000;
/// What an old kernel, which does not tell its size, gets kept free behind its file for its bss.
const OLD_SLACK: u64 = 16 << 20;
/// No kernel takes more: the image is mapped within 128 MiB of its modules, doubled.
const IMAGE_MOST: u64 = 1 << 30;
/// COMMAND_LINE_SIZE of arm64 (uapi/asm/setup.h) less the final NUL.
pub const CMDLINE_LIMIT: usize = 2048 - 1;

/// The page size a kernel was built for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageSize {
    Unspecified,
    K4,
    K16,
    K64,
}

/// What the header says. Sizes in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arm64Image {
    /// From a 2 MiB aligned base to the image. Below 2 MiB.
    pub text_offset: u64,
    /// What must be free from the image's first byte on, bss included. At least the file's size.
    pub memory: u64,
    /// `image_size` was zero: the old rules hold, and kexec_file_load refuses it.
    pub old: bool,
    pub big_endian: bool,
    pub page_size: PageSize,
    /// The kernel can use memory below itself.
    pub anywhere: bool,
}

/// Whether `bytes` carry the magic of an arm64 Image.
pub(super) fn is(bytes: &[u8]) -> bool {
    at(bytes, MAGIC_OFFSET).as_ref() == Some(MAGIC)
}

/// The version that the kernel logs first.
pub(super) fn version(bytes: &[u8]) -> Option<String> {
    const BANNER: &[u8] = b"Linux version ";
    let mut rest = bytes;
    // Looking for one byte is the quick part.
    while let Some(at) = rest.iter().position(|&byte| byte == b'L') {
        rest = rest.get(at..)?;
        if let Some(version) = rest.strip_prefix(BANNER).filter(|text| text.first() != Some(&b'%')) {
            return line_at(version);
        }
        rest = rest.get(1..)?;
    }
    None
}

impl Arm64Image {
    /// Reads the 64-byte header.
    pub(super) fn parse(name: &'static str, bytes: &[u8]) -> Result<Self, Error> {
        let size = bytes.len() as u64;
        let broken = |what| Error::Malformed { name, format: FORMAT, what };
        let u64_at = |offset| {
            at(bytes, offset).map(u64::from_le_bytes).ok_or(Error::Truncated {
                name,
                format: FORMAT,
                promised: HEADER_SIZE,
                size,
            })
        };
        if size <= HEADER_SIZE {
            return Err(Error::Truncated { name, format: FORMAT, promised: HEADER_SIZE + 1, size });
        }
        let image_size = u64_at(16)?;
        let old = image_size == 0;
        let text_offset = if old { OLD_TEXT_OFFSET } else { u64_at(8)? };
        if text_offset >= BASE_ALIGNMENT || !text_offset.is_multiple_of(4096) {
            return Err(broken("text_offset is not a page number below 2 MiB"));
        }
        if image_size.max(size) > IMAGE_MOST {
            return Err(broken("image_size is over 1 GiB"));
        }
        // How long the file is stands only in the PE header that the EFI stub brings. It is not believed
        // where it goes beyond the kernel: whoever has no use for it may put anything there.
        let most = if old { IMAGE_MOST } else { image_size };
        if let Some(promised) = pe::extent(bytes, most).filter(|&promised| promised > size) {
            return Err(Error::Truncated { name, format: FORMAT, promised, size });
        }
        let flags = u64_at(24)?;
        Ok(Self {
            text_offset,
            memory: if old { size + OLD_SLACK } else { image_size.max(size) },
            old,
            big_endian: flags & 1 != 0,
            page_size: match flags >> 1 & 3 {
                1 => PageSize::K4,
                2 => PageSize::K16,
                3 => PageSize::K64,
                _ => PageSize::Unspecified,
            },
            anywhere: flags & 1 << 3 != 0,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::arm64_of;
    use super::super::tests::{DEBIAN_ARM64, DEBIAN_ARM64_SIZE, file};
    use super::*;
    use crate::error::Exit;

    #[test]
    fn a_debian_kernel_is_understood() {
        let bytes = file(DEBIAN_ARM64, DEBIAN_ARM64_SIZE);
        let header = Arm64Image::parse("kernel", &bytes).unwrap();
        assert_eq!(header.text_offset, 0);
        assert_eq!(header.page_size, PageSize::K4);
        assert!(header.anywhere && !header.old && !header.big_endian);
        assert!(header.memory > DEBIAN_ARM64_SIZE as u64);
    }

    #[test]
    fn without_image_size_the_old_rules_hold() {
        let mut bytes = arm64_of(file(DEBIAN_ARM64, 1 << 20));
        bytes[16..24].fill(0);
        let header = Arm64Image::parse("kernel", &bytes).unwrap();
        assert!(header.old);
        assert_eq!(header.text_offset, 0x8_0000);
        assert_eq!(header.memory, (1 << 20) + OLD_SLACK);
    }

    /// Where Debian's section table begins and ends, and its `.text` and `.data` end.
    const TABLE: usize = 0xf8;
    const TABLE_END: usize = TABLE + 2 * 40;
    const TEXT_END: usize = 0x145_0000;
    const DATA_END: usize = 0x1a0_9a00;

    #[test]
    fn cut_off_before_the_last_section_ends_it_is_truncated() {
        let whole = file(DEBIAN_ARM64, DEBIAN_ARM64_SIZE);
        for (end, promised) in [
            (65, 0x40 + 24),
            (0x44, 0x40 + 24),
            (0x47, 0x40 + 24),
            (0x48, 0x40 + 24 + 2 * 40),
            (0x40 + 24, TABLE_END),
            (TABLE, TABLE_END),
            (TABLE_END - 1, TABLE_END),
            (TABLE_END, DATA_END),
            (4096, DATA_END),
            (0x1_0000, DATA_END),
            (0x1_0001, DATA_END),
            (TEXT_END - 1, DATA_END),
            (TEXT_END, DATA_END),
            (DATA_END - 1, DATA_END),
        ] {
            let error = Arm64Image::parse("kernel", &whole[..end]).unwrap_err();
            let expected = format!(
                "kernel is a truncated arm64 Image: its header promises {promised} bytes, the file has {end}"
            );
            assert_eq!((error.to_string(), error.exit()), (expected, Exit::ImageUnusable));
        }
        // Without its signature it is whole.
        for end in [DATA_END, DATA_END + 1, DEBIAN_ARM64_SIZE] {
            assert!(Arm64Image::parse("kernel", &whole[..end]).is_ok(), "{end}");
        }
    }

    /// An Image of `bytes` in which these values stand at these places.
    fn with(bytes: &[u8], values: &[(usize, &[u8])]) -> Vec<u8> {
        let mut bytes = bytes.to_vec();
        for (at, value) in values {
            bytes[*at..][..value.len()].copy_from_slice(value);
        }
        bytes
    }

    #[test]
    fn what_is_no_pe_header_promises_nothing() {
        let whole = arm64_of(file(DEBIAN_ARM64, 1 << 20));
        let most = u32::MAX.to_le_bytes();
        let (data, number) = (TABLE + 40, 0x46);
        for (what, values) in [
            ("no EFI stub", &[(0, &[0x1f, 0x20, 3, 0xd5][..]), (0x3c, &[0; 4])][..]),
            ("no MZ", &[(0, &[0x1f, 0x20, 3, 0xd5])]),
            ("no place", &[(0x3c, &[0; 4])]),
            ("its own start", &[(0x3c, &[1, 0, 0, 0])]),
            ("behind the end", &[(0x3c, &(1u32 << 20 | 1).to_le_bytes())]),
            ("far behind the end", &[(0x3c, &most)]),
            ("no signature", &[(0x40, b"NE\0\0")]),
            ("half a signature", &[(0x40, b"PE\0\x01")]),
            ("no sections", &[(number, &[0, 0])]),
            ("more sections than there are", &[(number, &[97, 0])]),
            ("all sections that can be", &[(number, &[0xff, 0xff])]),
            ("empty, and far behind the end", &[(data + 20, &most)]),
            ("over 4 GiB", &[(data + 8, &most), (data + 16, &most), (data + 20, &most)]),
            ("beyond the kernel", &[(data + 16, &[1]), (data + 20, &[0, 0, 0xab, 1])]),
            ("without data in memory", &[(data + 8, &[0; 4])]),
            ("padded, where the table tells", &[(TABLE + 8, &[0, 1, 0, 0]), (TABLE + 16, &[0, 0, 0x10, 0])]),
        ] {
            let parsed = Arm64Image::parse("kernel", &with(&whole, values));
            assert!(parsed.is_ok(), "{what}: {parsed:?}");
        }
        // What is a part of the kernel is missed; a table too.
        for values in [
            &[(data + 16, &[1][..]), (data + 20, &[0xff, 0xff, 0xaa, 1])][..],
            &[(data + 8, &[0; 4]), (data + 16, &[1]), (data + 20, &[0, 0, 0x10, 0])],
            &[(TABLE + 16, &[1, 0, 0xf, 0])],
            &[(0x3c, &[0, 0xf8, 0xf, 0]), (0xf_f800, b"PE\0\0\x64\xaa\x60\0")],
        ] {
            let parsed = Arm64Image::parse("kernel", &with(&whole, values));
            assert!(matches!(parsed, Err(Error::Truncated { .. })), "{parsed:?}");
        }
    }

    #[test]
    fn absurd_headers_are_refused() {
        let mut bytes = DEBIAN_ARM64.to_vec();
        bytes[16..24].fill(0xff);
        assert!(Arm64Image::parse("kernel", &bytes).unwrap_err().to_string().contains("image_size"));
        let mut bytes = DEBIAN_ARM64.to_vec();
        bytes[8..16].fill(0xff);
        assert!(Arm64Image::parse("kernel", &bytes).unwrap_err().to_string().contains("text_offset"));
        assert!(Arm64Image::parse("kernel", &DEBIAN_ARM64[..64]).is_err());
    }
}
