//! Where each piece of an x86_64 boot goes. Pure: Documentation/arch/x86/boot.rst.

use std::ops::Range;

use super::trampoline;
use crate::image::BzImage;
use crate::kexec::{Error, Ranges};

/// Below 1 MiB are the BIOS's and the next kernel's own trampolines.
const LOWEST: u64 = 1 << 20;
const FOUR_GIB: u64 = 1 << 32;
/// `MAXMEM` with 4-level page tables, 64 TiB.
const ADDRESSABLE: u64 = 1 << 46;

/// The pieces. Sizes in bytes.
#[derive(Clone, Debug)]
pub(super) struct Pieces {
    /// What must stay free for the kernel.
    pub(super) kernel: u64,
    /// A power of two.
    pub(super) alignment: u64,
    pub(super) relocatable: bool,
    pub(super) pref_address: u64,
    pub(super) above_4g: bool,
    /// The last byte that a ramdisk may have, where `above_4g` does not say that it may be anywhere.
    pub(super) initrd_last: u64,
    pub(super) initrd: Option<u64>,
    pub(super) params: u64,
    /// kexec_load takes whole pages only.
    pub(super) page: u64,
}

/// Where they go: physical, whole pages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) kernel: Range<u64>,
    pub(super) initrd: Option<Range<u64>>,
    pub(super) params: Range<u64>,
    pub(super) trampoline: Range<u64>,
}

/// Places `pieces` in `usable` memory: the kernel from `pref_address` on as low as the others allow,
/// everything else as high as it may be.
pub(super) fn place(usable: &Ranges, pieces: &Pieces) -> Result<Layout, Error> {
    let mut usable = usable.clone();
    usable.clip(&(LOWEST..ADDRESSABLE));
    usable.shrink_to(pieces.page);
    let whole = |size: u64| size.max(1).checked_next_multiple_of(pieces.page).unwrap_or(u64::MAX);
    let high = if pieces.above_4g { ADDRESSABLE } else { FOUR_GIB };

    let size = whole(pieces.kernel);
    let mut obstacle = no_place("the kernel", size, &usable);
    for range in usable.iter() {
        let Some(kernel) = kernel_in(range, pieces, size).filter(|kernel| kernel.end <= high) else {
            continue;
        };
        let mut free = usable.clone();
        free.remove(&kernel);
        // The trampoline's own tables map what is low, and boot loaders put parameters there.
        let mut small = |what, size| {
            let place = highest(&free, size, FOUR_GIB).ok_or_else(|| no_place(what, size, &free))?;
            free.remove(&place);
            Ok::<_, Error>(place)
        };
        let params = small("the boot parameters", whole(pieces.params));
        let code = small("the trampoline", whole(trampoline::size(&kernel)));
        let (params, trampoline) = match (params, code) {
            (Ok(params), Ok(trampoline)) => (params, trampoline),
            (Err(error), _) | (_, Err(error)) => {
                obstacle = error;
                continue;
            }
        };
        let initrd = match pieces.initrd.map(whole) {
            None => None,
            Some(size) => {
                let end = if pieces.above_4g { ADDRESSABLE } else { pieces.initrd_last.saturating_add(1) };
                let Some(place) = highest(&free, size, end - end % pieces.page) else {
                    obstacle = no_place("the ramdisk", size, &free);
                    continue;
                };
                Some(place)
            }
        };
        return Ok(Layout { kernel, initrd, params, trampoline });
    }
    Err(obstacle)
}

/// The lowest place in `range` at which the kernel can run. Below `pref_address` it would move
/// itself there, onto whatever is in its way.
fn kernel_in(range: &Range<u64>, pieces: &Pieces, size: u64) -> Option<Range<u64>> {
    let start = if pieces.relocatable {
        let lowest = range.start.max(pieces.pref_address);
        lowest.checked_next_multiple_of(pieces.alignment.max(pieces.page))?
    } else {
        pieces.pref_address
    };
    let end = start.checked_add(size)?;
    (start >= range.start && end <= range.end && start.is_multiple_of(pieces.page)).then_some(start..end)
}

/// Whether there is a place for `kernel` where kexec_file_load looks for one: `pref_address` counts with newer
/// running kernels alone.
pub(super) fn by_file_load(usable: &Ranges, kernel: &BzImage) -> Result<(), Error> {
    let pieces = Pieces {
        kernel: kernel.init_size,
        alignment: kernel.alignment.into(),
        relocatable: true,
        pref_address: LOWEST,
        above_4g: true,
        initrd_last: 0,
        initrd: None,
        params: 0,
        page: 4096,
    };
    let size = kernel.init_size.next_multiple_of(pieces.page);
    let found = usable.iter().find_map(|range| kernel_in(range, &pieces, size));
    found.map(drop).ok_or_else(|| no_place("the kernel", size, usable))
}

