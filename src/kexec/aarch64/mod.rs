//! What kexec_load is given on arm64: kernel, ramdisk, device tree, and a trampoline between the
//! running kernel's last instruction and the next one's first.

mod gic;
mod placement;
mod screen;
mod tables;

use std::ops::Range;

use super::plan::{Content, LoadPlan, Segment};
use super::{Error, MemoryMap};
use crate::devicetree::{self, Edits, Seeds};
use crate::image::Arm64Image;
use crate::image::arm64::PageSize;

pub(super) use gic::{TABLE, live_tables};
pub(super) use placement::by_file_load;
pub use placement::{Layout, Pieces, place};
pub(super) use tables::{Tables, read as tables};

/// The trampoline: position independent, its two addresses behind it. The kernel enters it with
/// the MMU off and x0 to x3 undefined for kexec_load.
const CODE: [u32; 6] = [
    0x5800_00c4, // ldr x4, .+24      the kernel's entry
    0x5800_00e0, // ldr x0, .+28      the device tree
    0xaa1f_03e1, // mov x1, xzr
    0xaa1f_03e2, // mov x2, xzr
    0xaa1f_03e3, // mov x3, xzr
    0xd61f_0080, // br x4
];

/// Encodes the trampoline to `entry` with the device tree at `tree`.
fn trampoline(entry: u64, tree: u64) -> Vec<u8> {
    let mut bytes: Vec<u8> = CODE.iter().flat_map(|instruction| instruction.to_le_bytes()).collect();
    bytes.extend_from_slice(&entry.to_le_bytes());
    bytes.extend_from_slice(&tree.to_le_bytes());
    bytes
}

/// Where the tables for the next kernel begin behind the trampoline, which is shorter, in bytes.
const TABLES: usize = 64;

/// What a plan is made from. Sizes in bytes.
#[derive(Debug)]
pub(super) struct Parts<'a> {
    pub(super) kernel: &'a Arm64Image,
    pub(super) kernel_file: u64,
    pub(super) initrd_file: Option<u64>,
    pub(super) tree: &'a [u8],
    pub(super) cmdline: &'a str,
    pub(super) seeds: Option<Seeds>,
    /// Memory that devices go on using.
    pub(super) live: &'a [Range<u64>],
    /// UEFI's, where the next kernel is to be told of a screen.
    pub(super) tables: Option<&'a Tables>,
    pub(super) page: u64,
}

