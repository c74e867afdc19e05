//! The next kernel's boot parameters: the zero page (Documentation/arch/x86/zero-page.rst), and
//! behind it the command line, the EFI memory map and the list of setup_data.

use std::ops::Range;

use super::e820::{self, Entry};
use super::efi::{self, Efi};
use super::machine::{Machine, SEED};

/// `struct boot_params`.
pub(super) const ZERO_PAGE: usize = 4096;

const SCREEN_INFO: Range<usize> = 0x000..0x040;
pub(super) const ACPI_RSDP_ADDR: usize = 0x070;
const EXT_RAMDISK_IMAGE: usize = 0x0c0;
const EXT_RAMDISK_SIZE: usize = 0x0c4;
const EXT_CMD_LINE_PTR: usize = 0x0c8;
const EDID_INFO: Range<usize> = 0x140..0x1c0;
pub(super) const EFI_LOADER_SIGNATURE: usize = 0x1c0;
const EFI_SYSTAB: Range<usize> = 0x1c4..0x1c8;
const EFI_MEMDESC_SIZE: usize = 0x1c8;
const EFI_MEMDESC_VERSION: Range<usize> = 0x1cc..0x1d0;
const EFI_MEMMAP: usize = 0x1d0;
const EFI_MEMMAP_SIZE: usize = 0x1d4;
const EFI_SYSTAB_HI: Range<usize> = 0x1d8..0x1dc;
const EFI_MEMMAP_HI: usize = 0x1dc;
pub(super) const E820_ENTRIES: usize = 0x1e8;
/// `eddbuf_entries` and `edd_mbr_sig_buf_entries`.
const EDD_COUNTS: Range<usize> = 0x1e9..0x1eb;
const SECURE_BOOT: Range<usize> = 0x1ec..0x1ed;
const SETUP_HEADER: usize = 0x1f1;
/// Its last byte is that of the jump over it, and where that leads: `0x202` and the byte at 0x201.
const SETUP_HEADER_JUMP: usize = 0x201;
/// It has this at least in protocol 2.12, and never more than there is room for.
const SETUP_HEADER_ENDS: (usize, usize) = (0x264, 0x290);
const TYPE_OF_LOADER: usize = 0x210;
const LOADFLAGS: usize = 0x211;
const RAMDISK_IMAGE: usize = 0x218;
const RAMDISK_SIZE: usize = 0x21c;
const CMD_LINE_PTR: usize = 0x228;
const HARDWARE_SUBARCH: Range<usize> = 0x23c..0x240;
const SETUP_DATA: usize = 0x250;
const EDD_MBR_SIGNATURES: Range<usize> = 0x290..0x2d0;
pub(super) const E820_TABLE: usize = 0x2d0;
/// What the zero page has room for.
pub(super) const E820_MOST: usize = 128;
const EDDBUF: Range<usize> = 0xd00..0xeec;

/// The loader's number of kexec, without a version.
const KEXEC: u8 = 0xd << 4;
const LOADED_HIGH: u8 = 1;

const SETUP_E820_EXT: u32 = 1;
const SETUP_EFI: u32 = 4;
const SETUP_RNG_SEED: u32 = 9;

/// What the next kernel is told.
pub(super) struct Told<'a> {
    pub(super) machine: &'a Machine,
    /// The kernel file.
    pub(super) image: &'a [u8],
    /// With its final NUL.
    pub(super) cmdline: &'a [u8],
    /// Physical, to the byte.
    pub(super) initrd: Option<Range<u64>>,
    pub(super) efi: Option<&'a Efi>,
    pub(super) seed: Option<&'a [u8; SEED]>,
}

