//! Where each piece of an arm64 boot goes. Pure: Documentation/arch/arm64/booting.rst.

use std::ops::Range;

use crate::image::arm64::BASE_ALIGNMENT;
use crate::kexec::{Error, Ranges};

/// The tree is mapped with blocks of this size and must not cross one.
const TREE_BLOCK: u64 = 2 << 20;
/// Kernel and ramdisk lie in one window of this size, aligned to [`WINDOW_ALIGNMENT`].
const WINDOW: u64 = 32 << 30;
const WINDOW_ALIGNMENT: u64 = 1 << 30;
/// Physical addresses that every arm64 kernel can map.
const ADDRESSABLE: u64 = 1 << 48;
/// From the base of a kernel before 4.2 to the end of its tree.
const OLD_TREE_REACH: u64 = 512 << 20;

/// The pieces. Sizes in bytes.
#[derive(Clone, Debug)]
pub struct Pieces {
    /// From a 2 MiB aligned base to the kernel.
    pub text_offset: u64,
    /// The kernel with its bss.
    pub kernel: u64,
    /// The kernel can use memory below itself. One before 4.6 cannot, and one before 4.2 reaches its tree
    /// only close above its base: neither is given anything elsewhere.
    pub anywhere: bool,
    pub initrd: Option<u64>,
    pub tree: u64,
    pub trampoline: u64,
    /// The running kernel's page size: kexec_load takes whole pages only.
    pub page: u64,
}

/// Where they go: physical, whole pages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    pub kernel: Range<u64>,
    pub initrd: Option<Range<u64>>,
    pub tree: Range<u64>,
    pub trampoline: Range<u64>,
}

/// Places `pieces` in `usable` memory, the kernel as low as the others allow: a kernel wastes or
/// cannot map what is below it, and boots slower from higher up.
pub fn place(usable: &Ranges, pieces: &Pieces) -> Result<Layout, Error> {
    let mut usable = usable.clone();
    usable.clip(&(0..ADDRESSABLE));
    usable.shrink_to(pieces.page);
    let whole = |size: u64| size.max(1).checked_next_multiple_of(pieces.page).unwrap_or(u64::MAX);

    if !pieces.text_offset.is_multiple_of(pieces.page) {
        let what = "the kernel, whose text_offset is no whole number of this kernel's pages";
        return Err(no_place(what, whole(pieces.kernel), &usable));
    }
    let mut obstacle = no_place("the kernel", whole(pieces.kernel), &usable);
    for range in usable.iter() {
        let Some(kernel) = kernel_in(range, pieces.text_offset, whole(pieces.kernel)) else { continue };
        let mut free = usable.clone();
        free.remove(&kernel);
        let mut mapped = free.clone();
        if !pieces.anywhere {
            mapped.clip(&(kernel.end..ADDRESSABLE));
        }

        let initrd = match pieces.initrd.map(whole) {
            None => None,
            Some(size) => match initrd_near(&kernel, size, &mapped) {
                Some(range) => Some(range),
                None => {
                    obstacle = no_place("the ramdisk", size, &mapped);
                    continue;
                }
            },
        };
        if let Some(initrd) = &initrd {
            free.remove(initrd);
        }

        let size = whole(pieces.tree);
        let mut blocks = free.clone();
        if !pieces.anywhere {
            let base = kernel.start.saturating_sub(pieces.text_offset);
            blocks.clip(&(base..base.saturating_add(OLD_TREE_REACH)));
        }
        for taken in [Some(&kernel), initrd.as_ref()].into_iter().flatten() {
            blocks.remove(&rounded_out(taken, TREE_BLOCK));
        }
        let Some(tree) = blocks.iter().find_map(|range| in_one_block(range, size)) else {
            obstacle = no_place("the device tree", size, &blocks);
            continue;
        };
        free.remove(&rounded_out(&tree, TREE_BLOCK));

        let size = whole(pieces.trampoline);
        let Some(trampoline) = free.iter().find_map(|range| first(range, size)) else {
            obstacle = no_place("the trampoline", size, &free);
            continue;
        };
        return Ok(Layout { kernel, initrd, tree, trampoline });
    }
    Err(obstacle)
}

