//! From the running kernel's last instruction to the next one's 64-bit entry point: what the boot
//! protocol asks to be there (Documentation/arch/x86/boot.rst, "64-bit Boot Protocol").
//!
//! It brings its own page tables. The running kernel's lie in any free page, also in the memory that
//! the next one clears and unpacks itself to before it has tables of its own.

use std::ops::Range;

/// Enters in 64-bit mode with the running kernel's identity map, interrupts off, no GDT. Position
/// independent; its addresses stand behind it. CR4.LA57 (bit 12) says how many levels the tables have.
const CODE: [u8; 0x49] = [
    0x0f, 0x20, 0xe0, // mov %cr4,%rax
    0x48, 0x8d, 0x0d, 0xf6, 0x1f, 0x00, 0x00, // lea .+0x1ffd,%rcx     four levels
    0xa9, 0x00, 0x10, 0x00, 0x00, // test $0x1000,%eax
    0x74, 0x07, // je .+9
    0x48, 0x8d, 0x0d, 0xe8, 0x0f, 0x00, 0x00, // lea .+0xfef,%rcx      five levels
    0x0f, 0x22, 0xd9, // mov %rcx,%cr3
    0x48, 0x8d, 0x25, 0xde, 0x0f, 0x00, 0x00, // lea .+0xfe5,%rsp      the end of this page
    0x0f, 0x01, 0x15, 0x37, 0x00, 0x00, 0x00, // lgdt .+0x3e
    0xb8, 0x18, 0x00, 0x00, 0x00, // mov $__BOOT_DS,%eax
    0x8e, 0xd8, // mov %eax,%ds
    0x8e, 0xc0, // mov %eax,%es
    0x8e, 0xd0, // mov %eax,%ss
    0x8e, 0xe0, // mov %eax,%fs
    0x8e, 0xe8, // mov %eax,%gs
    0x48, 0x8b, 0x35, 0x19, 0x00, 0x00, 0x00, // mov .+0x20,%rsi       the boot parameters
    0x6a, 0x10, // push $__BOOT_CS
    0xff, 0x35, 0x09, 0x00, 0x00, 0x00, // push .+0xf                  the kernel's entry
    0x48, 0xcb, // lretq
];
/// Where the data behind the code begins: entry, boot parameters, GDT register, GDT.
const DATA: usize = 0x50;
const GDT_REGISTER: usize = 0x60;
const GDT: usize = 0x70;
/// `__BOOT_CS` (0x10) is flat, 64-bit code; `__BOOT_DS` (0x18) is flat data. Marked as accessed.
const DESCRIPTORS: [u64; 4] = [0, 0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff];

/// The last byte of it.
const GDT_LIMIT: u16 = 4 * 8 - 1;

const PAGE: usize = 4096;
/// Entries of a page table.
const ENTRIES: u64 = 512;
/// What a page of the third level maps, in bytes.
const BLOCK: u64 = 1 << 30;
const LARGE_PAGE: u64 = 2 << 20;
/// Present, writable.
const TABLE: u64 = 0x3;
/// Present, writable, large.
const LARGE: u64 = 0x83;
/// What is mapped whatever is where, in blocks: the first 4 GiB, as the 32-bit entry point has it.
const LOW: u64 = 4;

/// The trampoline with its tables for a kernel in this place, in bytes: whole pages.
pub(super) fn size(kernel: &Range<u64>) -> u64 {
    write(0, 0, 0, kernel).len() as u64
}

/// Writes the trampoline for physical address `at`, to `entry` with the boot parameters at `params`.
pub(super) fn write(at: u64, entry: u64, params: u64, kernel: &Range<u64>) -> Vec<u8> {
    let mut bytes = CODE.to_vec();
    bytes.resize(DATA, 0);
    bytes.extend_from_slice(&entry.to_le_bytes());
    bytes.extend_from_slice(&params.to_le_bytes());
    bytes.resize(GDT_REGISTER, 0);
    bytes.extend_from_slice(&GDT_LIMIT.to_le_bytes());
    bytes.extend_from_slice(&at.wrapping_add(GDT as u64).to_le_bytes());
    bytes.resize(GDT, 0);
    bytes.extend(DESCRIPTORS.iter().flat_map(|descriptor| descriptor.to_le_bytes()));
    bytes.resize(PAGE, 0);
    bytes.extend(tables(at.wrapping_add(PAGE as u64), kernel).iter().flat_map(|word| word.to_le_bytes()));
    bytes
}

/// Page tables at `at` that map the first 4 GiB and all of `kernel` to themselves: the fifth level,
/// the fourth, then the others as they are needed.
fn tables(at: u64, kernel: &Range<u64>) -> Vec<u64> {
    let mut tables = Tables { at, words: Vec::new() };
    let fifth = tables.add();
    let fourth = tables.add();
    tables.link(fifth, 0, fourth);
    let mut third = (u64::MAX, 0);
    for block in (0..LOW).chain((kernel.start / BLOCK).max(LOW)..kernel.end.div_ceil(BLOCK)) {
        if third.0 != block / ENTRIES {
            third = (block / ENTRIES, tables.add());
            tables.link(fourth, block / ENTRIES, third.1);
        }
        let second = tables.add();
        tables.link(third.1, block % ENTRIES, second);
        for page in 0..ENTRIES {
            let address = block.wrapping_mul(BLOCK).wrapping_add(page.wrapping_mul(LARGE_PAGE));
            tables.set(second, page, address | LARGE);
        }
    }
    tables.words
}