/// Writes the boot parameters for physical address `at`. Their size depends on no address.
pub(super) fn write(at: u64, told: &Told<'_>) -> Vec<u8> {
    let machine = told.machine;
    let mut block = Block { at, bytes: vec![0; ZERO_PAGE] };
    for taken in [SCREEN_INFO, EDID_INFO, EDD_COUNTS, EDD_MBR_SIGNATURES, EDDBUF] {
        block.take(&machine.boot_params, taken);
    }
    block.put(ACPI_RSDP_ADDR, &machine.rsdp.to_le_bytes());

    let end = told.image.get(SETUP_HEADER_JUMP).map_or(0, |jump| 0x202 + usize::from(*jump));
    let (least, most) = SETUP_HEADER_ENDS;
    block.take(told.image, SETUP_HEADER..end.clamp(least, most));
    block.take(&machine.boot_params, HARDWARE_SUBARCH);
    block.put(TYPE_OF_LOADER, &[KEXEC]);
    let flags = told.image.get(LOADFLAGS).map_or(0, |flags| flags & LOADED_HIGH);
    block.put(LOADFLAGS, &[flags]);
    block.put(SETUP_DATA, &[0; 8]);
    let initrd = told.initrd.clone().unwrap_or(0..0);
    block.put_split(RAMDISK_IMAGE, EXT_RAMDISK_IMAGE, initrd.start);
    block.put_split(RAMDISK_SIZE, EXT_RAMDISK_SIZE, initrd.end.saturating_sub(initrd.start));

    let (first, more) = machine.e820.split_at_checked(E820_MOST).unwrap_or((&machine.e820, &[] as &[Entry]));
    block.put(E820_ENTRIES, &[u8::try_from(first.len()).unwrap_or(0)]);
    block.put(E820_TABLE, &e820::write(first));

    let cmdline = block.append(told.cmdline);
    block.put_split(CMD_LINE_PTR, EXT_CMD_LINE_PTR, cmdline);
    if !more.is_empty() {
        block.setup_data(SETUP_E820_EXT, &e820::write(more));
    }
    if let Some(efi) = told.efi {
        let map = efi.descriptors();
        for taken in [EFI_SYSTAB, EFI_SYSTAB_HI, EFI_MEMDESC_VERSION, SECURE_BOOT] {
            block.take(&machine.boot_params, taken);
        }
        block.put(EFI_LOADER_SIGNATURE, &efi::LOADER_64);
        block.put(EFI_MEMDESC_SIZE, &efi::DESCRIPTOR.to_le_bytes());
        block.put(EFI_MEMMAP_SIZE, &u32::try_from(map.len()).unwrap_or(0).to_le_bytes());
        let map = block.append(&map);
        block.put_split(EFI_MEMMAP, EFI_MEMMAP_HI, map);
        block.setup_data(SETUP_EFI, &efi.setup_data());
    }
    if let Some(seed) = told.seed {
        block.setup_data(SETUP_RNG_SEED, seed);
    }
    block.bytes
}

/// The zero page and what follows it.
struct Block {
    /// Physical.
    at: u64,
    bytes: Vec<u8>,
}

impl Block {
    fn put(&mut self, offset: usize, value: &[u8]) {
        let place = offset.checked_add(value.len()).and_then(|end| self.bytes.get_mut(offset..end));
        if let Some(place) = place {
            place.copy_from_slice(value);
        }
    }

    /// What `from` has there; nothing if it is too short.
    fn take(&mut self, from: &[u8], range: Range<usize>) {
        if let Some(bytes) = from.get(range.clone()) {
            self.put(range.start, bytes);
        }
    }

    /// A number whose low and high halves stand apart.
    fn put_split(&mut self, low: usize, high: usize, value: u64) {
        let [a, b, c, d, e, f, g, h] = value.to_le_bytes();
        self.put(low, &[a, b, c, d]);
        self.put(high, &[e, f, g, h]);
    }

    /// Adds `bytes` at the next multiple of 16 and answers with their physical address.
    fn append(&mut self, bytes: &[u8]) -> u64 {
        self.bytes.resize(self.bytes.len().next_multiple_of(16), 0);
        let address = self.at.wrapping_add(self.bytes.len() as u64);
        self.bytes.extend_from_slice(bytes);
        address
    }

