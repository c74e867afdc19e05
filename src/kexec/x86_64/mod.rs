//! What kexec_load is given on x86_64: the protected-mode kernel, the ramdisk, the boot parameters,
//! and a trampoline to the kernel's 64-bit entry point. Documentation/arch/x86/boot.rst.

mod e820;
mod efi;
mod error;
mod linux;
mod machine;
mod params;
mod placement;
mod trampoline;

use std::ffi::CString;
use std::ops::Range;

pub use error::Error;
pub(super) use machine::Machine;

use super::plan::{Content, LoadPlan, Segment};
use super::{Error as KexecError, MemoryMap, cmdline};
use crate::image::{self, BzImage};
use crate::paths::Paths;
use efi::Efi;
use machine::Handover;
use params::Told;
use placement::Pieces;

/// The 64-bit entry point, from the beginning of the protected-mode code.
const ENTRY_64: u64 = 0x200;
/// Protocol 2.15 (Linux 5.5): every kernel of it looks for ACPI where the zero page says. One of 2.14
/// may as well, or not; without EFI an older one has only its command line.
const READS_ACPI_RSDP_ADDR: u16 = 0x020f;
/// The last byte that a ramdisk may have: `initrd_addr_max` of the setup header.
const INITRD_ADDR_MAX: usize = 0x22c;
/// `xloadflags`: the kernel goes on with EFI's runtime services behind a kexec.
const XLF_EFI_KEXEC: u16 = 1 << 4;
/// `xloadflags`: the kernel can be entered with 5-level paging.
const XLF_5LEVEL: u16 = 1 << 5;

/// What a plan is made from. Sizes in bytes.
#[derive(Debug)]
pub(super) struct Parts<'a> {
    pub(super) kernel: &'a BzImage,
    /// The kernel file: its setup header is copied.
    pub(super) image: &'a [u8],
    pub(super) initrd_file: Option<u64>,
    pub(super) cmdline: &'a str,
    /// Whether a seed for the random generator is handed on.
    pub(super) seed: bool,
    /// The page size: kexec_load takes whole pages only.
    pub(super) page: u64,
}

/// Places everything in the machine's memory and writes the boot parameters for it.
pub(super) fn plan(machine: &Machine, parts: Parts<'_>) -> Result<LoadPlan, KexecError> {
    let Parts { kernel, image, .. } = parts;
    if let Some(kind) = machine.confidential {
        return Err(Error::Confidential { kind }.into());
    }
    if machine.five_level && kernel.xloadflags & XLF_5LEVEL == 0 {
        return Err(Error::FiveLevel.into());
    }
    let efi = handed_on(machine, kernel);
    let cmdline = line(machine, &parts, efi.is_some())?;
    let mut told = Told {
        machine,
        image,
        cmdline: cmdline.as_bytes_with_nul(),
        initrd: None,
        efi,
        seed: machine.seed.as_ref().filter(|_| parts.seed).map(|seed| &seed.0),
    };
    // The addresses have a fixed width: the size does not depend on them.
    let params_size = params::write(0, &told).len() as u64;
    let file = (image.len() as u64).saturating_sub(kernel.setup_size);
    let layout = placement::place(
        &machine.memory,
        &Pieces {
            kernel: kernel.init_size.max(file),
            alignment: kernel.alignment.into(),
            relocatable: kernel.relocatable,
            pref_address: kernel.pref_address,
            above_4g: kernel.above_4g,
            initrd_last: image::at(image, INITRD_ADDR_MAX).map_or(0, u32::from_le_bytes).into(),
            initrd: parts.initrd_file,
            params: params_size,
            page: parts.page,
        },
    )?;
    told.initrd = layout
        .initrd
        .as_ref()
        .zip(parts.initrd_file)
        .map(|(place, size)| place.start..place.start.saturating_add(size));
    let params = params::write(layout.params.start, &told);
    let entry = layout.kernel.start.saturating_add(ENTRY_64);
    let code = trampoline::write(layout.trampoline.start, entry, layout.params.start, &layout.kernel);

    let segment = |content, file, place: &Range<u64>| Segment {
        content,
        file,
        address: place.start,
        size: place.end.saturating_sub(place.start),
    };
    // Behind the code the kernel clears what it needs: copying zeros there would cost memory now.
    let code_end = layout.kernel.start.saturating_add(file.next_multiple_of(parts.page));
    let mut segments =
        vec![segment(Content::Kernel { from: kernel.setup_size }, file, &(layout.kernel.start..code_end))];
    if let (Some(place), Some(size)) = (&layout.initrd, parts.initrd_file) {
        segments.push(segment(Content::Initrd, size, place));
    }
    let (params_file, code_file) = (params.len() as u64, code.len() as u64);
    segments.push(segment(Content::BootParams(params), params_file, &layout.params));
    segments.push(segment(Content::Trampoline(code), code_file, &layout.trampoline));
    let (entry, log_was_whole) = (layout.trampoline.start, machine.log_is_whole);
    Ok(LoadPlan { entry, segments, hands_on_screen: false, log_was_whole })
}

/// What kexec_file_load is sure to refuse: bzImage64_probe() and bzImage64_load() of
/// arch/x86/kernel/kexec-bzimage64.c.
pub(super) fn by_file_load(kernel: &BzImage, paths: &Paths) -> Result<(), KexecError> {
    if !kernel.above_4g {
        return Err(Error::Low.into());
    }
    if kernel.xloadflags & XLF_5LEVEL == 0 && linux::has_five_levels(paths) {
        return Err(Error::FiveLevel.into());
    }
    // What cannot be read is not asked for: that call needs nothing of it.
    MemoryMap::read(paths).map_or(Ok(()), |memory| placement::by_file_load(&memory.usable, kernel))
}

/// The command line as the kernel gets it.
fn line(machine: &Machine, parts: &Parts<'_>, with_efi: bool) -> Result<CString, KexecError> {
    let mut line = parts.cmdline.to_owned();
    let hidden = machine.efi != Handover::None && !with_efi && machine.rsdp != 0;
    if hidden && parts.kernel.protocol < READS_ACPI_RSDP_ADDR && !cmdline::has(&line, "acpi_rsdp") {
        line = cmdline::with(&line, &format!("acpi_rsdp={:#x}", machine.rsdp));
    }
    if !parts.seed && !cmdline::has(&line, "nokaslr") {
        log::info!("no KASLR is wanted and this kernel makes its own seed: nokaslr added");
        line = cmdline::with(&line, "nokaslr");
    }
    let limit = usize::try_from(parts.kernel.cmdline_size).unwrap_or(usize::MAX);
    let line = cmdline::within(line, limit)?;
    CString::new(line).map_err(|error| KexecError::CmdlineCharacter {
        text: crate::error::printable(&String::from_utf8_lossy(&error.into_vec())),
    })
}

/// EFI, if this kernel can go on with it. Otherwise ACPI is all that it finds of the firmware.
fn handed_on<'a>(machine: &'a Machine, kernel: &BzImage) -> Option<&'a Efi> {
    let reason = match &machine.efi {
        Handover::None => return None,
        Handover::Whole(_) if kernel.xloadflags & XLF_EFI_KEXEC == 0 => "the next kernel cannot take it",
        Handover::Whole(efi) => return Some(efi),
        Handover::Lost(reason) => reason,
    };
    log::info!("EFI is not handed on: {reason}");
    None
}

#[cfg(test)]
mod tests;