/// Page tables, one behind the other, known by their numbers.
struct Tables {
    at: u64,
    words: Vec<u64>,
}

impl Tables {
    fn add(&mut self) -> u64 {
        let number = self.words.len() as u64 / ENTRIES;
        self.words.resize(self.words.len().saturating_add(PAGE / size_of::<u64>()), 0);
        number
    }

    fn set(&mut self, table: u64, entry: u64, value: u64) {
        let index = table.wrapping_mul(ENTRIES).wrapping_add(entry);
        if let Some(word) = usize::try_from(index).ok().and_then(|index| self.words.get_mut(index)) {
            *word = value;
        }
    }

    fn link(&mut self, table: u64, entry: u64, to: u64) {
        let address = self.at.wrapping_add(to.wrapping_mul(PAGE as u64));
        self.set(table, entry, address | TABLE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::process::Command;

    const MB: u64 = 1 << 20;
    const AT: u64 = 0x7ff0_0000;

    fn word(bytes: &[u8], at: usize) -> u64 {
        u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
    }

    /// What a CPU makes of `address` with the tables of so many levels.
    fn translated(bytes: &[u8], levels: u32, address: u64) -> Option<u64> {
        let mut table = AT + PAGE as u64 * if levels == 5 { 1 } else { 2 };
        for level in (1..=levels).rev() {
            let index = address >> (12 + 9 * (level - 1)) & 511;
            let entry = word(bytes, usize::try_from(table - AT + 8 * index).unwrap());
            if entry & 3 != 3 {
                return None;
            }
            if entry & 0x80 != 0 {
                assert_eq!(level, 2);
                return Some(entry & !0xfff | address & (LARGE_PAGE - 1));
            }
            table = entry & !0xfff;
        }
        panic!("no small pages here");
    }

    #[test]
    fn the_code_is_what_its_comments_say() {
        let bytes = write(AT, 0x100_0200, 0x7fe0_0000, &(16 * MB..70 * MB));
        let mut file = tempfile::NamedTempFile::new().unwrap();
        std::io::Write::write_all(&mut file, &bytes).unwrap();
        let Ok(output) = Command::new("objdump")
            .args(["-D", "-b", "binary", "-m", "i386:x86-64", "--no-show-raw-insn", "--stop-address=0x49"])
            .arg(file.path())
            .output()
        else {
            return;
        };
        if !output.status.success() {
            // Of another architecture.
            return;
        }
        let text = String::from_utf8(output.stdout).unwrap();
        let shown: Vec<String> = text
            .lines()
            .filter_map(|line| line.split_once(":\t"))
            .map(|(_, code)| code.split_whitespace().collect::<Vec<_>>().join(" "))
            .collect();
        assert_eq!(
            shown,
            [
                "mov %cr4,%rax",
                "lea 0x1ff6(%rip),%rcx # 0x2000",
                "test $0x1000,%eax",
                "je 0x18",
                "lea 0xfe8(%rip),%rcx # 0x1000",
                "mov %rcx,%cr3",
                "lea 0xfde(%rip),%rsp # 0x1000",
                "lgdt 0x37(%rip) # 0x60",
                "mov $0x18,%eax",
                "mov %eax,%ds",
                "mov %eax,%es",
                "mov %eax,%ss",
                "mov %eax,%fs",
                "mov %eax,%gs",
                "mov 0x19(%rip),%rsi # 0x58",
                "push $0x10",
                "push 0x9(%rip) # 0x50",
                "lretq",
            ]
        );
    }

    #[test]
    fn the_data_stands_where_the_code_looks() {
        let bytes = write(AT, 0x100_0200, 0x7fe0_0000, &(16 * MB..70 * MB));
        assert_eq!(word(&bytes, 0x50), 0x100_0200);
        assert_eq!(word(&bytes, 0x58), 0x7fe0_0000);
        assert_eq!(bytes[0x60..0x62], 31u16.to_le_bytes());
        assert_eq!(word(&bytes, 0x62), AT + 0x70);
        // L, present, code, readable; G, D, present, data, writable. Both with limit 4 GiB.
        assert_eq!(word(&bytes, 0x70 + 0x10), 0x00af_9b00_0000_ffff);
        assert_eq!(word(&bytes, 0x70 + 0x18), 0x00cf_9300_0000_ffff);
    }

    #[test]
    fn what_is_low_costs_no_more_than_it_must() {
        // Code, fifth, fourth and third level, 4 GiB.
        assert_eq!(size(&(16 * MB..70 * MB)), 8 * 4096);
        assert_eq!(size(&(0xffff_f000..0x1_0000_1000)), 9 * 4096);
        let far = 600 << 30;
        assert_eq!(size(&(far..far + MB)), 10 * 4096);
    }

    proptest! {
        #[test]
        fn the_kernel_and_4_gib_are_mapped_to_themselves(
            start in 0u64..1 << 34, length in 1u64..6 << 18, low in 0u64..1 << 32, inside in any::<u64>(),
        ) {
            let kernel = start << 12..(start + length) << 12;
            let bytes = write(AT, 0, 0, &kernel);
            prop_assert_eq!(bytes.len() as u64, size(&kernel));
            let inside = kernel.start + inside % (kernel.end - kernel.start);
            for levels in [4, 5] {
                for address in [kernel.start, kernel.end - 1, inside, low, 0, (1 << 32) - 1] {
                    prop_assert_eq!(translated(&bytes, levels, address), Some(address));
                }
                let end = kernel.end.max(1 << 32).next_multiple_of(BLOCK);
                prop_assert_eq!(translated(&bytes, levels, end), None);
            }
        }
    }
}