/// Where kexec_file_load puts kernel and ramdisk when `free` is what the running kernel takes for
/// free: image_load() of arch/arm64/kernel/kexec_image.c, the lowest hole for each, the ramdisk above
/// the kernel.
pub(in crate::kexec) fn by_file_load(free: &Ranges, pieces: &Pieces) -> Vec<Range<u64>> {
    let size = pieces.kernel.saturating_add(pieces.text_offset);
    let Some(kernel) = free.iter().find_map(|range| kernel_in(range, 0, size)) else { return Vec::new() };
    let mut above = free.clone();
    above.clip(&(kernel.end..u64::MAX));
    above.shrink_to(pieces.page);
    let initrd = pieces.initrd.and_then(|size| above.iter().find_map(|range| first(range, size)));
    [Some(kernel), initrd].into_iter().flatten().collect()
}

fn no_place(what: &'static str, size: u64, free: &Ranges) -> Error {
    let largest = free.iter().map(|range| range.end.saturating_sub(range.start)).max().unwrap_or(0);
    Error::NoPlace { what, size, largest }
}

fn first(range: &Range<u64>, size: u64) -> Option<Range<u64>> {
    let end = range.start.checked_add(size)?;
    (end <= range.end).then_some(range.start..end)
}

/// The lowest place in `range`: a 2 MiB aligned base, then `text_offset`. The base itself need not
/// be in memory.
fn kernel_in(range: &Range<u64>, text_offset: u64, size: u64) -> Option<Range<u64>> {
    let start = range
        .start
        .saturating_sub(text_offset)
        .checked_next_multiple_of(BASE_ALIGNMENT)?
        .checked_add(text_offset)?;
    first(&(start..range.end), size)
}

/// The lowest place in the windows around `kernel`: the one that begins with it, then the one that
/// ends with it.
fn initrd_near(kernel: &Range<u64>, size: u64, free: &Ranges) -> Option<Range<u64>> {
    let begin = kernel.start - kernel.start % WINDOW_ALIGNMENT;
    let end = kernel.end.checked_next_multiple_of(WINDOW_ALIGNMENT)?;
    let windows = [begin..begin.saturating_add(WINDOW), end.saturating_sub(WINDOW)..end];
    windows.into_iter().filter(|window| window.end >= kernel.end).find_map(|window| {
        let mut free = free.clone();
        free.clip(&window);
        free.iter().find_map(|range| first(range, size))
    })
}

fn in_one_block(range: &Range<u64>, size: u64) -> Option<Range<u64>> {
    let here = first(range, size)?;
    let last = here.end.checked_sub(1)?;
    if here.start / TREE_BLOCK == last / TREE_BLOCK {
        return Some(here);
    }
    let start = range.start.checked_next_multiple_of(TREE_BLOCK)?;
    if size > TREE_BLOCK { None } else { first(&(start..range.end), size) }
}