    /// Adds a `struct setup_data` in front of the list: next, type, length, contents.
    fn setup_data(&mut self, kind: u32, data: &[u8]) {
        let head = self.bytes.get(SETUP_DATA..SETUP_DATA + 8).unwrap_or_default().to_vec();
        let length = u32::try_from(data.len()).unwrap_or(0);
        let node = [head.as_slice(), &kind.to_le_bytes(), &length.to_le_bytes(), data].concat();
        let address = self.append(&node);
        self.put(SETUP_DATA, &address.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kexec::Ranges;
    use crate::kexec::x86_64::efi::Region;
    use crate::kexec::x86_64::machine::Handover;
    use proptest::prelude::*;

    const HEAD: &[u8] = include_bytes!("../../image/testdata/debian-6.1-amd64.head");
    const AT: u64 = 0x1_7ff0_0000;

    fn machine(entries: usize) -> Machine {
        let e820 = (0..entries as u64).map(|n| Entry { start: n << 20, size: 1 << 20, kind: 1 });
        Machine {
            memory: Ranges::default(),
            e820: e820.collect(),
            boot_params: (1..=251u8).cycle().map(|byte| byte | 1).take(ZERO_PAGE).collect(),
            rsdp: 0xf_5270,
            efi: Handover::None,
            five_level: false,
            confidential: None,
            log_is_whole: true,
            seed: None,
        }
    }

    fn told<'a>(machine: &'a Machine, image: &'a [u8]) -> Told<'a> {
        Told { machine, image, cmdline: b"quiet\0", initrd: None, efi: None, seed: None }
    }

    fn u32_at(bytes: &[u8], at: usize) -> u32 {
        u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
    }

    fn u64_at(bytes: &[u8], at: usize) -> u64 {
        u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
    }

    /// The list as a kernel walks it: type and contents.
    fn setup_data(bytes: &[u8]) -> Vec<(u32, &[u8])> {
        let mut found = Vec::new();
        let mut next = u64_at(bytes, SETUP_DATA);
        while next != 0 {
            let at = usize::try_from(next - AT).unwrap();
            assert!(at.is_multiple_of(16) && at >= ZERO_PAGE);
            let length = u32_at(bytes, at + 12) as usize;
            found.push((u32_at(bytes, at + 8), &bytes[at + 16..at + 16 + length]));
            next = u64_at(bytes, at);
        }
        found
    }

    #[test]
    fn only_the_setup_header_comes_from_the_file() {
        let mut image = HEAD.to_vec();
        image[..SETUP_HEADER].fill(0xaa);
        image[SETUP_DATA] = 0xaa;
        let machine = machine(1);
        let bytes = write(AT, &told(&machine, &image));
        // This header ends at 0x26c.
        assert_eq!(image[SETUP_HEADER_JUMP], 0x6a);
        assert_eq!(bytes[0x1f1..0x210], image[0x1f1..0x210]);
        assert_eq!(bytes[0x254..0x26c], image[0x254..0x26c]);
        assert!(bytes[0x26c..0x290].iter().all(|&byte| byte == 0));
        assert_eq!(bytes[TYPE_OF_LOADER..=LOADFLAGS], [0xd0, 1]);
        assert_eq!(bytes[0x1ef], 0, "the sentinel");
        assert!(setup_data(&bytes).is_empty());
        // Neither APM, IST, disks nor anything of EFI.
        for zero in [0x40..0x70, 0x78..0xc0, 0xcc..0x140, 0x1c0..0x1e8, 0x1eb..0x1f1] {
            assert!(bytes[zero.clone()].iter().all(|&byte| byte == 0), "{zero:x?}");
        }
    }

    #[test]
    fn screen_and_disks_are_those_of_the_running_kernel() {
        let machine = machine(1);
        let bytes = write(AT, &told(&machine, HEAD));
        for taken in [SCREEN_INFO, EDID_INFO, EDD_MBR_SIGNATURES, EDDBUF, HARDWARE_SUBARCH, EDD_COUNTS] {
            assert_eq!(bytes[taken.clone()], machine.boot_params[taken]);
        }
        assert_eq!(u64_at(&bytes, ACPI_RSDP_ADDR), 0xf_5270);
        let hidden = Machine { boot_params: Vec::new(), ..machine };
        let bytes = write(AT, &told(&hidden, HEAD));
        assert!(bytes[SCREEN_INFO].iter().all(|&byte| byte == 0));
    }

    #[test]
    fn addresses_are_split_in_halves() {
        let machine = machine(1);
        let initrd = Some(0x12_3456_7000..0x15_3456_7001);
        let bytes = write(AT, &Told { initrd, ..told(&machine, HEAD) });
        assert_eq!((u32_at(&bytes, RAMDISK_IMAGE), u32_at(&bytes, EXT_RAMDISK_IMAGE)), (0x3456_7000, 0x12));
        assert_eq!((u32_at(&bytes, RAMDISK_SIZE), u32_at(&bytes, EXT_RAMDISK_SIZE)), (1, 3));
        assert_eq!((u32_at(&bytes, CMD_LINE_PTR), u32_at(&bytes, EXT_CMD_LINE_PTR)), (0x7ff0_1000, 1));
        assert_eq!(&bytes[ZERO_PAGE..ZERO_PAGE + 6], b"quiet\0");
    }

    #[test]
    fn what_the_table_has_no_room_for_follows_in_a_list() {
        for (entries, more) in [(1, 0), (128, 0), (129, 1), (300, 172)] {
            let machine = machine(entries);
            let bytes = write(AT, &told(&machine, HEAD));
            assert_eq!(usize::from(bytes[E820_ENTRIES]), entries - more);
            let table = &bytes[E820_TABLE..E820_TABLE + (entries - more) * e820::ENTRY];
            let mut all = e820::read(table);
            match setup_data(&bytes).as_slice() {
                [] => assert_eq!(more, 0),
                [(SETUP_E820_EXT, list)] => all.extend(e820::read(list)),
                other => panic!("{other:?}"),
            }
            assert_eq!(all, machine.e820);
        }
    }

    #[test]
    fn efi_comes_with_its_map_and_its_tables() {
        let machine = machine(200);
        let region = Region { kind: 6, physical: 1, r#virtual: 2, pages: 3, attribute: 4 };
        let efi = Efi { fw_vendor: 7, tables: 8, smbios: 9, map: vec![region; 3] };
        let seed = [0x5a; SEED];
        let bytes = write(AT, &Told { efi: Some(&efi), seed: Some(&seed), ..told(&machine, HEAD) });
        assert_eq!(&bytes[0x1c0..0x1c4], b"EL64");
        assert_eq!((u32_at(&bytes, EFI_MEMDESC_SIZE), u32_at(&bytes, EFI_MEMMAP_SIZE)), (40, 120));
        let map = u64::from(u32_at(&bytes, EFI_MEMMAP_HI)) << 32 | u64::from(u32_at(&bytes, EFI_MEMMAP));
        let map = usize::try_from(map - AT).unwrap();
        assert_eq!(bytes[map..map + 120], efi.descriptors());
        for taken in [EFI_SYSTAB, EFI_SYSTAB_HI, EFI_MEMDESC_VERSION, SECURE_BOOT] {
            assert_eq!(bytes[taken.clone()], machine.boot_params[taken]);
        }
        let list = setup_data(&bytes);
        let kinds: Vec<u32> = list.iter().map(|(kind, _)| *kind).collect();
        assert_eq!(kinds, [SETUP_RNG_SEED, SETUP_EFI, SETUP_E820_EXT]);
        assert_eq!((list[0].1, list[1].1), (&seed[..], &efi.setup_data()[..]));
    }

    proptest! {
        #[test]
        fn the_size_depends_on_no_address_and_no_header_panics(
            at in any::<u64>(),
            initrd in any::<u64>(),
            entries in 0usize..200,
            flips in prop::collection::vec((0usize..4096, any::<u8>()), 0..8),
            length in 0usize..=4096,
            short in 0usize..=4096,
        ) {
            let mut image = HEAD.to_vec();
            for (at, value) in flips {
                image[at] = value;
            }
            image.truncate(length);
            let mut machine = machine(entries);
            machine.boot_params.truncate(short);
            let first = write(0, &told(&machine, &image));
            let told = Told { initrd: Some(initrd..u64::MAX), ..told(&machine, &image) };
            prop_assert_eq!(write(at, &told).len(), first.len());
        }
    }
}
