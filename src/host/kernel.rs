//! Which architecture a kernel file is for, told from its first bytes.

use std::io::Read;

use flate2::read::GzDecoder;

use crate::arch::Arch;

/// As many bytes of a file as [`recognise`] wants to see.
pub const HEAD: usize = 64 * 1024;

/// What a kernel file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kernel {
    pub arch: Arch,
    pub format: &'static str,
}

/// Recognises a kernel by its first bytes; `None` if they are not those of a kernel phaseboot knows.
pub fn recognise(head: &[u8]) -> Option<Kernel> {
    let kernel = |arch, format| Some(Kernel { arch, format });
    if head.starts_with(&[0x1f, 0x8b]) {
        // Image.gz. The input is cut short, so the decoder is asked for no more than a header.
        let mut inner = vec![0; 4096];
        let mut decoder = GzDecoder::new(head);
        let mut filled = 0;
        while let Some(rest) = inner.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match decoder.read(rest) {
                Ok(count) if count > 0 => filled += count,
                _ => break,
            }
        }
        inner.truncate(filled);
        return is_arm64_image(&inner).then_some(Kernel { arch: Arch::Aarch64, format: "gzip Image" });
    }
    if is_arm64_image(head) {
        return kernel(Arch::Aarch64, "Image");
    }
    // Documentation/arch/x86/boot.rst: boot_flag at 0x1fe, header at 0x202, and in xloadflags
    // (0x236, protocol 2.12) bit 0 says that there is a 64-bit entry point.
    if at(head, 0x1fe, &[0x55, 0xaa]) && at(head, 0x202, b"HdrS") {
        let is_64_bit = head.get(0x236).is_some_and(|flags| flags & 1 == 1);
        return if is_64_bit { kernel(Arch::X86_64, "bzImage") } else { None };
    }
    let arch = pe_arch(head)?;
    // drivers/firmware/efi/libstub/zboot-header.S: "zimg" at 4 of an EFI zboot image.
    kernel(arch, if at(head, 4, b"zimg") { "EFI zboot" } else { "EFI program (unified kernel image)" })
}

/// Documentation/arch/arm64/booting.rst: magic "ARM\x64" at 56.
fn is_arm64_image(head: &[u8]) -> bool {
    at(head, 56, b"ARM\x64")
}

fn at(bytes: &[u8], offset: usize, expected: &[u8]) -> bool {
    bytes.get(offset..).is_some_and(|rest| rest.starts_with(expected))
}

/// The machine field of a PE header (Microsoft PE format, "COFF file header").
fn pe_arch(head: &[u8]) -> Option<Arch> {
    if !head.starts_with(b"MZ") {
        return None;
    }
    let offset = u32::from_le_bytes(head.get(0x3c..0x40)?.try_into().ok()?);
    let header = head.get(usize::try_from(offset).ok()?..)?;
    match header.strip_prefix(b"PE\0\0")?.get(..2)? {
        [0x64, 0x86] => Some(Arch::X86_64),
        [0x64, 0xaa] => Some(Arch::Aarch64),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Write;

    fn bzimage(xloadflags: u8) -> Vec<u8> {
        let mut head = vec![0; 1024];
        head[0x1fe..0x200].copy_from_slice(&[0x55, 0xaa]);
        head[0x202..0x206].copy_from_slice(b"HdrS");
        head[0x236] = xloadflags;
        head
    }

    fn image() -> Vec<u8> {
        let mut head = vec![0; 4096];
        head[56..60].copy_from_slice(b"ARM\x64");
        head
    }

    fn efi(machine: [u8; 2]) -> Vec<u8> {
        let mut head = vec![0; 512];
        head[..2].copy_from_slice(b"MZ");
        head[0x3c] = 0x80;
        head[0x80..0x84].copy_from_slice(b"PE\0\0");
        head[0x84..0x86].copy_from_slice(&machine);
        head
    }

    #[test]
    fn kernels_are_told_apart() {
        let mut zipped = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        zipped.write_all(&image()).unwrap();
        let zipped = zipped.finish().unwrap();
        let arch = |head: &[u8]| recognise(head).map(|kernel| kernel.arch);
        assert_eq!(arch(&bzimage(1)), Some(Arch::X86_64));
        assert_eq!(arch(&bzimage(0)), None, "a 32-bit kernel");
        assert_eq!(arch(&image()), Some(Arch::Aarch64));
        assert_eq!(arch(&zipped), Some(Arch::Aarch64));
        assert_eq!(arch(&zipped[..20]), None);
        assert_eq!(arch(&efi([0x64, 0x86])), Some(Arch::X86_64));
        assert_eq!(arch(&efi([0x64, 0xaa])), Some(Arch::Aarch64));
        assert_eq!(arch(&efi([0x4c, 0x01])), None);
        assert_eq!(arch(b""), None);
        assert_eq!(arch(b"\x7fELF"), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(mut bytes in proptest::collection::vec(any::<u8>(), 0..700), efi: bool) {
            if efi && bytes.len() > 2 {
                bytes[..2].copy_from_slice(b"MZ");
            }
            let _ = recognise(&bytes);
        }
    }
}
