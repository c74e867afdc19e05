//! The x86 bzImage: Documentation/arch/x86/boot.rst.

use super::{Error, at, line_at};

const FORMAT: &str = "bzImage";
/// "HdrS" and where it stands.
const MAGIC: &[u8; 4] = b"HdrS";
const MAGIC_OFFSET: usize = 0x202;
/// What `setup_sects` 0 means, for historical reasons.
const DEFAULT_SETUP_SECTORS: u8 = 4;
const SECTOR: u64 = 512;
/// The unit of `syssize`: a paragraph, 16 bytes.
const PARAGRAPH: u64 = 16;
/// Protocol 2.12 (Linux 3.8) is the first with `xloadflags`.
const OLDEST_PROTOCOL: u16 = 0x020c;
/// `loadflags`: the protected-mode code is loaded at 1 MiB.
const LOADED_HIGH: u8 = 1;
/// `xloadflags`: the 64-bit entry point, 0x200 bytes into the protected-mode code, exists.
const XLF_KERNEL_64: u16 = 1;
const XLF_CAN_BE_LOADED_ABOVE_4G: u16 = 1 << 1;
/// No COMMAND_LINE_SIZE of any architecture is over this, in bytes.
const CMDLINE_MOST: u32 = 64 * 1024;

/// What the setup header of a 64-bit kernel says. Sizes in bytes, addresses physical.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BzImage {
    /// 0x020f is 2.15.
    pub protocol: u16,
    /// Boot sector and real-mode code: the protected-mode code begins here in the file.
    pub setup_size: u64,
    /// The protected-mode code.
    pub code_size: u64,
    /// The longest command line, without the final NUL.
    pub cmdline_size: u32,
    /// A power of two.
    pub alignment: u32,
    pub relocatable: bool,
    pub above_4g: bool,
    pub pref_address: u64,
    /// What must be free from the load address on. At least `code_size`.
    pub init_size: u64,
    pub xloadflags: u16,
    /// The highest address a ramdisk may end at where `above_4g` does not hold.
    pub initrd_addr_max: u32,
    /// Where the version's text is, less 0x200; 0 if there is none.
    pub version_offset: u16,
}

/// Whether `bytes` carry the magic of a bzImage.
pub(super) fn is(bytes: &[u8]) -> bool {
    at(bytes, MAGIC_OFFSET).as_ref() == Some(MAGIC)
}

impl BzImage {
    /// Reads the setup header at 0x1f1.
    pub(super) fn parse(name: &'static str, bytes: &[u8]) -> Result<Self, Error> {
        let size = bytes.len() as u64;
        let short = || Error::Truncated { name, format: FORMAT, promised: 0x268, size };
        let broken = |what| Error::Malformed { name, format: FORMAT, what };
        let byte = |offset| at::<1>(bytes, offset).map(|[b]| b).ok_or_else(short);
        let u16_at = |offset| at(bytes, offset).map(u16::from_le_bytes).ok_or_else(short);
        let u32_at = |offset| at(bytes, offset).map(u32::from_le_bytes).ok_or_else(short);
        let u64_at = |offset| at(bytes, offset).map(u64::from_le_bytes).ok_or_else(short);

        let protocol = u16_at(0x206)?;
        if protocol < OLDEST_PROTOCOL {
            return Err(Error::OldProtocol { name, major: protocol >> 8, minor: protocol & 0xff });
        }
        if byte(0x211)? & LOADED_HIGH == 0 {
            return Err(broken("it is a zImage, not a bzImage"));
        }
        let xloadflags = u16_at(0x236)?;
        if xloadflags & XLF_KERNEL_64 == 0 {
            return Err(Error::OtherArch { name, found: "32-bit x86" });
        }
        let setup_sectors = match byte(0x1f1)? {
            0 => DEFAULT_SETUP_SECTORS,
            sectors => sectors,
        };
        let setup_size = (u64::from(setup_sectors) + 1) * SECTOR;
        let code_size = u64::from(u32_at(0x1f4)?) * PARAGRAPH;
        if code_size == 0 {
            return Err(broken("its code is empty"));
        }
        let promised = setup_size + code_size;
        if promised > size {
            return Err(Error::Truncated { name, format: FORMAT, promised, size });
        }
        let alignment = u32_at(0x230)?;
        if !alignment.is_power_of_two() {
            return Err(broken("kernel_alignment is not a power of two"));
        }
        let cmdline_size = u32_at(0x238)?;
        if cmdline_size == 0 || cmdline_size > CMDLINE_MOST {
            return Err(broken("cmdline_size is absurd"));
        }
        let pref_address = u64_at(0x258)?;
        let init_size = u64::from(u32_at(0x260)?).max(code_size);
        if pref_address.checked_add(init_size).is_none() {
            return Err(broken("pref_address lies at the end of the address space"));
        }
        Ok(Self {
            protocol,
            setup_size,
            code_size,
            cmdline_size,
            alignment,
            relocatable: byte(0x234)? != 0,
            above_4g: xloadflags & XLF_CAN_BE_LOADED_ABOVE_4G != 0,
            pref_address,
            init_size,
            xloadflags,
            initrd_addr_max: u32_at(0x22c)?,
            version_offset: u16_at(0x20e)?,
        })
    }

    /// The version and who built it, as file(1) shows it.
    pub(super) fn version(&self, bytes: &[u8]) -> Option<String> {
        if self.version_offset == 0 {
            return None;
        }
        let start = usize::from(self.version_offset) + 0x200;
        line_at(bytes.get(start..)?)
    }

    /// In bytes without the final NUL, as boot.rst has it.
    pub(super) fn cmdline_limit(&self) -> usize {
        usize::try_from(self.cmdline_size).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{DEBIAN_AMD64, DEBIAN_AMD64_SIZE, file};
    use super::*;

    fn patched(offset: usize, value: &[u8]) -> Vec<u8> {
        let mut bytes = file(DEBIAN_AMD64, DEBIAN_AMD64_SIZE);
        bytes[offset..offset + value.len()].copy_from_slice(value);
        bytes
    }

    #[test]
    fn a_debian_kernel_is_understood() {
        let header = BzImage::parse("kernel", &patched(0, b"")).unwrap();
        assert_eq!(header.protocol, 0x020f);
        assert_eq!(header.cmdline_size, 2047);
        assert_eq!(header.cmdline_limit(), 2047);
        assert_eq!(header.alignment, 2 << 20);
        assert_eq!(header.pref_address, 16 << 20);
        assert!(header.relocatable && header.above_4g);
        assert!(header.init_size > header.code_size);
        assert!(header.setup_size + header.code_size <= DEBIAN_AMD64_SIZE as u64);
    }

    #[test]
    fn what_cannot_boot_is_refused() {
        let refused =
            |offset, value: &[u8]| BzImage::parse("kernel", &patched(offset, value)).unwrap_err().to_string();
        assert_eq!(
            refused(0x206, &[0x0b, 2]),
            "kernel is a bzImage of boot protocol 2.11, at least 2.12 is needed"
        );
        assert_eq!(refused(0x236, &[0, 0]), "kernel is a kernel for 32-bit x86");
        assert!(refused(0x211, &[0]).contains("zImage"));
        assert!(refused(0x230, &[3, 0, 0, 0]).contains("kernel_alignment"));
        assert!(refused(0x238, &[0; 4]).contains("cmdline_size"));
        assert!(refused(0x1f4, &[0xff; 4]).starts_with("kernel is a truncated bzImage"));
        assert!(
            BzImage::parse("kernel", &DEBIAN_AMD64[..0x240]).unwrap_err().to_string().contains("truncated")
        );
    }
}
