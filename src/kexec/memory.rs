//! Where the next kernel may go: RAM as /proc/iomem shows it, less what the machine still uses.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;

use super::{Error, Ranges, aarch64};
use crate::error::printable;
use crate::paths::Paths;

/// The flags of a page that only CPUs use, of Documentation/admin-guide/mm/pagemap.rst: user memory
/// and page cache (5 LRU, 12 ANON, 14 SWAPBACKED, 17 HUGE, 22 THP), 7 SLAB, 10 BUDDY (free) and
/// 26 PGTABLE. Whatever is in them is dead when the next kernel is copied over it.
const CPU_ONLY: u64 = 1 << 5 | 1 << 7 | 1 << 10 | 1 << 12 | 1 << 14 | 1 << 17 | 1 << 22 | 1 << 26;
/// 19 HWPOISON, 20 NOPAGE, 23 OFFLINE.
const UNUSABLE: u64 = 1 << 19 | 1 << 20 | 1 << 23;

/// What a GIC writes to lies in whole blocks of this size, aligned to it. Smaller runs of pages
/// without a flag are the kernel's stacks, modules and free pages in per-CPU lists: everywhere, and
/// dead with it.
const LIVE_BLOCK: u64 = aarch64::TABLE;

/// Physical memory. Addresses in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryMap {
    /// RAM that is not reserved, the running kernel's own place included.
    pub usable: Ranges,
    /// From the running kernel's code to the end of its data.
    pub kernel: Option<Range<u64>>,
}

impl MemoryMap {
    /// Reads /proc/iomem, of which nobody has as much as 16 MiB.
    pub fn read(paths: &Paths) -> Result<Self, Error> {
        const MOST: u64 = 16 << 20;
        let path = paths.iomem();
        let mut text = String::new();
        File::open(&path)
            .and_then(|file| file.take(MOST).read_to_string(&mut text))
            .map_err(|source| Error::Read { path: path.display().to_string(), source })?;
        Self::parse(&text)
    }

    /// Reads the text of /proc/iomem: two spaces a level, `start-end : name`, both inclusive, hex.
    pub fn parse(iomem: &str) -> Result<Self, Error> {
        let mut usable = Ranges::default();
        let mut reserved = Ranges::default();
        let mut kernel: Option<Range<u64>> = None;
        let mut in_ram = false;
        let mut hidden = true;
        for (number, line) in iomem.lines().enumerate() {
            let bad = || Error::Iomem { number: number.saturating_add(1), line: printable(line) };
            let (depth, range, name) = resource(line).ok_or_else(bad)?;
            hidden &= range.start == 0 && range.end == 1;
            match (depth, name) {
                (0, _) => {
                    in_ram = name == "System RAM";
                    if in_ram {
                        usable.add(range);
                    }
                }
                _ if !in_ram => {}
                (_, "Kernel code" | "Kernel rodata" | "Kernel data" | "Kernel bss") => {
                    kernel =
                        Some(kernel.map_or(range.clone(), |span| {
                            span.start.min(range.start)..span.end.max(range.end)
                        }));
                }
                _ => reserved.add(range),
            }
        }
        if hidden {
            return Err(Error::IomemHidden);
        }
        if usable.is_empty() {
            return Err(Error::NoRam);
        }
        // Between code and data lies init memory, which shows as reserved: part of the kernel's place.
        if let Some(kernel) = &kernel {
            reserved.remove(kernel);
        }
        usable.remove_all(&reserved);
        Ok(Self { usable, kernel })
    }

    /// What the running kernel takes for free when it places something itself.
    pub(super) fn free(&self) -> Ranges {
        let mut free = self.usable.clone();
        if let Some(kernel) = &self.kernel {
            free.remove(kernel);
        }
        free
    }

    /// Keeps only the lowest `enough` bytes of what is usable. Everything is placed as low as it fits,
    /// and on a machine with a terabyte it takes seconds to ask about every page.
    pub fn keep_lowest(&mut self, enough: u64) {
        let mut left = enough;
        let mut end = u64::MAX;
        for range in self.usable.iter() {
            let size = range.end.saturating_sub(range.start);
            if size >= left {
                end = range.start.saturating_add(left);
                break;
            }
            left -= size;
        }
        self.usable.clip(&(0..end));
    }