/// Places everything in `memory` and writes the tree for it.
pub(super) fn plan(memory: &MemoryMap, parts: Parts<'_>) -> Result<LoadPlan, Error> {
    let other = match parts.kernel.page_size {
        PageSize::K4 => 4 << 10,
        PageSize::K16 => 16 << 10,
        PageSize::K64 => 64 << 10,
        PageSize::Unspecified => parts.page,
    };
    if other != parts.page {
        // Only kexec_file_load checks that: system_supports_64kb_granule() and its like.
        log::warn!(
            "the next kernel has pages of {other} bytes: on a CPU without them it hangs without a word"
        );
    }
    // A kernel that is given no ramdisk takes the one that the firmware's first kernel had, from a table of
    // UEFI's (LINUX_EFI_INITRD_MEDIA_GUID), long after its memory is something else's. A page of zeros is
    // a ramdisk with nothing in it.
    let initrd_file = match parts.initrd_file {
        None if devicetree::is_uefi(parts.tree)? => Some(0),
        given => given,
    };
    let own_size = match parts.tables {
        Some(tables) => TABLES.saturating_add(tables.size()),
        None => trampoline(0, 0).len(),
    } as u64;
    // One more reservation than before, wherever it will be.
    let mut reserve = parts.live.to_vec();
    reserve.extend(parts.tables.map(|_| u64::MAX - 1..u64::MAX));
    // The addresses in the tree have a fixed width: its size does not depend on them.
    let mut edits = Edits {
        bootargs: Some(parts.cmdline),
        initrd: initrd_file.map(|_| 0..0),
        seeds: parts.seeds,
        reserve: &reserve,
        system_table: None,
    };
    let size = devicetree::prepare(parts.tree, &edits)?.len() as u64;
    let layout = placement::place(
        &memory.usable,
        &Pieces {
            text_offset: parts.kernel.text_offset,
            kernel: parts.kernel.memory,
            anywhere: parts.kernel.anywhere,
            initrd: initrd_file,
            tree: size,
            trampoline: own_size,
            page: parts.page,
        },
    )?;
    edits.initrd = layout.initrd.as_ref().zip(initrd_file).map(|(place, size)| match size {
        // The kernel looks for a boot config in the last bytes of a ramdisk: they have to be its own.
        0 => place.clone(),
        _ => place.start..place.start.saturating_add(size),
    });
    let mut code = trampoline(layout.kernel.start, layout.tree.start);
    let tables_at = layout.trampoline.start.saturating_add(TABLES as u64);
    let tables = parts.tables.and_then(|tables| tables.write(tables_at));
    let mut reserve = parts.live.to_vec();
    if let Some(tables) = tables {
        code.resize(TABLES, 0);
        code.extend_from_slice(&tables);
        // The kernel after the next one reads them, too.
        reserve.push(layout.trampoline.clone());
        edits.system_table = Some(tables_at);
    } else if parts.tables.is_some() {
        log::info!("the screen is not handed on: UEFI's addresses collide with {tables_at:#x}");
    }
    edits.reserve = &reserve;
    let tree = devicetree::prepare(parts.tree, &edits)?;

    let segment = |content, file, place: &Range<u64>| Segment {
        content,
        file,
        address: place.start,
        size: place.end.saturating_sub(place.start),
    };
    let mut segments = vec![segment(Content::Kernel { from: 0 }, parts.kernel_file, &layout.kernel)];
    if let (Some(place), Some(size)) = (&layout.initrd, initrd_file) {
        segments.push(segment(Content::Initrd, size, place));
    }
    let (tree_size, code_size) = (tree.len() as u64, code.len() as u64);
    segments.push(segment(Content::DeviceTree(tree), tree_size, &layout.tree));
    segments.push(segment(Content::Trampoline(code), code_size, &layout.trampoline));
    let hands_on_screen = edits.system_table.is_some();
    Ok(LoadPlan { entry: layout.trampoline.start, segments, hands_on_screen, log_was_whole: true })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn the_trampoline_is_what_its_comments_say() {
        let bytes = trampoline(0x4000_0000, 0x4800_0000);
        assert_eq!(bytes.len(), 40);
        let mut file = tempfile::NamedTempFile::new().unwrap();
        std::io::Write::write_all(&mut file, &bytes).unwrap();
        let Ok(output) = Command::new("aarch64-linux-gnu-objdump")
            .args(["-D", "-b", "binary", "-m", "aarch64", "--no-show-raw-insn", "--stop-address=24"])
            .arg(file.path())
            .output()
        else {
            return;
        };
        let text = String::from_utf8(output.stdout).unwrap();
        let shown: Vec<String> = text
            .lines()
            .filter_map(|line| line.split_once(":\t"))
            .map(|(_, code)| {
                code.split_whitespace()
                    .take_while(|word| !word.starts_with("//"))
                    .collect::<Vec<_>>()
                    .join(" ")
            })
            .collect();
        assert_eq!(
            shown,
            ["ldr x4, 0x18", "ldr x0, 0x20", "mov x1, xzr", "mov x2, xzr", "mov x3, xzr", "br x4"]
        );
        assert_eq!(bytes[24..32], 0x4000_0000u64.to_le_bytes());
        assert_eq!(bytes[32..40], 0x4800_0000u64.to_le_bytes());
    }

    #[test]
    fn without_a_ramdisk_a_uefi_machine_gets_an_empty_one() {
        let memory = MemoryMap::parse(include_str!("../testdata/iomem-qemu-virt-uefi.txt")).unwrap();
        let kernel = Arm64Image {
            text_offset: 0,
            memory: 0x1ab_0000,
            old: false,
            big_endian: false,
            page_size: PageSize::K64,
            anywhere: true,
        };
        let uefi: &[u8] = include_bytes!("../../devicetree/testdata/qemu-virt-uefi.dtb");
        let without: &[u8] = include_bytes!("../../devicetree/testdata/qemu-virt-gicv3.dtb");
        for (tree, pages) in [(uefi, vec![(0u64, 4096u64)]), (without, vec![])] {
            let parts = Parts {
                kernel: &kernel,
                kernel_file: 27_303_872,
                initrd_file: None,
                tree,
                cmdline: "",
                seeds: None,
                live: &[],
                tables: None,
                page: 4096,
            };
            let plan = plan(&memory, parts).unwrap();
            let initrds: Vec<_> =
                plan.segments.iter().filter(|segment| segment.content == Content::Initrd).collect();
            assert_eq!(initrds.iter().map(|one| (one.file, one.size)).collect::<Vec<_>>(), pages);
            let Some(Content::DeviceTree(copy)) = plan
                .segments
                .iter()
                .map(|one| &one.content)
                .find(|one| matches!(one, Content::DeviceTree(_)))
            else {
                panic!("{plan:?}")
            };
            let text = devicetree::source(copy).unwrap();
            assert_eq!(text.contains("linux,initrd-start = <0x00 0x40000000>"), !pages.is_empty(), "{text}");
            assert_eq!(text.contains("linux,initrd-end = <0x00 0x40001000>"), !pages.is_empty(), "{text}");
            assert_eq!(text.contains("linux,uefi-mmap-start"), !pages.is_empty());
        }
    }

    #[test]
    fn a_whole_plan() {
        let memory = MemoryMap::parse(include_str!("../testdata/iomem-qemu-virt-gicv3.txt")).unwrap();
        let kernel = Arm64Image {
            text_offset: 0,
            memory: 0x1ab_0000,
            old: false,
            big_endian: false,
            page_size: PageSize::K4,
            anywhere: true,
        };
        let plan = plan(
            &memory,
            Parts {
                kernel: &kernel,
                kernel_file: 27_303_872,
                initrd_file: Some(1_000_001),
                tree: include_bytes!("../../devicetree/testdata/qemu-virt-gicv3.dtb"),
                cmdline: "console=ttyAMA0",
                seeds: None,
                live: &[],
                tables: None,
                page: 4096,
            },
        )
        .unwrap();
        let [kernel, initrd, tree, code] = plan.segments.as_slice() else { panic!("{plan:?}") };
        assert_eq!((kernel.address, kernel.size, kernel.file), (0x4000_0000, 0x1ab_0000, 27_303_872));
        assert_eq!(plan.entry, code.address);
        let (Content::DeviceTree(bytes), Content::Trampoline(code)) = (&tree.content, &code.content) else {
            panic!("{plan:?}")
        };
        assert_eq!(code[24..32], kernel.address.to_le_bytes());
        assert_eq!(code[32..40], tree.address.to_le_bytes());
        let end = (initrd.address + 1_000_001).to_be_bytes();
        assert!(bytes.windows(8).any(|window| window == end));
    }

    #[test]
    fn uefis_tables_lie_behind_the_trampoline_and_stay() {
        let memory = MemoryMap::parse(include_str!("../testdata/iomem-qemu-virt-uefi.txt")).unwrap();
        let kernel = Arm64Image {
            text_offset: 0,
            memory: 0x1ab_0000,
            old: false,
            big_endian: false,
            page_size: PageSize::K4,
            anywhere: true,
        };
        let tables = tables::tests::usual();
        let live = 0x4f00_0000..0x4f01_0000;
        let planned = |tree: &[u8], tables| {
            let parts = Parts {
                kernel: &kernel,
                kernel_file: 27_303_872,
                initrd_file: Some(1_000_001),
                tree,
                cmdline: "console=ttyAMA0",
                seeds: None,
                live: std::slice::from_ref(&live),
                tables,
                page: 4096,
            };
            let [_, _, tree, code] =
                <[Segment; 4]>::try_from(plan(&memory, parts).unwrap().segments).unwrap();
            assert!(tree.file <= tree.size && code.file <= code.size);
            let (Content::DeviceTree(tree), Content::Trampoline(bytes)) = (tree.content, code.content) else {
                panic!()
            };
            (tree, bytes, code.address)
        };
        let uefi: &[u8] = include_bytes!("../../devicetree/testdata/qemu-virt-uefi.dtb");
        let (plain, bytes, _) = planned(uefi, None);
        assert_eq!(bytes.len(), 40);
        assert_eq!(devicetree::uefi(&plain).unwrap(), devicetree::uefi(uefi).unwrap());

        let (tree, bytes, at) = planned(uefi, Some(&tables));
        assert_eq!(bytes[..24], trampoline(0, 0)[..24]);
        let named = devicetree::uefi(&tree).unwrap().unwrap();
        assert_eq!(named.system_table, at + 64);
        assert_eq!(named.map, devicetree::uefi(uefi).unwrap().unwrap().map);
        assert_eq!(bytes[64..], tables.write(at + 64).unwrap());
        // One more reservation, in a chain of kernels, too.
        assert_eq!(tree.len(), plain.len() + 16);
        let (next, _, at) = planned(&tree, Some(&tables));
        assert_eq!(devicetree::uefi(&next).unwrap().unwrap().system_table, at + 64);
        assert_eq!(next.len(), tree.len());
        // And it stays where none is handed on.
        let (last, ..) = planned(&next, None);
        assert_eq!(
            (devicetree::uefi(&last).unwrap(), last.len()),
            (devicetree::uefi(&next).unwrap(), next.len())
        );
    }
}
