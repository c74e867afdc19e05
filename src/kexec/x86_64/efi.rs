//! What the next kernel needs of EFI to go on with its runtime services. They were given virtual
//! addresses once and can never be given others, so it is told these: `struct efi_setup_data` of
//! arch/x86/include/asm/efi.h, and memory descriptors as the UEFI specification has them.

use std::ops::Range;

/// `efi_loader_signature` of firmware with 64-bit words.
pub(super) const LOADER_64: [u8; 4] = *b"EL64";
/// And with 32-bit words, whose services the next kernel could not call.
pub(super) const LOADER_32: [u8; 4] = *b"EL32";

/// Bytes of a memory descriptor. Firmware may use more, and says so; these are told as many.
pub(super) const DESCRIPTOR: u32 = 40;

/// `struct efi_setup_data`: three addresses and a reserved one between them, eight reserved words.
const SETUP_DATA: usize = 96;

/// A piece of memory that runtime services use: /sys/firmware/efi/runtime-map/N.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Region {
    pub(super) kind: u32,
    /// Addresses.
    pub(super) physical: u64,
    pub(super) r#virtual: u64,
    /// Of 4 KiB.
    pub(super) pages: u64,
    pub(super) attribute: u64,
}

/// EFI as the running kernel found it. Addresses are physical.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Efi {
    pub(super) fw_vendor: u64,
    pub(super) tables: u64,
    /// 0 if there is none.
    pub(super) smbios: u64,
    /// Never empty.
    pub(super) map: Vec<Region>,
}

impl Efi {
    /// The memory map, descriptors of [`DESCRIPTOR`] bytes.
    pub(super) fn descriptors(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for region in &self.map {
            bytes.extend_from_slice(&u64::from(region.kind).to_le_bytes());
            for word in [region.physical, region.r#virtual, region.pages, region.attribute] {
                bytes.extend_from_slice(&word.to_le_bytes());
            }
        }
        bytes
    }

    /// The contents of `SETUP_EFI`.
    pub(super) fn setup_data(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(SETUP_DATA);
        for word in [self.fw_vendor, 0, self.tables, self.smbios] {
            bytes.extend_from_slice(&word.to_le_bytes());
        }
        bytes.resize(SETUP_DATA, 0);
        bytes
    }
}

/// The value behind `NAME=` in /sys/firmware/efi/systab.
pub(super) fn table(systab: &str, name: &str) -> Option<u64> {
    let value = |line: &str| number(line.strip_prefix(name)?.strip_prefix('=')?);
    systab.lines().find_map(value)
}

/// The addresses of the firmware's tables that the kernel names when it starts: match_config_table() of
/// drivers/firmware/efi/efi.c. `text` is a line of its log.
pub(super) fn tables(text: &str) -> impl Iterator<Item = u64> {
    let named = text.strip_prefix("efi: ").unwrap_or_default().split(' ');
    named.filter_map(|word| number(word.split_once('=')?.1)).filter(|&table| table >= LOW)
}

/// Below 1 MiB there is no room for what we place, and what is there is not told by EFI.
const LOW: u64 = 1 << 20;

/// Where the table at `address` may be, from its page on; the log of a TPM is the largest. Firmware and Linux's
/// own EFI stub leave such tables in memory that the memory map calls free. The running kernel kept them from
/// being given away (memblock_reserve()), and on x86 nothing shows that. The next kernel reads them again and
/// reserves as much as they say: with what was copied over the log of a TPM, all of its memory.
pub(super) fn room(address: u64) -> Range<u64> {
    const ROOM: u64 = 256 << 10;
    let start = address & !0xfff;
    start..start.saturating_add(ROOM)
}

/// A number as the kernel writes it: hexadecimal, behind 0x.
pub(super) fn number(text: &str) -> Option<u64> {
    u64::from_str_radix(text.trim().strip_prefix("0x")?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_have_whole_names() {
        let systab =
            "SMBIOS3=0x7f7e0000\nSMBIOS=0x7f9d2000\nACPI20=0x7fb7e014\nACPI=0x7fb7e000\nbroken\nX=1\n";
        assert_eq!(table(systab, "SMBIOS"), Some(0x7f9d_2000));
        assert_eq!(table(systab, "ACPI20"), Some(0x7fb7_e014));
        assert_eq!(table(systab, "ACPI"), Some(0x7fb7_e000));
        assert_eq!((table(systab, "X"), table(systab, "HCDP")), (None, None));
        for broken in ["", "0x", "12", "0xg", "0x11112222333344445"] {
            assert_eq!(number(broken), None, "{broken}");
        }
    }

    #[test]
    fn the_kernel_names_its_tables() {
        let found = |text| tables(text).collect::<Vec<_>>();
        let line = "efi: TPMFinalLog=0xdc765000 ACPI 2.0=0xdc39e000 SMBIOS=0xf05e0 ESRT=0xd9803b98 ";
        assert_eq!(found(line), [0xdc76_5000, 0xdc39_e000, 0xd980_3b98]);
        for other in ["EFI: RNG=0xdc2b3018", "efi: EFI v2.7 by EDK II", "efi: a=b c= =", "efi: X=0xg", ""] {
            assert!(found(other).is_empty(), "{other}");
        }
        assert_eq!(room(0x1234_5678), 0x1234_5000..0x1238_5000);
        assert_eq!(room(u64::MAX).end, u64::MAX);
    }

    #[test]
    fn descriptors_and_setup_data_are_laid_out_as_the_kernel_reads_them() {
        let region = Region { kind: 5, physical: 0x7f00_0000, r#virtual: u64::MAX, pages: 2, attribute: 15 };
        let efi = Efi { fw_vendor: 1, tables: 2, smbios: 3, map: vec![region.clone(), region] };
        let bytes = efi.descriptors();
        assert_eq!(bytes.len(), 2 * DESCRIPTOR as usize);
        assert_eq!(bytes[40..44], 5u32.to_le_bytes());
        assert_eq!(bytes[48..56], 0x7f00_0000u64.to_le_bytes());
        assert_eq!(bytes[72..80], 15u64.to_le_bytes());
        let bytes = efi.setup_data();
        assert_eq!(bytes.len(), 96);
        assert_eq!((bytes[0], bytes[8], bytes[16], bytes[24]), (1, 0, 2, 3));
    }
}