    /// Takes away the pages that the running kernel owns for purposes that do not show, where they
    /// make up a [`LIVE_BLOCK`]. An interrupt controller may still write there after the hand-over:
    /// a GICv3 keeps its LPI tables. The kernel's own place is not looked at: it was taken before
    /// any table was. Answers how many bytes went.
    pub fn avoid_kernel_owned(&mut self, kpageflags: &mut (impl Read + Seek), page: u64) -> io::Result<u64> {
        let mut owned = Ranges::default();
        for range in self.usable.iter() {
            scan(kpageflags, range, page, &mut owned)?;
        }
        if let Some(kernel) = &self.kernel {
            owned.remove(kernel);
        }
        let before = self.usable.total();
        self.usable.remove_all(&owned);
        Ok(before.saturating_sub(self.usable.total()))
    }
}

/// One line of /proc/iomem: its depth, its range and its name.
fn resource(line: &str) -> Option<(usize, Range<u64>, &str)> {
    let text = line.trim_start_matches(' ');
    let depth = line.len().checked_sub(text.len())? / 2;
    let (range, name) = text.split_once(" : ")?;
    let (start, end) = range.split_once('-')?;
    let start = u64::from_str_radix(start, 16).ok()?;
    let end = u64::from_str_radix(end, 16).ok()?;
    (start <= end).then(|| (depth, start..end.saturating_add(1), name))
}

/// Adds the kernel-owned pages of `range` to `owned`.
fn scan(
    kpageflags: &mut (impl Read + Seek),
    range: &Range<u64>,
    page: u64,
    owned: &mut Ranges,
) -> io::Result<()> {
    /// Pages asked about in one read.
    const CHUNK: u64 = 8192;
    const WORD: u64 = 8;
    let mut buffer = Vec::new();
    let mut number = range.start / page;
    let end = range.end.div_ceil(page);
    // Where the run of kernel-owned pages that is being read began.
    let mut run = None;
    while number < end {
        let count = CHUNK.min(end - number);
        buffer.clear();
        kpageflags.seek(SeekFrom::Start(number.saturating_mul(WORD)))?;
        kpageflags.by_ref().take(count * WORD).read_to_end(&mut buffer)?;
        let (words, _) = buffer.as_chunks::<8>();
        if words.is_empty() {
            // Beyond the last page that has a description: nothing the kernel could own.
            break;
        }
        for word in words {
            let flags = u64::from_ne_bytes(*word);
            let is_owned = flags & CPU_ONLY == 0 || flags & UNUSABLE != 0;
            match run {
                None if is_owned => run = Some(number),
                Some(start) if !is_owned => {
                    add_live(owned, start.saturating_mul(page)..number.saturating_mul(page));
                    run = None;
                }
                _ => {}
            }
            number = number.saturating_add(1);
        }
    }
    if let Some(start) = run {
        add_live(owned, start.saturating_mul(page)..number.saturating_mul(page));
    }
    Ok(())
}