/// The highest place for `size` bytes in `free` that ends at `end` or before.
fn highest(free: &Ranges, size: u64, end: u64) -> Option<Range<u64>> {
    free.iter().rev().find_map(|range| {
        let end = range.end.min(end);
        let start = end.checked_sub(size)?;
        (start >= range.start).then_some(start..end)
    })
}

fn no_place(what: &'static str, size: u64, free: &Ranges) -> Error {
    let largest = free.iter().map(|range| range.end.saturating_sub(range.start)).max().unwrap_or(0);
    Error::NoPlace { what, size, largest }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Exit;
    use crate::kexec::MemoryMap;
    use proptest::prelude::*;

    const MB: u64 = 1 << 20;
    const GB: u64 = 1 << 30;
    const LAPTOP: &str = include_str!("../testdata/iomem-x86-laptop.txt");
    const HOLES: &str = include_str!("../testdata/iomem-x86-holes.txt");
    const BIOS: &str = include_str!("../testdata/iomem-qemu-pc.txt");
    const UEFI: &str = include_str!("../testdata/iomem-qemu-q35-uefi.txt");

    /// Debian's 6.1.
    fn pieces() -> Pieces {
        Pieces {
            kernel: 0x337_8000,
            alignment: 2 * MB,
            relocatable: true,
            pref_address: 16 * MB,
            above_4g: true,
            initrd_last: 0x7fff_ffff,
            initrd: Some(14 * MB + 1),
            params: 9000,
            page: 4096,
        }
    }

    fn usable(iomem: &str) -> Ranges {
        MemoryMap::parse(iomem).unwrap().usable
    }

    fn memory<const N: usize>(ranges: [(u64, u64); N]) -> Ranges {
        let mut memory = Ranges::default();
        for (start, end) in ranges {
            memory.add(start..end);
        }
        memory
    }

    fn kernel_at(memory: &Ranges, pieces: &Pieces) -> u64 {
        place(memory, pieces).unwrap().kernel.start
    }

    #[test]
    fn machines() {
        // (memory, kernel, ramdisk's end, parameters' end)
        let table = [
            (BIOS, 16 * MB, 0x1ffe_0000 - 3 * 4096 - 8 * 4096, 0x1ffe_0000),
            (UEFI, 16 * MB, 0x3eaa_0000, 0x3fef_4000),
            (LAPTOP, 16 * MB, 0x4_5e00_0000, 0x6ae9_e000),
            (HOLES, 0x2000_0000, 0x18_3fff_f000, 0x7976_2000),
        ];
        for (iomem, kernel, initrd_end, params_end) in table {
            let layout = place(&usable(iomem), &pieces()).unwrap();
            assert_eq!(layout.kernel, kernel..kernel + 0x337_8000, "{iomem}");
            assert_eq!(layout.initrd.unwrap().end, initrd_end, "{iomem}");
            assert_eq!(layout.params.end, params_end, "{iomem}");
            assert_eq!(layout.trampoline.end, layout.params.start, "{iomem}");
        }
    }

    #[test]
    fn the_kernel_stays_at_its_address_or_goes_above() {
        assert_eq!(kernel_at(&memory([(0, GB)]), &pieces()), 16 * MB);
        assert_eq!(kernel_at(&memory([(0, 17 * MB), (17 * MB + 1, GB)]), &pieces()), 18 * MB);
        assert_eq!(kernel_at(&memory([(0, 60 * MB), (3 * GB, 4 * GB)]), &pieces()), 3 * GB);
        // Never below, even if there was room.
        let higher = Pieces { pref_address: 32 * MB, ..pieces() };
        assert_eq!(kernel_at(&memory([(0, 80 * MB), (5 * GB, 6 * GB)]), &higher), 5 * GB);
        assert!(place(&memory([(0, 80 * MB)]), &higher).is_err());
    }

    #[test]
    fn a_kernel_that_cannot_move_has_one_place() {
        let fixed = Pieces { relocatable: false, ..pieces() };
        assert_eq!(kernel_at(&memory([(0, GB)]), &fixed), 16 * MB);
        for blocked in [[(0, 17 * MB), (18 * MB, GB)], [(0, 15 * MB), (16 * MB + 4096, GB)]] {
            let error = place(&memory(blocked), &fixed).unwrap_err();
            assert!(error.to_string().contains("the kernel"), "{error}");
        }
        assert!(place(&memory([(0, GB)]), &Pieces { pref_address: 16 * MB + 1, ..fixed }).is_err());
    }

    #[test]
    fn the_ramdisk_is_as_high_as_this_kernel_takes_it() {
        let usable = memory([(0, 3 * GB), (4 * GB, 6 * GB)]);
        let end = |pieces: &Pieces| place(&usable, pieces).unwrap().initrd.unwrap().end;
        assert_eq!(end(&pieces()), 6 * GB);
        let low = Pieces { above_4g: false, ..pieces() };
        assert_eq!(end(&low), 2 * GB);
        assert_eq!(end(&Pieces { initrd_last: 0x37ff_ffff, ..low.clone() }), 0x3800_0000);
        assert_eq!(end(&Pieces { initrd_last: 0x3800_0000, ..low.clone() }), 0x3800_0000);
        // The header's old default, where there is room for nothing else.
        let error = place(&usable, &Pieces { initrd_last: 20 * MB, initrd: Some(19 * MB + 1), ..low });
        assert!(error.unwrap_err().to_string().contains("the ramdisk"));
        assert_eq!(place(&usable, &Pieces { initrd: None, ..pieces() }).unwrap().initrd, None);
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let error = place(&memory([(0, 60 * MB)]), &pieces()).unwrap_err();
        assert_eq!(error.exit(), Exit::NotEnoughMemory);
        assert!(error.to_string().contains("the kernel"), "{error}");
        let error =
            place(&memory([(MB, 70 * MB)]), &Pieces { initrd: Some(20 * MB), ..pieces() }).unwrap_err();
        assert!(error.to_string().contains("the ramdisk"), "{error}");
        let error = place(&memory([(5 * GB, 6 * GB)]), &pieces()).unwrap_err();
        assert!(error.to_string().contains("the boot parameters"), "{error}");
        assert!(place(&Ranges::default(), &pieces()).is_err());
    }

    proptest! {
        #[test]
        fn every_layout_keeps_the_rules(
            ranges in prop::collection::vec((0u64..1 << 22, 1u64..1 << 19, 0u64..4096), 1..8),
            kernel in 1u64..256 * MB,
            alignment in 0u32..26,
            relocatable in any::<bool>(),
            pref in 0u64..1 << 16,
            above_4g in any::<bool>(),
            initrd_last in any::<u32>(),
            initrd in prop::option::of(1u64..GB),
            params in 1u64..1 << 20,
        ) {
            let mut usable = Ranges::default();
            for (start, length, odd) in ranges {
                usable.add((start << 12) + odd..((start + length) << 12) + odd);
            }
            let pieces = Pieces {
                kernel,
                alignment: 1 << alignment,
                relocatable,
                pref_address: pref << 12,
                above_4g,
                initrd_last: initrd_last.into(),
                initrd,
                params,
                page: 4096,
            };
            let Ok(layout) = place(&usable, &pieces) else { return Ok(()) };
            let mut all = vec![layout.kernel.clone(), layout.params.clone(), layout.trampoline.clone()];
            all.extend(layout.initrd.clone());
            for range in &all {
                prop_assert!(usable.contains(range), "{range:x?} is not in memory");
                prop_assert!(range.start >= MB);
                prop_assert!(range.start % 4096 == 0 && range.end % 4096 == 0);
            }
            all.sort_unstable_by_key(|range| range.start);
            prop_assert!(all.windows(2).all(|pair| pair[0].end <= pair[1].start));
            let length = |range: &Range<u64>| range.end - range.start;
            prop_assert!(length(&layout.kernel) >= kernel && length(&layout.params) >= params);
            prop_assert!(length(&layout.trampoline) >= trampoline::size(&layout.kernel));
            if relocatable {
                prop_assert!(layout.kernel.start.is_multiple_of(1 << alignment));
                prop_assert!(layout.kernel.start >= pieces.pref_address);
            } else {
                prop_assert_eq!(layout.kernel.start, pieces.pref_address);
            }
            prop_assert!(above_4g || layout.kernel.end <= FOUR_GIB);
            prop_assert!(layout.params.end <= FOUR_GIB && layout.trampoline.end <= FOUR_GIB);
            if let (Some(place), Some(size)) = (&layout.initrd, initrd) {
                prop_assert!(length(place) >= size);
                prop_assert!(above_4g || place.end <= pieces.initrd_last + 1);
            }
        }
    }
}
