//! The arm64 Image: Documentation/arch/arm64/booting.rst, "Call the kernel image".

use super::{Error, at, line_at};

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
    use super::super::tests::{DEBIAN_ARM64, DEBIAN_ARM64_SIZE, file};
    use super::*;

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
        let mut bytes = file(DEBIAN_ARM64, 1 << 20);
        bytes[16..24].fill(0);
        let header = Arm64Image::parse("kernel", &bytes).unwrap();
        assert!(header.old);
        assert_eq!(header.text_offset, 0x8_0000);
        assert_eq!(header.memory, (1 << 20) + OLD_SLACK);
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