/// Adds `run` to `owned` if a whole [`LIVE_BLOCK`] is in it.
fn add_live(owned: &mut Ranges, run: Range<u64>) {
    let block = run.start.checked_next_multiple_of(LIVE_BLOCK).and_then(|at| at.checked_add(LIVE_BLOCK));
    if block.is_some_and(|end| end <= run.end) {
        owned.add(run);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Exit;
    use proptest::prelude::*;
    use std::io::Cursor;

    const VIRT: &str = include_str!("testdata/iomem-qemu-virt-gicv3.txt");
    const PC: &str = include_str!("testdata/iomem-qemu-pc.txt");

    #[test]
    fn what_cannot_be_read_is_named_and_what_has_no_end_is_not_read_to_it() {
        let root = tempfile::tempdir().unwrap();
        let paths = Paths::under(root.path());
        assert!(MemoryMap::read(&paths).unwrap_err().to_string().contains("proc/iomem"));
        std::fs::create_dir(root.path().join("proc")).unwrap();
        std::os::unix::fs::symlink("/dev/zero", paths.iomem()).unwrap();
        assert!(matches!(MemoryMap::read(&paths), Err(Error::Iomem { number: 1, .. })));
    }

    #[test]
    fn an_arm64_machine() {
        let map = MemoryMap::parse(VIRT).unwrap();
        assert_eq!(map.kernel, Some(0x4021_0000..0x41cb_0000));
        assert!(map.usable.contains(&(0x4000_0000..0x4800_0000)));
        assert!(!map.usable.contains(&(0x4800_0000..0x4800_1000)));
        assert!(map.usable.contains(&(0x4830_0000..0x7ac0_0000)));
        assert!(!map.usable.contains(&(0x0900_0000..0x0900_1000)));
    }

    #[test]
    fn a_pc() {
        let map = MemoryMap::parse(PC).unwrap();
        assert_eq!(map.kernel, Some(0x0700_0000..0x0980_0000));
        assert!(map.usable.contains(&(0x0010_0000..0x1ffe_0000)));
        assert!(!map.usable.contains(&(0xf_0000..0xf_1000)));
    }

    #[test]
    fn only_the_lowest_memory_is_kept() {
        let iomem = "00001000-00001fff : System RAM\n00003000-00006fff : System RAM\n";
        let kept = |enough| {
            let mut map = MemoryMap::parse(iomem).unwrap();
            map.keep_lowest(enough);
            map.usable.iter().cloned().collect::<Vec<_>>()
        };
        assert_eq!(kept(0x3000), [0x1000..0x2000, 0x3000..0x5000]);
        assert_eq!(kept(0x5000), [0x1000..0x2000, 0x3000..0x7000]);
        assert_eq!(kept(u64::MAX), [0x1000..0x2000, 0x3000..0x7000]);
    }

    #[test]
    fn without_privilege_the_addresses_are_hidden() {
        let error = MemoryMap::parse("00000000-00000000 : System RAM\n  00000000-00000000 : Kernel code\n");
        assert!(matches!(error, Err(Error::IomemHidden)));
        assert_eq!(error.unwrap_err().exit(), Exit::KexecUnavailable);
    }

    #[test]
    fn a_malformed_line_is_named() {
        for bad in ["40000000 : System RAM", "40000000-zz : System RAM", "5-4 : x", "1-2", ""] {
            let text = format!("00000000-00000fff : Reserved\n{bad}\n");
            let error = MemoryMap::parse(&text).unwrap_err();
            assert!(error.to_string().starts_with("/proc/iomem line 2"), "{error}");
        }
        assert!(matches!(MemoryMap::parse("00001000-00001fff : PCI"), Err(Error::NoRam)));
    }

    #[test]
    fn reserved_children_and_the_crash_kernel_are_kept_clear_of() {
        let map = MemoryMap::parse(
            "80000000-ffffffff : System RAM\n  90000000-9fffffff : Crash kernel\n  \
             a0000000-a0ffffff : reserved\n    a0000000-a00fffff : inside\n  b0000000-b0000fff : unknown\n",
        )
        .unwrap();
        let expected = [0x8000_0000..0x9000_0000, 0xa100_0000..0xb000_0000, 0xb000_1000..0x1_0000_0000];
        assert!(map.usable.iter().eq(&expected));
        assert_eq!(map.kernel, None);
    }

    #[test]
    fn kernel_owned_blocks_are_left_out_but_not_the_kernels_place() {
        let iomem = "00000000-000fffff : System RAM\n  00040000-0006ffff : Kernel code\n";
        let mut map = MemoryMap::parse(iomem).unwrap();
        let mut flags = vec![1u64 << 10; 256];
        // 0x10000..0x20000: one block. 0x28000..0x38000: as large, but not aligned.
        flags[0x10..0x20].fill(0);
        flags[0x28..0x38].fill(0);
        // The kernel's own, and a reserved block behind it.
        flags[0x40..0x60].fill(0);
        flags[0x80..0x90].fill(1 << 32);
        // User memory, broken; slab.
        flags[0xa0..0xb0].fill(1 << 5 | 1 << 19);
        flags[0xc0..0xd0].fill(1 << 7);
        let words: Vec<u8> = flags.iter().flat_map(|word| word.to_ne_bytes()).collect();
        let gone = map.avoid_kernel_owned(&mut Cursor::new(words), 4096).unwrap();
        assert_eq!(gone, 3 * 0x1_0000);
        let left = [0..0x1_0000, 0x2_0000..0x8_0000, 0x9_0000..0xa_0000, 0xb_0000..0x10_0000];
        assert!(map.usable.iter().eq(&left));
    }

    #[test]
    fn runs_cross_chunks_and_a_short_file_is_no_obstacle() {
        let mut map = MemoryMap::parse("00000000-07ffffff : System RAM\n").unwrap();
        let mut words = vec![0u8; 8 * 9000];
        words.extend_from_slice(&(1u64 << 10).to_ne_bytes());
        let gone = map.avoid_kernel_owned(&mut Cursor::new(words), 4096).unwrap();
        assert_eq!(gone, 9000 * 4096);
        assert!(map.usable.iter().eq([&(9000 * 4096..0x800_0000)]));
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "[0-9a-f:\\- \\nSystemRAM]{0,200}", huge in any::<u64>()) {
            let _ = MemoryMap::parse(&text);
            let _ = MemoryMap::parse(&format!("{huge:x}-ffffffffffffffff : System RAM\n"));
        }
    }
}