fn rounded_out(range: &Range<u64>, alignment: u64) -> Range<u64> {
    let start = range.start - range.start % alignment;
    start..range.end.checked_next_multiple_of(alignment).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Exit;
    use crate::kexec::MemoryMap;
    use proptest::prelude::*;

    const MB: u64 = 1 << 20;
    const GB: u64 = 1 << 30;

    fn pieces() -> Pieces {
        Pieces {
            text_offset: 0,
            kernel: 27 * MB,
            anywhere: true,
            initrd: Some(14 * MB + 1),
            tree: 9000,
            trampoline: 40,
            page: 4096,
        }
    }

    fn memory<const N: usize>(ranges: [(u64, u64); N]) -> Ranges {
        let mut memory = Ranges::default();
        for (start, end) in ranges {
            memory.add(start..end);
        }
        memory
    }

    #[test]
    fn qemus_machine_gets_the_kernel_at_the_start_of_memory() {
        let map = MemoryMap::parse(include_str!("../testdata/iomem-qemu-virt-gicv3.txt")).unwrap();
        let layout = place(&map.usable, &pieces()).unwrap();
        assert_eq!(layout.kernel, 0x4000_0000..0x41b0_0000);
        assert_eq!(layout.initrd, Some(0x41b0_0000..0x4290_1000));
        assert_eq!(layout.tree, 0x42a0_0000..0x42a0_3000);
        assert_eq!(layout.trampoline, 0x4290_1000..0x4290_2000);
    }

    #[test]
    fn text_offset_counts_from_an_aligned_base_which_need_not_exist() {
        let layout =
            place(&memory([(0x8_0000, 512 * MB)]), &Pieces { text_offset: 0x8_0000, ..pieces() }).unwrap();
        assert_eq!(layout.kernel.start, 0x8_0000);
        let layout =
            place(&memory([(0x8_1000, 512 * MB)]), &Pieces { text_offset: 0x8_0000, ..pieces() }).unwrap();
        assert_eq!(layout.kernel.start, 0x28_0000);
    }

    #[test]
    fn the_ramdisk_stays_in_the_kernels_window() {
        // Memory for it only beyond 32 GiB above the kernel: the kernel moves up to it.
        let usable = memory([(0, 30 * MB), (40 * GB, 41 * GB)]);
        let layout = place(&usable, &pieces()).unwrap();
        assert!(layout.kernel.start >= 40 * GB);
        // Below the kernel is as good.
        let usable = memory([(GB + MB, GB + 20 * MB), (20 * GB, 20 * GB + 30 * MB)]);
        let layout = place(&usable, &pieces()).unwrap();
        assert_eq!(layout.kernel.start, 20 * GB);
        assert_eq!(layout.initrd.unwrap().start, GB + MB);
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let error = place(&memory([(0, 16 * MB)]), &pieces()).unwrap_err();
        assert_eq!(error.exit(), Exit::NotEnoughMemory);
        assert!(error.to_string().contains("the kernel"), "{error}");
        let error = place(&memory([(0, 28 * MB)]), &pieces()).unwrap_err();
        assert!(error.to_string().contains("the ramdisk"), "{error}");
        assert!(place(&Ranges::default(), &pieces()).is_err());
    }

    #[test]
    fn kexec_file_load_takes_the_lowest_holes_beside_the_running_kernel() {
        // A 6.12 kernel of 7.4 MiB on QEMU's virt machine was seen to do so.
        let free = memory([(0x4000_0000, 0x4021_0000), (0x4097_0000, 0x6000_0000)]);
        let pieces = Pieces { kernel: 0x77_0000, initrd: Some(0x1_d5ff), ..pieces() };
        let places = by_file_load(&free, &pieces);
        assert_eq!(places, [0x40a0_0000..0x4117_0000, 0x4117_0000..0x4118_d5ff]);
        assert!(by_file_load(&Ranges::default(), &pieces).is_empty());
    }

    /// What the boot protocol and kexec_load want of every layout.
    fn check(usable: &Ranges, pieces: &Pieces, layout: &Layout) -> Result<(), TestCaseError> {
        let Pieces { text_offset, page, .. } = *pieces;
        let mut all = vec![layout.kernel.clone(), layout.tree.clone(), layout.trampoline.clone()];
        all.extend(layout.initrd.clone());
        for range in &all {
            prop_assert!(usable.contains(range), "{range:x?} is not usable");
            prop_assert_eq!((range.start % page, range.end % page), (0, 0));
            prop_assert!(range.end <= ADDRESSABLE);
        }
        for (index, one) in all.iter().enumerate() {
            for other in &all[index + 1..] {
                prop_assert!(one.end <= other.start || other.end <= one.start);
            }
        }
        prop_assert_eq!((layout.kernel.start - text_offset) % (2 * MB), 0);
        prop_assert!(layout.kernel.end - layout.kernel.start >= pieces.kernel);
        prop_assert!(layout.tree.end - layout.tree.start >= pieces.tree);
        let block = rounded_out(&layout.tree, 2 * MB);
        prop_assert_eq!(block.end - block.start, 2 * MB);
        for range in all.iter().filter(|range| **range != layout.tree) {
            prop_assert!(range.end <= block.start || block.end <= range.start);
        }
        prop_assert_eq!(layout.initrd.is_some(), pieces.initrd.is_some());
        if let Some((initrd, size)) = layout.initrd.as_ref().zip(pieces.initrd) {
            prop_assert!(initrd.end - initrd.start >= size);
            let low = initrd.start.min(layout.kernel.start) / GB * GB;
            prop_assert!(initrd.end.max(layout.kernel.end) <= low + 32 * GB);
        }
        if !pieces.anywhere {
            let base = layout.kernel.start - text_offset;
            prop_assert!(base <= layout.tree.start && layout.tree.end <= base + 512 * MB);
            prop_assert!(layout.initrd.as_ref().is_none_or(|initrd| layout.kernel.end <= initrd.start));
        }
        Ok(())
    }

    const PI: &str = include_str!("../testdata/iomem-raspberry-pi-4.txt");
    const ALTRA: &str = include_str!("../testdata/iomem-ampere-altra.txt");
    const VIRT: &str = include_str!("../testdata/iomem-qemu-virt-gicv3.txt");
    const VIRT_UEFI: &str = include_str!("../testdata/iomem-qemu-virt-uefi.txt");

    /// Machine, kernel's text_offset, ramdisk in MB, page size, and where kernel and ramdisk begin.
    #[rustfmt::skip]
    const PLACES: &[(&str, u64, u64, u64, u64, u64)] = &[
        // The running kernel's own place is taken, what lies in it as reserved is its init memory.
        (VIRT,      0,       14,   4096,  0x4000_0000, 0x41b0_0000),
        (VIRT,      0,       300,  4096,  0x4000_0000, 0x4830_0000),
        // LPI tables and the list of them lie at 0x4017_7000 to 0x4020_0000: behind them.
        (VIRT_UEFI, 0,       14,   4096,  0x4020_0000, 0x41d0_0000),
        (VIRT_UEFI, 0x8_0000, 14,  65536, 0x4028_0000, 0x41d8_0000),
        (VIRT_UEFI, 0,       1200, 4096,  0x4020_0000, 0x41d0_0000),
        // The first page belongs to the secondary CPUs. Below 1 GB a few things are reserved.
        (PI,        0,       14,   4096,  0x0020_0000, 0x03c2_c000),
        (PI,        0x8_0000, 14,  4096,  0x0008_0000, 0x03c2_c000),
        (PI,        0,       1000, 4096,  0x0020_0000, 0x4000_0000),
        // 32 MB of low memory take the kernel; a large ramdisk goes behind what is the firmware's.
        (ALTRA,     0,       3,    4096,  0x9000_0000, 0x91b0_0000),
        (ALTRA,     0,       200,  4096,  0x9000_0000, 0x927c_0000),
        (ALTRA,     0,       200,  65536, 0x9000_0000, 0x927c_0000),
        // More than there is below 4 GB: both move up to 8 TiB, behind the LPI tables.
        (ALTRA,     0,       2000, 4096,  0x800_00c0_0000, 0x800_0270_0000),
    ];

    #[test]
    fn real_machines() {
        for &(iomem, text_offset, initrd, page, kernel_at, initrd_at) in PLACES {
            let usable = MemoryMap::parse(iomem).unwrap().usable;
            let pieces = Pieces { text_offset, initrd: Some(initrd * MB), page, ..pieces() };
            let layout = place(&usable, &pieces).unwrap();
            let found = (layout.kernel.start, layout.initrd.as_ref().unwrap().start);
            assert_eq!(found, (kernel_at, initrd_at), "{found:x?} with {initrd} MB on {:.40}", iomem);
            check(&usable, &pieces, &layout).unwrap();
        }
    }

    #[test]
    fn what_lives_on_a_uefi_machine_is_never_touched() {
        // The memory map, ACPI tables, LPI tables and the list of them; runtime code and data.
        let virt = [0xbc12_0000..0xbc12_1000, 0xbc43_0000..0xbc73_0000, 0x401b_0000..0x4020_0000];
        let virt_list = [0x4017_7000..0x4017_8000, 0xbfc0_0000..0xbffe_0000];
        let altra = [0x9200_0000..0x927c_0000, 0xf897_0000..0xf899_0000, 0x800_0084_0000..0x800_00a5_0000];
        for (iomem, live) in [(VIRT_UEFI, [&virt[..], &virt_list].concat()), (ALTRA, altra.to_vec())] {
            let usable = MemoryMap::parse(iomem).unwrap().usable;
            for live in live {
                let mut all = Ranges::default();
                all.add(live.clone());
                all.remove_all(&usable);
                assert!(all.iter().eq([&live]), "{live:x?}");
            }
        }
    }

    #[test]
    fn an_old_kernel_has_everything_above_itself() {
        let usable = MemoryMap::parse(VIRT_UEFI).unwrap().usable;
        let old = Pieces { text_offset: 0x8_0000, anywhere: false, ..pieces() };
        let layout = place(&usable, &old).unwrap();
        assert_eq!(layout.initrd.as_ref().unwrap().start, layout.kernel.end);
        check(&usable, &old, &layout).unwrap();
        // A ramdisk that leaves no place for the tree within reach.
        let error = place(&usable, &Pieces { initrd: Some(600 * MB), ..old }).unwrap_err();
        assert!(error.to_string().contains("the device tree"), "{error}");
    }

    #[test]
    fn the_limits_of_addresses() {
        // Memory that only a kernel with 52 bits of them can reach.
        let usable = memory([(1 << 48, (1 << 48) + GB)]);
        assert!(place(&usable, &pieces()).is_err());
        let usable = memory([((1 << 48) - 28 * MB, (1 << 48) + GB)]);
        assert!(place(&usable, &pieces()).unwrap_err().to_string().contains("the ramdisk"));
        let error = place(&memory([(0, GB)]), &Pieces { text_offset: 4096, page: 65536, ..pieces() });
        assert!(error.unwrap_err().to_string().contains("text_offset"));
        assert!(place(&memory([(0, GB)]), &Pieces { kernel: u64::MAX, ..pieces() }).is_err());
        assert!(place(&memory([(0, GB)]), &Pieces { initrd: Some(u64::MAX), ..pieces() }).is_err());
        // A tree that fills a whole block.
        let whole = Pieces { tree: 2 * MB, ..pieces() };
        check(&memory([(0, GB)]), &whole, &place(&memory([(0, GB)]), &whole).unwrap()).unwrap();
        assert!(place(&memory([(0, GB)]), &Pieces { tree: 2 * MB + 1, ..pieces() }).is_err());
    }

    proptest! {
        #[test]
        fn on_real_machines_it_is_placed_well_or_not_at_all(
            machine in 0usize..4,
            text_offset in prop_oneof![Just(0), Just(0x8_0000u64)],
            kernel in 1u64..200 * MB,
            initrd in prop::option::of(0u64..4 * GB),
            page in prop_oneof![Just(4096u64), Just(16384), Just(65536)],
            anywhere in any::<bool>(),
        ) {
            let usable = MemoryMap::parse([VIRT, VIRT_UEFI, PI, ALTRA][machine]).unwrap().usable;
            let pieces = Pieces { text_offset, kernel, anywhere, initrd, page, ..pieces() };
            if let Ok(layout) = place(&usable, &pieces) {
                check(&usable, &pieces, &layout)?;
            } else {
                // Only what is large does not fit.
                prop_assert!(kernel + initrd.unwrap_or(0) > 300 * MB);
            }
        }

        #[test]
        fn whatever_is_placed_is_placed_well(
            ranges in prop::collection::vec((0u64..96 * 1024, 1u64..4096), 1..12),
            text_offset in prop_oneof![Just(0), Just(0x8_0000u64)],
            kernel in 1u64..80 * MB,
            initrd in prop::option::of(0u64..600 * MB),
            tree in 1u64..=2 * MB,
            page in prop_oneof![Just(4096u64), Just(16384), Just(65536)],
            anywhere in any::<bool>(),
        ) {
            let mut usable = Ranges::default();
            for (start, length) in ranges {
                usable.add(start * MB + 4096..(start + length) * MB + 12288);
            }
            let pieces = Pieces { text_offset, kernel, anywhere, initrd, tree, trampoline: 40, page };
            let Ok(layout) = place(&usable, &pieces) else { return Ok(()) };

            check(&usable, &pieces, &layout)?;
        }
    }
}
